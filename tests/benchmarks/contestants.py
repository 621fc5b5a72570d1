"""Who takes part: the library, whichever of its peers are on this machine, and floors."""

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
    "Contestant",
    "Kind",
    "Stage",
    "Tool",
    "extra_directories",
    "floor",
    "library",
    "ours",
    "program",
    "resident",
    "tools",
    "version_of",
]

PATH_VARIABLE: Final = "OCIPORT_BENCH_PATH"
_PROGRAMS: Final = Path(__file__).parent / "programs"
# Not the one of the Go that it was built with.
_VERSION: Final = re.compile(r"(?<![\w.])v?(\d+\.\d+(?:\.\d+)?)")


class Kind(enum.Enum):
    """What somebody takes part as."""

    OURS = "ours"
    PEER = "peer"
    FLOOR = "floor"


class Stage(NamedTuple):
    """What one run has to itself.

    Attributes:
        source: The registry that has the images.
        target: An empty one, or the other one again where the work needs none.
        layouts: Where the images lie as layouts.
        fresh: A path where nothing is yet.
    """

    source: Registry
    target: Registry
    layouts: Path
    fresh: Path


class Contestant(NamedTuple):
    """One column of a comparison.

    Attributes:
        name: As the tables have it.
        tool: As the targets have it.
        kind: What it takes part as.
        command: What to run; for a resident, what to tell it.
        resident: What to start once, if it is one.
    """

    name: str
    tool: str
    kind: Kind
    command: Callable[[Stage], list[str]]
    resident: tuple[str, ...] = ()


class Tool(NamedTuple):
    """A peer's program on this machine."""

    tool: str
    name: str
    path: str


def tools(wanted: Iterable[str]) -> dict[str, list[Tool]]:
    """The programs that are here by their tool's name, each with its versions, the newest first.

    A directory of the variable ``OCIPORT_BENCH_PATH`` may have several versions: ``skopeo`` and ``skopeo122``.
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
    """Where else programs are looked for."""
    return [Path(entry) for entry in os.environ.get(PATH_VARIABLE, "").split(os.pathsep) if entry]


def version_of(path: Path) -> str:
    """What a program says its version is; empty where it does not say."""
    for argument in ("--version", "version"):
        said = subprocess.run([path, argument], capture_output=True, text=True, check=False)
        if said.returncode == 0 and (match := _VERSION.search(said.stdout)):
            return match[1]
    return ""


def program(name: str) -> tuple[str, ...]:
    """How one of our small programs is started."""
    return (sys.executable, str(_PROGRAMS / f"{name}.py"))


def _is_importable(name: str) -> bool:
    """Whether a peer that is a library is here."""
    return importlib.util.find_spec(name) is not None


def ours(
    work: str, arguments: Callable[[Stage], list[str]], *, note: str = "", tool: str = "ociport", options: str = ""
) -> Contestant:
    """The library, as a process of its own.

    Args:
        work: Which.
        arguments: For the work.
        note: What is special about it.
        tool: As the targets have it.
        options: A work that does the work in a special way.
    """
    name = f"ociport, {note}" if note else "ociport"
    before = [options] if options else []
    return Contestant(name, tool, Kind.OURS, lambda stage: [*program("ours"), *before, work, *arguments(stage)])


def resident(file: str, work: str, kind: Kind, name: str, arguments: Callable[[Stage], list[str]]) -> Contestant:
    """A library inside a process that is running already."""
    tool = f"{name}, in process"
    return Contestant(
        tool, tool, kind, lambda stage: [work, *arguments(stage)], resident=(*program(file), "--resident")
    )


def library(package: str, name: str, file: str, command: Callable[[Stage], list[str]]) -> list[Contestant]:
    """A peer that is a library, as a process of its own, if it is here."""
    if not _is_importable(package):
        return []
    return [Contestant(name, name, Kind.PEER, lambda stage: [*program(file), *command(stage)])]


def floor(name: str, command: Callable[[Stage], list[str]]) -> Contestant:
    """The least that it takes, by one of our own small programs or by a tool of the system."""
    return Contestant(name, name, Kind.FLOOR, command)
