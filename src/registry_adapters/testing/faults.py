"""Faults to inject into a registry: values that say what goes wrong, and with which requests.

Without a restriction, a fault applies to every request that it can affect::

    status(503).times(2)
    cut(1000).on("blob").times(1)
    stall().on("manifest", method="PUT").after(3)

A fault of the response body applies to successful responses only, not to the challenge before one.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec

from registry_adapters.testing import effects
from registry_adapters.testing.matching import EndpointName, RequestMatch
from registry_adapters.testing.request import Effect
from registry_core.errors import ConfigError

__all__ = [
    "Fault",
    "bad_content_range",
    "body",
    "change_status",
    "cut",
    "cut_request",
    "drip",
    "drop",
    "empty_body",
    "endless_body",
    "endless_paging",
    "expired_token",
    "garbage",
    "hidden",
    "idle_close",
    "inner_link",
    "login_page",
    "lost_response",
    "lost_upload",
    "missing_header",
    "no_head",
    "no_mount",
    "no_range",
    "no_referrers",
    "off_origin_link",
    "off_origin_location",
    "paging_loop",
    "redirect",
    "redirect_loop",
    "set_header",
    "stall",
    "stall_request",
    "status",
    "wrong_bytes",
    "wrong_digest_header",
    "wrong_length",
    "wrong_offset",
]

_READ_METHODS: Final = ("GET", "HEAD")
_WITH_BODY: Final = RequestMatch(methods=("POST", "PATCH", "PUT"))
_LISTINGS: Final = RequestMatch(endpoints=("tags", "catalog", "referrers"), methods=("GET",))


class Fault(msgspec.Struct, frozen=True):
    """A fault: an immutable value that can be injected into any number of registries.

    Args:
        title: Description of the effect.
        effect: Function that handles the requests that the fault applies to.
        match: Conditions on the requests.
    """

    title: str
    effect: Effect
    match: RequestMatch = RequestMatch()

    def on(self, *endpoints: EndpointName, method: str = "", path: str = "", header: str = "") -> Fault:
        """Restrict the fault to certain requests. Conditions that are not given stay as they are.

        Args:
            endpoints: Endpoints of the request.
            method: Method of the request; several are separated by spaces.
            path: Regular expression to search in path and query.
            header: Name of a header that the request must have.

        Raises:
            ConfigError: An endpoint is unknown, or ``path`` is not a regular expression.
        """
        return self._restrict(
            endpoints=endpoints or self.match.endpoints,
            methods=tuple(method.split()) or self.match.methods,
            path=path or self.match.path,
            header=header or self.match.header,
        )

    def times(self, count: int) -> Fault:
        """Apply the fault to at most so many requests.

        Raises:
            ConfigError: The number is less than 1.
        """
        return self._restrict(limit=count)

    def after(self, count: int) -> Fault:
        """Leave so many matching requests alone first.

        Raises:
            ConfigError: The number is negative.
        """
        return self._restrict(skip=count)

    def every(self, number: int) -> Fault:
        """Apply the fault to every n-th matching request only.

        Raises:
            ConfigError: The number is less than 1.
        """
        return self._restrict(every=number)

    def sometimes(self, chance: float, *, seed: int = 0) -> Fault:
        """Apply the fault to random matching requests, the same in every run.

        Args:
            chance: Probability for each request, from 0 to 1.
            seed: Seed of the random numbers.

        Raises:
            ConfigError: ``chance`` is not between 0 and 1.
        """
        return self._restrict(chance=chance, seed=seed)

    def _restrict(self, **changes: object) -> Fault:
        return msgspec.structs.replace(self, match=msgspec.structs.replace(self.match, **changes))

    def __str__(self) -> str:
        """The effect, and the conditions."""
        conditions = str(self.match)
        return f"{self.title} ({conditions})" if conditions else self.title

    def __repr__(self) -> str:
        """The same in angle brackets."""
        return f"<Fault: {self}>"


def status(
    code: int,
    *,
    retry_after: float | str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    content: bytes | None = None,
) -> Fault:
    """Respond with a status; the request is not executed.

    Args:
        code: HTTP status.
        retry_after: Value of ``Retry-After``: seconds, or a date as text.
        headers: Further headers.
        content: Body; by default, an error document of the distribution-spec.

    Raises:
        ConfigError: The status is not between 200 and 599.
    """
    if not 200 <= code <= 599:
        raise ConfigError(f"fault: not a final HTTP status: {code}")
    title = f"status {code}"
    if retry_after is not None:
        text = f"{retry_after:g}" if isinstance(retry_after, int | float) else retry_after
        headers, title = (*headers, ("Retry-After", text)), f"{title}, Retry-After: {text}"
    return Fault(title, partial(effects.respond, status=code, headers=headers, content=content))


def body(content: bytes, *, media_type: str = "application/json") -> Fault:
    """Respond with status 200 and this body; the request is not executed."""
    headers = (("Content-Type", media_type),)
    return Fault(f"body {content[:20]!r}", partial(effects.respond, status=200, headers=headers, content=content))


def login_page(code: int = 200) -> Fault:
    """Respond with a web page, as captive portals and single sign-on do."""
    page = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in.</body></html>"
    headers = (("Content-Type", "text/html; charset=utf-8"),)
    title = f"login page with status {code}"
    return Fault(title, partial(effects.respond, status=code, headers=headers, content=page))


def change_status(code: int) -> Fault:
    """Execute the request, but respond with another status; a challenge (401) keeps its own."""
    return Fault(f"status changed to {code}", partial(effects.change_status, status=code))


def drop(*, reset: bool = False) -> Fault:
    """End the connection without a response; the request is not executed.

    Args:
        reset: Reset the connection instead of closing it.
    """
    return Fault(f"connection {_ended(reset)} before the request", partial(effects.drop, reset=reset))


def lost_response(*, reset: bool = False) -> Fault:
    """Execute the request, but end the connection without a response.

    Args:
        reset: Reset the connection instead of closing it.
    """
    return Fault(f"response lost, connection {_ended(reset)}", partial(effects.lose_response, reset=reset))


def idle_close(*, reset: bool = False) -> Fault:
    """End a kept connection when its next request comes, as a server does that closes idle connections.

    The request is not executed. The first request on each connection is left alone.

    Args:
        reset: Reset the connection instead of closing it.
    """
    return Fault(f"kept connection {_ended(reset)}", partial(effects.close_idle, reset=reset))


def garbage(data: bytes = b"\x16\x03\x01 this is no HTTP\r\n\r\n") -> Fault:
    """Send bytes that are not HTTP instead of a response, and close the connection."""
    return Fault("garbage instead of HTTP", partial(effects.garbage, data=data))


def cut(at: int, *, reset: bool = False) -> Fault:
    """End the connection in the middle of the response body. A shorter body is sent whole and does not count.

    Args:
        at: Number of bytes to send.
        reset: Reset the connection instead of closing it; the client may lose some of the bytes with it.
    """
    return _on_get(f"body cut at byte {at}, connection {_ended(reset)}", partial(effects.cut, at=at, reset=reset))


def cut_request(at: int, *, reset: bool = False) -> Fault:
    """End the connection in the middle of the request body, or after a shorter body; there is no response.

    Args:
        at: Number of bytes to read.
        reset: Reset the connection instead of closing it.
    """
    title = f"request cut at byte {at}, connection {_ended(reset)}"
    return Fault(title, partial(effects.cut_request, at=at, reset=reset), _WITH_BODY)


def stall(seconds: float | None = None, *, at: int | None = None) -> Fault:
    """Stop sending for a time, and continue normally.

    Args:
        seconds: Duration; ``None`` until the registry releases the request, or closes.
        at: Number of bytes of the body to send first; a shorter body is sent whole and does not count. ``None`` stalls
            before the response.
    """
    where = "before the response" if at is None else f"at byte {at}"
    duration = "" if seconds is None else f" for {seconds:g} s"
    effect = partial(effects.stall, seconds=seconds, at=at)
    title = f"stall {where}{duration}"
    return Fault(title, effect) if at is None else _on_get(title, effect)


def stall_request(at: int, *, seconds: float | None = None) -> Fault:
    """Stop reading the request body for a time, and continue normally.

    Args:
        at: Number of bytes to read first.
        seconds: Duration; ``None`` until the registry releases the request, or closes.
    """
    title = f"request stalled at byte {at}" + ("" if seconds is None else f" for {seconds:g} s")
    return Fault(title, partial(effects.stall_request, seconds=seconds, at=at), _WITH_BODY)


def drip(bytes_per_second: float) -> Fault:
    """Send the response body slowly.

    Raises:
        ConfigError: The rate is not positive.
    """
    if bytes_per_second <= 0:
        raise ConfigError(f"fault: bytes_per_second must be positive: {bytes_per_second}")
    title = f"{bytes_per_second:g} bytes per second"
    return _on_get(title, partial(effects.drip, bytes_per_second=bytes_per_second))


def set_header(name: str, value: str) -> Fault:
    """Replace a header of the response."""
    return Fault(f"{name}: {value}", partial(effects.set_header, name=name, value=value))


def missing_header(name: str) -> Fault:
    """Remove a header of the response."""
    return Fault(f"no {name}", partial(effects.set_header, name=name, value=None))


def wrong_digest_header(digest: str = f"sha256:{'0' * 64}") -> Fault:
    """Send another digest in ``Docker-Content-Digest``."""
    effect = partial(effects.set_header, name="Docker-Content-Digest", value=digest)
    match = RequestMatch(endpoints=("manifest", "blob"), methods=_READ_METHODS)
    return Fault("wrong Docker-Content-Digest", effect, match)


def wrong_bytes(at: int | None = None) -> Fault:
    """Flip one bit of the response body.

    Args:
        at: Position of the byte; ``None`` for the middle.
    """
    return _on_get("wrong bytes" if at is None else f"wrong byte {at}", partial(effects.flip_bit, at=at))


def wrong_length(by: int) -> Fault:
    """Send a ``Content-Length`` that differs from the length of the body, which is sent whole.

    Args:
        by: Difference in bytes.
    """
    match = RequestMatch(methods=_READ_METHODS)
    return Fault(f"Content-Length {by:+}", partial(effects.claim_length, by=by), match)


def empty_body() -> Fault:
    """Send the response without its body."""
    return _on_get("empty body", effects.empty_body)


def endless_body(*, claimed: int | None = None) -> Fault:
    """Send spaces after the response body until the client stops reading.

    Args:
        claimed: Value of ``Content-Length``; ``None`` omits the header.
    """
    title = "endless body" if claimed is None else f"endless body, Content-Length {claimed}"
    return _on_get(title, partial(effects.endless_body, claimed=claimed))


def expired_token() -> Fault:
    """Reject the client's token once, as if it had expired. For a registry with an authorizer."""
    return Fault("expired token", effects.expire_token, RequestMatch(header="Authorization", path="^/v2/", limit=1))


def hidden(code: int = 404) -> Fault:
    """Respond with this status to requests without ``Authorization``, except to ``/v2/`` and the token endpoint.

    Args:
        code: HTTP status.
    """
    return Fault(f"hidden by {code}", partial(effects.hide, status=code))


def lost_upload() -> Fault:
    """Lose the upload session when the next chunk arrives; with ``.on(method="PUT")`` when the upload is finished."""
    match = RequestMatch(endpoints=("upload",), methods=("PATCH",))
    return Fault("upload session lost", effects.lose_upload, match)


def wrong_offset(by: int = -1) -> Fault:
    """Report another number of received bytes for an upload session.

    Args:
        by: Difference in bytes.
    """
    match = RequestMatch(endpoints=("upload",), methods=("GET", "PATCH"))
    return Fault(f"upload offset {by:+}", partial(effects.wrong_offset, by=by), match)


def no_head() -> Fault:
    """Respond to HEAD with 405."""
    effect = partial(effects.respond, status=405, headers=(("Allow", "GET"),), content=None)
    return Fault("no HEAD", effect, RequestMatch(methods=("HEAD",)))


def no_referrers() -> Fault:
    """Respond as a registry without the referrers API."""
    return Fault("no referrers API", effects.no_referrers, RequestMatch(endpoints=("referrers", "manifest")))


def no_mount() -> Fault:
    """Start an upload session instead of mounting a blob."""
    match = RequestMatch(endpoints=("uploads",), methods=("POST",), path=r"[?&]mount=")
    return Fault("no mount", effects.no_mount, match)


def no_range() -> Fault:
    """Ignore ``Range`` and send the whole body."""
    return Fault("Range ignored", partial(effects.ignore_header, name="Range"), RequestMatch(header="Range"))


def bad_content_range(value: str | None = None) -> Fault:
    """Send the requested range with a wrong ``Content-Range``.

    Args:
        value: Value of the header; ``None`` for a range that starts one byte later.
    """
    effect = partial(effects.bad_content_range, value=value)
    return Fault("wrong Content-Range", effect, RequestMatch(header="Range"))


def paging_loop() -> Fault:
    """Link each page of a listing to itself."""
    return Fault("paging loop", effects.paging_loop, _LISTINGS)


def endless_paging() -> Fault:
    """Link each page of a listing to the same page under a new URL."""
    return Fault("endless pages", effects.endless_pages, _LISTINGS)


def inner_link(origin: str) -> Fault:
    """Name another origin in the links to next pages, such as ``http://registry:5000``; path and query stay."""
    return Fault("next page at an inner origin", partial(effects.move_link, origin=origin), _LISTINGS)


def off_origin_link(url: str) -> Fault:
    """Link each page of a listing to a URL at another origin."""
    effect = partial(effects.set_header, name="Link", value=f'<{url}>; rel="next"')
    return Fault("next page at another origin", effect, _LISTINGS)


def off_origin_location(origin: str) -> Fault:
    """Send the location of an upload session with another origin, such as ``https://other.example``."""
    effect = partial(effects.move_location, origin=origin)
    return Fault("upload location at another origin", effect, RequestMatch(endpoints=("uploads", "upload")))


def redirect(to: str, *, code: int = 307) -> Fault:
    """Redirect the request.

    Args:
        to: Target URL; path and query of the request are appended if it has no path.
        code: HTTP status.
    """
    return _on_get(f"redirect {code} to {to}", partial(effects.redirect, to=to, status=code))


def redirect_loop(*, code: int = 307) -> Fault:
    """Redirect each request to its own URL.

    Args:
        code: HTTP status.
    """
    return Fault("redirect loop", partial(effects.redirect, to="", status=code), RequestMatch(methods=_READ_METHODS))


def _on_get(title: str, effect: Effect) -> Fault:
    return Fault(title, effect, RequestMatch(methods=("GET",)))


def _ended(reset: bool) -> str:
    return "reset" if reset else "closed"
