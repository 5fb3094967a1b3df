"""The account of a wearable that keeps nothing: each sample that it streamed, by truth and by what the decoder says.

Every sample of every link has one fate, and none that reached the medium as it was sent may be missing. What the
decoder says of those that are missing is held against the truth: where the device has a clock its indices must tell
exactly as many as there are; where it has none, within the error that gateway/profiles/arrivals.py states.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from gateway.motion.samples import Burst, Lost
from gateway.profiles import profile_of
from gateway.profiles.arrivals import LATE_S, SKEW
from gateway.profiles.conversation import Kind, Received
from gateway.profiles.errors import FrameError
from gateway.profiles.witmotion import REST_S
from gateway.store.rows import JournalRow
from tests.sim.carried import CARRIED, WITMOTION_FRAME_BYTES, Carried
from tests.sim.families import LinkTruth, Streaming
from tests.sim.known import HERE, LOST, MISSING, Known
from tests.sim.world import INTERVAL_NS, Air

UNSTAMPED = ("witmotion-bwt901ble", "thingy52")
"""Neither clock nor number: losses are estimates, and a notification that comes twice cannot be told from two equal
samples (device-profiles.md: "no time or sequence")."""
SPANNING = ("witmotion-bwt901ble", "movesense")
"""A sample may need two notifications. Garbage in one can take what the other carries, and where all that lay between
two halves that look alike is lost no byte tells that they do not belong together (`_torn`, `_alike`)."""
MISLED = {"witmotion-bwt901ble": 1, "movesense": 1, "polar-verity-sense": 4}
"""So many good notifications behind garbage may be refused for its sake. At Polar a garbage stamp is a step of the
clock, and the other sensor's frames are then of the time before it."""
NEAR = 1e-4
"""m/s² or deg/s between a sample as measured and as decoded: float32 after two ways of scaling."""
FRAME_SAMPLES = 80
"""No frame of these devices holds more: a clock's step shows up at an end of the frame in which it happened."""
HIDDEN_SAMPLES = {"movesense": 2, "xsens-dot": 2, "polar-verity-sense": 5}
"""Where a clock steps back while about as many samples are lost, the next stamp is as good as due: a stamp may be early
by three quarters of a sample, at Polar by a half and a twentieth of a frame. Then none are told as lost."""
STAMP_S = {"movesense": 1e-3, "xsens-dot": 1e-6, "polar-verity-sense": 1e-9}
"""A stamp is rounded to this. So the rate is known to this much of the time since a session's first stamp, and what is
lost in one gap to as much of the gap: after 0.2 s of Movesense to a sample in 200."""
MOVESENSE_REST = 3
MOVESENSE_HEAD_BYTES = 6
GRID_HZ = 50
PAUSE_NS = 200_000_000
"""Across a longer pause the resampler makes nothing up, and so long it holds a sensor's first sample for the other's
sake (gateway/motion/resample.py)."""
GARBAGE_SAMPLES = 64
"""What an altered notification may at most be taken for, in samples."""


@dataclass
class Came:
    """One burst. row: with which it came, of this wearable's frames in the journal, from 1; payload, before: that
    row's and the one's before it. tainted: that row, or what it joins, was garbage."""

    first: int
    taken_ns: np.ndarray
    values: np.ndarray
    row: int
    payload: bytes
    before: bytes
    tainted: bool


@dataclass
class StreamingLedger:
    """What the decoder makes of the durable rows of a wearable that keeps nothing, by session and first column."""

    garbage: set[bytes]
    profile: str
    bursts: dict[tuple[int, int], list[Came]] = field(default_factory=dict)
    lost: dict[tuple[int, int], list[tuple[int, int]]] = field(default_factory=dict)
    landed: set[bytes] = field(default_factory=set)
    misled: set[bytes] = field(default_factory=set)
    """Of what has landed, that which came behind garbage."""
    garbage_rows: list[int] = field(default_factory=list)
    seams: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    """Of WitMotion: two notifications of one link, one behind the other within REST_S, and the row of the second."""
    samples: int = 0
    _held: list[tuple[int, bytes, bytes, bool]] = field(default_factory=list)
    """The rows of bursts that Polar's decoder keeps back, until it knows where time begins."""

    def __post_init__(self) -> None:
        self._decoder = profile_of(self.profile).decoder()
        self._behind = 1 << 30
        """So many good frames have come since garbage."""
        self._newest = self._before = b""
        self._newest_ns = 0
        self._frames = 0

    def land(self, row: JournalRow) -> None:
        kind, payload, tainted = Kind(row.kind), row.payload, False
        if kind is Kind.FRAME:
            self._frames += 1
            altered = payload in self.garbage
            tainted = altered or (self._behind == 0 and self.profile in SPANNING)
            if altered:
                self.garbage_rows.append(self._frames)
            else:
                self.landed.add(payload)
                if self._behind < MISLED.get(self.profile, 0):
                    self.misled.add(payload)
            self._behind = 0 if altered else self._behind + 1
            self._before, self._newest = self._newest, payload
            if (
                self._before
                and self.profile == "witmotion-bwt901ble"
                and row.at.mono_ns - self._newest_ns <= REST_S * 1e9
            ):
                self.seams.append((self._frames, self._before, payload))
            self._newest_ns = row.at.mono_ns
        elif kind in (Kind.CONNECTED, Kind.DISCONNECTED):
            self._newest = b""
        try:
            pieces = self._decoder.decode(kind, payload, Received(row.row, row.at.boot_id, row.at.mono_ns))
        except FrameError:
            return
        brought = self._frames, payload, self._before, tainted
        if kind is Kind.FRAME and getattr(self._decoder, "held", ()):
            self._held.append(brought)
        for piece in pieces:
            if isinstance(piece, Burst):
                came = Came(piece.first, piece.taken_ns, piece.values, *(self._held.pop(0) if self._held else brought))
                self.bursts.setdefault((piece.session, piece.sensor.columns.start), []).append(came)
                self.samples += len(piece.values)
            elif isinstance(piece, Lost):
                key = piece.session, piece.sensor.columns.start
                self.lost.setdefault(key, []).append((piece.first, piece.end))

    def garbage_between(self, first_row: int, last_row: int) -> int:
        return sum(first_row <= row <= last_row for row in self.garbage_rows)


@dataclass
class Stretch:
    """One session of one sensor against what the wearable streamed on that link.

    span: samples that it streamed from the first to the last that came; counted: by the decoder's indices. came:
    samples of the wearable that came; garbage: samples that it never streamed; twice: those that came again.
    """

    link: int
    column: int
    span: int
    counted: int
    came: int
    garbage: int
    twice: int


@dataclass
class StreamFates:
    """Of every sample that was streamed. unheard: those that did not come, by why."""

    streamed: int = 0
    delivered: int = 0
    garbage: int = 0
    twice: int = 0
    unheard: Counter[str] = field(default_factory=Counter)
    stretches: list[Stretch] = field(default_factory=list)


class Finder:
    """Finds samples of one sensor by their values: by a projection, then exactly."""

    def __init__(self, worn: Streaming, column: int) -> None:
        parts = [link.samples(column) if column in link.streamed else None for link in worn.links]
        width = next((part.shape[1] for part in parts if part is not None), 1)
        sizes = [0 if part is None else len(part) for part in parts]
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self.truth = np.concatenate([np.zeros((0, width), np.float32), *(p for p in parts if p is not None)])
        self._onto = np.linspace(1, 2, width)
        projected = self.truth @ self._onto
        self._order = np.argsort(projected, kind="stable")
        self._sorted = projected[self._order]

    def link_of(self, place: int) -> int:
        return int(np.searchsorted(self.starts, place, side="right")) - 1

    def places(self, index: np.ndarray, values: np.ndarray, link: int | None, sent: np.ndarray) -> np.ndarray:
        """Where each was streamed, on this link or on any; -1: it was not. Of several that are equal (a sensor at its
        limit) the one that its notification carries (sent; -1 where that is not known), or else the one that goes on
        from the sample before it, or else the first after that, or that itself."""
        first, end = (0, len(self.truth)) if link is None else self.starts[link : link + 2]
        near = 4 * NEAR * len(self._onto)
        projected = values.astype(np.float64) @ self._onto
        low, high = (np.searchsorted(self._sorted, projected + side * near) for side in (-1, 1))
        found = np.full(len(values), -1)
        last, last_index = -1, 0
        for n in range(len(values)):
            at = [
                int(place)
                for place in self._order[low[n] : high[n]]
                if first <= place < end and np.abs(self.truth[place] - values[n]).max() < NEAR
            ]
            if not at:
                continue
            goes_on = last + int(index[n]) - last_index
            later = [place for place in at if place > last]
            if sent[n] in at:
                best = int(sent[n])
            else:
                best = goes_on if last >= 0 and goes_on in at and goes_on > last else min(later, default=max(at))
            found[n] = best
            last, last_index = max(last, best), int(index[n])
        return found


def account(worn: Streaming, air: Air, ledger: StreamingLedger, deaths: int) -> StreamFates:
    """Raises AssertionError where a sample has no fate, or where the decoder tells of others than there are."""
    fates = StreamFates()
    columns = sorted({column for link in worn.links for column in link.streamed})
    finders = {column: Finder(worn, column) for column in columns}
    came = {column: np.zeros(len(finder.truth), bool) for column, finder in finders.items()}
    alike = _alike(worn, ledger)
    for (session, column), bursts in ledger.bursts.items():
        stretch = _stretch(worn, air, ledger, finders[column], column, bursts, came[column], alike)
        lost = sum(end - first for first, end in ledger.lost.get((session, column), []))
        assert lost == stretch.counted - sum(len(burst.values) for burst in bursts), f"{worn.name}: {lost}, {stretch}"
        fates.stretches.append(stretch)
        fates.garbage += stretch.garbage
        fates.twice += stretch.twice
    for column, finder in finders.items():
        fates.streamed += len(finder.truth)
        fates.delivered += int(came[column].sum())
    for number, link in enumerate(worn.links):
        starts = {column: int(finder.starts[number]) for column, finder in finders.items()}
        fates.unheard += _missing(worn, air, ledger, link, {c: came[c][starts[c] :] for c in link.streamed}, deaths)
    return fates


def _stretch(
    worn: Streaming,
    air: Air,
    ledger: StreamingLedger,
    finder: Finder,
    column: int,
    bursts: list[Came],
    came: np.ndarray,
    alike: list[int],
) -> Stretch:
    name = f"{worn.name} column {column}"
    index = np.concatenate([np.arange(b.first, b.first + len(b.values)) for b in bursts])
    assert index[0] == 0, f"{name}: its first sample is {index[0]}"
    assert (np.diff(index) > 0).all(), f"{name}: indices do not ascend"
    of = _link_of(name, worn, bursts)
    sent = _sent_with(worn, finder, column, of, bursts)
    places = finder.places(index, np.concatenate([b.values for b in bursts]), of, sent)
    rows = np.repeat([b.row for b in bursts], [len(b.values) for b in bursts])
    tainted = np.repeat([b.tainted or _torn(worn, b) for b in bursts], [len(b.values) for b in bursts])
    known = (places >= 0) & ~np.concatenate([_mixed(worn, b) for b in bursts])
    garbage_rows = ledger.garbage_between(int(rows[0]) - 1, int(rows[-1]))
    if worn.profile in UNSTAMPED:  # samples are told later than their row, held back by arrivals.py
        joined = sum(int(rows[0]) <= row <= int(rows[-1]) for row in alike)
        assert (~known).sum() <= garbage_rows * GARBAGE_SAMPLES + joined, f"{name}: samples that it never streamed"
    else:
        assert not (~known & ~tainted).any(), f"{name}: samples that it never streamed"
    counted = int(index[-1]) + 1
    if not known.any():
        return Stretch(0, column, 0, counted, 0, int((~known).sum()), 0)
    index, places, rows = index[known], places[known], rows[known]
    newest = np.maximum.accumulate(places)
    twice = np.concatenate([[False], places[1:] <= newest[:-1]])
    if twice.any():
        assert worn.profile in UNSTAMPED, f"{name}: a sample twice or out of order"
        assert air.duplicated, f"{name}: a sample twice or out of order, and no notification came twice"
        index, places, rows = index[~twice], places[~twice], rows[~twice]
    links = {finder.link_of(int(place)) for place in (places[0], places[-1])}
    assert len(links) == 1, f"{name}: one session of several links"
    (link,) = links
    assert not came[places].any(), f"{name}: a sample in two sessions"
    came[places] = True
    span = int(places[-1] - places[0]) + 1
    stretch = Stretch(link, column, span, counted, len(places), int((~known).sum()), int(twice.sum()))
    start = int(finder.starts[link])
    if worn.profile in UNSTAMPED:
        _estimated(name, worn, air, stretch, garbage_rows)
    else:
        _exact(name, worn, worn.links[link], column, index, places - start, rows, ledger)
    return stretch


def _link_of(name: str, worn: Streaming, bursts: list[Came]) -> int | None:
    """The link whose notifications brought them; None where all that came was garbage."""
    sent = [set(link.sent) for link in worn.links]
    links = [{n for n, payloads in enumerate(sent) if burst.payload in payloads} for burst in bursts]
    told = [some for some in links if some]
    if not told:
        return None
    common = set.intersection(*told)
    assert common, f"{name}: one session of several links"
    return min(common)


def _sent_with(worn: Streaming, finder: Finder, column: int, link: int | None, bursts: list[Came]) -> np.ndarray:
    """The place of each sample by the notification that brought it; -1 where it was told later than that."""
    firsts: dict[bytes, int] = {}
    if link is not None and worn.profile not in UNSTAMPED:
        payloads = worn.links[link].sent
        for carried in CARRIED[worn.profile](payloads):
            if carried.column == column:
                firsts[payloads[carried.notifications[-1]]] = int(finder.starts[link]) + carried.first
    places = [(firsts.get(b.payload, -1), len(b.values)) for b in bursts]
    return np.concatenate([np.full(n, -1) if at < 0 else np.arange(at, at + n) for at, n in places])


def _torn(worn: Streaming, burst: Came) -> bool:
    """Whether it was joined from two notifications that were not sent one behind the other."""
    if worn.profile != "movesense" or burst.payload[0] != MOVESENSE_REST:
        return False
    return not any((burst.before, burst.payload) in pairwise(link.sent) for link in worn.links)


def _mixed(worn: Streaming, burst: Came) -> np.ndarray:
    """Which samples of a torn frame hold bytes of both its parts: one that was never streamed, also where it is by
    chance equal to one that was (accelerations that are all at the sensor's limit)."""
    n = len(burst.values)
    if not _torn(worn, burst):
        return np.zeros(n, bool)
    return np.arange(n) >= (len(burst.before) - MOVESENSE_HEAD_BYTES - 12 * n) // 12  # accelerations, then turns


def _alike(worn: Streaming, ledger: StreamingLedger) -> list[int]:
    """Rows that end a sample joined from two notifications that were not sent one behind the other: one ends within a
    frame where the other begins within another."""
    if not ledger.seams:
        return []
    begins: dict[bytes, list[tuple[int, int]]] = {}
    for number, link in enumerate(worn.links):
        at = 0
        for payload in link.sent:
            begins.setdefault(payload, []).append((number, at))
            at += len(payload)
    rows = []
    for row, before, payload in ledger.seams:
        ends = [(number, at + len(before)) for number, at in begins.get(before, [])]
        starts = begins.get(payload, [])
        cuts = {at % WITMOTION_FRAME_BYTES for _, at in ends} & {at % WITMOTION_FRAME_BYTES for _, at in starts}
        if cuts - {0} and not set(ends) & set(starts):
            rows.append(row)
    return rows


def _exact(name, worn, link, column, index, places, rows, ledger) -> None:
    """From one sample that came to the next the device's clock counts what it streamed, what the clock stepped, and
    what it would have streamed while it was stopped: its clock goes on."""
    shifts = np.diff(index) - np.diff(places)
    for n in np.flatnonzero(shifts):
        shift, gap = int(shifts[n]), int(places[n + 1] - places[n])
        low, high = places[n] - FRAME_SAMPLES, places[n + 1] + FRAME_SAMPLES
        steps = (*link.steps, *link.pauses)
        stepped = [seconds for seconds, before in steps if column in before and low <= before[column] <= high]
        off_max = HIDDEN_SAMPLES[worn.profile] if gap + shift == 1 else 1.5
        runs = (sum(stepped[i:j]) for j in range(1, len(stepped) + 1) for i in range(j))
        if any(abs(shift - seconds * worn.rate_hz) <= off_max for seconds in runs):
            continue
        if ledger.garbage_between(int(rows[n]) - 1, int(rows[n + 1])):
            continue
        stamped = int(index[np.searchsorted(rows, rows[n])])
        if stamped and abs(shift) <= 0.5 + gap * STAMP_S[worn.profile] * worn.rate_hz / stamped:
            continue
        garbage = [row for row in ledger.garbage_rows if rows[0] - 1 <= row <= rows[n]]
        since = int(index[n] - index[np.searchsorted(rows, garbage[-1])]) if garbage else 0
        if since and abs(shift) <= 0.5 + gap * 0.5 / since:  # beside whole samples, its stamp was off by up to half one
            continue
        raise AssertionError(f"{name}: {gap} samples on it counts {gap + shift}, at {places[n]} of its link")


def _estimated(name: str, worn: Streaming, air: Air, stretch: Stretch, garbage_rows: int) -> None:
    """arrivals.py: unseen are LATE_S at once and a steady loss of SKEW, and a count is off by the radio's jitter."""
    jitter_s = air.jitter_s + (Air.SAMPLED_NS + INTERVAL_NS) / 1e9
    span_s = stretch.span / worn.rate_hz
    off_max = worn.rate_hz * (LATE_S + jitter_s + SKEW * span_s) + 2
    off_max += stretch.twice + stretch.garbage + garbage_rows
    off = stretch.counted - stretch.span
    assert abs(off) <= off_max, f"{name}: {stretch.span} samples are counted {stretch.counted}, off by > {off_max:.0f}"


def _missing(
    worn: Streaming, air: Air, ledger: StreamingLedger, link: LinkTruth, came: dict[int, np.ndarray], deaths: int
) -> Counter[str]:
    """Of one link, why each sample that did not come did not. came: by column, from this link's first sample on."""
    unheard: Counter[str] = Counter()
    told = dict.fromkeys(came, 0)
    for carried in CARRIED[worn.profile](link.sent):
        told[carried.column] = carried.end
        missing = int((~came[carried.column][carried.first : carried.end]).sum())
        if missing:
            why = _why(worn, air, ledger, link, carried, deaths)
            unheard[why] += missing
    for column, parts in link.streamed.items():
        streamed = sum(map(len, parts))
        assert told[column] <= streamed, f"{worn.name}: more was sent than streamed"
        assert not came[column][told[column] : streamed].any(), f"{worn.name}: a sample came that was never sent"
        unheard["in the wearable when the link ended"] += streamed - told[column]
    return unheard


def _why(worn: Streaming, air: Air, ledger: StreamingLedger, link: LinkTruth, carried: Carried, deaths: int) -> str:
    for n in carried.notifications:
        payload = link.sent[n]
        if payload in ledger.landed:
            continue
        if payload in air.observed:
            assert deaths, f"{worn.name}: what was journalled is not on the medium"
            return "not on the medium when the gateway died"
        if payload in air.altered:
            return "garbage when it arrived"
        if payload in air.heard:
            raise AssertionError(f"{worn.name}: a good notification was refused: {payload[:24].hex()}")
        return "lost on the radio"
    first = link.sent[carried.notifications[0]]
    if first in ledger.misled:
        return "beside garbage"
    if worn.profile == "polar-verity-sense" and any(
        abs(carried.end - before.get(carried.column, 0)) <= 2 * FRAME_SAMPLES for _, before in link.steps
    ):  # the other sensor's clock has stepped already, so these have no partner
        return "of the time before its clock stepped"
    raise AssertionError(f"{worn.name}: it is on the medium and was not decoded: {first[:24].hex()}")


def rows_known(worn: Streaming, ledger: StreamingLedger, session: int) -> Known | None:
    """Which rows of the grid the session's samples make: one between two neighbouring samples is there, one between
    samples that are not is lost. Of two sensors both are needed. values: where a sample is a row.

    None where garbage has brought the times themselves out of order.
    """
    columns = (0, 3) if worn.profile == "polar-verity-sense" else (0,)
    parts = []
    for column in columns:
        bursts = ledger.bursts.get((session, column), [])
        if not bursts:
            return Known()
        taken_ns = np.concatenate([burst.taken_ns for burst in bursts])
        index = np.concatenate([np.arange(b.first, b.first + len(b.values)) for b in bursts])
        if (np.diff(taken_ns) <= 0).any():
            assert any(burst.tainted for burst in bursts), f"{worn.name}: times that do not ascend"
            return None
        parts.append(_rows(taken_ns, index))
    end = max(map(len, parts))
    states = np.stack([np.pad(part, (0, end - len(part)), constant_values=MISSING) for part in parts])
    state = np.where((states == LOST).any(0), LOST, np.where((states == HERE).all(0), HERE, MISSING))
    known = Known(np.pad(state, (0, 1)).astype(np.uint8), np.zeros((end + 1, 6), np.float32))
    known.end = end
    if worn.profile in UNSTAMPED:
        for burst in ledger.bursts[session, 0]:
            known.values[burst.first : burst.first + len(burst.values)] = burst.values
    return known


def _rows(taken_ns: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The state of each row up to the last sample."""
    row_ns = np.rint(np.arange(int(taken_ns[-1]) * GRID_HZ // 10**9 + 1) * (1e9 / GRID_HZ)).astype(np.int64)
    row_ns = row_ns[row_ns <= taken_ns[-1]]
    before = np.searchsorted(taken_ns, row_ns, side="right") - 1
    after = np.minimum(before + 1, len(taken_ns) - 1)
    on_sample = (before >= 0) & (taken_ns[before] == row_ns)
    between = (before >= 0) & (index[after] - index[before] == 1) & (taken_ns[after] - taken_ns[before] <= PAUSE_NS)
    held = (before < 0) & (taken_ns[0] - row_ns <= PAUSE_NS)
    return np.where(on_sample | between | held, HERE, LOST)
