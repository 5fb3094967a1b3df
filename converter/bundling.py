"""A bundle's manifest and files, of what a conversion has made and measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from pydantic import ValidationError

from converter.folding import FoldingReport
from converter.gate import Times, choose_default, processor_name, runtimes_of
from converter.keras_file import KerasFile
from converter.model_card import model_card as default_card
from converter.parity import compare, rounded
from converter.probes import WALKS
from converter.reference import reference_entries, reference_in_words
from converter.search import Found
from converter.self_test import make_self_test
from converter.tflite import checked_operators
from converter.training_config import TrainingConfig
from gateway.bundle import Manifest
from gateway.bundle.manifest import (
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

MODEL_CARD_FILE = "model_card.md"
_LIBRARIES = ("numpy", "keras", "tensorflow", "ai-edge-litert")


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What was measured on the way, by set of windows and by variant; probabilities are (n, classes).

    times: of this machine and moment, which is why a bundle holds them only where that is asked for: else the same
    input makes the same bundle.
    """

    keras: dict[str, Float32] = field(default_factory=dict)
    answers: dict[str, dict[str, Float32]] = field(default_factory=dict)
    times: dict[str, Times] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Words:
    """What people say of a model. card: Markdown, None for the general one."""

    name: str
    frame: str | None
    frame_description: str
    wrist: Literal["left", "right", "either"] | None
    card: str | None
    created_utc: datetime | None


def bundled(
    source: KerasFile,
    config: TrainingConfig,
    folding: FoldingReport,
    files: Mapping[str, bytes],
    *,
    walks: Float32,
    measured: Measured,
    plans: Mapping[str, Found],
    words: Words,
    drift_reference: DriftReference | None,
    seed: int,
    min_agreement: float,
    keep_times: bool,
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest, and what its files hold, by name.

    files: .tflite by variant, the most exact one first. walks: those windows (n, window, channels), of `seed`. plans:
    of the variants that were searched for. Raises InputRejected for what the manifest cannot say.
    """
    network = source.network
    parities = {
        name: {
            where: compare(measured.answers[name][where], wanted, seed=seed, labels=config.labels)
            for where, wanted in measured.keras.items()
        }
        for name in files
    }
    features, data, contents = reference_entries(drift_reference)
    card = words.card or default_card(
        name=words.name,
        labels=config.labels,
        window=network.window,
        rate_hz=config.rate_hz,
        frame=words.frame,
        parities={name: parity[WALKS] for name, parity in parities.items()},
        wrist=words.wrist,
        mean=config.mean,
        scale=config.scale,
        channels=config.channels,
        units=config.units,
        reference=reference_in_words(features, data) if data else None,
        label_shares=data.label_shares if data else None,
    )
    contents |= {f"{name}.tflite": content for name, content in files.items()} | {MODEL_CARD_FILE: card.encode()}
    test_content, test = make_self_test(walks, measured.keras[WALKS], config, files)
    contents[test.file] = test_content
    members = {file: member(file, content) for file, content in contents.items()}
    entries = {
        name: _variant(
            members[f"{name}.tflite"],
            content,
            parities[name],
            plans.get(name),
            measured.times[name] if keep_times else None,
        )
        for name, content in files.items()
    }
    default, reason = choose_default(entries, min_agreement=min_agreement)
    try:
        manifest = Manifest(
            model=Model(
                name=words.name,
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
            frame=words.frame,
            frame_description=words.frame_description,
            wrist=words.wrist,
            preprocessing=Preprocessing(mean=config.mean, scale=config.scale, source_sha256=config.sha256),
            variants=entries,
            default_variant=default,
            default_reason=reason,
            model_card=members[MODEL_CARD_FILE],
            provenance=Provenance(
                converter_version=_version("fidget-gateway"),
                libraries={library: _version(library) for library in _LIBRARIES},
                created_utc=words.created_utc,
                processor=processor_name() if keep_times else None,
            ),
            drift_reference=features,
            reference_data=data,
            self_test=test,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputRejected(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return manifest, contents


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
