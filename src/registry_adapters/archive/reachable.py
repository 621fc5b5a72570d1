"""What the entries of an archive's ``index.json`` lead to: manifests, and what refers to them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from registry_adapters.archive.contents import Held
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import is_manifest
from registry_core.domain.referrers import referrer
from registry_core.errors import IntegrityError, InvalidDocument, NotFound, TooLarge, Unsupported
from registry_core.scope import checkpoint

__all__ = ["BROKEN", "NODE_LIMIT", "walked"]

NODE_LIMIT: Final = 10_000
# What one broken image must not keep others from.
BROKEN: Final = (IntegrityError, InvalidDocument, NotFound, Unsupported)


def walked(
    entries: Iterable[Descriptor], held: Callable[[Descriptor], Held | None]
) -> tuple[dict[Digest, Descriptor], dict[Digest, list[Descriptor]]]:
    """All manifests by digest, however deep, and the referrers by their subjects (R-024, R-306).

    Args:
        entries: Where to begin.
        held: Gives the manifest that an entry describes; ``None`` if it is not in the archive.

    Raises:
        TooLarge: There are more manifests than in any honest archive.
        Cancelled: The ambient scope was cancelled.
        DeadlineExceeded: Its deadline has passed.
    """
    known: dict[Digest, Descriptor] = {}
    referrers: dict[Digest, list[Descriptor]] = {}
    waiting = deque(entries)
    while waiting:
        checkpoint()
        entry = waiting.popleft()
        if entry.digest in known:
            continue
        if len(known) >= NODE_LIMIT:
            raise TooLarge(f"more than {NODE_LIMIT} manifests in one archive")
        known[entry.digest] = entry
        try:
            found = held(entry)
            if found is None:
                continue
            manifest = found.read()
            stands = referrer(manifest)
            children = manifest.children if manifest.is_index else ()
        except BROKEN:
            # Whoever asks for this one is told.
            continue
        if stands is not None and manifest.subject is not None:
            referrers.setdefault(manifest.subject.digest, []).append(stands)
        waiting.extend(child for child in children if is_manifest(child.media_type))
    return known, referrers
