"""What a person sees: the same facts in the table and in the line, and a dash for what is not known."""

import io
import sys

import pytest
from rich.console import Console

from gateway.demo.show import Lines, LiveTable, View, WearableView, line, screen, table

LEFT = WearableView("left", "streaming", 200.0, "nail_biting", 0.87, 1234, 19, 1230)
RIGHT = WearableView("right", None, None, None, None, None, 4021, 1100)
VIEW = View(30.4, 60.0, "running", "connected, MQTT 5", (LEFT, RIGHT), 7, 2300, 2330, 4)


def shown(view: View) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(table(view))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("text", [line(VIEW), shown(VIEW)], ids=["line", "table"])
def test_everything_that_is_known_is_shown(text: str) -> None:
    for fact in ("left", "streaming", "200 Hz", "nail_biting", "0.87", "1,234", "19 samples", "right", "4,021 samples"):
        assert fact in text
    for fact in ("connected, MQTT 5", "7 waiting", "2,300 acknowledged", "2,330 received", "4 repeated"):
        assert fact in text
    assert "None" not in text


def test_what_is_not_known_is_a_dash() -> None:
    assert "right - - (simulated time) - -, - windows, on the wearable 4,021 samples" in line(VIEW)


def test_lines_tell_what_happens_at_once_and_the_view_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for tenth in range(120):
        lines.show(View(tenth / 10, 60.0, "running", "-", (), None, None, 0, 0))
        if tenth == 33:
            lines.tell("FAULT: something")
    told = capsys.readouterr().out.splitlines()
    assert [text.split(" s |")[0].strip() if "|" in text else text for text in told] == [
        "0",
        "FAULT: something",
        "5",
        "10",
    ]


def test_without_a_terminal_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with screen(plain=False) as chosen:
        assert isinstance(chosen, Lines)


def test_on_a_terminal_there_is_a_table_unless_lines_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with screen(plain=True) as chosen:
        assert isinstance(chosen, Lines)
    with screen(plain=False) as chosen:
        assert isinstance(chosen, LiveTable)
        chosen.show(VIEW)
        chosen.tell("FAULT: [not markup]")
