"""What `converter COMMAND --help` says before and after the options, wrapped for a terminal of 80 columns."""

CONVERTER = """\
From a trained Keras model to a TFLite bundle that is checked against it.

A bundle is a folder: manifest.json, one .tflite file for each variant (the same
network, stored differently), windows with known answers, a model card."""

CONVERTER_END = """\
usually, in this order:
  converter inspect MODEL.keras
  converter convert MODEL.keras --scaler CONFIG.json --out my-bundle
  converter verify my-bundle --against MODEL.keras
  converter pack my-bundle my-bundle.zip

Each command has a help of its own: converter convert --help

exit codes:
  0    done
  1    the model or the bundle is not faithful, or the machine cannot do it
       (something is not installed, the output takes no more)
  2    the input or an option cannot be used; one line says why, the next one
       what to do
  130  Ctrl-C; another signal gives 128 and its number. Nothing is half
       written: the last line says what is there."""

CONVERT = """\
Convert a Keras 3 model and its input scaler to a bundle that the gateway runs.

Each variant is compared with the Keras model on random windows that range far
beyond the training data. A float32 variant that differs from Keras is not
written. The default variant is the smallest that agrees often enough. It takes
some minutes for half a million parameters, most of them for the search behind
the variant mixed."""

CONVERT_END = """\
CONFIG.json is what the training used; other keys are ignored:
  scaler_mean, scaler_scale    a number for each channel: (x - mean) / scale
  target_hz, step_size         samples a second; samples between two windows
  label_to_activity            {"0": "sitting", "1": ...}, or activity_to_label
  window_size, sensor_cols     where they stand, they must fit the model

SOURCE_DATE_EPOCH, where set, becomes the time of creation. The same input
makes the same bundle. Steps and times go to stderr, the result to stdout.

examples:
  converter convert model.keras --scaler config.json --out my-bundle
  converter convert model.keras --scaler config.json --out my-bundle \\
      --variants float32,dynamic --report my-bundle.html

exit codes:
  0    the bundle is written
  1    the float32 variant does not say what Keras says, or something is not
       installed: nothing is written
  2    a file or an option cannot be used: nothing is written, but where only
       --report fails
  130  Ctrl-C (128 and the signal's number for others): nothing is written, or
       the line says what is"""

INSPECT = """\
Show what is in a model: layers or operators, shapes, parameters, multiply-
accumulates a window, tensors with types and quantization, size and memory. Of
a Keras file no code runs."""

INSPECT_END = """\
examples:
  converter inspect model.keras
  converter inspect my-bundle --json

exit codes: 0 shown, 1 something is not installed, 2 it is no model, 130 Ctrl-C"""

VERIFY = """\
Check a bundle again: digests, schema, operators, that every variant loads in
the model runtime, answers its self-test windows as where it was made, and
answers each window for itself. With --against also that it still says what the
Keras model says."""

VERIFY_END = """\
examples:
  converter verify my-bundle
  converter verify my-bundle.zip --against model.keras --scaler config.json

exit codes: 0 all holds, 1 something does not, 2 it is no intact bundle or a
file cannot be used, 130 Ctrl-C"""

PACK = """\
Make one .zip of a bundle, for transport. The gateway takes it as it takes the
folder; the same bundle makes the same bytes."""

PACK_END = """\
example:
  converter pack my-bundle my-bundle.zip

exit codes: 0 written, 2 it is no intact bundle or cannot be written there,
130 Ctrl-C"""
