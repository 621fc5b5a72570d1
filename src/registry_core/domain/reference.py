"""Image references: the full form, and Docker's familiar short names on request."""

from __future__ import annotations

import re
from typing import Final, Self

import msgspec

from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.origin import Origin, redact_url
from registry_core.errors import InvalidReference, InvalidValue

__all__ = [
    "Reference",
    "is_host",
    "join_reference",
    "parse_familiar",
    "parse_tag_and_digest",
    "parse_tag_or_digest",
]


class Reference(msgspec.Struct, frozen=True):
    """A full image reference, such as ``registry.example.com:5000/org/app:v1@sha256:…``.

    There are no defaults: no default registry, no ``library/``, no ``latest``; see ``parse_familiar`` for those.

    Args:
        registry: ``host[:port]``: with a dot, a colon or a capital letter, or ``localhost``.
        repository: Repository name, not empty.
        tag: Tag of the manifest.
        digest: Digest of the manifest; used instead of the tag if both are given.

    Raises:
        InvalidReference: A part is malformed or missing.
    """

    registry: str
    repository: RepositoryName
    tag: Tag | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        """Parse each part."""
        try:
            Origin.of(self.registry)
            parts = {
                "repository": RepositoryName(self.repository),
                "tag": None if self.tag is None else Tag(self.tag),
                "digest": None if self.digest is None else Digest(self.digest),
            }
        except InvalidValue as error:
            raise InvalidReference(f"not a reference: {error.message}", code=error.code) from error
        if not is_host(self.registry):
            raise InvalidReference(
                f"not a reference: {self.registry!r:.200} may be a path; a registry host has a dot or a port"
            )
        if not self.repository:
            raise InvalidReference("not a reference: the repository is missing")
        for name, part in parts.items():
            msgspec.structs.force_setattr(self, name, part)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``registry/repository[:tag][@digest]``.

        Raises:
            InvalidReference: The text is malformed, or the registry is missing.
        """
        if not isinstance(text, str):
            raise InvalidReference(f"not a reference: {text!r:.300}")
        _refuse_user_information(text)
        name, at, digest = text.partition("@")
        registry, slash, path = name.partition("/")
        repository, colon, tag = path.partition(":")
        if not slash or not is_host(registry):
            raise InvalidReference(f"not a reference: {text!r:.300} does not begin with a registry host")
        try:
            return cls(
                registry,
                RepositoryName(repository),
                Tag(tag) if colon else None,
                Digest(digest) if at else None,
            )
        except InvalidReference:
            raise
        except InvalidValue as error:
            raise InvalidReference(f"not a reference: {text!r:.300}: {error.message}", code=error.code) from error

    @property
    def tag_or_digest(self) -> Tag | Digest:
        """The digest if there is one, otherwise the tag.

        Raises:
            InvalidReference: The reference has neither.
        """
        found = self.digest or self.tag
        if found is None:
            raise InvalidReference("the reference has neither a tag nor a digest", reference=str(self))
        return found

    def __str__(self) -> str:
        """Return the form that ``parse`` accepts."""
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"


def parse_tag_or_digest(text: str) -> Tag | Digest:
    """Parse a tag or a digest: ``v1``, ``sha256:…`` or ``@sha256:…``. Of ``v1@sha256:…`` the digest counts.

    Raises:
        InvalidReference: The text is empty, or also names a registry or repository.
        InvalidDigest: The text has a colon or an ``@``, but ends in no digest.
        InvalidName: The text, or the part before the ``@``, is not a tag.
    """
    tag, digest = parse_tag_and_digest(text)
    return digest or tag or Tag("")


def parse_tag_and_digest(text: str) -> tuple[Tag | None, Digest | None]:
    """Parse a tag, a digest or both: ``v1``, ``sha256:…``, ``@sha256:…`` or ``v1@sha256:…``.

    Returns:
        The tag and the digest, of which at most one is ``None``.

    Raises:
        InvalidReference: The text is empty, or also names a registry or repository.
        InvalidDigest: The text has a colon or an ``@``, but ends in no digest.
        InvalidName: The text, or the part before the ``@``, is not a tag.
    """
    if not isinstance(text, str) or not text or "/" in text or text.count("@") > 1:
        hint = "" if text else "; one is needed, such as v1 or sha256:e3b0…"
        raise InvalidReference(f"neither a tag nor a digest: {text!r:.300}{hint}")
    name, at, digest = text.rpartition("@")
    if at or ":" in text:
        return Tag(name) if name else None, Digest(digest)
    return Tag(text), None


def join_reference(repository: object, reference: str) -> str:
    """Join a repository and a tag or digest: ``registry/name:tag`` or ``registry/name@digest``.

    Args:
        repository: Repository, or its name for messages.
        reference: Tag or digest; only a ``Digest`` object is joined with ``@``.
    """
    return f"{repository}{'@' if isinstance(reference, Digest) else ':'}{reference}"


# Without a path, host:5000 would be a digest of an unknown algorithm.
_HOST: Final = re.compile(r"[^:]*(?::[0-9]{1,5})?")


def _refuse_user_information(text: str) -> None:
    """Raise an error that does not show the password of ``user:password@host``; ``name:tag@digest`` is accepted."""
    _, separator, rest = text.rpartition("://")
    host, slash, _ = rest.partition("/")
    user, at, name = host.rpartition("@")
    if at and (separator or slash or (":" in user and _HOST.fullmatch(name))):
        shown = redact_url(text) if separator else f"***@{name}"
        raise InvalidReference(f"a reference has no user information: {shown}; pass credentials by auth")


def is_host(text: str) -> bool:
    """Return whether the first part of a reference must be a host and cannot be part of a repository name.

    The host may still be malformed; ``Origin.of`` checks that.
    """
    return text == "localhost" or "." in text or ":" in text or text != text.lower()


_HUB: Final = "docker.io"

_ALIASES: Final = frozenset({"docker.io", "index.docker.io"})

_OFFICIAL: Final = "library"

_LONGEST: Final = 255

_IDENTIFIER: Final = re.compile(r"[a-f0-9]{64}")


def parse_familiar(text: str) -> Reference:
    """Parse a familiar image name as the Docker command does: ``debian`` is ``docker.io/library/debian:latest``.

    The first part is a host if it has a dot, a colon or a capital letter, or is ``localhost``; otherwise the image
    is on Docker Hub. Without tag and digest the tag is ``latest``.

    Raises:
        InvalidReference: The name is malformed, too long, or has the form of an image ID.
    """
    if not isinstance(text, str) or _IDENTIFIER.fullmatch(text):
        raise InvalidReference(f"not an image name: {text!r:.300}")
    _refuse_user_information(text)
    first, slash, rest = text.partition("/")
    host, path = (first, rest) if slash and is_host(first.partition("@")[0]) else (_HUB, text)
    if host in _ALIASES:
        host = _HUB
        path = path if "/" in path.partition("@")[0] else f"{_OFFICIAL}/{path}"
    reference = Reference.parse(f"{host}/{path}")
    if len(f"{reference.registry}/{reference.repository}") > _LONGEST:
        raise InvalidReference(f"image name is longer than {_LONGEST} characters: {text!r:.300}")
    if reference.tag is None and reference.digest is None:
        return Reference(reference.registry, reference.repository, Tag("latest"))
    return reference
