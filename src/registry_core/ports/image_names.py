"""The optional port ``ImageNames``: names of images in layouts and archives, which need not be tags."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Protocol, Self, runtime_checkable

import msgspec

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.image_names import ROOT, EntryName, ImageName
from registry_core.domain.names import RepositoryName, Tag

__all__ = ["ImageNames", "NamedImage"]


class NamedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of a layout or archive: an image, an index or an artifact with one of its names.

    Args:
        name: Name as written, such as ``v1``, ``docker.io/library/alpine:3.18`` or ``1.0+build``; empty if the entry
            has no name (image-spec annotations.md, "Pre-Defined Annotation Keys").
        repository: Repository in which the image is found: that in its name, or else that of the layout or archive.
        tag: Tag of the image in that repository; ``None`` if the name means no tag, so that it is found by its name
            or digest only.
        descriptor: Media type, digest and size of the manifest, as in the entry. The media type is empty if the entry
            has none.
    """

    name: str
    repository: RepositoryName
    tag: Tag | None
    descriptor: Descriptor

    @classmethod
    def of(cls, entry: Descriptor, name: EntryName, *, below: RepositoryName = ROOT) -> Self:
        """Return an entry with its name.

        Args:
            entry: Descriptor of the entry.
            name: Name of the entry.
            below: Repository of the layout that the repository in the name is relative to.
        """
        descriptor = Descriptor(media_type=entry.media_type, digest=entry.digest, size=entry.size)
        return cls(name=name.written, repository=below / name.repository, tag=name.tag, descriptor=descriptor)


@runtime_checkable
class ImageNames(Protocol):
    """Finds and sets names as they are written in the layout or archive of a repository. Safe for many threads."""

    @abstractmethod
    def images(self) -> Iterator[NamedImage]:
        """Iterate over the entries of the repository; for the root of a layout or archive, over all its entries.

        Raises:
            RepositoryNotFound: The repository does not exist.
        """

    @abstractmethod
    def resolve(self, name: ImageName) -> Descriptor:
        """Return the descriptor of the manifest that has a name.

        Raises:
            ImageNotFound: No manifest has the name.
            LayoutError: Several manifests have the name.
        """

    @abstractmethod
    def check(self, name: Tag | ImageName) -> None:
        """Check that the backend can express a tag of the repository, or a name. Does no I/O.

        Raises:
            InvalidName: The backend cannot express the name.
        """

    @abstractmethod
    def assign(self, name: ImageName, manifest: Descriptor) -> None:
        """Give a name to a manifest of the repository. A manifest that loses the name is kept.

        Raises:
            InvalidName: The backend cannot express the name.
            Unsupported: The backend cannot be changed.
        """

    @abstractmethod
    def remove(self, name: ImageName) -> None:
        """Remove a name. The manifest stays.

        Raises:
            ImageNotFound: No manifest has the name.
            Unsupported: The backend cannot be changed.
        """
