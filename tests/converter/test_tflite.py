import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from converter.errors import ConversionFailed
from converter.layers import Activate, Dense, Flatten, LstmCell, Merge, Node, Recurrent, Reshape
from converter.lowering import lower
from converter.quantize import dynamic_range
from converter.tflite import IN_PLACE, Graph, checked_operators
from gateway.inference.interpreter import LiteRtInterpreter


@pytest.fixture(scope="module")
def model() -> bytes:
    rng = np.random.default_rng(1)
    cell = LstmCell(rng.normal(size=(6, 12)), rng.normal(size=(3, 12)), rng.normal(size=12))
    layers = [
        Recurrent(cell, None, sequences=True),
        Flatten(8),
        Dense(rng.normal(size=(24, 2)), np.zeros(2), "softmax"),
    ]
    return dynamic_range(lower(layers, window=8, channels=6))


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


def turned(graph: Graph, at: int) -> int:
    """A tensor whose memory is its own."""
    axes = graph.constant(f"axes{at}", np.array([0, 2, 1], np.int32))
    batch, rows, columns = graph.shape(at)
    return graph.operate("TRANSPOSE", [at, axes], (batch, columns, rows), options="TransposeOptions")


ELEMENTWISE = {  # operator: its options, and whether it takes a second input
    **{name: (f"{name.capitalize()}Options", True) for name in ("ADD", "SUB", "MUL", "DIV")},
    **dict.fromkeys(("MAXIMUM", "MINIMUM"), ("MaximumMinimumOptions", True)),
    **dict.fromkeys(("RELU", "RELU6", "TANH", "LOGISTIC", "ELU", "LOG", "SQRT", "RSQRT"), ("", False)),
    **{name: (f"{name.capitalize()}Options", False) for name in ("SOFTMAX", "EXP", "NEG", "ABS", "SQUARE", "GELU")},
    "LOG_SOFTMAX": ("LogSoftmaxOptions", False),
    "LEAKY_RELU": ("LeakyReluOptions", False),
    "PRELU": ("", True),
}


@pytest.mark.parametrize("operator", ELEMENTWISE)
def test_the_runtime_overwrites_an_input_by_the_operators_that_are_known_to(operator):
    """Where another one does, a tensor that is still to be read may be lost: then it belongs in IN_PLACE."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    options, has_second = ELEMENTWISE[operator]
    graph = Graph()
    window = graph.computed("window", (1, 6, 4))
    at = turned(graph, window)
    second = [graph.constant("second", np.ones((1, 4, 6)))] * has_second
    made = graph.operate(operator, [at, *second], (1, 4, 6), options=options)
    content = graph.finish({"window": window}, {"probabilities": turned(graph, made)}, description="")
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    before, after = (interpreter.tensor(one)().__array_interface__["data"][0] for one in (at, made))
    assert (before == after) == (operator in IN_PLACE)


def test_a_tensor_that_is_still_to_be_read_is_not_overwritten_through_another_shape_of_it():
    """The product's memory is the dense layer's. A softmax of it in another shape comes before its second use."""
    kernel, x = np.random.default_rng(3).normal(size=(4, 4)), np.array([[0.5, -1.0], [2.0, 0.3]], np.float32)
    layers = [
        Reshape((4,)),
        Dense(kernel, np.zeros(4), "linear"),
        Reshape((2, 2)),
        Node(Merge("multiply"), (1, 4)),  # with the window
        Reshape((4,)),
        Activate("softmax"),
        Reshape((2, 2)),
        Node(Merge("add"), (1, 4)),
        Flatten(2),
        Activate("softmax"),
    ]
    content = lower(layers, window=2, channels=2)
    product = (x.reshape(4) @ kernel) * x.reshape(4)
    expected = np.exp(product) / np.exp(product).sum() + product
    np.testing.assert_allclose(LiteRtInterpreter(content).run(x[None])[1], expected, rtol=1e-5)
