"""A manifest of any kind, as it was fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import ImageIndex, ImageManifest, RawManifest
from registry_core.errors import during
from registry_core.ports.repository import Repository

if TYPE_CHECKING:
    from registry_core.domain.findings import Report
    from registry_core.ops.tar.members import ExtractLimits

__all__ = ["Identified", "Located", "Manifest"]


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


class Located(Identified):
    """A manifest of which is known where its parts are: ``repository`` holds them, or says where it is empty."""

    repository: Repository

    def validate(
        self, *, referrers: bool = False, sparse: bool = False, limits: ExtractLimits | None = None, jobs: int = 4
    ) -> Report:
        """A report on all that it consists of, down to the uncompressed layers; nothing is changed.

        Args:
            referrers: Whether what refers to any of it is checked as well, and what refers to that.
            sparse: Whether what an index lists may be absent: that is only a warning then.
            limits: How much layers may become when they are unpacked for their diff_id; nothing is kept of them.
            jobs: How many blobs are read at a time.

        Raises:
            InvalidValue: There are no jobs.
            AccessDenied: The registry refused.
            TransportError: The registry could not be asked.
        """
        from registry_core.ops.upkeep.validate import validate

        return validate(self, referrers=referrers, sparse=sparse, limits=limits, jobs=jobs)


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
