"""What must have been received, from the samples made and the rows on the medium; by brute force, in other code."""

import json
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gateway.clock import Instant
from gateway.store.rows import JournalRow
from tests.sim.account import ReferenceLedger
from tests.sim.families import Truth
from tests.sim.known import HERE, LOST, MISSING
from tests.sim.whole.model import LABELS, answer
from tests.sim.whole.wearables import RATE_HZ

INTERPOLATE_MAX = 5
SHARING_MAX = 30
"""Windows of an event, at most."""
GONE = ("overrun", "overwritten", "flash lost", "in RAM at a reboot")
"""Why a sample may be nowhere: what a wearable itself has lost before anybody had it."""


class Lean:
    """What one gateway's medium holds of a session, sample by sample, and which row brought or lost each."""

    def __init__(self, instants: list[Instant]) -> None:
        """instants: of the rows so far, the newest last."""
        self.state = np.zeros(4096, np.uint8)
        self.row = np.zeros(4096, np.int32)
        self.end = 0
        self.ended = False
        self._instants = instants
        self._whole = 0

    def room(self, end: int) -> None:
        while end > len(self.state):
            self.state = np.concatenate([self.state, np.zeros_like(self.state)])
            self.row = np.concatenate([self.row, np.zeros_like(self.row)])

    def _set(self, first: int, end: int, state: int) -> None:
        self.room(end)
        new = self.state[first:end] == MISSING
        self.state[first:end][new] = state
        self.row[first:end][new] = len(self._instants) - 1
        self.end = max(self.end, end)

    def lose(self, first: int, end: int, garbage: bool = False) -> None:
        self._set(first, end, LOST)

    def take(self, first: int, n: int) -> None:
        self._set(first, first + n, HERE)

    def whole_to(self, index: int) -> bool:
        """Whether nothing below is missing."""
        self.room(index)
        if index > self._whole:
            if (self.state[self._whole : index] == MISSING).any():
                return False
            self._whole = index
        return True


class Ledger(ReferenceLedger):
    """One wearable's durable rows at one gateway."""

    def __init__(self) -> None:
        super().__init__(set())
        self.sessions: dict[int, Lean] = {}  # type: ignore[assignment]
        self.instants: list[Instant] = []

    def land(self, row: JournalRow) -> None:
        self.instants.append(row.at)
        super().land(row)

    def _new(self) -> Lean:  # type: ignore[override]
        return Lean(self.instants)

    def _done(self, known: Lean) -> bool:  # type: ignore[override]
        return known.ended and known.whole_to(known.end)

    def _frame(self, payload: bytes) -> None:
        kind, _, n, cfg_id, _, session16, first, _ = struct.unpack_from("<BBBBHHII", payload)
        number = self._listed.get(session16)
        if number is None or self._done(self.sessions[number]):
            return
        if kind & 15 == 2:
            self.sessions[number].lose(first, first + struct.unpack_from("<I", payload, 16)[0])
        elif cfg_id in self._scales:
            if kind & 15 == 0:
                self._overrun(payload)
            self.sessions[number].take(first, n)

    def acknowledged(self, session16: int, index: int) -> bool:
        """Whether all that an acknowledgement lets the wearable erase is on the medium, or lost for good."""
        known = next(k for number, k in reversed(self.sessions.items()) if number & 0xFFFF == session16)
        return known.whole_to(index)


@dataclass(frozen=True)
class Shape:
    length: int
    hop: int

    def windows(self, samples: int) -> range:
        return range(max(0, (samples - self.length) // self.hop + 1))


@dataclass(frozen=True)
class Due:
    """A window as one gateway must have answered it. at: when the last of its samples was known, if none is
    interpolated."""

    values: np.ndarray
    interpolated: int
    at: Instant | None


def due_windows(shape: Shape, known: Lean, instants: list[Instant], values: np.ndarray) -> dict[int, Due]:
    """By number. values: (made, 6), what the wearable has measured."""
    known.room(known.end)  # a session may be told to be longer than what came of it
    state = known.state[: known.end]
    assert not (known.state[len(values) :] == HERE).any(), "samples that were never made"
    bad, filled = state == MISSING, values.copy()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (state == LOST).astype(np.int8), [0]])))
    for low, high in zip(edges[::2], edges[1::2], strict=True):
        short = low > 0 and high - low <= INTERPOLATE_MAX and high < len(state) and state[high] == HERE
        if not short or state[low - 1] != HERE:
            bad[low:high] = True
            continue
        before, after = values[low - 1], values[high]
        for i in range(low, high):
            filled[i] = before + np.float32((i - low + 1) / (high - low + 1)) * (after - before)
    until = np.concatenate([[0], np.cumsum(bad)])
    due = {}
    for number in shape.windows(known.end):
        window = slice(number * shape.hop, number * shape.hop + shape.length)
        if until[window.stop] == until[window.start]:
            interpolated = int((state[window] == LOST).sum())
            at = None if interpolated else instants[int(known.row[window].max())]
            due[number] = Due(filled[window], interpolated, at)
    return due


def surely_due(shape: Shape, truth: Truth) -> set[int]:
    """Windows of which the wearable has lost no sample, and that cross no seam which a full ring has taken from the
    next gateway (docs/reference-profile.md, "the ring is full"): no fault excuses one that is not answered."""
    gone = np.zeros(truth.made + 1, np.int32)
    for first, end, why in truth.gone:
        if why in GONE:
            gone[first:end] = 1
    until = np.concatenate([[0], np.cumsum(gone)])
    due = set()
    for number in shape.windows(truth.made):
        first, end = number * shape.hop, number * shape.hop + shape.length
        seam = any(low < end and first < watermark < end for low, watermark in truth.displaced)
        if until[end] == until[first] and not seam:
            due.add(number)
    return due


def windows_of(event: dict[str, Any]) -> list[dict[str, Any]]:
    """Each window of a prediction, with what the event says of all of them (docs/events.md)."""
    data = event["data"]
    (first,) = data["windows"]
    windows = [first]
    if following := data.get("following"):
        columns = following["probabilities_permille"]
        for k in range(following["count"]):
            number = first["number"] + k + 1
            interpolated = (following.get("interpolated") or {}).get(str(number), 0.0)
            windows.append(
                {
                    **first,
                    "number": number,
                    "start_s": number * data["hop"] / data["rate_hz"],
                    "confidence": columns[first["activity"]][k] / 1000,
                    "probabilities": {label: column[k] / 1000 for label, column in columns.items()},
                    "quality": {"interpolated": interpolated},
                }
            )
    return [{**event, **data, **window, "interpolated": window["quality"]["interpolated"]} for window in windows]


def last_known(due: list[Due]) -> Instant | None:
    """Of the windows of one event: when the last of their samples was known, if none is interpolated."""
    moments = [one.at for one in due if one.at is not None]
    return max(moments, key=lambda at: at.mono_ns) if len(moments) == len(due) else None


def expected(
    wearable: str,
    session: int,
    number: int,
    shape: Shape,
    due: Due,
    *,
    first: int,
    at: Instant | None,
    thousandths: bool,
) -> dict[str, Any]:
    """What of a window in a prediction follows from the samples alone. first, at: of its event. thousandths: as where
    windows may share one; what is left out there is below 0.005."""
    probabilities = {label: float(p) for label, p in zip(LABELS, answer(due.values), strict=True)}
    if thousandths:
        probabilities = {label: round(1000 * p) / 1000 for label, p in probabilities.items() if p >= 0.005}
    activity = max(probabilities, key=probabilities.__getitem__)
    fields: dict[str, Any] = {
        "specversion": "1.0",
        "source": f"urn:fidget:wearable:{wearable}",
        "subject": f"wearer-{wearable}",
        "sequence": f"{first:010d}",
        "session": f"{session:016x}",
        "rate_hz": RATE_HZ,
        "window": shape.length,
        "hop": shape.hop,
        "number": number,
        "start_s": number * shape.hop / RATE_HZ,
        "decision": "activity",
        "activity": activity,
        "confidence": probabilities[activity],
        "probabilities": probabilities,
        "interpolated": due.interpolated / shape.length,
    }
    if at is not None:
        fields |= {"bootid": at.boot_id, "monons": str(at.mono_ns), "utc_ns": _utc(at)}
    return fields


def _utc(at: Instant) -> int | None:
    """To the microsecond, as an event has it."""
    return at.utc_ns // 1000 * 1000 if at.utc_synced else None


def found(window: dict[str, Any], fields: dict[str, Any], thousandths: bool) -> dict[str, Any]:
    """The same fields, of a window of `windows_of`."""
    told = {**window, "utc_ns": _parsed(window.get("time"))}
    if thousandths:
        told["probabilities"] = {label: p for label, p in window["probabilities"].items() if p}
    return {name: told.get(name) for name in fields}


def _parsed(text: str | None) -> int | None:
    if text is None:
        return None
    day, time = text.removesuffix("Z").split("T")
    hours, minutes, seconds = time.split(":")
    micros = round(float(seconds) * 1e6)
    days = int((np.datetime64(day) - np.datetime64("1970-01-01")).astype(int))
    return ((days * 86_400 + int(hours) * 3600 + int(minutes) * 60) * 10**6 + micros) * 1000


@dataclass
class Received:
    """What the subscriber has, of each name the first; one that comes again must be the same, to the byte, unless it
    came through another gateway."""

    payloads: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    """By source and id, and gateway."""
    repeats: int = 0
    _seen: dict[bytes, int] = field(default_factory=dict)

    def take(self, gateway: str, payload: bytes) -> None:
        if payload in self._seen:
            self._seen[payload] += 1
            self.repeats += 1
            return
        self._seen[payload] = 1
        event = json.loads(payload)
        assert event["gateway"] == gateway
        copies = self.payloads.setdefault((event["source"], event["id"]), {})
        assert gateway not in copies, f"{event['source']} {event['id']} came with two contents"
        copies[gateway] = payload
