"""`gateway scan`: who advertises near here, and which profile it speaks."""

import argparse
import asyncio
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gateway.cli.output import aligned
from gateway.clock import Clock
from gateway.errors import InputRejected

if TYPE_CHECKING:
    from gateway.config import Config

SECONDS = 10.0
POLL_S = 0.5
ROWS_MAX = 30
"""Of the table while it is rewritten; all are listed at the end."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Listens and lists the wearables that advertise, the nearest first, with the address and profile that their "
        "table in the configuration needs; on a terminal while it listens. With --config the running daemon listens, "
        "or this command by that radio where none runs; without it BlueZ does, beside the daemon too. A wearable that "
        "is connected is not heard. Exit codes: 0 listed, also where there is nobody, 1 the adapter or BlueZ does not "
        "answer, 2 something is wrong with the input, 130 stopped by Ctrl-C."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML, the daemon's: its radio and its wearables")
    parser.add_argument("--adapter", default="hci0", metavar="NAME", help="BlueZ's to listen on, without --config")
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help="how long to listen")
    parser.add_argument("--all", action="store_true", help="also who advertises no profile that is known here")
    parser.add_argument("--json", action="store_true", help="as a JSON list")


def run(args: argparse.Namespace) -> int:
    from gateway.commands import SCAN_S_MAX

    if not 1 <= args.seconds <= SCAN_S_MAX:
        raise InputRejected(f"--seconds {args.seconds:g}: expected 1 to {SCAN_S_MAX:g}")
    config = None
    if args.config is not None:
        from gateway.config import load_config

        config = load_config(args.config)
    live = Live(sys.stderr, everybody=args.all)
    found = asyncio.run(_scan(config, args.adapter, args.seconds, live))
    live.clear()
    listed = [heard for heard in found if args.all or heard["profile"] is not None]
    if args.json:
        print(json.dumps(listed))
    else:
        print(table(listed))
        others = len(found) - len(listed)
        if others:
            print(f"and {others} that advertise no profile known here (--all)", file=sys.stderr)
    return 0


async def _scan(config: "Config | None", adapter: str, seconds: float, live: "Live") -> list[dict[str, Any]]:
    from gateway.ble import open_adapter
    from gateway.cli.beside import adapter_alone, asked_of_daemon

    if config is None:
        return await _listen(open_adapter("bluez", adapter), seconds, {}, live)
    answer = await asked_of_daemon(config, "scan", {"seconds": seconds}, lambda what: live.show(what.get("heard", [])))
    if answer is not None:
        return list(answer.get("heard", []))
    own = adapter_alone(config, config.radio.names[0])
    return await _listen(own, seconds, {one.address: one.id for one in config.wearables}, live)


async def _listen(adapter: Any, seconds: float, wearables: Mapping[str, str], live: "Live") -> list[dict[str, Any]]:
    from dataclasses import asdict

    from gateway.ble.nearby import Nearby

    nearby, clock = Nearby(), Clock()
    async with adapter.alone():
        bonded = await adapter.bonded()
        async with adapter.listening(nearby):
            end_ns = clock.mono_ns() + int(seconds * 1e9)
            while (left_ns := end_ns - clock.mono_ns()) > 0:
                live.show([asdict(heard) for heard in nearby.table(bonded, wearables)])
                await asyncio.sleep(min(POLL_S, left_ns / 1e9))
    return [asdict(heard) for heard in nearby.table(bonded, wearables)]


class Live:
    """The table so far, rewritten on a terminal; nothing elsewhere. everybody: also who speaks no known profile."""

    def __init__(self, stream: IO[str], *, everybody: bool) -> None:
        self._stream, self._everybody = stream, everybody
        self._lines = 0

    def show(self, found: Sequence[dict[str, Any]]) -> None:
        if not self._stream.isatty():
            return
        self.clear()
        listed = [heard for heard in found if self._everybody or heard["profile"] is not None][:ROWS_MAX]
        text = (table(listed) if listed else "listening") + "\n"
        self._stream.write(text)
        self._stream.flush()
        self._lines = text.count("\n")

    def clear(self) -> None:
        if self._lines:
            self._stream.write(f"\x1b[{self._lines}A\x1b[J")  # up, and erase to the end (ECMA-48)
            self._stream.flush()
        self._lines = 0


def table(found: Collection[dict[str, Any]]) -> str:
    if not found:
        return "nobody is heard that can be used; is it switched on, near, and connected to nothing else?"
    rows = [["address", "name", "dBm", "profile", "paired", "wearable"]]
    rows += [
        [
            heard["address"],
            _printable(heard["name"]) or "-",
            str(heard["rssi_dbm"]),
            heard["profile"] or "-",
            "yes" if heard["paired"] else "no",
            heard["wearable"] or "-",
        ]
        for heard in found
    ]
    return aligned(rows)


def _printable(name: str | None) -> str:
    """Anyone may advertise any name; it must not write to the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in name or "")
