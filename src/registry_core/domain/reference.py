"""Image references in full: registry, repository, and a tag or a digest.

The short image names that people type at a Docker prompt, spelled out. Strictly opt-in: nothing else guesses.
"""

from __future__ import annotations

import re
from typing import Final, Self

import msgspec

from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.origin import Origin
from registry_core.errors import InvalidReference, InvalidValue

__all__ = ["Reference", "is_host", "join_reference", "parse_familiar", "parse_tag_or_digest"]


class Reference(msgspec.Struct, frozen=True):
    """Where an image is: ``registry.example.com:5000/org/app:v1@sha256:…``.

    Nothing is assumed: no default registry, no ``library/``, no ``latest``. The familiar short names are another
    grammar, in ``registry_core.domain.reference``.

    Args:
        registry: ``host[:port]``, recognisable as a host: with a dot, a colon or a capital letter, or ``localhost``.
        repository: The path inside the registry, not empty.
        tag: The name of a manifest there.
        digest: The digest of a manifest there; where both are given, the digest decides.

    Raises:
        InvalidReference: A part is malformed or missing.
    """

    registry: str
    repository: RepositoryName
    tag: Tag | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        """Check each part and give it its type."""
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
            raise InvalidReference(f"not a reference: {self.registry!r:.200} could be a path as well as a host")
        if not self.repository:
            raise InvalidReference("not a reference: there is no repository in it")
        for name, part in parts.items():
            msgspec.structs.force_setattr(self, name, part)

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``registry/repository[:tag][@digest]``.

        Raises:
            InvalidReference: It is anything else; the registry is never left out.
        """
        if not isinstance(text, str):
            raise InvalidReference(f"not a reference: {text!r:.300}")
        named, at, digest = text.partition("@")
        registry, slash, path = named.partition("/")
        repository, colon, tag = path.partition(":")
        if not slash or not is_host(registry):
            raise InvalidReference(f"not a reference, for it does not begin with a registry's host: {text!r:.300}")
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
        """What to ask the repository for: the digest where there is one, else the tag.

        Raises:
            InvalidReference: There is neither.
        """
        found = self.digest or self.tag
        if found is None:
            raise InvalidReference("names a repository, but neither a tag nor a digest", reference=str(self))
        return found

    def __str__(self) -> str:
        """The reference as ``parse`` reads it."""
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"


def parse_tag_or_digest(text: str) -> Tag | Digest:
    """A manifest's name within its repository: ``v1``, ``sha256:…`` or ``@sha256:…``.

    Raises:
        InvalidReference: It is empty, or more than the name within a repository.
        InvalidDigest: It has a colon or a leading ``@``, and is not a digest.
        InvalidName: It is not a tag.
    """
    if not isinstance(text, str) or not text or "/" in text or "@" in text[1:]:
        raise InvalidReference(f"neither a tag nor a digest: {text!r:.300}")
    if text.startswith("@") or ":" in text:
        return Digest(text.removeprefix("@"))
    return Tag(text)


def join_reference(repository: object, reference: str) -> str:
    """A tag or digest with its repository in front: ``registry/name:tag`` or ``registry/name@digest``.

    Args:
        repository: Repository, or its label in messages.
        reference: Tag or digest; only a ``Digest`` is joined with ``@``.
    """
    return f"{repository}{'@' if isinstance(reference, Digest) else ':'}{reference}"


def is_host(text: str) -> bool:
    """Whether the first part of a reference can only be a host, and not the beginning of a path.

    That it is well formed is another question, which ``Origin.of`` answers.
    """
    return text == "localhost" or "." in text or ":" in text or text != text.lower()


_HUB: Final = "docker.io"

_ALIASES: Final = frozenset({"docker.io", "index.docker.io"})

_OFFICIAL: Final = "library"

_LONGEST: Final = 255

_IDENTIFIER: Final = re.compile(r"[a-f0-9]{64}")


def parse_familiar(text: str) -> Reference:
    """The full reference behind a familiar name: ``debian`` is ``docker.io/library/debian:latest``.

    The first part is a host if it has a dot, a colon or a capital letter, or is ``localhost``; else the name is one
    of Docker Hub's. A name with neither tag nor digest means ``latest``.

    Raises:
        InvalidReference: It is no such name, is too long, or looks like an image identifier.
    """
    if not isinstance(text, str) or _IDENTIFIER.fullmatch(text):
        raise InvalidReference(f"not an image name: {text!r:.300}")
    first, slash, rest = text.partition("/")
    host, path = (first, rest) if slash and is_host(first.partition("@")[0]) else (_HUB, text)
    if host in _ALIASES:
        host = _HUB
        path = path if "/" in path.partition("@")[0] else f"{_OFFICIAL}/{path}"
    reference = Reference.parse(f"{host}/{path}")
    if len(f"{reference.registry}/{reference.repository}") > _LONGEST:
        raise InvalidReference(f"longer than {_LONGEST} characters: {text!r:.300}")
    if reference.tag is None and reference.digest is None:
        return Reference(reference.registry, reference.repository, Tag("latest"))
    return reference
