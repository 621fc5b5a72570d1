"""What is there: tags, and repositories below a path."""

from __future__ import annotations

from collections.abc import Iterator

from registry_core.client.place import Place
from registry_core.ops.listing import repositories_below, tags_of

__all__ = ["ListingMethods"]


class ListingMethods(Place):
    """The part of the client that lists."""

    def list_tags(self, limit: int | None = None, last: str | None = None) -> list[str]:
        """The tags in ASCII order: all of them, or an error.

        Args:
            limit: No more than so many; the registry is asked for no more at a time. With 0 it is asked all the same,
                so that what is missing is an error.
            last: Start behind this tag, whether it exists or not.

        Raises:
            RepositoryNotFound: No such repository.
            InvalidValue: The limit is negative, or ``last`` is not a tag.
        """
        return list(tags_of(self._repository, limit, last, operation="list_tags"))

    def iter_tags(self, limit: int | None = None, last: str | None = None) -> Iterator[str]:
        """As ``list_tags``, page by page as one goes on.

        Raises:
            RepositoryNotFound: No such repository.
            InvalidValue: The limit is negative, or ``last`` is not a tag.
        """
        return tags_of(self._repository, limit, last, operation="iter_tags")

    def list_repositories(self, limit: int | None = None, last: str | None = None) -> list[str]:
        """The repositories below this path, relative to it: ``with_segment(name)`` reaches each.

        Args:
            limit: No more than so many; the registry is asked for no more at a time. With 0 it is asked all the same,
                so that what is missing is an error.
            last: Start behind this name, relative as well, whether it exists or not.

        Raises:
            CatalogUnsupported: The backend does not list repositories.
            InvalidValue: The limit is negative, or ``last`` is not a name.
        """
        return list(
            repositories_below(self._catalog, self._path.repository, limit, last, operation="list_repositories")
        )

    def iter_repositories(self, limit: int | None = None, last: str | None = None) -> Iterator[str]:
        """As ``list_repositories``, page by page as one goes on.

        Raises:
            CatalogUnsupported: The backend does not list repositories.
            InvalidValue: The limit is negative, or ``last`` is not a name.
        """
        return repositories_below(self._catalog, self._path.repository, limit, last, operation="iter_repositories")
