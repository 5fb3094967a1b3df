"""How old something is, where the clock may have been wrong when it happened."""

from gateway.clock import Instant


def age_s(then: Instant, now: Instant) -> float:
    """Seconds from then to now, or the least that they can be where the clocks do not tell.

    Within one boot monotonic time tells; over boots UTC does, if it was synchronized both times. Otherwise `then` is
    at least as old as this boot.
    """
    if then.boot_id == now.boot_id:
        return (now.mono_ns - then.mono_ns) / 1e9
    least_s = now.mono_ns / 1e9
    if then.utc_synced and now.utc_synced:
        return max(least_s, (now.utc_ns - then.utc_ns) / 1e9)
    return least_s
