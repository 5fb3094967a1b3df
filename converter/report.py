"""A conversion as one HTML page that holds all it needs: no script, no file or address beside it.

Parity plots are two-dimensional histograms of every class's probability on every window, so that one point in 30,000 is
seen as well as the diagonal.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path

import numpy as np

from converter.gate import Times
from converter.inspection import TfliteInspection, inspect_tflite
from converter.reference import reference_in_words
from converter.signals import uninterrupted
from gateway.bundle import Bundle
from gateway.bundle.manifest import Parity, Variant
from gateway.errors import InputRejected
from gateway.motion.samples import Float32

_CELLS = 60
"""Of the parity plot, a side."""
_PLOT = 300
_MARGIN = 46
_LEVELS = (0.25, 0.4, 0.6, 0.8, 1.0)
"""Opacity of a cell with 1, some 10, 100, 1,000 or 10,000 points."""


def report_html(
    bundle: Bundle,
    *,
    keras: Mapping[str, Float32],
    answers: Mapping[str, Mapping[str, Float32]],
    times: Mapping[str, Times],
) -> str:
    """keras: by set of windows, answers: by variant and set of windows, probabilities (n, classes)."""
    manifest = bundle.manifest
    found = {name: inspect_tflite(bundle.model_file(name), name) for name in manifest.variants}
    title = f"Conversion of {manifest.model.name}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _head(bundle),
        "<h2>Variants against Keras</h2>",
        _variants(bundle, found, times),
        f"<p>Default: <b>{escape(manifest.default_variant)}</b>. {escape(manifest.default_reason)}.</p>",
        "<h2>Size against agreement</h2>",
        _size_against_agreement(manifest.variants, manifest.default_variant),
        "<h2>Parity with Keras</h2>",
        "<p>Each window gives one point for each class: Keras's probability across, the variant's up. On the diagonal "
        "they say the same. The stronger a cell's colour, the more points are in it, tenfold a step.</p>",
        _parity_plots(keras, answers, manifest.variants),
        "<h2>Layers</h2>",
        _layers(bundle, found),
        "<h2>Weights and how they are stored</h2>",
        _weights(manifest.variants),
        _tensors(found),
    ]
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><meta name="viewport" content="width=device-width">'
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n'
    )


def check_report(path: Path) -> None:
    """Raises InputRejected where write_report could not write; to ask before long work."""
    hint = "Name a file in a folder that can be written."
    if path.is_symlink() or (path.exists() and not path.is_file()):  # a device would be replaced, not written to
        raise InputRejected(f"--report {path}: exists and is no file", hint=hint)
    if not path.parent.is_dir():
        raise InputRejected(f"--report {path}: its folder does not exist", hint=hint)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputRejected(f"--report {path}: no permission to write there", hint=hint)


def write_report(path: Path, page: str) -> None:
    """The file appears, or is replaced, as a whole or not at all. Raises InputRejected."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with uninterrupted(path):
        try:
            part.write_text(page, encoding="utf-8")
            part.replace(path)
        except OSError as error:
            hint = "The bundle is written; for the report, convert once more with --force."
            raise InputRejected(f"--report {path}: {error.strerror}", hint=hint) from None
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --line: #c9d1d9; --soft: #f3f5f7; --mark: #0b62b8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --paper: #14171a; --line: #3d444d; --soft: #1f242a; --mark: #66b2ff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { background: var(--soft); }
.facts td { white-space: normal; }
td.n, th.n { text-align: right; }
code { font-size: 12px; overflow-wrap: anywhere; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; } figcaption { font-size: 13px; text-align: center; }
svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); font: 11px system-ui, sans-serif; }
.axis { stroke: var(--ink); stroke-width: 1; fill: none; } .grid { stroke: var(--line); stroke-width: .6; }
.cell, .dot { fill: var(--mark); } .default { stroke: var(--ink); stroke-width: 2; }
details { margin: .6rem 0; }
"""


def _head(bundle: Bundle) -> str:
    manifest = bundle.manifest
    rows = {
        "Bundle digest": f"<code>{bundle.digest}</code>",
        "Keras file": f"<code>{manifest.model.keras_sha256}</code>",
        "Input": f"{manifest.window} samples at {manifest.rate_hz:g} Hz ({manifest.window / manifest.rate_hz:g} s), "
        + escape(", ".join(f"{n} [{u}]" for n, u in zip(manifest.channels, manifest.units, strict=True))),
        "Output": f"{len(manifest.labels)} classes: {escape(', '.join(manifest.labels))}",
        "Axes": escape(manifest.frame or "not stated"),
        "Drift reference": escape(reference_in_words(manifest.drift_reference, manifest.reference_data)),
        "Made with": escape(", ".join(f"{name} {version}" for name, version in manifest.provenance.libraries.items())),
    }
    return f'<div class="facts">{_table((), [[f"<b>{key}</b>", value] for key, value in rows.items()])}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int = 99) -> str:
    """Cells are HTML. numbers_from: the first column that is set to the right."""

    def cells(kind: str, row: Sequence[str]) -> str:
        right = [' class="n"' if i >= numbers_from else "" for i in range(len(row))]
        return "".join(f"<{kind}{place}>{cell}</{kind}>" for place, cell in zip(right, row, strict=True))

    top = f"<thead><tr>{cells('th', head)}</tr></thead>" if head else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table>{top}<tbody>{body}</tbody></table></div>'


def _sets(variant: Variant) -> dict[str, Parity]:
    return {"walks": variant.parity, **variant.probes}


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _variants(bundle: Bundle, found: Mapping[str, TfliteInspection], times: Mapping[str, Times]) -> str:
    manifest = bundle.manifest
    agreements, files = [], []
    for name, variant in manifest.variants.items():
        label = f"<b>{escape(name)}</b>" + (" (default)" if name == manifest.default_variant else "")
        memory = found[name].memory
        spent = [f"{times[name].warm_ms:.2f}", f"{times[name].cold_ms:.2f}"] if name in times else ["-", "-"]
        taken = "-" if memory is None else f"{memory / 1e6:.1f}"
        files.append([label, f"{variant.size:,}", *spent, taken, escape(", ".join(variant.runtimes))])
        for where, parity in _sets(variant).items():
            worst = "-"
            if parity.worst_class is not None:
                worst = f"{_percent(parity.worst_class_agreement)} ({escape(parity.worst_class)})"
            figures = [f"{value:.2g}" for value in (parity.dp_max, parity.dp_p99, parity.dp_mean)]
            shares = [_percent(parity.top1_agreement), _percent(parity.clear_agreement), worst]
            agreements.append([label, f"{parity.windows:,} {escape(where)}", *shares, *figures])
            label = ""
    head = ("variant", "windows", "same top class", "where Keras is clear", "worst class")
    agree = _table((*head, "max |dp|", "p99 |dp|", "mean |dp|"), agreements, numbers_from=2)
    file_head = ("variant", "bytes", "ms a window", "ms with cold caches", "memory of a process, MB", "loads in")
    return f"{agree}<p></p>{_table(file_head, files, numbers_from=1)}"


def _size_against_agreement(variants: Mapping[str, Variant], default: str) -> str:
    """The lowest agreement of any set of windows, up; the file's size, across."""
    points = [
        (name, variant.size / 1e6, min(parity.top1_agreement for parity in _sets(variant).values()))
        for name, variant in variants.items()
    ]
    right = max(size for _, size, _ in points) * 1.25
    lowest = min(share for _, _, share in points)
    bottom = min(0.99, math.floor((lowest - 0.002) * 100) / 100)
    width, height = 2 * _PLOT, _PLOT

    def x(size: float) -> float:
        return _MARGIN + 10 + size / right * width

    def y(share: float) -> float:
        return 14 + (1 - share) / (1 - bottom) * height

    marks = [
        f'<circle class="dot{" default" if name == default else ""}" cx="{x(size):.1f}" cy="{y(share):.1f}" r="6">'
        f"<title>{escape(name)}: {size:.3f} MB, {share:.2%}</title></circle>"
        f'<text x="{x(size) + 10:.1f}" y="{y(share) + (14 if share > 0.999 else 4):.1f}">{escape(name)} '
        f"{size:.2f} MB, {share:.2%}</text>"
        for name, size, share in points
    ]
    grid = []
    for step in range(5):
        share, size = bottom + (1 - bottom) * step / 4, right * step / 4
        grid.append(f'<line class="grid" x1="{x(0):.1f}" x2="{x(right):.1f}" y1="{y(share):.1f}" y2="{y(share):.1f}"/>')
        grid.append(f'<text x="{x(0) - 6:.1f}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.2%}</text>')
        grid.append(f'<text x="{x(size):.1f}" y="{height + 32}" text-anchor="middle">{size:.2f}</text>')
    axes = f'<path class="axis" d="M{x(0):.1f} {y(1):.1f}V{y(bottom):.1f}H{x(right):.1f}"/>'
    label = f'<text x="{x(right / 2):.1f}" y="{height + 48}" text-anchor="middle">size of the file, MB</text>'
    caption = "Same top class as Keras, on the set of windows where it is lowest. The ring marks the default."
    box = f"0 0 {width + _MARGIN + 50} {height + 56}"
    drawn = "".join((*grid, axes, label, *marks))
    drawing = f'<svg viewBox="{box}" width="{width + 90}" role="img">{drawn}</svg>'
    return f"<figure>{drawing}<figcaption>{caption}</figcaption></figure>"


def _parity_plots(
    keras: Mapping[str, Float32], answers: Mapping[str, Mapping[str, Float32]], variants: Mapping[str, Variant]
) -> str:
    plots = [
        _parity_plot(f"{name}, {len(reference):,} {where}", reference, answers[name][where])
        for name in variants
        for where, reference in keras.items()
        if name in answers and where in answers[name]
    ]
    return f'<div class="plots">{"".join(plots)}</div>'


def _parity_plot(title: str, reference: Float32, answered: Float32) -> str:
    counts, _, _ = np.histogram2d(
        reference.ravel().astype(np.float64), answered.ravel().astype(np.float64), bins=_CELLS, range=((0, 1), (0, 1))
    )
    side = _PLOT / _CELLS
    cells = []
    for across, up in np.argwhere(counts > 0):
        level = _LEVELS[min(len(_LEVELS) - 1, int(math.log10(counts[across, up]) + 0.5))]
        left, top = _MARGIN + across * side, 10 + _PLOT - (up + 1) * side
        cells.append(
            f'<rect class="cell" x="{left:g}" y="{top:g}" width="{side:g}" height="{side:g}" opacity="{level}"/>'
        )
    low, high = _MARGIN, _MARGIN + _PLOT
    lines = (
        f'<path class="axis" d="M{low} 10V{10 + _PLOT}H{high}"/><path class="grid" d="M{low} {10 + _PLOT}L{high} 10"/>'
    )
    ticks = "".join(
        f'<text x="{low + _PLOT * p:g}" y="{_PLOT + 26}" text-anchor="middle">{p:g}</text>'
        f'<text x="{low - 5}" y="{14 + _PLOT * (1 - p):g}" text-anchor="end">{p:g}</text>'
        for p in (0, 0.5, 1)
    )
    worst = float(np.abs(answered.astype(np.float64) - reference).max())
    labels = (
        f'<text x="{low + _PLOT / 2:g}" y="{_PLOT + 40}" text-anchor="middle">Keras</text>'
        f'<text transform="translate(12 {10 + _PLOT / 2:g}) rotate(-90)" text-anchor="middle">variant</text>'
    )
    box = f"0 0 {high + 14} {_PLOT + 46}"
    drawn = "".join((lines, *cells, ticks, labels))
    caption = f"<figcaption><b>{escape(title)}</b>, max |dp| {worst:.2g}</figcaption>"
    return f'<figure><svg viewBox="{box}" width="{high + 14}" role="img">{drawn}</svg>{caption}</figure>'


def _layers(bundle: Bundle, found: Mapping[str, TfliteInspection]) -> str:
    kept = "".join(f"<li>{escape(line)}</li>" for line in bundle.manifest.model.architecture)
    first = next(iter(found))
    rows = [
        [
            operator.name,
            str(operator.version),
            escape(str(operator.output)),
            f"{operator.macs:,}" if operator.macs else "",
        ]
        for operator in found[first].operators
    ]
    graph = found[first]
    operators = _table(("operator", "version", "output", "multiply-accumulates"), rows, numbers_from=3)
    sums = (
        f"<p>{graph.parameters:,} parameters, {graph.macs / 1e6:.1f} million multiply-accumulates a window, an arena "
        f"of {graph.arena:,} bytes, {graph.variables:,} bytes of state.</p>"
    )
    shown = f"<details open><summary>The Keras model</summary><ol>{kept}</ol></details>"
    return f"{shown}<details><summary>The graph of {escape(first)}</summary>{operators}</details>{sums}"


def _weights(variants: Mapping[str, Variant]) -> str:
    """What the search chose for each weight, and what each choice alone would have cost."""
    tables = []
    for name, variant in variants.items():
        if not variant.weights:
            continue
        rows = []
        for weight, storage in variant.weights.items():
            alone = []
            for kind in ("float16", "int8", "hybrid"):
                cost = storage.alone.get(kind)
                text = "-" if cost is None else f"{cost.agreement:.2%}, p99 |dp| {cost.dp_p99:.1e}"
                alone.append(f"<b>{text}</b>" if kind == storage.stored else text)
            rows.append([escape(weight), f"{storage.size:,}", f"<b>{storage.stored}</b>", *alone])
        head = ("weight", "numbers", "stored as", "float16 alone", "int8 alone", "hybrid alone")
        tables.append(
            f"<h3>{escape(name)}</h3><p>Alone: agreement with Keras on the search's windows where only this weight is "
            f"stored so. Bold is what was chosen.</p>{_table(head, rows)}"
        )
    return "".join(tables) or "<p>No variant was searched for.</p>"


def _tensors(found: Mapping[str, TfliteInspection]) -> str:
    shown = []
    for name, graph in found.items():
        rows = [
            [
                escape(tensor.name),
                tensor.kind,
                tensor.type,
                escape(str(tensor.shape)),
                f"{tensor.size:,}",
                (f"{tensor.scales} scales" if tensor.scales > 1 else "1 scale") if tensor.scales else "",
            ]
            for tensor in graph.tensors
            if tensor.kind != "computed"
        ]
        head = ("tensor", "kind", "type", "shape", "bytes", "quantization")
        table = _table(head, rows, numbers_from=4)
        shown.append(f"<details><summary>All tensors of {escape(name)}</summary>{table}</details>")
    return "".join(shown)
