"""`gateway rescore` on databases made here; on a whole run it is judged in tests/e2e/test_stored.py."""

import fcntl

import numpy as np
import pytest

from gateway import events
from gateway.cli import main
from gateway.profiles.conversation import Kind
from gateway.store.archive import Archive
from tests.gateway.cli.test_events import NOON_US, Place
from tests.gateway.cli.test_export import BEGINNING, SESSION, frame, info, rows, time_read
from tests.gateway.client.conftest import made

__all__ = ["made"]

CHANNELS, UNITS = ("Ax", "Ay", "Az", "Gx", "Gy", "Gz"), ("m/s^2",) * 3 + ("deg/s",) * 3


@pytest.fixture
def place(tmp_path, bundle_of):
    """A gateway whose wearables are answered for by a bundle of 100 samples, and another one of 60."""
    made = Place(tmp_path)
    live, other = bundle_of(CHANNELS, UNITS, window=100, hop=50), bundle_of(CHANNELS, UNITS, 60, 30, name="other")
    made.config.write_text(made.config.read_text().replace('path = "b"', f'path = "{live.path}"'))
    made.live, made.other = live, other
    return made


def journal(seconds):
    """One session of so many whole frames, with its clock asked at their beginning and end."""
    told = [*BEGINNING, (Kind.TIME, time_read(0.0, int(10.999e9), int(11.001e9)), 11.002)]
    for first in range(0, seconds * 50, 19):
        at_s = 11 + (first + 19) / 50
        told.append((Kind.FRAME, frame(first), at_s))
    return rows(*told)


def rescore(place, capsys, *words, code=0, since="2026-01-01", bundle=None):
    argv = ["rescore", "--config", str(place.config), "--bundle", str((bundle or place.other).path), "--since", since]
    assert main([*argv, *words]) == code
    told = capsys.readouterr()
    return told.out if code == 0 else told.err


def stored(place, bundle):
    with Archive(place.settings.path) as archive:
        logged = list(archive.events(kind="prediction"))
    decoded = [events.decode(one.payload) for one in logged]
    return [event for event in decoded if event.data.bundle == bundle.digest]


def test_the_other_bundle_answers_each_of_its_windows_once(place, capsys):
    place.put(rows=journal(10))
    assert rescore(place, capsys).splitlines()[0] == "left: 16 windows added, 0 were there already"
    found = stored(place, place.other)
    assert [event.data.windows[0].number for event in found] == list(range(16))
    assert {event.data.session for event in found} == {f"{SESSION:016x}"}
    for number, event in enumerate(found):
        # the model's logits are the channels' means: of counts that rise from sample to sample, in m/s² and deg/s
        first = number * 30
        means = np.array([(first + 29.5 + k) * scale for k, scale in enumerate([0.01] * 3 + [0.05] * 3)])
        expected = np.exp(means - means.max()) / np.exp(means - means.max()).sum()
        (window,) = event.data.windows
        assert np.allclose(list(window.probabilities.values()), expected, atol=1e-4)
        assert abs(window.taken_mono_us - (11_000_000 + first * 20_000)) < 5_000
    assert rescore(place, capsys).splitlines()[0] == "left: 0 windows added, 16 were there already"
    assert len(stored(place, place.other)) == 16


def test_windows_before_that_time_are_left_out(place, capsys):
    place.put(rows=journal(10))
    # window 10 begins 6 s after the first sample, which was taken at 11 s
    assert rescore(place, capsys, since="2026-03-01T12:00:16.9").startswith("left: 6 windows added, 0 were")
    assert [event.data.windows[0].number for event in stored(place, place.other)] == list(range(10, 16))


def test_windows_that_share_an_event_are_known_too(place, made, capsys):
    place.put(rows=journal(10))
    rescore(place, capsys)
    first, *_ = stored(place, place.other)
    place.settings.path.unlink()
    derivation = first.data.derivation
    shared = made.prediction(3, windows=5, session=f"{SESSION:016x}", derivation=derivation)
    named = events.prediction_id(SESSION, 3, derivation, 7)
    place.put(shared.model_copy(update={"id": named}), rows=journal(10))
    assert rescore(place, capsys).startswith("left: 11 windows added, 5 were there already")


def test_what_answers_already_is_not_asked_again(place, capsys):
    place.put(rows=journal(10))
    assert rescore(place, capsys, bundle=place.live).startswith(
        "left: this bundle answers for it already, with the same"
    )
    assert stored(place, place.live) == []


def test_frames_whose_beginning_is_gone_are_told(place, capsys):
    place.put(rows=rows((Kind.FRAME, frame(0), 1), (Kind.INFO, info(), 2)))
    told = rescore(place, capsys, "--wearable", "left")
    assert told.startswith(
        "left: 0 windows added, 0 were there already; 1 frames could not be used: what their link began with is kept no"
    )


def test_nothing_that_is_committed_is_changed(place, made, capsys):
    place.put(made.prediction(0), made.clock(NOON_US), rows=journal(4))

    def log():
        with Archive(place.settings.path) as archive:
            return [(event.seq, event.id, event.payload) for event in archive.events()]

    before = log()
    rescore(place, capsys)
    assert log()[: len(before)] == before
    assert len(log()) == len(before) + 5


def test_two_at_a_time_are_refused(place, capsys):
    place.put(rows=journal(4))
    with (place.settings.path.parent / "gateway.db.rescore.lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert (
            rescore(place, capsys, code=1) == "error: another rescore is at work here\n  Try again when it is over.\n"
        )


def test_a_database_in_use_without_a_socket_is_told(place, capsys):
    from gateway.store import Store

    place.put(rows=journal(4))
    with Store.open(place.settings):
        assert "in use by another process" in rescore(place, capsys, code=1)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--wearable", "lef"], "error: no wearable 'lef', neither configured nor stored"),
        (["--variant", "int4"], "int4"),
    ],
)
def test_what_makes_no_sense_is_refused(place, capsys, words, complaint):
    place.put(rows=journal(4))
    assert complaint in rescore(place, capsys, *words, code=2)
