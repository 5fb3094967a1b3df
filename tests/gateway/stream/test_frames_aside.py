"""Frames that wait to be decoded many at a time change no answer: the same stream, whose decoder takes one by one."""

import itertools
import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import Instant
from gateway.monitoring.drift import DriftSettings
from gateway.motion.resample import kernel_period_ns, reach_ns
from gateway.motion.windows import WindowShape
from gateway.profiles import PROFILES
from gateway.profiles.conversation import Kind
from gateway.store.rows import JournalRow
from gateway.stream.stream import Stream, StreamSettings, WindowReady, decoder_state

SHAPE = WindowShape(40, 20)
SECONDS = 20
JITTER_S = 0.01


class OneByOne:
    """The decoder, of which nothing more is known than that it takes row for row."""

    def __init__(self, decoder):
        self.decode, self.state = decoder.decode, decoder.state


class Counted(OneByOne):
    def __init__(self, decoder):
        super().__init__(decoder)
        self.decode_frames, self.samples_max = decoder.decode_frames, decoder.samples_max
        self.decode, self.decoded_alone = self.decode_alone, 0
        self._decoder = decoder

    def decode_alone(self, *row):
        self.decoded_alone += 1
        return self._decoder.decode(*row)


def counts(n, rng, loud):
    values = rng.normal(0, 300, (n, 6)).round()
    if loud:
        values[rng.integers(n)] = 32767
    return values


def si(values):
    limits = [156.9] * 3 + [2000] * 3
    return np.clip(values * ([9.80665e-3] * 3 + [0.0625] * 3), np.negative(limits), limits)


def movesense(k, rng, loud):
    values = si(counts(8, rng, loud)).astype("<f4")
    stamp_ms = (int(k * 8 / 52 * 1e3) + 2**32 - 9000) % 2**32  # wraps on the way
    return 8, struct.pack("<BBI", 2, 1, stamp_ms) + values[:, :3].tobytes() + values[:, 3:].tobytes()


def xsens_dot(k, rng, loud):
    return 1, struct.pack("<I", (int(k / 60 * 1e6) + 2**32 - 9_000_000) % 2**32) + si(counts(1, rng, loud)).astype(
        "<f4"
    ).tobytes()


def witmotion(_k, rng, loud):
    return 1, b"\x55\x61" + counts(1, rng, loud).astype("<i2").tobytes() + bytes(6)


def thingy52(_k, rng, loud):
    return 1, counts(1, rng, loud).astype("<i2").tobytes() + bytes(6)


FAMILIES = {
    "movesense": (movesense, 52.0),
    "xsens-dot": (xsens_dot, 60.0),
    "witmotion-bwt901ble": (witmotion, 50.0),
    "thingy52": (thingy52, 50.0),
}


def journal(family, seed=0, trouble=0.0):
    """SECONDS of a wearable. trouble: how often something happens to a frame: it is lost, comes twice, is damaged,
    comes late with those after it, or the link ends with it."""
    make, rate_hz = FAMILIES[family]
    rng, chance = np.random.default_rng(seed), random.Random(seed)
    rows, k, at_s, held_until_s, boot = [], 0, 0.0, 0.0, "boot"

    def row(kind, payload, came_s):
        rows.append(JournalRow(len(rows) + 1, "left", kind, payload, Instant(boot, round(came_s * 1e9), 0, False)))

    row(Kind.CONNECTED, b"", 0.0)
    while at_s < SECONDS:
        n, payload = make(k, rng, loud=rng.random() < 0.02)
        k += 1
        at_s = k * n / rate_hz
        came_s = max(held_until_s, at_s + rng.random() * JITTER_S)
        event = chance.choice(["lost", "twice", "damaged", "late", "gap", "detail", "link", "boot"])
        if chance.random() >= trouble:
            row(Kind.FRAME, payload, came_s)
            continue
        match event:
            case "twice":
                row(Kind.FRAME, payload, came_s)
                row(Kind.FRAME, payload, came_s)
            case "damaged":
                damaged = bytearray(payload[: chance.choice([len(payload), chance.randrange(len(payload))])])
                for _ in range(3 if damaged else 0):
                    damaged[chance.randrange(len(damaged))] = chance.randrange(256)
                row(Kind.FRAME, bytes(damaged), came_s)
            case "late":
                held_until_s = at_s + chance.choice([0.2, 0.9, 3.0])
                row(Kind.FRAME, payload, came_s)
            case "gap":
                k += chance.choice([3, 30, 300])
            case "detail":
                row(Kind.DETAIL, b"\x19\x2a\x32", came_s)
                row(Kind.FRAME, payload, came_s)
            case "link":
                if chance.random() < 0.5:
                    row(Kind.DISCONNECTED, b"", came_s)
                row(Kind.CONNECTED, b"", came_s)
            case "boot":
                boot += "+"
                row(Kind.FRAME, payload, came_s)
    row(Kind.DISCONNECTED, b"", at_s + 5)
    return rows


def stream(decoder):
    return Stream(
        decoder=decoder,
        rate_hz=50.0,
        shape=SHAPE,
        settings=StreamSettings(),
        drift=DriftSettings(),
        reference={},
        mounting=None,
    )


def windows(path, rows):
    """By session and number: what it holds, its label, and when it came."""
    return {
        (o.session, o.number): ((o.values.tobytes(), o.interpolated, o.saturated), o.taken, row.row)
        for row in rows
        for o in path.advance(row)
        if isinstance(o, WindowReady)
    }


def many_and_one(family, rows):
    many, one = stream(PROFILES[family].decoder()), stream(OneByOne(PROFILES[family].decoder()))
    return many, windows(many, rows), one, windows(one, rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_where_nothing_is_lost_each_window_comes_with_the_same_row_and_nearly_all_frames_wait(family):
    rows = journal(family)
    many, of_many, one, of_one = many_and_one(family, rows)
    assert {key: (held, row) for key, (held, _, row) in of_many.items()} == {
        key: (held, row) for key, (held, _, row) in of_one.items()
    }
    assert len(of_many) > SECONDS * 50 / SHAPE.hop - 5
    assert many.counters == one.counters
    for key, (_, label, _) in of_many.items():
        taken_s = 1 / FAMILIES[family][1] + key[1] * SHAPE.hop / 50
        assert abs(label.mono_ns / 1e9 - taken_s) <= JITTER_S
    counted = Counted(PROFILES[family].decoder())
    windows(stream(counted), rows)
    assert counted.decoded_alone < 0.1 * len(rows)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.003, 0.03]))
def test_whatever_happens_on_the_way_the_windows_and_counts_are_the_same(family, seed, trouble):
    rows = journal(family, seed, trouble)
    many, of_many, one, of_one = many_and_one(family, rows)
    assert {key: held for key, (held, _, _) in of_many.items()} == {key: held for key, (held, _, _) in of_one.items()}
    assert many.counters == one.counters
    rows_late = [of_many[key][2] - of_one[key][2] for key in of_one]
    assert min(rows_late, default=0) >= 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("burst_s", [0.1, 0.3, 0.6, 0.9])
def test_behind_losses_a_window_comes_hardly_later_than_without_them(family, burst_s):
    """The radio loses all for burst_s, every 2.3 s. Without losses a window comes with the last sample that it needs;
    where a loss is only estimated, with the sample that tells of it."""
    rows = [row for row in journal(family) if row.kind != Kind.FRAME or row.at.mono_ns / 1e9 % 2.3 > burst_s]
    _, of_many, _, of_one = many_and_one(family, rows)
    came_s = {row.row: row.at.mono_ns / 1e9 for row in rows}
    before = {after.row: row.row for row, after in itertools.pairwise(rows)}
    needs_s = (SHAPE.length - 1) / 50 + reach_ns(kernel_period_ns(FAMILIES[family][1], 50)) / 1e9
    assert len(of_many) > SECONDS / 2.3
    for key, (_, label, row) in of_many.items():
        due_s = max(label.mono_ns / 1e9 + needs_s, came_s[of_one[key][2]])
        assert row == of_one[key][2] or came_s[before[row]] < due_s + 0.1 + 2 * JITTER_S, key


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_stream_that_is_restored_at_any_row_goes_on_exactly(family, seed):
    rows, chance = journal(family, seed, 0.01), random.Random(seed)
    whole = windows(stream(PROFILES[family].decoder()), rows)
    made, path = {}, stream(PROFILES[family].decoder())
    for row in rows:
        made |= windows(path, [row])
        if chance.random() < 0.05:
            snapshot = path.snapshot()
            path = stream(PROFILES[family].decoder(decoder_state(snapshot)))
            path.restore(row.row, snapshot)
    assert made == whole
