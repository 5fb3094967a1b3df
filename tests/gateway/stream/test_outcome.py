"""What is published of a window, a period and a state: within the contract, and the same bytes each time."""

import dataclasses
import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from gateway import events
from gateway.clock import Instant
from gateway.link.trouble import Obstacle
from gateway.monitoring.drift import DriftPeriod, DriftSettings
from gateway.monitoring.features import FEATURES
from gateway.motion.clockfit import Label
from gateway.motion.samples import DeviceDetail, DeviceStatus
from gateway.stream.outcome import EventMaker, Model, clock_event, derivation_digest
from gateway.stream.stream import Counters, DriftReady, StateReady, WindowReady

MODEL = Model("ab" * 32, "float32", ("sitting", "nail_biting", "smoking"), 200, 100, 50.0)
TRUSTED = Instant("boot", 7_000_000_000, 1_800_000_000_123_456_789, True)
UNTRUSTED = Instant("boot", 7_000_000_000, 12345, False)
PROBABILITIES = np.array([0.1, 0.7, 0.2], np.float32)


def maker(frame_known=True):
    return EventMaker("g1", "left", "p-17", MODEL, derivation_digest(MODEL, {}), frame_known)


def window(at=TRUSTED, taken=None):
    return WindowReady(
        0xABC, 12, np.zeros((200, 6), np.float32), 4, False, taken or Label(6_000_000_000, 2_000_000), at
    )


def prediction(frame_known=True, **kwargs):
    make = maker(frame_known)
    return make.prediction(window(**kwargs), make.answer(PROBABILITIES))


def test_a_prediction_names_its_window_and_holds_the_models_answer():
    logged = prediction()
    event = events.decode(logged.payload)
    assert logged.topic == "fidget/v1/g1/left/prediction"
    assert (logged.source, logged.id) == (event.source, event.id)
    assert event.source == "urn:fidget:wearable:left"
    assert event.id == f"{0xABC:016x}-12-{maker().derivation}"
    assert event.subject == "p-17"
    assert event.sequence == "0000000012"
    (record,) = event.data.windows
    assert (record.decision, record.activity) == ("activity", "nail_biting")
    assert record.start_s == 24.0
    assert record.probabilities == {"sitting": 0.1, "nail_biting": 0.7, "smoking": 0.2}
    assert record.quality.interpolated == 4 / 200
    assert (record.taken_mono_us, record.taken_uncertainty_us) == (6_000_000, 2000)
    assert event.time == "2027-01-15T08:00:00.123456Z"


def test_of_a_wearable_that_counts_nothing_each_window_says_that_losses_may_not_show():
    make = dataclasses.replace(maker(), counted=False)
    (record,) = events.decode(make.prediction(window(), make.answer(PROBABILITIES)).payload).data.windows
    assert record.quality.uncounted is True
    assert b"uncounted" not in prediction().payload


def test_without_a_known_mounting_no_answer_is_given_as_certain():
    (record,) = events.decode(prediction(frame_known=False).payload).data.windows
    assert record.decision == "uncertain"
    assert record.reasons == (events.Reason.FRAME_UNKNOWN,)


@pytest.mark.parametrize(
    ("learnt", "worn", "reasons"),
    [
        ("left", "right", (events.Reason.OTHER_WRIST,)),
        ("right", "left", (events.Reason.OTHER_WRIST,)),
        ("left", "left", ()),
        ("left", None, ()),
        (None, "left", ()),
        ("either", "right", ()),
    ],
)
def test_on_the_other_wrist_than_the_models_no_answer_is_given_as_certain(learnt, worn, reasons):
    make = replace(maker(), model=replace(MODEL, wrist=learnt), wrist=worn)
    (record,) = events.decode(make.prediction(window(), make.answer(PROBABILITIES)).payload).data.windows
    assert record.reasons == reasons
    assert record.decision == ("uncertain" if reasons else "activity")
    assert (record.activity, len(record.probabilities)) == ("nail_biting", 3)


def test_every_reason_to_doubt_an_answer_is_named():
    make = replace(maker(frame_known=False), model=replace(MODEL, wrist="left"), wrist="right")
    assert make.answer(PROBABILITIES).reasons == (events.Reason.FRAME_UNKNOWN, events.Reason.OTHER_WRIST)


def test_no_reason_is_promised_that_is_never_given():
    make = replace(maker(frame_known=False), model=replace(MODEL, wrist="left"), wrist="right")
    assert set(make.answer(PROBABILITIES).reasons) == set(events.Reason)


def test_time_is_absent_while_the_clock_is_not_trusted_and_the_boots_time_is_not():
    content = json.loads(prediction(at=UNTRUSTED).payload)
    assert "time" not in content
    assert (content["bootid"], content["monons"]) == ("boot", "7000000000")


def test_a_sample_from_before_the_boot_has_no_monotonic_time():
    content = json.loads(prediction(taken=Label(-5, 1)).payload)
    assert "taken_mono_us" not in content["data"]["windows"][0]


def test_the_same_window_gives_the_same_bytes():
    assert prediction().payload == prediction().payload


def test_the_derivation_changes_with_whatever_changes_an_answer():
    other = Model("cd" * 32, "float32", MODEL.labels, 200, 100, 50.0)
    digests = {
        derivation_digest(MODEL, {}),
        derivation_digest(MODEL, {"mounting": "x,y,z"}),
        derivation_digest(other, {}),
    }
    assert len(digests) == 3
    assert derivation_digest(MODEL, {"a": 1, "b": 2}) == derivation_digest(MODEL, {"b": 2, "a": 1})


def test_a_drift_period_is_published_feature_by_feature():
    period = DriftPeriod(DriftSettings())
    period.add(np.arange(len(FEATURES), dtype=float))
    logged = maker().drift(DriftReady(0xABC, 1, period.summary(900.0, {}), TRUSTED))
    event = events.decode(logged.payload)
    assert event.id == events.drift_id(0xABC, 900.0)
    assert (event.data.start_s, event.data.end_s, event.data.windows) == (900.0, 1800.0, 1)
    assert set(event.data.features) == set(FEATURES)
    assert event.data.features[FEATURES[3]].mean == 3.0


def test_gateways_that_share_a_wearable_tell_each_of_its_own_part_of_a_period():
    period = DriftPeriod(DriftSettings())
    period.add(np.arange(len(FEATURES), dtype=float))
    ready = DriftReady(0xABC, 1, period.summary(900.0, {}), TRUSTED)
    ids = {
        events.decode(replace(maker(), gateway=gateway, shared=True).drift(ready).payload).id
        for gateway in ("kitchen", "attic")
    }
    assert ids == {f"{0xABC:016x}-900-drift-kitchen", f"{0xABC:016x}-900-drift-attic"}


@pytest.mark.parametrize("device", [None, DeviceStatus("1.0", 50, 1000, 10, 0)])
def test_the_state_of_a_wearable_is_retained(device):
    logged = maker().state(
        StateReady(5, device is not None, device, DeviceDetail(), TRUSTED), Counters(windows=3, broken=1)
    )
    data = events.decode(logged.payload).data
    assert logged.retain
    assert data.link == ("connected" if device else "disconnected")
    assert data.battery_percent == (50 if device else None)
    assert (data.windows, data.windows_broken) == (3, 1)


def test_what_a_wearable_tells_beside_its_stream_is_in_its_state():
    detail = DeviceDetail("Polar", "Verity Sense", "A1", "2.1.0", 64, -58)
    counters = Counters(lost_samples=7, lost_by_reason={"radio": 7}, lost_estimated=3)
    data = events.decode(maker().state(StateReady(5, True, None, detail, TRUSTED), counters).payload).data
    assert (data.manufacturer, data.model, data.firmware) == ("Polar", "Verity Sense", "2.1.0")
    assert (data.battery_percent, data.rssi_dbm) == (64, -58)
    assert (data.samples_lost, data.samples_lost_by, data.samples_lost_estimated) == (7, {"radio": 7}, 3)


def test_what_keeps_a_wearable_from_being_connected_is_in_its_state_and_nothing_where_nothing_does():
    detail = DeviceDetail(trouble="adapter_away", trouble_why="hci0: no Bluetooth adapter")
    told = json.loads(maker().state(StateReady(5, False, None, detail, TRUSTED), Counters(links=3)).payload)["data"]
    assert (told["link"], told["links"]) == ("disconnected", 3)
    assert (told["trouble"], told["trouble_why"]) == ("adapter_away", "hci0: no Bluetooth adapter")
    over = StateReady(6, False, None, DeviceDetail(trouble="", trouble_why=""), TRUSTED)
    assert not {"trouble", "trouble_why"} & json.loads(maker().state(over, Counters()).payload)["data"].keys()


def test_the_troubles_of_the_contract_are_those_that_are_found():
    assert set(get_args(events.Trouble)) == set(Obstacle)


def test_what_is_not_known_of_a_wearables_condition_is_left_out_and_the_rest_told():
    unknown = json.loads(maker().state(StateReady(5, True, None, DeviceDetail(), TRUSTED), Counters()).payload)["data"]
    assert not {"worn", "mounting", "mounting_fits", "ring_overflow_h"} & unknown.keys()
    ready = StateReady(5, True, None, DeviceDetail(), TRUSTED, False, "contradicted", "-x,-y,z", 11.114)
    known = json.loads(maker().state(ready, Counters()).payload)["data"]
    assert known["worn"] is False
    assert (known["mounting"], known["mounting_fits"], known["ring_overflow_h"]) == ("contradicted", "-x,-y,z", 11.11)
    assert (known["bundle"], known["variant"]) == (MODEL.bundle, MODEL.variant)


def test_a_clock_event_maps_the_boot_to_utc():
    data = events.decode(clock_event("g1", TRUSTED, 5_000_000).payload).data
    assert data.offset_us == (TRUSTED.utc_ns - TRUSTED.mono_ns) // 1000
    assert data.uncertainty_us == 5000
