"""Contract of ``Catalog``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from registry_core.cancellation import CancelScope
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import CatalogUnsupported, ImageNotFound, InvalidName, Unsupported
from registry_core.ports.blob_store import BlobStore
from registry_core.ports.catalog import Catalog
from registry_core.ports.manifest_store import ManifestStore
from registry_core.testing.content import blob, push_image, put_blob
from registry_core.testing.contract.base import Can, Contract, fresh_name

__all__ = ["CatalogContract"]

# In ASCII order; some are below others, and some sort between them.
_CHILDREN = ["a", "a-b", "a/b", "a/b/c", "b", "c.d", "c_d"]


class CatalogContract(Contract):
    """A catalog returns repositories by name, and lists them."""

    def test_it_implements_the_ports(self, catalog: Catalog) -> None:
        """The stores implement their protocols, and the catalog has a name."""
        repository = catalog.repository(fresh_name())

        assert isinstance(catalog, Catalog)
        assert isinstance(repository.blobs, BlobStore)
        assert isinstance(repository.manifests, ManifestStore)
        assert catalog.registry

    def test_a_repository_has_its_name_and_registry(self, catalog: Catalog) -> None:
        """For references in errors, and to decide where to mount from."""
        name = fresh_name()

        repository = catalog.repository(name)

        assert repository.name == name
        assert repository.registry == catalog.registry

    def test_an_absent_repository_is_returned_without_io(self, catalog: Catalog) -> None:
        """I/O would raise in a cancelled scope. The repository is not created either."""
        name, other = fresh_name(), fresh_name()

        with CancelScope() as scope:
            scope.cancel()
            repository = catalog.repository(name)

        with pytest.raises(ImageNotFound):
            repository.manifests.resolve(Tag("v1"))
        push_image(catalog.repository(other), "another", tags=["v1"])
        if self.can & Can.LIST_REPOSITORIES:
            listed = list(catalog.repositories())
            assert other in listed
            assert name not in listed

    def test_a_repository_name_may_be_text(self, catalog: Catalog) -> None:
        """A malformed name is refused before any I/O."""
        assert catalog.repository("org/app").name == RepositoryName("org/app")

        with pytest.raises(InvalidName):
            catalog.repository("Org//App")

    def test_two_objects_of_one_repository_have_the_same_content(self, catalog: Catalog) -> None:
        """The content belongs to the name, not to the object."""
        name = fresh_name()
        manifest = push_image(catalog.repository(name), "shared", tags=["v1"])

        assert catalog.repository(name).manifests.get(Tag("v1")) == manifest

    def test_all_repositories_are_listed_from_the_start(self, catalog: Catalog) -> None:
        """Without ``after``: completely, each once."""
        names = [fresh_name() for _ in range(3)]
        for name in names:
            push_image(catalog.repository(name), "listed", tags=["v1"])

        if self.can & Can.LIST_REPOSITORIES:
            listed = list(catalog.repositories())
            assert self._ordered(name for name in listed if name in names) == sorted(names)
            assert len(listed) == len(set(listed))
        else:
            with pytest.raises(CatalogUnsupported):
                list(catalog.repositories())

    @pytest.mark.parametrize("page_size", [None, 1, 2, 1000])
    def test_repositories_are_listed_in_ascii_order(self, catalog: Catalog, page_size: int | None) -> None:
        """Completely, each once, for all page sizes; or the backend raises ``CatalogUnsupported``."""
        root = fresh_name()
        expected = [root / child for child in _CHILDREN]
        for name in reversed(expected):
            push_image(catalog.repository(name), "listed", tags=["v1"])

        if self.can & Can.LIST_REPOSITORIES:
            listed = names_below(root, catalog.repositories(after=root, page_size=page_size))
            assert self._ordered(listed) == expected
            assert all(isinstance(name, RepositoryName) for name in listed)
        else:
            with pytest.raises(CatalogUnsupported):
                list(catalog.repositories(page_size=page_size))

    @pytest.mark.parametrize(("after", "first"), [("a", 1), ("a/b", 3), ("a/a", 2), ("b/x", 5), ("c_d", 7), ("zz", 7)])
    def test_repositories_after_a_name(self, catalog: Catalog, after: str, first: int) -> None:
        """The name is excluded, and need not exist."""
        root = fresh_name()
        names = [root / child for child in _CHILDREN]
        for name in names:
            push_image(catalog.repository(name), "listed", tags=["v1"])

        if self.can & Can.LIST_REPOSITORIES:
            assert self._ordered(names_below(root, catalog.repositories(after=root / after))) == names[first:]
        else:
            with pytest.raises(CatalogUnsupported):
                list(catalog.repositories(after=root / after))

    def _ordered(self, names: Iterable[RepositoryName]) -> list[RepositoryName]:
        return list(names) if self.can & Can.ASCII_CATALOG else sorted(names)

    def test_nested_repositories_are_separate(self, catalog: Catalog) -> None:
        """A repository does not contain those below its path."""
        outer = catalog.repository(fresh_name())
        inner = catalog.repository(outer.name / "inner")
        push_image(outer, "outer", tags=["v1"])
        push_image(inner, "inner", tags=["v2"])

        assert list(outer.manifests.tags()) == ["v1"]
        assert list(inner.manifests.tags()) == ["v2"]

    def test_the_empty_name(self, catalog: Catalog) -> None:
        """Names a repository like any other, or is refused."""
        repository = catalog.repository(RepositoryName(""))
        content = blob(fresh_name())

        if self.can & Can.EMPTY_NAME:
            put_blob(repository, content)
            assert repository.blobs.stat(Digest.of(content)) == len(content)
        else:
            with pytest.raises((Unsupported, InvalidName)):
                put_blob(repository, content)

    def test_close_can_be_repeated(self, catalog: Catalog) -> None:
        """``close`` is idempotent."""
        put_blob(catalog.repository(fresh_name()), blob("before closing"))

        catalog.close()
        catalog.close()

        assert catalog.registry


def names_below(root: RepositoryName, names: Iterable[RepositoryName]) -> list[RepositoryName]:
    """The names up to the first one that is not below a root: a shared server may have thousands of others."""
    return list(itertools.takewhile(lambda name: name.below(root) is not None, names))
