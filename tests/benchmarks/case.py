"""One work that is measured, and how those who do it are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.contestants import Contestant, Kind, Stage, Tool
from tests.benchmarks.images import TAG

__all__ = ["Case", "archive_of", "archives_beside", "at", "each", "layout_of", "regctl_hosts"]


class Case(NamedTuple):
    """One work.

    Attributes:
        name: As ``--only`` has it, with its image: ``pull big``.
        title: What is done, for the report.
        contestants: Who does it.
        needs_target: Whether each run has an empty registry.
        on_disk: Whether what is made is made on a disk, and not in memory.
    """

    name: str
    title: str
    contestants: list[Contestant]
    needs_target: bool = False
    on_disk: bool = False

    @property
    def work(self) -> str:
        """The name without the image."""
        return self.name.partition(" ")[0]


def each(
    found: dict[str, list[Tool]], tool: str, command: Callable[[Stage, str], list[str]], *, floor: str = ""
) -> list[Contestant]:
    """All versions of a tool that are here; the command is told its path. As a floor, it has that name instead."""
    kind = Kind.FLOOR if floor else Kind.PEER
    return [Contestant(floor or entry.name, tool, kind, _bound(command, entry.path)) for entry in found.get(tool, [])]


def _bound(command: Callable[[Stage, str], list[str]], path: str) -> Callable[[Stage], list[str]]:
    return lambda stage: command(stage, path)


def layout_of(stage: Stage, image: str) -> str:
    """Where an image lies."""
    return str(stage.layouts / image)


def archive_of(stage: Stage, image: str) -> str:
    """Where the same image lies as a tar of its layout."""
    return str(archives_beside(stage.layouts) / f"{image}.tar")


def archives_beside(layouts: Path) -> Path:
    """Where the tars of layouts are."""
    return layouts.with_name(f"{layouts.name}-in-tars")


def at(host: str, image: str) -> str:
    """An image of a registry, as programs want it."""
    return f"{host}/{image}:{TAG}"


def regctl_hosts(*hosts: str) -> list[str]:
    """How regctl is told that these registries speak plain HTTP."""
    return [part for host in hosts for part in ("--host", f"reg={host},tls=disabled")]
