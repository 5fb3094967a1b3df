"""A broker and its subscriber, played: sessions, acknowledgements and their loss, restarts, repeats."""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.sync.errors import BrokerUnavailable
from gateway.sync.session import Accepted, Listener, Presence
from tests.sim.whole.loop import VirtualLoop
from tests.sim.world import SECOND, Clockwork

WAY_S = (0.005, 0.2)
CONNECT_TIMEOUT_S = 15.0
DONE, UNSPECIFIED, QUOTA_EXCEEDED, NOT_AUTHORIZED = 0x00, 0x80, 0x97, 0x87


@dataclass
class Mood:
    """How the broker and the ways to it are just now; per gateway by its name, or of all."""

    down: bool = False
    no_route: set[str] = field(default_factory=set)
    swallowing: set[str] = field(default_factory=set)
    """What is sent goes nowhere, and nobody is told."""
    losing_answers: set[str] = field(default_factory=set)
    """What is sent arrives; its answer does not."""
    refusing: int = DONE
    """The answer to some, while it is not DONE."""
    refused: float = 0.25
    """Which part of them."""
    subscriber_away: bool = False
    repeating: float = 0.0
    """The broker gives the subscriber a message twice with this probability."""


@dataclass
class Counts:
    accepted: int = 0
    connections: int = 0
    sessions_lost: int = 0
    lost_after_puback: int = 0
    connacks_lost: int = 0
    delivered_twice: int = 0


class SimulatedBroker:
    """deliver: to the subscriber, (gateway, payload). begins: told of which gateway a CONNECT begins a session."""

    def __init__(
        self,
        clock: Clockwork,
        rng: random.Random,
        deliver: Callable[[str, bytes], None],
        begins: Callable[[str], None],
    ) -> None:
        self.clock, self.rng, self.deliver, self.begins = clock, rng, deliver, begins
        self.mood, self.counts = Mood(), Counts()
        self.sessions: set[str] = set()
        self.connections: dict[str, SimulatedConnection] = {}
        self.queued: deque[tuple[int, str, bytes]] = deque()
        """Accepted for a subscriber that is away: when, from which gateway, what."""

    def accept(self, gateway: str, payload: bytes) -> None:
        self.counts.accepted += 1
        self.queued.append((self.clock.now_ns, gateway, payload))
        self.hand_over()

    def hand_over(self) -> None:
        while self.queued and not self.mood.subscriber_away:
            _, gateway, payload = self.queued.popleft()
            self.deliver(gateway, payload)
            if self.rng.random() < self.mood.repeating:
                self.counts.delivered_twice += 1
                self.deliver(gateway, payload)

    def cut(self, gateway: str) -> None:
        """The connection ends, and its gateway is told."""
        connection = self.connections.pop(gateway, None)
        if connection is not None:
            connection.end("the connection was lost")

    def restart(self, forgets_s: float | None) -> None:
        """forgets_s: it comes back without its sessions and what it has accepted within so long; None: with all."""
        for gateway in list(self.connections):
            self.cut(gateway)
        if forgets_s is not None:
            self.counts.sessions_lost += len(self.sessions)
            self.sessions.clear()
            since_ns = self.clock.now_ns - int(forgets_s * SECOND)
            kept = deque(one for one in self.queued if one[0] < since_ns)
            self.counts.lost_after_puback += len(self.queued) - len(kept)
            self.queued = kept


class BrokerEnd:
    """One gateway's way to the broker. sending: told each event's payload as it goes out; answered: each that a PUBACK
    without an error is for, before the gateway is."""

    def __init__(
        self,
        broker: SimulatedBroker,
        gateway: str,
        loop: VirtualLoop,
        in_flight_max: int,
        sending: Callable[[bytes, dict[str, int], bool, bool], None],
        answered: Callable[[bytes], None],
    ) -> None:
        self.broker, self.gateway, self.loop = broker, gateway, loop
        self.in_flight_max, self.sending, self.answered = in_flight_max, sending, answered

    async def connect(self, presence: Presence | None, listener: Listener) -> "SimulatedConnection":
        broker, name = self.broker, self.gateway
        await asyncio.sleep(broker.rng.uniform(*WAY_S))
        if broker.mood.down or name in broker.mood.no_route:
            raise BrokerUnavailable("broker: connection refused")
        if name in broker.mood.swallowing:
            await asyncio.sleep(CONNECT_TIMEOUT_S)
            raise _unheard()
        broker.cut(name)  # a second CONNECT with one client id ends the first (MQTT 5, 3.1.4-3)
        connection = SimulatedConnection(self, listener, presence, name in broker.sessions)
        broker.counts.connections += 1
        broker.connections[name] = connection
        if name not in broker.sessions:
            broker.sessions.add(name)
            broker.begins(name)
        try:
            await asyncio.sleep(broker.rng.uniform(*WAY_S))
            if name in broker.mood.losing_answers:
                await asyncio.sleep(CONNECT_TIMEOUT_S)
            if connection.over or name in broker.mood.losing_answers:
                broker.counts.connacks_lost += 1
                raise _unheard()
        except BaseException:
            connection.abort()
            raise
        connection.heard = True
        return connection


def _unheard() -> BrokerUnavailable:
    error = BrokerUnavailable("broker: no answer to CONNECT")
    error.asked = True
    return error


class SimulatedConnection:
    def __init__(self, end: BrokerEnd, listener: Listener, presence: Presence | None, session_present: bool) -> None:
        self._end, self._broker, self._listener = end, end.broker, listener
        self._presence = {presence.online, presence.offline} if presence else set()
        self.accepted = Accepted("5", session_present, end.in_flight_max, None)
        self.over = self.heard = False
        """heard: the gateway has its CONNACK."""
        self.unanswered = 0
        self._token = 0
        self._lanes: dict[str, int] = {}
        self._last_ns = 0

    def publish(
        self, topic: str, payload: bytes, *, retain: bool, replayed: bool = False, expiry_s: int | None = None
    ) -> int:
        self._token += 1
        token, broker = self._token, self._broker
        self.unanswered += 1
        event = payload not in self._presence
        if event:
            self._end.sending(payload, self._lanes, replayed, retain)
            assert self.unanswered <= self._end.in_flight_max, "more on its way than the broker takes"
        if self._end.gateway not in broker.mood.swallowing and not self.over:
            self._later(lambda: self._arrives(token, payload, event))
        return token

    def _later(self, do: Callable[[], None]) -> None:
        """In order, as TCP has it."""
        clock = self._broker.clock
        self._last_ns = max(self._last_ns, clock.now_ns + int(self._broker.rng.uniform(*WAY_S) * SECOND))
        clock.at(self._last_ns, do)

    def _arrives(self, token: int, payload: bytes, event: bool) -> None:
        broker, name = self._broker, self._end.gateway
        if broker.connections.get(name) is not self or name in broker.mood.swallowing:
            return
        code = broker.mood.refusing if event and broker.rng.random() < broker.mood.refused else DONE
        if event and code == DONE:
            broker.accept(name, payload)
        if name not in broker.mood.losing_answers:
            self._later(lambda: self._answer(token, code, payload if event and code == DONE else None))

    def _answer(self, token: int, code: int, taken: bytes | None) -> None:
        if not self.over:
            self.unanswered -= 1
            if taken is not None:
                self._end.answered(taken)
            self._end.loop.call_soon(self._listener.answered, token, code, f"reason code 0x{code:02x}")

    def end(self, why: str) -> None:
        if not self.over:
            self.over = True
            if self.heard:
                self._end.loop.call_soon(self._listener.lost, why)

    async def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        self.over = True
        if self._end.loop.abandoned:
            return
        if self._broker.connections.get(self._end.gateway) is self:
            # what is on the wire may still arrive: the broker finds out a little later
            self._later(self._gone)

    def _gone(self) -> None:
        if self._broker.connections.get(self._end.gateway) is self:
            del self._broker.connections[self._end.gateway]
