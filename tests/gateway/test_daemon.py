"""What the composition root itself decides: a full store, which bundle answers, snapshots of a later version."""

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import struct

import numpy as np
import pytest

from gateway import events
from gateway.ble.bonds import Records
from gateway.ble.errors import RadioRejected
from gateway.ble.radio import Radio, Stranger
from gateway.bundle import load_bundle
from gateway.cli.demo import demo_bundle
from gateway.clock import Clock, SimulatedTime
from gateway.config import BundleSettings, WearableSettings, load_config
from gateway.daemon import (
    FULL_ROOM_BYTES,
    Daemon,
    SnapshotTooNew,
    Wearable,
    load_bundles,
    load_variant,
    run_daemon,
    unheard_lines,
)
from gateway.errors import InputRejected
from gateway.link.bonds import Remembered
from gateway.monitoring.drift import DriftSettings
from gateway.monitoring.gravity import MountingVerdict
from gateway.motion.axes import ROTATIONS, axes_text, parse_axes
from gateway.motion.samples import CHANNELS
from gateway.motion.windows import WindowShape
from gateway.pipeline import Pipeline
from gateway.profiles.conversation import Connected, Kind, Notified, Observe, ReadDone
from gateway.profiles.reference import CONFIG, INFO, LIVE, ReferenceDecoder, ReferenceProfile
from gateway.store import Store, Writer
from gateway.store.errors import StoreFailed, StoreFull
from gateway.store.rows import Derived, Parked
from gateway.stream.outcome import Model
from gateway.stream.progress import Progress
from gateway.stream.stream import SNAPSHOT_VERSION, Stream, StreamSettings

SESSION = 0xABCD
INFO_PAYLOAD = struct.pack(
    "<BBBBIIQ3bBBBHIQIIII", 1, 0, 1, 0, 32768, 500_000, 1, 1, 2, 3, 255, 1, 1, 0, 50_000, SESSION, 0, 0, 0, 0
)
CONFIG_PAYLOAD = struct.pack("<BBHIHHff", 1, 19, 0, 50_000, 8, 2000, 0.01, 0.05)
ADDRESS = "C0:FF:EE:00:00:01"


def frame(first, counts=(0,) * 6):
    head = struct.pack("<BBBBHHII", 0x10, 3, 19, 1, 0, SESSION, first, first * 655)
    return head + np.tile(np.array(counts, "<i2"), (19, 1)).tobytes()


class FullWriter:
    """Takes observations while it has room."""

    def __init__(self):
        self.rows = []
        self.free = 10**6

    def journal(self, wearable, kind, payload, at):
        if len(payload) > self.free:
            raise StoreFull(10**6 - self.free, 10**6)
        self.rows.append((kind, payload))
        return len(self.rows)

    def derived(self, derived: Derived):
        pass

    def room(self):
        return self.free


def wearable_with(writer, folder, profile="reference"):
    stream = Stream(
        decoder=ReferenceDecoder(),
        rate_hz=50.0,
        shape=WindowShape(200, 100),
        settings=StreamSettings(),
        drift=DriftSettings(),
        reference={},
        mounting=None,
    )
    pipeline = Pipeline(
        wearable="left",
        stream=stream,
        progress=Progress(),
        events=None,
        writer=writer,
        infer=None,
        snapshot_rows=1000,
    )
    model = Model("ab" * 32, "float32", ("sitting", "standing"), 200, 100, 50.0)
    settings = WearableSettings(id="left", address=ADDRESS, profile=profile)
    return Wearable(settings, model, pipeline, writer, Clock(), Records(folder / "bonds.json"))


def talk(runner, *events):
    """As the radio would: what the conversation wants journalled goes to the daemon."""
    for event in events:
        for command in runner._conversation.handle(event, 0):
            if isinstance(command, Observe):
                runner._observe(command.kind, command.payload)


async def turns_until(condition):
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")


async def seconds_until(condition):
    """What another process would have to poll for, too."""
    for _ in range(300):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never came")


@pytest.mark.parametrize(
    ("profile", "firmware"),
    [("movesense", "; is profile 'movesense' the right one for it? If so: a Movesense needs a firmware with the GATT "),
     ("thingy52", "; is profile 'thingy52' the right one for it?\n")],
)  # fmt: skip
def test_a_wearable_without_the_service_is_told_with_what_to_do(profile, firmware, tmp_path, caplog):
    wearable = wearable_with(FullWriter(), tmp_path, profile)
    wearable._fault("other_profile", "it has no service 34802252-7185-4d5d-b431-630e7050e8f0")
    told = caplog.messages[-1] + "\n"
    assert told.startswith(f"left ({ADDRESS}): it has no service 34802252-7185-4d5d-b431-630e7050e8f0")
    assert firmware in told


async def test_what_a_full_store_did_not_take_is_asked_for_again_once_there_is_room(tmp_path):
    writer = FullWriter()
    wearable = wearable_with(writer, tmp_path)
    radio = Radio(adapter=None)
    wearable.link_up(radio, 1.0)
    running = asyncio.create_task(wearable.run(radio, 1.0))
    await asyncio.sleep(0)
    start = (Connected(), ReadDone(INFO, INFO_PAYLOAD, 0), ReadDone(CONFIG, CONFIG_PAYLOAD, 0))
    first = wearable.runner
    talk(first, *start, Notified(LIVE, frame(0)))
    taken = len(writer.rows)
    writer.free = 0
    talk(first, Notified(LIVE, frame(19)), Notified(LIVE, frame(38)))
    assert len(writer.rows) == taken
    await turns_until(lambda: first.state == "stopped")
    assert wearable.runner is first
    wearable.committed(taken)
    await asyncio.sleep(0)
    assert wearable.runner is first, "there is still no room"
    writer.free = FULL_ROOM_BYTES
    wearable.committed(taken)
    await turns_until(lambda: wearable.runner is not first)
    talk(wearable.runner, *start, Notified(LIVE, frame(0)), Notified(LIVE, frame(19)))
    frames = [payload for kind, payload in writer.rows if kind is Kind.FRAME]
    assert frames == [frame(0), frame(19)]
    running.cancel()


async def test_what_two_operators_do_with_a_wearable_ends_before_its_link_begins_again(tmp_path):
    """One pairs it while the other one forgets it."""
    wearable = wearable_with(FullWriter(), tmp_path)
    radio = Radio(adapter=None)
    wearable.link_up(radio, 1.0)
    running = asyncio.create_task(wearable.run(radio, 1.0))
    first = wearable.runner
    await asyncio.sleep(0)
    async with wearable.aside():
        async with wearable.aside():
            assert first.state == "stopped"
        await asyncio.sleep(0.05)
        assert wearable.runner is first
    await turns_until(lambda: wearable.runner is not first)
    running.cancel()


def test_a_contradicted_mounting_is_told_with_the_one_that_fits(tmp_path):
    wearable = wearable_with(FullWriter(), tmp_path)
    assert wearable.doubt() is None
    turned = next(n for n, rotation in enumerate(ROTATIONS) if axes_text(rotation) == "-x,-y,z")
    wearable.settings = wearable.settings.model_copy(update={"mounting": "y,-x,z"})
    wearable.pipeline.stream._mounting = parse_axes("y,-x,z")
    wearable.pipeline.stream._mounting_watch.verdict = MountingVerdict("contradicted", turned)
    assert wearable.doubt() == "gravity contradicts its mounting y,-x,z; -y,x,z would fit better"


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "gateway.toml"
    file.write_text(
        '[gateway]\nid = "g1"\nstate_dir = "state"\n[radio]\nbackend = "bumble"\ntransport = "tcp-client:127.0.0.1:1"\n'
        f'[bundle]\npath = "{demo_bundle()}"\n[sync]\nhost = "127.0.0.1"\nport = 1\n'
        f'[[wearable]]\nid = "left"\naddress = "{ADDRESS}"\n'
    )
    return load_config(file)


async def test_a_snapshot_of_a_later_version_is_refused_and_kept(config):
    with Store.open(config.store) as store:
        writer = Writer(store, asyncio.get_running_loop(), lambda committed: None)
        writer.derived(Derived("left", progress=b"", snapshot=(1, SNAPSHOT_VERSION + 1, b"from the future")))
        await writer.close()
    with pytest.raises(
        SnapshotTooNew, match=f"left: snapshot version {SNAPSHOT_VERSION + 1}, this program knows up to"
    ):
        await run_daemon(config, clock=Clock())
    with Store.open(config.store) as store:
        assert store.stream("left").snapshot == b"from the future"


@pytest.mark.parametrize("what", ["progress", "snapshot"])
@pytest.mark.parametrize("damaged", [b"{", b"[]", b'{"windows": {}}', b'"\xff"'])
async def test_a_damaged_record_of_a_stream_is_told_and_ends_no_daemon(config, tmp_path, caplog, what, damaged):
    records = {"progress": b"", "snapshot": b""} | {what: damaged}
    with Store.open(config.store) as store:
        writer = Writer(store, asyncio.get_running_loop(), lambda committed: None)
        writer.derived(
            Derived("left", progress=records["progress"], snapshot=(1, SNAPSHOT_VERSION, records["snapshot"]))
        )
        await writer.close()
    status = tmp_path / "status.json"
    daemon = asyncio.create_task(run_daemon(config, clock=Clock(), status_file=status))
    async with asyncio.timeout(20):
        await seconds_until(lambda: status.exists() or daemon.done())
        if not daemon.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await daemon
    assert any(message.startswith("left: ") and "cannot be read" in message for message in caplog.messages)


async def test_a_variant_that_the_bundle_lacks_is_refused_by_name(config):
    wrong = config.model_copy(update={"bundle": config.bundle.model_copy(update={"variant": "int4"})})
    with pytest.raises(InputRejected, match="int4"):
        await run_daemon(wrong, clock=Clock())
    assert load_bundle(config.bundle.path).manifest.default_variant


async def test_a_writer_that_has_ended_ends_the_daemon_in_one_line(config, monkeypatch):
    def ends(self, batch):
        raise RuntimeError("a fault of its own")

    monkeypatch.setattr(Writer, "_commit", ends)
    with pytest.raises(StoreFailed, match="the writer has ended: RuntimeError: a fault of its own"):
        async with asyncio.timeout(20):
            await run_daemon(config, clock=Clock(SimulatedTime(10**18 * 2, 1.0, 0)))


async def test_a_medium_that_takes_nothing_more_does_not_keep_the_daemon_from_stopping(config, tmp_path, monkeypatch):
    def full(connection, batch, seq):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("gateway.store.writer.write", full)
    monkeypatch.setattr("gateway.daemon.STOP_COMMIT_S", 0.5)
    status = tmp_path / "status.json"
    daemon = asyncio.create_task(run_daemon(config, clock=Clock(SimulatedTime(10**18 * 2, 1.0, 0)), status_file=status))
    async with asyncio.timeout(20):
        await seconds_until(lambda: status.exists() and "disk is full" in status.read_text())
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoreFailed, match="database or disk is full"):
            await daemon


async def test_a_status_file_that_cannot_be_written_is_told_once_and_stops_nothing(config, tmp_path, caplog):
    status = tmp_path / "missing" / "status.json"
    daemon = asyncio.create_task(run_daemon(config, clock=Clock(), status_file=status))
    async with asyncio.timeout(20):
        await seconds_until(lambda: any("status file" in message for message in caplog.messages))
        status.parent.mkdir()
        await seconds_until(status.exists)
        os.kill(os.getpid(), signal.SIGTERM)
        await daemon
    assert sum("status file" in message for message in caplog.messages) == 1


async def test_a_transport_that_no_waiting_can_help_ends_the_daemon_in_one_line(config):
    radio = config.radio.model_copy(update={"transport": "nonsense:1"})
    with pytest.raises(RadioRejected, match="nonsense"):
        async with asyncio.timeout(20):
            await run_daemon(config.model_copy(update={"radio": radio}), clock=Clock())


async def test_what_keeps_a_wearable_from_being_connected_is_published(config, monkeypatch):
    """Nothing listens at its transport. The next start says it no second time, and what is worse at once."""
    monkeypatch.setattr("gateway.link.trouble.LASTING_S", 0.5)
    monkeypatch.setattr("gateway.daemon.TICK_S", 0.1)

    async def published(count):
        with Store.open(config.store, destinations=[config.sync.destination]) as store:
            daemon = Daemon(config, Clock(), load_bundles(config), store)
            running = asyncio.create_task(daemon.run(None))
            async with asyncio.timeout(20):
                await seconds_until(lambda: daemon.radio.status.startswith("tcp-client"))
                await seconds_until(lambda: len(store.events().after(0, 10)) == count)
                await asyncio.sleep(1.0)  # twice what a second telling would take
                os.kill(os.getpid(), signal.SIGTERM)
                await running
            return [events.decode(event.payload).data for event in store.events().after(0, 10)]

    (told,) = await published(1)
    assert (told.link, told.trouble, told.links) == ("disconnected", "adapter_away", 0)
    assert told.trouble_why.startswith("tcp-client:127.0.0.1:1: ")
    assert await published(1) == [told]
    Records(config.bonds_file).remember("left", ADDRESS, Remembered.FORGOTTEN)
    _, told = await published(2)
    assert told.trouble == "refused"
    assert told.trouble_why == "forgotten, and not connected until `gateway pair left`"


async def test_events_that_the_broker_has_refused_are_in_the_status_file_and_degrade(config, tmp_path):
    with Store.open(config.store) as store:
        writer = Writer(store, asyncio.get_running_loop(), lambda committed: None)
        writer.park(Parked(config.sync.destination, 3, "Not authorized"))
        await writer.close()
    status = tmp_path / "status.json"
    daemon = asyncio.create_task(run_daemon(config, clock=Clock(), status_file=status))
    async with asyncio.timeout(20):
        await seconds_until(status.exists)
        os.kill(os.getpid(), signal.SIGTERM)
        await daemon
    told = json.loads(status.read_text())
    assert told["events"]["refused"] == 1
    assert "broker refuses 1 events: Not authorized" in told["health"]["reasons"]


def test_a_model_gets_its_own_channels_of_the_stream_s_six(bundle_of):
    """Softmax of the means of Gz and Ax, in this order; the windows stay six channels wide."""
    windows = np.random.default_rng(1).normal([1, 9, 9, -9, -9, 2], 1, (5, 200, 6)).astype(np.float32)
    powers = np.exp(windows[:, :, [5, 0]].mean(axis=1))
    answers = load_variant(bundle_of(["Gz", "Ax"], ["deg/s", "m/s^2"]), "float32").answer(windows)
    np.testing.assert_allclose(answers, powers / powers.sum(axis=1, keepdims=True), atol=1e-5)


def with_bundles(config, common, *own):
    """One wearable for each of `own`, which name bundles or None; a common one for the others, or None."""
    first = config.wearables[0]
    wearables = tuple(
        first.model_copy(update={"id": f"w{n}", "address": f"C0:FF:EE:00:00:0{n}", "bundle": path, "mounting": "x,y,z"})
        for n, path in enumerate(own)
    )
    bundle = BundleSettings(path=common) if common else None
    return config.model_copy(update={"bundle": bundle, "wearables": wearables})


async def test_wearables_with_bundles_of_their_own_get_each_its_own_windows_and_answers(config, bundle_of):
    """Channels, window, hop and rate differ; the motion is constant, so each model's answer is known."""
    at_50 = bundle_of(["Ax", "Gz"], ["m/s^2", "deg/s"], window=200, hop=100, name="at50")
    at_25 = bundle_of(["Gx", "Az", "Ay"], ["deg/s", "m/s^2", "m/s^2"], window=80, hop=40, rate_hz=25.0, name="at25")
    config = with_bundles(config, at_50.path, None, at_25.path)
    counts = np.array([30, 20, 90, 10, 0, 8])
    means = dict(zip(CHANNELS, counts * ([0.01] * 3 + [0.05] * 3), strict=True))
    with Store.open(config.store, destinations=[config.sync.destination]) as store:
        daemon = Daemon(config, Clock(), load_bundles(config), store)
        try:
            for wearable in daemon.wearables:
                pipeline = wearable.pipeline
                for kind, payload in ((Kind.INFO, INFO_PAYLOAD), (Kind.CONFIG, CONFIG_PAYLOAD)):
                    pipeline.observe(kind, payload, Clock().now())
                for first in range(0, 2000, 19):
                    pipeline.observe(Kind.FRAME, frame(first, counts), Clock().now())
                await pipeline.drain()
            await daemon.writer.flush()
            logged = [events.decode(event.payload) for event in store.events().after(0, 1000)]
            told = [wearable.status()["bundle"] for wearable in daemon.wearables]
        finally:
            await daemon.writer.close()
    assert told == [{"digest": bundle.digest, "variant": "float32"} for bundle in (at_50, at_25)]
    for wearable, bundle, due in (("w0", at_50, 19), ("w1", at_25, 23)):
        mine = [event for event in logged if event.source == events.wearable_source(wearable)]
        manifest = bundle.manifest
        predictions = [event for event in mine if isinstance(event, events.Prediction)]
        numbers = [event.data.windows[0].number for event in predictions]
        assert numbers == list(range(len(numbers)))
        assert due <= len(numbers) <= due + 1  # the filter's reach holds the last one back
        powers = np.exp([means[channel] for channel in manifest.channels])
        for event in predictions:
            data, record = event.data, event.data.windows[0]
            assert (data.bundle, data.window, data.hop) == (bundle.digest, manifest.window, manifest.hop)
            assert data.rate_hz == manifest.rate_hz
            assert record.start_s == record.number * manifest.hop / manifest.rate_hz
            assert list(record.probabilities) == list(manifest.labels)
            np.testing.assert_allclose(list(record.probabilities.values()), powers / powers.sum(), atol=1e-4)
        (state,) = (event for event in mine if isinstance(event, events.State))
        assert (state.data.bundle, state.data.variant) == (bundle.digest, "float32")


def test_a_bundle_that_several_wearables_use_is_loaded_and_tested_once(config, monkeypatch):
    tested = []
    monkeypatch.setattr("gateway.daemon.self_test", lambda predictor, bundle, name: tested.append(name))
    demo = config.bundle.path
    config = with_bundles(config, None, demo, demo, demo, demo)
    (w0, w1, w2, w3) = config.wearables
    w1 = w1.model_copy(update={"variant": "float32"})  # the default, by name
    w2 = w2.model_copy(update={"variant": "dynamic"})
    config = config.model_copy(update={"wearables": (w0, w1, w2, w3)})
    loaded = load_bundles(config)
    assert tested == ["float32", "dynamic"]
    of = [loaded[config.bundle_of(wearable)] for wearable in config.wearables]
    assert of[0] is of[1] is of[3]
    assert of[2].model.variant == "dynamic"


async def test_a_model_that_no_wearable_can_feed_is_refused_by_name(config, bundle_of):
    for channels, units, words in (
        (["Ax", "Mx"], ["m/s^2", "uT"], "the model takes Mx, which no wearable gives"),
        (["Ax", "Gx"], ["g", "deg/s"], "the model takes Ax in g, a wearable gives it in m/s^2"),
    ):
        path = bundle_of(channels, units).path
        wrong = config.model_copy(update={"bundle": config.bundle.model_copy(update={"path": path})})
        with pytest.raises(InputRejected, match=re.escape(words)):
            await run_daemon(wrong, clock=Clock())
        shutil.rmtree(path)


class NearBy(Radio):
    def __init__(self, *found):
        self._strangers = {one.address: one for one in found}


def test_a_wearable_that_is_not_heard_is_told_with_those_that_it_may_be():
    unheard = WearableSettings(id="left", address=ADDRESS)
    radio = NearBy(
        Stranger("C0:FF:EE:00:00:10", "wearable 0010", frozenset([ReferenceProfile.service_uuid])),
        Stranger("C0:FF:EE:00:00:11", None, frozenset([ReferenceProfile.service_uuid])),
        Stranger("AA:BB:CC:00:00:13", "Movesense 1744", frozenset()),
        Stranger("AA:BB:CC:00:00:12", "somebody's watch", frozenset(["0000180d-0000-1000-8000-00805f9b34fb"])),
    )
    told = (
        "left (C0:FF:EE:00:00:01): not heard for 60 s; is it switched on, near, connected to nothing else, and the "
        "address right?"
    )
    assert unheard_lines([unheard], NearBy()) == [told]
    near = "C0:FF:EE:00:00:10 (wearable 0010), C0:FF:EE:00:00:11"
    assert unheard_lines([unheard], radio) == [f"{told} Of its profile there is {near}."]
