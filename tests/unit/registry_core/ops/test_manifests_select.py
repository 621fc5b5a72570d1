"""Selection of an image of an index by platform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from registry_core.domain.manifest import RawManifest
from registry_core.domain.platform import Platform
from registry_core.errors import NotAnImage, PlatformNotFound
from registry_core.ops.images import Index
from registry_core.ops.manifests import select
from registry_core.ports.catalog import Repository

if TYPE_CHECKING:
    Graphs = Any

AMD64 = {"os": "linux", "architecture": "amd64"}
ARM64 = {"os": "linux", "architecture": "arm64"}
UNKNOWN = {"os": "unknown", "architecture": "unknown"}


def wanted(text: str) -> Platform:
    return Platform.parse(text)


class TestIndexes:
    def test_the_entry_that_fits_is_chosen(self, source: Repository, graphs: Graphs) -> None:
        one, two = graphs.image(b"1"), graphs.image(b"2")
        root = graphs.index(one, two, platforms=[AMD64, ARM64])

        choice = select(source, root, wanted("linux/arm64/v8"))

        assert choice.manifest.digest == two.digest
        assert choice.platform == wanted("linux/arm64")

    def test_nested_indexes_are_searched_too(self, source: Repository, graphs: Graphs) -> None:
        """R-024."""
        one, two = graphs.image(b"1"), graphs.image(b"2")
        inner = graphs.index(two, platforms=[ARM64])
        root = graphs.index(one, inner, platforms=[AMD64])

        choice = select(source, root, wanted("linux/arm64"))

        assert choice.manifest.digest == two.digest

    def test_the_default_decides_where_nothing_was_asked(self, source: Repository, graphs: Graphs) -> None:
        one, two = graphs.image(b"1"), graphs.image(b"2")
        root = graphs.index(one, two, platforms=[AMD64, ARM64])

        choice = select(source, root, None, default=wanted("linux/arm64"))

        assert choice.manifest.digest == two.digest

    def test_the_platform_of_the_host_is_the_default(self, source: Repository, graphs: Graphs) -> None:
        host = Platform.host()
        one, two = graphs.image(b"1"), graphs.image(b"2")
        other = {"os": "linux", "architecture": "s390x" if host.architecture != "s390x" else "amd64"}
        own = {"os": host.os, "architecture": host.architecture}
        root = graphs.index(one, two, platforms=[other, own])

        assert select(source, root, None).manifest.digest == two.digest

    def test_an_error_lists_the_available_platforms(self, source: Repository, graphs: Graphs) -> None:
        root = graphs.index(graphs.image(b"1"), graphs.image(b"2"), platforms=[AMD64, ARM64])

        with pytest.raises(PlatformNotFound, match="linux/amd64, linux/arm64") as caught:
            select(source, root, wanted("linux/s390x"))

        assert caught.value.available == ("linux/amd64", "linux/arm64")

    def test_attestations_are_never_chosen(self, source: Repository, graphs: Graphs) -> None:
        attestation = graphs.image(b"proof", config=b"{}")
        root = graphs.index(
            attestation,
            manifests=[
                graphs.entry(
                    attestation.media_type,
                    attestation.content,
                    platform=AMD64,
                    annotations={"vnd.docker.reference.type": "attestation-manifest"},
                ),
                graphs.entry(attestation.media_type, attestation.content, platform=UNKNOWN),
            ],
        )

        with pytest.raises(PlatformNotFound) as caught:
            select(source, root, wanted("linux/amd64"))

        assert caught.value.available == ()

    def test_an_entry_without_a_platform_is_known_by_its_configuration(
        self, source: Repository, graphs: Graphs
    ) -> None:
        one = graphs.image(b"1", config=b'{"os":"linux","architecture":"s390x"}')
        two = graphs.image(b"2", config=b'{"os":"linux","architecture":"riscv64"}')
        root = graphs.index(one, two)

        choice = select(source, root, wanted("linux/riscv64"))

        assert choice.manifest.digest == two.digest
        assert choice.platform == wanted("linux/riscv64")

    def test_absent_entries_of_an_index_are_not_fetched(self, source: Repository, graphs: Graphs) -> None:
        one, two = graphs.image(b"1"), graphs.image(b"2")
        root = graphs.index(one, two, platforms=[AMD64, ARM64])
        source.manifests.delete(one.digest)

        assert select(source, root, wanted("linux/arm64")).manifest.digest == two.digest


class TestSingleImages:
    def test_is_selected_without_a_requested_platform(self, source: Repository, graphs: Graphs) -> None:
        image = graphs.image(b"1", config=b'{"os":"plan9","architecture":"mips"}')

        assert select(source, image, None, default=wanted("linux/amd64")).manifest is image

    def test_must_match_a_requested_platform(self, source: Repository, graphs: Graphs) -> None:
        image = graphs.image(b"1")

        with pytest.raises(PlatformNotFound) as caught:
            select(source, image, wanted("linux/arm64"))

        assert caught.value.available == ("linux/amd64",)

    def test_without_a_platform_matches_every_request(self, source: Repository, graphs: Graphs) -> None:
        image = graphs.image(b"1", config=b"{}")

        assert select(source, image, wanted("linux/arm64")).manifest is image

    def test_a_manifest_of_unknown_type_is_no_image(self, source: Repository) -> None:
        with pytest.raises(NotAnImage):
            select(source, RawManifest("application/x-unknown", b"{}"), None)


class TestIndexViews:
    def test_its_images_come_without_attestations(self, source: Repository, graphs: Graphs) -> None:
        one, two, proof = graphs.image(b"1"), graphs.image(b"2"), graphs.image(b"proof")
        index = Index(source, graphs.index(one, proof, two, platforms=[AMD64, UNKNOWN, ARM64]))

        images = list(index.images())

        assert [image.digest for image in images] == [one.digest, two.digest]
        assert len(index.manifests) == 3

    def test_an_image_is_had_by_its_platform(self, source: Repository, graphs: Graphs) -> None:
        one, two = graphs.image(b"1"), graphs.image(b"2")
        index = Index(source, graphs.index(one, two, platforms=[AMD64, ARM64]))

        image = index.image("linux/arm64")

        assert (image.digest, image.platform) == (two.digest, wanted("linux/arm64"))
        with pytest.raises(PlatformNotFound) as caught:
            index.image("linux/s390x")
        assert caught.value.reference == index.reference
