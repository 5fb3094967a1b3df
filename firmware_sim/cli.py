"""The `firmware-sim` command."""

import argparse
import asyncio
import logging
import random
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from firmware_sim.endpoint import Endpoint
from firmware_sim.scenario import WearableSpec, check_distinct, parse_wearable, read_scenario
from gateway.clock import Clock, SimulatedTime
from gateway.errors import GatewayError, InputRejected

WEARABLE_HELP = """\
a wearable is described by keys, on the command line as "name=left; seed=1" or in a scenario's [[wearable]] table:
  name             what it advertises; required
  schedule         activities and their seconds: nail_biting:30,sitting:20 (default: every activity for 20 s)
  wearer, seed     who performs them, and which performance (default: 0, 0)
  recording        a CSV (timestamp_s,Ax,Ay,Az,Gx,Gy,Gz) or Parquet file to play instead of a schedule
  accelerometer, gyroscope
                   the pair of Excel files to play instead
  acc_unit, gyro_unit
                   m_s2, mg or g; deg_s or rad_s (default: what the format usually has)
  duration_s       when to stop sampling (default: schedule or recording once; a schedule is repeated to fill it)
  truth            CSV file for the samples as the device quantized them; after a reboot FILE.2.csv and so on
  ring             flash ring in samples (default: 500000)
  drift_ppm        how much too fast its crystal runs (default: 0)
  address, serial  Bluetooth address (random static) and serial number (default: drawn from the name)

example:
  firmware-sim run --listen 127.0.0.1:9000 --control 127.0.0.1:9001 \\
    --wearable "name=left; schedule=nail_biting:30,sitting:20; seed=1; truth=left.csv"
  A Bumble host attaches with the transport tcp-client:127.0.0.1:9000 (or unix:PATH).

The control channel takes JSON lines: {"op": "status"}, {"op": "out_of_range", "wearable": "left", "on": true},
{"op": "stop"}, {"op": "reboot", "wearable": "left"}; each is answered with the status of all wearables.
"""


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("bumble").setLevel(logging.ERROR)  # it warns of every packet that a lost link leaves behind
    try:
        return _run(args)
    except GatewayError as error:
        print(error.in_words(), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="firmware-sim", description="Simulated wearables on a virtual Bluetooth radio.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run",
        help="play wearables and serve their radio until stopped",
        description="Play wearables on a virtual Bluetooth radio and serve it to hosts, until SIGTERM or Ctrl-C.",
        epilog=WEARABLE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    run.add_argument(
        "--listen",
        default="127.0.0.1:0",
        metavar="ADDRESS",
        help="where hosts attach, HOST:PORT or unix:PATH; printed as `listening ADDRESS` (default: %(default)s, "
        "a free port)",
    )
    run.add_argument("--control", metavar="ADDRESS", help="where the control channel listens; printed likewise")
    run.add_argument("--scenario", type=Path, metavar="FILE.toml", help="[[wearable]] tables; see below")
    run.add_argument("--wearable", action="append", default=[], metavar="KEYS", help="one more wearable; see below")
    run.add_argument(
        "--time",
        metavar="EPOCH_NS:SPEED:T0_NS",
        help="simulated time: EPOCH_NS + SPEED * (CLOCK_MONOTONIC - T0_NS), shared by all processes of a simulation",
    )
    run.add_argument("--verbose", action="store_true", help="say what happens on the radio")
    return parser


def _run(args: argparse.Namespace) -> int:
    listen = Endpoint.parse(args.listen)
    control = Endpoint.parse(args.control) if args.control else None
    clock = Clock(SimulatedTime.parse(args.time) if args.time else None)
    specs = read_scenario(args.scenario) if args.scenario else []
    specs += [parse_wearable(text) for text in args.wearable]
    if not specs:
        raise InputRejected("no wearable to play", hint='Name one: --wearable "name=left", or --scenario FILE.toml.')
    check_distinct(specs)
    try:
        import bumble  # noqa: F401
    except ImportError:
        raise InputRejected("the virtual radio needs Bumble", hint="pip install 'fidget-gateway[bumble]'") from None
    return asyncio.run(_serve(listen, control, clock, specs))


async def _serve(listen: Endpoint, control: Endpoint | None, clock: Clock, specs: Sequence[WearableSpec]) -> int:
    from firmware_sim.encoding import Config
    from firmware_sim.playback import load
    from firmware_sim.simulation import Simulation

    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    simulation = Simulation(clock.mono_ns, random.Random(secrets.randbits(64)))
    try:
        for spec in specs:
            simulation.add(spec, load(spec, Config().rate_hz))
        running = asyncio.create_task(simulation.run())
        if control is not None:
            print(f"control {await simulation.serve_control(control)}", flush=True)
        print(f"listening {await simulation.serve(listen)}", flush=True)
        waiting = asyncio.create_task(stopped.wait())
        await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        running.cancel()
        return 0
    finally:
        simulation.close()
        if listen.path:
            listen.remove()
