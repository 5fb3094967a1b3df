"""What goes wrong with a simulated wearable: its radio, its sensor, its firmware; by schedule or by seed.

A list of faults is written as one text, in scenario files and on the command line: `loss=0.02, away@100-130,
reboot~300`.

    name=value            from the start to the end
    name@30-60=value      from second 30 to second 60 (`@30-` to the end)
    name@30=value         at second 30: faults that are moments; for the others from then on
    name~300=value        moments at random, one in 300 s on average
    name~300/20=value     spans of 20 s at random, on average 300 s between one's end and the next one's begin

FAULTS names them all. Seconds count from the start of the simulation. Random times and choices follow from a seed
alone. The objects here are pure: they are told the time, in ns from the start, which must not go back.
"""

import difflib
import math
import random
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

CHANNELS = ("Ax", "Ay", "Az", "Gx", "Gy", "Gz")
SENSORS = {"imu": slice(0, 6), "acc": slice(0, 3), "gyro": slice(3, 6)}
SECONDS_MAX = 10 * 86_400.0
SPAN_MEAN_MIN_S = 0.1
"""Random spans and moments closer together than this would only cost time."""
SUPERVISION_S = 5.0
"""Nothing heard for so long ends a link; the supervision timeout that the reference wearable asks for."""
ATT_HEADER_BYTES = 3
"""Opcode and handle of a notification (Bluetooth Core 5.4, vol. 3, part F, 3.4.7.1); MTU less this is its payload."""
ATT_MTU_MAX = 517
"""The longest attribute value, 512 bytes, and what a long write puts before it."""
REORDER_S = 0.2
"""How far apart reordering may take two characteristics."""
SATURATED_GAIN = 1e4
"""The sensor's own amplifier, stuck high: whatever moves stands at the limit."""
FADE_SHARPNESS = 4
FADE_GAIN = 1.25
"""Fading is this power of a sine, times the gain and at most 1: half of each period is nearly free of it,
a fifth has all of it."""


class FaultRejected(ValueError):
    """A text that describes no fault; the message says why in one sentence."""


class Part(Enum):
    RADIO = "radio"
    SENSOR = "sensor"
    FIRMWARE = "firmware"


@dataclass(frozen=True, slots=True)
class Number:
    name: str
    low: float
    high: float
    default: float | None = None

    def parse(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise FaultRejected(f"{self.name}: expected {self.in_words()}, found {text!r}") from None
        if not self.low <= value <= self.high:
            raise FaultRejected(f"{self.name}: expected {self.in_words()}, found {text}")
        return value

    def in_words(self) -> str:
        return f"a number from {_plain(self.low)} to {_plain(self.high)}"


@dataclass(frozen=True, slots=True)
class Choice:
    name: str
    of: tuple[str, ...]
    default: str | None = None

    def parse(self, text: str) -> str:
        if text not in self.of:
            raise FaultRejected(f"{self.name}: expected {self.in_words()}, found {text!r}")
        return text

    def in_words(self) -> str:
        return f"one of {', '.join(self.of)}"


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(number)


Value = tuple[float | str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a fault does and takes. moment: it happens and is over; else it lasts."""

    part: Part
    does: str
    takes: tuple[Number | Choice, ...] = ()
    moment: bool = False


_P = Number("probability", 0, 1)
_CHANNEL = Choice("channel", CHANNELS)

FAULTS: dict[str, Rule] = {
    "loss": Rule(
        Part.RADIO,
        "each notification is lost with this probability, and so is each advertisement and attempt to connect",
        (_P,),
    ),
    "burst": Rule(
        Part.RADIO,
        "a run of losses begins with this probability and takes on average so many notifications (Gilbert-Elliott)",
        (_P, Number("notifications", 1, 10_000, 8)),
    ),
    "fade": Rule(
        Part.RADIO,
        "once a period the wearer walks off and comes back: such losses swell to this depth and ebb; nothing heard "
        f"for {SUPERVISION_S:g} s ends the link",
        (Number("period in s", 1, SECONDS_MAX), Number("depth", 0, 1, 1.0)),
    ),
    "latency": Rule(Part.RADIO, "notifications come so much later", (Number("seconds", 0, 60),)),
    "jitter": Rule(Part.RADIO, "and later still by up to this, in the order sent", (Number("seconds", 0, 60),)),
    "reorder": Rule(
        Part.RADIO,
        f"with this probability a notification comes up to {REORDER_S:g} s later than those of other characteristics",
        (_P,),
    ),
    "duplicate": Rule(Part.RADIO, "each notification comes twice with this probability", (_P,)),
    "corrupt": Rule(Part.RADIO, "the firmware writes garbage into a notification: 1 to 8 of its bytes", (_P,)),
    "truncate": Rule(Part.RADIO, "a notification ends at any byte", (_P,)),
    "mtu": Rule(
        Part.RADIO,
        "the link's ATT MTU; a notification is cut to what it leaves (a wearable may rather send none)",
        (Number("bytes", 23, 517),),
    ),
    "cut": Rule(
        Part.RADIO,
        "the link dies after so many bytes on average, at any of them; the notification that is under way is lost",
        (Number("bytes", 1, 1e9),),
    ),
    "drop": Rule(Part.RADIO, "the link dies", moment=True),
    "away": Rule(Part.RADIO, "out of range: no link, nobody hears it"),
    "deaf": Rule(Part.RADIO, "it advertises, and answers no attempt to connect"),
    "stuck": Rule(Part.SENSOR, "a channel stays at the value it had", (_CHANNEL,)),
    "swap": Rule(Part.SENSOR, "two channels change places", (_CHANNEL, _CHANNEL)),
    "scale": Rule(
        Part.SENSOR,
        "values are this many times too large (0.101972: g taken for m/s²)",
        (Number("factor", -1e4, 1e4), Choice("sensor", tuple(SENSORS), "imu")),
    ),
    "saturate": Rule(
        Part.SENSOR, "values stand at the limit of their range", (Choice("sensor", tuple(SENSORS), "imu"),)
    ),
    "reboot": Rule(
        Part.FIRMWARE,
        "a new session; what stood in RAM is gone, and so is the flash where it is `lost`",
        (Choice("flash", ("kept", "lost"), "kept"),),
        moment=True,
    ),
    "step": Rule(
        Part.FIRMWARE,
        "the device's clock jumps (of a wearable that sends its time)",
        (Number("seconds", -SECONDS_MAX, SECONDS_MAX),),
        moment=True,
    ),
    "overrun": Rule(
        Part.FIRMWARE,
        "the firmware reads the sensor too late: so many samples are lost before the next frame (of the reference "
        "wearable, which numbers its samples)",
        (Number("samples", 1, 10_000),),
        moment=True,
    ),
    "drift": Rule(Part.FIRMWARE, "the crystal runs so much too fast", (Number("ppm", -10_000, 10_000),)),
    "full": Rule(
        Part.FIRMWARE,
        "the flash has room for so many samples from now on; the oldest are overwritten (of the reference wearable)",
        (Number("samples", 800, 2**32 - 1),),
        moment=True,
    ),
    "battery": Rule(Part.FIRMWARE, "the battery stands at", (Number("percent", 0, 100),), moment=True),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One entry of the text. mean_s: None where it is scheduled; else spans of length_s (or moments) are drawn."""

    name: str
    value: Value = ()
    start_s: float = 0.0
    end_s: float = math.inf
    mean_s: float | None = None
    length_s: float = 0.0

    @property
    def rule(self) -> Rule:
        return FAULTS[self.name]

    def __str__(self) -> str:
        if self.mean_s is not None:
            when = f"~{self.mean_s!r}" + ("" if self.rule.moment else f"/{self.length_s!r}")
        elif self.rule.moment:
            when = f"@{self.start_s!r}"
        elif (self.start_s, self.end_s) == (0.0, math.inf):
            when = ""
        else:
            when = f"@{self.start_s!r}-" + ("" if self.end_s == math.inf else repr(self.end_s))
        value = "/".join(part if isinstance(part, str) else repr(part) for part in self.value)
        return f"{self.name}{when}" + (f"={value}" if value else "")


_ENTRY = re.compile(r"(?P<name>[a-z_]*)\s*(?:(?P<how>[@~])(?P<when>[^=]*))?(?:=(?P<value>.*))?", re.DOTALL)
_SECONDS = Number("time", 0, SECONDS_MAX)
_MEAN = Number("mean", SPAN_MEAN_MIN_S, SECONDS_MAX)
_LENGTH = Number("length", SPAN_MEAN_MIN_S, SECONDS_MAX)


def parse_faults(text: str) -> tuple[Fault, ...]:
    """From `loss=0.02, burst=0.001/20, reboot@120`. Raises FaultRejected, naming the entry."""
    faults = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        try:
            faults.append(_parse(entry))
        except FaultRejected as rejected:
            raise FaultRejected(f"fault {entry!r}: {rejected}") from None
    return tuple(faults)


def _parse(entry: str) -> Fault:
    match = _ENTRY.fullmatch(entry)
    name = match["name"] if match else entry
    if match is None or name not in FAULTS:
        near = difflib.get_close_matches(name, FAULTS, 1)
        raise FaultRejected(
            f"there is no {name!r}" + (f" (did you mean {near[0]!r}?)" if near else f"; there are {', '.join(FAULTS)}")
        )
    head = entry.partition("=")[0].strip()
    rule, value, when = FAULTS[name], _value(FAULTS[name], match["value"], head), (match["when"] or "").strip()
    if match["how"] == "~":
        mean, slash, length = when.partition("/")
        if rule.moment and slash:
            raise FaultRejected("it happens at a moment, so it has no length: expected ~MEAN")
        if not rule.moment and not slash:
            raise FaultRejected("it lasts, so it needs a length: expected ~MEAN/LENGTH")
        return Fault(name, value, mean_s=_MEAN.parse(mean), length_s=_LENGTH.parse(length) if slash else 0.0)
    if match["how"] is None:
        if rule.moment:
            raise FaultRejected(f"it happens at a moment: say when, {name}@SECONDS or {name}~MEAN")
        return Fault(name, value)
    start, dash, end = when.partition("-")
    if rule.moment and dash:
        raise FaultRejected("it happens at a moment, not over a span")
    start_s = _SECONDS.parse(start)
    end_s = _SECONDS.parse(end) if end.strip() else math.inf
    if end_s <= start_s:
        raise FaultRejected(f"it ends at {end_s:g} s, before it begins")
    return Fault(name, value, start_s, end_s)


def _value(rule: Rule, text: str | None, head: str) -> Value:
    """head: what stands before the value."""
    given = [part.strip() for part in text.split("/")] if text and text.strip() else []
    if len(given) > len(rule.takes):
        takes = "/".join(taken.name.upper() for taken in rule.takes)
        raise FaultRejected(f"it takes {f'no more than {head}={takes}' if takes else f'no value: write {head}'}")
    values: list[float | str] = []
    for place, taken in enumerate(rule.takes):
        if place < len(given):
            values.append(taken.parse(given[place]))
        elif taken.default is not None:
            values.append(taken.default)
        else:
            takes = "/".join(t.name.upper() for t in rule.takes)
            raise FaultRejected(f"it needs the {taken.name}, {taken.in_words()}: write {head}={takes}")
    return tuple(values)


def fault_help() -> list[tuple[str, str]]:
    """Each fault as it is written, and what it does."""
    return [
        (name + ("@SECONDS" if rule.moment else "") + ("=" if rule.takes else "") + "/".join(
            "|".join(t.of) if isinstance(t, Choice) and len(t.of) < 4 else t.name.upper() for t in rule.takes
        ), rule.does)
        for name, rule in FAULTS.items()
    ]  # fmt: skip


def _ns(seconds: float) -> float:
    return seconds * 1e9  # inf stays


@dataclass(slots=True)
class _Occurrences:
    """When one fault is on, or happens: spans in order, drawn as far as they are asked for."""

    fault: Fault
    rng: random.Random
    spans: deque[tuple[float, float]] = field(default_factory=deque)
    _drawn_ns: float = 0.0

    def __post_init__(self) -> None:
        if self.fault.mean_s is None:
            self.spans.append((_ns(self.fault.start_s), _ns(self.fault.end_s)))
            self._drawn_ns = math.inf

    def until(self, now_ns: float) -> deque[tuple[float, float]]:
        """All spans that begin by now, besides those that were let go; one more may be among them."""
        while self._drawn_ns <= now_ns:
            assert self.fault.mean_s is not None
            start = self._drawn_ns + _ns(self.rng.expovariate(1 / self.fault.mean_s))
            end = start + _ns(self.fault.length_s)
            self.spans.append((start, end))
            self._drawn_ns = max(end, start + 1)
        return self.spans

    def on(self, now_ns: float) -> bool:
        spans = self.until(now_ns)
        while spans and spans[0][1] <= now_ns:
            spans.popleft()
        return bool(spans) and spans[0][0] <= now_ns

    def over(self, first_ns: float, end_ns: float) -> list[tuple[float, float]]:
        """The spans that overlap first to end."""
        spans = self.until(end_ns)
        while spans and spans[0][1] <= first_ns:
            spans.popleft()
        return [span for span in spans if span[0] < end_ns]

    def happened(self, now_ns: float) -> list[float]:
        """Moments up to now that were not given before."""
        spans, moments = self.until(now_ns), []
        while spans and spans[0][0] <= now_ns:
            moments.append(spans.popleft()[0])
        return moments


class _Schedule:
    """The faults of one part of one device. Where two of a name are on at once, the one written first counts."""

    def __init__(self, faults: Iterable[Fault], part: Part, seed: int | str) -> None:
        mine = [fault for fault in faults if fault.rule.part is part]
        self._by_name: dict[str, list[_Occurrences]] = {}
        for number, fault in enumerate(mine):
            rng = random.Random(f"{seed}/{part.value}/{number}/{fault.name}")
            self._by_name.setdefault(fault.name, []).append(_Occurrences(fault, rng))

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def value(self, name: str, now_ns: float) -> Value | None:
        """That of the fault, where it is on."""
        for occurrences in self._by_name.get(name, ()):
            if occurrences.on(now_ns):
                return occurrences.fault.value
        return None

    def number(self, name: str, now_ns: float) -> float:
        value = self.value(name, now_ns)
        return 0.0 if value is None else float(value[0])

    def spans(self, name: str, first_ns: float, end_ns: float) -> list[tuple[float, float, Value]]:
        return sorted(
            (*span, occurrences.fault.value)
            for occurrences in self._by_name.get(name, ())
            for span in occurrences.over(first_ns, end_ns)
        )

    def happened(self, now_ns: float) -> list[tuple[float, str, Value]]:
        """Moments up to now that were not given before, in order."""
        return sorted(
            (moment, name, occurrences.fault.value)
            for name, listed in self._by_name.items()
            if FAULTS[name].moment
            for occurrences in listed
            for moment in occurrences.happened(now_ns)
        )


Delivery = tuple[int, str, bytes]
"""When, on which characteristic, what."""


class RadioFaults:
    """Acts on the notifications of a wearable's links. Answers to control writes are confirmed, so only a link's end
    and its latency touch them.

    A link's notifications arrive in order for each characteristic, duplicates directly behind what they repeat.
    `altered` counts the notifications that did not arrive as they were sent.
    """

    def __init__(self, faults: Iterable[Fault], seed: int | str) -> None:
        self._schedule = _Schedule(faults, Part.RADIO, seed)
        self._rng, self._air_rng = random.Random(f"{seed}/radio"), random.Random(f"{seed}/advertising")
        self._bad = False
        self.lost = self.altered = self.duplicated = 0
        self.link_up(0)

    def link_up(self, now_ns: int) -> None:
        """A link has begun."""
        self.dead = False
        self._last_ns: dict[str, int] = {}
        self._newest_ns = now_ns
        self._heard_ns = now_ns
        self._payload_max = self.mtu(now_ns, ATT_MTU_MAX) - ATT_HEADER_BYTES
        cut = self._schedule.value("cut", now_ns)
        self._bytes_left = math.inf if cut is None else self._rng.expovariate(1 / float(cut[0]))

    def reachable(self, now_ns: int) -> bool:
        """Whether the wearable is heard at all."""
        return self._schedule.value("away", now_ns) is None

    def deaf(self, now_ns: int) -> bool:
        """Whether it answers no attempt to connect."""
        return self._schedule.value("deaf", now_ns) is not None

    def loses(self, now_ns: int) -> bool:
        """Whether an advertisement, or an attempt to connect, is lost now. By chances of its own: how often somebody
        tries changes nothing of what happens to notifications."""
        p = self._schedule.number("loss", now_ns)
        return self._air_rng.random() < 1 - (1 - p) * (1 - self._fading(now_ns))

    def mtu(self, now_ns: int, otherwise: int) -> int:
        """What a link that begins now may have."""
        value = self._schedule.value("mtu", now_ns)
        return otherwise if value is None else min(otherwise, int(float(value[0])))

    def delay_ns(self, now_ns: int) -> int:
        """Of one way, for what is confirmed."""
        seconds = self._schedule.number("latency", now_ns)
        return int(_ns(seconds + self._schedule.number("jitter", now_ns) * self._rng.random()))

    def ends(self, now_ns: int) -> bool:
        """Whether the link is dead by now; ask it as time passes, also where nothing is sent."""
        if any(name == "drop" for _, name, _ in self._schedule.happened(now_ns)) or not self.reachable(now_ns):
            self.dead = True
        return self.dead

    def pass_(self, now_ns: int, uuid: str, payload: bytes) -> list[Delivery]:
        """What arrives of a notification that is sent now; may end the link (`dead`)."""
        if not self._schedule:
            return [(now_ns, uuid, payload)]
        if self.ends(now_ns):
            return []
        self._bytes_left -= len(payload)
        if self._bytes_left < 0:
            self.dead = True
            return []
        if self._lose(now_ns):
            self.lost += 1
            if now_ns - self._heard_ns >= _ns(SUPERVISION_S):
                self.dead = True
            return []
        self._heard_ns = now_ns
        arrived = self._alter(now_ns, payload)
        self.altered += arrived != payload
        at = self._at(now_ns, uuid)
        delivery = (at, uuid, arrived)
        if self._happens("duplicate", now_ns):
            self.duplicated += 1
            return [delivery, delivery]
        return [delivery]

    def _happens(self, name: str, now_ns: int) -> bool:
        p = self._schedule.number(name, now_ns)
        return p > 0 and self._rng.random() < p

    def _lose(self, now_ns: int) -> bool:
        burst = self._schedule.value("burst", now_ns)
        if burst is None:
            self._bad = False
        else:
            # Two states, everything lost in the bad one: Gilbert 1960, Elliott 1963 (Bell System Technical Journal).
            p, length = float(burst[0]), float(burst[1])
            self._bad = self._rng.random() >= 1 / length if self._bad else self._rng.random() < p
        return self._bad or self._happens("loss", now_ns) or self._faded(now_ns)

    def _faded(self, now_ns: int) -> bool:
        probability = self._fading(now_ns)
        return probability > 0 and self._rng.random() < probability

    def _fading(self, now_ns: int) -> float:
        """The probability of a loss by it."""
        fade = self._schedule.value("fade", now_ns)
        if fade is None:
            return 0.0
        period_s, depth = float(fade[0]), float(fade[1])
        return depth * min(1.0, FADE_GAIN * abs(math.sin(math.pi * now_ns / 1e9 / period_s)) ** FADE_SHARPNESS)

    def _alter(self, now_ns: int, payload: bytes) -> bytes:
        payload = payload[: self._payload_max]
        if payload and self._happens("truncate", now_ns):
            payload = payload[: self._rng.randrange(len(payload))]
        if payload and self._happens("corrupt", now_ns):
            garbage = bytearray(payload)
            for _ in range(self._rng.randint(1, 8)):
                garbage[self._rng.randrange(len(garbage))] = self._rng.randrange(256)
            payload = bytes(garbage)
        return payload

    def _at(self, now_ns: int, uuid: str) -> int:
        at = max(now_ns + self.delay_ns(now_ns), self._newest_ns)
        if self._happens("reorder", now_ns):  # later than others may come that are sent after it
            at += int(_ns(self._rng.random() * REORDER_S))
        else:
            self._newest_ns = at
        self._last_ns[uuid] = at = max(at, self._last_ns.get(uuid, 0))
        return at


class SensorFaults:
    """Acts on samples before they are quantized."""

    def __init__(self, faults: Iterable[Fault], seed: int | str) -> None:
        self._schedule = _Schedule(faults, Part.SENSOR, seed)
        self._held: dict[str, tuple[float, float]] = {}
        """For a stuck channel the span's begin and the value."""

    def apply(self, values: NDArray[np.float32], at_ns: NDArray[np.int64]) -> NDArray[np.float32]:
        """values: (n, 6), m/s² and deg/s; at_ns: (n,), ascending, not before what was given last. A copy if changed."""
        if not len(values):
            return values
        changed = values
        steps: dict[str, Callable[[NDArray[np.float32], float, Value], None]] = {
            "scale": self._scale,
            "swap": self._swap,
            "stuck": self._stick,
            "saturate": self._saturate,
        }
        for name, step in steps.items():
            if name not in self._schedule:
                continue
            for start, end, value in self._schedule.spans(name, float(at_ns[0]), float(at_ns[-1]) + 1):
                low, high = np.searchsorted(at_ns, [start, end])
                if low < high:
                    changed = changed.copy() if changed is values else changed
                    step(changed[low:high], start, value)
        return changed

    def _scale(self, values: NDArray[np.float32], _start: float, value: Value) -> None:
        values[:, SENSORS[str(value[1])]] *= np.float32(float(value[0]))

    def _swap(self, values: NDArray[np.float32], _start: float, value: Value) -> None:
        one, other = (CHANNELS.index(str(channel)) for channel in value)
        values[:, [one, other]] = values[:, [other, one]]

    def _stick(self, values: NDArray[np.float32], start: float, value: Value) -> None:
        channel = str(value[0])
        column = CHANNELS.index(channel)
        began, held = self._held.get(channel, (-1.0, 0.0))
        if began != start:
            held = float(values[0, column])
            self._held[channel] = (start, held)
        values[:, column] = held

    def _saturate(self, values: NDArray[np.float32], _start: float, value: Value) -> None:
        columns = SENSORS[str(value[0])]
        values[:, columns] = np.where(values[:, columns] < 0, -1, 1) * np.float32(SATURATED_GAIN)


@dataclass(frozen=True, slots=True)
class Happened:
    """A fault of the firmware that is to be played now, as FAULTS describes it."""

    at_ns: int
    name: str
    value: Value


class FirmwareFaults:
    """What shall happen to the device, and how its crystal runs."""

    def __init__(self, faults: Iterable[Fault], seed: int | str) -> None:
        self._schedule = _Schedule(faults, Part.FIRMWARE, seed)

    def due(self, now_ns: int) -> list[Happened]:
        """What has come due since the last call, in order."""
        return [Happened(int(at), name, value) for at, name, value in self._schedule.happened(now_ns)]

    def device_ns(self, first_ns: int, end_ns: int) -> int:
        """How much time the device's crystal counts from first to end."""
        extra = sum(
            (min(end, end_ns) - max(start, first_ns)) * float(value[0]) * 1e-6
            for start, end, value in self._schedule.spans("drift", first_ns, end_ns)
        )
        return end_ns - first_ns + int(extra)
