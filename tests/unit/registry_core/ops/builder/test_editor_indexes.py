"""Edited indexes: one platform, or all platforms."""

from __future__ import annotations

import json
from typing import Any

import pytest

from registry_core.content.streams import BytesSource
from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from registry_core.errors import ImageNotFound, InvalidName, InvalidValue, PlatformNotFound
from registry_core.ops.builder.builder import ImageBuilder
from registry_core.ops.builder.editor import ImageEditor
from registry_core.ops.builder.index_builder import IndexBuilder
from registry_core.ops.builder.staged import staged_repository
from registry_core.ops.images import Image, Index
from registry_core.ops.transfer.copy import copy
from registry_core.ops.validation.validate import validate
from registry_core.ports.catalog import Repository

EMPTY = "application/vnd.oci.empty.v1+json"


def image(platform: str) -> Image:
    return ImageBuilder(platform=platform).add_files({"platform": platform}).build()


def put(repository: Repository, document: dict[str, Any]) -> RawManifest:
    raw = RawManifest.of(json.dumps({"schemaVersion": 2, **document}, indent=1).encode())
    repository.manifests.put(raw)
    return raw


def entry(raw: RawManifest, **more: object) -> dict[str, Any]:
    return {"digest": str(raw.digest), "mediaType": raw.media_type, "size": len(raw.content), **more}


@pytest.fixture
def attested() -> Index:
    """An index as BuildKit writes it, extended by another tool: two images with attestations, a nested index, an
    entry of unknown type, and unknown fields.
    """
    repository = staged_repository()
    blob = b"{}"
    repository.blobs.put(Digest.of(blob), 2, BytesSource(blob))
    entries = []
    images = [image("linux/amd64"), image("linux/arm64")]
    for each in images:
        copy(each.repository, repository, each.document)
        platform = {"architecture": str(each.platform).partition("/")[2], "os": "linux", "x-flag": 1}
        entries.append(entry(each.document, platform=platform, annotations={"note": "kept"}, **{"x-entry": [1]}))
    for each in images:
        attestation = put(
            repository,
            {
                "mediaType": OCI_MANIFEST,
                "artifactType": "application/vnd.docker.attestation.manifest.v1+json",
                "config": {"mediaType": EMPTY, "digest": str(Digest.of(blob)), "size": 2},
                "layers": [{"mediaType": "application/vnd.in-toto+json", "digest": str(Digest.of(blob)), "size": 2}],
                "annotations": {"about": str(each.platform)},
            },
        )
        about = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": str(each.digest)}
        platform = {"architecture": "unknown", "os": "unknown"}
        entries.append(entry(attestation, annotations=about, platform=platform))
    inner_image = image("linux/s390x")
    copy(inner_image.repository, repository, inner_image.document)
    inner = put(repository, {"mediaType": OCI_INDEX, "manifests": [entry(inner_image.document)], "x-inner": 1})
    strange = RawManifest("application/vnd.example.strange+json", b'{"strange": true}')
    repository.manifests.put(strange)
    entries += [entry(inner), entry(strange)]
    raw = put(repository, {"mediaType": OCI_INDEX, "manifests": entries, "x-vendor": {"kept": None}})
    return Index(repository, raw)


def entries(index: Index) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = strict_json.decode(index.raw)["manifests"]
    return found


class TestUnchanged:
    def test_without_a_change_it_is_the_same_index(self, attested: Index) -> None:
        """R-026."""
        assert IndexBuilder(attested).build().raw == attested.raw
        assert IndexBuilder(attested).edit(lambda editor: None).build().raw == attested.raw
        assert IndexBuilder(attested).to_oci().build().raw == attested.raw

    def test_an_image_replaced_by_itself_changes_nothing(self, attested: Index) -> None:
        same = attested.image("linux/arm64")

        assert IndexBuilder(attested).replace(same).build().raw == attested.raw

    def test_an_index_that_does_not_name_its_type_stays_so(self) -> None:
        repository = staged_repository()
        index = Index(repository, put(repository, {"manifests": []}))

        assert IndexBuilder(index).to_oci().build().raw == index.raw

    def test_all_entries_are_copied_also_those_of_unknown_types(self, attested: Index) -> None:
        """R-027."""
        built = IndexBuilder(attested).annotate("key", "value").build()
        target = staged_repository()

        copy(built.repository, target, built.document)

        for listed in built.manifests:
            assert (
                target.manifests.get(listed.digest).content == attested.repository.manifests.get(listed.digest).content
            )
        assert validate(target, built.digest).findings == ()

    def test_the_size_of_an_entry_of_unknown_type_is_checked(self, attested: Index) -> None:
        document = strict_json.decode(attested.raw)
        document["manifests"][-1]["size"] += 1
        attested.repository.manifests.put(raw := RawManifest.of(strict_json.encode(document)))

        (finding,) = validate(attested.repository, raw.digest).findings

        assert "17 bytes, but the descriptor states 18" in finding.what


class TestOnePlatform:
    def test_is_edited_in_place_and_its_entry_keeps_its_fields(self, attested: Index) -> None:
        """R-027."""
        edited = IndexBuilder(attested).edit(lambda editor: editor.label("new", "1"), "linux/arm64").build()

        before, after = entries(attested), entries(edited)
        assert after[0] == before[0]
        assert after[1] == before[1] | {"digest": after[1]["digest"], "size": after[1]["size"]}
        assert list(after[1]) == list(before[1])
        assert edited.image("linux/arm64").config().config.labels == {"new": "1"}
        assert strict_json.decode(edited.raw)["x-vendor"] == {"kept": None}

    def test_the_attestation_of_the_old_image_is_removed_and_others_stay(self, attested: Index) -> None:
        edited = IndexBuilder(attested).edit(lambda editor: editor.label("new", "1"), "linux/arm64").build()

        before = entries(attested)
        assert [each["digest"] for each in before if each not in entries(edited)] == [
            before[1]["digest"],
            before[3]["digest"],
        ]

    def test_is_replaced_by_an_image_of_another_repository(self, attested: Index) -> None:
        fresh = ImageBuilder(platform="linux/arm64").add_files({"fresh": "1"}).build()

        edited = IndexBuilder(attested).replace(fresh, annotations={"b": "2", "a": "1"}).build()

        found = entries(edited)[1]
        assert (found["digest"], list(found["annotations"])) == (str(fresh.digest), ["a", "b"])
        assert len(edited.manifests) == len(attested.manifests) - 1

    def test_is_removed_with_its_attestation(self, attested: Index) -> None:
        for which in ("linux/arm64", entries(attested)[1]["digest"]):
            edited = IndexBuilder(attested).remove(which).build()

            assert [each["digest"] for each in entries(edited)] == [
                each["digest"] for number, each in enumerate(entries(attested)) if number not in (1, 3)
            ]

    def test_an_attestation_is_removed_alone(self, attested: Index) -> None:
        edited = IndexBuilder(attested).remove(Digest(entries(attested)[3]["digest"])).build()

        assert len(edited.manifests) == len(attested.manifests) - 1

    def test_that_is_absent_is_an_error(self, attested: Index) -> None:
        builder = IndexBuilder(attested)

        with pytest.raises(PlatformNotFound) as caught:
            builder.edit(lambda editor: None, "linux/riscv64")
        with pytest.raises(PlatformNotFound):
            builder.remove("linux/riscv64")
        with pytest.raises(PlatformNotFound):
            builder.replace(image("linux/riscv64"))
        with pytest.raises(ImageNotFound):
            builder.remove(Digest.of(b"another"))
        with pytest.raises(InvalidName):
            builder.edit(lambda editor: None, "linux/")

        assert "linux/amd64" in caught.value.available
        assert builder.build().digest == attested.digest

    def test_listed_twice_both_are_replaced(self) -> None:
        one, other = image("linux/amd64"), ImageBuilder(platform="linux/amd64").add_files({"b": "1"}).build()
        fresh = ImageBuilder(platform="linux/amd64").add_files({"c": "1"}).build()

        index = IndexBuilder().add(one).add(other).replace(fresh).build()

        assert [listed.digest for listed in index.manifests] == [fresh.digest]

    def test_an_edited_platform_changes_the_entry(self, attested: Index) -> None:
        edited = IndexBuilder(attested).edit(lambda editor: editor.platform("linux/arm/v6"), "linux/arm64").build()

        assert entries(edited)[1]["platform"] == {"architecture": "arm", "os": "linux", "variant": "v6"}


@pytest.mark.parametrize("stated", [{}, {"architecture": "arm64"}, {"os": 1, "architecture": 2}, "linux/arm64", None])
class TestEntriesThatNameNoPlatform:
    """R-013: the configurations decide, and the bytes of the entries stay unchanged."""

    def index(self, stated: object) -> tuple[Index, Image]:
        repository = staged_repository()
        images = [image("linux/amd64"), image("linux/arm64")]
        for each in images:
            copy(each.repository, repository, each.document)
        amd64 = {"os": "linux", "architecture": "amd64"}
        listed = [entry(images[0].document, platform=amd64), entry(images[1].document, platform=stated)]
        return Index(repository, put(repository, {"mediaType": OCI_INDEX, "manifests": listed})), images[1]

    def test_an_unchanged_index_keeps_its_bytes(self, stated: object) -> None:
        index, _ = self.index(stated)

        assert IndexBuilder(index).build().raw == index.raw
        added = IndexBuilder(index).add(image("linux/s390x")).build()
        assert entries(added)[:2] == entries(index)

    def test_they_are_edited_replaced_and_removed_by_platform(self, stated: object) -> None:
        index, old = self.index(stated)
        new = ImageBuilder(platform="linux/arm64").add_files({"new": b""}).build()

        edited = IndexBuilder(index).edit(lambda editor: editor.label("a", "b"), "linux/arm64").build()
        replaced = IndexBuilder(index).replace(new).build()
        removed = IndexBuilder(index).remove("linux/arm64").build()

        assert edited.image("linux/arm64").config().config.labels == {"a": "b"}
        assert entries(edited)[1]["platform"] == stated
        assert [each.digest for each in replaced.manifests] == [index.manifests[0].digest, new.digest]
        assert [each.digest for each in removed.manifests] == [index.manifests[0].digest]
        assert old.digest == index.manifests[1].digest

    def test_another_platform_is_not_found(self, stated: object) -> None:
        index, _ = self.index(stated)

        for platform in ("windows/arm64", "linux/s390x"):
            with pytest.raises(PlatformNotFound):
                IndexBuilder(index).remove(platform)


class TestEntries:
    @pytest.mark.parametrize("by", ["platform", "digest"])
    def test_are_annotated_and_their_images_stay(self, attested: Index, by: str) -> None:
        which = "linux/arm64" if by == "platform" else entries(attested)[1]["digest"]

        edited = IndexBuilder(attested).annotate_entry(which, "new", "1").build()

        before, after = entries(attested), entries(edited)
        assert after[1] == before[1] | {"annotations": {"note": "kept", "new": "1"}}
        assert [each for number, each in enumerate(after) if number != 1] == [
            each for number, each in enumerate(before) if number != 1
        ]

    def test_lose_an_annotation(self, attested: Index) -> None:
        edited = IndexBuilder(attested).annotate_entry("linux/arm64", "note", None).build()

        assert "annotations" not in entries(edited)[1]
        assert IndexBuilder(attested).annotate_entry("linux/arm64", "absent", None).build().raw == attested.raw

    def test_that_are_absent_or_not_text_are_errors(self, attested: Index) -> None:
        with pytest.raises(PlatformNotFound):
            IndexBuilder(attested).annotate_entry("linux/riscv64", "a", "b")
        with pytest.raises(ImageNotFound):
            IndexBuilder(attested).annotate_entry(Digest.of(b"another"), "a", "b")
        with pytest.raises(InvalidValue):
            IndexBuilder(attested).annotate_entry("linux/arm64", "a", 1)  # type: ignore[arg-type]


class TestAllPlatforms:
    def test_are_edited_those_of_inner_indexes_included(self, attested: Index) -> None:
        edited = IndexBuilder(attested).edit(lambda editor: editor.label("new", "1")).build()

        for platform in ("linux/amd64", "linux/arm64"):
            assert edited.image(platform).config().config.labels == {"new": "1"}
        (inner,) = [listed for listed in edited.manifests if listed.media_type == OCI_INDEX]
        raw = edited.repository.manifests.get(inner.digest)
        assert raw.mapping["x-inner"] == 1
        (listed,) = raw.index.manifests
        nested = Image(edited.repository, edited.repository.manifests.get(listed.digest))
        assert nested.config().config.labels == {"new": "1"}
        assert entries(edited)[-1] == entries(attested)[-1]

    def test_give_a_valid_index(self, attested: Index) -> None:
        edited = IndexBuilder(attested).edit(lambda editor: editor.add_files({"new": "1"}).squash()).build()
        target = staged_repository()

        copy(edited.repository, target, edited.document)

        assert validate(target, edited.digest).findings == ()

    def test_are_converted_to_docker_and_back_to_oci(self) -> None:
        oci = IndexBuilder().add(image("linux/amd64")).add(image("linux/arm64")).build()

        docker = IndexBuilder(oci).to_docker().edit(ImageEditor.to_docker).build()
        back = IndexBuilder(docker).to_oci().edit(ImageEditor.to_oci).build()

        assert docker.media_type == DOCKER_INDEX
        assert {listed.media_type for listed in docker.manifests} == {DOCKER_MANIFEST}
        assert back.digest == oci.digest

    def test_an_error_in_one_of_them_leaves_the_index_unchanged(self, attested: Index) -> None:
        builder = IndexBuilder(attested)

        with pytest.raises(InvalidValue):
            builder.edit(lambda editor: editor.remove_layer(7))

        assert builder.build().digest == attested.digest


class TestDockerLists:
    @pytest.mark.parametrize("field", ["annotations", "artifactType", "subject"])
    def test_lack_fields_of_an_index(self, field: str) -> None:
        repository = staged_repository()
        subject = image("linux/amd64").document
        more = {"annotations": {"a": "b"}, "artifactType": "a/b", "subject": entry(subject)}
        index = Index(repository, put(repository, {"mediaType": OCI_INDEX, "manifests": [], field: more[field]}))

        with pytest.raises(InvalidValue, match=field):
            IndexBuilder(index).to_docker().build()

    def test_keep_unknown_fields(self) -> None:
        """R-027."""
        repository = staged_repository()
        odd = put(repository, {"mediaType": DOCKER_INDEX, "manifests": [], "annotations": {"a": "b"}})

        assert IndexBuilder(Index(repository, odd)).build().raw == odd.content
        with pytest.raises(InvalidValue):
            IndexBuilder(Index(repository, odd)).annotate("new", "1").build()

    def test_annotations_are_text(self) -> None:
        with pytest.raises(InvalidValue):
            IndexBuilder().annotate("a", 1)  # type: ignore[arg-type]
        with pytest.raises(InvalidValue):
            IndexBuilder().add(image("linux/amd64"), annotations={"a": 1})  # type: ignore[dict-item]
