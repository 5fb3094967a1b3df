"""An Xsens (Movella) DOT: 60 samples a second, each with its own stamp in microseconds.

Control: `01 01 mode` starts a payload mode, `01 00 mode` stops it; mode 21 is acceleration and rate of turn. Payload on
the medium characteristic: u32 stamp (wraps after 71.6 min), 3 x f32 acceleration in m/s², 3 x f32 rate of turn in
deg/s (the unit is not verified), then zeros.
Written from reference facts of the vendor's specification alone; the gateway's decoder shares nothing with it.
"""

import struct
from collections.abc import Sequence

import numpy as np

from firmware_sim.families.streaming import IMU, Settings, StreamingDevice, counts_of
from firmware_sim.protocol import AttError, Float32, Int64, Property, Service, Taken, WriteRefused
from gateway.motion.units import STANDARD_GRAVITY_M_S2

SERVICE_UUID = "15172000-4947-11e9-8646-d663bd873d93"
CONTROL_UUID = "15172001-4947-11e9-8646-d663bd873d93"
MEDIUM_UUID = "15172003-4947-11e9-8646-d663bd873d93"

MODE = 21
PAYLOAD_BYTES = 40
"""Of the medium characteristic."""
LSB = np.array([16 * STANDARD_GRAVITY_M_S2 / 32768] * 3 + [2000 / 32768] * 3)


def encode_payload(stamp_us: int, values: Sequence[float], size: int = PAYLOAD_BYTES) -> bytes:
    return struct.pack(f"<I{len(values)}f", stamp_us % 2**32, *values).ljust(size, b"\0")


class XsensDot(StreamingDevice):
    manufacturer, model, firmware = "Xsens", "Xsens DOT", "2.3.1"
    own_services = (
        Service(SERVICE_UUID, {CONTROL_UUID: Property.READ | Property.WRITE, MEDIUM_UUID: Property.NOTIFY}),
    )
    rate = 60
    mtu_min = PAYLOAD_BYTES + 3

    def __init__(self, settings: Settings) -> None:
        self._started = False
        super().__init__(settings)

    @property
    def streaming(self) -> bool:
        return self._started and MEDIUM_UUID in self._subscribed

    def _stop(self) -> None:
        self._started = False

    def _read(self, uuid: str) -> bytes:
        if uuid != CONTROL_UUID:
            raise KeyError(uuid)
        return bytes([1, self._started, MODE])

    def written(self, uuid: str, payload: bytes) -> None:
        if uuid != CONTROL_UUID:
            raise KeyError(uuid)
        if len(payload) != 3:
            raise WriteRefused(AttError.INVALID_ATTRIBUTE_LENGTH)
        if payload[0] != 1 or payload[1] > 1 or payload[2] != MODE:
            raise WriteRefused(AttError.VALUE_NOT_ALLOWED)
        self._started = bool(payload[1])

    def _stream(self, index: Int64, values: Float32) -> Sequence[Taken]:
        stamps_us = self.clock_at_ns(index) // 1000
        quantized = (counts_of(values, LSB) * LSB).astype(np.float32)
        for stamp_us, row in zip(stamps_us.tolist(), quantized.tolist(), strict=True):
            self._notify(MEDIUM_UUID, encode_payload(stamp_us, row))
        return (self._taken(IMU, stamps_us * 1000, quantized),)
