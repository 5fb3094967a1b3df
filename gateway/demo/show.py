"""What the demo shows while it runs: a live table on a terminal, lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LINE_EVERY_S = 5.0
UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class WearableView:
    """One row. None: not known now. rate_hz: by the time that the wearables live in. windows: inferred; received: of
    these by the subscriber. unacknowledged: samples that only the wearable is sure to hold."""

    name: str
    link: str | None
    rate_hz: float | None
    activity: str | None
    probability: float | None
    windows: int | None
    unacknowledged: int
    received: int


@dataclass(frozen=True, slots=True)
class View:
    elapsed_s: float
    duration_s: float
    daemon: str
    broker: str
    wearables: tuple[WearableView, ...]
    events_waiting: int | None
    events_acknowledged: int | None
    events_received: int
    repeated: int


def _or(value: float | str | None, form: str = "{}") -> str:
    return UNKNOWN if value is None else form.format(value)


def cells(wearable: WearableView) -> tuple[str, ...]:
    return (
        wearable.name,
        _or(wearable.link),
        _or(wearable.rate_hz, "{:.0f} Hz"),
        _or(wearable.activity),
        _or(wearable.probability, "{:.2f}"),
        _or(wearable.windows, "{:,}"),
        f"{wearable.unacknowledged:,} sample{'' if wearable.unacknowledged == 1 else 's'}",
        f"{wearable.received:,}",
    )


def footing(view: View) -> str:
    events = (
        f"events: {_or(view.events_waiting, '{:,}')} waiting, {_or(view.events_acknowledged, '{:,}')} acknowledged, "
        f"{view.events_received:,} received, {view.repeated:,} repeated"
    )
    return f"daemon: {view.daemon}, broker: {view.broker} | {events}"


def heading(view: View) -> str:
    if view.elapsed_s < view.duration_s:
        return f"{view.elapsed_s:.0f} of {view.duration_s:.0f} s"
    return f"{view.elapsed_s:.0f} s, draining"


def line(view: View) -> str:
    """The same as the table, in one line."""
    shown = []
    for wearable in view.wearables:
        name, link, rate, activity, probability, windows, unacknowledged, _ = cells(wearable)
        shown.append(
            f"{name} {link} {rate} (simulated time) {activity} {probability}, {windows} windows, "
            f"on the wearable {unacknowledged}"
        )
    return f"{view.elapsed_s:4.0f} s | {' | '.join(shown)} | {footing(view)}"


def table(view: View) -> "Table":
    from rich.table import Table

    shown = Table(title=heading(view), caption=footing(view).replace(" | ", "\n"))
    for name in ("wearable", "link"):
        shown.add_column(name)
    shown.add_column("rate in\nsimulated time", justify="right")
    shown.add_column("activity")
    for name in ("p", "windows\ninferred", "on the\nwearable", "windows\nreceived"):
        shown.add_column(name, justify="right")
    for wearable in view.wearables:
        shown.add_row(*cells(wearable))
    return shown


class Screen(Protocol):
    def tell(self, text: str) -> None:
        """Something has happened; stays on the screen."""
        ...

    def show(self, view: View) -> None: ...


class Lines:
    """Without a terminal: what happens at once, the view every few seconds."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def tell(self, text: str) -> None:
        print(text, flush=True)

    def show(self, view: View) -> None:
        if view.elapsed_s >= self._next_s:
            self._next_s = view.elapsed_s + LINE_EVERY_S
            print(line(view), flush=True)


class LiveTable:
    def __init__(self, console: "Console") -> None:
        from rich.live import Live

        self.live = Live(console=console, refresh_per_second=4)

    def tell(self, text: str) -> None:
        self.live.console.print(text, highlight=False, markup=False)

    def show(self, view: View) -> None:
        self.live.update(table(view))


@contextmanager
def screen(plain: bool) -> Iterator[Screen]:
    """A live table where stdout is a terminal, unless plain lines are asked for."""
    from rich.console import Console

    console = Console()
    if plain or not console.is_terminal:
        yield Lines()
        return
    shown = LiveTable(console)
    with shown.live:
        yield shown
