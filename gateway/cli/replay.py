"""`gateway replay`: what is still stored of some time is sent again by the running daemon."""

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING, Any

from gateway.cli.arguments import add_config
from gateway.cli.output import Progress
from gateway.cli.stored import Range, add_range

if TYPE_CHECKING:
    from gateway.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Has the running daemon send events again that are still stored, with the same ids and bytes, behind new ones "
        "and at the pace of [sync] replay_messages_s: those made from --from to --to, by the gateway's clock then. "
        "Ctrl-C ends it. Exit codes: 0 the broker has them, or there are none; 1 no daemon runs, or the broker refused "
        "some; 2 something is wrong with the input."
    )
    add_config(parser)
    add_range(parser)


def run(args: argparse.Namespace) -> int:
    from gateway.clock import Clock
    from gateway.config import load_config

    config = load_config(args.config)
    now_us = Clock().now().utc_ns // 1000
    wanted = Range.of(args, now_us * 1000)
    since_us = 0 if wanted.since_us is None else wanted.since_us
    until_us = 2**53 if wanted.until_us is None else wanted.until_us
    asked = {"since_us": since_us, "until_us": until_us, "wearable": args.wearable}
    with Progress(sys.stderr) as progress:
        answer = asyncio.run(_replay(config, asked, progress))
    if answer is None:
        print(f"no gateway runs behind {config.socket}")
        return 1
    if not answer["found"]:
        print("nothing is stored of that time")
        return 0
    print(f"sent again: {answer['acknowledged']} of {answer['found']} events")
    if answer["refused"]:
        print(f"the broker refused {answer['refused']}; `gateway status` says why")
    return 1 if answer["refused"] else 0


async def _replay(config: "Config", asked: dict[str, Any], progress: Progress) -> dict[str, Any] | None:
    from gateway.cli.beside import asked_of_daemon

    waited: str | None = None

    def told(what: dict[str, Any]) -> None:
        nonlocal waited
        if what["waits_for"] is not None and what["waits_for"] != waited and waited is None:
            progress.line(f"waits for the broker: {what['waits_for']}")
        waited = what["waits_for"]
        done = f"{what['acknowledged']} of {what['found']} events so far"
        progress.show(what["looked_at"], max(1, what["of"]), done)

    return await asked_of_daemon(config, "replay", asked, told)
