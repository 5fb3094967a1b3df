"""Several brokers, in order: a later one stands in while all before it are away.

Each has a publisher and a cursor of its own. The first is tried all the time, and gets everything in the end; one that
stands in gets what no broker before it has acknowledged, from when it takes over, and is left, with the offline state
said on it, once one before it is connected again.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from gateway.clock import Clock
from gateway.store import Store
from gateway.store.rows import Cursor
from gateway.sync.publisher import CursorWriter, Publisher, PublisherCounters
from gateway.sync.replay import Request
from gateway.sync.settings import SyncSettings

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
LEAVE_WITHIN_S = 5.0
"""For the answers to what is on its way to a broker that is left, and for the farewell."""

Make = Callable[[int, Sequence[Cursor], Callable[[], int]], Publisher]
"""The publisher of a broker by its place; what others have; how many connections others have made."""


class Failover:
    """To the daemon it is one publisher: the first that is connected, or else the first."""

    def __init__(self, brokers: int, make: Make, after_s: float) -> None:
        self._brokers, self._make, self._after_s = brokers, make, after_s
        self._cursors: dict[int, Cursor] = {}
        """Of publishers that have ended."""
        self._connections = 0
        """That these have made."""
        self._publishers: list[Publisher] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._away_since_s: list[float] = []
        self._asked: dict[Request, Publisher] = {}
        """What is sent again because somebody asked for it, and by whom."""
        self._last_seq = 0
        self._stopping = asyncio.Event()
        self._add()

    @property
    def current(self) -> Publisher:
        return next((one for one in self._publishers if one.connected), self._publishers[0])

    @property
    def connected(self) -> bool:
        return self.current.connected

    @property
    def protocol(self) -> str | None:
        return self.current.protocol

    @property
    def waiting(self) -> int:
        return self.current.waiting

    @property
    def acknowledged(self) -> int:
        """By the first broker."""
        return self._publishers[0].acknowledged

    @property
    def refused(self) -> int:
        return self.current.refused

    @property
    def refusal(self) -> str:
        return self.current.refusal

    @property
    def connection(self) -> int:
        return self.current.connection

    @property
    def counters(self) -> PublisherCounters:
        return self.current.counters

    @property
    def state(self) -> str:
        first, current = self._publishers[0], self.current
        return current.state if current is first else f"{current.state}, which stands in: {first.state}"

    def committed(self, last_seq: int) -> None:
        self._last_seq = max(self._last_seq, last_seq)
        for publisher in self._publishers:
            publisher.committed(last_seq)

    def replay(self, since_ns: int, until_ns: int, wearable: str | None = None) -> Request:
        """To the broker that is in use; where that changes meanwhile, all of it to the next one."""
        current = self.current
        request = current.replay(since_ns, until_ns, wearable)
        self._asked[request] = current
        return request

    def cancel(self, request: Request) -> None:
        publisher = self._asked.pop(request, None)
        if publisher is not None:
            publisher.cancel(request)

    async def run(self) -> None:
        """Until `stop`. Ends with what a publisher ends with by a fault of its own."""
        self._start_last()
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                await asyncio.wait([stopping, *self._tasks], timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
                for task in self._tasks:
                    if task.done() and not self._stopping.is_set():
                        return task.result()
                await self._look()
                await self._follow()
            await asyncio.gather(*self._tasks)
        finally:
            stopping.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stop(self, timeout_s: float) -> None:
        """Each says offline where it is connected; within timeout_s or without."""
        self._stopping.set()
        await asyncio.gather(*(publisher.stop(timeout_s) for publisher in self._publishers))

    async def _look(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for place, publisher in enumerate(self._publishers):
            if publisher.connected:
                self._away_since_s[place] = now_s
                while len(self._publishers) > place + 1:
                    await self._leave_last()
                return
        if len(self._publishers) < self._brokers and now_s - self._away_since_s[-1] >= self._after_s:
            log.warning("%s; the next broker stands in", self._publishers[-1].state)
            self._add()
            self._start_last()

    async def _follow(self) -> None:
        """What was asked for goes to the broker that is in use."""
        current = self.current
        if not current.connected:
            return
        for request, publisher in list(self._asked.items()):
            if publisher is current or request.over.is_set():
                continue
            await publisher.hand_over(request)
            if request in self._asked and not request.over.is_set():
                log.info("what was asked for again begins anew: %s", current.state)
                request.begin_anew()
                current.take_over(request)
                self._asked[request] = current

    def _add(self) -> None:
        place = len(self._publishers)
        elsewhere = [publisher.cursor for publisher in self._publishers]
        if place in self._cursors:
            elsewhere.append(self._cursors[place])
        self._publishers.append(self._make(place, elsewhere, lambda: self._connections_beside(place)))
        self._publishers[-1].committed(self._last_seq)

    def _start_last(self) -> None:
        self._away_since_s.append(asyncio.get_running_loop().time())
        self._tasks.append(asyncio.create_task(self._publishers[-1].run()))

    def _connections_beside(self, place: int) -> int:
        others = sum(one.counters.connections for at, one in enumerate(self._publishers) if at != place)
        return self._connections + others

    async def _leave_last(self) -> None:
        publisher, task = self._publishers[-1], self._tasks[-1]
        await publisher.stop(LEAVE_WITHIN_S)
        await asyncio.gather(task, return_exceptions=True)
        self._cursors[len(self._publishers) - 1] = publisher.cursor
        self._connections += publisher.counters.connections
        del self._publishers[-1], self._tasks[-1], self._away_since_s[-1]
        log.info("%s; what stood in is left", self.current.state)


def publisher_of(
    settings: SyncSettings, gateway_id: str, store: Store, writer: CursorWriter, clock: Clock
) -> Publisher | Failover:
    """Of one broker, or of all that are configured."""
    brokers = settings.brokers()

    def make(place: int, elsewhere: Sequence[Cursor] = (), earlier: Callable[[], int] = lambda: 0) -> Publisher:
        return Publisher(
            brokers[place], gateway_id, store, writer, clock, elsewhere=elsewhere, earlier_connections=earlier
        )

    return make(0) if len(brokers) == 1 else Failover(len(brokers), make, settings.failover_after_s)
