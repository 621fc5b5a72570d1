"""What a transfer is given to do."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import Tag
from registry_core.domain.reference import locator
from registry_core.errors import InvalidValue
from registry_core.ports.repository import Repository

__all__ = ["CopyTask", "Follower", "tags_of"]


class Follower(msgspec.Struct, frozen=True):
    """A manifest that comes after what a task is about: a referrer, or what a digest tag stands for."""

    descriptor: Descriptor
    tags: tuple[Tag, ...] = ()


class CopyTask(msgspec.Struct, frozen=True, kw_only=True):
    """One image or index, or any other manifest with all below it, to be copied.

    Args:
        source: Where to read.
        target: Where to write.
        reference: The manifest by tag or digest, as text as well, or the manifest itself if it is at hand.
        tags: Tags to point at it in the target; with none it is stored by its digest alone.
        followers: Manifests of the source that are copied after it, in this order.

    Raises:
        InvalidReference: The reference is malformed.
        InvalidName: A tag is malformed.
        InvalidValue: The tags are one text.
    """

    source: Repository
    target: Repository
    reference: Tag | Digest | RawManifest
    tags: tuple[Tag, ...] = ()
    followers: tuple[Follower, ...] = ()

    def __post_init__(self) -> None:
        """Take text as well."""
        if not isinstance(self.reference, Tag | Digest | RawManifest):
            msgspec.structs.force_setattr(self, "reference", locator(self.reference))
        msgspec.structs.force_setattr(self, "tags", tags_of(self.tags))


def tags_of(tags: Iterable[str]) -> tuple[Tag, ...]:
    """Tags from texts.

    Raises:
        InvalidName: One is malformed.
        InvalidValue: They are one text.
    """
    if isinstance(tags, str):
        # Taken as a collection, it would be one tag for each letter.
        raise InvalidValue(f"tags are a list of tags, not one text: {tags!r:.200}")
    return tuple(Tag(tag) for tag in tags)
