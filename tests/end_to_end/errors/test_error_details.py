"""The table of docs/reference/errors.md: each error names the operation, the reference and the registry's code."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry_adapters import LayoutCatalog, MemoryCatalog, open_client
from registry_adapters.wsgi import registry_server
from registry_adapters.wsgi.auth import BasicAuthorizer
from registry_core import (
    AccessDenied,
    Basic,
    BlobNotFound,
    DigestMismatch,
    Image,
    ImageBuilder,
    ImageNotFound,
    InvalidDigest,
    InvalidName,
    InvalidReference,
    RegistryClient,
    RegistryError,
    RepositoryNotFound,
    Unavailable,
)

DIGEST = "sha256:" + "0" * 64
Operation = Callable[[RegistryClient], object]

READS: dict[str, Operation] = {
    "get_image": lambda client: client.get_image("v1"),
    "get_digest": lambda client: client.get_digest("v1"),
    "get_manifest": lambda client: client.get_manifest("v1"),
    "get_image_config": lambda client: client.get_image_config("v1"),
    "check_image_exists": lambda client: client.check_image_exists("v1"),
    "tag_image": lambda client: client.tag_image("v1", "v2"),
    "copy_image": lambda client: client.copy_image("v1", open_client("memory:").with_segment("copy"), "v1"),
}
REMOVALS: dict[str, Operation] = {
    "delete_tag": lambda client: client.delete_tag("v1"),
    "delete_by_digest": lambda client: client.delete_by_digest(DIGEST),
}
LISTS: dict[str, Operation] = {"list_tags": lambda client: client.list_tags()}
WRITES: dict[str, Operation] = {"push_image": lambda client: client.push_image("v1", _image())}
ALL = READS | REMOVALS | LISTS | WRITES


def _image() -> Image:
    return ImageBuilder(platform="linux/amd64").add_files({"a": b"1"}).build()


def _check(error: RegistryError, *, operation: str, reference: str) -> None:
    assert error.operation, "names no operation"
    assert reference in error.reference
    assert error.operation in str(error)
    assert error.reference in str(error)
    assert operation.split("_")[0] in error.operation or error.operation == "copy"


@pytest.mark.parametrize("operation", [*READS, *REMOVALS])
def test_an_absent_repository(client: RegistryClient, operation: str) -> None:
    with pytest.raises(ImageNotFound) as caught:
        ALL[operation](client.with_segment("absent", "repo"))

    _check(caught.value, operation=operation, reference="absent/repo")
    assert caught.value.code in {"NAME_UNKNOWN", "MANIFEST_UNKNOWN"}


def test_the_tags_of_an_absent_repository(client: RegistryClient) -> None:
    with pytest.raises(RepositoryNotFound) as caught:
        client.with_segment("absent", "repo").list_tags()

    _check(caught.value, operation="list_tags", reference="absent/repo")
    assert caught.value.code == "NAME_UNKNOWN"


@pytest.mark.parametrize("operation", [*READS, *REMOVALS])
def test_an_absent_tag(client: RegistryClient, operation: str) -> None:
    app = client.with_segment("app")
    app.push_image("other", _image())

    with pytest.raises(ImageNotFound) as caught:
        ALL[operation](app)

    _check(caught.value, operation=operation, reference="app")
    assert not isinstance(caught.value, RepositoryNotFound)
    assert caught.value.code == "MANIFEST_UNKNOWN"


def test_an_absent_blob(client: RegistryClient) -> None:
    app = client.with_segment("app")
    app.push_image("v1", _image())
    image = app.get_image("v1", platform="linux/amd64")
    app.repository.blobs.delete(image.layers()[0].digest)

    with pytest.raises(BlobNotFound) as caught:
        image.layers()[0].open()

    assert "app" in caught.value.reference
    assert caught.value.code == "BLOB_UNKNOWN"


@pytest.mark.parametrize("operation", ALL)
def test_denied_access_is_not_reported_as_absence(operation: str) -> None:
    with registry_server(MemoryCatalog(), authorizer=BasicAuthorizer({"user": "right"})) as server:
        with open_client(server.url, auth=Basic("user", "wrong")) as client:
            with pytest.raises(AccessDenied) as caught:
                ALL[operation](client.with_segment("app"))

    _check(caught.value, operation=operation, reference="app")
    assert caught.value.code == "UNAUTHORIZED"
    assert caught.value.transport is not None
    assert caught.value.transport.status == 401
    assert "wrong" not in repr(caught.value) + str(caught.value)


@pytest.mark.parametrize("reference", ["", "a tag", "v1\n", "sha256:short", "@sha256:../../etc", "x" * 129, "a/b"])
@pytest.mark.parametrize("operation", ["get_image", "get_digest", "get_manifest", "get_image_config", "get_index"])
def test_a_malformed_reference(client: RegistryClient, operation: str, reference: str) -> None:
    app = client.with_segment("app")
    # In a layout or archive, these are the only image and the name of an image.
    is_name = app.repository.names is not None and reference in ("", "a/b")

    with pytest.raises(ImageNotFound if is_name else (InvalidName, InvalidDigest, InvalidReference)):
        getattr(app, operation)(reference)
    if is_name:
        assert app.image_exists(reference) is False
    else:
        with pytest.raises((InvalidName, InvalidDigest, InvalidReference)):
            app.image_exists(reference)


@contextmanager
def _corrupt(kind: str, directory: Path) -> Iterator[RegistryClient]:
    layout = open_client(f"oci:{directory}").with_segment("app")
    layout.push_image("v1", _image())
    layer = layout.get_image("v1", platform="linux/amd64").layers()[0]
    path = directory / "app" / "blobs" / "sha256" / layer.digest.encoded
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-9] ^= 0xFF
    path.write_bytes(content)
    if kind == "layout":
        yield layout
        return
    with registry_server(LayoutCatalog(directory)) as server, open_client(server.url) as client:
        yield client.with_segment("app")


@pytest.mark.parametrize("kind", ["layout", "http"])
def test_reading_a_corrupt_layer_fails(kind: str, tmp_path: Path) -> None:
    with _corrupt(kind, tmp_path) as client:
        image = client.get_image("v1", platform="linux/amd64")

        with pytest.raises(DigestMismatch) as caught, image.layers()[0].open() as reader:
            reader.read()

    assert "app" in caught.value.reference
    assert caught.value.expected == image.layers()[0].digest


@pytest.mark.parametrize("kind", ["layout", "http"])
def test_a_corrupt_layer_is_not_copied(kind: str, tmp_path: Path) -> None:
    target = open_client("memory:").with_segment("copy")
    with _corrupt(kind, tmp_path) as client, pytest.raises(DigestMismatch):
        client.copy_image("v1", target, "v1")

    assert not target.image_exists("v1")


@pytest.mark.parametrize("operation", ALL)
def test_an_unreachable_host(operation: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with open_client(f"http://127.0.0.1:{unused.getsockname()[1]}", retries=0) as client:
            with pytest.raises(Unavailable) as caught:
                ALL[operation](client.with_segment("app"))

    _check(caught.value, operation=operation, reference="app")
    assert caught.value.status == 0


@pytest.mark.parametrize("operation", ALL)
def test_a_cut_connection(operation: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def cut() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)

        thread = threading.Thread(target=cut)
        thread.start()
        try:
            with open_client(f"http://127.0.0.1:{listener.getsockname()[1]}", retries=0) as client:
                with pytest.raises(Unavailable) as caught:
                    ALL[operation](client.with_segment("app"))
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)

    _check(caught.value, operation=operation, reference="app")
