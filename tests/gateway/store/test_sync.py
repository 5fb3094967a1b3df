"""What a wearable is told to erase is on the medium: the log is synchronized before anybody hears of it, as the kernel
saw it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import asyncio, sys
from pathlib import Path
from gateway.clock import Instant
from gateway.motion.samples import Float32
from gateway.pipeline import Pipeline
from gateway.profiles.conversation import Durable, Kind
from gateway.store import Store, StoreSettings, Writer
from gateway.stream.progress import Progress
from gateway.stream.stream import Acknowledge

class EachRow:
    '''A stream of which each row acknowledges one sample more.'''
    row = 0
    def advance(self, row):
        return [Acknowledge(row.row, 1, row.row)]
    def acknowledgeable(self):
        return {}

async def main(path, synchronous):
    store = Store.open(StoreSettings(path=Path(path), commit_interval_s=0.02))
    if synchronous:
        store.connection.execute(f"PRAGMA synchronous = {synchronous}")
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    writer = Writer(store, loop, lambda committed: pipeline.committed(committed.journal_row))
    pipeline = Pipeline(wearable="left", stream=EachRow(), progress=Progress(), events=None, writer=writer,
                        infer=None, snapshot_rows=10**9)
    def deliver(event):
        if isinstance(event, Durable):
            print(f"DURABLE {event.index}", flush=True)
            told.set()
    pipeline.attach(deliver)
    for number in range(1, 13):
        told.clear()
        pipeline.observe(Kind.FRAME, b"%d" % number * 30, Instant("b", number, 0, True))
        await told.wait()
    await writer.close()
    store.close()

asyncio.run(main(*sys.argv[1:]))
"""
FRAME = re.compile(r"(pwrite64|fdatasync|fsync|write)\((\d+)<([^>]*)>")


def traced(folder: Path, synchronous: str = "") -> list[str]:
    """What the kernel was asked for, in its order and only what it had done: "log" for a write to the write-ahead log,
    "sync" for its synchronization, and what was said of samples."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    trace = folder / "trace"
    done = subprocess.run(
        ["strace", "-f", "-y", "-o", str(trace), "-e", "trace=pwrite64,fdatasync,fsync,write", "--",
         sys.executable, "-c", SCRIPT, str(folder / "gateway.db"), synchronous],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "ptrace" in done.stderr or "PTRACE" in done.stderr:
        pytest.skip(f"nothing may be traced here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    happened, begun = [], {}
    for line in trace.read_text().splitlines():
        process = line.split(maxsplit=1)[0]
        call = FRAME.search(line)
        if call and "<unfinished" in line:
            begun[process] = call
            if call[1] != "write":
                continue
        elif "resumed>" in line:
            call = begun.pop(process, None)
            if call is not None and call[1] == "write":
                continue  # told when it was begun
        if call is None:
            continue
        said = re.search(r'"DURABLE (\d+)', line)
        if said:
            happened.append(f"durable {said[1]}")
        elif call[3].endswith("-wal"):
            happened.append("sync" if call[1] in ("fdatasync", "fsync") else "log")
    return happened


def unsynchronized(happened: list[str]) -> list[str]:
    """What was said while something written to the log was not synchronized, or before anything of it was written."""
    wrong, pending, fresh = [], False, False
    for what in happened:
        match what:
            case "log":
                pending, fresh = True, True
            case "sync":
                pending = False
            case said:
                if pending or not fresh:
                    wrong.append(said)
                fresh = False
    return wrong


def test_each_acknowledgement_follows_the_return_of_its_commits_fdatasync(tmp_path: Path) -> None:
    happened = traced(tmp_path)
    assert [what for what in happened if what.startswith("durable")] == [f"durable {n}" for n in range(1, 13)]
    assert unsynchronized(happened) == []


def test_without_synchronous_full_the_same_look_finds_that_none_does(tmp_path: Path) -> None:
    assert len(unsynchronized(traced(tmp_path, "NORMAL"))) == 12
