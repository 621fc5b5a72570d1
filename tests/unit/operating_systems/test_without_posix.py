"""Operating systems that lack what Linux has, as far as one can be made of Linux."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.operating_systems.without_posix import SCENARIOS

PROGRAM = Path(__file__).with_name("without_posix.py")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_library_works_or_says_what_is_missing(scenario: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(PROGRAM), scenario, str(tmp_path)],
        env=os.environ | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path.parent)},
        capture_output=True,
        text=True,
        timeout=90,
    )

    assert run.returncode == 0, run.stderr
