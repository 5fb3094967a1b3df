"""Makes the demonstration bundle models/demo: synthesises motion, trains, measures, converts.

The data come from the seeds below; training is deterministic on one machine and differs a little between machines, so
the result is held against the card that stands, and refused where it is more than a point away.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from firmware_sim.synthesis import ACTIVITIES
from gateway.errors import GatewayError
from gateway.monitoring.reference import DriftReference
from models.model_card import accuracy_of, demo_card
from models.training_data import (
    HOP,
    RATE_HZ,
    SEGMENT_S,
    WINDOW,
    LabelledWindows,
    confusion,
    labelled_windows,
)

BUNDLE = Path(__file__).parent / "demo"
TRAINING_WEARERS = range(1, 41)
HELD_OUT_WEARERS = range(1001, 1013)
"""Far from the others and from the numbers that a simulated wearable usually has."""
TRAINING_SEED, HELD_OUT_SEED, WEIGHTS_SEED = 100, 200, 1
SEGMENTS = 2
EPOCHS = 10
BATCH = 64
LEARNING_RATE = 2e-3
ACCURACY_TOLERANCE = 0.01


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.make_demo",
        description="Make the demonstration bundle again: synthesise motion, train (minutes), measure on held-out "
        "wearers, convert.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", metavar="BUNDLE/", type=Path, default=BUNDLE, help="the bundle to write or replace")
    parser.add_argument("--epochs", metavar="N", type=int, default=EPOCHS, help="passes over the training windows")
    parser.add_argument("--wearers", metavar="N", type=int, default=len(TRAINING_WEARERS), help="to train on")
    parser.add_argument(
        "--accept", action="store_true", help="write the bundle even where its accuracy is not that of the card"
    )
    args = parser.parse_args()
    try:
        return make(args.out, epochs=args.epochs, wearers=TRAINING_WEARERS[: args.wearers], accept=args.accept)
    except GatewayError as error:
        print(f"error: {error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130


def make(out: Path, *, epochs: int, wearers: range, accept: bool) -> int:
    """Writes the bundle. 1 where the held-out accuracy is more than a point from what the card at `out` says."""
    stated = accuracy_of(out / "model_card.md")
    print(f"synthesising {len(wearers)} training wearers and {len(HELD_OUT_WEARERS)} held-out ones", flush=True)
    training = labelled_windows(wearers, seed=TRAINING_SEED, segments=SEGMENTS)
    held_out = labelled_windows(HELD_OUT_WEARERS, seed=HELD_OUT_SEED, segments=SEGMENTS)
    flat = training.windows.reshape(-1, training.windows.shape[-1]).astype(np.float64)
    mean, scale = flat.mean(axis=0), flat.std(axis=0)

    model = _train(training, mean, scale, epochs)
    predicted = _scores(model, held_out, mean, scale).argmax(axis=1)
    counts = confusion(held_out.labels, predicted)
    accuracy = float(np.trace(counts) / counts.sum())
    print(f"held-out accuracy {accuracy:.2%}" + (f", the card says {stated:.2%}" if stated is not None else ""))
    if not (accept or within_a_point(accuracy, stated)):
        print("more than a point apart: nothing was written (--accept writes it)", file=sys.stderr)
        return 1

    card = demo_card(
        counts,
        trained_on=_words(training, wearers) + f", epochs: {epochs}",
        held_out=_words(held_out, HELD_OUT_WEARERS),
    )
    _write_bundle(out, model, mean, scale, card, training)
    print(f"wrote {out}")
    return 0


def within_a_point(accuracy: float, stated: float | None) -> bool:
    """stated: what the card says, None where there is no card to be held to."""
    return stated is None or abs(accuracy - stated) <= ACCURACY_TOLERANCE


def _words(data: LabelledWindows, wearers: range) -> str:
    seconds = SEGMENTS * SEGMENT_S
    return (
        f"{len(data.labels)} windows of {len(wearers)} synthetic wearers ({wearers[0]} to {wearers[-1]}; {seconds:g} s "
        f"of each activity by each)"
    )


def _train(data: LabelledWindows, mean: Any, scale: Any, epochs: int) -> Any:
    print("loading TensorFlow", flush=True)
    import keras
    import tensorflow as tf

    from converter.architecture import reference_architecture

    keras.utils.set_random_seed(WEIGHTS_SEED)
    tf.config.experimental.enable_op_determinism()
    model = reference_architecture(len(ACTIVITIES), window=WINDOW)
    steps = epochs * -(-len(data.labels) // BATCH)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    scaled = ((data.windows - mean) / scale).astype(np.float32)
    model.fit(scaled, data.labels, batch_size=BATCH, epochs=epochs, verbose=1 if sys.stdout.isatty() else 2)
    return model


def _scores(model: Any, data: LabelledWindows, mean: Any, scale: Any) -> Any:
    return model.predict(((data.windows - mean) / scale).astype(np.float32), batch_size=256, verbose=0)


def _write_bundle(out: Path, model: Any, mean: Any, scale: Any, card: str, training: LabelledWindows) -> None:
    from converter.convert import convert

    config = {
        "window_size": WINDOW,
        "step_size": HOP,
        "target_hz": RATE_HZ,
        "scaler_mean": mean.tolist(),
        "scaler_scale": scale.tolist(),
        "label_to_activity": dict(enumerate(ACTIVITIES)),
    }
    with tempfile.TemporaryDirectory() as folder:
        keras_file, config_file = Path(folder) / "demo.keras", Path(folder) / "config.json"
        model.save(keras_file)
        config_file.write_text(json.dumps(config))
        convert(
            keras_file,
            config_file,
            out,
            variants=["float32", "dynamic"],
            name="fidget-demo",
            frame="x,y,z",
            frame_description="the case: x towards the crown (the hand), y towards 12 o'clock, z out of the dial",
            wrist="either",
            card=card,
            drift_reference=DriftReference.of_windows(training.windows, label_counts=training.counts()),
            replace=out.exists(),
            progress=lambda step: print(step, flush=True),
        )


if __name__ == "__main__":
    sys.exit(main())
