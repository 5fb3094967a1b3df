"""The reference profile's conformance list, and how each item is checked (docs/reference-profile.md has the same list).

An item is a function of a Bench that returns where it holds, raises Failed with what was found, or Skipped with why it
cannot be told here. Bytes are read by firmware_sim.encoding, never by the gateway's decoder.
"""

import asyncio
import functools
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from firmware_sim import encoding
from firmware_sim.bench import FRAME_S, SETTLE_S, Bench, Failed, Skipped, require
from firmware_sim.central import WriteRefused
from firmware_sim.encoding import NEWEST, Flag, Frame, FrameType, Malformed, Op, Status
from gateway.errors import GatewayError

KEPT = 400
ITEM_S = 180.0
HELD_SCAN_S = 3.0
"""At an advertisement a second, of which a scanner may miss some."""
UNKNOWN_OP = 0x7F
ATT_VALUE_NOT_ALLOWED = 0x13
PARAMETERS_S = 10.0
UNDER_WAY = 32
"""Notifications that a stack and a controller may hold: they can be overtaken no more."""
LONG_FRAMES, LONG_REQUESTS, LONG_SEEN = 200, 20, 3
"""A request long enough for a Live frame to be full while it runs, how often that is tried, and seen to happen."""
LONG_WAIT_S = 90.0
"""For so much to be sampled."""
GRAVITY_M_S2, GRAVITY_TOLERANCE_M_S2 = 9.80665, 1.5
RATE_TOLERANCE = 0.03
"""Of samples against the nominal rate: a sensor's own oscillator may be that far off."""
TICK_TOLERANCE = 500e-6
PROPERTIES = {  # Bluetooth Core Specification 5.4, vol. 3, part G, 3.3.1.1: 02 read, 08 write, 10 notify, 20 indicate
    encoding.INFO_UUID: ("Info", 0x02),
    encoding.CONFIG_UUID: ("Config", 0x2A),
    encoding.LIVE_UUID: ("Live", 0x10),
    encoding.BACKLOG_UUID: ("Backlog", 0x10),
    encoding.CONTROL_UUID: ("Control", 0x28),
    encoding.TIME_UUID: ("Time", 0x02),
}


class Result(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Item:
    id: str
    must: str
    how: str
    check: Callable[[Bench], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """found: what was found of an item that fails, or why it was skipped."""

    item: Item
    result: Result
    found: str = ""


ITEMS: list[Item] = []
"""In the order in which they are checked: those that acknowledge samples and those that restart come last."""


def item(name: str, must: str, how: str) -> Callable[[Callable[[Bench], Awaitable[None]]], Callable[..., object]]:
    def add(check: Callable[[Bench], Awaitable[None]]) -> Callable[..., object]:
        ITEMS.append(Item(name, must, how, check))
        return check

    return add


async def run(bench: Bench, items: Sequence[Item]) -> AsyncIterator[Verdict]:
    """The verdict on each item as soon as it stands. No item disturbs a later one."""
    for one in items:
        verdict = await _judge(bench, one)
        if verdict.result is Result.FAIL:
            await bench.drop()
        else:
            await bench.calm()
        yield verdict


async def _judge(bench: Bench, one: Item) -> Verdict:
    try:
        async with asyncio.timeout(ITEM_S):
            await one.check(bench)
    except (Failed, Malformed) as found:
        return Verdict(one, Result.FAIL, str(found))
    except Skipped as why:
        return Verdict(one, Result.SKIP, str(why))
    except WriteRefused as refused:
        return Verdict(one, Result.FAIL, f"a control write was refused with {refused}")
    except GatewayError as error:
        return Verdict(one, Result.FAIL, str(error))
    except TimeoutError:
        return Verdict(one, Result.FAIL, f"not decided within {ITEM_S:g} s")
    return Verdict(one, Result.PASS)


def chosen(names: Sequence[str]) -> list[Item]:
    """The items whose ids begin with one of these; all where there are none. Unknown names are left to the caller."""
    return [one for one in ITEMS if not names or any(one.id.startswith(name) for name in names)]


# Advertisement, GATT table, connection


@item("RP-ADV-1", "The advertisement MUST carry the 128-bit service UUID.", "It is heard.")
async def _(bench: Bench) -> None:
    heard = await bench.heard()
    require(encoding.SERVICE_UUID in heard.services, f"services advertised: {', '.join(heard.services) or 'none'}")


@item(
    "RP-ADV-2",
    "Its manufacturer data of company 0xFFFF MUST be two bytes: the profile version, and a state whose bit 7 is clear "
    "while no central holds the wearable and whose bits 0-6 tell the ring's fill.",
    "It is heard while nobody is connected and compared with Info; the fill may be two steps off.",
)
async def _(bench: Bench) -> None:
    data = (await bench.heard()).manufacturer
    if data is None:
        raise Failed("no manufacturer data of company 0xFFFF")
    require(len(data) == 2, f"manufacturer data has {len(data)} bytes; expected 2")
    require(data[0] == encoding.PROFILE_VERSION, f"profile version {data[0]}; expected {encoding.PROFILE_VERSION}")
    require(not data[1] & 0x80, "bit 7 says that a central holds it; none does")
    info = await bench.info()
    fill = 127 * sum(entry.end - entry.first for entry in info.sessions) / max(info.capacity, 1)
    require(abs((data[1] & 0x7F) - fill) <= 2, f"fill {data[1] & 0x7F} of 127; Info makes it {fill:.1f}")


@item(
    "RP-ADV-3",
    "While a central holds the wearable it MUST either not advertise or set bit 7.",
    "It is listened for while connected.",
)
async def _(bench: Bench) -> None:
    await bench.link()
    await bench.pause(0.5)
    for heard in await bench.central.scan(1.5):
        if heard.address == bench.address and heard.manufacturer is not None and len(heard.manufacturer) > 1:
            require(bool(heard.manufacturer[1] & 0x80), "it advertises with bit 7 clear while it is held")


@item(
    "RP-ADV-4",
    "What it advertises while a central holds it MUST NOT take connections.",
    "It is listened for while connected. One that is silent then is skipped: gateways that share it never let it go.",
)
async def _(bench: Bench) -> None:
    await bench.link()
    await bench.pause(0.5)
    heard = [one for one in await bench.central.scan(HELD_SCAN_S) if one.address == bench.address]
    if not heard:
        raise Skipped(f"it does not advertise while it is held: nothing was heard in {HELD_SCAN_S:g} s")
    require(not heard[0].connectable, "it takes connections while it is held")


@item(
    "RP-GATT-1",
    "The service MUST hold the six characteristics with exactly the properties of the table.",
    "The GATT table is discovered.",
)
async def _(bench: Bench) -> None:
    found = (await bench.link(fresh=True)).properties
    for uuid, (name, properties) in PROPERTIES.items():
        require(uuid in found, f"there is no {name} ({uuid})")
        require(found[uuid] == properties, f"{name} has properties 0x{found[uuid]:02x}; expected 0x{properties:02x}")


@item("RP-MTU-1", "It MUST accept an ATT MTU of 247.", "The MTU is exchanged.")
async def _(bench: Bench) -> None:
    mtu = (await bench.link()).mtu
    require(mtu >= 247, f"the MTU is {mtu} after 247 was asked for")


@item(
    "RP-MTU-2",
    "No frame MUST be sent before the ATT MTU allows for a whole one.",
    "Live is started on a link whose MTU stays 23.",
)
async def _(bench: Bench) -> None:
    config = await bench.config()
    link = await bench.link(fresh=True, mtu=23)
    if link.mtu > 23:
        raise Skipped(f"the MTU became {link.mtu} though 23 was offered")
    await bench.ask(Op.START_LIVE)
    await bench.pause(3 * config.samples_a_frame / config.rate_hz)
    sent = [len(data) for data in link.live]
    await bench.drop()
    require(not sent, f"{len(sent)} Live notifications came, the first of {sent[0] if sent else 0} bytes")


@item(
    "RP-CONN-1",
    "After a connection it MUST ask for an interval of 30-50 ms, latency 0-4 and a supervision timeout of 4-6 s.",
    "A link made with 60 ms and 2 s is watched for 10 s.",
)
async def _(bench: Bench) -> None:
    link = await bench.link(fresh=True)

    def fits() -> bool:
        interval_ms, latency, timeout_ms = link.parameters
        return 30 <= interval_ms <= 50 and 0 <= latency <= 4 and 4000 <= timeout_ms <= 6000

    if not await bench.until(lambda: fits() or link.lost, PARAMETERS_S) or not fits():
        interval_ms, latency, timeout_ms = link.parameters
        raise Failed(f"interval {interval_ms:g} ms, latency {latency}, supervision timeout {timeout_ms / 1000:g} s")


# Info, Config, sessions


@item(
    "RP-INFO-1",
    "Info MUST have layout version 1, 28 + 4 r + 24 s bytes, at least one rate, 1 to 8 sessions, and zeros where it is "
    "reserved.",
    "It is read.",
)
async def _(bench: Bench) -> None:
    info = await bench.info()
    require(info.version == 1, f"layout version {info.version}")
    require(len(info.rates_mhz) >= 1, "no rate")
    require(1 <= len(info.sessions) <= 8, f"{len(info.sessions)} sessions")
    require(info.reserved == 0 and not info.flags & ~1, f"reserved {info.reserved}, flags 0x{info.flags:02x}")


@item(
    "RP-INFO-2",
    "tick_hz MUST be above 0, battery 0-100 or 255, and the sensor frame the three axes of a right-handed frame.",
    "Info is read.",
)
async def _(bench: Bench) -> None:
    info = await bench.info()
    require(info.tick_hz > 0, "tick_hz is 0")
    require(info.battery <= 100 or info.battery == 255, f"battery {info.battery}")
    frame = info.sensor_frame
    require(sorted(map(abs, frame)) == [1, 2, 3], f"sensor frame {frame}")
    axes = np.zeros((3, 3))
    for source, direction in enumerate(frame):
        axes[abs(direction) - 1, source] = math.copysign(1, direction)
    require(np.linalg.det(axes) > 0, f"sensor frame {frame} is left-handed")


@item(
    "RP-INFO-3",
    "Of each session first <= end and watermark <= end MUST hold, the samples held MUST fit the capacity, and no two "
    "sessions MUST share their low 16 bits.",
    "Info is read.",
)
async def _(bench: Bench) -> None:
    info = await bench.info()
    for entry in info.sessions:
        name = f"session {entry.session:016x}"
        require(entry.first <= entry.end, f"{name}: first {entry.first} beyond end {entry.end}")
        require(entry.watermark <= entry.end, f"{name}: watermark {entry.watermark} beyond end {entry.end}")
    held = sum(entry.end - entry.first for entry in info.sessions)
    require(held <= info.capacity, f"{held} samples held in a ring of {info.capacity}")
    low = [entry.session & 0xFFFF for entry in info.sessions]
    require(len(set(low)) == len(low), f"low halves {', '.join(f'{half:04x}' for half in low)}")


@item(
    "RP-SESS-1",
    "A session's 64 bits MUST be random.",
    "Those in Info are tested: 12 to 52 bits set, none in the low or high half alone, no two nearer than 2^32 to each "
    "other (a random number fails in fewer than 1 of 1,000,000 checks).",
)
async def _(bench: Bench) -> None:
    numbers = [entry.session for entry in (await bench.info()).sessions]
    for number in numbers:
        bits = number.bit_count()
        require(12 <= bits <= 52, f"session {number:016x} has {bits} of 64 bits set")
        require(bool(number >> 32) and bool(number & 0xFFFFFFFF), f"session {number:016x} is of 32 bits")
    for one, other in itertools.combinations(numbers, 2):
        require(abs(one - other) >= 2**32, f"sessions {one:016x} and {other:016x} follow on each other")


@item(
    "RP-CFG-1",
    "Config MUST have 20 bytes, 1 to 19 samples a frame, a rate that Info lists, finite scales above 0, and zeros "
    "where it is reserved.",
    "It is read.",
)
async def _(bench: Bench) -> None:
    config, reserved = encoding.decode_config(await (await bench.link()).read(encoding.CONFIG_UUID))
    require(1 <= config.samples_a_frame <= 19, f"{config.samples_a_frame} samples a frame")
    rates = (await bench.info()).rates_mhz
    require(config.rate_mhz in rates, f"rate {config.rate_mhz} mHz; Info lists {', '.join(map(str, rates))}")
    for name, scale in (("acc_scale", config.acc_scale_m_s2), ("gyro_scale", config.gyro_scale_deg_s)):
        require(math.isfinite(scale) and scale > 0, f"{name} {scale}")
    require(reserved == 0, f"reserved {reserved}")


@item(
    "RP-CFG-2",
    "The ranges MUST lie within what 16-bit counts tell at the scales.",
    "Range against 32,768 times the scale, to 1 in 1,000.",
)
async def _(bench: Bench) -> None:
    config = await bench.config()
    for name, wanted, told in (
        ("accelerometer", config.acc_range_g * GRAVITY_M_S2, config.acc_scale_m_s2 * 32768),
        ("gyroscope", float(config.gyro_range_deg_s), config.gyro_scale_deg_s * 32768),
    ):
        require(0 < wanted <= told * 1.001, f"{name}: a range of {wanted:.4g}, and counts tell {told:.4g}")


@item(
    "RP-CFG-3",
    "A write of a setting that is not offered MUST be refused with ATT error 0x13 and change nothing; a write of the "
    "setting that holds MUST be accepted.",
    "Config is written with a rate of 4,294,967.295 Hz, and as it was read.",
)
async def _(bench: Bench) -> None:
    link = await bench.link()
    before = await link.read(encoding.CONFIG_UUID)
    try:
        await link.write(encoding.CONFIG_UUID, before[:4] + b"\xff\xff\xff\xff" + before[8:])
    except WriteRefused as refused:
        error = refused.att_error
        require(error == ATT_VALUE_NOT_ALLOWED, f"the rate that is not offered was refused with 0x{error:02x}")
    else:
        raise Failed("a rate that no sensor has was accepted")
    require(await link.read(encoding.CONFIG_UUID) == before, "the refused write changed Config")
    try:
        await link.write(encoding.CONFIG_UUID, before)
    except WriteRefused as refused:
        raise Failed(f"the setting that holds was refused with 0x{refused.att_error:02x}") from None


# Control


@item("RP-CTRL-1", "An unknown op MUST be answered as the op with bit 7 set and status 1.", "Op 0x7F is written.")
async def _(bench: Bench) -> None:
    answer = await bench.raw(bytes([UNKNOWN_OP]))
    require(answer == bytes([UNKNOWN_OP | 0x80, Status.UNKNOWN_OP]), f"answered {answer.hex()}; expected ff01")


@item(
    "RP-CTRL-2",
    "A request of the wrong length MUST be answered with status 2 and do nothing; an empty write as op 0.",
    "START_LIVE with a byte too many, REQUEST and ACK with one too few, and nothing are written.",
)
async def _(bench: Bench) -> None:
    for payload in (b"\x01\x00", encoding.encode_request(Op.REQUEST, 0, 0, 0)[:-1], b"\x05\x00\x00\x00\x00\x00", b""):
        answer = await bench.raw(payload)
        expected = bytes([(payload[0] if payload else 0) | 0x80, Status.WRONG_LENGTH])
        shown = payload.hex() or "an empty write"
        require(answer == expected, f"{shown} was answered {answer.hex()}; expected {expected.hex()}")


@item(
    "RP-CTRL-3",
    "REQUEST and ACK of a session that is not held MUST be answered with status 3.",
    "A low half that Info does not list is named.",
)
async def _(bench: Bench) -> None:
    listed = {entry.session & 0xFFFF for entry in (await bench.info()).sessions}
    absent = next(half for half in range(0x10000) if half not in listed)
    for op, parameters in ((Op.REQUEST, (absent, 0, NEWEST)), (Op.ACK, (absent, 0))):
        status, _ = await bench.ask(op, *parameters)
        require(
            status == Status.NO_SUCH_SESSION, f"{op.name} of session {absent:04x} was answered with status {status}"
        )


@item(
    "RP-CTRL-4",
    "A REQUEST of a range of which nothing is held MUST be answered with status 4.",
    "A range far beyond the newest sample, and one of no samples, are requested.",
)
async def _(bench: Bench) -> None:
    running = (await bench.info()).running
    for first, count in ((running.end + 1_000_000, 100), (running.first, 0)):
        status, _ = await bench.ask(Op.REQUEST, running.session & 0xFFFF, first, count)
        what = f"REQUEST of {count} samples from {first}"
        require(status == Status.NOTHING_HELD, f"{what} was answered with status {status}")


@item(
    "RP-CTRL-5",
    "A REQUEST while another runs MUST be answered with status 5 and leave that one running.",
    "A second request is written before any credit is granted; then the first is drained.",
)
async def _(bench: Bench) -> None:
    n = (await bench.config()).samples_a_frame
    _, running = await bench.held(2 * n)
    link = await bench.link(fresh=True)
    half = running.session & 0xFFFF
    begin, _ = await bench.request(half, running.first, 1)
    status, _ = await bench.ask(Op.REQUEST, half, running.end - 1, 1)
    require(status == Status.BUSY, f"the second request was answered with status {status}")
    await bench.done(Op.CREDIT, 4)
    if not await bench.until(lambda: bool(link.backlog), SETTLE_S * 20):
        raise Failed("the first request sent nothing after it was granted credit")
    first = encoding.decode_frame(link.backlog[0]).first
    require(first == begin, f"credit brought the frame from {first}; the first request begins at {begin}")


# Frames and Live


@item(
    "RP-LIVE-1",
    "START_LIVE MUST answer with the running session and the index of the first sample that Live then carries.",
    "The answer is compared with Info and with the first frame.",
)
async def _(bench: Bench) -> None:
    answer = await bench.done(Op.START_LIVE, size=6)
    session, index = int.from_bytes(answer[:2], "little"), int.from_bytes(answer[2:], "little")
    running = (await bench.info()).running.session & 0xFFFF
    require(session == running, f"session {session:04x}; Info's running one is {running:04x}")
    first = (await bench.live(1))[0].first
    require(first == index, f"the answer tells {index}; the first frame begins at {first}")


@item(
    "RP-FRAME-1",
    "A frame MUST have 16 + 12 n bytes with the n of Config (fewer only where a session ends), a gap frame 20 and n 0.",
    "Four Live frames are taken.",
)
async def _(bench: Bench) -> None:
    n = (await bench.config()).samples_a_frame
    await bench.done(Op.START_LIVE, size=6)
    for frame in await bench.live(4):
        require(len(frame.counts) == n, f"a frame of {len(frame.counts)} samples; Config has {n}")


@item(
    "RP-FRAME-2",
    "A Live frame MUST have version 1, type 0, b0 and b1 as its sensors are present, b6 clear, and b2 and b7 clear.",
    "Four Live frames are taken.",
)
async def _(bench: Bench) -> None:
    await bench.done(Op.START_LIVE, size=6)
    for frame in await bench.live(4):
        require(frame.version == encoding.PROFILE_VERSION, f"version {frame.version}")
        require(frame.kind == FrameType.LIVE, f"type {frame.kind} on Live")
        require(bool(frame.flags & 3) and not frame.flags & 0b1100_0100, f"flags 0x{frame.flags:02x}")


@item(
    "RP-FRAME-3",
    "A frame's cfg_id MUST be that of the Config that applies, its session the low half of the running one.",
    "Two Live frames are compared with Config and Info.",
)
async def _(bench: Bench) -> None:
    cfg_id = (await bench.config()).cfg_id
    running = (await bench.info()).running.session & 0xFFFF
    await bench.done(Op.START_LIVE, size=6)
    for frame in await bench.live(2):
        require(frame.cfg_id == cfg_id, f"cfg_id {frame.cfg_id}; Config has {cfg_id}")
        require(frame.session == running, f"session {frame.session:04x}; the running one is {running:04x}")


@item(
    "RP-FRAME-4",
    "The accelerations of a wearable at rest MUST show gravity at acc_scale, 9.8 m/s², in little-endian counts.",
    "The median magnitude over ten Live frames lies within 1.5 m/s² of it. The wearable has to lie or hang still.",
)
async def _(bench: Bench) -> None:
    config = await bench.config()
    await bench.done(Op.START_LIVE, size=6)
    frames = await bench.live(10)
    counts = np.concatenate(
        [frame.counts for frame in frames if frame.flags & Flag.ACCELEROMETER] or [np.zeros((1, 6), np.int16)]
    )
    felt = float(np.median(np.linalg.norm(counts[:, :3].astype(np.float64) * config.acc_scale_m_s2, axis=1)))
    require(abs(felt - GRAVITY_M_S2) <= GRAVITY_TOLERANCE_M_S2, f"the median of |a| is {felt:.2f} m/s²")


@item(
    "RP-LIVE-2",
    "seq MUST count every frame by one, and each frame MUST begin where the one before ended unless b4 or a jump in "
    "seq tells why not.",
    "Six Live frames are taken.",
)
async def _(bench: Bench) -> None:
    await bench.done(Op.START_LIVE, size=6)
    _follow(await bench.live(6))


def _follow(frames: Sequence[Frame]) -> None:
    """Raises Failed where seq and index do not tell the same story."""
    for before, after in itertools.pairwise(frames):
        unsent = (after.seq - before.seq - 1) % 0x10000
        missing = after.first - before.end
        at = f"seq {before.seq} then {after.seq}, samples up to {before.end} then from {after.first}"
        require(unsent < 0x8000, f"seq does not count: {at}")
        require(missing >= 0, f"a frame begins before the last one ended: {at}")
        require(bool(unsent) == bool(missing) or bool(after.flags & 0x10), f"seq and index disagree: {at}")


@item("RP-LIVE-3", "After STOP_LIVE no Live frame MUST come.", "It is listened for as long as three frames take.")
async def _(bench: Bench) -> None:
    config = await bench.config()
    link = await bench.link()
    await bench.done(Op.START_LIVE, size=6)
    await bench.live(1)
    await bench.done(Op.STOP_LIVE)
    await asyncio.sleep(SETTLE_S)
    seen = len(link.live)
    await bench.pause(3 * config.samples_a_frame / config.rate_hz)
    require(len(link.live) == seen, f"{len(link.live) - seen} Live frames came after STOP_LIVE")


@item(
    "RP-LIVE-4",
    "Live MUST end with the link.",
    "A link with Live is ended; on the next one none comes for as long as three frames take.",
)
async def _(bench: Bench) -> None:
    config = await bench.config()
    await bench.done(Op.START_LIVE, size=6)
    await bench.live(1)
    link = await bench.link(fresh=True)
    await bench.pause(3 * config.samples_a_frame / config.rate_hz)
    require(not link.live, f"{len(link.live)} Live frames came on a new link that had not started Live")


# Backlog


@item(
    "RP-REQ-1",
    "A REQUEST MUST send every stored frame that overlaps the range, in order, from the first to the end that its "
    "answer tells, and set b6 in the last frame alone.",
    "60 samples from the oldest held on are requested.",
)
async def _(bench: Bench) -> None:
    _, running = await bench.held(80)
    first = running.first + 5
    begin, end, frames = await bench.drained(running.session, first, 60)
    require(begin <= first and end >= first + 60, f"the answer tells {begin} to {end} of {first} to {first + 60}")
    at = begin
    for frame in frames:
        require(frame.first == at, f"a frame begins at {frame.first}; expected {at}")
        at = frame.end
    require(at == end, f"the frames end at {at}; the answer tells {end}")
    require(
        [frame.last for frame in frames] == [False] * (len(frames) - 1) + [True], "b6 is not in the last frame alone"
    )
    kinds = {frame.kind for frame in frames}
    require(kinds <= {FrameType.BACKLOG, FrameType.GAP}, f"types {sorted(kinds)} on Backlog")


@item("RP-REQ-2", "Backlog's seq MUST count every frame by one.", "Four or more frames are drained.")
async def _(bench: Bench) -> None:
    n = (await bench.config()).samples_a_frame
    _, running = await bench.held(4 * n)
    _, _, frames = await bench.drained(running.session, running.first, 4 * n)
    _follow(frames)


@item(
    "RP-REQ-3",
    "Each Backlog frame MUST cost one credit, and none MUST be sent without.",
    "A request is given none, then two.",
)
async def _(bench: Bench) -> None:
    config = await bench.config()
    _, running = await bench.held(5 * config.samples_a_frame)
    link = await bench.link(fresh=True)
    await bench.request(running.session, running.first, NEWEST)
    await bench.pause(0.5)
    require(not link.backlog, f"{len(link.backlog)} Backlog frames came without credit")
    await bench.done(Op.CREDIT, 2)
    await bench.until(lambda: len(link.backlog) >= 2, SETTLE_S * 20)
    await bench.pause(0.5)
    require(len(link.backlog) == 2, f"{len(link.backlog)} Backlog frames came for 2 credits")


@item(
    "RP-REQ-4",
    "ABORT MUST end the request without a last frame; the next request MUST be taken.",
    "A request is aborted after one frame; credit then brings nothing, a new request its own range.",
)
async def _(bench: Bench) -> None:
    n = (await bench.config()).samples_a_frame
    _, running = await bench.held(5 * n)
    link = await bench.link(fresh=True)
    await bench.request(running.session, running.first, NEWEST)
    await bench.done(Op.CREDIT, 1)
    await bench.until(lambda: bool(link.backlog), SETTLE_S * 20)
    await bench.done(Op.ABORT)
    await asyncio.sleep(SETTLE_S)
    seen = len(link.backlog)
    await bench.done(Op.CREDIT, 5)
    await bench.pause(0.5)
    require(len(link.backlog) == seen, f"{len(link.backlog) - seen} Backlog frames came after ABORT")
    require(
        not any(encoding.decode_frame(data).last for data in link.backlog), "an aborted request sent a frame with b6"
    )
    await bench.request(running.session, running.first, 1)


@item(
    "RP-REQ-5",
    "Credit and the request MUST lapse with the link.",
    "Credit is granted and a request begun, the link ended; on the next one a request brings nothing without credit.",
)
async def _(bench: Bench) -> None:
    n = (await bench.config()).samples_a_frame
    _, running = await bench.held(3 * n)
    await bench.link(fresh=True)
    await bench.done(Op.CREDIT, 50)
    link = await bench.link(fresh=True)
    await bench.request(running.session, running.first, NEWEST)
    await bench.pause(0.5)
    require(not link.backlog, f"{len(link.backlog)} Backlog frames came for the credit of an earlier link")
    link = await bench.link(fresh=True)
    await bench.pause(0.2)
    await bench.request(running.session, running.first, NEWEST)


@item(
    "RP-REQ-6",
    "A frame MUST be the same by Live and by Backlog but for type, flags and seq.",
    "A Live frame is requested again.",
)
async def _(bench: Bench) -> None:
    await bench.done(Op.START_LIVE, size=6)
    live = (await bench.live(1))[0]
    session = (await bench.info()).running.session
    _, _, frames = await bench.drained(session, live.first, len(live.counts))
    again = frames[0]
    for name, part in (("n and cfg_id", slice(2, 4)), ("session, index, tick and samples", slice(6, None))):
        one, other = live.data[part], again.data[part]
        require(one == other, f"{name} differ: {one[:16].hex()}... by Live, {other[:16].hex()}... by Backlog")


@item(
    "RP-REQ-7",
    "A REQUEST MUST NOT go beyond the newest closed frame, which Info counts.",
    "The range to the newest is requested; its end lies between Info's before and after.",
)
async def _(bench: Bench) -> None:
    n = (await bench.config()).samples_a_frame
    _, running = await bench.held(n)
    before = (await bench.info()).running.end
    _, end = await bench.request(running.session, before - 1, NEWEST)
    after = (await bench.info()).running.end
    require(before <= end <= after, f"the answer ends at {end}; Info told {before} before and {after} after")


@item(
    "RP-LIVE-5",
    "Live MUST have priority over Backlog.",
    "200 frames and more are drained beside Live. Once Time tells that a Live frame has been full for half as long as "
    "one takes, at most 32 Backlog frames, which were under way, come before it.",
)
async def _(bench: Bench) -> None:
    config, info = await bench.config(), await bench.info()
    n, wanted = config.samples_a_frame, LONG_FRAMES * config.samples_a_frame
    missing = wanted - (info.running.end - info.running.first)
    if wanted > info.capacity or missing / config.rate_hz > LONG_WAIT_S:
        raise Skipped(f"the running session holds {wanted - missing} samples; {wanted} are needed")
    await bench.held(wanted)
    await bench.done(Op.START_LIVE, size=6)
    await bench.live(1)
    seen, found = 0, f"more than {UNDER_WAY} Backlog frames came before a Live frame that was full"
    for _ in range(LONG_REQUESTS):
        overtook = await _overtook(bench, n)
        if overtook is not None:
            require(overtook <= UNDER_WAY, found)
            seen += 1
        if seen == LONG_SEEN:
            return
    if not seen:
        raise Skipped(f"each of {LONG_REQUESTS} long requests was over before a Live frame was full")


async def _overtook(bench: Bench, n: int) -> int | None:
    """How many Backlog frames of a long request came while a Live frame was full and had not come, counted up to
    UNDER_WAY + 1; None where the request was nearly over before there was one. Live must have brought a frame."""
    link = await bench.link()
    running = (await bench.info()).running
    begin, end = await bench.request(running.session, running.first, NEWEST)
    before, due = len(link.backlog), (end - begin) // n
    await bench.done(Op.CREDIT, 0xFFFF)
    overtook = None
    while overtook is None and not link.lost and len(link.backlog) - before + 2 * UNDER_WAY < due:
        _, read, _ = await bench.time()
        came, ended = len(link.frames), encoding.decode_frame(link.live[-1]).end
        full = ended + (read.next_index - n // 2 - ended) // n * n
        if ended > end:  # one that was filled since the request has come
            overtook = 0
        elif full > end:
            behind = functools.partial(_behind, link.frames, came, full)
            await bench.until(lambda behind=behind: behind() is not None or link.lost, FRAME_S)  # type: ignore[misc]
            overtook = behind()
    await bench.done(Op.ABORT)
    return overtook


def _behind(notified: Sequence[bytes], came: int, full: int) -> int | None:
    """How many frames of Backlog came, from the one numbered `came` of both characteristics on, before the Live frame
    that ends at `full` or later; None where neither that nor too many have come."""
    backlog = 0
    for data in notified[came:]:
        frame = encoding.decode_frame(data)
        if frame.kind == FrameType.LIVE and frame.end >= full:
            return backlog
        backlog += frame.kind != FrameType.LIVE
        if backlog > UNDER_WAY:
            return backlog
    return None


@item(
    "RP-ACK-1",
    "Sending a frame MUST NOT move the watermark, nor erase it.",
    "Frames are taken by Live and Backlog without ACK; Info's first and watermark stay.",
)
async def _(bench: Bench) -> None:
    n = (await bench.config()).samples_a_frame
    info, before = await bench.held(4 * n)
    if sum(entry.end - entry.first for entry in info.sessions) + 8 * n > info.capacity:
        raise Skipped("the ring is full and overwrites its oldest frames")
    await bench.done(Op.START_LIVE, size=6)
    await bench.live(2)
    await bench.drained(before.session, before.first, 4 * n)
    after = (await bench.info()).running
    require(after.watermark == before.watermark, f"the watermark went from {before.watermark} to {after.watermark}")
    require(after.first == before.first, f"the first index held went from {before.first} to {after.first}")


# Time


@item("RP-TIME-1", "Time MUST have 10 bytes, the running session and the index of the next sample.", "Read with Info.")
async def _(bench: Bench) -> None:
    before = (await bench.info()).running
    _, read, _ = await bench.time()
    require(
        read.session == before.session & 0xFFFF, f"session {read.session:04x}; Info's is {before.session & 0xFFFF:04x}"
    )
    require(read.next_index >= before.end, f"next sample {read.next_index}; Info had {before.end} before")
    config = await bench.config()
    await bench.pause(2 * config.samples_a_frame / config.rate_hz)
    _, later, _ = await bench.time()
    require(later.next_index > read.next_index, f"the next sample stays {read.next_index}")


@item(
    "RP-TIME-2",
    "The tick MUST run at tick_hz within 500 ppm.",
    "Two readings of the lowest round trip, 8 s and more apart, bound its rate by this host's clock.",
)
async def _(bench: Bench) -> None:
    tick_hz = (await bench.info()).tick_hz
    reads = [await _quickest(bench)]
    while True:
        await bench.pause(8)
        reads.append(await _quickest(bench))
        (sent, first, got), (sent_later, last, got_later) = reads[0], reads[-1]
        ticks = (last.tick - first.tick) % 2**32
        low, high = ticks / (got_later - sent) * 1e9, ticks / (sent_later - got) * 1e9
        require(
            low <= tick_hz * (1 + TICK_TOLERANCE) and high >= tick_hz * (1 - TICK_TOLERANCE),
            f"{low:.1f} to {high:.1f} ticks a second; Info tells {tick_hz}",
        )
        if (high - low) / tick_hz < 0.05 or len(reads) > 5:
            return


async def _quickest(bench: Bench) -> tuple[int, encoding.TimeRead, int]:
    return min([await bench.time() for _ in range(8)], key=lambda read: read[2] - read[0])


@item(
    "RP-TIME-3",
    "A frame's tick MUST be the tick of its first sample: from frame to frame ticks and indices go on alike, at the "
    "rate of Config.",
    "Over six stored frames tick against index gives the rate within 3 %; each frame lies within a sample of the line.",
)
async def _(bench: Bench) -> None:
    config = await bench.config()
    info, running = await bench.held(6 * config.samples_a_frame)
    _, _, frames = await bench.drained(running.session, running.end - 6 * config.samples_a_frame, NEWEST)
    frames = [frame for frame in frames if frame.kind != FrameType.GAP]
    for before, after in itertools.pairwise(frames):
        if after.flags & 0x20:
            continue
        passed_s = ((after.tick - before.tick) % 2**32) / info.tick_hz
        expected_s = (after.first - before.first) / config.rate_hz
        require(
            abs(passed_s - expected_s) <= RATE_TOLERANCE * expected_s + 1 / config.rate_hz,
            f"from index {before.first} to {after.first} the tick went on by {passed_s:.4f} s; the rate makes it "
            f"{expected_s:.4f} s",
        )
    samples = frames[-1].first - frames[0].first
    passed_s = ((frames[-1].tick - frames[0].tick) % 2**32) / info.tick_hz
    rate_hz = samples / passed_s if passed_s else math.inf
    require(
        abs(rate_hz / config.rate_hz - 1) <= RATE_TOLERANCE,
        f"ticks make it {rate_hz:.2f} samples a second; Config tells {config.rate_hz:g}",
    )


@item(
    "RP-TIME-4",
    "Frames and Time MUST share one clock.",
    "The newest frame's tick, carried on to Time's next index, meets Time's tick within half a second in one of 16 "
    "readings.",
)
async def _(bench: Bench) -> None:
    config = await bench.config()
    info, running = await bench.held(config.samples_a_frame)
    _, _, frames = await bench.drained(running.session, running.end - 1, NEWEST)
    off_s = math.inf
    for _ in range(16):
        _, read, _ = await bench.time()
        ahead_s = (read.next_index - frames[-1].first) / config.rate_hz
        ticks = (read.tick - frames[-1].tick + 2**31) % 2**32 - 2**31
        off_s = min(off_s, ticks / info.tick_hz - ahead_s, key=abs)
    require(abs(off_s) <= 0.5, f"Time is {off_s:+.2f} s from where the frames' ticks lead")


# What acknowledges samples


def _may_erase(bench: Bench) -> None:
    if not bench.erase:
        raise Skipped("it acknowledges samples, which the wearable may then erase (--erase)")


@item(
    "RP-ACK-2",
    "ACK MUST answer with the watermark, which Info then tells; an ACK below it MUST change nothing.",
    "Half of what is held is acknowledged, then less.",
)
async def _(bench: Bench) -> None:
    _may_erase(bench)
    _, running = await bench.held(80)
    wanted = max(running.watermark, (running.first + running.end) // 2)
    for index in (wanted, max(0, wanted - 30)):
        told = int.from_bytes(await bench.done(Op.ACK, running.session & 0xFFFF, index, size=4), "little")
        require(told == wanted, f"ACK of {index} was answered with watermark {told}; expected {wanted}")
        info = (await bench.info()).running.watermark
        require(info == wanted, f"Info tells watermark {info} after ACK of {index}; expected {wanted}")


@item(
    "RP-ACK-3",
    "An ACK beyond the newest closed frame MUST count as one of all closed frames.",
    "Index 0xFFFFFFFF is acknowledged.",
)
async def _(bench: Bench) -> None:
    _may_erase(bench)
    before = (await bench.info()).running
    told = int.from_bytes(await bench.done(Op.ACK, before.session & 0xFFFF, 0xFFFFFFFF, size=4), "little")
    after = (await bench.info()).running
    require(
        before.end <= told <= after.end, f"watermark {told}; Info told {before.end} closed before, {after.end} after"
    )


@item(
    "RP-ACK-4",
    "The ring MUST keep at least 400 samples behind the watermark.",
    "With 480 and more samples in the session all are acknowledged; those from 400 before it on are drained.",
)
async def _(bench: Bench) -> None:
    _may_erase(bench)
    running = await _acknowledged(bench)
    oldest = max(0, running.watermark - KEPT)
    require(
        running.first <= oldest,
        f"the ring holds from {running.first} on, {running.watermark - running.first} behind the watermark "
        f"{running.watermark}",
    )
    _, _, frames = await bench.drained(running.session, oldest, running.watermark - oldest)
    gaps = [frame.first for frame in frames if frame.kind == FrameType.GAP]
    require(not gaps, f"a gap from {gaps[0] if gaps else 0} on where samples have to be kept")


async def _acknowledged(bench: Bench) -> encoding.SessionEntry:
    """The running session once 480 samples of it were made and all that are closed acknowledged."""
    while (await bench.info()).running.end < KEPT + 80:
        _, running = await bench.held(1)
        await bench.pause((KEPT + 80 - running.end) / (await bench.config()).rate_hz)
    running = (await bench.info()).running
    await bench.done(Op.ACK, running.session & 0xFFFF, running.end, size=4)
    return (await bench.info()).running


@item(
    "RP-REQ-8",
    "A part of a requested range that the ring no longer has MUST be told by a gap frame in its place, with the "
    "session and index of its first missing sample.",
    "A session is requested from 0 on whose first samples are gone; where there is none, samples are acknowledged.",
)
async def _(bench: Bench) -> None:
    entries = [entry for entry in (await bench.info()).sessions if 0 < entry.first < entry.end]
    if not entries:
        if not bench.erase:
            raise Skipped("all samples are still held, and acknowledging them may erase some (--erase)")
        running = await _acknowledged(bench)
        if running.first == 0:
            raise Skipped(f"the ring still keeps all {running.end} samples of the session, as it may")
        entries = [running]
    entry = entries[-1]
    begin, _, frames = await bench.drained(entry.session, 0, entry.first + 1)
    require(begin == 0, f"the answer begins at {begin}; the gap in front belongs to the range")
    gap = frames[0]
    require(
        gap.kind == FrameType.GAP, f"the first frame is of type {gap.kind} and begins at {gap.first}; a gap from 0 on"
    )
    require(
        gap.first == 0 and gap.missing >= entry.first, f"a gap of {gap.missing} from {gap.first}; {entry.first} from 0"
    )
    require(gap.session == entry.session & 0xFFFF, f"session {gap.session:04x}; expected {entry.session & 0xFFFF:04x}")
    after = frames[1].first if len(frames) > 1 else gap.end
    require(after == gap.end, f"the frame after the gap begins at {after}; the gap ends at {gap.end}")


# What restarts the wearable


def _restart(bench: Bench) -> Callable[[], Awaitable[None]]:
    if bench.restart is None:
        raise Skipped("it needs a restart, for which nobody is asked (--restart-by-hand)")
    return bench.restart


@item(
    "RP-SESS-2",
    "After a restart Info MUST list a new session last; where its flag b0 is set the one before is still held.",
    "The wearable is restarted.",
)
async def _(bench: Bench) -> None:
    restart = _restart(bench)
    info, before = await bench.held(1)
    await restart()
    await bench.drop()
    after = await bench.info()
    require(after.running.session != before.session, f"the session is still {before.session:016x}")
    require(
        abs(after.running.session - before.session) >= 2**32,
        f"session {after.running.session:016x} follows on {before.session:016x}",
    )
    if info.flags & 1:
        old = next((entry for entry in after.sessions if entry.session == before.session), None)
        if old is None:
            raise Failed(f"session {before.session:016x} is gone though the ring is kept over a reboot")
        require(old.end >= before.end and old.first <= before.first, f"of it {old.first} to {old.end} are held")


@item(
    "RP-SESS-3",
    "A session that has ended and is acknowledged to its end MUST leave the ring and Info.",
    "The session that a restart has ended is acknowledged.",
)
async def _(bench: Bench) -> None:
    _may_erase(bench)
    restart = _restart(bench)
    _, running = await bench.held(1)
    await restart()
    await bench.drop()
    info = await bench.info()
    ended = next((entry for entry in info.sessions if entry.session == running.session), None)
    if ended is None:
        raise Skipped("the ring is not kept over a reboot")
    await bench.done(Op.ACK, ended.session & 0xFFFF, ended.end, size=4)
    left = [entry.session for entry in (await bench.info()).sessions]
    require(ended.session not in left, f"session {ended.session:016x} is still listed")
