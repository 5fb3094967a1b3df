"""Other makers' wearables: the bytes that they are known to send, and streams that hold what their truth says.

The readers here are written for these tests alone: neither the encoders nor the gateway's decoders judge themselves.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.details import BATTERY_LEVEL, FIRMWARE, MANUFACTURER, MODEL, SERIAL
from firmware_sim.families import FAMILIES, movesense, polar, thingy52, witmotion, xsens_dot
from firmware_sim.families.streaming import Settings, StreamingDevice
from firmware_sim.protocol import Taken, WriteRefused

G = 9.80665
ACC, GYRO = slice(0, 3), slice(3, 6)


# Known bytes.


def floats(text: str) -> np.ndarray:
    return np.array([row.split() for row in text.strip().splitlines()], dtype=np.float32)


# Captured: sensein/movesense-py, tests/fixtures/validation/fixture.json, without the first two bytes.
MOVESENSE_IMU6 = (
    172460,
    """
    -0.9715206623077393 4.268948078155518 8.856152534484863 -0.9800000190734863 -1.3300000429153442 -0.35
    -0.9882710576057434 4.2617692947387695 8.798723220825195 -0.9100000262260437 -1.3300000429153442 -0.42000002
    -0.9858781099319458 4.278519630432129 8.789151191711426 -0.6299999952316284 -1.4700000286102295 -0.42000002
    -0.9451987147331238 4.285698413848877 8.7843656539917 -0.6299999952316284 -1.399999976158142 -0.42000002
    """,
    "aca1020094b578bf399b8840cdb20d4155ff7cbf6a60884092c70c4182627cbfa2e988405da00c418bf871bf71248940c38c0c4148e17abf71"
    "3daabf3333b3bec3f568bf713daabf3e0ad7beae4721bff628bcbf3e0ad7beae4721bf3333b3bf3e0ad7be",
)
MOVESENSE_ACC = (
    122371,
    """
    -1.0911661386489868 4.436451435089111 8.679078102111816
    -1.0552724599838257 4.417308330535889 8.719757080078125
    -1.1294525861740112 4.450809001922607 8.683863639831543
    -1.0552724599838257 4.419701099395752 8.712578773498535
    """,
    "03de010055ab8bbf69f78d4081dd0a412b1387bf975a8d4020840b41e79190bf076d8e401bf10a412b1387bf316e8d40b9660b41",
)


@pytest.mark.parametrize(
    ("stamp_ms", "values", "known"), [MOVESENSE_IMU6, MOVESENSE_ACC], ids=["captured IMU6", "captured acceleration"]
)
def test_movesense_sends_the_captured_bytes(stamp_ms: int, values: str, known: str) -> None:
    assert movesense.encode_data(99, stamp_ms, floats(values)) == bytes([2, 99]) + bytes.fromhex(known)


def test_polar_sends_the_vendors_gyroscope_frame() -> None:
    """GyrDataTest.kt of the vendor's SDK: (-22, 8, 13), then (-23, 11, 16)."""
    payload = polar.encode_deltas(np.array([[-22, 8, 13], [-23, 11, 16]]))
    frame = polar.encode_frame(5, 0x7FFFFFFFFFFFFFFF, 0x80, payload)
    assert frame == bytes.fromhex("05ffffffffffffff7f80eaff08000d000301df00")


def test_polar_sends_the_vendors_acceleration_frame_but_for_the_bits_that_fill_its_last_byte() -> None:
    """AccDataTest.kt of the vendor's SDK: (-15, 20, 1008), then (-20, 17, 1008) in 6 bits an axis, which is more than
    is needed; its last 6 bits belong to no sample."""
    known = bytes.fromhex("02650000000000000081f1ff1400f00306017b0f08")
    block = polar.encode_block(np.array([[-5, -3, 0]]), 6)
    frame = polar.encode_frame(2, 0x65, 0x81, struct.pack("<3h", -15, 20, 1008) + block)
    assert frame[:-1] == known[:-1]
    assert frame[-1] & 0b11 == known[-1] & 0b11


@pytest.mark.parametrize(
    "known", ["d8052244af9640406b2aa7405add14c000000000", "f34622440da53c409c13a640f01009c000000000"]
)
def test_an_xsens_dot_sends_the_captured_bytes(known: str) -> None:
    """protobioengineering/xsens-dot-python-examples: stamp, three floats, zeros."""
    stamp_us, *values = struct.unpack("<I3f", bytes.fromhex(known)[:16])
    assert xsens_dot.encode_payload(stamp_us, values, 20) == bytes.fromhex(known)


def test_a_thingy_sends_the_known_bytes() -> None:
    """0, -0.5 and 1 g; 10, -250 and 0.5 deg/s; 20, -5 and 40 uT."""
    counts = np.array([0, -512, 1024, 320, -8000, 16])
    assert thingy52.encode_raw(counts, (320, -80, 640)) == bytes.fromhex("000000fe00044001c0e010004001b0ff8002")


def test_a_witmotion_sends_the_known_bytes() -> None:
    """0, -0.5 and 1 g of 16; 10.0098, -99.9756 and 0 deg/s of 2000."""
    counts = np.array([0, -1024, 2048, 164, -1638, 0])
    known = bytes.fromhex("5561000000fc0008a4009af90000002000f00000")
    assert witmotion.encode_frame(counts, (8192, -4096, 0)) == known


# Readers.


@dataclass
class Read:
    """times_ns: None where the wearable stamps nothing."""

    values: np.ndarray
    times_ns: np.ndarray | None = None


Payloads = list[tuple[str, bytes]]


def read_movesense(sent: Payloads) -> dict[int, Read]:
    packets: list[bytes] = []
    for _, payload in sent:
        if payload[0] == 2:
            packets.append(payload)
        elif payload[0] == 3:
            packets[-1] += payload[2:]
    values, times = [], []
    for packet in packets:
        n = (len(packet) - 6) // 24
        numbers = struct.unpack(f"<{6 * n}f", packet[6:])
        for k in range(n):
            values.append([*numbers[3 * k : 3 * k + 3], *numbers[3 * n + 3 * k : 3 * n + 3 * k + 3]])
            times.append(struct.unpack_from("<I", packet, 2)[0] * 1e6 + k * 1e9 / 52)
    return {0: Read(np.array(values), np.array(times))}


def read_deltas(payload: bytes) -> list[list[int]]:
    at, samples = 6, [list(struct.unpack_from("<3h", payload))]
    while at < len(payload):
        bits, n = payload[at], payload[at + 1]
        size = -(-3 * bits * n // 8)
        word = int.from_bytes(payload[at + 2 : at + 2 + size], "little")
        at += 2 + size
        for _ in range(n):
            row = []
            for axis in range(3):
                raw, word = word & ((1 << bits) - 1), word >> bits
                row.append(samples[-1][axis] + (raw - (1 << bits) if raw >> (bits - 1) else raw))
            samples.append(row)
    return samples


def read_polar(sent: Payloads) -> dict[int, Read]:
    found: dict[int, Read] = {}
    for number, first, lsb in ((2, 0, 8 / 32768 * G), (5, 3, 2000 / 32768)):
        values, times = [], []
        for _, frame in sent:
            kind, last_ns, frame_type = struct.unpack_from("<BQB", frame)
            if kind != number:
                continue
            assert frame_type == {2: 0x81, 5: 0x80}[number]
            samples = read_deltas(frame[10:])
            values += samples
            times += [last_ns - back * 10**9 // 52 for back in reversed(range(len(samples)))]
        found[first] = Read(np.array(values) * lsb, np.array(times, np.int64))
    return found


def read_witmotion(sent: Payloads) -> dict[int, Read]:
    stream = b"".join(payload for _, payload in sent)
    assert len(stream) % 20 == 0
    frames = [stream[at : at + 20] for at in range(0, len(stream), 20)]
    assert {frame[:2] for frame in frames} <= {b"\x55\x61"}
    counts = np.array([struct.unpack("<6h", frame[2:14]) for frame in frames]).reshape(-1, 6)
    return {0: Read(counts * ([16 * G / 32768] * 3 + [2000 / 32768] * 3))}


def read_thingy(sent: Payloads) -> dict[int, Read]:
    counts = np.array([struct.unpack("<9h", payload)[:6] for _, payload in sent])
    return {0: Read(counts * ([G / 1024] * 3 + [1 / 32] * 3))}


def read_xsens(sent: Payloads) -> dict[int, Read]:
    unpacked = np.array([struct.unpack("<I6f12x", payload) for _, payload in sent])
    return {0: Read(unpacked[:, 1:], unpacked[:, 0] * 1000)}


def read_arduino(sent: Payloads) -> dict[int, Read]:
    assert [uuid for uuid, _ in sent] == [ARDUINO.format(11), ARDUINO.format(12)] * (len(sent) // 2)
    numbers = np.array([struct.unpack("<3f", payload) for _, payload in sent]).reshape(-1, 6)
    return {0: Read(numbers * ([G] * 3 + [1.0] * 3))}


# Devices, asked to stream as a host would.


@dataclass(frozen=True)
class Family:
    name: str
    subscribe: tuple[str, ...]
    writes: tuple[tuple[str, str], ...]
    read: Callable[[Payloads], dict[int, Read]]
    time_within_ns: float = 0.0
    """The stamp's own resolution."""

    def make(self, clock_ns: int = 0) -> StreamingDevice:
        return FAMILIES[self.name](Settings(serial=0xABCD, clock_ns=clock_ns))

    def start(self, device: StreamingDevice) -> None:
        device.link_up()
        for uuid in self.subscribe:
            device.subscribed(uuid, True)
        for uuid, payload in self.writes:
            device.written(uuid, bytes.fromhex(payload))


FB = "fb005c8{}-02e7-f387-1cad-8acd2d8df0c8"
WIT = "0000ffe{}-0000-1000-8000-00805f9a34fb"
ARDUINO = "555a0002-00{}-467a-9538-01f0652c74e8"
SENSE = "3480000{}-7185-4d5d-b431-630e7050e8f0"
THINGY = "ef68040{}-9b35-4933-9b10-52ffa9740042"
DOT = "1517200{}-4947-11e9-8646-d663bd873d93"
START_ACC = "0202 0001 3400 0101 1000 0201 0800 0401 03"
START_GYRO = "0205 0001 3400 0101 1000 0201 D007 0401 03"
IMU6_52 = b"\x01\x63/Meas/IMU6/52".hex()
WIT_50_HZ = (
    (WIT.format(9), "FFAA6988B5"),
    (WIT.format(9), "FFAA030800"),
    (WIT.format(9), "FFAA000000"),
)
CASES = [
    Family("movesense", (SENSE.format(2),), ((SENSE.format(1), IMU6_52),), read_movesense, 1e6),
    Family(
        "polar-verity-sense",
        (FB.format(1), FB.format(2)),
        ((FB.format(1), START_ACC), (FB.format(1), START_GYRO)),
        read_polar,
        1.0,
    ),
    Family("witmotion-bwt901ble", (WIT.format(4),), WIT_50_HZ, read_witmotion),
    Family("thingy52", (THINGY.format(6),), ((THINGY.format(1), "e803f401f401320000"),), read_thingy),
    Family("xsens-dot", (DOT.format(3),), ((DOT.format(1), "010115"),), read_xsens, 1.0),
    Family("arduino-nano33-ble-sense", (ARDUINO.format(11), ARDUINO.format(12)), (), read_arduino),
]
BY_NAME = {family.name: family for family in CASES}
every_family = pytest.mark.parametrize("family", CASES, ids=lambda family: family.name)


def motion(n: int, seed: int = 1) -> np.ndarray:
    """A wrist that wanders: within 1.5 g and 900 deg/s an axis, so that no family saturates."""
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.normal(0, [0.4] * 3 + [30.0] * 3, (n, 6)), axis=0)
    return np.float32([1.5 * G] * 3 + [900] * 3) * np.sin(steps / 20).astype(np.float32)


def sent_by(device: StreamingDevice) -> Payloads:
    sent = []
    while (notification := device.next_notification()) is not None:
        sent.append(notification)
    return sent


def data_only(sent: Payloads) -> Payloads:
    """Without Movesense's answers and the battery's level."""
    return [(uuid, p) for uuid, p in sent if not (uuid == SENSE.format(2) and p[0] == 1) and uuid != BATTERY_LEVEL]


def joined(taken: list[Taken]) -> dict[int, Taken]:
    return {
        first: Taken(
            parts[0].columns,
            np.concatenate([part.taken_ns for part in parts]),
            np.concatenate([part.values for part in parts]),
        )
        for first in {part.columns.start for part in taken}
        if (parts := [part for part in taken if part.columns.start == first])
    }


@every_family
@pytest.mark.parametrize("chunk", [1, 7, 4000])
def test_what_is_sent_is_what_the_truth_says(family: Family, chunk: int) -> None:
    device = family.make()
    family.start(device)
    values, taken = motion(1000), []
    for first in range(0, len(values), chunk):
        taken += device.measure(values[first : first + chunk])
    device.finish()
    truth = joined(taken)
    read = family.read(data_only(sent_by(device)))
    assert sorted(read) == sorted(sensor.start for sensor in device.sensors)
    for first, sensor in read.items():
        said = truth[first]
        assert len(said.values) == len(values)
        np.testing.assert_allclose(sensor.values, said.values, rtol=2e-7, atol=1e-9)
        half_count = np.repeat([0.01, 0.036], 3)[said.columns]
        assert (np.abs(said.values - values[:, said.columns]) <= half_count).all()
        due_ns = np.arange(len(values)) * 1e9 / device.rate_hz
        np.testing.assert_allclose(said.taken_ns, due_ns, atol=1001)
        if sensor.times_ns is not None:
            np.testing.assert_allclose(
                sensor.times_ns - sensor.times_ns[0], said.taken_ns, atol=family.time_within_ns + 2
            )


@every_family
def test_what_nobody_listens_to_is_gone_and_each_link_is_a_session(family: Family) -> None:
    device = family.make()
    assert not device.measure(motion(30))
    family.start(device)
    sent_by(device)
    first = device.session
    assert device.measure(motion(30))
    device.disconnected()
    assert device.session != first
    assert not device.measure(motion(30))
    assert device.next_notification() is None
    family.start(device)
    (taken, *_) = device.measure(motion(30))
    assert taken.taken_ns[0] == 0
    assert device.made == 120
    assert device.status()["made"] == 30


@every_family
def test_without_a_subscription_nothing_is_sent(family: Family) -> None:
    device = family.make()
    family.start(device)
    for uuid in family.subscribe:
        device.subscribed(uuid, False)
    sent_by(device)
    assert not device.measure(motion(200))
    assert sent_by(device) == []


@every_family
def test_device_information_and_the_battery_are_served(family: Family) -> None:
    device = family.make()
    served = {uuid for service in device.services for uuid in service.characteristics}
    assert served >= {MANUFACTURER, MODEL, FIRMWARE, SERIAL, BATTERY_LEVEL}
    assert device.read(SERIAL, 0) == b"000000000000ABCD"
    assert all(device.read(uuid, 0).decode() for uuid in (MANUFACTURER, MODEL, FIRMWARE))
    assert device.read(BATTERY_LEVEL, 0) == bytes([100])
    device.set_battery(100)
    assert device.next_notification() is None
    device.set_battery(7)
    assert device.next_notification() == (BATTERY_LEVEL, bytes([7]))
    assert device.next_notification() is None
    with pytest.raises(KeyError):
        device.read("00002a00-0000-1000-8000-00805f9b34fb", 0)


# What is peculiar to one family.


def widths(payload: bytes) -> list[int]:
    at, found = 6, []
    while at < len(payload):
        found.append(payload[at])
        at += 2 + -(-3 * payload[at] * payload[at + 1] // 8)
    return found


@given(st.lists(st.tuples(*[st.integers(-32768, 32767)] * 3), min_size=1, max_size=80))
def test_deltas_of_any_counts_are_read_back(counts: list[tuple[int, int, int]]) -> None:
    assert read_deltas(polar.encode_deltas(np.array(counts))) == [list(row) for row in counts]


def polar_frames(values: np.ndarray) -> list[bytes]:
    device = BY_NAME["polar-verity-sense"].make()
    BY_NAME["polar-verity-sense"].start(device)
    device.measure(values)
    return [frame for _, frame in sent_by(device)]


def test_polar_frames_come_a_second_or_more_apart_and_differ_between_the_sensors() -> None:
    quiet = motion(520) * np.linspace(0.0005, 0.005, 520, dtype=np.float32)[:, None]
    frames = polar_frames(quiet)
    sizes = {kind: {len(read_deltas(f[10:])) for f in frames if f[0] == kind} for kind in (2, 5)}
    assert sizes[2] != sizes[5]
    assert all(52 <= n <= 130 for n in sizes[2] | sizes[5])
    assert any(len(set(widths(frame[10:]))) > 1 for frame in frames)


def test_a_polar_frame_that_would_be_too_long_has_fewer_samples() -> None:
    rng = np.random.default_rng(3)
    frames = polar_frames(rng.uniform(-70, 70, (520, 6)).astype(np.float32))
    assert max(map(len, frames)) <= 229
    assert max(len(read_deltas(f[10:])) for f in frames if f[0] == 2) < 73


def test_polars_settings_name_what_a_start_must_ask_for() -> None:
    family = BY_NAME["polar-verity-sense"]
    device = family.make()
    device.link_up()
    device.subscribed(FB.format(1), True)
    asked = [
        ("0102", "f0010200 00 00013400 01011000 02010800 0401 03"),
        ("0105", "f0010500 00 00013400 01011000 0201d007 040103"),
    ]
    for question, answer in asked:
        device.written(FB.format(1), bytes.fromhex(question))
        assert device.next_indication() == (FB.format(1), bytes.fromhex(answer))
    assert device.read(FB.format(1), 0) == bytes([0x0F, 1 << 2 | 1 << 5, 0])


POLAR_REFUSED = [
    ("no such operation", "0902", 1),
    ("no such measurement", "0209", 2),
    ("another rate", START_ACC.replace("3400", "1A00"), 5),
    ("settings cut short", "0202 0001 34", 5),
    ("to stop what does not run", "0305", 6),
]


@pytest.mark.parametrize(("what", "payload", "status"), POLAR_REFUSED, ids=[what for what, *_ in POLAR_REFUSED])
def test_polar_refuses(what: str, payload: str, status: int) -> None:
    device = BY_NAME["polar-verity-sense"].make()
    device.link_up()
    with pytest.raises(WriteRefused, match="0xfd"):  # its answers are not listened to
        device.written(FB.format(1), bytes.fromhex(payload))
    device.subscribed(FB.format(1), True)
    device.written(FB.format(1), bytes.fromhex(payload))
    request = bytes.fromhex(payload)
    assert device.next_indication() == (FB.format(1), bytes([0xF0, request[0], request[1], status, 0])), what
    assert not device.streaming


def test_polar_starts_once_tells_its_factor_and_stops() -> None:
    device = BY_NAME["polar-verity-sense"].make()
    device.link_up()
    device.subscribed(FB.format(1), True)
    answers = []
    for payload in (START_ACC, START_ACC, "0302", "0302"):
        device.written(FB.format(1), bytes.fromhex(payload))
        answers.append(device.next_indication()[1])  # type: ignore[index]
    assert [answer[3] for answer in answers] == [0, 6, 0, 6]
    assert struct.unpack("<BBf", answers[0][5:]) == (5, 1, 8000 / 32768)


def test_polars_clock_goes_on_while_its_stream_is_stopped() -> None:
    device = BY_NAME["polar-verity-sense"].make()
    BY_NAME["polar-verity-sense"].start(device)
    device.measure(motion(52))
    device.written(FB.format(1), bytes.fromhex("0302"))
    device.measure(motion(520))
    device.written(FB.format(1), bytes.fromhex(START_ACC))
    device.measure(motion(104))
    before, after = (frame for _, frame in sent_by(device) if frame[0] == 2)
    last_ns, next_ns = (struct.unpack_from("<Q", frame, 1)[0] for frame in (before, after))
    missed = (next_ns - last_ns) * 52 / 1e9 - len(read_deltas(after[10:]))
    assert missed == pytest.approx(520, abs=0.1)


MOVESENSE_ANSWERS = [
    ("subscribed", b"\x01\x05/Meas/IMU6/52", 200),
    ("a rate that it has not", b"\x01\x05/Meas/IMU6/50", 404),
    ("another path", b"\x01\x05/Meas/ECG/125", 404),
    ("reference 0", b"\x01\x00/Meas/IMU6/52", 400),
    ("no such subscription", b"\x02\x05", 404),
    ("no such command", b"\x07\x05", 501),
]


@pytest.mark.parametrize(("what", "payload", "status"), MOVESENSE_ANSWERS, ids=[what for what, *_ in MOVESENSE_ANSWERS])
def test_movesense_answers(what: str, payload: bytes, status: int) -> None:
    device = BY_NAME["movesense"].make()
    device.link_up()
    device.subscribed(SENSE.format(2), True)
    device.written(SENSE.format(1), payload)
    assert device.next_notification() == (SENSE.format(2), struct.pack("<BBH", 1, payload[1], status)), what
    assert device.streaming == (status == 200)


def test_movesense_cuts_a_long_packet_in_two_and_stops_when_told() -> None:
    device = BY_NAME["movesense"].make()
    BY_NAME["movesense"].start(device)
    device.measure(motion(20))
    sent = [payload for _, payload in sent_by(device)][1:]
    assert [(payload[0], len(payload)) for payload in sent] == [(2, 102)] * 3 + [(2, 158), (3, 42)]
    device.written(SENSE.format(1), b"\x02\x63")
    assert sent_by(device) == [(SENSE.format(2), b"\x01\x63\xc8\x00")]
    assert not device.measure(motion(20))


def test_movesense_gives_half_the_samples_at_half_the_rate() -> None:
    device = BY_NAME["movesense"].make()
    device.link_up()
    device.subscribed(SENSE.format(2), True)
    device.written(SENSE.format(1), b"\x01\x01/Meas/IMU6/26")
    (taken,) = device.measure(motion(104))
    assert np.array_equal(taken.taken_ns // 10**6, np.arange(52) * 1000 // 26)


@pytest.mark.parametrize(
    ("writes", "rate_hz"),
    [
        ((), 10),
        (("FFAA030800",), 10),
        (("FFAA6988B5", "FFAA030700"), 20),
        (("FFAA6988B5", "FFAA030800"), 50),
        (("FFAA6988B5", "FFAA03FF00"), 10),
    ],
    ids=["at first", "while locked", "20 Hz", "50 Hz", "no such rate"],
)
def test_a_witmotion_sends_at_the_rate_that_was_negotiated(writes: tuple[str, ...], rate_hz: int) -> None:
    device = BY_NAME["witmotion-bwt901ble"].make()
    device.link_up()
    device.subscribed(WIT.format(4), True)
    for payload in writes:
        device.written(WIT.format(9), bytes.fromhex(payload))
    (taken,) = device.measure(motion(500))
    assert len(taken.values) == rate_hz * 10
    due_ns = np.arange(len(taken.taken_ns)) * 1e9 / rate_hz
    assert (np.abs(taken.taken_ns - due_ns) < 20e6).all()  # its motion is played at 50 Hz, of which 20 is no whole part


@pytest.mark.parametrize(("flash_kept", "saved", "rate_hz"), [(True, True, 50), (True, False, 10), (False, True, 10)])
def test_a_witmotion_comes_back_with_the_rate_that_was_saved(flash_kept: bool, saved: bool, rate_hz: int) -> None:
    device = BY_NAME["witmotion-bwt901ble"].make()
    device.link_up()
    for uuid, payload in WIT_50_HZ if saved else WIT_50_HZ[:2]:
        device.written(uuid, bytes.fromhex(payload))
    device.crash(flash_kept=flash_kept)
    device.link_up()
    device.subscribed(WIT.format(4), True)
    (taken,) = device.measure(motion(100))
    assert len(taken.values) == 2 * rate_hz


def test_a_witmotion_joins_and_cuts_its_frames() -> None:
    device = BY_NAME["witmotion-bwt901ble"].make()
    BY_NAME["witmotion-bwt901ble"].start(device)
    device.measure(motion(13))
    assert [len(payload) for _, payload in sent_by(device)] == [20, 20, 40, 13, 27] * 2 + [20]


def test_a_thingy_saturates_just_below_two_g() -> None:
    device = BY_NAME["thingy52"].make()
    BY_NAME["thingy52"].start(device)
    (taken,) = device.measure(np.float32([[3 * G, -3 * G, 1.9 * G, 0, 0, 0]]))
    assert taken.values[0, :3] / G == pytest.approx([2047 / 1024, -2, 1.9], abs=1 / 2048)


THINGY_REFUSED = [
    ("too short", "e803f401f4013200", "0x0d"),
    ("4 Hz", "e803f401f401040000", "0x13"),
    ("200 Hz, which the motion here has not", "e803f401f401c80000", "0x13"),
]


@pytest.mark.parametrize(("what", "payload", "error"), THINGY_REFUSED, ids=[what for what, *_ in THINGY_REFUSED])
def test_a_thingy_refuses_a_configuration(what: str, payload: str, error: str) -> None:
    device = BY_NAME["thingy52"].make()
    with pytest.raises(WriteRefused, match=error):
        device.written(THINGY.format(1), bytes.fromhex(payload))
    assert device.read(THINGY.format(1), 0)[6:8] == bytes([10, 0]), what


def test_an_xsens_stamp_wraps_after_71_minutes_and_the_truth_goes_on() -> None:
    device = BY_NAME["xsens-dot"].make(clock_ns=(2**32 - 100_000) * 1000)
    BY_NAME["xsens-dot"].start(device)
    (taken,) = device.measure(motion(60))
    stamps = [struct.unpack_from("<I", payload)[0] for _, payload in sent_by(device)]
    assert stamps[0] == 2**32 - 100_000
    assert stamps[-1] < 2**20
    assert [(stamp - stamps[0]) % 2**32 * 1000 for stamp in stamps] == taken.taken_ns.tolist()


@pytest.mark.parametrize("payload", ["0101", "020115", "010116", "010215"])
def test_an_xsens_dot_refuses_another_mode(payload: str) -> None:
    device = BY_NAME["xsens-dot"].make()
    with pytest.raises(WriteRefused):
        device.written(DOT.format(1), bytes.fromhex(payload))


# What goes wrong with them.


@pytest.mark.parametrize("seconds", [7.0, -7.0])
def test_a_step_of_the_clock_shows_in_the_stamps(seconds: float) -> None:
    device = BY_NAME["xsens-dot"].make(clock_ns=20 * 10**9)
    BY_NAME["xsens-dot"].start(device)
    device.measure(motion(60))
    session = device.session
    device.step_clock(seconds)
    (taken,) = device.measure(motion(60))
    stamps_s = [struct.unpack_from("<I", payload)[0] / 1e6 for _, payload in sent_by(device)]
    assert stamps_s[60] - stamps_s[59] == pytest.approx(seconds + 1 / 60, abs=1e-5)
    assert (device.session != session) == (seconds < 0)
    assert taken.taken_ns[0] == (0 if seconds < 0 else 8_000_000_000)


@every_family
def test_a_reboot_begins_again(family: Family) -> None:
    device = family.make(clock_ns=5 * 10**9)
    family.start(device)
    device.measure(motion(100))
    device.finish()
    device.crash(flash_kept=True)
    assert (device.made, device.finished, device.connected, device.streaming) == (0, False, False, False)
    assert device.next_notification() is None
