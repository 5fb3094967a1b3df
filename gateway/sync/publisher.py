"""From the event log to the broker, in order, at least once; only a successful PUBACK moves the cursor.

The log is the queue: in memory are only the events on their way and a bounded number read ahead. What was on its way
when a connection ended is sent again on the next. The cursor is written by the store's writer with its next commit, so
a crash repeats some events on the wire and never leaves one out.
"""

import asyncio
import heapq
import logging
import random
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal, Protocol, TypeVar

from gateway import events
from gateway.clock import Clock
from gateway.errors import GatewayError, InputRejected
from gateway.store import EventLog, Store
from gateway.store.rows import Checkpoint, Cursor, LoggedEvent, Parked
from gateway.sync.checkpoints import Checkpoints
from gateway.sync.cursor import CursorState
from gateway.sync.flight import PACKET_TOO_LARGE, Flight, Verdict
from gateway.sync.mqtt import PahoBroker, max_payload_bytes
from gateway.sync.session import Broker, Connection, Presence
from gateway.sync.settings import SyncSettings

log = logging.getLogger(__name__)

READ_AHEAD = 100
"""Events read from the log at a time; a drift event is the largest, about 50 kB."""
BEYOND_MAX = 1000
"""One event without an answer holds up all that lie so far behind it: the cursor stays small."""
PARKED_AGAIN = 100
"""Refused events that are tried once more at a time: at the first connection, then on while the broker takes some."""
PARKED_MIN_S, PARKED_MAX_S = 60.0, 3600.0
"""A pause after refused events were all refused once more, doubled each time until one is taken; the shorter one after
a reconnection. Not none: mosquitto 2.0.11 ends the connection after each refusal, and the others must get through."""

T = TypeVar("T")


class CursorWriter(Protocol):
    """What the publisher asks of the store's writer."""

    def cursor(self, cursor: Cursor, checkpoints: Sequence[Checkpoint] | None = None) -> None: ...
    def park(self, parked: Parked) -> None: ...


@dataclass(slots=True)
class PublisherCounters:
    """Since this start."""

    connections: int = 0
    sent: int = 0
    sent_again: int = 0
    """Of these, events that had been sent before since this start."""
    refused: int = 0
    """Events that the broker will not take; they are kept and listed in the store."""
    rewound: int = 0
    """Times that the broker had lost our session."""


class Publisher:
    """One destination. `run` keeps going whatever the broker does, until `stop`."""

    def __init__(
        self,
        settings: SyncSettings,
        gateway_id: str,
        store: Store,
        writer: CursorWriter,
        clock: Clock,
        *,
        broker: Broker | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._settings, self._gateway_id, self._writer, self._clock = settings, gateway_id, writer, clock
        self._broker = broker or PahoBroker(settings, settings.client_id or f"fidget-{gateway_id}")
        self._rng = rng or random.Random()
        self._log: EventLog = store.events()
        self._start = store.start
        known = store.cursor(settings.destination)
        self._cursor = CursorState.of(settings.destination, known)
        self._had_session = known is not None and (known.position > 0 or bool(known.beyond))
        self._checkpoints = Checkpoints(settings.rewind_s, self._log.checkpoints(settings.destination))
        if known is None:
            self._checkpoints.take(0, clock.now())
        self._last_seq = store.last_seq()
        self._flight = Flight()
        self._ahead: deque[LoggedEvent] = deque()
        self._read_to = 0
        self._highest_sent = 0
        self._parked = set(self._log.parked(settings.destination))
        self.refusal = self._log.refusal(settings.destination)
        """What the broker said to the last event that it refused."""
        self._retrying: set[int] = set()
        """Refused events that are tried once more just now."""
        self._retried_to = 0
        self._retry_took = False
        self._retry_due_s, self._retry_pause_s = 0.0, PARKED_MIN_S
        self._retained: dict[str, int] = {}
        """By topic, the latest event sent retained: a broker keeps the last that it gets, whatever its age."""
        self._presence_tokens: set[int] = set()
        self._cursor_moved = False
        self._failures = 0
        self._lost: str | None = None
        self._heard_s = 0.0
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.counters = PublisherCounters()
        self.connected = False
        self.protocol: str | None = None
        """The version of MQTT that the broker took last: "5" or "3.1.1"."""
        self._state = "not connected yet"

    # What is asked and told from outside, in the loop.

    @property
    def waiting(self) -> int:
        """Events in the log that this destination has not acknowledged."""
        return self._cursor.waiting(self._last_seq)

    @property
    def acknowledged(self) -> int:
        """Events of the log that it has, since the store began."""
        passed = self._cursor.position + len(self._cursor.beyond)
        return passed - sum(map(self._cursor.has, self._parked))

    @property
    def refused(self) -> int:
        """Events that it will not take at present, of this start and of earlier ones; they are kept and tried again."""
        return len(self._parked)

    @property
    def state(self) -> str:
        """In words, for people."""
        if self.connected and self.refused:
            return f"{self._state}; it refuses {self.refused} events: {self.refusal}"
        return self._state

    def committed(self, last_seq: int) -> None:
        """The log holds all events up to this one."""
        self._last_seq = max(self._last_seq, last_seq)
        self._changed.set()

    async def stop(self, timeout_s: float) -> None:
        """Waits for the answers to what is on its way, says offline and disconnects; within timeout_s or without."""
        self._stopping.set()
        self._changed.set()
        if self._task is None:
            return
        _, late = await asyncio.wait([self._task], timeout=timeout_s)
        if late:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def run(self) -> None:
        self._task = asyncio.current_task()
        try:
            while not self._stopping.is_set():
                await self._session()
        finally:
            self.connected = False
            self._state = "stopped"
            with suppress(GatewayError):  # a store that has ended: what was acknowledged since is sent again
                self._save_cursor()
            self._log.close()

    # A connection.

    async def _session(self) -> None:
        """One try: connects and sends for as long as the connection lives, or waits after a failure."""
        where = f"{self._settings.host}:{self._settings.port}"
        if not self.connected and self._failures == 0:
            self._state = f"connecting to {where}"
        self._lost = None
        presence = self._presence(self.counters.connections + 1)
        try:
            connection = await self._unless_stopping(self._broker.connect(presence, self))
        except GatewayError as error:
            await self._wait_after(
                f"{error}; {error.hint}" if error.exit_code == InputRejected.exit_code else str(error)
            )
            return
        if connection is None:
            return
        self.counters.connections += 1
        try:
            await self._serve(connection, presence)
        except GatewayError as error:  # of the store; the connection is given up, collecting goes on
            self._lost = str(error)
        finally:
            self.connected = False
            connection.abort()
        if self._lost is not None:
            await self._wait_after(self._lost)

    async def _serve(self, connection: Connection, presence: Presence) -> None:
        accepted = connection.accepted
        await self._begin(connection)
        self.connected, self.protocol = True, accepted.protocol
        self._state = f"connected to {self._settings.host}:{self._settings.port}, MQTT {accepted.protocol}"
        log.info("%s", self.state)
        self._presence_tokens = {connection.publish(presence.topic, presence.online, retain=True)}
        while self._lost is None:
            self._changed.clear()
            if self._stopping.is_set():
                if not self._flight.under_way:
                    break
            else:
                await self._retry_refused()
                await self._read_ahead()
                self._send(connection)
            self._save_cursor()
            await self._wait_for_change()
        if self._lost is None:
            await self._say_farewell(connection, presence)

    async def _begin(self, connection: Connection) -> None:
        """What was on its way is sent again; more, where the broker has lost the session that it had with us."""
        accepted = connection.accepted
        if self._had_session and not accepted.session_present:
            position, back_to = self._cursor.position, self._checkpoints.go_back(self._clock.now())
            log.warning("the broker has lost our session: going back from event %d to %d", position, back_to)
            self._cursor.rewind(back_to)
            self._writer.cursor(self._cursor.cursor(), self._checkpoints.kept())
            self.counters.rewound += 1
        self._had_session = True
        self._flight.connected(min(self._settings.window, accepted.in_flight_max))
        self._ahead.clear()
        self._read_to = self._cursor.position
        self._heard_s = self._now_s()
        for seq in list(self._retrying):  # of the last connection
            self._retried(seq, taken=False)
        if self.counters.connections > 1:
            self._retry_due_s = min(self._retry_due_s, self._now_s() + PARKED_MIN_S)

    async def _say_farewell(self, connection: Connection, presence: Presence) -> None:
        """The offline state is ours to publish: a clean DISCONNECT makes the broker drop the last will."""
        self._presence_tokens = {connection.publish(presence.topic, presence.offline, retain=True)}
        while self._presence_tokens and self._lost is None:
            self._changed.clear()
            await self._wait_for_change()
        await connection.close()

    # The way of an event.

    async def _retry_refused(self) -> None:
        """Takes up the next of the refused events, in their order, and from the first again after the last."""
        if self._retrying or not self._parked or self._now_s() < self._retry_due_s:
            return
        if self._retried_to >= max(self._parked):
            self._retried_to = 0
        due = heapq.nsmallest(PARKED_AGAIN, (seq for seq in self._parked if seq > self._retried_to))
        self._retried_to = due[-1]
        found = await asyncio.to_thread(self._read_refused, due)
        self._retrying = {event.seq for event in found}
        for seq in set(due) - self._retrying:  # gone from the log
            self._take_back(seq)
        self._flight.again += found

    def _read_refused(self, seqs: Sequence[int]) -> list[LoggedEvent]:
        """An old state among them is told, but does not replace the broker's retained one."""
        found = self._log.of(seqs)
        latest = {event.topic: event.seq for event in found if event.retain}
        stand = {topic for topic, seq in latest.items() if self._log.latest_under(topic, seq)}
        return [replace(e, retain=e.retain and e.topic in stand and e.seq == latest[e.topic]) for e in found]

    async def _read_ahead(self) -> None:
        if self._ahead or self._read_to >= self._last_seq:
            return
        last_seq = self._last_seq  # as of now: all of these are there to be read
        found = await asyncio.to_thread(self._log.after, self._read_to, READ_AHEAD)
        expected = self._read_to + 1
        for event in found:
            if event.seq > expected:
                self._cursor.absent(expected, event.seq)
                self._cursor_moved = True
            if event.seq in self._parked:
                self._acknowledge(event.seq)
            elif not self._cursor.has(event.seq):
                self._ahead.append(event)
            expected = event.seq + 1
        if len(found) < READ_AHEAD and expected <= last_seq:
            self._cursor.absent(expected, last_seq + 1)
            self._cursor_moved = True
            expected = last_seq + 1
        self._read_to = expected - 1

    def _send(self, connection: Connection) -> None:
        room = self._flight.room(self._now_s()) - len(self._presence_tokens)
        while room > 0 and (self._flight.again or self._ahead):
            queue = self._flight.again or self._ahead
            if queue is self._ahead and queue[0].seq > self._cursor.position + BEYOND_MAX:
                break
            event = queue.popleft()
            limit = max_payload_bytes(connection.accepted.packet_bytes_max, event.topic)
            if limit is not None and len(event.payload) > limit:
                self._set_aside(event, f"larger than the broker takes ({len(event.payload)} bytes)", PACKET_TOO_LARGE)
                continue
            if not self._flight.under_way:
                self._heard_s = self._now_s()
            retain = event.retain and event.seq >= self._retained.get(event.topic, 0)
            if retain:
                self._retained[event.topic] = event.seq
            self._flight.sent(connection.publish(event.topic, event.payload, retain=retain), event)
            room -= 1
            self.counters.sent += 1
            self.counters.sent_again += event.seq <= self._highest_sent
            self._highest_sent = max(self._highest_sent, event.seq)
        if room > 0 and not self._ahead and self._read_to < self._last_seq:
            self._changed.set()  # there is more to read

    def answered(self, token: int, code: int, words: str) -> None:
        """A PUBACK."""
        self._heard_s = self._now_s()
        self._changed.set()
        if token in self._presence_tokens:
            self._presence_tokens.discard(token)
            self._failures = 0
            return
        answer = self._flight.answered(token, code, self._now_s())
        if answer is None:
            return
        event, verdict = answer
        match verdict:
            case Verdict.DONE:
                self._failures = 0
                self._acknowledge(event.seq)
                if event.seq in self._parked:
                    self._take_back(event.seq)
                self._retried(event.seq, taken=True)
            case Verdict.REFUSED:
                self._set_aside(event, words, code)
            case Verdict.SLOW_DOWN | Verdict.AGAIN:
                log.warning("event %d: the broker answers %s; slower", event.seq, words)

    def lost(self, why: str) -> None:
        """The connection has ended."""
        self._lost = why
        self._changed.set()

    def _acknowledge(self, seq: int) -> None:
        self._cursor.acknowledge(seq)
        self._cursor_moved = True

    def _set_aside(self, event: LoggedEvent, words: str, code: int) -> None:
        """The broker will not take it: it is kept and listed, and the rest goes on."""
        self.refusal = words
        if event.seq not in self._parked:
            log.warning("event %d (%s): the broker refuses it: %s (0x%02x)", event.seq, event.topic, words, code)
            self.counters.refused += 1
            if not self._parked:
                self._retry_due_s = self._now_s() + self._retry_pause_s
            self._parked.add(event.seq)
            self._writer.park(Parked(self._settings.destination, event.seq, words))
        self._acknowledge(event.seq)
        self._retried(event.seq, taken=False)

    def _take_back(self, seq: int) -> None:
        """It is refused no longer."""
        self._parked.discard(seq)
        self._writer.park(Parked(self._settings.destination, seq, None))

    def _retried(self, seq: int, *, taken: bool) -> None:
        """The next ones are due at once where the broker takes some again, and later where it takes none."""
        if seq not in self._retrying:
            return
        self._retrying.discard(seq)
        self._retry_took |= taken
        if self._retrying:
            return
        pause_s = self._retry_pause_s
        self._retry_pause_s = PARKED_MIN_S if self._retry_took else min(2 * pause_s, PARKED_MAX_S)
        self._retry_due_s = self._now_s() + (0.0 if self._retry_took else pause_s)
        self._retry_took = False

    def _save_cursor(self) -> None:
        if self._cursor_moved:
            self._cursor_moved = False
            taken = self._checkpoints.take(self._cursor.position, self._clock.now())
            self._writer.cursor(self._cursor.cursor(), self._checkpoints.kept() if taken else None)

    # Waiting.

    async def _wait_for_change(self) -> None:
        """Until something is answered, committed or due."""
        now_s = self._now_s()
        dues: list[float] = []
        if self._flight.under_way or self._presence_tokens:
            dues.append(self._heard_s + self._settings.ack_timeout_s)
        if self._flight.not_before_s > now_s:
            dues.append(self._flight.not_before_s)
        if self._parked and not self._retrying and not self._stopping.is_set():
            dues.append(self._retry_due_s)
        try:
            async with asyncio.timeout(max(0.0, min(dues) - now_s) if dues else None):
                await self._changed.wait()
        except TimeoutError:
            waits = self._flight.under_way or self._presence_tokens
            if waits and self._now_s() >= self._heard_s + self._settings.ack_timeout_s:
                self.lost(f"no answer from the broker in {self._settings.ack_timeout_s:g} s")

    async def _wait_after(self, why: str) -> None:
        """A pause that doubles with each failure in a row, of 50 to 100 % of itself: gateways do not come at once."""
        limit_s = min(self._settings.backoff_max_s, self._settings.backoff_min_s * 2 ** min(self._failures, 16))
        pause_s = limit_s * (0.5 + 0.5 * self._rng.random())
        self._failures += 1
        self._state = f"{why}; next try {pause_s:.2g} s later"
        log.warning("%s", self._state)
        self._save_cursor()
        await self._unless_stopping(asyncio.sleep(pause_s))

    async def _unless_stopping(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What it returns, or None where a stop is asked for first; the work is cancelled then."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            stopping.cancel()
            working.cancel()

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def _presence(self, connection: int) -> Presence:
        now = self._clock.now()

        def event(status: Literal["online", "offline"]) -> bytes:
            return events.encode(
                events.State(
                    id=events.gateway_state_id(now.boot_id, self._start, connection, status),
                    source=events.gateway_source(self._gateway_id),
                    time=events.rfc3339(now.utc_ns) if now.utc_synced else None,
                    gateway=self._gateway_id,
                    bootid=now.boot_id,
                    monons=str(now.mono_ns),
                    data=events.GatewayState(
                        status=status,
                        start=self._start,
                        connection=connection,
                        version=version("fidget-gateway"),
                    ),
                )
            )

        topic = events.topic_of(events.TOPIC_PREFIX, self._gateway_id, None, "state")
        return Presence(topic, event("online"), event("offline"))
