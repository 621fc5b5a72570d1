"""Request targets, scopes and references of one repository, and checks on response headers."""

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
from registry_core.domain.origin import redact_url
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
    "ANY_SUCCESS",
    "HEAD_REFUSED",
    "RepositoryEndpoint",
    "check_digest_header",
    "coding_remark",
    "content_length",
    "digest_header",
    "is_text",
    "map_delete_errors",
    "map_store_errors",
    "status_of",
    "unproved_success",
]


class RepositoryEndpoint(msgspec.Struct, frozen=True):
    """A repository of a registry, as requests and errors name it.

    Args:
        registry: Registry as ``host[:port]``.
        name: Repository name.
    """

    registry: str
    name: RepositoryName

    def path(self, *parts: str, query: tuple[tuple[str, str], ...] = ()) -> str:
        """The request target below ``/v2/<name>/``; each part is percent-encoded.

        Raises:
            InvalidName: The repository name is empty: only layouts and memory have such a repository.
        """
        if not self.name:
            raise InvalidName("the repository name is empty; a registry needs one", reference=self.registry)
        # digests of other algorithms may have characters that mean something in a URL.
        path = "/".join([quote(part, safe=":") for part in parts])
        text = f"/v2/{quote(self.name)}/{path}"
        return f"{text}?{urlencode(query, quote_via=quote, safe='')}" if query else text

    def scopes(self, *actions: str) -> tuple[Scope, ...]:
        """The scope of some actions on this repository."""
        return (Scope.repository(self.name, actions),)

    def at(self, reference: str) -> str:
        """A tag or digest of this repository as text: ``registry/name:tag`` or ``registry/name@digest``."""
        return join_reference(self, reference)

    def __str__(self) -> str:
        """``registry/name``."""
        return f"{self.registry}/{self.name}"


# For requests that store content. Registries and proxies answer other statuses than the specified one; whether the
# content was stored is then looked up.
ANY_SUCCESS = tuple(range(200, 300))

# Statuses of registries and proxies that support GET, but not HEAD; 401, 403 and 404 apply to GET as well.
HEAD_REFUSED = frozenset({400, 405, 406, 415, 501})

_NUMBER = re.compile(r"[0-9]{1,19}")


def status_of(error: RegistryError) -> int:
    """The status of the response behind an error; 0 if there was none."""
    return error.transport.status if error.transport is not None else 0


def content_length(headers: Headers) -> int | None:
    """The value of ``Content-Length``; ``None`` if it is absent or malformed."""
    text = headers.get("Content-Length")
    return int(text) if _NUMBER.fullmatch(text) and int(text) < 2**63 else None


def digest_header(headers: Headers) -> Digest | None:
    """The value of ``Docker-Content-Digest``; ``None`` if it is absent, malformed or contradictory."""
    try:
        return Digest(headers.get("Docker-Content-Digest"))
    except InvalidDigest:
        return None


def check_digest_header(headers: Headers, digest: Digest, *, reference: str) -> None:
    """Check that ``Docker-Content-Digest`` agrees with a digest; one of another algorithm is not compared.

    Raises:
        DigestMismatch: The registry reports another digest.
    """
    claim = digest_header(headers)
    if claim is not None and claim.algorithm == digest.algorithm and claim != digest:
        raise DigestMismatch(
            f"the registry reports {claim} instead of {digest}", expected=digest, actual=claim, reference=reference
        )


def coding_remark(headers: Headers) -> str:
    """A remark on the ``Content-Encoding`` of a response, for errors about its content; empty if it has none.

    Requests ask for no content coding, and none is undone. Some servers label stored bytes with one all the same, so
    the header alone is no error: the digest decides, or the decoder of a document without a digest.
    """
    codings = [
        value.strip() for value in headers.all("Content-Encoding") if value.strip().lower() not in ("", "identity")
    ]
    return f" (the response has the Content-Encoding {', '.join(codings)!r:.60})" if codings else ""


def unproved_success(method: str, response: Response, what: str, *, reference: str) -> ProtocolError:
    """The error for an unspecified success status where a look-up did not find the content.

    Args:
        method: Method of the request.
        response: Response with that status; it may be closed.
        what: Kind of content.
        reference: Reference of the content.
    """
    url = redact_url(response.url)
    return ProtocolError(
        f"{method} {url}: unexpected status {response.status}, and a look-up did not find the {what}: check whether a "
        "proxy or a login page answered in place of the registry",
        status=response.status,
        method=method,
        url=url,
        reference=reference,
    )


def is_text(content: bytes) -> bool:
    """Return whether bytes are UTF-8: compressed bytes are not."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def map_delete_errors(what: str, reference: str) -> Iterator[None]:
    """Raise ``Unsupported`` where a registry does not delete.

    Args:
        what: Kind of content to delete.
        reference: Reference of the content.

    Raises:
        Unsupported: The registry answered 400, 405 or 501.
    """
    try:
        yield
    except RegistryError as error:
        is_unsupported = isinstance(error, Unsupported) or status_of(error) in (400, 405, 501)
        if isinstance(error, AccessDenied) or not is_unsupported:
            raise
        hint = "; delete_by_digest deletes the manifest with all its tags" if what == "tags" else ""
        raise Unsupported(
            f"the registry does not delete {what}{hint}: {error.message}",
            reference=reference,
            code=error.code,
            transport=error.transport,
        ) from error


@contextmanager
def map_store_errors(digest: Digest, reference: str) -> Iterator[None]:
    """Raise ``Unsupported`` where a registry stores nothing under other digests than sha256.

    Args:
        digest: Digest of the content that is sent.
        reference: Reference of the content.

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
