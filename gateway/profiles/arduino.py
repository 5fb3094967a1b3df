"""Arduino Nano 33 BLE Sense with the Science Journal sketch: recognised, and refused.

It notifies acceleration (3 x f32, g) and rate of turn (3 x f32, deg/s) on two characteristics, at most 10 times a
second, without time, and the two do not belong to one moment. Source: the vendor's sketch. The models need 50 samples a
second: what lies above 5 Hz, where much of a fidget is, is not in it, and no resampling brings it back.
"""

from typing import Self

from gateway.motion.samples import Coverage, Piece
from gateway.profiles.conversation import (
    Command,
    Connected,
    Disconnected,
    Event,
    Fault,
    Kind,
    Observe,
    Received,
    Retention,
)
from gateway.profiles.errors import FrameError
from gateway.profiles.streaming import GRID_HZ

SERVICE = "555a0002-0000-467a-9538-01f0652c74e8"
NAME = "arduino-nano33-ble-sense"
RATE_HZ = 10.0
TOO_SLOW = f"the Arduino sends {RATE_HZ:g} samples a second, which is too slow for the model: it needs {GRID_HZ:g}"


class ArduinoDecoder:
    """Of a wearable that is never recorded."""

    def decode(self, kind: Kind, payload: bytes, _at: Received) -> list[Piece]:
        """Raises FrameError for any frame."""
        if kind is Kind.FRAME:
            raise FrameError(NAME, TOO_SLOW, payload)
        return []

    def state(self) -> dict[str, object]:
        return {}

    @classmethod
    def restore(cls, _state: dict[str, object]) -> Self:
        return cls()


class ArduinoConversation:
    """Says on each connect why it asks for nothing."""

    def handle(self, event: Event, _now_ns: int) -> list[Command]:
        match event:
            case Connected():
                return [Observe(Kind.CONNECTED, b""), Fault("too_slow", TOO_SLOW, fatal=True)]
            case Disconnected():
                return [Observe(Kind.DISCONNECTED, b"")]
        return []


class ArduinoProfile:
    """Registered under `arduino-nano33-ble-sense`. refused: why no configuration may name it."""

    name = NAME
    service_uuid = SERVICE
    retention = Retention.NONE
    rate_hz = RATE_HZ
    sensor_frame: tuple[int, int, int] | None = (1, 2, 3)
    silence_s = 5.0
    refused = TOO_SLOW

    def conversation(self, _have: dict[int, Coverage]) -> ArduinoConversation:
        return ArduinoConversation()

    def decoder(self, _state: dict[str, object] | None = None) -> ArduinoDecoder:
        return ArduinoDecoder()
