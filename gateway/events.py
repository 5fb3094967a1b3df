"""Everything that is published: the public contract, with an example of each in docs/events.md and schemas beside it.

A message is a CloudEvents 1.0 event in structured JSON (https://github.com/cloudevents/spec, cloudevents/spec.md and
formats/json-format.md). (source, id) names an event for ever: what arrives twice with the same two is the same event.
A field whose value is not known is left out. Integers stay within 2**53, so that every JSON reader has them exactly;
CloudEvents' own Integer has 32 bits, so the attributes `sequence` and `monons` are text.
"""

import json
import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from gateway.errors import GatewayError

CONTENT_TYPE = "application/cloudevents+json"
TOPIC_PREFIX = "fidget/v1"
TEMPLATE_CHARS_MAX = 200
WINDOWS_MAX = 30
"""In one prediction event."""
NEGLIGIBLE = 0.005
"""Probabilities below it are left out where windows share an event to spare bytes."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
"""Hexadecimal; a whole SHA-256 or its beginning."""
Session = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""64 bits, hexadecimal."""
Share = Annotated[float, Field(ge=0, le=1)]
Probability = Annotated[Share, AfterValidator(lambda p: round(p, 7))]
"""Seven decimals: what a float32 can tell."""
Count = Annotated[int, Field(ge=0, lt=2**53)]
Microseconds = Annotated[int, Field(ge=0, lt=2**53)]


class EventRejected(GatewayError):
    """A message is not an event of this contract."""

    exit_code = 2


class _Model(BaseModel):
    """Unknown fields are passed over: later versions may add some."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


# Data.


class Reason(StrEnum):
    """Why a window has no activity."""

    FRAME_UNKNOWN = "frame_unknown"
    """How the wearable is mounted is not known, so the model's axes are not."""
    OTHER_WRIST = "other_wrist"
    """It is worn on the other wrist than the model learnt on; where either is not known, nobody can tell."""


class Quality(_Model):
    """interpolated: the share of the window's samples that are. saturated: some sample stood at the sensor's limit.
    uncounted: the wearable neither numbers nor times its samples, so that up to half a second of them may be missing
    without a trace, in interpolated as well; left out for all others."""

    interpolated: Share = 0.0
    saturated: bool = False
    uncounted: Literal[True] | None = None


Word = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
"""Of a later version, where a list of words may get more: readers of this one are not to stumble over it."""
OpenReason = Annotated[Reason | Word, Field(union_mode="left_to_right")]


class WindowRecord(_Model):
    """One window's answer. number: of the window in its session; start_s: of device time since the session's sample 0.

    taken_mono_us: when its first sample was taken, on the monotonic clock of the boot that is the event's `bootid`,
    give or take taken_uncertainty_us; in UTC it is the event's `time` + taken_mono_us - `monons` / 1000, or what a
    clock event says of that boot. activity: the most probable one, also where the decision is not for it.
    """

    number: Count
    start_s: float = Field(ge=0)
    taken_mono_us: Microseconds | None = None
    taken_uncertainty_us: Microseconds | None = None
    decision: Literal["activity", "uncertain"]
    reasons: tuple[OpenReason, ...] = ()
    activity: str
    confidence: Probability
    probabilities: dict[str, Probability] = Field(min_length=2)
    quality: Quality = Quality()

    @model_validator(mode="after")
    def _decided(self) -> "WindowRecord":
        if (self.decision == "uncertain") != bool(self.reasons):
            raise ValueError('reasons belong to decision "uncertain", which has at least one')
        if self.probabilities.get(self.activity) != self.confidence:
            raise ValueError("confidence is the probability of the activity")
        return self


Permille = Annotated[int, Field(ge=0, le=1000)]


class Following(_Model):
    """The windows that follow the last of `windows`, each the next number, with its decision, reasons, activity and
    `uncounted`: in columns, a value for each, for links that are paid by the byte.

    probabilities_permille: in thousandths; a label that has none is below NEGLIGIBLE in all of them. taken_off_us: how
    much later than the last of `windows` and the hops in between say; taken_uncertainty_us: the largest. interpolated:
    shares, by number as text, where they are not 0; saturated: numbers.
    """

    count: int = Field(gt=0, lt=WINDOWS_MAX)
    probabilities_permille: dict[str, tuple[Permille, ...]] = Field(min_length=2)
    taken_off_us: tuple[int, ...] | None = None
    taken_uncertainty_us: Microseconds | None = None
    interpolated: dict[str, Share] | None = None
    saturated: tuple[Count, ...] | None = None

    @model_validator(mode="after")
    def _as_many(self) -> "Following":
        columns = [*self.probabilities_permille.values(), *([] if self.taken_off_us is None else [self.taken_off_us])]
        if any(len(column) != self.count for column in columns):
            raise ValueError("each column has `count` values")
        return self


class PredictionData(_Model):
    """Windows of one session: `window` samples long, `hop` samples apart, at rate_hz. `decode` puts those of
    `following` behind `windows`, so that whoever uses it meets the latter alone.

    bundle: digest of the model's bundle. derivation: digest of all that makes the answers: bundle, variant, settings
    and version of the pipeline.
    """

    session: Session
    rate_hz: float = Field(gt=0)
    window: int = Field(gt=0)
    hop: int = Field(gt=0)
    bundle: Digest
    variant: str
    derivation: Digest
    windows: tuple[WindowRecord, ...] = Field(min_length=1, max_length=WINDOWS_MAX)
    following: Following | None = None


class FeatureDrift(_Model):
    """One feature over a period. Units stand in its name.

    sketch: base64 of a serialized `kll_floats_sketch` of Apache DataSketches with k 200; sketches can be merged.
    shift: of the mean from the bundle's reference, in the reference's standard deviations; distance: the largest
    difference of the two distribution functions (Kolmogorov).
    """

    sketch: str = Field(pattern=r"^[A-Za-z0-9+/]+={0,2}$")
    minimum: float
    maximum: float
    mean: float
    shift: float | None = None
    distance: Share | None = None


class DriftData(_Model):
    """The windows of one session that began from start_s to end_s (exclusive) of its device time."""

    session: Session
    start_s: float = Field(ge=0)
    end_s: float = Field(gt=0)
    windows: int = Field(gt=0)
    bundle: Digest
    features: dict[str, FeatureDrift]


class ClockData(_Model):
    """UTC = monotonic time of this boot + offset_us, give or take uncertainty_us: also for what was said before."""

    boot: str
    offset_us: int = Field(gt=-(2**53), lt=2**53)
    uncertainty_us: Microseconds


class DroppedData(_Model):
    """What had to go from the store although it was still needed, since the store began.

    kind: of event, or "observation" (what a wearable sent, before anything was derived from it). wearable: left out for
    the gateway's own events. reason: which bound. bytes: of payloads. oldest, newest: as the gateway's clock said.
    """

    kind: str
    wearable: str | None = None
    reason: Literal["bytes", "age", "disk"]
    count: Count
    bytes: Count
    oldest: str
    newest: str


class StoreReport(_Model):
    """Of the gateway's store. status: "full" where it takes nothing more, so that wearables keep their
    samples. used, bound: bytes, of observations ("journal") and of events ("event"). findings: what was wrong with the
    database when it was opened, and what became of it."""

    status: Literal["ok", "full"]
    used: dict[str, Count]
    bound: dict[str, Count]
    dropped: tuple[DroppedData, ...] = ()
    findings: tuple[str, ...] = ()


class GatewayState(_Model):
    """start: how many times the gateway has been started; connection: to the broker, since that start.

    store: told between births, once something had to be dropped from the store, and once it is full or no longer.
    """

    of: Literal["gateway"] = "gateway"
    status: Literal["online", "offline"]
    start: Count
    connection: Count = 0
    version: str
    store: StoreReport | None = None


Trouble = Literal["refused", "unpaired", "quarantined", "adapter_away", "adapter_full", "held", "unheard"]
"""Those of gateway.link.trouble."""


class WearableState(_Model):
    """links: how often it was connected. trouble: what keeps it from being connected, once that has lasted;
    trouble_why: the same in words.

    ring: the wearable's memory for samples that nobody has acknowledged; overwritten: samples, before anybody had.
    rssi_dbm: of its advertisement before it was connected. samples_lost_by: their reason; samples_lost_estimated:
    those of them whose number nothing but time tells. samples_elsewhere: not lost, another gateway has acknowledged
    them to the wearable. bundle, variant: what answers for it.
    ring_overflow_h: hours until samples are overwritten, if it goes on as now; left out where the ring does not fill.
    worn: as the stillness of its last hour tells. mounting: what gravity says to the configured one, from hours in many
    postures; mounting_fits: the one that would fit them better.

    The other counts are of windows, samples and frames since the gateway's store began.
    """

    of: Literal["wearable"] = "wearable"
    link: Literal["connected", "disconnected"]
    links: Count = 0
    trouble: Trouble | Word | None = None
    trouble_why: str | None = None
    bundle: Digest | None = None
    variant: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    firmware: str | None = None
    rssi_dbm: int | None = Field(None, ge=-128, le=127)
    battery_percent: int | None = Field(None, ge=0, le=100)
    ring_held: Count | None = None
    ring_capacity: Count | None = None
    ring_overwritten: Count | None = None
    ring_overflow_h: float | None = Field(None, ge=0)
    worn: bool | None = None
    mounting: Literal["ok", "contradicted"] | None = None
    mounting_fits: str | None = None
    windows: Count = 0
    windows_broken: Count = 0
    samples_interpolated: Count = 0
    samples_lost: Count = 0
    samples_lost_estimated: Count = 0
    samples_lost_by: dict[str, Count] = {}
    samples_elsewhere: Count = 0
    frames_malformed: Count = 0


# Events.


class _Event(_Model):
    """CloudEvents' attributes. time: only where the clock was trusted; bootid and monons (ns) always.

    gateway: which one published it; source and id do not depend on that.
    """

    specversion: Literal["1.0"] = "1.0"
    id: str = Field(min_length=1)
    source: str = Field(pattern=r"^urn:fidget:(wearable|gateway):[^:\s]+$")
    type: str
    subject: str | None = None
    time: str | None = Field(None, pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: str
    sequence: str | None = Field(None, pattern=r"^[0-9]{10,}$")
    gateway: str
    bootid: str
    monons: str = Field(pattern=r"^[0-9]+$")


class Prediction(_Event):
    """sequence: the number of its first window; what stands in `following` comes behind it."""

    type: Literal["fidget.prediction.v1"] = "fidget.prediction.v1"
    dataschema: Literal["urn:fidget:schema:prediction:v1"] = "urn:fidget:schema:prediction:v1"
    data: PredictionData


class Drift(_Event):
    type: Literal["fidget.drift.v1"] = "fidget.drift.v1"
    dataschema: Literal["urn:fidget:schema:drift:v1"] = "urn:fidget:schema:drift:v1"
    data: DriftData


class Clock(_Event):
    """Amends what was published before: the clock of this boot is trusted now."""

    type: Literal["fidget.clock.v1"] = "fidget.clock.v1"
    dataschema: Literal["urn:fidget:schema:clock:v1"] = "urn:fidget:schema:clock:v1"
    data: ClockData


class State(_Event):
    """Retained by the broker, but for the gateway's with `store`."""

    type: Literal["fidget.state.v1"] = "fidget.state.v1"
    dataschema: Literal["urn:fidget:schema:state:v1"] = "urn:fidget:schema:state:v1"
    data: Annotated[GatewayState | WearableState, Field(discriminator="of")]


Event = Prediction | Drift | Clock | State
KINDS: dict[str, type[Event]] = {"prediction": Prediction, "drift": Drift, "clock": Clock, "state": State}
"""By the last level of the topic."""

_any_event: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


# Names.


def wearable_source(wearable: str) -> str:
    return f"urn:fidget:wearable:{wearable}"


def gateway_source(gateway: str) -> str:
    return f"urn:fidget:gateway:{gateway}"


def prediction_id(session: int, number: int, derivation: str, last: int | None = None) -> str:
    """number: of the event's first window; last: of its last one, where it has several."""
    numbers = f"{number}" if last in (None, number) else f"{number}..{last}"
    return f"{session:016x}-{numbers}-{derivation}"


def drift_id(session: int, start_s: float, gateway: str | None = None) -> str:
    """gateway: of a wearable that several share, for each tells of its own part of a period."""
    start = f"{start_s:.3f}".rstrip("0").rstrip(".")
    return f"{session:016x}-{start}-drift" + (f"-{gateway}" if gateway is not None else "")


def gateway_state_id(boot_id: str, start: int, connection: int, status: str) -> str:
    """start counts within one store; the boot id tells stores apart."""
    return f"{boot_id}-{start}-{connection}-{status}"


def wearable_state_id(row: int, boot_id: str) -> str:
    """row: of the journal, whose numbers one store never gives twice; the boot id tells stores apart."""
    return f"{boot_id}-{row}-state"


def store_state_id(boot_id: str, mono_ns: int) -> str:
    return f"{boot_id}-{mono_ns}-store"


def sequence(number: int) -> str:
    """Ordered as text too (CloudEvents' extension "sequence")."""
    return f"{number:010d}"


def topic_of(prefix: str, gateway: str, wearable: str | None, kind: str) -> str:
    """wearable None: the gateway's own."""
    return "/".join(part for part in (prefix, gateway, wearable, kind) if part is not None)


TOPICS = f"{TOPIC_PREFIX}/{{gateway}}/{{wearable}}/{{kind}}"


def topic_by(template: str, gateway: str, wearable: str | None, kind: str) -> str:
    """As topic_of, under a template that check_topics takes; the gateway's own have no level {wearable}."""
    levels = [level for level in template.split("/") if wearable is not None or level != "{wearable}"]
    return "/".join(levels).format(gateway=gateway, wearable=wearable, kind=kind)


def check_topics(template: str) -> str:
    """Returns a template whose topics may be published to and cannot meet. Raises ValueError."""
    if not template.isprintable() or len(template) > TEMPLATE_CHARS_MAX:
        raise ValueError(f"expected at most {TEMPLATE_CHARS_MAX} printable characters")
    if set(template) & set("+#"):
        raise ValueError("a topic to publish to has no wildcards + and #")
    if template.startswith("$"):
        raise ValueError("topics that begin with $ are the broker's own")
    levels = template.split("/")
    if "" in levels:
        raise ValueError("an empty level: a / at the beginning or the end, or two of them")
    for name in ("gateway", "wearable", "kind"):
        if template.count(f"{{{name}}}") != 1:
            raise ValueError(f"expected {{{name}}} once, or states of different things would replace each other")
    if set(re.sub(r"\{(gateway|wearable|kind)\}", "", template)) & set("{}"):
        raise ValueError("there are {gateway}, {wearable} and {kind}, and no other braces")
    if "{wearable}" not in levels:
        raise ValueError("{wearable} is a level of its own, which the gateway's own topics do not have")
    return template


def rfc3339(utc_ns: int) -> str:
    """To the microsecond, rounded down."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=utc_ns // 1000)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# Bytes.


def encode(event: Event) -> bytes:
    """Compact JSON, UTF-8; the same event gives the same bytes."""
    return event.model_dump_json(exclude_none=True).encode()


def decode(payload: bytes) -> Event:
    """All windows of a prediction stand in its `windows`, however they were sent. Raises EventRejected."""
    try:
        event = _any_event.validate_json(payload)
        if isinstance(event, Prediction) and event.data.following is not None:
            event = event.model_copy(update={"data": expanded(event.data)})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "message"
        raise EventRejected(f"event: {where}: {first['msg']}") from None
    return event


def compacted(data: PredictionData) -> PredictionData:
    """The first window in `windows`, the others in `following`, probabilities in thousandths.

    data: windows whose numbers follow each other, with one decision, reasons, activity and `uncounted`; taken_mono_us
    is known of all of them or of none.
    """
    first, *rest = data.windows
    labels = sorted(first.probabilities, key=lambda label: max(w.probabilities[label] for w in data.windows))
    told = {label for label in labels if any(w.probabilities[label] >= NEGLIGIBLE for w in data.windows)}
    told |= {first.activity, *[label for label in labels if label != first.activity][-1:]}
    columns = {
        label: tuple(round(1000 * window.probabilities[label]) for window in data.windows)
        for label in first.probabilities
        if label in told
    }
    probabilities = {label: permille[0] / 1000 for label, permille in columns.items()}
    update = {"probabilities": probabilities, "confidence": probabilities[first.activity]}
    windows = (first.model_copy(update=update),)
    if not rest:
        return data.model_copy(update={"windows": windows})
    interpolated = {str(w.number): w.quality.interpolated for w in rest if w.quality.interpolated}
    saturated = tuple(w.number for w in rest if w.quality.saturated)
    off_us = [
        w.taken_mono_us - first.taken_mono_us - _hops_us(data, w.number - first.number)
        for w in rest
        if w.taken_mono_us is not None and first.taken_mono_us is not None
    ]
    following = Following(
        count=len(rest),
        probabilities_permille={label: permille[1:] for label, permille in columns.items()},
        taken_off_us=tuple(off_us) or None,
        taken_uncertainty_us=max((w.taken_uncertainty_us or 0 for w in rest), default=0) if off_us else None,
        interpolated=interpolated or None,
        saturated=saturated or None,
    )
    return data.model_copy(update={"windows": windows, "following": following})


def expanded(data: PredictionData) -> PredictionData:
    """All windows in `windows`. Raises ValidationError where `following` does not fit them."""
    following, last = data.following, data.windows[-1]
    if following is None:
        return data
    windows = list(data.windows)
    for k in range(following.count):
        number, hops_us = last.number + k + 1, _hops_us(data, k + 1)
        taken_us = None
        if following.taken_off_us is not None and last.taken_mono_us is not None:
            taken_us = last.taken_mono_us + hops_us + following.taken_off_us[k]
        permille = following.probabilities_permille
        windows.append(
            WindowRecord(
                number=number,
                start_s=number * data.hop / data.rate_hz,
                taken_mono_us=taken_us,
                taken_uncertainty_us=None if taken_us is None else following.taken_uncertainty_us,
                decision=last.decision,
                reasons=last.reasons,
                activity=last.activity,
                confidence=permille.get(last.activity, [0] * following.count)[k] / 1000,
                probabilities={label: column[k] / 1000 for label, column in permille.items()},
                quality=Quality(
                    interpolated=(following.interpolated or {}).get(str(number), 0.0),
                    saturated=number in (following.saturated or ()),
                    uncounted=last.quality.uncounted,
                ),
            )
        )
    whole = {**data.model_dump(exclude={"windows", "following"}), "windows": tuple(windows)}
    return PredictionData.model_validate(whole)


def _hops_us(data: PredictionData, hops: int) -> int:
    return round(hops * data.hop * 1_000_000 / data.rate_hz)


def schema(kind: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of one kind of event."""
    made = KINDS[kind].model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:fidget:schema:{kind}:v1", **made}


def schema_text(kind: str) -> str:
    """As it stands in docs/schemas/."""
    return json.dumps(schema(kind), indent=2, ensure_ascii=False) + "\n"
