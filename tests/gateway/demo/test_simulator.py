"""The demo's line to the simulator, and what it writes for it, against a real `firmware-sim run`."""

import asyncio
from pathlib import Path

import pytest

from gateway.demo import arrange
from gateway.demo.account import truth_rows
from gateway.demo.announce import announced
from gateway.demo.arrange import Files
from gateway.demo.processes import Children
from gateway.demo.simulator import SimulatorControl
from gateway.errors import GatewayError

WITHIN_S = 30.0


async def test_the_wearables_play_what_was_asked_until_they_are_stopped(tmp_path: Path) -> None:
    files = Files(tmp_path)
    names = arrange.wearable_names(2)
    arrange.write_scenario(files, names, ("sitting", "hand_tapping", "nail_biting", "ear_rubbing"), 600.0, ())
    async with Children(tmp_path) as children:
        simulator = await children.start("simulator", arrange.simulator_argv(files, arrange.simulated_time(20)))
        at = await simulator.says(lambda line: announced(line, "control"), WITHIN_S)
        async with SimulatorControl(*at) as control:
            for _ in range(int(WITHIN_S / 0.02)):
                if min(wearable.made for wearable in await control.status()) >= 500:
                    break
                await asyncio.sleep(0.02)
            with pytest.raises(GatewayError, match="refused out_of_range: no wearable 'middle': there are left, right"):
                await control.out_of_range("middle", on=True)
            await control.stop_sampling()
            stopped = await control.status()
    assert [wearable.name for wearable in stopped] == ["left", "right"]
    assert min(wearable.made for wearable in stopped) >= 500
    assert all(wearable.finished and not wearable.connected and wearable.acknowledged == 0 for wearable in stopped)
    assert [truth_rows(files.truth(wearable.name)) for wearable in stopped] == [wearable.made for wearable in stopped]
    assert len({wearable.session for wearable in stopped}) == 2
    assert files.truth("left").read_text() != files.truth("right").read_text()


async def test_a_simulator_that_is_gone_is_told_in_a_sentence(tmp_path: Path) -> None:
    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    server = await asyncio.start_server(hangs_up, "127.0.0.1", 0)
    async with SimulatorControl(*server.sockets[0].getsockname()) as control:
        with pytest.raises(GatewayError, match="the simulated wearables do not answer status"):
            await control.status()
    server.close()
