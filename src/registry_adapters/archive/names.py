"""Names of images in archives, and the repositories and tags that correspond to them.

A repository has its familiar name: ``library/debian`` for Docker Hub's ``docker.io/library/debian``, and
``quay.io/org/app`` for an image of another registry. A repository name cannot contain a port, so ports are omitted.
``docker save`` treats ``debian`` and ``library/debian`` as the same repository; image layouts keep them apart.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Final

from registry_core.domain.media_types import CONTAINERD_NAME, REF_NAME
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.reference import parse_familiar
from registry_core.errors import InvalidName, InvalidReference

__all__ = [
    "ROOT",
    "ArchiveForm",
    "aliases",
    "canonical_name",
    "full_name",
    "name_annotations",
    "parse_name",
    "parse_name_annotations",
    "short_name",
]

ROOT: Final = RepositoryName("")

_HUB: Final = "docker.io"
_OFFICIAL: Final = "library/"


class ArchiveForm(enum.Enum):
    """Format of a new archive; the value is the scheme of its URL. For reading, the content decides."""

    DOCKER = "docker-archive"
    OCI = "oci-archive"


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


def canonical_name(form: ArchiveForm, name: RepositoryName) -> RepositoryName:
    """Return the name under which a new archive stores a repository.

    ``docker.io/org/app`` becomes ``org/app``; in the Docker format, ``debian`` becomes ``library/debian``.
    """
    is_kept = form is ArchiveForm.OCI and "/" not in name
    parsed = None if is_kept or not name else parse_name(f"{name}:x")
    return name if parsed is None else parsed[0]


def aliases(name: RepositoryName) -> Iterator[RepositoryName]:
    """Iterate over the names that an archive may use for a repository, the most likely first."""
    yield name
    familiar = canonical_name(ArchiveForm.DOCKER, name)
    yield familiar
    if familiar.startswith(_OFFICIAL):
        yield RepositoryName(familiar.removeprefix(_OFFICIAL))


def full_name(name: RepositoryName, tag: Tag) -> str:
    """Return the full name of an image, such as ``docker.io/library/debian:12``.

    Raises:
        InvalidName: The name is too long, or its first part is not a valid host.
    """
    try:
        return str(parse_familiar(f"{name}:{tag}"))
    except InvalidReference as error:
        raise InvalidName(error.message) from None


def short_name(name: RepositoryName, tag: Tag) -> str:
    """Return the name that ``docker save`` writes, such as ``debian:12``.

    Raises:
        InvalidName: The name is too long, or its first part is not a valid host.
    """
    familiar = full_name(name, tag).removeprefix(f"{_HUB}/")
    unofficial = familiar.removeprefix(_OFFICIAL)
    return familiar if "/" in unofficial else unofficial


def parse_name_annotations(annotations: Mapping[str, str]) -> tuple[RepositoryName, Tag | None] | None:
    """Parse the name in the annotations of an entry of ``index.json``; ``None`` without a valid name.

    Invalid names are never used, also not as paths.
    """
    full = parse_name(annotations.get(CONTAINERD_NAME, ""))
    if full is not None:
        return full
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


def name_annotations(form: ArchiveForm, name: RepositoryName, tag: Tag) -> dict[str, str]:
    """Return the annotations that name an image in its entry of ``index.json``.

    Raises:
        InvalidName: The format of the archive cannot express the name.
    """
    if not name:
        if form is ArchiveForm.DOCKER:
            raise InvalidName(f"tag {tag}: an image in a docker archive needs a repository name such as org/app")
        return {REF_NAME: tag}
    if form is ArchiveForm.DOCKER:
        return {CONTAINERD_NAME: full_name(name, tag), REF_NAME: tag}
    return {REF_NAME: full_name(name, tag) if "/" in name else f"{name}:{tag}"}
