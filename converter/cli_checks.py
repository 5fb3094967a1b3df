"""The converter's commands for what stands already: `inspect`, `verify` and `pack`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from converter.inspection import BundleInspection, KerasInspection, TfliteInspection

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
        from rich.table import Table
        from rich.text import Text

        table = Table("check", "", "found", title=f"{done.bundle.manifest.model.name}: {done.bundle.path}")
        for check in done.checks:
            mark = Text("holds", "green") if check.passed else Text("FAILS", "bold red")
            table.add_row(Text(check.what), mark, Text(check.found))
        _console(140).print(table)
    failed = sum(not check.passed for check in done.checks)
    if failed:
        print(f"{failed} of {len(done.checks)} checks fail: do not use this bundle", file=sys.stderr)
    return 1 if failed else 0


INSPECT = (
    "Show what is in a model: layers or operators, shapes, parameters, multiply-accumulates a window, tensors with "
    "types and quantization, size and memory. Of a Keras file no code runs."
)


def add_inspect(parser: argparse.ArgumentParser) -> None:
    text = "a Keras model (.keras, .h5), a .tflite file, or a bundle (folder or .zip)"
    parser.add_argument("model", metavar="MODEL|BUNDLE|TFLITE", type=Path, help=text)
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead of tables")
    parser.set_defaults(run=_inspect)


def _inspect(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from converter.inspection import BundleInspection, KerasInspection, inspect

    found = inspect(args.model)
    if args.json:
        print(json.dumps(asdict(found), indent=1))
        return 0
    console = _console(120)
    if isinstance(found, KerasInspection):
        _show_keras(console, found)
    elif isinstance(found, BundleInspection):
        _show_bundle(console, found)
    else:
        _show_tflite(console, str(args.model), found)
    return 0


def _console(width: int) -> "Console":
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width, highlight=False, markup=False)


def _show_keras(console: "Console", found: "KerasInspection") -> None:
    from rich.table import Table

    table = Table("layer", "kind", "output", title=found.path)
    for column in ("parameters", "multiply-accumulates"):
        table.add_column(column, justify="right")
    for layer in found.layers:
        macs = "?" if layer.macs is None else f"{layer.macs:,}"
        table.add_row(layer.name, layer.kind, _shape(layer.output), f"{layer.parameters:,}", macs)
    console.print(table)
    stored = "" if found.stored is None else f"; numbers in the file, with the optimizer's: {found.stored:,}"
    console.print(f"parameters: {found.parameters:,}, of which trainable {found.trainable:,}{stored}")
    console.print(f"multiply-accumulates a window: {found.macs:,} ({found.macs / 1e6:.1f} M)")
    console.print(f"input {_shapes(found.inputs)}, output {_shapes(found.outputs)}; file {found.size:,} bytes")
    console.print(f"sha256 {found.sha256}")


def _show_bundle(console: "Console", found: "BundleInspection") -> None:
    manifest = found.manifest
    console.print(f"{found.path}: {manifest['model']['name']}, digest {found.digest}")
    console.print(f"made from: {'; '.join(manifest['model']['architecture'])}")
    labels, seconds = manifest["labels"], manifest["window"] / manifest["rate_hz"]
    console.print(f"labels ({len(labels)}): {', '.join(labels)}")
    channels = ", ".join(f"{name} [{unit}]" for name, unit in zip(manifest["channels"], manifest["units"], strict=True))
    console.print(f"window: {manifest['window']} samples ({seconds:g} s) every {manifest['hop']}; {channels}")
    console.print(f"axes: {manifest['frame'] or 'unknown'}; wrist: {manifest['wrist'] or 'unknown'}")
    kept = {"drift reference": manifest["drift_reference"], "self-test": manifest["self_test"]}
    console.print("; ".join(f"{what}: {'yes' if value else 'none'}" for what, value in kept.items()))
    for name, variant in found.variants.items():
        default = ", the default" if name == manifest["default_variant"] else ""
        parity = manifest["variants"][name]["parity"]
        agrees = f"same top class as Keras on {parity['top1_agreement']:.2%} of {parity['windows']} windows"
        _show_tflite(console, f"{name}{default}: {agrees}, max |dp| {parity['dp_max']:g}", variant)


def _show_tflite(console: "Console", title: str, found: "TfliteInspection") -> None:
    from rich.table import Table

    console.print(f"\n{title}")
    table = Table("operator", "version", "output")
    table.add_column("multiply-accumulates", justify="right")
    for operator in found.operators:
        version = str(operator.version)
        table.add_row(operator.name, version, _shape(operator.output), f"{operator.macs:,}" if operator.macs else "")
    console.print(table)
    table = Table("tensor", "kind", "type", "shape")
    for column in ("bytes", "quantization"):
        table.add_column(column, justify="right")
    computed = [tensor for tensor in found.tensors if tensor.kind == "computed"]
    for tensor in found.tensors:
        if tensor.kind == "computed":
            continue
        axis = "" if tensor.axis is None else f" on axis {tensor.axis}"
        scales = f"{tensor.scales} scale{'s' if tensor.scales > 1 else ''}{axis}" if tensor.scales else ""
        table.add_row(tensor.name, tensor.kind, tensor.type, _shape(tensor.shape), f"{tensor.size:,}", scales)
    console.print(table)
    total = sum(tensor.size for tensor in computed)
    console.print(f"and {len(computed)} computed tensors of {total:,} bytes, which share an arena of {found.arena:,}")
    console.print(f"parameters {found.parameters:,}; multiply-accumulates a window {found.macs / 1e6:.1f} M")
    memory = "not measured: LiteRT cannot run it" if found.memory is None else f"{found.memory / 1e6:.1f} MB"
    console.print(f"file {found.size:,} bytes; state {found.variables:,}; memory of a process that runs it: + {memory}")


def _shape(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("any" if side is None else str(side) for side in shape) + ")"


def _shapes(shapes: Sequence[Sequence[int | None]]) -> str:
    return " and ".join(map(_shape, shapes))


PACK = "Make one .zip of a bundle, for transport. The gateway takes it as it takes the folder."


def add_pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a bundle's folder")
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
