"""How a simulated wearable pairs: LE Secure Connections, with what it has to show a number or to confirm one.

Bluetooth Core 5.4, Vol 3, Part H, 2.3.5.1: what both sides have decides how they pair. Towards a gateway with keyboard
and display (BlueZ's KeyboardDisplay): `passkey` shows six digits that are typed there; `numeric` shows six digits on
both sides, which are compared; `just_works` has neither, so nobody knows who is at the other end.
"""

from enum import StrEnum

from bumble.device import Connection, Device
from bumble.gatt import Characteristic
from bumble.keys import MemoryKeyStore
from bumble.pairing import PairingConfig, PairingDelegate

PASSKEY_MAX = 999_999


class Pairing(StrEnum):
    NONE = "none"
    JUST_WORKS = "just_works"
    PASSKEY = "passkey"
    NUMERIC = "numeric"


_CAPABILITY = {
    Pairing.JUST_WORKS: PairingDelegate.NO_OUTPUT_NO_INPUT,
    Pairing.PASSKEY: PairingDelegate.DISPLAY_OUTPUT_ONLY,
    Pairing.NUMERIC: PairingDelegate.DISPLAY_OUTPUT_AND_YES_NO_INPUT,
}
_Permissions = Characteristic.Permissions
_PROTECTED = _Permissions.READ_REQUIRES_ENCRYPTION | _Permissions.WRITE_REQUIRES_ENCRYPTION


class _Panel(PairingDelegate):
    """What the wearable shows and is told: always the same passkey; its wearer confirms every number."""

    def __init__(self, pairing: Pairing, passkey: int) -> None:
        super().__init__(_CAPABILITY[pairing])
        self._passkey = passkey

    async def generate_passkey(self) -> int:
        return self._passkey


def require_pairing(device: Device, pairing: Pairing, passkey: int) -> None:
    """From now on it pairs so; its bonds are kept in memory, and there are none yet."""
    forget_bonds(device)
    if pairing is Pairing.NONE:
        return

    def configuration(_connection: Connection) -> PairingConfig:
        mitm = pairing is not Pairing.JUST_WORKS
        return PairingConfig(sc=True, mitm=mitm, bonding=True, delegate=_Panel(pairing, passkey))

    device.pairing_config_factory = configuration


def forget_bonds(device: Device) -> None:
    device.keystore = MemoryKeyStore()


def protected(permissions: Characteristic.Permissions, pairing: Pairing) -> Characteristic.Permissions:
    """Of a characteristic that a wearable which pairs lets nobody else read or write."""
    return permissions if pairing is Pairing.NONE else permissions | _PROTECTED
