"""What the commands show to people. Each table fits into 80 columns; what is longer goes on in the next line, uncut."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any, Literal

from gateway.bundle import Bundle
from gateway.bundle.manifest import Manifest, Parity

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from converter.gate import Times
    from converter.inspection import BundleInspection, KerasInspection, TensorEntry, TfliteInspection
    from converter.verification import Verification

_PIPE_WIDTH = 120
_LONG = 32
"""Letters of an entry that is broken, where the terminal is narrow, rather than the table cut."""


def console() -> "Console":
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False, markup=False, emoji=False)


def _say(to: "Console", text: str) -> None:
    """Lines as a program may read them, where no terminal has to break them."""
    to.print(text, soft_wrap=not to.is_terminal)


def _show(
    to: "Console", columns: Sequence[str], rows: Iterable[Sequence["str | Text"]], *, numbers: str = "", wraps: str = ""
) -> None:
    """numbers, wraps: letters of the columns (a is the first) that are set to the right, and that break where the
    terminal is narrow; so do those with a very long entry."""
    from rich import box
    from rich.table import Table

    rows = list(rows)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for at, column in enumerate(columns):
        letter = ascii_lowercase[at]
        fits = all(len(row[at]) <= _LONG for row in rows)
        justify: Literal["left", "right"] = "right" if letter in numbers else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=fits and letter not in wraps)
    for row in rows:
        table.add_row(*row)
    to.print(table)
    to.print()


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


# convert


def show_conversion(bundle: Bundle, times: Mapping[str, "Times"]) -> None:
    """Sizes and times of each variant; then how it agrees with Keras, on each set of windows."""
    to, manifest = console(), bundle.manifest
    names = {name: name + " *" * (name == manifest.default_variant) for name in manifest.variants}
    _say(to, f"{manifest.model.name}: {bundle.path}\n")
    sizes = [
        (names[name], f"{variant.size:,}", f"{times[name].warm_ms:.2f}", f"{times[name].cold_ms:.2f}")
        for name, variant in manifest.variants.items()
    ]
    _show(to, ("variant", "bytes", "ms a window", "ms, cold caches"), sizes, numbers="bcd")
    parities = [
        ("" if number else names[name], *_parity_row(where, parity))
        for name, variant in manifest.variants.items()
        for number, (where, parity) in enumerate({"walks": variant.parity, **variant.probes}.items())
    ]
    columns = ("variant", "windows", "same\ntop", "clear", "worst\nclass", "max\n|dp|", "p99\n|dp|", "mean\n|dp|")
    _show(to, columns, parities, numbers="cdefgh")
    from converter.parity import CLASS_WINDOWS_MIN

    _say(to, "same top: Keras's top class; clear: where that is no near tie; |dp|: difference of a probability")
    _say(to, f"worst class: of those that Keras names on {CLASS_WINDOWS_MIN} windows or more; -: there are none")
    if (sentence := _nothing_gained(manifest)) is not None:
        _say(to, sentence)
    _say(to, f"* default {manifest.default_variant}: {manifest.default_reason}")
    _say(to, f"digest {bundle.digest}")


def _nothing_gained(manifest: Manifest) -> str | None:
    """Where the search has found nothing that could be stored smaller, and mixed is the file of float32."""
    mixed = manifest.variants.get("mixed")
    if mixed is None or any(weight.stored != "float32" for weight in mixed.weights.values()):
        return None
    if mixed.weights:
        return "mixed is the same as float32: every smaller storage that was tried cost too much agreement"
    return "mixed is the same as float32: no weight is large enough for smaller storage to gain anything"


def _parity_row(where: str, parity: Parity) -> Iterator[str]:
    yield f"{parity.windows:,} {where}"
    for share in (parity.top1_agreement, parity.clear_agreement, parity.worst_class_agreement):
        yield _percent(share)
    for value in (parity.dp_max, parity.dp_p99, parity.dp_mean):
        yield f"{value:.1e}"


# verify


def show_verification(done: "Verification") -> None:
    from rich.text import Text

    to = console()
    _say(to, f"{done.bundle.manifest.model.name}: {done.bundle.path}\n")
    rows = [
        (check.what, Text("holds", "green") if check.passed else Text("FAILS", "bold red"), check.found)
        for check in done.checks
    ]
    _show(to, ("check", "", "found"), rows, wraps="ac")


# inspect


def show_keras(found: "KerasInspection") -> None:
    to = console()
    _say(to, f"{found.path}\n")
    rows = [
        (
            layer.name,
            layer.kind,
            _shape(layer.output),
            f"{layer.parameters:,}",
            "?" if layer.macs is None else f"{layer.macs:,}",
        )
        for layer in found.layers
    ]
    _show(to, ("layer", "kind", "output", "parameters", "multiply-\naccumulates"), rows, numbers="de")
    _say(to, f"parameters: {found.parameters:,}, of which trainable {found.trainable:,}")
    if found.stored is not None:
        _say(to, f"numbers in the file, with the optimizer's where it has them: {found.stored:,}")
    least = "at least " if any(layer.macs is None for layer in found.layers) else ""
    _say(to, f"multiply-accumulates a window: {least}{found.macs:,} ({found.macs / 1e6:.1f} M)")
    shapes = [" and ".join(map(_shape, of)) for of in (found.inputs, found.outputs)]
    _say(to, f"one window: {shapes[0]} to {shapes[1]}; file {found.size:,} bytes")
    _say(to, f"sha256 {found.sha256}")


def show_bundle(found: "BundleInspection") -> None:
    to, manifest = console(), found.manifest
    _say(to, f"{found.path}: {manifest['model']['name']}")
    _say(to, f"digest {found.digest}")
    _say(to, f"made from: {'; '.join(manifest['model']['architecture'])}")
    labels, seconds = manifest["labels"], manifest["window"] / manifest["rate_hz"]
    _say(to, f"labels ({len(labels)}): {', '.join(labels)}")
    channels = ", ".join(f"{name} [{unit}]" for name, unit in zip(manifest["channels"], manifest["units"], strict=True))
    _say(to, f"window: {manifest['window']} samples ({seconds:g} s) every {manifest['hop']}; {channels}")
    _say(to, f"axes: {manifest['frame'] or 'unknown'}; wrist: {manifest['wrist'] or 'unknown'}")
    _say(to, f"drift reference: {found.drift_reference}")
    _say(to, f"self-test: {'yes' if manifest['self_test'] else 'none'}\n")
    rows = []
    for name, variant in found.variants.items():
        stated = manifest["variants"][name]
        agreement, dp_max = stated["parity"]["top1_agreement"], stated["parity"]["dp_max"]
        memory, runtimes = _megabytes(variant.memory), ", ".join(stated["runtimes"]) or "not stated"
        mark = " *" * (name == manifest["default_variant"])
        rows.append((name + mark, f"{variant.size:,}", memory, _percent(agreement), f"{dp_max:.1e}", runtimes))
    columns = ("variant", "bytes", "memory", "same top", "max |dp|", "runtimes")
    _show(to, columns, rows, numbers="bcde", wraps="f")
    windows = {manifest["variants"][name]["parity"]["windows"] for name in found.variants}
    _say(to, f"* the default; same top: Keras's top class, on {' or '.join(f'{n:,}' for n in sorted(windows))} windows")
    for name, variant in found.variants.items():
        default = ", the default" if name == manifest["default_variant"] else ""
        _say(to, f"\n{name}{default}")
        _show_graph(to, variant)


def show_tflite(title: str, found: "TfliteInspection") -> None:
    to = console()
    _say(to, title)
    _show_graph(to, found)
    _say(to, f"sha256 {found.sha256}")


def _show_graph(to: "Console", found: "TfliteInspection") -> None:
    operators = [
        (entry.name, str(entry.version), _shape(entry.output), f"{entry.macs:,}" if entry.macs else "")
        for entry in found.operators
    ]
    _show(to, ("operator", "version", "output", "multiply-\naccumulates"), operators, numbers="bd")
    tensors = [_tensor_row(alike) for alike in _alike([entry for entry in found.tensors if entry.kind != "computed"])]
    columns = ("tensor", "kind", "type", "shape", "bytes", "quantization")
    _show(to, columns, tensors, numbers="e", wraps="df")
    computed = [tensor for tensor in found.tensors if tensor.kind == "computed"]
    total = sum(tensor.size for tensor in computed)
    _say(to, f"and {len(computed)} computed tensors of {total:,} bytes, which share an arena of {found.arena:,}")
    _say(to, f"parameters {found.parameters:,}; multiply-accumulates a window {found.macs / 1e6:.1f} M")
    memory = "not measured: LiteRT cannot run it" if found.memory is None else "+ " + _megabytes(found.memory)
    _say(to, f"file {found.size:,} bytes; state {found.variables:,}; memory of a process that runs it: {memory}")


def _tensor_row(alike: "Sequence[TensorEntry]") -> tuple[str, ...]:
    first, count = alike[0], len(alike)
    kind = {"constant": "const", "variable": "state"}.get(first.kind, first.kind)
    axis = "" if first.axis is None else f" on axis {first.axis}"
    scales = f"{first.scales} scale{'s' if first.scales > 1 else ''}{axis}" if first.scales else ""
    size = f"{count} x {first.size:,}" if count > 1 else f"{first.size:,}"
    return _together([entry.name for entry in alike]), kind, first.type, _shape(first.shape), size, scales


_GATE = re.compile(r"(.+_)([a-z])")


def _alike(tensors: "Sequence[TensorEntry]") -> "Iterator[list[TensorEntry]]":
    """Neighbours that differ in nothing but the last letter of their names: the gates of an LSTM."""

    def key(entry: "TensorEntry") -> tuple[Any, ...]:
        gate = _GATE.fullmatch(entry.name)
        name = gate[1] if gate else entry.number
        return (name, entry.kind, entry.type, entry.shape, entry.size, entry.scales, entry.axis)

    for _, entries in groupby(tensors, key):
        yield list(entries)


def _together(names: Sequence[str]) -> str:
    return names[0] + "".join(f",{name[-1]}" for name in names[1:])


def _megabytes(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e6:.1f} MB"


def _shape(shape: Sequence[int | None]) -> str:
    """Of one window: without the batch that Keras leaves open."""
    sides = shape[1:] if shape and shape[0] is None else shape
    return "(" + ", ".join("any" if side is None else str(side) for side in sides) + ")"
