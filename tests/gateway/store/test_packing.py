"""Observations and events as they are stored: whatever goes in comes out, and what is damaged is found."""

import contextlib
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import Instant
from gateway.store import Store, StoreSettings
from gateway.store.archive import Archive
from gateway.store.batch import Batch, write
from gateway.store.blocks import BYTES_MAX, ROWS_MAX, Block, blocks, observations
from gateway.store.connection import suspected
from gateway.store.errors import StoreCorrupt
from gateway.store.eventlog import EventLog
from gateway.store.messages import DICTIONARY_BYTES_MAX, LEARN_AFTER, Packer, copy_dictionaries, drop_dictionaries
from gateway.store.rows import JournalRow, LoggedEvent
from tests.gateway.store.conftest import BOOT, at, event, logged, noise

NS = st.integers(-(2**61), 2**61)
OBSERVED = st.tuples(
    st.integers(1, 300),  # numbers that others have in between
    st.sampled_from(["left", "right", "gauche é"]),
    st.sampled_from(["frame", "info", "k" * 255]),
    st.binary(max_size=300),
    st.builds(Instant, st.sampled_from(["boot-a", "boot-b"]), NS, NS, st.booleans()),
)


@given(st.lists(OBSERVED, max_size=60))
def test_observations_come_back_as_they_were_in_their_order(
    observed: list[tuple[int, str, str, bytes, Instant]],
) -> None:
    rows, number = [], 0
    for up, wearable, kind, payload, moment in observed:
        number += up
        rows.append(JournalRow(number, wearable, kind, payload, moment))
    stored = blocks(rows)
    assert [block.row for block in stored] == sorted({block.row for block in stored})
    for wearable in ("left", "right", "gauche é"):
        back = [row for block in stored if block.wearable == wearable for row in observations(block)]
        assert back == [row for row in rows if row.wearable == wearable]
    for block in stored:
        inside = observations(block)
        assert inside[0].at == block.at
        assert len({row.at.boot_id for row in inside}) == len({row.at.utc_synced for row in inside}) == 1


def test_a_block_ends_where_it_is_long_and_where_the_clock_was_set() -> None:
    many = [JournalRow(n, "left", "frame", b"", at(n)) for n in range(1, 600)]
    assert [block.count for block in blocks(many)] == [ROWS_MAX, ROWS_MAX, 599 - 2 * ROWS_MAX]
    large = [JournalRow(n, "left", "frame", bytes(BYTES_MAX // 2), at(n)) for n in range(1, 6)]
    assert [block.count for block in blocks(large)] == [2, 2, 1]
    moments = [
        at(1),
        at(2),
        at(3, utc_s=2_000_000_000),
        at(4, utc_s=2_000_000_001),
        at(5, utc_s=2_000_000_002, synced=False),
    ]
    stepped = [JournalRow(n, "left", "frame", b"", moment) for n, moment in enumerate(moments, 1)]
    assert [block.row for block in blocks(stepped)] == [2, 4, 5]
    assert [block.at for block in blocks(stepped)] == [moments[0], moments[2], moments[4]]


@given(st.integers(2, 400), st.integers(1, 255))
def test_a_damaged_block_is_found(place: int, change: int) -> None:
    """But for the first two bytes, of which some bits only tell how hard it was packed."""
    (block,) = blocks([JournalRow(n, "left", "frame", noise(n, 40), at(n)) for n in range(1, 9)])
    damaged = bytearray(block.payload)
    damaged[2 + place % (len(damaged) - 2)] ^= change
    with pytest.raises(ValueError, match="journal"):
        observations(Block(block.row, "left", block.kind, bytes(damaged), block.at, block.count))


@given(st.binary(max_size=200), st.integers(0, 300))
def test_no_block_at_all_is_an_error_in_words(content: bytes, count: int) -> None:
    for payload in (content, zlib.compress(content)):
        with pytest.raises(ValueError, match="journal"):
            observations(Block(5, "left", "", payload, at(0), count))


def said(number: int) -> bytes:
    return b'{"id":"event-%d","probabilities":{"nail_biting":0.%d,"hair_pulling":0.%d}}' % (
        number,
        number * 7,
        number * 13,
    )


def test_like_messages_are_kept_as_what_they_differ_in() -> None:
    packer = Packer()
    events = [event(n, payload=said(n)) for n in range(1, 100)]
    stored, learnt = packer.pack(events)
    assert list(learnt) == [0]
    assert sum(len(one.payload) for one in stored[1:]) < 0.5 * sum(len(one.payload) for one in events[1:])
    for one, whole in zip(stored, events, strict=True):  # by zlib alone
        text = zlib.decompressobj(zdict=learnt[0]).decompress(one.payload)
        assert text == b"\n".join((whole.topic.encode(), whole.source.encode(), whole.id.encode(), whole.payload))


def test_another_kind_of_message_is_learnt_in_time_and_what_resembles_nothing_costs_little() -> None:
    packer = Packer()
    learnt = packer.pack([event(n, payload=said(n)) for n in range(1, LEARN_AFTER)])[1]
    assert list(learnt) == [0]
    others = [event(n, payload=b"<another format %d>" % n + noise(0, 500)) for n in range(LEARN_AFTER)]
    stored, learnt = packer.pack(others)
    assert len(learnt) == 1
    assert len(stored[-1].payload) < 100
    assert len(packer.pack([event(1, payload=said(1))])[0][0].payload) < 60  # what came before is still in it
    _, learnt = packer.pack([event(n, payload=noise(n, 1900)) for n in range(2 * LEARN_AFTER)])
    assert len(learnt) == 2
    assert all(len(dictionary) <= DICTIONARY_BYTES_MAX for dictionary in learnt.values())
    _, learnt = packer.pack([event(n, payload=noise(n)) for n in range(LEARN_AFTER + 1)])
    assert learnt == {}, "a long one would leave no room for the others"


def test_a_long_message_before_there_is_a_dictionary_comes_back(settings: StoreSettings) -> None:
    with Store.open(settings) as store:
        write(store.connection, Batch(events=[event(1, payload=noise(1)), event(2), event(3)]), 0)
    assert [e.payload for e in logged(settings.path)] == [noise(1), b"event 2", b"event 3"]


TEXT = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=40)


@given(
    st.lists(
        st.builds(
            LoggedEvent, st.sampled_from(["prediction", "state"]), st.sampled_from([None, "left"]), TEXT, TEXT, TEXT,
            st.binary(max_size=2000), st.just(5), st.just(BOOT), st.booleans(),
        ),
        max_size=20,
    )
)  # fmt: skip
def test_events_come_back_to_the_byte_also_in_a_later_run(
    tmp_path_factory: pytest.TempPathFactory, events: list[LoggedEvent]
) -> None:
    settings = StoreSettings(path=tmp_path_factory.mktemp("packing") / "gateway.db")
    half = len(events) // 2
    for part in (events[:half], events[half:]):
        with Store.open(settings) as store:
            write(store.connection, Batch(events=part), store.last_seq())
    back = logged(settings.path)
    assert [event.seq for event in back] == list(range(1, len(events) + 1))
    for one, whole in zip(back, events, strict=True):
        assert (one.kind, one.wearable, one.source, one.id, one.topic) == (
            whole.kind, whole.wearable, whole.source, whole.id, whole.topic,
        )  # fmt: skip
        assert (one.payload, one.retain, one.boot_id) == (whole.payload, whole.retain, BOOT)


def test_a_dictionary_goes_with_the_last_event_that_needs_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = StoreSettings(path=tmp_path_factory.mktemp("packing") / "gateway.db")
    with Store.open(settings) as store:
        events = [event(n, payload=noise(n, 100)) for n in range(1, 2 * LEARN_AFTER + 2)]
        write(store.connection, Batch(events=events), 0)
        copy_dictionaries(store.connection)

        def since(table: str) -> list[int]:
            return [row[0] for row in store.connection.execute(f"SELECT since FROM {table} ORDER BY since")]

        assert since("dictionary") == since("dictionary_copy") == [1, LEARN_AFTER + 1, 2 * LEARN_AFTER + 1]
        store.connection.execute("DELETE FROM event WHERE seq < ?", (LEARN_AFTER,))
        drop_dictionaries(store.connection)
        assert len(since("dictionary")) == 3
        store.connection.execute("DELETE FROM event WHERE seq < ?", (LEARN_AFTER + 1,))
        drop_dictionaries(store.connection)
        assert since("dictionary") == since("dictionary_copy") == [LEARN_AFTER + 1, 2 * LEARN_AFTER + 1]
        assert len(logged(settings.path)) == LEARN_AFTER + 1
        store.connection.execute("DELETE FROM event")
        drop_dictionaries(store.connection)
        assert since("dictionary")  # the writer goes on with the newest


def test_a_message_without_its_dictionary_is_damage(settings: StoreSettings) -> None:
    with Store.open(settings) as store:
        write(store.connection, Batch(events=[event(1)]), 0)
        store.connection.execute("DELETE FROM dictionary")
        with pytest.raises(StoreCorrupt, match="a message whose dictionary is not there"):
            logged(settings.path)


def read_by_the_daemon(settings: StoreSettings, before_the_dictionary: Callable[[str], None]) -> list[LoggedEvent]:
    with contextlib.closing(EventLog(settings.path)) as log:
        log._connection.set_trace_callback(before_the_dictionary)
        return log.after(0, 10)


def read_from_outside(settings: StoreSettings, before_the_dictionary: Callable[[str], None]) -> list[LoggedEvent]:
    with Archive(settings.path, following=True) as archive:
        archive._connection.set_trace_callback(before_the_dictionary)
        return list(archive.events())


@pytest.mark.parametrize("read", [read_by_the_daemon, read_from_outside])
def test_a_dictionary_that_is_dropped_while_its_events_are_read_is_no_damage(
    settings: StoreSettings, read: Callable[[StoreSettings, Callable[[str], None]], list[LoggedEvent]]
) -> None:
    with Store.open(settings) as store:
        events = [event(n, payload=noise(n, 100)) for n in range(1, LEARN_AFTER + 3)]
        write(store.connection, Batch(events=events), 0)
        store.connection.execute("DELETE FROM event WHERE seq > 2 AND seq <= ?", (LEARN_AFTER,))

        def drop(statement: str) -> None:
            if "FROM dictionary" in statement:
                store.connection.execute("DELETE FROM event WHERE seq <= ?", (LEARN_AFTER,))
                drop_dictionaries(store.connection)

        assert [e.payload for e in read(settings, drop)] == [
            noise(n, 100) for n in (1, 2, LEARN_AFTER + 1, LEARN_AFTER + 2)
        ]
        assert not suspected(settings.path).exists()
        assert len(read(settings, drop)) == 2


def test_looking_at_a_large_journal_makes_no_copy_of_it(settings: StoreSettings) -> None:
    def written() -> int:
        return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])

    with Store.open(settings) as store:
        for n in range(1, 6001, 10):
            rows = [JournalRow(n + i, "left", "frame", noise(n + i, 1000), at(n + i)) for i in range(10)]
            write(store.connection, Batch(journal=rows), 0)
    with Archive(settings.path) as archive:
        before = written()
        (stored,) = archive.wearables()
        (boot,) = archive.boots()
        assert (stored.observations, stored.last_observed, boot.last_mono_ns) == (6000, at(6000), at(6000).mono_ns)
        assert written() - before < 100_000, "SQLite sorts beyond its cache in files"
