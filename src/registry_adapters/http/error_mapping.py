"""Errors for responses whose status is no success: decisions without I/O."""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import Final

from registry_adapters.http.messages import Headers, Request
from registry_adapters.http.retry import TRANSIENT, retry_after
from registry_core.domain.error_bodies import error_infos, error_text, refuses_plain_http
from registry_core.domain.origin import redact_url
from registry_core.errors import (
    BlobNotFound,
    CatalogUnsupported,
    DigestMismatch,
    Forbidden,
    ImageNotFound,
    InvalidDocument,
    InvalidName,
    ProtocolError,
    RateLimited,
    RegistryError,
    RepositoryNotFound,
    ServerError,
    SizeMismatch,
    TLSError,
    TooLarge,
    TransportError,
    Unauthorized,
    Unavailable,
    Unsupported,
)

__all__ = ["error_from_response"]

_TEXT: Final = 300
_UNAVAILABLE: Final = TRANSIENT - {429, 500}
_PROXY: Final = 407
# Payment required, Forbidden, Precondition Failed (Harbor's policies), Locked, Unavailable For Legal Reasons.
_FORBIDDEN: Final = frozenset({402, 403, 412, 423, 451})
# The words for policies, quotas and immutable tags of registries that have no status or code for them: ECR, ACR,
# Artifact Registry, Nexus, Quay, GitLab. A method that is "not allowed" is no refusal by policy.
_POLICY: Final = re.compile(
    r"immutab|quota|polic(?:y|ies)|vulnerab|disallowed|storage limit|\bnot\b.{0,80}\bover(?:writ|rid)"
    r"|cannot (?:be )?(?:over(?:writ|rid)|updated|update tag)|does not allow (?:updating|redeploy)|precondition"
    r"|tag\b.{0,200}\b(?:already exists|was already pushed)"
    r"|(?:tag|image|repository|registry|artifact|manifest) is (?:locked|protected)",
    re.IGNORECASE,
)
# Words inside names mean nothing: those in quotes, references, media types, file names and URLs.
_QUOTED: Final = re.compile(r"""(?<!\w)(?:'[^']*'|"[^"]*"|`[^`]*`)(?!\w)""")
_NAME: Final = re.compile(r"\w[./:@]\w|/")
_NAME_PARTS: Final = re.compile(r"[/:@]")
# Statuses and codes with one exact meaning, which no words change.
_EXACT_STATUSES: Final = frozenset({404, 413, 415, 416})
_EXACT_CODES: Final = frozenset({"NAME_INVALID", "RANGE_INVALID"})
_INVALID: Final[dict[str, type[RegistryError]]] = {
    "NAME_INVALID": InvalidName,
    # Only a tag that fits the grammar is ever sent: the registry has a rule of its own.
    "TAG_INVALID": Forbidden,
    "MANIFEST_INVALID": InvalidDocument,
    "MANIFEST_UNVERIFIED": InvalidDocument,
}
_MISMATCHES: Final[dict[str, type[RegistryError]]] = {
    "DIGEST_INVALID": DigestMismatch,
    "SIZE_INVALID": SizeMismatch,
}
_UNKNOWN: Final[dict[str, type[RegistryError]]] = {
    "NAME_UNKNOWN": RepositoryNotFound,
    "MANIFEST_UNKNOWN": ImageNotFound,
    "BLOB_UNKNOWN": BlobNotFound,
    "MANIFEST_BLOB_UNKNOWN": BlobNotFound,
    "BLOB_UPLOAD_UNKNOWN": BlobNotFound,
}
_MISSING: Final[dict[str, type[RegistryError]]] = {
    "manifest": ImageNotFound,
    "blob": BlobNotFound,
    "repository": RepositoryNotFound,
    "upload": BlobNotFound,
}


def error_from_response(
    status: int,
    headers: Headers,
    content: bytes,
    request: Request,
    *,
    url: str = "",
    now: float | None = None,
) -> RegistryError:
    """The error for a response; its ``transport`` has the status and the registry's codes and messages.

    Args:
        status: HTTP status.
        headers: Response headers.
        content: Body as far as it was read, in any format.
        request: Request that was sent.
        url: URL that responded; by default the target of the request.
        now: Seconds since the epoch, for a ``Retry-After`` with a date.
    """
    infos = error_infos(content)
    code = next((info.code for info in infos if info.code), "")
    # The specified codes are in upper case; some servers write them in lower case.
    code = code.upper() if code.islower() else code
    target = redact_url(url or request.target)
    text = error_text(content)
    if status == _PROXY:
        text = "the proxy wants other credentials"
    message = f"{request.method} {target}: {status} {text[:_TEXT] or _phrase(status)}".rstrip()
    wait = retry_after(headers.get("retry-after"), time.time() if now is None else now)
    if wait:
        message += f" (retry after {wait:g} s)"
    if status == 400 and target.startswith("http:") and refuses_plain_http(content):
        return TLSError(
            f"{request.method} {target}: the server speaks TLS, but the request was plain http: remove plain_http",
            status=status,
            method=request.method,
            url=target,
            reference=request.reference,
        )
    transport = _transport_kind(status, code)(
        message,
        status=status,
        errors=infos,
        method=request.method,
        url=target,
        retry_after=wait,
        reference=request.reference,
        code=code,
    )
    kind = _kind(status, code, text, request)
    if kind is None:
        return transport
    known = "BLOB_UPLOAD_UNKNOWN" if kind is BlobNotFound and request.missing == "upload" else ""
    return kind(message, reference=request.reference, code=code or known, transport=transport)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _transport_kind(status: int, code: str) -> type[TransportError]:
    if status in _UNAVAILABLE:
        return Unavailable
    if status == 429 or (400 <= status < 500 and code == "TOOMANYREQUESTS"):
        return RateLimited
    return ServerError if status >= 500 else ProtocolError


def _kind(status: int, code: str, text: str, request: Request) -> type[RegistryError] | None:
    """The class of the error; ``None`` if it is a transport error only."""
    if status < 400 or status == _PROXY or status in _UNAVAILABLE or status == 429 or code == "TOOMANYREQUESTS":
        return None
    if status == 401 or (status != 403 and status < 500 and code == "UNAUTHORIZED"):
        return Unauthorized
    if status in _FORBIDDEN or (status < 500 and (code == "DENIED" or _is_policy(status, code, text, request))):
        return Forbidden
    if status == 405 or code == "UNSUPPORTED" or (status == 404 and request.missing == "catalog"):
        return CatalogUnsupported if request.missing == "catalog" else Unsupported
    if status == 404 and request.missing == "registry":
        return Unsupported
    if status >= 500:
        return None
    if code in _UNKNOWN:
        return _UNKNOWN[code]
    if status == 404:
        return _MISSING.get(request.missing, ImageNotFound)
    if status == 413:
        return TooLarge
    if code in _INVALID:
        return _INVALID[code]
    if code in _MISMATCHES and request.method in ("PUT", "PATCH", "POST"):
        return _MISMATCHES[code]
    # Registries that do not allow deletion answer 400 or 405.
    return Unsupported if status == 400 and request.method == "DELETE" else None


def _is_policy(status: int, code: str, text: str, request: Request) -> bool:
    """Return whether the registry's words say that a policy forbids the request."""
    is_exact = status in _EXACT_STATUSES or code in _EXACT_CODES or code in _UNKNOWN or code in _MISMATCHES
    if is_exact or request.missing in ("catalog", "registry"):
        return False
    return bool(_POLICY.search(_without_names(text, request)))


def _without_names(text: str, request: Request) -> str:
    """The text without the names in it, and without the parts of the request's own reference."""
    own = {part.lower() for part in _NAME_PARTS.split(request.reference)}
    words = _QUOTED.sub(" ", text).split()
    return " ".join(word for word in words if not _NAME.search(word) and word.strip(".,:;()[]").lower() not in own)
