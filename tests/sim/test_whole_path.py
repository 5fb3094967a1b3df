"""Eight wearables under a seeded mix of all faults, and a gateway that dies: every sample is accounted for."""

import random

import pytest

from firmware_sim.faults import parse_faults
from tests.sim.account import Account, Fates
from tests.sim.families import FAMILIES, Reference
from tests.sim.world import World

SHORT_MINUTES, LONG_MINUTES = 3, 10
SHORT = range(3)
LONG = range(100, 300)


def faults_of(seed: int, number: int, minutes: int) -> str:
    """A mix for one wearable: each fault with some probability, its strength at random, and in a short play as often as
    in a long one."""
    rng = random.Random(f"{seed}/{number}/mix")
    share = minutes / LONG_MINUTES

    def s(low: int, high: int) -> str:
        return f"{rng.randint(low, high) * share:g}"

    menu = [
        f"loss={rng.uniform(0, 0.1):.3f}",
        f"burst={rng.uniform(0.001, 0.01):.4f}/{rng.randint(4, 60)}",
        f"fade={rng.randint(60, 240)}/{rng.uniform(0.5, 1):.2f}",
        f"latency={rng.uniform(0.01, 0.3):.3f}",
        f"jitter={rng.uniform(0.01, 0.4):.3f}",
        f"reorder={rng.uniform(0.01, 0.3):.3f}",
        f"duplicate={rng.uniform(0.01, 0.2):.3f}",
        f"corrupt={rng.uniform(0.001, 0.02):.4f}",
        f"truncate={rng.uniform(0.001, 0.02):.4f}",
        f"mtu~{s(60, 200)}/{rng.randint(5, 30)}=23",
        f"cut={rng.randint(20_000, 400_000)}",
        f"drop~{s(20, 200)}",
        f"away~{s(60, 200)}/{rng.randint(2, 60)}",
        f"stuck~{100 * share:g}/20={rng.choice(['Ax', 'Gz'])}",
        f"swap~{150 * share:g}/30=Ax/Gy",
        f"scale~{150 * share:g}/30=0.101972/acc",
        f"saturate~{100 * share:g}/5=acc",
        f"reboot~{s(100, 400)}=kept",
        f"reboot~{s(200, 600)}=lost",
        f"step~{s(60, 300)}={rng.choice([-30, -1, 0.5, 100])}",
        f"drift={rng.choice([-200, -50, 50, 500])}",
        f"full@{s(100, 500)}={rng.choice([800, 1500, 5000])}",
        f"battery@{s(0, 500)}=4",
        f"overrun~{s(20, 200)}={rng.choice([1, 5, 19, 300])}",
    ]
    return ", ".join(fault for fault in menu if rng.random() < 0.4)


def play(seed: int, minutes: int = LONG_MINUTES) -> tuple[World, Account]:
    rng = random.Random(f"{seed}/worns")
    account = Account()
    worns = []
    for n in range(8):
        family = rng.choice(sorted(FAMILIES))
        worn = FAMILIES[family](f"{family}-{n}", 100 * seed + n, rng.choice([900, 4000, 500_000]))
        worns.append((worn, parse_faults(faults_of(seed, n, minutes))))
    world = World(
        worns,
        seed,
        commit_interval_s=rng.choice([0.05, 0.25, 1.0, 5.0]),
        snapshot_rows=rng.choice([20, 200, 1000]),
        landed=account.landed,
        written=account.written,
    )
    account.world = world
    world.crash_now_and_then(rng.choice([60, 200, 1000]) * minutes / LONG_MINUTES, 60 * minutes)
    world.run(60 * minutes)
    world.settle(900)
    return world, account


@pytest.mark.parametrize(
    "faults", ["", "drop~15", "loss=0.1", "corrupt=0.02"], ids=["alone", "drop", "loss", "garbage"]
)
def test_what_the_sensor_loses_is_acknowledged_within_a_minute_and_nothing_else_is_lost(faults: str) -> None:
    account = Account()
    worn = Reference("wrist", 7)
    world = World([(worn, parse_faults(f"overrun~10=5, {faults}"))], 7, landed=account.landed, written=account.written)
    account.world = world
    world.run(300)
    world.settle(70)  # a minute of rest after requests that brought nothing
    (fates,) = account.settle().values()
    lost = sum(end - first for truth in worn.truth.values() for first, end, why in truth.gone if why == "overrun")
    assert lost >= 50
    assert fates.declared_lost <= lost + fates.garbage
    assert worn.drained()


def total(fates: dict[str, Fates]) -> Fates:
    whole = Fates()
    for one in fates.values():
        whole.made += one.made
        whole.delivered += one.delivered
        whole.declared_lost += one.declared_lost
        whole.garbage += one.garbage
        whole.unheard += one.unheard
    return whole


@pytest.mark.parametrize(
    ("seed", "minutes"),
    [
        *((seed, SHORT_MINUTES) for seed in SHORT),
        *(pytest.param(seed, LONG_MINUTES, marks=pytest.mark.soak) for seed in LONG),
    ],
)
def test_every_sample_is_accounted_for_and_every_window_is_answered_once(seed: int, minutes: int) -> None:
    world, account = play(seed, minutes)
    whole = total(account.settle())
    print(f"seed {seed}: {whole}; {world.gateway.deaths} deaths, {account.acknowledged} acknowledgements")
    assert whole.made > 8 * minutes * 60 * 49 / 2  # one that keeps nothing streams only while it is connected
