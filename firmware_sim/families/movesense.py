"""A Movesense sensor with the GATT SensorData service, as its firmware's sample app speaks it.

The client subscribes to a path of the sensor's API, `01 ref path`, and ends it with `02 ref`; each is answered with
`01 ref status_u16`. Data: `02 ref`, u32 ms of the first sample, all accelerations (3 x f32, m/s²), then all rates of
turn (3 x f32, deg/s); what is too long for one notification goes on in a second, `03 ref`.
Written from reference facts of the vendor's app alone; the gateway's decoder shares nothing with it.
"""

import struct
from collections.abc import Sequence
from itertools import cycle

import numpy as np

from firmware_sim.families.streaming import IMU, Settings, StreamingDevice, at_rate, counts_of
from firmware_sim.protocol import AttError, Float32, Int64, Property, Service, Taken, WriteRefused
from gateway.motion.units import STANDARD_GRAVITY_M_S2

SERVICE_UUID = "34802252-7185-4d5d-b431-630e7050e8f0"
COMMAND_UUID = "34800001-7185-4d5d-b431-630e7050e8f0"
DATA_UUID = "34800002-7185-4d5d-b431-630e7050e8f0"

SUBSCRIBE, UNSUBSCRIBE = 1, 2
RESULT, DATA, DATA_PART2 = 1, 2, 3
OK, BAD_REQUEST, NOT_FOUND, NOT_IMPLEMENTED, UNAVAILABLE = 200, 400, 404, 501, 503
"""Of its API: HTTP's status codes."""
RATES_HZ = (13, 26, 52)
"""It has 104, 208 and 416 as well; here the motion is played at 52."""
NOTIFICATION_BYTES_MAX = 158
"""Its ATT MTU is 161."""
PACKETS = (4, 4, 4, 8)
"""Samples a packet, in turn: four, and now and then a packet that needs two notifications."""
ACC_LSB_M_S2 = 0.000244 * STANDARD_GRAVITY_M_S2
GYRO_LSB_DEG_S = 0.07
"""Of its LSM6DS3 at 8 g and 2,000 deg/s (ST, LSM6DS3 datasheet, table 3)."""


def encode_data(ref: int, stamp_ms: int, values: Float32) -> bytes:
    """A packet before it is cut. values: (n, 6), or (n, 3) of a single sensor."""
    sensors = (values[:, first : first + 3] for first in range(0, values.shape[1], 3))
    blocks = [np.ascontiguousarray(sensor, "<f4").tobytes() for sensor in sensors]
    return struct.pack("<BBI", DATA, ref, stamp_ms % 2**32) + b"".join(blocks)


def cut(packet: bytes, bytes_max: int) -> list[bytes]:
    """One notification, or two."""
    head, rest = packet[:bytes_max], packet[bytes_max:]
    return [head, bytes([DATA_PART2, packet[1]]) + rest] if rest else [head]


class Movesense(StreamingDevice):
    manufacturer, model, firmware = "Movesense", "Movesense sensor HR2", "2.1.5"
    own_services = (Service(SERVICE_UUID, {COMMAND_UUID: Property.WRITE, DATA_UUID: Property.NOTIFY}),)
    rate = 52
    mtu_min = 161

    def __init__(self, settings: Settings, packets: Sequence[int] = PACKETS) -> None:
        self._packets = tuple(packets)
        self._stop()
        super().__init__(settings)

    def _stop(self) -> None:
        self._ref = 0
        self._part_hz = self.rate
        self._sizes = cycle(self._packets)
        self._size = next(self._sizes)
        self._times: list[int] = []
        self._values: list[Float32] = []

    @property
    def streaming(self) -> bool:
        return self._ref != 0 and DATA_UUID in self._subscribed

    def written(self, uuid: str, payload: bytes) -> None:
        if uuid != COMMAND_UUID:
            raise KeyError(uuid)
        if len(payload) < 2:
            raise WriteRefused(AttError.INVALID_ATTRIBUTE_LENGTH)
        command, ref = payload[:2]
        status = self._command(command, ref, payload[2:])
        if DATA_UUID in self._subscribed:
            self._notify(DATA_UUID, struct.pack("<BBH", RESULT, ref, status))

    def _command(self, command: int, ref: int, rest: bytes) -> int:
        if command == UNSUBSCRIBE:
            if not ref or ref != self._ref:
                return NOT_FOUND
            self._flush()
            self._ref = 0
            return OK
        if command != SUBSCRIBE:
            return NOT_IMPLEMENTED
        path, _, rate = rest.decode("ascii", "replace").rpartition("/")
        if not ref:
            return BAD_REQUEST
        if path != "/Meas/IMU6" or rate not in map(str, RATES_HZ):
            return NOT_FOUND
        if self._ref:
            return UNAVAILABLE
        self._ref, self._part_hz = ref, int(rate)
        return OK

    def _stream(self, index: Int64, values: Float32) -> Sequence[Taken]:
        kept = at_rate(index, self.rate, self._part_hz)
        if not kept.any():
            return ()
        lsb = np.array([ACC_LSB_M_S2] * 3 + [GYRO_LSB_DEG_S] * 3)
        clock_ns = self.clock_at_ns(index[kept])
        quantized = (counts_of(values[kept], lsb) * lsb).astype(np.float32)
        for at_ns, row in zip(clock_ns.tolist(), quantized, strict=True):
            self._times.append(at_ns)
            self._values.append(row)
            if len(self._times) == self._size:
                self._flush()
                self._size = next(self._sizes)
        return (self._taken(IMU, clock_ns, quantized),)

    def _flush(self) -> None:
        if self._times:
            packet = encode_data(self._ref, self._times[0] // 10**6, np.stack(self._values))
            for part in cut(packet, NOTIFICATION_BYTES_MAX):
                self._notify(DATA_UUID, part)
        self._times, self._values = [], []
