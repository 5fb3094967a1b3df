"""Sketches of values that are all at hand, read by DataSketches itself and held against counting."""

import base64
import struct

import numpy as np
import pytest
from datasketches import kll_floats_sketch
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.monitoring.kll import KLL_K, check_kll_floats_sketch, kll_floats_sketch_of

DISTRIBUTIONS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tails": lambda rng, n: rng.standard_cauchy(n),
    "all positive and skew": lambda rng, n: rng.lognormal(0, 3, n),
    "one value": lambda rng, n: np.full(n, -2.5),
    "two values": lambda rng, n: rng.choice((0.0, 1.0), n, p=(0.9, 0.1)),
    "mostly one value": lambda rng, n: np.where(rng.random(n) < 0.3, rng.normal(size=n), 0.0),
    "few steps": lambda rng, n: np.round(rng.normal(size=n) * 2),
    "two heaps": lambda rng, n: rng.normal(np.where(rng.random(n) < 0.5, -1e6, 1e6)),
    "sorted": lambda rng, n: np.arange(n) / 7,
    "falling": lambda rng, n: -np.arange(n, dtype=float),
    "tiny and huge": lambda rng, n: rng.choice((-1.0, 1.0), n) * 10 ** rng.uniform(-38, 38, n),
}


def rank_error(sketch, ordered):
    """The largest over some hundred values of the set, both as `<=` and as `<`."""
    n, worst = len(ordered), 0.0
    for value in np.unique(ordered[np.linspace(0, n - 1, min(n, 300)).round().astype(int)]):
        upto, below = np.searchsorted(ordered, value, "right") / n, np.searchsorted(ordered, value, "left") / n
        worst = max(worst, abs(sketch.get_rank(value, True) - upto), abs(sketch.get_rank(value, False) - below))
    return worst


@settings(max_examples=150, deadline=None)
@given(
    size=st.one_of(
        st.integers(1, 50_000), st.integers(1, 1000), st.sampled_from([199, 200, 201, 400, 401, 402, 50_000])
    ),
    kind=st.sampled_from(sorted(DISTRIBUTIONS)),
    seed=st.integers(0, 2**32 - 1),
)
def test_datasketches_reads_what_was_written_and_finds_the_values_ranks(size, kind, seed):
    """Count and ends to the bit; ranks and quantiles within the error that it states itself, and within 1 / k."""
    values = DISTRIBUTIONS[kind](np.random.default_rng(seed), size).astype(np.float32)
    content = kll_floats_sketch_of(values)
    check_kll_floats_sketch(content)
    sketch = kll_floats_sketch.deserialize(content)
    assert (sketch.n, sketch.k) == (size, 200)
    assert (sketch.get_min_value(), sketch.get_max_value()) == (values.min(), values.max())
    stated = sketch.normalized_rank_error(False)
    ordered = np.sort(values)
    error = rank_error(sketch, ordered)
    assert error <= min(stated, 1 / KLL_K)
    assert error == 0 or size > KLL_K
    for rank in (0.0, 0.01, 0.25, 0.5, 0.77, 0.99, 1.0):
        quantile = sketch.get_quantile(rank)
        assert np.searchsorted(ordered, quantile, "left") / size - stated <= rank
        assert rank <= np.searchsorted(ordered, quantile, "right") / size + stated
        assert quantile in values


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=900), st.randoms())
def test_the_same_values_make_the_same_bytes_in_any_order(values, random):
    content = kll_floats_sketch_of(np.array(values))
    random.shuffle(values)
    assert kll_floats_sketch_of(np.array(values)) == content


@pytest.mark.parametrize("size", [1, 2, 200, 201, 7920, 50_000])
def test_datasketches_writes_the_same_bytes_again(size):
    content = kll_floats_sketch_of(np.random.default_rng(size).normal(size=size))
    assert kll_floats_sketch.deserialize(content).serialize() == content
    assert len(content) <= 20 + 4 * (10 + 2 + KLL_K + 8)


def test_the_layout_is_that_of_a_published_event():
    """The sketch in docs/events.md was written by DataSketches; it keeps the newest value first and does not sort."""
    theirs = base64.b64decode("BQEPAMgACAAEAAAAAAAAAMgAAQDEAAAAAADAPwAAQEAAAABAAABAQAAAEEAAAMA/")
    ours = kll_floats_sketch_of(np.array([1.5, 2.25, 3.0, 2.0]))
    assert ours[:3] + theirs[3:4] + ours[4:-16] == theirs[:-16]
    assert struct.unpack("<4f", ours[-16:]) == (1.5, 2.0, 2.25, 3.0)
    assert sorted(struct.unpack("<4f", theirs[-16:])) == [1.5, 2.0, 2.25, 3.0]


@pytest.mark.parametrize("others", [1, 150, 5000])
@pytest.mark.parametrize("size", [1, 180, 201, 3852, 7920])
def test_it_merges_with_sketches_of_streams_either_way(size, others):
    rng = np.random.default_rng(size + others)
    reference, live = rng.normal(size=size).astype(np.float32), rng.normal(2, 1, others).astype(np.float32)
    stream = kll_floats_sketch(KLL_K)
    stream.update(live)
    ours = kll_floats_sketch.deserialize(kll_floats_sketch_of(reference))
    both = np.sort(np.concatenate([reference, live]))
    for first, second in ((ours, stream), (kll_floats_sketch.deserialize(stream.serialize()), ours)):
        merged = kll_floats_sketch(KLL_K)
        merged.merge(first)
        merged.merge(second)
        assert merged.n == size + others
        assert (merged.get_min_value(), merged.get_max_value()) == (both[0], both[-1])
        assert rank_error(merged, both) <= 2 * merged.normalized_rank_error(False)  # stated for 99 % of all ranks
    twice = kll_floats_sketch.deserialize(kll_floats_sketch_of(reference))
    twice.merge(ours)
    assert twice.n == 2 * size
    twice.update(live)
    assert twice.n == 2 * size + others


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf], [1e39]], ids=["none", "NaN", "infinite", "too large"])
def test_what_no_sketch_can_hold_is_refused(values):
    with pytest.raises(ValueError, match="a sketch needs values, all of them finite in single precision"):
        kll_floats_sketch_of(np.array(values))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_datasketches_own_sketches_pass_the_check(sizes, seed):
    """Grown value by value, and merged."""
    rng = np.random.default_rng(seed)
    merged = kll_floats_sketch(KLL_K)
    for size in sizes:
        stream = kll_floats_sketch(KLL_K)
        stream.update(rng.normal(size=size).astype(np.float32))
        check_kll_floats_sketch(stream.serialize())
        merged.merge(stream)
    check_kll_floats_sketch(merged.serialize())


GOOD = kll_floats_sketch_of(np.arange(1000, dtype=float))


def changed(offset, form, value):
    content = bytearray(GOOD)
    struct.pack_into(form, content, offset, value)
    return bytes(content)


DAMAGED = [  # what it shows, bytes, words of the message
    ("nothing", b"", "0 bytes"),
    ("half a head", GOOD[:12], "12 bytes"),
    ("another family", changed(2, "<B", 7), "its head is no KLL sketch's"),
    ("an empty one", kll_floats_sketch(200).serialize(), "its head is no KLL sketch's"),
    ("no levels", changed(18, "<B", 0), "0 levels"),
    ("too many levels", changed(18, "<B", 200), "200 levels"),
    ("cut short", GOOD[:-4], "its levels do not fit its items"),
    ("cut within a value", GOOD[:-1], "its levels do not fit its items"),
    ("a level far beyond its memory", changed(24, "<I", 2**31), "its levels do not fit its items"),
    ("another count", changed(8, "<Q", 1001), "stand for another number of values than 1001"),
    ("an item beyond the ends", changed(len(GOOD) - 4, "<f", 1e6), "beyond its least and greatest"),
    ("NaN", changed(len(GOOD) - 4, "<f", float("nan")), "beyond its least and greatest"),
    ("an unsorted level", changed(len(GOOD) - 4, "<f", 3), "a level above the lowest is not sorted"),
    ("a single value that is none", kll_floats_sketch_of(np.ones(1))[:8] + b"\xff" * 4, "its single value is none"),
]


@pytest.mark.parametrize(("content", "words"), [row[1:] for row in DAMAGED], ids=[row[0] for row in DAMAGED])
def test_a_damaged_sketch_is_told_in_words(content, words):
    with pytest.raises(ValueError, match=words):
        check_kll_floats_sketch(content)


@settings(max_examples=500, deadline=None)
@given(
    source=st.sampled_from([GOOD, kll_floats_sketch_of(np.ones(1)), kll_floats_sketch_of(np.arange(5.0))]),
    edits=st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), min_size=1, max_size=4),
    end=st.integers(0, 1000),
)
def test_whatever_passes_the_check_is_safe_to_read(source, edits, end):
    content = bytearray(source)
    for place, byte in edits:
        content[place % len(content)] = byte
    try:
        check_kll_floats_sketch(bytes(content[:end]))
    except ValueError:
        return
    sketch = kll_floats_sketch.deserialize(bytes(content[:end]))
    assert sketch.get_min_value() <= sketch.get_quantile(0.5) <= sketch.get_max_value()
    assert sketch.get_rank(sketch.get_max_value(), True) == 1
