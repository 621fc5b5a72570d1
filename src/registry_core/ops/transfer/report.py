"""Plans and reports of transfers: nodes, actions, outcomes, and the side that an error came from."""

from __future__ import annotations

import enum
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from registry_core.domain.digest import Digest
from registry_core.errors import IntegrityError, RegistryError

__all__ = ["Action", "CopyReport", "ErrorAttribution", "Node", "NodeKind", "Outcome", "Result", "Side"]


class NodeKind(enum.Enum):
    """Kind of a node."""

    BLOB = "blob"
    MANIFEST = "manifest"
    TAG = "tag"


class Outcome(enum.Enum):
    """How a node ended."""

    MOVED = "moved"
    MOUNTED = "mounted"
    SKIPPED = "skipped"
    TAGGED = "tagged"
    KEPT = "kept"
    DELETED = "deleted"
    LEFT_OUT = "left out"
    """Not copied, because the source lists it, but does not serve it; only attestations."""

    FAILED = "failed"
    NOT_DONE = "not done"
    """Not attempted: a node that it needs failed, or the run ended first."""


class Action(enum.Enum):
    """The planned action for a node."""

    MOVE = "move"
    """Read it from the source and write it to the target."""

    MOUNT = "mount"
    """Ask the target to mount it from another of its repositories; move it if the target declines."""

    SKIP = "skip"
    """Nothing: the target has it."""

    TAG = "tag"
    """Point the tag at the manifest."""

    KEEP = "keep"
    """Nothing: the tag points at another manifest and may not be moved."""

    DELETE = "delete"
    """Remove the tag."""

    LEAVE_OUT = "leave out"
    """Nothing: the source lists it, but does not serve it; only attestations."""

    @property
    def outcome(self) -> Outcome:
        """Outcome of the action if it succeeds."""
        return _OUTCOMES[self]


_OUTCOMES = {
    Action.MOVE: Outcome.MOVED,
    Action.MOUNT: Outcome.MOUNTED,
    Action.SKIP: Outcome.SKIPPED,
    Action.TAG: Outcome.TAGGED,
    Action.KEEP: Outcome.KEPT,
    Action.DELETE: Outcome.DELETED,
    Action.LEAVE_OUT: Outcome.LEFT_OUT,
}


class Side(enum.Enum):
    """Side of a transfer that an error came from."""

    SOURCE = "source"
    TARGET = "target"


class Node(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A blob, manifest or tag in a transfer.

    Args:
        kind: Kind of the node.
        action: Planned action.
        digest: Digest of the content; for a tag, of the manifest it is to point at; ``None`` if it is not known.
        size: Size of the content in bytes.
        media_type: Media type of the content.
        source: Where it is read: ``registry/repository@digest`` or ``registry/repository:tag``.
        target: Where it is written, in the same form.
        note: What the copy lacks, if anything: the node was left out, or is of an unknown kind.
    """

    kind: NodeKind
    action: Action
    digest: Digest | None
    size: int
    media_type: str
    source: str
    target: str
    note: str = ""

    def __str__(self) -> str:
        """Format the node as one line."""
        line = f"{self.action.value:6} {self.kind.value:8} {self.size:>14} {self.target}"
        return f"{line}: {self.note}" if self.note else line


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How one node ended.

    Args:
        node: The node.
        outcome: How it ended.
        error: The error, if it failed.
        failed_side: Side that the error came from, if that is known.
    """

    node: Node
    outcome: Outcome
    error: RegistryError | None = None
    failed_side: Side | None = None

    @property
    def is_failure(self) -> bool:
        """Whether the node failed or was not attempted."""
        return self.outcome in (Outcome.FAILED, Outcome.NOT_DONE)

    def __str__(self) -> str:
        """Format the result as one line."""
        line = f"{self.outcome.value:8} {self.node.kind.value:8} {self.node.size:>14} {self.node.target}"
        reason = self.node.note if self.error is None else str(self.error)
        return f"{line}: {reason}" if reason else line


class CopyReport(msgspec.Struct, frozen=True, kw_only=True):
    """Results of a transfer.

    Args:
        results: One result for each node, in the order in which the nodes ended.
    """

    results: tuple[Result, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no node failed, and all were attempted. There may be warnings."""
        return not any(result.is_failure for result in self.results)

    @property
    def warnings(self) -> tuple[Result, ...]:
        """The results of nodes with a note: attestations that are missing, unknown kinds, names that are lost."""
        return tuple(result for result in self.results if result.node.note and not result.is_failure)

    @property
    def failed(self) -> tuple[Result, ...]:
        """The results of nodes that failed, each with its error."""
        return tuple(result for result in self.results if result.outcome is Outcome.FAILED)

    @property
    def bytes_moved(self) -> int:
        """Size of the blobs and manifests that were read from the source and written to the target."""
        return self._bytes(Outcome.MOVED)

    @property
    def bytes_mounted(self) -> int:
        """Size of the blobs that the target mounted from other repositories."""
        return self._bytes(Outcome.MOUNTED)

    @property
    def counts(self) -> dict[Outcome, int]:
        """Number of nodes by outcome."""
        return dict(Counter(result.outcome for result in self.results))

    def raise_first(self) -> None:
        """Raise the first error of the report, if there is one.

        Raises:
            RegistryError: Error of the node that failed first.
        """
        for result in self.results:
            if result.error is not None:
                raise result.error

    def __str__(self) -> str:
        """Format a summary, and one line for each node that failed, was not attempted or has a note."""
        counts = ", ".join(f"{count} {outcome.value}" for outcome, count in self.counts.items()) or "nothing to do"
        failures = (result for result in self.results if result.is_failure or result.node.note)
        return "\n".join((f"{counts}; {self.bytes_moved} bytes moved", *map(str, failures)))

    def _bytes(self, outcome: Outcome) -> int:
        return sum(
            result.node.size
            for result in self.results
            if result.outcome is outcome and result.node.kind is not NodeKind.TAG
        )


class ErrorAttribution:
    """Attach operation, reference and failed side to errors that do not have them yet.

    Args:
        operation: Public name of the operation.
    """

    def __init__(self, operation: str) -> None:
        self._operation = operation
        self._sides: weakref.WeakKeyDictionary[RegistryError, Side] = weakref.WeakKeyDictionary()

    def side_of(self, error: RegistryError) -> Side | None:
        """Return the side that an error came from; ``None`` if it is not known."""
        return self._sides.get(error)

    @contextmanager
    def source(self, reference: str) -> Iterator[None]:
        """Attribute errors raised inside to the source."""
        try:
            yield
        except RegistryError as error:
            self._attribute(error, Side.SOURCE, reference)
            raise

    @contextmanager
    def target(self, reference: str) -> Iterator[None]:
        """Attribute errors raised inside to the target."""
        try:
            yield
        except RegistryError as error:
            self._attribute(error, Side.TARGET, reference)
            raise

    @contextmanager
    def storing(self, reference: str) -> Iterator[None]:
        """Attribute content that the target rejects as corrupt to the source, which sent it.

        Args:
            reference: Content in the source.
        """
        try:
            yield
        except IntegrityError as error:
            # An error with a response is the target's own judgement, and may be its own fault.
            if error.transport is None and error not in self._sides:
                error.reference, error.operation = reference, self._operation
                self._sides[error] = Side.SOURCE
            raise

    def _attribute(self, error: RegistryError, side: Side, reference: str) -> None:
        error.operation = error.operation or self._operation
        error.reference = error.reference or reference
        self._sides.setdefault(error, side)
