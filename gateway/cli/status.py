"""`gateway status`: what the running daemon is doing."""

import argparse
import asyncio
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gateway.cli.arguments import add_config
from gateway.cli.output import aligned

if TYPE_CHECKING:
    from gateway.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Says what the running daemon is doing: whether all is well, radio, broker, and each wearable. Exit codes: 0 "
        "all is well, or nothing is lost; 1 nothing collects, or no daemon runs; 2 something is wrong with the input."
    )
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="everything, as JSON")


def run(args: argparse.Namespace) -> int:
    from gateway.config import load_config

    config = load_config(args.config)
    status = asyncio.run(_status(config))
    if status is None:
        print("null" if args.json else f"no gateway runs behind {config.socket}")
        return 1
    print(json.dumps(status) if args.json else "\n".join(lines(status)))
    return 1 if status["health"]["level"] == "failed" else 0


async def _status(config: "Config") -> dict[str, Any] | None:
    from gateway.cli.beside import asked_of_daemon

    return await asked_of_daemon(config, "status")


def lines(status: dict[str, Any]) -> Iterator[str]:
    """status: as `gateway run --status` writes it."""
    broker, events = status["broker"], status["events"]
    yield f"{status['gateway']}: {status['health']['level']}"
    yield from (f"  {reason}" for reason in status["health"]["reasons"])
    yield f"radio   {status['radio']}"
    yield f"store   {status['store']}"
    yield f"broker  {broker['state']}; {events['waiting']} events wait, {events['acknowledged']} are acknowledged"
    rows = [["wearable", "link", "dBm", "Hz", "activity", "battery"]]
    for name, one in status["wearables"].items():
        battery = "-" if one["battery_percent"] is None else f"{one['battery_percent']} %"
        rssi = "-" if one["rssi_dbm"] is None else str(one["rssi_dbm"])
        rows.append([name, one["link"], rssi, f"{one['rate_hz']:g}", one["activity"] or "-", battery])
    yield aligned(rows)
