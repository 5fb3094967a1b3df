"""Each fault does what its line says, and the same seed does it again."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.device import Device, Settings
from firmware_sim.encoding import INFO_UUID
from firmware_sim.faults import (
    FAULTS,
    REORDER_S,
    SUPERVISION_S,
    Choice,
    Fault,
    FaultRejected,
    FirmwareFaults,
    Happened,
    RadioFaults,
    SensorFaults,
    fault_help,
    parse_faults,
)
from firmware_sim.scenario import ScenarioRejected, parse_wearable
from firmware_sim.simulation import play

SECOND = 10**9
LIVE, BACKLOG = "live", "backlog"


def radio(text: str, seed: int = 1) -> RadioFaults:
    return RadioFaults(parse_faults(text), seed)


def sent(faults: RadioFaults, n: int, step_ns: int = SECOND // 10, uuids: tuple[str, ...] = (LIVE,)) -> list[list]:
    """What becomes of n notifications, each named by its number; 100 bytes."""
    return [
        faults.pass_(i * step_ns, uuids[i % len(uuids)], i.to_bytes(4) + bytes(96))
        for i in range(n)
    ]  # fmt: skip


# The text


@st.composite
def faults(draw: st.DrawFn) -> Fault:
    name = draw(st.sampled_from(sorted(FAULTS)))
    rule = FAULTS[name]
    value = tuple(
        draw(st.sampled_from(t.of) if isinstance(t, Choice) else st.floats(t.low, t.high)) for t in rule.takes
    )
    seconds = st.integers(100, 10**6).map(lambda ms: ms / 1000)
    start, end = sorted(draw(st.lists(seconds, min_size=2, max_size=2, unique=True)))
    mean, length = draw(seconds), draw(seconds)
    if draw(st.booleans()):
        return Fault(name, value, mean_s=mean, length_s=0.0 if rule.moment else length)
    if rule.moment:
        return Fault(name, value, start)
    return Fault(name, value, start, end) if draw(st.booleans()) else Fault(name, value)


@given(listed=st.lists(faults(), max_size=5))
def test_a_list_of_faults_reads_back_from_its_text(listed: list[Fault]) -> None:
    assert list(parse_faults(", ".join(map(str, listed)))) == listed


READ = [
    ("loss=0.02", Fault("loss", (0.02,))),
    ("burst=0.01", Fault("burst", (0.01, 8.0))),
    ("reboot@120", Fault("reboot", ("kept",), 120.0)),
    ("reboot~300=lost", Fault("reboot", ("lost",), mean_s=300.0)),
    (" away@100-130 ", Fault("away", (), 100.0, 130.0)),
    ("away@100-", Fault("away", (), 100.0)),
    ("stuck~60/5=Gz", Fault("stuck", ("Gz",), mean_s=60.0, length_s=5.0)),
    ("step@5=-2.5", Fault("step", (-2.5,), 5.0)),
]


@pytest.mark.parametrize(("text", "fault"), READ, ids=[text for text, _ in READ])
def test_a_fault_is_read(text: str, fault: Fault) -> None:
    assert parse_faults(text) == (fault,)


REFUSED = [
    ("los=0.1", "fault 'los=0.1': there is no 'los' (did you mean 'loss'?)"),
    ("gremlins", "there is no 'gremlins'; there are loss, burst,"),
    ("loss", "it needs the probability, a number from 0 to 1: write loss=PROBABILITY"),
    ("loss=much", "probability: expected a number from 0 to 1, found 'much'"),
    ("loss=nan", "probability: expected a number from 0 to 1, found nan"),
    ("loss=1.5", "probability: expected a number from 0 to 1, found 1.5"),
    ("loss=0.1/2", "it takes no more than loss=PROBABILITY"),
    ("away=3", "it takes no value: write away"),
    ("stuck=Aw", "channel: expected one of Ax, Ay, Az, Gx, Gy, Gz, found 'Aw'"),
    ("swap=Ax", "it needs the channel, one of Ax, Ay, Az, Gx, Gy, Gz: write swap=CHANNEL/CHANNEL"),
    ("step@30", "it needs the seconds, a number from -864000 to 864000: write step@30=SECONDS"),
    ("full@5=100", "samples: expected a number from 800 to 4294967295, found 100"),
    ("reboot", "it happens at a moment: say when, reboot@SECONDS or reboot~MEAN"),
    ("reboot@5-9", "it happens at a moment, not over a span"),
    ("reboot~5/9", "it happens at a moment, so it has no length"),
    ("away~60", "it lasts, so it needs a length: expected ~MEAN/LENGTH"),
    ("away~0/5", "mean: expected a number from 0.1 to 864000, found 0"),
    ("away@9-5", "it ends at 5 s, before it begins"),
    ("away@-5", "time: expected a number from 0 to 864000, found ''"),
    ("loss=0.1, =3", "fault '=3': there is no ''"),
]


@pytest.mark.parametrize(("text", "said"), REFUSED, ids=[text for text, _ in REFUSED])
def test_a_wrong_fault_is_refused_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(FaultRejected) as rejected:
        parse_faults(text)
    assert said in str(rejected.value)
    with pytest.raises(ScenarioRejected) as refused:
        parse_wearable(f"name=left; faults={text}")
    assert f"faults: fault {text.split(',')[-1].strip()!r}" in str(refused.value)


@given(text=st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_faults(text)
    except FaultRejected:
        pass


def test_the_help_tells_of_each_fault_as_it_is_written() -> None:
    shown = dict(fault_help())
    assert len(shown) == len(FAULTS)
    assert "burst=PROBABILITY/NOTIFICATIONS" in shown
    assert "reboot@SECONDS=kept|lost" in shown
    assert "away" in shown


# The radio


def test_without_faults_everything_arrives_at_once() -> None:
    assert sent(radio(""), 3) == [[(i * SECOND // 10, LIVE, i.to_bytes(4) + bytes(96))] for i in range(3)]


def test_loss_is_as_frequent_as_it_says() -> None:
    lost = [not arrived for arrived in sent(radio("loss=0.2"), 5000, step_ns=10**6)]
    assert 0.17 < sum(lost) / 5000 < 0.23


def test_advertisements_are_lost_as_often_and_change_nothing_of_what_notifications_suffer() -> None:
    faults, undisturbed = radio("loss=0.2, fade=100/0.8"), radio("loss=0.2, fade=100/0.8")
    lost = np.array([faults.loses(n * SECOND // 10) for n in range(2000)])
    by_ten = lost.reshape(20, 100).mean(axis=1)
    assert 0.1 < by_ten[[0, 9, 10, 19]].mean() < 0.35
    assert by_ten[[4, 5, 14, 15]].min() > 0.7
    later = [faults.pass_(200 * SECOND + n, LIVE, b"x") for n in range(100)]
    assert later == [undisturbed.pass_(200 * SECOND + n, LIVE, b"x") for n in range(100)]
    assert not any(radio("").loses(n) for n in range(100))


def test_a_deaf_wearable_is_heard() -> None:
    faults = radio("deaf@10-20")
    assert [(faults.deaf(n * SECOND), faults.reachable(n * SECOND)) for n in (9, 10, 20)] == [
        (False, True),
        (True, True),
        (False, True),
    ]


def test_bursts_have_the_mean_length_and_the_frequency_that_they_say() -> None:
    lost = [not arrived for arrived in sent(radio("burst=0.01/20"), 50_000, step_ns=10**5)]
    runs = [len(list(run)) for is_lost, run in itertools.groupby(lost) if is_lost]
    assert 17 < np.mean(runs) < 23
    good = len(lost) - sum(runs)
    assert 0.008 < len(runs) / good < 0.012


def test_fading_comes_once_a_period_and_ends_the_link_where_nothing_is_heard() -> None:
    faults = radio("fade=100/0.8")
    lost = np.array([not arrived for arrived in sent(faults, 10_000, step_ns=SECOND // 50)])
    assert not faults.dead
    by_ten = lost.reshape(20, 500).mean(axis=1)
    assert by_ten[[4, 5, 14, 15]].min() > 0.6
    assert by_ten[[0, 9, 10, 19]].max() < 0.1
    faults = radio("fade=60/1")
    sent(faults, 1200, step_ns=SECOND // 20)
    assert faults.dead  # around the 30th second nothing is heard for longer than the supervision timeout
    assert SUPERVISION_S == 5.0


@given(seed=st.integers(0, 99))
def test_latency_jitter_and_reordering_keep_the_order_of_each_characteristic(seed: int) -> None:
    faults = radio("latency=0.1, jitter=0.3, reorder=0.5, duplicate=0.3, loss=0.1", seed)
    arrived = [d for deliveries in sent(faults, 300, SECOND // 100, (LIVE, BACKLOG)) for d in deliveries]
    by_time = sorted(arrived, key=lambda delivery: delivery[0])
    for uuid in (LIVE, BACKLOG):
        numbers = [int.from_bytes(payload[:4]) for _, at, payload in by_time if at == uuid]
        assert numbers == sorted(numbers)
    delays = [at - int.from_bytes(payload[:4]) * SECOND // 100 for at, _, payload in arrived]
    assert min(delays) >= 0.1 * SECOND
    # reordering holds one back, and what follows it on its characteristic, by at most twice that
    assert max(delays) <= (0.4 + 2 * REORDER_S) * SECOND


def test_reordering_takes_characteristics_apart_and_without_it_the_order_sent_is_kept() -> None:
    def numbers(text: str) -> list[int]:
        arrived = [d for deliveries in sent(radio(text), 200, SECOND // 100, (LIVE, BACKLOG)) for d in deliveries]
        return [int.from_bytes(payload[:4]) for _, _, payload in sorted(arrived, key=lambda delivery: delivery[0])]

    assert numbers("jitter=0.3") == list(range(200))
    assert numbers("reorder=0.5") != list(range(200))
    assert sorted(numbers("reorder=0.5")) == list(range(200))


def test_duplicates_come_directly_behind_what_they_repeat() -> None:
    faults = radio("duplicate=0.5")
    lengths = {len(set(d)) for d in sent(faults, 100)}
    assert lengths == {1}
    assert 30 < faults.duplicated < 70


def test_garbage_keeps_the_length_and_truncation_the_bytes() -> None:
    frame = bytes(range(1, 101))
    faults = radio("corrupt=1")
    garbage = [faults.pass_(0, LIVE, frame)[0][2] for _ in range(100)]
    assert all(1 <= sum(a != b for a, b in zip(g, frame, strict=True)) <= 8 for g in garbage if g != frame)
    assert faults.altered > 95
    faults = radio("truncate=1")
    cut = {len(faults.pass_(0, LIVE, frame)[0][2]) for _ in range(2000)}
    assert cut == set(range(100))
    assert frame.startswith(faults.pass_(0, LIVE, frame)[0][2])


def test_an_mtu_of_23_leaves_20_bytes_to_links_that_begin_with_it() -> None:
    faults = radio("mtu@10-20=23")
    assert (faults.mtu(0, 247), faults.mtu(15 * SECOND, 247)) == (247, 23)
    assert len(faults.pass_(12 * SECOND, LIVE, bytes(100))[0][2]) == 100
    faults.link_up(15 * SECOND)
    assert len(faults.pass_(25 * SECOND, LIVE, bytes(100))[0][2]) == 20


def test_a_link_is_cut_at_any_byte_and_the_next_one_lives_on() -> None:
    carried, links = 0, 400
    faults = radio("cut=5000")
    for _ in range(links):
        faults.link_up(0)
        while not faults.dead:
            carried += len(faults.pass_(0, LIVE, bytes(100)))
    assert 4200 < 100 * carried / links < 5800


def test_a_dropped_link_carries_nothing_more_and_a_wearable_that_is_away_is_not_heard() -> None:
    faults = radio("drop@5, away@20-30")
    assert faults.pass_(4 * SECOND, LIVE, b"x")
    assert not faults.pass_(5 * SECOND, LIVE, b"x")
    assert faults.dead
    faults.link_up(6 * SECOND)
    assert faults.pass_(7 * SECOND, LIVE, b"x")
    assert faults.reachable(19 * SECOND)
    assert faults.ends(20 * SECOND)
    assert not faults.reachable(29 * SECOND)
    assert faults.reachable(30 * SECOND)


def test_the_same_seed_does_the_same_and_another_does_not() -> None:
    text = "loss=0.3, jitter=0.2, duplicate=0.2, corrupt=0.2, away~20/5"
    one, again, other = (sent(radio(text, seed), 300) for seed in (7, 7, 8))
    assert one == again != other


def test_random_spans_have_the_mean_distance_and_the_length_that_they_say() -> None:
    faults = radio("away~90/10")
    away = [not faults.reachable(t * SECOND) for t in range(200_000)]
    runs = [len(list(run)) for is_away, run in itertools.groupby(away) if is_away]
    assert 0.085 < sum(away) / len(away) < 0.115
    assert min(runs) >= 10


# The sensor


def felt(text: str, values: np.ndarray, parts: int = 7) -> np.ndarray:
    """values at 50 Hz from 0 on, handed over in parts."""
    faults = SensorFaults(parse_faults(text), 1)
    at_ns = np.arange(len(values)) * (SECOND // 50)
    pieces = zip(np.array_split(values, parts), np.array_split(at_ns, parts), strict=True)
    return np.concatenate([faults.apply(part, at) for part, at in pieces])


@pytest.fixture
def motion() -> np.ndarray:
    return np.random.default_rng(1).uniform(-20, 20, (500, 6)).astype(np.float32)


def test_a_stuck_channel_stays_at_the_value_it_had(motion: np.ndarray) -> None:
    got = felt("stuck@2-6=Gz", motion)
    assert (got[100:300, 5] == motion[100, 5]).all()
    assert np.array_equal(np.delete(got, 5, axis=1), np.delete(motion, 5, axis=1))
    assert np.array_equal(got[:100], motion[:100])
    assert np.array_equal(got[300:], motion[300:])


def test_swapped_scaled_and_saturated_values(motion: np.ndarray) -> None:
    before = motion.copy()
    assert np.array_equal(felt("swap=Ax/Gy", motion), motion[:, [4, 1, 2, 3, 0, 5]])
    assert np.array_equal(felt("scale@1-2=0.5/acc", motion)[50:100], motion[50:100] * np.float32([0.5] * 3 + [1] * 3))
    saturated = felt("saturate@1-2=gyro", motion)[50:100]
    assert np.array_equal(np.sign(saturated), np.where(motion[50:100] < 0, -1, 1))
    assert (np.abs(saturated[:, 3:]) > 2000).all()
    assert np.array_equal(saturated[:, :3], motion[50:100, :3])
    assert np.array_equal(motion, before)  # what was handed in is left alone
    device = Device(Settings(serial=1), random.Random(1))
    device.sample(felt("saturate=acc", motion[:19]))
    assert device.running.frames[0].data[1] & 8  # the frame says so


# The firmware


def device_with(frames: int) -> Device:
    device = Device(Settings(serial=1, capacity=5000), random.Random(1))
    device.sample(np.zeros((19 * frames + 5, 6), np.float32))
    return device


def test_a_reboot_loses_ram_and_keeps_the_flash_or_not() -> None:
    device = device_with(10)
    first = device.running.number
    play(device, Happened(0, "reboot", ("kept",)))
    assert [s.closed for s in device.sessions] == [190, 0]
    assert device.running.number != first
    play(device, Happened(0, "reboot", ("lost",)))
    assert (len(device.sessions), device.held, device.running.closed) == (1, 0, 0)


def test_a_clock_step_is_flagged_once_and_moves_tick_and_time_alike() -> None:
    device = device_with(1)
    device.sample(np.zeros((14, 6), np.float32))
    play(device, Happened(0, "step", (2.0,)))
    device.sample(np.zeros((38, 6), np.float32))
    frames = [frame.data for frame in device.running.frames]
    ticks = [int.from_bytes(data[12:16], "little") for data in frames]
    nominal = [i * 19 * 32768 // 50 for i in range(4)]
    assert [tick - due for tick, due in zip(ticks, nominal, strict=True)] == [0, 0, 65536, 65536]
    assert [bool(data[1] & 32) for data in frames] == [False, False, True, False]
    assert int.from_bytes(device.read("f1d9e706-6a3b-4d6e-8f52-0c1b7a9d4e21", 0)[:4], "little") == 65536


def test_a_flash_that_shrinks_overwrites_its_oldest_and_a_battery_is_told() -> None:
    device = device_with(100)
    play(device, Happened(0, "full", (1000.0,)))
    play(device, Happened(0, "battery", (4.0,)))
    assert device.held <= 1000
    assert device.running.overwritten == 1900 - device.held
    info = device.read(INFO_UUID, 0)
    assert int.from_bytes(info[8:12], "little") == 1000
    assert info[23] == 4


def test_moments_come_once_in_order_and_drift_adds_up_over_its_span() -> None:
    faults = FirmwareFaults(parse_faults("battery@5=9, reboot@3, reboot@5=lost, drift@10-20=1000"), 1)
    assert [h.name for h in faults.due(2 * SECOND)] == []
    assert [(h.at_ns, h.name) for h in faults.due(5 * SECOND)] == [
        (3 * SECOND, "reboot"),
        (5 * SECOND, "battery"),
        (5 * SECOND, "reboot"),
    ]
    assert faults.due(6 * SECOND) == []
    steps = [faults.device_ns(t * SECOND, (t + 1) * SECOND) - SECOND for t in range(30)]
    assert steps == [10**6 if 10 <= t < 20 else 0 for t in range(30)]
