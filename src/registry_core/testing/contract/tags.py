"""Contract of ``ManifestStore`` for tags."""

from __future__ import annotations

import pytest

from registry_core.domain.digest import Digest
from registry_core.domain.names import Tag
from registry_core.errors import ImageNotFound, RepositoryNotFound, Unsupported
from registry_core.ports.catalog import Repository
from registry_core.testing.content import image_manifest, push_image, put_config_and_layer
from registry_core.testing.contract.base import Can, Contract

__all__ = ["TagContract"]

# ASCII order: digits, capital letters, "_", small letters. Neither insertion order nor alphabetical order equals it.
_SORTED = ["1", "10", "2", "B", "Z.9", "_x", "a", "a-b", "a.b", "a_b", "b"]
_SHUFFLED = ["a", "_x", "10", "b", "Z.9", "1", "a_b", "B", "a.b", "2", "a-b"]


class TagContract(Contract):
    """Tags can be set, moved and removed; the manifests stay."""

    def test_a_tag_moves(self, repository: Repository) -> None:
        """The old manifest is still found by digest."""
        old = push_image(repository, "old", tags=["latest"])

        new = push_image(repository, "new", tags=["latest"])

        assert repository.manifests.get(Tag("latest")) == new
        assert repository.manifests.resolve(Tag("latest")).digest == new.digest
        assert repository.manifests.get(old.digest) == old
        assert list(repository.manifests.tags()) == ["latest"]

    def test_a_tag_moves_back(self, repository: Repository) -> None:
        """To a manifest that exists already."""
        old = push_image(repository, "old", tags=["latest"])
        push_image(repository, "new", tags=["latest"])

        repository.manifests.put(old, tags=[Tag("latest")])

        assert repository.manifests.get(Tag("latest")) == old

    def test_several_tags_in_one_put(self, repository: Repository) -> None:
        """All of them are set."""
        manifest = push_image(repository, "many", tags=["v1", "v1.2", "v1.2.3"])

        assert list(repository.manifests.tags()) == ["v1", "v1.2", "v1.2.3"]
        assert {repository.manifests.resolve(tag).digest for tag in repository.manifests.tags()} == {manifest.digest}

    def test_tags_are_case_sensitive(self, repository: Repository) -> None:
        """Also on file systems that are not."""
        lower = push_image(repository, "lower", tags=["tag"])
        upper = push_image(repository, "upper", tags=["TAG"])

        assert repository.manifests.get(Tag("tag")) == lower
        assert repository.manifests.get(Tag("TAG")) == upper

    @pytest.mark.parametrize("page_size", [None, 1, 2, 1000])
    def test_tags_are_listed_in_ascii_order(self, repository: Repository, page_size: int | None) -> None:
        """Completely, each once, for all page sizes."""
        push_image(repository, "sorted", tags=_SHUFFLED)

        tags = list(repository.manifests.tags(page_size=page_size))

        assert tags == _SORTED
        assert all(isinstance(tag, Tag) for tag in tags)

    @pytest.mark.parametrize("page_size", [None, 2])
    @pytest.mark.parametrize("after", ["1", "B", "a", "b"])
    def test_tags_after_one_that_exists(self, repository: Repository, after: str, page_size: int | None) -> None:
        """That tag is excluded."""
        push_image(repository, "sorted", tags=_SHUFFLED)

        tags = list(repository.manifests.tags(after=Tag(after), page_size=page_size))

        assert tags == _SORTED[_SORTED.index(after) + 1 :]

    @pytest.mark.parametrize(("after", "first"), [("0", "1"), ("A", "B"), ("aa", "b"), ("zzz", None)])
    def test_tags_after_one_that_does_not_exist(self, repository: Repository, after: str, first: str | None) -> None:
        """The list starts at its position in the order."""
        push_image(repository, "sorted", tags=_SHUFFLED)

        tags = list(repository.manifests.tags(after=Tag(after)))

        assert tags == ([] if first is None else _SORTED[_SORTED.index(first) :])

    def test_tags_of_an_absent_repository(self, repository: Repository) -> None:
        """Raises an error instead of an empty list."""
        with pytest.raises(RepositoryNotFound):
            list(repository.manifests.tags())

    def test_manifests_without_tags_are_not_listed(self, repository: Repository) -> None:
        """Nor are their digests."""
        push_image(repository, "tagged", tags=["v1"])
        push_image(repository, "untagged")

        assert list(repository.manifests.tags()) == ["v1"]

    def test_untag_leaves_the_manifest(self, repository: Repository) -> None:
        """With its other tags; or the backend raises ``Unsupported`` and keeps all tags (R-251)."""
        manifest = push_image(repository, "untagged", tags=["v1", "v2"])

        if self.can & Can.UNTAG:
            repository.manifests.untag(Tag("v1"))
            with pytest.raises(ImageNotFound):
                repository.manifests.resolve(Tag("v1"))
            assert list(repository.manifests.tags()) == ["v2"]
        else:
            with pytest.raises(Unsupported):
                repository.manifests.untag(Tag("v1"))
            assert list(repository.manifests.tags()) == ["v1", "v2"]
        assert repository.manifests.get(Tag("v2")) == manifest
        assert repository.manifests.get(manifest.digest) == manifest

    def test_untag_of_the_last_tag_leaves_the_manifest(self, repository: Repository) -> None:
        """It is still found by digest."""
        manifest = push_image(repository, "untagged", tags=["only"])

        if self.can & Can.UNTAG:
            repository.manifests.untag(Tag("only"))
            assert list(repository.manifests.tags()) == []
        else:
            with pytest.raises(Unsupported):
                repository.manifests.untag(Tag("only"))

        assert repository.manifests.get(manifest.digest) == manifest

    def test_untag_of_an_absent_tag(self, repository: Repository) -> None:
        """Raises an error, so that a mistyped tag is noticed."""
        push_image(repository, "other", tags=["v1"])
        error = ImageNotFound if self.can & Can.UNTAG else Unsupported

        with pytest.raises(error):
            repository.manifests.untag(Tag("v2"))

    def test_put_without_tags_keeps_existing_tags(self, repository: Repository) -> None:
        """Tags are added, never replaced as a set."""
        manifest = push_image(repository, "kept", tags=["v1"])

        repository.manifests.put(manifest, tags=[Tag("v2")])
        repository.manifests.put(manifest)

        assert list(repository.manifests.tags()) == ["v1", "v2"]

    def test_tags_are_of_their_own_repository_only(self, repository: Repository, neighbour: Repository) -> None:
        """The same tag may point to different manifests."""
        first = push_image(repository, "first", tags=["v1"])
        second = push_image(neighbour, "second", tags=["v1", "v2"])

        assert list(repository.manifests.tags()) == ["v1"]
        assert repository.manifests.get(Tag("v1")) == first
        assert neighbour.manifests.get(Tag("v1")) == second

    def test_a_tag_that_looks_like_a_digest_is_a_tag(self, repository: Repository) -> None:
        """Only a colon makes a digest."""
        config, layer = put_config_and_layer(repository, "lookalike")
        manifest = image_manifest(config, [layer])
        other = push_image(repository, "other")
        tag = Tag(Digest.of(b"something else").encoded)

        repository.manifests.put(manifest, tags=[tag])

        assert repository.manifests.get(tag) == manifest
        assert repository.manifests.get(other.digest) == other
