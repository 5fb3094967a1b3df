"""Where a wearable is put to be checked: a central, a clock, and what may be done to the wearable."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TextIO

import numpy as np

from firmware_sim import encoding
from firmware_sim.central import ATT_MTU, Central, Heard, Link, LinkFailed, WriteRefused
from firmware_sim.encoding import Config, Frame, Info, Op, SessionEntry, Status, TimeRead

SCAN_S = 10.0
ANSWER_S = 5.0
"""For an indication after its write."""
SETTLE_S = 0.15
"""Real time that whatever was on its way has to arrive."""
RESTART_S = 90.0
"""For a person to restart the wearable, and less than an item may take."""
RETURN_S = 30.0
"""For a restarted wearable to be heard again."""
FRAME_S = 10.0
"""Real time beyond what sampling takes, for a frame to come."""


class Failed(Exception):
    """An item does not hold; the message says what was found."""


class Skipped(Exception):
    """An item cannot be checked here; the message says why."""


def require(holds: bool, found: str) -> None:
    """Raises Failed."""
    if not holds:
        raise Failed(found)


class Bench:
    """One wearable under check. now_ns: the clock that the wearable's is judged by; speed: how fast it runs.

    erase: whether samples may be acknowledged, which lets the wearable erase them. restart: has the
    wearable restarted, and returns once it was; None where nobody can do that.
    """

    def __init__(
        self,
        central: Central,
        address: str,
        now_ns: Callable[[], int],
        *,
        speed: float = 1.0,
        erase: bool = False,
        restart: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.central = central
        self.address = address
        self.now_ns = now_ns
        self.speed = speed
        self.erase = erase
        self.restart = restart
        self._link: Link | None = None

    # The link

    async def link(self, *, fresh: bool = False, mtu: int = ATT_MTU) -> Link:
        """The link that stands, or a new one. Raises LinkFailed."""
        if self._link is not None and (fresh or self._link.lost):
            await self.drop()
        if self._link is None:
            self._link = await self.central.connect(self.address, mtu)
        return self._link

    async def drop(self) -> None:
        """Ends the link, if there is one, and with it Live, the request and its credit."""
        if self._link is not None:
            link, self._link = self._link, None
            await self.central.disconnect(link)

    async def calm(self) -> None:
        """Between items: nothing streams, nothing is left in the inboxes."""
        if self._link is None or self._link.lost:
            return await self.drop()
        try:
            for op in (Op.ABORT, Op.STOP_LIVE):
                await self.ask(op)
        except (Failed, LinkFailed, WriteRefused):
            return await self.drop()
        await asyncio.sleep(SETTLE_S)
        self.clear()
        return None

    def clear(self) -> None:
        if self._link is not None:
            for inbox in (self._link.live, self._link.backlog, self._link.frames, self._link.answers):
                inbox.clear()

    async def restarted_by_hand(self, out: TextIO) -> None:
        """Asks for it and waits until it has happened. Raises Skipped where nobody does it, Failed, LinkFailed."""
        link = await self.link()
        ask = f"restart the wearable now (switch it off and on); waiting up to {RESTART_S:g} s"
        print(f"ASK   {ask}", file=out, flush=True)
        if not await self.until(lambda: link.lost, RESTART_S):
            raise Skipped(f"nobody restarted it within {RESTART_S:g} s")
        await self.drop()
        heard = await self.central.scan(RETURN_S, lambda one: one.address == self.address)
        require(self.address in [one.address for one in heard], f"not heard again within {RETURN_S:g} s")

    # Time

    async def pause(self, seconds: float) -> None:
        """So long by the bench's clock, and long enough for the radio."""
        await asyncio.sleep(max(seconds / self.speed, SETTLE_S))

    async def until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Whether what the link shows came to hold within so many real seconds."""
        link = self._link
        assert link is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not holds():
                    link.changed.clear()
                    await link.changed.wait()
        return holds()

    # Values

    async def heard(self) -> Heard:
        """Raises LinkFailed."""
        await self.drop()
        for one in await self.central.scan(SCAN_S, lambda one: one.address == self.address):
            if one.address == self.address:
                return one
        raise LinkFailed(f"{self.address}: not heard within {SCAN_S:g} s")

    async def info(self) -> Info:
        return encoding.decode_info(await (await self.link()).read(encoding.INFO_UUID))

    async def config(self) -> Config:
        return encoding.decode_config(await (await self.link()).read(encoding.CONFIG_UUID))[0]

    async def time(self) -> tuple[int, TimeRead, int]:
        """A read of Time, with the clock before and after."""
        link = await self.link()
        before = self.now_ns()
        payload = await link.read(encoding.TIME_UUID)
        return before, encoding.decode_time(payload), self.now_ns()

    # Control

    async def raw(self, payload: bytes) -> bytes:
        """The one indication that answers a control write. Raises Failed, LinkFailed, WriteRefused."""
        link = await self.link()
        seen = len(link.answers)
        await link.write(encoding.CONTROL_UUID, payload)
        shown = payload.hex() or "an empty write"
        if not await self.until(lambda: len(link.answers) > seen or link.lost, ANSWER_S):
            raise Failed(f"no indication answered {shown} within {ANSWER_S:g} s")
        if link.lost:
            raise LinkFailed(f"the link was lost after the control write {shown}")
        return link.answers[seen]

    async def ask(self, op: Op, *parameters: int) -> tuple[int, bytes]:
        """Status and parameters of the answer. Raises as `raw`, and Failed where it is no answer to this op."""
        answer = await self.raw(encoding.encode_request(op, *parameters))
        if len(answer) < 2 or answer[0] != op | 0x80:
            raise Failed(f"{op.name} was answered {answer.hex()}; expected {op | 0x80:02x}, a status and parameters")
        return answer[1], answer[2:]

    async def done(self, op: Op, *parameters: int, size: int = 0) -> bytes:
        """The answer's parameters, of this size, where the status is 0. Raises Failed."""
        status, answer = await self.ask(op, *parameters)
        require(status == Status.DONE, f"{op.name} was answered with status {status}; expected 0")
        require(len(answer) == size, f"{op.name} was answered with {len(answer)} bytes of parameters; expected {size}")
        return answer

    # Samples

    async def held(self, samples: int) -> tuple[Info, SessionEntry]:
        """Info and the running session once that holds so many samples. Raises Failed."""
        rate_hz = (await self.config()).rate_hz
        waited = self.now_ns()
        while True:
            info = await self.info()
            running = info.running
            if running.end - running.first >= samples:
                return info, running
            limit_s = FRAME_S + (2 * samples / rate_hz + FRAME_S) / self.speed
            if (self.now_ns() - waited) / 1e9 / self.speed > limit_s:
                raise Failed(f"the running session holds {running.end - running.first} samples after {limit_s:.0f} s")
            await self.pause(0.5)

    async def live(self, count: int) -> list[Frame]:
        """So many Live frames of a started stream. Raises Failed and Malformed."""
        link = await self.link()
        config = await self.config()
        limit_s = FRAME_S + (count + 1) * config.samples_a_frame / config.rate_hz / self.speed
        if not await self.until(lambda: len(link.live) >= count or link.lost, limit_s):
            raise Failed(f"{len(link.live)} of {count} Live frames came within {limit_s:.0f} s")
        return [encoding.decode_frame(data) for data in link.live[:count]]

    async def request(self, session: int, first: int, count: int) -> tuple[int, int]:
        """The range that the answer tells. Raises Failed."""
        answer = await self.done(Op.REQUEST, session & 0xFFFF, first, count, size=8)
        begin, end = np.frombuffer(answer, "<u4").tolist()
        return begin, end

    async def drained(self, session: int, first: int, count: int, *, frames: int = 200) -> tuple[int, int, list[Frame]]:
        """A request's range and what it sent, up to its last frame. Raises Failed and Malformed."""
        link = await self.link()
        begin, end = await self.request(session, first, count)
        await self.done(Op.CREDIT, frames)

        def over() -> bool:
            return link.lost or any(len(data) > 1 and data[1] & encoding.Flag.LAST_OF_REQUEST for data in link.backlog)

        if not await self.until(over, FRAME_S):
            raise Failed(
                f"{len(link.backlog)} Backlog frames came and none has b6, of the request for {begin} to {end}"
            )
        return begin, end, [encoding.decode_frame(data) for data in link.backlog]
