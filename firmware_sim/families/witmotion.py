"""A WitMotion BWT901BLE: it streams as soon as someone subscribes, without stamp, sequence or checksum.

Frame: `55 61` and 9 x i16: acceleration (16/32768 g a count), rate of turn (2000/32768 deg/s), angle (180/32768 deg).
Frames are a stream of bytes: a notification may end anywhere in one. Rate: unlock `FF AA 69 88 B5`, then
`FF AA 03 rr 00`, which holds at once; it starts with the rate that was saved last, `FF AA 00 00 00`, at first 10 Hz.
Written from reference facts of the vendor's protocol alone; the gateway's decoder shares nothing with it.
"""

import struct
from collections.abc import Sequence
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from firmware_sim.families.streaming import IMU, Settings, StreamingDevice, at_rate, counts_of
from firmware_sim.protocol import Float32, Int64, Property, Service, Taken
from gateway.motion.units import STANDARD_GRAVITY_M_S2

SERVICE_UUID = "0000ffe5-0000-1000-8000-00805f9a34fb"
NOTIFY_UUID = "0000ffe4-0000-1000-8000-00805f9a34fb"
WRITE_UUID = "0000ffe9-0000-1000-8000-00805f9a34fb"

UNLOCK, SAVE, SET_RATE = bytes.fromhex("ffaa6988b5"), bytes.fromhex("ffaa000000"), bytes.fromhex("ffaa03")
RATES_HZ = {6: 10, 7: 20, 8: 50}
"""Of those that it has, what the motion, played at 50, can serve."""
RATE_AT_FIRST_HZ = 10
LSB = np.array([16 * STANDARD_GRAVITY_M_S2 / 32768] * 3 + [2000 / 32768] * 3)
NOTIFICATIONS = (20, 20, 40, 13, 27)
"""Bytes of each, in turn: a frame, two joined, and two that are cut where they should not be."""


def encode_frame(counts: NDArray[np.int64], angles: Sequence[int]) -> bytes:
    """counts: (6,) of acceleration and rate of turn. angles: three counts."""
    return struct.pack("<BB9h", 0x55, 0x61, *counts.tolist(), *angles)


def tilt(counts: NDArray[np.int64]) -> tuple[int, int, int]:
    """Roll and pitch as gravity shows them, and no heading, as counts of 180/32768 deg."""
    x, y, z = counts[:3].tolist()
    roll, pitch = np.degrees(np.arctan2(y, z)), np.degrees(np.arctan2(-x, np.hypot(y, z)))
    return int(np.clip(roll / 180 * 32768, -32768, 32767)), int(pitch / 180 * 32768), 0


class WitMotion(StreamingDevice):
    manufacturer, model, firmware = "WitMotion", "BWT901BLE5.0", "1.1"
    own_services = (
        Service(
            SERVICE_UUID,
            {NOTIFY_UUID: Property.NOTIFY, WRITE_UUID: Property.WRITE | Property.WRITE_WITHOUT_RESPONSE},
        ),
    )
    rate = 50
    has_clock = False

    def __init__(self, settings: Settings, notifications: Sequence[int] = NOTIFICATIONS) -> None:
        self.part_hz = self._saved_hz = RATE_AT_FIRST_HZ
        self._unlocked = False
        self._cuts = tuple(notifications)
        self.mtu_min = 3 + max(self._cuts)  # type: ignore[misc]  # how it cuts says what it needs
        self._stop()
        super().__init__(settings)

    @property
    def streaming(self) -> bool:
        return NOTIFY_UUID in self._subscribed

    def _stop(self) -> None:
        self._bytes = b""
        self._sizes = cycle(self._cuts)
        self._size = next(self._sizes)

    def written(self, uuid: str, payload: bytes) -> None:
        """What it does not know it does not answer either."""
        if uuid != WRITE_UUID:
            raise KeyError(uuid)
        if payload == UNLOCK:
            self._unlocked = True
        elif self._unlocked and payload == SAVE:
            self._saved_hz, self._unlocked = self.part_hz, False
        elif self._unlocked and payload[:3] == SET_RATE and len(payload) == 5 and payload[3] in RATES_HZ:
            self.part_hz = RATES_HZ[payload[3]]

    def _stream(self, index: Int64, values: Float32) -> Sequence[Taken]:
        kept = at_rate(index, self.rate, self.part_hz)
        if not kept.any():
            return ()
        counts = counts_of(values[kept], LSB)
        self._bytes += b"".join(encode_frame(row, tilt(row)) for row in counts)
        while len(self._bytes) >= self._size:
            self._notify(NOTIFY_UUID, self._bytes[: self._size])
            self._bytes = self._bytes[self._size :]
            self._size = next(self._sizes)
        return (self._taken(IMU, self.clock_at_ns(index[kept]), (counts * LSB).astype(np.float32)),)

    def _flush(self) -> None:
        if self._bytes:
            self._notify(NOTIFY_UUID, self._bytes)
            self._bytes = b""

    def restart(self) -> None:
        super().restart()
        self.part_hz, self._unlocked = self._saved_hz, False

    def crash(self, *, flash_kept: bool) -> None:
        if not flash_kept:
            self._saved_hz = RATE_AT_FIRST_HZ
        self.restart()
