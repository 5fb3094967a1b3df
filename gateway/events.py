"""The public contract: everything that is published, as pydantic models.

An event is one self-contained JSON message in CloudEvents 1.0 structured mode
(https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md); source and id together name it for
ever, and the same pair is the same event, however often it comes. docs/events.md shows one of each; docs/schemas/ has
their JSON schemas, made from here.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

CONTENT_TYPE = "application/cloudevents+json"
SCHEMA_BASE = "urn:fidget:schema:v1:"

Fraction = Annotated[float, Field(ge=0, le=1)]
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Quality(_Part):
    """What a window was made of."""

    interpolated: Fraction = Field(description="share of its samples that were lost and interpolated")
    saturated: bool = Field(description="some sample stood at the limit of the sensor's range")


class WindowRecord(_Part):
    """The answer for one window of a session."""

    number: int = Field(ge=0, description="the window starts at sample number x hop of its session")
    start_s: float = Field(ge=0, description="seconds of device time from the session's first sample")
    time: str | None = Field(None, description="UTC of its first sample (RFC 3339), if the clock was trusted")
    uncertainty_s: float | None = Field(None, ge=0, description="of `time` against the wearable's clock")
    decision: Literal["activity", "uncertain"]
    reasons: tuple[Literal["frame_unknown"], ...] = Field((), description="why it is uncertain")
    activity: str = Field(description="the label with the highest probability")
    confidence: Fraction = Field(description="that probability")
    probabilities: dict[str, Fraction]
    quality: Quality


class PredictionData(_Part):
    session: Hex64
    windows: tuple[WindowRecord, ...] = Field(min_length=1, max_length=30)
    window: int = Field(gt=0, description="samples of a window")
    hop: int = Field(gt=0, description="samples from the start of one window to that of the next")
    rate_hz: float = Field(gt=0)
    bundle: str = Field(description="digest of the model bundle")
    variant: str
    derivation: str = Field(description="digest of bundle, variant, settings and version of the pipeline")


class FeatureDrift(_Part):
    sketch: str = Field(description="base64 of a serialized Apache DataSketches kll_floats_sketch, k = 200")
    min: float
    max: float
    mean: float
    shift: float | None = Field(None, description="of the mean, in standard deviations of the bundle's reference")
    distance: Fraction | None = Field(None, description="Kolmogorov distance from the bundle's reference")


class DriftData(_Part):
    session: Hex64
    start_s: float = Field(ge=0, description="of the period, in device time from the session's first sample")
    end_s: float
    windows: int = Field(gt=0)
    bundle: str
    features: dict[str, FeatureDrift]


class ClockData(_Part):
    """Maps a boot's monotonic time to UTC: utc_ns = monotonic_ns + offset_ns. Amends what was sent without `time`."""

    boot: str
    offset_ns: int
    uncertainty_ns: int = Field(ge=0)


class WearableState(_Part):
    link: Literal["connected", "disconnected"]
    firmware: str | None = None
    battery_percent: int | None = Field(None, ge=0, le=100)
    ring_held: int | None = Field(None, ge=0, description="samples in the wearable's ring")
    ring_capacity: int | None = Field(None, ge=0)
    ring_overwritten: int | None = Field(None, ge=0, description="samples overwritten before anyone took them")
    windows: int = Field(ge=0, description="windows answered since the store began; so are the next")
    windows_broken: int = Field(ge=0)
    samples_interpolated: int = Field(ge=0)
    samples_lost: int = Field(ge=0)
    frames_malformed: int = Field(ge=0)


class GatewayState(_Part):
    status: Literal["online", "offline"]
    connection: str = Field(description="of the broker session: an old death is told from a new one by it")
    version: str


class _Event(_Part):
    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str = Field(description="urn:fidget:wearable:ID, or urn:fidget:gateway:ID for what is the gateway's own")
    subject: str | None = Field(None, description="the wearer's pseudonym, where one is assigned")
    time: str | None = Field(None, description="RFC 3339; absent while the gateway's clock is not trusted")
    datacontenttype: Literal["application/json"] = "application/json"
    gateway: str
    boot: str = Field(description="the boot of the gateway that monons belongs to")
    monons: str = Field(pattern=r"^[0-9]+$", description="monotonic ns of that boot, as text: it may pass 53 bits")


class Prediction(_Event):
    type: Literal["fidget.prediction.v1"] = "fidget.prediction.v1"
    dataschema: str = SCHEMA_BASE + "prediction"
    sequence: str = Field(pattern=r"^[0-9]{10}$", description="number of the first window, so that text order is order")
    data: PredictionData


class Drift(_Event):
    type: Literal["fidget.drift.v1"] = "fidget.drift.v1"
    dataschema: str = SCHEMA_BASE + "drift"
    data: DriftData


class Clock(_Event):
    type: Literal["fidget.clock.v1"] = "fidget.clock.v1"
    dataschema: str = SCHEMA_BASE + "clock"
    data: ClockData


class State(_Event):
    type: Literal["fidget.state.v1"] = "fidget.state.v1"
    dataschema: str = SCHEMA_BASE + "state"
    data: WearableState | GatewayState


Event = Prediction | Drift | Clock | State
KINDS: dict[str, type[Event]] = {"prediction": Prediction, "drift": Drift, "clock": Clock, "state": State}


def wearable_source(wearable: str) -> str:
    return f"urn:fidget:wearable:{wearable}"


def gateway_source(gateway: str) -> str:
    return f"urn:fidget:gateway:{gateway}"


def prediction_id(session: int, number: int, derivation: str) -> str:
    return f"{session:016x}-{number}-{derivation}"


def drift_id(session: int, start_s: float) -> str:
    return f"{session:016x}-{start_s:g}"


def topic_of(prefix: str, gateway: str, wearable: str | None, kind: str) -> str:
    """PREFIX/GATEWAY/WEARABLE/KIND, without the wearable for what is the gateway's own."""
    return "/".join([prefix, gateway, *([wearable] if wearable else []), kind])


def encode(event: Event) -> bytes:
    """Compact JSON, UTF-8, absent attributes left out (CloudEvents knows no null)."""
    return event.model_dump_json(exclude_none=True).encode()


def decode(payload: bytes) -> Event:
    """Raises ValueError for what is not one of these events."""
    kind = str(json.loads(payload).get("type", "")).removeprefix("fidget.").removesuffix(".v1")
    if kind not in KINDS:
        raise ValueError(f"event type {kind!r}: expected one of {', '.join(KINDS)}")
    return KINDS[kind].model_validate_json(payload)


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of one kind of event."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **KINDS[kind].model_json_schema()}
