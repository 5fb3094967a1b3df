"""The account adds up where everything arrived, and names what is wrong where anything did not."""

import ast
import json
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import Instant
from gateway.demo import account
from gateway.demo.account import (
    Committed,
    EventId,
    Evidence,
    Made,
    Received,
    frame_span,
    read_received,
    samples_covered,
    take,
    truth_rows,
    windows_due,
)
from gateway.store import Store, StoreSettings
from gateway.store.batch import Batch, write
from gateway.store.rows import JournalRow, LoggedEvent

LEFT, RIGHT = "00000000000000aa", "00000000000000bb"


def prediction(wearable: str, session: str, number: int) -> EventId:
    return EventId(f"urn:fidget:wearable:{wearable}", f"{session}-{number}-d")


def sound(left: int = 520, right: int = 431) -> Evidence:
    """Two wearables of whom everything arrived; (520 - 200) // 100 + 1 = 4 and (431 - 200) // 100 + 1 = 3 windows."""
    made = (Made("left", LEFT, left, left, left), Made("right", RIGHT, right, right, right))
    windows = [("left", LEFT, n) for n in range(4)] + [("right", RIGHT, n) for n in range(3)]
    committed = tuple(Committed(prediction(*w), "prediction", True, (w,)) for w in windows)
    clock = EventId("urn:fidget:gateway:demo", "boot-clock-1")
    birth = Received(EventId("urn:fidget:gateway:demo", "birth-1"), "state")
    return Evidence(
        window=200,
        hop=100,
        made=made,
        journal={("left", LEFT): left, ("right", RIGHT): right},
        committed=(*committed, Committed(clock, "clock", True)),
        received=(birth, *(Received(c.event, c.kind, c.windows) for c in committed), Received(clock, "clock")),
    )


def test_everything_arrived() -> None:
    taken = take(sound())
    assert taken.adds_up, taken.wrong
    assert (taken.samples_made, taken.samples_received, taken.samples_lost) == (951, 951, 0)
    assert (taken.windows_due, taken.windows_inferred, taken.windows_received) == (7, 7, 7)
    assert (taken.events_committed, taken.events_acknowledged, taken.events_received) == (8, 8, 8)
    assert (taken.events_missing, taken.repeated_on_the_wire) == (0, 0)
    assert taken.lines()[-1] == "Every number adds up."


def test_repeats_on_the_wire_are_counted_and_are_no_failure() -> None:
    evidence = sound()
    taken = take(replace(evidence, received=evidence.received + evidence.received[1:4]))
    assert taken.adds_up
    assert taken.repeated_on_the_wire == 3
    assert taken.windows_received == 7


def test_without_a_window_due_nothing_adds_up() -> None:
    evidence = sound()
    made = tuple(replace(m, truth_samples=199, counted_samples=199, acknowledged_samples=0) for m in evidence.made)
    journal = {(m.wearable, m.session): 199 for m in made}
    taken = take(replace(evidence, made=made, journal=journal, committed=(), received=()))
    assert taken.windows_due == 0
    assert taken.wrong == ("no window was due at all",)


def more_samples(evidence: Evidence) -> Evidence:
    left = Made("left", LEFT, 600, 600, 520)
    return replace(evidence, made=(left, evidence.made[1]), journal={**evidence.journal, ("left", LEFT): 600})


def with_committed(evidence: Evidence, place: int, **changes: object) -> Evidence:
    rows = list(evidence.committed)
    rows[place] = replace(rows[place], **changes)  # type: ignore[arg-type]
    return replace(evidence, committed=tuple(rows))


STRANGE = ("left", LEFT, 9)
BREAKAGES: list[tuple[str, Callable[[Evidence], Evidence], str]] = [
    (
        "a sample was lost on the way to the gateway",
        lambda e: replace(e, journal={**e.journal, ("left", LEFT): 519}),
        "left: 520 samples made, 519 in the gateway's journal",
    ),
    (
        "a wearable's whole journal is missing",
        lambda e: replace(e, journal={("left", LEFT): 520}),
        "right: 431 samples made, 0 in the gateway's journal",
    ),
    (
        "the truth file is shorter than what the simulator counted",
        lambda e: replace(e, made=(replace(e.made[0], counted_samples=521), e.made[1])),
        "left: 521 samples counted, 520 in its truth file",
    ),
    (
        "more was acknowledged than is held",
        lambda e: replace(e, made=(replace(e.made[0], acknowledged_samples=539), e.made[1])),
        "left: 539 samples acknowledged, 520 in the gateway's journal",
    ),
    (
        "the gateway holds a session that nobody had",
        lambda e: replace(e, journal={**e.journal, ("left", "0"): 19}),
        "left: session 0 is in the gateway's journal, but no wearable had it",
    ),
    ("a window was never inferred", more_samples, "due but not inferred: window 4 of left"),
    (
        "a window was inferred of samples that were never made",
        lambda e: replace(e, committed=(*e.committed, Committed(prediction(*STRANGE), "prediction", True, (STRANGE,)))),
        "inferred but not due: window 9 of left",
    ),
    (
        "a window was answered twice, by different events",
        lambda e: replace(
            e,
            committed=(*e.committed, replace(e.committed[0], event=EventId("urn:fidget:wearable:left", "other"))),
        ),
        "inferred in more than one event: window 0 of left",
    ),
    (
        "an event stands in the log twice",
        lambda e: replace(e, committed=(*e.committed, e.committed[-1])),
        "committed more than once: event boot-clock-1",
    ),
    (
        "an event was never acknowledged",
        lambda e: with_committed(e, 2, acknowledged=False),
        f"not acknowledged by the broker: event {LEFT}-2-d",
    ),
    (
        "an event that is no prediction never arrived",
        lambda e: replace(e, received=e.received[:-1]),
        "committed but never received: event boot-clock-1",
    ),
    (
        "a prediction never arrived",
        lambda e: replace(e, received=e.received[:1] + e.received[2:]),
        "due but not received: window 0 of left",
    ),
    (
        "something arrived that was never committed",
        lambda e: replace(e, received=(*e.received, Received(EventId("urn:fidget:wearable:left", "ghost"), "drift"))),
        "received but never committed: event ghost",
    ),
    (
        "nothing was made at all",
        lambda e: Evidence(e.window, e.hop, (), {}, (), ()),
        "no samples were made at all",
    ),
]


@pytest.mark.parametrize(("what", "breakage", "told"), BREAKAGES, ids=[b[0] for b in BREAKAGES])
def test_each_kind_of_mismatch_is_told(what: str, breakage: Callable[[Evidence], Evidence], told: str) -> None:
    taken = take(breakage(sound()))
    assert not taken.adds_up, what
    assert told in taken.wrong
    assert f"  {told}" in taken.lines()


@given(samples=st.integers(0, 3000), window=st.integers(1, 400), hop=st.integers(1, 400))
def test_windows_due_are_those_that_lie_within_the_samples(samples: int, window: int, hop: int) -> None:
    brute = sum(1 for start in range(0, samples + 1, hop) if start + window <= samples)
    assert windows_due(samples, window, hop) == brute


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda s: (s[0], s[0] + s[1]))))
def test_samples_covered_counts_each_index_once(spans: list[tuple[int, int]]) -> None:
    assert samples_covered(spans) == len({index for first, end in spans for index in range(first, end)})


def test_the_golden_frame_covers_its_two_samples() -> None:
    golden = bytes.fromhex("100302010700efbea861000000007d00f4ff2200e603a00060f00800f6ff1e00ea03b00070f00000")
    assert frame_span(golden) == (0xBEEF, 25_000, 25_002)


def test_a_gap_frame_brings_no_samples() -> None:
    assert frame_span(bytes.fromhex("120300010700efbea861000000007d000a000000")) is None


def test_a_truth_file_has_a_sample_a_line_below_its_heading(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("timestamp_s,Ax,Ay,Az,Gx,Gy,Gz\n0.0,1,2,3,4,5,6\n0.02,1,2,3,4,5,6\n")
    assert truth_rows(tmp_path / "truth.csv") == 2
    assert truth_rows(tmp_path / "none.csv") == 0  # of a wearable that made no sample


def received_line(kind: str, event: object) -> str:
    return json.dumps({"topic": f"fidget/v1/demo/left/{kind}", "retain": False, "dup": False, "event": event}) + "\n"


def test_a_prediction_of_several_windows_counts_for_each_of_them() -> None:
    data = {"session": LEFT, "windows": [{"number": 4}, {"number": 5}]}
    (message,) = read_received([received_line("prediction", {"source": "s", "id": "i", "data": data})])
    assert message == Received(EventId("s", "i"), "prediction", (("left", LEFT, 4), ("left", LEFT, 5)))


def test_a_half_written_last_line_and_emptied_retained_messages_are_left_out() -> None:
    whole = received_line("clock", {"source": "s", "id": "i"})
    assert len(read_received([whole, received_line("state", None), whole[:-9]])) == 1


def test_the_account_imports_nothing_of_the_gateway() -> None:
    tree = ast.parse(Path(account.__file__).read_text())
    modules = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    modules += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    assert modules
    assert not [name for name in modules if name.split(".")[0] in {"gateway", "firmware_sim", "converter", "numpy"}]


def frame(session: int, first: int, count: int) -> bytes:
    """docs/reference-profile.md, "Frame"."""
    return struct.pack("<BBBBHHII", 0x10, 3, count, 1, 0, session & 0xFFFF, first, 0) + bytes(12 * count)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The files that a sound run of one wearable leaves: 300 samples, two windows."""
    (tmp_path / "truth.csv").write_text("timestamp_s,Ax,Ay,Az,Gx,Gy,Gz\n" + "0,0,0,9.81,0,0,0\n" * 300)
    wearable = {"id": "left", "session": LEFT, "truth": "truth.csv", "made": 300, "acknowledged": 300}
    content = {"window": 200, "hop": 100, "database": "gateway.db", "received": "received.jsonl"}
    (tmp_path / "account.json").write_text(json.dumps(content | {"wearables": [wearable]}))
    events = [
        {"source": "s", "id": f"{LEFT}-{n}-d", "data": {"session": LEFT, "windows": [{"number": n}]}} for n in range(2)
    ]
    (tmp_path / "received.jsonl").write_text("".join(received_line("prediction", event) for event in events))
    with closing(sqlite3.connect(tmp_path / "gateway.db")) as database, database:
        for statement in TABLES:
            database.execute(statement)
        frames = [frame(int(LEFT, 16), first, 60) for first in (0, 60, 180, 120, 240, 60)]  # out of order, one twice
        database.executemany("INSERT INTO journal VALUES ('left', 'frame', ?, 1)", [(payload,) for payload in frames])
        database.execute("INSERT INTO journal VALUES ('left', 'info', x'01', 1)")
        rows = [(n + 1, "prediction", "left", e["source"], e["id"], "t", json.dumps(e)) for n, e in enumerate(events)]
        database.executemany("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        database.execute("INSERT INTO latest VALUES ('cursor', 'broker', '0 1 2')")
    return tmp_path


TABLES = (
    "CREATE TABLE journal (wearable, kind, payload, count)",
    "CREATE TABLE event (seq, kind, wearable, source, id, topic, payload)",
    "CREATE TABLE latest (kind, name, value)",
    "CREATE TABLE dictionary (since, id, content)",
    "CREATE TABLE parked (destination, seq, reason)",
)


def test_a_kept_run_can_be_accounted_for_again(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert account.main([str(kept)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Every number adds up."


def test_it_reads_what_the_gateways_store_has_packed(tmp_path: Path) -> None:
    path, at = tmp_path / "gateway.db", Instant("boot", 1, 2, True)
    rows = [JournalRow(n, ("left", "right")[n % 2], ("frame", "info")[n % 3 // 2], b"%d" % n, at) for n in range(1, 30)]
    events = [
        LoggedEvent(
            kind, "left", f"source-{n}", f"id-{n}", "topic", b'{"n": %d}' % n, 0, "boot", retain=kind == "state"
        )
        for n in range(1, 10)
        for kind in ("prediction", "state")
    ]
    with Store.open(StoreSettings(path=path)) as store:
        write(store.connection, Batch(journal=rows, events=events), 0)
    with closing(sqlite3.connect(path)) as database:
        found = list(account.read_observations(database))
        assert sorted(found) == sorted((row.wearable, row.kind, row.payload) for row in rows)
        assert list(account.read_messages(database)) == [
            (seq, e.kind, "left", account.EventId(e.source, e.id), e.payload) for seq, e in enumerate(events, 1)
        ]


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DELETE FROM journal WHERE rowid = 3", "left: 300 samples made, 240 in the gateway's journal"),
        ("DELETE FROM event WHERE seq = 2", "due but not inferred: window 1 of left"),
        ("UPDATE latest SET value = '0 1'", f"not acknowledged by the broker: event {LEFT}-1-d"),
        ("INSERT INTO parked VALUES ('broker', 1, 'too large')", f"not acknowledged by the broker: event {LEFT}-0-d"),
        ("DELETE FROM latest", f"not acknowledged by the broker: event {LEFT}-0-d, event {LEFT}-1-d"),
    ],
)
def test_a_doctored_database_is_found_out(
    kept: Path, capsys: pytest.CaptureFixture[str], statement: str, told: str
) -> None:
    with closing(sqlite3.connect(kept / "gateway.db")) as database, database:
        database.execute(statement)
    assert account.main([str(kept)]) == 1
    assert told in capsys.readouterr().out


def test_a_gateway_that_never_began_is_a_loss_and_no_traceback(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (kept / "gateway.db").unlink()
    assert account.main([str(kept)]) == 1
    assert "left: 300 samples made, 0 in the gateway's journal" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "[]", '{"window": 200}'])
def test_a_folder_that_no_demo_left_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    if content:
        (tmp_path / "account.json").write_text(content)
    assert account.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: ")
