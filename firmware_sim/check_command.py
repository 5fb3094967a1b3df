"""`firmware-sim check`: the reference profile's conformance list against a wearable."""

import argparse
import asyncio
import functools
import json
import random
import re
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from gateway.clock import Clock, SimulatedTime
from gateway.errors import GatewayError, InputRejected

if TYPE_CHECKING:
    from firmware_sim.bench import Bench
    from firmware_sim.central import Central
    from firmware_sim.conformance import Item, Verdict
    from firmware_sim.device import Device

DESCRIPTION = """\
Check a wearable against the conformance list of the reference profile (docs/reference-profile.md), item by item.
By default the simulated wearable is checked, in this process and faster than life.
"""
EPILOG = """\
examples:
  firmware-sim check
  firmware-sim check --transport usb:0 --address C3:11:22:33:44:55 --erase
  firmware-sim check --only RP-FRAME --only RP-TIME --json

The wearable has to lie still meanwhile, and no other central may hold it. A check of all items takes some minutes. Two
items need a restart of the wearable: each asks for it and waits 90 s, and is skipped where nobody does it.
Exit code: 0 where no item fails, 1 where one does or the wearable cannot be reached or does not speak the reference
profile, 2 for a wrong option, 3 where every item was skipped, so that nothing was checked.
"""
NOTHING_CHECKED = 3
SPEED = 8.0
MOTION_S = 3600.0


class NotFound(GatewayError):
    hint = "Is it switched on, near, and not held by another central?"


class AnotherProfile(GatewayError):
    hint = "The list is of the reference profile alone (docs/reference-profile.md)."


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "check",
        help="check a wearable against the reference profile",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--transport", metavar="T", help="Bumble's transport of a controller to reach it by: usb:0, tcp-client:..."
    )
    parser.add_argument("--address", metavar="A", help="the wearable's (default: the only one that is heard)")
    parser.add_argument(
        "--erase", action="store_true", help="also check what acknowledges samples: it may erase what it holds"
    )
    parser.add_argument(
        "--restart-by-hand",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="ask for a restart of the wearable where an item needs one, and wait for it (default: on a terminal)",
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="ID", help="items whose id begins so; repeatable"
    )
    parser.add_argument("--list", action="store_true", help="print the list and check nothing")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout at the end; progress on stderr")
    parser.set_defaults(obey=run)


def run(args: argparse.Namespace) -> int:
    """0 where no item fails, NOTHING_CHECKED where all are skipped, else 1. Raises GatewayError."""
    try:
        from firmware_sim import conformance
    except ImportError:
        raise InputRejected("the check needs Bumble", hint="pip install 'fidget-gateway[bumble]'") from None
    for option in ("address", "erase", "restart-by-hand"):
        if getattr(args, option.replace("-", "_")) and not args.transport:
            raise InputRejected(f"--{option} needs --transport", hint="Without one the simulator is checked, in full.")
    if args.address and not re.fullmatch(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}", args.address):
        raise InputRejected(f"--address {args.address!r}: no Bluetooth address", hint="Such as C3:11:22:33:44:55.")
    for name in args.only:
        if not conformance.chosen([name]):
            raise InputRejected(f"no item {name!r}", hint="firmware-sim check --list names them.")
    items = conformance.chosen(args.only)
    if args.list:
        _list(items, as_json=args.json)
        return 0
    return asyncio.run(_check(args, items))


def _list(items: "Sequence[Item]", *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([{"id": one.id, "must": one.must, "how": one.how} for one in items], indent=2))
        return
    for one in items:
        print(f"{one.id:12}{one.must}\n{'':12}{one.how}")


async def _check(args: argparse.Namespace, items: "Sequence[Item]") -> int:
    out = sys.stderr if args.json else sys.stdout
    by_hand = out.isatty() if args.restart_by_hand is None else args.restart_by_hand
    asks = out if by_hand else None
    opened = behind(args.transport, args.address, erase=args.erase, asks=asks) if args.transport else simulated()
    async with opened as bench:
        verdicts = await judge(bench, items, out)
    counts = {result: sum(v.result == result for v in verdicts) for result in ("pass", "fail", "skip")}
    if args.json:
        print(json.dumps(_as_json(bench.address, verdicts, counts), indent=2))
    else:
        print(f"{bench.address}: {counts['pass']} passed, {counts['fail']} failed, {counts['skip']} skipped")
    if counts["fail"]:
        return 1
    return 0 if counts["pass"] else NOTHING_CHECKED


async def judge(bench: "Bench", items: "Sequence[Item]", out: TextIO) -> "list[Verdict]":
    """All verdicts, each told in a line as it stands."""
    from firmware_sim.conformance import run as each

    verdicts = []
    async for verdict in each(bench, items):
        verdicts.append(verdict)
        found = f"\n{'':18}{verdict.found}" if verdict.found else ""
        print(f"{verdict.result.upper():6}{verdict.item.id:12}{verdict.item.must}{found}", file=out, flush=True)
    return verdicts


def _as_json(address: str, verdicts: "Sequence[Verdict]", counts: dict[str, int]) -> dict[str, object]:
    listed = [
        {"id": v.item.id, "must": v.item.must, "how": v.item.how, "result": v.result.value, "found": v.found or None}
        for v in verdicts
    ]
    return {"wearable": address, **counts, "items": listed}


@asynccontextmanager
async def simulated(plant: "Callable[[Device], None] | None" = None) -> "AsyncIterator[Bench]":
    """A bench with the simulator on it; all may be done to it. plant: makes something go wrong with the device."""
    import numpy as np

    from firmware_sim.bench import SETTLE_S, Bench
    from firmware_sim.central import Central
    from firmware_sim.device import Device
    from firmware_sim.encoding import Config
    from firmware_sim.scenario import parse_wearable
    from firmware_sim.simulation import Simulation
    from firmware_sim.synthesis import REST, synthesize

    began_ns = Clock().mono_ns()
    clock = Clock(SimulatedTime(epoch_ns=began_ns, speed=SPEED, t0_ns=began_ns))
    simulation = Simulation(clock.mono_ns, random.Random(secrets.randbits(64)))
    minute = synthesize([(REST, 60.0)], wearer=0, seed=0, rate_hz=Config().rate_hz)
    simulation.add(parse_wearable("name=checked"), np.tile(minute, (int(MOTION_S / 60), 1)))
    wearable = simulation.wearables[0]
    if plant is not None:
        assert isinstance(wearable.device, Device)  # of the reference family, which "checked" is by default
        plant(wearable.device)
    central = Central(simulation.radio.wearable("check"))
    running = asyncio.create_task(simulation.run())
    address = wearable.spec.ble_address()

    async def restart() -> None:
        wearable.reboot()

    bench = Bench(central, address, clock.mono_ns, speed=SPEED, erase=True, restart=restart)
    try:
        await simulation.started.wait()
        await central.start()
        yield bench
    finally:
        await bench.drop()
        simulation.close()
        await asyncio.sleep(SETTLE_S)  # Bumble objects to the answer of a command that was cancelled
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@asynccontextmanager
async def behind(
    transport: str, address: str | None, *, erase: bool, asks: TextIO | None = None
) -> "AsyncIterator[Bench]":
    """A bench with the wearable that is heard by this controller. asks: where a person is asked to restart it; None for
    nobody. Raises NotFound, AnotherProfile, and what opening it raises.
    """
    from firmware_sim.bench import Bench
    from firmware_sim.central import Central
    from firmware_sim.transport import TransportRadio

    radio = await TransportRadio.open([transport])
    try:
        central = Central(radio.wearable("check"))
        await central.start()
        bench = Bench(central, await _found(central, address), Clock().mono_ns, erase=erase)
        if asks is not None:
            bench.restart = functools.partial(bench.restarted_by_hand, asks)
        try:
            await _check_profile(bench)
            yield bench
        finally:
            await bench.drop()
    finally:
        await radio.close()


async def _check_profile(bench: "Bench") -> None:
    """By its GATT table, for what it advertises is an item of the list. A link that fails is left to the items, too."""
    from firmware_sim.central import LinkFailed
    from firmware_sim.encoding import SERVICE_UUID

    with suppress(LinkFailed):
        if not (await bench.link()).characteristics:
            raise AnotherProfile(
                f"{bench.address}: it does not speak the reference profile: nothing of service {SERVICE_UUID}"
            )
        await bench.drop()


async def _found(central: "Central", address: str | None) -> str:
    from firmware_sim.bench import SCAN_S
    from firmware_sim.encoding import SERVICE_UUID

    if address is not None:
        wanted = address.upper()
        heard = await central.scan(SCAN_S, lambda one: one.address == wanted)
        if wanted not in [one.address for one in heard]:
            others = ", ".join(one.address for one in heard if SERVICE_UUID in one.services)
            raise NotFound(f"{wanted} was not heard in {SCAN_S:g} s" + (f"; heard: {others}" if others else ""))
        return wanted
    found = [one.address for one in await central.scan(SCAN_S / 2) if SERVICE_UUID in one.services]
    if not found:
        raise NotFound(f"no wearable of the reference profile was heard in {SCAN_S / 2:g} s")
    if len(found) > 1:
        raise InputRejected(f"several wearables are heard: {', '.join(found)}", hint="Name one with --address.")
    return found[0]
