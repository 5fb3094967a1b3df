"""What the local socket's requests do in the running daemon, which alone owns the radio (docs/local-socket.md)."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import asdict
from typing import Any, Protocol

from gateway.ble import operator
from gateway.ble.bonds import Listed, Records
from gateway.ble.nearby import Nearby
from gateway.ble.radios import Radios
from gateway.config import Config, WearableSettings
from gateway.control.rescored import Rescored
from gateway.errors import GatewayError, InputRejected
from gateway.link.bonds import Remembered
from gateway.local import Operation, Talk

SCAN_S_MAX = 600.0
TABLE_EVERY_S = 0.5
ASK_S = 30.0
"""The wearable waits no longer for a person (Bluetooth Core 5.4, Vol 3, Part H, 3.4)."""
MOMENT_US_MAX = 2**53
TURN_WAIT_S = 120.0
"""Until nobody else connects."""


class Busy(GatewayError):
    hint = "Try again when it is over."


class Managed(Protocol):
    """One of the daemon's wearables."""

    settings: WearableSettings

    @property
    def link(self) -> str:
        """Its link's state."""
        ...

    @property
    def refusal(self) -> str | None:
        """Why it is not connected for what is known of its bond."""
        ...

    def aside(self) -> AbstractAsyncContextManager[None]:
        """Its link is ended, and begins again only afterwards."""
        ...

    def retry(self) -> bool:
        """Tries it at once; whether it waited for its next attempt."""
        ...

    def bond_changed(self) -> None:
        """What is remembered of it has been changed."""
        ...


class Replayed(Protocol):
    """What is sent again on request, while it is."""

    end: int
    first: int
    position: int
    found: int
    acknowledged: int
    refused: int
    over: asyncio.Event


class Replays(Protocol):
    """Whoever sends events."""

    @property
    def state(self) -> str: ...
    @property
    def connected(self) -> bool: ...
    def replay(self, since_ns: int, until_ns: int, wearable: str | None = None) -> Replayed: ...
    def cancel(self, request: Any) -> None: ...


class Commands:
    def __init__(
        self,
        config: Config,
        radios: Radios,
        records: Records,
        wearables: Sequence[Managed],
        status: Callable[[], Mapping[str, Any]],
        append: Callable[[Sequence[Rescored]], Awaitable[int]],
        replays: Replays,
    ) -> None:
        self._replays = replays
        self._replaying = False
        self._config, self._radios, self._records, self._status = config, radios, records, status
        self._append_to_log = append
        self._wearables = {wearable.settings.id: wearable for wearable in wearables}
        self._pairing = asyncio.Lock()

    def operations(self) -> dict[str, Operation]:
        return {
            "status": self._tell_status,
            "wearables": self._list,
            "scan": self._scan,
            "pair": self._pair,
            "forget": self._forget,
            "retry": self._retry,
            "replay": self._replay,
            "append": self._append,
        }

    def _named(self, request: Mapping[str, Any]) -> Managed:
        """Raises InputRejected."""
        wearable = self._wearables.get(str(request.get("wearable")))
        if wearable is None:
            there = ", ".join(self._wearables)
            raise InputRejected(
                f"no wearable {request.get('wearable')!r} in the running gateway, there are {there}",
                hint="Was the configuration changed since it was started? Restart it.",
            )
        return wearable

    async def _tell_status(self, _request: Mapping[str, Any], _talk: Talk) -> Mapping[str, Any]:
        return self._status()

    async def _list(self, _request: Mapping[str, Any], _talk: Talk) -> Mapping[str, Any]:
        bonded = await self._radios.bonded()
        rows = []
        for name, wearable in self._wearables.items():
            address = wearable.settings.address
            rows.append(
                {
                    "id": name,
                    "address": address,
                    "profile": wearable.settings.profile,
                    "paired": address in bonded,
                    "connected": wearable.link in LINKED or bonded.get(address, False),
                    "link": wearable.link,
                    "bond": self._records.of(name, address),
                    "refused": wearable.refusal,
                }
            )
        return {"wearables": rows}

    async def _scan(self, request: Mapping[str, Any], talk: Talk) -> Mapping[str, Any]:
        seconds = request.get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1 <= seconds <= SCAN_S_MAX:
            raise InputRejected(f"seconds {seconds!r}: expected 1 to {SCAN_S_MAX:g}")
        bonded = await self._radios.bonded()
        nearby, names = Nearby(), {one.settings.address: name for name, one in self._wearables.items()}

        def table() -> dict[str, Any]:
            return {"heard": [asdict(heard) for heard in nearby.table(bonded, names)]}

        async with self._radios.overhear(nearby):
            for _ in range(round(seconds / TABLE_EVERY_S)):
                await asyncio.sleep(TABLE_EVERY_S)
                talk.tell(table())
        return table()

    async def _pair(self, request: Mapping[str, Any], talk: Talk) -> Mapping[str, Any]:
        wearable, heard_as = self._named(request), request.get("heard_as")
        if heard_as is not None and not isinstance(heard_as, str):
            raise InputRejected(f"heard_as {heard_as!r}: expected an address")
        settings, listed = wearable.settings, listed_of(wearable.settings)
        radio = self._radios.named(self._config.adapter_of(settings))
        if await operator.is_paired(radio.adapter, self._records, listed):
            return {"paired": "already"}
        if self._pairing.locked():
            raise Busy("another wearable is being paired")
        async with self._pairing, wearable.aside():
            await radio.ready()
            talk.tell({"text": operator.looking_for(settings.id, heard_as or settings.address)})
            try:
                async with asyncio.timeout(TURN_WAIT_S) as waiting, radio.turn("pairing"):
                    waiting.reschedule(None)
                    how = await operator.pair(
                        radio.adapter,
                        self._records,
                        listed,
                        Remote(talk),
                        heard_as=heard_as,
                        listening=radio.overhear,
                    )
            except TimeoutError:
                raise Busy(f"the radio has been busy connecting for {TURN_WAIT_S:g} s") from None
            finally:
                wearable.bond_changed()
            self._radios.heed(settings.address)
        return {"paired": how}

    async def _forget(self, request: Mapping[str, Any], _talk: Talk) -> Mapping[str, Any]:
        wearable = self._named(request)
        radio = self._radios.named(self._config.adapter_of(wearable.settings))
        async with wearable.aside():
            try:
                known = await operator.forget(radio.adapter, self._records, listed_of(wearable.settings))
            finally:
                wearable.bond_changed()
        return {"known": known}

    async def _append(self, request: Mapping[str, Any], _talk: Talk) -> Mapping[str, Any]:
        match request.get("events"):
            case [*given] if all(isinstance(one, Mapping) for one in given):
                return {"appended": await self._append_to_log([Rescored.of(one) for one in given])}
        raise InputRejected("events: expected a list of objects")

    async def _replay(self, request: Mapping[str, Any], talk: Talk) -> Mapping[str, Any]:
        since_ns, until_ns = (1000 * _moment_us(request, name) for name in ("since_us", "until_us"))
        wearable = request.get("wearable")
        if wearable is not None and not isinstance(wearable, str):
            raise InputRejected(f"wearable {wearable!r}: expected a text")
        if self._replaying:
            raise Busy("events are being sent again already")
        self._replaying = True
        replayed = self._replays.replay(since_ns, until_ns, wearable)
        try:
            while not replayed.over.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(TABLE_EVERY_S):
                        await replayed.over.wait()
                talk.tell(self._replay_told(replayed))
        finally:
            self._replaying = False
            self._replays.cancel(replayed)
        if not replayed.found and wearable is not None and wearable not in self._wearables:
            there = ", ".join(self._wearables)
            raise InputRejected(f"no event of a wearable {wearable!r} is stored of that time; configured are {there}")
        return self._replay_told(replayed)

    def _replay_told(self, replayed: Replayed) -> dict[str, Any]:
        of = max(0, replayed.end - replayed.first + 1)
        return {
            "looked_at": min(of, max(0, replayed.position - replayed.first + 1)),
            "of": of,
            "found": replayed.found,
            "acknowledged": replayed.acknowledged,
            "refused": replayed.refused,
            "waits_for": None if self._replays.connected else self._replays.state,
        }

    async def _retry(self, request: Mapping[str, Any], _talk: Talk) -> Mapping[str, Any]:
        wanted = [self._named(request)] if request.get("wearable") is not None else list(self._wearables.values())
        return {"tried": [one.settings.id for one in wanted if one.retry()]}


LINKED = frozenset({"discovering", "pairing", "configuring", "streaming", "draining", "silent"})
"""States in which there is a link."""


def _moment_us(request: Mapping[str, Any], name: str) -> int:
    """Raises InputRejected."""
    found = request.get(name)
    if isinstance(found, bool) or not isinstance(found, int) or not -MOMENT_US_MAX <= found <= MOMENT_US_MAX:
        raise InputRejected(f"{name} {found!r}: expected microseconds of UTC since 1970")
    return found


def listed_of(settings: WearableSettings) -> Listed:
    return Listed(settings.id, settings.address, settings.allow_just_works)


def is_forgotten(records: Records, settings: WearableSettings) -> bool:
    return records.of(settings.id, settings.address) is Remembered.FORGOTTEN


class Remote:
    """The answers of whoever is at the other end of the local socket."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    async def _ask(self, kind: str, address: str, number: int | None = None) -> Any:
        try:
            async with asyncio.timeout(ASK_S):
                return await self._talk.ask({"kind": kind, "address": address, "number": number})
        except TimeoutError:
            return None

    async def passkey(self, address: str) -> int | None:
        answer = await self._ask("passkey", address)
        good = isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer <= 999_999
        return answer if good else None

    async def confirm(self, address: str, number: int) -> bool:
        return await self._ask("confirm", address, number) is True

    async def shown(self, address: str, number: int) -> bool:
        return await self._ask("shown", address, number) is True

    async def just_works(self, _address: str) -> bool:
        return True  # whether such a bond is kept is the configuration's to say
