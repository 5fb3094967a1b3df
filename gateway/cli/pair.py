"""`gateway pair`: a bond with one wearable, by the digits that it shows.

What is asked goes to standard error and is answered on standard input, the result to standard output.
"""

import argparse
import asyncio
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import InputRejected

if TYPE_CHECKING:
    from gateway.ble.bluez_agent import Answers
    from gateway.ble.bluez_backend import BluezAdapter
    from gateway.config import Config

_DIGITS = re.compile(r"[0-9]{6}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Pairs with a wearable of the configuration, which has to be near and ready to pair: type the six digits that "
        "it shows, or say whether it shows the same as here. It may be done beside the running daemon, whose link to "
        "the wearable it ends. BlueZ keeps the bond, until `gateway forget`. Exit codes: 0 paired (or it was), 1 it "
        "could not be paired, 2 something is wrong with the input, 130 stopped by Ctrl-C."
    )
    add_wearable(parser)
    parser.add_argument("--passkey", metavar="DIGITS", help="the six digits that it shows, where nobody can be asked")


def add_wearable(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("wearable", metavar="WEARABLE", help="its id in the configuration")
    add_config(parser)


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="TOML, the daemon's; `gateway check` explains it",
    )


def run(args: argparse.Namespace) -> int:
    from gateway.config import load_config

    if args.passkey is not None and not _DIGITS.fullmatch(args.passkey):
        raise InputRejected(f"--passkey {args.passkey!r}: expected six digits")
    config = load_config(args.config)
    wearable = config.wearable_named(args.wearable, args.config)
    answers = _Asked(args.passkey, wearable.allow_just_works)
    adapter = bluez_of(config, answers)
    return asyncio.run(_pair(adapter, wearable.id, wearable.address, answers))


def bluez_of(config: "Config", answers: "Answers | None" = None) -> "BluezAdapter":
    """Raises InputRejected where the configuration has another backend."""
    from gateway.ble.bluez_backend import BluezAdapter

    if config.radio.backend != "bluez":
        raise InputRejected(
            f"radio.backend {config.radio.backend!r}: it keeps no bonds yet", hint='Pairing needs backend = "bluez".'
        )
    return BluezAdapter(config.radio.adapter, answers)


async def _pair(adapter: "BluezAdapter", name: str, address: str, answers: "_Asked") -> int:
    from gateway.ble.errors import PairingFailed

    if (await adapter.known()).get(address.upper(), {}).get("Paired", False):
        print(f"{name}: is paired already; `gateway forget {name}` ends that")
        return 0
    print(f"{name} ({address}): looking for it; it has to be near and ready to pair", file=sys.stderr)
    await adapter.pair(address)
    if not answers.seen and not answers.allow_just_works:
        await adapter.unpair(address)
        raise PairingFailed(
            f"{name}: it pairs without digits, so nobody knows that it is this one; it is not paired",
            hint="Where that will do, say allow_just_works = true in its [[wearable]] table.",
        )
    print(f"{name}: paired" + ("" if answers.seen else ", without digits"))
    return 0


class _Asked:
    """A person's answers, or those of the command line. seen: a number was typed or compared."""

    def __init__(self, passkey: str | None, allow_just_works: bool) -> None:
        self._passkey = passkey
        self.allow_just_works = allow_just_works
        self.seen = False

    async def passkey(self, _address: str) -> int | None:
        typed = self._passkey
        while typed is None or not _DIGITS.fullmatch(typed):
            typed = await _ask("the six digits that it shows: ")
            if not typed:
                return None
        self.seen = True
        return int(typed)

    async def confirm(self, _address: str, number: int) -> bool:
        if self._passkey is not None:
            same = int(self._passkey) == number
        else:
            same = (await _ask(f"does it show {number:06d}? [y/N] ")).lower() in ("y", "yes")
        self.seen = self.seen or same
        return same

    async def just_works(self, _address: str) -> bool:
        return self.allow_just_works


async def _ask(question: str) -> str:
    """Empty where nobody answers."""
    print(question, end="", file=sys.stderr, flush=True)
    answer: str = await asyncio.to_thread(sys.stdin.readline)
    return answer.strip()
