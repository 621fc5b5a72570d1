"""Artifact manifests of OCI and ORAS in every backend: copied with their blobs, listed as referrers, and read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_adapters import MemoryCatalog, open_client
from registry_adapters.wsgi import registry_server
from registry_core import CopyOptions, Digest, ImageBuilder, RegistryClient, Tag, copy, validate
from registry_core.domain.media_types import OCI_ARTIFACT_MANIFEST, ORAS_ARTIFACT_MANIFEST
from registry_core.testing.content import artifact_manifest, index_manifest, put_blob

BACKENDS = ("layout", "oci-archive", "docker-archive", "http")


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "http":
        with registry_server(MemoryCatalog()) as server:
            yield server.url
    else:
        yield {"layout": "oci:"}.get(request.param, f"{request.param}:") + str(tmp_path / "target")


def app(client: RegistryClient) -> RegistryClient:
    return client.with_segment("org", "app")


@pytest.mark.parametrize("media_type", [OCI_ARTIFACT_MANIFEST, ORAS_ARTIFACT_MANIFEST])
def test_its_blobs_are_copied_and_it_is_listed_and_read_back(url: str, media_type: str) -> None:
    """R-016."""
    source = app(open_client("memory:"))
    image = source.push_image("image", ImageBuilder(platform="linux/amd64").add_files({"a": b"1"}).build())
    put_blob(source.repository, b"signature")
    subject = {"mediaType": image.media_type, "digest": str(image.digest), "size": image.size}
    artifact = artifact_manifest([b"signature"], media_type=media_type, artifactType="a/b", subject=subject)
    source.repository.manifests.put(artifact, tags=[Tag("artifact")])
    index = index_manifest([image, artifact.descriptor])
    source.repository.manifests.put(index, tags=[Tag("index")])

    with open_client(url) as client:
        for tag in ("image", "artifact", "index"):
            copy(source.repository, app(client).repository, Tag(tag), tags=[tag], options=CopyOptions(referrers=True))

    with open_client(url) as client:
        target = app(client)
        assert target.repository.manifests.get(Tag("artifact")) == artifact
        assert target.repository.manifests.get(Tag("index")) == index
        assert target.repository.blobs.stat(Digest.of(b"signature")) == 9
        assert [(each.digest, each.artifact_type) for each in target.list_referrers("image")] == [
            (artifact.digest, "a/b")
        ]
        assert validate(target.repository, referrers=True).is_clean
