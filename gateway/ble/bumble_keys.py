"""The bonds of a Bumble host: a file that keeps them, and what a person is asked while one is made.

Bluetooth Core 5.4, Vol 3, Part H: 2.3.5 (what both sides can show and type decides how they pair), 2.4.3 (keys).
"""

import logging
import secrets
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from bumble import hci
from bumble.crypto import ah
from bumble.device import Connection
from bumble.keys import KeyStore, PairingKeys
from bumble.pairing import PairingConfig, PairingDelegate

from gateway.ble.bluez_agent import Answers
from gateway.ble.private_file import read_private, write_private
from gateway.link.bonds import Held

log = logging.getLogger(__name__)

VERSION = 1
KEY_BYTES = 16
NO_PRIVACY = bytes(KEY_BYTES)
"""An identity key that says that there is none (Part H, 2.4.2.1)."""
RESOLVED_MAX = 1024
"""Addresses whose owner is remembered. Phones change theirs every quarter of an hour."""
OWN_IDENTITY = PairingConfig.AddressType.RANDOM
"""The host connects under its static random address, so that is what a wearable is to know it by."""


class KeyFile(KeyStore):
    """Keys by identity address, and this host's own address, by which wearables know it.

    What a pairing brings is `fresh`, and kept only by `keep`. Bumble is told no key by which it resolves addresses
    (get_resolving_keys): it would connect to whoever has one only under a changing address. Resolving is done here.
    """

    def __init__(self, file: Path | None = None) -> None:
        """file: None keeps nothing. Raises FileDamaged."""
        self._file = file
        self.fresh: dict[str, PairingKeys] = {}
        found = None
        if file is not None:
            hint = "Move it away and pair the wearables again."
            found = read_private(file, _is_key_file, hint)
        if found is None:
            found = {"address": hci.Address.generate_static_address().to_string(False), "bonds": {}}
        self.own_address: str = found["address"]
        self._bonds = {address: PairingKeys.from_dict(keys) for address, keys in found["bonds"].items()}
        self._resolved: Callable[[str], str | None] = lru_cache(RESOLVED_MAX)(self._resolve)

    def held(self, address: str) -> Held:
        key = _long_term(self._bonds.get(address.upper()))
        return Held(False) if key is None else Held(True, key.authenticated)

    def addresses(self) -> list[str]:
        """Of the wearables that are bonded."""
        return list(self._bonds)

    def identity(self, address: str) -> str:
        """Whose resolvable private address this is; the address itself where nobody bonded is known by it."""
        return self._resolved(address.upper()) or address.upper()

    def keep(self, address: str) -> None:
        """A fresh bond from now on. Raises InputRejected where it cannot be written."""
        self._bonds[address.upper()] = self.fresh.pop(address.upper())
        self._changed()

    def is_usable(self, address: str) -> bool:
        """Whether a fresh bond has a key by which a link is encrypted; who pairs the old way may give none."""
        key = _long_term(self.fresh.get(address.upper()))
        return key is not None and len(key.value) == KEY_BYTES

    def forget(self, address: str) -> bool:
        """Whether there was one. Raises InputRejected where that cannot be written."""
        known = self._bonds.pop(address.upper(), None) is not None
        if known:
            self._changed()
        return known

    def save(self) -> None:
        """Also makes the file where there is none, so that the own address stays. Raises InputRejected."""
        if self._file is None:
            return
        bonds = {address: keys.to_dict() for address, keys in self._bonds.items()}
        write_private(self._file, {"version": VERSION, "address": self.own_address, "bonds": bonds})

    def _changed(self) -> None:
        self._resolved = lru_cache(RESOLVED_MAX)(self._resolve)
        self.save()

    def _resolve(self, address: str) -> str | None:
        """Core 5.4, Vol 6, Part B, 1.3.2.3."""
        if address in self._bonds or not hci.Address(address).is_resolvable:
            return None
        little_endian = bytes.fromhex(address.replace(":", ""))[::-1]
        for identity, keys in self._bonds.items():
            irk = keys.irk.value if keys.irk is not None else NO_PRIVACY
            if irk != NO_PRIVACY and ah(irk, little_endian[3:]) == little_endian[:3]:
                return str(identity)
        return None

    # Bumble's KeyStore

    async def get(self, name: str) -> PairingKeys | None:
        return self._bonds.get(self.identity(_plain(name)))

    async def get_all(self) -> list[tuple[str, PairingKeys]]:
        return list(self._bonds.items())

    async def get_resolving_keys(self) -> list[tuple[bytes, hci.Address]]:
        return []

    async def update(self, name: str, keys: PairingKeys) -> None:
        self.fresh[_plain(name)] = keys

    async def delete(self, name: str) -> None:
        self.forget(_plain(name))


def _plain(name: str) -> str:
    """Bumble marks public addresses: 00:11:22:33:44:55/P."""
    return name.partition("/")[0].upper()


def _long_term(keys: PairingKeys | None) -> PairingKeys.Key | None:
    return None if keys is None else keys.ltk or keys.ltk_central


def _is_key_file(found: Any) -> bool:
    """Each bond has a key of 16 bytes by which a link is encrypted."""
    for address, keys in found["bonds"].items():
        made = PairingKeys.from_dict(keys)
        key = _long_term(made)
        if made.irk is not None and len(made.irk.value) != KEY_BYTES:
            return False
        if key is None or len(key.value) != KEY_BYTES or hci.Address(address).to_string(False) != address:
            return False
    return found["version"] == VERSION and hci.Address(found["address"]).is_static


class _Digits(int):
    """Bumble takes a passkey of 000000 for none, which some wearables have."""

    def __bool__(self) -> bool:
        return True


class Panel(PairingDelegate):
    """What a person sees and types while a wearable pairs. without_number: it may pair with nothing to see or type.

    numbered: a number was typed, compared or shown. refused: why it was ended here.
    """

    def __init__(self, answers: Answers, address: str, *, without_number: bool) -> None:
        super().__init__(PairingDelegate.DISPLAY_OUTPUT_AND_KEYBOARD_INPUT)
        self._answers, self._address, self._without_number = answers, address, without_number
        self.numbered = False
        self.without_digits = False

    def configuration(self) -> PairingConfig:
        return PairingConfig(sc=True, mitm=True, bonding=True, delegate=self, identity_address_type=OWN_IDENTITY)

    async def get_number(self) -> int | None:
        passkey = await self._answers.passkey(self._address)
        self.numbered = passkey is not None
        return None if passkey is None else _Digits(passkey)

    async def compare_numbers(self, number: int, digits: int) -> bool:  # noqa: ARG002
        self.numbered = await self._answers.confirm(self._address, number)
        return self.numbered

    async def generate_passkey(self) -> int:
        return _Digits(secrets.randbelow(1_000_000))

    async def display_number(self, number: int, digits: int) -> None:  # noqa: ARG002
        self.numbered = await self._answers.shown(self._address, number)

    async def confirm(self, auto: bool = False) -> bool:  # noqa: ARG002
        """Nothing to see on either side."""
        self.without_digits = not self._without_number
        return self._without_number


class _Deaf(PairingDelegate):
    async def accept(self) -> bool:
        return False


def refusing(connection: Connection) -> PairingConfig:
    """For whoever begins to pair by itself: bonds are made by this side alone."""
    log.warning("%s: wants to pair by itself; refused", connection.peer_address.to_string(False))
    return PairingConfig(delegate=_Deaf(), identity_address_type=OWN_IDENTITY)
