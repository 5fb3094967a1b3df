"""`gateway mount` beside something that fills the store as the daemon does, and a wearer who does what it says."""

import asyncio
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest

from firmware_sim.encoding import (
    Config,
    FrameType,
    SessionEntry,
    address_frame,
    encode_config,
    encode_frame,
    encode_info,
    quantize,
)
from gateway.cli import main
from gateway.cli.mount import with_mounting
from gateway.clock import Clock, SimulatedTime
from gateway.motion.axes import parse_axes
from gateway.profiles.conversation import Kind
from gateway.store import Store, StoreSettings, Writer
from gateway.store.rows import Derived
from gateway.stream.stream import SNAPSHOT_VERSION

ROOT = Path(__file__).resolve().parents[3]
DEMO_BUNDLE = ROOT / "models" / "demo"
SESSION, OLD_SESSION = 0xABCD_0000_1111_2222, 0xABCD_0000_1111_3333
SPEED = 10
G = 9.80665
# Up in the wrist's frame (x to the fingers, z out of the back of the hand), as anatomy has it.
HANGING, PALM_UP, PALM_DOWN = (-1, 0.2, 0.1), (0.2, 0, -1), (0.1, -0.2, 1)

CONFIG = """\
# Of the house
[gateway]
id = "home-1" # the only one
state_dir = "state"
[bundle]
path = "bundle"
[sync]
host = "broker.example"
[store]
commit_interval_s = 0.05

[[wearable]]
id = "left"
address = "C0:FF:EE:00:00:01"   # the blue one

# The one at the door
[[wearable]]
id = "right"
address = "C0:FF:EE:00:00:02"
mounting = "z,x,y" # by hand
"""


@pytest.fixture
def place(tmp_path):
    """A folder with a bundle and a configuration."""
    shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle")
    (tmp_path / "gateway.toml").write_text(CONFIG)
    return tmp_path


class Wearable(threading.Thread):
    """Fills a store as the daemon does, with frames of a wearable that is worn by someone.

    up: where up is, in the wrist's frame. turning: how many degrees it is still to turn about x. worn_as: the wrist's
    axes as signed axes of the case; sensor_frame: as in Info. backlog: old frames beside each live one.
    """

    def __init__(self, path, clock, worn_as="x,y,z", sensor_frame=(1, 2, 3), backlog=0, snapshot=False):
        super().__init__(daemon=True)
        self.up = HANGING
        self.turning = 0.0
        self.shaken = 0.0
        self.silent = False
        self.scale = 1.0
        self.ready = threading.Event()
        self._path, self._clock, self._worn_as, self._sensor_frame = path, clock, worn_as, sensor_frame
        self._backlog, self._snapshot = backlog, snapshot
        self._over = threading.Event()

    def __enter__(self):
        self.start()
        assert self.ready.wait(20)
        return self

    def __exit__(self, *error):
        self._over.set()
        self.join()

    def run(self):
        asyncio.run(self._fill())

    async def _fill(self):
        settings = StoreSettings(path=self._path, commit_interval_s=0.05)
        with Store.open(settings) as store:
            writer = Writer(store, asyncio.get_running_loop(), lambda _: None)
            self._journal = lambda kind, payload: writer.journal("left", kind, payload, self._clock.now())
            sessions = [SessionEntry(OLD_SESSION, 0, 10**6, 0, 0), SessionEntry(SESSION, 0, 90_000, 0, 0)]
            info = encode_info(
                firmware=(1, 0),
                tick_hz=32768,
                capacity=500_000,
                serial=7,
                sensor_frame=self._sensor_frame,
                battery_percent=80,
                rates_mhz=[50_000],
                sessions=sessions,
            )
            self._journal(Kind.CONNECTED, b"")
            self._journal(Kind.INFO, info)
            row = self._journal(Kind.CONFIG, encode_config(Config()))
            if self._snapshot:
                writer.derived(Derived("left", progress=b"{}", snapshot=(row, SNAPSHOT_VERSION, self._state(row))))
            await writer.flush()
            self.ready.set()
            index, began_ns = 90_000, self._clock.mono_ns()
            old = 0
            while not self._over.is_set():
                due = 90_000 + int((self._clock.mono_ns() - began_ns) * 50 / 1e9)
                while index + 19 <= due:
                    if not self.silent:
                        self._journal(Kind.FRAME, self._frame(SESSION, index, self.up))
                        for _ in range(self._backlog):  # as it lay on the table, and in another session
                            self._journal(Kind.FRAME, self._frame(SESSION, old, (0, 1, 0), FrameType.BACKLOG))
                            self._journal(Kind.FRAME, self._frame(OLD_SESSION, old, (0, 1, 0), FrameType.BACKLOG))
                            old += 19
                    index += 19
                await asyncio.sleep(0.004)
            await writer.close()

    def _state(self, row):
        """What the daemon's stream would have made of the rows before, and the rows then go."""
        from gateway.monitoring.drift import DriftSettings
        from gateway.motion.windows import WindowShape
        from gateway.profiles import profile_of
        from gateway.store import Journal
        from gateway.stream.stream import Stream, StreamSettings

        while True:
            with Journal(self._path) as journal:
                rows = list(journal.after("left", 0))
            if len(rows) == row:
                break
        stream = Stream(
            decoder=profile_of("reference").decoder(),
            rate_hz=50.0,
            shape=WindowShape(200, 100),
            settings=StreamSettings(),
            drift=DriftSettings(),
            reference={},
            mounting=None,
        )
        for known in rows:
            stream.advance(known)
        return stream.snapshot()

    def _frame(self, session, first, up, kind=FrameType.LIVE):
        rng = np.random.default_rng(first)
        wrist = np.array(up) / np.linalg.norm(up) * G * self.scale + rng.normal(0, 0.05, (19, 3))
        wrist = wrist + self.shaken * np.sin(np.arange(first, first + 19) / 5)[:, None]
        case = wrist @ parse_axes(self._worn_as)  # its inverse is its transpose
        # Info's directions: for the sensor's x, y, z the axis of the case that it points along
        sensor = np.stack([case[:, abs(d) - 1] * np.sign(d) for d in self._sensor_frame], axis=1)
        turned = np.clip(self.turning, -90, 90) if kind is FrameType.LIVE else 0.0  # a quarter in each live frame
        self.turning -= turned
        gyro = rng.normal(1, 0.5, (19, 3)) + turned / (19 / 50) * parse_axes(self._worn_as)[0]
        gyro = np.stack([gyro[:, abs(d) - 1] * np.sign(d) for d in self._sensor_frame], axis=1)
        values = np.hstack([sensor, gyro]).astype(np.float32)
        counts, _ = quantize(values, Config())
        stored = encode_frame(counts, cfg_id=1, session=session, first=first, tick=first * 655, saturated=False)
        return address_frame(stored, kind, 0)


class Wearer(io.StringIO):
    """Standard error, read by someone who does as it says. does: what else to do at a line with this text."""

    def __init__(self, wearable, does=None):
        super().__init__()
        self._wearable, self._does = wearable, does or {}
        self.ups = {"1 of 3": HANGING, "2 of 3": PALM_UP, "3 of 3": PALM_DOWN}
        self.turns = {"3 of 3": 170.0}

    def write(self, text):
        for said, up in self.ups.items():
            if said in text:
                self._wearable.up, self._wearable.turning = up, self.turns.get(said, 0.0)
        for said, do in self._does.items():
            if said in text:
                do(self._wearable)
        return super().write(text)


@pytest.fixture
def sim_time():
    return SimulatedTime(0, SPEED, time.monotonic_ns() - 10**9)


def mount(place, monkeypatch, capsys, sim_time, wearable, *options, does=None, ups=None, turns=None):
    """Exit code, output, and what it said on the way."""
    wearer = Wearer(wearable, does)
    wearer.ups |= ups or {}
    wearer.turns |= turns or {}
    monkeypatch.setattr(sys, "stderr", wearer)
    words = [
        "mount",
        "left",
        "--config",
        str(place / "gateway.toml"),
        "--sim-time",
        str(sim_time),
        "--countdown",
        "2",
        *options,
    ]
    code = main(words)
    return code, capsys.readouterr().out, wearer.getvalue()


def mounting_in(place, wearable="left"):
    config = tomllib.loads((place / "gateway.toml").read_text())
    return next(entry.get("mounting") for entry in config["wearable"] if entry["id"] == wearable)


@pytest.mark.parametrize(
    ("worn_as", "sensor_frame"),
    [("x,y,z", (1, 2, 3)), ("-x,-y,z", (1, 2, 3)), ("z,-y,x", (-2, 1, 3)), ("-z,x,-y", (3, 1, 2))],
)
def test_the_mounting_is_found_and_written_and_all_else_stays(
    place, monkeypatch, capsys, sim_time, worn_as, sensor_frame
):
    with Wearable(place / "state" / "gateway.db", Clock(sim_time), worn_as, sensor_frame) as wearable:
        code, out, said = mount(place, monkeypatch, capsys, sim_time, wearable)
    assert code == 0
    assert f"mounting     {worn_as}\n" in out
    assert "arm hanging  13° off, gravity 9.8" in out
    assert "13° off at most; any other of the 24 ways is " in out
    assert re.search(r"turned       \+1[67]\d° from palm up to palm down, as a left wrist does\n", out)
    assert f"wrote        {place}/gateway.toml (it had none)" in out
    assert "restart the daemon" in out
    steps = ["1 of 3", "arm hang straight down", "2 of 3", "palm up", "3 of 3", "palm down"]
    assert [said.index(step) for step in steps] == sorted(said.index(step) for step in steps)
    before = 'address = "C0:FF:EE:00:00:01"   # the blue one\n'
    assert (place / "gateway.toml").read_text() == CONFIG.replace(before, f'{before}mounting = "{worn_as}"\n')


def test_what_the_wearable_kept_and_sends_meanwhile_is_not_taken_for_the_posture(place, monkeypatch, capsys, sim_time):
    with Wearable(place / "state" / "gateway.db", Clock(sim_time), "y,z,x", backlog=5) as wearable:
        code, _, said = mount(place, monkeypatch, capsys, sim_time, wearable)
    assert (code, mounting_in(place)) == (0, "y,z,x")
    assert "again" not in said


def test_it_goes_on_from_the_daemons_snapshot_where_the_rows_before_are_gone(place, monkeypatch, capsys, sim_time):
    import sqlite3

    path = place / "state" / "gateway.db"
    with Wearable(path, Clock(sim_time), "y,z,x", (-2, 1, 3), snapshot=True) as wearable:
        with sqlite3.connect(path, timeout=5) as connection:
            connection.execute("DELETE FROM journal WHERE kind IN ('info', 'config', 'connected')")
        connection.close()
        code, _, _ = mount(place, monkeypatch, capsys, sim_time, wearable)
    assert (code, mounting_in(place)) == (0, "y,z,x")


def test_the_bundles_own_frame_is_regarded(place, reworked, monkeypatch, capsys, sim_time):
    reworked(place / "bundle", frame="-y,x,z")
    with Wearable(place / "state" / "gateway.db", Clock(sim_time)) as wearable:
        code, _, _ = mount(place, monkeypatch, capsys, sim_time, wearable)
    assert (code, mounting_in(place)) == (0, "-y,x,z")


def test_of_a_wearable_with_a_bundle_of_its_own_that_ones_frame_is_regarded(
    place, reworked, monkeypatch, capsys, sim_time
):
    shutil.copytree(place / "bundle", place / "own")
    reworked(place / "own", frame="-y,x,z")
    (place / "gateway.toml").write_text(CONFIG.replace('id = "left"', 'id = "left"\nbundle = "own"'))
    with Wearable(place / "state" / "gateway.db", Clock(sim_time)) as wearable:
        code, _, _ = mount(place, monkeypatch, capsys, sim_time, wearable)
    assert (code, mounting_in(place)) == (0, "-y,x,z")


def test_a_dry_run_writes_nothing_and_says_the_line(place, monkeypatch, capsys, sim_time):
    with Wearable(place / "state" / "gateway.db", Clock(sim_time), "-x,-y,z") as wearable:
        code, out, _ = mount(place, monkeypatch, capsys, sim_time, wearable, "--dry-run")
    assert code == 0
    assert 'nothing (--dry-run; it had none): mounting = "-x,-y,z"' in out
    assert (place / "gateway.toml").read_text() == CONFIG


def test_for_scripts_the_result_is_one_json_object(place, monkeypatch, capsys, sim_time):
    file = place / "gateway.toml"
    file.write_text(CONFIG.replace("# the blue one", '# the blue one\nmounting = "z,x,y"'))
    with Wearable(place / "state" / "gateway.db", Clock(sim_time)) as wearable:
        code, out, _ = mount(place, monkeypatch, capsys, sim_time, wearable, "--json", "--hold", "3")
    result = json.loads(out)
    assert code == 0
    assert {key: result[key] for key in ("wearable", "mounting", "previous", "written", "config")} == {
        "wearable": "left",
        "mounting": "x,y,z",
        "previous": "z,x,y",
        "written": True,
        "config": str(file),
    }
    assert set(result["postures"]) == {"hanging", "palm_up", "palm_down"}
    assert result["postures"]["palm_up"]["gravity_m_s2"] == pytest.approx(G, abs=0.05)
    assert result["postures"]["palm_up"]["samples"] == pytest.approx(150, abs=20)
    assert result["off_deg"] == pytest.approx(12.8, abs=1)
    assert result["second_best_off_deg"] > 75
    assert (result["turned_deg"], result["wrist_seen"]) == (pytest.approx(170, abs=10), "left")


def test_a_mounting_that_stands_already_is_not_written_again(place, monkeypatch, capsys, sim_time):
    file = place / "gateway.toml"
    file.write_text(CONFIG.replace("# the blue one", '# the blue one\nmounting = "x,y,z"'))
    before = file.stat().st_ino
    with Wearable(place / "state" / "gateway.db", Clock(sim_time)) as wearable:
        code, out, _ = mount(place, monkeypatch, capsys, sim_time, wearable)
    assert (code, file.stat().st_ino) == (0, before)
    assert f"nothing: {file} says so already" in out
    assert "restart" not in out


def test_an_arm_that_moves_is_asked_to_hold_again(place, monkeypatch, capsys, sim_time):
    does = {
        "2 of 3": lambda wearable: setattr(wearable, "shaken", 4.0),
        "again": lambda wearable: setattr(wearable, "shaken", 0.0),
    }
    with Wearable(place / "state" / "gateway.db", Clock(sim_time)) as wearable:
        code, _, said = mount(place, monkeypatch, capsys, sim_time, wearable, does=does)
    assert (code, mounting_in(place)) == (0, "x,y,z")
    assert said.count("; again") == 1
    assert "moved: acceleration varies by" in said


def test_an_arm_that_never_holds_still_is_given_up(place, monkeypatch, capsys, sim_time):
    does = {"2 of 3": lambda wearable: setattr(wearable, "shaken", 4.0)}
    with Wearable(place / "state" / "gateway.db", Clock(sim_time)) as wearable:
        code, out, said = mount(place, monkeypatch, capsys, sim_time, wearable, does=does)
    assert (code, out) == (1, "")
    assert said.count("; again") == 2
    assert "error: palm up: moved: acceleration varies by" in said
    assert (place / "gateway.toml").read_text() == CONFIG


def test_postures_that_contradict_each_other_write_nothing(place, monkeypatch, capsys, sim_time):
    with Wearable(place / "state" / "gateway.db", Clock(sim_time)) as wearable:
        code, out, said = mount(place, monkeypatch, capsys, sim_time, wearable, ups={"3 of 3": PALM_UP})
    assert (code, out) == (1, "")
    assert "error: palm up and palm down are the same posture (0° apart)" in said
    assert (place / "gateway.toml").read_text() == CONFIG


def test_palms_that_were_taken_for_each_other_are_seen_by_the_turn(place, monkeypatch, capsys, sim_time):
    file = place / "gateway.toml"
    file.write_text(CONFIG.replace("# the blue one", '# the blue one\nwrist = "left"'))
    before = file.read_text()
    swapped = {"2 of 3": PALM_DOWN, "3 of 3": PALM_UP}
    with Wearable(place / "state" / "gateway.db", Clock(sim_time)) as wearable:
        turns = {"3 of 3": -170.0}
        code, out, said = mount(place, monkeypatch, capsys, sim_time, wearable, ups=swapped, turns=turns)
    assert (code, out) == (1, "")
    assert "error: from palm up to palm down the forearm turned as a right one does (-1" in said
    assert "and the wrist is said to be the left one" in said
    assert file.read_text() == before


def test_without_a_turn_that_can_be_told_the_mounting_is_found_and_this_is_said(place, monkeypatch, capsys, sim_time):
    with Wearable(place / "state" / "gateway.db", Clock(sim_time)) as wearable:
        code, out, _ = mount(place, monkeypatch, capsys, sim_time, wearable, turns={"3 of 3": 20.0})
    assert (code, mounting_in(place)) == (0, "x,y,z")
    assert "° from palm up to palm down: too unlike 180° to tell anything\n" in out


def test_a_wearable_that_shows_no_gravity_is_refused(place, monkeypatch, capsys, sim_time):
    with Wearable(place / "state" / "gateway.db", Clock(sim_time)) as wearable:
        wearable.scale = 0.5
        code, out, said = mount(place, monkeypatch, capsys, sim_time, wearable)
    assert (code, out) == (1, "")
    assert re.search(r"error: at rest the acceleration is 4\.[89]\d* m/s²; expected about 9\.81", said)


def test_samples_that_stop_coming_are_told(place, monkeypatch, capsys, sim_time):
    monkeypatch.setattr("gateway.cli.mount.PATIENCE_S", 0.5)
    does = {"2 of 3": lambda wearable: setattr(wearable, "silent", True)}
    with Wearable(place / "state" / "gateway.db", Clock(sim_time)) as wearable:
        code, out, said = mount(place, monkeypatch, capsys, sim_time, wearable, does=does)
    assert (code, out) == (1, "")
    assert "error: left: no samples for 0.6 s (its link is up)" in said
    assert "Is the daemon running" in said


def test_without_a_terminal_a_line_says_now_and_then_what_is_waited_for(place, monkeypatch, capsys, sim_time):
    monkeypatch.setattr("gateway.cli.mount.PATIENCE_S", 2.0)
    monkeypatch.setattr("gateway.cli.mount.REMIND_S", 0.7)
    with Wearable(place / "state" / "gateway.db", Clock(sim_time)) as wearable:
        wearable.silent = True
        code, out, said = mount(place, monkeypatch, capsys, sim_time, wearable)
    assert (code, out) == (1, "")
    waits = re.findall(r"^ +waiting for samples of left, for up to (\d+) s more \((.*)\)$", said, re.MULTILINE)
    assert 2 <= len(waits) <= 4  # of 2.1 s: at 0, 0.7 and 1.4 s, and by a hair at 2.1
    assert waits[0][0] == "2"
    assert {where for _, where in waits} <= {"its link is up", "the store has nothing new of it"}


# Without a wearable.


def told(capsys, *words):
    code = main(["mount", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_store_that_nobody_fills_is_told(place, monkeypatch, capsys):
    monkeypatch.setattr("gateway.cli.mount.PATIENCE_S", 0.3)
    with Store.open(StoreSettings(path=place / "state" / "gateway.db")):
        pass
    code, out, err = told(capsys, "left", "--config", place / "gateway.toml")
    assert (code, out) == (1, "")
    assert "error: left: no samples for 0.4 s (the store has nothing new of it)" in err


def test_samples_of_an_earlier_boot_are_not_taken_for_live_ones(place, monkeypatch, capsys, sim_time):
    monkeypatch.setattr("gateway.cli.mount.PATIENCE_S", 0.3)
    path = place / "state" / "gateway.db"
    with Wearable(path, Clock(SimulatedTime(0, SPEED, time.monotonic_ns() - 3600 * 10**9))):
        seconds_until(lambda: rows_in(path) > 5)
    import sqlite3

    connection = sqlite3.connect(path)
    connection.execute("UPDATE boot SET id = 'another'")
    connection.commit()
    connection.close()
    code, _, err = told(capsys, "left", "--config", place / "gateway.toml")
    assert code == 1
    assert "no samples for 0.4 s (its link is up)" in err


def rows_in(path):
    from gateway.store import Journal

    with Journal(path) as journal:
        return len(list(journal.after("left", 0)))


def seconds_until(condition):
    for _ in range(400):
        if condition():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it never came")


def test_a_store_that_is_not_there_yet_is_told(place, capsys):
    code, out, err = told(capsys, "left", "--config", place / "gateway.toml")
    assert (code, out) == (1, "")
    assert f"error: store {place}/state/gateway.db: not there; no daemon has run with this configuration yet" in err
    assert not (place / "state").exists()


def test_a_store_in_a_folder_of_another_user_is_told(place, capsys, monkeypatch):
    def exists(path, real=Path.exists):
        if path.name == "gateway.db":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "exists", exists)
    code, _, err = told(capsys, "left", "--config", place / "gateway.toml")
    assert code == 2
    assert f"error: store {place}/state/gateway.db: Permission denied" in err
    assert "sudo" in err


def test_another_programs_store_is_refused(place, capsys):
    (place / "state").mkdir()
    (place / "state" / "gateway.db").write_bytes(b"something else entirely")
    code, _, err = told(capsys, "left", "--config", place / "gateway.toml")
    assert code == 2
    assert "another program made" in err


def test_a_wearable_that_the_configuration_lacks_is_told_with_those_it_has(place, capsys):
    code, out, err = told(capsys, "lefd", "--config", place / "gateway.toml")
    assert (code, out) == (2, "")
    assert f"error: {place}/gateway.toml: no wearable 'lefd' in it" in err
    assert "Did you mean left? There are: left, right." in err


def test_a_bundle_without_a_frame_is_refused_with_the_way_out(place, reworked, capsys):
    reworked(place / "bundle", frame=None)
    code, _, err = told(capsys, "left", "--config", place / "gateway.toml")
    assert code == 2
    assert f"error: bundle {place}/bundle: it does not say its frame" in err
    assert "converter convert --frame" in err


def test_a_configuration_that_cannot_be_written_is_refused_before_the_work(place, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not (mode & os.W_OK and path == place / "gateway.toml"))
    code, _, err = told(capsys, "left", "--config", place / "gateway.toml")
    assert code == 2
    assert f"error: {place}/gateway.toml: this user cannot write it" in err
    assert "--dry-run" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hold", "1"], "--hold 1: expected 2 to 30 seconds"),
        (["--hold", "nan"], "--hold nan: expected 2 to 30 seconds"),
        (["--countdown", "0"], "--countdown 0: expected 1 to 60 seconds"),
    ],
)
def test_options_out_of_range_are_refused(place, capsys, words, said):
    code, _, err = told(capsys, "left", "--config", place / "gateway.toml", *words)
    assert code == 2
    assert said in err


def test_ctrl_c_writes_nothing(place, sim_time):
    slow = SimulatedTime(0, 1.0, sim_time.t0_ns)
    words = ["mount", "left", "--config", place / "gateway.toml", "--sim-time", slow, "--countdown", "60"]
    with Wearable(place / "state" / "gateway.db", Clock(slow)):
        command = [sys.executable, "-m", "gateway", *map(str, words)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "waiting for samples" not in line)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert line.startswith("1 of 3")
    assert (process.returncode, out) == (130, "")
    assert err.endswith("stopped\n")
    assert (place / "gateway.toml").read_text() == CONFIG
    assert sorted(path.name for path in place.iterdir()) == ["bundle", "gateway.toml", "state"]


# The file.


def test_mode_and_link_of_the_file_stay(place, monkeypatch, capsys, sim_time):
    real, link = place / "real.toml", place / "gateway.toml"
    link.rename(real)
    link.symlink_to("real.toml")
    real.chmod(0o640)
    with Wearable(place / "state" / "gateway.db", Clock(sim_time)) as wearable:
        assert mount(place, monkeypatch, capsys, sim_time, wearable)[0] == 0
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert mounting_in(place) == "x,y,z"


FILES = [
    ('[[wearable]]\nid = "a"', '[[wearable]]\nid = "a"\nmounting = "-y,x,z"\n'),
    (
        '[[wearable]]\nid = "a"\n[[wearable]]\nid = "b"\n',
        '[[wearable]]\nid = "a"\nmounting = "-y,x,z"\n[[wearable]]\nid = "b"\n',
    ),
    (
        '[[wearable]]\r\nid = "a" # é\r\n\r\n# b\r\n[x]\r\n',
        '[[wearable]]\r\nid = "a" # é\r\nmounting = "-y,x,z"\r\n\r\n# b\r\n[x]\r\n',
    ),
    (
        "[[wearable]]\nmounting = 'x,y,z' # as told\nid = \"a\"\n",
        '[[wearable]]\nmounting = "-y,x,z" # as told\nid = "a"\n',
    ),
    (
        'wearable = [{id = "a", profile = "x"}, # one\n {id = "b"}]\n',
        'wearable = [{id = "a", profile = "x", mounting = "-y,x,z"}, # one\n {id = "b"}]\n',
    ),
]


@pytest.mark.parametrize(
    ("before", "after"), FILES, ids=["no line end", "two", "crlf and comments", "replaced", "inline tables"]
)
def test_only_the_mounting_changes_in_the_file(before, after):
    assert with_mounting(before, "a", "-y,x,z") == after


@pytest.mark.parametrize("text", ["", "wearable = 1", '[[wearable]]\nid = "b"', "[[wearable", '[wearable]\nid="a"'])
def test_a_file_that_has_no_such_wearable_any_more_is_not_written(text):
    with pytest.raises(ValueError):
        with_mounting(text, "a", "-y,x,z")


def test_a_configuration_that_changes_meanwhile_is_left_alone(place, monkeypatch, capsys, sim_time):
    file = place / "gateway.toml"
    does = {"3 of 3": lambda _: file.write_text("# gone\n")}
    with Wearable(place / "state" / "gateway.db", Clock(sim_time)) as wearable:
        code, out, said = mount(place, monkeypatch, capsys, sim_time, wearable, does=does)
    assert (code, out) == (2, "")
    assert f"error: {file}: it has changed meanwhile; nothing is written" in said
    assert 'Write into the table of left yourself: mounting = "x,y,z"' in said
    assert file.read_text() == "# gone\n"
