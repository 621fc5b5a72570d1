"""Threads that work together and stop together."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from registry_core.scope import CancelScope

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["Workers"]

_Item = TypeVar("_Item")


class Workers:
    """Threads that work in the context of whoever asks; the first error ends the work of all.

    Args:
        jobs: How many work at a time; a single one is the caller itself.
        scope: Entered by the caller; cancelled at the first error.
    """

    def __init__(self, jobs: int, scope: CancelScope) -> None:
        self._jobs = jobs
        self._scope = scope
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def each(self, work: Callable[[_Item], None], parts: Iterable[_Item]) -> None:
        """Do some work for each part, in this order as far as one can tell.

        Raises:
            RegistryError: The first error of any; the others have been cancelled and have ended.
        """
        parts = list(parts)
        if self._jobs == 1 or len(parts) < 2:
            for part in parts:
                work(part)
            return
        from concurrent.futures import Future, as_completed

        pool = self._threads()
        futures: list[Future[Any]] = [pool.submit(contextvars.copy_context().run, work, part) for part in parts]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            self._scope.cancel()
            for future in futures:
                future.cancel()
            raise

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(self._jobs, thread_name_prefix="registry-copy")
        return self._pool
