"""What a layout needs: everything that its entries lead to. Only digests are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from registry_adapters.layout.blobs import open_blob
from registry_adapters.layout.directory import Directory
from registry_core.content.limits import MANIFEST_LIMIT, read_all
from registry_core.content.verify import Verifier
from registry_core.domain import wire
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import is_index, is_manifest
from registry_core.errors import IntegrityError, InvalidDigest, InvalidDocument, TooLarge, Unsupported
from registry_core.scope import checkpoint

__all__ = ["Link", "Marks", "links_in"]


class Link(NamedTuple):
    """One digest that a document names.

    ``is_document`` tells whether what it names may name others; configurations and layers never do.
    """

    digest: Digest
    media_type: str
    is_document: bool
    data: bytes | None = None


class Marks:
    """The digests that are needed, found from roots.

    The subject of a manifest is not needed by it: that is a weak association, and it may be absent (image-spec
    manifest.md). Documents of types that nobody knows need whatever they name.

    Args:
        directory: Of the layout.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._read: set[Digest] = set()
        self.kept: set[Digest] = set()

    def add(self, roots: Iterable[Descriptor]) -> list[Digest]:
        """Mark what entries of an index lead to.

        Returns:
            What was not marked before.

        Raises:
            IntegrityError: A manifest is corrupt, so that nobody can tell what it needs.
            TooLarge: One is too large to be read.
            LayoutError: Something else than a file stands where one should be.
        """
        return self._follow(Link(root.digest, root.media_type, True, root.data) for root in roots)

    def spare(self, digest: Digest) -> None:
        """Mark a blob that nothing refers to so far, and what it names, if it is a document."""
        self.kept.add(digest)
        self._read.add(digest)
        self._follow(self.links_of(digest))

    def links_of(self, digest: Digest) -> list[Link]:
        """What a blob names, if it is a sound document of any kind."""
        try:
            content = self._content(digest, None)
        except IntegrityError:
            return []
        return [] if content is None else links_in(content, "")

    def subject_of(self, entry: Descriptor) -> Digest | None:
        """What a manifest refers to, if it is one.

        Raises:
            IntegrityError: It is corrupt, so that nobody can tell.
            TooLarge: It is too large to be read.
        """
        try:
            content = self._content(entry.digest, entry.media_type)
            manifest = None if content is None else RawManifest.of(content, expected=entry.media_type)
            subject = None if manifest is None else manifest.subject
        except (InvalidDocument, Unsupported):
            return None
        return None if subject is None else subject.digest

    def _follow(self, links: Iterable[Link]) -> list[Digest]:
        new: list[Digest] = []
        waiting = list(links)
        while waiting:
            checkpoint()
            link = waiting.pop()
            if link.digest not in self.kept:
                self.kept.add(link.digest)
                new.append(link.digest)
            if not link.is_document or link.digest in self._read:
                continue
            self._read.add(link.digest)
            content = self._content(link.digest, link.media_type)
            if content is None and link.data is not None:
                content = link.data
            if content is not None:
                waiting.extend(links_in(content, link.media_type))
        return new

    def _content(self, digest: Digest, media_type: str | None) -> bytes | None:
        file = open_blob(self._directory, digest)
        if file is None:
            return None
        with file:
            if file.status().st_size > MANIFEST_LIMIT:
                if media_type is not None and is_manifest(media_type):
                    raise TooLarge(f"{digest} is too large to tell what it needs")
                return None
            if media_type is None or not is_manifest(media_type):
                # A document begins with a brace; most of what is no document is told apart by that.
                first = file.read(1)
                file.seek(0)
                if first not in (b"{", b" ", b"\n", b"\t", b"\r"):
                    return None
            content = read_all(file, MANIFEST_LIMIT, what="a manifest")
        verifier = Verifier(digest, None)
        verifier.update(content)
        verifier.finish()
        return content


def links_in(content: bytes, media_type: str) -> list[Link]:
    """What a document names, by its type if that is known, or else whatever looks like a descriptor in it.

    Args:
        content: The document; what is no JSON names nothing.
        media_type: What it is said to be; empty where nothing is said.
    """
    try:
        if not media_type or is_manifest(media_type):
            manifest = RawManifest.of(content, expected=media_type)
            if is_index(manifest.media_type):
                return [Link(part.digest, part.media_type, True, part.data) for part in manifest.children]
            if is_manifest(manifest.media_type):
                return [Link(part.digest, part.media_type, False) for part in manifest.children]
    except (InvalidDocument, Unsupported):
        # Nobody can use it as what it says it is; what it names is kept all the same.
        media_type = ""
    try:
        return list(_described(wire.decode(content)))
    except InvalidDocument:
        return []


def _described(mapping: dict[str, Any]) -> Iterator[Link]:
    waiting: list[Any] = [mapping]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
            kind = value.get("mediaType")
            try:
                yield Link(Digest(value["digest"]), kind if isinstance(kind, str) else "", True)
            except (KeyError, InvalidDigest):
                continue
