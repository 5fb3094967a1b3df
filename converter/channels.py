"""What a model's channels are called and measured in: from the training's JSON, or as they are given."""

from collections.abc import Sequence

from converter.errors import ScalerRejected
from gateway.motion.samples import CHANNELS, UNITS

_COLUMN_SUFFIX = "_w"  # the training tables name their columns Ax_w ...: w for the wrist
_NAME_MAX = 100  # characters, of the manifest's names
_KNOWN = "Ax, Ay, Az (accelerometer, m/s^2), Gx, Gy, Gz (gyroscope, deg/s)"


def channel_names(
    count: int, *, given: Sequence[str] | None, columns: Sequence[str] | None, path: object
) -> tuple[str, ...]:
    """Names of a model's channels, in its order. given: with --channels; else columns: sensor_cols of the file at path.

    Where neither is there, six channels are CHANNELS. Raises ScalerRejected.
    """
    if given is not None:
        where, names = "--channels", tuple(given)
    elif columns is not None:
        where, names = f"{path}: sensor_cols", tuple(name.removesuffix(_COLUMN_SUFFIX) for name in columns)
    elif count == len(CHANNELS):
        return CHANNELS
    else:
        raise ScalerRejected(f"{path} names no channels, and the model takes {count}", hint=_way_out(count))
    if len(names) != count:
        raise ScalerRejected(f"{where}: {shown(names)}: {len(names)}, the model takes {count} channels", hint=_HINT)
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ScalerRejected(f"{where}: {shown(twice)} more than once", hint=_HINT)
    if wrong := [name for name in names if not 0 < len(name) <= _NAME_MAX]:
        raise ScalerRejected(f"{where}: a name of {len(wrong[0])} characters, expected 1 to {_NAME_MAX}", hint=_HINT)
    return names


def channel_units(names: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """Units of these channels. given: one a channel, or NAME=UNIT for some; those of CHANNELS are known without.

    Raises ScalerRejected.
    """
    known = dict(zip(CHANNELS, UNITS, strict=True))
    told: dict[str, str] = {}
    if any("=" in unit for unit in given):
        for text in given:
            name, equals, unit = (part.strip() for part in text.partition("="))
            if not equals:
                raise ScalerRejected(f"--units: {shown([text])} names no channel", hint=_UNITS_HINT)
            if name not in names:
                raise ScalerRejected(f"--units: {shown([name])} is none of {shown(names)}", hint=_UNITS_HINT)
            if name in told:
                raise ScalerRejected(f"--units: {shown([name])} more than once", hint=_UNITS_HINT)
            told[name] = unit
    elif given:
        if len(given) != len(names):
            found = f"{len(given)}, the model takes {len(names)} channels"
            raise ScalerRejected(f"--units: {shown(given)}: {found}", hint=_UNITS_HINT)
        told = dict(zip(names, given, strict=True))
    for name, unit in told.items():
        if unit != known.get(name, unit):
            found = f"--units: {name} in {shown([unit])}, expected {known[name]}"
            raise ScalerRejected(found, hint="Train in that unit, as wearables give it, or name the channel otherwise.")
        if not 0 < len(unit) <= _NAME_MAX:
            found = f"--units: {shown([name])}: a unit of {len(unit)} characters"
            raise ScalerRejected(f"{found}, expected 1 to {_NAME_MAX}", hint=_UNITS_HINT)
    units = known | told
    if without := [name for name in names if name not in units]:
        what = "channel" if len(without) == 1 else "channels"
        hint = f"Give --units {shown(without[:1])}=UNIT, or name them as wearables do: {_KNOWN}."
        raise ScalerRejected(f"no unit is known of the {what} {shown(without)}", hint=hint)
    return tuple(units[name] for name in names)


_HINT = f"Name each once, in the model's order: {_KNOWN}, or others together with --units."
_UNITS_HINT = "Give one unit for each channel, or NAME=UNIT for those that are not " + ", ".join(CHANNELS) + "."


def _way_out(count: int) -> str:
    if count == 3:
        return "Accelerometer or gyroscope? Give --channels Ax,Ay,Az or --channels Gx,Gy,Gz."
    return f"Name them in the model's order with --channels: {_KNOWN}, or others together with --units."


def shown(names: Sequence[str]) -> str:
    """On one line, not without end."""
    text = ", ".join(repr(name)[1:-1] for name in names)
    return text if len(text) <= 200 else text[:200] + " ..."
