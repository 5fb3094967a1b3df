"""A Polar Verity Sense, as its measurement service (PMD) speaks: acceleration and rate of turn in streams of their own.

Control point: `01 type` asks for a measurement's settings, `02 type settings` starts it, `03 type` stops it. Answer:
`F0 op type status more` and parameters; settings are TLVs of type, count and values. Frame: u8 type, u64 ns since
2000-01-01 of the LAST sample, u8 frame type (bit 7: delta-compressed), payload. A delta payload is a first sample
of 3 x i16 and blocks `u8 bits, u8 n` + ceil(3 x bits x n / 8) bytes: differences in two's complement, low bits first,
the three axes in turn.
Written from reference facts of the vendor's SDK alone; the gateway's decoder shares nothing with it.
"""

import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from firmware_sim.families.streaming import ACC, GYRO, Settings, StreamingDevice, counts_of
from firmware_sim.protocol import AttError, Float32, Int64, Property, Service, Taken, WriteRefused
from gateway.motion.units import m_s2_from

SERVICE_UUID = "fb005c80-02e7-f387-1cad-8acd2d8df0c8"
CONTROL_UUID = "fb005c81-02e7-f387-1cad-8acd2d8df0c8"
DATA_UUID = "fb005c82-02e7-f387-1cad-8acd2d8df0c8"

GET_SETTINGS, START, STOP = 1, 2, 3
ANSWER, FEATURES = 0xF0, 0x0F
DONE, INVALID_OP, INVALID_MEASUREMENT, INVALID_PARAMETER, ALREADY_IN_STATE = 0, 1, 2, 5, 6
"""Status of an answer (PmdControlPointResponse of the vendor's SDK)."""
RATE, RESOLUTION, RANGE, CHANNELS, FACTOR = 0, 1, 2, 4, 5
_SETTING_BYTES = {RATE: 2, RESOLUTION: 2, RANGE: 2, CHANNELS: 1}
EPOCH_NS = 599_616_000 * 10**9
"""2019-01-01 in its time: what its clock shows after a boot until someone sets it."""

FRAME_BYTES_MAX = 229
"""Its ATT MTU is 232."""
HEAD_BYTES = 10
BLOCK_SAMPLES = 24
"""Each block has the least width that holds its differences."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """number: as in control and frames. settings: those that it offers, one value each. count: of one LSB, in
    mG or deg/s. samples_a_frame: fewer where they do not fit."""

    number: int
    columns: slice
    frame_type: int
    settings: dict[int, int]
    count: float
    samples_a_frame: int


ACCELERATION = Measurement(2, ACC, 0x81, {RATE: 52, RESOLUTION: 16, RANGE: 8, CHANNELS: 3}, 8000 / 32768, 73)
ROTATION = Measurement(5, GYRO, 0x80, {RATE: 52, RESOLUTION: 16, RANGE: 2000, CHANNELS: 3}, 2000 / 32768, 57)
MEASUREMENTS = {measurement.number: measurement for measurement in (ACCELERATION, ROTATION)}


def encode_frame(number: int, last_ns: int, frame_type: int, payload: bytes) -> bytes:
    return struct.pack("<BQB", number, last_ns, frame_type) + payload


def bits_of(differences: NDArray[np.int64]) -> int:
    """The least width of two's complement that holds them."""
    return max(int(d if d >= 0 else ~d).bit_length() + 1 for d in (differences.min(), differences.max()))


def encode_block(differences: NDArray[np.int64], bits: int) -> bytes:
    """(n, 3) differences of at most so many bits, n below 256."""
    raised = (differences[..., None] >> np.arange(bits)) & 1
    return bytes([bits, len(differences)]) + np.packbits(raised.astype(np.uint8).ravel(), bitorder="little").tobytes()


def deltas_bytes(counts: NDArray[np.int64]) -> list[int]:
    """How long the delta payload of the first n of these samples is, for n from 1 on."""
    sizes, whole = [6], 6
    differences = np.diff(counts, axis=0)
    bits = np.where(differences < 0, ~differences, differences).max(axis=1, initial=0)
    for first in range(0, len(bits), BLOCK_SAMPLES):
        widest = np.maximum.accumulate(bits[first : first + BLOCK_SAMPLES])
        block = [2 + -(-3 * (int(b).bit_length() + 1) * n // 8) for n, b in enumerate(widest, 1)]
        sizes += [whole + size for size in block]
        whole += block[-1]
    return sizes


def encode_deltas(counts: NDArray[np.int64]) -> bytes:
    """(n, 3) counts of 16 bits, n >= 1, as a delta payload."""
    blocks = [struct.pack("<3h", *counts[0].tolist())]
    differences = np.diff(counts, axis=0)
    for first in range(0, len(differences), BLOCK_SAMPLES):
        part = differences[first : first + BLOCK_SAMPLES]
        blocks.append(encode_block(part, bits_of(part)))
    return b"".join(blocks)


@dataclass(slots=True)
class _Buffer:
    """What of a started measurement is not in a frame yet."""

    times_ns: list[int] = field(default_factory=list)
    counts: list[NDArray[np.int64]] = field(default_factory=list)


class PolarVeritySense(StreamingDevice):
    manufacturer, model, firmware = "Polar Electro Oy", "Polar Sense", "2.1.0"
    own_services = (
        Service(
            SERVICE_UUID,
            {CONTROL_UUID: Property.READ | Property.WRITE | Property.INDICATE, DATA_UUID: Property.NOTIFY},
        ),
    )
    rate = 52
    mtu_min = 232
    sensors = (ACC, GYRO)

    def __init__(self, settings: Settings) -> None:
        self._running: dict[int, _Buffer] = {}
        super().__init__(settings)

    @property
    def streaming(self) -> bool:
        return bool(self._running) and DATA_UUID in self._subscribed

    def _stop(self) -> None:
        self._running.clear()

    def _read(self, uuid: str) -> bytes:
        if uuid != CONTROL_UUID:
            raise KeyError(uuid)
        features = sum(1 << number for number in MEASUREMENTS)
        return bytes([FEATURES]) + features.to_bytes(2, "little")

    def written(self, uuid: str, payload: bytes) -> None:
        if uuid != CONTROL_UUID:
            raise KeyError(uuid)
        if CONTROL_UUID not in self._subscribed:
            raise WriteRefused(AttError.CCCD_IMPROPERLY_CONFIGURED)
        if len(payload) < 2:
            raise WriteRefused(AttError.INVALID_ATTRIBUTE_LENGTH)
        op, number = payload[:2]
        status, parameters = self._control(op, number, payload[2:])
        self._indications.append((CONTROL_UUID, bytes([ANSWER, op, number, status, 0]) + parameters))

    def _control(self, op: int, number: int, rest: bytes) -> tuple[int, bytes]:
        if op not in (GET_SETTINGS, START, STOP):
            return INVALID_OP, b""
        measurement = MEASUREMENTS.get(number)
        if measurement is None:
            return INVALID_MEASUREMENT, b""
        if op == GET_SETTINGS:
            offered = [
                bytes([setting, 1]) + value.to_bytes(_SETTING_BYTES[setting], "little")
                for setting, value in measurement.settings.items()
            ]
            return DONE, b"".join(offered)
        if op == STOP:
            if number not in self._running:
                return ALREADY_IN_STATE, b""
            self._close_frame(measurement)
            del self._running[number]
            return DONE, b""
        if _settings_in(rest) != measurement.settings:
            return INVALID_PARAMETER, b""
        if number in self._running:
            return ALREADY_IN_STATE, b""
        self._running[number] = _Buffer()
        return DONE, struct.pack("<BBf", FACTOR, 1, measurement.count)

    def _stream(self, index: Int64, values: Float32) -> Sequence[Taken]:
        clock_ns = self.clock_at_ns(index)
        taken = []
        for number, buffer in sorted(self._running.items()):
            measurement = MEASUREMENTS[number]
            wanted = values[:, measurement.columns].astype(np.float64)
            count = m_s2_from(measurement.count, "mg") if measurement is ACCELERATION else measurement.count
            counts = counts_of(wanted.astype(np.float32), count)
            taken.append(self._taken(measurement.columns, clock_ns, (counts * count).astype(np.float32)))
            buffer.times_ns += clock_ns.tolist()
            buffer.counts += list(counts)
            while len(buffer.counts) >= measurement.samples_a_frame:
                self._send_frame(measurement, measurement.samples_a_frame)
        return taken

    def _send_frame(self, measurement: Measurement, samples: int) -> None:
        """As many of the first samples as fit into a frame."""
        buffer = self._running[measurement.number]
        counts = np.stack(buffer.counts[:samples])
        samples = bisect_right(deltas_bytes(counts), FRAME_BYTES_MAX - HEAD_BYTES)
        payload = encode_deltas(counts[:samples])
        last_ns = EPOCH_NS + buffer.times_ns[samples - 1]
        self._notify(DATA_UUID, encode_frame(measurement.number, last_ns, measurement.frame_type, payload))
        del buffer.times_ns[:samples], buffer.counts[:samples]

    def _close_frame(self, measurement: Measurement) -> None:
        while self._running[measurement.number].counts:
            waiting = len(self._running[measurement.number].counts)
            self._send_frame(measurement, min(waiting, measurement.samples_a_frame))

    def _flush(self) -> None:
        for number in self._running:
            self._close_frame(MEASUREMENTS[number])


def _settings_in(parameters: bytes) -> dict[int, int] | None:
    """The TLVs of a start; None where they are not well formed."""
    settings = {}
    while parameters:
        setting, count = parameters[0], parameters[1] if len(parameters) > 1 else 0
        size = _SETTING_BYTES.get(setting)
        if size is None or count != 1 or len(parameters) < 2 + size:
            return None
        settings[setting] = int.from_bytes(parameters[2 : 2 + size], "little")
        parameters = parameters[2 + size :]
    return settings
