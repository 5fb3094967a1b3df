"""What the shell needs of a radio, whichever stack drives it."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData

from gateway.ble.bluez_agent import Answers
from gateway.link import rules
from gateway.link.bonds import Held

Heard = Callable[[BLEDevice, AdvertisementData], None]
Lost = Callable[[BleakClient], None]
Listening = Callable[[Heard], AbstractAsyncContextManager[None]]
"""Gives each advertisement to a function, while it lasts."""
Told = Callable[[rules.Event], None]
"""Of a link that is being made: Linked, Asked, Bonded, as far as the stack tells of it."""


def untold(_: rules.Event) -> None:
    """For who wants to hear nothing of a link that is being made."""


class Adapter(Protocol):
    """One Bluetooth adapter. Scanners and clients are bleak's own classes, with this adapter behind them."""

    name: str
    """For people: `hci0`, `tcp-client:127.0.0.1:9000`."""

    async def attach(self, addresses: Collection[str]) -> None:
        """Makes the adapter ready, ending links to these addresses that an earlier process left, and its own.

        Raises RadioAway.
        """
        ...

    async def wait_lost(self) -> None:
        """Returns when the adapter is gone and has to be attached again."""
        ...

    async def detach(self) -> None:
        """Ends every link and gives the adapter back. Does nothing where it is not attached."""
        ...

    def scanner(self, heard: Heard, *, each: bool = False) -> BleakScanner:
        """each: every advertisement is told, also one that says nothing new."""
        ...

    def client(
        self, device: BLEDevice, lost: Lost, services: Sequence[str] | None, timeout_s: float, told: Told = untold
    ) -> BleakClient:
        """Not connected yet. lost is called once when the link ends, whoever ended it."""
        ...

    def left_half_open(self, error: BaseException) -> bool:
        """Whether a failed connect shows that the stack still holds an earlier attempt, which blocks every other."""
        ...

    def is_full(self, error: BaseException) -> bool:
        """Whether a failed connect shows that the controller holds no more links than it does."""
        ...

    async def forget(self, device: BLEDevice) -> None:
        """Ends what the stack still holds of this device: a link, an attempt to connect."""
        ...

    # Bonds: gateway/ble/bonds.py and operator.py.

    async def held(self, address: str) -> Held:
        """What the stack holds of this wearable's pairing. Raises RadioAway."""
        ...

    async def bonded(self) -> dict[str, bool]:
        """Who is paired, by address, and whether it is connected. Raises RadioAway."""
        ...

    def lost_bond(self, error: BaseException) -> bool | None:
        """Whether a failed connect shows that the wearable has not got its key; None: it may be so."""
        ...

    async def pair(
        self,
        address: str,
        answers: Answers | None = None,
        *,
        without_number: bool = False,
        heard_as: str | None = None,
        listening: Listening | None = None,
    ) -> bool:
        """Whether a number was typed, compared or shown. Raises PairingFailed and RadioAway."""
        ...

    async def unpair(self, address: str) -> bool:
        """Whether there was anything to forget. Raises RadioAway."""
        ...
