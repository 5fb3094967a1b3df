"""`gateway retry`: what waits for its next attempt is tried now."""

import argparse
import asyncio
from typing import TYPE_CHECKING

from gateway.cli.arguments import add_config

if TYPE_CHECKING:
    from gateway.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Has the running daemon try a wearable at once that is quarantined or backing off, such as after it was "
        "charged, moved or mended; without a name all of them. Exit codes: 0 they are tried, or none waited; 1 no "
        "daemon runs; 2 something is wrong with the input."
    )
    parser.add_argument("wearable", nargs="?", metavar="WEARABLE", help="its id in the configuration")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    from gateway.config import load_config

    config = load_config(args.config)
    if args.wearable is not None:
        config.wearable_named(args.wearable, args.config)
    answer = asyncio.run(_retry(config, args.wearable))
    if answer is None:
        print(f"no gateway runs behind {config.socket}")
        return 1
    print("\n".join(f"{name}: tried now" for name in answer) or "none waits")
    return 0


async def _retry(config: "Config", name: str | None) -> list[str] | None:
    from gateway.cli.beside import asked_of_daemon

    answer = await asked_of_daemon(config, "retry", {} if name is None else {"wearable": name})
    return None if answer is None else list(answer["tried"])
