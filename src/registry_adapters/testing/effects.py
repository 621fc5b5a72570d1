"""What the faults do, but for those of bodies: each effect takes a visit and gives an answer, or nothing.

What the faults do to the bodies of answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from registry_adapters.testing.request import FaultContext, Reply
from registry_core.domain import strict_json

__all__ = [
    "answer",
    "bad_content_range",
    "change_body",
    "change_status",
    "claim_length",
    "cut",
    "cut_request",
    "drip",
    "drop",
    "empty_body",
    "endless_body",
    "endless_pages",
    "expire",
    "forget_upload",
    "garbage",
    "ignore_header",
    "lose_answer",
    "lying_offset",
    "move_location",
    "no_mount",
    "no_referrers",
    "paging_loop",
    "redirect",
    "set_header",
    "stall",
    "stall_request",
]


_CODES: Final = {
    401: "UNAUTHORIZED",
    403: "DENIED",
    405: "UNSUPPORTED",
    429: "TOOMANYREQUESTS",
    503: "UNAVAILABLE",
}

_MISSING: Final = {"blob": "BLOB_UNKNOWN", "manifest": "MANIFEST_UNKNOWN", "upload": "BLOB_UPLOAD_UNKNOWN"}

_RANGE: Final = re.compile(r"(?P<unit>bytes )?(?P<first>[0-9]+)-(?P<last>[0-9]+)(?P<rest>.*)")


def answer(visit: FaultContext, *, status: int, headers: tuple[tuple[str, str], ...], content: bytes | None) -> Reply:
    """A status instead of the proper answer."""
    if content is None and status >= 400:
        missing = _MISSING.get(visit.entry.endpoint, "NAME_UNKNOWN")
        code = missing if status == 404 else _CODES.get(status, "UNKNOWN")
        content = strict_json.encode({"errors": [{"code": code, "message": "an injected fault"}]})
        headers = (("Content-Type", "application/json"), *headers)
    return visit.answer(status, headers, content or b"")


def change_status(visit: FaultContext, *, status: int) -> Reply:
    """The proper answer under another status."""
    reply = visit.proceed()
    reply.status = status
    return reply


def drop(visit: FaultContext, *, reset: bool) -> Reply:
    """No answer."""
    visit.close_gracefully(reset=reset)


def lose_answer(visit: FaultContext, *, reset: bool) -> Reply:
    """No answer, although everything was done."""
    visit.proceed().close()
    visit.close_gracefully(reset=reset)


def garbage(visit: FaultContext, *, data: bytes) -> Reply:
    """Bytes that are not HTTP."""
    visit.send(data)
    visit.close_gracefully()


def cut_request(visit: FaultContext, *, at: int, reset: bool) -> Reply:
    """So many bytes of the request are taken, and then no more."""

    def broken_off() -> None:
        visit.let_go(reset=reset)
        raise ConnectionResetError("an injected fault")

    visit.watch_input(at, broken_off)
    visit.proceed().close()
    visit.close_gracefully(reset=reset)


def stall_request(visit: FaultContext, *, seconds: float | None, at: int) -> Reply:
    """So many bytes of the request are taken, and the rest only later."""
    visit.watch_input(at, partial(visit.wait, seconds))
    reply = visit.proceed()
    visit.demand_open()
    return reply


def set_header(visit: FaultContext, *, name: str, value: str | None) -> Reply:
    """The proper answer with a header set, or without it."""
    reply = visit.proceed()
    if value is None:
        reply.remove(name)
    else:
        reply.set(name, value)
    return reply


def ignore_header(visit: FaultContext, *, name: str) -> Reply:
    """The answer to the same request without a header."""
    visit.environ.pop(f"HTTP_{name.upper().replace('-', '_')}", None)
    return visit.proceed()


def expire(visit: FaultContext) -> Reply:
    """What the guard says to a token that is no longer good."""
    visit.environ["HTTP_AUTHORIZATION"] = "Bearer expired"
    base = visit.subrequest("GET", "/v2/")
    base.close()
    if base.status == 401:
        return visit.proceed()
    host, scheme = visit.environ.get("HTTP_HOST", ""), visit.environ["wsgi.url_scheme"]
    challenge = f'Bearer realm="{scheme}://{host}/token",service="registry",error="invalid_token"'
    return answer(visit, status=401, headers=(("WWW-Authenticate", challenge),), content=None)


def forget_upload(visit: FaultContext) -> Reply:
    """The answer about an upload that the registry has lost."""
    visit.subrequest("DELETE", visit.entry.path).close()
    return visit.proceed()


def lying_offset(visit: FaultContext, *, by: int) -> Reply:
    """The proper answer, but another count of the bytes that have come."""
    reply = visit.proceed()
    match = _RANGE.fullmatch(reply.header("Range"))
    if match is not None:
        reply.set("Range", f"0-{max(0, int(match['last']) + by)}")
    return reply


def no_mount(visit: FaultContext) -> Reply:
    """An upload begun instead of a mount."""
    pairs = parse_qsl(visit.environ.get("QUERY_STRING", ""), keep_blank_values=True)
    visit.environ["QUERY_STRING"] = urlencode([pair for pair in pairs if pair[0] not in ("mount", "from")])
    return visit.proceed()


def no_referrers(visit: FaultContext) -> Reply:
    """What a registry without a referrers API answers."""
    if visit.entry.endpoint == "referrers":
        return answer(visit, status=404, headers=(), content=b"404 page not found\n")
    reply = visit.proceed()
    reply.remove("OCI-Subject")
    return reply


def bad_content_range(visit: FaultContext, *, value: str | None) -> Reply:
    """The proper part, but said to be another one."""
    reply = visit.proceed()
    match = _RANGE.fullmatch(reply.header("Content-Range"))
    if match is not None:
        shifted = f"bytes {int(match['first']) + 1}-{int(match['last']) + 1}{match['rest']}"
        reply.set("Content-Range", shifted if value is None else value)
    return reply


def paging_loop(visit: FaultContext) -> Reply:
    """A page that is followed by itself."""
    reply = visit.proceed()
    reply.set("Link", f'<{visit.entry.target}>; rel="next"')
    return reply


def endless_pages(visit: FaultContext) -> Reply:
    """A page that is followed by another one like it, each under its own URL."""
    pairs = dict(parse_qsl(visit.entry.query, keep_blank_values=True))
    pairs["page"] = str(int(pairs.get("page", "1")) + 1)
    reply = visit.proceed()
    reply.set("Link", f'<{visit.entry.path}?{urlencode(pairs)}>; rel="next"')
    return reply


def move_location(visit: FaultContext, *, origin: str) -> Reply:
    """The proper answer, but what comes next is at another origin."""
    reply = visit.proceed()
    location = reply.header("Location")
    if location:
        parts = urlsplit(location)
        reply.set("Location", f"{origin}{parts.path}{'?' + parts.query if parts.query else ''}")
    return reply


def redirect(visit: FaultContext, *, to: str, status: int) -> Reply:
    """A redirect; to the same path and query where the address has none of its own."""
    own_path = "://" in to and urlsplit(to).path
    return visit.answer(status, [("Location", to if own_path else f"{to}{visit.entry.target}")])


_PADDING: Final = b" " * (64 << 10)

_TICK: Final = 0.05


def cut(visit: FaultContext, *, at: int, reset: bool) -> Reply:
    """So many bytes of the body, and then no more."""

    def body(reply: Reply) -> Iterator[bytes]:
        for data, is_last in _up_to(reply.proper, at):
            if data:
                yield data
            if is_last:
                visit.send_head()
                visit.close_gracefully(reset=reset)

    return _with_body(visit, body, longer_than=at)


def stall(visit: FaultContext, *, seconds: float | None, at: int | None) -> Reply:
    """Silence before the head, or after so many bytes of the body."""
    if at is None:
        visit.wait(seconds)
        return visit.proceed()

    def body(reply: Reply) -> Iterator[bytes]:
        for data, is_last in _up_to(reply.proper, at):
            if data:
                yield data
            if is_last:
                visit.send_head()
                visit.wait(seconds)

    return _with_body(visit, body, longer_than=at)


def drip(visit: FaultContext, *, bytes_per_second: float) -> Reply:
    """The body, slowly."""
    piece = max(1, int(bytes_per_second * _TICK))

    def body(reply: Reply) -> Iterator[bytes]:
        released, since = False, visit.releases
        for data in reply.proper:
            start = 0
            while start < len(data):
                end = len(data) if released else start + piece
                yield data[start:end]
                start = end
                released = released or visit.wait(piece / bytes_per_second, since=since)

    return _with_body(visit, body)


def change_body(visit: FaultContext, *, at: int | None) -> Reply:
    """One bit of the body flipped: at a position, or in the middle."""

    def body(reply: Reply) -> Iterator[bytes]:
        position = (reply.length or 0) // 2 if at is None else at
        start = 0
        for data in reply.proper:
            if start <= position < start + len(data):
                changed = bytearray(data)
                changed[position - start] ^= 1
                yield bytes(changed)
            else:
                yield data
            start += len(data)

    return _with_body(visit, body, longer_than=at or 0)


def claim_length(visit: FaultContext, *, by: int) -> Reply:
    """A body that is longer or shorter than its ``Content-Length`` says."""

    def body(reply: Reply) -> Iterator[bytes]:
        left = reply.length or 0
        for data in reply.proper:
            if left:
                yield data[:left]
            else:
                visit.send_head()
            if data[left:]:
                visit.send(data[left:])
            left = max(0, left - len(data))
        if left:
            visit.send_head()
            visit.close_gracefully()

    reply = _with_body(visit, body)
    if reply.is_success and reply.length is not None:
        reply.set("Content-Length", str(max(0, reply.length + by)))
    return reply


def empty_body(visit: FaultContext) -> Reply:
    """The proper answer without its body."""
    reply = _with_body(visit, lambda _: iter(()))
    if reply.is_success:
        reply.set("Content-Length", "0")
    return reply


def endless_body(visit: FaultContext, *, claimed: int | None) -> Reply:
    """The proper body, and then blanks for as long as anybody reads."""

    def body(reply: Reply) -> Iterator[bytes]:
        yield from reply.proper
        while True:
            visit.demand_open()
            yield _PADDING

    reply = _with_body(visit, body)
    if reply.is_success:
        reply.remove("Content-Length")
        if claimed is not None:
            reply.set("Content-Length", str(claimed))
    return reply


def _with_body(visit: FaultContext, body: Callable[[Reply], Iterator[bytes]], *, longer_than: int = -1) -> Reply:
    """The proper answer with another body made of it, where it is a success that has one of that length."""
    reply = visit.proceed()
    too_short = reply.length is not None and reply.length <= longer_than
    if not reply.is_success or too_short:
        visit.skip()
    elif visit.method != "HEAD":
        reply.body = body(reply)
    return reply


def _up_to(whole: Iterable[bytes], at: int) -> Iterator[tuple[bytes, bool]]:
    """The body in pieces; the one that ends at the position is marked, and may be empty."""
    left: int | None = at
    if left == 0:
        left = None
        yield b"", True
    for data in whole:
        if left is None or len(data) < left:
            yield data, False
            left = None if left is None else left - len(data)
        else:
            yield data[:left], True
            yield data[left:], False
            left = None
