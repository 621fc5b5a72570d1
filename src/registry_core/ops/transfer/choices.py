"""What of a graph is copied."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec

from registry_core.domain.platform import Platform
from registry_core.errors import InvalidValue

__all__ = ["CopyChoices", "IndexForm"]


class IndexForm(enum.Enum):
    """What becomes of an index when only some of its platforms are copied."""

    SPARSE = "sparse"
    """It keeps its bytes and its digest; what was not chosen is simply not there. Some registries refuse that."""

    REWRITTEN = "rewritten"
    """A new index with another digest, which lists nothing but what was chosen. Signatures of the old do not fit it."""


class CopyChoices(msgspec.Struct, frozen=True, kw_only=True):
    """What of a graph is copied. By default all that it consists of, and nothing that merely refers to it.

    Args:
        platforms: Only what runs on one of these, as ``linux/arm64``; of an index, the attestations about what was
            chosen go along. Without any, the index is copied whole.
        index_form: What the index becomes then; has to be said with platforms, and only with them.
        referrers: Whether signatures, bills of materials and whatever else refers to a manifest go along, and what
            refers to those.
        digest_tags: Whether cosign's tags go along, which say by their name what they are about: ``sha256-….sig``,
            ``.att`` and ``.sbom``.
        foreign_layers: Whether layers that may not be distributed are copied too (R-032); if the source does not have
            them, from the URLs that their descriptors name.
        overwrite: Whether a tag that stands for something else in the target is moved. If not, it is left alone.
        repair: Whether to look below manifests that the target has, and bring what is missing there. Otherwise they are
            taken to be complete.

    Raises:
        InvalidName: A text is not a platform.
        InvalidValue: Platforms without a form of the index, or a form without platforms.
    """

    platforms: tuple[Platform, ...] = ()
    index_form: IndexForm | None = None
    referrers: bool = False
    digest_tags: bool = False
    foreign_layers: bool = False
    overwrite: bool = True
    repair: bool = False

    def __post_init__(self) -> None:
        """Take platforms as text as well."""
        given: Iterable[Platform | str] = self.platforms
        if isinstance(given, str):
            # Taken as a collection, it would be one platform for each letter.
            raise InvalidValue(f"platforms are a list of platforms, not one text: {given!r:.200}")
        parsed = tuple(Platform.parse(each) if isinstance(each, str) else each for each in given)
        msgspec.structs.force_setattr(self, "platforms", parsed)
        if parsed and self.index_form is None:
            raise InvalidValue("some platforms of an index: say whether it stays as it is (sparse) or is rewritten")
        if self.index_form is not None and not parsed:
            raise InvalidValue("a form of the index without platforms: the whole index stays as it is")
