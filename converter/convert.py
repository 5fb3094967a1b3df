"""From a .keras file and its scaler to a bundle whose fidelity has been measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from converter.errors import CalibrationRejected, Int8Rejected
from converter.folding import fold_affines, folding_report
from converter.full_int8 import calibration_windows, full_int8
from converter.gate import MIN_AGREEMENT, Times, choose_default, processor_name, runtimes_of, window_times
from converter.keras_file import read_keras_file
from converter.lowering import lower
from converter.model_card import model_card as default_card
from converter.parity import (
    PARITY_WINDOWS_MAX,
    Advanced,
    compare,
    keras_probabilities,
    require_float_parity,
    require_isolation,
    rounded,
    silent,
    variant_probabilities,
)
from converter.probes import EXTREMES_SHARE, WALKS, probe_sets
from converter.quantize import Storage, dynamic_range, weights_of, with_storage
from converter.reference import read_reference, reference_entries, reference_in_words
from converter.rounding import fitted_weights
from converter.search import SEARCH_WINDOWS, Found, search
from converter.self_test import make_self_test
from converter.signals import uninterrupted
from converter.tflite import checked_operators
from converter.training_config import TrainingConfig, read_training_config
from gateway.bundle import Bundle, Manifest, check_target, write_bundle
from gateway.bundle.manifest import (
    NAME_LENGTH_MAX,
    Member,
    Model,
    Parity,
    Preprocessing,
    Provenance,
    StorageCost,
    Variant,
    WeightStorage,
    WindowTimes,
)
from gateway.bundle.writing import member
from gateway.errors import InputRejected
from gateway.monitoring.reference import DriftReference
from gateway.motion.samples import Float32

PARITY_WINDOWS = 3000
PARITY_WINDOWS_MIN = 300
MODEL_CARD_FILE = "model_card.md"
_LIBRARIES = ("numpy", "keras", "tensorflow", "ai-edge-litert")

_SEARCH_SEEDS = 1_000_000
"""From the seed of the windows that judge to that of the search's."""

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


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What was measured on the way, by set of windows and by variant; probabilities are (n, classes).

    times: of this machine and moment, which is why a bundle holds them only where that is asked for: else the same
    input makes the same bundle.
    """

    keras: dict[str, Float32] = field(default_factory=dict)
    answers: dict[str, dict[str, Float32]] = field(default_factory=dict)
    times: dict[str, Times] = field(default_factory=dict)


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
    searched = _search_windows(network.window, config, seed if VariantName.MIXED in names else None)
    asked = np.concatenate([*sets.values(), searched])
    progress(f"asking the Keras model about {len(asked)} windows")
    edges = np.cumsum([len(windows) for windows in sets.values()])
    *parts, search_reference = np.split(keras_probabilities(model, asked, config, softmax=add_softmax), edges)
    kept = Measured() if measured is None else measured
    kept.keras.update(zip(sets, parts, strict=True))

    def ask(name: str, content: bytes) -> None:
        progress(f"asking the {name} variant")
        answers = variant_probabilities(content, asked[: edges[-1]], advanced=advanced)
        require_isolation(name, content, asked[: edges[-1]], answers)
        kept.answers[name] = dict(zip(sets, np.split(answers, edges[:-1]), strict=True))

    ask(VariantName.FLOAT32, exact)  # always: that it says what Keras says is the proof of reading and folding
    for where, wanted in kept.keras.items():
        require_float_parity(kept.answers[VariantName.FLOAT32][where], wanted, where=where)
    found: Found | None = None
    for kind in names:
        if kind is VariantName.MIXED:
            progress(f"searching how small each weight can be, on {len(searched)} windows")
            found = search(
                exact,
                search_reference,
                lambda content: variant_probabilities(content, searched),
                min_agreement=min_agreement,
                fitted=fitted_weights(exact, searched),
                advanced=advanced,
            )
        if kind is not VariantName.INT8:
            files[kind] = found.model if kind is VariantName.MIXED and found is not None else _stored(exact, kind)
        if kind is not VariantName.FLOAT32:
            ask(kind, files[kind])
        kept.times[kind] = window_times(files[kind], sets[WALKS])

    progress(f"writing {out}")
    title = name or model.stem
    parities = {
        kind.value: {
            where: compare(kept.answers[kind][where], wanted, seed=seed, labels=config.labels)
            for where, wanted in kept.keras.items()
        }
        for kind in names
    }
    written = {kind.value: parity[WALKS] for kind, parity in zip(names, parities.values(), strict=True)}
    features, data, contents = reference_entries(drift_reference)
    text = card or default_card(
        name=title,
        labels=config.labels,
        window=network.window,
        rate_hz=config.rate_hz,
        frame=frame,
        parities=written,
        wrist=wrist,
        mean=config.mean,
        scale=config.scale,
        channels=config.channels,
        units=config.units,
        reference=reference_in_words(features, data) if data else None,
        label_shares=data.label_shares if data else None,
    )
    contents |= {f"{kind}.tflite": files[kind] for kind in names} | {MODEL_CARD_FILE: text.encode()}
    test_content, test = make_self_test(
        sets[WALKS], kept.keras[WALKS], config, {kind.value: files[kind] for kind in names}
    )
    contents[test.file] = test_content
    members = {file: member(file, content) for file, content in contents.items()}
    entries = {
        kind.value: _variant(
            members[f"{kind}.tflite"],
            files[kind],
            parities[kind],
            found if kind is VariantName.MIXED else None,
            kept.times[kind] if keep_times else None,
        )
        for kind in names
    }
    default, reason = choose_default(entries, min_agreement=min_agreement)
    try:
        manifest = Manifest(
            model=Model(
                name=title,
                architecture=network.architecture,
                keras_sha256=source.sha256,
                keras_version=source.keras_version,
                keras_saved=source.saved,
                softmax_added=network.softmax_added,
                folded=folding.folded,
                kept=folding.kept,
            ),
            labels=config.labels,
            window=network.window,
            hop=config.hop,
            rate_hz=config.rate_hz,
            channels=config.channels,
            units=config.units,
            frame=frame,
            frame_description=frame_description,
            wrist=wrist,
            preprocessing=Preprocessing(mean=config.mean, scale=config.scale, source_sha256=config.sha256),
            variants=entries,
            default_variant=default,
            default_reason=reason,
            model_card=members[MODEL_CARD_FILE],
            provenance=Provenance(
                converter_version=_version("fidget-gateway"),
                libraries={library: _version(library) for library in _LIBRARIES},
                created_utc=created_utc,
                processor=processor_name() if keep_times else None,
            ),
            drift_reference=features,
            reference_data=data,
            self_test=test,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputRejected(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
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


def _search_windows(window: int, config: TrainingConfig, seed: int | None) -> Float32:
    """Walks and extremes, of another seed than those that judge; none where nothing is searched for."""
    walks = 0 if seed is None else SEARCH_WINDOWS * EXTREMES_SHARE // (EXTREMES_SHARE + 1)
    seed = (seed or 0) + _SEARCH_SEEDS
    return np.concatenate(list(probe_sets(walks, window=window, config=config, seed=seed).values()))


def _variant(
    file: Member, content: bytes, parities: Mapping[str, Parity], found: Found | None, times: Times | None
) -> Variant:
    return Variant(
        **file.model_dump(),
        parity=parities[WALKS],
        probes={where: parity for where, parity in parities.items() if where != WALKS},
        weights={} if found is None else _weights(found),
        runtimes=runtimes_of(content),
        times=None if times is None else WindowTimes(warm_ms=rounded(times.warm_ms), cold_ms=rounded(times.cold_ms)),
        operators=checked_operators(content),
    )


def _weights(found: Found) -> dict[str, WeightStorage]:
    return {
        weight.name: WeightStorage(
            stored=found.plan[weight.name].value,
            size=weight.size,
            alone={
                storage.value: StorageCost(
                    agreement=cost.agreement,
                    disagreement_expected=rounded(cost.disagreement_expected),
                    dp_p99=rounded(cost.dp_p99),
                )
                for storage, cost in found.alone.get(weight.name, {}).items()
            },
        )
        for weight in found.weights
    }


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
