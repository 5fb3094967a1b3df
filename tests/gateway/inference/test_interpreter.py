"""The runtime's behaviour that this room leans on; an upgrade that changes it fails here with a sentence."""

import numpy as np
import pytest

from gateway.inference.interpreter import LiteRtInterpreter


def windows(count):
    return (np.random.default_rng(3).normal(size=(count, 40, 6)) * 5).astype(np.float32)


@pytest.mark.parametrize("variant", ["float32", "dynamic"])
def test_litert_keeps_an_lstm_s_state_unless_it_is_reset(models, variant):
    """Why every window starts with a reset: were this to pass no more, the reset could go."""
    interpreter = LiteRtInterpreter(models[variant])
    first, second = windows(2)
    alone, _ = interpreter.run(second[np.newaxis])
    interpreter.run(first[np.newaxis])
    litert = interpreter._litert
    litert.set_tensor(interpreter._input, second[np.newaxis])
    litert.invoke()
    leaked = litert.get_tensor(interpreter._probabilities)[0]
    assert np.abs(leaked - alone).max() > 1e-3


def test_a_model_with_other_outputs_is_refused(models):
    renamed = models["float32"].replace(b"logits", b"scores")
    with pytest.raises(ValueError, match="not probabilities and logits in float32"):
        LiteRtInterpreter(renamed)


def test_logits_and_probabilities_belong_together(models):
    interpreter = LiteRtInterpreter(models["float32"])
    assert (interpreter.input_shape, interpreter.classes) == ((1, 40, 6), 3)
    for window in windows(20):
        probabilities, logits = interpreter.run(window[np.newaxis])
        powers = np.exp(logits.astype(np.float64) - logits.max())
        np.testing.assert_allclose(probabilities, powers / powers.sum(), atol=1e-6)


def test_nothing_is_said_on_the_terminal(models, capfd):
    LiteRtInterpreter(models["float32"]).run(windows(1))
    assert capfd.readouterr() == ("", "")
