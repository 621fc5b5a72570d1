"""Paginated lists: followed lazily to their last page; a broken pagination is an error, never a short list."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import msgspec

from registry_adapters.http.endpoint import coding_remark
from registry_adapters.http.headers import next_target
from registry_adapters.http.messages import Headers, Request
from registry_adapters.http.session import Session
from registry_core.cancellation import checkpoint
from registry_core.domain import strict_json
from registry_core.domain.error_bodies import escaped
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.origin import Origin, redact_url, resolve_url
from registry_core.domain.url_policy import TrustedHost, UrlPurpose
from registry_core.errors import (
    InvalidDocument,
    InvalidName,
    NotFound,
    ProtocolError,
    TooLarge,
    Unsupported,
    error_reference,
)

__all__ = ["PAGE_LIMIT", "Page", "list_names", "pages"]

# limits one page; a list with Link headers may have any length.
PAGE_LIMIT: Final = 8 << 20
_MAX_PAGES: Final = 10_000
# a registry that filters its lists may send some empty pages, but identical pages without end are a loop.
_MAX_IDENTICAL_PAGES: Final = 100

_log = logging.getLogger(__name__)
Name = TypeVar("Name", Tag, RepositoryName)


class Page(msgspec.Struct, frozen=True, dict=True):
    """One page of a list.

    Args:
        content: Body of the response.
        headers: Headers of the response.
        url: URL of the request.
        has_next: Whether the response links to a next page.
    """

    content: bytes
    headers: Headers
    url: str
    has_next: bool

    @cached_property
    def document(self) -> dict[str, Any]:
        """Decoded body.

        Raises:
            ProtocolError: The body is not a JSON object.
        """
        try:
            return strict_json.decode(self.content)
        except InvalidDocument as error:
            url, media_type = redact_url(self.url), escaped(self.headers.get("Content-Type"), 80)
            of_type = f" ({media_type})" if media_type else ""
            raise ProtocolError(
                f"GET {url}: the response{of_type} is not a list: {error.message}{coding_remark(self.headers)}", url=url
            ) from error

    def entries(self, key: str) -> list[Any]:
        """The entries of the list in a field of the body; ``null`` is an empty list.

        Raises:
            ProtocolError: The body is not a JSON object with such a list.
        """
        items = self.document.get(key, ())
        if items is None:
            return []
        if not isinstance(items, list):
            url = redact_url(self.url)
            raise ProtocolError(f"GET {url}: the response has no list {key!r}", url=url)
        return items


def pages(session: Session, first: Request, *, key: str) -> Iterator[Page]:
    """Iterate over the pages of a list; each page is requested when the iterator reaches it.

    The list ends with the first page without a link to a next one. It also ends with an empty page that links to a page
    that was read already, and before a page that follows an empty page and begins the list anew.

    Args:
        session: HTTP session that sends the requests.
        first: Request for the first page; the requests for further pages differ only in their target.
        key: Field of the body that holds the entries.

    Raises:
        ProtocolError: A link is malformed, leads to another list or to a page that does not exist, or the pagination
            has no end.
        TooLarge: A page is too long, or the list has too many pages.
    """
    request = first
    numbers: dict[_Address, int] = {}
    previous, identical = b"", 0
    beginning: list[Any] = []
    is_after_empty = False
    for number in range(1, _MAX_PAGES + 1):
        checkpoint()
        url = session.url_of(request.target)
        numbers[_address(url)] = number
        with error_reference(first.reference):
            try:
                response = session.fetch(request, PAGE_LIMIT, what="a page of a list")
            except (NotFound, Unsupported) as error:
                if number == 1:
                    raise
                # Callers take these errors for the absence of the whole list.
                raise ProtocolError(f"page {number} of the list is missing: {error.message}") from error
            link = next_target(response.headers.all("Link"))
            target = None if link is None else _next_target(session, first, response.url, link)
        page = Page(response.content, response.headers, url, target is not None)
        previous, identical = response.content, identical + 1 if response.content == previous else 0
        if identical == _MAX_IDENTICAL_PAGES:
            raise ProtocolError(
                f"pagination loop: {identical + 1} identical pages in a row",
                url=redact_url(url),
                reference=first.reference,
            )
        with error_reference(first.reference):
            if is_after_empty and beginning and page.entries(key)[:1] == beginning:
                return
        yield page
        if target is None:
            return
        with error_reference(first.reference):
            entries = page.entries(key)
        beginning = beginning or entries[:1]
        is_after_empty = not entries
        known = numbers.get(_address(session.url_of(target)))
        if known is not None:
            if is_after_empty:
                return
            raise ProtocolError(
                f"pagination loop: page {number} links back to page {known}",
                url=redact_url(url),
                reference=first.reference,
            )
        request = msgspec.structs.replace(request, target=target)
    raise TooLarge(f"the list has more than {_MAX_PAGES} pages", reference=first.reference)


def list_names(
    session: Session,
    first: Request,
    *,
    key: str,
    kind: type[Name],
    after: str | None,
    page_size: int | None,
) -> Iterator[Name]:
    """Iterate over the names in a list of tags or repositories.

    A list in one page is sorted here, because registries promise no order. A list in several pages keeps the
    registry's order. The result does not depend on whether the registry supports ``n`` and ``last``.

    Args:
        session: HTTP session that sends the requests.
        first: Request for the first page, without ``n`` and ``last``.
        key: Field of the response that holds the names.
        kind: Type of the names; entries that are not valid names are skipped.
        after: Start after this name.
        page_size: Page size to request.

    Raises:
        ProtocolError: The response is not such a list, or its pagination is broken.
        TooLarge: A page is too long, or the list has too many pages.
    """
    batches = _batches(session, first, key, after, page_size)
    batch, has_next = next(batches, ([], False))
    second = None if has_next else next(batches, None)
    if not has_next and second is None:
        for name in sorted({name for name in _valid(batch, kind) if after is None or name > after}):
            checkpoint()
            yield name
        return
    previous = None
    for texts, _ in chain([(batch, has_next)], [second] if second is not None else [], batches):
        for name in _valid(texts, kind):
            # some registries start a page with the last name of the page before.
            if name != previous and (after is None or not _is_at_or_before(name, after)):
                checkpoint()
                yield name
            previous = name


def _batches(
    session: Session, first: Request, key: str, after: str | None, page_size: int | None
) -> Iterator[tuple[list[str], bool]]:
    """The new entries of each page, and whether it links to a next page; followed by Link, or else by ``last``."""
    size = page_size if page_size is not None and page_size > 0 else None
    known: set[str] = set()
    for _ in range(_MAX_PAGES):
        linked = False
        count = 0
        batch: list[str] = []
        new: list[str] = []
        for page in pages(session, _with_query(first, after, size), key=key):
            with error_reference(first.reference):
                entries = page.entries(key)
            count, batch = len(entries), [name for name in entries if isinstance(name, str)]
            new = [name for name in batch if name not in known]
            linked = linked or page.has_next
            if new:
                yield new, page.has_next
        # a full page without a Link is either the end, or the registry expects a request with "last".
        if linked or size is None or count != size or not batch:
            return
        if new:
            known, after = set(batch), batch[-1]
        else:
            # The registry ignores "last". It may keep to "n" all the same, so the list is requested without it.
            after = size = None
    raise TooLarge(f"the list has more than {_MAX_PAGES} pages", reference=first.reference)


def _with_query(first: Request, after: str | None, size: int | None) -> Request:
    query = ([("n", str(size))] if size else []) + ([("last", after)] if after is not None else [])
    if not query:
        return first
    return msgspec.structs.replace(first, target=f"{first.target}?{urlencode(query, quote_via=quote, safe='')}")


_Address = tuple[str, tuple[tuple[str, str], ...]]


def _address(url: str) -> _Address:
    """A URL such that two spellings of one page are equal: ``last=`` and the order of parameters do not count."""
    base, _, query = url.partition("?")
    return unquote(base), tuple(sorted(parse_qsl(query)))


def _next_target(session: Session, first: Request, page_url: str, link: str) -> str:
    """The request target of the next page: path and query at the registry, or an absolute URL at another origin.

    Registries behind a proxy name themselves by an inner host or with another scheme. A link that differs in its origin
    alone is followed at the registry's own origin, unless the user trusts the host in the link.
    """
    target = resolve_url(page_url, link)
    origin, page_origin = Origin.of_url(target), Origin.of_url(page_url)
    parts = urlsplit(target)
    path, local = unquote(parts.path), f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    if origin not in (session.origin, page_origin) and not _is_trusted(session, origin):
        if path in {unquote(urlsplit(url).path) for url in (session.url_of(first.target), first.target)}:
            origin = session.origin
        elif path == unquote(urlsplit(page_url).path):
            origin = page_origin
    if origin == session.origin:
        return local
    # a link is checked before a request is sent to it. A page may have come through a redirect to its origin.
    session.check_url(UrlPurpose.REDIRECT if origin == page_origin else UrlPurpose.LINK, f"{origin}{local}")
    return f"{origin}{local}"


def _is_trusted(session: Session, origin: Origin) -> bool:
    """Return whether the user lists an origin, and it is not plain http where the registry has https."""
    is_weaker = (session.origin.scheme, origin.scheme) == ("https", "http")
    return not is_weaker and any(TrustedHost.parse(text).covers(origin) for text in session.settings.trusted_hosts)


def _valid(texts: list[str], kind: type[Name]) -> Iterator[Name]:
    for text in texts:
        try:
            name = kind(text)
        except InvalidName:
            _log.debug("skipped an invalid name of %d characters in a list", len(text))
            continue
        if name:
            yield name


def _is_at_or_before(name: str, after: str) -> bool:
    # Registries sort by ASCII or ignoring case; the name is dropped only if both orders agree.
    return name <= after and name.casefold() <= after.casefold()
