"""A benchmark run, from the images to the report."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.benchmarks.case import Case, archives_beside
from tests.benchmarks.cases import WANTED, cases
from tests.benchmarks.images import IMAGES, write_archive, write_image
from tests.benchmarks.implementations import (
    PATH_VARIABLE,
    Implementation,
    Kind,
    RunContext,
    extra_directories,
    tools,
    version_of,
)
from tests.benchmarks.measuring import Failed, PersistentProcess, Sample, Samples, measure
from tests.benchmarks.registries import Registry, registry_program
from tests.benchmarks.report import Outcome, write_report

__all__ = ["command_of", "main", "parsed"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_TAGS: Final = 50_000
_QUICK_TAGS: Final = 2_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases; return 1 if ociport failed in one, 2 if no registry program is installed."""
    chosen = parsed(arguments)
    found = registry_program(extra_directories())
    if found is None:
        sys.stderr.write("docker-registry is missing: apt-get install docker-registry\n")
        return 2
    is_quick: bool = chosen.quick
    tag_count = _QUICK_TAGS if is_quick else _TAGS
    wanted = [case for case in cases(tools(WANTED), tag_count) if _is_wanted(case, chosen.only)]
    with (
        _scratch(chosen.scratch) as scratch,
        tempfile.TemporaryDirectory(prefix="benchmarks-") as disk,
        ExitStack() as stack,
    ):
        layouts = _layouts(scratch, wanted, is_quick=is_quick)
        source = stack.enter_context(Registry(found, scratch / "source"))
        _in_child(_fill, source, layouts, tag_count)
        runner = _Runner(found, source, layouts, scratch / "runs", Path(disk), rounds=chosen.runs)
        outcomes = [runner.run(case) for case in wanted]
    write_report(
        outcomes,
        chosen.out,
        command=command_of(chosen),
        runs=chosen.runs,
        is_quick=is_quick,
        server=f"distribution {version_of(Path(found))}".strip(),
    )
    return int(any(outcome.failed(Kind.OURS) for outcome in outcomes))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Compare the library with other tools and with baselines.",
        epilog=f"Other tools are searched on PATH and in the directories of {PATH_VARIABLE}.",
    )
    parser.add_argument("--quick", action="store_true", help="small images: a functional check, not a measurement")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="selected cases: pull,push big")
    parser.add_argument("--in-place", action="store_true", help="measure the source tree instead of a built wheel")
    parser.add_argument("--runs", type=int, default=5, help="number of runs (default: 5)")
    parser.add_argument("--out", type=Path, default=_ROOT / "build" / "benchmarks", help="directory for the report")
    parser.add_argument(
        "--scratch", type=Path, help="directory for images and runs; images are kept (default: in memory)"
    )
    return parser.parse_args(arguments)


def command_of(chosen: argparse.Namespace) -> str:
    """The command for the report, without options that depend on this machine."""
    parts = ["python tests/benchmarks/run.py"]
    parts += ["--quick"] if chosen.quick else []
    parts += [f"--only '{','.join(chosen.only)}'"] if chosen.only else []
    return " ".join([*parts, f"--runs {chosen.runs}"])


def _is_wanted(case: Case, only: list[str]) -> bool:
    return not only or case.name in only or case.operation in only


@contextmanager
def _scratch(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        chosen.mkdir(parents=True, exist_ok=True)
        for left in ("source", "runs"):
            shutil.rmtree(chosen / left, ignore_errors=True)
        yield chosen.resolve()
        return
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=memory if memory.is_dir() else None) as directory:
        yield Path(directory)


def _layouts(scratch: Path, wanted: list[Case], *, is_quick: bool) -> Path:
    """The layouts of the images; missing ones are created."""
    layouts = scratch / ("quick-layouts" if is_quick else "layouts")
    layouts.mkdir(exist_ok=True)
    names = {"tiny"}
    for case in wanted:
        names |= {case.name.partition(" ")[2] or case.operation, "tree" if case.operation == "extract" else "tiny"}
    for name in names & IMAGES.keys():
        if not (layouts / name).exists():
            shutil.rmtree(scratch / "unfinished", ignore_errors=True)
            _in_child(write_image, scratch / "unfinished", name, is_quick)
            (scratch / "unfinished").rename(layouts / name)
    archives_beside(layouts).mkdir(exist_ok=True)
    for name in {case.name.partition(" ")[2] for case in wanted if case.operation == "import"}:
        if not (archive := archives_beside(layouts) / f"{name}.tar").exists():
            _in_child(write_archive, layouts / name, archive)
    return layouts


def _fill(source: Registry, layouts: Path, tag_count: int) -> None:
    for layout in sorted(layouts.iterdir()):
        source.load(layout, layout.name)
    source.tag_many(layouts / "tiny", "tags", tag_count)


def _in_child(work: Callable[..., None], *arguments: object) -> None:
    """Call a function in a child process.

    A measured program counts the memory of the process that starts it, so this process must stay small.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    if ended:
        raise SystemExit("creating the images failed")


class _Runner:
    """Runs cases, alternating between implementations, each run in a new directory."""

    def __init__(self, found: str, source: Registry, layouts: Path, room: Path, disk: Path, *, rounds: int) -> None:
        self._found = found
        self._source = source
        self._layouts = layouts
        self._room = room
        self._disk = disk
        self._rounds = rounds
        self._count = 0
        room.mkdir(exist_ok=True)
        self._warm: set[tuple[str, ...]] = set()
        foreign = ("OTEL_", "REGISTRY_", "PYTHON")
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(foreign)},
            # The library is compiled where it is installed; nothing is written into the source tree.
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join(path for path in (str(_ROOT), os.environ.get("PYTHONPATH")) if path),
            "HOME": str(room),
        }

    def run(self, case: Case) -> Outcome:
        """Run all implementations of a case, alternating."""
        outcome = Outcome(case)
        with ExitStack() as stack:
            processes = {
                implementation.name: stack.enter_context(
                    PersistentProcess(implementation.persistent, self._room / "persistent", self._environment)
                )
                for implementation in case.implementations
                if implementation.persistent
            }
            for implementation in case.implementations:
                self._warm_up(case, implementation)
            for number in range(self._rounds):
                # Rotated, so that no implementation always runs after the same one.
                turn = number % len(case.implementations)
                for implementation in case.implementations[turn:] + case.implementations[:turn]:
                    if implementation.name in outcome.failures:
                        continue
                    try:
                        sample = self._once(case, implementation, processes.get(implementation.name))
                    except Failed as error:
                        outcome.failures[implementation.name] = str(error)
                        sys.stderr.write(f"{case.name}: {implementation.name} failed: {error}\n")
                    else:
                        outcome.samples.setdefault(implementation.name, Samples()).append(sample)
                sys.stderr.write(f"{case.name}: run {number + 1} of {self._rounds}\n")
        return outcome

    def _warm_up(self, case: Case, implementation: Implementation) -> None:
        """Run each implementation once, unmeasured: Python compiles, and programs are read from disk."""
        key = (case.operation, implementation.name)
        if not implementation.persistent and key not in self._warm:
            self._warm.add(key)
            with contextlib.suppress(Failed):
                self._once(case, implementation, None)

    def _once(self, case: Case, implementation: Implementation, persistent: PersistentProcess | None) -> Sample:
        self._count += 1
        fresh = (self._disk if case.on_disk else self._room) / f"fresh-{self._count}"
        with ExitStack() as stack:
            target = self._source
            if case.needs_target:
                target = stack.enter_context(Registry(self._found, self._room / f"target-{self._count}"))
            stack.callback(_remove, fresh)
            command = implementation.command(RunContext(self._source, target, self._layouts, fresh))
            if persistent is not None:
                return persistent.measure(command)
            return measure(command, self._room / "output", self._environment)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
