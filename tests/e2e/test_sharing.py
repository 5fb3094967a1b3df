"""A wearable walks between two gateways, as processes on one radio: never both hold it, and together they say what one
that hears it all would say.
"""

import asyncio
import csv
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.store.archive import Archive
from tests.e2e.path import Path_
from tests.e2e.test_path import arrives_exactly, due_ids

SPEED = 10.0
SIGMA_DB = 4.0
NEAR, FAR, AT_THE_EDGE = -52.0, -90.0, -77.0
HANDOVER_S = 60.0
"""Averages reach back 10 s, weakness lasts 5 s, the radio is listened to for 2 of 8 s; the rest is for busy cores."""
WINDOW, HOP, KEPT = 200, 100, 400
HOLDS = ("streaming", "draining", "silent")

Event = dict[str, Any]


@pytest.mark.soak  # minutes of walking in real time; tests/gateway/stream/test_handover.py walks in none
async def test_a_wearable_walks_between_two_gateways_and_nothing_is_lost_or_told_in_two_ways(
    path: Path_, bundle: Path
) -> None:
    await path.simulate(SPEED, 3600.0, ["left"])
    other = path.beside("second")
    gateways = (path, other)
    broker = await path.embedded_broker()
    for gateway in gateways:
        await gateway.subscribe(broker)
        await gateway.configure(broker, bundle, store={"commit_interval_s": 0.5})
        share(gateway)
    await walk(path, NEAR, FAR)
    await path.start_daemon()
    await path.until(lambda: link(path) in HOLDS, HANDOVER_S, "the first gateway takes it")
    await other.start_daemon()
    await other.until(lambda: link(other) == "absent", HANDOVER_S, "the second one hears that it is held")

    await walk(path, FAR, NEAR)
    await handed_over(path, other)
    await walk(path, NEAR, FAR)
    await handed_over(other, path)
    await walk(path, None, AT_THE_EDGE)  # a lost link
    await handed_over(path, other)
    await walk(path, NEAR, FAR)
    await handed_over(other, path)
    await path.kill_daemon()
    await walk(path, NEAR, AT_THE_EDGE)
    await other.until(lambda: link(other) in HOLDS, HANDOVER_S, "the second gateway takes what the killed one held")
    await path.start_daemon()  # at the first place on the radio again
    await path.until(lambda: link(path) == "absent", HANDOVER_S, "the first gateway is back and leaves it alone")
    await walk(path, NEAR, FAR)
    await handed_over(other, path)

    assert path.control is not None
    await path.control.stop_sampling()
    (made,) = await path.sampling_over(30.0)
    due = due_ids([made])

    def together() -> set[tuple[str, str]]:
        return path.prediction_ids() | other.prediction_ids()

    await path.until(lambda: together() >= due, 60.0, "every window that is due came from one of them")
    assert together() == due
    assert made.links_max == 1
    held = sorted(interval for gateway in gateways for interval in holdings(gateway))
    for (_, ended_ns), (began_ns, _) in itertools.pairwise(held):
        assert ended_ns <= began_ns, "both gateways took it for connected at once"
    changes = 6
    assert len(held) >= changes + 1
    assert logged(path, "let go: heard at") + logged(other, "let go: heard at") >= 4

    await as_gateway_score_says(gateways, bundle)
    twice = same_in_both(path, other)
    print(f"{len(due)} windows, {len(held)} holdings, {len(twice)} windows from both")
    # What lies behind the last acknowledgement, and what was not acknowledged yet: commits, and the link's last words,
    # within 3 s of the radio's time.
    unacknowledged = 3.0 * SPEED * 50.0
    assert len(twice) <= (len(held) - 1) * (KEPT + unacknowledged) / HOP
    for gateway in gateways:
        wearable = (gateway.status() or {})["wearables"]["left"]
        assert wearable["samples_lost"] == wearable["windows_broken"] == 0
        assert wearable["samples_elsewhere"] > 0


async def test_a_gateway_alone_at_the_edge_keeps_what_it_has(path: Path_, bundle: Path) -> None:
    await path.simulate(SPEED, 3600.0, ["left"])
    broker = await path.embedded_broker()
    await path.subscribe(broker)
    await path.configure(broker, bundle)
    share(path)
    await walk(path, -86.0, None)
    await path.start_daemon()
    await path.until(lambda: link(path) in HOLDS, HANDOVER_S, "it is taken, weak as it is")
    await path.until(lambda: logged(path, "let go: heard at") == 1, HANDOVER_S, "it is offered")
    await path.until(lambda: link(path) in HOLDS, 25.0, "it is taken back")
    await asyncio.sleep(20.0)  # longer than it takes to let go of what was not just offered in vain
    assert logged(path, "let go: heard at") == 1
    assert link(path) in HOLDS
    assert path.control is not None
    await path.control.stop_sampling()
    (made,) = await path.sampling_over(30.0)
    await arrives_exactly(path, [made], 60.0)


def share(gateway: Path_) -> None:
    file = gateway.files.configuration
    text = file.read_text()
    assert text.count("[[wearable]]\n") == 1
    file.write_text(text.replace("[[wearable]]\n", "[[wearable]]\nshared = true\n"))


async def walk(path: Path_, one_dbm: float | None, other_dbm: float | None) -> None:
    """To where the gateways hear it so."""
    assert path.control is not None
    for host, dbm in ((1, one_dbm), (2, other_dbm)):
        await path.control.signal("left", host, dbm, SIGMA_DB)


def link(gateway: Path_) -> str:
    status = gateway.status()
    return "" if status is None else str(status["wearables"]["left"]["link"])


async def handed_over(one: Path_, other: Path_) -> None:
    """And some results come by the new holder."""
    await other.until(
        lambda: link(other) in HOLDS and link(one) not in HOLDS, HANDOVER_S, f"{other.gateway_id} takes it over"
    )
    seen = len(other.prediction_ids())
    await other.until(lambda: len(other.prediction_ids()) >= seen + 5, 30.0, "its results come")


def holdings(gateway: Path_) -> list[tuple[int, int]]:
    """From when to when it took the wearable for connected, in ns of the clock that all processes share; of a gateway
    that was killed, to the last thing that it noted."""
    with Archive(gateway.files.database) as archive:
        (stored,) = archive.wearables()
        rows = [(row.kind, row.at.mono_ns) for row in archive.journal(stored.wearable)]
    found: list[tuple[int, int]] = []
    began_ns, last_ns = None, 0
    for kind, mono_ns in rows:
        if began_ns is not None and kind in ("connected", "disconnected"):
            found.append((began_ns, mono_ns if kind == "disconnected" else last_ns))
            began_ns = None
        if kind == "connected":
            began_ns = mono_ns
        last_ns = mono_ns
    return [*found, (began_ns, last_ns)] if began_ns is not None else found


def logged(gateway: Path_, text: str) -> int:
    log = gateway.files.folder / "daemon.log"
    if gateway.gateway_id == "second":
        log = gateway.files.folder.parent / "daemon-second.log"
    return log.read_text().count(text) // 2  # as it closes, and as it backs off


async def as_gateway_score_says(gateways: tuple[Path_, ...], bundle: Path) -> None:
    """Each event's probabilities are those of its window in the samples that the wearable made."""
    files = gateways[0].files
    scored = files.folder / "scored.csv"
    argv = ("-m", "gateway", "score", str(files.truth("left")), "--bundle", str(bundle), "--out", str(scored))
    done = await asyncio.to_thread(subprocess.run, [sys.executable, *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(scored.open()))
    for event in itertools.chain.from_iterable(gateway.predictions() for gateway in gateways):
        (window,) = event["data"]["windows"]
        for label, probability in window["probabilities"].items():
            assert abs(probability - float(rows[window["number"]][f"p_{label}"])) <= 1e-5, (window["number"], label)


def same_in_both(one: Path_, other: Path_) -> set[str]:
    """The predictions that both published; each the same, but for the label of time, which is each gateway's own."""

    def by_id(gateway: Path_) -> dict[str, Event]:
        return {event["id"]: event for event in gateway.predictions()}

    ours, theirs = by_id(one), by_id(other)
    for id_ in ours.keys() & theirs.keys():
        assert ours[id_]["source"] == theirs[id_]["source"]
        assert answer(ours[id_]) == answer(theirs[id_]), f"the gateways differ about window {id_}"
    return ours.keys() & theirs.keys()


def answer(event: Event) -> Event:
    (window,) = event["data"]["windows"]
    own = {"taken_mono_us", "taken_uncertainty_us"}
    return {**event["data"], "windows": {name: value for name, value in window.items() if name not in own}}
