"""Everything that a bundle claims, checked again: on the machine that it came to, and against the Keras model."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasketches import kll_floats_sketch

from converter.errors import ConversionFailed, InputShapeRejected
from converter.keras_archive import checked_content
from converter.parity import (
    FLOAT_DP_MAX,
    PARITY_WINDOWS_MAX,
    float_difference,
    keras_probabilities,
    not_apart,
    random_windows,
)
from converter.reference import reference_in_words
from converter.tflite import checked_operators
from converter.training_config import TrainingConfig, read_training_config
from gateway.bundle import Bundle, BundleRejected, FeatureReference, load_bundle
from gateway.errors import GatewayError, InputRejected
from gateway.inference import Predictor, load_predictor, self_test
from gateway.monitoring.kll import check_kll_floats_sketch
from gateway.motion.channels import ChannelsRejected, columns_of
from gateway.motion.samples import CHANNELS, Float32

PARITY_WINDOWS = 1000
PARITY_SEED = 2
"""Not the one that conversions use, so that the windows are fresh ones."""
_ISOLATION_WINDOWS = 16
_SIGMAS = 4
"""A variant may agree on fewer windows than it claims by so many standard errors of a share: chance, once in 30,000."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Check:
    """what: the thing that was checked. found: what was measured, or what is wrong."""

    what: str
    passed: bool
    found: str


@dataclass(frozen=True, slots=True)
class Verification:
    bundle: Bundle
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def verify(
    path: str | Path,
    *,
    against: str | Path | None = None,
    scaler: str | Path | None = None,
    windows: int = PARITY_WINDOWS,
    seed: int = PARITY_SEED,
    progress: Progress = lambda _: None,
) -> Verification:
    """Checks a bundle (folder or .zip). Digests, schema and sizes come first: where they fail it is not looked at.

    against: the .keras file that it was made from; every variant is compared with it on `windows` random windows of
    `seed`, through the scaler of the manifest. scaler: the training's JSON, which must hold that scaler. Raises
    BundleRejected, ModelRejected, ScalerRejected, InputRejected.
    """
    if not 1 <= windows <= PARITY_WINDOWS_MAX:
        raise InputRejected(f"--windows {windows}: expected 1 to {PARITY_WINDOWS_MAX}")
    if seed < 0:
        raise InputRejected(f"--seed {seed}: expected 0 or more")
    progress(f"reading {path}")
    bundle = load_bundle(path)
    if against is not None:
        checked_content(Path(against))  # now, not after the rest of the work
    members = bundle.manifest.members()
    checks = [Check("digests, sizes, schema", True, f"{len(members)} members, digest {bundle.digest}")]
    checks.append(_channels(bundle))
    if scaler is not None:
        checks.append(_scaler(bundle, Path(scaler)))
    checks.append(_drift_reference(bundle))
    predictors: dict[str, Predictor] = {}
    for name in bundle.manifest.variants:
        progress(f"checking {name}")
        checks += _variant(bundle, name, predictors)
    if against is not None:
        checks += _against(bundle, Path(against), predictors, windows, seed, progress)
    return Verification(bundle, tuple(checks))


def _channels(bundle: Bundle) -> Check:
    """A bundle for other sensors than a wearable's is whole all the same; one in other units is wrong."""
    channels, units = bundle.manifest.channels, bundle.manifest.units
    try:
        columns_of(channels, units, where="the gateway refuses it")
    except ChannelsRejected as error:
        return Check("channels", not set(channels) <= set(CHANNELS), str(error))
    return Check("channels", True, ", ".join(channels))


def _drift_reference(bundle: Bundle) -> Check:
    """Each sketch can be read, and says of its feature what the manifest says."""
    manifest, what = bundle.manifest, "drift reference"
    features = manifest.drift_reference or {}
    try:
        sketches = bundle.drift_sketches()
    except BundleRejected as error:
        return Check(what, False, str(error))
    for name, content in sketches.items():
        if (wrong := _sketch_fault(content, features[name])) is not None:
            return Check(what, False, f"the sketch of {name}: {wrong}")
    return Check(what, True, reference_in_words(manifest.drift_reference, manifest.reference_data))


def _sketch_fault(content: bytes, stated: FeatureReference) -> str | None:
    try:
        check_kll_floats_sketch(content)
    except ValueError as error:
        return f"not readable: {error}"
    sketch = kll_floats_sketch.deserialize(content)
    if sketch.n != stated.count:
        return f"of {sketch.n} values, the manifest states {stated.count}"
    ends = (sketch.get_min_value(), sketch.get_max_value())
    if ends != (np.float32(stated.min), np.float32(stated.max)):
        return f"from {ends[0]:g} to {ends[1]:g}, the manifest states {stated.min:g} to {stated.max:g}"
    tolerance = sketch.normalized_rank_error(False) + 1 / stated.count
    for rank, exact in stated.quantiles:
        value = float(np.float32(exact))
        if not sketch.get_rank(value, False) - tolerance <= rank <= sketch.get_rank(value, True) + tolerance:
            return f"{exact:g} has the rank {sketch.get_rank(value, True):.3f}, the manifest states {rank:g}"
    return None


def _scaler(bundle: Bundle, path: Path) -> Check:
    manifest = bundle.manifest
    shape = {"window": manifest.window, "channels": len(manifest.channels), "classes": len(manifest.labels)}
    config = read_training_config(path, **shape, labels=manifest.labels, names=manifest.channels, units=manifest.units)
    stated = manifest.preprocessing
    differing = [
        field
        for field, given, kept in (
            ("mean", config.mean, stated.mean),
            ("scale", config.scale, stated.scale),
            ("hop", config.hop, manifest.hop),
            ("rate_hz", config.rate_hz, manifest.rate_hz),
        )
        if given != kept
    ]
    if differing:
        return Check("scaler", False, f"{path}: another {', '.join(differing)} than the bundle's")
    same = "the same file" if config.sha256 == stated.source_sha256 else "another file with the same scaler"
    return Check("scaler", True, same)


def _variant(bundle: Bundle, name: str, predictors: dict[str, Predictor]) -> Iterator[Check]:
    variant = bundle.manifest.variants[name]
    what = f"{name}: builtin operators, no cell clipping"
    try:
        operators = checked_operators(bundle.model_file(name))
    except ConversionFailed as error:
        yield Check(what, False, str(error))
    except Exception as error:  # a flatbuffer that is none makes its reader raise anything
        yield Check(what, False, f"no readable .tflite file ({type(error).__name__})")
    else:
        same = operators == variant.operators or not variant.operators
        counted = f"{sum(operators.values())} operators"
        yield Check(what, same, counted if same else f"{counted}, not those that the manifest counts")
    what = f"{name}: loads"
    try:
        predictor = load_predictor(bundle, name)
    except GatewayError as error:
        yield Check(what, False, str(error))
        return
    yield Check(what, True, f"({predictor.window}, {len(predictor.channels)}) to {len(predictor.labels)} labels")
    predictors[name] = predictor
    what = f"{name}: self-test"
    try:
        tested = self_test(predictor, bundle, name)
    except GatewayError as error:
        yield Check(what, False, str(error))
    else:
        found = "the bundle has none"
        if tested is not None:
            found = f"{tested.windows} windows, max |dp| {tested.dp_max:.1e} (at most {tested.tolerance:g})"
        yield Check(what, True, found)
    yield _isolation(bundle, name, predictor)


def _isolation(bundle: Bundle, name: str, predictor: Predictor) -> Check:
    windows = random_windows(
        _ISOLATION_WINDOWS, window=bundle.manifest.window, config=_config(bundle), seed=PARITY_SEED
    )
    differing, _ = not_apart(predictor.predict, windows, predictor.predict(windows))
    found = "a window's answer depends on the one before it" if differing else "the same bits in any order"
    return Check(f"{name}: windows apart", not differing, found)


def _against(
    bundle: Bundle, model: Path, predictors: dict[str, Predictor], count: int, seed: int, progress: Progress
) -> Iterator[Check]:
    manifest = bundle.manifest
    sha256 = hashlib.sha256(checked_content(model)).hexdigest()
    same = sha256 == manifest.model.keras_sha256
    stated = f"the bundle was made from {manifest.model.keras_sha256[:12]}, this is {sha256[:12]}"
    yield Check("Keras file", same, f"sha256 {sha256[:12]}" if same else stated)
    progress(f"asking the Keras model about {count} random windows")
    config = _config(bundle)
    windows = random_windows(count, window=manifest.window, config=config, seed=seed)
    try:
        reference = keras_probabilities(model, windows, config, softmax=manifest.model.softmax_added)
    except InputShapeRejected as error:
        yield Check("windows", False, str(error))
        return
    if reference.shape != (count, len(manifest.labels)):
        expected = f"{len(manifest.labels)} labels in the bundle"
        yield Check("outputs", False, f"Keras answers with shape {reference.shape[1:]}, {expected}")
        return
    for name, predictor in predictors.items():
        progress(f"asking the {name} variant")
        yield _parity(bundle, name, predictor.predict(windows), reference)


def _parity(bundle: Bundle, name: str, answers: Float32, reference: Float32) -> Check:
    """A variant that claims to be exact must be; another must agree as often as it claims, but for chance."""
    stated = bundle.manifest.variants[name].parity
    count, difference = len(reference), float_difference(answers, reference)
    agreement = float((answers.argmax(axis=1) == reference.argmax(axis=1)).mean())
    found = f"same top class on {agreement:.2%} of {count} windows, max |dp| {difference.dp_max:.2g}"
    what = f"{name}: agrees with Keras"
    if stated.dp_max <= FLOAT_DP_MAX:
        return Check(what, difference.is_rounding, f"{found} (at most {FLOAT_DP_MAX:g})")
    claimed = stated.top1_agreement
    spread = math.sqrt(max(claimed * (1 - claimed), 1 / count) * (1 / count + 1 / stated.windows))
    least = claimed - _SIGMAS * spread
    return Check(what, agreement >= least, f"{found}; {claimed:.2%} stated")


def _config(bundle: Bundle) -> TrainingConfig:
    manifest = bundle.manifest
    scaler = manifest.preprocessing
    return TrainingConfig(
        scaler.mean,
        scaler.scale,
        manifest.labels,
        manifest.hop,
        manifest.rate_hz,
        scaler.source_sha256,
        manifest.channels,
        manifest.units,
    )
