"""Names of images in new archives.

``docker save`` treats ``debian`` and ``library/debian`` as the same repository; image layouts keep them apart.
"""

from __future__ import annotations

import enum
from typing import Final

from registry_core.domain.image_names import EntryName, ImageName, entry_name, familiar_name
from registry_core.domain.media_types import CONTAINERD_NAME, REF_NAME
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.reference import parse_familiar
from registry_core.errors import InvalidName, InvalidReference

__all__ = ["ArchiveForm", "canonical_name", "check_name", "full_name", "name_annotations", "short_name"]

_HUB: Final = "docker.io"
_OFFICIAL: Final = "library/"


class ArchiveForm(enum.Enum):
    """Format of a new archive; the value is the scheme of its URL. For reading, the content decides."""

    DOCKER = "docker-archive"
    OCI = "oci-archive"


def canonical_name(form: ArchiveForm, name: RepositoryName) -> RepositoryName:
    """Return the name under which a new archive stores a repository.

    ``docker.io/org/app`` becomes ``org/app``; in the Docker format, ``debian`` becomes ``library/debian``.
    """
    is_kept = form is ArchiveForm.OCI and "/" not in name
    return name if is_kept else familiar_name(name)


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


def check_name(form: ArchiveForm, repository: RepositoryName, name: Tag | ImageName) -> None:
    """Check that a new archive can have a name.

    Args:
        form: Format of the archive.
        repository: Repository of a tag.
        name: Tag, or name as written.

    Raises:
        InvalidName: The format of the archive cannot express the name.
    """
    meant = entry_name({REF_NAME: name}) if isinstance(name, ImageName) else EntryName(name, repository, name)
    if meant.tag is not None:
        name_annotations(form, meant.repository, meant.tag)
    elif form is ArchiveForm.DOCKER:
        raise InvalidName(f"an image in a docker archive needs a name such as org/app:v1, not {name}")


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
