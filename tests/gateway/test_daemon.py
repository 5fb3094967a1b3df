"""What the composition root itself decides: a full store, bundles that do not fit, snapshots of a later version."""

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

from gateway.ble.errors import RadioRejected
from gateway.ble.radio import Radio
from gateway.bundle import load_bundle, write_bundle
from gateway.cli.demo import demo_bundle
from gateway.clock import Clock, SimulatedTime
from gateway.config import WearableSettings, load_config
from gateway.daemon import FULL_ROOM_BYTES, Daemon, SnapshotTooNew, Wearable, run_daemon
from gateway.errors import InputRejected
from gateway.inference import load_predictor
from gateway.monitoring.drift import DriftSettings
from gateway.motion.windows import WindowShape
from gateway.pipeline import Pipeline
from gateway.profiles.conversation import Connected, Kind, Notified, Observe, ReadDone
from gateway.profiles.reference import CONFIG, INFO, LIVE, ReferenceDecoder
from gateway.store import Store, Writer
from gateway.store.errors import StoreFailed, StoreFull
from gateway.store.rows import Derived, Parked
from gateway.stream.progress import Progress
from gateway.stream.stream import SNAPSHOT_VERSION, Stream, StreamSettings

SESSION = 0xABCD
INFO_PAYLOAD = struct.pack(
    "<BBBBIIQ3bBBBHIQIIII", 1, 0, 1, 0, 32768, 500_000, 1, 1, 2, 3, 255, 1, 1, 0, 50_000, SESSION, 0, 0, 0, 0
)
CONFIG_PAYLOAD = struct.pack("<BBHIHHff", 1, 19, 0, 50_000, 8, 2000, 0.01, 0.05)
ADDRESS = "C0:FF:EE:00:00:01"


def frame(first):
    head = struct.pack("<BBBBHHII", 0x10, 3, 19, 1, 0, SESSION, first, first * 655)
    return head + np.zeros((19, 6), "<i2").tobytes()


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


def wearable_with(writer):
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
    return Wearable(WearableSettings(id="left", address=ADDRESS), pipeline, writer, Clock())


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


async def test_what_a_full_store_did_not_take_is_asked_for_again_once_there_is_room():
    writer = FullWriter()
    wearable = wearable_with(writer)
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


async def test_a_model_of_another_rate_than_the_wearables_is_refused(config, tmp_path):
    shipped = load_bundle(config.bundle.path)
    manifest = shipped.manifest.model_copy(update={"rate_hz": 25.0})
    files = {m.file: (shipped.path / m.file).read_bytes() for m in manifest.members().values()}
    write_bundle(tmp_path / "slow", manifest, files)
    slow = config.model_copy(update={"bundle": config.bundle.model_copy(update={"path": tmp_path / "slow"})})
    with pytest.raises(InputRejected, match="left: 50 samples a second, its model takes 25"):
        await run_daemon(slow, clock=Clock())


async def test_a_model_gets_its_own_channels_of_the_stream_s_six(config, bundle_of):
    """Softmax of the means of Gz and Ax, in this order; the windows stay six channels wide."""
    bundle = bundle_of(["Gz", "Ax"], ["deg/s", "m/s^2"])
    windows = np.random.default_rng(1).normal([1, 9, 9, -9, -9, 2], 1, (5, 200, 6)).astype(np.float32)
    powers = np.exp(windows[:, :, [5, 0]].mean(axis=1))
    with Store.open(config.store, destinations=[config.sync.destination]) as store:
        daemon = Daemon(config, Clock(), bundle, load_predictor(bundle), store)
        answers = await daemon._infer(windows)
        await daemon.writer.close()
    np.testing.assert_allclose(answers, powers / powers.sum(axis=1, keepdims=True), atol=1e-5)


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
