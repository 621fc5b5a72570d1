"""What every ``Catalog`` promises."""

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

# In ASCII order, with names that lie inside, beside and between each other.
_CHILDREN = ["a", "a-b", "a/b", "a/b/c", "b", "c.d", "c_d"]


class CatalogContract(Contract):
    """A catalog lists its repositories and hands them out."""

    def test_it_is_what_it_says(self, catalog: Catalog) -> None:
        """All ports are there, and the backend has a name."""
        repository = catalog.repository(fresh_name())

        assert isinstance(catalog, Catalog)
        assert isinstance(repository.blobs, BlobStore)
        assert isinstance(repository.manifests, ManifestStore)
        assert catalog.registry

    def test_a_repository_knows_who_it_is(self, catalog: Catalog) -> None:
        """For references in errors, and to know whom it may mount from."""
        name = fresh_name()

        repository = catalog.repository(name)

        assert repository.name == name
        assert repository.registry == catalog.registry

    def test_an_absent_repository_is_handed_out_without_input_or_output(self, catalog: Catalog) -> None:
        """It would raise in a cancelled scope if it did any; and asking for it does not make it."""
        name = fresh_name()

        with CancelScope() as scope:
            scope.cancel()
            repository = catalog.repository(name)

        with pytest.raises(ImageNotFound):
            repository.manifests.resolve(Tag("v1"))
        if self.can & Can.LIST_REPOSITORIES:
            assert name not in list(catalog.repositories())

    def test_a_repository_name_may_be_text(self, catalog: Catalog) -> None:
        """Text is parsed at the door; a malformed name is refused before any I/O."""
        assert catalog.repository("org/app").name == RepositoryName("org/app")

        with pytest.raises(InvalidName):
            catalog.repository("Org//App")

    def test_two_handles_of_one_repository_see_the_same(self, catalog: Catalog) -> None:
        """A repository is where its name says, not in the object."""
        name = fresh_name()
        manifest = push_image(catalog.repository(name), "shared", tags=["v1"])

        assert catalog.repository(name).manifests.get(Tag("v1")) == manifest

    def test_all_repositories_are_listed_from_the_start(self, catalog: Catalog) -> None:
        """Without ``after``: complete and each once, among those of others."""
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
    def test_repositories_come_in_ascii_order(self, catalog: Catalog, page_size: int | None) -> None:
        """Complete, each once, whatever a page holds; or the backend says that it lists none."""
        root = fresh_name()
        expected = [root / child for child in _CHILDREN]
        for name in reversed(expected):
            push_image(catalog.repository(name), "listed", tags=["v1"])

        if self.can & Can.LIST_REPOSITORIES:
            listed = below(root, catalog.repositories(after=root, page_size=page_size))
            assert self._ordered(listed) == expected
            assert all(isinstance(name, RepositoryName) for name in listed)
        else:
            with pytest.raises(CatalogUnsupported):
                list(catalog.repositories(page_size=page_size))

    @pytest.mark.parametrize(("after", "first"), [("a", 1), ("a/b", 3), ("a/a", 2), ("b/x", 5), ("c_d", 7), ("zz", 7)])
    def test_repositories_after_a_name(self, catalog: Catalog, after: str, first: int) -> None:
        """Whether it exists or not, and without it."""
        root = fresh_name()
        names = [root / child for child in _CHILDREN]
        for name in names:
            push_image(catalog.repository(name), "listed", tags=["v1"])

        if self.can & Can.LIST_REPOSITORIES:
            assert self._ordered(below(root, catalog.repositories(after=root / after))) == names[first:]
        else:
            with pytest.raises(CatalogUnsupported):
                list(catalog.repositories(after=root / after))

    def _ordered(self, names: Iterable[RepositoryName]) -> list[RepositoryName]:
        return list(names) if self.can & Can.ASCII_CATALOG else sorted(names)

    def test_repositories_below_each_other_are_separate(self, catalog: Catalog) -> None:
        """A path is a name, not a folder of tags."""
        outer = catalog.repository(fresh_name())
        inner = catalog.repository(outer.name / "inner")
        push_image(outer, "outer", tags=["v1"])
        push_image(inner, "inner", tags=["v2"])

        assert list(outer.manifests.tags()) == ["v1"]
        assert list(inner.manifests.tags()) == ["v2"]

    def test_the_empty_name(self, catalog: Catalog) -> None:
        """A repository like any other, or refused."""
        repository = catalog.repository(RepositoryName(""))
        content = blob(fresh_name())

        if self.can & Can.EMPTY_NAME:
            put_blob(repository, content)
            assert repository.blobs.stat(Digest.of(content)) == len(content)
        else:
            with pytest.raises((Unsupported, InvalidName)):
                put_blob(repository, content)

    def test_close_can_be_repeated(self, catalog: Catalog) -> None:
        """Whoever is last turns off the lights, and nobody knows who that is."""
        put_blob(catalog.repository(fresh_name()), blob("before closing"))

        catalog.close()
        catalog.close()

        assert catalog.registry


def below(root: RepositoryName, names: Iterable[RepositoryName]) -> list[RepositoryName]:
    """Names as they come, until one does not lie below a root: a shared server may have thousands of others."""
    return list(itertools.takewhile(lambda name: name.below(root) is not None, names))
