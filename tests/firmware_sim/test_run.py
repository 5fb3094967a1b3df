"""`firmware-sim run` as a process of its own, and Bumble hosts of this process that attach to its radio."""

import asyncio
import json
import os
import signal
import struct
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bumble import core, gatt_client, hci
from bumble.device import Connection, Device, Peer
from bumble.transport import open_transport
from bumble.transport.common import Transport

SERVICE, INFO, CONFIG, LIVE, BACKLOG, CONTROL, TIME = (
    core.UUID(f"f1d9{number:04x}-6a3b-4d6e-8f52-0c1b7a9d4e21") for number in range(0xE700, 0xE707)
)
ALL = 0xFFFFFFFF
WITHIN_S = 15
LINK_LOST = 0x08
MANUFACTURER = core.AdvertisingData.MANUFACTURER_SPECIFIC_DATA


@dataclass
class Simulator:
    process: asyncio.subprocess.Process
    radio: str
    control: str
    addresses: dict[str, str] = field(default_factory=dict)

    async def ask(self, **request: object) -> dict[str, Any]:
        host, port = self.control.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await reader.readline())
        writer.close()
        return answer

    async def status(self, name: str) -> dict[str, Any]:
        wearables = (await self.ask(op="status"))["wearables"]
        found: dict[str, Any] = next(w for w in wearables if w["name"] == name)
        return found


@asynccontextmanager
async def simulator(*wearables: str, speed: float = 1.0, listen: str = "127.0.0.1:0") -> AsyncIterator[Simulator]:
    arguments = [word for wearable in wearables for word in ("--wearable", wearable)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "firmware_sim", "run", "--listen", listen, "--control", "127.0.0.1:0"),
        *("--time", f"0:{speed}:{time.monotonic_ns()}"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            lines = [(await process.stdout.readline()).decode().split() for _ in range(2)]
        assert [line[0] for line in lines] == ["control", "listening"]
        running = Simulator(process, radio=lines[1][1], control=lines[0][1])
        answer = await running.ask(op="status")
        running.addresses = {w["name"]: w["address"] for w in answer["wearables"]}
        yield running
    finally:
        if process.returncode is None:
            process.terminate()
        assert await asyncio.wait_for(process.wait(), WITHIN_S) == 0


class Host:
    """A central on the simulator's radio."""

    def __init__(self, transport: Transport, address: str) -> None:
        self.transport = transport
        self.device = Device.with_hci("host", hci.Address(address), transport.source, transport.sink)
        self.seen: dict[str, core.AdvertisingData] = {}
        self._news = asyncio.Event()
        self.device.on(Device.EVENT_ADVERTISEMENT, self._advertised)

    @classmethod
    async def attach(cls, radio: str, address: str = "F0:00:00:00:00:01") -> "Host":
        host = cls(await open_transport(radio if radio.startswith("unix:") else f"tcp-client:{radio}"), address)
        await host.device.power_on()
        return host

    def kill(self) -> None:
        """What the kernel does for a process that was killed: the socket is gone at once."""
        self.transport.sink.transport.abort()

    def _advertised(self, advertisement: Any) -> None:
        self.seen[str(advertisement.address)] = advertisement.data
        self._news.set()

    async def scan_for(self, *addresses: str) -> None:
        await self.device.start_scanning()
        async with asyncio.timeout(WITHIN_S):
            while not all(
                address in self.seen and self.seen[address].get(core.AdvertisingData.COMPLETE_LOCAL_NAME)
                for address in addresses
            ):
                self._news.clear()
                await self._news.wait()
        await self.device.stop_scanning()

    async def connect(self, address: str) -> "Link":
        connection = await asyncio.wait_for(self.device.connect(hci.Address(address)), WITHIN_S)
        link = Link(connection)
        await link.discover()
        return link


class Link:
    """A connected wearable: control requests with their answers, and the frames that came."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.lost = asyncio.get_running_loop().create_future()
        connection.on(Connection.EVENT_DISCONNECTION, self.lost.set_result)
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()
        self.live: asyncio.Queue[bytes] = asyncio.Queue()
        self.backlog: asyncio.Queue[bytes] = asyncio.Queue()

    async def discover(self) -> None:
        peer = Peer(self.connection)
        await peer.request_mtu(247)
        await peer.discover_services([SERVICE])
        service = next(s for s in peer.services if s.uuid == SERVICE)
        await service.discover_characteristics()
        self.characteristics: dict[core.UUID, gatt_client.CharacteristicProxy[bytes]] = {
            c.uuid: c for c in service.characteristics
        }
        await self.characteristics[CONTROL].subscribe(self.answers.put_nowait, prefer_notify=False)
        await self.characteristics[LIVE].subscribe(self.live.put_nowait)
        await self.characteristics[BACKLOG].subscribe(self.backlog.put_nowait)

    async def read(self, uuid: core.UUID) -> bytes:
        return await self.characteristics[uuid].read_value()

    async def ask(self, op: int, layout: str = "", *parameters: int) -> bytes:
        request = struct.pack("<B" + layout, op, *parameters)
        await self.characteristics[CONTROL].write_value(request, with_response=True)
        answer = await asyncio.wait_for(self.answers.get(), WITHIN_S)
        assert answer[:2] == bytes([op | 0x80, 0])
        return answer[2:]

    async def fetch(self, session: int, first: int = 0, count: int = ALL) -> list[bytes]:
        """All frames of a request, with credit granted in small portions."""
        await self.ask(3, "HII", session & 0xFFFF, first, count)
        frames: list[bytes] = []
        while not frames or not frames[-1][1] & 1 << 6:
            await self.ask(4, "H", 16)
            for _ in range(16):
                frames.append(await asyncio.wait_for(self.backlog.get(), WITHIN_S))
                if frames[-1][1] & 1 << 6:
                    break
        return frames


def counts_of(frames: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(frame[16:] for frame in frames), dtype="<i2").reshape(-1, 6)


def session_of(info: bytes) -> tuple[int, int, int, int, int]:
    """(session, first, end, watermark, overwritten) of the running session, as the page has Info."""
    entry: tuple[int, int, int, int, int] = struct.unpack("<QIIII", info[-24:])
    return entry


async def test_a_wearable_streams_serves_its_backlog_and_returns_from_out_of_range(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    wearable = f"name=left; schedule=hand_tapping:20,sitting:20; truth={truth}"
    async with simulator(wearable, "name=right", speed=20) as running:
        left = running.addresses["left"]
        host = await Host.attach(running.radio)
        await host.scan_for(*running.addresses.values())
        advertised = host.seen[left]
        assert advertised.get(core.AdvertisingData.COMPLETE_LOCAL_NAME) == "left"
        company, payload = advertised.get(core.AdvertisingData.MANUFACTURER_SPECIFIC_DATA)
        assert (company, payload[0], payload[1] >> 7) == (0xFFFF, 1, 0)
        assert advertised.get(core.AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS) == [SERVICE]

        link = await host.connect(left)
        assert link.connection.att_mtu == 247
        session = session_of(await link.read(INFO))[0]
        assert f"{session:016x}" == (await running.status("left"))["session"]
        config = await link.read(CONFIG)
        acc_scale, gyro_scale = struct.unpack("<ff", config[12:])
        tick, low_half, next_index = struct.unpack("<IHI", await link.read(TIME))
        assert low_half == session & 0xFFFF
        assert -1.01 < tick / 32_768 * 50 - next_index < 0.01  # of one moment, though samples are made in bulk

        low_half, live_first = struct.unpack("<HI", await link.ask(1))
        live = [await asyncio.wait_for(link.live.get(), WITHIN_S) for _ in range(5)]
        assert [struct.unpack_from("<I", frame, 8)[0] for frame in live] == [live_first + 19 * k for k in range(5)]
        assert [struct.unpack_from("<H", frame, 4)[0] for frame in live] == list(range(5))

        await running.ask(op="silent", wearable="left", on=True)
        while not link.live.empty():
            link.live.get_nowait()
        assert struct.unpack("<Q", (await link.read(INFO))[-24:-16])[0] == session  # the link stands, and it answers
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(link.live.get(), 0.5)  # of 25 frames
        await running.ask(op="silent", wearable="left", on=False)
        await asyncio.wait_for(link.live.get(), WITHIN_S)

        await running.ask(op="out_of_range", wearable="left", on=True)
        assert await asyncio.wait_for(link.lost, WITHIN_S) == LINK_LOST
        host.seen.clear()
        await host.scan_for(running.addresses["right"])  # the other one is still heard
        assert left not in host.seen
        await running.ask(op="out_of_range", wearable="left", on=False)

        link = await host.connect(left)
        stopped = await running.ask(op="stop", wearable="left")
        assert stopped["wearables"][0]["finished"]
        frames = await link.fetch(session)
        made = stopped["wearables"][0]["made"]
        assert await link.ask(5, "HI", session & 0xFFFF, made) == struct.pack("<I", made)
        assert (await running.status("left"))["acked"] == made
        assert session_of(await link.read(INFO))[1] >= made - 400 - 19
        host.kill()

        rows = np.loadtxt(truth, delimiter=",", skiprows=1, dtype=np.float64)
        assert rows[:, 0].tolist() == [index / 50 for index in range(made)]
        scales = np.array([acc_scale] * 3 + [gyro_scale] * 3, dtype=np.float32)
        assert np.array_equal(rows[:, 1:].astype(np.float32), counts_of(frames).astype(np.float32) * scales)


async def test_a_killed_host_is_let_in_again_whatever_it_was_doing() -> None:
    async with simulator("name=left; duration_s=600", "name=right; duration_s=600", speed=50) as running:
        left, right = running.addresses.values()
        for turn in range(21):
            began = time.monotonic()
            host = await Host.attach(running.radio)
            link = await host.connect(left)
            other = await host.connect(right)
            session = session_of(await link.read(INFO))[0]
            assert len(await link.fetch(session, 0, 400)) == 22
            assert time.monotonic() - began < 3.0
            match turn % 4:
                case 0:  # while frames come
                    for each in (link, other):
                        await each.ask(1)
                        await each.ask(4, "H", 0xFFFF)
                        await each.ask(3, "HII", session_of(await each.read(INFO))[0] & 0xFFFF, 0, ALL)
                case 1:  # while it connects
                    await other.connection.disconnect()
                    pending = asyncio.create_task(host.device.connect(hci.Address("F0:00:00:00:00:77")))
                    await asyncio.sleep(0)
                    pending.cancel()
                case 2:  # with an answer unconfirmed and a request cut in the middle
                    host.transport.sink.on_packet(b"\x01\x03\x0c")
                case 3:  # while it scans
                    await host.device.start_scanning()
            host.kill()
        assert running.process.returncode is None


async def test_two_hosts_share_the_air_and_a_wearable_moves_from_one_to_the_other() -> None:
    async with simulator("name=left") as running:
        one = await Host.attach(running.radio, "F0:00:00:00:00:01")
        two = await Host.attach(running.radio, "F0:00:00:00:00:02")
        address = running.addresses["left"]
        link = await one.connect(address)
        await one.device.disconnect(link.connection, 0x13)
        link = await two.connect(address)
        session = session_of(await link.read(INFO))[0]
        one.kill()
        assert session_of(await link.read(INFO))[0] == session
        two.kill()


async def test_a_held_wearable_is_heard_by_all_in_reach_each_as_strongly_as_was_said_and_takes_no_other() -> None:
    async with simulator("name=left") as running:
        one = await Host.attach(running.radio, "F0:00:00:00:00:01")
        two = await Host.attach(running.radio, "F0:00:00:00:00:02")
        address = running.addresses["left"]
        await running.ask(op="signal", wearable="left", host=1, dbm=-91)
        await running.ask(op="signal", wearable="left", host=2, dbm=-40)
        heard: dict[int, list[Any]] = {1: [], 2: []}
        for number, host in ((1, one), (2, two)):
            host.device.on(Device.EVENT_ADVERTISEMENT, heard[number].append)
        free = await heard_by(two, heard[2])
        assert (free.rssi, free.is_connectable, free.data.get(MANUFACTURER)) == (-40, True, (0xFFFF, b"\x01\x00"))
        link = await one.connect(address)
        await running.ask(op="signal", wearable="left", host=1, dbm=-77)
        for number, host, dbm in ((1, one, -77), (2, two, -40)):
            held = await heard_by(host, heard[number])
            assert (held.rssi, held.is_connectable, held.data.get(MANUFACTURER)) == (dbm, False, (0xFFFF, b"\x01\x80"))
        with pytest.raises(core.TimeoutError):
            await two.device.connect(hci.Address(address), timeout=2)
        await link.ask(1)  # undisturbed
        await running.ask(op="signal", wearable="left", host=1, dbm=None)
        assert await asyncio.wait_for(link.lost, WITHIN_S) == LINK_LOST
        assert (await heard_by(two, heard[2])).is_connectable
        await two.connect(address)
        heard[1].clear()
        await heard_by(two, heard[2])
        assert heard[1] == []
        status = await running.status("left")
        assert (status["links_max"], status["central"]) == (1, "F0:00:00:00:00:02")


async def heard_by(host: Host, heard: list[Any]) -> Any:
    """The next advertisement but one: the first may have been under way."""
    heard.clear()
    await host.device.start_scanning(active=False)
    async with asyncio.timeout(WITHIN_S):
        while len(heard) < 2:
            host._news.clear()
            await host._news.wait()
    await host.device.stop_scanning()
    return heard[1]


async def test_two_wearables_together_notify_500_frames_a_second_and_more() -> None:
    async with simulator("name=left; duration_s=1200", "name=right; duration_s=1200", speed=1000) as running:
        async with asyncio.timeout(WITHIN_S):
            while not all(w["finished"] for w in (await running.ask(op="status"))["wearables"]):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        host = await Host.attach(running.radio)
        links = [await host.connect(address) for address in running.addresses.values()]
        sessions = [session_of(await link.read(INFO))[0] for link in links]
        began = time.monotonic()
        fetched = await asyncio.gather(*(link.fetch(s) for link, s in zip(links, sessions, strict=True)))
        rate = sum(map(len, fetched)) / (time.monotonic() - began)
        host.kill()
        print(f"{rate:.0f} notifications a second")
        assert [sum(frame[2] for frame in frames) for frames in fetched] == [60_000, 60_000]
        assert rate >= 500


async def test_a_host_that_does_not_read_holds_nothing_up_and_loses_nothing(tmp_path: Path) -> None:
    """A unix socket holds 200 kB; the 3,158 frames of 1,200 s are four times as much."""
    listen = f"unix:{tmp_path / 'radio'}"
    async with simulator("name=left; duration_s=1200", speed=500, listen=listen) as running:
        host = await Host.attach(running.radio)
        link = await host.connect(running.addresses["left"])
        session = session_of(await link.read(INFO))[0]
        await link.ask(1)
        host.transport.sink.transport.pause_reading()
        async with asyncio.timeout(WITHIN_S):
            while not (status := await running.status("left"))["finished"]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert status["connected"]
        assert status["notifications_sent"] < 3158 / 2
        host.transport.sink.transport.resume_reading()
        frames = await link.fetch(session)
        assert len(counts_of(frames)) == 60_000
        live = [link.live.get_nowait() for _ in range(link.live.qsize())]
        seqs = [struct.unpack_from("<H", frame, 4)[0] for frame in live]
        indices = [struct.unpack_from("<I", frame, 8)[0] for frame in live]
        assert seqs[-1] - seqs[0] == (indices[-1] - indices[0]) // 19 > len(live)  # what was left out shows in both
        host.kill()
    assert not (tmp_path / "radio").exists()


async def test_a_connect_that_is_given_up_leaves_the_radio_free() -> None:
    async with simulator("name=left") as running:
        host = await Host.attach(running.radio)
        with pytest.raises((core.TimeoutError, asyncio.TimeoutError)):
            await host.device.connect(hci.Address("F0:00:00:00:00:77"), timeout=0.2)
        await host.connect(running.addresses["left"])
        host.kill()


async def test_nonsense_on_the_radio_socket_ends_that_connection_and_nothing_else() -> None:
    async with simulator("name=left") as running:
        name, port = running.radio.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(name, int(port))
        writer.write(os.urandom(64).replace(b"\x01", b"\x00") + b"\x00")
        writer.write(b"\xff" * 300)
        try:
            await asyncio.wait_for(reader.read(), WITHIN_S)
        except ConnectionResetError:
            pass
        host = await Host.attach(running.radio)
        await host.connect(running.addresses["left"])
        host.kill()


async def test_malformed_control_writes_are_answered_and_the_link_stays() -> None:
    async with simulator("name=left") as running:
        host = await Host.attach(running.radio)
        link = await host.connect(running.addresses["left"])
        control = link.characteristics[CONTROL]
        for payload, status in ((b"\x77", 1), (b"\x04\x01", 2), (struct.pack("<BHI", 5, 0, 0), 3)):
            session = session_of(await link.read(INFO))[0]
            if status == 3 and not session & 0xFFFF:
                continue  # one session in 65,536 has that low half
            await control.write_value(payload, with_response=True)
            answer = await asyncio.wait_for(link.answers.get(), WITHIN_S)
            assert answer == bytes([payload[0] | 0x80, status])
        with pytest.raises(core.ProtocolError):
            await link.characteristics[CONFIG].write_value(bytes(20), with_response=True)
        await link.ask(1)
        host.kill()


async def test_a_reboot_keeps_the_ring_and_begins_a_session_with_a_truth_of_its_own(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    async with simulator(f"name=left; duration_s=60; truth={truth}", speed=100) as running:
        host = await Host.attach(running.radio)
        link = await host.connect(running.addresses["left"])
        before = session_of(await link.read(INFO))
        await running.ask(op="reboot", wearable="left")
        await asyncio.wait_for(link.lost, WITHIN_S)
        link = await host.connect(running.addresses["left"])
        info = await link.read(INFO)
        assert info[25] == 2
        assert struct.unpack("<Q", info[-48:-40])[0] == before[0] != session_of(info)[0]
        frames = await link.fetch(before[0])
        sessions = (await running.status("left"))["sessions"]
        assert [s["truth"] for s in sessions] == [str(truth), str(tmp_path / "truth.2.csv")]
        assert len(counts_of(frames)) == sessions[0]["made"]
        host.kill()
    assert len(truth.read_text().splitlines()) == 1 + sessions[0]["made"]


async def test_ctrl_c_leaves_the_truth_complete(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    async with simulator(f"name=left; truth={truth}", speed=20) as running:
        made = (await running.status("left"))["made"]
        running.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(running.process.wait(), 3) == 0
    lines = truth.read_text().splitlines()
    assert len(lines) - 1 >= made
    assert all(len(line.split(",")) == 7 for line in lines)


async def test_faults_of_the_radio_are_played_on_the_air() -> None:
    twice, mtu, away = "duplicate=1, latency=0.05", "mtu=23", "drop@300"
    wearables = [f"name={n}; faults={f}" for n, f in (("twice", twice), ("small", mtu), ("away", away))]
    async with simulator(*wearables, speed=20) as running:
        host = await Host.attach(running.radio)
        gone = await host.connect(running.addresses["away"])
        link = await host.connect(running.addresses["twice"])
        await link.ask(1)
        live = [await asyncio.wait_for(link.live.get(), WITHIN_S) for _ in range(6)]
        assert live[0::2] == live[1::2]
        assert len(set(live)) == 3
        small = await host.connect(running.addresses["small"])
        assert small.connection.att_mtu == 23
        await small.ask(1)
        await asyncio.wait_for(gone.lost, 2 * WITHIN_S)
        assert small.live.empty()  # no frame is sent that would not fit
        again = await host.connect(running.addresses["away"])
        await again.ask(1)
        host.kill()
