"""What a garbage collection removed, or would remove."""

from __future__ import annotations

import msgspec

from registry_core.domain.digest import Digest

__all__ = ["PruneReport"]


class PruneReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was removed, or would have been if it had not been a dry run.

    Args:
        blobs: What nothing refers to, by digest, in the order in which it went.
        entries: Manifests without a tag that lost their entry; their blobs are among ``blobs``.
        leftovers: How many files that killed writers had left behind.
        bytes: How many bytes that freed: what has another name elsewhere still takes its space.
        kept: How many blobs something refers to.
        spared: How many nothing refers to, but are too young, or were being renewed.
        is_dry_run: Whether everything is still there.
    """

    blobs: tuple[Digest, ...] = ()
    entries: tuple[Digest, ...] = ()
    leftovers: int = 0
    bytes: int = 0
    kept: int = 0
    spared: int = 0
    is_dry_run: bool = False

    def __str__(self) -> str:
        """As one line."""
        verb = "would remove" if self.is_dry_run else "removed"
        what = f"{len(self.blobs)} blobs, {len(self.entries)} entries and {self.leftovers} leftovers"
        return f"{verb} {what}, {self.bytes} bytes; kept {self.kept} blobs, spared {self.spared}"
