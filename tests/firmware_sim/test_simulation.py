"""Wearables sample as their time passes, and the control channel answers whatever it is asked."""

import asyncio
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.endpoint import CannotListen, Endpoint
from firmware_sim.families.thingy52 import RAW_UUID
from firmware_sim.scenario import parse_wearable
from firmware_sim.simulation import SAMPLES_A_STEP_MAX, Simulation
from gateway.errors import InputRejected


class Hand:
    """A clock that is set by hand, in ns."""

    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def simulation(*texts: str, samples: int = 10_000) -> tuple[Simulation, Hand]:
    hand = Hand()
    made = Simulation(hand, random.Random(1))
    for text in texts:
        made.add(parse_wearable(text), np.zeros((samples, 6), np.float32))
    return made, hand


async def test_all_samples_that_are_due_are_made_and_no_more() -> None:
    sim, hand = simulation("name=left", "name=fast; drift_ppm=1000", samples=2000)
    left, fast = sim.wearables
    for hand.now_ns, due, due_fast in ((0, 1, 1), (19_999_999, 1, 2), (20_000_000, 2, 2), (10**10, 501, 501)):
        left.advance()
        fast.advance()
        assert (left.device.running.made, fast.device.running.made) == (due, due_fast)
    hand.now_ns = 10**15
    left.advance()
    assert left.device.finished
    assert left.device.running.closed == 2000


async def test_a_late_wearable_catches_up_in_bounded_steps() -> None:
    sim, hand = simulation("name=left")
    hand.now_ns = 10**15
    sim.wearables[0].advance()
    assert sim.wearables[0].device.running.made == SAMPLES_A_STEP_MAX


async def test_stop_makes_what_is_due_closes_the_frame_and_completes_the_truth(tmp_path: Path) -> None:
    sim, hand = simulation(f"name=left; truth={tmp_path / 't.csv'}", "name=right")
    hand.now_ns = 10**9
    left, right = sim.obey({"op": "stop", "wearable": "left"})["wearables"]  # type: ignore[attr-defined]
    assert (left["made"], left["closed"], left["finished"]) == (51, 51, True)
    assert (right["made"], right["finished"]) == (0, False)
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 52
    hand.now_ns = 10**10
    sim.wearables[0].advance()
    assert sim.wearables[0].device.running.made == 51


async def test_faults_of_firmware_and_sensor_come_when_they_are_due(tmp_path: Path) -> None:
    faults = "reboot@10=lost, battery@3=4, saturate@12-13=acc, drift@0-5=1000"
    sim, hand = simulation(f"name=left; truth={tmp_path / 't.csv'}; faults={faults}")
    left = sim.wearables[0]
    for hand.now_ns in range(0, 15 * 10**9, 10**8):
        left.advance()
    assert left.device.settings.battery_percent == 4
    (running,) = left.device.sessions
    assert running.made == 246  # 4.9 s since the reboot
    first, second = left.status()["sessions"]  # type: ignore[misc]
    assert first["made"] == 1 + int(9.905 * 50)
    sim.close()
    truth = np.loadtxt(tmp_path / "t.2.csv", delimiter=",", skiprows=1)
    limit = np.abs(truth[:, 1]) > 70
    assert 48 <= limit.sum() <= 52
    assert np.diff(np.flatnonzero(limit)).max() == 1
    assert second["made"] == len(truth)


REFUSED = [
    ([], "expected a JSON object"),
    ({}, "unknown op None: expected one of status, out_of_range, silent, stop, reboot"),
    ({"op": "dance"}, "unknown op 'dance'"),
    ({"op": ["status"]}, "unknown op ['status']"),
    ({"op": "out_of_range", "wearable": "left"}, "out_of_range: on is None, expected true or false"),
    ({"op": "silent", "wearable": "left", "on": 1}, "silent: on is 1, expected true or false"),
    ({"op": "out_of_range", "wearable": "x", "on": True}, "no wearable 'x': there are left"),
    ({"op": "stop", "wearable": 3}, "no wearable 3: there are left"),
    ({"op": "reboot"}, "no wearable None: there are left"),
    ({"op": "signal", "wearable": "x", "host": 1, "dbm": -60}, "no wearable 'x': there are left"),
    ({"op": "signal", "wearable": "left", "dbm": -60}, "signal: host is None, expected 1 for the first that attached"),
    ({"op": "signal", "wearable": "left", "host": 0, "dbm": -60}, "signal: host is 0"),
    ({"op": "signal", "wearable": "left", "host": 1, "dbm": "weak"}, "signal: dbm is 'weak', expected a number"),
    ({"op": "signal", "wearable": "left", "host": 1, "dbm": float("nan")}, "signal: dbm is nan"),
    ({"op": "signal", "wearable": "left", "host": 1, "dbm": -60, "sigma_db": -300}, "signal: sigma_db is -300"),
]


async def test_a_request_that_cannot_be_obeyed_is_answered_with_an_error() -> None:
    sim, _ = simulation("name=left")
    for request, said in REFUSED:
        assert said in str(sim.obey(request).get("error")), request


async def test_the_control_channel_survives_what_is_no_request() -> None:
    sim, _ = simulation("name=left")
    endpoint = await sim.serve_control(Endpoint.parse("127.0.0.1:0"))
    for line in (b"\xff\xfe\n", b"{\n", b"[" * 50_000 + b"\n", b"\n"):
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        writer.write(line + b'{"op": "status"}\n')
        assert json.loads(await reader.readline()) == {"error": "not JSON"}
        assert json.loads(await reader.readline())["wearables"][0]["name"] == "left"
        writer.close()
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    writer.write(b"x" * 100_000)
    assert json.loads(await reader.readline()) == {"error": "request too long"}
    writer.close()
    sim.close()


async def test_a_unix_socket_serves_and_is_gone_afterwards(tmp_path: Path) -> None:
    sim, _ = simulation("name=left")
    endpoint = await sim.serve_control(Endpoint.parse(f"unix:{tmp_path / 'control'}"))
    reader, writer = await asyncio.open_unix_connection(endpoint.path)
    writer.write(b'{"op": "status"}\n')
    assert "wearables" in json.loads(await reader.readline())
    writer.close()
    sim.close()
    assert not (tmp_path / "control").exists()


async def test_an_address_in_use_is_named() -> None:
    sim, _ = simulation("name=left")
    taken = await sim.serve(Endpoint.parse("127.0.0.1:0"))
    with pytest.raises(CannotListen, match=f"cannot listen on {taken}: .*in use"):
        await sim.serve_control(taken)
    sim.close()


@given(host=st.sampled_from(["127.0.0.1", "::1", "gateway.local"]), port=st.integers(0, 65535))
def test_an_endpoint_reads_back(host: str, port: int) -> None:
    assert Endpoint.parse(str(Endpoint(host, port))) == Endpoint(host, port)


@pytest.mark.parametrize("text", ["", "9000", ":9000", "host:", "host:65536", "host:-1", "unix:"])
def test_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(InputRejected, match=r"expected HOST:PORT or unix:PATH"):
        Endpoint.parse(text)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_a_link_that_never_streamed_has_no_truth_file(tmp_path: Path) -> None:
    sim, hand = simulation(f"name=left; profile=thingy52; truth={tmp_path / 't.csv'}")
    (left,) = sim.wearables
    left.device.link_up()
    left.device.subscribed(RAW_UUID, on=True)
    for hand.now_ns in range(0, 2 * 10**9, 10**8):
        left.advance()
    left.device.disconnected()
    left.device.link_up()  # and nobody subscribes
    for hand.now_ns in range(2 * 10**9, 4 * 10**9, 10**8):
        left.advance()
    sim.close()
    assert names_in(tmp_path) == ["t.csv"]
    assert len((tmp_path / "t.csv").read_text().splitlines()) > 1
