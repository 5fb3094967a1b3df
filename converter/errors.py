"""What the converter refuses, and when it fails."""

from gateway.errors import GatewayError, InputRejected


class ModelRejected(InputRejected):
    """The .keras file cannot be read, or holds something that cannot be converted faithfully."""


class InputShapeRejected(ModelRejected):
    """The Keras model takes windows of another shape than those that it is to be asked about."""


class ScalerRejected(InputRejected):
    """The training's JSON (scaler, labels, window) cannot be used with this model."""

    hint = "Give the JSON that the training wrote with this model."


class ConversionFailed(GatewayError):
    """What came out is not the model that went in; nothing was written."""

    hint = "This is a fault of the converter, not of your file: please report it with the model's architecture."


class CalibrationRejected(InputRejected):
    """What was given with --calibrate cannot calibrate the variant int8."""

    hint = (
        "Give --calibrate a recording (.csv, .parquet, or two .xlsx) or finite windows (.npy, shape (n, window, "
        "channels)), in the model's frame and raw units."
    )


class Int8Rejected(InputRejected):
    """TensorFlow cannot quantize this model fully."""

    hint = "Leave int8 out of --variants; the others do not need it."
