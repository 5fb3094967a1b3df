"""Ctrl-C, and the other ways in which a person or the system ends the `converter` command.

The command's signals are blocked and a thread waits for them, which ends the process at once. No exception travels
through the work: TensorFlow and the import system turn KeyboardInterrupt into errors of their own, or swallow it. What
must not be cut through (files that take their place) is a block that the thread waits for. So no cleaning up is to be
relied on outside of such a block: what would need it, a temporary file say, has no place there.

Only light imports: this module is there before the heavy ones, during which Ctrl-C may come too.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_CODE_BASE = 128
"""Plus the signal's number: the shells' convention."""

_writing = threading.Lock()
_written: list[str] = []


def watch() -> None:
    """From now on a signal ends the process, with one line on stderr. Once, in the main thread, before others start.

    What the parent has set to be ignored (nohup, a background job) stays ignored. A reader of stdout that goes away
    ends the process as it does other commands, silently.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    waited = {number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    try:
        terminal: int | None = os.dup(2)  # what 2 is may change meanwhile: TensorFlow's logs are kept off it
    except OSError:
        terminal = None
    threading.Thread(target=_end, args=(waited, terminal), name="signals", daemon=True).start()


@contextmanager
def uninterrupted(target: str | os.PathLike[str]) -> Iterator[None]:
    """A block in which `target` is written: a signal waits for its end, and then tells that it is there."""
    with _writing:
        yield
        _written.append(os.fspath(target))


def _end(waited: set[signal.Signals], terminal: int | None) -> None:
    number = signal.sigwait(waited)
    with _writing:
        if terminal is not None:
            clear = "\r\x1b[K" if os.isatty(terminal) else ""  # the ^C that a terminal shows, and a bar
            try:
                os.write(terminal, f"{clear}{_in_words(number)}\n".encode(errors="surrogateescape"))
            except OSError:  # the terminal is gone
                pass
        os._exit(EXIT_CODE_BASE + number)


def _in_words(number: int) -> str:
    stopped = "stopped" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    if _written:
        return f"{stopped}; complete: {', '.join(_written)}; nothing else was written"
    return f"{stopped}; nothing was written; the same command starts again from the beginning"
