import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converter.errors import ScalerRejected
from converter.training_config import read_training_config

MODEL = {"window": 24, "channels": 6, "classes": 4}


def test_the_training_s_json_is_read(write_config):
    config = read_training_config(write_config(), **MODEL)
    assert config.labels == ("activity_0", "activity_1", "activity_2", "activity_3")
    assert (config.hop, config.rate_hz) == (12, 50.0)
    assert config.mean[2], config.scale[3] == (-3.5, 49.9)
    scaler = config.scaler()
    assert (9.81 * scaler.scale + scaler.shift)[2] == pytest.approx((9.81 + 3.5) / 3.2)


def test_either_table_of_labels_will_do_and_others_may_be_given(write_config):
    expected = read_training_config(write_config(), **MODEL).labels
    for key in ("label_to_activity", "activity_to_label"):
        assert read_training_config(write_config(**{key: None}), **MODEL).labels == expected
    neither = write_config(label_to_activity=None, activity_to_label=None)
    given_labels = ["a", "b", "c", "d"]
    assert read_training_config(neither, **MODEL, labels=given_labels).labels == tuple(given_labels)


REFUSED = [  # what it shows, changed keys, the message after the path
    ("five means", {"scaler_mean": [0.0] * 5}, "scaler_mean has 5 channels, the model takes 6"),
    ("seven scales", {"scaler_scale": [1.0] * 7}, "scaler_scale has 7 channels, the model takes 6"),
    ("a zero scale", {"scaler_scale": [1, 1, 1, 1, 0, 1]}, "scaler_scale of 'Gy' is 0, expected above 0"),
    ("a negative scale", {"scaler_scale": [-2, 1, 1, 1, 1, 1]}, "scaler_scale of 'Ax' is -2, expected above 0"),
    ("NaN", {"scaler_mean": [0, 0, float("nan"), 0, 0, 0]}, "scaler_mean.2: Input should be a finite number"),
    ("text for a number", {"scaler_scale": ["one"] * 6}, "scaler_scale.0: Input should be a valid number"),
    ("no scaler", {"scaler_mean": None}, "scaler_mean: Field required"),
    ("no rate", {"target_hz": None}, "target_hz: Field required"),
    ("no hop", {"step_size": 0}, "step_size: Input should be greater than or equal to 1"),
    ("another window", {"window_size": 200}, "window_size is 200, the model's window is 24"),
    ("five columns", {"sensor_cols": ["Ax", "Ay", "Az", "Gx", "Gy"]}, "sensor_cols: Ax, Ay, Az, Gx, Gy: 5, the model"),
    ("no labels", {"label_to_activity": None, "activity_to_label": None}, " has no labels"),
    (
        "a label too few",
        {"label_to_activity": {"0": "a", "1": "b", "2": "c"}, "activity_to_label": None},
        "3 labels, the model has 4 outputs",
    ),
    (
        "a hole in the numbers",
        {"label_to_activity": {"0": "a", "1": "b", "2": "c", "4": "d"}, "activity_to_label": None},
        "labels are numbered [0, 1, 2, 4], expected 0, 1, 2 ...",
    ),
    ("two orders", {"activity_to_label": {"activity_0": 1}}, "label_to_activity and activity_to_label contradict"),
]


@pytest.mark.parametrize(("shows", "changes", "words"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_does_not_fit_the_model_is_refused(shows, changes, words, write_config):
    path = write_config(**changes)
    with pytest.raises(ScalerRejected) as caught:
        read_training_config(path, **MODEL)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2


def test_labels_given_by_hand_are_counted_too(write_config):
    with pytest.raises(ScalerRejected, match="--labels: 2 labels, the model has 4 outputs"):
        read_training_config(write_config(), **MODEL, labels=["a", "b"])
    with pytest.raises(ScalerRejected, match="labels stand twice: a, b, a, c"):
        read_training_config(write_config(), **MODEL, labels=["a", "b", "a", "c"])


def test_a_model_of_fewer_channels_than_the_training_s_columns_is_refused(write_config):
    with pytest.raises(ScalerRejected, match="sensor_cols: Ax, Ay, Az, Gx, Gy, Gz: 6, the model takes 3 channels"):
        read_training_config(write_config(), window=24, channels=3, classes=4)


def test_another_order_of_channels_is_the_training_s_own(write_config):
    path = write_config(sensor_cols=["Gx_w", "Gy_w", "Gz_w", "Ax_w", "Ay_w", "Az_w"])
    config = read_training_config(path, **MODEL)
    assert config.channels == ("Gx", "Gy", "Gz", "Ax", "Ay", "Az")
    assert config.units == ("deg/s",) * 3 + ("m/s^2",) * 3


def test_what_is_no_json_is_refused(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(ScalerRejected, match="No such file"):
        read_training_config(path, **MODEL)
    for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(ScalerRejected, match=r"config\.json is no JSON"):
            read_training_config(path, **MODEL)
    path.write_bytes(b"[1]")
    with pytest.raises(ScalerRejected, match="content: Input should be a valid dictionary"):
        read_training_config(path, **MODEL)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_value_is_read_or_refused_in_a_sentence(data, write_config):
    path = write_config()
    content = json.loads(path.read_text())
    content[data.draw(st.sampled_from(sorted(content)))] = data.draw(JSON)
    path.write_text(json.dumps(content))
    try:
        read_training_config(path, **MODEL)
        refusal = ""
    except ScalerRejected as error:
        refusal = str(error)
    assert "\n" not in refusal
