"""`gateway status`: what the running daemon is doing, or what a stopped one has left."""

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
        "Says what the running daemon is doing: whether all is well, radio, broker, and each wearable. Where none runs "
        "its database tells what is stored, what waits for the broker, and when each wearable was last heard. Exit "
        "codes: 0 all is well, or nothing is lost; 1 nothing collects, or no daemon runs; 2 something is wrong with "
        "the input."
    )
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="everything, as JSON")


def run(args: argparse.Namespace) -> int:
    from gateway.config import load_config

    config = load_config(args.config)
    status = asyncio.run(_status(config))
    if status is None:
        left = _left(config)
        print(json.dumps(left) if args.json else "\n".join(stopped_lines(left)))
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


def _left(config: "Config") -> dict[str, Any]:
    """What the database of a daemon that does not run tells; `running` is False. Raises GatewayError."""
    from gateway.cli.stored import clocks_of, opened
    from gateway.store.telling import sentence

    left: dict[str, Any] = {
        "running": False,
        "gateway": config.gateway.id,
        "socket": str(config.socket),
        "database": str(config.store.path),
        "store": None,
    }
    if not config.store.path.exists():
        return left
    with opened(config.store.path) as archive:
        clocks = clocks_of(archive)
        brokers = {}
        for broker in config.sync.brokers():
            waiting, refused = archive.waiting(broker.destination)
            brokers[broker.destination] = {"host": broker.host, "waiting": waiting, "refused": refused}
        known = {one.wearable: one for one in archive.wearables()}
        wearables = {}
        for name in [*(one.id for one in config.wearables), *sorted(known)]:
            one = known.get(name)
            seen = one.last_observed if one else None
            wearables[name] = {
                "observations": one.observations if one else 0,
                "predictions": one.predictions if one else 0,
                "events": one.events if one else 0,
                "last_seen": str(clocks.at(seen.boot_id, seen.mono_ns // 1000)) if seen else None,
            }
        left["store"] = {
            "bytes": archive.bytes(),
            "events": archive.count("event"),
            "observations": archive.count("journal"),
            "starts": archive.starts(),
            "dropped": [sentence(one) for one in archive.dropped()],
        }
    return left | {"brokers": brokers, "wearables": wearables}


def stopped_lines(left: dict[str, Any]) -> Iterator[str]:
    yield f"{left['gateway']}: no gateway runs behind {left['socket']}"
    store = left["store"]
    if store is None:
        yield f"store   nothing is stored yet ({left['database']})"
        return
    yield (
        f"store   {store['events']} events and {store['observations']} observations, {store['bytes'] / 1e6:.1f} MB "
        f"({left['database']})"
    )
    yield from (f"  {line}" for line in store["dropped"])
    for broker in left["brokers"].values():
        refused = f", of which it has refused {broker['refused']}" if broker["refused"] else ""
        yield f"broker  {broker['waiting']} events wait for {broker['host']}{refused}"
    rows = [["wearable", "last seen", "predictions stored"]]
    rows += [[name, one["last_seen"] or "-", str(one["predictions"])] for name, one in left["wearables"].items()]
    yield aligned(rows)
