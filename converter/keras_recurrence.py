"""Keras' recurrent layers, and layers of cells. Definitions: keras/src/layers/rnn."""

from collections import Counter
from typing import Any

import numpy as np

from converter.keras_merging import merged
from converter.keras_reading import (
    Config,
    Read,
    Reader,
    Reading,
    Unsupported,
    Weights,
    activation_name,
    check_own,
    natural,
    require,
    snake_case,
)
from converter.layers import (
    Activation,
    Cell,
    Concatenate,
    GruCell,
    LstmCell,
    MergeKind,
    Recurrent,
    Reverse,
    Shape,
    SimpleCell,
)

_UNROLLED_STEPS_MAX = 2048
"""A minute at 34 Hz; each step is some 11 operators."""
_RECURRENT = ("LSTM", "GRU", "SimpleRNN")
_MERGE_MODES: dict[str, MergeKind] = {"sum": "add", "mul": "multiply", "ave": "average"}
_CELLS = {"LSTMCell": "LSTM", "GRUCell": "GRU", "SimpleRNNCell": "SimpleRNN"}
_OVER_AN_AXIS = ("softmax", "log_softmax")


def _cell(kind: str, config: Config, shape: tuple[int, int], weights: Weights, below: str) -> tuple[Cell, int]:
    """With its units. shape: (steps, channels) of its input."""
    steps, channels = shape
    require(config, stateful=False, return_state=False, time_major=False)
    fused = kind == "LSTM" and (config.get("activation"), config.get("recurrent_activation")) == ("tanh", "sigmoid")
    if steps > _UNROLLED_STEPS_MAX and not fused:
        raise Unsupported(f"{steps} steps, each of which needs operators of its own; at most {_UNROLLED_STEPS_MAX}")
    units, use_bias = natural(config, "units"), config.get("use_bias", True)
    activation: Activation = activation_name(config, default="tanh")
    gate = "sigmoid" if kind == "SimpleRNN" else activation_name(config, "recurrent_activation", "sigmoid")
    for given in (activation, gate):
        if given in _OVER_AN_AXIS:
            raise Unsupported(f"activation={given!r}")
    gates = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}[kind]
    width = gates * units
    reset_after = kind == "GRU" and bool(config.get("reset_after", True))
    shapes: dict[str, Shape] = {"kernel": (channels, width), "recurrent_kernel": (units, width)}
    if use_bias:
        shapes["bias"] = (2, width) if reset_after else (width,)
    kernel, recurrent, *added = weights.take(shapes, below)
    bias = added[0] if added else np.zeros((2, width) if reset_after else width)
    if kind == "LSTM":
        return LstmCell(kernel, recurrent, bias, activation, gate), units
    if kind == "GRU":
        own, inner = (bias[0], bias[1]) if reset_after else (bias, None)
        return GruCell(kernel, recurrent, own, inner, activation, gate), units
    return SimpleCell(kernel, recurrent, bias, activation), units


def _recurrent_line(kind: str, config: Config) -> str:
    parts = [str(config["units"])]
    parts += ["sequences"] if config.get("return_sequences") else []
    parts += ["go_backwards"] if config.get("go_backwards") else []
    return f"{kind}({', '.join(parts)})"


def read_recurrent(kind: str) -> Reader:
    def read(reading: Reading) -> Read:
        steps, channels = reading.sequence()
        sequences, reverse = reading.flag("return_sequences", False), reading.flag("go_backwards", False)
        cell, units = _cell(kind, reading.config, (steps, channels), reading.weights, "cell/")
        shape = (steps, units) if sequences else (units,)
        return reading.only(Recurrent(cell, None, sequences, reverse), shape, _recurrent_line(kind, reading.config))

    return read


def read_bidirectional(reading: Reading) -> Read:
    steps, channels = reading.sequence()
    mode = reading.config.get("merge_mode", "concat")
    if mode not in (None, "concat", *_MERGE_MODES):
        raise Unsupported(f"merge_mode={mode!r}")
    entries = [reading.config["layer"], reading.config.get("backward_layer") or reading.config["layer"]]
    for inner in entries:
        if inner["class_name"] not in _RECURRENT:
            raise Unsupported(f"wraps {inner['class_name']}, expected {', '.join(_RECURRENT)}")
        check_own(inner)
    configs = [entry["config"] for entry in entries]
    sequences = configs[0].get("return_sequences", False)
    require(configs[1], return_sequences=sequences)
    ways = [bool(configs[0].get("go_backwards", False))]
    given = reading.config.get("backward_layer") is not None
    ways.append(bool(configs[1].get("go_backwards", False)) if given else not ways[0])
    if ways[0] == ways[1]:
        raise Unsupported("both of its layers read the sequence in the same direction")
    read = [
        _cell(entry["class_name"], config, (steps, channels), reading.weights, below)
        for entry, config, below in zip(entries, configs, ("forward_layer/cell/", "backward_layer/cell/"), strict=True)
    ]
    (forward, forward_units), (backward, backward_units) = read
    line = f"Bidirectional({_recurrent_line(entries[0]['class_name'], configs[0])}"
    line += ")" if mode == "concat" else f", {mode})"
    width = forward_units + backward_units
    if mode == "concat" and not ways[0]:
        both = Recurrent(forward, backward, bool(sequences))
        return reading.only(both, (steps, width) if sequences else (width,), line)
    add, outputs = reading.building.add, []
    shape: Shape
    for (cell, units), way in zip(read, ways, strict=True):
        shape = (steps, units) if sequences else (units,)
        outputs.append(add(Recurrent(cell, None, bool(sequences), way), [reading.input], shape))
    if sequences:  # Keras turns the second one round, whichever way it read
        outputs[1] = add(Reverse(), [outputs[1]], outputs[1].shape)
    if mode is None:
        return Read(outputs, line)
    if mode == "concat":
        shape = (*outputs[0].shape[:-1], width)
        return Read([add(Concatenate(len(shape) - 1), outputs, shape)], line)
    if forward_units != backward_units:
        raise Unsupported(f"merge_mode={mode!r} of {forward_units} and {backward_units} units")
    return Read([merged(reading.building, _MERGE_MODES[mode], outputs)], line)


def read_cells(reading: Reading) -> Read:
    """keras.layers.RNN: a cell after the other at each step is a layer after the other over all steps."""
    steps, _ = reading.sequence()
    require(reading.config, zero_output_for_mask=False)
    sequences, reverse = reading.flag("return_sequences", False), reading.flag("go_backwards", False)
    own = reading.config["cell"]
    stacked = own["class_name"] == "StackedRNNCells"
    entries = own["config"]["cells"] if stacked else [own]
    if stacked:
        check_own(own)
    at, lines, counted = reading.input, [], Counter[str]()
    for number, entry in enumerate(entries):
        kind = entry["class_name"]
        check_own(entry)
        if kind not in _CELLS:
            raise Unsupported(f"its cell is a {kind}, expected {', '.join(_CELLS)}")
        group = snake_case(kind)
        below = f"cell/cells/{group}" + (f"_{counted[group]}" if counted[group] else "") if stacked else "cell"
        counted[group] += 1
        given = _of_layer(reading.config) | dict(entry["config"])
        cell, units = _cell(_CELLS[kind], given, (steps, at.shape[1]), reading.weights, f"{below}/")
        last = number == len(entries) - 1
        shape = (steps, units) if sequences or not last else (units,)
        layer = Recurrent(cell, None, sequences or not last, reverse and number == 0)
        at = reading.building.add(layer, [at], shape)
        lines.append(f"{kind}({units})")
    return Read([at], f"RNN({', '.join(lines)}{', sequences' if sequences else ''})")


def _of_layer(config: Config) -> dict[str, Any]:
    return {key: config[key] for key in ("stateful", "return_state") if key in config}
