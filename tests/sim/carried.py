"""Which samples a notification carries, family by family, read from its bytes with no line of the gateway.

A wearable that keeps nothing sends its samples in their order, so to count them is to know them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

WITMOTION_FRAME_BYTES = 20
MOVESENSE_HEAD_BYTES, MOVESENSE_SAMPLE_BYTES = 6, 24
POLAR_HEAD_BYTES, POLAR_FIRST_SAMPLE_BYTES = 10, 6
POLAR_COLUMNS = {2: 0, 5: 3}
"""By type of measurement: acceleration, rate of turn."""


@dataclass(frozen=True, slots=True)
class Carried:
    """Samples first to end (exclusive) of the sensor with this first column, and the notifications that they need."""

    column: int
    first: int
    end: int
    notifications: tuple[int, ...]


def one_each(sent: list[bytes]) -> Iterator[Carried]:
    """Xsens DOT and Thingy:52."""
    for n in range(len(sent)):
        yield Carried(0, n, n + 1, (n,))


def movesense(sent: list[bytes]) -> Iterator[Carried]:
    """`02 ref`, a stamp and samples; `03 ref` is the rest of the one before it; `01` is an answer."""
    first = 0
    for n, payload in enumerate(sent):
        if payload[0] != 2:
            continue
        more = n + 1 < len(sent) and sent[n + 1][0] == 3
        size = len(payload) + (len(sent[n + 1]) - 2 if more else 0)
        count, rest = divmod(size - MOVESENSE_HEAD_BYTES, MOVESENSE_SAMPLE_BYTES)
        if rest:  # its second notification never went out, and nothing after it
            return
        yield Carried(0, first, first + count, (n, n + 1) if more else (n,))
        first += count


def polar(sent: list[bytes]) -> Iterator[Carried]:
    """A first sample and blocks of differences: u8 bits, u8 count, ceil(3 x bits x count / 8) bytes."""
    first = dict.fromkeys(POLAR_COLUMNS.values(), 0)
    for n, payload in enumerate(sent):
        column = POLAR_COLUMNS[payload[0]]
        at, count = POLAR_HEAD_BYTES + POLAR_FIRST_SAMPLE_BYTES, 1
        while at < len(payload):
            bits, samples = payload[at : at + 2]
            at, count = at + 2 + (3 * bits * samples + 7) // 8, count + samples
        yield Carried(column, first[column], first[column] + count, (n,))
        first[column] += count


def witmotion(sent: list[bytes]) -> Iterator[Carried]:
    """A string of bytes, cut anywhere; every 20 of them are a sample."""
    ends, at = [], 0
    for payload in sent:
        at += len(payload)
        ends.append(at)
    n = 0
    for sample in range(at // WITMOTION_FRAME_BYTES):
        low, high = sample * WITMOTION_FRAME_BYTES, (sample + 1) * WITMOTION_FRAME_BYTES
        while ends[n] <= low:
            n += 1
        last = n
        while ends[last] < high:
            last += 1
        yield Carried(0, sample, sample + 1, tuple(range(n, last + 1)))


CARRIED: dict[str, Callable[[list[bytes]], Iterator[Carried]]] = {
    "xsens-dot": one_each,
    "thingy52": one_each,
    "movesense": movesense,
    "polar-verity-sense": polar,
    "witmotion-bwt901ble": witmotion,
}
