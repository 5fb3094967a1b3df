"""`gateway wearables`: the configured ones, who is paired, connected, or refused."""

import argparse
import asyncio
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gateway.cli.arguments import add_config
from gateway.cli.output import aligned

if TYPE_CHECKING:
    from gateway.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Lists the wearables of a configuration: of the running daemon's, where one runs, else what Bluetooth knows of "
        "them now. Exit codes: 0 listed, 1 Bluetooth does not answer, 2 something is wrong with the input."
    )
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="as a JSON list")


def run(args: argparse.Namespace) -> int:
    from gateway.config import load_config

    rows = asyncio.run(_rows(load_config(args.config)))
    print(json.dumps(rows) if args.json else table(rows))
    return 0


async def _rows(config: "Config") -> list[dict[str, Any]]:
    from gateway.cli.beside import adapter_alone, asked_of_daemon, records_of
    from gateway.link.bonds import refusal

    answer = await asked_of_daemon(config, "wearables")
    if answer is not None:
        return list(answer.get("wearables", []))
    records = records_of(config)
    adapters = {name: adapter_alone(config, name) for name in config.radio.names}
    bonded = {name: await adapter.bonded() for name, adapter in adapters.items()}
    rows = []
    for wearable in config.wearables:
        remembered = records.of(wearable.id, wearable.address)
        held = await adapters[config.adapter_of(wearable)].held(wearable.address)
        refused = refusal(remembered, held, wearable.allow_just_works)
        rows.append(
            {
                "id": wearable.id,
                "address": wearable.address,
                "profile": wearable.profile,
                "paired": held.bonded,
                "connected": any(found.get(wearable.address, False) for found in bonded.values()),
                "bond": remembered,
                "refused": refused and refused.format(name=wearable.id),
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """With why the refused ones are, below."""
    keys = ["id", "address", "profile", "paired", "connected"]
    told = [[{True: "yes", False: "no"}.get(row[key], str(row[key])) for key in keys] for row in rows]
    links = [str(row["link"]) for row in rows if "link" in row]
    if links:
        keys, told = [*keys, "link"], [[*line, link] for line, link in zip(told, links, strict=True)]
    lines = [aligned([keys, *told])]
    lines += [f"{row['id']}: {row['refused']}" for row in rows if row.get("refused")]
    return "\n".join(lines)
