"""The reference architecture: a small 1D-CNN-BiLSTM for wrist motion."""

from typing import Any


def reference_architecture(n_classes: int, *, window: int = 200, channels: int = 6) -> Any:
    """A keras.Sequential, not compiled: (window, channels) scaled samples in, n_classes probabilities out."""
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((window, channels)),
            layers.Conv1D(16, 2, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.1),
            layers.Conv1D(32, 2, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Bidirectional(layers.LSTM(64, return_sequences=True)),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Bidirectional(layers.LSTM(32, return_sequences=True)),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(n_classes, activation="softmax"),
        ],
        name="cnn_bilstm",
    )
