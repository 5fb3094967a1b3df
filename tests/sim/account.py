"""The account of a world: what each sample's fate was, by the device's truth and by what the medium holds.

A brute force over whole sessions, sample by sample, with a reading of the bytes of its own; no line of the gateway.
"""

import struct
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from gateway.store.rows import Derived, JournalRow
from gateway.stream.progress import Progress
from gateway.stream.stream import WindowReady
from tests.sim import streams
from tests.sim.families import Streaming, Truth, Worn
from tests.sim.known import HERE, LOST, MISSING, Known, windows_due
from tests.sim.streams import StreamingLedger, Stretch
from tests.sim.world import Air, Central, World, new_stream

CONTROL_UUID = "f1d9e705-6a3b-4d6e-8f52-0c1b7a9d4e21"
ACK = 5


class ReferenceLedger:
    """One wearable's durable rows in their order. garbage: payloads that did not arrive as they were sent."""

    def __init__(self, garbage: set[bytes]) -> None:
        self.garbage = garbage
        self.sessions: dict[int, Known] = {}
        self._listed: dict[int, int] = {}
        self._scales: dict[int, np.ndarray] = {}
        self._live: list[bytes] = []

    def land(self, row: JournalRow) -> None:
        getattr(self, f"_{row.kind}", lambda _: None)(row.payload)

    def _info(self, payload: bytes) -> None:
        rates, sessions = payload[24], payload[25]
        entries = [struct.unpack_from("<QIIII", payload, 28 + 4 * rates + 24 * i) for i in range(sessions)]
        self._listed = {number & 0xFFFF: number for number, *_ in entries}
        for number, first, end, *_ in entries:
            known = self.sessions.setdefault(number, self._new())
            if not self._done(known):
                known.ended = number != entries[-1][0]
                known.end = max(known.end, end)
                known.lose(0, first)
        for number, known in self.sessions.items():
            if number not in self._listed.values() and not self._done(known):
                known.ended = True
                known.lose(0, known.end)

    def _new(self) -> Known:
        return Known()

    def _done(self, known: Known) -> bool:
        return known.ended and bool((known.state[: known.end] != MISSING).all())

    def _config(self, payload: bytes) -> None:
        acc, gyro = struct.unpack_from("<ff", payload, 12)
        self._scales[payload[0]] = np.array([acc] * 3 + [gyro] * 3, np.float32)

    def _connected(self, _: bytes) -> None:
        self._live = []

    _disconnected = _connected

    def _absent(self, payload: bytes) -> None:
        """REQUEST as it was written, and what it was answered: nothing held."""
        session16, first, count, status = struct.unpack_from("<xHIIxB", payload)
        assert status == 4
        self._lose_overrun(session16, first, first + count, garbage=False)

    def _lose_overrun(self, session16: int, first: int, end: int, garbage: bool) -> None:
        number = self._listed.get(session16)
        if number is not None and not self._done(self.sessions[number]):
            self.sessions[number].lose(first, end, garbage)

    def _overrun(self, payload: bytes) -> None:
        """Four Live frames in a row without a loss on the radio; between the middle two the index jumps."""
        self._live = [*self._live[-3:], payload]
        if len(self._live) < 4:
            return
        _, flags, n, _, seq, session16, first, _ = zip(
            *(struct.unpack_from("<BBBBHHII", frame) for frame in self._live), strict=True
        )
        jumps = [first[i + 1] - first[i] - n[i] for i in range(3)]
        in_a_row = len(set(session16)) == 1 and all((seq[0] + i) % 65536 == seq[i] for i in range(4))
        told = all(jumps[i] == 0 or (jumps[i] > 0 and flags[i + 1] & 16) for i in (0, 2))
        if in_a_row and told and jumps[1] > 0:
            garbage = any(frame in self.garbage for frame in self._live)
            self._lose_overrun(session16[0], first[1] + n[1], first[2], garbage)

    def _frame(self, payload: bytes) -> None:
        kind, flags, n, cfg_id, _, session16, first, _ = struct.unpack_from("<BBBBHHII", payload)
        number, garbage = self._listed.get(session16), payload in self.garbage
        if number is None or self._done(self.sessions[number]):
            return
        if kind & 15 == 2:
            self.sessions[number].lose(first, first + struct.unpack_from("<I", payload, 16)[0], garbage)
        elif cfg_id in self._scales:
            if kind & 15 == 0:
                self._overrun(payload)
            counts = np.frombuffer(payload, "<i2", offset=16).reshape(n, 6)
            saturated = bool(flags & 8) or bool(np.isin(counts, (-32768, 32767)).any())
            self.sessions[number].take(first, counts.astype(np.float32) * self._scales[cfg_id], saturated, garbage)


LEDGERS = {"reference": lambda garbage, _profile: ReferenceLedger(garbage)}
"""By profile, where it keeps samples; all others are streaming."""


@dataclass
class Fates:
    """Of all samples of one wearable."""

    made: int = 0
    delivered: int = 0
    garbage: int = 0
    """Delivered, but by a frame that was garbage and could not be told from a good one."""
    declared_lost: int = 0
    stretches: list[Stretch] = field(default_factory=list)
    """Of a wearable that keeps nothing."""
    unheard: Counter[str] = field(default_factory=Counter)
    """Lost at the wearable before it told anybody of them, by why; of one that keeps nothing all that did not come, and
    declared_lost is what the decoder says of them."""


class Account:
    """Watches a world while it runs (`landed`, `written`), and settles at the end (`settle`)."""

    def __init__(self) -> None:
        self.world: World | None = None
        self.ledgers: dict[str, ReferenceLedger | StreamingLedger] = {}
        self.acknowledged = 0

    def landed(self, row: JournalRow) -> None:
        self._ledger(row.wearable).land(row)

    def _ledger(self, wearable: str) -> ReferenceLedger | StreamingLedger:
        if wearable not in self.ledgers:
            assert self.world is not None
            air = next(air for air in self.world.airs if air.worn.name == wearable)
            made = LEDGERS.get(air.worn.profile, StreamingLedger)(air.garbage, air.worn.profile)
            self.ledgers[wearable] = made
        return self.ledgers[wearable]

    def written(self, air: Air, uuid: str, payload: bytes) -> None:
        """An acknowledgement speaks only of samples that are on the medium, or lost for good as it says itself."""
        if uuid != CONTROL_UUID or payload[0] != ACK:
            return
        session16, index = struct.unpack("<HI", payload[1:])
        ledger = self.ledgers[air.worn.name]
        known = next(k for number, k in reversed(ledger.sessions.items()) if number & 0xFFFF == session16)
        assert (known.state[:index] != MISSING).all(), f"{air.worn.name}: {index} acknowledged, not durable"
        self.acknowledged += 1

    def settle(self) -> dict[str, Fates]:
        assert self.world is not None
        fates = {}
        for central in self.world.gateway.centrals:
            worn = central.air.worn
            answered = self._answered(worn.name)
            again = self._derived_again(worn)
            assert answered.keys() == again.keys(), f"{worn.name}: {set(answered) ^ set(again)}"
            assert answered == again, f"{worn.name}: a window differs when it is derived again"
            if isinstance(worn, Streaming):
                fates[worn.name] = self._streams(worn, central)
                self._stream_windows(worn, answered)
            else:
                fates[worn.name] = self._samples(worn, central)
                self._windows(worn.name, answered)
        return fates

    def _samples(self, worn: Worn, central: Central) -> Fates:
        fates = Fates()
        ledger = self._ledger(worn.name)
        told = ledger.sessions
        for number, truth in worn.truth.items():
            known = told.get(number, Known())
            fates.made += truth.made
            values = truth.values()
            state, good = known.state[: truth.made], ~known.garbage[: truth.made]
            assert not (known.state[truth.made :][~known.garbage[truth.made :]] != MISSING).any(), "samples never made"
            here = (state == HERE) & good
            assert np.array_equal(known.values[: truth.made][here], values[here]), "a sample is not what was measured"
            fates.delivered += int((state == HERE).sum())
            fates.garbage += int((known.garbage & (known.state != MISSING)).sum())
            fates.declared_lost += int((state == LOST).sum())
            why = self._why(truth)
            for i in np.flatnonzero((state == LOST) & good):
                assert why.get(int(i)) in ("overwritten", "flash lost", "overrun"), (
                    f"{worn.name}: {i} is not lost: {why.get(int(i))}"
                )
            for i in np.flatnonzero(state == MISSING):
                assert int(i) in why, f"{worn.name} {number:x}: sample {i} is held by the wearable and never came"
                assert why[int(i)] != "acknowledged", f"{worn.name}: sample {i} was erased and never came"
                assert i >= known.end, f"{worn.name} {number:x}: sample {i} ({why[int(i)]}) is in no account"
                fates.unheard[why[int(i)]] += 1
        counters = central.pipeline.stream.counters
        lost = sum(int((known.state == LOST).sum()) for known in told.values())
        assert counters.lost_samples == lost, f"{worn.name}: {counters.lost_samples} counted as lost, {lost} are"
        here = sum(int((known.state == HERE).sum()) for known in told.values())
        assert counters.samples == here, f"{worn.name}: {counters.samples} samples counted, {here} are there"
        assert sum(counters.lost_by_reason.values()) == lost, f"{worn.name}: {counters.lost_by_reason} of {lost}"
        assert fates.delivered + fates.declared_lost + sum(fates.unheard.values()) == fates.made, (
            f"{worn.name}: {fates}"
        )
        return fates

    def _why(self, truth: Truth) -> dict[int, str]:
        return {i: why for first, end, why in truth.gone for i in range(first, end)}

    def _streams(self, worn: Streaming, central: Central) -> Fates:
        assert self.world is not None
        ledger = self._ledger(worn.name)
        counters = central.pipeline.stream.counters
        assert counters.samples == ledger.samples, f"{worn.name}: {counters.samples} counted, {ledger.samples} came"
        lost = sum(end - first for ranges in ledger.lost.values() for first, end in ranges)
        assert counters.lost_samples == lost == sum(counters.lost_by_reason.values()), f"{worn.name}: {counters}"
        if worn.profile in streams.UNSTAMPED:
            assert counters.lost_estimated == lost, f"{worn.name}: an estimate that does not say so"
        found = streams.account(worn, central.air, ledger, self.world.gateway.deaths)
        assert found.delivered + found.garbage + found.twice == ledger.samples, f"{worn.name}: {found}"
        assert found.delivered + sum(found.unheard.values()) == found.streamed, f"{worn.name}: {found}"
        return Fates(found.streamed, found.delivered, found.garbage, lost, found.stretches, found.unheard)

    def _answered(self, wearable: str) -> dict[str, tuple[int, bytes]]:
        assert self.world is not None
        answered: dict[str, tuple[int, bytes]] = {}
        for item in self.world.medium.durable:
            if isinstance(item, Derived) and item.wearable == wearable:
                for event in item.events:
                    if event.kind == "prediction":
                        assert event.id not in answered, f"{wearable}: {event.id} was answered twice"
                        answered[event.id] = (event.payload[0], event.payload[2:])
        return answered

    def _derived_again(self, worn: Worn) -> dict[str, tuple[int, bytes]]:
        """From the whole journal, without a crash or a snapshot on the way."""
        assert self.world is not None
        stream = new_stream(worn.profile, self.world.gateway.settings, None, Progress())
        outputs = [
            output
            for item in self.world.medium.durable
            if isinstance(item, JournalRow) and item.wearable == worn.name
            for output in stream.advance(item)
            if isinstance(output, WindowReady)
        ]
        return {f"{w.session:016x}-{w.number}": (w.interpolated, w.values.tobytes()) for w in outputs}

    def _windows(self, wearable: str, answered: dict[str, tuple[int, bytes]]) -> None:
        due = {
            f"{session:016x}-{number}": window
            for session, known in self._ledger(wearable).sessions.items()
            for number, window in windows_due(known).items()
        }
        assert sorted(answered) == sorted(due), f"{wearable}: {set(answered) ^ set(due)}"
        for id, (interpolated, values) in due.items():
            assert answered[id] == (interpolated, values), f"{wearable}: window {id} differs"

    def _stream_windows(self, worn: Streaming, answered: dict[str, tuple[int, bytes]]) -> None:
        """Those that the samples which came make; their bytes where the samples are the grid."""
        ledger = self._ledger(worn.name)
        told: dict[int, set[tuple[int, int, bytes]]] = {}
        for id, (interpolated, values) in answered.items():
            session, number = id.split("-")
            told.setdefault(int(session, 16), set()).add((int(number), interpolated, values))
        for session in {session for session, _ in ledger.bursts}:
            known = streams.rows_known(worn, ledger, session)
            if known is None:
                continue
            due = {(number, interpolated, values) for number, (interpolated, values) in windows_due(known).items()}
            mine = told.get(session, set())
            if worn.profile not in streams.UNSTAMPED:
                due, mine = ({(number, interpolated, b"") for number, interpolated, _ in some} for some in (due, mine))
            differ = sorted((number, interpolated) for number, interpolated, _ in due ^ mine)
            assert not differ, f"{worn.name} {session:x}: {differ} of {len(due)}"
