"""Which gateways live, from their births and deaths in whatever order these come. Pure."""

from dataclasses import dataclass

from gateway.events import GatewayState, State


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

    def take(self, state: State) -> bool:
        """Whether it tells of the gateway's newest life, and not of one that a newer has followed already.

        A start's number counts within one store, so a birth in a boot that nobody has heard of is a new life whatever
        its number; a death there is one only where its number is not lower.
        """
        data = state.data
        if not isinstance(data, GatewayState):
            return True
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

    def of(self, gateway: str) -> Life | None:
        """The newest; None before anything was heard of it."""
        return self._lives.get(gateway)

    def alive(self, gateway: str) -> bool | None:
        """Whether it is connected to the broker. Without it what a wearable's state says is from before its death."""
        life = self._lives.get(gateway)
        return None if life is None else life.online
