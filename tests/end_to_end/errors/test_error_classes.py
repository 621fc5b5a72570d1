"""The first table of docs/reference/errors.md, row by row: the error class on every backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry_adapters import MemoryCatalog
from registry_core import (
    BlobNotFound,
    Digest,
    Image,
    ImageBuilder,
    ImageNotFound,
    Index,
    IndexBuilder,
    InvalidName,
    MirrorRule,
    NotAnImage,
    NotAnIndex,
    NotFound,
    RegistryClient,
    RegistryError,
    RepositoryNotFound,
    TagPatterns,
    TagSelection,
    open_blob,
    push_blob,
    run_mirror,
    save_blob,
)

DIGEST = Digest("sha256:" + "0" * 64)
Operation = Callable[[RegistryClient], object]

MANIFESTS: dict[str, Operation] = {
    "get_image": lambda client: client.get_image("v1"),
    "get_index": lambda client: client.get_index("v1"),
    "get_manifest": lambda client: client.get_manifest("v1"),
    "get_image_config": lambda client: client.get_image_config("v1"),
    "delete_tag": lambda client: client.delete_tag("v1"),
    "delete_by_digest": lambda client: client.delete_by_digest(DIGEST),
    "tag_image": lambda client: client.tag_image("v1", "v2"),
    "copy_image": lambda client: client.copy_image("v1", client.with_segment("copy"), "v1"),
}
HEADS: dict[str, Operation] = {
    "get_digest": lambda client: client.get_digest("v1"),
    "check_image_exists": lambda client: client.check_image_exists("v1"),
}
BLOBS: dict[str, Operation] = {
    "open_blob": lambda client: open_blob(client.repository, DIGEST).read(),
    "save_blob": lambda client: save_blob(client.repository, DIGEST, Path("never-written")),
    "blobs.stat": lambda client: client.repository.blobs.stat(DIGEST),
    "blobs.open": lambda client: client.repository.blobs.open(DIGEST).read(),
    "blobs.delete": lambda client: client.repository.blobs.delete(DIGEST),
}


def _image() -> Image:
    return ImageBuilder(platform="linux/amd64").add_files({"a": b"1"}).build()


def _index() -> Index:
    return IndexBuilder().add(_image()).build()


def _error(operation: Operation, client: RegistryClient) -> RegistryError:
    with pytest.raises(RegistryError) as caught:
        operation(client)
    assert client.registry.rpartition("/")[2] in caught.value.reference
    return caught.value


@pytest.mark.parametrize("name", MANIFESTS)
def test_an_absent_repository(client: RegistryClient, name: str) -> None:
    error = _error(MANIFESTS[name], client.with_segment("absent"))

    assert type(error) is RepositoryNotFound
    assert error.code == "NAME_UNKNOWN"


@pytest.mark.parametrize("name", HEADS)
def test_an_absent_repository_requested_with_head(client: RegistryClient, name: str) -> None:
    error = _error(HEADS[name], client.with_segment("absent"))

    assert type(error) is (RepositoryNotFound if error.transport is None else ImageNotFound)


@pytest.mark.parametrize("name", MANIFESTS | HEADS)
def test_an_absent_tag(client: RegistryClient, name: str) -> None:
    app = client.with_segment("app")
    app.push_image("other", _image())

    error = _error((MANIFESTS | HEADS)[name], app)

    assert type(error) is ImageNotFound
    assert error.code == "MANIFEST_UNKNOWN"


@pytest.mark.parametrize("pushed", [False, True], ids=["repository-absent", "repository-there"])
@pytest.mark.parametrize("name", BLOBS)
def test_an_absent_blob(client: RegistryClient, name: str, pushed: bool) -> None:
    app = client.with_segment("app")
    if pushed:
        app.push_image("other", _image())

    error = _error(BLOBS[name], app)

    assert type(error) is BlobNotFound
    assert not Path("never-written").exists()


@pytest.mark.parametrize("pushed", [False, True], ids=["repository-absent", "repository-there"])
def test_checking_for_existence_raises_no_error(client: RegistryClient, pushed: bool) -> None:
    app = client.with_segment("app")
    if pushed:
        app.push_image("other", _image())

    assert app.image_exists("v1") is False


def test_lists_of_an_absent_repository(client: RegistryClient) -> None:
    absent = client.with_segment("absent")
    client.with_segment("app").push_image("v1", _image())

    assert list(absent.repository.manifests.referrers(DIGEST)) == []
    assert absent.list_repositories() == []
    with pytest.raises(RepositoryNotFound):
        absent.list_tags()
    with pytest.raises(RepositoryNotFound):
        list(absent.iter_tags())


def test_mirroring_what_is_absent(client: RegistryClient) -> None:
    client.with_segment("app").push_image("v1", _image())

    def rule(repository: str, **selected: Any) -> MirrorRule:
        return MirrorRule(
            source=client.catalog,
            source_path="/".join(client.path),
            target=MemoryCatalog(),
            repositories=[repository],
            tags=TagSelection(include=TagPatterns(**selected)) if selected else TagSelection(),
        )

    with pytest.raises(RepositoryNotFound):
        run_mirror([rule("absent")])
    with pytest.raises(ImageNotFound):
        run_mirror([rule("app", names=["v2"])])
    report = run_mirror([rule("absent*"), rule("app", globs=["v2*"]), rule("app", semver=">=2")])
    assert [type(failed.error) for failed in report.failed] == [NotFound] * 3


def test_pushing_creates_a_repository(client: RegistryClient) -> None:
    client.with_segment("image").push_image("v1", _image())
    client.with_segment("index").push_index("v1", _index())
    blob = push_blob(client.with_segment("blob").repository, b"content")

    assert {"image", "index"} <= set(client.list_repositories())
    assert client.with_segment("index").get_manifest("v1").is_index
    assert client.with_segment("blob").repository.blobs.stat(blob.digest) == 7


def test_copying_an_image_with_an_absent_blob_creates_no_tag(client: RegistryClient) -> None:
    app, target = client.with_segment("app"), client.with_segment("target")
    app.push_image("v1", _image())
    app.repository.blobs.delete(app.get_image("v1", platform="linux/amd64").layers()[0].digest)

    with pytest.raises(BlobNotFound) as caught:
        app.copy_image("v1", target, "v1")

    assert "app" in caught.value.reference
    assert not target.image_exists("v1")


def test_an_index_requested_as_an_image_and_the_reverse(client: RegistryClient) -> None:
    app = client.with_segment("app")
    app.push_image("image", _image())
    app.push_index("index", _index())

    with pytest.raises(NotAnIndex):
        app.get_index("image")
    with pytest.raises(NotAnIndex):
        app.get_manifest("image").index  # noqa: B018
    with pytest.raises(NotAnImage):
        app.get_manifest("index").manifest  # noqa: B018


def test_an_empty_path_is_an_invalid_name(client: RegistryClient) -> None:
    with pytest.raises(InvalidName):
        client.with_segment("No Such Segment")
