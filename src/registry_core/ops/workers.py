"""A pool of threads that work together and stop together."""

from __future__ import annotations

import contextvars
import heapq
import threading
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from typing import Final, TypeVar

from registry_core.cancellation import CancelScope, checkpoint, on_cancel, remaining
from registry_core.errors import Cancelled, DeadlineExceeded, RegistryError

__all__ = ["WorkerPool", "run_each"]

_Item = TypeVar("_Item")

# How long to wait for the other threads after an error, and after a cancellation or deadline: a thread that hangs in
# foreign code cannot be stopped, and a caller whose time is up does not wait for it.
_ERROR_WAIT: Final = 5.0
_CANCEL_WAIT: Final = 0.4


def run_each(work: Callable[[_Item], None], items: Iterable[_Item], *, jobs: int) -> None:
    """Call a function for each item, in several threads; the first error cancels the other calls.

    Args:
        work: Function to call.
        items: Items, started in this order.
        jobs: Greatest number of calls at a time; with 1, all calls are made in the thread of the caller.

    Raises:
        RegistryError: The first error of any call; the other calls were cancelled and have ended.
        Cancelled: The current scope was cancelled.
        DeadlineExceeded: The deadline has passed.
    """
    items = list(items)
    with CancelScope() as scope:
        pool = WorkerPool(jobs if len(items) > 1 else 1, scope)
        for item in items:
            pool.add(partial(work, item))
        pool.run()


class WorkerPool:
    """A pool of threads whose tasks may add further tasks. No task waits for another, so one thread suffices.

    Args:
        jobs: Greatest number of tasks at a time; with 1, all tasks run in the thread of the caller.
        scope: Scope that the caller has entered; it is cancelled on the first error.
    """

    def __init__(self, jobs: int, scope: CancelScope) -> None:
        self._jobs = jobs
        self._scope = scope
        self._lock = threading.Lock()
        self._ready: list[tuple[tuple[int, int], int, Callable[[], None]]] = []
        self._task_numbers = count()
        self._thread_numbers = count()
        self._context: contextvars.Context | None = None
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._errors: list[BaseException] = []
        self._stopped = threading.Event()
        self._ended = threading.Event()

    def add(self, task: Callable[[], None], rank: tuple[int, int] = (0, 0)) -> None:
        """Add a task, from any thread. Tasks of the lowest rank run first, and the oldest of one rank."""
        with self._lock:
            heapq.heappush(self._ready, (rank, next(self._task_numbers), task))
            if self._context is None or self._busy >= self._jobs or self._errors:
                return
            self._busy += 1
        self._start_thread()

    def run(self) -> None:
        """Run all tasks, and those that they add.

        The caller wakes when its scope is cancelled or its deadline passes, even if a thread hangs in code that does
        not check the scope; such a thread ends when that code returns.

        Raises:
            RegistryError: The first error of any task; the other tasks were cancelled and have ended.
            Cancelled: The current scope was cancelled.
            DeadlineExceeded: The deadline has passed.
        """
        if self._jobs == 1:
            for task in iter(self._take, None):
                task()
            return
        try:
            with self._lock:
                self._context = contextvars.copy_context()
                self._busy = starting = min(self._jobs, len(self._ready))
            if not starting:
                return
            for _ in range(starting):
                self._start_thread()
            self._wait()
        except BaseException as error:
            # The first error of a task is the reason for the cancellation; only another exception, such as
            # KeyboardInterrupt, takes precedence.
            cause = self._errors[0] if self._errors and isinstance(error, RegistryError) else error
        else:
            return
        self._scope.cancel()
        self._join(_join_timeout(cause))
        raise cause

    def _start_thread(self) -> None:
        context = contextvars.copy_context() if self._context is None else self._context.copy()
        # A daemon: a thread that hangs in a foreign read must not keep the program from ending.
        name = f"registry-copy-{next(self._thread_numbers)}"
        thread = threading.Thread(target=context.run, args=(self._run,), name=name, daemon=True)
        try:
            thread.start()
        except BaseException as error:
            with self._lock:
                self._errors.append(error)
                self._end_thread()
            raise
        with self._lock:
            self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]

    def _wait(self) -> None:
        """Wait until all tasks are done; raise the first error, or the reason for the end of the scope."""
        with on_cancel(self._stopped.set):
            while not self._stopped.is_set():
                self._stopped.wait(remaining())
                if not self._stopped.is_set():
                    checkpoint()
        if self._errors:
            raise self._errors[0]
        if not self._ended.is_set():
            checkpoint()
        self._join(None)

    def _join(self, timeout: float | None) -> None:
        if self._ended.wait(timeout):
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        try:
            while (task := self._take_or_end()) is not None:
                task()
        except BaseException as error:
            with self._lock:
                self._errors.append(error)
            self._scope.cancel(cause=error)
            with self._lock:
                self._end_thread()

    def _take(self) -> Callable[[], None] | None:
        with self._lock:
            return heapq.heappop(self._ready)[2] if self._ready else None

    def _take_or_end(self) -> Callable[[], None] | None:
        # Under one lock, so that `add` knows whether this thread still takes the new task.
        with self._lock:
            if self._ready and not self._errors:
                return heapq.heappop(self._ready)[2]
            self._end_thread()
        return None

    def _end_thread(self) -> None:
        self._busy -= 1
        if self._busy == 0:
            self._ended.set()
        if self._errors or self._ended.is_set():
            self._stopped.set()


def _join_timeout(error: BaseException) -> float:
    if isinstance(error, Cancelled | DeadlineExceeded):
        return _CANCEL_WAIT
    left = remaining()
    return _ERROR_WAIT if left is None else min(_ERROR_WAIT, left + _CANCEL_WAIT)
