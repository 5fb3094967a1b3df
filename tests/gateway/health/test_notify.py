"""Datagrams as a service manager receives them, on a real socket."""

import os
import socket

import pytest

from gateway.health import ServiceManager, watchdog_interval_s


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A listening socket and the environment that points to it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@fidget-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name[1:] if name.startswith("@") else name)
        listening.settimeout(5)
        yield listening, {"NOTIFY_SOCKET": name}


def test_each_message_is_one_datagram(manager):
    listening, environment = manager
    service = ServiceManager(environment)
    sent = [service.takes(60), service.ready(), service.watchdog(), service.status("ok: 2 of 2"), service.stopping()]
    assert all(sent)
    received = [listening.recv(4096) for _ in sent]
    messages = [b"EXTEND_TIMEOUT_USEC=60000000", b"READY=1", b"WATCHDOG=1", b"STATUS=ok: 2 of 2", b"STOPPING=1"]
    assert received == messages


def test_a_status_cannot_smuggle_in_another_variable(manager):
    listening, environment = manager
    ServiceManager(environment).status("broker said\nREADY=1\r\n" + "é" * 2000)
    message = listening.recv(8192)
    assert message.startswith(b"STATUS=broker said READY=1 ")
    assert b"\n" not in message
    assert len(message) <= 1007
    message.decode()


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_systemd_nothing_happens(environment):
    assert not ServiceManager(environment).ready()


def test_a_service_manager_that_is_gone_or_does_not_read_fails_and_blocks_nobody(tmp_path):
    assert not ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        service = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "deaf")})
        assert not all(service.watchdog() for _ in range(10_000))


@pytest.mark.parametrize(
    ("environment", "expected_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_answered_at_half_its_time(environment, expected_s):
    assert watchdog_interval_s(environment, pid=42) == expected_s
