"""Content descriptors (image-spec descriptor.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from registry_core.domain.digest import Digest
from registry_core.domain.platform import Platform
from registry_core.errors import DigestMismatch, SizeMismatch

__all__ = ["Descriptor"]

_Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

if TYPE_CHECKING:
    _Platform = Platform | None
else:
    # Decoding accepts any JSON here, and `__post_init__` makes a platform of it.
    _Platform = Any


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Media type, digest and size of a piece of content.

    The hash covers media type, digest and size only; use digests as keys of sets and caches.

    Args:
        media_type: Media type of the content.
        digest: Digest of the content.
        size: Size of the content in bytes.
        urls: Other URLs of the content; not followed by default.
        annotations: Annotations.
        data: The content itself, embedded; see ``embedded``.
        platform: Platform of the image, in entries of an index; ``None`` also where a document states an incomplete or
            malformed one, which must not make the other entries unreadable.
        artifact_type: Artifact type of the manifest, in entries of an index.
    """

    media_type: str
    digest: Digest
    size: _Size
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    data: bytes | None = None
    platform: _Platform = None
    artifact_type: str = ""

    def __post_init__(self) -> None:
        """Convert the decoded JSON of a platform."""
        if self.platform is not None and not isinstance(self.platform, Platform):
            msgspec.structs.force_setattr(self, "platform", Platform.of_document(self.platform))

    def __hash__(self) -> int:
        """Hash the fields that identify the content."""
        return hash((self.media_type, self.digest, self.size))

    def embedded(self) -> bytes | None:
        """Return the embedded content after verifying it, or ``None`` if there is none.

        Raises:
            SizeMismatch: The size of the content differs from the descriptor.
            DigestMismatch: The digest of the content differs from the descriptor.
            Unsupported: The digest algorithm cannot be verified.
        """
        if self.data is None:
            return None
        if len(self.data) != self.size:
            raise SizeMismatch(
                "embedded data: the size differs from the descriptor", expected=self.size, actual=len(self.data)
            )
        actual = Digest.of(self.data, self.digest.algorithm)
        if actual != self.digest:
            raise DigestMismatch(
                "embedded data: the digest differs from the descriptor", expected=self.digest, actual=actual
            )
        return self.data
