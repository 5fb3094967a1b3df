"""How long a conversion takes: `python tests/bench/bench_convert.py`.

The command itself, in processes of their own, from the imports to the bundle: with the search for the mixed variant,
and without it (`--variants float32,dynamic`). Not a ratio but two limits, stated for two idle cores; the processor time
that is printed beside tells how far other programs slowed it. The network is that of bench_inference.py.

Exit code 1 where a limit does not hold, or a conversion fails.
"""

import os
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LIMITS_S = {"with the search": ([], 240.0), "without it": (["--variants", "float32,dynamic"], 40.0)}
"""Options of the command, and the most that it may take on two cores."""
_COMMAND = "import sys; from converter.cli import main; sys.exit(main(sys.argv[1:]))"


def main() -> int:
    sources = runpy.run_path(str(Path(__file__).with_name("bench_inference.py")), run_name="loaded")["sources"]
    fails = 0
    with tempfile.TemporaryDirectory() as folder:
        model, config = sources(Path(folder))
        print(f"{model.name}, {os.cpu_count()} cores, {os.getloadavg()[0]:.1f} other programs at work")
        for number, (what, (options, limit_s)) in enumerate(LIMITS_S.items()):
            out = Path(folder) / f"bundle{number}"
            words = ["convert", str(model), "--scaler", str(config), "--out", str(out), *options]
            environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
            before, started_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", _COMMAND, *words], capture_output=True, text=True, env=environment
            )
            took_s, after = time.perf_counter() - started_s, resource.getrusage(resource.RUSAGE_CHILDREN)
            if done.returncode != 0:
                print(done.stderr, file=sys.stderr)
                return 1
            processor_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            holds = took_s <= limit_s
            fails += not holds
            word = "holds" if holds else "FAILS"
            print(f"{word}: {what} at most {limit_s:g} s, found {took_s:.1f} s ({processor_s:.1f} s of processor time)")
    return 1 if fails else 0


if __name__ == "__main__":
    sys.exit(main())
