"""Lists of tags and repositories, optionally in part."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TypeVar

from registry_core.cancellation import checkpoint
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import InvalidValue, error_context
from registry_core.ports.catalog import Catalog, Repository

__all__ = ["repositories_below", "tags_of"]

_Item = TypeVar("_Item")


def tags_of(repository: Repository, limit: int | None, last: str | None, *, operation: str) -> Iterator[str]:
    """Return an iterator over the tags of a repository; only the arguments are checked at once.

    Args:
        repository: Repository to list.
        limit: Greatest number of tags.
        last: Tag after which the list starts.
        operation: Public name of the operation, for errors.

    Raises:
        InvalidValue: ``limit`` is negative, or ``last`` is not a tag.
    """
    reference = str(repository)
    with error_context(operation, reference):
        _check_limit(limit)
        after = None if last is None else Tag(last)
        tags = repository.manifests.tags(after=after, page_size=_page_size(limit))
        return _take(operation, reference, map(str, tags), limit)


def repositories_below(
    catalog: Catalog, base: RepositoryName, limit: int | None, last: str | None, *, operation: str
) -> Iterator[str]:
    """Return an iterator over the repositories below a path, relative to it; only the arguments are checked at once.

    Args:
        catalog: Backend to list.
        base: Path; empty for all repositories.
        limit: Greatest number of names.
        last: Name after which the list starts, relative to the path.
        operation: Public name of the operation, for errors.

    Raises:
        CatalogUnsupported: The backend does not list repositories.
        InvalidValue: ``limit`` is negative, or ``last`` is not a repository name.
    """
    reference = "/".join(part for part in (catalog.registry, base) if part)
    with error_context(operation, reference):
        _check_limit(limit)
        # Names below a path sort after it, in ASCII order as well as by path components.
        after = (base or None) if last is None else base / RepositoryName(last)
        names = catalog.repositories(after=after, page_size=_page_size(limit))
        below = (str(name) for name in (full.below(base) for full in names) if name)
        return _take(operation, reference, below, limit)


def _take(operation: str, reference: str, items: Iterator[_Item], limit: int | None) -> Iterator[_Item]:
    with error_context(operation, reference):
        checkpoint()
        if limit == 0:
            # A limit of 0 still reports that the repository or the list is missing.
            next(items, None)
        for item in islice(items, limit):
            yield item
            checkpoint()


def _page_size(limit: int | None) -> int | None:
    return 1 if limit == 0 else limit


def _check_limit(limit: int | None) -> None:
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
        raise InvalidValue(f"limit must be a number of at least 0, not {limit!r:.50}")
