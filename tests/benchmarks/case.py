"""A benchmark case, and helpers for the commands of its implementations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.images import TAG
from tests.benchmarks.implementations import Implementation, Kind, RunContext, Tool

__all__ = ["Case", "archive_of", "archives_beside", "at", "each", "layout_of", "regctl_hosts"]


class Case(NamedTuple):
    """One measured operation.

    Attributes:
        name: Name for ``--only``, with the image: ``pull big``.
        title: Title in the report.
        implementations: Implementations to measure.
        needs_target: Whether each run needs an empty registry.
        on_disk: Whether the result is written to a disk, not to memory.
    """

    name: str
    title: str
    implementations: list[Implementation]
    needs_target: bool = False
    on_disk: bool = False

    @property
    def operation(self) -> str:
        """The name without the image."""
        return self.name.partition(" ")[0]


def each(
    found: dict[str, list[Tool]], tool: str, command: Callable[[RunContext, str], list[str]], *, baseline: str = ""
) -> list[Implementation]:
    """One implementation per installed version of a tool; ``command`` gets its path, ``baseline`` replaces its name."""
    kind = Kind.BASELINE if baseline else Kind.PEER
    return [
        Implementation(baseline or entry.name, tool, kind, _bound(command, entry.path)) for entry in found.get(tool, [])
    ]


def _bound(command: Callable[[RunContext, str], list[str]], path: str) -> Callable[[RunContext], list[str]]:
    return lambda context: command(context, path)


def layout_of(context: RunContext, image: str) -> str:
    """The layout of an image."""
    return str(context.layouts / image)


def archive_of(context: RunContext, image: str) -> str:
    """The same image as a tar of its layout."""
    return str(archives_beside(context.layouts) / f"{image}.tar")


def archives_beside(layouts: Path) -> Path:
    """The directory of the tars of layouts."""
    return layouts.with_name(f"{layouts.name}-in-tars")


def at(host: str, image: str) -> str:
    """The reference of an image in a registry."""
    return f"{host}/{image}:{TAG}"


def regctl_hosts(*hosts: str) -> list[str]:
    """Options of regctl for registries without TLS."""
    return [part for host in hosts for part in ("--host", f"reg={host},tls=disabled")]
