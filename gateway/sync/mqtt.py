"""Connections to an MQTT broker through paho: a new client for each, so that none sends again from its own memory.

paho's thread talks to the network; everything it reports is handed to the loop. Host names, TCP and TLS are waited for
in a thread of the attempt. MQTT 5 first; 3.1.1 where CONNACK says "unsupported protocol version", and only then.
What comes from the network is read by gateway/sync/wire.py first; paho sees nothing that the standard forbids.
"""

import asyncio
import functools
import logging
import secrets
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gateway.errors import GatewayError, InputRejected
from gateway.events import CONTENT_TYPE
from gateway.sync import wire
from gateway.sync.credentials import Fingerprint, files, fingerprint, read_password, tls_context
from gateway.sync.errors import BrokerRefused, BrokerUnavailable, NotConnected, ProtocolUnsupported
from gateway.sync.session import Accepted, Connection, Listener, Presence
from gateway.sync.settings import SyncSettings

log = logging.getLogger(__name__)

Version = Literal["5", "3.1.1"]

REPLAYED = ("replayed", "true")
"""A user property of what is sent behind newer events, or again because somebody asked for it."""
CLOSE_WITHIN_S = 2.0
"""For DISCONNECT to leave; a broker that reads nothing is left without it."""
REDIRECTIONS_MAX = 4
"""In one try to connect, the fall-back to 3.1.1 included."""
RENEWED_EVERY_S = 30.0
"""So often files of passwords, keys and certificates are looked at; one that has changed and then rested is used."""
TCP_TIMEOUT_S = 5.0
"""For each address of the host, and for the TLS handshake."""
RECEIVE_MAXIMUM_DEFAULT = 65535
"""Where CONNACK says nothing (MQTT 5, 3.2.2.3.3)."""
_UNSUPPORTED_VERSION, _KEEP_ALIVE_TIMEOUT = 0x84, 0x8D
_OF_THE_BROKER = {0x80, 0x83, 0x88, 0x89, 0x97, 0x9C, 0x9D, 0x9F}
"""CONNACK: unspecified or implementation specific error, server unavailable or busy, quota exceeded, connection rate
(MQTT 5, 3.2.2.2); and that another server is to be used, without saying which."""
_HINTS = {  # CONNACK: what to do, where it is not the name, the password or the access list
    0x90: "It forbids the topic of the gateway's state, which is also its last will; [sync] topics sets it.",
    0x95: "Its packets are too small even for the last will of the gateway.",
    0x9A: "The gateway's state is retained: allow retained messages on the broker.",
    0x9B: "Without QoS 1 nothing tells what the broker has: allow it on the broker.",
}
_MAX_LENGTHS = 5 + 2 + 2 + 64
"""A PUBLISH beside topic and payload: fixed header, topic length, packet id, and room for our properties."""


class _Packed(Properties):
    """Packed once: paho does so for each message, which is a quarter of what sending it costs."""

    def __init__(self, **values: object) -> None:
        super().__init__(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        for name, value in values.items():
            setattr(self, name, value)
        object.__setattr__(self, "_bytes", super().pack())  # type: ignore[no-untyped-call]

    def pack(self) -> bytes:
        return bytes(object.__getattribute__(self, "_bytes"))


@functools.lru_cache(maxsize=256)
def _of_an_event(replayed: bool, expiry_s: int | None = None) -> Properties:
    values = {"UserProperty": REPLAYED if replayed else None, "MessageExpiryInterval": expiry_s}
    given = {name: value for name, value in values.items() if value is not None}
    return _Packed(ContentType=CONTENT_TYPE, PayloadFormatIndicator=1, **given)


class PahoBroker:
    """A broker by its settings; remembers which version of MQTT it took."""

    def __init__(self, settings: SyncSettings, client_id: str, *, clean: bool = False) -> None:
        self._settings, self._client_id, self._clean = settings, client_id, clean
        self._versions: list[Version] = ["5", "3.1.1"] if settings.protocol == "auto" else [settings.protocol]
        self._elsewhere: wire.Elsewhere | None = None
        """Where the broker has sent us."""

    async def connect(self, presence: Presence | None, listener: Listener) -> Connection:
        for _ in range(REDIRECTIONS_MAX):
            made_with = files(self._settings)
            seen = fingerprint(made_with)
            password = read_password(self._settings)
            context = tls_context(self._settings.tls) if self._settings.tls else None
            settings, elsewhere = self._settings, self._elsewhere
            if elsewhere is not None:
                settings = settings.model_copy(update={"host": elsewhere.host, "port": elsewhere.port})
            connection = PahoConnection(
                settings, self._versions[0], self._client_id, password, context, presence, listener, self._clean
            )
            connection.sent_on = self._sent_on
            try:
                await connection.open()
            except ProtocolUnsupported:
                if len(self._versions) == 1:
                    raise
                del self._versions[0]
            except SentOn as sent_on:
                self._sent_on(sent_on.elsewhere)
            except GatewayError:
                self._elsewhere = None  # the next try begins with the broker that is configured
                raise
            else:
                del self._versions[1:]
                if elsewhere is not None and not elsewhere.for_good:
                    self._elsewhere = None
                connection.watch(made_with, seen)
                return connection
        self._elsewhere = None
        raise BrokerUnavailable(f"broker {self._settings.host}:{self._settings.port}: it sends us on again and again")

    def _sent_on(self, elsewhere: wire.Elsewhere) -> None:
        log.warning("broker %s:%d: %s", self._settings.host, self._settings.port, elsewhere)
        self._elsewhere = elsewhere


class SentOn(BrokerUnavailable):
    """Another server is to be used."""

    def __init__(self, message: str, elsewhere: wire.Elsewhere) -> None:
        super().__init__(message)
        self.elsewhere = elsewhere


class _Client(Client):
    """paho with each packet read before it is handled, and no end that is not told."""

    def __init__(self, read: Callable[[bytes], None], ended: Callable[[str], None], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read, self._ended = read, ended

    def _sock_recv(self, bufsize: int) -> bytes:
        data = super()._sock_recv(bufsize)
        self._read(data)
        return data

    def loop_forever(self, *args: Any, **kwargs: Any) -> MQTTErrorCode:
        """Of its thread. It ends without a call of on_disconnect where something fails that paho does not expect."""
        try:
            return super().loop_forever(*args, **kwargs)
        except wire.BrokerViolation as violation:
            self.on_disconnect = None
            if self.protocol == MQTTProtocolVersion.MQTTv5:  # under 3.1.1 it would take back the last will
                with suppress(Exception):
                    self.disconnect(reasoncode=ReasonCode(PacketTypes.DISCONNECT, "Protocol error"))
                    self.loop_write()
            self._ended(str(violation))
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        except Exception as error:  # the thread's edge
            log.exception("MQTT client")
            self._ended(f"connection lost: {error or type(error).__name__}")
            return MQTTErrorCode.MQTT_ERR_UNKNOWN
        finally:
            self._ended("connection lost")
            _hang_up(self)


class PahoConnection:
    """One connection, from CONNECT to its end."""

    def __init__(
        self,
        settings: SyncSettings,
        version: Version,
        client_id: str,
        password: str | None,
        context: ssl.SSLContext | None,
        presence: Presence | None,
        listener: Listener,
        clean: bool,
    ) -> None:
        self._settings, self._version, self._listener, self._clean = settings, version, listener, clean
        self._loop = asyncio.get_running_loop()
        self._accepted: asyncio.Future[Accepted] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._given_up = self._asked = False
        self._where = f"broker {settings.host}:{settings.port}"
        self._incoming = wire.Incoming(version)
        self._connack = wire.Connack(wire.SUCCESS)
        self._disconnect: wire.Disconnect | None = None
        self._retains = True
        self.sent_on: Callable[[wire.Elsewhere], None] | None = None
        self._watching: asyncio.Task[None] | None = None
        v5 = version == "5"
        self._client = _Client(
            self._read,
            lambda why: self._tell(self._end, why, None),
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311,
            clean_session=None if v5 else clean,
            reconnect_on_failure=False,
        )
        client = self._client
        client.connect_timeout = TCP_TIMEOUT_S
        # the publisher bounds what is in flight: paho sends at once whatever it is given, and never queues
        client.max_inflight_messages_set(0)
        if settings.username:
            client.username_pw_set(settings.username, password)
        if context is not None:
            client.tls_set_context(context)
        if presence is not None:
            client.will_set(presence.topic, presence.offline, qos=1, retain=True)
        client.on_connect, client.on_disconnect = self._connected, self._over
        client.on_socket_open = self._opened

    @property
    def accepted(self) -> Accepted:
        return self._accepted.result()

    async def open(self) -> None:
        """Raises BrokerUnavailable, BrokerRefused or ProtocolUnsupported."""
        threading.Thread(target=self._dial, name="mqtt-connect", daemon=True).start()
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await asyncio.shield(self._accepted)
        except TimeoutError:
            self.abort()
            raise self._unheard(
                BrokerUnavailable(f"{self._where}: no answer to CONNECT in {self._settings.connect_timeout_s:g} s")
            ) from None
        except NotConnected as error:
            self.abort()
            self._unheard(error)
            raise
        except BaseException:
            self.abort()
            raise

    def _unheard(self, error: NotConnected) -> NotConnected:
        """A broker that refuses the connection has begun no session (MQTT 5, 3.2.2.2)."""
        error.asked = self._asked and self._connack.code == wire.SUCCESS
        return error

    def publish(
        self, topic: str, payload: bytes, *, retain: bool, replayed: bool = False, expiry_s: int | None = None
    ) -> int:
        properties = _of_an_event(replayed, expiry_s) if self._version == "5" else None
        retain = retain and self._retains
        return self._client.publish(topic, payload, qos=1, retain=retain, properties=properties).mid

    def watch(self, made_with: tuple[Path, ...], seen: Fingerprint) -> None:
        """Tells the listener once these files, which looked like this, are others that can be used."""
        if made_with:
            self._watching = asyncio.create_task(self._watch(made_with, seen))

    async def _watch(self, made_with: tuple[Path, ...], seen: Fingerprint) -> None:
        last, told = seen, seen
        while True:
            await asyncio.sleep(RENEWED_EVERY_S)
            now = fingerprint(made_with)
            if now == last and now not in (seen, told):
                told = now
                try:
                    await asyncio.to_thread(read_password, self._settings)
                    if self._settings.tls is not None:
                        await asyncio.to_thread(tls_context, self._settings.tls)
                except InputRejected as rejected:
                    log.warning("not taken up: %s; %s", rejected, rejected.hint)
                else:
                    self._listener.renew("the files of password or certificates are new")
                    return
            last = now

    async def close(self) -> None:
        self._given_up = True
        self._client.disconnect()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._ended.wait()
        self.abort()

    def abort(self) -> None:
        self._given_up = True
        if self._watching is not None:
            self._watching.cancel()
        if not self._accepted.done():
            self._accepted.cancel()
        _hang_up(self._client)

    # In threads.

    def _dial(self) -> None:
        v5 = self._version == "5"
        properties = None
        if v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 0 if self._clean else self._settings.session_expiry_s
            properties.MaximumPacketSize = wire.INCOMING_BYTES_MAX
        try:
            self._client.connect(
                self._settings.host,
                self._settings.port,
                keepalive=self._settings.keepalive_s,
                clean_start=self._clean if v5 else MQTT_CLEAN_START_FIRST_ONLY,  # the only value paho takes then
                properties=properties,
            )
        except Exception as error:  # the thread's edge: whatever DNS, TCP and TLS raise
            _hang_up(self._client)
            self._tell(self._fail, self._in_words(error))
            return
        if self._given_up:
            _hang_up(self._client)
        self._client.loop_start()

    def _opened(self, client: Client, userdata: object, opened: object) -> None:
        """TCP and TLS are there, and CONNECT leaves next. One that left after its time would begin a session of which
        nobody here knows."""
        del client, userdata, opened
        self._asked = True  # before the look, as who gives up looks at it afterwards
        if self._given_up:
            raise TimeoutError("given up")

    def _in_words(self, error: Exception) -> BrokerUnavailable | BrokerRefused:
        if isinstance(error, ssl.SSLCertVerificationError):
            return BrokerRefused(
                f"{self._where}: its certificate is not trusted ({error.verify_message})",
                hint="Give the authority that signed it as [sync.tls] ca, and the host by the name in the certificate.",
            )
        detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return BrokerUnavailable(f"{self._where}: {detail}")

    def _read(self, data: bytes) -> None:
        """In paho's thread, before paho handles it. Raises BrokerViolation."""
        for packet in self._incoming.feed(data):
            match packet:
                case wire.Puback():
                    self._tell(self._answer, packet.packet_id, packet.code, packet.words)
                case wire.Connack():
                    self._connack = packet
                    if packet.code != wire.SUCCESS:
                        self._tell(self._fail, self._refusal(packet))
                case wire.Disconnect():
                    self._disconnect = packet

    def _refusal(self, connack: wire.Connack) -> Exception:
        if connack.code == _UNSUPPORTED_VERSION:
            return ProtocolUnsupported(f"{self._where}: it does not support MQTT {self._version}")
        said = f"{self._where} refused the connection: {connack.words}"
        elsewhere = self._elsewhere(connack.code, connack.properties)
        if elsewhere is not None:
            return SentOn(said, elsewhere)
        kind = BrokerUnavailable if connack.code in _OF_THE_BROKER else BrokerRefused
        return kind(said, hint=_HINTS.get(connack.code))

    def _elsewhere(self, code: int, properties: wire.Properties) -> wire.Elsewhere | None:
        return wire.elsewhere(code, properties, self._settings.port) if self._settings.redirection else None

    def _connected(
        self, client: Client, userdata: object, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        """paho is ready to publish."""
        del client, userdata, flags, reason, properties
        connack = self._connack
        if connack.code != wire.SUCCESS:
            return
        said = connack.properties
        if said.get(wire.MAXIMUM_QOS) == 0:
            hint = _HINTS[0x9B]
            self._tell(self._fail, BrokerRefused(f"{self._where}: it takes messages of QoS 0 only", hint=hint))
            return
        self._retains = said.get(wire.RETAIN_AVAILABLE) != 0
        accepted = Accepted(
            self._version,
            connack.session_present,
            _number(said.get(wire.RECEIVE_MAXIMUM, RECEIVE_MAXIMUM_DEFAULT)),
            _number(said[wire.MAXIMUM_PACKET_SIZE]) if wire.MAXIMUM_PACKET_SIZE in said else None,
            f"{self._settings.host}:{self._settings.port}",
        )
        kept_s = said.get(wire.SESSION_EXPIRY)
        if kept_s is not None and _number(kept_s) < self._settings.session_expiry_s and not self._clean:
            log.info("%s keeps our session for %d s only; after that it is taken for lost", self._where, kept_s)
        self._tell(self._succeed, accepted)

    def _over(
        self,
        client: Client,
        userdata: object,
        flags: DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        del client, userdata, flags, properties
        if self._disconnect is not None:
            elsewhere = self._elsewhere(self._disconnect.code, self._disconnect.properties)
            if elsewhere is not None and self.sent_on is not None:
                self._tell(self.sent_on, elsewhere)
            self._tell(self._end, f"it disconnected: {self._disconnect.words}", self._disconnect.code)
        elif reason.value == _KEEP_ALIVE_TIMEOUT:
            self._tell(self._end, "connection lost: no answer to PINGREQ", None)
        else:
            self._tell(self._end, "connection lost", None)

    def _tell(self, callback: Callable[..., None], *values: object) -> None:
        with suppress(RuntimeError):  # the loop has been closed: nobody is left to tell
            self._loop.call_soon_threadsafe(callback, *values)

    # In the loop.

    def _succeed(self, accepted: Accepted) -> None:
        if not self._accepted.done():
            self._accepted.set_result(accepted)

    def _fail(self, error: Exception) -> None:
        if not self._accepted.done():
            self._accepted.set_exception(error)

    def _answer(self, mid: int, code: int, words: str) -> None:
        if not self._given_up:
            self._listener.answered(mid, code, words)

    def _end(self, why: str, code: int | None) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        if not self._accepted.done():
            what = "it closed the connection instead of answering CONNECT" if why == "connection lost" else why
            self._fail(BrokerUnavailable(f"{self._where}: {what}"))
        elif not self._given_up and self._accepted.exception() is None:
            self._given_up = True
            self._listener.lost(f"{self._where}: {why}", code)


def _number(value: int | str) -> int:
    assert isinstance(value, int)  # wire has read it as one
    return value


def _hang_up(client: Client) -> None:
    """Ends the TCP connection, which ends paho's thread."""
    connected = client.socket()
    if isinstance(connected, socket.socket):
        with suppress(OSError):
            # not TLS's own shutdown: paho's thread may be reading
            socket.socket.shutdown(connected, socket.SHUT_RDWR)


def max_payload_bytes(packet_bytes_max: int | None, topic: str) -> int | None:
    """What a PUBLISH may carry under this topic in packets of at most so many bytes."""
    return None if packet_bytes_max is None else packet_bytes_max - len(topic.encode()) - _MAX_LENGTHS


def check_connection(settings: SyncSettings, timeout_s: float) -> str:
    """Connects once, under a client id of its own, and says what answers ("MQTT 5").

    Raises BrokerUnavailable (exit code 1), BrokerRefused or InputRejected (2).
    """
    settings = settings.model_copy(update={"connect_timeout_s": timeout_s})

    async def once() -> str:
        broker = PahoBroker(settings, f"fidget-check-{secrets.token_hex(4)}", clean=True)
        connection = await broker.connect(None, _Deaf())
        version = connection.accepted.protocol
        await connection.close()
        return f"MQTT {version}"

    return asyncio.run(once())


class _Deaf:
    def answered(self, token: int, code: int, words: str) -> None:
        """Nothing is published."""

    def lost(self, why: str, code: int | None = None) -> None:
        """Nothing is kept up."""

    def renew(self, why: str) -> None:
        """It does not last."""
