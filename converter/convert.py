"""From a .keras file and its scaler to a bundle whose fidelity has been measured."""

from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

import numpy as np

from converter.bundling import Measured, Words, bundled
from converter.errors import CalibrationRejected, Int8Rejected
from converter.folding import fold_affines, folding_report
from converter.full_int8 import calibration_windows, full_int8
from converter.gate import MIN_AGREEMENT, window_times
from converter.keras_file import read_keras_file
from converter.lowering import lower
from converter.parity import (
    PARITY_WINDOWS_MAX,
    Advanced,
    keras_probabilities,
    require_float_parity,
    require_isolation,
    silent,
    variant_probabilities,
)
from converter.probes import EXTREMES_SHARE, WALKS, probe_sets
from converter.quantize import Storage, dynamic_range, weights_of, with_storage
from converter.reference import read_reference
from converter.rounding import FITTING_WINDOWS, fitted_weights
from converter.search import CHECK_WINDOWS, SEARCH_WINDOWS, Asked, Found, search
from converter.signals import uninterrupted
from converter.training_config import TrainingConfig, read_training_config
from gateway.bundle import Bundle, check_target, write_bundle
from gateway.bundle.manifest import NAME_LENGTH_MAX
from gateway.errors import InputRejected
from gateway.monitoring.reference import DriftReference
from gateway.motion.samples import Float32

PARITY_WINDOWS = 3000
PARITY_WINDOWS_MIN = 300

_FITTING_SEEDS, _RANKING_SEEDS, _CHECKING_SEEDS = 1_000_000, 2_000_000, 3_000_000
"""From the seed of the windows that judge to those of the search's."""

Progress = Callable[[str], None]


class VariantName(StrEnum):
    """The most exact one first.

    MIXED: each weight as small as the search found that it can be. DYNAMIC: TFLite's dynamic range quantization, int8
    weights everywhere and activations quantized by the kernels as they come; for comparison. INT8: TensorFlow's full
    integer quantization, activations too, with ranges taken from windows to calibrate on; for comparison.
    """

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    MIXED = "mixed"
    DYNAMIC = "dynamic"
    INT8 = "int8"


VARIANTS = (VariantName.FLOAT32, VariantName.MIXED, VariantName.DYNAMIC)
"""What is written where nobody chooses; INT8 too where there is something to calibrate it on."""


def convert(
    model: str | Path,
    scaler: str | Path,
    out: str | Path,
    *,
    variants: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    channels: Sequence[str] | None = None,
    units: Sequence[str] = (),
    add_softmax: bool = False,
    name: str | None = None,
    frame: str | None = None,
    frame_description: str = "",
    wrist: Literal["left", "right", "either"] | None = None,
    parity_windows: int = PARITY_WINDOWS,
    min_agreement: float = MIN_AGREEMENT,
    probe: Sequence[str | Path] = (),
    calibrate: Sequence[str | Path] = (),
    seed: int = 1,
    card: str | None = None,
    drift_reference: DriftReference | None = None,
    reference: Sequence[str | Path] = (),
    created_utc: datetime | None = None,
    keep_times: bool = False,
    replace: bool = False,
    progress: Progress = lambda _: None,
    advanced: Advanced = silent,
    measured: Measured | None = None,
) -> Bundle:
    """Writes the bundle `out` and returns it; nothing is written until all of it is made and measured.

    model: .keras or .h5; scaler: the training's JSON. variants: None for VARIANTS, and INT8 with `calibrate`. labels:
    instead of those of the JSON, in the order of the outputs. channels: names of the channels, likewise; units: one a
    channel, or NAME=UNIT for some. add_softmax: the model answers logits.
    parity_windows: how many random walks (of `seed`) every variant is measured on, beside extremes and the windows of
    the recording `probe`. calibrate: files of a recording, or of windows, from which INT8 takes its ranges.
    min_agreement: with Keras's top class, on each of these sets, of the default variant. card:
    Markdown, instead of the general one. reference: files to make the drift reference from, instead of one that is
    given. keep_times: in the manifest too, which then differs from run to run. replace: a bundle that stands at `out`.
    progress: told each step before it begins; advanced: how far it is.
    measured: is filled, for a report.
    Raises ModelRejected, ScalerRejected, TargetRejected, InputRejected; ConversionFailed where the float32 model does
    not say what Keras says.
    """
    model, out = Path(model), Path(out)
    names = _names(variants, calibrate)
    if not 0 < min_agreement <= 1:
        raise InputRejected(f"an agreement of {min_agreement:g} is asked for, expected above 0 and at most 1")
    if not PARITY_WINDOWS_MIN <= parity_windows <= PARITY_WINDOWS_MAX:
        expected = f"{PARITY_WINDOWS_MIN} to {PARITY_WINDOWS_MAX}"
        raise InputRejected(f"parity on {parity_windows} windows, expected {expected}")
    if seed < 0:
        raise InputRejected(f"a seed of {seed}, expected 0 or more")
    _check_texts(name or model.stem, labels or (), frame_description)
    check_target(out, replace=replace)
    progress(f"reading {model}")
    source = read_keras_file(model, add_softmax=add_softmax)
    network = source.network
    shape = {"window": network.window, "channels": network.channels}
    config = read_training_config(scaler, **shape, classes=network.classes, labels=labels, names=channels, units=units)

    if reference:
        progress("reading " + ", ".join(map(str, reference)))
        drift_reference = read_reference(reference, window=network.window, config=config)
    progress("folding the scaler and batch normalizations, writing the graphs")
    layers = [config.scaler(), *network.layers]
    folded = fold_affines(layers)
    folding = folding_report(layers, folded)
    exact = lower(folded, **shape)
    files: dict[VariantName, bytes] = {}
    if VariantName.INT8 in names:
        progress("reading " + ", ".join(map(str, calibrate)))
        calibration = calibration_windows(calibrate, window=network.window, config=config)
        progress(f"calibrating the int8 variant on {len(calibration)} windows")
        try:
            files[VariantName.INT8] = full_int8(network.layers, calibration, config, advanced=advanced)
        except Int8Rejected as error:
            if variants is not None:
                raise
            progress(f"going on without the int8 variant: {error}")
            names.remove(VariantName.INT8)

    progress("making the windows to compare on")
    sets = probe_sets(
        parity_windows, window=network.window, config=config, seed=seed, recording=[Path(file) for file in probe]
    )
    ranking, checking = (
        _search_windows(count if VariantName.MIXED in names else 0, network.window, config, seed + seeds)
        for count, seeds in ((SEARCH_WINDOWS, _RANKING_SEEDS), (CHECK_WINDOWS, _CHECKING_SEEDS))
    )
    asked = np.concatenate([*sets.values(), ranking, checking])
    progress(f"asking the Keras model about {len(asked)} windows")
    edges = np.cumsum([len(windows) for windows in (*sets.values(), ranking)])
    answered = np.split(keras_probabilities(model, asked, config, softmax=add_softmax), edges)
    *parts, ranking_reference, checking_reference = answered
    asked, edges = np.concatenate([*sets.values()]), edges[:-2]
    kept = Measured() if measured is None else measured
    kept.keras.update(zip(sets, parts, strict=True))

    def ask(name: str, content: bytes) -> None:
        progress(f"asking the {name} variant")
        answers = variant_probabilities(content, asked, advanced=advanced)
        require_isolation(name, lambda windows: variant_probabilities(content, windows), asked, answers)
        kept.answers[name] = dict(zip(sets, np.split(answers, edges), strict=True))

    ask(VariantName.FLOAT32, exact)  # always: that it says what Keras says is the proof of reading and folding
    for where, wanted in kept.keras.items():
        require_float_parity(kept.answers[VariantName.FLOAT32][where], wanted, where=where)
    found: Found | None = None
    for kind in names:
        if kind is VariantName.MIXED:
            progress("rounding each weight for what its layer meets")
            fitting = _search_windows(FITTING_WINDOWS, network.window, config, seed + _FITTING_SEEDS)
            fitted = fitted_weights(exact, fitting)
            progress(f"searching how small each weight can be, on {len(ranking)} and {len(checking)} windows")
            found = search(
                exact,
                Asked(ranking, ranking_reference),
                Asked(checking, checking_reference),
                variant_probabilities,
                min_agreement=min_agreement,
                fitted=fitted,
                advanced=advanced,
            )
        if kind is not VariantName.INT8:
            files[kind] = found.model if kind is VariantName.MIXED and found is not None else _stored(exact, kind)
        if kind is not VariantName.FLOAT32:
            ask(kind, files[kind])
        kept.times[kind] = window_times(files[kind], sets[WALKS])

    progress(f"writing {out}")
    manifest, contents = bundled(
        source,
        config,
        folding,
        {kind.value: files[kind] for kind in names},
        walks=sets[WALKS],
        measured=kept,
        plans={} if found is None else {VariantName.MIXED.value: found},
        words=Words(name or model.stem, frame, frame_description, wrist, card, created_utc),
        drift_reference=drift_reference,
        seed=seed,
        min_agreement=min_agreement,
        keep_times=keep_times,
    )
    with uninterrupted(out):
        return write_bundle(out, manifest, contents, replace=replace)


def _check_texts(name: str, labels: Sequence[str], frame_description: str) -> None:
    """What the manifest would refuse after all the work."""
    for option, texts in {"--name": [name], "--labels": labels, "--frame-description": [frame_description]}.items():
        hint = f"Give another text with {option}."
        for text in texts:
            if any("\ud800" <= letter <= "\udfff" for letter in text):  # what Python makes of bytes that are no UTF-8
                raise InputRejected(f"{option}: {text!r} is no text", hint=hint)
            if option != "--frame-description" and not 1 <= len(text) <= NAME_LENGTH_MAX:
                found = f"{text[:20]!r}... has {len(text)} characters" if text else "an empty text"
                raise InputRejected(f"{option}: {found}, expected 1 to {NAME_LENGTH_MAX}", hint=hint)


def _names(variants: Sequence[str] | None, calibrate: Sequence[str | Path]) -> list[VariantName]:
    """Each once, in the order of exactness."""
    if variants is None:
        variants = (*VARIANTS, VariantName.INT8) if calibrate else VARIANTS
    for variant in variants:
        if variant not in tuple(VariantName):
            raise InputRejected(f"variant {variant!r}: expected one of {', '.join(VariantName)}")
    if not variants:
        raise InputRejected(f"no variant: expected some of {', '.join(VariantName)}")
    if VariantName.INT8 in variants and not calibrate:
        raise CalibrationRejected("the variant int8 takes the ranges of its numbers from windows, and none are given")
    if calibrate and VariantName.INT8 not in variants:
        hint = "Add int8 to --variants, or leave --calibrate out."
        raise CalibrationRejected("windows to calibrate on are given, and no variant int8 that needs them", hint=hint)
    return [kind for kind in VariantName if kind in variants]


def _stored(exact: bytes, kind: VariantName) -> bytes:
    if kind is VariantName.DYNAMIC:
        return dynamic_range(exact)
    if kind is VariantName.FLOAT16:
        halves = {w.name: Storage.FLOAT16 for w in weights_of(exact) if Storage.FLOAT16 in w.choices}
        return with_storage(exact, halves)
    return exact


def _search_windows(count: int, window: int, config: TrainingConfig, seed: int) -> Float32:
    """So many walks and extremes, in the proportion of those that judge."""
    walks = count * EXTREMES_SHARE // (EXTREMES_SHARE + 1)
    return np.concatenate(list(probe_sets(walks, window=window, config=config, seed=seed).values()))
