"""An Arduino Nano 33 BLE Sense with the Science Journal sketch: 10 Hz, two characteristics, no time.

Acceleration 3 x f32 in g, rate of turn 3 x f32 in deg/s, notified one after the other.
Written from reference facts of the sketch alone; the gateway's decoder shares nothing with it.
"""

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from firmware_sim.families.streaming import IMU, StreamingDevice, counts_of
from firmware_sim.protocol import Float32, Int64, Property, Service, Taken
from gateway.motion.units import m_s2_from

SERVICE_UUID = "555a0002-0000-467a-9538-01f0652c74e8"
ACC_UUID = "555a0002-0011-467a-9538-01f0652c74e8"
GYRO_UUID = "555a0002-0012-467a-9538-01f0652c74e8"

ACC_LSB_G, GYRO_LSB_DEG_S = 4 / 32768, 2000 / 32768
"""Of its LSM9DS1 as its library sets it: 4 g and 2,000 deg/s."""


class ArduinoNano33(StreamingDevice):
    manufacturer, model, firmware = "Arduino", "Nano 33 BLE Sense", "1.0"
    own_services = (Service(SERVICE_UUID, dict.fromkeys((ACC_UUID, GYRO_UUID), Property.NOTIFY)),)
    rate = 10
    has_clock = False

    @property
    def streaming(self) -> bool:
        return {ACC_UUID, GYRO_UUID} <= self._subscribed

    def _stop(self) -> None:
        """It holds no sample back."""

    def _stream(self, index: Int64, values: Float32) -> Sequence[Taken]:
        acc_lsb = m_s2_from(ACC_LSB_G, "g")
        counts = counts_of(values, np.array([acc_lsb] * 3 + [GYRO_LSB_DEG_S] * 3))
        acc_g: NDArray[np.float64] = np.asarray(counts[:, :3] * ACC_LSB_G, np.float64)
        gyro: NDArray[np.float64] = np.asarray(counts[:, 3:] * GYRO_LSB_DEG_S, np.float64)
        for acc_row, gyro_row in zip(acc_g.tolist(), gyro.tolist(), strict=True):
            self._notify(ACC_UUID, struct.pack("<3f", *acc_row))
            self._notify(GYRO_UUID, struct.pack("<3f", *gyro_row))
        quantized = np.concatenate([m_s2_from(acc_g, "g"), gyro], axis=1).astype(np.float32)
        return (self._taken(IMU, self.clock_at_ns(index), quantized),)
