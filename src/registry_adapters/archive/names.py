"""Names of images in archives, and the repositories and tags that they are here.

A repository is called as one would type it: ``library/debian`` for Docker Hub's ``docker.io/library/debian``, and
``quay.io/org/app`` for what is elsewhere. A port has no place in a repository's name and is left out. To ``docker
save``, ``debian`` is another spelling of ``library/debian``; image layouts in a tar keep the two apart.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Final

from registry_core.domain.media_types import REF_NAME
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.reference import parse_familiar
from registry_core.errors import InvalidName, InvalidReference

__all__ = [
    "ROOT",
    "ArchiveForm",
    "annotations_of",
    "full_name",
    "name_of",
    "parse_name",
    "short_name",
    "spelled",
    "spellings",
]

ROOT: Final = RepositoryName("")

_HUB: Final = "docker.io"
_OFFICIAL: Final = "library/"
# What containerd, and Docker with it, calls an image in an index.
_CONTAINERD_NAME: Final = "io.containerd.image.name"


class ArchiveForm(enum.Enum):
    """How a new archive is written, by the scheme of its URL. Reading needs no such word: the file tells."""

    DOCKER = "docker-archive"
    OCI = "oci-archive"


def parse_name(text: str) -> tuple[RepositoryName, Tag | None] | None:
    """Repository and tag of an image's name; ``None`` for what is no such name.

    Without a tag, the name means ``latest``; with a digest instead, it has no tag.
    """
    try:
        reference = parse_familiar(text)
        host = "" if reference.registry == _HUB else reference.registry.rpartition(":")[0] or reference.registry
        name = RepositoryName(host.lower()) / reference.repository
    except (InvalidReference, InvalidName):
        return None
    return name, reference.tag


def spelled(form: ArchiveForm, name: RepositoryName) -> RepositoryName:
    """The one spelling of a repository's name in an archive that is written.

    ``docker.io/org/app`` is ``org/app`` and, as far as ``docker save`` goes, ``debian`` is ``library/debian``.
    """
    literal = form is ArchiveForm.OCI and "/" not in name
    found = None if literal or not name else parse_name(f"{name}:x")
    return name if found is None else found[0]


def spellings(name: RepositoryName) -> Iterator[RepositoryName]:
    """How an archive may call what is asked for by a name, the likeliest first."""
    yield name
    whole = spelled(ArchiveForm.DOCKER, name)
    yield whole
    if whole.startswith(_OFFICIAL):
        yield RepositoryName(whole.removeprefix(_OFFICIAL))


def full_name(name: RepositoryName, tag: Tag) -> str:
    """The whole name of an image, such as ``docker.io/library/debian:12``.

    Raises:
        InvalidName: There is none: it is too long, or its beginning is a host that cannot be.
    """
    try:
        return str(parse_familiar(f"{name}:{tag}"))
    except InvalidReference as error:
        raise InvalidName(error.message) from None


def short_name(name: RepositoryName, tag: Tag) -> str:
    """The name that ``docker save`` writes, such as ``debian:12``.

    Raises:
        InvalidName: There is none.
    """
    path = full_name(name, tag).removeprefix(f"{_HUB}/")
    bare = path.removeprefix(_OFFICIAL)
    return path if "/" in bare else bare


def name_of(annotations: Mapping[str, str]) -> tuple[RepositoryName, Tag | None] | None:
    """What an entry of ``index.json`` calls its manifest; ``None`` if it has no name that we could use."""
    whole = parse_name(annotations.get(_CONTAINERD_NAME, ""))
    if whole is not None:
        return whole
    text = annotations.get(REF_NAME, "")
    try:
        if ":" not in text:
            return ROOT, Tag(text)
        path, _, tag = text.partition(":")
        if "/" not in text:
            return RepositoryName(path), Tag(tag)
    except InvalidName:
        pass
    return parse_name(text)


def annotations_of(form: ArchiveForm, name: RepositoryName, tag: Tag) -> dict[str, str]:
    """What an entry of ``index.json`` says about the name of its manifest.

    Raises:
        InvalidName: The archive's form has no such names.
    """
    if not name:
        if form is ArchiveForm.DOCKER:
            raise InvalidName("a docker archive names images by repository and tag, and no repository was chosen")
        return {REF_NAME: tag}
    if form is ArchiveForm.DOCKER:
        return {_CONTAINERD_NAME: full_name(name, tag), REF_NAME: tag}
    return {REF_NAME: full_name(name, tag) if "/" in name else f"{name}:{tag}"}
