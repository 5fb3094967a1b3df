"""`gateway demo` as a person runs it without a terminal."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

DEMO = (sys.executable, "-m", "gateway", "demo", "--plain")


def demo(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """folder: what stands for /tmp."""
    command, environment = [*DEMO, *options], {**os.environ, "TMPDIR": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment)


def interrupted(folder: Path, times: int) -> tuple[int, str]:
    """Exit code and output of a demo that gets so many SIGINT once it shows a wearable at work."""
    command = [*DEMO, "--keep", str(folder), "--faults", "none"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout is not None
        told = []
        for line in running.stdout:
            told.append(line)
            if "left streaming" in line:
                break
        for _ in range(times):
            running.send_signal(signal.SIGINT)
            time.sleep(0.2)  # two pending signals of one kind are delivered as one
        return running.wait(60), "".join(told) + running.stdout.read()


def strays(folder: Path) -> list[str]:
    """Processes that name the folder in their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words and int(process.name) != os.getpid():
            found.append(words)
    return found


def test_it_breaks_recovers_and_adds_up_and_a_doctored_file_does_not(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    done = demo(tmp_path, "--duration", "20", "--keep", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout.splitlines()
    assert told[-1] == "Every number adds up."
    assert [line for line in told if line.startswith("FAULT: ")][:2] == [
        "FAULT: right goes out of range",
        "FAULT: the way to the broker is cut",
    ]
    assert sum(line.startswith("FAULT: kill -9 of the daemon") for line in told) == 1
    assert sum(line.startswith("recovered: ") for line in told) == 3, done.stdout
    assert strays(folder) == []

    again = [sys.executable, "-m", "gateway.demo.account", str(folder)]
    account = subprocess.run(again, capture_output=True, text=True, timeout=30)
    assert account.returncode == 0
    assert account.stdout.splitlines()[-1] == "Every number adds up."
    received = folder / "received.jsonl"
    lines = received.read_text().splitlines(keepends=True)
    lost = next(line for line in lines if json.loads(line)["topic"].endswith("/left/prediction"))
    lost_id = json.loads(lost)["event"]["id"]
    received.write_text("".join(line for line in lines if lost_id not in line))
    account = subprocess.run(again, capture_output=True, text=True, timeout=30)
    assert account.returncode == 1
    assert f"committed but never received: event {lost_id}" in account.stdout


@pytest.mark.mosquitto
def test_a_broker_that_keeps_messages_back_is_found_out(mosquitto: Any, tmp_path: Path) -> None:
    access = tmp_path / "mosquitto" / "access"
    access.write_text("topic write #\ntopic read fidget/v1/+/left/#\n")  # whatever is of right never arrives
    mosquitto.start(f"allow_anonymous true\nacl_file {access}\n")
    done = demo(tmp_path, "--duration", "10", "--faults", "none", "--broker", f"127.0.0.1:{mosquitto.port}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "It does not add up:" in done.stdout
    assert "due but not received: window 0 of right" in done.stdout
    assert "of left" not in done.stdout
    (kept,) = tmp_path.glob("fidget-demo-*")
    assert f"Logs, database and truth: {kept}" in done.stderr


@pytest.mark.mosquitto
def test_a_broker_that_refuses_the_password_is_told_in_one_line(mosquitto: Any, tmp_path: Path) -> None:
    passwords = tmp_path / "mosquitto" / "passwords"
    passwords.touch()  # nobody's password is right
    mosquitto.start(f"allow_anonymous false\npassword_file {passwords}\n")
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong\n")
    where = ("--broker", f"127.0.0.1:{mosquitto.port}")
    done = demo(tmp_path, *where, "--username", "ada", "--password-file", str(wrong))
    assert done.returncode == 2, done.stdout + done.stderr
    assert not list(tmp_path.glob("fidget-demo-*"))
    assert done.stderr.splitlines() == [
        f"error: broker 127.0.0.1:{mosquitto.port} refused: Not authorized",
        "  Check --broker, --username and --password-file.",
    ]


@pytest.mark.parametrize("keep", ["no", "new", "empty"])
def test_a_broker_that_is_not_there_is_told_and_nothing_is_left(keep: str, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    if keep == "empty":
        folder.mkdir()
    with socket.socket() as closed:  # bound and never listening: refuses
        closed.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{closed.getsockname()[1]}"
        done = demo(tmp_path, "--broker", where, *(() if keep == "no" else ("--keep", str(folder))))
    assert done.returncode == 1, done.stdout + done.stderr
    told = [f"error: broker {where}: Connection refused", "  Is a broker listening there?"]
    assert done.stderr.splitlines() == told
    assert list(tmp_path.iterdir()) == ([folder] if keep == "empty" else [])
    assert keep != "empty" or not list(folder.iterdir())


def test_a_recording_shorter_than_a_window_is_refused(tmp_path: Path) -> None:
    recording = tmp_path / "recording.csv"
    rows = "".join(f"{n / 50:.2f},0,0,9.81,0,0,0\n" for n in range(199))
    recording.write_text("timestamp_s,Ax,Ay,Az,Gx,Gy,Gz\n" + rows)
    done = demo(tmp_path, "--recording", str(recording))
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.splitlines() == [
        f"error: {recording}: 199 samples at 50 Hz; one window of the model is 200 samples",
        "  Give a longer recording, or none for synthetic motion.",
    ]
    assert list(tmp_path.iterdir()) == [recording]


def test_ctrl_c_ends_the_sampling_and_still_takes_the_account(tmp_path: Path) -> None:
    code, told = interrupted(tmp_path / "kept", 1)
    assert code == 0, told
    assert "sampling stops" in told
    assert "Every number adds up." in told
    assert strays(tmp_path) == []


def test_a_second_ctrl_c_aborts_and_leaves_no_process(tmp_path: Path) -> None:
    code, told = interrupted(tmp_path / "kept", 2)
    assert code == 130, told
    assert told.splitlines()[-1] == "aborted"
    assert "adds up" not in told
    assert strays(tmp_path) == []


def test_a_recording_that_cannot_be_played_is_told_in_one_line(tmp_path: Path) -> None:
    recording = tmp_path / "recording.csv"
    recording.write_text("time,x\n0,1\n")
    done = demo(tmp_path, "--recording", str(recording))
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.splitlines()[0].startswith(f"error: {recording}: no column timestamp_s")
    assert not list(tmp_path.glob("fidget-demo-*"))
