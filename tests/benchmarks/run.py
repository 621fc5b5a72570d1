"""Benchmarks: the library compared with other tools and with baselines.

``python tests/benchmarks/run.py`` writes ``benchmarks.md`` and ``benchmarks.svg``; see ``--help``.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # The measured programs import this package too.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tests.benchmarks.installed import run_installed

    if "--in-place" not in sys.argv:
        run_installed(__file__)
    from tests.benchmarks.suite import main

    sys.exit(main())
