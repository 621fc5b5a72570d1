"""How the measured programs are called: once with arguments, or again and again as a resident."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["main"]

_RESIDENT: Final = "--resident"


def main(works: Mapping[str, Callable[..., None]]) -> None:
    """Do what the first argument names with the others; or ``--resident``, and each line of stdin is such a list."""
    if sys.argv[1:] != [_RESIDENT]:
        works[sys.argv[1]](*sys.argv[2:])
        return
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        works[name](*arguments)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        sys.stdout.write(json.dumps([wall, cpu, memory]) + "\n")
        sys.stdout.flush()
