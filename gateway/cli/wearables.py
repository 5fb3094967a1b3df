"""`gateway wearables`: the configured ones, and what BlueZ knows of them."""

import argparse
import asyncio
import json

from gateway.cli.arguments import add_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Lists the wearables of a configuration with what BlueZ knows of them now. It may be done beside the running "
        "daemon. Exit codes: 0 listed, 1 BlueZ does not answer, 2 something is wrong with the input."
    )
    add_config(parser, "TOML, the daemon's; `gateway check` explains it")
    parser.add_argument("--json", action="store_true", help="as a JSON list")


def run(args: argparse.Namespace) -> int:
    from gateway.cli.pair import bluez_of
    from gateway.config import load_config

    config = load_config(args.config)
    known = {name: asyncio.run(bluez_of(config, name).known()) for name in config.radio.names}
    rows = []
    for wearable in config.wearables:
        devices = {name: found.get(wearable.address.upper(), {}) for name, found in known.items()}
        rows.append(
            {
                "id": wearable.id,
                "address": wearable.address,
                "profile": wearable.profile,
                "paired": bool(devices[config.adapter_of(wearable)].get("Paired", False)),
                "connected": any(device.get("Connected", False) for device in devices.values()),
            }
        )
    if args.json:
        print(json.dumps(rows))
        return 0
    width = max(len("id"), *(len(str(row["id"])) for row in rows))
    profile_width = max(len("profile"), *(len(str(row["profile"])) for row in rows))
    print(f"{'id':<{width}}  {'address':<17}  {'profile':<{profile_width}}  paired  connected")
    for row in rows:
        paired, connected = ("yes" if row[key] else "no" for key in ("paired", "connected"))
        print(f"{row['id']:<{width}}  {row['address']}  {row['profile']:<{profile_width}}  {paired:<6}  {connected}")
    return 0
