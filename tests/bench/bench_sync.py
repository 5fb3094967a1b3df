"""What sending costs: replay against paho itself, over a long way, in memory and on the medium; bytes a window.

    python tests/bench/bench_sync.py [--quick] [--events 200000] [--long]

Events wait in a store as an outage leaves them; the publisher, with its store and writer, runs in a process of its own
against a real mosquitto. paho alone sends the same payloads with the same properties from memory, in rounds between:
only ratios travel. The long way is a proxy that hands on every byte 25 ms later in either direction. Memory is
resident, of the publisher's process; bytes written are that process's, as the kernel counts them (proc(5), wchar and
write_bytes).
"""

import argparse
import asyncio
import functools
import getpass
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

from gateway import events
from gateway.clock import Clock, Instant
from gateway.store import Store, StoreSettings, Writer
from gateway.store.batch import Batch, write
from gateway.store.rows import Checkpoint, Cursor, LoggedEvent
from gateway.sync import Publisher, SyncSettings

WINDOW = 100
WIDE = 1000
"""The most that may be configured: the most memory."""
HALF_WAY_S = 0.025
ROUNDS = 3
PAYLOADS_DIFFERENT = 1000
TOPIC = "fidget/v1/bench/left/prediction"
START_WITHIN_S = 20.0
SAMPLE_S = 0.5


@functools.cache
def payloads() -> tuple[bytes, ...]:
    """Predictions of one window, as they go on the wire."""
    import numpy as np

    from tests.gateway.test_coalescing import steady, wire_alone

    rng = np.random.default_rng(1)
    return tuple(wire_alone(steady(1, rng)) for _ in range(PAYLOADS_DIFFERENT))


def payload(number: int) -> bytes:
    return payloads()[number % PAYLOADS_DIFFERENT]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Mosquitto:
    """No limit of its own on what is in flight."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        file = folder / "mosquitto.conf"
        file.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_inflight_messages 0\n"
            f"user {getpass.getuser()}\n"
        )
        binary = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self._process = subprocess.Popen(
            [binary, "-c", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + START_WITHIN_S
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise SystemExit("mosquitto does not start")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


# A long way.


async def delaying(target: int) -> None:
    """Says its port, then hands on for ever."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop, waiting = asyncio.get_running_loop(), deque[tuple[float, bytes]]()
        more = asyncio.Event()

        async def deliver() -> None:
            while True:
                await more.wait()
                while waiting:
                    due_s, data = waiting.popleft()
                    await asyncio.sleep(max(0.0, due_s - loop.time()))
                    if not data:
                        writer.close()
                        return
                    writer.write(data)
                more.clear()

        delivering = asyncio.create_task(deliver())
        while data := await reader.read(1 << 16):
            waiting.append((loop.time() + HALF_WAY_S, data))
            more.set()
        waiting.append((loop.time() + HALF_WAY_S, b""))
        more.set()
        await delivering

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# paho alone.


def raw(port: int, count: int, window: int) -> tuple[float, float]:
    """Messages a second, and a second of CPU, of paho in a loop of its own, with the properties that events have."""
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.max_inflight_messages_set(0)
    connected, answered = [], [0]
    client.on_connect = lambda *_: connected.append(True)

    def on_publish(*_: Any) -> None:
        answered[0] += 1

    client.on_publish = on_publish
    client.connect("127.0.0.1", port)
    while not connected:
        client.loop(0.1)
    sent, began_s, began_cpu_s = 0, time.perf_counter(), time.process_time()
    while answered[0] < count:
        while sent < count and sent - answered[0] < window:
            properties = Properties(PacketTypes.PUBLISH)
            properties.ContentType = events.CONTENT_TYPE
            properties.PayloadFormatIndicator = 1
            properties.UserProperty = ("replayed", "true")
            client.publish(TOPIC, payload(sent), qos=1, properties=properties)
            sent += 1
        client.loop(0.1)
    rates = count / (time.perf_counter() - began_s), count / (time.process_time() - began_cpu_s)
    client.disconnect()
    return rates


# The publisher, in a process of its own.


def fill(path: Path, count: int) -> None:
    with Store.open(StoreSettings(path=path)) as store:
        last = store.last_seq()
        for first in range(last, last + count, 10_000):
            rows = [
                LoggedEvent(
                    "prediction", "left", "urn:l", f"5f3a9c0012d4e677-{n}", TOPIC, payload(n), n * 10**9, "boot"
                )
                for n in range(first, min(first + 10_000, last + count))
            ]
            write(store.connection, Batch(events=rows), first)
        store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def written() -> tuple[int, int]:
    """What the process has handed to the kernel, and what went to the medium."""
    said = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(said["wchar"]), int(said["write_bytes"])


async def publish(path: Path, port: int, window: int, live: bool) -> dict[str, Any]:
    """All that waits; with live an event a tenth of a second meanwhile, whose delays are told."""
    loop, started_s = asyncio.get_running_loop(), time.monotonic() - _since_start_s()
    with Store.open(StoreSettings(path=path), destinations=["broker"]) as store:
        last, made = store.last_seq(), list[Publisher]()
        writer = Writer(store, loop, lambda told: made[0].committed(told.event_seq))
        publisher = Publisher(
            SyncSettings(host="127.0.0.1", port=port, window=window, client_id="bench"), "bench", store, writer, Clock()
        )
        made.append(publisher)
        running = asyncio.create_task(publisher.run())
        while not publisher.connected:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        ready_s = time.monotonic() - started_s
        before, count = written(), publisher.waiting
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        resident, delays = list[tuple[float, float]](), list[float]()
        feeding = asyncio.create_task(_feed(publisher, writer, delays)) if live else None
        while publisher.acknowledged < last:
            resident.append((publisher.acknowledged / last, resident_mb()))
            await asyncio.sleep(0.02 if count < 50_000 else SAMPLE_S)
        took_s, took_cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
        if feeding is not None:
            feeding.cancel()
        await writer.flush()
        after = written()
        steady = [mb for share, mb in resident if share > 0.1] or [0.0]
        await publisher.stop(5.0)
        await running
        # as half an hour later: the broker will not ask for any of it again
        writer.cursor(Cursor("broker", last), [Checkpoint(last, Clock().now())])
        for later in range(2 if count >= 50_000 else 0):  # the first marks what is acknowledged
            now, left = Clock().now(), -1
            late = Instant(now.boot_id, now.mono_ns + later * 10**15, now.utc_ns, now.utc_synced)
            while left != (left := store.events().first_seq()):
                writer.trim(late)
                await writer.flush()
                await asyncio.sleep(0.01)
        trimmed = written()
        deleted = store.events().first_seq() - 1
        await writer.close()
    return {
        "rate": count / took_s,
        "cpu_rate": count / took_cpu_s,
        "ready_s": ready_s,
        "resident_mb": statistics.median(steady),
        "grown_mb": max(steady) - steady[0],
        "cursor": [(late - early) / count for early, late in zip(before, after, strict=True)],
        "deletes": [(late - early) / max(1, deleted) for early, late in zip(after, trimmed, strict=True)],
        "deleted": deleted,
        "again": publisher.counters.sent_again,
        "delays_s": delays,
    }


async def _feed(publisher: Publisher, writer: Writer, delays: list[float]) -> None:
    """From the commit to PUBACK."""
    from gateway.store.rows import Derived

    loop, number = asyncio.get_running_loop(), 0
    while True:
        name = f"live-{number}"
        writer.derived(Derived(None, (LoggedEvent("state", None, "urn:b", name, "t/b", payload(number), 0, "boot"),)))
        await writer.flush()
        await asyncio.sleep(0)
        seq, began_s = publisher._last_seq, loop.time()
        while not publisher._cursor.has(seq):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        delays.append(loop.time() - began_s)
        number += 1
        await asyncio.sleep(0.1)


def _since_start_s() -> float:
    """Since this process began (proc(5), /proc/PID/stat, field 22)."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / 100


def in_a_process(path: Path, port: int, window: int = WINDOW, live: bool = False) -> dict[str, Any]:
    argv = [sys.executable, __file__, "--publish", str(path), str(port), str(window), str(int(live))]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


# What is told.


def told(what: str, value: str, bound: str = "") -> None:
    print(f"  {what:58} {value:>22}   {bound}", flush=True)


def volume() -> None:
    import numpy as np

    from tests.gateway.test_coalescing import encoded, steady, wire_alone

    print("bytes of payload a window, 11 classes:")
    rng = np.random.default_rng(1)
    told("each window an event", f"{len(wire_alone(steady(1, rng))):.0f}")
    for count in (2, 5, 10, 30):
        size = len(encoded(steady(count, rng))) / count
        told(f"{count} windows of one activity together", f"{size:.0f}", "<= 150 for a minute" if count == 30 else "")


def replay(folder: Path, port: int, count: int) -> None:
    print(f"replay of {count} events of {len(payload(0))} bytes, QoS 1, window {WINDOW}, in {ROUNDS} rounds:")
    ours, theirs = list[dict[str, Any]](), list[tuple[float, float]]()
    part = count // ROUNDS
    for turn in range(ROUNDS):
        path = folder / f"replay-{turn}.db"
        fill(path, part)
        theirs.append(raw(port, part, WINDOW))
        ours.append(in_a_process(path, port))
        path.unlink()
    wait, _ = raw(port, max(200, count // 200), 1)
    rate = max(one["rate"] for one in ours)
    ratio = statistics.median(one["rate"] / their for one, (their, _) in zip(ours, theirs, strict=True))
    of_cpu = statistics.median(one["cpu_rate"] / their for one, (_, their) in zip(ours, theirs, strict=True))
    told("events a second", f"{rate:.0f}")
    told("paho alone, from memory", f"{max(their for their, _ in theirs):.0f}")
    told("ratio, median of rounds", f"{ratio:.2f}", ">= 0.9")
    told("ratio by CPU time (on a busy machine), store included", f"{of_cpu:.2f}")
    told("publish and wait (paho alone)", f"{wait:.0f}", f"{rate / wait:.1f} x slower")


def long_way(folder: Path, port: int, count: int) -> None:
    with subprocess.Popen([sys.executable, __file__, "--delay", str(port)], stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        far = int(proxy.stdout.readline())
        path = folder / "far.db"
        fill(path, count)
        alone, _ = raw(far, count // 2, WINDOW)
        found = in_a_process(path, far, live=True)
        path.unlink()
        limit = WINDOW / (2 * HALF_WAY_S)
        print(f"behind a round trip of {2000 * HALF_WAY_S:.0f} ms, window {WINDOW}, {count} events:")
        told("events a second", f"{found['rate']:.0f}")
        told("of window / round trip", f"{found['rate'] / limit:.2f}", ">= 0.7")
        told("paho alone, of window / round trip", f"{alone / limit:.2f}", "what this machine and proxy give")
        delays = sorted(found["delays_s"])
        if delays:
            median_s, late_s = statistics.median(delays), delays[int(0.95 * (len(delays) - 1))]
            told("new event, commit to PUBACK, meanwhile: p50, p95", f"{median_s:.3f} s, {late_s:.3f} s")
        proxy.kill()


def at_length(folder: Path, port: int, count: int) -> None:
    path = folder / "long.db"
    fill(path, count)
    found = in_a_process(path, port, window=WIDE)
    print(f"a store with {count} events that wait ({path.stat().st_size / 1e6:.0f} MB), window {WIDE}:")
    told("events a second", f"{found['rate']:.0f}")
    told("process start to connected", f"{found['ready_s']:.2f} s")
    told("resident", f"{found['resident_mb']:.1f} MB")
    told("grown over the replay", f"{found['grown_mb']:.2f} MB", "<= 1")
    told("written an event, sending: calls, medium", "{:.1f}, {:.1f} B".format(*found["cursor"]), "<= 50")
    told(f"written an event, {found['deleted']} deleted: calls, medium", "{:.1f}, {:.1f} B".format(*found["deletes"]))
    told("sent twice", str(found["again"]))


# From the gesture to PUBACK.

ACTIVITY_S = 12.7
"""No multiple of the hop, so that onsets lie anywhere in a window."""


async def onsets(folder: Path, port: int, wearables: int, seconds: float) -> tuple[list[float], int]:
    """From each change of the simulated motion to the arrival of the first window wholly after it, which a subscriber
    gets as PUBACK goes out; how many of these windows came as a change of activity."""
    from paho.mqtt.client import Client, MQTTMessage
    from paho.mqtt.enums import CallbackAPIVersion

    from gateway.cli.demo import demo_bundle
    from gateway.demo import arrange
    from gateway.demo.announce import announced
    from gateway.demo.processes import Children
    from gateway.demo.simulator import SimulatorControl

    arrived = list[tuple[int, bytes]]()

    def heard(_client: Client, _userdata: object, message: MQTTMessage) -> None:
        arrived.append((time.monotonic_ns(), message.payload))

    subscriber = Client(CallbackAPIVersion.VERSION2)
    subscriber.on_message = heard
    subscriber.on_connect = lambda client, *_: client.subscribe("fidget/v1/+/+/prediction", qos=1)
    subscriber.connect("127.0.0.1", port)
    subscriber.loop_start()
    files = arrange.Files(folder)
    sim_time = arrange.simulated_time(1.0)
    names = arrange.wearable_names(wearables)
    arrange.write_scenario(files, names, ("sitting", "hand_tapping", "standing", "nail_biting"), 7200.0, ())
    text = files.scenario.read_text().replace(f":{arrange.ACTIVITY_S:g}", f":{ACTIVITY_S}")
    files.scenario.write_text(text)
    async with Children(folder) as children:
        simulator = await children.start("simulator", arrange.simulator_argv(files, sim_time))
        control_at = await simulator.says(lambda line: announced(line, "control"), 60)
        radio = await simulator.says(announced, 60)
        async with SimulatorControl(*control_at) as control:
            arrange.write_configuration(
                files,
                gateway_id="bench",
                bundle=demo_bundle(),
                radio=radio,
                broker=arrange.Broker("127.0.0.1", port),
                wearables=await control.status(),
                settings={"store": {"commit_on_change": True}},
            )
            await children.start("daemon", arrange.daemon_argv(files, sim_time))
            await asyncio.sleep(seconds)
    subscriber.loop_stop()
    t0_ns = int(sim_time.split(":")[2])
    return _from_onsets(arrived, t0_ns)


def _from_onsets(arrived: list[tuple[int, bytes]], t0_ns: int) -> tuple[list[float], int]:
    windows = dict[tuple[str, int], tuple[float, events.WindowRecord]]()
    for mono_ns, payload in arrived:
        event = events.decode(payload)
        assert isinstance(event, events.Prediction)
        for window in event.data.windows:
            windows.setdefault((event.source, window.number), ((mono_ns - t0_ns) / 1e9, window))
    found, changes = list[float](), 0
    for (source, number), (came_s, window) in windows.items():
        parts = number * 2.0 // ACTIVITY_S
        onset_s = parts * ACTIVITY_S if number * 2.0 % ACTIVITY_S else number * 2.0
        first_after = onset_s > 0 and (number - 1) * 2.0 < onset_s
        if not first_after or window.taken_mono_us is None or number < 10:  # links and imports settle
            continue
        found.append(came_s - window.taken_mono_us / 1e6 + number * 2.0 - onset_s)
        before = windows.get((source, number - 1))
        changes += before is not None and before[1].activity != window.activity
    return sorted(found), changes


def latency(folder: Path, port: int, wearables: int, seconds: float) -> None:
    found, changes = asyncio.run(onsets(folder, port, wearables, seconds))
    print(f"from the onset of a gesture to PUBACK of the first window wholly after it, {wearables} wearables:")
    if not found:
        told("no onset in this time", "-")
        return
    told("onsets; windows that came as a change of activity", f"{len(found)}; {changes}")
    told("p50", f"{statistics.median(found):.2f} s", "<= 6; 5 is the least, by window and hop")
    told("p95", f"{found[int(0.95 * (len(found) - 1))]:.2f} s", "<= 7.5; 6 is the least")


def main() -> None:
    parser = argparse.ArgumentParser(description="What sending costs.")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--quick", action="store_true", help="3,000 events: whether it still runs")
    parser.add_argument("--long", action="store_true", help="1,000,000 events")
    parser.add_argument("--only", choices=("volume", "replay", "far", "length", "latency"))
    parser.add_argument("--publish", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--delay", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.delay is not None:
        asyncio.run(delaying(args.delay))
        return
    if args.publish is not None:
        path, port, window, live = args.publish
        print(json.dumps(asyncio.run(publish(Path(path), int(port), int(window), live == "1"))))
        return
    count = 3000 if args.quick else 1_000_000 if args.long else args.events
    wanted = [args.only] if args.only else ["volume", "replay", "far", "length", "latency"]
    if "volume" in wanted:
        volume()
    if wanted == ["volume"]:
        return
    with tempfile.TemporaryDirectory(prefix="fidget-bench-") as name:
        folder = Path(name)
        broker = Mosquitto(folder)
        try:
            if "replay" in wanted:
                replay(folder, broker.port, min(count, 200_000))
            if "far" in wanted:
                long_way(folder, broker.port, min(count, 20_000))
            if "length" in wanted:
                at_length(folder, broker.port, count)
            if "latency" in wanted:
                latency(folder, broker.port, 2 if args.quick else 4, 45 if args.quick else 180)
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
