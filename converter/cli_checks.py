"""The converter's commands for what stands already: `inspect`, `verify` and `pack`."""

import argparse
import json
import sys
from pathlib import Path

from converter.tables import show_bundle, show_keras, show_tflite, show_verification


def _told(step: str) -> None:
    print(step, file=sys.stderr, flush=True)


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
        progress=_told,
    )
    if args.json:
        checks = [{"what": check.what, "passed": check.passed, "found": check.found} for check in done.checks]
        summary = {"bundle": str(done.bundle.path), "digest": done.bundle.digest, "passed": done.passed}
        print(json.dumps(summary | {"checks": checks}, indent=1))
    else:
        show_verification(done)
    failed = sum(not check.passed for check in done.checks)
    if failed:
        print(f"{failed} of {len(done.checks)} checks fail: do not use this bundle", file=sys.stderr)
    return 1 if failed else 0


def add_inspect(parser: argparse.ArgumentParser) -> None:
    text = "a Keras model (.keras, .h5), a .tflite file, or a bundle (folder or .zip)"
    parser.add_argument("model", metavar="MODEL|BUNDLE|TFLITE", type=Path, help=text)
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead of tables")
    parser.set_defaults(run=_inspect)


def _inspect(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from converter.inspection import BundleInspection, KerasInspection, inspect

    found = inspect(args.model, progress=_told)
    if args.json:
        print(json.dumps(asdict(found), indent=1))
        return 0
    if isinstance(found, KerasInspection):
        show_keras(found)
    elif isinstance(found, BundleInspection):
        show_bundle(found)
    else:
        show_tflite(str(args.model), found)
    return 0


def add_pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a bundle's folder, or another .zip of one")
    parser.add_argument("out", metavar="OUT.zip", type=Path, help="the file to write; must not exist yet")
    parser.add_argument("--force", action="store_true", help="replace the file that stands there")
    parser.set_defaults(run=_pack)


def _pack(args: argparse.Namespace) -> int:
    from converter.signals import uninterrupted
    from gateway.bundle import load_bundle, pack_bundle

    bundle = load_bundle(args.bundle)
    with uninterrupted(args.out):
        packed = pack_bundle(bundle, args.out, replace=args.force)
    print(f"{packed.path} ({packed.path.stat().st_size:,} bytes)\ndigest {packed.digest}")
    return 0
