"""The report: one page that needs nothing beside it, says what the manifest says, and shows every point."""

import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from converter.bundling import Measured
from converter.cli import main
from converter.convert import convert
from converter.report import _parity_plot, report_html
from gateway.bundle import load_bundle
from gateway.monitoring.reference import DriftReference

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

VOID = {"meta", "path", "rect", "line", "circle"}


class _Balanced(HTMLParser):
    """Raises AssertionError where a tag is not closed by its own."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID or tag == "circle":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(page):
    parser = _Balanced()
    parser.feed(page)
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    content = {
        "step_size": 12,
        "target_hz": 50,
        "scaler_mean": [0] * 6,
        "scaler_scale": [6, 4, 3, 50, 15, 14],
        "label_to_activity": {0: "<script>alert(1)</script>", 1: 'a & "b"', 2: "c", 3: "d"},
    }
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def made(small_keras, config, tmp_path_factory):
    measured = Measured()
    out = tmp_path_factory.mktemp("made") / "bundle"
    bundle = convert(
        small_keras,
        config,
        out,
        variants=["float32", "dynamic"],
        parity_windows=300,
        name="<i>x",
        measured=measured,
        drift_reference=DriftReference.of_windows(np.ones((70, 24, 6), np.float32)),
    )
    return bundle, report_html(bundle, keras=measured.keras, answers=measured.answers, times=measured.times)


def test_it_needs_nothing_beside_it_and_runs_nothing(made):
    page = parsed(made[1])
    assert {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "i"} == set()
    assert not {name for _, attributes in page.tags for name in attributes} & {"src", "href", "onclick", "onload"}
    assert "url(" not in made[1]
    assert "Conversion of <i>x" in "".join(page.text)
    assert '<script>alert(1)</script>, a & "b", c, d' in "".join(page.text)


def test_it_says_what_the_manifest_says(made):
    bundle, page = made
    text = "|".join(parsed(page).text)
    assert bundle.digest in text
    for name, variant in bundle.manifest.variants.items():
        assert f"{variant.size:,}" in text
        assert f"{variant.parity.top1_agreement:.2%}" in text
        assert f"{variant.parity.dp_max:.2g}" in text
        assert f"{name}, 300 walks" in text
    for line in bundle.manifest.model.architecture:
        assert line in text
    assert bundle.manifest.default_reason in text
    assert "17 window features of 70 windows; 6 channels of 1,680 samples; KLL sketches; from windows" in text


def cells(drawn):
    found = re.findall(
        r'<rect class="cell" x="([\d.]+)" y="([\d.]+)" width="[\d.]+" height="[\d.]+" opacity="(.+?)"', drawn
    )
    return [tuple(map(float, each)) for each in found]


def test_one_window_that_differs_is_seen_among_many():
    agreed = np.tile(np.array([[0.905, 0.095]], np.float32), (10_000, 1))
    answered = agreed.copy()
    answered[77] = (0.095, 0.905)
    before, after = cells(_parity_plot("x", agreed, agreed)), cells(_parity_plot("x", agreed, answered))
    assert len(before) == 2
    assert len(after) == 4
    (light,) = {opacity for x, y, opacity in after if (x, y) not in {(x, y) for x, y, _ in before}}
    assert light < min(opacity for _, _, opacity in before)
    assert "max |dp| 0.81" in _parity_plot("x", agreed, answered)


def test_certain_answers_lie_in_the_corners():
    sure = np.array([[0, 1], [1, 0]], np.float32)
    drawn = cells(_parity_plot("x", sure, sure))
    (left, bottom, _), (right, top, _) = sorted(drawn)
    assert left < right
    assert top < bottom


def test_the_command_writes_it_beside_the_bundle(small_keras, config, tmp_path, capsys):
    arguments = [
        "convert",
        str(small_keras),
        "--scaler",
        str(config),
        "--parity-windows",
        "300",
        "--variants",
        "float32",
    ]
    out = tmp_path / "report.html"
    out.write_text("an old one")
    assert main([*arguments, "--out", str(tmp_path / "b"), "--report", str(out)]) == 0
    assert load_bundle(tmp_path / "b").digest in out.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "report.html"]
    capsys.readouterr()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(out)
    for nowhere, words in {
        tmp_path: "exists and is no file",
        tmp_path / "pipe": "exists and is no file",
        tmp_path / "link": "exists and is no file",
        tmp_path / "none" / "r.html": "its folder does not exist",
    }.items():
        assert main([*arguments, "--out", str(tmp_path / "c"), "--report", str(nowhere)]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert "asking" not in error
    assert not (tmp_path / "c").exists()
