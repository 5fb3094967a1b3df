"""Commands beside a running daemon, and alone: the daemon on a virtual radio with simulated wearables that pair."""

import asyncio
import json
import os
import random
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firmware_sim.endpoint import Endpoint
from firmware_sim.scenario import parse_wearable
from firmware_sim.simulation import Simulation
from gateway.cli import main
from gateway.cli.demo import demo_bundle
from gateway.clock import Clock
from gateway.config import load_config
from gateway.daemon import run_daemon
from gateway.local import RefusedByDaemon, request

PATIENCE_S = 30.0
POLL_S = 0.05


class House:
    """A gateway's configuration, its daemon in this process, and what is in its air."""

    def __init__(
        self, folder: Path, simulation: Simulation, transport: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.simulation, self._capsys = simulation, capsys
        self.config = folder / "gateway.toml"
        self.folder = folder / "state"
        self.base = (
            f'[gateway]\nid = "g1"\nstate_dir = "state"\n[radio]\nbackend = "bumble"\ntransport = "{transport}"\n'
            f'[bundle]\npath = "{demo_bundle()}"\n[sync]\nhost = "127.0.0.1"\nport = 1\n'
        )
        self._daemon: asyncio.Task[None] | None = None
        self.configure()

    def address(self, name: str = "left") -> str:
        return next(one.spec.ble_address() for one in self.simulation.wearables if one.spec.name == name)

    def configure(self, more: str = "") -> None:
        self.config.write_text(f'{self.base}[[wearable]]\nid = "left"\naddress = "{self.address()}"\n{more}')

    def op(self, op: str, **more: object) -> None:
        assert "error" not in self.simulation.obey({"op": op, "wearable": "left", **more})

    def connected(self, name: str = "left") -> bool:
        return next(one.device.connected for one in self.simulation.wearables if one.spec.name == name)

    async def run(self) -> None:
        config = load_config(self.config)
        self._daemon = asyncio.create_task(run_daemon(config, clock=Clock()))
        async with asyncio.timeout(PATIENCE_S):
            while not config.socket.exists():
                assert not self._daemon.done(), self._daemon.result()
                await asyncio.sleep(POLL_S)

    async def stop(self) -> None:
        if self._daemon is not None:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(self._daemon, PATIENCE_S)
            self._daemon = None

    async def said(self, *words: str) -> tuple[int, str, str]:
        """By a command, as one runs it."""
        self._capsys.readouterr()
        code = await asyncio.to_thread(main, [*words, "--config", str(self.config)])
        return code, *self._capsys.readouterr()

    async def status(self) -> dict[str, Any]:
        return await request(load_config(self.config).socket, "status")

    async def until(self, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """On the status."""
        status: dict[str, Any] = {}
        for _ in range(int(PATIENCE_S / POLL_S)):
            status = await self.status()
            if condition(status):
                return status
            await asyncio.sleep(POLL_S)
        raise AssertionError(f"{what}: {status['health']}, {status['wearables']}")

    async def streaming(self) -> None:
        await self.until(lambda status: status["wearables"]["left"]["link"] in ("streaming", "draining"), "it streams")

    async def heard_again(self, times: int = 5) -> None:
        """The wearable has advertised so often since."""
        heard = 0
        async with asyncio.timeout(PATIENCE_S):
            while heard < times:
                found = (await request(load_config(self.config).socket, "scan", {"seconds": 1}))["heard"]
                heard += any(one["address"] == self.address() for one in found)


At = Callable[..., Awaitable[House]]


@pytest.fixture
async def at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[At]:
    """A house with wearables as texts describe them, the first of them `left`."""
    running: list[tuple[asyncio.Task[None], House]] = []

    async def make(*wearables: str) -> House:
        clock = Clock()
        simulation = Simulation(clock.mono_ns, random.Random(1))
        for text in wearables:
            simulation.add(parse_wearable(text), np.zeros((60_000, 6), np.float32))
        endpoint = await simulation.serve(Endpoint("127.0.0.1", 0))
        house = House(tmp_path, simulation, f"tcp-client:{endpoint}", capsys)
        running.append((asyncio.create_task(simulation.run()), house))
        await simulation.started.wait()
        return house

    yield make
    for task, house in running:
        await house.stop()
        house.simulation.close()
        task.cancel()
        await asyncio.wait({task}, timeout=1)  # Bumble may swallow it before Python 3.12 (python/cpython#86296)


PASSKEY = "name=left; pairing=passkey; passkey=123456"


async def test_the_daemon_pairs_when_it_is_told_to_and_what_is_forgotten_stays_so(at: At) -> None:
    house = await at(PASSKEY)
    await house.run()
    await house.until(lambda status: "unpaired" in str(status["wearables"]["left"]["faults"]), "it wants to be paired")
    code, out, err = await house.said("pair", "left", "--passkey", "654321")
    assert (code, out) == (1, "")
    assert f"error: {house.address()}: pairing failed: another passkey, or a number that was not confirmed" in err
    code, out, err = await house.said("pair", "left", "--passkey", "123456")
    assert (code, out) == (0, "left: paired\n")
    assert f"left ({house.address()}): looking for it; it has to be near" in err
    await house.streaming()
    assert (await house.said("pair", "left"))[:2] == (0, "left: is paired already; `gateway forget left` ends that\n")
    assert house.connected(), "which was not disturbed"
    code, out, _ = await house.said("wearables", "--json")
    (row,) = json.loads(out)
    assert (row["paired"], row["connected"], row["bond"], row["refused"]) == (True, True, "number", None)

    assert await house.said("forget", "left") == (0, "left: forgotten\n", "")
    assert not house.connected()
    for _ in range(2):
        await house.heard_again()
        reasons = (await house.status())["health"]["reasons"]
        assert any(reason.endswith("(forgotten, and not connected until `gateway pair left`)") for reason in reasons)
        assert not house.connected()
        await house.stop()
        await house.run()
    _, out, _ = await house.said("wearables")
    assert out.splitlines()[1].split()[3:5] == ["no", "no"]
    assert out.endswith("left: forgotten, and not connected until `gateway pair left`\n")
    assert (await house.said("pair", "left", "--passkey", "123456"))[:2] == (0, "left: paired\n")
    await house.streaming()


async def test_one_that_pairs_by_itself_does_not_once_an_operator_has_forgotten_it(at: At) -> None:
    house = await at("name=left; pairing=just_works")
    house.configure("allow_just_works = true\n")
    await house.run()
    await house.streaming()
    assert (await house.said("forget", "left"))[:2] == (0, "left: forgotten\n")
    await house.heard_again()
    assert not house.connected()
    assert json.loads((house.folder / "bluetooth-keys.json").read_text())["bonds"] == {}
    assert (await house.said("pair", "left"))[:2] == (0, "left: paired, without digits\n")
    await house.streaming()


@pytest.mark.parametrize("wearable", ["name=left; pairing=numeric", "name=left; pairing=keyboard"])
async def test_numbers_are_compared_and_shown_through_the_daemon(at: At, wearable: str) -> None:
    house = await at(wearable)
    await house.run()
    asked: list[dict[str, Any]] = []

    async def answer(question: dict[str, Any]) -> bool:
        asked.append(question)
        if question["kind"] == "shown":
            house.op("type", digits=question["number"])
        return True

    socket = load_config(house.config).socket
    assert await request(socket, "pair", {"wearable": "left"}, asked=answer) == {"paired": "number"}
    (question,) = asked
    assert question["kind"] == ("confirm" if "numeric" in wearable else "shown")
    assert 0 <= question["number"] <= 999_999
    await house.streaming()


async def test_a_pairing_that_is_broken_off_leaves_nothing_and_holds_up_nobody(at: At) -> None:
    house = await at(PASSKEY)
    await house.run()
    asked = asyncio.Event()

    async def never(_question: dict[str, Any]) -> None:
        asked.set()
        await asyncio.Event().wait()

    socket = load_config(house.config).socket
    pairing = asyncio.create_task(request(socket, "pair", {"wearable": "left"}, asked=never))
    async with asyncio.timeout(PATIENCE_S):
        await asked.wait()
        assert (await house.status())["gateway"] == "g1"
        code, _, err = await house.said("pair", "left", "--passkey", "123456")
        assert (code, "another wearable is being paired" in err) == (1, True)
        pairing.cancel()
        await asyncio.wait({pairing})
        while house.connected():  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
    assert not (house.folder / "bluetooth-keys.json").exists()
    async with asyncio.timeout(PATIENCE_S):
        while (await house.said("pair", "left", "--passkey", "123456"))[:2] != (0, "left: paired\n"):
            pass  # until the one that was broken off has been cleared away
    await house.streaming()


@pytest.mark.parametrize("how", [{"op": "impostor", "on": True}, {"op": "forget_bonds"}], ids=["impostor", "reset"])
async def test_who_lacks_the_key_is_refused_in_plain_words_and_nothing_of_it_is_taken(
    at: At, how: dict[str, object]
) -> None:
    house = await at(PASSKEY)
    assert (await house.said("pair", "left", "--passkey", "123456"))[:2] == (0, "left: paired\n"), "alone"
    await house.run()
    await house.streaming()
    house.op(**how)
    why = (
        "it does not know its bond any more: it was reset, or another device has its address; if it is yours, "
        "`gateway forget left` and `gateway pair left`"
    )
    next_try = re.compile(re.escape(f"left: quarantined ({why}; tried again in ") + r"([5-9]|10) min\)")
    found = lambda status: any(map(next_try.fullmatch, status["health"]["reasons"]))  # noqa: E731
    status = await house.until(found, "it is told, and when it is tried again")
    assert status["health"]["level"] == "degraded"
    sent = house.simulation.wearables[0].peripheral.notifications_sent
    await house.heard_again()
    assert house.simulation.wearables[0].peripheral.notifications_sent == sent
    if how["op"] == "impostor":
        house.op("impostor", on=False)
        os.kill(os.getpid(), signal.SIGUSR1)
    else:
        assert (await house.said("forget", "left"))[:2] == (0, "left: forgotten\n")
        assert (await house.said("pair", "left", "--passkey", "123456"))[:2] == (0, "left: paired\n")
    await house.streaming()
    assert (await house.status())["wearables"]["left"]["refused"] is None


async def test_a_bond_that_vanished_here_is_told_and_not_made_again(at: At) -> None:
    house = await at("name=left; pairing=just_works")
    house.configure("allow_just_works = true\n")
    await house.run()
    await house.streaming()
    await house.stop()
    (house.folder / "bluetooth-keys.json").unlink()
    await house.run()
    await house.until(lambda status: "the bond is gone from this machine" in str(status["health"]), "it is told")
    await house.heard_again()
    assert not house.connected()
    assert (await house.said("pair", "left"))[:2] == (0, "left: paired, without digits\n")
    await house.streaming()


async def test_a_stranger_of_the_same_name_and_service_is_heard_and_not_connected(at: At) -> None:
    house = await at(PASSKEY, "name=left2")
    house.simulation.wearables[1].peripheral.name = "left"
    await house.simulation.wearables[1].peripheral.change_address()
    await house.run()
    assert (await house.said("pair", "left", "--passkey", "123456"))[0] == 0
    await house.streaming()
    code, out, _ = await house.said("scan", "--seconds", "2", "--json")
    assert code == 0
    found = json.loads(out)
    (stranger,) = (one for one in found if one["address"] != house.address())
    assert [stranger[key] for key in ("name", "profile", "paired", "wearable")] == ["left", "reference", False, None]
    assert not house.connected("left2")


async def test_a_changing_address_is_the_same_wearables(at: At) -> None:
    house = await at(PASSKEY + "; privacy_s=600")
    await house.run()
    (found,) = (await request(load_config(house.config).socket, "scan", {"seconds": 1}))["heard"][:1]
    assert found["address"] != house.address()
    code, out, err = await house.said("pair", "left", "--passkey", "123456", "--heard-as", found["address"])
    assert (code, out) == (0, "left: paired\n"), err
    for _ in range(2):
        await house.streaming()
        house.op("out_of_range", on=True)
        await house.until(lambda status: status["wearables"]["left"]["link"] == "absent", "it is lost")
        await house.simulation.wearables[0].peripheral.change_address()
        house.op("out_of_range", on=False)
    await house.streaming()


async def test_without_a_daemon_commands_do_it_themselves(at: At) -> None:
    house = await at("name=left; pairing=numeric", "name=right")
    said = f"g1: no gateway runs behind {house.folder}/gateway.sock\nstore   nothing is stored yet ({house.folder}/"
    assert (await house.said("status"))[:2] == (1, f"{said}gateway.db)\n")
    code, out, _ = await house.said("scan", "--seconds", "2")
    assert code == 0
    assert [line.split()[0:2] for line in out.splitlines()[1:]] == [
        [house.address(), "left"],
        [house.address("right"), "right"],
    ] or "right" in out
    socket = load_config(house.config).socket
    assert not socket.exists()
    assert (await house.said("forget", "left"))[:2] == (0, "left: was not known\n")
    (row,) = json.loads((await house.said("wearables", "--json"))[1])
    assert (row["paired"], row["connected"], row["bond"]) == (False, False, None)


async def test_alone_a_failure_is_told_once_and_a_wearable_that_is_paired_is_not_looked_for(at: At) -> None:
    """In a process of its own, since a library's warnings would go to its terminal too."""
    house = await at(PASSKEY)
    words = [*(sys.executable, "-m", "gateway", "pair", "left"), *("--config", str(house.config), "--passkey")]

    async def said(passkey: str) -> tuple[int | None, str, str]:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*words, passkey, stdout=pipe, stderr=pipe)
        out, err = await asyncio.wait_for(process.communicate(), 3 * PATIENCE_S)
        return process.returncode, out.decode(), err.decode()

    looking = f"left ({house.address()}): looking for it; it has to be near and ready to pair\n"
    failed = f"error: {house.address()}: pairing failed: another passkey, or a number that was not confirmed\n"
    hint = "  Try again; a wearable that has been paired elsewhere may have to be reset first.\n"
    assert await said("654321") == (1, "", looking + failed + hint)
    assert await said("123456") == (0, "left: paired\n", looking)
    assert await said("123456") == (0, "left: is paired already; `gateway forget left` ends that\n", "")


async def test_alone_who_is_refused_is_told_with_the_way_out(at: At) -> None:
    house = await at("name=left; pairing=just_works")
    assert (await house.said("wearables"))[1].endswith(" no      no\n")
    house.configure("allow_just_works = true\n")
    assert (await house.said("pair", "left"))[0] == 0
    house.configure()
    out = (await house.said("wearables"))[1]
    assert (
        "left: it is paired without digits, so nobody knows who it is; `gateway forget left` and `gateway pair" in out
    )
    assert (await house.said("forget", "left"))[0] == 0
    assert (await house.said("wearables"))[1].endswith(
        "\nleft: forgotten, and not connected until `gateway pair left`\n"
    )


async def test_a_command_alone_whose_controller_is_away_is_told_what_to_look_at(at: At) -> None:
    house = await at(PASSKEY)
    house.simulation.close()
    house.configure()
    for words in (("scan", "--seconds", "1"), ("pair", "left")):
        code, out, err = await house.said(*words)
        assert (code, out) == (1, "")
        assert err.endswith(": Connection refused\n  Is the controller there, switched on, and used by nobody else?\n")


async def test_what_is_asked_of_the_daemon_wrongly_is_refused_by_it(at: At) -> None:
    house = await at(PASSKEY)
    await house.run()
    house.configure('[[wearable]]\nid = "new"\naddress = "C0:00:00:00:00:09"\n')
    for words in (("pair", "new"), ("forget", "new")):
        code, out, err = await house.said(*words)
        assert (code, out) == (2, "")
        assert "no wearable 'new' in the running gateway, there are left" in err
        assert "Was the configuration changed since it was started? Restart it." in err
    socket = load_config(house.config).socket
    for events, complaint in [
        ("none", "events: expected a list of objects"),
        ([{"payload": 1}], "events: expected payload, a text, and created_ns, a number, of each"),
        ([{"payload": "{}", "created_ns": 0}], "event: message: Unable to extract tag"),
    ]:
        with pytest.raises(RefusedByDaemon, match=complaint):
            await request(socket, "append", {"events": events})
    code, out, _ = await house.said("status")
    assert code == 0
    assert out.startswith("g1: degraded\n")
    assert "left" in out


async def test_a_wearable_that_is_tried_seldom_is_tried_at_once_where_the_operator_says_so(at: At) -> None:
    house = await at("name=left; pairing=passkey; passkey=123456")
    assert (await house.said("retry"))[0] == 1, "no daemon runs"
    await house.run()
    await house.until(lambda status: status["wearables"]["left"]["link"] == "quarantined", "nobody has paired with it")
    code, out, err = await house.said("retry", "right")
    assert (code, out) == (2, "")
    assert "no wearable 'right' in it" in err
    tried = house.simulation.wearables[0].peripheral.notifications_sent
    assert await house.said("retry", "left") == (0, "left: tried now\n", "")
    await house.until(lambda status: status["wearables"]["left"]["link"] != "quarantined", "it is tried")
    assert house.simulation.wearables[0].peripheral.notifications_sent == tried
