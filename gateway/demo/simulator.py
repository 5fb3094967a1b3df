"""The demo's line to the simulated wearables: one request and one answer a line of JSON, over a socket."""

import asyncio
import json
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from gateway.errors import GatewayError

ANSWER_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class WearableTruth:
    """What the simulator says of one wearable: samples made so far in its session, and of these acknowledged by the
    gateway. to_make: samples that it has to play in all."""

    name: str
    profile: str
    address: str
    session: str
    made: int
    to_make: int
    acknowledged: int
    connected: bool
    central: str | None
    """The address of the host that holds it."""
    finished: bool
    sessions: dict[str, int]
    """Samples made, by session, the running one last."""
    links_max: int
    """Most links at once since its start."""


class SimulatorControl:
    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        self._streams = await asyncio.open_connection(*self._address)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._streams is not None
        self._streams[1].close()

    async def _ask(self, op: str, **parameters: object) -> dict[str, Any]:
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(json.dumps({"op": op, **parameters}).encode() + b"\n")
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                line = await reader.readline()
            answer: dict[str, Any] = json.loads(line)
        except (OSError, TimeoutError, ValueError) as error:
            raise GatewayError(f"the simulated wearables do not answer {op}: {error!r}") from None
        if "error" in answer:
            raise GatewayError(f"the simulated wearables refused {op}: {answer['error']}")
        return answer

    async def status(self) -> tuple[WearableTruth, ...]:
        return tuple(
            WearableTruth(
                name=w["name"],
                profile=w["profile"],
                address=w["address"],
                session=w["session"],
                made=w["made"],
                to_make=w["to_make"],
                acknowledged=w["acked"],
                connected=w["connected"],
                central=w["central"],
                finished=w["finished"],
                sessions={session["session"]: session["made"] for session in w["sessions"]},
                links_max=w["links_max"],
            )
            for w in (await self._ask("status"))["wearables"]
        )

    async def out_of_range(self, wearable: str, on: bool) -> None:
        await self._ask("out_of_range", wearable=wearable, on=on)

    async def silent(self, wearable: str, on: bool) -> None:
        """Its link stands, but it notifies of nothing."""
        await self._ask("silent", wearable=wearable, on=on)

    async def signal(self, wearable: str, host: int, dbm: float | None, sigma_db: float = 0.0) -> None:
        """How strongly a host hears it, the first that attached being 1; None: not at all."""
        await self._ask("signal", wearable=wearable, host=host, dbm=dbm, sigma_db=sigma_db)

    async def reboot(self, wearable: str) -> None:
        """A new session begins; the ring is kept."""
        await self._ask("reboot", wearable=wearable)

    async def forget_bonds(self, wearable: str) -> None:
        """It has no bond any more, and loses its link."""
        await self._ask("forget_bonds", wearable=wearable)

    async def impostor(self, wearable: str, on: bool) -> None:
        """Another device with its name and address is there instead, which lacks its keys and lets everybody read."""
        await self._ask("impostor", wearable=wearable, on=on)

    async def change_address(self, wearable: str) -> None:
        """It advertises under another resolvable private address; it must be free, and have privacy_s."""
        await self._ask("change_address", wearable=wearable)

    async def stop_sampling(self) -> None:
        """Closes the partial last frames and writes the truth; the radio stays up, so that backlogs drain."""
        await self._ask("stop")
