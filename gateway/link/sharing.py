"""Which of several gateways in reach holds a shared wearable, without a server: each judges by what it hears.

A wearable has one central at a time, and its advertisement says whether it has one; while it has, it goes on
advertising, but takes no other connection. So how strongly each gateway hears it is known to each, in the same measure,
all the time. Who holds it lets it go once it hears it weakly for long enough; who hears it free takes it, the sooner
the more strongly. What is taken at TAKE_DBM and let go at LET_GO_DBM does not go to and fro by noise of less than half
of what lies between. No sample is at stake: the wearable's ring keeps what nobody has acknowledged.

Time (seconds of one monotonic clock) and signal strength (dBm) come in, a verdict comes out; nothing here waits.
A wearable that is silent while it is held, or says nothing of it, is never let go: it changes gateways by a lost link.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

LET_GO_DBM = -80.0
"""Heard more weakly than this on average a link is in danger: 15 dB above the -95 dBm at which usual receivers lose
every tenth packet, and an arm or a body in the way takes 10 to 20 dB."""
HYSTERESIS_DB = 8.0
"""Between taking and letting go. Errors of two averages up to half of it each change nothing. One advertisement
strays by 4 to 6 dB indoors (its three channels fade apart), the average of ten by less than 2; receivers of one kind
differ by 2 to 3."""
TAKE_DBM = LET_GO_DBM + HYSTERESIS_DB
"""Heard like this a wearable that another has let go is taken at once."""
MEMORY_S = 10.0
"""Averages reach so far back: ten advertisements of a wearable that sends one a second, and at a walking pace of
1.4 m/s no farther than one gets across a room or two."""
SAMPLES_MAX = 64
SAMPLES_MIN = 4
"""Fewer advertisements are no average; older ones count then, up to FADES_S. BlueZ has controllers tell of a device
once a scan, so that there are only so many as scans are begun."""
FADES_S = 45.0
SILENT_S = 20.0
"""Who has not heard it for so long knows nothing of what became of it meanwhile."""
HEARD_S = 5.0
"""What was free so lately may be taken without hearing it once more."""
WEAK_S = 5.0
"""So long the average stays below LET_GO_DBM before the wearable is let go: a turn of the body passes sooner."""
SETTLE_S = 10.0
"""Once taken it is kept for so long in any case: its subscriptions and first reads take some of it."""
KEEP_S = 60.0
"""And for so long where it had been let go and nobody else took it, twice as long each further time: a lone gateway at
the edge of its reach does not interrupt its stream for nothing every few seconds."""
KEEP_MAX_S = 900.0
OFFER_S = 8.0
"""For so long who has let it go leaves it to those that hear it at TAKE_DBM or better, then takes it back: they know of
it within 4 s (RESCAN_SHARED_S of gateway/ble/radio.py and an advertisement), wait 1.4 s, and connect in 2."""
WAIT_S_PER_DB = 0.05
WAIT_NONE_DBM = -45.0
"""Heard like this nobody is nearer. Each dB below it waits WAIT_S_PER_DB more, so that who hears it better is there
first: 4 dB are two advertisements at 100 ms."""
STALE_S = 1.0
"""For so long after it was let go an advertisement may still say that it is held: by this gateway, until then."""
WEAK_WAIT_S = OFFER_S + 2.0
"""More, for who hears it below TAKE_DBM: behind all that hear it well, and behind who has let it go."""
STRENGTH_MIN_DBM = -110.0
"""No receiver hears anything weaker."""
WAIT_MAX_S = (WAIT_NONE_DBM - STRENGTH_MIN_DBM) * WAIT_S_PER_DB + WEAK_WAIT_S
"""A wearable that is free, and heard, is taken within this and one advertisement more."""
LISTEN_S, LISTEN_EVERY_S = 2.0, 8.0
"""Who holds it listens for its advertisements so long, so often; all the time while it is heard weakly. Listening all
the time would cost the links of other wearables their share of the radio."""


class Verdict(StrEnum):
    """What an advertisement calls for. LEAVE: it is not to be taken, or not yet; KEEP: it is held here and stays so."""

    LEAVE = "leave"
    TAKE = "take"
    KEEP = "keep"
    LET_GO = "let go"


@dataclass(frozen=True, slots=True)
class Share:
    """One gateway's view of one wearable. heard: when and how strongly, the newest last. free_since_s: since when its
    advertisements say that nobody holds it. fruitless: times in a row that it was let go and nobody else took it."""

    heard: tuple[tuple[float, float], ...] = ()
    held_since_s: float | None = None
    free_since_s: float | None = None
    weak_since_s: float | None = None
    let_go_s: float | None = None
    fruitless: int = 0

    @property
    def weak(self) -> bool:
        """Whether it is about to be let go, if that goes on."""
        return self.weak_since_s is not None

    def strength_dbm(self, now_s: float) -> float | None:
        """The average of what was heard lately; None where that was too little."""
        recent = [dbm for at_s, dbm in self.heard if now_s - at_s <= MEMORY_S]
        if len(recent) < SAMPLES_MIN:
            recent = [dbm for at_s, dbm in self.heard if now_s - at_s <= FADES_S][-SAMPLES_MIN:]
        return sum(recent) / len(recent) if len(recent) >= SAMPLES_MIN else None


def hear(share: Share, rssi_dbm: float, held: bool, now_s: float) -> tuple[Share, Verdict]:
    """An advertisement. held: it says that a central holds the wearable, this gateway or another."""
    silent = not share.heard or now_s - share.heard[-1][0] > SILENT_S
    lately = tuple(sample for sample in share.heard if now_s - sample[0] <= FADES_S)
    share = replace(share, heard=(*lately, (now_s, rssi_dbm))[-SAMPLES_MAX:])
    if share.held_since_s is not None:
        return _holding(share, share.held_since_s, now_s)
    if silent:
        share = replace(share, free_since_s=None, let_go_s=None, fruitless=0)
    if held:
        if share.let_go_s is not None and now_s - share.let_go_s < STALE_S:
            return share, Verdict.LEAVE
        return replace(share, free_since_s=None, let_go_s=None, fruitless=0), Verdict.LEAVE
    free_since_s = now_s if share.free_since_s is None else share.free_since_s
    share = replace(share, free_since_s=free_since_s)
    return share, Verdict.TAKE if due(share, now_s) else Verdict.LEAVE


def due(share: Share, now_s: float) -> bool:
    """Whether it is to be taken now, if nothing else is heard."""
    at_s = take_at_s(share, now_s)
    return at_s is not None and at_s <= now_s <= share.heard[-1][0] + HEARD_S


def taken(share: Share, now_s: float) -> Share:
    """This gateway is connected to it."""
    fruitless = 0 if share.let_go_s is None else share.fruitless + 1
    return replace(share, held_since_s=now_s, free_since_s=None, weak_since_s=None, let_go_s=None, fruitless=fruitless)


def parted(share: Share, now_s: float, *, let_go: bool) -> Share:
    """This gateway is connected to it no more. let_go: by its own verdict; otherwise the link was lost, or never
    worked."""
    let_go_s = now_s if let_go else None
    fruitless = share.fruitless if let_go else 0
    return replace(
        share, held_since_s=None, free_since_s=None, weak_since_s=None, let_go_s=let_go_s, fruitless=fruitless
    )


def keep_s(fruitless: int) -> float:
    """How long it is kept after it was taken, whatever is heard."""
    return min(KEEP_MAX_S, KEEP_S * 2.0 ** min(fruitless - 1, 16)) if fruitless else SETTLE_S


def _holding(share: Share, held_since_s: float, now_s: float) -> tuple[Share, Verdict]:
    strength_dbm = share.strength_dbm(now_s)
    if strength_dbm is None:
        return replace(share, weak_since_s=None), Verdict.KEEP
    if strength_dbm >= LET_GO_DBM:
        fruitless = 0 if strength_dbm >= TAKE_DBM else share.fruitless
        return replace(share, weak_since_s=None, fruitless=fruitless), Verdict.KEEP
    weak_since_s = now_s if share.weak_since_s is None else share.weak_since_s
    share = replace(share, weak_since_s=weak_since_s)
    kept_s, weak_s = now_s - held_since_s, now_s - weak_since_s
    over = kept_s >= keep_s(share.fruitless) and weak_s >= WEAK_S
    return share, Verdict.LET_GO if over else Verdict.KEEP


def take_at_s(share: Share, now_s: float) -> float | None:
    """When it may be taken, as strongly as it was heard lately; None while it is held."""
    if share.held_since_s is not None or share.free_since_s is None:
        return None
    if share.let_go_s is not None:
        return share.let_go_s + OFFER_S
    strength_dbm = share.strength_dbm(now_s)
    known_dbm = min(dbm for _, dbm in share.heard) if strength_dbm is None else strength_dbm
    behind_db = min(max(0.0, WAIT_NONE_DBM - known_dbm), WAIT_NONE_DBM - STRENGTH_MIN_DBM)
    strong = strength_dbm is not None and strength_dbm >= TAKE_DBM
    return share.free_since_s + behind_db * WAIT_S_PER_DB + (0.0 if strong else WEAK_WAIT_S)
