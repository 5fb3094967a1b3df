"""Connections to an MQTT broker through paho: a new client for each, so that none sends again from its own memory.

paho's thread talks to the network; everything it reports is handed to the loop. Host names, TCP and TLS are waited for
in a thread of the attempt. MQTT 5 first; 3.1.1 where CONNACK says "unsupported protocol version", and only then.
"""

import asyncio
import secrets
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gateway.errors import InputRejected
from gateway.events import CONTENT_TYPE
from gateway.sync.errors import BrokerRefused, BrokerUnavailable, ProtocolUnsupported
from gateway.sync.session import Accepted, Connection, Listener, Presence
from gateway.sync.settings import SyncSettings, TlsSettings

Version = Literal["5", "3.1.1"]

REPLAYED = ("replayed", "true")
"""A user property of what is sent behind newer events, or again because somebody asked for it."""
CLOSE_WITHIN_S = 2.0
"""For DISCONNECT to leave; a broker that reads nothing is left without it."""
TCP_TIMEOUT_S = 5.0
"""For each address of the host, and for the TLS handshake."""
RECEIVE_MAXIMUM_DEFAULT = 65535
"""Where CONNACK says nothing (MQTT 5, 3.2.2.3.3)."""
_UNSUPPORTED_VERSION = 0x84
_OF_THE_BROKER = {0x80, 0x88, 0x89, 0x97, 0x9F}
"""CONNACK: unspecified error, server unavailable or busy, quota exceeded, connection rate (MQTT 5, 3.2.2.2)."""
_MAX_LENGTHS = 5 + 2 + 2 + 64
"""A PUBLISH beside topic and payload: fixed header, topic length, packet id, and room for our properties."""


class PahoBroker:
    """A broker by its settings; remembers which version of MQTT it took."""

    def __init__(self, settings: SyncSettings, client_id: str, *, clean: bool = False) -> None:
        self._settings, self._client_id, self._clean = settings, client_id, clean
        self._versions: list[Version] = ["5", "3.1.1"] if settings.protocol == "auto" else [settings.protocol]

    async def connect(self, presence: Presence | None, listener: Listener) -> Connection:
        password = read_password(self._settings)
        context = tls_context(self._settings.tls) if self._settings.tls else None
        while True:
            connection = PahoConnection(
                self._settings, self._versions[0], self._client_id, password, context, presence, listener, self._clean
            )
            try:
                await connection.open()
            except ProtocolUnsupported:
                if len(self._versions) == 1:
                    raise
                del self._versions[0]
            else:
                del self._versions[1:]
                return connection


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
        self._given_up = False
        self._where = f"broker {settings.host}:{settings.port}"
        v5 = version == "5"
        self._client = Client(
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
        client.on_connect, client.on_publish, client.on_disconnect = self._connected, self._published, self._over

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
            raise BrokerUnavailable(
                f"{self._where}: no answer to CONNECT in {self._settings.connect_timeout_s:g} s"
            ) from None
        except BaseException:
            self.abort()
            raise

    def publish(self, topic: str, payload: bytes, *, retain: bool, replayed: bool = False) -> int:
        properties = None
        if self._version == "5":
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ContentType = CONTENT_TYPE
            properties.PayloadFormatIndicator = 1
            if replayed:
                properties.UserProperty = REPLAYED
        return self._client.publish(topic, payload, qos=1, retain=retain, properties=properties).mid

    async def close(self) -> None:
        self._given_up = True
        self._client.disconnect()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._ended.wait()
        self.abort()

    def abort(self) -> None:
        self._given_up = True
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
        try:
            self._client.connect(
                self._settings.host,
                self._settings.port,
                keepalive=self._settings.keepalive_s,
                clean_start=self._clean if v5 else MQTT_CLEAN_START_FIRST_ONLY,  # the only value paho takes then
                properties=properties,
            )
        except Exception as error:  # the thread's edge: whatever DNS, TCP and TLS raise
            self._tell(self._fail, self._in_words(error))
            return
        if self._given_up:
            _hang_up(self._client)
        self._client.loop_start()

    def _in_words(self, error: Exception) -> BrokerUnavailable | BrokerRefused:
        if isinstance(error, ssl.SSLCertVerificationError):
            return BrokerRefused(
                f"{self._where}: its certificate is not trusted ({error.verify_message})",
                hint="Give the authority that signed it as [sync.tls] ca, and the host by the name in the certificate.",
            )
        detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return BrokerUnavailable(f"{self._where}: {detail}")

    def _connected(
        self, client: Client, userdata: object, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        del client, userdata
        if reason.value == _UNSUPPORTED_VERSION:
            self._tell(self._fail, ProtocolUnsupported(f"{self._where}: it does not support MQTT {self._version}"))
        elif reason.is_failure:
            kind = BrokerUnavailable if reason.value in _OF_THE_BROKER else BrokerRefused
            self._tell(self._fail, kind(f"{self._where} refused the connection: {reason}"))
        else:
            accepted = Accepted(
                self._version,
                flags.session_present,
                getattr(properties, "ReceiveMaximum", RECEIVE_MAXIMUM_DEFAULT),
                getattr(properties, "MaximumPacketSize", None),
            )
            self._tell(self._succeed, accepted)

    def _published(
        self, client: Client, userdata: object, mid: int, reason: ReasonCode, properties: Properties | None
    ) -> None:
        del client, userdata, properties
        self._tell(self._answer, mid, reason.value, str(reason))

    def _over(
        self,
        client: Client,
        userdata: object,
        flags: DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        del client, userdata, properties
        said = "it disconnected" if flags.is_disconnect_packet_from_server else "connection lost"
        self._tell(self._end, f"{said}: {reason}")

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

    def _end(self, why: str) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        if not self._accepted.done():
            self._fail(BrokerUnavailable(f"{self._where}: it closed the connection instead of answering CONNECT"))
        elif not self._given_up and self._accepted.exception() is None:
            self._given_up = True
            self._listener.lost(why)


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


def read_password(settings: SyncSettings) -> str | None:
    """Raises InputRejected where password_file cannot be read."""
    if settings.password_file is None:
        return settings.password.get_secret_value() if settings.password else None
    try:
        return settings.password_file.read_text(encoding="utf-8").rstrip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputRejected(
            f"sync.password_file {settings.password_file}: {getattr(error, 'strerror', None) or 'no UTF-8 text'}",
            hint="A text file with nothing but the password, readable for the gateway's user.",
        ) from None


def tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """Raises InputRejected where a file cannot be used."""
    hint = "A PEM file, readable for the gateway's user; a key without passphrase that belongs to its certificate."
    try:
        context = ssl.create_default_context(cafile=settings.ca)
    except OSError as error:
        raise InputRejected(f"sync.tls.ca {settings.ca}: {error.strerror or error}", hint=hint) from None
    if settings.cert is not None:
        try:
            context.load_cert_chain(settings.cert, settings.key, password=lambda: "")
        except OSError as error:
            raise InputRejected(f"sync.tls.cert {settings.cert}: {error.strerror or error}", hint=hint) from None
    return context


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

    def lost(self, why: str) -> None:
        """Nothing is kept up."""
