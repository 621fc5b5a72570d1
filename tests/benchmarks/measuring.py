"""The cost of a process (seconds, CPU seconds, memory), and statistics of several runs."""

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

__all__ = ["Failed", "PersistentProcess", "Sample", "Samples", "measure"]


class Failed(Exception):
    """A program failed."""


class Sample(NamedTuple):
    """One run.

    Attributes:
        wall: Elapsed seconds.
        cpu: CPU seconds, user and system.
        memory: Peak resident memory in MiB.
    """

    wall: float
    cpu: float
    memory: float


class Samples(list[Sample]):
    """The runs of one implementation."""

    def median(self, measure: str) -> float:
        """The median of ``wall``, ``cpu`` or ``memory``."""
        return float(statistics.median(self._values(measure)))

    def span(self, measure: str) -> tuple[float, float]:
        """The minimum and the maximum."""
        values = self._values(measure)
        return min(values), max(values)

    def _values(self, measure: str) -> list[float]:
        return [getattr(sample, measure) for sample in self]


def measure(command: Sequence[str], log: Path, environment: dict[str, str]) -> Sample:
    """Run a program and measure it, including its child processes.

    Raises:
        Failed: Its exit status is not 0.
    """
    with log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=log.parent
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Failed(f"{Path(command[0]).name}: exit status {process.returncode}: {_tail(log)}")
    return Sample(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


class PersistentProcess:
    """A process that runs operations on request, like a service that uses a library.

    It reads arguments as a line of JSON and writes a line of JSON: wall, cpu, memory.

    Args:
        command: Command that starts it.
        log: File for its error output.
        environment: Environment of the process.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        self._log = log
        self._output = log.open("wb")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._output, env=environment, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()
        self._output.close()

    def measure(self, arguments: Sequence[str]) -> Sample:
        """Run one operation and measure it.

        Raises:
            Failed: The process exited.
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
            raise Failed(f"the process exited: {_tail(self._log)}")
        return Sample(*json.loads(line))


def _tail(log: Path) -> str:
    return " ".join(log.read_text(errors="replace").split())[-400:]
