"""Names of images in layouts and archives that a mirror copies, and keeps where the target can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from registry_core.domain.digest import Digest
from registry_core.domain.error_bodies import escaped
from registry_core.domain.image_names import ImageName, TagOrName, entry_name
from registry_core.domain.media_types import REF_NAME, is_index, is_listed_manifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import IntegrityError, InvalidName, NotFound, RegistryError, Unsupported
from registry_core.ops.listing import tags_of
from registry_core.ops.manifests import fetch_manifest
from registry_core.ops.transfer.options import CopyTask
from registry_core.ops.transfer.report import Action, Node, NodeKind, Result
from registry_core.ports.catalog import Catalog, Repository
from registry_core.ports.image_names import NamedImage

__all__ = ["NamedEntries", "can_be_nameless"]


class NamedEntries:
    """Tasks for the images of a repository in a layout or archive, by their names as written.

    Args:
        source: Repository to read from; any backend.
        target: Repository of the same name to write to.
        target_catalog: Backend to write to.
        path: Path in the target that names are relative to.
        name: Name of the repository, relative to the paths of source and target.
        keeps_digests: Whether the copies have the digests of the source, which a name may have too.

    Attributes:
        error: Error of an image that hides its name and those of others, if there is one. Tags are found all the same.

    Raises:
        RepositoryNotFound: The source does not exist.
    """

    def __init__(
        self,
        source: Repository,
        target: Repository,
        target_catalog: Catalog,
        path: RepositoryName,
        name: str,
        *,
        keeps_digests: bool = True,
    ) -> None:
        self._source = source
        self._target = target
        self._catalog = target_catalog
        self._path = path
        self._name = RepositoryName(name)
        self._keeps_digests = keeps_digests
        self._layouts: dict[RepositoryName, Repository] = {}
        self._images: list[NamedImage] = []
        self.error: IntegrityError | None = None
        try:
            self._images += () if source.names is None else source.names.images()
        except IntegrityError as error:
            self.error = error

    @property
    def repositories(self) -> list[RepositoryName]:
        """The other repositories that the names mean, relative to this one."""
        found = {image.repository.below(self._source.name) for image in self._images}
        return sorted(name for name in found if name is not None)

    @property
    def is_empty(self) -> bool:
        """Whether no entry belongs to the repository itself."""
        return not any(image.repository == self._source.name for image in self._images)

    def tag_tasks(self, tags: Iterable[Tag]) -> Iterator[CopyTask | Result]:
        """Yield a task for each tag, and a result for each that the target cannot have.

        A target that has names and not yet the repository gets the name as written.
        """
        written: dict[Tag | None, str] = {}
        if self._target.names is not None and any(image.name != image.tag for image in self._images):
            written = {} if _exists(self._target) else {each.tag: each.name for each in self._own()}
        for tag in tags:
            target, name = self._place(tag, written.get(tag, tag))
            image = None if _can_have(target, name) else next((each for each in self._own() if each.tag == tag), None)
            if image is not None:
                yield self._lost_name(image)
            yield CopyTask(source=self._source, target=target, reference=tag, tags=() if image is not None else (name,))

    def other_tasks(self) -> Iterator[CopyTask | Result]:
        """Yield a task for each entry that has no tag, by its digest, and a result for each name that is lost.

        Entries without a name are left out if they are part of an index or refer to a subject: they are copied with
        the index, or with the subject if the options ask for referrers.
        """
        others = self._others()
        if others and not can_be_nameless(self._target):
            yield from map(self._left_out, others)
            return
        found = {(image.name, image.descriptor.digest) for image in others}
        counts = Counter(name for name, _ in found)
        for image in others:
            name = _image_name(image.name) if image.name and counts[image.name] == 1 else None
            if name is not None and not _can_have(self._target, name):
                name = None
            if image.name and name is None:
                yield self._lost_name(image, is_ambiguous=counts[image.name] > 1)
            yield CopyTask(
                source=self._source,
                target=self._target,
                reference=image.descriptor.digest,
                tags=() if name is None else (name,),
            )

    def left_out(self) -> Iterator[Result]:
        """Yield a result for each entry of the repository, if the target cannot have the repository."""
        yield from map(self._left_out, [image for image in self._own() if image.tag is not None] + self._others())

    def _others(self) -> list[NamedImage]:
        """Return the entries without a tag, and those without a name unless they belong to another entry."""
        others = [
            image for image in self._own() if image.tag is None and is_listed_manifest(image.descriptor.media_type)
        ]
        found = {image.descriptor.digest: image for image in others if not image.name}
        parts = self._parts() if found else set()
        nameless = [image for digest, image in found.items() if digest not in parts and not self._has_subject(digest)]
        return [image for image in others if image.name] + nameless

    def _left_out(self, image: NamedImage) -> Result:
        return self._result(image, "the target has no repository with an empty name")

    def _own(self) -> list[NamedImage]:
        return [image for image in self._images if image.repository == self._source.name]

    def _place(self, tag: Tag, written: str) -> tuple[Repository, TagOrName]:
        """Return the repository of the target and the name to set there."""
        if not self._keeps_digests:
            written = written.partition("@")[0]
        meant = entry_name({REF_NAME: written})
        name = _image_name(written)
        if name is None or meant.tag != tag or not meant.repository:
            return self._target, tag
        full, relative = f"/{self._name}", f"/{meant.repository}"
        if not full.endswith(relative):
            # A name of an archive for Docker means something else in a layout.
            return self._target, tag
        layout = self._path / RepositoryName(full.removesuffix(relative).removeprefix("/"))
        if layout not in self._layouts:
            self._layouts[layout] = self._catalog.repository(layout)
        return self._layouts[layout], name

    def _parts(self) -> set[Digest]:
        """Return the digests of named entries, and of what the indexes among the entries list."""
        found = {image.descriptor.digest for image in self._images if image.name}
        for image in self._images:
            if is_index(image.descriptor.media_type):
                try:
                    manifest = fetch_manifest(self._source, image.descriptor.digest)
                except RegistryError:
                    # The copy of the index reports it.
                    continue
                found.update(child.digest for child in manifest.children)
        return found

    def _has_subject(self, digest: Digest) -> bool:
        try:
            return fetch_manifest(self._source, digest).subject is not None
        except RegistryError:
            return False

    def _lost_name(self, image: NamedImage, *, is_ambiguous: bool = False) -> Result:
        reason = "several images of the source have" if is_ambiguous else "the target cannot have"
        return self._result(image, f"copied by digest only: {reason} the name {image.name!r:.200}")

    def _result(self, image: NamedImage, note: str) -> Result:
        node = Node(
            kind=NodeKind.TAG,
            action=Action.LEAVE_OUT,
            digest=image.descriptor.digest,
            size=image.descriptor.size,
            media_type=image.descriptor.media_type,
            source=self._source.at(escaped(image.name, 200) or image.descriptor.digest),
            target=self._target.at(image.descriptor.digest),
            note=note,
        )
        return Result(node=node, outcome=node.action.outcome)


def can_be_nameless(target: Repository) -> bool:
    """Return whether a backend can have a repository, unless it has an empty name and the backend is a registry."""
    if target.name:
        return True
    try:
        next(tags_of(target, 1, None, operation=""), None)
    except (InvalidName, Unsupported):
        return False
    except NotFound:
        return True
    return True


def _exists(repository: Repository) -> bool:
    try:
        next(tags_of(repository, 1, None, operation=""), None)
    except NotFound:
        return False
    return True


def _can_have(target: Repository, name: TagOrName) -> bool:
    if target.names is None:
        return isinstance(name, Tag)
    try:
        target.names.check(name)
    except InvalidName:
        return False
    return True


def _image_name(text: str) -> ImageName | None:
    try:
        return ImageName(text)
    except InvalidName:
        return None
