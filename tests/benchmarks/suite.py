"""One run of the benchmarks, from the images to the report."""

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
from tests.benchmarks.contestants import PATH_VARIABLE, Contestant, Kind, Stage, extra_directories, tools, version_of
from tests.benchmarks.images import IMAGES, write_archive, write_image
from tests.benchmarks.measuring import Failed, Resident, Sample, Samples, measure
from tests.benchmarks.registries import Registry, registry_program
from tests.benchmarks.report import Outcome, write_report

__all__ = ["command_of", "main", "parsed"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_TAGS: Final = 50_000
_QUICK_TAGS: Final = 2_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them; 1 if the library failed at some work, 2 if there is no registry."""
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
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Measure the library beside its peers and beside floors.",
        epilog=f"Peers are looked for on PATH and in the directories of {PATH_VARIABLE}.",
    )
    parser.add_argument("--quick", action="store_true", help="smaller images: shows that it works, not how fast")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="some works: pull,push big")
    parser.add_argument("--runs", type=int, default=5, help="how often each does each (default: 5)")
    parser.add_argument("--out", type=Path, default=_ROOT / "build" / "benchmarks", help="where the report goes")
    parser.add_argument("--scratch", type=Path, help="where to work, and keep the images (default: in memory)")
    return parser.parse_args(arguments)


def command_of(chosen: argparse.Namespace) -> str:
    """The command for the report, without what is only about this machine."""
    parts = ["python tests/benchmarks/run.py"]
    parts += ["--quick"] if chosen.quick else []
    parts += [f"--only '{','.join(chosen.only)}'"] if chosen.only else []
    return " ".join([*parts, f"--runs {chosen.runs}"])


def _is_wanted(case: Case, only: list[str]) -> bool:
    return not only or case.name in only or case.work in only


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
    """The images, made unless they are there already."""
    layouts = scratch / ("quick-layouts" if is_quick else "layouts")
    layouts.mkdir(exist_ok=True)
    names = {"tiny"}
    for case in wanted:
        names |= {case.name.partition(" ")[2] or case.work, "tree" if case.work == "extract" else "tiny"}
    for name in names & IMAGES.keys():
        if not (layouts / name).exists():
            shutil.rmtree(scratch / "unfinished", ignore_errors=True)
            _in_child(write_image, scratch / "unfinished", name, is_quick)
            (scratch / "unfinished").rename(layouts / name)
    archives_beside(layouts).mkdir(exist_ok=True)
    for name in {case.name.partition(" ")[2] for case in wanted if case.work == "import"}:
        if not (archive := archives_beside(layouts) / f"{name}.tar").exists():
            _in_child(write_archive, layouts / name, archive)
    return layouts


def _fill(source: Registry, layouts: Path, tag_count: int) -> None:
    for layout in sorted(layouts.iterdir()):
        source.load(layout, layout.name)
    source.tag_many(layouts / "tiny", "tags", tag_count)


def _in_child(work: Callable[..., None], *arguments: object) -> None:
    """Do something in a process of its own.

    What is started later counts the memory of who starts it as its own, so that has to stay small.
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
        raise SystemExit("the images could not be made")


class _Runner:
    """Runs cases, everybody in turn, each in a fresh place."""

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
            # Compiled once, as what is installed is, and not into the sources.
            "PYTHONPYCACHEPREFIX": str(room.parent / "compiled"),
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
            "HOME": str(room),
        }

    def run(self, case: Case) -> Outcome:
        """Everybody does it so many times, in turn."""
        outcome = Outcome(case)
        with ExitStack() as stack:
            residents = {
                contestant.name: stack.enter_context(
                    Resident(contestant.resident, self._room / "resident", self._environment)
                )
                for contestant in case.contestants
                if contestant.resident
            }
            for contestant in case.contestants:
                self._warm_up(case, contestant)
            for number in range(self._rounds):
                # Nobody is always behind the same neighbour's dirt.
                turn = number % len(case.contestants)
                for contestant in case.contestants[turn:] + case.contestants[:turn]:
                    if contestant.name in outcome.failures:
                        continue
                    try:
                        sample = self._once(case, contestant, residents.get(contestant.name))
                    except Failed as error:
                        outcome.failures[contestant.name] = str(error)
                        sys.stderr.write(f"{case.name}: {contestant.name} failed: {error}\n")
                    else:
                        outcome.samples.setdefault(contestant.name, Samples()).append(sample)
                sys.stderr.write(f"{case.name}: {number + 1} of {self._rounds}\n")
        return outcome

    def _warm_up(self, case: Case, contestant: Contestant) -> None:
        """Run everybody once for each work, unmeasured: Python compiles, and programs are read from disk."""
        key = (case.work, contestant.name)
        if not contestant.resident and key not in self._warm:
            self._warm.add(key)
            with contextlib.suppress(Failed):
                self._once(case, contestant, None)

    def _once(self, case: Case, contestant: Contestant, resident: Resident | None) -> Sample:
        self._count += 1
        fresh = (self._disk if case.on_disk else self._room) / f"fresh-{self._count}"
        with ExitStack() as stack:
            target = self._source
            if case.needs_target:
                target = stack.enter_context(Registry(self._found, self._room / f"target-{self._count}"))
            stack.callback(_remove, fresh)
            command = contestant.command(Stage(self._source, target, self._layouts, fresh))
            if resident is not None:
                return resident.measure(command)
            return measure(command, self._room / "said", self._environment)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
