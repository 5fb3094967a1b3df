"""From a .keras file and its scaler to a bundle whose fidelity has been measured."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from converter.folding import fold_affines
from converter.keras_file import read_keras_file
from converter.lowering import WeightFormat, lower
from converter.model_card import model_card as default_card
from converter.parity import choose_default, compare, keras_probabilities, random_windows, require_float_parity
from converter.reference import read_reference
from converter.self_test import make_self_test
from converter.tflite import checked_operators
from converter.training_config import read_training_config
from gateway.bundle import Bundle, FeatureReference, Manifest, check_target, write_bundle
from gateway.bundle.manifest import Member, Model, Preprocessing, Provenance, Variant
from gateway.bundle.writing import member
from gateway.errors import InputRejected
from gateway.inference.interpreter import LiteRtInterpreter
from gateway.inference.predictor import Predictor
from gateway.motion.samples import CHANNELS

PARITY_WINDOWS = 1000
PARITY_WINDOWS_MIN = 300
MODEL_CARD_FILE = "model_card.md"
UNITS = ("m/s^2",) * 3 + ("deg/s",) * 3
_LIBRARIES = ("numpy", "keras", "tensorflow", "ai-edge-litert")

Progress = Callable[[str], None]


def convert(
    model: str | Path,
    scaler: str | Path,
    out: str | Path,
    *,
    variants: Sequence[str] = tuple(WeightFormat),
    labels: Sequence[str] | None = None,
    name: str | None = None,
    frame: str | None = None,
    frame_description: str = "",
    wrist: Literal["left", "right", "either"] | None = None,
    parity_windows: int = PARITY_WINDOWS,
    seed: int = 1,
    card: str | None = None,
    drift_reference: Mapping[str, FeatureReference | Mapping[str, Any]] | None = None,
    reference: Sequence[str | Path] = (),
    created_utc: datetime | None = None,
    replace: bool = False,
    progress: Progress = lambda _: None,
) -> Bundle:
    """Writes the bundle `out` and returns it; nothing is written until all of it is made and measured.

    model: .keras; scaler: the training's JSON. labels: instead of those of the JSON, in the order of the outputs.
    parity_windows: how many random windows (of `seed`) every variant is measured on. card: Markdown, instead of the
    general one. reference: files to make the drift reference from, instead of one that is given. replace: a bundle that
    stands at `out`. progress: told each step before it begins.
    Raises ModelRejected, ScalerRejected, TargetRejected, InputRejected; ConversionFailed where the float32 model does
    not say what Keras says.
    """
    model, out = Path(model), Path(out)
    formats = _formats(variants)
    if parity_windows < PARITY_WINDOWS_MIN:
        raise InputRejected(f"parity on {parity_windows} windows, expected {PARITY_WINDOWS_MIN} or more")
    check_target(out, replace=replace)
    progress(f"reading {model}")
    source = read_keras_file(model)
    network = source.network
    shape = {"window": network.window, "channels": network.channels}
    config = read_training_config(scaler, **shape, classes=network.classes, labels=labels)

    if reference:
        progress("reading " + ", ".join(map(str, reference)))
        drift_reference = read_reference(reference, window=network.window, hop=config.hop, rate_hz=config.rate_hz)
    progress("folding the scaler and batch normalizations, writing the graphs")
    folded = fold_affines([config.scaler(), *network.layers])
    # float32 is always made: that it says what Keras says is the proof of reading and folding.
    files = {kind: lower(folded, **shape, weights=kind) for kind in dict.fromkeys((WeightFormat.FLOAT32, *formats))}

    progress(f"asking the Keras model about {parity_windows} random windows")
    windows = random_windows(parity_windows, window=network.window, config=config, seed=seed)
    wanted = keras_probabilities(model, windows, config)
    parities = {}
    for kind, content in files.items():
        progress(f"asking the {kind} variant")
        predictor = Predictor(
            LiteRtInterpreter(content), window=network.window, channels=CHANNELS, labels=config.labels
        )
        parities[kind] = compare(predictor.predict(windows), wanted, seed=seed)
        if kind is WeightFormat.FLOAT32:
            require_float_parity(parities[kind])

    progress(f"writing {out}")
    title = name or model.stem
    written = {kind.value: parities[kind] for kind in formats}
    default, reason = choose_default(written)
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
        reference=_drift_reference(drift_reference),
    )
    contents = {f"{kind}.tflite": files[kind] for kind in formats} | {MODEL_CARD_FILE: text.encode()}
    test_content, test = make_self_test(windows, wanted, {kind.value: files[kind] for kind in formats})
    contents[test.file] = test_content
    members = {file: member(file, content) for file, content in contents.items()}
    try:
        manifest = Manifest(
            model=Model(
                name=title,
                architecture=network.architecture,
                keras_sha256=source.sha256,
                keras_version=source.keras_version,
                keras_saved=source.saved,
            ),
            labels=config.labels,
            window=network.window,
            hop=config.hop,
            rate_hz=config.rate_hz,
            channels=CHANNELS,
            units=UNITS,
            frame=frame,
            frame_description=frame_description,
            wrist=wrist,
            preprocessing=Preprocessing(mean=config.mean, scale=config.scale, source_sha256=config.sha256),
            variants={kind.value: _variant(members[f"{kind}.tflite"], files[kind], parities[kind]) for kind in formats},
            default_variant=default,
            default_reason=reason,
            model_card=members[MODEL_CARD_FILE],
            provenance=Provenance(
                converter_version=_version("fidget-gateway"),
                libraries={library: _version(library) for library in _LIBRARIES},
                created_utc=created_utc,
            ),
            drift_reference=_drift_reference(drift_reference),
            self_test=test,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputRejected(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return write_bundle(out, manifest, contents, replace=replace)


def _formats(variants: Sequence[str]) -> list[WeightFormat]:
    """Each once, in the order of exactness."""
    for variant in variants:
        if variant not in tuple(WeightFormat):
            raise InputRejected(f"variant {variant!r}: expected {' or '.join(WeightFormat)}")
    if not variants:
        raise InputRejected(f"no variant: expected {' or '.join(WeightFormat)}")
    return [kind for kind in WeightFormat if kind in variants]


def _variant(file: Member, content: bytes, parity: Any) -> Variant:
    return Variant(**file.model_dump(), parity=parity, operators=checked_operators(content))


def _drift_reference(
    given: Mapping[str, FeatureReference | Mapping[str, Any]] | None,
) -> dict[str, FeatureReference] | None:
    return None if given is None else {name: FeatureReference.model_validate(entry) for name, entry in given.items()}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
