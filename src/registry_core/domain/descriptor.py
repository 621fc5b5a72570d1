"""Descriptors: how one piece of content points at another (image-spec descriptor.md)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from registry_core.domain.digest import Digest
from registry_core.domain.platform import Platform
from registry_core.errors import DigestMismatch, SizeMismatch

__all__ = ["Descriptor"]

_Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What some content is, how long it is, and its digest.

    Two descriptors of the same type, digest and size hash alike; keys of sets and caches should be digests.

    Args:
        media_type: Of the content.
        digest: Of the content.
        size: Of the content, in bytes.
        urls: Where else it may be had; never followed by default.
        annotations: Free text by key.
        data: The content itself, embedded; see ``embedded``.
        platform: What it runs on, on entries of an index.
        artifact_type: Of the manifest pointed at, on entries of an index.
    """

    media_type: str
    digest: Digest
    size: _Size
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    data: bytes | None = None
    platform: Platform | None = None
    artifact_type: str = ""

    def __hash__(self) -> int:
        """By what identifies the content."""
        return hash((self.media_type, self.digest, self.size))

    def embedded(self) -> bytes | None:
        """The embedded content, verified, or ``None`` where there is none.

        Raises:
            SizeMismatch: It is not as long as the descriptor says.
            DigestMismatch: It does not hash to the descriptor's digest.
            Unsupported: The digest cannot be verified.
        """
        if self.data is None:
            return None
        if len(self.data) != self.size:
            raise SizeMismatch("embedded data has another size", expected=self.size, actual=len(self.data))
        actual = Digest.of(self.data, self.digest.algorithm)
        if actual != self.digest:
            raise DigestMismatch("embedded data has another digest", expected=self.digest, actual=actual)
        return self.data
