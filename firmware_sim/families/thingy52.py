"""A Nordic Thingy:52: raw motion, one sample a notification, without stamp or sequence; acceleration ends at 2 g.

Configuration (9 bytes): pedometer, temperature and compass intervals in ms (u16 each), motion frequency in Hz (u16,
5 to 200), wake on motion (u8). Raw (18 bytes): acceleration 3 x i16 of 1/1024 g, rate of turn 3 x i16 of 1/32 deg/s,
magnetic field 3 x i16 of 1/16 uT.
Written from reference facts of the vendor's firmware alone; the gateway's decoder shares nothing with it.
"""

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from firmware_sim.families.streaming import IMU, Settings, StreamingDevice, at_rate, counts_of
from firmware_sim.protocol import AttError, Float32, Int64, Property, Service, Taken, WriteRefused
from gateway.motion.units import STANDARD_GRAVITY_M_S2

SERVICE_UUID = "ef680400-9b35-4933-9b10-52ffa9740042"
CONFIG_UUID = "ef680401-9b35-4933-9b10-52ffa9740042"
RAW_UUID = "ef680406-9b35-4933-9b10-52ffa9740042"

_CONFIG = struct.Struct("<HHHHB")
CONFIG_AT_FIRST = _CONFIG.pack(500, 500, 500, 10, 1)
FREQUENCY_MIN_HZ, FREQUENCY_MAX_HZ = 5, 50
"""It goes up to 200; here the motion is played at 50."""
LSB = np.array([STANDARD_GRAVITY_M_S2 / 1024] * 3 + [1 / 32] * 3)
ACC_COUNTS_MAX = 2047
"""Just below 2 g, where it saturates."""
FIELD = (320, -80, 640)
"""20, -5 and 40 uT: a field that stays as it is."""


def encode_raw(counts: NDArray[np.int64], field: Sequence[int]) -> bytes:
    """counts: (6,). field: three counts of the magnetometer."""
    return struct.pack("<9h", *counts.tolist(), *field)


class Thingy52(StreamingDevice):
    manufacturer, model, firmware = "Nordic Semiconductor", "Thingy:52", "2.2.0"
    own_services = (Service(SERVICE_UUID, {CONFIG_UUID: Property.READ | Property.WRITE, RAW_UUID: Property.NOTIFY}),)
    rate = 50
    has_clock = False

    def __init__(self, settings: Settings) -> None:
        self._config = CONFIG_AT_FIRST
        super().__init__(settings)

    @property
    def streaming(self) -> bool:
        return RAW_UUID in self._subscribed

    def _stop(self) -> None:
        """It holds no sample back."""

    def _read(self, uuid: str) -> bytes:
        if uuid != CONFIG_UUID:
            raise KeyError(uuid)
        return self._config

    def written(self, uuid: str, payload: bytes) -> None:
        if uuid != CONFIG_UUID:
            raise KeyError(uuid)
        if len(payload) != _CONFIG.size:
            raise WriteRefused(AttError.INVALID_ATTRIBUTE_LENGTH)
        if not FREQUENCY_MIN_HZ <= self._frequency_hz(payload) <= FREQUENCY_MAX_HZ:
            raise WriteRefused(AttError.VALUE_NOT_ALLOWED)
        self._config = payload

    @staticmethod
    def _frequency_hz(config: bytes) -> int:
        frequency_hz: int = _CONFIG.unpack(config)[3]
        return frequency_hz

    def _stream(self, index: Int64, values: Float32) -> Sequence[Taken]:
        kept = at_rate(index, self.rate, self._frequency_hz(self._config))
        if not kept.any():
            return ()
        counts = counts_of(values[kept], LSB)
        counts[:, :3] = counts[:, :3].clip(-ACC_COUNTS_MAX - 1, ACC_COUNTS_MAX)
        for row in counts:
            self._notify(RAW_UUID, encode_raw(row, FIELD))
        return (self._taken(IMU, self.clock_at_ns(index[kept]), (counts * LSB).astype(np.float32)),)

    def crash(self, *, flash_kept: bool) -> None:
        if not flash_kept:
            self._config = CONFIG_AT_FIRST
        self.restart()
