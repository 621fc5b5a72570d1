"""The demo runs and prints equal digests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parents[2] / "docs" / "demo.py"


def test_the_demo_ends_with_equal_digests() -> None:
    run = subprocess.run([sys.executable, str(DEMO)], capture_output=True, text=True, timeout=60)

    assert run.returncode == 0, run.stderr
    assert run.stdout.count("same digest") == 3
    assert "All digests are equal" in run.stdout
