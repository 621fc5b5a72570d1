"""Names of images in layouts and archives, and the repositories and tags that correspond to them.

The name of an entry of ``index.json`` may be a tag, a whole reference such as ``docker.io/library/debian:12``, other
text such as ``1.0+build``, or missing (image-spec annotations.md, "Pre-Defined Annotation Keys").

A repository has its familiar name: ``library/debian`` for Docker Hub's ``docker.io/library/debian``, and
``quay.io/org/app`` for an image of another registry. A repository name cannot contain a port, so ports are omitted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, Self

from registry_core.domain.media_types import CONTAINERD_NAME, REF_NAME
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.reference import is_host, parse_familiar
from registry_core.errors import InvalidName, InvalidReference

__all__ = [
    "ROOT",
    "EntryName",
    "ImageName",
    "TagOrName",
    "aliases",
    "entry_name",
    "familiar_name",
    "name_beside",
    "parse_name",
]

ROOT: Final = RepositoryName("")

_HUB: Final = "docker.io"
_OFFICIAL: Final = "library/"

# The grammar of image-spec annotations.md allows single separators only, and no underscores; the tags and repository
# names in whole references have both.
_COMPONENT: Final = r"[A-Za-z0-9_][A-Za-z0-9._:@+-]*"
_NAME: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LONGEST: Final = 1024
_RULE: Final = "use letters, digits and - . _ : @ + with single / between them"


class ImageName(str):
    """A name of an image as it is written in a layout or archive, such as ``docker.io/library/alpine:3.18``.

    The empty name is that of the only image of a layout or archive.

    Raises:
        InvalidName: The text cannot be the name of an image.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Parse the text."""
        if type(text) is cls:
            return text
        if not isinstance(text, str) or len(text) > _LONGEST or (text and not _NAME.fullmatch(text)):
            raise InvalidName(f"not the name of an image: {text!r:.200}; {_RULE}")
        return super().__new__(cls, text)


# A name to set: a tag, or a name as written in a layout or archive.
TagOrName = Tag | ImageName


class EntryName(NamedTuple):
    """The name of an entry of ``index.json``.

    Attributes:
        written: Name as written; empty if the entry has none.
        repository: Repository that the name means; empty if it means none.
        tag: Tag that the name means; ``None`` if it means none.
        is_containerd: Whether the name is the one in ``io.containerd.image.name``.
    """

    written: str
    repository: RepositoryName = ROOT
    tag: Tag | None = None
    is_containerd: bool = False

    @property
    def path(self) -> str:
        """A whole reference without tag and digest, as written."""
        path = self.written.partition("@")[0]
        head, colon, tail = path.rpartition(":")
        return head if colon and "/" not in tail else path

    def means_same(self, other: EntryName) -> bool:
        """Return whether two names mean the same tag; Docker Hub's ``debian`` is also ``library/debian``."""
        return self.tag is not None and self.tag == other.tag and other.repository in aliases(self.repository)

    @property
    def is_mapped(self) -> bool:
        """Whether the name means a repository or a tag."""
        return bool(self.repository) or self.tag is not None


def name_beside(name: object, tag: Tag) -> TagOrName:
    """Return the name of a tag in the form of another name: the same repository, if that is a whole reference.

    Args:
        name: Name as written in a layout or archive; anything else is no name.
        tag: Tag in the repository of the name.
    """
    meant = entry_name({REF_NAME: name}) if isinstance(name, ImageName) else EntryName("")
    return ImageName(f"{meant.path}:{tag}") if meant.repository else tag


def parse_name(text: str) -> tuple[RepositoryName, Tag | None] | None:
    """Parse the name of an image into repository and tag; ``None`` if it is not a valid name.

    Without tag and digest the tag is ``latest``; with a digest only there is no tag.
    """
    try:
        reference = parse_familiar(text)
        host = "" if reference.registry == _HUB else reference.registry.rpartition(":")[0] or reference.registry
        name = RepositoryName(host.lower()) / reference.repository
    except (InvalidReference, InvalidName):
        return None
    return name, reference.tag


def entry_name(annotations: Mapping[str, str], digest: str = "") -> EntryName:
    """Return the name of an entry of ``index.json``.

    A whole reference means a repository and a tag, and a tag means a tag of the repository with the empty name. Beside
    anything else than a whole reference, ``io.containerd.image.name`` counts. Other names mean nothing: they are never
    used as paths, and neither is a name with the digest of another manifest.

    Args:
        annotations: Annotations of the entry.
        digest: Digest of the entry; empty if it is not known.
    """
    text, full = annotations.get(REF_NAME, ""), annotations.get(CONTAINERD_NAME, "")
    for name in (_whole_reference(text), _containerd_name(full), _tag(text)):
        if name is not None and (not digest or name.written.partition("@")[2] in ("", digest)):
            return name
    return EntryName(text or full)


def familiar_name(name: RepositoryName) -> RepositoryName:
    """Return the familiar name of a repository: ``org/app`` for ``docker.io/org/app``."""
    parsed = parse_name(f"{name}:x") if name else None
    return name if parsed is None else parsed[0]


def aliases(name: RepositoryName) -> Iterator[RepositoryName]:
    """Iterate over the names that an archive or layout may use for a repository, the most likely first."""
    yield name
    familiar = familiar_name(name)
    yield familiar
    if familiar.startswith(_OFFICIAL):
        yield RepositoryName(familiar.removeprefix(_OFFICIAL))


def _whole_reference(text: str) -> EntryName | None:
    name, at, _ = text.partition("@")
    path, colon, tag = name.rpartition(":")
    if "/" not in name:
        # A layout keeps debian and library/debian apart.
        try:
            return EntryName(text, RepositoryName(path), Tag(tag)) if path else None
        except InvalidName:
            return None
    if not at and not (colon and "/" not in tag) and not is_host(name.partition("/")[0]):
        return None
    parsed = parse_name(text)
    return None if parsed is None else EntryName(text, *parsed)


def _containerd_name(text: str) -> EntryName | None:
    parsed = parse_name(text)
    return None if parsed is None else EntryName(text, *parsed, is_containerd=True)


def _tag(text: str) -> EntryName | None:
    try:
        return EntryName(text, ROOT, Tag(text))
    except InvalidName:
        return None
