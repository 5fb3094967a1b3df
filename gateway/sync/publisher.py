"""From the event log to the broker, at least once, new events first; only a successful PUBACK moves the cursor.

The log is the queue: in memory are only the events on their way and a bounded number read ahead. In which order they go
gateway/sync/lanes.py says. What was on its way when a connection ended is sent again on the next. The cursor is written
by the store's writer with its next commit, so a crash repeats some events on the wire and never leaves one out.

A broker says only once that it has lost our session. So that a connection is being made is on the medium before CONNECT
leaves, until what follows from the answer is; where nobody knows the answer, the session counts as lost.
"""

import asyncio
import functools
import heapq
import logging
import random
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Sequence
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
from gateway.sync.errors import NotConnected
from gateway.sync.flight import BLAMED, PACKET_TOO_LARGE, Flight, Verdict
from gateway.sync.lanes import Pace, is_backlog, replay_room
from gateway.sync.mqtt import PahoBroker, max_payload_bytes
from gateway.sync.replay import READ_AHEAD, Request
from gateway.sync.session import Broker, Connection, Presence
from gateway.sync.settings import SyncSettings
from gateway.sync.wire import FAILURES, REASONS

log = logging.getLogger(__name__)

BEYOND_MAX = 1000
"""One event without an answer holds up all that would be sent so long after it: a broker that answers nothing else any
more is left then."""
PARKED_AGAIN = 100
"""Refused events that are tried once more at a time: at the first connection, then on while the broker takes some."""
PARKED_MIN_S, PARKED_MAX_S = 60.0, 3600.0
"""A pause after refused events were all refused once more, doubled each time until one is taken; the shorter one after
a reconnection. Not none: mosquitto 2.0.11 ends the connection after each refusal, and the others must get through."""
TAKEN_AND_LOST = "taken at a later try, and lost by the broker since"
SUPERSEDED_EXPIRY_S = 300
"""A state that a later one has replaced is of no use late."""

T = TypeVar("T")


class CursorWriter(Protocol):
    """What the publisher asks of the store's writer."""

    def cursor(self, cursor: Cursor, checkpoints: Sequence[Checkpoint] | None = None) -> None: ...
    def park(self, parked: Parked) -> None: ...
    def connecting(self, destination: str, under_way: bool, *, soon: bool = False) -> None: ...
    async def flush(self) -> None: ...


@dataclass(slots=True)
class PublisherCounters:
    """Since this start."""

    connections: int = 0
    sent: int = 0
    sent_again: int = 0
    """Of these, events that had been sent before since this start."""
    refused: int = 0
    """Events that the broker will not take; they are kept and listed in the store."""
    dropped: int = 0
    """Events that the store gave up before the broker had acknowledged them."""
    rewound: int = 0
    """Times that the broker had, or may have, lost our session."""


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
        elsewhere: Sequence[Cursor] = (),
        earlier_connections: Callable[[], int] = lambda: 0,
    ) -> None:
        """elsewhere: what others have is not sent. earlier_connections: how many others have made since this start."""
        self._settings, self._gateway_id, self._writer, self._clock = settings, gateway_id, writer, clock
        self._broker = broker or PahoBroker(settings, settings.client_id or f"fidget-{gateway_id}")
        self._rng = rng or random.Random()
        self._log: EventLog = store.events()
        self._old_log: EventLog = store.events()
        """For what goes behind new events, so that these wait for none of its reads."""
        self._start = store.start
        known = store.cursor(settings.destination)
        self._cursor = CursorState.of(settings.destination, known)
        self._began = known is not None
        for other in elsewhere:
            self._cursor.advance(other)
        self._earlier_connections = earlier_connections
        self._had_session = known is not None and (known.position > 0 or bool(known.beyond))
        self._checkpoints = Checkpoints(settings.rewind_s, self._log.checkpoints(settings.destination))
        self._checkpoints_new = known is None
        """The first of them is not stored yet."""
        if known is None:
            self._checkpoints.take(self._cursor.position, clock.now())
        self._session_unknown = self._log.connecting(settings.destination)
        """An earlier CONNECT may have reached the broker, and nobody has heard or acted on its answer."""
        self._marked = self._asking = False
        """A connection is being made: it is on the medium, and CONNECT may have left."""
        self._last_seq = store.last_seq()
        self._flight = Flight()
        self._ahead: deque[LoggedEvent] = deque()
        self._read_to = 0
        self._backlog: deque[LoggedEvent] = deque()
        self._backlog_to = self._backlog_end = 0
        """Of the backlog what has been read, and where it ends; all beyond is new."""
        self._requests: list[Request] = []
        self._reading: asyncio.Task[None] | None = None
        self._turn = 0
        self._pace = Pace(settings.replay_messages_s, settings.replay_bytes_s)
        self._highest_sent = 0
        self._sends: dict[int, int] = {}
        """By token of what is on its way, the how manieth sent."""
        self._parked = set(self._log.parked(settings.destination))
        self.refusal = self._log.refusal(settings.destination)
        """What the broker said to the last event that it refused."""
        self._retaken = self._log.retaken(settings.destination)
        """Refused events that it took later, and where the cursor stood then."""
        self._lost_again: set[int] = set()
        """Of the refused events those that it had taken, and has lost; they go first."""
        self._retrying: set[int] = set()
        """Refused events that are tried once more just now."""
        self._retried_to = 0
        self._retry_took = False
        self._retry_due_s, self._retry_pause_s = 0.0, PARKED_MIN_S
        self._retained: dict[str, int] = {}
        """By topic, the latest event sent retained: a broker keeps the last that it gets, whatever its age."""
        self._retained_known = True
        """Whether it says so of all that lies behind the cursor."""
        self._presence_tokens: set[int] = set()
        self._cursor_moved = False
        self._failures = 0
        self._lost: str | None = None
        self._renewing = False
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
        return self._cursor.waiting(self._last_seq) + len(self._lost_again)

    @property
    def connection(self) -> int:
        """The number of the last connection, as birth and death name it; to whichever broker, since this start."""
        return self._earlier_connections() + self.counters.connections

    @property
    def cursor(self) -> Cursor:
        return self._cursor.cursor()

    @property
    def acknowledged(self) -> int:
        """Events of the log that it has, since the store began."""
        return self._cursor.acknowledged - sum(map(self._cursor.has, self._parked))

    @property
    def refused(self) -> int:
        """Events that it will not take at present, of this start and of earlier ones; they are kept and tried again."""
        return len(self._parked) - len(self._lost_again)

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

    def replay(self, since_ns: int, until_ns: int, wearable: str | None = None) -> Request:
        """Sends again what the log holds of this time, until it is over or cancelled; behind new events."""
        request = Request(since_ns, until_ns, wearable, self._last_seq)
        self.take_over(request)
        return request

    def take_over(self, request: Request) -> None:
        self._requests.append(request)
        self._changed.set()

    async def hand_over(self, request: Request) -> None:
        """Sends no more of it, and reads none; another may."""
        self.cancel(request)
        if self._reading is not None:
            await asyncio.wait([self._reading])

    def cancel(self, request: Request) -> None:
        """Sends no more of it."""
        if request in self._requests:
            self._requests.remove(request)

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
                if not (self._session_unknown or self._asking):
                    self._writer.connecting(self._settings.destination, False)
            await self._end_reading()
            self._log.close()
            self._old_log.close()

    # A connection.

    async def _session(self) -> None:
        """One try: connects and sends for as long as the connection lives, or waits after a failure."""
        where = f"{self._settings.host}:{self._settings.port}"
        if not self.connected and self._failures == 0:
            self._state = f"connecting to {where}"
        self._lost, self._renewing = None, False
        try:
            await self._unless_stopping(self._mark())
            if self._stopping.is_set():
                return
            presence = self._presence(self.connection + 1)
            self._asking = True
            connection = await self._unless_stopping(self._broker.connect(presence, self))
        except GatewayError as error:
            self._asking = False
            self._session_unknown |= isinstance(error, NotConnected) and error.asked
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

    async def _mark(self) -> None:
        """On the medium it stays while the broker is away, however often that is tried."""
        if not self._marked:
            self._writer.connecting(self._settings.destination, True)
            await self._writer.flush()
            self._marked = True

    async def _serve(self, connection: Connection, presence: Presence) -> None:
        accepted = connection.accepted
        await self._begin(connection)
        self.connected, self.protocol = True, accepted.protocol
        place = accepted.place or f"{self._settings.host}:{self._settings.port}"
        self._state = f"connected to {place}, MQTT {accepted.protocol}"
        log.info("%s", self.state)
        self._say(connection, presence.topic, presence.online)
        while self._lost is None:
            self._changed.clear()
            if self._stopping.is_set() or self._renewing:
                if not self._flight.under_way:
                    break
            else:
                await self._retry_refused()
                await self._read_ahead()
                self._read_behind()
                self._send(connection)
            self._save_cursor()
            await self._wait_for_change()
        if self._lost is None and self._stopping.is_set():
            await self._say_farewell(connection, presence)
        elif self._lost is None:
            self._save_cursor()
            await connection.close()

    async def _begin(self, connection: Connection) -> None:
        """What was on its way is sent again; more, where the broker has lost the session that it had with us."""
        accepted = connection.accepted
        if self._had_session and not accepted.session_present:
            self._go_back("the broker has lost our session")
        elif self._had_session and self._session_unknown:
            self._go_back("what the broker said of our session to an earlier CONNECT, we have not heard")
        self._had_session = True
        self._session_unknown = self._marked = self._asking = False
        # behind the cursor: a program that ends soon after each start shall not have to go back each time
        self._writer.connecting(self._settings.destination, False, soon=self.counters.connections == 1)
        self._flight.connected(min(self._settings.window, accepted.in_flight_max))
        await self._begin_lanes()
        self._heard_s = self._now_s()
        for seq in list(self._retrying):  # of the last connection
            self._retried(seq, taken=False)
        if self.counters.connections > 1:
            self._retry_due_s = min(self._retry_due_s, self._now_s() + PARKED_MIN_S)

    def _go_back(self, why: str) -> None:
        position, back_to = self._cursor.position, self._checkpoints.go_back()
        log.warning("%s: going back from event %d to %d", why, position, back_to)
        for seq in sorted(seq for seq, taken_at in self._retaken.items() if taken_at >= back_to):
            del self._retaken[seq]
            self._parked.add(seq)
            self._lost_again.add(seq)
            self._writer.park(Parked(self._settings.destination, seq, TAKEN_AND_LOST))
        for request in self._requests:
            request.lose()
        self._cursor.rewind(back_to)
        self._writer.cursor(self._cursor.cursor(), self._checkpoints.kept())
        self.counters.rewound += 1

    async def _begin_lanes(self) -> None:
        await self._end_reading()
        self._ahead.clear()
        self._backlog.clear()
        self._sends.clear()
        cursor = self._cursor
        self._backlog_to = cursor.position
        waiting = cursor.waiting(self._last_seq)
        self._backlog_end = self._last_seq if self._is_backlog(waiting) else cursor.position
        self._read_to = self._backlog_end
        for request in self._requests:
            request.begin_again()
        self._retained_known = not cursor.beyond and self._backlog_end == cursor.position
        if self._backlog_end > cursor.position:
            log.info("%d events wait; what comes from now on goes before them", waiting)
        elif not self._retained_known:
            await self._learn_retained()

    async def _say_farewell(self, connection: Connection, presence: Presence) -> None:
        """The offline state is ours to publish: a clean DISCONNECT makes the broker drop the last will."""
        self._say(connection, presence.topic, presence.offline)
        while self._presence_tokens and self._lost is None:
            self._changed.clear()
            await self._wait_for_change()
        await connection.close()

    def _say(self, connection: Connection, topic: str, state: bytes) -> None:
        limit = max_payload_bytes(connection.accepted.packet_bytes_max, topic)
        if limit is not None and len(state) > limit:
            log.warning("the gateway's own state is larger than the broker takes (%d bytes)", len(state))
            self._presence_tokens = set()
        else:
            self._presence_tokens = {connection.publish(topic, state, retain=True)}

    # The way of an event.

    async def _retry_refused(self) -> None:
        """Takes up the next of the refused events, in their order, and from the first again after the last."""
        if self._retrying or not self._parked:
            return
        if self._lost_again:
            due = heapq.nsmallest(PARKED_AGAIN, self._lost_again)
        elif self._now_s() < self._retry_due_s:
            return
        else:
            if self._retried_to >= max(self._parked):
                self._retried_to = 0
            due = heapq.nsmallest(PARKED_AGAIN, (seq for seq in self._parked if seq > self._retried_to))
            self._retried_to = due[-1]
        found = await asyncio.to_thread(self._read_refused, due)
        self._retrying = {event.seq for event in found}
        for seq in set(due) - self._retrying:  # gone from the log
            self._take_back(seq, taken=False)
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
        if self._is_backlog(last_seq - self._read_to):
            if self._backlog_to >= self._backlog_end:
                self._backlog_to = self._read_to
            self._backlog_end = self._read_to = last_seq
            return
        found = await asyncio.to_thread(self._log.after, self._read_to, READ_AHEAD)
        self._read_to = self._take_up(found, self._read_to, last_seq, self._ahead, frozenset())

    def _take_up(
        self,
        found: Sequence[LoggedEvent],
        read_to: int,
        end: int,
        lane: deque[LoggedEvent],
        afloat: Collection[int],
    ) -> int:
        """Puts what was read behind read_to on its lane; afloat: what is on one already. How far that goes."""
        expected = read_to + 1
        for event in found:
            if event.seq > end:
                break
            if event.seq > expected:
                self._absent(expected, event.seq)
            if event.seq in self._parked:
                self._acknowledge(event.seq)
            elif not self._cursor.has(event.seq) and event.seq not in afloat:
                lane.append(event)
            expected = event.seq + 1
        if expected <= end and (len(found) < READ_AHEAD or found[-1].seq > end):
            self._absent(expected, end + 1)
            expected = end + 1
        return expected - 1

    def _is_backlog(self, waiting: int) -> bool:
        pace = self._pace
        return is_backlog(waiting, len(self._cursor.beyond), pace.messages_s, pace.bytes_s)

    def _absent(self, first: int, end: int) -> None:
        """No event has a number from first to end (exclusive) any more. What was gone before this destination had any
        was never meant for it."""
        missed = self._cursor.waiting_in(first, end) if self._began or first > 1 else 0
        if missed:
            log.warning("events %d to %d: %d were dropped before the broker had them", first, end - 1, missed)
            self.counters.dropped += missed
        self._cursor.absent(first, end)
        self._cursor_moved = True

    def _read_behind(self) -> None:
        """Begins to read more of what goes behind new events, which never wait for it."""
        if self._reading is not None:
            if not self._reading.done():
                return
            reading, self._reading = self._reading, None
            reading.result()  # raises what went wrong
        if len(self._backlog) < READ_AHEAD and self._backlog_to < self._backlog_end:
            self._read(self._read_backlog())
            return
        for request in self._requests:
            if len(request.ahead) < READ_AHEAD and (read := request.read(self._old_log)) is not None:
                self._read(self._read_request(request, read))
                return

    def _read(self, work: Coroutine[Any, Any, None]) -> None:
        self._reading = asyncio.ensure_future(work)
        self._reading.add_done_callback(lambda _: self._changed.set())

    async def _read_backlog(self) -> None:
        if not self._retained_known:
            await self._learn_retained()
            missing = [seq for seq in self._retained.values() if not self._cursor.has(seq) and seq <= self._backlog_end]
            self._ahead.extendleft(await asyncio.to_thread(self._old_log.of, missing))
        read_to, end = self._cursor.open_from(self._backlog_to + 1) - 1, self._backlog_end
        found = await asyncio.to_thread(self._old_log.after, read_to, READ_AHEAD) if read_to < end else []
        flight = self._flight
        afloat = {event.seq for lane in (flight.under_way.values(), flight.again, self._ahead) for event in lane}
        self._backlog_to = self._take_up(found, read_to, end, self._backlog, afloat) if read_to < end else end

    async def _read_request(self, request: Request, read: Callable[[], list[LoggedEvent]]) -> None:
        request.take(await asyncio.to_thread(read))
        request.settle()

    async def _end_reading(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            await asyncio.gather(reading, return_exceptions=True)

    async def _learn_retained(self) -> None:
        """The latest states by topic: what is sent behind them shall not replace them."""
        latest = await asyncio.to_thread(self._old_log.latest_retained, self._cursor.position)
        for topic, seq in latest.items():
            self._retained[topic] = max(seq, self._retained.get(topic, 0))
        self._retained_known = True

    def _send(self, connection: Connection) -> None:
        room = self._flight.room(self._now_s()) - len(self._presence_tokens)
        window = room + len(self._flight.under_way)
        while room > 0 and not self._stuck() and (event := self._next(replay_room(room, window))) is not None:
            topic = self._topic_of(event)
            limit = max_payload_bytes(connection.accepted.packet_bytes_max, topic)
            if limit is not None and len(event.payload) > limit:
                self._set_aside(event, f"larger than the broker takes ({len(event.payload)} bytes)", PACKET_TOO_LARGE)
                continue
            if not self._flight.under_way:
                self._heard_s = self._now_s()
            retain = event.retain and event.seq >= self._retained.get(event.topic, 0)
            if retain:
                self._retained[event.topic] = event.seq
            replayed = event.seq <= self._backlog_end or any(event.seq in r.under_way for r in self._requests)
            expiry_s = None
            if event.kind == "state" and event.wearable is not None:
                expiry_s = self._settings.state_expiry_s if retain else SUPERSEDED_EXPIRY_S
            token = connection.publish(topic, event.payload, retain=retain, replayed=replayed, expiry_s=expiry_s)
            self._flight.sent(token, event)
            self._sends[token] = self.counters.sent
            room -= 1
            self.counters.sent += 1
            self.counters.sent_again += event.seq <= self._highest_sent
            self._highest_sent = max(self._highest_sent, event.seq)
        if room > 0 and not self._ahead and self._read_to < self._last_seq:
            self._changed.set()  # there is more to read

    def _topic_of(self, event: LoggedEvent) -> str:
        """The log has the default's."""
        if self._settings.topics == events.TOPICS:
            return event.topic
        return events.topic_by(self._settings.topics, self._gateway_id, event.wearable, event.kind)

    def _stuck(self) -> bool:
        """Whether an event has had no answer for too long, in events sent since."""
        oldest = next(iter(self._sends.values()), self.counters.sent)
        return self.counters.sent - oldest >= BEYOND_MAX

    def _next(self, room: int) -> LoggedEvent | None:
        """What goes next; room: in the flight window for what is not new."""
        queue = self._flight.again or self._ahead
        if queue:
            return queue.popleft()
        if room <= 0 or self._pace.due_s() > self._now_s():
            return None
        behind = [request for request in self._requests if request.ahead]
        if self._backlog and (not behind or self._turn % 2):
            event = self._backlog.popleft()
        elif behind:
            request = behind[self._turn // 2 % len(behind)]
            event = request.ahead.popleft()
            request.sent(event)
        else:
            return None
        self._turn += 1
        self._pace.spent(self._now_s(), len(event.payload))
        if not self._backlog or not all(request.ahead for request in behind):
            self._changed.set()  # there may be more to read
        return event

    def answered(self, token: int, code: int, words: str) -> None:
        """A PUBACK."""
        self._heard_s = self._now_s()
        self._changed.set()
        if token in self._presence_tokens:
            self._presence_tokens.discard(token)
            self._failures = 0
            if code >= FAILURES:
                log.warning("the gateway's own state: the broker refuses it: %s (0x%02x)", words, code)
            return
        self._sends.pop(token, None)
        answer = self._flight.answered(token, code, self._now_s())
        if answer is None:
            return
        event, verdict = answer
        match verdict:
            case Verdict.DONE:
                self._failures = 0
                self._acknowledge(event.seq)
                if event.seq in self._parked:
                    self._take_back(event.seq, taken=True)
                self._retried(event.seq, taken=True)
                self._tell_requests(event.seq, taken=True)
            case Verdict.REFUSED:
                self._set_aside(event, words, code)
            case Verdict.SLOW_DOWN | Verdict.AGAIN:
                log.warning("event %d: the broker answers %s; slower", event.seq, words)

    def lost(self, why: str, code: int | None = None) -> None:
        """The connection has ended, through the broker or the way to it."""
        refused = self._flight.cut(code)
        if refused is not None:
            words = REASONS[code] if code in BLAMED else "the connection ends each time that it is sent"
            self._set_aside(refused, words, 0x80 if code is None else code)
        self._give_up(why)

    def renew(self, why: str) -> None:
        log.info("%s: connecting anew", why)
        self._renewing = True
        self._changed.set()

    def _give_up(self, why: str) -> None:
        self._lost = why
        self._changed.set()

    def _acknowledge(self, seq: int) -> None:
        self._cursor.acknowledge(seq)
        self._cursor_moved = True

    def _set_aside(self, event: LoggedEvent, words: str, code: int) -> None:
        """The broker will not take it: it is kept and listed, and the rest goes on."""
        self.refusal = words
        self._retaken.pop(event.seq, None)
        if event.seq in self._lost_again:
            self._lost_again.discard(event.seq)
            self._parked.discard(event.seq)
        if event.seq not in self._parked:
            log.warning("event %d (%s): the broker refuses it: %s (0x%02x)", event.seq, event.topic, words, code)
            self.counters.refused += 1
            if not self._parked:
                self._retry_due_s = self._now_s() + self._retry_pause_s
            self._parked.add(event.seq)
            self._writer.park(Parked(self._settings.destination, event.seq, words))
        self._acknowledge(event.seq)
        self._retried(event.seq, taken=False)
        self._tell_requests(event.seq, taken=False)

    def _tell_requests(self, seq: int, *, taken: bool) -> None:
        for request in self._requests:
            request.answered(seq, taken=taken)

    def _take_back(self, seq: int, *, taken: bool) -> None:
        """It is refused no longer. What the broker has taken lies far behind the cursor, which may go back less far."""
        self._parked.discard(seq)
        self._lost_again.discard(seq)
        taken_at = self._cursor.position if taken else None
        if taken_at is not None:
            self._retaken[seq] = taken_at
        self._writer.park(Parked(self._settings.destination, seq, None, taken_at))

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
            taken = self._checkpoints.take(self._cursor.position, self._clock.now()) or self._checkpoints_new
            kept = self._checkpoints.kept()
            if taken and self._retaken:
                self._retaken = {seq: at for seq, at in self._retaken.items() if at >= kept[0].position}
            self._checkpoints_new = False
            self._writer.cursor(self._cursor.cursor(), kept if taken else None)

    # Waiting.

    async def _wait_for_change(self) -> None:
        """Until something is answered, committed or due."""
        now_s = self._now_s()
        dues: list[float] = []
        if self._flight.under_way or self._presence_tokens:
            dues.append(self._heard_s + self._settings.ack_timeout_s)
        if self._flight.not_before_s > now_s:
            dues.append(self._flight.not_before_s)
        if (self._backlog or any(request.ahead for request in self._requests)) and self._pace.due_s() > now_s:
            dues.append(self._pace.due_s())
        if self._parked and not self._retrying and not self._stopping.is_set():
            dues.append(now_s if self._lost_again and not self._renewing else self._retry_due_s)
        try:
            async with asyncio.timeout(max(0.0, min(dues) - now_s) if dues else None):
                await self._changed.wait()
        except TimeoutError:
            waits = self._flight.under_way or self._presence_tokens
            if waits and self._now_s() >= self._heard_s + self._settings.ack_timeout_s:
                self._give_up(f"no answer from the broker in {self._settings.ack_timeout_s:g} s")

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
                        version=_version(),
                    ),
                )
            )

        topic = events.topic_by(self._settings.topics, self._gateway_id, None, "state")
        return Presence(topic, event("online"), event("offline"))


@functools.cache
def _version() -> str:
    """Of this program. To find it takes 10 ms of reading, and a broker that is away is tried every minute."""
    return version("fidget-gateway")
