"""Children of the demo: waited for by what they say, and ended in every path."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.demo.processes import ChildFailed, Children

WITHIN_S = 10.0
READY = "print('ready', flush=True)\n"
WAITS = ("-c", f"import time\n{READY}time.sleep(600)")
STUBBORN = ("-c", f"import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{READY}time.sleep(600)")


def ready(line: str) -> str | None:
    return line if line == "ready" else None


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


async def test_leaving_the_context_ends_all(tmp_path: Path) -> None:
    async with Children(tmp_path) as children:
        started = [await children.start(f"child{n}", WAITS) for n in range(3)]
        for child in started:
            await child.says(ready, WITHIN_S)
    assert not [child.name for child in started if alive(child.pid)]


async def test_an_error_ends_all_as_well_and_goes_on(tmp_path: Path) -> None:
    pids: list[int] = []

    async def run() -> None:
        async with Children(tmp_path) as children:
            child = await children.start("child", WAITS)
            await child.says(ready, WITHIN_S)
            pids.append(child.pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run()
    assert not alive(pids[0])


async def test_a_cancellation_ends_even_one_that_ignores_sigterm_at_once(tmp_path: Path) -> None:
    pids: list[int] = []
    entered = asyncio.Event()

    async def run() -> None:
        async with Children(tmp_path) as children:
            child = await children.start("stubborn", STUBBORN)
            await child.says(ready, WITHIN_S)
            pids.append(child.pid)
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await asyncio.wait_for(entered.wait(), WITHIN_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 2)
    assert not alive(pids[0])


def test_the_kernel_ends_them_where_the_starter_is_killed(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from gateway.demo.processes import Children\n"
        "async def main():\n"
        "    async with Children(pathlib.Path(sys.argv[1])) as children:\n"
        "        child = await children.start('child', ('-c', 'import time; time.sleep(600)'))\n"
        "        print(child.pid, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    assert alive(pid)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    for _ in range(100):
        if not alive(pid):
            return
        time.sleep(0.02)
    pytest.fail("the child lives on")


async def test_one_that_ends_instead_of_getting_ready_fails_with_its_last_words(tmp_path: Path) -> None:
    async with Children(tmp_path) as children:
        child = await children.start(
            "daemon", ("-c", "import sys; print('error: no radio'); print('  a hint'); sys.exit(2)")
        )
        with pytest.raises(ChildFailed, match=r"^daemon ended with exit code 2: no radio$") as failed:
            await child.says(ready, WITHIN_S)
    assert failed.value.exit_code == 2
    assert str(tmp_path / "daemon.log") in failed.value.hint


async def test_one_that_says_nothing_fails_after_the_time_limit(tmp_path: Path) -> None:
    async with Children(tmp_path) as children:
        child = await children.start("daemon", ("-c", "import time; time.sleep(600)"))
        with pytest.raises(ChildFailed, match=r"said nothing for 0\.3 s"):
            await child.says(ready, 0.3)


async def test_one_that_ends_later_is_noticed(tmp_path: Path) -> None:
    async with Children(tmp_path) as children:
        child = await children.start("broker", ("-c", f"{READY}raise SystemExit(3)"))
        await child.says(ready, WITHIN_S)
        assert await asyncio.wait_for(child.wait(), WITHIN_S) == 3
        with pytest.raises(ChildFailed, match="broker ended with exit code 3"):
            child.must_live()


async def test_all_that_it_says_is_in_its_log(tmp_path: Path) -> None:
    async with Children(tmp_path) as children:
        child = await children.start("talker", ("-c", "import sys; print('out'); print('err', file=sys.stderr)"))
        await asyncio.wait_for(child.wait(), WITHIN_S)
    assert sorted((tmp_path / "talker.log").read_text().split()) == ["err", "out"]
