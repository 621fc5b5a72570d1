"""Two repositories, and which of them is to blame."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from registry_core.errors import IntegrityError, RegistryError
from registry_core.ops.transfer.nodes import Side
from registry_core.ports.repository import Repository

__all__ = ["Blame", "Pair"]


class Pair(msgspec.Struct, frozen=True, eq=False):
    """Where a graph is read and where it is written."""

    source: Repository
    target: Repository


class Blame:
    """Names operation, reference and side of each error that passes, where nobody nearer to it has.

    Args:
        operation: The operation's public name.
    """

    def __init__(self, operation: str) -> None:
        self._operation = operation
        self._sides: weakref.WeakKeyDictionary[RegistryError, Side] = weakref.WeakKeyDictionary()

    def of(self, error: RegistryError) -> Side | None:
        """Whose fault an error is, if that is known."""
        return self._sides.get(error)

    @contextmanager
    def source(self, reference: str) -> Iterator[None]:
        """What is done here is done to the source."""
        try:
            yield
        except RegistryError as error:
            self._name(error, Side.SOURCE, reference)
            raise

    @contextmanager
    def target(self, reference: str) -> Iterator[None]:
        """What is done here is done to the target."""
        try:
            yield
        except RegistryError as error:
            self._name(error, Side.TARGET, reference)
            raise

    @contextmanager
    def storing(self, origin: str) -> Iterator[None]:
        """A store takes content from the source: what it refuses as wrong is what the source sent."""
        try:
            yield
        except IntegrityError as error:
            # What a server refuses may be its own fault.
            if error.transport is None and error not in self._sides:
                error.reference, error.operation = origin, self._operation
                self._sides[error] = Side.SOURCE
            raise

    def _name(self, error: RegistryError, side: Side, reference: str) -> None:
        error.operation = error.operation or self._operation
        error.reference = error.reference or reference
        self._sides.setdefault(error, side)
