"""The connection to the broker: paho in a thread of its own, MQTT 5 or 3.1.1, connected anew whenever it is lost.

A message is acknowledged to the broker when the next one is asked for, so that one whose handling ends the program
comes again. The broker sends no more than IN_HAND_MAX beyond that.
"""

import asyncio
import logging
import queue
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gateway.client.clocks import Clocks
from gateway.client.lives import Lives
from gateway.client.seen import SEEN_MAX
from gateway.client.sifting import Malformed, Received, Sifter
from gateway.errors import GatewayError
from gateway.events import TOPIC_PREFIX

log = logging.getLogger(__name__)

CONNECT_WITHIN_S = 15.0
IN_HAND_MAX = 100
"""Messages that have come and are not acknowledged."""
_UNSUPPORTED_VERSION = 0x84
_FAILURE = 0x80
"""Reason codes from here on are failures, in MQTT 5 (2.4) and in the 3.1.1 SUBACK (3.9.3)."""


class BrokerRefused(GatewayError):
    """The broker is not reached, or refuses the connection or the subscription."""


@dataclass(frozen=True)
class Subscription:
    """What to subscribe to, and where.

    client_id: with one the broker keeps what comes while this subscriber is away, for session_expiry_s (under 3.1.1 as
    long as the broker likes); two at a time must not have the same. in_order: predictions of a session come in the
    order of their windows; one whose predecessors are missing waits for patience_s at least and twice that at most, in
    memory, so leave it out where a database sorts. seen_max: names of events remembered to know what comes twice.
    """

    host: str
    port: int = 1883
    topics: tuple[str, ...] = (f"{TOPIC_PREFIX}/#",)
    client_id: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None
    keepalive_s: int = 30
    session_expiry_s: int = 86_400
    in_order: bool = False
    patience_s: float = 10.0
    seen_max: int = SEEN_MAX
    retry_min_s: int = 1
    retry_max_s: int = 60


@dataclass(frozen=True, slots=True)
class _Arrived:
    """link: the number of the connection that it came over, on which alone it can be acknowledged."""

    message: MQTTMessage
    link: int


class _Tick: ...


class _Closed: ...


_Item = _Arrived | _Tick | _Closed


class _Link:
    """One paho client for one version of MQTT. put: is called in paho's thread, or the ticker's."""

    def __init__(self, what: Subscription, version: MQTTProtocolVersion, put: Callable[[_Item], None]) -> None:
        self._what, self._put = what, put
        self._answers: queue.Queue[str | int] = queue.Queue()
        self._lock = threading.Lock()
        self._number = 0
        self._in_hand = threading.Semaphore(IN_HAND_MAX)
        self._closing = threading.Event()
        self._v5 = version is MQTTProtocolVersion.MQTTv5
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=what.client_id,
            protocol=version,
            clean_session=None if self._v5 else not what.client_id,
            manual_ack=True,
        )
        if what.username:
            self._client.username_pw_set(what.username, what.password)
        if what.tls is not None:
            self._client.tls_set_context(what.tls)
        self._client.reconnect_delay_set(what.retry_min_s, what.retry_max_s)
        self._client.on_connect, self._client.on_disconnect = self._connected, self._disconnected
        self._client.on_subscribe, self._client.on_message = self._subscribed, self._arrived

    def open(self) -> None:
        """Until the broker has granted the subscription. Raises _Unsupported, BrokerRefused."""
        what = self._what
        where = f"broker {what.host}:{what.port}"
        options: dict[str, Any] = {}
        if self._v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = what.session_expiry_s if what.client_id else 0
            properties.ReceiveMaximum = IN_HAND_MAX
            options = {"clean_start": not what.client_id, "properties": properties}
        try:
            self._client.connect(what.host, what.port, keepalive=what.keepalive_s, **options)
            self._client.loop_start()
            answer = self._answers.get(timeout=CONNECT_WITHIN_S)
        except (OSError, ValueError) as error:  # ValueError: an address that is none
            answer = f"{where}: {getattr(error, 'strerror', None) or error}"
        except queue.Empty:
            answer = f"{where}: no answer in {CONNECT_WITHIN_S:g} s"
        else:
            if answer == "subscribed":
                self._start_ticks()
                return
            answer = answer if answer == _UNSUPPORTED_VERSION and self._v5 else f"{where} refuses: {answer}"
        self._leave()
        raise _Unsupported if answer == _UNSUPPORTED_VERSION else BrokerRefused(str(answer))

    def _start_ticks(self) -> None:
        if self._what.in_order:
            threading.Thread(target=self._tick, name="fidget-client-tick", daemon=True).start()

    def close(self) -> None:
        """Leaves; what was not acknowledged comes again to this client_id."""
        self._leave()
        self._put(_Closed())

    def _leave(self) -> None:
        self._closing.set()
        self._client.disconnect()
        self._client.loop_stop()

    def acknowledge(self, arrived: _Arrived) -> None:
        """The broker sends it no more, unless it was sent over a connection that is lost."""
        self._in_hand.release()
        with self._lock:  # a packet id means another message on another connection
            if arrived.link == self._number and arrived.message.qos:
                self._client.ack(arrived.message.mid, arrived.message.qos)

    def _tick(self) -> None:
        while not self._closing.wait(self._what.patience_s):
            self._put(_Tick())

    # paho's thread.

    def _connected(
        self, client: Client, _: object, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        del flags, properties
        if reason.is_failure:
            self._answers.put(_UNSUPPORTED_VERSION if reason.value == _UNSUPPORTED_VERSION else str(reason))
            log.warning("broker %s:%d refuses: %s", self._what.host, self._what.port, reason)
        else:
            log.info("connected to %s:%d", self._what.host, self._what.port)
            client.subscribe([(topic, 1) for topic in self._what.topics])

    def _disconnected(
        self, client: Client, _: object, flags: DisconnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        del client, flags, properties
        with self._lock:
            self._number += 1
        if not self._closing.is_set():
            log.info("broker %s:%d: connection lost (%s), trying again", self._what.host, self._what.port, reason)

    def _subscribed(
        self, client: Client, _: object, mid: int, reasons: list[ReasonCode], properties: Properties | None
    ) -> None:
        del client, mid, properties
        pairs = zip(self._what.topics, reasons, strict=False)
        refused = [f"{topic}: {reason}" for topic, reason in pairs if reason.value >= _FAILURE]
        for one in refused:
            log.warning("subscription refused: %s", one)
        self._answers.put(refused[0] if refused else "subscribed")

    def _arrived(self, client: Client, _: object, message: MQTTMessage) -> None:
        del client
        # a slow reader holds up this thread, and with it what a broker without a receive maximum sends
        while not self._in_hand.acquire(timeout=0.5):
            if self._closing.is_set():
                return
        self._put(_Arrived(message, self._number))


class _Unsupported(Exception):
    """The broker does not speak MQTT 5."""


def _opened(what: Subscription, put: Callable[[_Item], None]) -> _Link:
    """Blocking. Raises BrokerRefused."""
    link = _Link(what, MQTTProtocolVersion.MQTTv5, put)
    try:
        link.open()
    except _Unsupported:
        link = _Link(what, MQTTProtocolVersion.MQTTv311, put)
        link.open()
    return link


def _is_replayed(message: MQTTMessage) -> bool:
    told = getattr(message.properties, "UserProperty", None) or []
    return ("replayed", "true") in told


def _report(malformed: Malformed) -> None:
    log.warning("%s: %s", malformed.topic, malformed.error)


class _Messages:
    """What the plain and the asynchronous subscriber share: from what came to what is handed out, in order."""

    def __init__(self, what: Subscription, on_malformed: Callable[[Malformed], None]) -> None:
        self._what, self._on_malformed = what, on_malformed
        self._sifter = Sifter(in_order=what.in_order, seen_max=what.seen_max)
        self._ready: list[Received] = []
        self._unhandled: _Arrived | None = None
        self._link: _Link | None = None
        self.closed = False

    @property
    def clocks(self) -> Clocks:
        """What is known of the gateways' time by now; ask again once a clock event has come."""
        return self._sifter.clocks

    @property
    def lives(self) -> Lives:
        """Which gateways are connected to the broker."""
        return self._sifter.lives

    @property
    def counters(self) -> dict[str, int]:
        """received, repeated, malformed messages."""
        return dict(self._sifter.counters)

    def _handled(self) -> None:
        if self._unhandled is not None and self._link is not None:
            self._link.acknowledge(self._unhandled)
        self._unhandled = None

    def _take(self, item: _Item) -> None:
        match item:
            case _Arrived(message):
                out = self._sifter.take(
                    message.topic, bytes(message.payload), retained=message.retain, replayed=_is_replayed(message)
                )
                self._unhandled = item
                if self._what.in_order or not any(isinstance(one, Received) for one in out):
                    self._handled()
            case _Tick():
                out = self._sifter.tick()
            case _Closed():
                self.closed = True
                out = self._sifter.flush()
        for one in out:
            if isinstance(one, Malformed):
                self._on_malformed(one)
            else:
                self._ready.append(one)


class Subscriber(_Messages):
    """Iterate over it, in one thread; `close` may be called from any. on_malformed: gets what is no event; without it
    a warning is logged."""

    def __init__(self, what: Subscription, on_malformed: Callable[[Malformed], None] = _report) -> None:
        super().__init__(what, on_malformed)
        self._items: queue.SimpleQueue[_Item] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        """Returns once the broker has granted the subscription. Raises BrokerRefused."""
        self._link = _opened(self._what, lambda item: self._items.put(item))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._handled()
        self.close()

    def close(self) -> None:
        """Ends the iteration, once what has come is handed out."""
        if self._link is not None:
            self._link.close()

    def next(self, timeout_s: float | None = None) -> Received | None:
        """The next one, whose predecessor counts as handled from now on; None after so long without one, or once
        closed."""
        self._handled()
        while not self._ready and not self.closed:
            try:
                self._take(self._items.get(timeout=timeout_s))
            except queue.Empty:
                return None
        return self._ready.pop(0) if self._ready else None

    def __iter__(self) -> Iterator[Received]:
        while (message := self.next()) is not None:
            yield message


class AsyncSubscriber(_Messages):
    """As Subscriber, for `async with` and `async for`."""

    def __init__(self, what: Subscription, on_malformed: Callable[[Malformed], None] = _report) -> None:
        super().__init__(what, on_malformed)
        self._items: asyncio.Queue[_Item] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        """Returns once the broker has granted the subscription. Raises BrokerRefused."""
        loop = asyncio.get_running_loop()

        def put(item: _Item) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._items.put_nowait, item)

        self._link = await asyncio.to_thread(_opened, self._what, put)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._handled()
        await self.close()

    async def close(self) -> None:
        """Ends the iteration, once what has come is handed out."""
        if self._link is not None:
            await asyncio.to_thread(self._link.close)

    async def next(self) -> Received | None:
        """The next one, whose predecessor counts as handled from now on; None once closed."""
        self._handled()
        while not self._ready and not self.closed:
            self._take(await self._items.get())
        return self._ready.pop(0) if self._ready else None

    async def __aiter__(self) -> AsyncIterator[Received]:
        while (message := await self.next()) is not None:
            yield message
