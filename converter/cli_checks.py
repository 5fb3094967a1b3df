"""The converter's commands that look at what stands: `verify` and `pack`."""

import argparse
import json
import sys
from pathlib import Path

VERIFY = (
    "Check a bundle again: digests, schema, operators, that every variant loads in the model runtime, answers its "
    "self-test windows as where it was made, and answers each window for itself; with --against also that it still "
    "says what the Keras model says. Exit codes: 0 all holds, 1 something does not, 2 it is no intact bundle."
)


def add_verify(parser: argparse.ArgumentParser) -> None:
    from converter.verification import PARITY_SEED, PARITY_WINDOWS

    add = parser.add_argument
    add("bundle", metavar="BUNDLE", type=Path, help="a bundle's folder, or its .zip")
    add("--against", metavar="MODEL.keras", type=Path, help="the Keras model that it was made from")
    add("--scaler", metavar="CONFIG.json", type=Path, help="the training's JSON: must hold the bundle's scaler")
    text = f"random windows to compare with --against on (default: {PARITY_WINDOWS})"
    add("--windows", metavar="N", type=int, default=PARITY_WINDOWS, help=text)
    text = f"of the random windows (default: {PARITY_SEED}, another than conversions use)"
    add("--seed", type=int, default=PARITY_SEED, help=text)
    add("--json", action="store_true", help="print the result as JSON instead of a table")
    parser.set_defaults(run=_verify)


def _verify(args: argparse.Namespace) -> int:
    from converter.verification import verify

    done = verify(
        args.bundle,
        against=args.against,
        scaler=args.scaler,
        windows=args.windows,
        seed=args.seed,
        progress=lambda step: print(step, file=sys.stderr, flush=True),
    )
    if args.json:
        checks = [{"what": check.what, "passed": check.passed, "found": check.found} for check in done.checks]
        summary = {"bundle": str(done.bundle.path), "digest": done.bundle.digest, "passed": done.passed}
        print(json.dumps(summary | {"checks": checks}, indent=1))
    else:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table("check", "", "found", title=f"{done.bundle.manifest.model.name}: {done.bundle.path}")
        for check in done.checks:
            mark = Text("holds", "green") if check.passed else Text("FAILS", "bold red")
            table.add_row(Text(check.what), mark, Text(check.found))
        Console(width=None if sys.stdout.isatty() else 140).print(table)
    failed = sum(not check.passed for check in done.checks)
    if failed:
        print(f"{failed} of {len(done.checks)} checks fail: do not use this bundle", file=sys.stderr)
    return 1 if failed else 0


PACK = "Make one .zip of a bundle, for transport. The gateway takes it as it takes the folder."


def add_pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a bundle's folder")
    parser.add_argument("out", metavar="OUT.zip", type=Path, help="the file to write; must not exist yet")
    parser.add_argument("--force", action="store_true", help="replace the file that stands there")
    parser.set_defaults(run=_pack)


def _pack(args: argparse.Namespace) -> int:
    from gateway.bundle import load_bundle, pack_bundle

    packed = pack_bundle(load_bundle(args.bundle), args.out, replace=args.force)
    print(f"{packed.path} ({packed.path.stat().st_size:,} bytes)\ndigest {packed.digest}")
    return 0
