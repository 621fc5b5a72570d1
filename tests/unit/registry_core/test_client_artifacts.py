"""The methods of ``RegistryClient`` for artifacts: they parse text and call the operations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry_adapters.memory import MemoryCatalog
from registry_core import (
    ArtifactFile,
    ImageBuilder,
    ImageNotFound,
    IndexBuilder,
    InvalidName,
    InvalidValue,
    NotAnImage,
    NotFound,
    RegistryClient,
    RegistryError,
)
from registry_core.ports.observer import Event

MODEL = "application/vnd.example.model"
SBOM = "application/vnd.example.sbom"
SIGNATURE = "application/vnd.example.signature"


class Events:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def on(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def client() -> RegistryClient:
    return RegistryClient(MemoryCatalog("registry.example.com"), "models", "small")


def test_files_are_pushed_and_pulled(client: RegistryClient, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")

    pushed = client.push_artifact("v1", [tmp_path / "notes.txt"], artifact_type=MODEL, annotations={"key": "value"})
    written = client.pull_artifact("v1", tmp_path / "out")

    assert (pushed.digest, pushed.artifact_type) == (client.get_digest("v1"), MODEL)
    assert client.get_manifest("v1").manifest.annotations == {"key": "value"}
    assert [path.read_text() for path in written] == ["notes"]


def test_directories_are_unpacked_files_selected_and_named(client: RegistryClient, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a").write_text("A")
    config = ArtifactFile(b"{}", media_type="a/config")
    client.push_artifact("v1", [tmp_path / "weights", ArtifactFile(b"B")], config=config)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b").write_text("old")

    client.pull_artifact("v1", tmp_path / "one", unpack=True)
    client.pull_artifact(
        "v1", tmp_path / "out", untitled=lambda file: "b", select=lambda file: not file.annotations, overwrite=True
    )

    assert (tmp_path / "one" / "weights" / "a").read_text() == "A"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b"]
    assert (tmp_path / "out" / "b").read_bytes() == b"B"


def test_an_attached_artifact_needs_no_tag_and_is_listed(client: RegistryClient) -> None:
    client.push_image("v1", ImageBuilder(platform="linux/amd64").build())

    sbom = client.attach("v1", [ArtifactFile(b"{}", title="sbom")], artifact_type=SBOM)
    client.attach(f"@{sbom.digest}", [], artifact_type=SIGNATURE, annotations={"by": "me"})

    assert client.list_tags() == ["v1"]
    assert [found.digest for found in client.list_referrers("v1")] == [sbom.digest]
    assert client.list_referrers("v1", SIGNATURE) == []
    assert [found.annotations for found in client.list_referrers(str(sbom.digest))] == [{"by": "me"}]


def test_an_observer_of_the_call_replaces_that_of_the_client(tmp_path: Path) -> None:
    own, other = Events(), Events()
    client = RegistryClient(MemoryCatalog("registry.example.com"), "models", observer=own)

    client.push_artifact("v1", [ArtifactFile(b"x", title="x")], artifact_type=MODEL)
    assert own.events
    own.events.clear()
    client.attach("v1", [ArtifactFile(b"y", title="y")], artifact_type=SBOM, observer=other)
    client.pull_artifact("v1", tmp_path, observer=other)

    assert (bool(other.events), own.events) == (True, [])


@pytest.mark.parametrize(
    ("operation", "call", "error"),
    [
        ("push_artifact", lambda client, path: client.push_artifact("a:b", [], artifact_type=MODEL), InvalidName),
        ("push_artifact", lambda client, path: client.push_artifact("v1", [], artifact_type="x"), InvalidValue),
        ("push_artifact", lambda client, path: client.push_artifact("v1", []), InvalidValue),
        ("attach", lambda client, path: client.attach("absent", [], artifact_type=SBOM), ImageNotFound),
        ("attach", lambda client, path: client.attach("image", [], artifact_type="x"), InvalidValue),
        ("attach", lambda client, path: client.attach("@x", [], artifact_type=SBOM), InvalidValue),
        ("pull_artifact", lambda client, path: client.pull_artifact("absent", path), ImageNotFound),
        ("pull_artifact", lambda client, path: client.pull_artifact("@x", path), InvalidValue),
        ("pull_artifact", lambda client, path: client.pull_artifact("index", path), NotAnImage),
        ("pull_artifact", lambda client, path: client.pull_artifact("image", path), NotFound),
        ("list_referrers", lambda client, path: client.list_referrers("absent"), ImageNotFound),
        ("list_referrers", lambda client, path: client.list_referrers("@x"), InvalidValue),
    ],
)
def test_errors_name_the_method_and_the_reference(
    client: RegistryClient,
    tmp_path: Path,
    operation: str,
    call: Callable[[RegistryClient, Path], Any],
    error: type[RegistryError],
) -> None:
    image = ImageBuilder(platform="linux/amd64").add_files({"a": "1"}).build()
    client.push_image("image", image)
    client.push_index("index", IndexBuilder().add(image).build())

    with pytest.raises(error) as caught:
        call(client, tmp_path / "out")

    assert caught.value.operation == operation
    assert caught.value.reference.startswith("registry.example.com/models/small")
    assert not (tmp_path / "out").exists()
