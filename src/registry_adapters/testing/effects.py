"""The effects of faults: each handles one request, and returns a response or drops the connection."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from registry_adapters.testing.request import FaultContext, Response
from registry_core.domain import strict_json

__all__ = [
    "bad_content_range",
    "change_status",
    "claim_length",
    "close_idle",
    "cut",
    "cut_request",
    "drip",
    "drop",
    "empty_body",
    "endless_body",
    "endless_pages",
    "expire_token",
    "flip_bit",
    "garbage",
    "hide",
    "ignore_header",
    "lose_response",
    "lose_upload",
    "move_link",
    "move_location",
    "no_mount",
    "no_referrers",
    "paging_loop",
    "redirect",
    "respond",
    "set_header",
    "stall",
    "stall_request",
    "wrong_offset",
]

_CODES: Final = {
    401: "UNAUTHORIZED",
    403: "DENIED",
    405: "UNSUPPORTED",
    429: "TOOMANYREQUESTS",
    503: "UNAVAILABLE",
}
_NOT_FOUND_CODES: Final = {"blob": "BLOB_UNKNOWN", "manifest": "MANIFEST_UNKNOWN", "upload": "BLOB_UPLOAD_UNKNOWN"}
_RANGE: Final = re.compile(r"(?P<unit>bytes )?(?P<first>[0-9]+)-(?P<last>[0-9]+)(?P<rest>.*)")
_PADDING: Final = b" " * (64 << 10)
_DRIP_SECONDS: Final = 0.05


def respond(
    context: FaultContext, *, status: int, headers: tuple[tuple[str, str], ...], content: bytes | None
) -> Response:
    """Respond with a status instead of executing the request."""
    if content is None and status >= 400:
        not_found = _NOT_FOUND_CODES.get(context.entry.endpoint, "NAME_UNKNOWN")
        code = not_found if status == 404 else _CODES.get(status, "UNKNOWN")
        content = strict_json.encode({"errors": [{"code": code, "message": "an injected fault"}]})
        headers = (("Content-Type", "application/json"), *headers)
    return context.respond(status, headers, content or b"")


def change_status(context: FaultContext, *, status: int) -> Response:
    """Execute the request, but respond with another status; a challenge keeps its own."""
    response = context.forward()
    if response.status == 401:
        context.skip()
    else:
        response.status = status
    return response


def drop(context: FaultContext, *, reset: bool) -> Response:
    """End the connection without executing the request."""
    context.drop(reset=reset)


def close_idle(context: FaultContext, *, reset: bool) -> Response:
    """End a connection that carried a request before, without executing this one."""
    if context.is_reused:
        context.drop(reset=reset)
    context.skip()
    return context.forward()


def lose_response(context: FaultContext, *, reset: bool) -> Response:
    """Execute the request, and end the connection without a response."""
    context.forward().close()
    context.drop(reset=reset)


def garbage(context: FaultContext, *, data: bytes) -> Response:
    """Send bytes that are not HTTP, and end the connection."""
    context.send(data)
    context.drop()


def cut_request(context: FaultContext, *, at: int, reset: bool) -> Response:
    """End the connection after so many bytes of the request's body."""

    def end() -> None:
        context.end_connection(reset=reset)
        raise ConnectionResetError("an injected fault")

    context.on_input(at, end)
    context.forward().close()
    context.drop(reset=reset)


def stall_request(context: FaultContext, *, seconds: float | None, at: int) -> Response:
    """Stop reading the request's body after so many bytes, for a time."""
    context.on_input(at, partial(context.stall, seconds))
    response = context.forward()
    context.drop_if_closing()
    return response


def set_header(context: FaultContext, *, name: str, value: str | None) -> Response:
    """Replace a header of the response, or remove it."""
    response = context.forward()
    if value is None:
        response.remove_header(name)
    else:
        response.set_header(name, value)
    return response


def ignore_header(context: FaultContext, *, name: str) -> Response:
    """Execute the request without one of its headers."""
    context.environ.pop(f"HTTP_{name.upper().replace('-', '_')}", None)
    return context.forward()


def expire_token(context: FaultContext) -> Response:
    """Reject the request's credentials with the challenge of the registry's authorizer, or one of our own."""
    context.environ["HTTP_AUTHORIZATION"] = "Bearer expired"
    base = context.subrequest("GET", "/v2/")
    base.close()
    if base.status == 401:
        return context.forward()
    host, scheme = context.environ.get("HTTP_HOST", ""), context.environ["wsgi.url_scheme"]
    challenge = f'Bearer realm="{scheme}://{host}/token",service="registry",error="invalid_token"'
    return respond(context, status=401, headers=(("WWW-Authenticate", challenge),), content=None)


def hide(context: FaultContext, *, status: int) -> Response:
    """Respond with a status to an anonymous request, except for those that lead to a token."""
    if "HTTP_AUTHORIZATION" in context.environ or context.entry.endpoint in ("base", "token"):
        context.skip()
        return context.forward()
    return context.respond(status)


def lose_upload(context: FaultContext) -> Response:
    """End the upload session before the request reaches it."""
    context.subrequest("DELETE", context.entry.path).close()
    return context.forward()


def wrong_offset(context: FaultContext, *, by: int) -> Response:
    """Change the end of the ``Range`` header that reports how much of an upload was received."""
    response = context.forward()
    match = _RANGE.fullmatch(response.header("Range"))
    if match is not None:
        response.set_header("Range", f"0-{max(0, int(match['last']) + by)}")
    return response


def no_mount(context: FaultContext) -> Response:
    """Start an upload session instead of mounting a blob."""
    pairs = parse_qsl(context.environ.get("QUERY_STRING", ""), keep_blank_values=True)
    context.environ["QUERY_STRING"] = urlencode([pair for pair in pairs if pair[0] not in ("mount", "from")])
    return context.forward()


def no_referrers(context: FaultContext) -> Response:
    """Respond as a registry without the referrers API."""
    if context.entry.endpoint == "referrers":
        return respond(context, status=404, headers=(), content=b"404 page not found\n")
    response = context.forward()
    response.remove_header("OCI-Subject")
    return response


def bad_content_range(context: FaultContext, *, value: str | None) -> Response:
    """Change ``Content-Range``, but not the body."""
    response = context.forward()
    match = _RANGE.fullmatch(response.header("Content-Range"))
    if match is not None:
        shifted = f"bytes {int(match['first']) + 1}-{int(match['last']) + 1}{match['rest']}"
        response.set_header("Content-Range", shifted if value is None else value)
    return response


def paging_loop(context: FaultContext) -> Response:
    """Link each page of a listing to itself."""
    response = context.forward()
    response.set_header("Link", f'<{context.entry.target}>; rel="next"')
    return response


def endless_pages(context: FaultContext) -> Response:
    """Link each page of a listing to the same page under a new URL."""
    pairs = dict(parse_qsl(context.entry.query, keep_blank_values=True))
    pairs["page"] = str(int(pairs.get("page", "1")) + 1)
    response = context.forward()
    response.set_header("Link", f'<{context.entry.path}?{urlencode(pairs)}>; rel="next"')
    return response


def move_link(context: FaultContext, *, origin: str) -> Response:
    """Change the origin of the link to the next page."""
    response = context.forward()
    link = response.header("Link")
    if link:
        response.set_header("Link", link.replace("</", f"<{origin}/", 1))
    return response


def move_location(context: FaultContext, *, origin: str) -> Response:
    """Change the origin of ``Location``."""
    response = context.forward()
    location = response.header("Location")
    if location:
        parts = urlsplit(location)
        response.set_header("Location", f"{origin}{parts.path}{'?' + parts.query if parts.query else ''}")
    return response


def redirect(context: FaultContext, *, to: str, status: int) -> Response:
    """Redirect to a URL; path and query of the request are appended if the URL has no path."""
    has_path = "://" in to and urlsplit(to).path
    return context.respond(status, [("Location", to if has_path else f"{to}{context.entry.target}")])


def cut(context: FaultContext, *, at: int, reset: bool) -> Response:
    """End the connection after so many bytes of the response's body."""

    def body(response: Response) -> Iterator[bytes]:
        for data, reaches_position in _split_at(response.original_body, at):
            if data:
                yield data
            if reaches_position:
                context.send_head()
                context.drop(reset=reset)

    return _replace_body(context, body, longer_than=at)


def stall(context: FaultContext, *, seconds: float | None, at: int | None) -> Response:
    """Stall before the response, or after so many bytes of its body."""
    if at is None:
        context.stall(seconds)
        return context.forward()

    def body(response: Response) -> Iterator[bytes]:
        for data, reaches_position in _split_at(response.original_body, at):
            if data:
                yield data
            if reaches_position:
                context.send_head()
                context.stall(seconds)

    return _replace_body(context, body, longer_than=at)


def drip(context: FaultContext, *, bytes_per_second: float) -> Response:
    """Send the body slowly."""
    chunk_size = max(1, int(bytes_per_second * _DRIP_SECONDS))

    def body(response: Response) -> Iterator[bytes]:
        released, since = False, context.releases
        for data in response.original_body:
            start = 0
            while start < len(data):
                end = len(data) if released else start + chunk_size
                yield data[start:end]
                start = end
                released = released or context.stall(chunk_size / bytes_per_second, since=since)

    return _replace_body(context, body)


def flip_bit(context: FaultContext, *, at: int | None) -> Response:
    """Flip one bit of the body, at a position or in the middle."""

    def body(response: Response) -> Iterator[bytes]:
        position = (response.length or 0) // 2 if at is None else at
        start = 0
        for data in response.original_body:
            if start <= position < start + len(data):
                changed = bytearray(data)
                changed[position - start] ^= 1
                yield bytes(changed)
            else:
                yield data
            start += len(data)

    return _replace_body(context, body, longer_than=at or 0)


def claim_length(context: FaultContext, *, by: int) -> Response:
    """Change ``Content-Length``, but not the body."""

    def body(response: Response) -> Iterator[bytes]:
        left = response.length or 0
        for data in response.original_body:
            if left:
                yield data[:left]
            else:
                context.send_head()
            if data[left:]:
                # The server would not send more than Content-Length.
                context.send(data[left:])
            left = max(0, left - len(data))
        if left:
            context.send_head()
            context.drop()

    response = _replace_body(context, body)
    if response.is_success and response.length is not None:
        response.set_header("Content-Length", str(max(0, response.length + by)))
    return response


def empty_body(context: FaultContext) -> Response:
    """Remove the body."""
    response = _replace_body(context, lambda _: iter(()))
    if response.is_success:
        response.set_header("Content-Length", "0")
    return response


def endless_body(context: FaultContext, *, claimed: int | None) -> Response:
    """Send spaces after the body until the client stops reading."""

    def body(response: Response) -> Iterator[bytes]:
        yield from response.original_body
        while True:
            context.drop_if_closing()
            yield _PADDING

    response = _replace_body(context, body)
    if response.is_success:
        response.remove_header("Content-Length")
        if claimed is not None:
            response.set_header("Content-Length", str(claimed))
    return response


def _replace_body(
    context: FaultContext, body: Callable[[Response], Iterator[bytes]], *, longer_than: int = -1
) -> Response:
    """Forward the request, and replace the body of a successful response if it is long enough."""
    response = context.forward()
    too_short = response.length is not None and response.length <= longer_than
    if not response.is_success or too_short:
        context.skip()
    elif context.method != "HEAD":
        response.body = body(response)
    return response


def _split_at(chunks: Iterable[bytes], at: int) -> Iterator[tuple[bytes, bool]]:
    """Split a body at a position: the chunk that ends there, which may be empty, is marked by ``True``."""
    left: int | None = at
    if left == 0:
        left = None
        yield b"", True
    for data in chunks:
        if left is None or len(data) < left:
            yield data, False
            left = None if left is None else left - len(data)
        else:
            yield data[:left], True
            yield data[left:], False
            left = None
