"""What a model bundle says of itself: manifest.json (docs/bundle.md is its reference)."""

import hashlib
import json
import re
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, model_validator

SCHEMA_VERSION: Literal[1] = 1

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""A plain name beside the manifest: no folder, so nothing outside of the bundle can be named."""
NAME_LENGTH_MAX = 100
Name = Annotated[str, StringConstraints(min_length=1, max_length=NAME_LENGTH_MAX)]
Fraction = Annotated[FiniteFloat, Field(ge=0, le=1)]
NotNegative = Annotated[FiniteFloat, Field(ge=0)]

_SHARES_TOLERANCE = 1e-6
_SIGNED_AXIS = re.compile(r"^[+-]?[xyz]$")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Member(_Part):
    """One file of the bundle."""

    file: FileName
    sha256: Sha256
    size: int = Field(ge=0, le=1 << 30)
    """Bytes."""


class Parity(_Part):
    """How a variant's probabilities p compare with those of the Keras model, on the same random windows."""

    windows: int = Field(ge=1)
    seed: int
    top1_agreement: Fraction
    """Share of the windows with the same top class."""
    dp_max: Fraction
    """max |p - p_keras| over all windows and classes; dp_p99 and dp_mean are of each window's maximum."""
    dp_p99: Fraction
    dp_mean: Fraction
    clear_windows: int | None = Field(default=None, ge=0)
    """Windows where Keras's first class leads the second by more than 0.05, and the agreement on them."""
    clear_agreement: Fraction | None = None
    worst_class: Name | None = None
    """Of the classes that Keras names on 200 windows or more, the one with the lowest agreement."""
    worst_class_windows: int | None = Field(default=None, ge=1)
    worst_class_agreement: Fraction | None = None


class StorageCost(_Part):
    """What the search measured with this weight alone stored so, everything else float32."""

    agreement: Fraction
    disagreement_expected: NotNegative
    """From how far it moves the margin between the first two classes; finer than a count of windows."""
    dp_p99: Fraction


class WeightStorage(_Part):
    """How one weight is stored: float32, float16, int8 (a scale a channel) or hybrid (int8, a dense layer's)."""

    stored: Literal["float32", "float16", "int8", "hybrid"]
    size: int = Field(ge=1)
    """Numbers in it."""
    alone: dict[Literal["float16", "int8", "hybrid"], StorageCost] = {}


class WindowTimes(_Part):
    """Medians of one window on one thread of the machine that made the bundle (provenance.processor)."""

    warm_ms: NotNegative
    cold_ms: NotNegative
    """After other memory was touched, as in a daemon that infers now and then."""


class Variant(Member):
    """One .tflite file: input (1, window, channels) float32, outputs `probabilities` and `logits` (1, labels)."""

    parity: Parity
    """On the random walks."""
    probes: dict[Name, Parity] = {}
    """On the other sets of windows: extremes, recording."""
    weights: dict[Name, WeightStorage] = {}
    """Of a variant that was searched for; weights too small to matter stay float32 and are left out."""
    runtimes: tuple[Name, ...] = ()
    """Which load it."""
    times: WindowTimes | None = None
    """Only where they were asked for: with them the same input makes another bundle each time."""
    operators: dict[str, int]
    """TFLite's builtin operators and how often each stands in the graph."""


class Model(_Part):
    name: Name
    architecture: tuple[str, ...] = Field(min_length=1)
    """One line a layer, in order, as the Keras file had them."""
    keras_sha256: Sha256
    keras_version: str | None = None
    keras_saved: str | None = None
    softmax_added: bool = False
    """The Keras model answers logits; the probabilities are their softmax."""
    folded: tuple[str, ...] = ()
    """Batch normalizations (by layer) and the input scaler ("scaler") that went into the layer beside them."""
    kept: tuple[str, ...] = ()
    """Those that are operators of their own, since no layer beside them takes them exactly."""


class Preprocessing(_Part):
    """The scaler (x - mean) / scale, per channel. Folded: it is inside the .tflite, whose input are raw units."""

    folded: Literal[True] = True
    mean: tuple[FiniteFloat, ...]
    scale: tuple[FiniteFloat, ...]
    source_sha256: Sha256
    """Of the file that the scaler was read from."""


class Provenance(_Part):
    converter_version: str
    libraries: dict[str, str]
    created_utc: datetime | None = None
    """As it was given (SOURCE_DATE_EPOCH); without that it stays out, so that the same input makes the same bundle."""
    processor: Name | None = None
    """That the times of the variants were measured on."""


class Distribution(_Part):
    count: int = Field(ge=1)
    """Of the values."""
    mean: FiniteFloat
    std: NotNegative
    min: FiniteFloat
    max: FiniteFloat
    quantiles: tuple[tuple[Fraction, FiniteFloat], ...] = Field(min_length=1)
    """(q, value), both ascending."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        for column in zip(*self.quantiles, strict=True):
            if list(column) != sorted(column):
                raise ValueError("quantiles must ascend")
        return self


class FeatureReference(Distribution):
    """Of one window feature over the training windows; what drift is measured against."""

    of: Literal["windows", "samples"] = "windows"
    """samples: of a channel's single samples, where nobody knows more. Their mean is also that of the windows' means;
    their spread is wider, so a shift counted in it is told too small, and the quantiles are no measure of windows."""


ReferenceSource = Literal["recording", "windows", "statistics"]


class ReferenceData(_Part):
    """The data that drift_reference speaks of: where it comes from, and what else is known of it."""

    source: ReferenceSource
    source_sha256: tuple[Sha256, ...] = ()
    """Of its files; none where it was made without."""
    windows: int = Field(ge=1)
    channels: dict[Name, Distribution]
    """Of each channel's samples in these windows, those of overlapping windows counted as often."""
    label_shares: dict[Name, Fraction] | None = None
    """Of the whole, for each label; null where the data has no labels."""
    sketches: Member | None = None
    """JSON: by feature of windows a serialized kll_floats_sketch in base64, as drift events have them."""


class SelfTest(Member):
    """Windows with known answers, to be run where the model runs. The file: .npy, (n, window, channels), float32."""

    probabilities: dict[str, tuple[tuple[Fraction, ...], ...]]
    """By variant, (n, labels): what it answered where it was made."""
    tolerance: dict[str, Annotated[Fraction, Field(gt=0)]]
    """By variant: how far another processor's rounding may take a probability."""


class Manifest(_Part):
    """Raises pydantic.ValidationError where its parts contradict each other."""

    schema_version: Literal[1] = SCHEMA_VERSION
    model: Model
    labels: tuple[Name, ...] = Field(min_length=2)
    """In the order of the model's outputs."""
    window: int = Field(ge=1, le=100_000)
    """Samples of one window."""
    hop: int = Field(ge=1, le=100_000)
    """Samples from the start of one window to that of the next."""
    rate_hz: float = Field(gt=0, le=10_000)
    channels: tuple[Name, ...] = Field(min_length=1)
    """In the order of the input. Ax, Ay, Az, Gx, Gy, Gz are a wrist IMU's; others are no wearable's."""
    units: tuple[Name, ...]
    """One a channel: m/s^2 of Ax, Ay, Az, deg/s of Gx, Gy, Gz, free text of others."""
    frame: str | None = None
    """The model's axes as signed axes of the wrist frame, e.g. "x,y,z" or "-y,x,z"; null where nobody knows."""
    frame_description: str = ""
    wrist: Literal["left", "right", "either"] | None = None
    preprocessing: Preprocessing
    variants: dict[FileName, Variant] = Field(min_length=1)
    default_variant: str
    default_reason: str = ""
    """Why this variant and not another."""
    model_card: Member
    provenance: Provenance
    drift_reference: dict[Name, FeatureReference] | None = None
    reference_data: ReferenceData | None = None
    self_test: SelfTest | None = None

    def members(self) -> dict[str, Member]:
        """Every file beside the manifest, by the field that names it."""
        variants = {f"variants.{name}": variant for name, variant in self.variants.items()}
        others: dict[str, Member | None] = {
            "model_card": self.model_card,
            "self_test": self.self_test,
            "reference_data.sketches": self.reference_data.sketches if self.reference_data else None,
        }
        return {**variants, **{field: member for field, member in others.items() if member is not None}}

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ from each other")
        if len(set(self.channels)) != len(self.channels):
            raise ValueError("channels must differ from each other")
        for field, values in {
            "units": self.units,
            "preprocessing.mean": self.preprocessing.mean,
            "preprocessing.scale": self.preprocessing.scale,
        }.items():
            if len(values) != len(self.channels):
                raise ValueError(f"{field} must have one entry for each of the {len(self.channels)} channels")
        if min(self.preprocessing.scale) <= 0:
            raise ValueError("preprocessing.scale must be above 0")
        if self.default_variant not in self.variants:
            raise ValueError(f"default_variant must be one of {', '.join(self.variants)}")
        if self.frame is not None and not is_signed_axes(self.frame):
            raise ValueError(
                'frame must name each of x, y and z once, signed and right-handed, such as "x,y,z" or "-y,x,z"'
            )
        if self.self_test is not None:
            self._check_self_test(self.self_test)
        if self.reference_data is not None:
            self._check_reference(self.reference_data)
        return self

    def _check_reference(self, data: ReferenceData) -> None:
        if self.drift_reference is None:
            raise ValueError("reference_data must have a drift_reference beside it")
        if set(data.channels) != set(self.channels):
            raise ValueError("reference_data.channels must be the channels")
        if data.label_shares is None:
            return
        if set(data.label_shares) != set(self.labels):
            raise ValueError("reference_data.label_shares must have every label")
        if abs(sum(data.label_shares.values()) - 1) > _SHARES_TOLERANCE:
            raise ValueError("reference_data.label_shares must add up to 1")

    def _check_self_test(self, test: SelfTest) -> None:
        if not set(test.probabilities) == set(test.tolerance) == set(self.variants):
            raise ValueError("self_test must have probabilities and a tolerance for every variant")
        counts = {len(rows) for rows in test.probabilities.values()}
        if len(counts) != 1 or counts == {0}:
            raise ValueError("self_test must have the same number of windows for every variant")
        if any(len(row) != len(self.labels) for rows in test.probabilities.values() for row in rows):
            raise ValueError(f"self_test must have one probability for each of the {len(self.labels)} labels")


def is_signed_axes(text: str) -> bool:
    """Whether the text names each of x, y and z once, signed or not, as one of the 24 rotations: no mirror image."""
    axes = [axis.strip() for axis in text.split(",")]
    names = "".join(axis[-1:] for axis in axes)
    if not all(map(_SIGNED_AXIS.match, axes)) or sorted(names) != ["x", "y", "z"]:
        return False
    cyclic = names in "xyzxy"
    return cyclic == (sum(axis.startswith("-") for axis in axes) % 2 == 0)


def bundle_digest(content: dict[str, Any]) -> str:
    """SHA-256 (hex) over the manifest's content without `digest`: JSON with sorted keys and no white space, UTF-8.

    The members' digests are part of the content, so one number names the whole bundle. It is taken of the JSON as it
    stands in the file: a later version of this program, which knows more fields, comes to the same number.
    """
    rest = {key: value for key, value in content.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
