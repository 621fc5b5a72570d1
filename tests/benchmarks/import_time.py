"""The cost of `import registry_core`, compared with `import msgspec, json, hashlib`, on an installed wheel."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from pathlib import Path

RUNS = 15
STATEMENTS = {
    "registry_core": "import registry_core",
    "every name": "import registry_core; [getattr(registry_core, name) for name in registry_core.__all__]",
    "baseline": "import msgspec, json, hashlib",
    "bare": "pass",
}


def _cpu(statement: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run the imports alternately; print medians in CPU milliseconds, and ratios."""
    samples: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(RUNS + 1):
        for name, statement in STATEMENTS.items():
            samples[name].append(_cpu(statement))
    medians = {name: statistics.median(values[1:]) * 1000 for name, values in samples.items()}
    for name, milliseconds in medians.items():
        sys.stdout.write(f"{name:<14} {milliseconds:7.1f} ms\n")
    baseline = medians["baseline"] - medians["bare"]
    for name in ("registry_core", "every name"):
        whole, alone = medians[name] / medians["baseline"], (medians[name] - medians["bare"]) / baseline
        sys.stdout.write(f"{name:<14} {whole:.2f} x the baseline with the interpreter; {alone:.2f} x without it\n")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tests.benchmarks.installed import run_installed

    run_installed(__file__)
    main()
