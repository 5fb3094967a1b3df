"""Six channels of motion as a picture: the whole of it above, moments of one model window's length below."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gateway.errors import GatewayError, InputRejected
from gateway.motion.samples import Float32

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DETAIL_S = 4.0
DETAILS_MAX = 12
COLUMNS = 4
LINES_MAX = 30_000
"""Samples that are drawn as lines; of more the overview shows the range within each of OVERVIEW_BINS."""
OVERVIEW_BINS = 1_600
FORMATS = (".png", ".svg", ".pdf")
_COLOURS = ("#c8452f", "#2a8a4a", "#2f5fc8")
_BANDS = ("#f3f3f0", "#e4e8ec")


class CannotPlot(GatewayError):
    pass


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds start_s to end_s of the motion, and what is done in them."""

    name: str
    start_s: float
    end_s: float


def spans_of(schedule: Sequence[tuple[str, float]]) -> list[Span]:
    ends = np.cumsum([seconds for _, seconds in schedule]).tolist()
    return [Span(name, end - seconds, end) for (name, seconds), end in zip(schedule, ends, strict=True)]


def check_format(path: Path) -> None:
    """Raises InputRejected."""
    if path.suffix.lower() not in FORMATS:
        raise InputRejected(f"{path}: not a picture that can be written", hint=f"Name it {', '.join(FORMATS)}.")


def plot_motion(
    path: Path,
    values: Float32,
    rate_hz: float,
    *,
    title: str,
    spans: Sequence[Span] = (),
    gaps: Sequence[tuple[int, int]] = (),
) -> None:
    """Writes the picture. values: (n, 6), n >= 1, m/s² and deg/s. spans: in order; without them each eighth
    shows its liveliest moment. gaps: rows first to end that are shaded. Raises CannotPlot.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise CannotPlot("a picture needs matplotlib", hint="pip install 'fidget-gateway[plot]'") from None
    details = _details(values, rate_hz, spans)
    rows = -(-len(details) // COLUMNS)
    figure = Figure(figsize=(15, 5.2 + 2.9 * rows), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=13)
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[5.2, max(2.9 * rows, 0.1)])).tolist()
    _overview(above.subplots(2, 1, sharex=True), values, rate_hz, spans, gaps)
    if rows:
        shown = np.concatenate([values[_rows(span, rate_hz)] for span in details])
        limits = [_limits(shown[:, :3]), _limits(shown[:, 3:])]
        cells = below.subplots(2 * rows, COLUMNS, squeeze=False)
        for place in range(rows * COLUMNS):
            row, column = divmod(place, COLUMNS)
            pair = (cells[2 * row][column], cells[2 * row + 1][column])
            if place < len(details):
                _detail(pair, values, rate_hz, details[place], limits, first=column == 0)
            else:
                for axes in pair:
                    axes.set_axis_off()
    try:
        figure.savefig(path)
    except OSError as error:
        raise CannotPlot(f"{path}: {error.strerror or error}") from None


def _details(values: Float32, rate_hz: float, spans: Sequence[Span]) -> list[Span]:
    """The moments that are shown: the middle of the first span of each name, or the liveliest of each eighth of all."""
    if spans:
        firsts = {span.name: span for span in reversed(spans)}
        chosen = sorted(firsts.values(), key=lambda span: span.start_s)[:DETAILS_MAX]
        middles = [(span.name, (span.start_s + span.end_s) / 2, span) for span in chosen]
        return [
            Span(name, max(span.start_s, middle - DETAIL_S / 2), min(span.end_s, middle + DETAIL_S / 2))
            for name, middle, span in middles
        ]
    length = round(DETAIL_S * rate_hz)
    moments = len(values) // length
    turned = (values[: moments * length, 3:].reshape(moments, -1) ** 2).mean(axis=1)
    parts = np.array_split(np.arange(moments), min(2 * COLUMNS, moments)) if moments > 1 else []
    starts = [int(part[np.argmax(turned[part])]) * DETAIL_S for part in parts]
    return [Span(f"from {start:.0f} s", start, start + DETAIL_S) for start in starts]


def _limits(values: Float32) -> tuple[float, float]:
    """The same for all moments, so that they compare: the range of all but 1 in 1,000 values, with a margin."""
    low, high = np.quantile(values, [0.0005, 0.9995]).tolist()
    margin = 0.08 * max(high - low, 1.0)
    return low - margin, high + margin


def _overview(
    panels: "Sequence[Axes]", values: Float32, rate_hz: float, spans: Sequence[Span], gaps: Sequence[tuple[int, int]]
) -> None:
    for axes, columns, unit in zip(panels, (slice(0, 3), slice(3, 6)), ("m/s²", "deg/s"), strict=True):
        for number, span in enumerate(spans):
            axes.axvspan(span.start_s, span.end_s, color=_BANDS[number % 2], linewidth=0, zorder=0)
        for first, end in gaps:
            axes.axvspan(first / rate_hz, end / rate_hz, color="#f0d0d0", linewidth=0, zorder=0)
        for name, column, colour in zip("xyz", values[:, columns].T, _COLOURS, strict=True):
            _trace(axes, column, rate_hz, colour, name)
        axes.set_ylabel("acceleration, m/s²" if unit == "m/s²" else "rate of turn, deg/s")
        axes.margins(x=0)
        axes.grid(axis="y", color="black", alpha=0.09, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(loc="upper right", ncols=3, fontsize=9, framealpha=0.85)
    panels[1].set_xlabel("s")
    length_s = len(values) / rate_hz
    for span in spans:
        if span.end_s - span.start_s >= 0.02 * length_s:
            text = span.name.replace("_", "\n")
            middle = (span.start_s + span.end_s) / 2
            panels[0].annotate(
                text, (middle, 1.02), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8.5
            )


def _trace(axes: "Axes", column: NDArray[np.float32], rate_hz: float, colour: str, name: str) -> None:
    n = len(column)
    if n <= LINES_MAX:
        axes.plot(np.arange(n) / rate_hz, column, color=colour, linewidth=0.5, label=name)
        return
    edges = np.linspace(0, n, OVERVIEW_BINS + 1).astype(int)[:-1]
    low, high = np.minimum.reduceat(column, edges), np.maximum.reduceat(column, edges)
    axes.fill_between(edges / rate_hz, low, high, step="post", color=colour, alpha=0.6, linewidth=0.5, label=name)


def _rows(span: Span, rate_hz: float) -> slice:
    return slice(round(span.start_s * rate_hz), round(span.end_s * rate_hz))


def _detail(
    pair: "tuple[Axes, Axes]",
    values: Float32,
    rate_hz: float,
    span: Span,
    limits: Sequence[tuple[float, float]],
    *,
    first: bool,
) -> None:
    shown = values[_rows(span, rate_hz)]
    time_s = np.arange(len(shown)) / rate_hz
    for axes, columns, limit, unit in zip(pair, (slice(0, 3), slice(3, 6)), limits, ("m/s²", "deg/s"), strict=True):
        for column, colour in zip(shown[:, columns].T, _COLOURS, strict=True):
            axes.plot(time_s, column, color=colour, linewidth=0.9)
        axes.set_ylim(*limit)
        axes.set_xlim(0, DETAIL_S)
        axes.tick_params(labelsize=7, labelleft=first)
        axes.grid(color="black", alpha=0.08, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        if first:
            axes.set_ylabel(unit, fontsize=8)
    pair[0].tick_params(labelbottom=False)
    pair[0].set_title(span.name.replace("_", " "), fontsize=9.5, loc="left")
