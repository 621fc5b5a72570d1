"""References of every form: a tag with a digest, names as written in layouts and archives, and the only image."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from registry_adapters import open_client
from registry_adapters.archive import ArchiveCatalog
from registry_adapters.layout import LayoutCatalog
from registry_core import (
    CopyTask,
    Digest,
    Image,
    ImageBuilder,
    ImageNotFound,
    IndexBuilder,
    InvalidName,
    InvalidReference,
    InvalidValue,
    LayoutError,
    MirrorRule,
    RegistryClient,
    RepositoryNotFound,
    Tag,
    Unsupported,
    run_copies,
    run_mirror,
    validate,
)

ALPINE = "docker.io/library/alpine:3.18"
NAMES = [ALPINE, "1.0+build", "v1/rc", "debian:12", "localhost:5000/org/app:v1"]
REF = "org.opencontainers.image.ref.name"


def _image(label: str) -> Image:
    return ImageBuilder(platform="linux/amd64").add_files({"label": label.encode()}).build()


def _written(directory: Path) -> list[str]:
    entries = json.loads((directory / "index.json").read_bytes())["manifests"]
    return [entry.get("annotations", {}).get(REF, "") for entry in entries]


@pytest.fixture(params=["layout", "archive being written", "archive"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RegistryClient]:
    """The root of a layout or archive with an image under each of the names."""
    url = f"oci:{tmp_path / 'layout'}" if request.param == "layout" else f"oci-archive:{tmp_path / 'images.tar'}"
    with open_client(url, default_platform="linux/amd64") as opened:
        for name in NAMES:
            opened.push_image(name, _image(name))
        if request.param == "archive":
            opened.close()
        yield opened


READS: dict[str, Callable[[RegistryClient, str], object]] = {
    "get_image": lambda client, name: client.get_image(name).digest,
    "get_manifest": lambda client, name: client.get_manifest(name).digest,
    "get_digest": lambda client, name: client.get_digest(name),
    "get_image_config": lambda client, name: client.get_image_config(name).rootfs,
    "list_referrers": lambda client, name: client.list_referrers(name),
    "copy_image": lambda client, name: client.copy_image(name, open_client("memory:"), "v1").digest,
    "check_image_exists": lambda client, name: client.check_image_exists(name),
    "validate": lambda client, name: validate(client.repository, name).errors,
}


class TestReading:
    @pytest.mark.parametrize("read", READS)
    def test_every_method_takes_a_name_as_written(self, client: RegistryClient, read: str) -> None:
        """R-307."""
        for name in NAMES:
            digest = _image(name).digest
            expected = {
                "get_image_config": _image(name).config().rootfs,
                "list_referrers": [],
                "check_image_exists": None,
                "validate": [],
            }

            assert _plain(READS[read](client, name)) == _plain(expected.get(read, digest))
            assert client.image_exists(name)

    def test_the_names_mean_repositories_too(self, client: RegistryClient) -> None:
        """R-307."""
        assert client.list_repositories() == ["debian", "library/alpine", "localhost/org/app"]
        assert client.list_tags() == []
        assert client.with_segment("library", "alpine").list_tags() == ["3.18"]
        assert client.with_segment("library", "alpine").get_digest("3.18") == _image(ALPINE).digest
        assert client.with_segment("localhost/org/app").get_image("v1").digest == _image(NAMES[-1]).digest

    def test_below_the_root_only_the_names_of_the_repository_are_found(self, client: RegistryClient) -> None:
        alpine = client.with_segment("library", "alpine")

        assert alpine.get_image().digest == alpine.get_digest(ALPINE) == _image(ALPINE).digest
        for name in ("1.0+build", "v1/rc", "debian:12", "localhost:5000/org/app:v1"):
            assert not alpine.image_exists(name)

    @pytest.mark.parametrize("name", ["index.docker.io/library/alpine:3.18", "library/alpine:3.18", "alpine:3.18"])
    def test_a_name_that_means_the_same_is_found(self, client: RegistryClient, name: str) -> None:
        assert client.get_digest(name) == _image(ALPINE).digest

    @pytest.mark.parametrize("name", ["docker.io/library/alpine:3.19", "2.0+build", "v2/rc", "v9"])
    def test_an_absent_name_is_not_found(self, client: RegistryClient, name: str) -> None:
        assert not client.image_exists(name)
        for read in ("get_image", "get_digest", "copy_image"):
            with pytest.raises(ImageNotFound) as caught:
                READS[read](client, name)
            assert name in str(caught.value)

    @pytest.mark.parametrize("name", ["a b", "-x", "a//b", "/a", "a/", "v1\n", "sha256:abc", "@v1", "x" * 129])
    def test_malformed_text_is_refused(self, client: RegistryClient, name: str) -> None:
        """R-010."""
        with pytest.raises(InvalidValue):
            client.get_image(name)

    def test_the_digest_in_a_name_decides(self, client: RegistryClient) -> None:
        """R-012: never the image that has the name."""
        other = _image("1.0+build").digest

        assert client.get_digest(f"{ALPINE}@{other}") == other
        assert not client.image_exists(f"{ALPINE}@{Digest.of(b'absent')}")

    def test_a_digest_of_an_unknown_algorithm_is_unsupported(self, client: RegistryClient) -> None:
        """R-002."""
        for text in ("blake3:" + "a" * 64, "@blake3:" + "a" * 64):
            with pytest.raises(Unsupported, match="blake3"):
                client.get_image(text)

    def test_several_images_need_a_name(self, client: RegistryClient) -> None:
        with pytest.raises(InvalidReference, match=r"several images; choose one by its name: 1\.0\+build, debian:12"):
            client.get_image()

    def test_a_task_takes_names(self, client: RegistryClient) -> None:
        target = open_client("memory:")

        report = run_copies(
            [CopyTask(source=client.repository, target=target.repository, reference=name) for name in NAMES]
        )

        assert report.ok
        assert all(target.image_exists(_image(name).digest) for name in NAMES)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple | list) else value


FAULTS: dict[str, dict[str, Any]] = {
    "no media type": {"mediaType": None},
    "media type of the wrong type": {"mediaType": 1},
    "annotation of the wrong type": {"annotations": {REF: "odd", "note": 1}},
    "urls of the wrong type": {"urls": "https://example.com"},
    "data that is no base64": {"data": "%"},
    "artifact type of the wrong type": {"artifactType": []},
}
NAMELESS: dict[str, dict[str, Any]] = {
    "name of the wrong type": {"annotations": {REF: 1}},
    "name that is null": {"annotations": {REF: None}},
    "list of annotations": {"annotations": ["odd"]},
    "text as annotations": {"annotations": "odd"},
}


def _with_fault(url: str, fault: dict[str, Any]) -> tuple[RegistryClient, Digest]:
    """Write a layout or archive whose entry "odd" has a fault, and that of another image has none."""
    scheme, _, path = url.partition(":")
    directory = Path(path).with_suffix(".origin") if scheme == "oci-archive" else Path(path)
    client = open_client(f"oci:{directory}")
    client.push_image("good", _image("good"))
    digest = client.push_image("odd", _image("odd")).digest
    index = json.loads((directory / "index.json").read_bytes())
    index["manifests"][1] = {key: value for key, value in (index["manifests"][1] | fault).items() if value is not None}
    (directory / "index.json").write_text(json.dumps(index))
    if scheme == "oci-archive":
        with tarfile.open(path, "w") as tar:
            tar.add(directory, ".")
    return open_client(url, default_platform="linux/amd64"), digest


class TestFaultsOfEntries:
    @pytest.mark.parametrize("scheme", ["oci", "oci-archive"])
    @pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
    def test_an_entry_with_a_fault_is_read_and_mirrored(
        self, tmp_path: Path, scheme: str, fault: dict[str, Any]
    ) -> None:
        """R-302."""
        client, digest = _with_fault(f"{scheme}:{tmp_path / 'images'}", fault)
        copied = LayoutCatalog(tmp_path / "mirror")

        report = run_mirror([MirrorRule(source=client.catalog, target=copied)])

        assert report.ok
        assert client.list_tags() == ["good", "odd"]
        assert client.get_image("good").digest == _image("good").digest
        assert client.get_image("odd").digest == digest
        assert client.repository.manifests.resolve(Tag("odd")) == _image("odd").document.descriptor
        assert {image.name: image.descriptor.digest for image in copied.images()} == {
            "good": _image("good").digest,
            "odd": digest,
        }

    @pytest.mark.parametrize("scheme", ["oci", "oci-archive"])
    @pytest.mark.parametrize("fault", NAMELESS.values(), ids=NAMELESS)
    def test_a_name_with_a_fault_is_no_name(self, tmp_path: Path, scheme: str, fault: dict[str, Any]) -> None:
        """R-302: the image is listed, found by digest, and copied."""
        client, digest = _with_fault(f"{scheme}:{tmp_path / 'images'}", fault | {"mediaType": None})
        copied = LayoutCatalog(tmp_path / "mirror")

        assert run_mirror([MirrorRule(source=client.catalog, target=copied)]).ok

        assert client.list_tags() == ["good"]
        assert client.get_image(digest).digest == digest
        assert {image.name: image.descriptor.digest for image in copied.images()} == {
            "good": _image("good").digest,
            "": digest,
        }

    @pytest.mark.parametrize("fault", [*FAULTS.values(), *NAMELESS.values()], ids=[*FAULTS, *NAMELESS])
    def test_tags_are_set_beside_it(self, tmp_path: Path, fault: dict[str, Any]) -> None:
        """R-313, R-315: nothing is lost."""
        client, digest = _with_fault(f"oci:{tmp_path}", fault)

        client.tag_image(digest, "other")
        client.tag_image("good", "odd")
        client.delete_tag("other")

        assert (client.list_tags(), client.get_digest("odd")) == (["good", "odd"], _image("good").digest)
        assert digest in [image.descriptor.digest for image in LayoutCatalog(tmp_path).images()]
        pruned = LayoutCatalog(tmp_path).prune(grace=2.0)
        assert not pruned.blobs
        assert client.get_image(digest).digest == digest

    @pytest.mark.parametrize("fault", [{"mediaType": None}, {"urls": 1}, {"annotations": {REF: 1}}])
    def test_the_check_of_a_layout_reports_it(self, tmp_path: Path, fault: dict[str, Any]) -> None:
        _with_fault(f"oci:{tmp_path}", fault)

        (found,) = LayoutCatalog(tmp_path).check().findings

        assert found.where.startswith("index.json $.manifests[1]")

    @pytest.mark.parametrize("scheme", ["oci", "oci-archive"])
    @pytest.mark.parametrize("fault", [{"digest": None}, {"digest": "sha256:0"}, {"size": None}, {"size": "7"}])
    def test_without_digest_and_size_the_index_is_malformed(
        self, tmp_path: Path, scheme: str, fault: dict[str, Any]
    ) -> None:
        """R-302: otherwise an image would be missing from a list without an error."""
        client, _ = _with_fault(f"{scheme}:{tmp_path / 'images'}", fault)

        for read in (
            client.list_tags,
            lambda: client.get_image("good"),
            lambda: client.image_exists("good"),
        ):
            with pytest.raises(LayoutError, match=r"index\.json: .* at \$\.manifests\[1\]"):
                read()

    @pytest.mark.parametrize("scheme", ["oci", "oci-archive"])
    def test_a_digest_that_cannot_be_verified_hides_no_other_image(self, tmp_path: Path, scheme: str) -> None:
        """R-311."""
        client, _ = _with_fault(f"{scheme}:{tmp_path / 'images'}", {"digest": "blake3:abc"})

        assert client.get_image("good").digest == _image("good").digest
        with pytest.raises(Unsupported, match="blake3"):
            client.get_image("odd")


class TestOnlyImage:
    @pytest.mark.parametrize("name", ["v1", *NAMES])
    @pytest.mark.parametrize("scheme", ["oci", "oci-archive"])
    def test_it_is_found_without_a_name(self, tmp_path: Path, scheme: str, name: str) -> None:
        with open_client(f"{scheme}:{tmp_path / 'images'}", default_platform="linux/amd64") as client:
            client.push_image(name, _image("only"))

        with open_client(f"{scheme}:{tmp_path / 'images'}", default_platform="linux/amd64") as client:
            assert client.get_image().digest == client.get_digest("") == _image("only").digest
            assert client.get_manifest().digest == _image("only").digest
            assert client.get_image_config().rootfs == _image("only").config().rootfs

    def test_an_entry_without_a_name_is_found(self, tmp_path: Path) -> None:
        client = open_client(f"oci:{tmp_path}", default_platform="linux/amd64")
        client.push_image(_image("only").digest, _image("only"))

        assert client.get_image().digest == _image("only").digest
        assert client.copy_image("", open_client("memory:"), "v1").digest == _image("only").digest

    def test_names_are_shown_on_one_printable_line(self, tmp_path: Path) -> None:
        client = open_client(f"oci:{tmp_path}")
        for name in ("a", "b"):
            client.push_image(name, _image(name))
        index = json.loads((tmp_path / "index.json").read_bytes())
        for number, name in enumerate(["\x1b[31m\n\u202e", "x" * 10_000]):
            index["manifests"][number]["annotations"][REF] = name
        (tmp_path / "index.json").write_text(json.dumps(index))
        calls: list[Callable[[], object]] = [
            client.get_image,
            *(lambda name=image.name: client.get_image(name) for image in LayoutCatalog(tmp_path).images()),
        ]

        for call in calls:
            with pytest.raises(InvalidValue) as caught:
                call()
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 1000
        report = run_mirror([MirrorRule(source=client.catalog, target=LayoutCatalog(tmp_path / "mirror"))])
        assert report.ok
        assert [result.node.source.isprintable() and len(result.node.source) < 500 for result in report.warnings] == [
            True,
            True,
        ]

    def test_two_names_of_one_image_are_no_choice(self, tmp_path: Path) -> None:
        client = open_client(f"oci:{tmp_path}", default_platform="linux/amd64")
        client.push_image("v1", _image("only"))
        client.tag_image("v1", ALPINE)
        client.attach("v1", [], artifact_type="application/vnd.example")

        assert client.get_image().digest == _image("only").digest

    def test_an_index_is_found(self, tmp_path: Path) -> None:
        client = open_client(f"oci:{tmp_path}", default_platform="linux/amd64")
        index = IndexBuilder().add(_image("only")).build()
        client.push_index(ALPINE, index)

        assert client.get_index().digest == index.digest
        assert client.get_image().digest == _image("only").digest

    def test_a_layout_without_images_has_none(self, tmp_path: Path) -> None:
        client = open_client(f"oci:{tmp_path}")
        client.push_image("v1", _image("only"))
        client.delete_by_digest(_image("only").digest)

        with pytest.raises(ImageNotFound, match="no image"):
            client.get_image()

    def test_other_backends_need_a_tag_or_digest(self) -> None:
        client = open_client("memory:").with_segment("app")
        client.push_image("v1", _image("only"))

        with pytest.raises(InvalidReference, match="neither a tag nor a digest: ''; one is needed"):
            client.get_image()


class TestWriting:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_name_is_set_and_removed_as_written(self, tmp_path: Path, name: str) -> None:
        """R-315."""
        client = open_client(f"oci:{tmp_path}")
        client.push_image("v1", _image("one"))

        assert client.tag_image("v1", name).digest == _image("one").digest
        assert _written(tmp_path) == ["v1", name]
        client.push_image(name, _image("two"))
        assert client.get_digest(name) == _image("two").digest
        client.delete_tag(name)
        assert not client.image_exists(name)
        with pytest.raises(ImageNotFound):
            client.delete_tag(name)
        assert client.get_digest("v1") == _image("one").digest

    def test_an_artifact_is_pushed_under_a_name(self, tmp_path: Path) -> None:
        client = open_client(f"oci:{tmp_path / 'layout'}")

        pushed = client.push_artifact("1.0+build", [], artifact_type="application/vnd.example")

        assert client.get_digest("1.0+build") == pushed.digest
        assert client.attach("1.0+build", [], artifact_type="application/vnd.example").digest in [
            each.digest for each in client.list_referrers("1.0+build")
        ]

    @pytest.mark.parametrize("target", ["oci", "oci-archive"])
    def test_a_copy_keeps_the_names(self, client: RegistryClient, tmp_path: Path, target: str) -> None:
        """R-315."""
        with open_client(f"{target}:{tmp_path / 'copied'}") as copied:
            for name in NAMES:
                client.copy_image(name, copied, name)

        catalog: Any = LayoutCatalog if target == "oci" else ArchiveCatalog
        images = {image.name: image.descriptor.digest for image in catalog(tmp_path / "copied").images()}
        assert images == {name: _image(name).digest for name in NAMES}

    def test_an_archive_for_docker_takes_whole_references_only(self, tmp_path: Path) -> None:
        with open_client(f"docker-archive:{tmp_path / 'images.tar'}") as archive:
            archive.push_image(ALPINE, _image("one"))
            with pytest.raises(InvalidName, match=r"1\.0\+build"):
                archive.push_image("1.0+build", _image("two"))

        with open_client(f"docker-archive:{tmp_path / 'images.tar'}") as archive:
            assert archive.with_segment("library/alpine").get_digest("3.18") == _image("one").digest
            assert archive.get_digest(ALPINE) == _image("one").digest
            with pytest.raises(Unsupported):
                archive.push_image("1.0+build", _image("two"))
            with pytest.raises(Unsupported):
                archive.delete_tag(ALPINE)

    @pytest.mark.parametrize(
        "name",
        ["a//b", "v1:", "+x", "a b", "x+", "a/-b", "sha256:abc", "v1@", "", "v1@sha256:abc", f"{ALPINE}@sha256:abc"],
    )
    def test_names_that_others_cannot_read_are_refused(self, tmp_path: Path, name: str) -> None:
        client = open_client(f"oci:{tmp_path / 'layout'}")

        with pytest.raises(InvalidValue):
            client.push_image(name, _image("one"))

        assert not (tmp_path / "layout").exists()

    @pytest.mark.parametrize("reference", ["v1", ALPINE])
    def test_a_target_with_a_digest_is_checked_and_named(self, tmp_path: Path, reference: str) -> None:
        client, image = open_client(f"oci:{tmp_path}"), _image("one")

        with pytest.raises(InvalidReference, match="cannot be stored as"):
            client.push_image(f"{reference}@{Digest.of(b'other')}", image)
        client.push_image(f"{reference}@{image.digest}", image)

        assert _written(tmp_path) == [reference]

    @pytest.mark.parametrize("url", ["memory:", "oci:layout", "oci-archive:images.tar"])
    @pytest.mark.parametrize("tag", ["v1", ALPINE])
    def test_an_artifact_with_another_digest_than_its_tag_says_is_not_stored(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, tag: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        client = open_client(url)
        if url == "memory:":
            client, tag = client.with_segment("app"), "v1"
        digest = open_client("memory:").with_segment("app").push_artifact("v1", [], artifact_type="a/b").digest

        with pytest.raises(InvalidReference, match="cannot be stored as"):
            client.push_artifact(f"{tag}@{Digest.of(b'other')}", [], artifact_type="a/b")
        assert not client.image_exists(tag)
        client.push_artifact(f"{tag}@{digest}", [], artifact_type="a/b")

        assert client.get_digest(tag) == digest
        assert not client.image_exists(f"{tag}@{Digest.of(b'other')}")
        for text in ("", str(digest), f"@{digest}"):
            with pytest.raises(InvalidName, match="not a tag"):
                client.push_artifact(text, [], artifact_type="a/b")

    @pytest.mark.parametrize("url", ["memory:", "oci:layout"])
    def test_a_task_takes_no_digest_to_compare(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        """A name with the digest of other content would never be found by it."""
        monkeypatch.chdir(tmp_path)
        repository = open_client(url).with_segment("app").repository

        for text in (f"v1@{Digest.of(b'other')}", str(Digest.of(b"other")), ""):
            with pytest.raises(InvalidName, match="not a tag"):
                CopyTask(source=repository, target=repository, reference="v1", tags=(text,))

    @pytest.mark.parametrize("name", [name for name in NAMES if name != "debian:12"])
    def test_other_backends_refuse_such_names(self, name: str) -> None:
        """R-010."""
        client = open_client("memory:").with_segment("app")
        client.push_image("v1", _image("one"))
        calls: list[Callable[[], object]] = [
            lambda: client.get_image(name),
            lambda: client.image_exists(name),
            lambda: client.push_image(name, _image("one")),
            lambda: client.tag_image("v1", name),
            lambda: client.delete_tag(name),
            lambda: client.copy_image("v1", client, name),
        ]

        for call in calls:
            with pytest.raises(InvalidValue, match=r"not a tag|neither a tag nor a digest|digest"):
                call()


@pytest.mark.parametrize("scheme", ["oci", "oci-archive", "docker-archive"])
def test_a_source_that_does_not_exist_is_an_error(tmp_path: Path, scheme: str) -> None:
    """R-314: it names the path; a target is created."""
    path = tmp_path / "absent"
    client = open_client(f"{scheme}:{path}")
    app = client.with_segment("org/app")
    reads: list[Callable[[], object]] = [
        client.list_repositories,
        client.list_tags,
        client.get_image,
        lambda: app.get_image("v1"),
        lambda: app.get_digest("v1"),
        lambda: app.list_tags(),
        lambda: app.copy_image("v1", open_client("memory:"), "v1"),
        lambda: app.check_image_exists("v1"),
        lambda: app.get_image(Digest.of(b"absent")),
        lambda: app.get_image_config("v1"),
        lambda: app.list_referrers("v1"),
        lambda: app.list_referrers(Digest.of(b"absent")),
        lambda: app.attach("v1", [], artifact_type="a/b"),
        lambda: app.pull_artifact("v1", tmp_path / "pulled"),
        lambda: app.tag_image("v1", "v2"),
        lambda: validate(app.repository),
        lambda: list(client.catalog.images()),  # type: ignore[attr-defined]  # of the two backends, not of all
    ]
    if scheme == "oci":
        reads += [
            lambda: app.delete_tag("v1"),
            lambda: app.delete_by_digest(Digest.of(b"absent")),
            LayoutCatalog(path).check,
            LayoutCatalog(path).prune,
        ]

    for read in reads:
        with pytest.raises(RepositoryNotFound, match=str(path)):
            read()
    assert not app.image_exists("v1")
    assert not path.exists()


def test_a_name_of_two_images_is_ambiguous(tmp_path: Path) -> None:
    """R-304."""
    client = open_client(f"oci:{tmp_path}")
    client.push_image("1.0+build", _image("one"))
    client.push_image("other", _image("two"))
    (tmp_path / "index.json").write_text((tmp_path / "index.json").read_text().replace('"other"', '"1.0+build"'))

    with pytest.raises(LayoutError, match="ambiguous name"):
        client.get_image("1.0+build")
