"""Selection of an image of an index by platform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from registry_core.domain import strict_json
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import DOCKER_CONFIG, DOCKER_MANIFEST, OCI_CONFIG
from registry_core.domain.platform import Platform
from registry_core.errors import IntegrityError, NotAnImage, PlatformNotFound
from registry_core.ops.images import Index
from registry_core.ops.manifests import configured_platform, select
from registry_core.ports.catalog import Repository

if TYPE_CHECKING:
    Graphs = Any
    RecordedRepository = Any

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

    def test_configurations_are_read_up_to_the_first_that_fits_exactly(
        self, source: Repository, graphs: Graphs, record_calls: type[RecordedRepository]
    ) -> None:
        arm64 = b'{"os":"linux","architecture":"arm64"}'
        one, two, three = graphs.image(b"1", config=arm64), graphs.image(b"2"), graphs.image(b"3")
        root = graphs.index(one, one, two, three)
        recorded = record_calls(source)

        assert select(recorded.repository, root, wanted("linux/amd64")).manifest.digest == two.digest

        assert [recorded.count("get", str(each.digest)) for each in (one, two, three)] == [1, 2, 0]

    def test_absent_entries_of_an_index_are_not_fetched(self, source: Repository, graphs: Graphs) -> None:
        one, two = graphs.image(b"1"), graphs.image(b"2")
        root = graphs.index(one, two, platforms=[AMD64, ARM64])
        source.manifests.delete(one.digest)

        assert select(source, root, wanted("linux/arm64")).manifest.digest == two.digest


# Platforms of entries as registries and tools write them where they do not know the platform.
NOT_NAMED: list[object] = [
    {},
    {"architecture": "", "os": ""},
    {"architecture": "amd64"},
    {"os": "linux"},
    {"os": "linux", "architecture": None},
    {"os": 1, "architecture": 2},
    {"os": "linux", "architecture": "amd64", "variant": 1},
    {"os": "unknown", "architecture": "unknown"},
    "linux/amd64",
    ["linux", "amd64"],
    None,
    7,
]


class TestEntriesThatNameNoPlatform:
    """R-013."""

    @pytest.mark.parametrize("stated", NOT_NAMED)
    def test_the_configuration_decides(self, source: Repository, graphs: Graphs, stated: object) -> None:
        one = graphs.image(b"1", config=b'{"os":"linux","architecture":"s390x"}')
        root = graphs.index(manifests=[graphs.entry(one.media_type, one.content, platform=stated)])

        assert select(source, root, wanted("linux/s390x")).manifest.digest == one.digest
        with pytest.raises(PlatformNotFound) as caught:
            select(source, root, wanted("windows/s390x"))
        assert caught.value.available == ("linux/s390x",)

    @pytest.mark.parametrize("stated", NOT_NAMED)
    def test_the_other_entries_are_readable(self, source: Repository, graphs: Graphs, stated: object) -> None:
        one, two = graphs.image(b"1"), graphs.image(b"2", config=b'{"os":"linux","architecture":"arm64"}')
        entries = [
            graphs.entry(one.media_type, one.content, platform=stated),
            graphs.entry(two.media_type, two.content, platform=ARM64),
        ]
        root = graphs.index(manifests=entries)

        assert select(source, root, wanted("linux/arm64")).manifest.digest == two.digest
        assert len(Index(source, root).manifests) == 2
        assert two.digest in [image.digest for image in Index(source, root).images()]
        assert root.mapping["manifests"] == entries

    @pytest.mark.parametrize(
        "broken", ["absent manifest", "absent configuration", "malformed configuration", "artifact", "schema 1"]
    )
    def test_one_that_cannot_be_read_hides_no_other(self, source: Repository, graphs: Graphs, broken: str) -> None:
        config = b"no JSON" if broken == "malformed configuration" else b'{"os":"linux","architecture":"amd64","a":1}'
        one = graphs.image(b"1", config=config)
        if broken == "artifact":
            one = graphs.image(b"1", overrides={"config": graphs.entry("application/x", b"{}")})
        if broken == "schema 1":
            one = RawManifest(one.media_type, b'{"schemaVersion":1,"fsLayers":[]}')
        two = graphs.image(b"2", config=b'{"os":"linux","architecture":"amd64"}')
        root = graphs.index(one, two)
        if broken == "absent manifest":
            source.manifests.delete(one.digest)
        if broken == "absent configuration":
            source.blobs.delete(one.image.config.digest)

        assert select(source, root, wanted("linux/amd64")).manifest.digest == two.digest
        with pytest.raises(PlatformNotFound):
            select(source, root, wanted("linux/arm64"))
        assert [configured_platform(source, entry) for entry in root.children] == [None, wanted("linux/amd64")]

    def test_one_with_other_content_is_an_error(self, source: Repository, graphs: Graphs) -> None:
        """R-004: it is not skipped."""
        one, two = graphs.image(b"1"), graphs.image(b"2")
        entry = graphs.entry(one.media_type, one.content) | {"size": 1}
        root = graphs.index(manifests=[entry, graphs.entry(two.media_type, two.content)])

        with pytest.raises(IntegrityError):
            select(source, root, wanted("linux/amd64"))

    def test_unknown_in_the_configuration_too_is_an_attestation(self, source: Repository, graphs: Graphs) -> None:
        """As a Docker manifest list has it, which cannot have annotations."""
        proof = graphs.image(b"proof", config=b'{"os":"unknown","architecture":"unknown"}')
        root = graphs.index(proof, platforms=[UNKNOWN])

        for text in ("linux/amd64", "unknown/unknown"):
            with pytest.raises(PlatformNotFound) as caught:
                select(source, root, wanted(text))
            assert caught.value.available == ()


class TestOperatingSystems:
    """R-014."""

    @pytest.mark.parametrize("stated", [AMD64, *NOT_NAMED])
    @pytest.mark.parametrize("requested", ["windows/amd64", "darwin/amd64", "freebsd/amd64"])
    def test_a_linux_image_is_for_linux_only(
        self, source: Repository, graphs: Graphs, stated: object, requested: str
    ) -> None:
        one = graphs.image(b"1")
        root = graphs.index(manifests=[graphs.entry(one.media_type, one.content, platform=stated)])

        for platform, default in ((wanted(requested), None), (None, wanted(requested))):
            with pytest.raises(PlatformNotFound):
                select(source, root, platform, default=default)
        with pytest.raises(PlatformNotFound):
            select(source, one, wanted(requested))

    def test_a_configuration_that_names_the_system_alone_excludes_others(
        self, source: Repository, graphs: Graphs
    ) -> None:
        image = graphs.image(b"1", config=b'{"os":"linux"}')

        assert select(source, image, wanted("linux/arm64")).manifest is image
        with pytest.raises(PlatformNotFound):
            select(source, image, wanted("windows/amd64"))

    def test_an_entry_that_demands_features_comes_after_one_without_a_platform(
        self, source: Repository, graphs: Graphs
    ) -> None:
        """R-014."""
        special, plain = graphs.image(b"special"), graphs.image(b"plain")
        root = graphs.index(special, plain, platforms=[AMD64 | {"os.features": ["simd"]}, None])

        assert select(source, root, wanted("linux/amd64")).manifest.digest == plain.digest
        assert select(source, root, wanted("linux/amd64,osfeatures=simd")).manifest.digest == special.digest

    def test_an_entry_that_demands_features_is_the_last_choice(self, source: Repository, graphs: Graphs) -> None:
        windows = {"os": "windows", "architecture": "amd64", "os.version": "10.0.2"}
        one, two = graphs.image(b"1"), graphs.image(b"2")
        demanding = {**windows, "os.features": ["win32k"]}
        both = graphs.index(one, two, platforms=[demanding, {**windows, "os.version": "10.0.1"}])
        only = graphs.index(one, platforms=[demanding])

        assert select(source, both, wanted("windows/amd64")).manifest.digest == two.digest
        assert select(source, only, wanted("windows/amd64")).manifest.digest == one.digest
        assert select(source, both, wanted("windows/amd64,osfeatures=win32k")).manifest.digest == one.digest


class TestArtifactTypes:
    """R-015."""

    @pytest.mark.parametrize(
        ("artifact_type", "docker", "is_image"),
        [
            (OCI_CONFIG, False, True),
            (DOCKER_CONFIG, False, True),
            (DOCKER_CONFIG, True, True),
            ("application/octet-stream", True, True),
            ("application/octet-stream", False, False),
            ("application/vnd.cncf.helm.config.v1+json", False, False),
            ("application/vnd.docker.plugin.v1+json", True, False),
        ],
    )
    def test_that_of_a_configuration_marks_an_image(
        self, source: Repository, graphs: Graphs, artifact_type: str, docker: bool, is_image: bool
    ) -> None:
        image = graphs.image(b"1")
        if docker:
            document = image.mapping | {"mediaType": DOCKER_MANIFEST}
            image = graphs.store(RawManifest(DOCKER_MANIFEST, strict_json.encode(document)))
        entry = graphs.entry(image.media_type, image.content, artifactType=artifact_type, platform=AMD64)
        index = Index(source, graphs.index(manifests=[entry]))

        assert [each.digest for each in index.images()] == [image.digest] * is_image
        if is_image:
            assert index.image("linux/amd64").digest == image.digest
        else:
            with pytest.raises(PlatformNotFound):
                index.image("linux/amd64")


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
        proof = graphs.image(b"proof", config=strict_json.encode(UNKNOWN))
        one, two = graphs.image(b"1"), graphs.image(b"2")
        index = Index(source, graphs.index(one, proof, two, platforms=[AMD64, UNKNOWN, ARM64]))

        images = list(index.images())

        assert [image.digest for image in images] == [one.digest, two.digest]
        assert len(index.manifests) == 3

    @pytest.mark.parametrize("stated", [UNKNOWN, {"os": "unknown", "architecture": "amd64"}, {}])
    def test_an_image_that_is_listed_with_an_unknown_platform_is_among_them(
        self, source: Repository, graphs: Graphs, stated: dict[str, str]
    ) -> None:
        """R-013."""
        image = graphs.image(b"1")
        index = Index(source, graphs.index(image, platforms=[stated]))

        (found,) = index.images()

        assert (found.digest, found.platform) == (image.digest, wanted("linux/amd64"))

    def test_attestations_that_are_not_served_hide_no_image(self, source: Repository, graphs: Graphs) -> None:
        image, lost = graphs.image(b"1"), graphs.image(b"proof")
        index = Index(source, graphs.index(image, lost, platforms=[AMD64, UNKNOWN]))
        source.manifests.delete(lost.digest)

        assert [each.digest for each in index.images()] == [image.digest]

    def test_an_image_is_had_by_its_platform(self, source: Repository, graphs: Graphs) -> None:
        one, two = graphs.image(b"1"), graphs.image(b"2")
        index = Index(source, graphs.index(one, two, platforms=[AMD64, ARM64]))

        image = index.image("linux/arm64")

        assert (image.digest, image.platform) == (two.digest, wanted("linux/arm64"))
        with pytest.raises(PlatformNotFound) as caught:
            index.image("linux/s390x")
        assert caught.value.reference == index.reference
