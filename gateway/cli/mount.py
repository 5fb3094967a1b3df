"""`gateway mount`: how a wearable is worn, found by three postures while the daemon collects, and written down.

Guidance and progress go to standard error, the result to standard output. The daemon alone owns the radio and the
store; here its journal is read, as it is committed, so that what is felt is known some seconds late.
"""

import argparse
import json
import os
import sys
import threading
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli.arguments import add_wearable
from gateway.cli.output import Progress, write_whole
from gateway.clock import Clock, SimulatedTime
from gateway.errors import GatewayError, InputRejected

if TYPE_CHECKING:
    from gateway.config import WearableSettings
    from gateway.motion.mounting import Held, Mounting, Posture
    from gateway.store import Journal
    from gateway.stream.latest import Latest

HOLD_S, COUNTDOWN_S = 4.0, 6.0
HOLD_S_RANGE, COUNTDOWN_S_RANGE = (2.0, 30.0), (1.0, 60.0)
TRIES = 3
"""Of one posture, before it is given up."""
PATIENCE_S = 20.0
"""Beyond the commits' interval: for a link that comes up, and for frames that carry seconds of samples."""
HOLE_S_MAX = 0.5
POLL_S = 0.1
REMIND_S = 10.0
"""Between two lines that say what is waited for, where no terminal shows it all the time."""

_TOLD = {
    "HANGING": "let the arm hang straight down at your side",
    "PALM_UP": "elbow at your side, forearm level and pointing forward, palm up",
    "PALM_DOWN": "the same, turned over: forearm level, palm down",
}


class NoSamples(GatewayError):
    hint = (
        "Is the daemon running with this configuration (systemctl status fidget-gateway), and is the wearable on, "
        "charged and near?"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Finds how a wearable is worn (its mounting: which axis of the case is which of the model's) from three "
        f"postures, in about half a minute: {'; '.join(_TOLD.values())}. Put it on as it will be worn, with the daemon "
        "running, and do what standard error says. The result is written as `mounting` to the wearable's table in the "
        "configuration, where all else stays as it is; the daemon takes it up at its next start. Exit codes: 0 found "
        "(and written), 1 no samples came, or the postures gave no clear answer, 2 something is wrong with the input, "
        "130 stopped by Ctrl-C; then nothing is written."
    )
    add_wearable(parser, "TOML, the running daemon's; `gateway check` explains it")
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object on standard output")
    parser.add_argument(
        "--countdown", type=float, default=COUNTDOWN_S, metavar="S", help="seconds to take a posture before it counts"
    )
    parser.add_argument("--hold", type=float, default=HOLD_S, metavar="S", help="seconds that each posture is held")
    parser.add_argument("--sim-time", metavar="EPOCH_NS:SPEED:T0_NS", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    from gateway.bundle import load_bundle
    from gateway.config import load_config
    from gateway.motion.axes import parse_axes
    from gateway.motion.mounting import check_wrist, find_mounting
    from gateway.profiles import profile_of
    from gateway.store import Journal
    from gateway.stream.latest import Latest

    countdown_s = _within("--countdown", args.countdown, *COUNTDOWN_S_RANGE)
    hold_s = _within("--hold", args.hold, *HOLD_S_RANGE)
    simulated = SimulatedTime.parse(args.sim_time) if args.sim_time else None
    config = load_config(args.config)
    wearable = config.wearable_named(args.wearable, args.config)
    frame = _frame(load_bundle(config.bundle_of(wearable).path))
    if not args.dry_run:
        _check_writable(args.config)
    _check_store(config.store.path)
    with Journal(config.store.path) as journal, Progress(sys.stderr) as progress:
        latest = Latest(profile_of(wearable.profile), *_snapshot(journal, wearable.id))
        patience_s = PATIENCE_S + 2 * config.store.commit_interval_s
        person = _Guided(journal, wearable.id, latest, Clock(simulated), progress, countdown_s, hold_s, patience_s)
        person.await_samples()
        postures = person.all_held()
        found = find_mounting(postures, parse_axes(frame))
        turn_deg = person.turned_deg(found, postures)
    if turn_deg is not None:
        check_wrist(turn_deg, wearable.wrist)
    written = not args.dry_run and found.axes != wearable.mounting
    if written:
        _write(args.config, wearable.id, found.axes)
    result = _Result(wearable, args.config, found, postures, turn_deg, written)
    print(result.as_json() if args.json else result.in_words())
    return 0


# What the answer depends on.


def _within(option: str, value: float, least: float, most: float) -> float:
    if not least <= value <= most:
        raise InputRejected(f"{option} {value:g}: expected {least:g} to {most:g} seconds")
    return value


def _frame(bundle: Any) -> str:
    frame: str | None = bundle.manifest.frame
    if frame is None:
        raise InputRejected(
            f"bundle {bundle.path}: it does not say its frame, so no posture can tell a mounting for it",
            hint="Whoever trained the model knows its axes: `converter convert --frame AXES` (docs/bundle.md) writes "
            "them down.",
        )
    return frame


def _check_writable(file: Path) -> None:
    """Before the work, not after it."""
    real = file.resolve()
    if not (os.access(real, os.W_OK) and os.access(real.parent, os.W_OK)):
        raise InputRejected(
            f"{file}: this user cannot write it, and the file beside it that takes its place",
            hint="Run this command as a user who can (sudo), or with --dry-run and write the line yourself.",
        )


def _check_store(path: Path) -> None:
    from gateway.store.store import check_readable

    try:
        there = path.exists()
    except OSError as error:  # the folder is the daemon's user's alone
        raise InputRejected(
            f"store {path}: {error.strerror}", hint="Run this command as a user who can read it (sudo)."
        ) from None
    if not there:
        raise NoSamples(f"store {path}: not there; no daemon has run with this configuration yet")
    check_readable(path)


def _snapshot(journal: "Journal", wearable: str) -> tuple[bytes, int]:
    """The newest, and the row that it stands after. Raises SnapshotTooNew."""
    from gateway.stream.stream import SNAPSHOT_VERSION

    record = journal.stream(wearable)
    if record is None or not record.snapshot:
        return b"", 0
    if record.snapshot_version > SNAPSHOT_VERSION:
        from gateway.daemon import SnapshotTooNew

        raise SnapshotTooNew(wearable, record.snapshot_version)
    return record.snapshot, record.snapshot_row


# The postures.


class _Guided:
    """Leads a person through the postures."""

    def __init__(
        self,
        journal: "Journal",
        wearable: str,
        latest: "Latest",
        clock: Clock,
        progress: Progress,
        countdown_s: float,
        hold_s: float,
        patience_s: float,
    ) -> None:
        self._journal, self._wearable, self._latest, self._clock = journal, wearable, latest, clock
        self._progress = progress
        self._countdown_s, self._hold_s, self._patience_s = countdown_s, hold_s, patience_s
        self._boot_id = clock.now().boot_id
        self._spans: dict[Posture, tuple[int, int]] = {}
        self._never = threading.Event()
        self._remind_ns = 0

    def await_samples(self) -> None:
        """Until the wearable is seen to be live. Raises NoSamples."""
        self._await(self._clock.mono_ns(), f"waiting for samples of {self._wearable}")

    def all_held(self) -> "dict[Posture, Held]":
        """Raises NoSamples, ScaleRejected, or PostureRejected where none of the tries was still."""
        from gateway.motion.mounting import Posture

        return {posture: self._held(number, posture) for number, posture in enumerate(Posture, 1)}

    def _held(self, number: int, posture: "Posture") -> "Held":
        from gateway.motion.mounting import PostureRejected

        self._say(f"{number} of {len(_TOLD)}  {posture}: {_TOLD[posture.name]}")
        for tries_left in reversed(range(TRIES)):
            try:
                held, self._spans[posture] = self._try()
            except PostureRejected as rejected:
                if not tries_left:
                    raise PostureRejected(f"{posture}: {rejected}") from None
                self._say(f"        {rejected}; again")
            else:
                self._say("        still" + self._progress.bell)
                return held
        raise AssertionError("a posture has a try at least")

    def turned_deg(self, found: "Mounting", postures: "Mapping[Posture, Held]") -> float | None:
        """How far the forearm turned about itself from palm up to palm down; None where that was not seen whole."""
        from gateway.motion.mounting import Posture, turned_deg

        since_ns, until_ns = self._spans[Posture.PALM_UP][1], self._spans[Posture.PALM_DOWN][0]
        felt = self._latest.felt(since_ns, until_ns)
        if felt.hole_s > HOLE_S_MAX or len(felt.gyro) < 2:
            return None
        offset_deg_s = (postures[Posture.PALM_UP].offset_deg_s + postures[Posture.PALM_DOWN].offset_deg_s) / 2
        return turned_deg(found.forearm, felt.gyro, felt.gyro_s, offset_deg_s)

    def _try(self) -> "tuple[Held, tuple[int, int]]":
        from gateway.motion.mounting import PostureRejected, held

        self._pass(self._countdown_s, "take it", "holding begins in")
        self._say("        hold still" + self._progress.bell)
        since_ns = self._clock.mono_ns()
        self._pass(self._hold_s, "hold still", "for another")
        until_ns = self._clock.mono_ns()
        self._await(until_ns, "hold still until it is read")
        felt = self._latest.felt(since_ns, until_ns)
        if not felt.steady:
            raise PostureRejected("its samples do not come as they are taken: it still sends what it kept")
        if felt.hole_s > HOLE_S_MAX:
            raise PostureRejected(f"no samples came for {felt.hole_s:.1f} s of it")
        return held(felt.acc, felt.gyro), (since_ns, until_ns)

    def _await(self, until_ns: int, what: str) -> None:
        """Reads what is committed until a sample is there that was taken at this time or later. Raises NoSamples."""
        began_ns, limit_ns = self._clock.mono_ns(), int(self._patience_s * self._clock.speed * 1e9)
        while True:
            self._read()
            newest_ns = self._latest.newest_ns()
            of_this_boot = self._latest.boot_id == self._boot_id
            if of_this_boot and newest_ns is not None and newest_ns >= until_ns:
                return
            waited_ns = self._clock.mono_ns() - began_ns
            if waited_ns > limit_ns:
                raise NoSamples(f"{self._wearable}: no samples for {self._patience_s:g} s ({self._whereabouts()})")
            self._show_wait(waited_ns, limit_ns, what)
            self._never.wait(POLL_S)

    def _show_wait(self, waited_ns: int, limit_ns: int, what: str) -> None:
        if self._progress.on_terminal:
            self._progress.show(waited_ns, limit_ns, what)
        elif (now_ns := self._clock.mono_ns()) >= self._remind_ns:
            self._remind_ns = now_ns + int(REMIND_S * self._clock.speed * 1e9)
            left_s = (limit_ns - waited_ns) / 1e9 / self._clock.speed
            self._say(f"        {what}, for up to {left_s:.0f} s more ({self._whereabouts()})")

    def _read(self) -> None:
        for row in self._journal.after(self._wearable, self._latest.row):
            self._latest.advance(row)

    def _whereabouts(self) -> str:
        if self._latest.connected is None:
            return "the store has nothing new of it"
        return "its link is up" if self._latest.connected else "its link is down"

    def _pass(self, seconds: float, what: str, left: str) -> None:
        """Lets time pass, and shows it; goes on reading meanwhile."""
        began_ns, span_ns = self._clock.mono_ns(), int(seconds * 1e9)
        while (passed_ns := self._clock.mono_ns() - began_ns) < span_ns:
            left_ns = span_ns - passed_ns
            self._read()
            self._progress.show(passed_ns, span_ns, f"{what}: {left} {-(-left_ns // 10**9)} s")
            self._never.wait(min(POLL_S, left_ns / 1e9 / self._clock.speed))

    def _say(self, text: str) -> None:
        self._progress.line(text)


# The result.


@dataclass(frozen=True, slots=True)
class _Result:
    wearable: "WearableSettings"
    config: Path
    found: "Mounting"
    postures: "dict[Posture, Held]"
    turn_deg: float | None
    """From palm up to palm down; None where no gyroscope saw it."""
    written: bool

    def in_words(self) -> str:
        found, was = self.found, self.wearable.mounting
        lines = [f"{'mounting':<12} {found.axes}"]
        for posture, held in self.postures.items():
            lines.append(
                f"{posture:<12} {found.off_deg[posture]:.0f}° off, gravity {held.gravity_m_s2:.2f} m/s², "
                f"still within {held.unrest_m_s2:.2f} m/s² and {held.unrest_deg_s:.1f} deg/s"
            )
        lines.append(
            f"{'certainty':<12} {found.worst_deg:.0f}° off at most; any other of the 24 ways is "
            f"{found.second_deg:.0f}° off or more"
        )
        lines.append(f"{'turned':<12} {self._turn_in_words()}")
        before = f"it was {was}" if was else "it had none"
        if self.written:
            lines.append(f"{'wrote':<12} {self.config} ({before})")
            lines.append(f"{'next':<12} restart the daemon, which has read it at its start: {_RESTART}")
        elif found.axes == was:
            lines.append(f"{'wrote':<12} nothing: {self.config} says so already")
        else:
            lines.append(f"{'wrote':<12} nothing (--dry-run; {before}): mounting = {json.dumps(found.axes)}")
        return "\n".join(lines)

    def _turn_in_words(self) -> str:
        from gateway.motion.mounting import wrist_that_turned

        if self.turn_deg is None:
            return "nothing is known of the turn from palm up to palm down"
        turn = f"{self.turn_deg:+.0f}° from palm up to palm down"
        seen = wrist_that_turned(self.turn_deg)
        return f"{turn}, as a {seen} wrist does" if seen else f"{turn}: too unlike 180° to tell anything"

    def as_json(self) -> str:
        from gateway.motion.mounting import wrist_that_turned

        found, turn_deg = self.found, self.turn_deg
        postures = {
            posture.name.lower(): {
                "off_deg": round(found.off_deg[posture], 2),
                "gravity_m_s2": round(held.gravity_m_s2, 4),
                "unrest_m_s2": round(held.unrest_m_s2, 4),
                "unrest_deg_s": round(held.unrest_deg_s, 3),
                "samples": held.samples,
            }
            for posture, held in self.postures.items()
        }
        return json.dumps(
            {
                "wearable": self.wearable.id,
                "mounting": found.axes,
                "previous": self.wearable.mounting,
                "written": self.written,
                "config": str(self.config),
                "postures": postures,
                "off_deg": round(found.worst_deg, 2),
                "second_best_off_deg": round(found.second_deg, 2),
                "turned_deg": None if turn_deg is None else round(turn_deg, 1),
                "wrist_seen": None if turn_deg is None else wrist_that_turned(turn_deg),
            }
        )


_RESTART = "sudo systemctl restart fidget-gateway"


def _write(file: Path, wearable: str, axes: str) -> None:
    """Sets the wearable's mounting; every other byte of the file stays. Raises InputRejected."""
    real = file.resolve()
    try:
        content, like = real.read_bytes(), real.stat()
    except OSError as error:
        raise InputRejected(f"{file}: {error.strerror}") from None
    try:
        made = with_mounting(content.decode(), wearable, axes)
    except ValueError:  # it was a good configuration when it was read
        raise InputRejected(
            f"{file}: it has changed meanwhile; nothing is written",
            hint=f"Write into the table of {wearable} yourself: mounting = {json.dumps(axes)}",
        ) from None
    write_whole(real, made.encode(), named="--config", like=like)


def with_mounting(text: str, wearable: str, axes: str) -> str:
    """The configuration with this wearable's mounting set. Raises ValueError where it is none, or has none such."""
    import tomlkit
    from tomlkit.items import Table

    expected = tomllib.loads(text)
    tables = expected.get("wearable")
    ids = [table.get("id") for table in tables if isinstance(table, dict)] if isinstance(tables, list) else []
    if ids.count(wearable) != 1:
        raise ValueError(f"{ids.count(wearable)} wearables {wearable!r}")
    number = ids.index(wearable)
    expected["wearable"][number]["mounting"] = axes
    document: Any = tomlkit.parse(text)
    table = document["wearable"][number]
    if "mounting" in table or not isinstance(table, Table):
        table["mounting"] = axes
    else:
        # what stands behind the last key, such as a comment above the next table, stays there
        body, tail = table.value.body, []
        while body and body[-1][0] is None:
            tail.append(body.pop())
        value = tomlkit.string(axes)
        value.trivia.trail = "\r\n" if "\r\n" in text else "\n"
        table["mounting"] = value
        body.extend(reversed(tail))
    made = tomlkit.dumps(document)
    if tomllib.loads(made) != expected:
        raise ValueError("the file would come to mean something else")
    return made
