"""Journal rows and talk, for the tests of the families."""

import json

import numpy as np

from gateway.motion.samples import Burst, Lost
from gateway.profiles.conversation import Connected, Fault, Kind, Received, Write
from gateway.profiles.errors import FrameError

BOOT = "boot"
SECOND = 10**9


def frames(payloads, every_ns=80_000_000):
    """A link that notifies these at even times."""
    return [(Kind.CONNECTED, b"", 0), *((Kind.FRAME, p, (i + 1) * every_ns) for i, p in enumerate(payloads))]


def fold(decoder, rows, first_row=1):
    """Pieces of each row; a payload that is refused is its FrameError's text."""
    told = []
    for row, (kind, payload, mono_ns) in enumerate(rows, first_row):
        try:
            told.append(decoder.decode(kind, payload, Received(row, BOOT, mono_ns)))
        except FrameError as error:
            told.append([str(error)])
    return told


def flat(told):
    return [piece for pieces in told for piece in pieces]


def plain(pieces):
    """Comparable by ==, to the bit."""
    return [
        (p.session, p.sensor, p.first, p.taken_ns.tolist(), p.values.tobytes(), p.saturated)
        if isinstance(p, Burst)
        else p
        for p in pieces
    ]


def bursts(pieces):
    return [piece for piece in pieces if isinstance(piece, Burst)]


def losses(pieces):
    return [piece for piece in pieces if isinstance(piece, Lost)]


def taken(pieces, sensor=None):
    return np.concatenate([b.taken_ns for b in bursts(pieces) if sensor in (None, b.sensor)])


def continues_exactly(profile, rows):
    """Whether a decoder that is restored from its state, as JSON, at any row tells the same from there on."""
    whole = [plain(pieces) for pieces in fold(profile.decoder(), rows)]
    for cut in range(len(rows) + 1):
        before = profile.decoder()
        fold(before, rows[:cut])
        after = profile.decoder(json.loads(json.dumps(before.state())))
        assert [plain(pieces) for pieces in fold(after, rows[cut:], cut + 1)] == whole[cut:], f"after row {cut}"


def commands_of(conversation, steps):
    """Each step (event, seconds); the commands of all but the Connected at the start."""
    conversation.handle(Connected(), 0)
    return [conversation.handle(event, round(at_s * SECOND)) for event, at_s in steps]


def writes(commands):
    return [(c.uuid, c.payload.hex()) for c in commands if isinstance(c, Write)]


def faults(commands):
    return [(c.name, c.fatal) for c in commands if isinstance(c, Fault)]
