"""What the daemon costs with 8 wearables at the speed of life: CPU share, memory, bytes written.

    python tests/bench/bench_daemon.py [--wearables 8] [--seconds 60] [--bundle DIR]

Simulated wearables, embedded broker and daemon are processes of their own; only the daemon is measured, over a steady
stretch after all links stream. The simulator and the broker share the machine's cores with it.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

import psutil

from gateway.cli.demo import demo_bundle
from gateway.demo import arrange
from gateway.demo.announce import announced
from gateway.demo.processes import Children
from gateway.demo.simulator import SimulatorControl
from gateway.demo.status import read_status

READY_WITHIN_S = 60.0
WARM_UP_S = 10.0
"""Behind the first windows: imports are done, the interpreter's arena is touched, the first commits are over."""


async def measure(folder: Path, wearables: int, seconds: float, bundle: Path) -> list[tuple[str, str]]:
    files = arrange.Files(folder)
    names = arrange.wearable_names(wearables)
    sim_time = arrange.simulated_time(1.0)
    arrange.write_scenario(files, names, ("sitting", "hand_tapping", "nail_biting"), 3600.0, ())
    async with Children(folder) as children:
        broker = await (await children.start("broker", ("-m", "gateway.demo.broker"))).says(announced, READY_WITHIN_S)
        simulator = await children.start("simulator", arrange.simulator_argv(files, sim_time))
        control_at = await simulator.says(lambda line: announced(line, "control"), READY_WITHIN_S)
        radio = await simulator.says(announced, READY_WITHIN_S)
        async with SimulatorControl(*control_at) as control:
            arrange.write_configuration(
                files,
                gateway_id="bench",
                bundle=bundle,
                radio=radio,
                broker=arrange.Broker(*broker),
                wearables=await control.status(),
            )
            daemon = await children.start("daemon", arrange.daemon_argv(files, sim_time))
            for _ in range(int(READY_WITHIN_S)):
                daemon.must_live()
                status = read_status(files.status)
                if status is not None and sum(w.windows for w in status.wearables.values()) >= wearables:
                    break
                await asyncio.sleep(1)
            else:
                raise SystemExit(f"no windows of all wearables in {READY_WITHIN_S:g} s; {daemon.last_words()}")
            await asyncio.sleep(WARM_UP_S)
            return await _costs(daemon.pid, files, seconds)


async def _costs(pid: int, files: arrange.Files, seconds: float) -> list[tuple[str, str]]:
    process, loop = psutil.Process(pid), asyncio.get_running_loop()

    def now() -> tuple[float, float, int, int]:
        cpu, status = process.cpu_times(), read_status(files.status)
        assert status is not None
        windows = sum(wearable.windows for wearable in status.wearables.values())
        return loop.time(), cpu.user + cpu.system, process.io_counters().write_bytes, windows

    before = now()
    await asyncio.sleep(seconds)
    after = now()
    wall_s, cpu_s, written, windows = (late - early for early, late in zip(before, after, strict=True))
    memory = process.memory_full_info()
    return [
        ("CPU, share of one core", f"{cpu_s / wall_s:.1%}"),
        ("CPU per window", f"{cpu_s / max(1, windows) * 1e3:.1f} ms"),
        ("windows a second", f"{windows / wall_s:.2f}"),
        ("resident memory", f"{memory.rss / 1e6:.1f} MB"),
        ("of that its own (USS)", f"{memory.uss / 1e6:.1f} MB"),
        ("written to the medium", f"{written / wall_s / 1e3:.1f} kB a second"),
        ("threads", str(process.num_threads())),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="The daemon's CPU share and memory.")
    parser.add_argument("--wearables", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--bundle", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fidget-bench-") as folder:
        bundle = args.bundle or demo_bundle()
        rows = asyncio.run(measure(Path(folder), args.wearables, args.seconds, bundle))
    print(f"daemon, {args.wearables} wearables at 50 Hz, {args.seconds:g} s:")
    for what, value in rows:
        print(f"  {what:26} {value:>16}")


if __name__ == "__main__":
    main()
