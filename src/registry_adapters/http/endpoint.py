"""Where the things of one repository are found, and what may be done to them.

What an answer's head claims, and how far it is believed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from urllib.parse import quote, urlencode

import msgspec

from registry_adapters.http.messages import Headers, Response
from registry_core.domain.auth import Scope
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.domain.reference import join_reference
from registry_core.errors import (
    AccessDenied,
    DigestMismatch,
    InvalidDigest,
    InvalidName,
    ProtocolError,
    RegistryError,
    Unsupported,
)

__all__ = [
    "HEAD_REFUSED",
    "RepositoryEndpoint",
    "check_digest_header",
    "check_not_encoded",
    "content_length",
    "digest_header",
    "map_delete_errors",
    "map_store_errors",
    "status_of",
]


class RepositoryEndpoint(msgspec.Struct, frozen=True):
    """A repository as requests and messages name it.

    Args:
        registry: ``host[:port]``.
        name: Of the repository.
    """

    registry: str
    name: RepositoryName

    def path(self, *parts: str, query: tuple[tuple[str, str], ...] = ()) -> str:
        """The target of a request below ``/v2/<name>/``; what it is made of is percent-encoded.

        Raises:
            InvalidName: It is the nameless repository, which registries do not have.
        """
        if not self.name:
            raise InvalidName("a registry has no repository without a name", reference=self.registry)
        # digests of other algorithms may have characters that mean something in a URL.
        path = "/".join([quote(part, safe=":") for part in parts])
        text = f"/v2/{quote(self.name)}/{path}"
        return f"{text}?{urlencode(query, quote_via=quote, safe='')}" if query else text

    def scopes(self, *actions: str) -> tuple[Scope, ...]:
        """The right to do something here."""
        return (Scope.repository(self.name, actions),)

    def at(self, reference: str) -> str:
        """A tag or digest of this repository as text: ``registry/name:tag`` or ``registry/name@digest``."""
        return join_reference(self, reference)

    def __str__(self) -> str:
        """``registry/name``."""
        return f"{self.registry}/{self.name}"


# What registries and proxies answer that know GET, but not HEAD; a denial or a 404 is none of them.
HEAD_REFUSED = frozenset({400, 405, 406, 415, 501})

_NUMBER = re.compile(r"[0-9]{1,19}")


def status_of(error: RegistryError) -> int:
    """The status behind an error; 0 where no answer came."""
    return error.transport.status if error.transport is not None else 0


def content_length(headers: Headers) -> int | None:
    """How long the body is said to be, if that is said intelligibly."""
    text = headers.get("Content-Length")
    return int(text) if _NUMBER.fullmatch(text) and int(text) < 2**63 else None


def digest_header(headers: Headers) -> Digest | None:
    """What ``Docker-Content-Digest`` claims; a malformed or contradictory claim is none."""
    try:
        return Digest(headers.get("Docker-Content-Digest"))
    except InvalidDigest:
        return None


def check_digest_header(headers: Headers, digest: Digest, *, reference: str) -> None:
    """Whether the registry stored under the digest that was asked for.

    Another algorithm's digest contradicts nothing.

    Raises:
        DigestMismatch: It says that it has something else.
    """
    claim = digest_header(headers)
    if claim is not None and claim.algorithm == digest.algorithm and claim != digest:
        raise DigestMismatch(
            f"the registry says {claim} instead of {digest}", expected=digest, actual=claim, reference=reference
        )


def check_not_encoded(answer: Response, *, reference: str) -> None:
    """Whether the body is the content itself; what is encoded is never decoded.

    Raises:
        ProtocolError: It is encoded; the answer is closed.
    """
    codings = [
        coding.strip().lower() for value in answer.headers.all("Content-Encoding") for coding in value.split(",")
    ]
    if any(coding not in ("", "identity") for coding in codings):
        answer.close()
        raise ProtocolError(
            f"the answer is encoded as {', '.join(codings)!r:.60}, which was not asked for",
            status=answer.status,
            reference=reference,
        )


@contextmanager
def map_delete_errors(what: str, reference: str) -> Iterator[None]:
    """Report a registry that does not delete as one that cannot.

    Args:
        what: What is deleted.
        reference: Of it.

    Raises:
        Unsupported: The registry answered 400, 405 or 501.
    """
    try:
        yield
    except RegistryError as error:
        if isinstance(error, (Unsupported, AccessDenied)) or status_of(error) not in (400, 405, 501):
            raise
        raise Unsupported(
            f"the registry does not delete {what}", reference=reference, transport=error.transport
        ) from error


@contextmanager
def map_store_errors(digest: Digest, reference: str) -> Iterator[None]:
    """Report a registry that knows no digest but sha256 as one that cannot, instead of as one that got something else.

    Args:
        digest: Of the very bytes that are sent.
        reference: Of them.

    Raises:
        Unsupported: The registry answered 400, DIGEST_INVALID, to a digest of another algorithm.
    """
    try:
        yield
    except DigestMismatch as error:
        if digest.algorithm == "sha256" or status_of(error) != HTTPStatus.BAD_REQUEST:
            raise
        raise Unsupported(
            f"the registry does not store manifests under {digest.algorithm} digests",
            reference=reference,
            transport=error.transport,
        ) from error
