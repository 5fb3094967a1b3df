"""How fast samples arrive, for people to see."""

from collections import deque

OVER_NS = 5 * 10**9


class ArrivalRate:
    """Samples a second over the last 5 s, backlog included.

    From one arrival of samples to another: they come a frame at a time, and between two other moments there would be
    a frame more or less.
    """

    def __init__(self) -> None:
        self._arrivals: deque[tuple[int, int]] = deque()

    def observe(self, mono_ns: int, samples: int) -> None:
        """samples: how many have arrived by now, in all."""
        arrivals = self._arrivals
        if arrivals and arrivals[-1][1] == samples:
            return
        arrivals.append((mono_ns, samples))
        while len(arrivals) > 2 and mono_ns - arrivals[1][0] >= OVER_NS:
            arrivals.popleft()

    def hz(self, mono_ns: int) -> float:
        """0 where nothing has arrived for that long."""
        if len(self._arrivals) < 2 or mono_ns - self._arrivals[-1][0] >= OVER_NS:
            return 0.0
        (first_ns, first), (last_ns, last) = self._arrivals[0], self._arrivals[-1]
        return (last - first) * 1e9 / (last_ns - first_ns) if last_ns > first_ns else 0.0
