"""Runners on the real Bumble stack: with the simulated wearable as a process, and with conversations of the test's own
against a peripheral that can misbehave.
"""

import asyncio
import logging
import re
import struct
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from bleak.backends.service import BleakGATTServiceCollection
from bumble import ll

from gateway.ble.bonds import Admission, Listed, Records
from gateway.ble.runner import OPERATIONS_MAX
from gateway.link import rules
from gateway.link.bonds import Held
from gateway.link.trouble import Obstacle, Trouble
from gateway.profiles.conversation import (
    Command,
    Connected,
    Disconnected,
    Durable,
    Event,
    Fault,
    Kind,
    Notified,
    Observe,
    Read,
    ReadDone,
    Room,
    Subscribe,
    Tick,
    WakeAt,
    Write,
    WriteDone,
)
from tests.gateway.ble.conftest import (
    HANGING,
    INDICATING,
    LONG,
    LONG_VALUE,
    NOTIFYING,
    PATIENCE_S,
    SERVICE,
    WRITABLE,
    Air,
    Host,
    Wearable,
    address_of,
    simulator,
    within,
)

Hosts = Callable[..., Host]

HEARD = Connected(-50)
"""The virtual radio has no distances."""


def samples(wearable: Wearable) -> set[int]:
    """Indices of the samples in the frames observed (docs/reference-profile.md: n at 2, first index at 8)."""
    frames = [payload for kind, payload in wearable.observed if kind is Kind.FRAME]
    return {first + i for f in frames for n, first in [(f[2], *struct.unpack_from("<I", f, 8))] for i in range(n)}


def kinds(wearable: Wearable) -> list[Kind]:
    return [kind for kind, _ in wearable.observed]


async def test_two_wearables_stream_and_one_out_of_range_comes_back_with_what_it_kept(host: Hosts) -> None:
    speed, t0_ns = 20.0, time.monotonic_ns()
    time_ = f"1760000000000000000:{speed}:{t0_ns}"
    async with simulator(["name=left", "name=right; seed=2"], "--time", time_) as sim:
        gateway = host(sim.transport, speed)
        left, right = (gateway.wearable(address_of(name)) for name in ("left", "right"))
        gateway.start()
        await gateway.streaming()
        assert kinds(left)[:3] == [Kind.CONNECTED, Kind.INFO, Kind.CONFIG]

        await sim.op(op="out_of_range", wearable="left", on=True)
        await gateway.until(lambda: left.runner.state == "absent")
        assert ("link_lost", "link lost") in left.faults
        assert left.runner.counters.losses == 1
        assert kinds(left)[-1] is Kind.DISCONNECTED
        missed = len(samples(right))
        await gateway.until(lambda: len(samples(right)) > missed + 1000)
        assert right.runner.state == "streaming"

        await sim.op(op="out_of_range", wearable="left", on=False)
        await gateway.streaming(left)
        assert left.runner.counters.connects == 2
        made = {w["name"]: int(str(w["closed"])) for w in await sim.op(op="status")}
        await gateway.until(lambda: samples(left) >= set(range(made["left"])))
        await gateway.until(lambda: samples(right) >= set(range(made["right"])))
        again = left.states[left.states.index("closing") :]
        assert again[again.index("streaming") :][:3] == ["streaming", "draining", "streaming"]
        assert left.runner.rssi_dbm == -50


async def test_a_killed_host_is_let_in_again_each_time() -> None:
    addresses = [address_of("left"), address_of("right")]
    script = Path(__file__).with_name("host_process.py")
    async with simulator(["name=left", "name=right"]) as sim:
        for _ in range(4):
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(script), sim.transport, *addresses, stdout=asyncio.subprocess.PIPE
            )
            try:
                assert process.stdout is not None
                async with asyncio.timeout(PATIENCE_S):
                    lines = [(await process.stdout.readline()).decode().split() for _ in addresses]
            finally:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            assert {line[1] for line in lines} == set(addresses)


async def test_a_simulator_that_is_started_again_is_attached_to_again(host: Hosts) -> None:
    async with simulator(["name=left"]) as sim:
        gateway = host(sim.transport)
        left = gateway.wearable(address_of("left"))
        gateway.start()
        await gateway.streaming()
    await gateway.until(lambda: left.runner.state == "absent")
    port = sim.transport.rsplit(":", 1)[1]
    async with simulator(["name=left"], "--listen", f"127.0.0.1:{port}"):
        await gateway.streaming()
        assert left.runner.counters.connects == 2


# Conversations of the test's own


class Script:
    """Answers each kind of event with what the test laid down; remembers what it was told."""

    def __init__(self, **answers: list[Command] | Callable[[Event, int], list[Command]]) -> None:
        self.answers = answers
        self.told: list[Event] = []
        self.times_ns: list[int] = []

    def handle(self, event: Event, now_ns: int) -> list[Command]:
        self.told.append(event)
        self.times_ns.append(now_ns)
        answer = self.answers.get(type(event).__name__, [])
        commands = answer(event, now_ns) if callable(answer) else answer
        return [*commands, Observe(Kind.FRAME, b"")]  # so that the test hears of every event


async def test_operations_run_one_after_the_other_in_the_order_of_the_commands(air: Air, host: Hosts) -> None:
    peripheral = await air.peripheral()
    script = Script(
        Connected=[Subscribe(NOTIFYING), Write(WRITABLE, b"one"), Read(LONG), Write(WRITABLE, b"two"), Read(LONG)],
    )
    gateway = host(air.transport)
    gateway.wearable(peripheral.address, script)
    gateway.start()
    await gateway.until(lambda: sum(isinstance(e, ReadDone) for e in script.told) == 1)
    assert script.told[:3] == [HEARD, WriteDone(WRITABLE), script.told[2]]
    assert peripheral.subscribed.is_set()
    read = script.told[2]
    assert isinstance(read, ReadDone)
    assert (read.uuid, read.payload) == (LONG, LONG_VALUE)
    assert script.times_ns[1] <= read.started_ns < script.times_ns[2]
    await gateway.until(lambda: WriteDone(WRITABLE) in script.told[3:])
    assert peripheral.written == [b"one", b"two"]


async def test_a_read_that_waits_is_not_queued_twice(air: Air, host: Hosts) -> None:
    peripheral = await air.peripheral()
    script = Script(Connected=[Write(WRITABLE, b"x"), *[Read(LONG)] * (OPERATIONS_MAX + 1), Write(WRITABLE, b"end")])
    gateway = host(air.transport)
    gateway.wearable(peripheral.address, script)
    gateway.start()
    await gateway.until(lambda: script.told.count(WriteDone(WRITABLE)) == 2)
    assert sum(isinstance(e, ReadDone) for e in script.told) == 1


async def test_notifications_and_indications_come_in_order_and_make_the_link_stream(air: Air, host: Hosts) -> None:
    peripheral = await air.peripheral()
    script = Script(Connected=[Subscribe(NOTIFYING), Subscribe(INDICATING), Write(WRITABLE, b"ready")])
    gateway = host(air.transport)
    wearable = gateway.wearable(peripheral.address, script)
    gateway.start()
    await gateway.until(lambda: WriteDone(WRITABLE) in script.told)
    assert wearable.runner.state == "configuring"
    for n in range(50):
        await peripheral.notify(bytes([n]))
    await peripheral.indicate(b"last")
    await gateway.until(lambda: Notified(INDICATING, b"last") in script.told)
    assert [e.payload for e in script.told if isinstance(e, Notified)] == [*(bytes([n]) for n in range(50)), b"last"]
    assert wearable.runner.state == "streaming"
    assert wearable.runner.counters.notifications == 51
    assert wearable.states == ["absent", "queued", "connecting", "discovering", "configuring", "streaming"]


async def test_after_losses_every_notification_is_delivered_once(air: Air, host: Hosts) -> None:
    peripheral = await air.peripheral()
    script = Script(Connected=[Subscribe(NOTIFYING), Write(WRITABLE, b"ready")])
    gateway = host(air.transport)
    wearable = gateway.wearable(peripheral.address, script)
    gateway.start()
    for round_ in range(1, 4):
        await gateway.until(lambda: script.told.count(WriteDone(WRITABLE)) == round_)  # noqa: B023
        for n in range(10):
            await peripheral.notify(bytes([round_, n]))
        await gateway.until(lambda: Notified(NOTIFYING, bytes([round_, 9])) in script.told)  # noqa: B023
        peripheral.lose_link()
        await gateway.until(lambda: script.told.count(Disconnected()) == round_)  # noqa: B023
    came = [e.payload for e in script.told if isinstance(e, Notified)]
    assert came == [bytes([round_, n]) for round_ in range(1, 4) for n in range(10)]
    assert wearable.runner.counters.losses == 3


async def test_a_fatal_fault_drops_the_link_and_starts_afresh(air: Air, host: Hosts) -> None:
    peripheral = await air.peripheral()
    faults = iter([[Fault("rate", "the wearable samples at 25 Hz", fatal=True), Read(LONG)]])
    script = Script(Connected=lambda _event, _now_ns: next(faults, [Fault("odd", "counted, no more")]))
    gateway = host(air.transport)
    wearable = gateway.wearable(peripheral.address, script)
    gateway.start()
    await gateway.until(lambda: len(wearable.faults) == 2)
    assert script.told == [HEARD, Disconnected(), HEARD]
    assert wearable.faults == [("rate", "the wearable samples at 25 Hz"), ("odd", "counted, no more")]
    assert wearable.runner.counters.faults == {"rate": 1, "odd": 1}
    assert wearable.runner.state == "configuring"


async def test_nothing_that_was_on_its_way_reaches_the_conversation_after_it_ended_the_link(
    air: Air, host: Hosts
) -> None:
    peripheral = await air.peripheral()
    script = Script(
        Connected=[Subscribe(NOTIFYING), Write(WRITABLE, b"ready")],
        Notified=[Fault("malformed", "no frame at all", fatal=True)],
    )
    gateway = host(air.transport)
    gateway.wearable(peripheral.address, script)
    gateway.start()
    await gateway.until(lambda: WriteDone(WRITABLE) in script.told)
    await asyncio.gather(*(peripheral.notify(bytes([n])) for n in range(20)))
    await gateway.until(lambda: script.told.count(HEARD) == 2)
    told = script.told[: script.told.index(HEARD, 1)]
    assert told == [HEARD, WriteDone(WRITABLE), Notified(NOTIFYING, b"\0"), Disconnected()]


ABSENT = "6b1f0099-9d1c-4d3e-8c53-2a3a6f9f0e10"


async def test_what_is_optional_and_not_there_or_refused_is_passed_over(air: Air, host: Hosts) -> None:
    peripheral = await air.peripheral()
    optional = [Read(ABSENT, optional=True), Subscribe(ABSENT, optional=True), Subscribe(WRITABLE, optional=True)]
    script = Script(Connected=[*optional, Read(LONG, optional=True), Write(WRITABLE, b"ready")])
    gateway = host(air.transport)
    wearable = gateway.wearable(peripheral.address, script)
    gateway.start()
    await gateway.until(lambda: WriteDone(WRITABLE) in script.told)
    assert [type(event) for event in script.told] == [Connected, ReadDone, WriteDone]
    assert wearable.faults == []


@pytest.mark.parametrize("operation", [Read(ABSENT), Subscribe(ABSENT)])
async def test_what_is_needed_and_not_there_ends_the_link(air: Air, host: Hosts, operation: Command) -> None:
    peripheral = await air.peripheral()
    gateway = host(air.transport)
    wearable = gateway.wearable(peripheral.address, Script(Connected=[operation]))
    gateway.start()
    await gateway.until(lambda: len(wearable.faults) > 0)
    assert wearable.faults[0][0] == "gatt_failed"
    assert ABSENT in wearable.faults[0][1]


async def test_an_optional_notification_is_told_but_does_not_show_that_the_stream_lives(air: Air, host: Hosts) -> None:
    peripheral = await air.peripheral()
    script = Script(Connected=[Subscribe(NOTIFYING, optional=True), Subscribe(INDICATING), Write(WRITABLE, b"ready")])
    gateway = host(air.transport)
    wearable = gateway.wearable(peripheral.address, script)
    gateway.start()
    await gateway.until(lambda: WriteDone(WRITABLE) in script.told)
    await peripheral.notify(b"87 %")
    await gateway.until(lambda: Notified(NOTIFYING, b"87 %") in script.told)
    assert wearable.runner.state == "configuring"
    await peripheral.indicate(b"a frame")
    await gateway.until(lambda: Notified(INDICATING, b"a frame") in script.told)
    assert wearable.runner.state == "streaming"


async def test_an_error_in_one_conversation_is_reported_and_leaves_the_other_wearables_alone(
    air: Air, host: Hosts
) -> None:
    broken, sound = await air.peripheral(1), await air.peripheral(2)

    def fail(event: Event, _now_ns: int) -> list[Command]:
        raise ZeroDivisionError("a fault of ours")

    gateway = host(air.transport)
    failing = gateway.wearable(broken.address, Script(Connected=fail))
    script = Script(Connected=[Subscribe(NOTIFYING), Write(WRITABLE, b"ready")])
    other = gateway.wearable(sound.address, script)
    gateway.start()
    await gateway.until(lambda: len(failing.faults) >= 2 and WriteDone(WRITABLE) in script.told)
    assert set(failing.faults) == {("internal", "a fault of ours")}
    await sound.notify(b"still here")
    await gateway.until(lambda: Notified(NOTIFYING, b"still here") in script.told)
    assert other.runner.counters.connects == 1


async def test_what_is_delivered_while_an_event_is_handled_waits_its_turn(air: Air, host: Hosts) -> None:
    """A store that answers at once delivers Durable from within Observe."""
    peripheral = await air.peripheral()
    gateway = host(air.transport)
    script = Script()

    def connected(_event: Event, _now_ns: int) -> list[Command]:
        wearable.runner.deliver(Durable(7, 19))
        assert script.told == [Room(1000), HEARD]
        return []

    script.answers["Connected"] = connected
    wearable = gateway.wearable(peripheral.address, script)
    gateway.start()
    wearable.runner.deliver(Room(1000))
    await gateway.until(lambda: Durable(7, 19) in script.told)
    assert script.told == [Room(1000), HEARD, Durable(7, 19)]


async def test_a_tick_comes_when_the_conversations_time_says_so(air: Air, host: Hosts) -> None:
    peripheral = await air.peripheral()
    asked: list[int] = []

    def connected(_event: Event, now_ns: int) -> list[Command]:
        asked.append(now_ns + 40 * 10**9)
        return [WakeAt(now_ns + 10**15), WakeAt(asked[0])]

    script = Script(Connected=connected)
    gateway = host(air.transport, speed=200.0)
    gateway.wearable(peripheral.address, script)
    gateway.start()
    started_s = time.monotonic()
    await gateway.until(lambda: Tick() in script.told)
    assert script.told == [HEARD, Tick()]
    assert script.times_ns[-1] >= asked[0]
    assert time.monotonic() - started_s < 10.0  # 40 s of the simulation are 0.2 s


async def test_a_silent_wearable_is_dropped_and_connected_again(air: Air, host: Hosts) -> None:
    peripheral = await air.peripheral()
    script = Script(Connected=[Subscribe(NOTIFYING), Write(WRITABLE, b"ready")])
    gateway = host(air.transport)
    wearable = gateway.wearable(peripheral.address, script, silence_s=0.3)
    gateway.start()
    await gateway.until(lambda: WriteDone(WRITABLE) in script.told)
    await peripheral.notify(b"the last")
    await gateway.until(lambda: wearable.runner.counters.connects == 2)
    assert wearable.faults == [("timed_out", "silent for 0.3 s")]
    assert wearable.states[wearable.states.index("streaming") :][:3] == ["streaming", "silent", "closing"]


async def test_an_operation_that_hangs_drops_the_link(air: Air, host: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "OPERATION_S", 0.2)
    peripheral = await air.peripheral()
    gateway = host(air.transport)
    wearable = gateway.wearable(peripheral.address, Script(Connected=[Read(HANGING)]))
    gateway.start()
    await gateway.until(lambda: wearable.runner.counters.connects == 2)
    assert wearable.faults[0] == ("gatt_failed", f"read of {HANGING}: timed out")


async def test_a_device_without_the_profiles_characteristics_is_named_and_left_at_growing_intervals(
    air: Air, host: Hosts
) -> None:
    peripheral = await air.peripheral()
    gateway = host(air.transport)
    wearable = gateway.wearable(peripheral.address)  # the reference profile's conversation
    gateway.start()
    await gateway.until(lambda: len(wearable.faults) == 2)
    uuid = "f1d9e705-6a3b-4d6e-8f52-0c1b7a9d4e21"
    assert set(wearable.faults) == {("gatt_failed", f"subscribe of {uuid}: Characteristic {uuid} was not found!")}


async def test_a_wearable_that_speaks_another_profile_is_named_before_anything_is_asked_of_it(
    air: Air, host: Hosts
) -> None:
    peripheral = await air.peripheral()
    gateway = host(air.transport)
    script = Script(Connected=[Subscribe(NOTIFYING)])
    services = ["34802252-7185-4d5d-b431-630e7050e8f0", SERVICE]
    wearable = gateway.wearable(peripheral.address, script, services=services)
    right = gateway.wearable((await air.peripheral(2)).address, Script(), services=services[::-1])
    gateway.start()
    await gateway.until(lambda: wearable.runner.state == "quarantined" and right.runner.state == "configuring")
    assert wearable.faults == 3 * [("other_profile", f"it has no service {services[0]}")]
    assert script.told == []
    assert re.fullmatch(f"it has no service {services[0]}; tried again in ([5-9]|10) min", wearable.runner.obstacle)
    assert wearable.runner.trouble == Trouble(Obstacle.QUARANTINED, f"it has no service {services[0]}")
    assert right.runner.trouble is None
    wearable.runner.release()
    await gateway.until(lambda: len(wearable.faults) == 4)
    assert right.runner.obstacle == ""


async def test_services_that_are_shown_late_are_asked_for_again(
    air: Air, host: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two links in a row BlueZ calls them resolved too early, and so once more after a good link."""
    shown = BleakGATTServiceCollection.get_service
    late = [True, True, False, True, True, False]

    def get_service(collection: BleakGATTServiceCollection, what: Any) -> Any:
        return None if late.pop(0) else shown(collection, what)

    peripheral = await air.peripheral()
    gateway = host(air.transport)
    wearable = gateway.wearable(peripheral.address, Script(), services=[SERVICE])
    monkeypatch.setattr(BleakGATTServiceCollection, "get_service", get_service)
    gateway.start()
    await gateway.until(lambda: wearable.runner.state == "configuring")
    peripheral.controller.end_links()
    await gateway.until(lambda: not late and wearable.runner.state == "configuring")
    lacks = ("other_profile", f"it has no service {SERVICE}")
    assert wearable.faults == [lacks, lacks, ("link_lost", "link lost"), lacks, lacks]


async def test_only_listed_wearables_are_connected(air: Air, host: Hosts, caplog: pytest.LogCaptureFixture) -> None:
    listed, stranger = await air.peripheral(1), await air.peripheral(2)
    gateway = host(air.transport)
    gateway.wearable(listed.address.lower(), Script())
    gateway.start()
    await gateway.until(lambda: gateway.wearables[0].runner.state == "configuring")
    assert (listed.connected, stranger.connected) == (1, 0)
    assert {one.address for one in gateway.radio.strangers()} <= {stranger.address}
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_stop_disconnects_and_is_final(air: Air, host: Hosts) -> None:
    peripheral = await air.peripheral()
    script = Script(Connected=[Subscribe(NOTIFYING)])
    gateway = host(air.transport)
    wearable = gateway.wearable(peripheral.address, script)
    gateway.start()
    await gateway.until(lambda: wearable.runner.state == "configuring")
    started_s = time.monotonic()
    await wearable.runner.stop()
    assert time.monotonic() - started_s < 1.0
    assert wearable.states[-2:] == ["closing", "stopped"]
    assert wearable.faults == []
    assert script.told[-1] == Disconnected()
    assert not peripheral.device.connections


async def test_a_wearable_hears_what_it_is_told_before_its_link_is_ended(air: Air, host: Hosts) -> None:
    peripheral = await air.peripheral()
    script = Script(Connected=[Subscribe(NOTIFYING)], Leaving=[Write(WRITABLE, b"1"), Write(WRITABLE, b"2")])
    gateway = host(air.transport)
    wearable = gateway.wearable(peripheral.address, script)
    gateway.start()
    await gateway.until(lambda: wearable.runner.state == "configuring")
    await wearable.runner.stop()
    assert peripheral.written == [b"1", b"2"]
    assert wearable.states[-1] == "stopped"


async def test_one_that_is_not_heard_and_an_adapter_that_is_away_are_told_apart(
    air: Air, host: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = host(air.transport)
    wearable = gateway.wearable("C0:FF:EE:00:00:77", Script())
    assert wearable.runner.trouble == Trouble(Obstacle.ADAPTER_AWAY, "not started")
    gateway.start()
    await gateway.until(lambda: gateway.radio.status == "scanning")
    assert wearable.runner.trouble is not None
    assert wearable.runner.trouble.obstacle is Obstacle.UNHEARD
    assert wearable.runner.obstacle == "", "it may yet be"
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: time.monotonic() + 600)
    assert wearable.runner.obstacle == "not heard for 10 min"
    monkeypatch.undo()
    air.radio.close()
    await gateway.until(lambda: not gateway.radio.available)
    assert wearable.runner.trouble == Trouble(Obstacle.ADAPTER_AWAY, gateway.radio.status)


async def test_a_wearable_that_is_not_there_can_be_stopped(air: Air, host: Hosts) -> None:
    gateway = host(air.transport)
    wearable = gateway.wearable("C0:00:00:00:00:99", Script())
    gateway.start()
    await gateway.until(lambda: wearable.states == ["absent"])
    await wearable.runner.stop()
    assert wearable.states == ["absent", "stopped"]


async def test_a_wearable_that_says_it_is_held_is_heard_and_left_to_its_holder(air: Air, host: Hosts) -> None:
    peripheral = await air.peripheral()
    gateway = host(air.transport)
    says = {"held": True}
    heard = 0

    def held(manufacturer_data: Mapping[int, bytes]) -> bool:
        nonlocal heard
        assert manufacturer_data == {0xFFFF: b"\x01\x80"}
        heard += 1
        gateway.news.set()
        return says["held"]

    wearable = gateway.wearable(peripheral.address, Script(), held=held)
    gateway.start()
    await gateway.until(lambda: heard >= 10)
    assert wearable.states == ["absent"]
    assert wearable.runner.rssi_dbm == -50
    assert wearable.runner.trouble == Trouble(Obstacle.HELD, "heard, and connected to something else, as it says")
    assert wearable.runner.obstacle == wearable.runner.trouble.why
    says["held"] = False
    await gateway.until(lambda: wearable.runner.state == "configuring")
    assert wearable.runner.trouble is None


async def test_a_wearable_that_may_not_pair_is_left_alone_and_what_is_to_be_done_is_said(air: Air, host: Hosts) -> None:
    peripheral = await air.peripheral()
    gateway = host(air.transport)
    wearable = gateway.wearable(peripheral.address, Script(Connected=[Read(HANGING)]))
    gateway.start()
    await within(peripheral.reading.wait())
    gateway.radio.notice(peripheral.address, rules.Asked())
    assert wearable.runner.state == "pairing"
    gateway.radio.leave_alone(peripheral.address)
    await gateway.until(lambda: wearable.runner.state == "quarantined")
    assert wearable.faults == [("unpaired", "it wants to be paired, which only `gateway pair` may do")]
    assert wearable.runner.obstacle.endswith("may do; tried again in 1 min")
    assert wearable.runner.trouble == Trouble(Obstacle.UNPAIRED, wearable.faults[0][1])


async def test_a_wearable_that_pairs_is_configured_once_what_it_protects_is_read(air: Air, host: Hosts) -> None:
    peripheral = await air.peripheral()
    gateway = host(air.transport)

    def connected(_event: Event, _now_ns: int) -> list[Command]:
        gateway.radio.notice(peripheral.address, rules.Asked())
        return [Read(LONG), Write(WRITABLE, b"ready")]

    script = Script(Connected=connected)
    wearable = gateway.wearable(peripheral.address, script)
    gateway.start()
    await gateway.until(lambda: WriteDone(WRITABLE) in script.told)
    assert wearable.states[-3:] == ["configuring", "pairing", "configuring"]
    assert sum(isinstance(event, Connected) for event in script.told) == 1


async def test_one_wearable_too_many_waits_for_room_and_ends_nothing(air: Air, host: Hosts) -> None:
    gateway = host(air.transport, wearables_max=2)
    held = [gateway.wearable((await air.peripheral(n)).address, Script()) for n in (1, 2)]
    gateway.start()
    await gateway.until(lambda: all(w.runner.state == "configuring" for w in held))
    one_more = gateway.wearable((await air.peripheral(3)).address, Script())
    running = asyncio.create_task(one_more.runner.run())
    await gateway.until(lambda: one_more.states == ["absent"])
    assert one_more.runner.obstacle == f"{air.transport} holds 2 wearables, 2 is its limit (radio.wearables_max)"
    assert one_more.runner.trouble == Trouble(Obstacle.ADAPTER_FULL, one_more.runner.obstacle)
    assert [w.runner.adapter for w in (*held, one_more)] == [air.transport, air.transport, None]
    await held[0].runner.stop()
    await gateway.until(lambda: one_more.runner.state == "configuring")
    assert held[1].runner.counters.connects == 1
    assert one_more.runner.obstacle == ""
    running.cancel()


async def test_a_controller_that_takes_no_more_links_keeps_those_it_has(air: Air, host: Hosts) -> None:
    air.radio.links_max = 2
    gateway = host(air.transport)
    wearables = [gateway.wearable((await air.peripheral(n)).address, Script()) for n in (1, 2, 3)]
    gateway.start()
    refused = lambda: [w for w in wearables if w.runner.obstacle]  # noqa: E731
    await gateway.until(lambda: len(refused()) == 1 and refused()[0].runner.state == "absent")
    (waiting,) = refused()
    assert waiting.runner.obstacle == f"{air.transport} holds 2 wearables, its controller takes no more"
    assert [name for name, _ in waiting.faults] == ["connect_failed"]
    others = [w for w in wearables if w is not waiting]
    assert [(w.runner.state, w.runner.counters.connects, w.faults) for w in others] == [("configuring", 1, [])] * 2
    await others[0].runner.stop()
    await gateway.until(lambda: waiting.runner.state == "configuring")


async def test_a_wearable_that_never_answers_gives_way_to_the_others(
    air: Air, host: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "YIELD_S", 0.5)
    deaf = await air.peripheral(1)
    gateway = host(air.transport)
    deaf.controller.deaf = True
    never = gateway.wearable(deaf.address, Script())
    gateway.start()
    await gateway.until(lambda: never.runner.state == "connecting")
    sound = [gateway.wearable((await air.peripheral(n)).address, Script()) for n in (2, 3)]
    running = [asyncio.create_task(w.runner.run()) for w in sound]
    started_s = time.monotonic()
    await gateway.until(lambda: all(w.runner.state == "configuring" for w in sound))
    assert time.monotonic() - started_s < 5.0
    assert [w.faults for w in sound] == [[], []]
    assert never.faults[0][0] == "timed_out"
    assert re.fullmatch(r"not connected within \d s", never.faults[0][1])
    for task in running:
        task.cancel()


async def test_one_that_is_bonded_heard_and_never_answers_is_told_to_have_lost_its_bond_perhaps(
    air: Air, host: Hosts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def held(_adapter: object, _address: str) -> Held:
        return Held(True)

    monkeypatch.setattr("gateway.ble.bumble_backend.BumbleAdapter.held", held)
    monkeypatch.setattr(rules, "CONNECT_S", 0.2)
    deaf = await air.peripheral()
    deaf.controller.deaf = True
    gateway = host(air.transport)
    admission = Admission(Records(tmp_path / "bonds.json"), Listed("left", deaf.address))
    never = gateway.wearable(deaf.address, Script(), admission=admission)
    gateway.start()
    await gateway.until(lambda: any(name == "bond_refused" for name, _ in never.faults))
    assert [name for name, _ in never.faults].count("timed_out") == 3
    assert never.faults[-1][1].endswith("if it was reset, `gateway forget left` and `gateway pair left`")


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_connection_of_which_the_wearable_knows_nothing_fails_at_once_and_is_tried_again(
    air: Air, host: Hosts, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    """Where the answer to its advertisement is lost, the central believes in a link for a while; at_once: it is told of
    its end together with its beginning."""
    peripheral, answers_lost = await air.peripheral(), [True, True]
    gateway = host(air.transport)
    wearable = gateway.wearable(peripheral.address, Script())
    peripheral.controller.losing = lambda packet: isinstance(packet, ll.ConnectInd) and answers_lost.pop()
    if at_once:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "call_later", _at_once(loop.call_later, peripheral.controller._fail))
    gateway.start()
    started_s = time.monotonic()
    await gateway.until(lambda: not answers_lost)
    peripheral.controller.losing = lambda _packet: False
    await gateway.until(lambda: wearable.runner.state == "configuring")
    assert time.monotonic() - started_s < 6.0  # three attempts and two backoffs take 2 s
    assert wearable.states.count("connecting") == 3
    assert {detail for _, detail in wearable.faults} == {"link lost"}


def _at_once(call_later: Callable[..., object], what: object) -> Callable[..., object]:
    def call(delay_s: float, callback: Callable[..., object], *args: object) -> object:
        return callback(*args) if callback == what else call_later(delay_s, callback, *args)

    return call
