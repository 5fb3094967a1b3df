"""The `converter` command, also as `python -m converter`. Its imports take a second, so signals are watched first."""

import io
import sys


def run() -> int:
    try:
        from converter.signals import watch

        watch()
    except KeyboardInterrupt:  # in the first hundredths of a second
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    from converter.cli import main

    sys.stdout = sys.stdout or io.StringIO()  # it may be closed
    return main()


if __name__ == "__main__":
    sys.exit(run())
