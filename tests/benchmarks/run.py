"""The benchmarks: the library beside its peers and beside floors, on this machine, in one run.

``python tests/benchmarks/run.py`` writes ``benchmarks.md`` and ``benchmarks.svg``; ``--help`` tells the rest.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # The programs that are measured are found by the same name.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tests.benchmarks.suite import main

    sys.exit(main())
