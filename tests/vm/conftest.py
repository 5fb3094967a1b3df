"""A guest on the virtual radio: wearables, broker and subscriber outside, the daemon, BlueZ and systemd inside."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.demo.arrange import Broker, Files, write_configuration
from gateway.demo.processes import Children
from tests.e2e.path import GATEWAY_ID, Path_
from tests.vm import image as images
from tests.vm.machine import OUTSIDE, GuestFailed, Machine

RADIO_PORT, BROKER_PORT = 9000, 1883
"""At OUTSIDE."""
START_S = 600.0
"""The daemon's imports and its bundle's self-test, on an emulated core of which a crowded machine gives a tenth: over
120 s were seen on arm64."""
BUNDLE = Path("/opt/fidget-gateway/bundle")


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest) -> images.Image:
    """Debian 13's, or by parameter another one of images.KINDS; skips where it cannot be built."""
    name = getattr(request, "param", "trixie")
    lacking = images.missing(name)
    if lacking:
        pytest.skip(f"no virtual machine: {lacking}")
    return images.image(name, lambda line: print(line, flush=True))


@dataclass
class Guest:
    """The machine and what runs outside it."""

    path: Path_
    machine: Machine
    broker: Broker

    async def shell(self, words: str, within_s: float = 60.0) -> str:
        return await asyncio.to_thread(self.machine.command, words, within_s=within_s)

    async def write(self, path: str, content: str) -> None:
        await asyncio.to_thread(self.machine.write, path, content)

    async def plug_in(self) -> None:
        """hci0, by the virtual radio outside."""
        await self.shell("systemctl start virtual-adapter && systemctl start bluetooth")
        await self.until("bluetoothctl show | grep -q 'Powered: yes' || bluetoothctl power on", "the adapter is on")

    async def plug_in_another(self) -> None:
        """hci1 beside it, on the same radio."""
        units = "/etc/systemd/system/virtual-adapter"
        await self.shell(f"cp {units}.service {units}-2.service && systemctl start virtual-adapter-2")
        await self.until("test $(bluetoothctl list | grep -c Controller) = 2", "BlueZ has both adapters")

    async def configure(self, only: Sequence[str] | None = None, **settings: dict[str, object]) -> None:
        """The daemon's configuration, by the addresses of the wearables outside. only: of these; None of all."""
        assert self.path.control is not None
        defaults: dict[str, dict[str, object]] = {
            "gateway": {"state_dir": "/var/lib/fidget-gateway"},
            "radio": {"backend": "bluez"},
            "store": {"commit_interval_s": 0.5},
        }
        write_configuration(
            self.path.files,
            gateway_id=GATEWAY_ID,
            bundle=BUNDLE,
            radio=None,
            broker=self.broker,
            wearables=[w for w in await self.path.control.status() if only is None or w.name in only],
            settings={name: defaults.get(name, {}) | settings.get(name, {}) for name in {*defaults, *settings}},
        )
        await self.write("/etc/fidget-gateway/gateway.toml", self.path.files.configuration.read_text())

    async def start(self) -> None:
        await self.shell("systemctl start fidget-gateway", START_S)

    async def until(self, words: str, what: str, within_s: float = 60.0) -> None:
        """Until a command in the guest succeeds."""
        error: GuestFailed | None = None
        for _ in range(int(within_s * 2)):
            try:
                await self.shell(words)
            except GuestFailed as failed:
                error = failed
                await asyncio.sleep(0.5)
            else:
                return
        log = await self.shell("journalctl --no-pager -n 60 -u fidget-gateway -u bluetooth -u virtual-adapter")
        pytest.fail(f"{what}: not within {within_s:g} s; {error}\n{log}")

    async def log(self, unit: str = "fidget-gateway") -> str:
        return await self.shell(f"journalctl --no-pager -o cat -u {unit}")


@pytest.fixture
async def guest(image: images.Image, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Guest]:
    """Resumed; two wearables that play until they are stopped, at the speed of life, on the air. The parameter: other
    ones, by name what more their scenario says of them, in TOML."""
    async with Children(tmp_path) as children:
        path = Path_(Files(tmp_path), children)
        wearables: dict[str, str] = getattr(request, "param", {"left": "", "right": ""})
        tables = [
            f'[[wearable]]\nname = "{name}"\nduration_s = 3600\ntruth = "{path.files.truth(name).name}"\n{more}\n'
            for name, more in wearables.items()
        ]
        path.files.scenario.write_text("".join(tables))
        await path.simulate_scenario(1.0)
        broker = await path.embedded_broker()
        await path.subscribe(broker)
        machine = Machine(image, tmp_path, {RADIO_PORT: path.radio[1], BROKER_PORT: broker.port})
        try:
            await asyncio.to_thread(machine.resume)
            under_test = Guest(path, machine, Broker(OUTSIDE, BROKER_PORT))
            await under_test.plug_in()
            yield under_test
        finally:
            with suppress(GuestFailed, subprocess.TimeoutExpired):
                journal = await asyncio.to_thread(machine.command, "journalctl --no-pager -o short-precise")
                (tmp_path / "journal.log").write_text(journal)
            machine.cut_power()
            if path.control is not None:
                await path.control.__aexit__(None, None, None)
