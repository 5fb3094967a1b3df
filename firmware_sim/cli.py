"""The `firmware-sim` command."""

import argparse
import asyncio
import logging
import random
import secrets
import signal
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firmware_sim import check_command, motion_command
from firmware_sim.endpoint import Endpoint
from firmware_sim.faults import fault_help
from firmware_sim.scenario import PROFILES, WearableSpec, check_distinct, parse_wearable, read_scenario
from gateway.clock import Clock, SimulatedTime
from gateway.console import until_closed
from gateway.errors import GatewayError, InputRejected

LISTEN = "127.0.0.1:0"
WEARABLE_HELP = """\
a wearable is described by keys, on the command line as "name=left; seed=1" or in a scenario's [[wearable]] table:
  name             what it advertises; required
  profile          the family that it speaks, one of these (default: reference):
                   {profiles}
  schedule         activities and their seconds: nail_biting:30,sitting:20 (default: every activity for 20 s)
  wearer, seed     who performs them, and which performance (default: 0, 0)
  rest_s           mean length of a rest between two activities (default: 0)
  wrist, hand      where it is worn and which hand is preferred, left or right (default: left; the wearing one)
  mounting         the case's axes in those of the wrist: x,y,z or -x,-y,z and so on (default: x,y,z)
  tempo, amplitude factors on the wearer's own (default: 1, 1)
  recording        a CSV (timestamp_s,Ax,Ay,Az,Gx,Gy,Gz) or Parquet file to play instead of a schedule
  accelerometer, gyroscope
                   the pair of Excel files to play instead
  acc_unit, gyro_unit
                   m_s2, mg or g; deg_s or rad_s (default: what the format usually has)
  duration_s       when to stop sampling (default: schedule or recording once; a schedule is repeated to fill it)
  truth            CSV file for the samples as the device quantized them, by its own clock since the session's first;
                   later sessions in FILE.2.csv and so on. Families that keep nothing have only what they sent, a
                   session a link, and a link that sent nothing no file; polar-verity-sense has two files,
                   FILE-acc.csv and FILE-gyro.csv
  ring             flash ring in samples (default: 500000), reference profile only
  pairing          none, just_works, passkey, numeric, keyboard, refused or legacy (Bluetooth 4.0's, by passkey): how it
                   pairs with a gateway, without which it lets nobody read or write (default: none)
  passkey          the six digits that it shows, where pairing is passkey or legacy
  privacy_s        it advertises under an address that changes after so many seconds, and that only whoever is paired
                   with it can resolve
  drift_ppm        how much too fast its crystal runs (default: 0)
  faults           what goes wrong with it: loss=0.02, burst=0.001/20, away@100-130, reboot~300=lost (see below)
  address, serial  Bluetooth address (random static) and serial number (default: drawn from the name)

example:
  firmware-sim run --listen 127.0.0.1:9000 --control 127.0.0.1:9001 \\
    --wearable "name=left; schedule=nail_biting:30,sitting:20; seed=1; truth=left.csv"
  firmware-sim run --transport usb:0 --wearable "name=left"
  A Bumble host attaches to the virtual radio with the transport tcp-client:127.0.0.1:9000 (or unix:PATH).

The control channel takes JSON lines, each answered with the status of all wearables:
  {"op": "status"}   {"op": "stop"}   {"op": "out_of_range", "wearable": "left", "on": true}
  {"op": "reboot", "wearable": "left"}   {"op": "forget_bonds", "wearable": "left"}
  {"op": "silent", "wearable": "left", "on": true}
  {"op": "impostor", "wearable": "left", "on": true}: another device with its name and address, and none of its keys
  {"op": "change_address", "wearable": "left"}: of one with privacy_s that is not connected, now
  {"op": "type", "wearable": "left", "digits": 123456}: on one with pairing=keyboard
  {"op": "signal", "wearable": "left", "host": 2, "dbm": -75, "sigma_db": 4}   how strongly the second host that
  attached hears it, and how far single advertisements stray (default: -50, 0); dbm null: out of that host's reach
"""


def _wearable_help() -> str:
    profiles = textwrap.fill(", ".join(PROFILES), 90, subsequent_indent=" " * 19)
    return WEARABLE_HELP.replace("{profiles}", profiles)


def _faults_told() -> str:
    """The part of the help that lists the faults."""
    lines = [
        "faults, separated by commas; seconds count from the start, what is random follows from name and seed:",
        "  NAME=VALUE             always",
        "  NAME@30-60=VALUE       from second 30 to second 60; NAME@30- to the end",
        "  NAME@30=VALUE          at second 30, or from then on",
        "  NAME~300=VALUE         at random moments, one in 300 s on average",
        "  NAME~300/20=VALUE      for spans of 20 s at random, on average 300 s apart",
    ]
    for written, does in fault_help():
        lines += textwrap.wrap(f"{written}: {does}", 116, initial_indent="  ", subsequent_indent="      ")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    return until_closed(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if getattr(args, "verbose", False) else logging.WARNING,
        format="%(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("bumble").setLevel(logging.ERROR)  # it warns of every packet that a lost link leaves behind
    try:
        return int(args.obey(args))
    except GatewayError as error:
        print(error.in_words(), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="firmware-sim", description="Simulated wearables.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run",
        help="play wearables and serve their radio until stopped",
        description="Play wearables on a virtual Bluetooth radio and serve it to hosts, until SIGTERM or Ctrl-C.",
        epilog=f"{_wearable_help()}\n{_faults_told()}".replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    run.add_argument(
        "--listen",
        metavar="ADDRESS",
        help=f"where hosts attach to a virtual radio, HOST:PORT or unix:PATH; printed as `listening ADDRESS` (default: "
        f"{LISTEN}, a free port)",
    )
    run.add_argument(
        "--transport",
        action="append",
        default=[],
        metavar="T",
        help="instead of a virtual radio: put the wearable on the air by the controller behind this transport of "
        "Bumble (usb:0, serial:/dev/ttyACM0,1000000, hci-socket:0, vhci, tcp-client:HOST:PORT, android-netsim ...); "
        "once for each wearable, in their order; printed as `advertising NAME ADDRESS on T`",
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
    run.set_defaults(obey=_run)
    motion_command.add_parser(commands)
    check_command.add_parser(commands)
    return parser


def _run(args: argparse.Namespace) -> int:
    if args.listen and args.transport:
        raise InputRejected("--listen and --transport: one of them", hint="A real radio has no socket to listen on.")
    listen = Endpoint.parse(args.listen or LISTEN)
    control = Endpoint.parse(args.control) if args.control else None
    clock = Clock(SimulatedTime.parse(args.time) if args.time else None)
    specs = read_scenario(args.scenario) if args.scenario else []
    specs += [parse_wearable(text) for text in args.wearable]
    if not specs:
        raise InputRejected("no wearable to play", hint='Name one: --wearable "name=left", or --scenario FILE.toml.')
    check_distinct(specs)
    if args.transport and len(args.transport) != len(specs):
        raise InputRejected(
            f"{len(specs)} wearables and {len(args.transport)} transports",
            hint="Each wearable has a transport of its own.",
        )
    if len(set(args.transport)) != len(args.transport):
        raise InputRejected("a transport is named twice", hint="Each wearable has a transport of its own.")
    try:
        import bumble  # noqa: F401
    except ImportError:
        raise InputRejected("the virtual radio needs Bumble", hint="pip install 'fidget-gateway[bumble]'") from None
    return asyncio.run(_serve(listen, args.transport, control, clock, specs))


async def _serve(
    listen: Endpoint, transports: Sequence[str], control: Endpoint | None, clock: Clock, specs: Sequence[WearableSpec]
) -> int:
    from bumble.core import BaseBumbleError

    from firmware_sim.playback import load
    from firmware_sim.simulation import Simulation, motion_rate_hz
    from firmware_sim.transport import CannotOpen, TransportRadio

    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    real = await TransportRadio.open(transports) if transports else None
    simulation = Simulation(clock.mono_ns, random.Random(secrets.randbits(64)), real)
    try:
        for spec in specs:
            simulation.add(spec, load(spec, motion_rate_hz(spec)))
        running = asyncio.create_task(simulation.run())
        if control is not None:
            print(f"control {await simulation.serve_control(control)}", flush=True)
        started = asyncio.create_task(simulation.started.wait())
        await asyncio.wait([running, started], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        lost: asyncio.Task[str] | None = None
        if real is None:
            print(f"listening {await simulation.serve(listen)}", flush=True)
        else:
            lost = asyncio.create_task(real.wait_lost())
            for spec, transport in zip(specs, transports, strict=True):
                print(f"advertising {spec.name} {spec.ble_address()} on {transport}", flush=True)
        ends: list[asyncio.Task[Any]] = [running, asyncio.create_task(stopped.wait()), *([lost] if lost else [])]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if lost is not None and lost.done():
            raise CannotOpen(f"transport {lost.result()!r}: the controller is gone")
        if running.done():
            running.result()
        running.cancel()
        return 0
    except BaseBumbleError as error:
        if real is None:
            raise
        raise CannotOpen(f"the controller does not do what a wearable needs: {error}") from None
    finally:
        simulation.close()
        if real is not None:
            await real.close()
        if listen.path:
            listen.remove()
