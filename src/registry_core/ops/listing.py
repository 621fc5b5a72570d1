"""Lists, whole or in part, with errors that say what was listed."""

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
    """The tags of a repository, lazily; arguments are checked at once.

    Args:
        repository: Whose tags.
        limit: No more than so many.
        last: Start behind this tag.
        operation: What to call it in errors.

    Raises:
        InvalidValue: The limit is negative, or ``last`` is not a tag.
    """
    reference = str(repository)
    with error_context(operation, reference):
        count = _count(limit)
        after = None if last is None else Tag(last)
        tags = repository.manifests.tags(after=after, page_size=_page(count))
        return _framed(operation, reference, map(str, tags), count)


def repositories_below(
    catalog: Catalog, base: RepositoryName, limit: int | None, last: str | None, *, operation: str
) -> Iterator[str]:
    """The repositories below a path, relative to it, lazily; arguments are checked at once.

    Args:
        catalog: The backend.
        base: The path; all repositories lie below the empty one.
        limit: No more than so many.
        last: Start behind this name, relative as well.
        operation: What to call it in errors.

    Raises:
        CatalogUnsupported: The backend does not list repositories.
        InvalidValue: The limit is negative, or ``last`` is not a name.
    """
    reference = "/".join(part for part in (catalog.registry, base) if part)
    with error_context(operation, reference):
        count = _count(limit)
        # What lies below a name sorts behind it, in ASCII order and by path components alike.
        after = (base or None) if last is None else base / RepositoryName(last)
        names = catalog.repositories(after=after, page_size=_page(count))
        below = (str(name) for name in (full.below(base) for full in names) if name)
        return _framed(operation, reference, below, count)


def _framed(operation: str, reference: str, items: Iterator[_Item], count: int | None) -> Iterator[_Item]:
    with error_context(operation, reference):
        checkpoint()
        if count == 0:
            # Nothing of what is missing is not the same as nothing at all: whoever asks for nothing is told as well.
            next(items, None)
        for item in islice(items, count):
            yield item
            checkpoint()


def _page(count: int | None) -> int | None:
    return 1 if count == 0 else count


def _count(limit: int | None) -> int | None:
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
        raise InvalidValue(f"not a limit: {limit!r:.50}")
    return limit
