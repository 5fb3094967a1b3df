"""The running simulation: wearables that sample as their time passes, their radio, and a control channel.

Time is told by a clock that is handed in; all samples that are due are made in bulk, so any speed costs few turns.
"""

import asyncio
import functools
import json
import logging
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_sim.device import Device, Settings
from firmware_sim.encoding import Config
from firmware_sim.endpoint import Endpoint
from firmware_sim.families import FAMILIES
from firmware_sim.families.streaming import Settings as FamilySettings
from firmware_sim.faults import FirmwareFaults, Happened, RadioFaults, SensorFaults
from firmware_sim.pairing import PASSKEY_MAX, Pairing, identity_key
from firmware_sim.peripheral import Peripheral, Radio
from firmware_sim.protocol import SimulatedDevice
from firmware_sim.radio import REACH_DBM, CorrectedController, Signal, VirtualRadio
from firmware_sim.scenario import REFERENCE, WearableSpec
from firmware_sim.truth import Truth

LOG = logging.getLogger(__name__)

STEP_S = 0.02
"""One sample at 50 Hz and the speed of life."""
SAMPLES_A_STEP_MAX = 4000
"""Of one wearable, so that the radio has its turn while a late one catches up."""
FULL_PERCENT = 100
REQUEST_BYTES_MAX = 64 * 1024
CONTROL_OPS = (
    *("status", "out_of_range", "silent", "stop", "reboot", "forget_bonds", "impostor", "change_address", "type"),
    "signal",
)


class RequestRejected(Exception):
    """A control request that cannot be obeyed; the message is the answer."""


def motion_rate_hz(spec: WearableSpec) -> float:
    """At which a wearable is given its motion."""
    return Config().rate_hz if spec.profile == REFERENCE else float(FAMILIES[spec.profile].rate)


def make_device(spec: WearableSpec, rng: random.Random) -> SimulatedDevice:
    """As the scenario has it, with a full battery. Its clock has been running for up to 71 minutes, by its serial."""
    serial = spec.serial_number()
    if spec.profile == REFERENCE:
        return Device(Settings(serial, capacity=spec.ring, battery_percent=FULL_PERCENT), rng)
    settings = FamilySettings(serial, clock_ns=serial % 2**32 * 1000, battery_percent=FULL_PERCENT)
    return FAMILIES[spec.profile](settings)


class Wearable:
    """One device that plays its samples: values (n, 6), m/s² and deg/s. It samples from `start` on."""

    def __init__(
        self,
        spec: WearableSpec,
        device: SimulatedDevice,
        values: NDArray[np.float32],
        radio: Radio,
        now_ns: Callable[[], int],
    ) -> None:
        self.spec = spec
        self.device = device
        seed = f"{spec.name}/{spec.seed}"
        self._radio_faults = RadioFaults(spec.faults, seed)
        self._sensor_faults, self._firmware_faults = SensorFaults(spec.faults, seed), FirmwareFaults(spec.faults, seed)
        self.peripheral = Peripheral(
            spec.name,
            spec.ble_address(),
            self.device,
            radio,
            self.uptime_ns,
            self._radio_faults,
            self._elapsed_ns,
            Pairing(spec.pairing),
            spec.passkey or 0,
            identity_key(spec.name, spec.seed) if spec.privacy_s else bytes(16),
        )
        self._values = values
        self._played = 0
        self._now_ns = now_ns
        self._started_ns = 0
        self._uptime_ns = 0.0
        self._uptime_read_ns = 0
        self._sessions: list[dict[str, object]] = []
        self._truth: Truth | None = None
        self._session = device.session
        self._open_session()

    async def start(self) -> None:
        await self.peripheral.start()
        self._started_ns = self._now_ns()

    def _elapsed_ns(self) -> int:
        """Since the start; what faults count from."""
        return self._now_ns() - self._started_ns

    def uptime_ns(self) -> int:
        """Of the session, by the device's own crystal."""
        now_ns = self._elapsed_ns()
        passed_ns = self._firmware_faults.device_ns(self._uptime_read_ns, now_ns)
        self._uptime_ns += passed_ns + (now_ns - self._uptime_read_ns) * self.spec.drift_ppm * 1e-6
        self._uptime_read_ns = now_ns
        return int(self._uptime_ns)

    def advance(self) -> None:
        """Makes the samples that are due, and lets go wrong what is due to."""
        self._go_wrong()
        device = self.device
        if not device.finished:
            self._follow_session()
            due = device.samples_due(self.uptime_ns()) - device.made
            end = min(self._played + min(due, SAMPLES_A_STEP_MAX), len(self._values))
            if end > self._played:
                at_ns = (np.arange(self._played, end) * (1e9 / device.rate_hz)).astype(np.int64)
                taken = device.measure(self._sensor_faults.apply(self._values[self._played : end], at_ns))
                self._played = end
                if self._truth is not None:
                    for part in taken:
                        self._truth.add(part)
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
        self._reboot(self.device.restart)

    def _reboot(self, how: Callable[[], None]) -> None:
        self._note_session()
        self.peripheral.lose_link()
        how()
        self._follow_session()
        self.uptime_ns()
        self._uptime_ns = 0.0

    def _go_wrong(self) -> None:
        now_ns = self._elapsed_ns()
        for happened in self._firmware_faults.due(now_ns):
            LOG.info("%s: %s %s", self.spec.name, happened.name, "/".join(map(str, happened.value)))
            if happened.name == "reboot":
                self._reboot(functools.partial(play, self.device, happened))
            else:
                play(self.device, happened)
        self.peripheral.suffer()

    def close(self) -> None:
        """The truth is complete, the radio off."""
        self._close_truth()
        self.peripheral.close()

    def status(self) -> dict[str, object]:
        device = self.device
        self._follow_session()
        self._note_session()
        return {
            "name": self.spec.name,
            "address": self.spec.ble_address(),
            "advertised_address": self.peripheral.advertised_address,
            "profile": self.spec.profile,
            "session": f"{device.session:016x}",
            "to_make": len(self._values),
            **device.status(),
            "connected": device.connected,
            "central": self.peripheral.central,
            "links_max": self.peripheral.links_max,
            "in_range": self.peripheral.reachable,
            "finished": device.finished,
            "notifications_sent": self.peripheral.notifications_sent,
            "sessions": [dict(session) for session in self._sessions],
        }

    def _follow_session(self) -> None:
        """A new session of the device has a truth of its own."""
        if self.device.session != self._session:
            self._session = self.device.session
            self._open_session()

    def _open_session(self) -> None:
        path = self.spec.truth
        if path is not None and self._sessions:
            path = path.with_stem(f"{path.stem}.{len(self._sessions) + 1}")
        self._close_truth()
        self._truth = Truth(path, self.device.sensors) if path is not None else None
        self._sessions.append({"session": f"{self.device.session:016x}", "truth": str(path) if path else None})
        self._note_session()

    def _close_truth(self) -> None:
        if self._truth is not None:
            self._truth.close()

    def _note_session(self) -> None:
        if self.device.session == self._session:
            self._sessions[-1]["made"] = self.device.status()["made"]


def play(device: SimulatedDevice, happened: Happened) -> None:
    """Does to the device what has happened to it. Its link must have been ended before a reboot."""
    match happened.name, happened.value:
        case "reboot", (flash,):
            device.crash(flash_kept=flash == "kept")
        case "step", (seconds,):
            device.step_clock(float(seconds))
        case "overrun", (samples,):
            device.overrun(int(samples))
        case "full", (samples,):
            device.shrink(int(samples))
        case "battery", (percent,):
            device.set_battery(int(percent))


async def _stay_private(peripheral: Peripheral, every_s: float) -> None:
    while True:
        await peripheral.change_address()
        await asyncio.sleep(every_s)


class Simulation:
    """Wearables in one air. `run` never returns by itself."""

    def __init__(self, now_ns: Callable[[], int], rng: random.Random, radio: Radio | None = None) -> None:
        """radio: where the wearables are on the air; None is a virtual one, which can be served."""
        self.started = asyncio.Event()
        self._virtual = VirtualRadio()
        self.radio: Radio = radio or self._virtual
        self.wearables: list[Wearable] = []
        self._now_ns = now_ns
        self._rng = rng
        self._controls: list[Endpoint] = []
        self._changing: set[asyncio.Task[None]] = set()

    def add(self, spec: WearableSpec, values: NDArray[np.float32]) -> None:
        """values: at the device's rate. Raises TruthRejected."""
        device = make_device(spec, self._rng)
        self.wearables.append(Wearable(spec, device, values, self.radio, self._now_ns))

    async def serve(self, endpoint: Endpoint) -> Endpoint:
        """Lets hosts attach to the radio. Raises CannotListen."""
        return await self._virtual.serve(endpoint)

    async def serve_control(self, endpoint: Endpoint) -> Endpoint:
        """Obeys JSON lines: {"op": one of CONTROL_OPS, ...}, one answer a line. Raises CannotListen."""

        def protocol() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=REQUEST_BYTES_MAX), self._converse)

        _, chosen = await endpoint.listen(protocol)
        self._controls.append(chosen)
        return chosen

    async def run(self) -> None:
        """Samples from now on, until cancelled."""
        for wearable in self.wearables:
            await wearable.start()
        self.started.set()
        async with asyncio.TaskGroup() as tasks:
            for wearable in self.wearables:
                tasks.create_task(wearable.peripheral.keep_advertising())
                if wearable.spec.privacy_s is not None:
                    tasks.create_task(_stay_private(wearable.peripheral, wearable.spec.privacy_s))
            while True:
                for wearable in self.wearables:
                    wearable.advance()
                await asyncio.sleep(STEP_S)

    def close(self) -> None:
        """Truth files are complete and sockets gone."""
        for wearable in self.wearables:
            wearable.close()
        self._virtual.close()
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
            case ("out_of_range" | "silent" | "impostor") as op:
                on = request.get("on")
                if not isinstance(on, bool):
                    raise RequestRejected(f"{op}: on is {on!r}, expected true or false")
                getattr(self._named(request).peripheral, op)(on)
            case "type":
                digits = request.get("digits")
                if not isinstance(digits, int) or not 0 <= digits <= PASSKEY_MAX:
                    raise RequestRejected(f"type: digits is {digits!r}, expected a number of up to six")
                self._named(request).peripheral.keypad.type(digits)
            case "signal":
                self._set_signal(request)
            case "stop":
                for wearable in [self._named(request)] if "wearable" in request else self.wearables:
                    wearable.advance()
                    wearable.stop()
            case "reboot":
                self._named(request).reboot()
            case "forget_bonds":
                self._named(request).peripheral.forget_bonds()
            case "change_address":
                self._change_address(self._named(request))
            case other:
                raise RequestRejected(f"unknown op {other!r}: expected one of {', '.join(CONTROL_OPS)}")
        return {"wearables": [wearable.status() for wearable in self.wearables]}

    def _change_address(self, wearable: Wearable) -> None:
        if wearable.spec.privacy_s is None:
            raise RequestRejected(f"change_address: {wearable.spec.name} has no privacy_s")
        if wearable.peripheral.central is not None:
            raise RequestRejected(f"change_address: {wearable.spec.name} is connected")
        changing = asyncio.get_running_loop().create_task(wearable.peripheral.change_address())
        self._changing.add(changing)
        changing.add_done_callback(self._changing.discard)

    def _set_signal(self, request: dict[str, Any]) -> None:
        """dbm null is out of reach."""
        numbers = {"dbm": request.get("dbm"), "sigma_db": request.get("sigma_db", 0.0)}
        if numbers["dbm"] is None:
            numbers["dbm"] = REACH_DBM
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not -200.0 <= value <= 50.0:
                raise RequestRejected(f"signal: {name} is {value!r}, expected a number, or null for dbm out of reach")
        place = request.get("host")
        if isinstance(place, bool) or not isinstance(place, int) or place < 1:
            raise RequestRejected(f"signal: host is {place!r}, expected 1 for the first that attached, 2 ...")
        controller = self._named(request).peripheral.controller
        if not isinstance(controller, CorrectedController):
            raise RequestRejected("signal: only on the virtual radio")
        self._virtual.set_signal(controller, place, Signal(**numbers))

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
