"""An asyncio loop whose handles are events of the virtual clock: nothing waits, and a crash is to call none of them."""

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine
from typing import Any

from tests.sim.world import SECOND, Clockwork

EXECUTED_MAX_S = 0.02


class VirtualLoop(asyncio.AbstractEventLoop):
    """What is given to an executor runs at once; its result is told a little later, as a thread would."""

    def __init__(self, clock: Clockwork, rng: random.Random) -> None:
        self._clock, self._rng = clock, rng
        self.abandoned = False
        self.unhandled: list[str] = []

    def time(self) -> float:
        return self._clock.now_ns / SECOND

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._at(self._clock.now_ns, handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._at(int(when * SECOND) + 1, handle)  # never before `when` by time()
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def _at(self, when_ns: int, handle: asyncio.Handle) -> None:
        if not self.abandoned:
            self._clock.at(when_ns, lambda: self._run(handle))

    def _run(self, handle: asyncio.Handle) -> None:
        if self.abandoned or handle.cancelled():
            return
        asyncio._set_running_loop(self)
        try:
            handle._run()
        finally:
            asyncio._set_running_loop(None)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, **kwargs)

    def run_in_executor(self, executor: object, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        future = self.create_future()
        try:
            tell, result = future.set_result, func(*args)
        except Exception as error:
            tell, result = future.set_exception, error
        self.call_later(self._rng.random() * EXECUTED_MAX_S, lambda: None if future.done() else tell(result))
        return future

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.abandoned

    def is_closed(self) -> bool:
        return self.abandoned

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.abandoned:
            self.unhandled.append(f"{context['message']}: {context.get('exception')!r}")
