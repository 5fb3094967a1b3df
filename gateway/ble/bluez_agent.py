"""The pairing agent towards BlueZ: what it asks of who pairs is answered, or refused.

org.bluez.Agent1 and org.bluez.AgentManager1 as in BlueZ's doc/org.bluez.Agent.rst and org.bluez.AgentManager.rst. An
agent belongs to a connection to the bus, and is gone with bluetoothd: it is registered again when that comes back, and
before anything is connected, since without an agent the read of a protected characteristic never answers (BlueZ 5.66
and 5.82).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Protocol, TypeVar

from dbus_fast import DBusError
from dbus_fast.annotations import DBusObjectPath, DBusStr, DBusUInt16, DBusUInt32
from dbus_fast.service import ServiceInterface, dbus_method

log = logging.getLogger(__name__)

T = TypeVar("T")

AGENT_PATH = "/org/fidgetgateway/agent"
CAPABILITY = "KeyboardDisplay"
"""Serves passkeys that are typed or shown, and the comparison of numbers."""


class Answers(Protocol):
    """What is answered where a device pairs. Addresses are in capitals."""

    async def passkey(self, address: str) -> int | None:
        """The six digits that the device shows; None refuses."""
        ...

    async def confirm(self, address: str, number: int) -> bool:
        """Whether the device shows these six digits too."""
        ...

    async def shown(self, address: str, number: int) -> bool:
        """Whether somebody was shown these six digits, to type them on the device."""
        ...

    async def just_works(self, address: str) -> bool:
        """Whether it may pair without anybody having seen a number."""
        ...


class Refusals:
    """The daemon's: nobody pairs by it, but those that may just so. refused, allowed: told the address of who wanted
    to."""

    def __init__(
        self,
        just_works: Collection[str] = (),
        refused: Callable[[str], None] = lambda _address: None,
        allowed: Callable[[str], None] = lambda _address: None,
    ) -> None:
        self._just_works = {address.upper() for address in just_works}
        self._refused, self._allowed = refused, allowed

    async def passkey(self, address: str) -> int | None:
        self._told(address)
        return None

    async def confirm(self, address: str, _number: int) -> bool:
        self._told(address)
        return False

    async def shown(self, address: str, _number: int) -> bool:
        self._told(address)
        return False

    async def just_works(self, address: str) -> bool:
        if address in self._just_works:
            self._allowed(address)
            return True
        self._told(address)
        return False

    def _told(self, address: str) -> None:
        log.warning("%s: wants to be paired, which only `gateway pair` may do; refused", address)
        self._refused(address)


class Agent(ServiceInterface):
    """org.bluez.Agent1. only: the one device that is answered for; None: all of them. numbered: since this was last set
    to False, a number was typed, compared or shown."""

    def __init__(self, answers: Answers, only: str | None = None) -> None:
        super().__init__("org.bluez.Agent1")
        self._answers, self._only = answers, only
        self._pending: asyncio.Future[Any] | None = None
        self.numbered = False

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        if self._pending is not None:
            self._pending.cancel()

    async def _answer(self, device: str, question: Callable[[str], Awaitable[T]]) -> T:
        address = address_of(device)
        if self._only not in (None, address):
            log.warning("%s: wants to be paired while %s is; refused", address, self._only)
            raise rejected("another device is paired now")
        pending = asyncio.ensure_future(question(address))
        self._pending = pending
        try:
            return await pending
        except asyncio.CancelledError:
            raise rejected("nobody waits for it any more") from None

    @dbus_method()
    def Release(self) -> None:
        """BlueZ ends, or has dropped this agent."""
        self.cancel()

    @dbus_method()
    def Cancel(self) -> None:
        """BlueZ no longer wants the answer that it asked for."""
        self.cancel()

    @dbus_method()
    async def RequestPasskey(self, device: DBusObjectPath) -> DBusUInt32:
        passkey = await self._answer(device, self._answers.passkey)
        if passkey is None:
            raise rejected("no passkey for this device")
        self.numbered = True
        return passkey

    @dbus_method()
    async def RequestConfirmation(self, device: DBusObjectPath, passkey: DBusUInt32) -> None:
        if not await self._answer(device, lambda address: self._answers.confirm(address, passkey)):
            raise rejected("the numbers are not the same")
        self.numbered = True

    @dbus_method()
    async def RequestAuthorization(self, device: DBusObjectPath) -> None:
        if not await self._answer(device, self._answers.just_works):
            raise rejected("nobody would know who this is")

    @dbus_method()
    async def DisplayPasskey(self, device: DBusObjectPath, passkey: DBusUInt32, entered: DBusUInt16) -> None:
        """BlueZ tells it again with each digit that is typed on the device, and waits for no answer."""
        if not entered and await self._answer(device, lambda address: self._answers.shown(address, passkey)):
            self.numbered = True

    @dbus_method()
    def RequestPinCode(self, device: DBusObjectPath) -> DBusStr:  # noqa: ARG002
        raise rejected("the pairing of classic Bluetooth is not used here")

    @dbus_method()
    def DisplayPinCode(self, device: DBusObjectPath, pincode: DBusStr) -> None:  # noqa: ARG002
        raise rejected("the pairing of classic Bluetooth is not used here")

    @dbus_method()
    def AuthorizeService(self, device: DBusObjectPath, uuid: DBusStr) -> None:  # noqa: ARG002
        raise rejected("nothing is served here")


def rejected(why: str) -> DBusError:
    return DBusError("org.bluez.Error.Rejected", why)


def address_of(device: str) -> str:
    """Of an object such as /org/bluez/hci0/dev_C0_00_00_00_00_01."""
    return device.rsplit("/dev_", 1)[-1].replace("_", ":").upper()
