"""Artifacts are exchanged with other tools: the library pulls theirs, and they pull those of the library."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from registry_adapters import MemoryCatalog, open_client
from registry_adapters.wsgi import registry_server
from registry_core import Descriptor, Digest, RegistryClient, Repository, Tag, open_blob, push_blob
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_LAYER_GZIP, OCI_MANIFEST
from registry_core.ops.artifacts.pull import pull_artifact
from registry_core.ops.artifacts.push import ArtifactFile, push_artifact
from registry_core.ops.artifacts.referrers import list_referrers

MODEL = "application/vnd.example.model"
TITLE = "org.opencontainers.image.title"


@pytest.fixture(params=["ours", "docker-registry"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "docker-registry":
        yield request.getfixturevalue("docker_registry")
    else:
        with registry_server(MemoryCatalog()) as server:
            yield server.url


@pytest.fixture
def client(url: str) -> Iterator[RegistryClient]:
    with open_client(url) as opened:
        yield opened.with_segment("models", "small")


@pytest.fixture
def target(url: str) -> str:
    """The repository as oras names it."""
    return f"{url.removeprefix('http://')}/models/small"


@pytest.fixture
def oras(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A client of oras-py without stored credentials."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "home"))
    return import_module("oras.client").OrasClient(insecure=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "a.bin").write_bytes(bytes(range(256)) * 1000)
    (path / "README").write_text("hello")
    return path


def is_layer(file: Descriptor) -> bool:
    return file.media_type == OCI_LAYER_GZIP


class TestOrasPy:
    def test_it_pulls_artifacts_of_the_library(
        self, oras: Any, client: RegistryClient, target: str, folder: Path, tmp_path: Path
    ) -> None:
        card = ArtifactFile(b"# card", title="card.md", media_type="text/markdown")
        push_artifact(client.repository, [folder, card], artifact_type=MODEL, tags=[Tag("v1")])

        written = oras.pull(target=f"{target}:v1", outdir=str(tmp_path / "out"))

        assert [Path(path).name for path in written] == ["weights", "card.md"]
        assert (tmp_path / "out" / "card.md").read_bytes() == b"# card"
        assert (tmp_path / "out" / "weights" / "README").read_text() == "hello"
        assert (tmp_path / "out" / "weights" / "inner" / "a.bin").read_bytes() == bytes(range(256)) * 1000

    def test_the_library_pulls_its_artifacts(
        self, oras: Any, client: RegistryClient, target: str, folder: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "notes.txt").write_text("notes")
        oras.push(
            target=f"{target}:v1",
            files=[str(folder), f"{tmp_path / 'notes.txt'}:text/plain"],
            manifest_annotations={"key": "value"},
            disable_path_validation=True,
            quiet=True,
        )

        # oras-py does not mark directories as packed.
        pull_artifact(client.repository, "v1", tmp_path / "out", unpack=is_layer)

        assert (tmp_path / "out" / "notes.txt").read_text() == "notes"
        assert (tmp_path / "out" / "weights" / "README").read_text() == "hello"
        assert (tmp_path / "out" / "weights" / "inner" / "a.bin").read_bytes() == bytes(range(256)) * 1000
        found = client.get_manifest("v1").manifest
        assert (found.artifact_type, found.annotations) == ("", {"key": "value"})

    # docker-registry has no referrers API, and oras-py does not maintain the referrers tag.
    @pytest.mark.parametrize("url", ["ours"], indirect=True)
    def test_the_library_lists_its_referrers(
        self, oras: Any, client: RegistryClient, target: str, folder: Path, tmp_path: Path
    ) -> None:
        pushed = push_artifact(client.repository, [folder], artifact_type=MODEL, tags=[Tag("v1")])
        subject = import_module("oras.oci").Subject(pushed.media_type, str(pushed.digest), pushed.size)
        (tmp_path / "sbom.json").write_text("{}")

        oras.push(
            target=f"{target}:sbom",
            files=[f"{tmp_path / 'sbom.json'}:application/spdx+json"],
            subject=subject,
            disable_path_validation=True,
            quiet=True,
        )

        (found,) = list_referrers(client.repository, "v1")
        assert found.digest == client.get_digest("sbom")
        assert found.artifact_type == "application/vnd.unknown.config.v1+json"

    def test_it_pulls_attached_artifacts_of_the_library(
        self, oras: Any, client: RegistryClient, target: str, tmp_path: Path
    ) -> None:
        push_artifact(client.repository, [], artifact_type=MODEL, tags=[Tag("v1")])
        push_artifact(client.repository, [ArtifactFile(b"{}", title="sbom")], artifact_type="a/sbom", subject="v1")

        (found,) = list_referrers(client.repository, "v1", artifact_type="a/sbom")
        written = oras.pull(target=f"{target}@{found.digest}", outdir=str(tmp_path / "out"))

        assert [Path(path).read_bytes() for path in written] == [b"{}"]

    def test_it_reads_manifests_of_the_library(self, oras: Any, client: RegistryClient, target: str) -> None:
        push_artifact(client.repository, [], artifact_type=MODEL, annotations={"a": "b"}, tags=[Tag("v1")])

        manifest = oras.get_manifest(f"{target}:v1")

        assert (manifest["artifactType"], manifest["annotations"]) == (MODEL, {"a": "b"})


def put(repository: Repository, media_type: str, content: bytes, **annotations: str) -> dict[str, Any]:
    found = push_blob(repository, content, media_type=media_type)
    entry = {"mediaType": media_type, "digest": str(found.digest), "size": found.size}
    return entry | {"annotations": annotations} if annotations else entry


def store(repository: Repository, document: dict[str, Any]) -> Digest:
    raw = RawManifest.of(json.dumps({"schemaVersion": 2, **document}, indent=2).encode())
    return repository.manifests.put(raw, tags=[Tag("v1")]).digest


class TestManifestsOfOtherTools:
    """Manifests as in the documentation of the tools."""

    def test_oras_without_artifact_type(self, client: RegistryClient, tmp_path: Path) -> None:
        repository = client.repository
        store(
            repository,
            {
                "config": put(repository, "application/vnd.unknown.config.v1+json", b"{}"),
                "layers": [
                    put(repository, "application/vnd.acme.rocket.docs.layer.v1+tar", b"docs", **{TITLE: "a.md"})
                ],
            },
        )

        pull_artifact(repository, "v1", tmp_path / "out")

        assert (tmp_path / "out" / "a.md").read_bytes() == b"docs"

    def test_oras(self, client: RegistryClient, tmp_path: Path) -> None:
        repository = client.repository
        empty = put(repository, "application/vnd.oci.empty.v1+json", b"{}") | {"data": "e30="}
        store(
            repository,
            {
                "mediaType": OCI_MANIFEST,
                "artifactType": "application/vnd.acme.rocket.config",
                "config": empty,
                "layers": [put(repository, "text/plain", b"hello", **{TITLE: "hi.txt"})],
                "annotations": {"org.opencontainers.image.created": "2023-08-03T00:21:51Z"},
            },
        )

        assert pull_artifact(repository, "v1", tmp_path / "out") == [tmp_path / "out" / "hi.txt"]
        assert (tmp_path / "out" / "hi.txt").read_bytes() == b"hello"

    def test_helm(self, client: RegistryClient, tmp_path: Path) -> None:
        config = ArtifactFile(
            b'{"name":"app","version":"1.0.0"}', media_type="application/vnd.cncf.helm.config.v1+json"
        )
        chart = ArtifactFile(b"a tgz", media_type="application/vnd.cncf.helm.chart.content.v1.tar+gzip")

        pushed = push_artifact(client.repository, [chart], config=config, tags=[Tag("v1")])

        document = json.loads(client.get_manifest("v1").raw)
        assert "artifactType" not in document
        assert document["config"] == {
            "mediaType": "application/vnd.cncf.helm.config.v1+json",
            "digest": str(Digest.of(b'{"name":"app","version":"1.0.0"}')),
            "size": 32,
        }
        assert [list(layer) for layer in document["layers"]] == [["mediaType", "digest", "size"]]
        assert pushed.artifact_type == "application/vnd.cncf.helm.config.v1+json"
        written = pull_artifact(client.repository, "v1", tmp_path / "out", untitled=lambda file: "app-1.0.0.tgz")
        assert [path.read_bytes() for path in written] == [b"a tgz"]
        with open_blob(client.repository, client.get_manifest("v1").manifest.config.digest) as reader:
            assert json.loads(reader.read())["name"] == "app"

    def test_model_store(self, client: RegistryClient, tmp_path: Path) -> None:
        repository = client.repository
        kinds = ("model", "template", "license")
        store(
            repository,
            {
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "config": put(repository, "application/vnd.docker.container.image.v1+json", b'{"model_format":"gguf"}'),
                "layers": [put(repository, f"application/vnd.ollama.image.{kind}", kind.encode()) for kind in kinds],
            },
        )

        pull_artifact(repository, "v1", tmp_path / "out", untitled=lambda file: file.media_type.rpartition(".")[2])

        assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == dict(
            zip(kinds, kinds, strict=True)
        )


@pytest.mark.parametrize("yes", ["true", "True", "1"])
def test_every_spelling_of_true_marks_a_packed_directory(folder: Path, tmp_path: Path, yes: str) -> None:
    with open_client("memory:") as client:
        repository = client.with_segment("a").repository
        pushed = push_artifact(repository, [folder], artifact_type=MODEL)
        document = json.loads(repository.manifests.get(pushed.digest).content)
        document["layers"][0]["annotations"]["io.deis.oras.content.unpack"] = yes
        store(repository, document)

        pull_artifact(repository, "v1", tmp_path / "out", unpack=True)

    assert (tmp_path / "out" / "weights" / "README").read_text() == "hello"
