"""`gateway scan`: who advertises near here, and which profile it speaks."""

import argparse
import asyncio
import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gateway.cli.output import Progress
from gateway.clock import Clock
from gateway.errors import InputRejected

SECONDS, SECONDS_MAX = 10.0, 600.0
POLL_S = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Listens on a BlueZ adapter and lists the wearables that advertise, the nearest first, with the address and "
        "profile that their table in the configuration needs. It may be done beside the daemon; a wearable that "
        "is connected is not heard. Exit codes: 0 listed, also where there is nobody, 1 the adapter or BlueZ does not "
        "answer, 2 something is wrong with the input, 130 stopped by Ctrl-C."
    )
    parser.add_argument("--adapter", default="hci0", metavar="NAME", help="which to listen on")
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help="how long to listen")
    parser.add_argument("--all", action="store_true", help="also who advertises no profile that is known here")
    parser.add_argument("--json", action="store_true", help="as a JSON list")


@dataclass(frozen=True, slots=True)
class Heard:
    """profile: the one whose service it advertises; None where it is none that is known here."""

    address: str
    name: str | None
    rssi_dbm: int
    profile: str | None
    paired: bool


def run(args: argparse.Namespace) -> int:
    from gateway.ble.bluez_backend import BluezAdapter

    if not 1 <= args.seconds <= SECONDS_MAX:
        raise InputRejected(f"--seconds {args.seconds:g}: expected 1 to {SECONDS_MAX:g}")
    found = asyncio.run(_listen(BluezAdapter(args.adapter), args.seconds))
    listed = [heard for heard in found if args.all or heard.profile is not None]
    if args.json:
        print(json.dumps([asdict(heard) for heard in listed]))
    else:
        print(table(listed))
        others = len(found) - len(listed)
        if others:
            print(f"and {others} that advertise no profile known here (--all)", file=sys.stderr)
    return 0


async def _listen(adapter: Any, seconds: float) -> list[Heard]:
    advertised: dict[str, tuple[str | None, int, frozenset[str]]] = {}

    def heard(device: Any, data: Any) -> None:
        address = device.address.upper()
        name, _, services = advertised.get(address, (None, 0, frozenset()))
        uuids = services | {uuid.lower() for uuid in data.service_uuids}
        advertised[address] = data.local_name or name, data.rssi, uuids

    paired = {address for address, one in (await adapter.known()).items() if one.get("Paired")}
    clock = Clock()
    with Progress(sys.stderr) as progress:
        async with adapter.listening(heard):
            began_ns, span_ns = clock.mono_ns(), int(seconds * 1e9)
            while (passed_ns := clock.mono_ns() - began_ns) < span_ns:
                progress.show(passed_ns, span_ns, f"{len(advertised)} heard")
                await asyncio.sleep(POLL_S)
    return heard_of(advertised, paired)


def heard_of(advertised: Mapping[str, tuple[str | None, int, Collection[str]]], paired: Collection[str]) -> list[Heard]:
    """The nearest first. advertised: by address its name, RSSI in dBm and the services that it names."""
    from gateway.profiles import PROFILES

    by_service = {profile.service_uuid.lower(): name for name, profile in PROFILES.items()}
    found = [
        Heard(address, name, rssi_dbm, next((by_service[u] for u in uuids if u in by_service), None), address in paired)
        for address, (name, rssi_dbm, uuids) in advertised.items()
    ]
    return sorted(found, key=lambda heard: -heard.rssi_dbm)


def table(found: Collection[Heard]) -> str:
    if not found:
        return "nobody is heard that can be used; is it switched on, near, and connected to nothing else?"
    rows = [("address", "name", "dBm", "profile", "paired")]
    rows += [(h.address, h.name or "-", str(h.rssi_dbm), h.profile or "-", "yes" if h.paired else "no") for h in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
