"""A manifest of any kind, as it was fetched."""

from __future__ import annotations

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import ImageIndex, ImageManifest, RawManifest
from registry_core.errors import during

__all__ = ["Identified", "Manifest"]


class Identified:
    """What is known of a manifest by its bytes alone; ``document`` holds them and their type."""

    document: RawManifest

    @property
    def raw(self) -> bytes:
        """The exact bytes."""
        return self.document.content

    @property
    def descriptor(self) -> Descriptor:
        """Type, digest and size, and whatever else is known without asking."""
        return self.document.descriptor

    @property
    def digest(self) -> Digest:
        """The digest of the bytes."""
        return self.document.digest

    @property
    def size(self) -> int:
        """The size of the manifest in bytes; that of each layer is with the layer."""
        return len(self.document.content)

    @property
    def media_type(self) -> str:
        """The media type of the manifest."""
        return self.document.media_type


class Manifest(Identified):
    """A manifest or an index; nobody has decided yet which. ``document`` is what it was read as.

    Args:
        document: Its bytes and type.
        reference: How it was asked for, for messages.
    """

    def __init__(self, document: RawManifest, *, reference: str) -> None:
        self.document = document
        self.reference = reference

    @property
    def is_index(self) -> bool:
        """Whether it is an image index or a Docker manifest list."""
        return self.document.is_index

    @property
    def manifest(self) -> ImageManifest:
        """The view as an image manifest.

        Raises:
            NotAnImage: It is something else.
            InvalidDocument: It is malformed.
        """
        with during("", self.reference):
            return self.document.image

    @property
    def index(self) -> ImageIndex:
        """The view as an image index.

        Raises:
            NotAnIndex: It is something else.
            InvalidDocument: It is malformed.
        """
        with during("", self.reference):
            return self.document.index

    def __repr__(self) -> str:
        """What it is and where."""
        return f"Manifest({self.reference!r}, digest={str(self.digest)!r}, media_type={self.media_type!r})"
