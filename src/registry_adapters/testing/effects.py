"""What the faults do, but for those of bodies: each effect takes a visit and gives an answer, or nothing."""

from __future__ import annotations

import re
from functools import partial
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from registry_adapters.testing.visits import Reply, Visit
from registry_core.domain import wire

__all__ = [
    "answer",
    "bad_content_range",
    "change_status",
    "cut_request",
    "drop",
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


def answer(visit: Visit, *, status: int, headers: tuple[tuple[str, str], ...], content: bytes | None) -> Reply:
    """A status instead of the proper answer."""
    if content is None and status >= 400:
        missing = _MISSING.get(visit.entry.endpoint, "NAME_UNKNOWN")
        code = missing if status == 404 else _CODES.get(status, "UNKNOWN")
        content = wire.encode({"errors": [{"code": code, "message": "an injected fault"}]})
        headers = (("Content-Type", "application/json"), *headers)
    return visit.answer(status, headers, content or b"")


def change_status(visit: Visit, *, status: int) -> Reply:
    """The proper answer under another status."""
    reply = visit.proceed()
    reply.status = status
    return reply


def drop(visit: Visit, *, reset: bool) -> Reply:
    """No answer."""
    visit.hang_up(reset=reset)


def lose_answer(visit: Visit, *, reset: bool) -> Reply:
    """No answer, although everything was done."""
    visit.proceed().close()
    visit.hang_up(reset=reset)


def garbage(visit: Visit, *, data: bytes) -> Reply:
    """Bytes that are not HTTP."""
    visit.send(data)
    visit.hang_up()


def cut_request(visit: Visit, *, at: int, reset: bool) -> Reply:
    """So many bytes of the request are taken, and then no more."""

    def broken_off() -> None:
        visit.let_go(reset=reset)
        raise ConnectionResetError("an injected fault")

    visit.watch_input(at, broken_off)
    visit.proceed().close()
    visit.hang_up(reset=reset)


def stall_request(visit: Visit, *, seconds: float | None, at: int) -> Reply:
    """So many bytes of the request are taken, and the rest only later."""
    visit.watch_input(at, partial(visit.wait, seconds))
    reply = visit.proceed()
    visit.demand_open()
    return reply


def set_header(visit: Visit, *, name: str, value: str | None) -> Reply:
    """The proper answer with a header set, or without it."""
    reply = visit.proceed()
    if value is None:
        reply.remove(name)
    else:
        reply.set(name, value)
    return reply


def ignore_header(visit: Visit, *, name: str) -> Reply:
    """The answer to the same request without a header."""
    visit.environ.pop(f"HTTP_{name.upper().replace('-', '_')}", None)
    return visit.proceed()


def expire(visit: Visit) -> Reply:
    """What the guard says to a token that is no longer good."""
    visit.environ["HTTP_AUTHORIZATION"] = "Bearer expired"
    base = visit.aside("GET", "/v2/")
    base.close()
    if base.status == 401:
        return visit.proceed()
    host, scheme = visit.environ.get("HTTP_HOST", ""), visit.environ["wsgi.url_scheme"]
    challenge = f'Bearer realm="{scheme}://{host}/token",service="registry",error="invalid_token"'
    return answer(visit, status=401, headers=(("WWW-Authenticate", challenge),), content=None)


def forget_upload(visit: Visit) -> Reply:
    """The answer about an upload that the registry has lost."""
    visit.aside("DELETE", visit.entry.path).close()
    return visit.proceed()


def lying_offset(visit: Visit, *, by: int) -> Reply:
    """The proper answer, but another count of the bytes that have come."""
    reply = visit.proceed()
    match = _RANGE.fullmatch(reply.header("Range"))
    if match is not None:
        reply.set("Range", f"0-{max(0, int(match['last']) + by)}")
    return reply


def no_mount(visit: Visit) -> Reply:
    """An upload begun instead of a mount."""
    pairs = parse_qsl(visit.environ.get("QUERY_STRING", ""), keep_blank_values=True)
    visit.environ["QUERY_STRING"] = urlencode([pair for pair in pairs if pair[0] not in ("mount", "from")])
    return visit.proceed()


def no_referrers(visit: Visit) -> Reply:
    """What a registry without a referrers API answers."""
    if visit.entry.endpoint == "referrers":
        return answer(visit, status=404, headers=(), content=b"404 page not found\n")
    reply = visit.proceed()
    reply.remove("OCI-Subject")
    return reply


def bad_content_range(visit: Visit, *, value: str | None) -> Reply:
    """The proper part, but said to be another one."""
    reply = visit.proceed()
    match = _RANGE.fullmatch(reply.header("Content-Range"))
    if match is not None:
        shifted = f"bytes {int(match['first']) + 1}-{int(match['last']) + 1}{match['rest']}"
        reply.set("Content-Range", shifted if value is None else value)
    return reply


def paging_loop(visit: Visit) -> Reply:
    """A page that is followed by itself."""
    reply = visit.proceed()
    reply.set("Link", f'<{visit.entry.target}>; rel="next"')
    return reply


def endless_pages(visit: Visit) -> Reply:
    """A page that is followed by another one like it, each under its own URL."""
    pairs = dict(parse_qsl(visit.entry.query, keep_blank_values=True))
    pairs["page"] = str(int(pairs.get("page", "1")) + 1)
    reply = visit.proceed()
    reply.set("Link", f'<{visit.entry.path}?{urlencode(pairs)}>; rel="next"')
    return reply


def move_location(visit: Visit, *, origin: str) -> Reply:
    """The proper answer, but what comes next is at another origin."""
    reply = visit.proceed()
    location = reply.header("Location")
    if location:
        parts = urlsplit(location)
        reply.set("Location", f"{origin}{parts.path}{'?' + parts.query if parts.query else ''}")
    return reply


def redirect(visit: Visit, *, to: str, status: int) -> Reply:
    """A redirect; to the same path and query where the address has none of its own."""
    own_path = "://" in to and urlsplit(to).path
    return visit.answer(status, [("Location", to if own_path else f"{to}{visit.entry.target}")])
