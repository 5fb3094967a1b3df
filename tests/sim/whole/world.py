"""One seed: wearables, gateways, a broker, its subscriber, one virtual clock, and all that goes wrong with them."""

import hashlib
import heapq
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from firmware_sim.faults import parse_faults
from tests.sim.account import ACK, CONTROL_UUID
from tests.sim.whole import oracle
from tests.sim.whole.broker import NOT_AUTHORIZED, QUOTA_EXCEEDED, UNSPECIFIED, SimulatedBroker
from tests.sim.whole.gateway import Gateway, Parts, Terms
from tests.sim.whole.wearables import RATE_HZ, Sparse, SparseAir
from tests.sim.world import SECOND, Air, Clockwork

YEARS_50_NS = 50 * 365 * 86_400 * SECOND
SETTLE_S = 40_000.0
DRAINED_S = 6 * 3600.0
HELD_MAX_S = 300.0
"""Beside the length of a slot: so long windows wait for others to share their event."""


class Steps(Clockwork):
    """Counts what it calls, so that a crash can come at any event whatever."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self._armed: list[tuple[int, int, object]] = []

    def after_steps(self, steps: int, do: object) -> None:
        heapq.heappush(self._armed, (self.steps + steps, next(self._number), do))

    def run(self, until_ns: int) -> None:
        due = self._due
        while due and due[0][0] <= until_ns:
            self.now_ns, _, do = heapq.heappop(due)
            self.steps += 1
            do()
            while self._armed and self._armed[0][0] <= self.steps:
                heapq.heappop(self._armed)[2]()  # type: ignore[operator]
        self.now_ns = until_ns


class Whole:
    """seed decides everything. hours: of play, before all is mended and what is left comes in."""

    def __init__(self, seed: int, folder: Path, *, hours: float, wearables: int, parts: Parts | None = None) -> None:
        self.seed, self.hours = seed, hours
        self.rng = rng = random.Random(f"{seed}/whole")
        self.clock = Steps()
        self.digest = hashlib.sha256()
        self.mix: Counter[str] = Counter()
        self.received = oracle.Received()
        self.broker = SimulatedBroker(self.clock, random.Random(f"{seed}/broker"), self._deliver, self._session_begins)
        handover = rng.random() < 0.3
        length, hop = rng.choice([(400, 400), (400, 400), (400, 200), (200, 200), (200, 100)])
        self.shape = oracle.Shape(length, hop)
        self.airs: dict[str, SparseAir] = {}
        for number in range(wearables):
            name = f"w{number}"
            worn = Sparse(name, 1000 * seed + number, rng.choice([100, 255, 255]), rng.choice([3000, 40_000, 500_000]))
            faults = parse_faults(self._faults(random.Random(f"{seed}/{number}/faults")))
            self.airs[name] = SparseAir(self.clock, worn, faults, f"{seed}/{name}")
        terms = self._terms(handover)
        self.coalesces = "coalesce_s" in terms.stream
        self.mix["coalescing"] += self.coalesces
        names = ["one", "two"] if handover else ["one"]
        self.gateways = {name: Gateway(self, name, terms, folder / name, str(seed), parts or Parts()) for name in names}
        for air in self.airs.values():
            air.reach = {rng.choice(names)}
        for gateway in self.gateways.values():
            gateway.start()
        self._plan()

    # What goes wrong.

    def _faults(self, rng: random.Random) -> str:
        """Of one wearable, its radio and its firmware."""

        def often(low: int, high: int) -> str:
            return f"{rng.randint(low, high)}"

        menu = [
            f"loss={rng.uniform(0, 0.1):.3f}",
            f"burst={rng.uniform(0.001, 0.01):.4f}/{rng.randint(2, 12)}",
            f"latency={rng.uniform(0.01, 0.3):.3f}",
            f"jitter={rng.uniform(0.001, 0.004):.4f}",
            f"reorder={rng.uniform(0.01, 0.3):.3f}",
            f"duplicate={rng.uniform(0.01, 0.2):.3f}",
            f"drop~{often(300, 3000)}",
            f"away~{often(600, 3000)}/{often(60, 3000)}",
            f"reboot~{often(1500, 6000)}=kept",
            f"reboot~{often(3000, 9000)}=lost",
            f"step~{often(1000, 6000)}={rng.choice([-30, -1, 0.5, 100])}",
            f"drift={rng.choice([-200, -50, 50, 500])}",
            f"full@{often(100, 5000)}={rng.choice([800, 1500, 5000])}",
            f"overrun~{often(300, 3000)}={rng.choice([1, 3, 5, 19, 300])}",
        ]
        chosen = [fault for fault in menu if rng.random() < 0.25]
        self.mix.update(
            fault.partition("=")[0].partition("~")[0].partition("@")[0]
            + (" " + fault.partition("=")[2] if fault.startswith("reboot") else "")
            for fault in chosen
        )
        return ", ".join(chosen)

    def _terms(self, handover: bool) -> Terms:
        rng = self.rng
        rewind_s = rng.choice([300.0, 1800.0])
        return Terms(
            store={
                "commit_interval_s": rng.choice([0.5, 2.0, 10.0, 30.0, 60.0]),
                "queue_bytes_max": rng.choice([64 * 1024, 1 << 20, 1 << 25]),
                "journal_retention_s": rng.choice([0.0, 600.0, 86_400.0]),
                "event_retention_s": rng.choice([0.0, 600.0, 86_400.0]),
            },
            stream={
                "snapshot_rows": rng.choice([20, 200, 1000]),
                "interpolate_samples_max": oracle.INTERPOLATE_MAX,
                **self._sharing(random.Random(f"{self.seed}/coalescing")),
            },
            sync={
                "window": rng.choice([1, 5, 100, 1000]),
                "ack_timeout_s": rng.choice([10.0, 60.0]),
                "backoff_max_s": rng.choice([5.0, 60.0]),
                "rewind_s": rewind_s,
            },
            window=self.shape.length,
            hop=self.shape.hop,
            shared=handover,
            in_flight_max=rng.choice([3, 20, 1000]),
            bounds=self._bounds(random.Random(f"{self.seed}/bounds")),
        )

    def _bounds(self, rng: random.Random) -> dict[str, Any]:
        self.bounded = rng.random() < 0.25
        if not self.bounded:
            return {}
        policy = rng.choice(["drop_oldest", "stop_backlog"])
        self.mix[f"bounds, {policy}"] += 1
        bounds: dict[str, Any] = {"when_full": policy}
        if policy == "drop_oldest" or rng.random() < 0.6:
            bounds["event_bytes_max"] = rng.choice([5_000, 10_000, 30_000])
        if policy == "stop_backlog" and rng.random() < 0.6:
            bounds["journal_bytes_max"] = rng.choice([20_000, 60_000])
        return bounds

    def _sharing(self, rng: random.Random) -> dict[str, float]:
        """Of events, by windows of some slots."""
        if rng.random() < 0.7:
            return {}
        return {
            "coalesce_s": rng.choice([2, 5, 30]) * self.shape.hop / RATE_HZ,
            "coalesce_wait_s": rng.choice([0.0, 60.0, HELD_MAX_S]),
        }

    def _plan(self) -> None:
        """Each kind of trouble at times of its own, each with a chance to be absent from this seed."""
        rng, mood = self.rng, self.broker.mood
        for gateway in self.gateways.values():
            self._now_and_then("crash", (600, 3600), lambda g=gateway: self._arm_crash(g), sure=True)
            self._now_and_then("stop", (3000, 9000), lambda g=gateway: g.stop())
            self._spans("disk full", (2000, 6000), (20, 1200), lambda on, g=gateway: g.fill_disk(on))
            self._now_and_then("clock step", (1000, 5000), lambda g=gateway: self._step_clock(g))
            name = gateway.name
            self._spans("no route", (1000, 5000), (10, 4000), lambda on, n=name: self._cut_off(mood.no_route, n, on))
            self._spans("swallowed", (1000, 5000), (5, 300), lambda on, n=name: self._partition(mood.swallowing, n, on))
            self._spans(
                "PUBACKs lost", (1000, 5000), (5, 300), lambda on, n=name: self._partition(mood.losing_answers, n, on)
            )
        self.forgetful = rng.random() < 0.6
        self._spans("broker down", (2000, 6000), (5, 4000), self._broker_down)
        self._now_and_then("session lost", (1500, 6000), lambda: self.broker.restart(0.0))
        self._now_and_then("broker restarted", (1500, 6000), lambda: self.broker.restart(None))
        self._spans("subscriber away", (500, 3000), (60, 3000), self._subscriber)
        if self.forgetful:
            self._now_and_then("broker forgets", (600, 4000), self._forget)
        self._spans("refusals", (2000, 6000), (10, 900), self._refuse)
        if rng.random() < 0.5:
            self.broker.mood.repeating = rng.uniform(0.01, 0.2)
            self.mix["broker duplicates"] += 1
        if len(self.gateways) > 1:
            for air in self.airs.values():
                self._now_and_then("handover", (400, 4000), lambda a=air: self._walk(a), sure=True)

    def _now_and_then(self, what: str, mean_s: tuple[float, float], do: object, *, sure: bool = False) -> None:
        rng = random.Random(f"{self.seed}/{what}/{self.rng.random()}")
        if not sure and rng.random() < 0.5:
            return
        mean = rng.uniform(*mean_s)

        def happens() -> None:
            if not self.over:
                self.mix[what] += 1
                do()  # type: ignore[operator]
                self.clock.after((1 + rng.expovariate(1 / mean)) * SECOND, happens)

        self.clock.after(rng.expovariate(1 / mean) * SECOND, happens)

    def _spans(self, what: str, mean_s: tuple[float, float], length_s: tuple[float, float], do: object) -> None:
        rng = random.Random(f"{self.seed}/{what}/span/{self.rng.random()}")

        def happens() -> None:
            do(True)  # type: ignore[operator]
            self.clock.after(rng.uniform(*length_s) * SECOND, lambda: do(False))  # type: ignore[operator]

        self._now_and_then(what, mean_s, happens)

    over = False

    def _arm_crash(self, gateway: Gateway) -> None:
        """At one of the next events, of whatever kind; half of them while a commit is under way."""
        rng = gateway.rng
        power_cut, life = rng.random() < 0.5, gateway.lives

        def now() -> None:
            if gateway.lives == life and not self.over:
                gateway.crash(power_cut)

        if rng.random() < 0.5:
            self.clock.after_steps(rng.randrange(200), now)
            return
        begun = gateway.life.writer.begun if gateway.life else 0

        def at_commit() -> None:
            if gateway.lives != life or gateway.life is None or self.over:
                return
            if gateway.life.writer.begun > begun and gateway.life.writer.under_way is not None:
                self.clock.after_steps(rng.randrange(3), now)
            else:
                self.clock.after_steps(1, at_commit)

        at_commit()

    def _session_begins(self, name: str) -> None:
        """Of the crashes some come between a session that the broker has lost and the commit of what follows."""
        gateway = self.gateways[name]
        likely = 0.8 if self.broker.counts.lost_after_puback else 0.3
        if self.over or not gateway.witness.answered or gateway.rng.random() > likely:
            return
        power_cut, life = gateway.rng.random() < 0.5, gateway.lives

        def now() -> None:
            if gateway.lives == life and not self.over:
                self.mix["crash at a lost session"] += 1
                gateway.crash(power_cut)

        self.clock.after_steps(int(2 ** gateway.rng.uniform(0, 8)), now)

    def _step_clock(self, gateway: Gateway) -> None:
        rng = gateway.rng
        gateway.clock.step(rng.choice([-YEARS_50_NS, YEARS_50_NS, 0, 0]), rng.random() < 0.5)

    def _cut_off(self, names: set[str], name: str, on: bool) -> None:
        (names.add if on else names.discard)(name)
        if on:
            self.broker.cut(name)

    def _partition(self, names: set[str], name: str, on: bool) -> None:
        (names.add if on else names.discard)(name)
        if not on:
            self.broker.cut(name)

    def _broker_down(self, on: bool) -> None:
        if on:
            self.broker.restart(self._forgets_s() if self.forgetful and self.rng.random() < 0.5 else None)
        self.broker.mood.down = on

    def _forget(self) -> None:
        """A subscriber has been away for a while when the broker dies, and is not back before the broker is."""
        mood, rng = self.broker.mood, self.rng
        mood.subscriber_away = True

        def dies() -> None:
            if self.over:
                return
            self.broker.restart(self._forgets_s())
            mood.down = True
            self.clock.after(rng.uniform(1, 4000) * SECOND, back)

        def back() -> None:
            mood.down = False
            self._subscriber(False)

        self.clock.after(rng.uniform(10, 1200) * SECOND, dies)

    def _forgets_s(self) -> float:
        """No more than the gateways send again."""
        (rewind_s,) = {gateway.terms.sync["rewind_s"] for gateway in self.gateways.values()}
        return self.rng.uniform(0, rewind_s)

    def _subscriber(self, on: bool) -> None:
        self.broker.mood.subscriber_away = on
        self.broker.hand_over()

    def _refuse(self, on: bool) -> None:
        self.broker.mood.refusing = self.rng.choice([UNSPECIFIED, QUOTA_EXCEEDED, NOT_AUTHORIZED]) if on else 0

    def _walk(self, air: SparseAir) -> None:
        air.walk(self.rng.choice([{"one"}, {"two"}, {"one", "two"}, set()]))

    # What is watched.

    def trace(self, *what: object) -> None:
        self.digest.update(repr((self.clock.now_ns, self.clock.steps, *what)).encode())

    def _deliver(self, gateway: str, payload: bytes) -> None:
        self.trace("received", gateway, payload)
        self.received.take(gateway, payload)

    def written(self, air: Air, uuid: str, payload: bytes) -> None:
        """An acknowledgement speaks only of samples that are on that gateway's medium, or lost for good."""
        air.pump_soon()  # type: ignore[attr-defined]
        if uuid == CONTROL_UUID and payload[0] == ACK:
            holder = air.central.gateway.gateway  # type: ignore[union-attr, attr-defined]
            session16, index = int.from_bytes(payload[1:3], "little"), int.from_bytes(payload[3:7], "little")
            ledger = holder.witness.ledgers[air.worn.name]
            assert ledger.acknowledged(session16, index), f"{air.worn.name}: {index} acknowledged, not durable"
            self.mix["acknowledgements"] += 1

    # A run.

    def run(self) -> None:
        self.clock.run(int(self.hours * 3600 * SECOND))
        self.settle()
        self.judge()

    def settle(self) -> None:
        """Everything is mended, and what is left comes in."""
        self.over = True
        mood = self.broker.mood
        for names in (mood.no_route, mood.swallowing, mood.losing_answers):
            names.clear()
        for name in list(self.broker.connections):
            self.broker.cut(name)
        mood.down, mood.refusing, mood.subscriber_away, mood.repeating = False, 0, False, 0.0
        self.broker.hand_over()
        for gateway in self.gateways.values():
            gateway.fill_disk(False)
            gateway.start()
        for number, air in enumerate(self.airs.values()):
            air.heal()
            if not air.reach:
                air.walk({list(self.gateways)[number % len(self.gateways)]})
        self._until(lambda: all(air.worn.drained() for air in self.airs.values()), DRAINED_S, "wearables drained")
        held_s = 30 * self.shape.hop / RATE_HZ + HELD_MAX_S if self.coalesces else 0.0
        self.clock.run(self.clock.now_ns + int((200 + held_s) * SECOND))
        self._until(lambda: all(gateway.idle() for gateway in self.gateways.values()), SETTLE_S, "all is published")
        self.clock.run(self.clock.now_ns + 200 * SECOND)

    def _until(self, condition: object, within_s: float, what: str) -> None:
        until_ns = self.clock.now_ns + int(within_s * SECOND)
        while not condition():  # type: ignore[operator]
            for gateway in self.gateways.values():
                if gateway.life is not None:
                    gateway.life.check()
            assert self.clock.now_ns < until_ns, f"{what}: not within {within_s:g} s"
            self.clock.run(self.clock.now_ns + 20 * SECOND)

    def judge(self) -> None:
        for gateway in self.gateways.values():
            assert gateway.life is not None
            gateway.life.check()
            self.mix.update(gateway.witness.counts)
        for name, count in vars(self.broker.counts).items():
            self.mix[name] += count
        predictions: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for (source, id), copies in self.received.payloads.items():
            if not id.endswith("-state") and id.count("-") == 2 and "-drift" not in id:
                for gateway_name, payload in copies.items():
                    predictions.setdefault((gateway_name, source), []).append(json.loads(payload))
        for name, air in self.airs.items():
            self._judge_one(name, air, predictions)
        sources = {f"urn:fidget:wearable:{name}" for name in self.airs}
        unknown = sorted(key for key in predictions if key[1] not in sources)
        assert not unknown, unknown

    def _judge_one(self, name: str, air: SparseAir, predictions: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
        answered: set[str] = set()
        for gateway_name, gateway in self.gateways.items():
            ledger = gateway.witness.ledgers.get(name) or oracle.Ledger()
            due = {
                f"{session:016x}-{number}": (session, number, window)
                for session, known in ledger.sessions.items()
                if session in air.worn.truth
                for number, window in oracle.due_windows(
                    self.shape, known, ledger.instants, air.worn.truth[session].values()
                ).items()
            }
            assert set(ledger.sessions) <= set(air.worn.truth)
            had: dict[str, tuple[dict[str, Any], list[str]]] = {}
            for event in predictions.get((gateway_name, f"urn:fidget:wearable:{name}"), []):
                windows = oracle.windows_of(event)
                keys = [f"{window['session']}-{window['number']}" for window in windows]
                assert not had.keys() & keys, f"{name} by {gateway_name}: answered twice: {sorted(had.keys() & keys)}"
                had |= {key: (window, keys) for key, window in zip(keys, windows, strict=True)}
                self.mix["windows that share an event"] += len(windows) if len(windows) > 1 else 0
            answered |= had.keys()
            missing, unasked = sorted(set(due) - set(had)), sorted(set(had) - set(due))
            dropped = gateway.dropped(name) * (oracle.SHARING_MAX if self.coalesces else 1)
            if self.bounded:  # what a broker forgets may be gone here too
                dropped += self.broker.counts.lost_after_puback * oracle.SHARING_MAX
            self.mix["windows dropped"] += len(missing)
            assert len(missing) <= dropped, (
                f"{name} by {gateway_name}: never received: {missing[:5]}, {len(missing)} of {len(due)}, "
                f"of {dropped} dropped at most"
            )
            assert not unasked, f"{name} by {gateway_name}: not due: {unasked[:5]}, {len(unasked)}"
            for key, (session, number, window) in due.items():
                if key not in had:
                    continue
                told, together = had[key]
                fields = oracle.expected(
                    name, session, number, self.shape, window,
                    first=due[together[0]][1],
                    at=oracle.last_known([due[one][2] for one in together]),
                    thousandths=self.coalesces,
                )  # fmt: skip
                received = oracle.found(told, fields, self.coalesces)
                assert received == fields, (
                    f"{name} {key}: {[(k, received[k], v) for k, v in fields.items() if received[k] != v]}"
                )
            self.mix["windows"] += len(due)
        if self.mix["windows dropped"]:
            return
        for session, truth in air.worn.truth.items():
            for number in oracle.surely_due(self.shape, truth):
                assert f"{session:016x}-{number}" in answered, f"{name} {session:016x}: window {number} is lost"
