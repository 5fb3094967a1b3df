import numpy as np
import pytest

from models.make_demo import within_a_point
from models.model_card import FIRST_LINE, accuracy_of, demo_card


def test_the_card_warns_first_and_states_its_accuracy(tmp_path):
    counts = np.eye(11, dtype=np.int64) * 9
    counts[6, 0] = 1
    (tmp_path / "card.md").write_text(demo_card(counts, trained_on="A", held_out="B"))
    text = (tmp_path / "card.md").read_text()
    assert text.splitlines()[0] == FIRST_LINE == "This model learnt from synthetic motion and recognises nobody."
    assert "| 7 nail_biting | 1 | 0 | 0 | 0 | 0 | 0 | 9 | 0 | 0 | 0 | 0 | 90.0 % |" in text
    assert accuracy_of(tmp_path / "card.md") == pytest.approx(0.99)


def test_no_card_states_nothing(tmp_path):
    assert accuracy_of(tmp_path / "card.md") is None
    (tmp_path / "card.md").write_text("# another card\n")
    assert accuracy_of(tmp_path / "card.md") is None


@pytest.mark.parametrize(
    ("accuracy", "holds"), [(0.94, True), (0.931, True), (0.949, True), (0.929, False), (0.96, False)]
)
def test_a_model_is_held_to_its_card_within_a_point(accuracy, holds):
    assert within_a_point(accuracy, 0.94) == holds
    assert within_a_point(accuracy, None)
