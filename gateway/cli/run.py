"""`gateway run`: the daemon in the foreground, as systemd starts it."""

import argparse
import asyncio
import logging
from pathlib import Path

from gateway.clock import Clock, SimulatedTime


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="TOML; `gateway check` explains it")
    parser.add_argument(
        "--status", type=Path, metavar="FILE", help="write what the daemon is doing to this JSON file every second"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log each step, not only what changes")
    parser.add_argument("--sim-time", metavar="EPOCH_NS:SPEED:T0_NS", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    from gateway.config import load_config
    from gateway.daemon import run_daemon

    config = load_config(args.config)
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.INFO, format="%(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("bumble").setLevel(logging.WARNING)
    logging.getLogger("bleak").setLevel(logging.WARNING)
    simulated = SimulatedTime.parse(args.sim_time) if args.sim_time else None
    asyncio.run(run_daemon(config, clock=Clock(simulated), status_file=args.status))
    return 0
