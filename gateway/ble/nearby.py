"""Who advertises near here, as far as a person wants to know it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData

from gateway.profiles import recognised

HEARD_MAX = 256
"""Devices that are remembered, the latest heard; a busy street has fewer at a time."""


@dataclass(frozen=True, slots=True)
class Heard:
    """profile: the one that its services or its name speak for; None where it is none that is known here. wearable:
    its id in the configuration."""

    address: str
    name: str | None
    rssi_dbm: int
    profile: str | None
    paired: bool
    wearable: str | None = None


class Nearby:
    """Give it each advertisement."""

    def __init__(self) -> None:
        self._advertised: dict[str, tuple[str | None, int, frozenset[str]]] = {}

    def __len__(self) -> int:
        return len(self._advertised)

    def __call__(self, device: BLEDevice, data: AdvertisementData) -> None:
        address = device.address.upper()
        name, _, services = self._advertised.pop(address, (None, 0, frozenset()))
        uuids = services | {uuid.lower() for uuid in data.service_uuids}
        self._advertised[address] = data.local_name or name, data.rssi, uuids
        if len(self._advertised) > HEARD_MAX:
            del self._advertised[next(iter(self._advertised))]

    def table(self, bonded: Collection[str], wearables: Mapping[str, str]) -> list[Heard]:
        """The nearest first. wearables: ids by address."""
        found = [
            Heard(
                address,
                name,
                rssi_dbm,
                recognised(name, uuids),
                address in bonded,
                wearables.get(address),
            )
            for address, (name, rssi_dbm, uuids) in self._advertised.items()
        ]
        return sorted(found, key=lambda heard: -heard.rssi_dbm)
