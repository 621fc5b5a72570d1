"""What of a graph is copied.

What a transfer is given to do.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import Tag
from registry_core.domain.platform import Platform
from registry_core.domain.reference import parse_tag_or_digest
from registry_core.errors import InvalidValue
from registry_core.ports.catalog import Repository

__all__ = ["AttachedManifest", "CopyOptions", "CopyTask", "IndexMode", "tags_of"]


class IndexMode(enum.Enum):
    """What becomes of an index when only some of its platforms are copied."""

    SPARSE = "sparse"
    """It keeps its bytes and its digest; what was not chosen is simply not there. Some registries refuse that."""

    REWRITTEN = "rewritten"
    """A new index with another digest, which lists nothing but what was chosen. Signatures of the old do not fit it."""


class CopyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What of a graph is copied. By default all that it consists of, and nothing that merely refers to it.

    Args:
        platforms: Only what runs on one of these, as ``linux/arm64``; of an index, the attestations about what was
            chosen go along. Without any, the index is copied whole.
        index_mode: What the index becomes then; has to be said with platforms, and only with them.
        referrers: Whether signatures, bills of materials and whatever else refers to a manifest go along, and what
            refers to those.
        digest_tags: Whether cosign's tags go along, which say by their name what they are about: ``sha256-….sig``,
            ``.att`` and ``.sbom``.
        foreign_layers: Whether layers that may not be distributed are copied too; if the source does not have
            them, from the URLs that their descriptors name.
        overwrite: Whether a tag that stands for something else in the target is moved. If not, it is left alone.
        repair: Whether to look below manifests that the target has, and bring what is missing there. Otherwise they are
            taken to be complete.

    Raises:
        InvalidName: A text is not a platform.
        InvalidValue: Platforms without a form of the index, or a form without platforms.
    """

    platforms: tuple[Platform, ...] = ()
    index_mode: IndexMode | None = None
    referrers: bool = False
    digest_tags: bool = False
    foreign_layers: bool = False
    overwrite: bool = True
    repair: bool = False

    if TYPE_CHECKING:
        # msgspec derives the constructor from the fields; `__post_init__` accepts more than their types.
        def __init__(
            self,
            *,
            platforms: Iterable[Platform | str] = (),
            index_mode: IndexMode | None = None,
            referrers: bool = False,
            digest_tags: bool = False,
            foreign_layers: bool = False,
            overwrite: bool = True,
            repair: bool = False,
        ) -> None: ...

    def __post_init__(self) -> None:
        """Take platforms as text as well."""
        given: Iterable[Platform | str] = self.platforms
        if isinstance(given, str):
            # Taken as a collection, it would be one platform for each letter.
            raise InvalidValue(f"platforms are a list of platforms, not one text: {given!r:.200}")
        parsed = tuple(Platform.parse(each) if isinstance(each, str) else each for each in given)
        msgspec.structs.force_setattr(self, "platforms", parsed)
        if parsed and self.index_mode is None:
            raise InvalidValue("some platforms of an index: say whether it stays as it is (sparse) or is rewritten")
        if self.index_mode is not None and not parsed:
            raise InvalidValue("a form of the index without platforms: the whole index stays as it is")


class AttachedManifest(msgspec.Struct, frozen=True):
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
        attached: Manifests of the source that are copied after it, in this order.

    Raises:
        InvalidReference: The reference is malformed.
        InvalidName: A tag is malformed.
        InvalidValue: The tags are one text.
    """

    source: Repository
    target: Repository
    reference: Tag | Digest | RawManifest
    tags: tuple[Tag, ...] = ()
    attached: tuple[AttachedManifest, ...] = ()

    if TYPE_CHECKING:
        # As for `CopyOptions`.
        def __init__(
            self,
            *,
            source: Repository,
            target: Repository,
            reference: Tag | Digest | RawManifest | str,
            tags: Iterable[str] = (),
            attached: tuple[AttachedManifest, ...] = (),
        ) -> None: ...

    def __post_init__(self) -> None:
        """Take text as well."""
        if not isinstance(self.reference, Tag | Digest | RawManifest):
            msgspec.structs.force_setattr(self, "reference", parse_tag_or_digest(self.reference))
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
