"""One path of real processes: simulator, broker, proxy, daemon, subscriber.

Every wait is on a condition with a deadline; a process that ends by itself meanwhile fails the test at once.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.demo import arrange
from gateway.demo.announce import announced
from gateway.demo.arrange import Broker, Files
from gateway.demo.processes import Child, Children
from gateway.demo.simulator import SimulatorControl, WearableTruth

READY_WITHIN_S = 60.0
POLL_S = 0.1
GATEWAY_ID = "under-test"


@dataclass
class Path_:
    """A path under test. Whatever it starts is ended with the fixture. gateway_id: of one beside the first, its own."""

    files: Files
    children: Children
    gateway_id: str = GATEWAY_ID
    watched: list[Child] = field(default_factory=list)
    sim_time: str = ""
    control: SimulatorControl | None = None
    radio: tuple[str, int] = ("", 0)
    daemon: Child | None = None

    def beside(self, gateway_id: str) -> "Path_":
        """Another gateway in the same air."""
        folder = self.files.folder / gateway_id
        folder.mkdir()
        return Path_(Files(folder), self.children, gateway_id, [], self.sim_time, self.control, self.radio)

    def _named(self, process: str) -> str:
        return process if self.gateway_id == GATEWAY_ID else f"{process}-{self.gateway_id}"

    async def until(self, condition: Callable[[], bool], within_s: float, what: str) -> None:
        for _ in range(int(within_s / POLL_S)):
            for child in [*self.watched, *([self.daemon] if self.daemon else [])]:
                child.must_live()
            if condition():
                return
            await asyncio.sleep(POLL_S)
        pytest.fail(f"{what}: not within {within_s:g} s; {self.status()}")

    async def embedded_broker(self, username: str = "", password: str = "") -> Broker:
        argv = ("-m", "gateway.demo.broker", *(("--username", username) if username else ()))
        child = await self.children.start("broker", argv, {"FIDGET_BROKER_PASSWORD": password})
        self.watched.append(child)
        return Broker(*await child.says(announced, READY_WITHIN_S), username, password)

    async def subscribe(self, broker: Broker) -> None:
        argv = arrange.subscriber_argv(self.files, self.gateway_id, broker)
        child = await self.children.start(self._named("subscriber"), argv, {"FIDGET_BROKER_PASSWORD": broker.password})
        self.watched.append(child)
        await child.says(lambda line: line if line.startswith("subscribed") else None, READY_WITHIN_S)

    async def simulate(self, speed: float, duration_s: float, names: Sequence[str], *recording: Path) -> None:
        """duration_s: of device time."""
        arrange.write_scenario(self.files, names, ("sitting", "hand_tapping", "nail_biting"), duration_s, recording)
        await self.simulate_scenario(speed)

    async def simulate_scenario(self, speed: float) -> None:
        """The one that is written."""
        self.sim_time = arrange.simulated_time(speed)
        child = await self.children.start("simulator", arrange.simulator_argv(self.files, self.sim_time))
        self.watched.append(child)
        at = await child.says(lambda line: announced(line, "control"), READY_WITHIN_S)
        self.radio = await child.says(announced, READY_WITHIN_S)
        self.control = SimulatorControl(*at)
        await self.control.__aenter__()

    async def configure(self, broker: Broker, bundle: Path, **settings: dict[str, object]) -> None:
        assert self.control is not None
        arrange.write_configuration(
            self.files,
            gateway_id=self.gateway_id,
            bundle=bundle,
            radio=self.radio,
            broker=broker,
            wearables=await self.control.status(),
            settings=settings,
        )

    async def start_daemon(self) -> None:
        self.daemon = await self.children.start(self._named("daemon"), arrange.daemon_argv(self.files, self.sim_time))

    async def kill_daemon(self) -> None:
        assert self.daemon is not None
        self.daemon.must_live()
        await self.daemon.kill()
        self.daemon = None

    async def made(self) -> tuple[WearableTruth, ...]:
        assert self.control is not None
        return await self.control.status()

    async def sampling_over(self, within_s: float) -> tuple[WearableTruth, ...]:
        """When every wearable has played all of it."""
        made = await self.made()
        for _ in range(int(within_s / POLL_S)):
            if all(wearable.finished for wearable in made):
                return made
            for child in self.watched:
                child.must_live()
            await asyncio.sleep(POLL_S)
            made = await self.made()
        pytest.fail(f"still sampling after {within_s:g} s: {made}")

    def messages(self) -> list[dict[str, Any]]:
        """What the subscriber has written, whole lines only."""
        lines = self.files.received.read_text().splitlines(keepends=True) if self.files.received.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def predictions(self) -> list[dict[str, Any]]:
        """The prediction events received, repeats included."""
        return [m["event"] for m in self.messages() if m["topic"].endswith("/prediction")]

    def prediction_ids(self) -> set[tuple[str, str]]:
        """(source, id without its derivation) of the predictions; there must be a single derivation."""
        split = {(event["source"], *event["id"].rsplit("-", 1)) for event in self.predictions()}
        assert len({derivation for _, _, derivation in split}) <= 1
        return {(source, key) for source, key, _ in split}

    def status(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self.files.status.read_text())
        except FileNotFoundError:
            return None
        return found
