"""Time to the first frame of sound wearables, with one among them that never answers, as a multiple of without it.

    python tests/bench/bench_links.py [--wearables 4] [--rounds 3]

Simulated wearables on the virtual radio, a process of its own; the gateway's own radio side (BlueZ's part played by a
Bumble host) is here. Rounds with and without the broken one take turns on the same simulator. Cold: a gateway that has
just started and knows nobody. Lost: all sound wearables are lost at once and come back, while the broken one has failed
twice.

Exit code 1 where a sound wearable waits longer than the rules' bound.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from firmware_sim.scenario import parse_wearable
from gateway.ble import open_radio
from gateway.ble.runner import LinkRunner
from gateway.demo.announce import announced
from gateway.demo.processes import Children
from gateway.demo.simulator import SimulatorControl
from gateway.link import rules
from gateway.profiles import profile_of
from gateway.profiles.conversation import Kind

READY_WITHIN_S = 60.0
SOUND_S = 3.0
"""Of a sound wearable that has its turn: to connect, to be set up, and one frame."""
COLD_S = rules.YIELD_S + rules.CLOSE_S
AWAY_S = 1.0


@dataclass
class Gateway:
    """A radio side of its own; frames: when each wearable's next frame came, since they were last asked for."""

    transport: str
    frames: dict[str, asyncio.Future[float]] = field(default_factory=dict)

    async def __aenter__(self) -> "Gateway":
        self.radio = open_radio("bumble", transport=self.transport)
        self.runners: list[LinkRunner] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.failed_twice = asyncio.Event()
        """The one that never answers has; the others do not fail."""
        return self

    def wearable(self, address: str) -> None:
        profile = profile_of("reference")

        def observe(kind: Kind, _payload: bytes) -> None:
            frame = self.frames.get(address)
            if kind is Kind.FRAME and frame is not None and not frame.done():
                frame.set_result(time.monotonic())

        runner = LinkRunner(
            address,
            profile.conversation({}),
            self.radio,
            services=[profile.service_uuid],
            silence_s=profile.silence_s,
            now_ns=time.monotonic_ns,
            real_delay_s=lambda span_ns: span_ns / 1e9,
            observe=observe,
            on_state=lambda _state: None,
            on_fault=lambda _name, _detail: (
                self.failed_twice.set() if runner.counters.faults["timed_out"] > 1 else None
            ),
        )
        self.runners.append(runner)

    def expect(self, addresses: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        self.frames = {address: loop.create_future() for address in addresses}

    async def frames_after(self, began_s: float) -> list[float]:
        """Seconds until each wearable's first frame."""
        async with asyncio.timeout(READY_WITHIN_S * 2):
            return [await frame - began_s for frame in self.frames.values()]

    def start(self) -> None:
        runs = [runner.run() for runner in self.runners]
        self.tasks = [asyncio.create_task(run) for run in (*runs, self.radio.run())]

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(runner.stop() for runner in self.runners))
        for task in self.tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self.tasks)


@dataclass(frozen=True)
class Round:
    cold: list[float]
    lost: list[float]


async def a_round(transport: str, control: SimulatorControl, sound: Sequence[str], broken: Sequence[str]) -> Round:
    """names of the wearables."""
    address = {name: parse_wearable(f"name={name}").ble_address() for name in (*sound, *broken)}
    async with Gateway(transport) as gateway:
        for name in (*broken, *sound):  # it comes first where nobody knows anything of anybody
            gateway.wearable(address[name])
        gateway.expect([address[name] for name in sound])
        began_s = time.monotonic()
        gateway.start()
        cold = await gateway.frames_after(began_s)
        if broken:
            await gateway.failed_twice.wait()
        for name in sound:
            await control.out_of_range(name, on=True)
        await asyncio.sleep(AWAY_S)
        gateway.expect([address[name] for name in sound])
        for name in sound:
            await control.out_of_range(name, on=False)
        lost = await gateway.frames_after(time.monotonic())
    return Round(cold, lost)


async def measure(wearables: int, rounds: int) -> int:
    sound = [f"sound-{n}" for n in range(wearables)]
    listed = [part for name in sound for part in ("--wearable", f"name={name}")]
    argv = ("-m", "firmware_sim", "run", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", *listed)
    with tempfile.TemporaryDirectory() as folder:
        async with Children(Path(folder)) as children:
            simulator = await children.start("simulator", (*argv, "--wearable", "name=broken; faults=deaf"))
            at = await simulator.says(lambda line: announced(line, "control"), READY_WITHIN_S)
            host, port = await simulator.says(announced, READY_WITHIN_S)
            async with SimulatorControl(*at) as control:
                without, having = [], []
                for _ in range(rounds):
                    for broken, made in (((), without), (("broken",), having)):
                        made.append(await a_round(f"tcp-client:{host}:{port}", control, sound, broken))
    bounds = {
        "cold": COLD_S + wearables * SOUND_S,
        "lost": 2 * (rules.YIELD_AGAIN_S + rules.CLOSE_S) + wearables * SOUND_S,
    }
    print(f"{wearables} sound wearables, {rounds} rounds each, seconds to the first frame of each")
    print(f"{'':8}{'without: median':>17}{'worst':>8}{'with one: median':>18}{'worst':>8}{'ratio':>8}{'bound':>8}")
    late = 0
    for name, bound_s in bounds.items():
        one, other = ([s for r in made for s in getattr(r, name)] for made in (without, having))
        ratio = statistics.median(other) / statistics.median(one)
        print(
            f"{name:8}{statistics.median(one):>17.2f}{max(one):>8.2f}{statistics.median(other):>18.2f}"
            f"{max(other):>8.2f}{ratio:>8.2f}{bound_s:>8.0f}"
        )
        late += max(other) > bound_s
    return int(late > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wearables", type=int, default=4, help="sound ones (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="with and without the broken one (default: 3)")
    args = parser.parse_args()
    return asyncio.run(measure(args.wearables, args.rounds))


if __name__ == "__main__":
    sys.exit(main())
