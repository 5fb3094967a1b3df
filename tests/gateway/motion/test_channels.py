"""Which columns of a wearable's six channels a model takes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InputRejected
from gateway.motion.channels import columns_of
from gateway.motion.samples import CHANNELS, UNITS


@given(st.lists(st.sampled_from(range(6)), unique=True, min_size=1))
def test_any_of_the_six_in_any_order_are_found_by_name(places):
    columns = columns_of([CHANNELS[i] for i in places], [UNITS[i] for i in places], where="bundle b")
    assert np.arange(6)[columns].tolist() == places


REFUSED = [  # what it shows, channels, units, the message
    ("one that nobody gives", ["Ax", "Mx"], ["m/s^2", "uT"], "bundle b: the model takes Mx, which no wearable gives"),
    ("several", ["Mx", "ax"], ["uT", "g"], "bundle b: the model takes Mx, ax, which no wearable gives"),
    ("a line break", ["M\nx"], ["uT"], "bundle b: the model takes M\\nx, which no wearable gives"),
    ("g", ["Gx", "Ax"], ["deg/s", "g"], "bundle b: the model takes Ax in g, a wearable gives it in m/s^2"),
    ("rad/s", ["Gz"], ["rad/s"], "bundle b: the model takes Gz in rad/s, a wearable gives it in deg/s"),
]


@pytest.mark.parametrize(("channels", "units", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_no_wearable_gives_is_refused_by_name(channels, units, message):
    with pytest.raises(InputRejected) as caught:
        columns_of(channels, units, where="bundle b")
    assert str(caught.value) == message
    assert caught.value.exit_code == 2
    assert "Ax, Ay, Az in m/s^2 and Gx, Gy, Gz in deg/s" in caught.value.hint
