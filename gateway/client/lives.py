"""Which gateways live, and which states are the newest, in whatever order these come. Pure."""

from dataclasses import dataclass

from gateway.events import GatewayState, State

BOOTS_MAX = 100
"""Of which a wearable's states are remembered."""


@dataclass(frozen=True, slots=True)
class Life:
    """One connection of a gateway to its broker. start: of the gateway; connection: since then."""

    boot: str
    start: int
    connection: int
    online: bool


class Lives:
    def __init__(self) -> None:
        self._lives: dict[str, Life] = {}
        self._boots: dict[str, set[str]] = {}
        self._wearables: dict[tuple[str, str], dict[str, int]] = {}
        """By gateway and source: the latest monotonic time of each boot, the newest boot last."""

    def take(self, state: State, *, replayed: bool = False) -> bool:
        """Whether it is the newest that is known of this gateway, or of this wearable by this gateway.

        A start's number counts within one store, so a birth in a boot that nobody has heard of is a new life whatever
        its number; a death there is one only where its number is not lower. replayed: the gateway says that it sends
        newer ones before.
        """
        data = state.data
        if not isinstance(data, GatewayState):
            return self._take_wearable(state, replayed)
        told = Life(state.bootid, data.start, data.connection, data.status == "online")
        known, boots = self._lives.get(state.gateway), self._boots.setdefault(state.gateway, set())
        if known is not None:
            other_store = told.online and told.boot not in boots
            # of one connection the death comes after the birth
            newer = (told.start, told.connection, not told.online) >= (
                known.start,
                known.connection,
                not known.online,
            )
            if not newer and not other_store:
                return False
        boots.add(told.boot)
        self._lives[state.gateway] = told
        return True

    def _take_wearable(self, state: State, replayed: bool) -> bool:
        boots = self._wearables.setdefault((state.gateway, state.source), {})
        told_ns, known_ns = int(state.monons), boots.get(state.bootid)
        newest = next(reversed(boots), None)
        if known_ns is None and replayed and newest is not None:
            return False
        if known_ns is not None and (state.bootid != newest or told_ns < known_ns):
            return False
        boots[state.bootid] = told_ns
        if len(boots) > BOOTS_MAX:
            del boots[next(iter(boots))]
        return True

    def of(self, gateway: str) -> Life | None:
        """The newest; None before anything was heard of it."""
        return self._lives.get(gateway)

    def alive(self, gateway: str) -> bool | None:
        """Whether it is connected to the broker. Without it what a wearable's state says is from before its death."""
        life = self._lives.get(gateway)
        return None if life is None else life.online
