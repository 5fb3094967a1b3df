"""A model that answers otherwise on this machine: `gateway check` tells, `gateway run` does not start with it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from converter.self_test import SELF_TEST_FILE, self_test_answers, self_test_file
from gateway.bundle import Manifest, load_bundle, write_bundle
from gateway.bundle.writing import member
from gateway.cli import main

DEMO = Path(__file__).resolve().parents[3] / "models" / "demo"


@pytest.fixture
def configuration(tmp_path):
    """configuration(off): of a gateway whose bundle's self-test expects answers that are off by so much."""

    def write(off):
        demo = load_bundle(DEMO)
        windows = np.random.default_rng(1).normal(size=(3, 200, 6)).astype(np.float32)
        answers, tolerance = self_test_answers(
            windows, {name: demo.model_file(name) for name in demo.manifest.variants}
        )
        answers = {name: [[abs(p - off) for p in row] for row in rows] for name, rows in answers.items()}
        content = self_test_file(windows)
        test = {**member(SELF_TEST_FILE, content).model_dump(), "probabilities": answers, "tolerance": tolerance}
        manifest = Manifest.model_validate_json(
            json.dumps(json.loads(demo.manifest.model_dump_json()) | {"self_test": test})
        )
        files = {name: data for name, data in demo.files().items() if name != "manifest.json"}
        write_bundle(tmp_path / "bundle", manifest, files | {SELF_TEST_FILE: content})
        file = tmp_path / "gateway.toml"
        file.write_text(
            '[gateway]\nid = "home-1"\nstate_dir = "state"\n[bundle]\npath = "bundle"\n[sync]\n'
            'host = "broker.example"\n[[wearable]]\nid = "left"\naddress = "C0:FF:EE:00:00:01"\n'
        )
        return str(file)

    return write


def test_check_tells_that_the_model_answers_as_it_should(configuration, capsys):
    assert main(["check", "--config", configuration(0)]) == 0
    assert "self-test     3 windows answered as where the bundle was made" in capsys.readouterr().out


def test_a_model_that_answers_otherwise_is_not_run(configuration, tmp_path, capsys):
    file = configuration(0.01)
    assert main(["check", "--config", file]) == 1
    told = r"variant float32: self-test window \d: a probability is off by 0.01, expected at most 0.001"
    assert re.search(told, capsys.readouterr().err)
    assert main(["run", "--config", file]) == 1
    assert re.search(told, capsys.readouterr().err)
    assert not (tmp_path / "state").exists()
