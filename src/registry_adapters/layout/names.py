"""Names of images in a layout as they are written in ``index.json``."""

from __future__ import annotations

from collections.abc import Iterator

from registry_adapters.layout.repository_layouts import OpenLayout, RepositoryLayouts
from registry_core.cancellation import checkpoint
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.image_names import ImageName
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.reference import join_reference
from registry_core.errors import ImageNotFound, error_reference
from registry_core.ports.image_names import ImageNames, NamedImage

__all__ = ["LayoutNames"]


class LayoutNames(ImageNames):
    """Names of images in a layout as they are written.

    Args:
        layouts: Layouts that hold the repository.
        name: Name of the repository.
        label: Repository in errors, as ``registry/name``.
    """

    def __init__(self, layouts: RepositoryLayouts, name: RepositoryName, label: str) -> None:
        self._layouts = layouts
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
            found = self._layouts.each(self._images)
            if not found:
                raise self._layouts.not_found()
        for image in (each for images in found for each in images):
            checkpoint()
            yield image

    def _images(self, opened: OpenLayout) -> list[NamedImage]:
        images = opened.read_index().images(opened.repository)
        if opened.repository:
            return [NamedImage.of(entry, name._replace(repository=self._name)) for entry, name in images]
        return [NamedImage.of(entry, name, below=self._name) for entry, name in images]

    def resolve(self, name: ImageName) -> Descriptor:
        """Return the entry with a name. Its manifest need not exist.

        Raises:
            ImageNotFound: No entry has the name.
            RepositoryNotFound: The layout does not exist.
            LayoutError: The layout is malformed, or several manifests have the name.
        """
        checkpoint()

        def look(opened: OpenLayout) -> Descriptor:
            entry = opened.read_index().find_name(name, opened.repository)
            if entry is None:
                raise ImageNotFound("no entry of index.json has this name")
            return entry

        with error_reference(join_reference(self._label, name)):
            return self._layouts.first(look)

    def check(self, name: Tag | ImageName) -> None:
        """Accept every tag and name: a layout can have all of them."""

    def assign(self, name: ImageName, manifest: Descriptor) -> None:
        """Give a name to a manifest of the layout. A manifest that loses the name keeps an entry.

        Raises:
            RepositoryNotFound: The layout does not exist.
            LayoutError: The layout is malformed.
        """
        checkpoint()

        def look(opened: OpenLayout) -> None:
            with opened.layout.locked(opened.directory):
                before = opened.read_index()
                after = before.with_manifest(manifest, [before.new_name(name)])
                if after.encode() != before.encode():
                    opened.write_index(after)

        with error_reference(join_reference(self._label, name)):
            self._layouts.first(look)

    def remove(self, name: ImageName) -> None:
        """Remove a name. The manifest keeps an entry.

        Raises:
            ImageNotFound: No entry has the name.
            LayoutError: The layout is malformed.
        """
        checkpoint()

        def look(opened: OpenLayout) -> None:
            with opened.layout.locked(opened.directory):
                index = opened.read_index()
                if not index.named(name, opened.repository):
                    raise ImageNotFound("no entry of index.json has this name")
                opened.write_index(index.without_name(index.new_name(name)))

        with error_reference(join_reference(self._label, name)):
            self._layouts.change_each(look)
