"""Implementations to measure: the library, the other tools on this machine, and baselines."""

from __future__ import annotations

import enum
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from tests.benchmarks.registries import Registry

__all__ = [
    "PATH_VARIABLE",
    "Implementation",
    "Kind",
    "RunContext",
    "Tool",
    "baseline",
    "extra_directories",
    "library",
    "ours",
    "persistent",
    "program",
    "tools",
    "version_of",
]

PATH_VARIABLE: Final = "OCIPORT_BENCH_PATH"
_PROGRAMS: Final = Path(__file__).parent / "programs"
# Not the version of the Go compiler.
_VERSION: Final = re.compile(r"(?<![\w.])v?(\d+\.\d+(?:\.\d+)?)")


class Kind(enum.Enum):
    """The role of an implementation."""

    OURS = "ours"
    PEER = "peer"
    BASELINE = "baseline"


class RunContext(NamedTuple):
    """The inputs of one run.

    Attributes:
        source: Registry with the images.
        target: Empty registry, or the source if the case needs none.
        layouts: Directory of the layouts.
        fresh: Path that does not exist yet.
    """

    source: Registry
    target: Registry
    layouts: Path
    fresh: Path


class Implementation(NamedTuple):
    """A program to measure.

    Attributes:
        name: Name in the tables.
        tool: Name in the targets.
        kind: Its role.
        command: Command to run; for a persistent process, the arguments to send.
        persistent: Command that starts the persistent process, if it is one.
    """

    name: str
    tool: str
    kind: Kind
    command: Callable[[RunContext], list[str]]
    persistent: tuple[str, ...] = ()


class Tool(NamedTuple):
    """A program of another tool on this machine."""

    tool: str
    name: str
    path: str


def tools(wanted: Iterable[str]) -> dict[str, list[Tool]]:
    """The installed programs by tool, the newest version first.

    A directory in ``OCIPORT_BENCH_PATH`` may have several versions: ``skopeo`` and ``skopeo122``.
    """
    extra = extra_directories()
    found: dict[str, list[Tool]] = {}
    for tool in wanted:
        paths = [path for directory in extra for path in sorted(directory.glob(f"{tool}*")) if os.access(path, os.X_OK)]
        paths += [Path(path) for path in [shutil.which(tool)] if path is not None]
        versions = {path.resolve(): version_of(path) for path in paths}
        ranked = sorted(versions.items(), key=lambda item: [int(part) for part in item[1].split(".") if part])
        found[tool] = [Tool(tool, f"{tool} {version}".strip(), str(path)) for path, version in reversed(ranked)]
    return found


def extra_directories() -> list[Path]:
    """Directories to search in addition to ``PATH``."""
    return [Path(entry) for entry in os.environ.get(PATH_VARIABLE, "").split(os.pathsep) if entry]


def version_of(path: Path) -> str:
    """The version that a program reports; empty if it reports none."""
    for argument in ("--version", "version"):
        said = subprocess.run([path, argument], capture_output=True, text=True, check=False)
        if said.returncode == 0 and (match := _VERSION.search(said.stdout)):
            return match[1]
    return ""


def program(name: str) -> tuple[str, ...]:
    """The command of a program in ``programs``."""
    return (sys.executable, str(_PROGRAMS / f"{name}.py"))


def _is_importable(name: str) -> bool:
    """Return whether a library is installed."""
    return importlib.util.find_spec(name) is not None


def ours(
    operation: str,
    arguments: Callable[[RunContext], list[str]],
    *,
    note: str = "",
    tool: str = "ociport",
    options: str = "",
) -> Implementation:
    """ociport in a new process.

    Args:
        operation: Operation in ``programs/ours.py``.
        arguments: Arguments of the operation.
        note: Addition to the name.
        tool: Name in the targets.
        options: Operation that wraps the operation.
    """
    name = f"ociport, {note}" if note else "ociport"
    before = [options] if options else []
    return Implementation(
        name, tool, Kind.OURS, lambda context: [*program("ours"), *before, operation, *arguments(context)]
    )


def persistent(
    file: str, operation: str, kind: Kind, name: str, arguments: Callable[[RunContext], list[str]]
) -> Implementation:
    """A library in a persistent process."""
    tool = f"{name}, in process"
    return Implementation(
        tool, tool, kind, lambda context: [operation, *arguments(context)], persistent=(*program(file), "--persistent")
    )


def library(package: str, name: str, file: str, command: Callable[[RunContext], list[str]]) -> list[Implementation]:
    """Another library in a new process, if it is installed."""
    if not _is_importable(package):
        return []
    return [Implementation(name, name, Kind.PEER, lambda context: [*program(file), *command(context)])]


def baseline(name: str, command: Callable[[RunContext], list[str]]) -> Implementation:
    """A lower bound of the cost: a small program of ours, or a system tool."""
    return Implementation(name, name, Kind.BASELINE, command)
