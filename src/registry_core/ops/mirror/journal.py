"""What became of everything that a mirror looked at, and where something went wrong."""

from __future__ import annotations

from collections.abc import Callable

from registry_core.errors import Cancelled, DeadlineExceeded, RegistryError
from registry_core.ops.transfer.nodes import Action, CopyReport, Node, NodeKind, Outcome, Result, Side
from registry_core.ports.repository import Repository

__all__ = ["Journal", "Record", "whole"]

Record = Callable[[Result], None]


class Journal:
    """Results, and the repositories of the target in which nothing may be removed since not all is well.

    Args:
        on_result: Told of each result.
        goes_on: Whether errors are taken in, rather than raised.
    """

    def __init__(self, on_result: Record | None = None, *, goes_on: bool) -> None:
        self._on_result = on_result
        self._goes_on = goes_on
        self._results: list[Result] = []
        self._spoilt: list[str] = []
        self._trees: list[str] = []
        self._judged: dict[str, bool] = {}

    def record(self, result: Result) -> None:
        """Take in what became of a node."""
        if result.outcome in (Outcome.FAILED, Outcome.NOT_DONE):
            self._spoilt.append(result.node.target)
            self._judged.clear()
        self._results.append(result)
        if self._on_result is not None:
            self._on_result(result)

    def fail(self, node: Node, error: RegistryError, blamed: Side) -> None:
        """Take in an error, or raise it.

        Raises:
            RegistryError: Errors are not taken in, or somebody cancelled the run.
        """
        if not self._goes_on or isinstance(error, Cancelled | DeadlineExceeded):
            raise error
        self.record(Result(node=node, outcome=Outcome.FAILED, error=error, blamed=blamed))

    def fail_listing(self, source: Repository, target: Repository, error: RegistryError) -> None:
        """Take in, or raise, that nobody knows what there is below a path.

        Raises:
            RegistryError: Errors are not taken in, or somebody cancelled the run.
        """
        self._trees.append(str(target))
        self.fail(whole(source, target), error, Side.SOURCE)

    def is_spoilt(self, target: Repository) -> bool:
        """Whether something went wrong in a repository of the target, or may have been missed there."""
        name = str(target)
        if name not in self._judged:
            below = any(not tree or name == tree or name.startswith(f"{tree}/") for tree in self._trees)
            self._judged[name] = below or any(
                about == name or about.startswith((f"{name}@", f"{name}:")) for about in self._spoilt
            )
        return self._judged[name]

    def report(self) -> CopyReport:
        """All of it."""
        return CopyReport(results=tuple(self._results))


def whole(source: Repository, target: Repository) -> Node:
    """A repository that could not be looked at."""
    return Node(
        kind=NodeKind.TAG,
        action=Action.MOVE,
        digest=None,
        size=0,
        media_type="",
        source=str(source),
        target=str(target),
    )
