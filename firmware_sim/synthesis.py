"""Wrist motion made from parameters: what a demonstration and a demonstration model can be fed with.

The forearm is a rigid body with an orientation over time: a pose for each activity, in which gravity lies as it would,
slow wandering, and rhythmic swings. The gyroscope is the derivative of that orientation and the accelerometer shows
gravity in it, so that both agree and |a| at rest is 9.81 m/s²; strokes and knocks add to it. Wearers differ in pose,
tempo, amplitude, mounting, tremor and sensor noise by their number alone; a Person adds what is known of one: hand,
wrist, how the case is worn, tempo and amplitude. The figures are chosen to look plausible (rubbing at 1 to 3 Hz,
scratching and tapping at 3 to 5 Hz, physiological tremor at 8 to 12 Hz as in Elble and Koller, "Tremor", 1990); no
person was measured, and nothing here says anything about one.

Frame: the wrist's case, x towards the crown (the hand), y towards 12 o'clock, z out of the dial. The other wrist moves
as a mirror image, told in a right-handed frame of its own: x towards the hand, z out of the back of the wrist.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gateway.errors import InputRejected
from gateway.motion.axes import axes_text, parse_axes, rotate
from gateway.motion.samples import Float32
from gateway.motion.units import STANDARD_GRAVITY_M_S2, deg_s_from

Float64 = NDArray[np.float64]
Triple = tuple[float, float, float]


class ScheduleRejected(InputRejected):
    """A schedule that cannot be played."""


@dataclass(frozen=True, slots=True)
class _Pose:
    """pitch_deg: -90 with the hand straight up, 90 hanging. roll_deg: 0 with the dial up, 90 with 12 o'clock up."""

    pitch_deg: float
    roll_deg: float


@dataclass(frozen=True, slots=True)
class _Motion:
    """One activity. Ranges are drawn from anew in each segment.

    tempo_hz: of the rhythm. swing_deg: its amplitude about x, y, z. push_m_s2: its acceleration along x, y, z.
    work_s, rest_s: mean length of a burst and of the pause after it. knock_m_s2: a blow along z, once a period where
    knocks_hz is 0, else at random times with that mean rate. away: a second pose, held for away_s after near_s in the
    first. shifts_hz: how often the posture changes a little.
    """

    pose: _Pose
    tempo_hz: tuple[float, float]
    swing_deg: Triple
    push_m_s2: Triple = (0.0, 0.0, 0.0)
    work_s: float = 4.0
    rest_s: float = 0.6
    knock_m_s2: float = 0.0
    knocks_hz: float = 0.0
    away: _Pose | None = None
    near_s: float = 0.0
    away_s: float = 0.0
    wander_deg: float = 4.0
    shifts_hz: float = 0.03


_MOTIONS: dict[str, _Motion] = {
    "ear_rubbing": _Motion(_Pose(-64, -15), (1.5, 2.6), (9, 3, 5), (0.5, 0.4, 0.6), work_s=3.5),
    "forehead_rubbing": _Motion(_Pose(-56, -58), (0.8, 1.5), (3, 4, 10), (0.6, 1.4, 0.3), work_s=4.5),
    "hair_pulling": _Motion(_Pose(-68, -100), (0.5, 1.1), (7, 8, 4), (1.2, 0.4, 0.4), 2.5, 1.0, 2.0, 0.5),
    "hand_scratching": _Motion(_Pose(-14, -32), (3.0, 4.8), (3, 2, 6), (1.6, 1.0, 0.4), 2.5, 0.8),
    "hand_tapping": _Motion(_Pose(2, 6), (2.2, 4.2), (1, 4, 1), (0.1, 0.1, 0.8), 5.0, 0.7, knock_m_s2=3.5),
    "knuckles_cracking": _Motion(
        _Pose(-30, 52), (0.5, 0.9), (5, 3, 4), (0.4, 0.4, 0.4), 2.0, 1.2, knock_m_s2=5.0, knocks_hz=0.9
    ),
    "nail_biting": _Motion(_Pose(-58, 34), (1.3, 2.6), (4, 3, 3), (0.3, 0.4, 0.3), 2.0, 1.2),
    "nape_rubbing": _Motion(_Pose(-48, 150), (0.8, 1.7), (4, 9, 4), (0.8, 0.9, 0.4), work_s=4.0),
    "sitting": _Motion(_Pose(-4, 10), (0.2, 0.3), (0.4, 0.4, 0.4), rest_s=4.0, wander_deg=3.0, shifts_hz=0.08),
    "smoking": _Motion(
        _Pose(-54, 48),
        (0.3, 0.6),
        (2, 3, 2),
        (0.1, 0.1, 0.1),
        away=_Pose(-12, 22),
        near_s=2.0,
        away_s=3.2,
    ),
    "standing": _Motion(_Pose(76, 18), (0.4, 0.8), (1.0, 1.6, 1.0), (0.1, 0.1, 0.1), shifts_hz=0.08),
}
ACTIVITIES: tuple[str, ...] = tuple(_MOTIONS)
"""The activities by name, in the order of a model's labels."""

REST = "rest"
"""May stand in a schedule: the hand lies in the lap and does nothing. It is none of the activities."""
_REST = _Motion(_Pose(4, 4), (0.2, 0.3), (0.2, 0.2, 0.2), rest_s=6.0, wander_deg=1.5, shifts_hz=0.02)

Side = Literal["left", "right"]
LEFT_HANDED = 0.106
"""Share of people: Papadatou-Pastou et al., Psychological Bulletin 146 (2020) 481."""
_OTHER_HAND_TEMPO, _OTHER_HAND_AMPLITUDE = 0.9, 0.8
_MIRROR: Float64 = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
"""Across the body's middle plane y changes its sign, and so does a rate of turn about each axis that lies in it."""
_TRANSITION_S = 0.8
_ONSET_S = 0.25
_KNOCK_S, _KNOCK_HZ, _KNOCK_DECAY_S = 0.3, 11.0, 0.05
FACTOR_MAX = 5.0
"""Of tempo and amplitude; what is faster or wider is no wrist's motion."""
_CHUNK = 60_000
"""Samples whose orientation is held at a time."""


@dataclass(frozen=True, slots=True)
class Person:
    """What is known of a wearer beside the number.

    wrist: that the case is on. hand: the preferred one; None is the wearing one. The other hand is slower and moves
    less. mounting: the case's axes in those of the wrist (gateway/motion/axes.py); a watch as it is usually worn has
    x,y,z on the left wrist and -x,-y,z on the right one. tempo, amplitude: factors on what the number draws.
    """

    wrist: Side = "left"
    hand: Side | None = None
    mounting: str = "x,y,z"
    tempo: float = 1.0
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        parse_axes(self.mounting)
        for name, factor in (("tempo", self.tempo), ("amplitude", self.amplitude)):
            if not 0 < factor <= FACTOR_MAX:
                raise ScheduleRejected(f"{name} {factor:g}: expected a factor above 0 and up to {FACTOR_MAX:g}")

    @classmethod
    def drawn(cls, wearer: int) -> Self:
        """Someone at random, the same for the same number: most wear the case on the hand that they prefer less."""
        rng = np.random.default_rng([wearer, 1])
        hand: Side = "left" if rng.random() < LEFT_HANDED else "right"
        other: Side = "right" if hand == "left" else "left"
        wrist = other if rng.random() < 0.7 else hand
        usual = np.eye(3) if wrist == "left" else np.diag([-1.0, -1.0, 1.0])
        # As usual, with the crown away from the hand, or under the wrist.
        about, turns = [(2, 0), (2, 2), (0, 2)][rng.choice(3, p=[0.8, 0.12, 0.08])]
        turn = np.rint(_rotations(np.eye(3)[[about]] * np.pi / 2 * turns)[0])
        return cls(
            wrist=wrist,
            hand=hand,
            mounting=axes_text((turn @ usual).astype(np.float32)),
            tempo=round(rng.lognormal(0, 0.1), 2),
            amplitude=round(rng.lognormal(0, 0.2), 2),
        )

    def _changes(self, traits: "_Traits") -> "_Traits":
        other = self.hand is not None and self.hand != self.wrist
        tempo = self.tempo * (_OTHER_HAND_TEMPO if other else 1.0)
        amplitude = self.amplitude * (_OTHER_HAND_AMPLITUDE if other else 1.0)
        return replace(traits, tempo=traits.tempo * tempo, amplitude=traits.amplitude * amplitude)

    def _worn(self, felt: Float64) -> Float64:
        """(n, 6) of a left wrist's frame, in that of the case."""
        mirrored = felt * _MIRROR if self.wrist == "right" else felt
        if self.mounting == "x,y,z":
            return mirrored
        return rotate(mirrored.astype(np.float32), parse_axes(self.mounting)).astype(np.float64)


def with_rests(schedule: Sequence[tuple[str, float]], rest_s: float, *, seed: int) -> list[tuple[str, float]]:
    """The schedule with a rest between every two activities, rest_s long in the mean. Raises ScheduleRejected."""
    if not 0 <= rest_s < np.inf:
        raise ScheduleRejected(f"rest of {rest_s:g} s: expected 0 or a positive number of seconds")
    rng = np.random.default_rng([seed, 2])
    rested = list(schedule[:1])
    for entry in schedule[1:]:
        seconds = round(rest_s * rng.gamma(8, 1 / 8), 2)
        rested += [(REST, seconds), entry] if seconds > 0 else [entry]
    return rested


def synthesize(
    schedule: Sequence[tuple[str, float]],
    *,
    wearer: int,
    seed: int,
    rate_hz: float = 50.0,
    person: Person | None = None,
) -> Float32:
    """The motion of a schedule of (activity, seconds), one after the other with smooth transitions.

    wearer: who; the same number is the same person whatever the seed, which draws the performance. Segments are drawn
    one by one, so a longer schedule begins with the same motion but for the last transition. person: what else is
    known; None is Person().
    Returns (n, 6) float32, m/s² and deg/s. Raises ScheduleRejected.
    """
    _check(schedule, rate_hz)
    person = person or Person()
    traits = person._changes(_Traits.of(wearer))
    ends = np.round(np.cumsum([seconds for _, seconds in schedule]) * rate_hz).astype(int).tolist()
    segments = [
        _perform(
            _motion(activity), traits, activity, end - first, rate_hz, np.random.default_rng([seed, wearer, number])
        )
        for number, ((activity, _), first, end) in enumerate(zip(schedule, [0, *ends], ends, strict=False))
        if end > first
    ]
    if not segments:
        return np.empty((0, 6), np.float32)
    pose = _smooth(np.concatenate([s.pose_deg for s in segments]), _TRANSITION_S, rate_hz)
    swing = np.concatenate([s.swing_deg for s in segments])
    push = np.concatenate([s.push_m_s2 for s in segments])
    noise = np.concatenate([s.noise for s in segments])
    felt = person._worn(_felt(pose, swing, push, traits.mounting, rate_hz))
    motion: Float32 = (felt + noise).astype(np.float32)
    return motion


def _motion(activity: str) -> _Motion:
    return _REST if activity == REST else _MOTIONS[activity]


def _check(schedule: Sequence[tuple[str, float]], rate_hz: float) -> None:
    for activity, seconds in schedule:
        if activity not in _MOTIONS and activity != REST:
            near = difflib.get_close_matches(activity, (*ACTIVITIES, REST), 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            hint = f"One of: {', '.join(ACTIVITIES)}, or {REST}."
            raise ScheduleRejected(f"unknown activity {activity!r}{meant}", hint=hint)
        if not 0 < seconds < np.inf:
            raise ScheduleRejected(f"activity {activity}: {seconds} s, expected a positive number of seconds")
    if not 0 < rate_hz < np.inf:
        raise ScheduleRejected(f"rate {rate_hz} Hz, expected a positive number")


@dataclass(frozen=True, slots=True)
class _Traits:
    """What stays the same in one wearer. mounting: (3, 3), from the sensor's frame to the wrist's."""

    tempo: float
    amplitude: float
    pauses: float
    tremor_hz: float
    tremor_deg: float
    acc_noise_m_s2: float
    gyro_noise_deg_s: float
    acc_bias_m_s2: Float64
    gyro_bias_deg_s: Float64
    mounting: Float64
    pose_offset_deg: dict[str, Float64]
    habit: dict[str, Float64] = field(default_factory=dict)
    """How this wearer shares an activity's rhythm among the axes: six factors."""

    @classmethod
    def of(cls, wearer: int) -> "_Traits":
        rng = np.random.default_rng([wearer])
        return cls(
            tempo=rng.lognormal(0, 0.12),
            amplitude=rng.lognormal(0, 0.25),
            pauses=rng.lognormal(0, 0.3),
            tremor_hz=rng.uniform(8, 12),
            tremor_deg=rng.lognormal(-2.5, 0.5),
            acc_noise_m_s2=rng.uniform(0.02, 0.06),
            gyro_noise_deg_s=rng.uniform(0.05, 0.3),
            acc_bias_m_s2=rng.normal(0, 0.06, 3),
            gyro_bias_deg_s=rng.normal(0, 0.4, 3),
            mounting=_rotations(np.radians(rng.normal(0, 6, (1, 3))))[0],
            pose_offset_deg={name: rng.normal(0, [11, 14, 20]) for name in ACTIVITIES} | {REST: np.zeros(3)},
            habit={name: rng.lognormal(0, 0.3, 6) for name in ACTIVITIES} | {REST: np.ones(6)},
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Segment:
    """pose_deg: (n, 3) pitch, roll, yaw, still with steps. swing_deg, push_m_s2: (n, 3) about and along x, y, z.
    noise: (n, 6) of the sensors."""

    pose_deg: Float64
    swing_deg: Float64
    push_m_s2: Float64
    noise: Float64


def _perform(motion: _Motion, traits: _Traits, activity: str, n: int, rate_hz: float, rng: Generator) -> _Segment:
    tempo_hz = rng.uniform(*motion.tempo_hz) * traits.tempo
    phase = 2 * np.pi * np.cumsum(tempo_hz * (1 + 0.12 * _slow_noise(n, 0.8, rate_hz, rng))) / rate_hz
    effort = _smooth(_bursts(n, motion.work_s, motion.rest_s * traits.pauses, rate_hz, rng)[:, None], _ONSET_S, rate_hz)
    effort *= (1 + 0.2 * _slow_noise(n, 1.5, rate_hz, rng))[:, None] * traits.amplitude * rng.lognormal(0, 0.15)
    shift = rng.uniform(0, 2 * np.pi, 6)
    rhythm = np.sin(phase[:, None] + shift) + rng.uniform(0.1, 0.4) * np.sin(2 * phase[:, None] + shift[::-1])
    rhythm *= effort * traits.habit[activity]
    tremor = 2 * np.pi * np.cumsum(traits.tremor_hz * (1 + 0.05 * _slow_noise(n, 0.5, rate_hz, rng))) / rate_hz
    swing = rhythm[:, :3] * motion.swing_deg
    swing += traits.tremor_deg * np.sin(tremor[:, None] + shift[:3]) * _slow_noise(n, 0.7, rate_hz, rng)[:, None]
    push = rhythm[:, 3:] * motion.push_m_s2
    push[:, 2] += _knocks(motion, phase, effort[:, 0], rate_hz, rng)
    bias = np.concatenate([traits.acc_bias_m_s2, traits.gyro_bias_deg_s])
    sigma = [traits.acc_noise_m_s2] * 3 + [traits.gyro_noise_deg_s] * 3
    return _Segment(_posed(motion, traits, activity, n, rate_hz, rng), swing, push, bias + rng.normal(0, sigma, (n, 6)))


def _posed(motion: _Motion, traits: _Traits, activity: str, n: int, rate_hz: float, rng: Generator) -> Float64:
    pose = np.tile([motion.pose.pitch_deg, motion.pose.roll_deg, 0.0], (n, 1))
    if motion.away is not None:
        away = 1 - _bursts(n, motion.near_s / traits.tempo, motion.away_s * traits.pauses, rate_hz, rng)
        pose += away[:, None] * [
            motion.away.pitch_deg - motion.pose.pitch_deg,
            motion.away.roll_deg - motion.pose.roll_deg,
            20.0,
        ]
    shifts = np.cumsum((rng.random(n) < motion.shifts_hz / rate_hz)[:, None] * rng.normal(0, 5, (n, 3)), axis=0)
    wander = np.stack([_slow_noise(n, 2.5, rate_hz, rng) for _ in range(3)], axis=1) * motion.wander_deg
    today = rng.normal(0, 4, 3)
    return pose + traits.pose_offset_deg[activity] + today + np.clip(shifts, -15, 15) + wander


def _bursts(n: int, on_s: float, off_s: float, rate_hz: float, rng: Generator) -> Float64:
    """(n,): 1 while at work, 0 in the pauses; begins anywhere in a burst. Lengths vary by about a third."""
    level = np.zeros(n)
    at, on = -int(rng.uniform(0, on_s) * rate_hz), True
    while at < n:
        length = max(1, int((on_s if on else off_s) * rng.gamma(8, 1 / 8) * rate_hz))
        if on:
            level[max(0, at) : max(0, at + length)] = 1.0
        at, on = at + length, not on
    return level


def _knocks(motion: _Motion, phase: Float64, effort: Float64, rate_hz: float, rng: Generator) -> Float64:
    """(n,) m/s² along z: damped ringing after each blow."""
    n = len(phase)
    if not motion.knock_m_s2:
        return np.zeros(n)
    if motion.knocks_hz:
        blows = (rng.random(n) < motion.knocks_hz / rate_hz).astype(float)
    else:
        blows = np.diff(np.floor(phase / (2 * np.pi)), prepend=0.0).clip(0, 1) * effort
    t = np.arange(int(_KNOCK_S * rate_hz)) / rate_hz
    ringing = np.exp(-t / _KNOCK_DECAY_S) * np.cos(2 * np.pi * _KNOCK_HZ * t)
    return np.convolve(blows * motion.knock_m_s2 * rng.lognormal(0, 0.3, n), ringing)[:n]


def _slow_noise(n: int, period_s: float, rate_hz: float, rng: Generator) -> Float64:
    """(n,): smooth, standard deviation about 1, changing over period_s: Gaussian knots joined by half cosines."""
    knots: Float64 = rng.normal(0, 1.15, int(n / rate_hz / period_s) + 3)
    at: Float64 = np.arange(n) / rate_hz / period_s + rng.random()
    low = at.astype(int)
    share = (1 - np.cos(np.pi * (at - low))) / 2
    noise: Float64 = knots[low] * (1 - share) + knots[low + 1] * share
    return noise


def _smooth(values: Float64, width_s: float, rate_hz: float) -> Float64:
    """(n, k), n >= 1: each column under a Hann window of this width; the ends are held."""
    width = max(1, round(width_s * rate_hz / 2)) * 2 + 1
    window = np.hanning(width + 2)[1:-1]
    padded = np.pad(values, ((width // 2, width // 2), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, window / window.sum(), mode="valid") for column in padded.T], axis=1)


def _felt(pose_deg: Float64, swing_deg: Float64, push_m_s2: Float64, mounting: Float64, rate_hz: float) -> Float64:
    """(n, 6) m/s² and deg/s: what sensors on this forearm feel, without their noise."""
    n = len(pose_deg)
    felt = np.empty((n, 6))
    for first in range(0, n, _CHUNK):
        low, high = max(0, first - 1), min(n, first + _CHUNK + 1)
        turned = _poses(np.radians(pose_deg[low:high])) @ _rotations(np.radians(swing_deg[low:high])) @ mounting
        inner = slice(first - low, first - low + min(_CHUNK, n - first))
        rows = slice(first, first + inner.stop - inner.start)
        felt[rows, :3] = STANDARD_GRAVITY_M_S2 * turned[inner, 2] + push_m_s2[rows] @ mounting
        felt[rows, 3:] = deg_s_from(_rates_rad_s(turned, rate_hz), "rad_s")[inner]
    return felt


def _rates_rad_s(turned: Float64, rate_hz: float) -> Float64:
    """(n, 3): rate of turn in the body's own frame, from the rotation between both neighbours, (n, 3, 3) each."""
    index = np.arange(len(turned))
    before, after = np.maximum(index - 1, 0), np.minimum(index + 1, len(turned) - 1)
    between = turned[before].transpose(0, 2, 1) @ turned[after]
    sine = (
        np.stack(
            [
                between[:, 2, 1] - between[:, 1, 2],
                between[:, 0, 2] - between[:, 2, 0],
                between[:, 1, 0] - between[:, 0, 1],
            ],
            axis=1,
        )
        / 2
    )
    size = np.linalg.norm(sine, axis=1, keepdims=True).clip(0, 1)
    angle = np.where(size > 1e-9, np.arcsin(size) / np.maximum(size, 1e-9), 1.0) * sine
    rates: Float64 = angle * (rate_hz / np.maximum(after - before, 1))[:, None]
    return rates


def _poses(angles_rad: Float64) -> Float64:
    """(n, 3) pitch, roll, yaw to (n, 3, 3), body to world: Rz(yaw) Ry(pitch) Rx(roll)."""
    pitch, roll, yaw = np.zeros_like(angles_rad), np.zeros_like(angles_rad), np.zeros_like(angles_rad)
    pitch[:, 1], roll[:, 0], yaw[:, 2] = angles_rad.T
    return _rotations(yaw) @ _rotations(pitch) @ _rotations(roll)


def _rotations(vectors_rad: Float64) -> Float64:
    """(n, 3) rotation vectors to (n, 3, 3): Rodrigues' formula."""
    angle = np.linalg.norm(vectors_rad, axis=1)
    x, y, z = (vectors_rad / np.maximum(angle, 1e-12)[:, None]).T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)
    sine, versine = np.sin(angle)[:, None, None], (1 - np.cos(angle))[:, None, None]
    rotations: Float64 = np.eye(3) + sine * cross + versine * (cross @ cross)
    return rotations
