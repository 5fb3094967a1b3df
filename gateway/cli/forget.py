"""`gateway forget`: the end of a bond."""

import argparse
import asyncio
from typing import TYPE_CHECKING

from gateway.cli.arguments import add_wearable

if TYPE_CHECKING:
    from gateway.config import Config, WearableSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Ends the link to a wearable and forgets its bond. It is not connected again until `gateway pair`. The "
        "wearable keeps its side until it is reset or paired again; what it recorded and the configuration stay. The "
        "running daemon does it, or this command where none runs. Exit codes: 0 forgotten (or nothing was there), 1 "
        "Bluetooth does not answer, 2 something is wrong with the input."
    )
    add_wearable(parser)


def run(args: argparse.Namespace) -> int:
    from gateway.config import load_config

    config = load_config(args.config)
    wearable = config.wearable_named(args.wearable, args.config)
    known = asyncio.run(_forget(config, wearable))
    print(f"{wearable.id}: " + ("forgotten" if known else "was not known"))
    return 0


async def _forget(config: "Config", wearable: "WearableSettings") -> bool:
    from gateway.ble import operator
    from gateway.cli.beside import adapter_alone, asked_of_daemon, records_of
    from gateway.commands import listed_of

    answer = await asked_of_daemon(config, "forget", {"wearable": wearable.id})
    if answer is not None:
        return bool(answer.get("known"))
    adapter = adapter_alone(config, config.adapter_of(wearable))
    return await operator.forget(adapter, records_of(config), listed_of(wearable))
