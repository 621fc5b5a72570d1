"""References in the words of users: tags, digests, and names as they are written in layouts and archives."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.error_bodies import escaped
from registry_core.domain.image_names import ImageName, TagOrName, entry_name
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import REF_NAME, is_listed_manifest
from registry_core.domain.names import Tag
from registry_core.domain.reference import parse_tag_or_digest
from registry_core.errors import ImageNotFound, InvalidName, InvalidReference, InvalidValue, error_reference
from registry_core.ports.catalog import Repository
from registry_core.ports.image_names import ImageNames, NamedImage

__all__ = [
    "ImageReference",
    "describe_reference",
    "find_tag",
    "locate",
    "parse_named_target",
    "parse_new_name",
    "parse_reference",
    "parse_tag_or_name",
    "parse_target",
    "remove_name",
    "resolve",
    "store_manifest",
    "target_names",
]

# A tag, a digest, or a name as written in a layout or archive.
ImageReference = Tag | Digest | ImageName

# Characters that names have and tags do not. Text without them that is not a tag is malformed in every backend.
_NAME_SIGNS: Final = frozenset("/:@+")

# Text that begins so is a digest, perhaps a malformed one, and no name such as debian:12.
_DIGESTS: Final = ("sha256:", "sha512:")

# Image-spec annotations.md, "Pre-Defined Annotation Keys".
_GRAMMAR: Final = re.compile(r"{0}(?:/{0})*".format(r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"))

# Limits of error messages: characters of one name, and number of names.
_DESCRIBED: Final = 200
_LISTED: Final = 20
# Characters of the shortest hash, that of MD5.
_SHORTEST_HASH: Final = 32


def parse_reference(repository: Repository, text: str) -> ImageReference:
    """Parse a tag, a digest or both; the digest decides then. In a layout or archive, any other text is a name.

    The empty text means the only image of a layout or archive.

    Raises:
        InvalidValue: The text is malformed, or empty for another backend.
    """
    if isinstance(text, Tag | Digest | ImageName):
        return text
    if repository.names is None:
        return parse_tag_or_digest(text)
    try:
        parsed = parse_tag_or_digest(text)
    except InvalidValue as error:
        name = _parse_name(text)
        if name is None:
            raise error from None
        path, at, digest = name.partition("@")
        return _digest_in(digest) or name if path and at else name
    # An unknown algorithm may be the repository of a name, as in debian:12.
    is_name = isinstance(parsed, Digest) and not parsed.verifiable and "@" not in text
    return ImageName(text) if is_name else parsed


def parse_tag_or_name(repository: Repository, text: str) -> TagOrName:
    """Parse a tag to set or to remove; in a layout or archive, also a name.

    Raises:
        InvalidName: The text is neither.
    """
    if isinstance(text, Tag | ImageName):
        return text
    name = None if repository.names is None else _parse_name(text)
    if not name or name.startswith(_DIGESTS):
        return Tag(text)
    if not _GRAMMAR.fullmatch(name) and entry_name({REF_NAME: name}).tag is None:
        raise InvalidName(f"other tools cannot read this name of an image: {text!r:.200}")
    return name


def parse_target(repository: Repository, text: str) -> tuple[TagOrName | None, Digest | None]:
    """Parse a target to write to: a tag, the digest of the content itself, or both.

    Args:
        repository: Repository to write to.
        text: Tag, digest or both; in a layout or archive, also a name, with or without a digest.

    Returns:
        The tag or name to set, and the digest that the content must have; at most one of them is ``None``.

    Raises:
        InvalidValue: The text is malformed or empty.
    """
    # The only image of a layout or archive has the empty name, but nothing can be written to that name.
    reference = parse_reference(repository, text) if text else parse_tag_or_digest(text)
    if not isinstance(reference, Digest):
        _, _, digest = str(reference).partition("@")
        if digest.startswith(_DIGESTS):
            # Raises: a malformed digest must not become a part of the name.
            Digest(digest)
        return parse_tag_or_name(repository, reference if isinstance(reference, Tag) else str(reference)), None
    name, at, _ = text.partition("@")
    return (parse_tag_or_name(repository, name) if name and at else None), reference


def parse_named_target(repository: Repository, text: str) -> tuple[TagOrName, Digest | None]:
    """Parse a target that has a tag or name; a digest alone has none.

    Args:
        repository: Repository to write to.
        text: Target; see ``parse_target``.

    Returns:
        The tag or name to set, and the digest that the content must have, if the target has one.

    Raises:
        InvalidName: The text is empty, or a digest alone.
        InvalidValue: The text is malformed.
    """
    name, digest = parse_target(repository, text) if text else (None, None)
    return (Tag(text) if name is None else name), digest


def parse_new_name(repository: Repository, text: str) -> TagOrName:
    """Parse a tag to set for content whose digest is not known; in a layout or archive, also a name.

    Raises:
        InvalidName: The text is empty, or has a digest, which could not be compared.
        InvalidValue: The text is malformed.
    """
    if isinstance(text, Tag | ImageName):
        return text
    name, digest = parse_named_target(repository, text)
    return name if digest is None else Tag(text)


def target_names(repository: Repository, text: str, digest: Digest) -> tuple[TagOrName, ...]:
    """Return the tags or names to set for a target: none for the digest of the content itself.

    Args:
        repository: Repository to write to.
        text: Target; see ``parse_target``.
        digest: Digest of the content.

    Raises:
        InvalidReference: The target has another digest.
        InvalidValue: The target is malformed.
    """
    name, expected = parse_target(repository, text)
    if expected not in (None, digest):
        raise InvalidReference(f"the content has the digest {digest}; it cannot be stored as {text}")
    return () if name is None else (name,)


def describe_reference(repository: object, reference: object) -> str:
    """Return a full reference for error messages, also if the reference is malformed.

    Args:
        repository: Repository, or its name for messages.
        reference: Reference as the user gave it.
    """
    text = escaped(str(reference), _DESCRIBED)
    if not text or text.startswith("@"):
        return f"{repository}{text}"
    is_digest = ":" in text and "/" not in text and "@" not in text
    return f"{repository}{'@' if is_digest else ':'}{text}"


def locate(repository: Repository, reference: ImageReference) -> Tag | Digest:
    """Return the digest for a name, and a tag or digest itself.

    Raises:
        ImageNotFound: No image has the name, or there is no image at all.
        InvalidReference: The name is empty, and there are several images.
        LayoutError: Several images have the name.
    """
    if not isinstance(reference, ImageName):
        return reference
    names = _names(repository, reference)
    if not reference:
        with error_reference(str(repository)):
            return _only_image(names)
    try:
        return names.resolve(reference).digest
    except ImageNotFound:
        digest = _digest_in(reference)
        # In debian:12, the part after the colon is a tag.
        if digest is None or len(digest.encoded) < _SHORTEST_HASH:
            raise
        return digest


def find_tag(repository: Repository, tag: Tag) -> Tag | Digest:
    """Return a tag, or the digest of the image that has the tag in another repository of the same layout or archive.

    The images at the root of a layout or archive may belong to any repository.

    Raises:
        LayoutError: The layout or archive is malformed.
    """
    images = () if repository.names is None or repository.name else repository.names.images()
    return next((image.descriptor.digest for image in images if image.tag == tag), tag)


def resolve(repository: Repository, reference: ImageReference) -> Descriptor:
    """Return media type, digest and size of a manifest.

    Raises:
        ImageNotFound: The manifest does not exist.
        RegistryError: The backend failed.
    """
    found = locate(repository, reference) if isinstance(reference, ImageName) else reference
    return repository.manifests.resolve(found)


def store_manifest(repository: Repository, manifest: RawManifest, names: Collection[TagOrName]) -> Descriptor:
    """Store a manifest, and point tags and names at it.

    Raises:
        InvalidName: The backend has no names besides tags.
        RegistryError: The backend failed.
    """
    others = {name: _names(repository, name) for name in names if isinstance(name, ImageName)}
    descriptor = repository.manifests.put(manifest, tags=[name for name in names if isinstance(name, Tag)])
    for name, store in others.items():
        store.assign(name, descriptor)
    return descriptor


def remove_name(repository: Repository, name: TagOrName) -> None:
    """Remove a tag or name. The manifest stays.

    Raises:
        ImageNotFound: The tag or name does not exist.
        RegistryError: The backend failed.
    """
    if isinstance(name, ImageName):
        _names(repository, name).remove(name)
    else:
        repository.manifests.untag(name)


def _names(repository: Repository, name: ImageName) -> ImageNames:
    if repository.names is None:
        raise InvalidName(f"not a tag: {name!r:.200}; only layouts and archives have such names")
    return repository.names


def _parse_name(text: str) -> ImageName | None:
    if not isinstance(text, str) or text.startswith(("@", *_DIGESTS)):
        return None
    try:
        return ImageName(text) if not text or not _NAME_SIGNS.isdisjoint(text) else None
    except InvalidName:
        return None


def _digest_in(text: str) -> Digest | None:
    try:
        return Digest(text)
    except InvalidValue:
        return None


def _only_image(names: ImageNames) -> Digest:
    images = [image for image in names.images() if is_listed_manifest(image.descriptor.media_type)]
    # Referrers have entries without a name.
    found = [image for image in images if image.name] or images
    digests = {image.descriptor.digest for image in found}
    if not digests:
        raise ImageNotFound("no image in this layout or archive")
    if len(digests) > 1:
        described = sorted(map(_describe, found))
        more = f" and {len(described) - _LISTED} more" if len(described) > _LISTED else ""
        raise InvalidReference(f"several images; choose one by its name: {', '.join(described[:_LISTED])}{more}")
    return digests.pop()


def _describe(image: NamedImage) -> str:
    return escaped(image.name, _DESCRIBED) or image.descriptor.digest
