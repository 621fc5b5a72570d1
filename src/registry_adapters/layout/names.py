"""Names of images in a layout as they are written in ``index.json``."""

from __future__ import annotations

from collections.abc import Iterator

from registry_adapters.layout.homes import Home, Homes
from registry_core.cancellation import checkpoint
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.image_names import ImageName
from registry_core.domain.names import RepositoryName
from registry_core.domain.reference import join_reference
from registry_core.errors import ImageNotFound, error_reference
from registry_core.ports.image_names import ImageNames, NamedImage

__all__ = ["LayoutNames"]


class LayoutNames(ImageNames):
    """Names of images in a layout as they are written.

    Args:
        homes: Layouts that hold the repository.
        name: Name of the repository.
        label: Repository in errors, as ``registry/name``.
    """

    def __init__(self, homes: Homes, name: RepositoryName, label: str) -> None:
        self._homes = homes
        self._name = name
        self._label = label

    def images(self) -> Iterator[NamedImage]:
        """Iterate over the entries of the repository's own layout, and over those that have its name in others.

        Raises:
            RepositoryNotFound: The layout does not exist.
            LayoutError: The layout is malformed.
        """
        checkpoint()
        with error_reference(self._label):
            found = self._homes.each(self._images)
            if not found:
                raise self._homes.not_found()
        for image in (each for images in found for each in images):
            checkpoint()
            yield image

    def _images(self, home: Home) -> list[NamedImage]:
        images = home.read_index().images(home.repository)
        if home.repository:
            return [NamedImage.of(entry, name._replace(repository=self._name)) for entry, name in images]
        return [NamedImage.of(entry, name, below=self._name) for entry, name in images]

    def resolve(self, name: ImageName) -> Descriptor:
        """Return media type, digest and size of the manifest with a name, and renew the lease of its blob.

        Raises:
            ImageNotFound: No entry has the name.
            RepositoryNotFound: The layout does not exist.
            SizeMismatch: The size is not the one in the entry of ``index.json``.
            LayoutError: The layout is malformed, or several manifests have the name.
        """
        checkpoint()

        def look(home: Home) -> Descriptor:
            entry = home.read_index().find_name(name, home.repository)
            if entry is None:
                raise ImageNotFound("no entry of index.json has this name")
            return entry

        with error_reference(join_reference(self._label, name)):
            return self._homes.first(look)

    def assign(self, name: ImageName, manifest: Descriptor) -> None:
        """Give a name to a manifest of the layout. A manifest that loses the name keeps an entry.

        Raises:
            RepositoryNotFound: The layout does not exist.
            LayoutError: The layout is malformed.
        """
        checkpoint()

        def look(home: Home) -> None:
            with home.layout.locked(home.directory):
                before = home.read_index()
                after = before.with_manifest(manifest, [before.new_name(name)])
                if after.encode() != before.encode():
                    home.write_index(after)

        with error_reference(join_reference(self._label, name)):
            self._homes.first(look)

    def remove(self, name: ImageName) -> None:
        """Remove a name. The manifest keeps an entry.

        Raises:
            ImageNotFound: No entry has the name.
            LayoutError: The layout is malformed.
        """
        checkpoint()

        def look(home: Home) -> None:
            with home.layout.locked(home.directory):
                index = home.read_index()
                if not index.named(name, home.repository):
                    raise ImageNotFound("no entry of index.json has this name")
                home.write_index(index.without_name(index.new_name(name)))

        with error_reference(join_reference(self._label, name)):
            self._homes.first(look)
