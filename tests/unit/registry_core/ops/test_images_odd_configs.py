"""Images whose configurations have unusual media types, or fields of wrong types."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from registry_adapters import open_client
from registry_core import ImageBuilder, ImageEditor, IndexBuilder
from registry_core.client import RegistryClient
from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
)
from registry_core.domain.names import Tag
from registry_core.domain.platform import Platform
from registry_core.errors import DigestMismatch, InvalidDocument, NotAnImage, PlatformNotFound
from registry_core.testing.content import put_blob

GENERIC = [
    "application/octet-stream",
    "application/json",
    "text/html",
    "text/html; charset=utf-8",
    "text/plain",
    "binary/octet-stream",
    "",
    None,
    "absent",
]
ODD_FIELDS: list[dict[str, Any]] = [
    {"config": {"Entrypoint": "/bin/sh"}},
    {"config": {"Cmd": {"a": 1}}},
    {"config": {"Env": "A=b"}},
    {"config": {"Labels": {"a": 1}}},
    {"config": {"Labels": ["a=b"]}},
    {"config": {"User": 1000}},
    {"config": {"ExposedPorts": ["80/tcp"]}},
    {"config": {"Volumes": "/data"}},
    {"config": "none"},
    {"history": [None]},
    {"history": {"created": 1}},
    {"author": 1},
    {"variant": 8},
    {"os.features": "win32k"},
]


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"), io.BytesIO())
    return stream.getvalue()


LAYER = gzip.compress(tar(), mtime=0)
DIFF_ID = Digest.of(tar())


def push(
    client: RegistryClient,
    tag: str,
    *,
    config_type: str | None = DOCKER_CONFIG,
    manifest_type: str = DOCKER_MANIFEST,
    **fields: object,
) -> RawManifest:
    """Push an image of one layer with the file ``a``, for linux/arm64."""
    rootfs = {"type": "layers", "diff_ids": [DIFF_ID]}
    config = strict_json.encode({"os": "linux", "architecture": "arm64", "rootfs": rootfs, **fields})
    for content in (config, LAYER):
        put_blob(client.repository, content)
    described: dict[str, object] = {"mediaType": config_type, "digest": Digest.of(config), "size": len(config)}
    if config_type == "absent":
        del described["mediaType"]
    layer_type = DOCKER_LAYER_GZIP if manifest_type == DOCKER_MANIFEST else OCI_LAYER_GZIP
    layer = {"mediaType": layer_type, "digest": Digest.of(LAYER), "size": len(LAYER)}
    document = {"schemaVersion": 2, "mediaType": manifest_type, "config": described, "layers": [layer]}
    manifest = RawManifest(manifest_type, strict_json.encode(document))
    client.repository.manifests.put(manifest, tags=[Tag(tag)])
    return manifest


@pytest.fixture
def client() -> RegistryClient:
    return open_client("memory:").with_segment("org", "app")


@pytest.mark.parametrize("config_type", GENERIC)
class TestOldDockerImages:
    """R-015."""

    def test_they_have_a_configuration_and_a_platform(self, client: RegistryClient, config_type: str | None) -> None:
        push(client, "v1", config_type=config_type)

        assert client.get_image_config("v1").architecture == "arm64"
        assert client.get_image("v1").platform == Platform.parse("linux/arm64")
        assert client.get_image("v1", platform="linux/arm64").has_config
        with pytest.raises(PlatformNotFound):
            client.get_image("v1", platform="linux/amd64")

    def test_an_index_entry_is_selected_by_the_configuration(
        self, client: RegistryClient, config_type: str | None
    ) -> None:
        push(client, "v1", config_type=config_type)
        index = IndexBuilder().add(client.get_image("v1")).build()
        client.push_index("all", index)

        (entry,) = client.get_index("all").manifests
        assert entry.platform == Platform.parse("linux/arm64")
        assert entry.artifact_type == ""
        assert client.get_image("all", platform="linux/arm64").digest == entry.digest

    def test_diff_ids_are_checked(self, client: RegistryClient, config_type: str | None) -> None:
        push(client, "v1", config_type=config_type)
        push(client, "v2", config_type=config_type, rootfs={"type": "layers", "diff_ids": [Digest.of(b"other")]})

        assert [entry.path for entry in client.get_image("v1").list_files()] == ["a"]
        with pytest.raises(DigestMismatch):
            list(client.get_image("v2").list_files())
        assert client.get_image("v1").validate().findings == ()
        assert not client.get_image("v2").validate().is_clean

    def test_they_can_be_edited_and_built_on(self, client: RegistryClient, config_type: str | None) -> None:
        raw = push(client, "v1", config_type=config_type)
        image = client.get_image("v1")

        edited = ImageEditor(image).label("a", "b").build()
        converted = ImageEditor(image).to_oci().build()
        docker = ImageEditor(image).to_docker().build()
        built = ImageBuilder(base=image).add_files({"b": b""}).build()

        assert edited.config().config.labels == {"a": "b"}
        kept = raw.mapping["config"].get("mediaType", "absent")
        assert strict_json.decode(edited.raw)["config"].get("mediaType", "absent") == kept
        assert (converted.media_type, converted.manifest().config.media_type) == (OCI_MANIFEST, OCI_CONFIG)
        assert docker.manifest().config.media_type == DOCKER_CONFIG
        assert built.manifest().config.media_type == OCI_CONFIG
        assert [len(each.layers()) for each in (edited, converted, docker, built)] == [1, 1, 1, 2]

    def test_a_docker_archive_has_them(self, client: RegistryClient, config_type: str | None, tmp_path: Path) -> None:
        raw = push(client, "v1", config_type=config_type)
        path = tmp_path / "images.tar"

        with open_client(f"docker-archive:{path}") as archive:
            client.copy_image("v1", archive.with_segment("org", "app"), "v1")

        with tarfile.open(path) as file:
            listed = file.extractfile("manifest.json")
            assert listed is not None
            (entry,) = strict_json.decode_any(listed.read())
        assert entry["RepoTags"] == ["org/app:v1"]
        assert open_client(f"docker-archive:{path}").with_segment("org", "app").get_digest("v1") == raw.digest


class TestArtifacts:
    """R-015, R-027."""

    @pytest.mark.parametrize("config_type", [each for each in GENERIC if each not in (None, "absent")])
    def test_a_generic_configuration_in_an_oci_manifest(self, client: RegistryClient, config_type: str) -> None:
        push(client, "v1", config_type=config_type, manifest_type=OCI_MANIFEST)

        assert not client.get_image("v1").has_config
        with pytest.raises(NotAnImage):
            client.get_image_config("v1")

    @pytest.mark.parametrize("manifest_type", [OCI_MANIFEST, DOCKER_MANIFEST])
    @pytest.mark.parametrize(
        "config_type", ["application/vnd.docker.plugin.v1+json", "application/vnd.cncf.helm.config.v1+json"]
    )
    def test_a_configuration_of_another_type(
        self, client: RegistryClient, config_type: str, manifest_type: str
    ) -> None:
        push(client, "v1", config_type=config_type, manifest_type=manifest_type)

        with pytest.raises(NotAnImage):
            client.get_image_config("v1")

    @pytest.mark.parametrize("config_type", [None, "absent"])
    def test_an_oci_configuration_without_a_type_is_malformed(
        self, client: RegistryClient, config_type: str | None
    ) -> None:
        """R-008."""
        with pytest.raises(InvalidDocument):
            push(client, "v1", config_type=config_type, manifest_type=OCI_MANIFEST)


@pytest.mark.parametrize("fields", ODD_FIELDS)
class TestOddFields:
    """R-017."""

    def test_files_are_listed_read_and_unpacked(
        self, client: RegistryClient, fields: dict[str, Any], tmp_path: Path
    ) -> None:
        push(client, "v1", **fields)
        image = client.get_image("v1", platform="linux/arm64")

        assert [entry.path for entry in image.list_files()] == ["a"]
        with image.open_file("a") as file:
            assert file.read() == b""
        image.extract_to(tmp_path / "root")
        assert [path.name for path in (tmp_path / "root").iterdir()] == ["a"]
        with image.extract() as stream, image.layers()[0].open_uncompressed() as layer:
            assert stream.read()
            assert layer.read() == tar()

    def test_a_wrong_layer_is_refused(self, client: RegistryClient, fields: dict[str, Any]) -> None:
        push(client, "v1", **fields, rootfs={"diff_ids": [Digest.of(b"other")]})

        with pytest.raises(DigestMismatch):
            list(client.get_image("v1").list_files())

    def test_a_validation_checks_the_files_and_names_the_field(
        self, client: RegistryClient, fields: dict[str, Any]
    ) -> None:
        push(client, "v1", **fields)
        push(client, "v2", **fields, rootfs={"type": "layers", "diff_ids": [Digest.of(b"other")]})

        report = client.get_image("v1").validate()

        assert report.is_clean
        assert next(iter(fields)) in report.warnings[0].what
        assert "not the diff_id" in client.get_image("v2").validate().errors[0].what

    def test_reading_the_whole_configuration_names_the_field(
        self, client: RegistryClient, fields: dict[str, Any]
    ) -> None:
        push(client, "v1", **fields)

        with pytest.raises(InvalidDocument) as caught:
            client.get_image_config("v1")

        assert caught.value.path.startswith(f"$.{next(iter(fields))}")

    def test_copies_and_archives_do_not_need_it(
        self, client: RegistryClient, fields: dict[str, Any], tmp_path: Path
    ) -> None:
        raw = push(client, "v1", **fields)
        path = tmp_path / "images.tar"

        with open_client(f"docker-archive:{path}") as archive:
            client.copy_image("v1", archive.with_segment("org", "app"), "v1")

        image = open_client(f"docker-archive:{path}").with_segment("org", "app").get_image("v1")
        assert image.digest == raw.digest
        assert [entry.path for entry in image.list_files()] == ["a"]
