"""An archive that is read: ``index.json`` and ``manifest.json``, whichever it has, and where their parts are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from registry_adapters.archive.contents import ArchivedImage, Held
from registry_adapters.archive.medium import Medium, Stretch
from registry_adapters.archive.names import ROOT, name_of, parse_name, spellings
from registry_adapters.archive.reachable import BROKEN, NODE_LIMIT, walked
from registry_adapters.archive.saved import ManifestMaker, SavedImage, digest_in, parse_saved
from registry_adapters.archive.tar_index import indexed
from registry_adapters.archive.turns import Turn
from registry_core.content.limits import MANIFEST_LIMIT
from registry_core.domain import wire
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import ImageIndex, RawManifest
from registry_core.domain.media_types import OCI_INDEX
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import InvalidDocument, LayoutError, TooLarge
from registry_core.scope import checkpoint

__all__ = ["FinishedArchive"]

_INDEX, _MARKER, _SAVED = "index.json", "oci-layout", "manifest.json"
_CONFIGS_LIMIT: Final = 256 << 20


class FinishedArchive:
    """The contents of an archive that is not changed any more.

    Tags are each repository's own; what is there by digest is there for all of them.

    Args:
        medium: The archive.

    Raises:
        LayoutError: It is no archive of images, or a broken one.
        UnsafeArchive: It reaches outside.
        TooLarge: It is larger than any honest one.
    """

    def __init__(self, medium: Medium) -> None:
        self._files = indexed(medium)
        self._blobs = _blobs(self._files)
        self._tags: dict[RepositoryName, dict[Tag, list[Descriptor | SavedImage]]] = {}
        self._untagged: dict[RepositoryName, list[Descriptor | SavedImage]] = {}
        self._entries: tuple[Descriptor, ...] = ()
        self._saved: tuple[SavedImage, ...] = ()
        self._turn = Turn()
        self._maker = ManifestMaker(self._files)
        self._made: dict[tuple[str, tuple[str, ...]], RawManifest] = {}
        self._all_made = False
        self._made_by_digest: dict[Digest, RawManifest] = {}
        self._known: dict[Digest, Descriptor] | None = None
        self._referrers: dict[Digest, list[Descriptor]] = {}
        if not self._files.keys() & {_INDEX, _SAVED}:
            raise LayoutError("an archive with neither index.json nor manifest.json")
        if _INDEX in self._files:
            self._read_index()
        if _SAVED in self._files:
            self._read_saved()

    @property
    def nature(self) -> str:
        """A file that was found."""
        return "this archive"

    def names(self) -> list[RepositoryName]:
        """The repositories that are named, and the empty name where something is without one."""
        return sorted(self._tags)

    def images(self) -> Iterator[ArchivedImage]:
        """What ``index.json`` and ``manifest.json`` list.

        Raises:
            LayoutError: A name is several images', or an image is broken.
        """
        for name, tags in sorted(self._tags.items()):
            called: dict[object, tuple[Descriptor | SavedImage, list[Tag]]] = {}
            for target in self._untagged.get(name, ()):
                called.setdefault(_identity(target), (target, []))
            for tag in sorted(tags):
                target = self._only(tag, tags[tag])
                called.setdefault(_identity(target), (target, []))[1].append(tag)
            for target, names in called.values():
                found = self._make(target).descriptor if isinstance(target, SavedImage) else target
                bare = Descriptor(media_type=found.media_type, digest=found.digest, size=found.size)
                yield ArchivedImage(name, tuple(names), bare)

    def called(self, name: RepositoryName) -> RepositoryName | None:
        """A repository's name as the archive spells it; the one without a name is always there."""
        if not name:
            return name
        return next((spelling for spelling in spellings(name) if spelling in self._tags), None)

    def blob(self, name: RepositoryName, digest: Digest) -> Stretch | None:
        """Where a blob is, by its name in the archive, or as a part of an image that was saved without a manifest."""
        if digest not in self._blobs:
            self._make_all()
        return self._blobs.get(digest)

    def manifest(self, name: RepositoryName, reference: Tag | Digest) -> Held | None:
        """A manifest by tag or digest; the ones that are made, too.

        Raises:
            LayoutError: The tag is several manifests', or its image is broken.
        """
        if not isinstance(reference, Digest):
            targets = self._tags.get(name, {}).get(reference, [])
            return self._held(self._only(reference, targets)) if targets else None
        known = self._reachable().get(reference)
        if known is not None:
            return self._held(known)
        self._make_all()
        made = self._made_by_digest.get(reference)
        return None if made is None else Held(made.descriptor, made.content)

    def tags(self, name: RepositoryName) -> list[Tag]:
        """The tags of a repository."""
        return sorted(self._tags.get(name, {}))

    def referrers(self, name: RepositoryName, subject: Digest) -> list[Descriptor]:
        """What refers to a manifest, of all that ``index.json`` leads to."""
        self._reachable()
        return sorted(self._referrers.get(subject, ()), key=lambda entry: entry.digest)

    def _read_index(self) -> None:
        mapping = self._document(_INDEX)
        if _SAVED not in self._files:
            marker = self._files.get(_MARKER)
            if marker is None or self._document(_MARKER).get("imageLayoutVersion") != "1.0.0":
                raise LayoutError("not an image layout of version 1.0.0")
        if (
            "manifests" not in mapping
            or mapping.get("mediaType") not in (None, "", OCI_INDEX)
            or not mapping.keys().isdisjoint({"layers", "config", "fsLayers"})
        ):
            raise LayoutError("index.json is no image index")
        with _sound(_INDEX):
            self._entries = wire.lift(mapping, ImageIndex).manifests
        if len(self._entries) > NODE_LIMIT:
            raise TooLarge(f"index.json has more than {NODE_LIMIT} manifests")
        for entry in self._entries:
            self._name(name_of(entry.annotations), entry)

    def _read_saved(self) -> None:
        with _sound(_SAVED):
            self._saved = parse_saved(self._files[_SAVED].content(MANIFEST_LIMIT, _SAVED))
        # One file may be the configuration of many, and a broken one is read again for each.
        if sum(map(self._maker.config_size, self._saved)) > _CONFIGS_LIMIT:
            raise TooLarge(f"configurations of more than {_CONFIGS_LIMIT} bytes in all")
        # What index.json names, it has the manifest of; who saved it wrote the other for older readers.
        kept = {
            (name, tag)
            for name, tags in self._tags.items()
            for tag, targets in tags.items()
            if any(isinstance(each, Descriptor) and each.digest in self._blobs for each in targets)
        }
        for image in self._saved:
            names = [parse_name(text) for text in image.repo_tags]
            for name in names or [None] * (not self._entries):
                if name not in kept:
                    self._name(name, image)

    def _name(self, name: tuple[RepositoryName, Tag | None] | None, target: Descriptor | SavedImage) -> None:
        repository, tag = (ROOT, None) if name is None else name
        tags = self._tags.setdefault(repository, {})
        if tag is None:
            self._untagged.setdefault(repository, []).append(target)
            return
        targets = tags.setdefault(tag, [])
        if isinstance(target, SavedImage):
            # A name that index.json has for what is missing is better led to what is there.
            targets[:] = [each for each in targets if isinstance(each, SavedImage)]
        if all(_identity(each) != _identity(target) for each in targets):
            targets.append(target)

    @staticmethod
    def _only(tag: Tag, targets: list[Descriptor | SavedImage]) -> Descriptor | SavedImage:
        if len(targets) > 1:
            raise LayoutError(f"the archive has {len(targets)} images of the name {tag}")
        return targets[0]

    def _document(self, name: str) -> dict[str, object]:
        with _sound(name):
            return wire.decode(self._files[name].content(MANIFEST_LIMIT, name))

    def _held(self, target: Descriptor | SavedImage) -> Held | None:
        if isinstance(target, SavedImage):
            made = self._make(target)
            return Held(made.descriptor, made.content)
        stretch = self._blobs.get(target.digest)
        return None if stretch is None else Held(target, stretch)

    def _make(self, image: SavedImage) -> RawManifest:
        key = (image.config, image.layers)
        with self._turn.held():
            made = self._made.get(key)
            if made is None:
                made, parts = self._maker.make(image)
                for digest, stretch in parts.items():
                    self._blobs.setdefault(digest, stretch)
                self._made[key] = self._made_by_digest[made.digest] = made
        # A fresh value for each caller: the decoded views that it caches can be changed, and are not shared.
        return RawManifest(made.media_type, made.content)

    def _make_all(self) -> None:
        for image in () if self._all_made else self._saved:
            if (image.config, image.layers) not in self._made:
                checkpoint()
                try:
                    self._make(image)
                except BROKEN:
                    continue
        self._all_made = True

    def _reachable(self) -> Mapping[Digest, Descriptor]:
        with self._turn.held():
            if self._known is None:
                self._known, self._referrers = walked(self._entries, self._held)
            return self._known


@contextmanager
def _sound(document: str) -> Iterator[None]:
    try:
        yield
    except InvalidDocument as error:
        raise LayoutError(f"{document}: {error.message}{f' at {error.path}' if error.path else ''}") from error


def _blobs(files: Mapping[str, Stretch]) -> dict[Digest, Stretch]:
    blobs: dict[Digest, Stretch] = {}
    seen: set[tuple[int, str]] = set()
    for name, stretch in files.items():
        digest = digest_in(name)
        if digest is not None:
            # Links cost nothing to make, and each would have to be hashed.
            if (stretch.offset, digest.algorithm) in seen:
                raise LayoutError(f"an archive with several digests for one file, such as {digest}")
            seen.add((stretch.offset, digest.algorithm))
            blobs[digest] = stretch
    return blobs


def _identity(target: Descriptor | SavedImage) -> object:
    return target.digest if isinstance(target, Descriptor) else (target.config, target.layers)
