"""What any wearable may tell of itself through the Bluetooth SIG's own services, beside its samples.

Device Information (0x180A: manufacturer, model, serial number, firmware revision; all UTF-8) and Battery Service
(0x180F: level in per cent, u8, notified where the wearable can), as in the Assigned Numbers and the services'
specifications; and the signal strength before the connection. A wearable may lack all of it. What keeps a wearable from
being connected, of which it knows nothing, stands in such rows too.

A DETAIL row is a u16, the characteristic's assigned number, then its value. Two numbers are no characteristic's: 0xFFFF
is the signal strength (i8, dBm), 0xFFFE what keeps it from being connected (UTF-8: a word, a space, a sentence; empty
where nothing does any more).
"""

import struct
from typing import Any

from gateway.motion.samples import DeviceDetail
from gateway.profiles.conversation import (
    Command,
    Connected,
    Conversation,
    Event,
    Kind,
    Notified,
    Observe,
    Read,
    ReadDone,
    Subscribe,
)
from gateway.profiles.errors import FrameError


def _uuid(number: int) -> str:
    """Bluetooth Core 5.4, Vol 3, Part B, 2.5.1."""
    return f"0000{number:04x}-0000-1000-8000-00805f9b34fb"


SERVICES = (_uuid(0x180A), _uuid(0x180F))
BATTERY, MODEL, SERIAL, FIRMWARE, MANUFACTURER = 0x2A19, 0x2A24, 0x2A25, 0x2A26, 0x2A29
SIGNAL, TROUBLE = 0xFFFF, 0xFFFE
_NUMBERS = {_uuid(number): number for number in (FIRMWARE, MANUFACTURER, MODEL, SERIAL, BATTERY)}
_TEXTS = {MODEL: "model", SERIAL: "serial", FIRMWARE: "firmware", MANUFACTURER: "manufacturer"}
VALUE_BYTES_MAX = 64
"""A longer text is cut; names of models are a fraction of that."""
_HEAD = struct.Struct("<H")
_SIGNAL = struct.Struct("<b")
RSSI_UNKNOWN = 127
"""Bluetooth Core 5.4, Vol 4, Part E, 7.7.65.2."""


class _WithDetails:
    """The conversation's own commands first: the stream matters more."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._known: dict[int, bytes] = {}
        """Of this link; a value that has not changed is not told again."""

    @property
    def draining(self) -> bool:
        return getattr(self._conversation, "draining", False)

    def handle(self, event: Event, now_ns: int) -> list[Command]:
        match event:
            case Connected(rssi_dbm):
                self._known = {}
                heard = b"" if rssi_dbm is None or not -128 <= rssi_dbm < RSSI_UNKNOWN else _SIGNAL.pack(rssi_dbm)
                ask = [Read(uuid, optional=True) for uuid in _NUMBERS]
                listen = Subscribe(_uuid(BATTERY), optional=True)
                told = self._told(SIGNAL, heard) if heard else []
                return [*self._conversation.handle(event, now_ns), *told, *ask, listen]
            case Notified(uuid, payload) | ReadDone(uuid, payload) if uuid in _NUMBERS:
                return self._told(_NUMBERS[uuid], payload[:VALUE_BYTES_MAX])
        return self._conversation.handle(event, now_ns)

    def _told(self, number: int, value: bytes) -> list[Command]:
        if self._known.get(number) == value:
            return []
        self._known[number] = value
        return [Observe(Kind.DETAIL, _HEAD.pack(number) + value)]


def with_details(conversation: Conversation) -> Conversation:
    """The conversation, which also asks for what the wearable may tell of itself."""
    return _WithDetails(conversation)


def trouble(word: str, why: str) -> bytes:
    """A DETAIL row of what keeps it from being connected; both empty where nothing does any more."""
    return _HEAD.pack(TROUBLE) + f"{word} {why}".strip().encode()


def decode(payload: bytes) -> list[DeviceDetail]:
    """A DETAIL row; one of a kind that this version does not know tells nothing. Raises FrameError."""
    if len(payload) < _HEAD.size:
        raise FrameError("details", f"{len(payload)} bytes, expected at least {_HEAD.size}", payload)
    (number,), value = _HEAD.unpack_from(payload), payload[_HEAD.size :]
    if number in _TEXTS:
        text = value.decode("utf-8", "replace").split("\0")[0].strip()
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
        named: dict[str, Any] = {_TEXTS[number]: shown}
        return [DeviceDetail(**named)]
    if number == TROUBLE:
        word, _, why = value.decode("utf-8", "replace").partition(" ")
        return [DeviceDetail(trouble=word, trouble_why=why)]
    if number not in (BATTERY, SIGNAL):
        return []
    if len(value) != 1:
        raise FrameError("details", f"{number:#06x}: {len(value)} bytes, expected 1", payload)
    if number == SIGNAL:
        return [DeviceDetail(rssi_dbm=_SIGNAL.unpack(value)[0])]
    if value[0] > 100:
        raise FrameError("details", f"battery level {value[0]} %, expected up to 100", payload)
    return [DeviceDetail(battery_percent=value[0])]
