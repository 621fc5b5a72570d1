"""What a program costs: seconds, seconds of CPU, and memory, of the whole process; and what many runs say together."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

__all__ = ["Failed", "Resident", "Sample", "Samples", "measure"]


class Failed(Exception):
    """A program did not do what it was asked."""


class Sample(NamedTuple):
    """One run.

    Attributes:
        wall: Seconds that passed.
        cpu: Seconds of CPU, by itself and for it in the system.
        memory: The most that was resident, in MiB.
    """

    wall: float
    cpu: float
    memory: float


class Samples(list[Sample]):
    """All runs of one contestant."""

    def median(self, measure: str) -> float:
        """The median of ``wall``, ``cpu`` or ``memory``."""
        return float(statistics.median(self._values(measure)))

    def span(self, measure: str) -> tuple[float, float]:
        """The least and the most."""
        values = self._values(measure)
        return min(values), max(values)

    def _values(self, measure: str) -> list[float]:
        return [getattr(sample, measure) for sample in self]


def measure(command: Sequence[str], log: Path, environment: dict[str, str]) -> Sample:
    """What one run of a program costs, its children included.

    Raises:
        Failed: It ends with anything but 0.
    """
    with log.open("wb") as said:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment, cwd=log.parent
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Failed(f"{Path(command[0]).name} ended with {process.returncode}: {_tail(log)}")
    return Sample(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


class Resident:
    """A program that is running already, as a library is that somebody's service uses.

    It takes arguments as a line of JSON, and answers with a line of JSON: wall, cpu, memory.

    Args:
        command: How to start it.
        log: Where it complains.
        environment: Of the process.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        self._log = log
        self._said = log.open("wb")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env=environment, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()
        self._said.close()

    def measure(self, arguments: Sequence[str]) -> Sample:
        """What it takes to do it once more.

        Raises:
            Failed: It ended instead.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(list(arguments)) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Failed(f"ended instead of doing its work: {_tail(self._log)}")
        return Sample(*json.loads(line))


def _tail(log: Path) -> str:
    return " ".join(log.read_text(errors="replace").split())[-400:]
