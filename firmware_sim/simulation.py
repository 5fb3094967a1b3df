"""The running simulation: wearables that sample as their time passes, their radio, and a control channel.

Time is told by a clock that is handed in; all samples that are due are made in bulk, so any speed costs few turns.
"""

import asyncio
import json
import logging
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_sim.device import Device, Settings
from firmware_sim.endpoint import Endpoint
from firmware_sim.peripheral import Peripheral
from firmware_sim.radio import VirtualRadio
from firmware_sim.scenario import WearableSpec
from firmware_sim.truth import TruthFile

LOG = logging.getLogger(__name__)

STEP_S = 0.02
"""One sample at 50 Hz and the speed of life."""
SAMPLES_A_STEP_MAX = 4000
"""Of one wearable, so that the radio has its turn while a late one catches up."""
REQUEST_BYTES_MAX = 64 * 1024
CONTROL_OPS = ("status", "out_of_range", "stop", "reboot")


class RequestRejected(Exception):
    """A control request that cannot be obeyed; the message is the answer."""


class Wearable:
    """One device that plays its samples: values (n, 6), m/s² and deg/s. It samples from `start` on."""

    def __init__(
        self,
        spec: WearableSpec,
        values: NDArray[np.float32],
        radio: VirtualRadio,
        now_ns: Callable[[], int],
        rng: random.Random,
    ) -> None:
        self.spec = spec
        self.device = Device(Settings(spec.serial_number(), capacity=spec.ring), rng)
        self.peripheral = Peripheral(spec.name, spec.ble_address(), self.device, radio, self.uptime_ns)
        self._values = values
        self._played = 0
        self._now_ns = now_ns
        self._session_began_ns = 0
        self._sessions: list[dict[str, object]] = []
        self._truth: TruthFile | None = None
        self._open_session()

    async def start(self) -> None:
        await self.peripheral.start()
        self._session_began_ns = self._now_ns()

    def uptime_ns(self) -> int:
        """Of the session, by the device's own crystal."""
        return int((self._now_ns() - self._session_began_ns) * (1 + self.spec.drift_ppm * 1e-6))

    def advance(self) -> None:
        """Makes the samples that are due."""
        device = self.device
        if not device.finished:
            due = device.samples_due(self.uptime_ns()) - device.running.made
            end = min(self._played + min(due, SAMPLES_A_STEP_MAX), len(self._values))
            if end > self._played:
                counts = device.sample(self._values[self._played : end])
                self._played = end
                if self._truth is not None:
                    self._truth.add(counts)
            if self._played == len(self._values):
                self.stop()
        self.peripheral.wake()

    def stop(self) -> None:
        """No more samples: the last frame is closed and the truth is on disk."""
        self.device.finish()
        if self._truth is not None:
            self._truth.flush()
        self.peripheral.wake()

    def reboot(self) -> None:
        """A new session begins; the motion goes on where it was. Each session has a truth file of its own."""
        self._note_session()
        self.peripheral.lose_link()
        self.device.restart()
        self._open_session()
        self._session_began_ns = self._now_ns()

    def close(self) -> None:
        """The truth is complete, the radio off."""
        self._close_truth()
        self.peripheral.close()

    def status(self) -> dict[str, object]:
        device, running = self.device, self.device.running
        self._note_session()
        return {
            "name": self.spec.name,
            "address": self.spec.ble_address(),
            "session": f"{running.number:016x}",
            "made": running.made,
            "to_make": len(self._values),
            "closed": running.closed,
            "acked": running.watermark,
            "ring_held": device.held,
            "ring_fill": device.fill,
            "overwritten": sum(session.overwritten for session in device.sessions),
            "connected": device.connected,
            "in_range": self.peripheral.reachable,
            "finished": device.finished,
            "notifications_sent": self.peripheral.notifications_sent,
            "sessions": [dict(session) for session in self._sessions],
        }

    def _open_session(self) -> None:
        path = self.spec.truth
        if path is not None and self._sessions:
            path = path.with_stem(f"{path.stem}.{len(self._sessions) + 1}")
        self._close_truth()
        self._truth = TruthFile(path, self.device.settings.config) if path is not None else None
        self._sessions.append({"session": f"{self.device.running.number:016x}", "truth": str(path) if path else None})
        self._note_session()

    def _close_truth(self) -> None:
        if self._truth is not None:
            self._truth.close()

    def _note_session(self) -> None:
        self._sessions[-1]["made"] = self.device.running.made


class Simulation:
    """Wearables in one air. `run` never returns by itself."""

    def __init__(self, now_ns: Callable[[], int], rng: random.Random) -> None:
        self.radio = VirtualRadio()
        self.wearables: list[Wearable] = []
        self._now_ns = now_ns
        self._rng = rng
        self._controls: list[Endpoint] = []

    def add(self, spec: WearableSpec, values: NDArray[np.float32]) -> None:
        """Raises TruthRejected."""
        self.wearables.append(Wearable(spec, values, self.radio, self._now_ns, self._rng))

    async def serve(self, endpoint: Endpoint) -> Endpoint:
        """Lets hosts attach to the radio. Raises CannotListen."""
        return await self.radio.serve(endpoint)

    async def serve_control(self, endpoint: Endpoint) -> Endpoint:
        """Obeys JSON lines: {"op": one of CONTROL_OPS, ...}, one answer a line. Raises CannotListen."""

        def protocol() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=REQUEST_BYTES_MAX), self._converse)

        _, chosen = await endpoint.listen(protocol)
        self._controls.append(chosen)
        return chosen

    async def run(self) -> None:
        """Samples from now on, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for wearable in self.wearables:
                await wearable.start()
                tasks.create_task(wearable.peripheral.keep_advertising())
            while True:
                for wearable in self.wearables:
                    wearable.advance()
                await asyncio.sleep(STEP_S)

    def close(self) -> None:
        """Truth files are complete and sockets gone."""
        for wearable in self.wearables:
            wearable.close()
        self.radio.close()
        for endpoint in self._controls:
            endpoint.remove()

    def obey(self, request: object) -> dict[str, object]:
        """The answer to one control request; what cannot be obeyed is answered with `error`."""
        try:
            if not isinstance(request, dict):
                raise RequestRejected("expected a JSON object")
            return self._obey(request)
        except RequestRejected as rejected:
            return {"error": str(rejected)}

    def _obey(self, request: dict[str, Any]) -> dict[str, object]:
        match request.get("op"):
            case "status":
                pass
            case "out_of_range":
                on = request.get("on")
                if not isinstance(on, bool):
                    raise RequestRejected(f"out_of_range: on is {on!r}, expected true or false")
                self._named(request).peripheral.out_of_range(on)
            case "stop":
                for wearable in [self._named(request)] if "wearable" in request else self.wearables:
                    wearable.advance()
                    wearable.stop()
            case "reboot":
                self._named(request).reboot()
            case other:
                raise RequestRejected(f"unknown op {other!r}: expected one of {', '.join(CONTROL_OPS)}")
        return {"wearables": [wearable.status() for wearable in self.wearables]}

    def _named(self, request: dict[str, Any]) -> Wearable:
        name = request.get("wearable")
        found = next((wearable for wearable in self.wearables if wearable.spec.name == name), None)
        if found is None:
            names: Sequence[str] = [wearable.spec.name for wearable in self.wearables]
            raise RequestRejected(f"no wearable {name!r}: there are {', '.join(names)}")
        return found

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while True:
                try:
                    line = await reader.readline()
                except ValueError:  # longer than the limit; where the next request begins is not known
                    writer.write(b'{"error": "request too long"}\n')
                    break
                if not line:
                    break
                try:
                    answer = self.obey(json.loads(line))
                except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
                    answer = {"error": "not JSON"}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        writer.close()
