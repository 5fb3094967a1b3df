"""Child processes of the demo: started, waited for by what they announce, and ended by their pid in every path."""

import asyncio
import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from gateway.errors import GatewayError

STOP_WITHIN_S = 5.0
"""After SIGTERM; then SIGKILL. The daemon's clean stop (flush, farewell to the broker) takes well under this."""
LINES_HELD = 1000
"""Lines that nobody has waited for; older ones are in the log alone."""
_PR_SET_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None)

T = TypeVar("T")


def last_words(log: Path) -> str:
    """The last error in a log, as our own commands tell it; without one its last line."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    error = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), None)
    return error or (lines[-1] if lines else "")


class ChildFailed(GatewayError):
    """A process of the demo ended, or said nothing, where it had to go on."""

    def __init__(self, name: str, what: str, log: Path, exit_code: int) -> None:
        said = last_words(log)
        super().__init__(f"{name} {what}" + (f": {said}" if said else ""), hint=f"Its log: {log}")
        self.exit_code = exit_code


class Child:
    """One process; its stdout and stderr go to its log, together."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name, self.log, self._process = name, log, process
        self._lines: deque[str] = deque(maxlen=LINES_HELD)
        self._more = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.returncode

    def last_words(self) -> str:
        return last_words(self.log)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        with self.log.open("ab", buffering=0) as log:
            async for line in self._process.stdout:
                log.write(line)
                self._lines.append(line.decode(errors="replace").rstrip("\n"))
                self._more.set()
        self._more.set()

    async def says(self, wanted: Callable[[str], T | None], within_s: float) -> T:
        """What `wanted` makes of the first line that it takes. Raises ChildFailed."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    self._more.clear()
                    while self._lines:
                        if (found := wanted(self._lines.popleft())) is not None:
                            return found
                    if self._process.stdout is None or self._process.stdout.at_eof():
                        break
                    await self._more.wait()
                code = await self._process.wait()
        except TimeoutError:
            raise ChildFailed(self.name, f"said nothing for {within_s:g} s", self.log, 1) from None
        raise ChildFailed(self.name, f"ended with exit code {code}", self.log, 2 if code == 2 else 1)

    def must_live(self) -> None:
        """Raises ChildFailed where it has ended."""
        if self.ended is not None:
            raise ChildFailed(self.name, f"ended with exit code {self.ended}", self.log, 1)

    async def wait(self) -> int:
        """Until it ends by itself, and all it said is in its log; its exit code."""
        code = await self._process.wait()
        await self._reading
        return code

    async def kill(self) -> None:
        """kill -9, and waits until it is gone."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self.wait()

    async def stop(self) -> int:
        """SIGTERM, and SIGKILL where that does not do; returns the exit code."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                return await self.wait()
        except TimeoutError:
            await self.kill()
        return await self.wait()


class Children:
    """The processes of one run. Leaving the context ends all that are left, the youngest first; at a cancellation
    without a chance to say goodbye."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: list[Child] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for child in reversed(self._children):
                if child.ended is None:
                    await (child.kill() if isinstance(error, asyncio.CancelledError) else child.stop())
        finally:  # also where the waiting above is itself cancelled
            for child in self._children:
                if child.ended is None:
                    with suppress(ProcessLookupError):
                        os.kill(child.pid, signal.SIGKILL)

    async def start(self, name: str, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Child:
        """argv: what follows the Python interpreter, such as ("-m", "gateway", "run", ...).

        A child has a session of its own, so that Ctrl-C at the terminal reaches the demo alone; the kernel ends it
        where the demo itself is killed.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **(environment or {}), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
            preexec_fn=lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )
        child = Child(name, process, self._logs / f"{name}.log")
        self._children.append(child)
        return child
