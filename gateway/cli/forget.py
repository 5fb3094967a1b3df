"""`gateway forget`: the end of a bond."""

import argparse
import asyncio

from gateway.cli.arguments import add_wearable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Ends the link to a wearable and forgets its bond. The wearable keeps its side until it is reset or paired "
        "again; what it recorded and the configuration stay. Exit codes: 0 forgotten (or nothing was there), 1 BlueZ "
        "does not answer, 2 something is wrong with the input."
    )
    add_wearable(parser, "TOML, the daemon's; `gateway check` explains it")


def run(args: argparse.Namespace) -> int:
    from gateway.cli.pair import bluez_of
    from gateway.config import load_config

    config = load_config(args.config)
    wearable = config.wearable_named(args.wearable, args.config)
    known = asyncio.run(bluez_of(config, config.adapter_of(wearable)).unpair(wearable.address))
    print(f"{wearable.id}: " + ("forgotten" if known else "was not known"))
    return 0
