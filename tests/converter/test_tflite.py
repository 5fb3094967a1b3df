import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st

from converter.errors import ConversionFailed
from converter.layers import Dense, Flatten, LstmCell, Recurrent
from converter.lowering import WeightFormat, lower
from converter.tflite import Graph, checked_operators


@pytest.fixture(scope="module")
def model() -> bytes:
    rng = np.random.default_rng(1)
    cell = LstmCell(rng.normal(size=(6, 12)), rng.normal(size=(3, 12)), rng.normal(size=12))
    layers = [
        Recurrent(cell, None, sequences=True),
        Flatten(8),
        Dense(rng.normal(size=(24, 2)), np.zeros(2), "softmax"),
    ]
    return lower(layers, window=8, channels=6, weights=WeightFormat.DYNAMIC)


def edited(model: bytes, change) -> bytes:
    """Unpacked by the public schema, changed, and packed again as others would."""
    unpacked = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    change(unpacked)
    builder = flatbuffers.Builder(1024)
    builder.Finish(unpacked.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def lstm_of(model):
    return next(op for op in model.subgraphs[0].operators if hasattr(op.builtinOptions, "cellClip"))


def test_the_file_says_what_it_is(model):
    assert model[4:8] == b"TFL3"
    root = schema.Model.GetRootAs(model, 0)
    signature = root.SignatureDefs(0)
    assert signature.SignatureKey() == b"serving_default"
    assert [signature.Outputs(i).Name() for i in range(2)] == [b"probabilities", b"logits"]


def test_every_buffer_is_aligned_to_16_bytes(model):
    """Found by their content: the place of each weight in the file."""
    unpacked = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    datas = [bytes(buffer.data) for buffer in unpacked.buffers if buffer.data is not None]
    assert len(datas) == 15  # four gates' kernels, recurrent kernels and biases, the shape, dense kernel and bias
    assert all(model.index(data) % 16 == 0 for data in datas if any(data))


def test_an_lstm_that_clips_is_refused(model):
    def clip(unpacked):
        lstm_of(unpacked).builtinOptions.cellClip = 10.0

    with pytest.raises(ConversionFailed, match=r"clips its cell state at 10\.0"):
        checked_operators(edited(model, clip))


def test_an_operator_that_is_no_builtin_is_refused(model):
    def custom(unpacked):
        code = unpacked.operatorCodes[0]
        code.builtinCode, code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM, 32
        code.customCode = "FlexTensorListReserve"

    with pytest.raises(ConversionFailed, match=r"FlexTensorListReserve.* is no TFLite builtin"):
        checked_operators(edited(model, custom))


def test_a_buffer_that_is_not_aligned_is_refused(model):
    """The schema's own Pack aligns to 4 bytes."""
    with pytest.raises(ConversionFailed, match="is not aligned to 16 bytes"):
        checked_operators(edited(model, lambda unpacked: None))


@given(seed=st.integers(0, 2**32 - 1), per_row=st.booleans(), scale_log=st.integers(-12, 12))
def test_int8_weights_are_off_by_half_a_step_at_most(seed, per_row, scale_log):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(4, 7)) * np.exp(rng.normal(0, 3, (4, 1))) * 10.0**scale_log
    values[rng.integers(0, 4)] = 0
    graph = Graph()
    tensor = graph._tensors[graph.int8_constant("w", values, per_row=per_row)]
    counts = graph._buffers[tensor.buffer].data.astype(np.float64)
    scale = np.asarray(tensor.quantization.scale, np.float64).reshape(-1, 1)
    assert len(scale) == (4 if per_row else 1)
    assert np.abs(counts).max() == 127
    assert (np.abs(counts * scale - values) <= scale * 0.501).all()
