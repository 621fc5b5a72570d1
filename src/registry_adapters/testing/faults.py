"""Faults to inject into a registry: values that say what goes wrong, and for which requests.

A fault befalls every request that it is for, until it is told otherwise::

    status(503).times(2)
    cut(1000).on("blob").times(1)
    stall().on("manifest", method="PUT").after(3)

What goes wrong with a body befalls successful answers only: not the challenge that comes before one.

What a fault is: something that goes wrong, and when.
"""

from __future__ import annotations

from functools import partial

import msgspec

from registry_adapters.testing import effects
from registry_adapters.testing.matching import Endpoint, RequestMatch
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
    "login_page",
    "lost_answer",
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


class Fault(msgspec.Struct, frozen=True):
    """Something that goes wrong; a value that any number of registries can be given.

    Args:
        title: What goes wrong, in words.
        effect: What is done about a request.
        occasion: Which requests it is done to.
    """

    title: str
    effect: Effect
    occasion: RequestMatch = RequestMatch()

    def on(self, *endpoints: Endpoint, method: str = "", path: str = "", header: str = "") -> Fault:
        """The same for certain requests only; what is not said here stays as it was.

        Args:
            endpoints: What they ask for.
            method: ``GET``, ``PUT`` and so on; several with blanks between them.
            path: A regular expression to be found in path and query.
            header: A header that must be there.

        Raises:
            ConfigError: No such endpoint, or not a regular expression.
        """
        return self._for(
            endpoints=endpoints or self.occasion.endpoints,
            methods=tuple(method.split()) or self.occasion.methods,
            path=path or self.occasion.path,
            header=header or self.occasion.header,
        )

    def times(self, count: int) -> Fault:
        """The same for so many requests, and then no more.

        Raises:
            ConfigError: Not even once.
        """
        return self._for(limit=count)

    def after(self, count: int) -> Fault:
        """The same, but so many of the requests that it is for pass first.

        Raises:
            ConfigError: A negative number.
        """
        return self._for(skip=count)

    def every(self, number: int) -> Fault:
        """The same for each second, third or so of the requests that it is for.

        Raises:
            ConfigError: Not a positive number.
        """
        return self._for(every=number)

    def sometimes(self, chance: float, *, seed: int = 0) -> Fault:
        """The same by chance, from 0 to 1, alike in every run.

        Raises:
            ConfigError: Not a chance.
        """
        return self._for(chance=chance, seed=seed)

    def _for(self, **changes: object) -> Fault:
        return msgspec.structs.replace(self, occasion=msgspec.structs.replace(self.occasion, **changes))

    def __str__(self) -> str:
        """What goes wrong, and for which requests."""
        occasion = str(self.occasion)
        return f"{self.title} ({occasion})" if occasion else self.title

    def __repr__(self) -> str:
        """The same, in brackets."""
        return f"<Fault: {self}>"


def status(
    code: int,
    *,
    retry_after: float | str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    content: bytes | None = None,
) -> Fault:
    """An answer with this status instead of the proper one, which nothing is done for.

    Args:
        code: The HTTP status.
        retry_after: The header of that name: seconds, or a date as text.
        headers: Further ones.
        content: The body; an error document of the specification by default.

    Raises:
        ConfigError: Not a status that ends a request.
    """
    if not 200 <= code <= 599:
        raise ConfigError(f"not a status that ends a request: {code}")
    title = f"status {code}"
    if retry_after is not None:
        text = f"{retry_after:g}" if isinstance(retry_after, int | float) else retry_after
        headers, title = (*headers, ("Retry-After", text)), f"{title}, Retry-After: {text}"
    return Fault(title, partial(effects.answer, status=code, headers=headers, content=content))


def body(content: bytes, *, media_type: str = "application/json") -> Fault:
    """An answer with status 200 and this body instead of the proper one."""
    headers = (("Content-Type", media_type),)
    return Fault(f"body {content[:20]!r}", partial(effects.answer, status=200, headers=headers, content=content))


def login_page(code: int = 200) -> Fault:
    """A web page where an answer should be, as captive portals and single sign-on give it."""
    page = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in.</body></html>"
    headers = (("Content-Type", "text/html; charset=utf-8"),)
    title = f"login page with status {code}"
    return Fault(title, partial(effects.answer, status=code, headers=headers, content=page))


def change_status(code: int) -> Fault:
    """The proper answer, but with another status."""
    return Fault(f"answers as {code}", partial(effects.change_status, status=code))


def drop(*, reset: bool = False) -> Fault:
    """The connection ends before there is an answer, and nothing was done.

    Args:
        reset: It is reset, instead of closed in an orderly way.
    """
    return Fault(f"connection {_ended(reset)} unanswered", partial(effects.drop, reset=reset))


def lost_answer(*, reset: bool = False) -> Fault:
    """The connection ends before there is an answer, although everything was done.

    Args:
        reset: It is reset, instead of closed in an orderly way.
    """
    return Fault(f"answer lost, connection {_ended(reset)}", partial(effects.lose_answer, reset=reset))


def garbage(data: bytes = b"\x16\x03\x01 this is no HTTP\r\n\r\n") -> Fault:
    """Bytes that are not HTTP instead of an answer, and then the connection ends."""
    return Fault("garbage instead of HTTP", partial(effects.garbage, data=data))


def cut(at: int, *, reset: bool = False) -> Fault:
    """The connection ends when so many bytes of the body have been sent; a shorter body is whole, and not counted.

    Args:
        at: How many bytes.
        reset: The connection is reset, instead of closed in an orderly way; some of the bytes may be lost with it.
    """
    return _get(f"body cut at byte {at}, connection {_ended(reset)}", partial(effects.cut, at=at, reset=reset))


def cut_request(at: int, *, reset: bool = False) -> Fault:
    """The connection ends when so many bytes of the request's body have come, or all of it; there is no answer.

    Args:
        at: How many bytes.
        reset: The connection is reset, instead of closed in an orderly way.
    """
    title = f"request cut at byte {at}, connection {_ended(reset)}"
    return Fault(
        title, partial(effects.cut_request, at=at, reset=reset), RequestMatch(methods=("POST", "PATCH", "PUT"))
    )


def stall(seconds: float | None = None, *, at: int | None = None) -> Fault:
    """Silence, and then everything as it should be.

    Args:
        seconds: For how long; until the registry releases it, or ends, if ``None``.
        at: After so many bytes of the body, where it is longer; before the answer if ``None``.
    """
    where = "before the answer" if at is None else f"at byte {at}"
    length = "" if seconds is None else f" for {seconds:g} s"
    effect = partial(effects.stall, seconds=seconds, at=at)
    return Fault(f"stall {where}{length}", effect) if at is None else _get(f"stall {where}{length}", effect)


def stall_request(at: int, *, seconds: float | None = None) -> Fault:
    """The request's body is not read on after so many bytes.

    Args:
        at: How many bytes.
        seconds: For how long; until the registry releases it, or ends, if ``None``.
    """
    title = f"request not read on at byte {at}" + ("" if seconds is None else f" for {seconds:g} s")
    effect = partial(effects.stall_request, seconds=seconds, at=at)
    return Fault(title, effect, RequestMatch(methods=("POST", "PATCH", "PUT")))


def drip(bytes_per_second: float) -> Fault:
    """The body comes in drops.

    Raises:
        ConfigError: Not a positive number.
    """
    if bytes_per_second <= 0:
        raise ConfigError("a drip is faster than nothing")
    title = f"{bytes_per_second:g} bytes a second"
    return _get(title, partial(effects.drip, bytes_per_second=bytes_per_second))


def set_header(name: str, value: str) -> Fault:
    """The proper answer with a header of one's own in place of those of that name."""
    return Fault(f"{name}: {value}", partial(effects.set_header, name=name, value=value))


def missing_header(name: str) -> Fault:
    """The proper answer without a header."""
    return Fault(f"no {name}", partial(effects.set_header, name=name, value=None))


def wrong_digest_header(digest: str = f"sha256:{'0' * 64}") -> Fault:
    """Another digest in ``Docker-Content-Digest`` than that of what is answered."""
    effect = partial(effects.set_header, name="Docker-Content-Digest", value=digest)
    return Fault("wrong Docker-Content-Digest", effect, RequestMatch(endpoints=("manifest", "blob"), methods=_READ))


def wrong_bytes(at: int | None = None) -> Fault:
    """One bit of the body is flipped.

    Args:
        at: In which byte; in the middle one if ``None``.
    """
    return _get("wrong bytes" if at is None else f"wrong byte {at}", partial(effects.change_body, at=at))


def wrong_length(by: int) -> Fault:
    """``Content-Length`` says more than there is, or less; the rest comes nevertheless."""
    return Fault(f"Content-Length {by:+}", partial(effects.claim_length, by=by), RequestMatch(methods=_READ))


def empty_body() -> Fault:
    """The proper answer with nothing in it."""
    return _get("empty body", effects.empty_body)


def endless_body(*, claimed: int | None = None) -> Fault:
    """The proper body, and then blanks for as long as anybody reads.

    Args:
        claimed: What ``Content-Length`` says; none if ``None``.
    """
    title = "endless body" if claimed is None else f"body of {claimed} bytes"
    return _get(title, partial(effects.endless_body, claimed=claimed))


def expired_token() -> Fault:
    """The client's token is refused once, as if it had expired; a new one is good. For a registry with a guard."""
    return Fault("expired token", effects.expire, RequestMatch(header="Authorization", path="^/v2/", limit=1))


def lost_upload() -> Fault:
    """The registry has forgotten the upload when the next chunk comes; ``.on(method="PUT")`` when it is finished."""
    return Fault("upload forgotten", effects.forget_upload, RequestMatch(endpoints=("upload",), methods=("PATCH",)))


def wrong_offset(by: int = -1) -> Fault:
    """The registry says that so many more bytes of an upload have come than it really has; fewer, if negative."""
    effect = partial(effects.lying_offset, by=by)
    return Fault(f"upload offset {by:+}", effect, RequestMatch(endpoints=("upload",), methods=("GET", "PATCH")))


def no_head() -> Fault:
    """Nobody is told anything by HEAD."""
    headers = (("Allow", "GET"),)
    effect = partial(effects.answer, status=405, headers=headers, content=None)
    return Fault("no HEAD", effect, RequestMatch(methods=("HEAD",)))


def no_referrers() -> Fault:
    """The registry has no referrers API."""
    return Fault("no referrers API", effects.no_referrers, RequestMatch(endpoints=("referrers", "manifest")))


def no_mount() -> Fault:
    """Blobs are never mounted; an upload begins instead."""
    return Fault(
        "no mount", effects.no_mount, RequestMatch(endpoints=("uploads",), methods=("POST",), path=r"[?&]mount=")
    )


def no_range() -> Fault:
    """A range that is asked for is ignored; everything is sent."""
    return Fault("range ignored", partial(effects.ignore_header, name="Range"), RequestMatch(header="Range"))


def bad_content_range(value: str | None = None) -> Fault:
    """The right part comes, but ``Content-Range`` says that it is another one.

    Args:
        value: What it says; the next byte instead of the first if ``None``.
    """
    effect = partial(effects.bad_content_range, value=value)
    return Fault("wrong Content-Range", effect, RequestMatch(header="Range"))


def paging_loop() -> Fault:
    """Each page of a list is followed by itself."""
    return Fault("paging loop", effects.paging_loop, _LISTS)


def endless_paging() -> Fault:
    """Each page of a list is followed by one more, under a URL of its own."""
    return Fault("endless pages", effects.endless_pages, _LISTS)


def off_origin_link(url: str) -> Fault:
    """The next page of a list is said to be somewhere else."""
    effect = partial(effects.set_header, name="Link", value=f'<{url}>; rel="next"')
    return Fault("next page off origin", effect, _LISTS)


def off_origin_location(origin: str) -> Fault:
    """Uploads are said to go on at another origin, such as ``https://other.example``."""
    effect = partial(effects.move_location, origin=origin)
    return Fault("upload location off origin", effect, RequestMatch(endpoints=("uploads", "upload")))


def redirect(to: str, *, code: int = 307) -> Fault:
    """A redirect instead of the proper answer.

    Args:
        to: The URL; one without a path leads to the same path there.
        code: The HTTP status.
    """
    return _get(f"redirect {code} to {to}", partial(effects.redirect, to=to, status=code))


def redirect_loop(*, code: int = 307) -> Fault:
    """Each request is redirected to where it was made."""
    return Fault("redirect loop", partial(effects.redirect, to="", status=code), RequestMatch(methods=_READ))


_READ = ("GET", "HEAD")

_LISTS = RequestMatch(endpoints=("tags", "catalog", "referrers"), methods=("GET",))


def _get(title: str, effect: Effect) -> Fault:
    return Fault(title, effect, RequestMatch(methods=("GET",)))


def _ended(reset: bool) -> str:
    return "reset" if reset else "closed"
