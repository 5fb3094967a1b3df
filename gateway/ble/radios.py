"""Several adapters as one: each wearable is held by one of them at a time, the one that hears it best and has room."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from gateway.ble.radio import Heard, Noticed, Radio, Stranger, ignore
from gateway.link import rules
from gateway.link.seats import choose


class Radios:
    """only: wearables (addresses) that one adapter alone may hold, by its name, such as those bonded with it."""

    def __init__(self, radios: Sequence[Radio], only: Mapping[str, str] | None = None) -> None:
        self._radios = {radio.adapter.name: radio for radio in radios}
        self._only = {address.upper(): name for address, name in (only or {}).items()}

    def _of(self, address: str) -> list[Radio]:
        name = self._only.get(address.upper())
        return list(self._radios.values()) if name is None else [self._radios[name]]

    def named(self, adapter: str) -> Radio:
        return self._radios[adapter]

    @contextlib.asynccontextmanager
    async def overhear(self, heard: Heard) -> AsyncIterator[None]:
        """As Radio has it, of all that are there. Raises RadioAway where none is."""
        if not self.available:
            await next(iter(self._radios.values())).ready()
        async with contextlib.AsyncExitStack() as listening:
            for radio in self._radios.values():
                if radio.available:
                    await listening.enter_async_context(radio.overhear(heard))
            yield

    async def bonded(self) -> dict[str, bool]:
        """By address, whether it is connected: of all adapters. Raises RadioAway."""
        found: dict[str, bool] = {}
        for radio in self._radios.values():
            for address, connected in (await radio.adapter.bonded()).items():
                found[address] = connected or found.get(address, False)
        return found

    @property
    def available(self) -> bool:
        """Whether any of them is."""
        return any(radio.available for radio in self._radios.values())

    @property
    def status(self) -> str:
        """For people: of one adapter its own, of several each by its name."""
        if len(self._radios) == 1:
            return next(iter(self._radios.values())).status
        return "; ".join(f"{name} {radio.status}" if radio.available else radio.status for name, radio in self._named())

    @property
    def trouble(self) -> str | None:
        """Which adapters are away while others work."""
        away = [radio.status for radio in self._radios.values() if not radio.available]
        return "; ".join(away) if away and self.available else None

    def _named(self) -> list[tuple[str, Radio]]:
        return list(self._radios.items())

    def register(self, address: str, heard: Heard, noticed: Noticed = ignore) -> None:
        """As Radio has it."""
        for radio in self._of(address):
            radio.register(address, heard, noticed)

    def notice(self, address: str, event: rules.Event) -> None:
        """As Radio has it; told once."""
        self._of(address)[0].notice(address, event)

    def listen(self, address: str, wanted: bool) -> None:
        for radio in self._of(address):
            radio.listen(address, wanted)

    def share(self, address: str) -> None:
        for radio in self._of(address):
            radio.share(address)

    def watch(self, address: str, wanted: bool) -> None:
        for radio in self._of(address):
            radio.watch(address, wanted)

    def leave_alone(self, address: str) -> None:
        for radio in self._of(address):
            radio.leave_alone(address)

    def heed(self, address: str) -> None:
        for radio in self._of(address):
            radio.heed(address)

    def strangers(self) -> list[Stranger]:
        """As Radio has it; one that several adapters hear once."""
        known = [one for radio in self._radios.values() for one in radio.strangers()]
        return list({one.address: one for one in known}.values())

    def place(self, address: str) -> Radio | None:
        """The adapter that is to hold it; None where none that has heard it has room."""
        radios = [radio for radio in self._of(address) if radio.available]
        sightings = [sighted[1] for radio in radios if (sighted := radio.sighted(address)) is not None]
        now_s = asyncio.get_running_loop().time()
        name = choose(sightings, {radio.adapter.name: radio.room for radio in radios}, now_s)
        return self._radios[name] if name is not None else None

    def away(self, address: str) -> str | None:
        """In words, where no adapter that may hold it serves."""
        said = [radio.away(address) for radio in self._of(address)]
        return None if None in said else "; ".join(filter(None, said))

    def full(self, address: str) -> str | None:
        """In words, where no adapter that may hold it has room, of those that are there."""
        said = [radio.full(address) for radio in self._of(address) if radio.available]
        return "; ".join(filter(None, said)) if said and None not in said else None

    async def run(self) -> None:
        """Until cancelled. Raises RadioRejected where no waiting can help."""
        running = [asyncio.create_task(radio.run()) for radio in self._radios.values()]
        try:
            await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
