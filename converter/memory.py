"""How much memory a .tflite file takes to load and run: `python -m converter.memory FILE` prints bytes, measured on
itself, so it runs in a process of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

TIMEOUT_S = 60


def measured_bytes(model: bytes) -> int | None:
    """What the resident set of a fresh process grows by, with the model's bytes, for loading it and one window.

    None where LiteRT cannot run it.
    """
    with open(os.memfd_create("model"), "wb") as file:  # nothing is left on the medium, however this process ends
        file.write(model)
        file.flush()
        command = [sys.executable, "-m", "converter.memory", f"/proc/self/fd/{file.fileno()}"]
        done = subprocess.run(command, capture_output=True, text=True, pass_fds=[file.fileno()], check=False)
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip().isdigit() else None


def resident_bytes() -> int:
    """Of this process (https://man7.org/linux/man-pages/man5/proc_pid_smaps.5.html)."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    return 0


def _main(file: str) -> None:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    signal.alarm(TIMEOUT_S)  # a graph may hold a loop without end
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    before = resident_bytes()
    content = Path(file).read_bytes()
    model = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=resolver)
    model.allocate_tensors()
    for entry in model.get_input_details():
        model.set_tensor(entry["index"], np.zeros(entry["shape"], entry["dtype"]))
    model.invoke()
    print(max(0, resident_bytes() - before))


if __name__ == "__main__":
    _main(sys.argv[1])
