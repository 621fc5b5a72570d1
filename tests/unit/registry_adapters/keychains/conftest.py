"""Credential helpers as real programs, and a clock that tests set."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

Installer = Callable[..., dict[str, str]]


class Gate:
    """A pipe that stays open while a program or one of its child processes runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._descriptor = -1

    def wait_for_program(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDONLY)

    def wait_for_end(self) -> None:
        assert os.read(self._descriptor, 1) == b""

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture
def install(tmp_path: Path) -> Installer:
    """Write ``docker-credential-NAME`` as a shell script; return environment variables that find it."""
    directory = tmp_path / "programs"
    directory.mkdir()

    def write(script: str, *, name: str = "tests", **variables: str) -> dict[str, str]:
        program = directory / f"docker-credential-{name}"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o700)
        return {"PATH": f"{directory}:/usr/bin:/bin", "LOG": str(tmp_path / "log"), **variables}

    return write


def run_in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    """Run a function in a thread; return the thread and the list of its exceptions."""
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    return thread, raised


@pytest.fixture
def in_thread() -> Callable[[Callable[[], object]], tuple[threading.Thread, list[BaseException]]]:
    return run_in_thread
