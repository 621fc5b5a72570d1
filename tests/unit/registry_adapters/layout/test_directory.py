"""Below the root, no link is followed and only regular files are read (R-310)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from registry_adapters.layout import LayoutCatalog
from registry_core.content.streams import BytesSource
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import LayoutError
from registry_core.ports.catalog import Repository
from registry_core.testing.content import push_image, put_blob

NAME = RepositoryName("org/app")
SECRET = b"secret"
DIGEST = Digest.of(SECRET)


@pytest.fixture(params=["by descriptors", "by paths"], autouse=True)
def _directory_access(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test with directory descriptors, and as on systems that have none."""
    if request.param == "by paths":
        monkeypatch.setattr("registry_core.content.operating_system.HAS_DIR_FDS", False)


@pytest.fixture
def catalog(tmp_path: Path) -> LayoutCatalog:
    return LayoutCatalog(tmp_path / "root", fsync=False)


@pytest.fixture
def repository(catalog: LayoutCatalog) -> Repository:
    """A repository with one tagged image and one blob."""
    repository = catalog.repository(NAME)
    push_image(repository, "one", tags=["v1"])
    put_blob(repository, SECRET)
    return repository


@pytest.fixture
def directory(tmp_path: Path, repository: Repository) -> Path:
    return tmp_path / "root" / NAME


def _linked(path: Path, outside: Path) -> None:
    """Move something outside and leave a link to it."""
    path.rename(outside)
    path.symlink_to(outside)


@pytest.mark.parametrize("part", ["oci-layout", "index.json", "blobs", "blobs/sha256", "."])
def test_nothing_is_read_through_a_link(tmp_path: Path, directory: Path, repository: Repository, part: str) -> None:
    """R-310."""
    _linked(directory / part, tmp_path / "outside")

    with pytest.raises(LayoutError):
        repository.manifests.get(Tag("v1"))


@pytest.mark.parametrize("part", ["oci-layout", "index.json", "blobs", "blobs/sha256", "."])
def test_nothing_is_written_through_a_link(tmp_path: Path, directory: Path, repository: Repository, part: str) -> None:
    """R-310."""
    outside = tmp_path / "outside"
    _linked(directory / part, outside)
    before = _contents(outside)

    with pytest.raises(LayoutError):
        push_image(repository, "two", tags=["v2"])

    assert _contents(outside) == before


def _contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {str(file): file.read_bytes() for file in files}


def _link(path: Path) -> None:
    target = path.parent.parent / "target"
    target.write_bytes(SECRET)
    path.symlink_to(target)


def _dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def _socket(path: Path) -> None:
    # The name of a socket is short, so it is bound from nearby.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("s")
        Path("s").rename(path.name)
    finally:
        os.chdir(before)


MAKERS: list[Callable[[Path], None]] = [_link, _dangling, _socket, lambda path: os.mkfifo(path), lambda p: p.mkdir()]


@pytest.mark.parametrize("make", MAKERS, ids=["link", "dangling link", "socket", "pipe", "directory"])
class TestSpecialFiles:
    def test_a_blob_is_neither_read_nor_written(
        self, directory: Path, repository: Repository, make: Callable[[Path], None]
    ) -> None:
        """R-310: opening a fifo does not block."""
        path = directory / "blobs" / "sha256" / DIGEST.encoded
        path.unlink()
        make(path)

        with pytest.raises(LayoutError):
            repository.blobs.open(DIGEST)
        with pytest.raises(LayoutError):
            repository.blobs.stat(DIGEST)
        with pytest.raises(LayoutError):
            repository.blobs.put(DIGEST, len(SECRET), BytesSource(SECRET))
        with pytest.raises(LayoutError):
            repository.blobs.delete(DIGEST)

        assert path.lstat().st_nlink > 0

    def test_a_blob_is_not_mounted(
        self, catalog: LayoutCatalog, directory: Path, repository: Repository, make: Callable[[Path], None]
    ) -> None:
        """R-310."""
        path = directory / "blobs" / "sha256" / DIGEST.encoded
        path.unlink()
        make(path)
        other = catalog.repository(RepositoryName("other"))

        with pytest.raises(LayoutError):
            other.blobs.mount(DIGEST, NAME)

    @pytest.mark.parametrize("name", ["oci-layout", "index.json"])
    def test_a_document_is_not_read(
        self, directory: Path, repository: Repository, make: Callable[[Path], None], name: str
    ) -> None:
        """R-310."""
        (directory / name).unlink()
        make(directory / name)

        with pytest.raises(LayoutError, match=f"org/app/{name}"):
            repository.manifests.get(Tag("v1"))
        with pytest.raises(LayoutError, match=f"org/app/{name}"):
            push_image(repository, "two", tags=["v2"])


def test_a_lock_file_is_not_opened_through_a_link(tmp_path: Path, directory: Path, repository: Repository) -> None:
    """R-310."""
    outside = tmp_path / "outside"
    outside.write_text("precious")
    (directory / ".ociport.lock").unlink()
    (directory / ".ociport.lock").symlink_to(outside)

    with pytest.raises(LayoutError):
        push_image(repository, "two", tags=["v2"])

    assert outside.read_text() == "precious"


@pytest.mark.parametrize("make", [_link, _dangling, lambda path: os.mkfifo(path)], ids=["link", "dangling", "pipe"])
def test_a_file_that_is_replaced_while_it_is_opened_is_not_read(
    directory: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    """R-310: a check before opening is not enough."""
    path = directory / "blobs" / "sha256" / DIGEST.encoded
    really_open = os.open

    def swapping(name: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if os.fspath(name).endswith(DIGEST.encoded):
            path.unlink()
            make(path)
        return really_open(name, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", swapping)

    with pytest.raises(LayoutError):
        repository.blobs.open(DIGEST)


def test_linked_directories_are_not_listed(tmp_path: Path, catalog: LayoutCatalog, directory: Path) -> None:
    """R-310."""
    (tmp_path / "root" / "linked").symlink_to(directory)

    assert list(catalog.repositories()) == [NAME]
    with pytest.raises(LayoutError):
        catalog.repository(RepositoryName("linked")).manifests.get(Tag("v1"))


def test_the_root_itself_may_be_a_link(tmp_path: Path, directory: Path) -> None:
    """R-310: its path comes from the caller, not from the layout."""
    (tmp_path / "elsewhere").symlink_to(tmp_path / "root")

    assert list(LayoutCatalog(tmp_path / "elsewhere").repositories()) == [NAME]
