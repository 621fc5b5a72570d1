"""Threads that work together and stop together."""

from __future__ import annotations

import contextvars
import heapq
import threading
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from types import TracebackType
from typing import Final, Self, TypeVar

from registry_core.cancellation import CancelScope, checkpoint, on_cancel, remaining
from registry_core.errors import Cancelled, DeadlineExceeded, RegistryError

__all__ = ["WorkerPool", "Workers"]

_Item = TypeVar("_Item")

# How long those that were told to stop are waited for. Nothing but their own end stops threads that hang in somebody
# else's code, and a caller who has no more time cannot have that time either.
_GRACE: Final = 0.4
_PATIENCE: Final = 5.0


class Workers:
    """Threads that work in the context of whoever asks; the first error ends the work of all.

    Args:
        jobs: How many work at a time; a single one is the caller itself.
        scope: Entered by the caller; cancelled at the first error.
    """

    def __init__(self, jobs: int, scope: CancelScope) -> None:
        self._jobs = jobs
        self._scope = scope

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Nothing is left: threads live no longer than what they were started for."""

    def run_each(self, work: Callable[[_Item], None], parts: Iterable[_Item]) -> None:
        """Do some work for each part, in this order as far as one can tell; raises as ``Crew.run`` does."""
        parts = list(parts)
        crew = WorkerPool(self._jobs if len(parts) > 1 else 1, self._scope)
        for part in parts:
            crew.add(partial(work, part))
        crew.run()


class WorkerPool:
    """Threads for work that begets more of it. None ever waits for another, so one alone gets everything done.

    Args:
        jobs: How many work at a time; a single one is the caller itself.
        scope: Entered by the caller; cancelled at the first error.
    """

    def __init__(self, jobs: int, scope: CancelScope) -> None:
        self._jobs = jobs
        self._scope = scope
        self._lock = threading.Lock()
        self._ready: list[tuple[tuple[int, int], int, Callable[[], None]]] = []
        self._order = count()
        self._numbers = count()
        self._context: contextvars.Context | None = None
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._errors: list[BaseException] = []
        self._settled = threading.Event()
        self._ended = threading.Event()

    def add(self, work: Callable[[], None], rank: tuple[int, int] = (0, 0)) -> None:
        """Have something done, from any thread; of what is ready, the lowest rank comes first, then the oldest."""
        with self._lock:
            heapq.heappush(self._ready, (rank, next(self._order), work))
            if self._context is None or self._busy >= self._jobs or self._errors:
                return
            self._busy += 1
        self._start()

    def run(self) -> None:
        """Do all there is, and all that comes of it.

        The caller wakes when its scope is cancelled or runs out of time, even while a worker hangs where no scope
        reaches it; such a thread ends by itself once it is let go.

        Raises:
            RegistryError: The first error of any; the others have been cancelled and have ended.
            Cancelled: The ambient scope was cancelled.
            DeadlineExceeded: Its deadline has passed.
        """
        if self._jobs == 1:
            for work in iter(self._next, None):
                work()
            return
        try:
            with self._lock:
                self._context = contextvars.copy_context()
                self._busy = starting = min(self._jobs, len(self._ready))
            if not starting:
                return
            for _ in range(starting):
                self._start()
            self._wait()
        except BaseException as error:
            # What a worker met first is why all were cancelled; only what is no error of ours, such as Ctrl-C, is more.
            cause = self._errors[0] if self._errors and isinstance(error, RegistryError) else error
        else:
            return
        self._scope.cancel()
        self._join(_patience(cause))
        raise cause

    def _start(self) -> None:
        context = contextvars.copy_context() if self._context is None else self._context.copy()
        # A thread that hangs in a foreign read must not keep the program from ending.
        name = f"registry-copy-{next(self._numbers)}"
        thread = threading.Thread(target=context.run, args=(self._run,), name=name, daemon=True)
        try:
            thread.start()
        except BaseException as error:
            with self._lock:
                self._errors.append(error)
            self._leave()
            raise
        with self._lock:
            self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]

    def _wait(self) -> None:
        """Until all is done, or the first error, or the end of the scope, which is raised."""
        with on_cancel(self._settled.set):
            while not self._settled.is_set():
                self._settled.wait(remaining())
                if not self._settled.is_set():
                    checkpoint()
        if self._errors:
            raise self._errors[0]
        if not self._ended.is_set():
            checkpoint()
        self._join(None)

    def _join(self, seconds: float | None) -> None:
        """Until the threads have ended, or some seconds have passed."""
        if self._ended.wait(seconds):
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        try:
            while (work := self._next_or_leave()) is not None:
                work()
        except BaseException as error:
            with self._lock:
                self._errors.append(error)
            self._scope.cancel(cause=error)
            self._leave()

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            return heapq.heappop(self._ready)[2] if self._ready else None

    def _next_or_leave(self) -> Callable[[], None] | None:
        # Under one lock: whoever adds work must know whether this thread will still see it.
        with self._lock:
            if self._ready and not self._errors:
                return heapq.heappop(self._ready)[2]
            self._gone()
        return None

    def _leave(self) -> None:
        with self._lock:
            self._gone()

    def _gone(self) -> None:
        self._busy -= 1
        if self._busy == 0:
            self._ended.set()
        if self._errors or self._ended.is_set():
            self._settled.set()


def _patience(error: BaseException) -> float:
    if isinstance(error, Cancelled | DeadlineExceeded):
        return _GRACE
    left = remaining()
    return _PATIENCE if left is None else min(_PATIENCE, left + _GRACE)
