"""Lists that come in pages: followed lazily to their end, or an error; never a silent first page."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from registry_adapters.http.endpoint import RegistryRequester
from registry_adapters.http.headers import next_target
from registry_adapters.http.messages import Headers, Request
from registry_core.cancellation import checkpoint
from registry_core.domain import strict_json
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.origin import Origin, redact_url, resolve_url
from registry_core.domain.url_policy import UrlPurpose, check_url
from registry_core.errors import InvalidDocument, InvalidName, ProtocolError, TooLarge, error_reference

__all__ = ["PAGE_LIMIT", "Page", "names", "pages"]

# this bounds one page; with Link pages a list may be of any length.
PAGE_LIMIT: Final = 8 << 20
_COUNT_LIMIT: Final = 10_000
# Empty pages happen where a registry filters what it lists; but one that says the same for ever has no end.
_REPEAT_LIMIT: Final = 100

_log = logging.getLogger(__name__)
Name = TypeVar("Name", Tag, RepositoryName)


class Page(msgspec.Struct, frozen=True):
    """One page of a list.

    Args:
        content: As it came.
        headers: Of the answer.
        url: Of the request.
        more: Whether the registry named a next page.
    """

    content: bytes
    headers: Headers
    url: str
    more: bool

    def mapping(self) -> dict[str, Any]:
        """The decoded document.

        Raises:
            ProtocolError: It is no JSON object.
        """
        try:
            return strict_json.decode(self.content)
        except InvalidDocument as error:
            raise ProtocolError(f"not a list: {error.message}", url=redact_url(self.url)) from error


def pages(sender: RegistryRequester, first: Request) -> Iterator[Page]:
    """The pages of a list, each fetched when it is asked for.

    Args:
        sender: Who carries the requests.
        first: The request for the first page; the others are like it, but for the target.

    Raises:
        ProtocolError: A page leads elsewhere, in a circle, or nobody knows where; or all pages are the same.
        TooLarge: A page is, or there are too many of them.
    """
    request = first
    seen: set[str] = set()
    last, repeats = b"", 0
    for _ in range(_COUNT_LIMIT):
        checkpoint()
        url = resolve_url(str(sender.origin), request.target)
        if url in seen:
            raise ProtocolError(
                f"a list that leads back to {redact_url(url)}", url=redact_url(url), reference=first.reference
            )
        seen.add(url)
        with error_reference(first.reference):
            document = sender.fetch(request, PAGE_LIMIT, what="a page of a list")
            target = next_target(document.headers.all("Link"))
            following = None if target is None else _next(sender.origin, document.url, target)
        last, repeats = document.content, repeats + 1 if document.content == last else 0
        if repeats == _REPEAT_LIMIT:
            raise ProtocolError("a list that repeats itself", url=redact_url(url), reference=first.reference)
        yield Page(document.content, document.headers, url, following is not None)
        if following is None:
            return
        request = msgspec.structs.replace(request, target=following)
    raise TooLarge(f"a list of more than {_COUNT_LIMIT} pages", reference=first.reference)


def names(
    sender: RegistryRequester, first: Request, *, key: str, kind: type[Name], after: str | None, page_size: int | None
) -> Iterator[Name]:
    """The names in a list, behind ``after``.

    A list that comes at once is sorted here, as registries promise no order; one that comes in pages keeps
    the registry's. Whether the registry honours ``n`` and ``last`` makes no difference to what is listed.

    Args:
        sender: Who carries the requests.
        first: The request for the first page, without ``n`` and ``last``.
        key: Under which they stand.
        kind: What they are; others are skipped.
        after: Start behind this name.
        page_size: How many to ask for at a time.

    Raises:
        ProtocolError: Not such a list.
        TooLarge: It is too long.
    """
    batches = _batches(sender, first, key, after, page_size)
    batch, more = next(batches, ([], False))
    second = None if more else next(batches, None)
    if not more and second is None:
        for name in sorted({name for name in _valid(batch, kind) if after is None or name > after}):
            checkpoint()
            yield name
        return
    previous = None
    for some, _ in chain([(batch, more)], [second] if second is not None else [], batches):
        for name in _valid(some, kind):
            # Some registries begin a page with the last name of the one before.
            if name != previous and (after is None or not _behind(name, after)):
                checkpoint()
                yield name
            previous = name


def _batches(
    sender: RegistryRequester, first: Request, key: str, after: str | None, page_size: int | None
) -> Iterator[tuple[list[str], bool]]:
    """Page by page what stands in it, and whether a Link names another: by Link, or else by ``last``."""
    size = page_size if page_size is not None and page_size > 0 else None
    known: set[str] = set()
    for _ in range(_COUNT_LIMIT):
        linked = False
        batch: list[str] = []
        fresh: list[str] = []
        for page in pages(sender, _asking(first, after, size)):
            batch = _strings(page, key, first.reference)
            fresh = [name for name in batch if name not in known]
            linked = linked or page.more
            if fresh:
                yield fresh, page.more
        # As many as were asked for, and no Link: that is all, or there is more behind the last one.
        if linked or not fresh or size is None or len(batch) != size:
            return
        known, after = set(batch), batch[-1]
    raise TooLarge(f"a list of more than {_COUNT_LIMIT} pages", reference=first.reference)


def _asking(first: Request, after: str | None, size: int | None) -> Request:
    query = ([("n", str(size))] if size else []) + ([("last", after)] if after is not None else [])
    if not query:
        return first
    return msgspec.structs.replace(first, target=f"{first.target}?{urlencode(query, quote_via=quote, safe='')}")


def _next(origin: Origin, url: str, target: str) -> str:
    # checked before a request is sent there.
    following = resolve_url(url, target)
    check_url(UrlPurpose.LINK, origin, following)
    return following


def _strings(page: Page, key: str, reference: str) -> list[str]:
    with error_reference(reference):
        items = page.mapping().get(key, ())
    if items is None:
        return []
    if not isinstance(items, list):
        raise ProtocolError(f"a list without {key!r}", reference=reference)
    return [item for item in items if isinstance(item, str)]


def _valid(batch: list[str], kind: type[Name]) -> Iterator[Name]:
    for text in batch:
        try:
            name = kind(text)
        except InvalidName:
            _log.debug("skipped what is no name in a list, %d characters long", len(text))
            continue
        if name:
            yield name


def _behind(name: str, after: str) -> bool:
    # Surely so, whichever of the two usual orders the registry keeps.
    return name <= after and name.casefold() <= after.casefold()
