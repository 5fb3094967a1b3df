"""Each pass against numpy: what a quantized file answers is what the float file answers with the weights so rounded."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.quantize import Storage, Weight, dynamic_range, int8_of, weights_of, with_storage
from converter.tflite import checked_operators, packed, unpacked
from gateway.inference.interpreter import LiteRtInterpreter


def read(model: bytes):
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))


def values_of(unpacked, tensor: int) -> np.ndarray:
    entry = unpacked.subgraphs[0].tensors[tensor]
    return np.asarray(unpacked.buffers[entry.buffer].data).view(np.float32).reshape(entry.shape)


def rounded_by_numpy(values: np.ndarray, storage: Storage, axis: int) -> np.ndarray:
    """Symmetric int8 with a scale for each slice of the axis; no carrying from step to step."""
    if storage is Storage.FLOAT16:
        return values.astype(np.float16).astype(np.float32)
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    scale = (np.abs(rows.astype(np.float64)).max(axis=1, keepdims=True) / 127).astype(np.float32)
    made = np.rint(rows / scale.astype(np.float64)).astype(np.float32) * scale
    return np.moveaxis(made.reshape(np.moveaxis(values, axis, 0).shape), 0, axis)


def with_rounded_floats(model: bytes, weight: Weight, storage: Storage) -> bytes:
    unpacked = read(model)
    made = rounded_by_numpy(values_of(unpacked, weight.tensor), storage, weight.axis)
    buffer = unpacked.buffers[unpacked.subgraphs[0].tensors[weight.tensor].buffer]
    buffer.data = np.frombuffer(made.tobytes(), np.uint8)
    return packed(unpacked)


def answers(model: bytes, windows: np.ndarray) -> np.ndarray:
    interpreter = LiteRtInterpreter(model)
    return np.stack([interpreter.run(window[None])[1] for window in windows])


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    return np.random.default_rng(5).normal(0, 3, (6, 24, 6)).astype(np.float32)


def test_a_weight_is_a_layer_s_kernel_or_a_gate_s(small_float):
    """Weights too small to matter, biases and shapes are none."""
    weights = weights_of(small_float)
    direction = [((16, 8), 1)] * 4 + [((16, 16), 1)] * 4
    assert [(weight.shape, weight.steps) for weight in weights] == [*direction, *direction, ((12, 23 * 32), 23)]
    assert len({weight.name for weight in weights}) == len(weights)
    assert [Storage.HYBRID in weight.choices for weight in weights] == [False] * 16 + [True]


@pytest.mark.parametrize("storage", [Storage.FLOAT16, Storage.INT8])
def test_a_stored_weight_is_expanded_as_numpy_expands_it(small_float, windows, storage):
    """To the bit: the operators are those of the float model."""
    for weight in weights_of(small_float):
        if weight.steps == 1:
            ours = answers(with_storage(small_float, {weight.name: storage}), windows)
            np.testing.assert_array_equal(ours, answers(with_rounded_floats(small_float, weight, storage), windows))
            assert not np.array_equal(ours, answers(small_float, windows))


def test_the_file_becomes_smaller_by_what_is_saved(small_float):
    unchanged = len(packed(unpacked(small_float)))  # equal vectors are stored once here, and not where it was written
    for weight in weights_of(small_float):
        for storage, saved in {Storage.FLOAT16: 2, Storage.INT8: 3, Storage.HYBRID: 3}.items():
            if storage in weight.choices:
                stored = with_storage(small_float, {weight.name: storage})
                overhead = weight.shape[0] * 12 + 250
                assert weight.size * saved - overhead <= unchanged - len(stored) <= weight.size * saved
                checked_operators(stored)  # aligned, builtins only, no clipping


@given(seed=st.integers(0, 2**32 - 1), steps=st.sampled_from([1, 5]), scale_log=st.integers(-12, 12))
def test_int8_is_off_by_half_a_count_or_by_one_and_a_half_where_errors_are_carried(seed, steps, scale_log):
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(4, 10)) * np.exp(rng.normal(0, 3, (4, 1))) * 10.0**scale_log).astype(np.float32)
    values[rng.integers(0, 4)] = 0
    counts, scale = int8_of(values, 0, steps)
    assert (counts.dtype, scale.dtype, scale.shape) == (np.int8, np.float32, (4,))
    assert counts.min() >= -127
    limit = 0.501 if steps == 1 else 1.501
    assert (np.abs(counts * scale.astype(np.float64)[:, None] - values) <= scale[:, None] * limit).all()


@given(seed=st.integers(0, 2**32 - 1), per_row=st.booleans(), scale_log=st.integers(-12, 12))
def test_int8_weights_are_off_by_half_a_step_at_most(seed, per_row, scale_log):
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(4, 7)) * np.exp(rng.normal(0, 3, (4, 1))) * 10.0**scale_log).astype(np.float32)
    values[rng.integers(0, 4)] = 0
    counts, scale = int8_of(values, 0 if per_row else None)
    steps = scale.astype(np.float64).reshape(-1, 1)
    assert len(scale) == (4 if per_row else 1)
    assert np.abs(counts.astype(np.int64)).max() == 127
    assert (np.abs(counts * steps - values) <= steps * 0.501).all()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_carried_errors_cancel_over_a_slow_sequence(seed):
    """A dense layer over 200 steps that hardly change: its sum is several times closer than with plain rounding."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(16, 200 * 4)).astype(np.float32)
    slow = np.cos(np.linspace(0, 3, 200)[:, None] * rng.uniform(0.2, 1, 4) + rng.uniform(0, 6, 4)).reshape(-1)

    def error(steps: int) -> float:
        counts, scale = int8_of(kernel, 0, steps)
        return float(np.abs((counts * scale[:, None] - kernel) @ slow).mean())

    assert error(200) < error(1) / 3


def test_hybrid_multiplies_int8_by_int8(small_float, windows):
    """Both rounded: near what the float layer answers, and not the same."""
    dense = next(weight for weight in weights_of(small_float) if Storage.HYBRID in weight.choices)
    exact, hybrid = (
        answers(small_float, windows),
        answers(with_storage(small_float, {dense.name: Storage.HYBRID}), windows),
    )
    assert 0 < np.abs(hybrid - exact).max() < 0.1 * np.abs(exact).max()


def test_dynamic_range_stores_every_dense_and_lstm_kernel_in_int8(small_float):
    unpacked = read(dynamic_range(small_float))
    graph, names = unpacked.subgraphs[0], {v: k for k, v in vars(schema.BuiltinOperator).items()}
    found = {}
    for operator in graph.operators:
        code = unpacked.operatorCodes[operator.opcodeIndex]
        found[names[code.builtinCode]] = (
            code.version,
            graph.tensors[operator.inputs[1]].type if len(operator.inputs) > 1 else None,
        )
    assert found["FULLY_CONNECTED"] == (12, schema.TensorType.INT8)
    assert found["UNIDIRECTIONAL_SEQUENCE_LSTM"] == (3, schema.TensorType.INT8)
    assert found["CONV_2D"] == (1, schema.TensorType.FLOAT32)


def test_a_weight_too_large_for_float16_is_not_offered_it(small_float):
    unpacked = read(small_float)
    weight = weights_of(small_float)[0]
    values_of(unpacked, weight.tensor)
    huge = values_of(unpacked, weight.tensor).copy()
    huge[0, 0] = 70_000
    unpacked.buffers[unpacked.subgraphs[0].tensors[weight.tensor].buffer].data = np.frombuffer(huge.tobytes(), np.uint8)
    model = packed(unpacked)
    assert weights_of(model)[0].choices == (Storage.FLOAT32, Storage.INT8)
    with pytest.raises(ValueError, match="cannot be stored as float16"):
        with_storage(model, {weight.name: Storage.FLOAT16})


@pytest.fixture(scope="module")
def other_kernels() -> bytes:
    """Over (24, 6): convolutions over rows and columns, an attention's four kernels, and an added constant."""
    from converter.layers import (
        Activate,
        Conv2d,
        Dense,
        Depthwise2d,
        Flatten,
        MatMul,
        MergeConstant,
        Node,
        Permute,
        Reshape,
    )
    from converter.lowering import lower

    rng = np.random.default_rng(8)

    def weights(*shape: int) -> np.ndarray:
        """Each output channel, the last axis, of another size: one scale for all would show."""
        return rng.normal(0, 1 / np.sqrt(np.prod(shape[:-1])), shape) * np.exp(rng.normal(0, 1, shape[-1]))

    heads = [Reshape((24, 2, 12)), Permute((1, 0, 2))]
    layers = [
        Reshape((24, 6, 1)),
        Conv2d(weights(5, 3, 1, 40), weights(40), "relu", pad=((2, 2), (1, 1))),
        Depthwise2d(weights(3, 6, 40, 1) * 5, weights(40), "linear", pad=((1, 1), (0, 0))),
        Reshape((24, 40)),
        MergeConstant("add", weights(24, 40) * 5),
        Dense(weights(40, 24), weights(24), "linear"),
        *heads,
        Node(Dense(weights(40, 24), weights(24), "linear"), (4,)),
        *heads,
        Node(MatMul(turned=True), (4, 1)),
        Activate("softmax"),
        Node(Dense(weights(40, 24), weights(24), "linear"), (9,)),
        *heads,
        Node(MatMul(), (4, 1)),
        Permute((1, 0, 2)),
        Reshape((24, 24)),
        Dense(weights(24, 24), weights(24), "linear"),
        Flatten(24),
        Dense(weights(24 * 24, 4), weights(4), "softmax"),
    ]
    return lower(layers, window=24, channels=6)


def test_other_kernels_are_weights_with_a_scale_for_each_output_channel(other_kernels):
    found = [(weight.shape, weight.axis, Storage.HYBRID in weight.choices) for weight in weights_of(other_kernels)]
    assert found == [
        ((40, 5, 3, 1), 0, False),
        ((1, 3, 6, 40), 3, False),
        ((1, 24, 40), 2, False),
        *[((24, 40), 0, True)] * 3,
        ((24, 24), 0, True),
        ((4, 576), 0, True),
    ]


@pytest.mark.parametrize("storage", [Storage.FLOAT16, Storage.INT8])
def test_other_kernels_are_expanded_as_numpy_expands_them(other_kernels, windows, storage):
    """Twice: what is expanded once, at load, is not written over."""
    twice = np.concatenate([windows, windows])
    for weight in weights_of(other_kernels):
        if weight.steps == 1:
            ours = answers(with_storage(other_kernels, {weight.name: storage}), twice)
            np.testing.assert_array_equal(ours, answers(with_rounded_floats(other_kernels, weight, storage), twice))
            assert not np.array_equal(ours, answers(other_kernels, twice)), weight.name


def test_an_attention_s_kernels_can_be_hybrid(other_kernels, windows):
    exact = answers(other_kernels, windows)
    found = answers(dynamic_range(other_kernels), windows)
    assert 0 < np.abs(found - exact).mean() < 0.15 * np.abs(exact).mean()
