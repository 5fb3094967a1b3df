"""The card of a bundle whose maker gave none: what the model is for, what not, and what is known of it."""

from collections.abc import Mapping

from gateway.bundle.manifest import Parity


def model_card(
    *,
    name: str,
    labels: tuple[str, ...],
    window: int,
    rate_hz: float,
    frame: str | None,
    parities: Mapping[str, Parity],
) -> str:
    """Markdown. States only what the conversion itself knows."""
    rows = "\n".join(
        f"| {variant} | {p.top1_agreement:.2%} | {p.dp_max:g} | {p.dp_p99:g} | {p.dp_mean:g} |"
        for variant, p in parities.items()
    )
    windows = next(iter(parities.values())).windows
    axes = f"`{frame}`" if frame else "not stated: predictions of a wearable that is mounted otherwise mean nothing"
    return f"""# {name}

Names the activity of the wrist in each window of {window / rate_hz:g} s ({window} samples at {rate_hz:g} Hz of
accelerometer, m/s², and gyroscope, deg/s).

Classes: {", ".join(labels)}. Whatever the wearer really does, one of them gets the highest probability.

## For what, and for what not
For research on body-focused repetitive behaviours and for people who watch their own habits. It is no medical device:
it diagnoses nothing, and no treatment may depend on it. How well it recognises anybody is not known from this card,
because its maker did not say: ask for an evaluation on people whom it has not seen.

Model axes: {axes}.

## Fidelity of the conversion
Against the Keras model on {windows} random windows far wider than training data (p: probability of a class):

| variant | same top class | max dp | p99 dp | mean dp |
|---|---|---|---|---|
{rows}
"""
