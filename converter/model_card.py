"""The card of a bundle whose maker gave none: what the model is for, what not, and what is known of it."""

from collections.abc import Mapping, Sequence

from gateway.bundle.manifest import Parity
from gateway.motion.samples import CHANNELS, UNITS


def model_card(
    *,
    name: str,
    labels: tuple[str, ...],
    window: int,
    rate_hz: float,
    frame: str | None,
    parities: Mapping[str, Parity],
    wrist: str | None = None,
    mean: Sequence[float] = (),
    scale: Sequence[float] = (),
    channels: Sequence[str] = CHANNELS,
    units: Sequence[str] = UNITS,
    reference: str | None = None,
    label_shares: Mapping[str, float] | None = None,
) -> str:
    """Markdown. States only what the conversion itself knows. mean, scale: of the channels in the training data.

    reference: the distributions that the manifest has, in words. label_shares: of the labels in that data.
    """
    rows = "\n".join(
        f"| {variant} | {p.top1_agreement:.2%} | {p.dp_max:g} | {p.dp_p99:g} | {p.dp_mean:g} |"
        for variant, p in parities.items()
    )
    windows = next(iter(parities.values())).windows
    taken = ", ".join(f"{name} [{unit}]" for name, unit in zip(channels, units, strict=True))
    gravity = "; accelerations with gravity in them" if not set(channels).isdisjoint(CHANNELS[:3]) else ""
    axes = f"`{frame}`" if frame else "not stated: predictions of a wearable that is mounted otherwise mean nothing"
    return f"""# {name}

Names the activity of the wrist in each window of {window / rate_hz:g} s ({window} samples at {rate_hz:g} Hz).

Classes: {", ".join(labels)}. Whatever the wearer really does, one of them gets the highest probability.

## For what, and for what not
For research on body-focused repetitive behaviours and for people who watch their own habits. It is no medical device:
it diagnoses nothing, and no treatment may depend on it. How well it recognises anybody is not known from this card,
because its maker did not say: ask for an evaluation on people whom it has not seen.

## What it takes
{window} samples of {taken}{gravity}.
Axes: {axes}. Wrist: {wrist or "not stated"}.
Another unit, rate, wrist or way of wearing gives answers as confident as the right one, and wrong.

## What it learnt from
{_learnt_from(channels, mean, scale, reference, label_shares)}

## Limits
- It always names one of its classes, whatever the wearer does: there is no class for everything else.
- A probability is the model's own confidence. Nobody has measured here how often it is right.
- It knows no wearer: what it learnt from others need not hold for another build, age, handedness or habit.
- Each window is judged by itself; an episode that lasts longer, or starts between windows, is not put together.

## Fidelity of the conversion
Against the Keras model on {windows} random windows far wider than training data (p: probability of a class):

| variant | same top class | max dp | p99 dp | mean dp |
|---|---|---|---|---|
{rows}
"""


def _learnt_from(
    channels: Sequence[str],
    mean: Sequence[float],
    scale: Sequence[float],
    reference: str | None,
    label_shares: Mapping[str, float] | None,
) -> str:
    text = "Who and how many wore it, doing what, its maker did not say."
    if mean and scale:
        rows = "\n".join(f"| {c} | {m:.3g} | {s:.3g} |" for c, m, s in zip(channels, mean, scale, strict=True))
        text += " What its scaler tells of the training data, in the units above:\n\n"
        text += f"| channel | mean | spread |\n|---|---|---|\n{rows}"
    if reference:
        text += f"\n\nmanifest.json has the distributions that drift is measured against: {reference}."
    if label_shares:
        shares = ", ".join(f"{label} {share:.1%}" for label, share in label_shares.items())
        text += f" Labels in that data: {shares}."
    return text
