"""How a simulated wearable pairs: by LE Secure Connections, with what it has to show a number or to confirm one.

Bluetooth Core 5.4, Vol 3, Part H, 2.3.5.1: what both sides have decides how they pair. Towards a gateway with keyboard
and display (BlueZ's KeyboardDisplay): `passkey` shows six digits that are typed there; `numeric` shows six digits on
both sides, which are compared; `keyboard` asks for the six digits that the gateway shows; `just_works` has none of it,
so nobody knows who is at the other end. `refused` wants a bond and lets nobody make one. `legacy` shows six digits too,
but knows only the pairing of Bluetooth 4.0, whose keys an eavesdropper finds within seconds.
"""

import asyncio
import hashlib
from dataclasses import replace
from enum import StrEnum

from bumble.device import Connection, Device
from bumble.gatt import Characteristic
from bumble.keys import MemoryKeyStore, PairingKeys
from bumble.pairing import PairingConfig, PairingDelegate

PASSKEY_MAX = 999_999


class Pairing(StrEnum):
    NONE = "none"
    JUST_WORKS = "just_works"
    PASSKEY = "passkey"
    NUMERIC = "numeric"
    KEYBOARD = "keyboard"
    REFUSED = "refused"
    LEGACY = "legacy"


_CAPABILITY = {
    Pairing.JUST_WORKS: PairingDelegate.NO_OUTPUT_NO_INPUT,
    Pairing.PASSKEY: PairingDelegate.DISPLAY_OUTPUT_ONLY,
    Pairing.NUMERIC: PairingDelegate.DISPLAY_OUTPUT_AND_YES_NO_INPUT,
    Pairing.KEYBOARD: PairingDelegate.KEYBOARD_INPUT_ONLY,
    Pairing.REFUSED: PairingDelegate.NO_OUTPUT_NO_INPUT,
    Pairing.LEGACY: PairingDelegate.DISPLAY_OUTPUT_ONLY,
}
_Permissions = Characteristic.Permissions
_PROTECTED = _Permissions.READ_REQUIRES_ENCRYPTION | _Permissions.WRITE_REQUIRES_ENCRYPTION


class Keypad:
    """What is typed on a wearable, whenever it is."""

    def __init__(self) -> None:
        self._typed: asyncio.Queue[int] = asyncio.Queue(maxsize=1)

    def type(self, digits: int) -> None:
        """Instead of what stands there unread."""
        if self._typed.full():
            self._typed.get_nowait()
        self._typed.put_nowait(digits)

    async def read(self) -> int:
        return await self._typed.get()


class _Digits(int):
    """Bumble takes a passkey of 000000 for none."""

    def __bool__(self) -> bool:
        return True


class _Panel(PairingDelegate):
    """What the wearable shows and is told: always the same passkey; its wearer confirms every number."""

    def __init__(self, pairing: Pairing, passkey: int, keypad: Keypad) -> None:
        super().__init__(_CAPABILITY[pairing])
        self._pairing, self._passkey, self._keypad = pairing, passkey, keypad

    async def accept(self) -> bool:
        return self._pairing is not Pairing.REFUSED

    async def generate_passkey(self) -> int:
        return _Digits(self._passkey)

    async def get_number(self) -> int | None:
        return _Digits(await self._keypad.read())


def require_pairing(device: Device, pairing: Pairing, passkey: int, keypad: Keypad) -> None:
    """From now on it pairs so; its bonds are kept in memory, and there are none yet."""
    forget_bonds(device)
    if pairing is not Pairing.NONE:
        pair_as(device, pairing, passkey, keypad)


def pair_as(device: Device, pairing: Pairing, passkey: int, keypad: Keypad) -> None:
    """From now on it pairs so."""

    def configuration(_connection: Connection) -> PairingConfig:
        return PairingConfig(
            sc=pairing is not Pairing.LEGACY,
            mitm=pairing is not Pairing.JUST_WORKS,
            bonding=True,
            delegate=_Panel(pairing, passkey, keypad),
            identity_address_type=PairingConfig.AddressType.RANDOM,  # under which it advertises
        )

    device.pairing_config_factory = configuration


def identity_key(name: str, seed: int) -> bytes:
    """By which whoever is bonded knows its changing addresses."""
    return hashlib.blake2b(f"{name}/{seed}".encode(), digest_size=16, person=b"identity").digest()


class _Bonds(MemoryKeyStore):
    """Legacy pairing makes two keys: by that which the peripheral gave, links are encrypted on which it is peripheral
    (Part H, 2.4.4.2). Bumble 0.0.236 looks for it under ltk_peripheral and keeps the other one there."""

    async def update(self, name: str, keys: PairingKeys) -> None:
        await super().update(name, replace(keys, ltk_central=keys.ltk_peripheral, ltk_peripheral=keys.ltk_central))


def forget_bonds(device: Device) -> None:
    device.keystore = _Bonds()


def protected(permissions: Characteristic.Permissions, pairing: Pairing) -> Characteristic.Permissions:
    """Of a characteristic that a wearable which pairs lets nobody else read or write."""
    return permissions if pairing is Pairing.NONE else permissions | _PROTECTED


def unprotected(permissions: Characteristic.Permissions) -> Characteristic.Permissions:
    return permissions & ~_PROTECTED
