"""Layouts whose files are symbolic links inside one directory tree (R-310)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from registry_adapters import open_catalog, open_client
from registry_adapters.container import configured
from registry_adapters.layout import LayoutCatalog, links
from registry_adapters.layout.directory import Root
from registry_adapters.layout.garbage import prune_layout
from registry_adapters.layout.layout import Layout
from registry_adapters.memory import MemoryCatalog
from registry_adapters.mirroring import open_mirror
from registry_core.content.streams import BytesSource
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import BlobNotFound, LayoutError, Unsupported
from registry_core.ops.transfer.copy import copy
from registry_core.ports.catalog import Repository
from registry_core.testing.content import push_image, put_blob

NAME = RepositoryName("app/image")
SECRET = b"secret"
DIGEST = Digest.of(SECRET)
BLOB = f"blobs/sha256/{DIGEST.encoded}"
# Parts of a layout that may be links.
PARTS = ["oci-layout", "index.json", "blobs", "blobs/sha256", BLOB]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def directory(root: Path) -> Path:
    """The layout of a repository with a tagged image and another blob."""
    repository = LayoutCatalog(root, fsync=False).repository(NAME)
    push_image(repository, "one", tags=["v1"])
    put_blob(repository, SECRET)
    return root / NAME


@pytest.fixture
def repository(root: Path, directory: Path) -> Repository:
    return LayoutCatalog(root, fsync=False, follow_symlinks=True).repository(NAME)


def moved(path: Path, target: Path) -> Path:
    """Move something to another place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
    return target


def relative(path: Path, target: Path) -> None:
    path.symlink_to(os.path.relpath(target, path.parent))


def absolute(path: Path, target: Path) -> None:
    path.symlink_to(target)


def roundabout(path: Path, target: Path) -> None:
    """A link through three other links, through a link to a directory, and with needless parts."""
    (path.parent / "dir").symlink_to(os.path.relpath(target.parent, path.parent))
    (path.parent / "third").symlink_to(f"dir/.//{target.name}/")
    (path.parent / "second").symlink_to("./third")
    path.symlink_to("second")


def read(repository: Repository) -> bytes:
    """The content of the blob, after the image was read."""
    manifest = repository.manifests.get(Tag("v1"))
    for part in manifest.children:
        with repository.blobs.open(part.digest) as reader:
            assert len(reader.read()) == part.size
    assert repository.blobs.stat(DIGEST) == len(SECRET)
    with repository.blobs.open(DIGEST) as reader:
        return reader.read()


def contents(path: Path) -> dict[str, tuple[bytes, int]]:
    """The content and the time of every file below a path."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


class TestReading:
    @pytest.mark.parametrize("part", PARTS)
    @pytest.mark.parametrize("link", [relative, absolute, roundabout])
    @pytest.mark.parametrize("place", ["store/deep/thing", f"{NAME}/thing", "elsewhere"])
    def test_links_inside_the_tree_are_followed(
        self,
        root: Path,
        directory: Path,
        repository: Repository,
        part: str,
        link: Callable[[Path, Path], None],
        place: str,
    ) -> None:
        """R-310."""
        link(directory / part, moved(directory / part, root / place))

        assert read(repository) == SECRET
        assert list(LayoutCatalog(root, follow_symlinks=True).repositories()) == [NAME]

    def test_every_file_may_be_a_link(self, root: Path, directory: Path, repository: Repository) -> None:
        """R-310: as in the layouts that Bazel makes, from which an image is copied."""
        for path in [each for each in directory.rglob("*") if each.is_file()]:
            relative(path, moved(path, root / "outputs" / f"{path.name}.out"))
        target = MemoryCatalog().repository("copied")

        copied = copy(repository, target, "v1")

        assert target.manifests.get(copied.digest).content == repository.manifests.get(Tag("v1")).content

    def test_an_absolute_link_may_use_another_path_of_the_root(self, root: Path, directory: Path) -> None:
        """R-310: the root may be reached through a link itself."""
        target = moved(directory / BLOB, root / "store" / "thing")
        absolute(directory / BLOB, target)
        other = root.with_name("other")
        other.symlink_to(root)

        assert read(LayoutCatalog(other, follow_symlinks=True).repository(NAME)) == SECRET

    @pytest.mark.parametrize("part", PARTS)
    @pytest.mark.parametrize("link", [relative, absolute])
    def test_no_link_is_followed_by_default(
        self, root: Path, directory: Path, part: str, link: Callable[[Path, Path], None]
    ) -> None:
        """R-310: the error names the setting."""
        link(directory / part, moved(directory / part, root / "store" / "thing"))

        with pytest.raises(LayoutError, match="symbolic link; open the layout with follow_symlinks=True"):
            read(LayoutCatalog(root).repository(NAME))

    @pytest.mark.parametrize("count", [39, 41])
    def test_the_number_of_links_is_limited(
        self, root: Path, directory: Path, repository: Repository, count: int
    ) -> None:
        """R-310."""
        moved(directory / BLOB, root / "store" / "0")
        for number in range(1, count):
            (root / "store" / f"{number}").symlink_to(f"{number - 1}")
        relative(directory / BLOB, root / "store" / f"{count - 1}")

        if count <= 40:
            assert read(repository) == SECRET
        else:
            with pytest.raises(LayoutError, match="more than 40 symbolic links"):
                read(repository)

    def test_links_in_a_circle_are_refused(self, directory: Path, repository: Repository) -> None:
        """R-310."""
        (directory / BLOB).unlink()
        (directory / BLOB).symlink_to("other")
        (directory / BLOB).with_name("other").symlink_to(DIGEST.encoded)

        with pytest.raises(LayoutError, match="more than 40 symbolic links"):
            repository.blobs.open(DIGEST)

    def test_a_dangling_link_is_no_blob(self, directory: Path, repository: Repository) -> None:
        (directory / BLOB).unlink()
        (directory / BLOB).symlink_to("nowhere")

        with pytest.raises(BlobNotFound):
            repository.blobs.open(DIGEST)
        with pytest.raises(BlobNotFound):
            repository.blobs.stat(DIGEST)

    @pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["directory", "pipe"])
    def test_a_link_to_something_else_than_a_file_is_refused(
        self, root: Path, directory: Path, repository: Repository, make: Callable[[Path], None]
    ) -> None:
        """R-310: a fifo does not block the reader."""
        (directory / BLOB).unlink()
        make(root / "thing")
        relative(directory / BLOB, root / "thing")

        with pytest.raises(LayoutError, match="expected a regular file"):
            repository.blobs.open(DIGEST)

    @pytest.mark.parametrize("part", ["blobs", "blobs/sha256"])
    def test_a_directory_that_is_a_link_to_a_file_is_refused(
        self, root: Path, directory: Path, repository: Repository, part: str
    ) -> None:
        moved(directory / part, root / "store")
        (root / "thing").write_bytes(SECRET)
        relative(directory / part, root / "thing")

        with pytest.raises(LayoutError, match="expected a directory, found a regular file"):
            repository.blobs.open(DIGEST)

    def test_the_directory_of_a_repository_is_never_reached_through_a_link(
        self, root: Path, directory: Path, repository: Repository
    ) -> None:
        """R-310: writers lock and replace the files in it."""
        relative(directory, moved(directory, root / "store"))

        with pytest.raises(LayoutError, match="symbolic link"):
            repository.manifests.get(Tag("v1"))

    def test_a_system_without_directory_descriptors_is_refused(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("registry_core.content.operating_system.HAS_DIR_FDS", False)

        with pytest.raises(Unsupported, match="follow symbolic links"):
            LayoutCatalog(root, follow_symlinks=True)


@pytest.fixture
def outside(root: Path, directory: Path) -> Path:
    """A place beside the root whose path begins with the path of the root."""
    return root.with_name(f"{root.name}-outside")


ESCAPES: dict[str, Callable[[Path, Path], str]] = {
    "relative": lambda path, target: os.path.relpath(target, path.parent),
    "absolute": lambda path, target: str(target),
    "absolute, through the root": lambda path, target: f"{target.parent / 'root'}/../{target.name}",
    "relative, out and in again": lambda path, target: f"{'../' * 9}..{target.parent / 'root' / 'app'}",
    "through a link to a directory": lambda path, target: _through(path, target),
}


def _through(path: Path, target: Path) -> str:
    (path.parent / "dir").symlink_to(os.path.relpath(target.parent, path.parent))
    return f"dir/{target.name}"


class TestEscapes:
    @pytest.mark.parametrize("part", PARTS)
    @pytest.mark.parametrize("escape", ESCAPES)
    def test_links_out_of_the_tree_are_refused(
        self, directory: Path, repository: Repository, outside: Path, part: str, escape: str
    ) -> None:
        """R-310."""
        moved(directory / part, outside)
        (directory / part).symlink_to(ESCAPES[escape](directory / part, outside))

        with pytest.raises(LayoutError, match="out of the root directory; with follow_symlinks=True"):
            read(repository)

    @pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../../../../etc/passwd"])
    def test_a_link_to_a_secret_of_the_system_is_refused(
        self, directory: Path, repository: Repository, target: str
    ) -> None:
        """R-310: a mirror of a layout that somebody else made would publish the file."""
        (directory / BLOB).unlink()
        (directory / BLOB).symlink_to(target)

        with pytest.raises(LayoutError, match=f"'{target}', out of the root directory"):
            repository.blobs.open(DIGEST)

    @pytest.mark.parametrize("kind", ["file", "directory"])
    def test_a_link_that_appears_meanwhile_is_not_followed(
        self,
        root: Path,
        directory: Path,
        repository: Repository,
        outside: Path,
        kind: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """R-310: between the look at a name and its opening."""
        store = root / "store"
        moved(directory / BLOB, store / "thing")
        relative(directory / BLOB, store / "thing")
        secret = outside / "thing"
        secret.parent.mkdir()
        secret.write_bytes(b"not yours")
        look = links._link_target

        def replaced(name: str, inside: int) -> str | None:
            target = look(name, inside)
            if kind == "file" and name == "thing":
                (store / "thing").unlink()
                (store / "thing").symlink_to(secret)
            elif kind == "directory" and name == "store":
                store.rename(root / "gone")
                store.symlink_to(outside)
            return target

        monkeypatch.setattr(links, "_link_target", replaced)

        with pytest.raises(LayoutError):
            repository.blobs.open(DIGEST)


class TestWriting:
    """R-310: nothing is changed through a link."""

    @pytest.fixture(params=PARTS)
    def linked(self, root: Path, directory: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
        """The target of a part of the layout that is a link; it is unchanged afterwards."""
        part = directory / request.param
        target = moved(part, root / "store" / "thing")
        relative(part, target)
        hour_ago = time.time() - 7200
        for path in [target, *target.rglob("*")]:
            os.utime(path, (hour_ago, hour_ago))
        before = contents(target)

        yield target

        assert contents(target) == before
        assert part.is_symlink()

    def test_a_blob_that_is_there_is_not_written_again(self, repository: Repository, linked: Path) -> None:
        # It is refused if the directory of the blobs is a link.
        with suppress(LayoutError):
            repository.blobs.put(DIGEST, len(SECRET), BytesSource(SECRET))

        assert read(repository) == SECRET

    def test_a_new_image_changes_nothing_behind_a_link(self, repository: Repository, linked: Path) -> None:
        with suppress(LayoutError):
            push_image(repository, "two", tags=["v2"])

        assert read(repository) == SECRET

    def test_a_tag_and_its_removal_change_nothing_behind_a_link(self, repository: Repository, linked: Path) -> None:
        with suppress(LayoutError):
            repository.manifests.untag(Tag("v1"))
        with suppress(LayoutError):
            repository.blobs.delete(DIGEST)

        assert linked.exists()

    def test_a_look_at_a_blob_does_not_renew_its_lease(self, repository: Repository, linked: Path) -> None:
        assert repository.blobs.stat(DIGEST) == len(SECRET)

    def test_prune_keeps_links_and_targets(self, root: Path, repository: Repository, linked: Path) -> None:
        layout = Layout(Root(root, fsync=False, follow_symlinks=True), NAME)

        prune_layout(layout, grace=2.0, clock=lambda: time.time() + 3600)

        assert linked.exists()


def test_a_corrupt_blob_behind_a_link_is_not_replaced(root: Path, directory: Path, repository: Repository) -> None:
    """R-309, R-310."""
    target = moved(directory / BLOB, root / "store" / "thing")
    target.write_bytes(b"wrong!")
    relative(directory / BLOB, target)

    with pytest.raises(LayoutError, match="symbolic link"):
        repository.blobs.put(DIGEST, len(SECRET), BytesSource(SECRET))

    assert target.read_bytes() == b"wrong!"


def test_a_blob_behind_a_link_is_not_mounted(root: Path, directory: Path) -> None:
    """R-310: a hard link to the link would be one in the other layout, too."""
    relative(directory / BLOB, moved(directory / BLOB, root / "store" / "thing"))
    other = LayoutCatalog(root, fsync=False, follow_symlinks=True).repository("other")

    assert not other.blobs.mount(DIGEST, NAME)
    assert not [path for path in (root / "other").rglob("*") if path.is_symlink()]


class TestCheck:
    @pytest.mark.parametrize("part", [*PARTS, "everything"])
    def test_followed_links_are_no_problem(self, root: Path, directory: Path, part: str) -> None:
        (directory / BLOB).unlink()
        parts = [path for path in directory.rglob("*") if path.is_file()] if part == "everything" else []
        for path in parts or [directory / part] if part != BLOB else []:
            relative(path, moved(path, root / "store" / path.name))

        report = LayoutCatalog(root, follow_symlinks=True).check(NAME)

        assert list(map(str, report.findings)) == []
        assert report.bytes > 0

    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            ("nowhere", "expected a blob, found a dangling symbolic link"),
            ("/etc/passwd", "out of the root directory"),
            ("../../oci-layout", "nothing refers to this blob"),
        ],
    )
    def test_other_links_are_reported(self, root: Path, directory: Path, target: str, expected: str) -> None:
        (directory / BLOB).unlink()
        (directory / BLOB).symlink_to(target)

        report = LayoutCatalog(root, follow_symlinks=True).check(NAME)

        assert expected in str(report.findings[0])

    def test_the_content_behind_a_link_is_verified(self, root: Path, directory: Path) -> None:
        target = moved(directory / BLOB, root / "store" / "thing")
        target.write_bytes(b"wrong!")
        relative(directory / BLOB, target)

        report = LayoutCatalog(root, follow_symlinks=True).check(NAME)

        assert any("digest" in str(finding) for finding in report.errors)


class TestSettings:
    @pytest.fixture
    def linked(self, root: Path, directory: Path) -> Path:
        for path in [each for each in directory.rglob("*") if each.is_file()]:
            relative(path, moved(path, root / "outputs" / f"{path.name}.out"))
        return root

    def test_a_client_takes_the_setting(self, linked: Path) -> None:
        with open_client(f"oci:{linked}", follow_symlinks=True) as client:
            assert client.with_segment("app").with_segment("image").image_exists("v1")

    def test_a_catalog_takes_the_setting(self, linked: Path) -> None:
        assert list(open_catalog(f"oci:{linked}", follow_symlinks=True).repositories()) == [NAME]

    def test_the_container_takes_the_setting(self, linked: Path) -> None:
        container = configured({"backend": "layout", "layout": {"root": str(linked), "follow_symlinks": True}})

        assert container.catalog().repository(NAME).manifests.get(Tag("v1"))

    def test_a_mirror_file_takes_the_setting(self, linked: Path, tmp_path: Path) -> None:
        file = tmp_path / "mirror.toml"
        file.write_text(
            f"""
            [backends."oci:{linked}"]
            follow_symlinks = true

            [[mirror]]
            source = "oci:{linked}"
            target = "oci:{tmp_path / "target"}"
            repositories = ["app/image"]
            """
        )

        with open_mirror(file) as mirror:
            assert mirror.run().ok

        assert LayoutCatalog(tmp_path / "target").repository(NAME).manifests.get(Tag("v1"))

    def test_without_the_setting_the_image_is_not_read(self, linked: Path) -> None:
        with open_client(f"oci:{linked}") as client, pytest.raises(LayoutError, match="follow_symlinks=True"):
            client.with_segment("app").with_segment("image").get_image("v1")


@pytest.mark.parametrize("part", ["index.json", "blobs", "blobs/sha256", BLOB])
def test_what_would_be_written_through_a_link_is_refused(
    root: Path, directory: Path, repository: Repository, part: str
) -> None:
    """R-310."""
    relative(directory / part, moved(directory / part, root / "store" / "thing"))

    with pytest.raises(LayoutError, match="found a symbolic link, which is not followed there"):
        if part == BLOB:
            repository.blobs.delete(DIGEST)
        else:
            push_image(repository, "two", tags=["v2"])
