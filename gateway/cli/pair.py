"""`gateway pair`: a bond with one wearable, by the digits that it shows.

What is asked goes to standard error and is answered on standard input, the result to standard output.
"""

import argparse
import asyncio
import re
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from gateway.cli.arguments import add_wearable
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
    add_wearable(parser, "TOML, the daemon's; `gateway check` explains it")
    parser.add_argument(
        "--passkey", metavar="DIGITS", help="the six digits that it always shows, where nobody can be asked"
    )


def run(args: argparse.Namespace) -> int:
    from gateway.config import load_config

    if args.passkey is not None and not _DIGITS.fullmatch(args.passkey):
        raise InputRejected(f"--passkey {args.passkey!r}: expected six digits")
    config = load_config(args.config)
    wearable = config.wearable_named(args.wearable, args.config)
    adapter = bluez_of(config, config.adapter_of(wearable), _Asked(args.passkey, wearable.allow_just_works))
    try:
        return asyncio.run(_pair(adapter, wearable.id, wearable.address, wearable.allow_just_works))
    except asyncio.CancelledError:
        print("stopped", file=sys.stderr)
        return 130


def bluez_of(config: "Config", name: str, answers: "Answers | None" = None) -> "BluezAdapter":
    """name: of the adapter. Raises InputRejected where the configuration has another backend."""
    from gateway.ble.bluez_backend import BluezAdapter

    if config.radio.backend != "bluez":
        raise InputRejected(
            f"radio.backend {config.radio.backend!r}: it keeps no bonds yet", hint='Pairing needs backend = "bluez".'
        )
    return BluezAdapter(name, answers)


async def _pair(adapter: "BluezAdapter", name: str, address: str, allow_just_works: bool) -> int:
    if (await adapter.known()).get(address.upper(), {}).get("Paired", False):
        print(f"{name}: is paired already; `gateway forget {name}` ends that")
        return 0
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        with suppress(RuntimeError, ValueError):  # not the main thread
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    print(f"{name} ({address}): looking for it; it has to be near and ready to pair", file=sys.stderr)
    numbered = await adapter.pair(address, without_number=allow_just_works)
    print(f"{name}: paired" + ("" if numbered else ", without digits"))
    return 0


class _Asked:
    """A person's answers, or those of the command line."""

    def __init__(self, passkey: str | None, allow_just_works: bool) -> None:
        self._passkey, self._allow_just_works = passkey, allow_just_works
        self._line: asyncio.Future[str] | None = None

    async def passkey(self, _address: str) -> int | None:
        typed = self._passkey
        while typed is None or not _DIGITS.fullmatch(typed):
            typed = await self._ask("the six digits that it shows: ")
            if not typed:
                return None
        return int(typed)

    async def confirm(self, _address: str, number: int) -> bool:
        if self._passkey is not None:
            return int(self._passkey) == number
        return (await self._ask(f"does it show {number:06d}? [y/N] ")).lower() in ("y", "yes")

    async def shown(self, _address: str, number: int) -> bool:
        print(f"type {number:06d} on it", file=sys.stderr, flush=True)
        return True

    async def just_works(self, _address: str) -> bool:
        return self._allow_just_works

    async def _ask(self, question: str) -> str:
        """Empty where nobody answers. A line that an earlier question still waits for answers this one."""
        print(question, end="", file=sys.stderr, flush=True)
        if self._line is None or self._line.done():
            loop = asyncio.get_running_loop()
            self._line = line = loop.create_future()

            def answered(typed: str) -> None:
                if not line.done():
                    line.set_result(typed)

            def read() -> None:  # in a thread that holds up no end of the program
                typed = sys.stdin.readline().strip()
                with suppress(RuntimeError):  # the loop has ended meanwhile
                    loop.call_soon_threadsafe(answered, typed)

            threading.Thread(target=read, daemon=True).start()
        return await asyncio.shield(self._line)
