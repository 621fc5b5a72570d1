"""How errors look on the wire (distribution-spec, "Error Codes"): one table."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from registry_core.errors import (
    AccessDenied,
    BlobNotFound,
    Cancelled,
    DeadlineExceeded,
    DigestMismatch,
    ImageNotFound,
    InvalidDigest,
    InvalidDocument,
    InvalidName,
    InvalidReference,
    InvalidValue,
    NotAnImage,
    NotAnIndex,
    NotFound,
    RateLimited,
    RegistryError,
    RepositoryNotFound,
    SizeMismatch,
    TooLarge,
    TransportError,
    Unavailable,
    Unsupported,
)

__all__ = ["Refusal", "document", "refusal"]


class Refusal(Exception):
    """An answer other than success; it never leaves this package.

    Args:
        status: The HTTP status.
        code: The specification's word.
        message: For people.
        headers: What else belongs to it.
        close: Whether the connection cannot be used again.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = (*headers, ("Connection", "close")) if close else headers


# The first that fits counts: leaves stand before what they grow on. An empty message means the error's own.
_TABLE: Final[tuple[tuple[type[RegistryError], HTTPStatus, str, str], ...]] = (
    (BlobNotFound, HTTPStatus.NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to registry"),
    (RepositoryNotFound, HTTPStatus.NOT_FOUND, "NAME_UNKNOWN", "repository name not known to registry"),
    (ImageNotFound, HTTPStatus.NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown to registry"),
    (NotFound, HTTPStatus.NOT_FOUND, "MANIFEST_UNKNOWN", "not found"),
    (InvalidDigest, HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", ""),
    (InvalidName, HTTPStatus.BAD_REQUEST, "NAME_INVALID", ""),
    (InvalidReference, HTTPStatus.BAD_REQUEST, "NAME_INVALID", ""),
    (InvalidDocument, HTTPStatus.BAD_REQUEST, "MANIFEST_INVALID", ""),
    (NotAnImage, HTTPStatus.BAD_REQUEST, "MANIFEST_INVALID", ""),
    (NotAnIndex, HTTPStatus.BAD_REQUEST, "MANIFEST_INVALID", ""),
    (AccessDenied, HTTPStatus.FORBIDDEN, "DENIED", "access to the resource is denied"),
    (Unsupported, HTTPStatus.METHOD_NOT_ALLOWED, "UNSUPPORTED", ""),
    (TooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "SIZE_INVALID", ""),
    (RateLimited, HTTPStatus.TOO_MANY_REQUESTS, "TOOMANYREQUESTS", "too many requests"),
    (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE", "not available just now"),
    (Cancelled, HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE", "not available just now"),
    (DeadlineExceeded, HTTPStatus.GATEWAY_TIMEOUT, "UNAVAILABLE", "took too long"),
    (TransportError, HTTPStatus.BAD_GATEWAY, "UNAVAILABLE", "the registry behind this one failed"),
)
# What a client sent wrongly when it writes; when it reads, what is stored here is wrong, and that is our fault.
_WRITING: Final[tuple[tuple[type[RegistryError], HTTPStatus, str, str], ...]] = (
    (DigestMismatch, HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", ""),
    (SizeMismatch, HTTPStatus.BAD_REQUEST, "SIZE_INVALID", ""),
    (InvalidValue, HTTPStatus.BAD_REQUEST, "MANIFEST_INVALID", ""),
)
# Two words that an error may carry itself, instead of the one of its class.
_FINER: Final = frozenset({"TAG_INVALID", "MANIFEST_BLOB_UNKNOWN"})


def refusal(error: Exception, *, writing: bool) -> Refusal:
    """What is answered for an error; nobody learns more of the inside than the table says.

    Args:
        error: Whatever a handler raised.
        writing: Whether the request was to change something.
    """
    if isinstance(error, Refusal):
        return error
    for kind, status, code, message in _TABLE + (_WRITING if writing else ()):
        if isinstance(error, kind):
            finer = error.code if error.code in _FINER else code
            return Refusal(status, finer, (message or error.message)[:500], headers=_headers(error))
    return Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "UNKNOWN", "internal error")


def document(problem: Refusal) -> dict[str, Any]:
    """The JSON of a refusal."""
    return {"errors": [{"code": problem.code, "message": problem.message}]}


def _headers(error: RegistryError) -> tuple[tuple[str, str], ...]:
    if isinstance(error, TransportError) and error.retry_after is not None:
        return (("Retry-After", str(max(0, round(error.retry_after)))),)
    return ()
