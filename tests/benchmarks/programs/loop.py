"""Entry point of the measured programs: one call with arguments, or a persistent process."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["main"]

_RESIDENT: Final = "--persistent"


def main(operations: Mapping[str, Callable[..., None]]) -> None:
    """Call the operation in the first argument with the others; with ``--persistent``, one call per line of stdin."""
    if sys.argv[1:] != [_RESIDENT]:
        operations[sys.argv[1]](*sys.argv[2:])
        return
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        operations[name](*arguments)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        sys.stdout.write(json.dumps([wall, cpu, memory]) + "\n")
        sys.stdout.flush()
