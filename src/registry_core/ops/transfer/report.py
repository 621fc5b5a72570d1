"""What a transfer does to each thing: before, as a plan, and afterwards, as a report.

Two repositories, and which of them is to blame.
"""

from __future__ import annotations

import enum
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from registry_core.domain.digest import Digest
from registry_core.errors import IntegrityError, RegistryError
from registry_core.ports.catalog import Repository

__all__ = [
    "Action",
    "CopyReport",
    "ErrorAttribution",
    "Node",
    "NodeKind",
    "Outcome",
    "Result",
    "Side",
    "SourceAndTarget",
]


class NodeKind(enum.Enum):
    """What is moved."""

    BLOB = "blob"
    MANIFEST = "manifest"
    TAG = "tag"


class Action(enum.Enum):
    """What a plan says of a node."""

    MOVE = "move"
    """Its bytes go through this program."""

    MOUNT = "mount"
    """The target takes it over from another of its repositories; if it will not, it is moved."""

    SKIP = "skip"
    """The target has it."""

    TAG = "tag"
    """The tag will point at it."""

    KEEP = "keep"
    """The tag stands for something else, and nobody allowed to change that."""

    DELETE = "delete"
    """The tag will be removed."""


class Outcome(enum.Enum):
    """What became of a node."""

    MOVED = "moved"
    MOUNTED = "mounted"
    SKIPPED = "skipped"
    TAGGED = "tagged"
    KEPT = "kept"
    DELETED = "deleted"
    FAILED = "failed"
    NOT_DONE = "not done"
    """Something that it needs failed, or the run ended before its turn."""


class Side(enum.Enum):
    """Who is to blame for an error."""

    SOURCE = "source"
    TARGET = "target"


class Node(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One thing that a transfer looks at.

    Args:
        kind: What it is.
        action: What is to be done.
        digest: Of the content; of a tag, of what it is to stand for; ``None`` where that could not be found out.
        size: Of the content, in bytes.
        media_type: Of the content.
        source: Where it is read: a reference as errors have it, ``registry/repository@digest`` or with a tag.
        target: Where it goes, likewise.
    """

    kind: NodeKind
    action: Action
    digest: Digest | None
    size: int
    media_type: str
    source: str
    target: str

    def __str__(self) -> str:
        """As one line."""
        return f"{self.action.value:6} {self.kind.value:8} {self.size:>14} {self.target}"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one node.

    Args:
        node: Which one.
        outcome: What became of it.
        error: Why it failed, if it did.
        failed_side: Whose fault that was, where one can tell.
    """

    node: Node
    outcome: Outcome
    error: RegistryError | None = None
    failed_side: Side | None = None

    def __str__(self) -> str:
        """As one line."""
        line = f"{self.outcome.value:8} {self.node.kind.value:8} {self.node.size:>14} {self.node.target}"
        return line if self.error is None else f"{line}: {self.error}"


class CopyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of everything that a transfer looked at.

    Args:
        results: Each node once, in the order in which they were done.
    """

    results: tuple[Result, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing failed, and nothing was left undone."""
        return all(result.outcome not in (Outcome.FAILED, Outcome.NOT_DONE) for result in self.results)

    @property
    def failed(self) -> tuple[Result, ...]:
        """What failed, with the error of each."""
        return tuple(result for result in self.results if result.outcome is Outcome.FAILED)

    @property
    def bytes_moved(self) -> int:
        """How many bytes went through this program: blobs and manifests."""
        return self._bytes(Outcome.MOVED)

    @property
    def bytes_mounted(self) -> int:
        """How many bytes the target took over by itself."""
        return self._bytes(Outcome.MOUNTED)

    @property
    def counts(self) -> dict[Outcome, int]:
        """How many nodes ended how."""
        return dict(Counter(result.outcome for result in self.results))

    def raise_first(self) -> None:
        """Raise the first error, if there is one.

        Raises:
            RegistryError: What failed first.
        """
        for result in self.results:
            if result.error is not None:
                raise result.error

    def __str__(self) -> str:
        """A summary, and a line for each that failed or was not done."""
        counts = ", ".join(f"{count} {outcome.value}" for outcome, count in self.counts.items()) or "nothing to do"
        wrong = (result for result in self.results if result.outcome in (Outcome.FAILED, Outcome.NOT_DONE))
        return "\n".join((f"{counts}; {self.bytes_moved} bytes moved", *map(str, wrong)))

    def _bytes(self, outcome: Outcome) -> int:
        return sum(
            result.node.size
            for result in self.results
            if result.outcome is outcome and result.node.kind is not NodeKind.TAG
        )


class SourceAndTarget(msgspec.Struct, frozen=True, eq=False):
    """Where a graph is read and where it is written."""

    source: Repository
    target: Repository


class ErrorAttribution:
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
