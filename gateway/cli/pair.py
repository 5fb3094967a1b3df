"""`gateway pair`: a bond with one wearable, by the digits that it shows, or that are typed on it.

What is asked goes to standard error and is answered on standard input, the result to standard output.
"""

import argparse
import asyncio
import re
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gateway.cli.arguments import add_wearable
from gateway.errors import InputRejected

if TYPE_CHECKING:
    from gateway.config import Config, WearableSettings

_DIGITS = re.compile(r"[0-9]{6}")
_ADDRESS = re.compile(r"([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Pairs with a wearable of the configuration, which has to be near and ready to pair: type the six digits that "
        "it shows, say whether it shows the same as here, or type on it what is shown here. The running daemon does "
        "it, or this command where none runs. The bond stays until `gateway forget`. Exit codes: 0 paired (or it "
        "was), 1 it could not be paired, 2 something is wrong with the input, 130 stopped by Ctrl-C."
    )
    add_wearable(parser)
    parser.add_argument(
        "--passkey", metavar="DIGITS", help="the six digits that it always shows, where nobody can be asked"
    )
    parser.add_argument(
        "--heard-as", metavar="ADDRESS", help="where its address changes: the one that `gateway scan` shows now"
    )


def run(args: argparse.Namespace) -> int:
    from gateway.config import load_config

    if args.passkey is not None and not _DIGITS.fullmatch(args.passkey):
        raise InputRejected(f"--passkey {args.passkey!r}: expected six digits")
    if args.heard_as is not None and not _ADDRESS.fullmatch(args.heard_as):
        raise InputRejected(f"--heard-as {args.heard_as!r}: expected an address such as 5A:FF:EE:00:00:01")
    config = load_config(args.config)
    wearable = config.wearable_named(args.wearable, args.config)
    try:
        return asyncio.run(_pair(config, wearable, _Asked(args.passkey), args.heard_as))
    except asyncio.CancelledError:
        print("stopped", file=sys.stderr)
        return 130


async def _pair(config: "Config", wearable: "WearableSettings", asked: "_Asked", heard_as: str | None) -> int:
    from gateway.cli.beside import asked_of_daemon

    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        with suppress(RuntimeError, ValueError):  # not the main thread
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    wanted = {"wearable": wearable.id} | ({"heard_as": heard_as} if heard_as else {})
    answer = await asked_of_daemon(config, "pair", wanted, _tell, asked.answer)
    how = answer.get("paired") if answer is not None else await _alone(config, wearable, asked, heard_as)
    match how:
        case "already":
            print(f"{wearable.id}: is paired already; `gateway forget {wearable.id}` ends that")
        case "just_works":
            print(f"{wearable.id}: paired, without digits")
        case _:
            print(f"{wearable.id}: paired")
    return 0


async def _alone(config: "Config", wearable: "WearableSettings", asked: "_Asked", heard_as: str | None) -> str:
    from gateway.ble import operator
    from gateway.cli.beside import adapter_alone, records_of
    from gateway.commands import listed_of

    adapter, records = adapter_alone(config, config.adapter_of(wearable)), records_of(config)
    async with adapter.alone():
        if await operator.is_paired(adapter, records, listed_of(wearable)):
            return "already"
        _tell({"text": operator.looking_for(wearable.id, heard_as or wearable.address)})
        return await operator.pair(adapter, records, listed_of(wearable), asked, heard_as=heard_as)


def _tell(what: dict[str, Any]) -> None:
    if isinstance(text := what.get("text"), str):
        print(text, file=sys.stderr, flush=True)


class _Asked:
    """A person's answers, or those of the command line."""

    def __init__(self, passkey: str | None) -> None:
        self._passkey = passkey
        self._line: asyncio.Future[str] | None = None

    async def answer(self, question: dict[str, Any]) -> int | bool | None:
        """To what the daemon asks."""
        match question:
            case {"kind": "passkey"}:
                return await self.passkey("")
            case {"kind": "confirm", "number": int(number)}:
                return await self.confirm("", number)
            case {"kind": "shown", "number": int(number)}:
                return await self.shown("", number)
            case _:
                return None

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
        """Whether a bond without a number is kept is the configuration's to say."""
        return True

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
