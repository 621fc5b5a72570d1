"""Threads that work together and stop together."""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from registry_core.errors import Cancelled, DeadlineExceeded, RegistryError
from registry_core.scope import CancelScope, checkpoint, interruptible, remaining

__all__ = ["Workers"]

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

    def each(self, work: Callable[[_Item], None], parts: Iterable[_Item]) -> None:
        """Do some work for each part, in this order as far as one can tell.

        The caller wakes when its scope is cancelled or runs out of time, even while a worker hangs where no scope
        reaches it; such a thread ends by itself once it is let go.

        Raises:
            RegistryError: The first error of any; the others have been cancelled and have ended.
            Cancelled: The ambient scope was cancelled.
            DeadlineExceeded: Its deadline has passed.
        """
        parts = list(parts)
        if self._jobs == 1 or len(parts) < 2:
            for part in parts:
                work(part)
            return
        crew = _Crew(work, parts, self._scope)
        try:
            crew.start(min(self._jobs, len(parts)))
            crew.wait()
        except BaseException as error:
            # What a worker met first is why all were cancelled; only what is no error of ours, such as Ctrl-C, is more.
            cause = crew.errors[0] if crew.errors and isinstance(error, RegistryError) else error
        else:
            return
        self._scope.cancel()
        crew.join(_patience(cause))
        raise cause


def _patience(error: BaseException) -> float:
    if isinstance(error, Cancelled | DeadlineExceeded):
        return _GRACE
    left = remaining()
    return _PATIENCE if left is None else min(_PATIENCE, left + _GRACE)


class _Crew(Generic[_Item]):
    """The threads for one list of parts."""

    def __init__(self, work: Callable[[_Item], None], parts: list[_Item], scope: CancelScope) -> None:
        self.errors: list[BaseException] = []
        self._work = work
        self._parts = deque(parts)
        self._scope = scope
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._settled = threading.Event()
        self._ended = threading.Event()

    def start(self, count: int) -> None:
        """Set so many threads to work."""
        self._busy = count
        for number in range(count):
            context = contextvars.copy_context()
            # A thread that hangs in a foreign read must not keep the program from ending.
            thread = threading.Thread(
                target=context.run, args=(self._run,), name=f"registry-copy-{number}", daemon=True
            )
            try:
                thread.start()
            except BaseException:
                self._leave(count - number)
                raise
            self._threads.append(thread)

    def wait(self) -> None:
        """Until all is done, or the first error, or the end of the scope, which is raised."""
        with interruptible(self._settled.set):
            while not self._settled.is_set():
                self._settled.wait(remaining())
                if not self._settled.is_set():
                    checkpoint()
        if self.errors:
            raise self.errors[0]
        if not self._ended.is_set():
            checkpoint()
        self.join(None)

    def join(self, seconds: float | None) -> None:
        """Until the threads have ended, or some seconds have passed."""
        if self._ended.wait(seconds):
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        try:
            for part in iter(self._next, None):
                self._work(part)
        except BaseException as error:
            with self._lock:
                self.errors.append(error)
            self._scope.cancel(cause=error)
        finally:
            self._leave(1)

    def _next(self) -> _Item | None:
        with self._lock:
            return self._parts.popleft() if self._parts and not self.errors else None

    def _leave(self, count: int) -> None:
        with self._lock:
            self._busy -= count
            if self._busy == 0:
                self._ended.set()
        if self.errors or self._ended.is_set():
            self._settled.set()
