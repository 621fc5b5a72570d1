"""The code MANIFEST_INVALID is that of errors about manifests, and of no other document."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from registry_adapters import open_client
from registry_adapters.auth.tokens import parse_token
from registry_adapters.keychains import DockerConfigKeychain
from registry_adapters.testing import faults as fault
from registry_adapters.testing import faulty_registry
from registry_core import Digest, InvalidDocument, RegistryClient, RegistryError, Tag
from registry_core.content.streams import BytesSource
from registry_core.domain import strict_json
from registry_core.domain.auth import TokenReply, TokenRequest
from registry_core.domain.image_config import ImageConfig
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_INDEX, OCI_MANIFEST
from registry_core.ops.mirror.config_file import read_mirror_file

CODE = "MANIFEST_INVALID"
DOCUMENTS = [
    b"",
    b"<html>",
    b"[]",
    b"{",
    b"{}",
    b'{"a": 1, "a": 2}',
    b'{"manifests": [], "layers": []}',
    b'{"mediaType": 1}',
    b"\xff",
]


@pytest.mark.parametrize("content", DOCUMENTS)
def test_a_malformed_manifest_has_the_code(content: bytes) -> None:
    with pytest.raises(InvalidDocument) as caught:
        RawManifest.of(content)

    assert caught.value.code == CODE
    assert str(caught.value).endswith(f"[{CODE}]")


@pytest.mark.parametrize(
    ("media_type", "content", "view"),
    [
        (OCI_MANIFEST, b'{"schemaVersion": 2, "config": 1, "layers": []}', lambda manifest: manifest.image),
        (OCI_INDEX, b'{"schemaVersion": 2, "manifests": 1}', lambda manifest: manifest.index),
        (OCI_MANIFEST, b"<html>", lambda manifest: manifest.mapping),
        (OCI_MANIFEST, b'{"schemaVersion": 2, "config": 1, "layers": []}', lambda manifest: manifest.children),
        (OCI_INDEX, b'{"schemaVersion": 2, "manifests": 1}', lambda manifest: manifest.subject),
    ],
)
def test_every_view_of_a_malformed_manifest_has_the_code(
    media_type: str, content: bytes, view: Callable[[RawManifest], object]
) -> None:
    with pytest.raises(InvalidDocument) as caught:
        view(RawManifest(media_type, content))

    assert caught.value.code == CODE


@pytest.mark.parametrize("content", DOCUMENTS[:4])
def test_a_malformed_configuration_has_no_code(content: bytes) -> None:
    with pytest.raises(InvalidDocument) as caught:
        ImageConfig.read(content)

    assert caught.value.code == ""
    assert CODE not in str(caught.value)


def test_a_malformed_date_has_no_code() -> None:
    with pytest.raises(InvalidDocument) as caught:
        _ = ImageConfig(created="yesterday").created_at

    assert CODE not in str(caught.value)


def test_a_malformed_value_for_json_has_no_code() -> None:
    with pytest.raises(InvalidDocument) as caught:
        strict_json.encode({"a": float("nan")})

    assert CODE not in str(caught.value)


@pytest.mark.parametrize(
    "operation",
    [
        lambda client: client.get_image_config("v1"),
        lambda client: client.get_image("v1").config(),
        lambda client: client.get_image("v1").layers()[0].diff_id(),
    ],
)
def test_the_configuration_of_an_image_has_no_code(
    client: RegistryClient, operation: Callable[[RegistryClient], object]
) -> None:
    app = client.with_segment("app")
    config = b'{"rootfs": []}'
    layer = b"layer"
    for content in (config, layer):
        app.repository.blobs.put(Digest.of(content), len(content), BytesSource(content))
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest.of(config),
            "size": len(config),
        },
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": Digest.of(layer), "size": len(layer)}
        ],
    }
    app.repository.manifests.put(RawManifest.of(json.dumps(document).encode()), tags=[Tag("v1")])

    with pytest.raises(RegistryError) as caught:
        operation(app)

    assert CODE not in str(caught.value)
    assert caught.value.code != CODE


@pytest.mark.parametrize(
    ("operation", "has_code"),
    [
        (lambda client: client.get_manifest("v1"), True),
        (lambda client: client.get_image("v1"), True),
        (lambda client: client.list_tags(), False),
        (lambda client: client.list_repositories(), False),
    ],
)
def test_a_login_page_has_the_code_only_where_a_manifest_was_requested(
    operation: Callable[[RegistryClient], object], has_code: bool
) -> None:
    page = fault.login_page().on(path="^/v2/", method="GET")

    with faulty_registry(page) as server, open_client(server.url, retries=0) as client:
        with pytest.raises(RegistryError) as caught:
            list(operation(client.with_segment("app")))  # type: ignore[call-overload]  # some give no list

    assert (CODE in str(caught.value)) is has_code


@pytest.mark.parametrize("content", DOCUMENTS)
def test_a_malformed_token_response_has_no_code(content: bytes) -> None:
    request = TokenRequest(method="GET", url="https://auth.example.com/token", headers={})

    with pytest.raises(RegistryError) as caught:
        parse_token(request, TokenReply(status=200, content=content))

    assert CODE not in str(caught.value)


@pytest.mark.parametrize("content", DOCUMENTS)
@pytest.mark.parametrize("name", ["index.json", "oci-layout"])
def test_a_malformed_layout_has_no_code(tmp_path: Path, name: str, content: bytes) -> None:
    with open_client(f"oci:{tmp_path}") as client:
        client.repository.manifests.put(
            RawManifest.of(json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()),
            tags=[Tag("v1")],
        )
    (tmp_path / name).write_bytes(content)

    with open_client(f"oci:{tmp_path}") as client, pytest.raises(RegistryError) as caught:
        client.get_manifest("v1")

    assert CODE not in str(caught.value)


@pytest.mark.parametrize("content", DOCUMENTS)
def test_the_list_of_a_malformed_archive_has_no_code(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("manifest.json")
        member.size = len(content)
        archive.addfile(member, BytesIO(content))

    with open_client(f"docker-archive:{path}") as client, pytest.raises(RegistryError) as caught:
        client.list_repositories()
        client.with_segment("app").get_manifest("v1")

    assert CODE not in str(caught.value)


@pytest.mark.parametrize("content", [b"[", b"x = 1", b"\xff"])
def test_a_malformed_mirror_file_has_no_code(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mirror.toml"
    path.write_bytes(content)

    with pytest.raises(InvalidDocument) as caught:
        read_mirror_file(path)

    assert CODE not in str(caught.value)


def test_a_malformed_credential_file_has_no_code(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"<html>")

    with pytest.raises(RegistryError) as caught:
        DockerConfigKeychain(path).credential("registry.example.com", None)

    assert CODE not in str(caught.value)
