import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.bundle.manifest import Manifest, bundle_digest, is_signed_axes
from tests.gateway.bundle.conftest import DISTRIBUTION, with_reference

REFUSED = [  # what it shows, the change, words of the message
    ("labels that stand twice", {"labels": ["a", "a"]}, "labels must differ"),
    ("channels that stand twice", {"channels": ["Ax", "Ax"]}, "channels must differ"),
    ("one label", {"labels": ["a"]}, "labels"),
    ("units for other channels", {"units": ["m/s^2"]}, "units must have one entry for each of the 2 channels"),
    ("a default that is not there", {"default_variant": "int4"}, "default_variant must be one of float32, dynamic"),
    ("a mirrored name in the frame", {"frame": "x,x,z"}, "frame must name each of x, y and z once"),
    ("a frame that mirrors", {"frame": "y,x,z"}, "right-handed"),
    ("an unknown key", {"lables": []}, "lables"),
    ("no window", {"window": 0}, "window"),
    ("a rate that is no number", {"rate_hz": float("nan")}, "rate_hz"),
    ("a zero scale", {"preprocessing": {"mean": [0, 0], "scale": [1, 0], "source_sha256": "0" * 64}}, "above 0"),
    (
        "a scale short of a channel",
        {"preprocessing": {"mean": [0, 0], "scale": [1], "source_sha256": "0" * 64}},
        "scale",
    ),
    (
        "a card outside of the bundle",
        {"model_card": {"file": "../card", "sha256": "0" * 64, "size": 1}},
        "model_card.file",
    ),
]


@pytest.mark.parametrize(("shows", "change", "words"), REFUSED, ids=[row[0] for row in REFUSED])
def test_a_manifest_that_contradicts_itself_is_refused(shows, change, words, content):
    with pytest.raises(ValidationError, match=words):
        Manifest.model_validate(content(**change))


def test_quantiles_of_a_drift_reference_ascend(content):
    feature = {"count": 9, "mean": 0, "std": 1, "min": -1, "max": 1}
    good = {"ax_mean": {**feature, "quantiles": [[0.01, -1.0], [0.5, 0.0], [0.99, 1.0]]}}
    assert Manifest.model_validate(content(drift_reference=good)).drift_reference["ax_mean"].quantiles[1] == (0.5, 0.0)
    bad = {"ax_mean": {**feature, "quantiles": [[0.5, 1.0], [0.9, 0.0]]}}
    with pytest.raises(ValidationError, match="quantiles must ascend"):
        Manifest.model_validate(content(drift_reference=bad))


REFERENCES_REFUSED = [  # what it shows, changes to reference_data, words of the message
    ("another channel", {"channels": {"Ax": DISTRIBUTION, "Ay": DISTRIBUTION}}, "channels must be the channels"),
    ("a channel short", {"channels": {"Ax": DISTRIBUTION}}, "channels must be the channels"),
    ("a label short", {"label_shares": {"sitting": 1.0}}, "label_shares must have every label"),
    ("another label", {"label_shares": {"sitting": 0.5, "idle": 0.5}}, "label_shares must have every label"),
    ("shares of too much", {"label_shares": {"sitting": 0.8, "nail_biting": 0.3}}, "must add up to 1"),
    ("a share above 1", {"label_shares": {"sitting": 1.5, "nail_biting": 0}}, "less than or equal to 1"),
    ("another source", {"source": "memory"}, "source"),
    ("no windows", {"windows": 0}, "windows"),
]


@pytest.mark.parametrize(
    ("change", "words"), [r[1:] for r in REFERENCES_REFUSED], ids=[r[0] for r in REFERENCES_REFUSED]
)
def test_a_reference_that_does_not_fit_its_bundle_is_refused(change, words, content):
    assert Manifest.model_validate(content(**with_reference())).reference_data.windows == 9
    with pytest.raises(ValidationError, match=words):
        Manifest.model_validate(content(**with_reference(**change)))


def test_a_reference_s_data_without_its_features_is_refused(content):
    with pytest.raises(ValidationError, match="reference_data must have a drift_reference beside it"):
        Manifest.model_validate(content(**with_reference() | {"drift_reference": None}))


def test_a_frame_is_one_of_the_24_rotations_and_no_mirror_image():
    """The determinant of the signed permutation decides."""
    signed = [sign + axis for sign in ("", "-") for axis in "xyz"]
    rows = dict(zip(signed, np.vstack([np.eye(3), -np.eye(3)]), strict=True))
    for three in itertools.product(signed, repeat=3):
        proper = round(np.linalg.det(np.array([rows[axis] for axis in three]))) == 1
        assert is_signed_axes(",".join(three)) == proper, three
    assert is_signed_axes("+x, +y, +z")
    for text in ("", "x,y", "x,y,z,x", "x,y,w", "x y z", "--x,y,z", "X,y,z"):
        assert not is_signed_axes(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3).filter(lambda key: key != "digest"), JSON, max_size=4))
def test_the_digest_ignores_the_order_of_keys_and_itself(content):
    backwards = dict(reversed(content.items()))
    try:
        digest = bundle_digest(content)
    except UnicodeEncodeError:  # half a surrogate pair is no text
        return
    assert bundle_digest(backwards | {"digest": "anything"}) == digest
    assert bundle_digest(content | {"digest_": 0}) != digest


def test_the_digest_is_that_of_the_canonical_text():
    """`printf '{"a":[1,2.5],"b":"é"}' | sha256sum`"""
    assert (
        bundle_digest({"b": "é", "a": [1, 2.5]}) == "2071e5952e3110d79f01f374bf90abe7fc01cf116fd0a40af0ab60d3f9a99f8d"
    )
