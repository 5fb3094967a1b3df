"""The local socket: who may use it, what is answered, and that no client holds up another."""

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import InputRejected
from gateway.local import (
    LocalServer,
    NotAllowed,
    NotAnswering,
    NotRunning,
    RefusedByDaemon,
    SocketRefused,
    SocketTaken,
    Talk,
    request,
    server,
)
from gateway.local import client as client_module
from gateway.local.protocol import LINE_BYTES_MAX, Malformed


async def echo(asked: Mapping[str, Any], _talk: Talk) -> Mapping[str, Any]:
    return {"said": asked.get("text")}


class Waiting:
    """An operation that waits, and notes when it begins and whether it was cancelled."""

    def __init__(self) -> None:
        self.begun, self.cancelled = asyncio.Event(), asyncio.Event()

    async def __call__(self, _asked: Mapping[str, Any], _talk: Talk) -> Mapping[str, Any]:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError


async def ask(asked: Mapping[str, Any], talk: Talk) -> Mapping[str, Any]:
    talk.tell({"text": "wait"})
    first = await talk.ask({"kind": "passkey"})
    return {"answers": [first, await talk.ask({"kind": "confirm", "number": 7})]}


async def refuse(_asked: Mapping[str, Any], _talk: Talk) -> Mapping[str, Any]:
    raise InputRejected("no wearable 'lef'", hint="Did you mean left?")


async def fail(_asked: Mapping[str, Any], _talk: Talk) -> Mapping[str, Any]:
    raise RuntimeError("secret of the daemon")


class At:
    def __init__(self, path: Path, waiting: Waiting) -> None:
        self.path, self.waiting = path, waiting

    async def raw(self, *sent: bytes) -> list[dict[str, Any]]:
        """What is answered to these bytes, until the daemon closes."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        for part in sent:
            writer.write(part)
        async with asyncio.timeout(10):
            lines = (await reader.read()).splitlines()
        writer.close()
        return [json.loads(line) for line in lines]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[At]:
    waiting = Waiting()
    path = tmp_path / "state" / "gateway.sock"
    operations = {"echo": echo, "wait": waiting, "ask": ask, "refuse": refuse, "fail": fail}
    local = LocalServer(path, operations)
    await local.start()
    yield At(path, waiting)
    await local.stop()
    assert not path.exists()


async def test_a_request_is_answered_and_only_this_user_may_ask(at: At) -> None:
    assert await request(at.path, "echo", {"text": "grüß dich"}) == {"said": "grüß dich"}
    assert stat.S_IMODE(at.path.stat().st_mode) == 0o600


async def test_questions_are_asked_and_answered_and_what_is_told_arrives(at: At) -> None:
    told, asked = [], []

    async def answer(question: dict[str, Any]) -> Any:
        asked.append(question)
        return {"passkey": 123456, "confirm": True}[question["kind"]]

    assert await request(at.path, "ask", told=told.append, asked=answer) == {"answers": [123456, True]}
    assert told == [{"text": "wait"}]
    assert asked == [{"kind": "passkey"}, {"kind": "confirm", "number": 7}]


async def test_what_the_daemon_refuses_is_told_as_it_would_be_without_it(at: At) -> None:
    with pytest.raises(RefusedByDaemon, match="no wearable 'lef'") as refused:
        await request(at.path, "refuse")
    assert (refused.value.hint, refused.value.exit_code) == ("Did you mean left?", 2)
    with pytest.raises(RefusedByDaemon, match="the daemon has failed at this; its log says how") as failed:
        await request(at.path, "fail")
    assert "secret" not in str(failed.value)


REQUEST = b'{"v": 1, "op": "echo", "text": "x"}\n'
BAD = [
    (b"\n", "a line is no JSON"),
    (b"{\n", "a line is no JSON"),
    (b"[" * 100_00 + b"\n", "a line is no JSON"),
    (b"\xff\xfe\n", "a line is no JSON"),
    (b"[]\n", "a line is no JSON object"),
    (b"{}\n", "the request is of version None, this daemon speaks 1"),
    (b'{"v": 2, "op": "echo"}\n', "the request is of version 2, this daemon speaks 1"),
    (b'{"v": 1}\n', "op is None, expected a text"),
    (b'{"v": 1, "op": ["echo"]}\n', r"op is ['echo'], expected a text"),
    (b'{"v": 1, "op": "format"}\n', "op is 'format', there are echo, wait, ask, refuse, fail"),
    (b"x" * (LINE_BYTES_MAX + 1), f"a line of more than {LINE_BYTES_MAX} bytes"),
    (b'{"v": 1, "op": "wait"}\n{"v": 1, "op": "echo"}\n', "expected an answer and nothing else"),
    (b'{"v": 1, "op": "wait"}\n{"answer": 1}\n', "an answer, and nothing was asked"),
]


@pytest.mark.parametrize(("sent", "said"), BAD, ids=[said[:30] for _, said in BAD])
async def test_what_makes_no_sense_is_told_and_the_next_one_served(at: At, sent: bytes, said: str) -> None:
    (answer,) = await at.raw(sent)
    assert answer["error"]["message"] == said
    assert await at.raw(REQUEST) == [{"done": {"said": "x"}}]


async def test_a_request_in_pieces_is_one(at: At) -> None:
    assert await at.raw(*(bytes([byte]) for byte in REQUEST)) == [{"done": {"said": "x"}}]


async def test_whatever_bytes_come_the_daemon_goes_on(at: At) -> None:
    sent = st.lists(st.one_of(st.binary(max_size=64), st.sampled_from([b"\n", b'{"v": 1, "op": "ask"}\n', REQUEST])))

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(sent)
    def hostile(parts: list[bytes]) -> None:
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(at.path))
            try:
                for part in parts:
                    one.sendall(part)
            except OSError:
                pass  # it has been refused already

    await asyncio.to_thread(hostile)
    assert await request(at.path, "echo", {"text": "x"}) == {"said": "x"}


async def test_a_client_that_goes_ends_what_it_asked_for(at: At) -> None:
    asking = asyncio.create_task(request(at.path, "wait"))
    async with asyncio.timeout(10):
        await at.waiting.begun.wait()
        asking.cancel()
        await at.waiting.cancelled.wait()


async def until_refused(at: At) -> str:
    """What is said, once the one that says nothing is counted."""
    while True:
        try:
            await request(at.path, "echo", {"text": "x"})
        except RefusedByDaemon as refused:
            return str(refused)


async def test_several_are_served_at_once_and_no_more_than_the_bound(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CLIENTS_MAX", 3)
    waits = [asyncio.create_task(request(at.path, "wait")) for _ in range(2)]
    async with asyncio.timeout(10):
        await at.waiting.begun.wait()
        assert await request(at.path, "echo", {"text": "x"}) == {"said": "x"}
        silent = await asyncio.open_unix_connection(at.path)
        assert await until_refused(at) == "3 commands are at work"
    silent[1].close()
    for each in waits:
        each.cancel()


async def test_who_says_nothing_is_let_go(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_S", 0.1)
    (answer,) = await at.raw(b'{"v": 1, ')
    assert answer["error"]["message"] == "no request within 0.1 s"


async def test_who_does_not_read_holds_up_nobody(tmp_path: Path) -> None:
    over = asyncio.Event()

    async def chatter(_asked: Mapping[str, Any], talk: Talk) -> Mapping[str, Any]:
        for _ in range(2000):
            talk.tell({"text": "x" * 1000})
        over.set()
        return {}

    local = LocalServer(tmp_path / "s", {"chatter": chatter, "echo": echo})
    await local.start()
    _, writer = await asyncio.open_unix_connection(tmp_path / "s")
    writer.write(b'{"v": 1, "op": "chatter"}\n')
    async with asyncio.timeout(10):
        await over.wait()
        assert await request(tmp_path / "s", "echo", {"text": "x"}) == {"said": "x"}
    writer.close()
    await local.stop()


# The socket itself.


async def started(path: Path, group: str | None = None) -> LocalServer:
    local = LocalServer(path, {"echo": echo}, group)
    await local.start()
    return local


async def test_a_socket_that_a_killed_gateway_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    with pytest.raises(NotRunning, match="no gateway runs behind"):
        await request(path, "echo")
    local = await started(path)
    assert await request(path, "echo", {"text": "x"}) == {"said": "x"}
    await local.stop()


async def test_no_second_gateway_takes_the_first_ones_socket_and_no_file_is_lost(tmp_path: Path) -> None:
    local = await started(tmp_path / "s")
    with pytest.raises(SocketTaken, match="s: another gateway answers there"):
        await started(tmp_path / "s")
    await local.stop()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(SocketRefused, match="file: is there, and no socket"):
        await started(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(SocketRefused, match="longer than the 107 bytes"):
        await started(tmp_path / ("x" * 120))


async def test_a_group_may_use_it_where_that_is_said(tmp_path: Path) -> None:
    import grp

    group = grp.getgrgid(os.getgid()).gr_name
    local = await started(tmp_path / "s", group)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o660
    await local.stop()
    with pytest.raises(InputRejected, match=r"local\.group 'nobody-here': no such group on this machine"):
        await started(tmp_path / "s", "nobody-here")
    assert not (tmp_path / "s").exists()


async def test_without_a_daemon_that_is_said_and_without_permission_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotRunning, match="no gateway runs behind"):
        await request(tmp_path / "none", "echo")

    async def denied(*_: object, **__: object) -> None:
        raise PermissionError  # root, as whom tests may run, is let in everywhere

    monkeypatch.setattr(client_module.asyncio, "open_unix_connection", denied)
    with pytest.raises(NotAllowed, match="the running gateway's socket is not for this user") as refused:
        await request(tmp_path / "none", "echo")
    assert "[local] group" in refused.value.hint


Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.mark.parametrize(("op", "bound"), [("status", "ANSWER_S"), ("forget", "ANSWER_S"), ("pair", "PAIRED_S")])
async def test_a_daemon_that_hangs_is_waited_for_no_longer_than_what_was_asked_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, op: str, bound: str
) -> None:
    monkeypatch.setattr(client_module, bound, 0.2)
    path = tmp_path / "gateway.sock"
    with socket.socket(socket.AF_UNIX) as listening:  # as the kernel answers for a process that is stopped
        listening.bind(str(path))
        listening.listen()
        async with asyncio.timeout(20):
            with pytest.raises(NotAnswering, match=r"the daemon says nothing for 0\.2 s") as told:
                await request(path, op)
    assert told.value.hint == "It hangs, or is stopped; systemd ends one that hangs after 30 s, and starts it again."


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        (b'{"hello": 1}\n', Malformed, "the daemon says hello, which means nothing here"),
        (b'{"ask": {"kind": "passkey"}}\n', Malformed, "the daemon says ask, which"),
        (b"\xff\n", Malformed, "a line is no JSON"),
        (b'{"done"', RefusedByDaemon, "the daemon has ended meanwhile"),
        (b"", RefusedByDaemon, "the daemon has ended meanwhile"),
    ],
)
async def test_a_daemon_that_speaks_otherwise_is_told_as_such(
    tmp_path: Path, said: bytes, error: type[Exception], words: str
) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(said)
        writer.close()

    async with await asyncio.start_unix_server(speak, tmp_path / "s"):
        with pytest.raises(error, match=words):
            await request(tmp_path / "s", "echo")
