"""The two services that any wearable has beside its own: Device Information and Battery.

Sources: Device Information Service 1.1 (UUID 0x180A; strings in UTF-8) and Battery Service 1.0 (UUID 0x180F; level in
per cent, u8, read and notify), Bluetooth SIG.
"""

from firmware_sim.protocol import Property, Service


def uuid16(number: int) -> str:
    """Bluetooth Core Specification 5.4, vol. 3, part B, 2.5.1."""
    return f"0000{number:04x}-0000-1000-8000-00805f9b34fb"


MANUFACTURER, MODEL, SERIAL, FIRMWARE = (uuid16(number) for number in (0x2A29, 0x2A24, 0x2A25, 0x2A26))
BATTERY_LEVEL = uuid16(0x2A19)
DEVICE_INFORMATION = Service(uuid16(0x180A), dict.fromkeys((MANUFACTURER, MODEL, SERIAL, FIRMWARE), Property.READ))
BATTERY = Service(uuid16(0x180F), {BATTERY_LEVEL: Property.READ | Property.NOTIFY})


class Details:
    def __init__(self, *, manufacturer: str, model: str, firmware: str, serial: str, battery_percent: int) -> None:
        self._values = {
            MANUFACTURER: manufacturer.encode(),
            MODEL: model.encode(),
            FIRMWARE: firmware.encode(),
            SERIAL: serial.encode(),
            BATTERY_LEVEL: bytes([battery_percent]),
        }
        self._told = True

    def read(self, uuid: str) -> bytes | None:
        """None for a characteristic that is not of these services."""
        return self._values.get(uuid)

    def set_battery(self, percent: int) -> None:
        self._told = self._told and self._values[BATTERY_LEVEL] == bytes([percent])
        self._values[BATTERY_LEVEL] = bytes([percent])

    def next_notification(self) -> tuple[str, bytes] | None:
        """The level, once after each change."""
        if self._told:
            return None
        self._told = True
        return BATTERY_LEVEL, self._values[BATTERY_LEVEL]
