"""Connections through paho, against servers that answer CONNECT in every way, and real brokers."""

import asyncio
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from gateway.errors import InputRejected
from gateway.store.rows import Derived, LoggedEvent
from gateway.sync import SyncSettings, TlsSettings, check_connection
from gateway.sync.errors import BrokerRefused, BrokerUnavailable, NotConnected, ProtocolUnsupported
from gateway.sync.mqtt import PahoBroker, PahoConnection, _Client
from gateway.sync.session import Connection, Presence
from tests.gateway.sync.certificates import Authority
from tests.gateway.sync.conftest import House, Mosquitto, Server, connack3, connack5, serving, until
from tests.gateway.sync.server5 import Publish, server5, taking

PRESENCE = Presence("fidget/v1/home/state", b"online", b"offline")


class Heard:
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, int, str]] = []
        self.losses: list[str] = []
        self.renewals: list[str] = []

    def answered(self, token: int, code: int, words: str) -> None:
        self.answers.append((token, code, words))

    def lost(self, why: str, code: int | None = None) -> None:
        self.losses.append(why)

    def renew(self, why: str) -> None:
        self.renewals.append(why)


def settings(port: int, **changes: Any) -> SyncSettings:
    return SyncSettings.model_validate({"host": "127.0.0.1", "port": port, "connect_timeout_s": 5} | changes)


async def connect(port: int, heard: Heard | None = None, **changes: Any) -> Connection:
    return await PahoBroker(settings(port, **changes), "fidget-home").connect(PRESENCE, heard or Heard())


@pytest.fixture
async def five() -> AsyncIterator[Server]:
    async with serving(lambda level: connack5(0)) as server:
        yield server


REFUSALS = [  # MQTT 5, 3.2.2.2: code, error, exit code, its words
    (0x80, BrokerUnavailable, 1, "Unspecified error"),
    (0x85, BrokerRefused, 2, "Client identifier not valid"),
    (0x86, BrokerRefused, 2, "Bad user name or password"),
    (0x87, BrokerRefused, 2, "Not authorized"),
    (0x88, BrokerUnavailable, 1, "Server unavailable"),
    (0x89, BrokerUnavailable, 1, "Server busy"),
    (0x8A, BrokerRefused, 2, "Banned"),
    (0x97, BrokerUnavailable, 1, "Quota exceeded"),
    (0x9F, BrokerUnavailable, 1, "Connection rate exceeded"),
]


@pytest.mark.parametrize(("code", "error", "exit_code", "words"), REFUSALS, ids=[words for *_, words in REFUSALS])
async def test_a_refusal_is_told_in_the_brokers_words_and_tried_once(
    code: int, error: type[Exception], exit_code: int, words: str
) -> None:
    async with serving(lambda level: connack5(code)) as server:
        with pytest.raises(error, match=f"broker 127.0.0.1:{server.port} refused the connection: {words}") as refused:
            await connect(server.port)
    assert refused.value.exit_code == exit_code  # type: ignore[attr-defined]
    assert server.levels == [5]


@pytest.mark.parametrize("refusal", [connack3(1), connack5(0x84)], ids=["as 3.1.1 says it", "as 5 says it"])
async def test_unsupported_version_and_nothing_else_leads_to_3_1_1(refusal: bytes) -> None:
    async with serving(lambda level: refusal if level == 5 else connack3(0)) as server:
        heard = Heard()
        connection = await connect(server.port, heard)
        assert connection.accepted.protocol == "3.1.1"
        assert server.levels == [5, 4]
        token = connection.publish("t", b"payload", retain=False)
        await until(lambda: bool(heard.answers))
        assert heard.answers == [(token, 0, "Success")]
        assert heard.losses == []  # the end of the refused connection is none of this one
        await connection.close()


async def test_the_end_of_a_refused_connection_is_not_taken_for_that_of_the_next() -> None:
    async with serving(lambda level: connack3(1) if level == 5 else connack3(0)) as server:
        for _ in range(30):
            heard = Heard()
            connection = await connect(server.port, heard)
            connection.publish("t", b"payload", retain=False)
            await until(lambda heard=heard: bool(heard.answers) or bool(heard.losses))
            assert heard.losses == []
            await connection.close()


async def test_the_client_holds_nothing_back() -> None:
    """What is on its way is the publisher's to bound; paho would queue more than 20 in memory."""
    async with serving(lambda level: connack5(0), lambda payload: None) as server:
        connection = await connect(server.port)
        for number in range(200):
            connection.publish("t", b"%d" % number, retain=False)
        await until(lambda: len(server.published) == 200)
        connection.abort()


async def test_the_version_that_a_broker_took_is_asked_for_first_from_then_on() -> None:
    async with serving(lambda level: connack3(1) if level == 5 else connack3(0)) as server:
        broker = PahoBroker(settings(server.port), "fidget-home")
        for _ in range(2):
            await (await broker.connect(PRESENCE, Heard())).close()
        assert server.levels == [5, 4, 4]


async def test_where_5_is_demanded_there_is_no_other_try() -> None:
    async with serving(lambda level: connack3(1)) as server:
        with pytest.raises(ProtocolUnsupported, match=r"does not support MQTT 5") as refused:
            await connect(server.port, protocol="5")
    assert server.levels == [5]
    assert refused.value.exit_code == 2
    assert "protocol" in refused.value.hint


@pytest.mark.parametrize("code", [4, 5], ids=["bad user name or password", "not authorized"])
async def test_3_1_1_refuses_a_password_in_its_own_codes(code: int) -> None:
    async with serving(lambda level: connack3(code)) as server:
        with pytest.raises(BrokerRefused, match=r"Bad user name or password|Not authorized"):
            await connect(server.port, protocol="3.1.1")


async def test_a_broker_that_closes_instead_of_answering_is_away_not_old() -> None:
    async with serving(lambda level: b"") as server:
        with pytest.raises(BrokerUnavailable, match="it closed the connection instead of answering CONNECT"):
            await connect(server.port)
    assert server.levels == [5]


async def test_a_broker_that_says_nothing_is_left_after_the_limit() -> None:
    async with serving(lambda level: None) as server:
        with pytest.raises(BrokerUnavailable, match=r"no answer to CONNECT in 0\.2 s"):
            await connect(server.port, connect_timeout_s=0.2)


@pytest.mark.parametrize(
    "garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x00", b"\x20\xff\xff\xff\xff\xff", b"\x30\x00"]
)
async def test_what_is_no_broker_is_an_error_in_words(garbage: bytes) -> None:
    async with serving(lambda level: garbage) as server:
        with pytest.raises(BrokerUnavailable, match=f"broker 127.0.0.1:{server.port}: "):
            await connect(server.port, connect_timeout_s=1)


NOT_HEARD = [  # what the broker does, its CONNACK, whether it may have begun a session of which nobody has heard
    ("is silent", None, True),
    ("hangs up", b"", True),
    ("says what is no MQTT", b"\xff\xff\xff\xff\xff", True),
    ("takes QoS 0 only", connack5(0, properties=b"\x24\x00"), True),
    ("refuses", connack5(0x88), False),
    ("does not speak 5", connack3(1), False),
]


@pytest.mark.parametrize(("connack", "asked"), [case[1:] for case in NOT_HEARD], ids=[case[0] for case in NOT_HEARD])
async def test_whether_a_session_may_have_been_begun_is_told_where_the_broker(
    connack: bytes | None, asked: bool
) -> None:
    async with serving(lambda level: connack) as server:
        with pytest.raises(NotConnected) as failed:
            await connect(server.port, protocol="5", connect_timeout_s=0.3)
    assert failed.value.asked == asked


async def test_where_nobody_listens_no_session_was_begun() -> None:
    with pytest.raises(BrokerUnavailable, match=r"Connection refused") as failed:
        await connect(1)
    assert not failed.value.asked


async def test_a_connect_that_was_given_up_does_not_leave_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would begin a session unseen, and throw out the next connection."""
    reached, let_go = asyncio.Event(), threading.Event()
    loop, create = asyncio.get_running_loop(), _Client._create_socket

    def slow(self: _Client) -> Any:
        made = create(self)
        loop.call_soon_threadsafe(reached.set)
        let_go.wait(10)
        return made

    def dial(self: PahoConnection) -> None:
        dialled(self)
        loop.call_soon_threadsafe(over.set)

    over, dialled = asyncio.Event(), PahoConnection._dial
    monkeypatch.setattr(_Client, "_create_socket", slow)
    monkeypatch.setattr(PahoConnection, "_dial", dial)
    async with serving(lambda level: connack5(0)) as server:
        with pytest.raises(BrokerUnavailable, match=r"no answer to CONNECT in 0\.2 s") as failed:
            await connect(server.port, connect_timeout_s=0.2)
        assert reached.is_set()
        assert not failed.value.asked
        let_go.set()
        await over.wait()
        await until(lambda: server.ended == 1)
        assert server.connects == []


async def test_hosts_that_are_not_there() -> None:
    with pytest.raises(BrokerUnavailable, match=r"broker 127\.0\.0\.1:1: Connection refused"):
        await connect(1)
    with pytest.raises(BrokerUnavailable, match=r"broker no\.such\.host\.invalid:1883: "):
        await connect(1883, host="no.such.host.invalid")


async def test_what_the_broker_grants_is_read() -> None:
    properties = bytes([0x21, 0, 20, 0x27, 0, 0, 4, 0])  # receive maximum 20, maximum packet size 1024
    async with serving(lambda level: connack5(0, session_present=True, properties=properties)) as server:
        connection = await connect(server.port)
        accepted = connection.accepted
        assert (accepted.session_present, accepted.in_flight_max, accepted.packet_bytes_max) == (True, 20, 1024)
        await connection.close()


async def test_where_the_broker_says_nothing_the_standards_defaults_hold(five: Server) -> None:
    connection = await connect(five.port)
    accepted = connection.accepted
    assert (accepted.session_present, accepted.in_flight_max, accepted.packet_bytes_max) == (False, 65535, None)
    await connection.close()


async def test_connect_asks_for_a_session_that_lasts_and_leaves_a_last_will(five: Server) -> None:
    connection = await connect(five.port, session_expiry_s=3600)
    (body,) = five.connects
    assert body[7] & 0x02 == 0  # no clean start
    assert body[7] & 0x3C == 0x2C  # will, QoS 1, retained
    assert b"\x11" + (3600).to_bytes(4, "big") in body  # session expiry interval
    assert PRESENCE.topic.encode() in body
    assert PRESENCE.offline in body
    assert b"fidget-home" in body
    await connection.close()


async def test_the_end_of_a_connection_is_told_once_and_nothing_after_it() -> None:
    async with serving(lambda level: connack5(0), lambda payload: None) as server:
        heard = Heard()
        connection = await connect(server.port, heard)
        connection.publish("t", b"unanswered", retain=False)
        await until(lambda: server.published == [b"unanswered"])
        connection.abort()
        await asyncio.sleep(0.1)  # nothing is to come: there is no event to wait for
        assert (heard.losses, heard.answers) == ([], [])
    async with serving(lambda level: connack5(0), lambda payload: None) as server:
        await connect(server.port, heard)
        server.kick()
    await until(lambda: bool(heard.losses))
    assert len(heard.losses) == 1


# TLS.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a self-signed certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    Authority("127.0.0.1").write(folder, "cert", "key")
    return folder


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context


async def test_tls_with_a_trusted_authority_carries_everything(certificate: Path) -> None:
    async with serving(lambda level: connack5(0), ssl=server_context(certificate)) as server:
        heard = Heard()
        connection = await connect(server.port, heard, tls={"ca": certificate / "cert.pem"})
        connection.publish("t", bytes(100_000), retain=False)
        await until(lambda: bool(heard.answers))
        assert server.published == [bytes(100_000)]
        await connection.close()


async def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Path) -> None:
    async with serving(lambda level: connack5(0), ssl=server_context(certificate)) as server:
        with pytest.raises(BrokerRefused, match="its certificate is not trusted") as refused:
            await connect(server.port, tls=TlsSettings())
        assert "[sync.tls] ca" in refused.value.hint
        with pytest.raises(BrokerRefused, match="its certificate is not trusted"):  # right authority, other name
            await connect(server.port, host="localhost", tls={"ca": certificate / "cert.pem"})
    assert server.connects == []


@pytest.mark.parametrize("part", ["ca", "cert"])
async def test_files_of_tls_that_cannot_be_used_are_named(tmp_path: Path, part: str) -> None:
    (tmp_path / "empty.pem").write_text("")
    for file, complaint in (("missing.pem", "No such file"), ("empty.pem", "")):
        with pytest.raises(InputRejected, match=rf"sync\.tls\.{part} .*{file}: .*{complaint}"):
            await connect(1, tls={part: tmp_path / file})


# Passwords.


async def test_a_password_file_is_read_at_each_connection(five: Server, tmp_path: Path) -> None:
    file = tmp_path / "password"
    broker = PahoBroker(settings(five.port, username="ada", password_file=file), "fidget-home")
    file.touch(mode=0o600)
    for password in ("first one", "second one"):
        file.write_text(password + "\n")
        await (await broker.connect(PRESENCE, Heard())).close()
    assert [body.endswith(b"\x00\x03ada\x00" + bytes([len(word)]) + word) for body, word in zip(
        five.connects, (b"first one", b"second one"), strict=True
    )] == [True, True]  # fmt: skip


async def test_a_password_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputRejected, match=r"sync\.password_file .*nowhere: No such file or directory"):
        await connect(1, username="ada", password_file=tmp_path / "nowhere")


# gateway check --connect, against real brokers.


@pytest.mark.mosquitto
async def test_check_tells_what_answers_and_who_refuses(mosquitto: Mosquitto) -> None:
    passwords = mosquitto.folder / "passwords"
    await asyncio.to_thread(
        subprocess.run, ["mosquitto_passwd", "-b", "-c", str(passwords), "ada", "right"], check=True
    )
    await mosquitto.start(f"allow_anonymous false\npassword_file {passwords}\n")
    known = settings(mosquitto.port, username="ada", password=SecretStr("right"))
    assert await asyncio.to_thread(check_connection, known, 5.0) == "MQTT 5"
    for wrong in (settings(mosquitto.port), settings(mosquitto.port, username="ada", password=SecretStr("wrong"))):
        with pytest.raises(BrokerRefused, match="refused the connection: Not authorized") as refused:
            await asyncio.to_thread(check_connection, wrong, 5.0)
        assert refused.value.exit_code == 2
        assert "username, password" in refused.value.hint
        assert "wrong" not in str(refused.value)


async def test_check_says_when_a_broker_speaks_3_1_1_only(embedded: int) -> None:
    assert await asyncio.to_thread(check_connection, settings(embedded), 5.0) == "MQTT 3.1.1"


async def test_check_names_an_absent_broker() -> None:
    with pytest.raises(BrokerUnavailable, match="Connection refused") as away:
        await asyncio.to_thread(check_connection, settings(1), 5.0)
    assert away.value.exit_code == 1


# What goes with a message, read by a server of hand-written packets.


def state(number: int, wearable: str | None = "left") -> LoggedEvent:
    topic = f"fidget/v1/home/{wearable}/state"
    return LoggedEvent("state", wearable, "urn:x", f"s{number}", topic, b"%d" % number, 0, "boot", retain=True)


async def test_states_expire_where_asked_for_and_superseded_ones_soon(tmp_path: Path) -> None:
    expiry = 0x02
    async with server5(taking()) as server:
        port = server.port
        first = House(tmp_path / "gateway.db", host="127.0.0.1", port=port, protocol="5", state_expiry_s=86400)
        first.log(range(1, 2))
        first.writer.derived(Derived(None, (state(2),)))
        await first.sent()
        await first.stop()
        sent = {publish.payload: publish for publish in server.taken}
        assert sent[b"2"].retain
        assert sent[b"2"].properties[expiry] == 86400
        assert expiry not in sent[b"1"].properties  # predictions never do
        presence = [publish for publish in server.taken if publish.topic == "fidget/v1/home/state"]
        assert all(publish.retain and expiry not in publish.properties for publish in presence)
    answers = {b"3": [0, 0x97]}

    def answer(publish: Publish) -> int:
        return answers[publish.payload].pop() if publish.payload in answers else 0

    async with server5(taking(answer)) as server:
        second = House(tmp_path / "gateway.db", host="127.0.0.1", port=server.port, protocol="5")
        second.writer.derived(Derived(None, (replace(state(3), topic="t/x"), replace(state(4), topic="t/x"))))
        await second.sent()
        await second.stop()
        late = [publish for publish in server.taken if publish.payload == b"3"]
        assert [(publish.retain, publish.properties.get(expiry)) for publish in late] == [(False, 300)]
        latest = next(publish for publish in server.taken if publish.payload == b"4")
        assert (latest.retain, latest.properties.get(expiry)) == (True, None)


async def test_topics_follow_the_template_the_will_included(tmp_path: Path) -> None:
    template = "clinic/{kind}/{gateway}/{wearable}"
    async with server5(taking()) as server:
        made = House(tmp_path / "gateway.db", host="127.0.0.1", port=server.port, protocol="5", topics=template)
        made.log(range(1, 2))
        made.writer.derived(Derived(None, (state(2), state(3, None))))
        await made.sent()
        await made.stop()
        topics = [publish.topic for publish in server.taken]
        own = "clinic/state/home"
        assert topics == [own, "clinic/prediction/home/left", "clinic/state/home/left", own, own]
        connect = server.clients[0].connect
        assert connect is not None
        assert connect.will is not None
        assert (connect.will[0], connect.will[2]) == (own, True)
