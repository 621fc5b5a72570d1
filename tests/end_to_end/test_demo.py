"""The demo runs, and says what it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parents[2] / "docs" / "demo.py"


def test_the_demo_ends_with_agreeing_digests() -> None:
    run = subprocess.run([sys.executable, str(DEMO)], capture_output=True, text=True, timeout=60)

    assert run.returncode == 0, run.stderr
    assert run.stdout.count("same digest") == 3
    assert "All digests agree" in run.stdout
