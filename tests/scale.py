"""How large the largest tests are."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["FULL"]

# Without it, tests of memory and concurrency use smaller images, fewer operations and less time.
FULL: Final = os.environ.get("OCIPORT_FULL_TESTS") == "1"
