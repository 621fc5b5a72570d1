"""Tasks and options of copies."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.image_names import TagOrName
from registry_core.domain.manifest import RawManifest
from registry_core.domain.platform import Platform
from registry_core.errors import InvalidValue
from registry_core.ops.references import ImageReference, parse_new_name, parse_reference
from registry_core.ports.catalog import Repository

__all__ = [
    "AttachedManifest",
    "CopyOptions",
    "CopyTask",
    "IndexMode",
    "as_tuple",
    "check_repositories",
    "checked_options",
]

_Item = TypeVar("_Item")


class IndexMode(enum.Enum):
    """The manifest that is stored in place of an index if only some of its entries are copied."""

    SPARSE = "sparse"
    """The index itself, with its digest; entries that were not selected are missing. Some registries refuse that."""

    REWRITTEN = "rewritten"
    """A new index, with another digest, of the selected entries only. Signatures of the old one do not match."""


class CopyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Parts of a graph to copy; by default everything a manifest consists of, and nothing that refers to it.

    The constructor accepts platforms and the index mode as text; the attributes hold the parsed values.

    Args:
        platforms: Platforms to copy, as ``linux/arm64``; attestations of the selected images are copied too, as far as
            the source has them. Without any, all entries of an index are copied.
        index_mode: Manifest to store in place of an index; required with ``platforms``. Without attestations it is
            ``REWRITTEN`` by default. It is not allowed where all entries are copied.
        attestations: Whether to copy the attestations that build tools list in an index beside its images. Some
            registries list them, but do not have them.
        referrers: Whether to copy signatures, SBOMs and other manifests that refer to a copied one, and those that
            refer to these.
        digest_tags: Whether to copy the tags that cosign names after the digest of an image: ``sha256-….sig``, ``.att``
            and ``.sbom``.
        foreign_layers: Whether to copy nondistributable layers, from their URLs if the source does not have them.
        overwrite: Whether to move a tag that points at another manifest in the target; otherwise it is kept.
        repair: Whether to look for missing children of manifests that the target has, and to copy them. Otherwise
            manifests in the target are assumed to be complete.

    Raises:
        InvalidName: A platform is malformed.
        InvalidValue: ``platforms`` is a plain string, a switch is not a boolean, ``platforms`` are given without
            ``index_mode``, or ``index_mode`` where all entries are copied.
    """

    platforms: tuple[Platform, ...] = ()
    index_mode: IndexMode | None = None
    attestations: bool = True
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
            index_mode: IndexMode | str | None = None,
            attestations: bool = True,
            referrers: bool = False,
            digest_tags: bool = False,
            foreign_layers: bool = False,
            overwrite: bool = True,
            repair: bool = False,
        ) -> None: ...

    def __post_init__(self) -> None:
        """Parse platforms and index mode, and check the types and that the index mode is given where it counts."""
        for name in ("attestations", "referrers", "digest_tags", "foreign_layers", "overwrite", "repair"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidValue(f"{name} must be True or False, not {getattr(self, name)!r:.200}")
        given: Iterable[Platform | str] = as_tuple("platforms", self.platforms)
        platforms = tuple(each if isinstance(each, Platform) else Platform.parse(each) for each in given)
        msgspec.structs.force_setattr(self, "platforms", platforms)
        if self.index_mode is not None and not isinstance(self.index_mode, IndexMode):
            try:
                msgspec.structs.force_setattr(self, "index_mode", IndexMode(self.index_mode))
            except ValueError:
                message = f"index_mode must be 'sparse' or 'rewritten', not {self.index_mode!r:.200}"
                raise InvalidValue(message) from None
        if platforms and self.index_mode is None:
            raise InvalidValue("platforms need index_mode: 'sparse' keeps the index, 'rewritten' stores a smaller one")
        if self.index_mode is not None and not self.reduces_indexes:
            raise InvalidValue(
                "index_mode needs platforms, or attestations=False: without them the whole index is copied"
            )

    @property
    def reduces_indexes(self) -> bool:
        """Whether some entries of an index are left out."""
        return bool(self.platforms) or not self.attestations


class AttachedManifest(msgspec.Struct, frozen=True):
    """A manifest that is copied after a root: a referrer, or the manifest of a digest tag.

    Args:
        descriptor: Descriptor of the manifest.
        tags: Tags or names to point at it in the target.
    """

    descriptor: Descriptor
    tags: tuple[TagOrName, ...] = ()


class CopyTask(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest to copy with everything it consists of.

    The constructor accepts text for the reference and the tags; the attributes hold the parsed values.

    Args:
        source: Repository to read from.
        target: Repository to write to.
        reference: Tag or digest of the manifest, or the manifest itself; in a layout or archive, also its name as
            written there.
        tags: Tags to point at it in the target, or names for a layout or archive; without tags it is stored under its
            digest only.
        attached: Manifests of the source to copy after it, in this order.

    Raises:
        InvalidReference: The reference is malformed.
        InvalidName: A tag is malformed.
        InvalidValue: ``tags`` is a plain string, or a side is no repository.
    """

    source: Repository
    target: Repository
    reference: ImageReference | RawManifest
    tags: tuple[TagOrName, ...] = ()
    attached: tuple[AttachedManifest, ...] = ()

    if TYPE_CHECKING:
        # As for `CopyOptions`.
        def __init__(
            self,
            *,
            source: Repository,
            target: Repository,
            reference: ImageReference | RawManifest | str,
            tags: Iterable[str] = (),
            attached: Iterable[AttachedManifest] = (),
        ) -> None: ...

    def __post_init__(self) -> None:
        """Parse the reference and the tags, and check the types of the repositories."""
        check_repositories(self.source, self.target)
        if not isinstance(self.reference, RawManifest):
            msgspec.structs.force_setattr(self, "reference", parse_reference(self.source, self.reference))
        tags = tuple(parse_new_name(self.target, tag) for tag in as_tuple("tags", self.tags))
        msgspec.structs.force_setattr(self, "tags", tags)
        msgspec.structs.force_setattr(self, "attached", as_tuple("attached", self.attached))


def check_repositories(source: object, target: object) -> None:
    """Check that both sides of a copy are repositories.

    Raises:
        InvalidValue: One is not.
    """
    for name, value in (("source", source), ("target", target)):
        if not isinstance(value, Repository):
            raise InvalidValue(
                f"{name} must be a Repository, not {type(value).__name__}; of a client, pass its attribute repository"
            )


def checked_options(options: CopyOptions | None) -> CopyOptions:
    """Return the options of a call, or the default.

    Raises:
        InvalidValue: The value is something else.
    """
    if options is not None and not isinstance(options, CopyOptions):
        raise InvalidValue(f"options must be CopyOptions, not {type(options).__name__}")
    return options or CopyOptions()


def as_tuple(field: str, values: Iterable[_Item]) -> tuple[_Item, ...]:
    """Return the items of a field that takes several.

    Args:
        field: Name of the field for messages.
        values: Items, from any iterable but a string, which would yield its letters.

    Raises:
        InvalidValue: ``values`` is a string, or cannot be iterated over.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidValue(f"{field} must be a list, not {values!r:.200}")
    return tuple(values)
