"""Artifacts pushed, attached, copied, validated and pulled through every backend."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from registry_adapters import open_client
from registry_core import RegistryClient
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.ops.artifacts.pull import pull_artifact
from registry_core.ops.artifacts.push import ArtifactFile, push_artifact
from registry_core.ops.artifacts.referrers import walk_referrers
from registry_core.ops.transfer.copy import copy
from registry_core.ops.validation.validate import validate

MODEL = "application/vnd.example.model"
SBOM = "application/vnd.example.sbom"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "a.bin").write_bytes(bytes(range(256)) * 10_000)
    (path / "README").write_text("hello")
    (path / "latest").symlink_to("inner/a.bin")
    return path


def test_a_model_with_an_attached_sbom(client: RegistryClient, tmp_path: Path, folder: Path) -> None:
    repository = client.with_segment("models", "small").repository
    card = ArtifactFile(b"# card", title="docs/card.md", media_type="text/markdown")

    pushed = push_artifact(repository, [folder, card], artifact_type=MODEL, tags=[Tag("v1")])
    sbom = push_artifact(repository, [ArtifactFile(b"{}", title="sbom")], artifact_type=SBOM, subject=Tag("v1"))
    written = pull_artifact(repository, "v1", tmp_path / "out", unpack=True)

    assert [path.relative_to(tmp_path / "out") for path in written] == [Path("weights"), Path("docs/card.md")]
    assert (tmp_path / "out" / "weights" / "latest").read_bytes() == (folder / "inner" / "a.bin").read_bytes()
    assert (tmp_path / "out" / "docs" / "card.md").read_bytes() == b"# card"
    found = list(walk_referrers(repository, "v1", artifact_type=SBOM))
    assert [(each.descriptor.digest, each.subject) for each in found] == [(sbom.digest, pushed.digest)]
    assert validate(repository).findings == ()
    assert validate(repository, sbom.digest).findings == ()


def test_pushing_again_uploads_nothing(client: RegistryClient, folder: Path) -> None:
    repository = client.with_segment("models", "small").repository

    first = push_artifact(repository, [folder], artifact_type=MODEL)
    second = push_artifact(repository, [folder], artifact_type=MODEL, tags=[Tag("again")])

    assert first == second
    assert repository.manifests.resolve(Tag("again")).digest == first.digest


def test_skopeo_copies_artifacts_unchanged(tmp_path: Path, folder: Path) -> None:
    skopeo = shutil.which("skopeo")
    assert skopeo is not None
    with open_client(f"oci:{tmp_path / 'ours'}") as client:
        pushed = push_artifact(client.repository, [folder], artifact_type=MODEL, tags=[Tag("v1")])

    subprocess.run(
        [skopeo, "copy", "--quiet", f"oci:{tmp_path / 'ours'}:v1", f"oci:{tmp_path / 'theirs'}:v1"], check=True
    )

    with open_client(f"oci:{tmp_path / 'theirs'}") as client:
        assert client.get_digest("v1") == pushed.digest
        pull_artifact(client.repository, "v1", tmp_path / "out", unpack=True)
        assert validate(client.repository).findings == ()
    assert (tmp_path / "out" / "weights" / "README").read_text() == "hello"


def test_copies_keep_the_digest(client: RegistryClient, folder: Path) -> None:
    repository = client.with_segment("models", "small").repository
    with open_client("memory:") as other:
        target = other.catalog.repository(RepositoryName("copy"))
        pushed = push_artifact(repository, [folder], artifact_type=MODEL, tags=[Tag("v1")])

        copied = copy(repository, target, Tag("v1"), tags=[Tag("v1")])

        assert copied.digest == pushed.digest
        assert validate(target).is_clean
        assert target.blobs.stat(Digest.of(b"{}")) == 2
