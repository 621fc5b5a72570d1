"""The words of error responses: the format of the distribution-spec ("Error Codes"), other JSON objects, plain text."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from registry_core.errors import ErrorInfo

__all__ = ["CONTENT_LIMIT", "error_infos", "error_text", "escaped", "refuses_plain_http"]

# Largest part of an error body that is read, in bytes.
CONTENT_LIMIT: Final = 64 << 10
_TEXT: Final = 300
_BOM: Final = b"\xef\xbb\xbf"
_ENTRIES: Final = 16
# The fields for the reason in errors of AWS, GitHub, Quay, Huawei, of OAuth2 and of RFC 9457.
_WORDS: Final = (
    "message",
    "Message",
    "error_message",
    "errorMessage",
    "error_description",
    "detail",
    "title",
    "reason",
    "error",
    "msg",
)
# In the words of Go's net/http, of nginx, Apache, Tomcat and cheroot.
_PLAIN_HTTP_REFUSED: Final = re.compile(
    rb"HTTP request to an HTTPS server|plain HTTP request was sent to HTTPS port|plain HTTP to an SSL-enabled server"
    rb"|host and port requires TLS|plain HTTP request, but this server only speaks HTTPS"
)


def error_infos(content: bytes) -> tuple[ErrorInfo, ...]:
    """The errors that a body lists (distribution-spec, "Error Codes"); empty for any other format.

    A body that was cut, because it is larger than ``CONTENT_LIMIT``, lists none.
    """
    document = _decode(content)
    entries = document.get("errors") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        return ()
    return tuple(_info(entry) for entry in entries[:_ENTRIES] if isinstance(entry, dict))


def error_text(content: bytes) -> str:
    """The reason in an error body as one line; empty if the body is HTML, no text, or larger than ``CONTENT_LIMIT``."""
    listed = "; ".join(map(_info_text, error_infos(content)))
    if listed or len(content) > CONTENT_LIMIT:
        return listed
    document = _decode(content)
    if document is None:
        return _as_line(content)
    # Google and Azure put the fields into an object under "error"; others list texts under "errors".
    places = [document]
    if isinstance(document, dict):
        errors = document.get("errors")
        places += [document.get("error"), *(errors[:1] if isinstance(errors, list) else [errors])]
    found = [each.get(name) for each in places if isinstance(each, dict) for name in _WORDS]
    found += places
    return next((escaped(text) for text in found if isinstance(text, str) and text), "")


def refuses_plain_http(content: bytes) -> bool:
    """Return whether a body, that of a 400, says that a TLS server got a plain http request."""
    return _PLAIN_HTTP_REFUSED.search(content[:CONTENT_LIMIT]) is not None


def escaped(text: str, limit: int = _TEXT) -> str:
    """Text of a server or document as one printable line for terminals and logs, cut to a limit."""
    if len(text) <= limit and text.isprintable():
        return text
    safe = "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text[:limit]
    )
    return safe if len(safe) <= limit and len(text) <= limit else safe[: limit - 1] + "…"


def _decode(content: bytes) -> Any:
    """Decode JSON; ``None`` for other content."""
    if len(content) > CONTENT_LIMIT:
        return None
    try:
        return msgspec.json.decode(content.removeprefix(_BOM))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _info(entry: dict[str, Any]) -> ErrorInfo:
    detail = entry.get("detail")
    if detail and not isinstance(detail, str):
        detail = msgspec.json.encode(detail).decode("utf-8", "replace")
    return ErrorInfo(
        code=_text(entry.get("code"), 64), message=_text(entry.get("message"), _TEXT), detail=_text(detail, _TEXT)
    )


def _info_text(info: ErrorInfo) -> str:
    """Code, message and detail of an entry. A detail that is no text repeats the request."""
    detail = "" if info.detail.startswith(("{", "[")) or info.detail in info.message else info.detail
    return ": ".join(part for part in (info.code, info.message, detail) if part)


def _as_line(content: bytes) -> str:
    """A body as one line; empty if it is HTML or no text."""
    try:
        text = content.removeprefix(_BOM).decode().strip()
    except UnicodeDecodeError:
        return ""
    return "" if text.startswith("<") else escaped(" ".join(text.split()))


def _text(value: object, limit: int) -> str:
    return escaped(value, limit) if isinstance(value, str) else ""
