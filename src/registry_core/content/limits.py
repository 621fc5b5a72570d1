"""How much of a peer's answer is read (R-023)."""

from __future__ import annotations

from typing import Final

from registry_core.content.source import ByteReader
from registry_core.errors import TooLarge
from registry_core.scope import checkpoint

__all__ = ["MANIFEST_LIMIT", "read_all"]

# Manifests, indexes and configurations: the specification asks for 4 MB at least ("Pushing Manifests").
MANIFEST_LIMIT: Final = 8 << 20


def read_all(reader: ByteReader, limit: int, *, what: str = "content") -> bytes:
    """All that is left of a stream, if it is no more than ``limit`` bytes. Nothing is allocated on a peer's word.

    Raises:
        TooLarge: There is more.
    """
    parts: list[bytes] = []
    count = 0
    while data := reader.read(min(64 << 10, limit + 1 - count)):
        checkpoint()
        parts.append(data)
        count += len(data)
        if count > limit:
            raise TooLarge(f"{what} has more than {limit} bytes")
    return b"".join(parts)
