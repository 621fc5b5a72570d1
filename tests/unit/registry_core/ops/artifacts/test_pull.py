"""Artifacts pulled to a directory; titles and archives are untrusted."""

from __future__ import annotations

import gzip
import io
import os
import resource
import stat
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry_core.content.streams import BytesSource
from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import (
    EMPTY_JSON,
    OCI_ARTIFACT_MANIFEST,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    ORAS_ARTIFACT_MANIFEST,
)
from registry_core.domain.names import Tag
from registry_core.errors import (
    BlobNotFound,
    DigestMismatch,
    IntegrityError,
    InvalidDocument,
    InvalidName,
    InvalidValue,
    NotAnImage,
    NotFound,
    UnsafeArchive,
)
from registry_core.ops.artifacts.pull import pull_artifact
from registry_core.ops.artifacts.push import ArtifactFile, push_artifact
from registry_core.ports.catalog import Repository
from registry_core.ports.observer import BlobProgress, Event

KIND = "application/vnd.example.thing"
TITLE = "org.opencontainers.image.title"
UNPACK = "io.deis.oras.content.unpack"
TAR_DIGEST = "io.deis.oras.content.digest"


def _put(repository: Repository, content: bytes) -> dict[str, Any]:
    digest = Digest.of(content)
    repository.blobs.put(digest, len(content), BytesSource(content))
    return {"mediaType": "application/octet-stream", "digest": str(digest), "size": len(content)}


def _store(repository: Repository, *layers: dict[str, Any]) -> None:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": KIND,
        "config": _put(repository, b"{}") | {"mediaType": EMPTY_JSON},
        "layers": list(layers),
    }
    repository.manifests.put(RawManifest(OCI_MANIFEST, strict_json.encode(document)), tags=[Tag("v1")])


def _titled(repository: Repository, *titles: str) -> None:
    _store(repository, *(_put(repository, title.encode()) | {"annotations": {TITLE: title}} for title in titles))


def _packed(repository: Repository, title: str, *members: tarfile.TarInfo | tuple[str, bytes], **more: str) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            info, content = (
                (member, b"") if isinstance(member, tarfile.TarInfo) else (tarfile.TarInfo(member[0]), member[1])
            )
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    layer = _put(repository, gzip.compress(stream.getvalue()))
    annotations = {TITLE: title, UNPACK: "true", TAR_DIGEST: str(Digest.of(stream.getvalue()))} | more
    _store(repository, layer | {"mediaType": OCI_LAYER_GZIP, "annotations": annotations})


def _member(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def _tree(root: Path) -> dict[str, str]:
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        found[name] = f"-> {path.readlink()}" if path.is_symlink() else "/" if path.is_dir() else path.read_text()
    return found


class TestFiles:
    def test_are_written_by_their_titles(self, source: Repository, tmp_path: Path) -> None:
        files = [ArtifactFile(b"A", title="a"), ArtifactFile(b"B", title="sub/dir/b"), ArtifactFile(b"", title="empty")]
        push_artifact(source, files, artifact_type=KIND, tags=[Tag("v1")])

        written = pull_artifact(source, "v1", tmp_path / "out")

        assert written == [tmp_path / "out" / "a", tmp_path / "out" / "sub" / "dir" / "b", tmp_path / "out" / "empty"]
        assert _tree(tmp_path) == {
            "out": "/", "out/a": "A", "out/empty": "", "out/sub": "/", "out/sub/dir": "/", "out/sub/dir/b": "B",
        }  # fmt: skip

    @pytest.mark.parametrize("media_type", [OCI_ARTIFACT_MANIFEST, ORAS_ARTIFACT_MANIFEST])
    def test_of_artifact_manifests(self, source: Repository, tmp_path: Path, media_type: str) -> None:
        """R-016."""
        document = {"mediaType": media_type, "blobs": [_put(source, b"1") | {"annotations": {TITLE: "one"}}]}
        source.manifests.put(RawManifest(media_type, strict_json.encode(document)), tags=[Tag("v1")])

        pull_artifact(source, "v1", tmp_path)

        assert _tree(tmp_path) == {"one": "1"}

    def test_have_the_permissions_of_new_files(self, source: Repository, tmp_path: Path) -> None:
        push_artifact(source, [ArtifactFile(b"A", title="sub/a")], artifact_type=KIND, tags=[Tag("v1")])
        (tmp_path / "file").touch()
        (tmp_path / "folder").mkdir()

        pull_artifact(source, "v1", tmp_path)

        assert (tmp_path / "sub" / "a").stat().st_mode == (tmp_path / "file").stat().st_mode
        assert (tmp_path / "sub").stat().st_mode == (tmp_path / "folder").stat().st_mode

    def test_large_files_are_copied_in_chunks_with_progress(self, source: Repository, tmp_path: Path) -> None:
        content = os.urandom(3_000_000)
        push_artifact(source, [ArtifactFile(content, title="big")], artifact_type=KIND, tags=[Tag("v1")])
        told: list[Event] = []

        class Events:
            def on(self, event: Event) -> None:
                told.append(event)

        pull_artifact(source, "v1", tmp_path, observer=Events())

        assert (tmp_path / "big").read_bytes() == content
        assert [event.done for event in told if isinstance(event, BlobProgress)][-1] == len(content)

    def test_only_selected_files_are_pulled(self, source: Repository, tmp_path: Path) -> None:
        _titled(source, "a", "b")

        pull_artifact(source, "v1", tmp_path, select=lambda layer: layer.annotations[TITLE] == "b")

        assert _tree(tmp_path) == {"b": "b"}

    def test_without_a_title_are_left_out(self, source: Repository, tmp_path: Path) -> None:
        _store(source, _put(source, b"x"), _put(source, b"y") | {"annotations": {TITLE: "y"}})

        pull_artifact(source, "v1", tmp_path)

        assert _tree(tmp_path) == {"y": "y"}

    def test_that_have_all_no_title_are_an_error(self, source: Repository, tmp_path: Path) -> None:
        _store(source, _put(source, b"x"))

        with pytest.raises(NotFound, match="title"):
            pull_artifact(source, "v1", tmp_path)

    def test_an_empty_artifact_has_none(self, source: Repository, tmp_path: Path) -> None:
        push_artifact(source, [], artifact_type=KIND, tags=[Tag("v1")])

        assert pull_artifact(source, "v1", tmp_path) == []

    def test_embedded_ones_are_verified(self, source: Repository, tmp_path: Path) -> None:
        """R-009."""
        layer = _put(source, b"yes") | {"annotations": {TITLE: "a"}, "data": "bm8h"}
        _store(source, layer)

        with pytest.raises(DigestMismatch):
            pull_artifact(source, "v1", tmp_path)

        assert _tree(tmp_path) == {}

    def test_an_index_is_no_artifact(self, source: Repository, tmp_path: Path) -> None:
        kind = "application/vnd.oci.image.index.v1+json"
        raw = RawManifest(kind, strict_json.encode({"schemaVersion": 2, "mediaType": kind, "manifests": []}))
        source.manifests.put(raw, tags=[Tag("v1")])

        with pytest.raises(NotAnImage):
            pull_artifact(source, "v1", tmp_path)


class TestTitles:
    @pytest.mark.parametrize(
        "title",
        [
            "../evil", "/evil", "a/../../evil", "..", ".", "", "a\0b", "a\nb", "..\\evil", "C:\\evil", "C:evil",
            "x" * 256, "sub/../../evil",
        ],
    )  # fmt: skip
    def test_that_leave_the_directory_are_refused_before_any_download(
        self, source: Repository, tmp_path: Path, title: str
    ) -> None:
        """R-130."""
        layer = {"mediaType": "a/b", "digest": str(Digest.of(b"absent")), "size": 6, "annotations": {TITLE: title}}
        _store(source, layer)

        with pytest.raises(UnsafeArchive, match=r"\$\.layers\[0\]"):
            pull_artifact(source, "v1", tmp_path / "out")

        assert _tree(tmp_path) == {}

    @pytest.mark.parametrize("titles", [("a", "A"), ("a", "./a"), ("a", "a/b"), ("a/b", "a"), ("é", "e\u0301")])
    def test_that_contradict_each_other_are_refused(
        self, source: Repository, tmp_path: Path, titles: tuple[str, str]
    ) -> None:
        _titled(source, *titles)

        with pytest.raises(UnsafeArchive):
            pull_artifact(source, "v1", tmp_path / "out")

        assert _tree(tmp_path) == {}

    def test_links_below_the_directory_are_not_followed(self, source: Repository, tmp_path: Path) -> None:
        """R-131."""
        (tmp_path / "outside").mkdir()
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "sub").symlink_to(tmp_path / "outside")
        _titled(source, "sub/a", "b")

        with pytest.raises(UnsafeArchive, match="link"):
            pull_artifact(source, "v1", tmp_path / "out", overwrite=True)

        assert list((tmp_path / "outside").iterdir()) == []
        assert os.listdir(tmp_path / "out") == ["sub"]

    def test_the_directory_itself_may_be_a_link(self, source: Repository, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "out").symlink_to(tmp_path / "real")
        _titled(source, "a")

        pull_artifact(source, "v1", tmp_path / "out")

        assert (tmp_path / "real" / "a").read_text() == "a"


class TestAllOrNothing:
    def test_no_file_is_written_if_one_is_missing(self, source: Repository, tmp_path: Path) -> None:
        _titled(source, "a", "sub/b", "c")
        source.blobs.delete(Digest.of(b"c"))
        (tmp_path / "mine").write_text("mine")

        with pytest.raises(BlobNotFound):
            pull_artifact(source, "v1", tmp_path)

        assert _tree(tmp_path) == {"mine": "mine"}

    def test_a_created_directory_is_removed_after_an_error(self, source: Repository, tmp_path: Path) -> None:
        _titled(source, "a")
        source.blobs.delete(Digest.of(b"a"))

        with pytest.raises(BlobNotFound):
            pull_artifact(source, "v1", tmp_path / "out")

        assert _tree(tmp_path) == {}

    def test_no_file_is_written_if_content_is_wrong(self, source: Repository, tmp_path: Path) -> None:
        """R-006."""
        layer = _put(source, b"honest") | {"annotations": {TITLE: "a"}}
        _store(source, layer | {"size": 5}, _put(source, b"b") | {"annotations": {TITLE: "b"}})

        with pytest.raises(IntegrityError):
            pull_artifact(source, "v1", tmp_path, jobs=1)

        assert _tree(tmp_path) == {}

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_file_created_meanwhile_undoes_the_other_files(
        self, source: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
    ) -> None:
        _titled(source, "a", "sub/b", "c")
        if overwrite:
            (tmp_path / "a").write_text("old")
        before = _tree(tmp_path)
        original = os.link

        def taken(name: Any, other: Any, **where: Any) -> None:
            if other == b"c":
                (tmp_path / "c").mkdir()
            original(name, other, **where)

        monkeypatch.setattr(os, "link", taken)
        with pytest.raises(InvalidValue, match="target already exists"):
            pull_artifact(source, "v1", tmp_path, overwrite=overwrite)

        assert _tree(tmp_path) == before | {"c": "/"}


class TestManyFiles:
    def test_need_only_a_few_open_files(self, source: Repository, tmp_path: Path) -> None:
        files = [ArtifactFile(b"x", title=f"{number % 60}/{number}") for number in range(300)]
        push_artifact(source, files, artifact_type=KIND, tags=[Tag("v1")])
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

        with tempfile.TemporaryFile() as probe:
            resource.setrlimit(resource.RLIMIT_NOFILE, (probe.fileno() + 100, hard))
            try:
                written = pull_artifact(source, "v1", tmp_path / "out")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        assert len({path.read_bytes() for path in written}) == 1
        assert len(written) == 300


class TestUntitledFiles:
    def test_get_names_from_the_caller(self, source: Repository, tmp_path: Path) -> None:
        files = [ArtifactFile(b"chart", media_type="a/chart"), ArtifactFile(b"p", media_type="a/prov")]
        push_artifact(source, files, artifact_type=KIND, tags=[Tag("v1")])

        pull_artifact(
            source, "v1", tmp_path, untitled=lambda file: "chart.tgz" if file.media_type == "a/chart" else None
        )

        assert _tree(tmp_path) == {"chart.tgz": "chart"}

    def test_need_no_names_when_not_selected(self, source: Repository, tmp_path: Path) -> None:
        files = [ArtifactFile(b"A", title="a"), ArtifactFile(b"B")]
        push_artifact(source, files, artifact_type=KIND, tags=[Tag("v1")])

        pull_artifact(source, "v1", tmp_path, select=lambda file: bool(file.annotations[TITLE]))

        assert _tree(tmp_path) == {"a": "A"}

    @pytest.mark.parametrize("name", ["../x", "/x", "", "a/../../x"])
    def test_must_not_get_names_that_leave_the_directory(self, source: Repository, tmp_path: Path, name: str) -> None:
        push_artifact(source, [ArtifactFile(b"A")], artifact_type=KIND, tags=[Tag("v1")])

        with pytest.raises(InvalidName):
            pull_artifact(source, "v1", tmp_path / "out", untitled=lambda file: name)

        assert _tree(tmp_path) == {}


class TestExistingFiles:
    def test_are_not_replaced(self, source: Repository, tmp_path: Path) -> None:
        _titled(source, "a", "b")
        (tmp_path / "b").write_text("mine")

        with pytest.raises(InvalidValue, match="target already exists"):
            pull_artifact(source, "v1", tmp_path)

        assert _tree(tmp_path) == {"b": "mine"}

    def test_are_replaced_on_request(self, source: Repository, tmp_path: Path) -> None:
        _titled(source, "a", "b")
        (tmp_path / "b").write_text("mine")

        pull_artifact(source, "v1", tmp_path, overwrite=True)

        assert _tree(tmp_path) == {"a": "a", "b": "b"}

    @pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to("x"), os.mkfifo])
    def test_of_other_kinds_are_never_replaced(
        self, source: Repository, tmp_path: Path, make: Callable[[Path], None]
    ) -> None:
        _titled(source, "a")
        make(tmp_path / "a")

        with pytest.raises(InvalidValue, match="target already exists"):
            pull_artifact(source, "v1", tmp_path, overwrite=True)

        assert os.listdir(tmp_path) == ["a"]


class TestDirectories:
    def test_are_not_unpacked_unless_requested(self, source: Repository, tmp_path: Path) -> None:
        _packed(source, "data", ("data/a", b"A"))

        pull_artifact(source, "v1", tmp_path)

        assert (tmp_path / "data").is_file()

    def test_are_restored_unchanged(self, source: Repository, tmp_path: Path) -> None:
        folder = tmp_path / "data"
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "run").write_text("#!")
        (folder / "inner" / "run").chmod(0o755)
        (folder / ".wh.not-a-marker").write_text("W")
        (folder / "inner" / "up").symlink_to("../.wh.not-a-marker")
        files = [ArtifactFile(folder, title="deep/data"), ArtifactFile(b"x", title="deep/x")]
        push_artifact(source, files, artifact_type=KIND, tags=[Tag("v1")])

        written = pull_artifact(source, "v1", tmp_path / "out", unpack=True)

        assert written == [tmp_path / "out" / "deep" / "data", tmp_path / "out" / "deep" / "x"]
        assert _tree(tmp_path / "out" / "deep" / "data") == _tree(folder)
        assert stat.S_IMODE((tmp_path / "out" / "deep" / "data" / "inner" / "run").stat().st_mode) == 0o755

    @pytest.mark.parametrize("prefix", ["deep/data/", "data/", "", "./"])
    def test_of_other_tools_may_begin_with_the_title_its_last_part_or_nothing(
        self, source: Repository, tmp_path: Path, prefix: str
    ) -> None:
        _packed(source, "deep/data", (f"{prefix}a", b"A"), (f"{prefix}b/c", b"C"))

        pull_artifact(source, "v1", tmp_path, unpack=True)

        assert _tree(tmp_path / "deep" / "data") == {"a": "A", "b": "/", "b/c": "C"}

    @pytest.mark.parametrize("title", [".", "./"])
    @pytest.mark.parametrize("prefix", ["", "./"])
    def test_without_a_name_are_unpacked_to_the_target(
        self, source: Repository, tmp_path: Path, title: str, prefix: str
    ) -> None:
        """As ORAS packs the current directory."""
        (tmp_path / "mine").write_text("mine")
        link = _member(f"{prefix}l", tarfile.SYMTYPE, "sub/b")
        _packed(source, title, _member(".", tarfile.DIRTYPE), (f"{prefix}a", b"A"), (f"{prefix}sub/b", b"B"), link)

        written = pull_artifact(source, "v1", tmp_path, unpack=True)

        assert written == [tmp_path / "a", tmp_path / "l", tmp_path / "sub"]
        assert _tree(tmp_path) == {"a": "A", "l": "-> sub/b", "mine": "mine", "sub": "/", "sub/b": "B"}

    def test_without_a_name_are_undone_completely(self, source: Repository, tmp_path: Path) -> None:
        _packed(source, ".", ("a", b"A"), ("b/c", b"C"), ("z", b"Z"))
        (tmp_path / "z").write_text("mine")
        (tmp_path / "empty").mkdir()

        with pytest.raises(InvalidValue, match="target already exists"):
            pull_artifact(source, "v1", tmp_path, unpack=True)

        assert _tree(tmp_path) == {"empty": "/", "z": "mine"}

    def test_without_a_name_replace_files_on_request(self, source: Repository, tmp_path: Path) -> None:
        _packed(source, ".", ("a", b"A"), ("b", b"B"))
        (tmp_path / "b").write_text("mine")

        pull_artifact(source, "v1", tmp_path, unpack=True, overwrite=True)

        assert _tree(tmp_path) == {"a": "A", "b": "B"}

    def test_without_a_name_must_be_unpacked(self, source: Repository, tmp_path: Path) -> None:
        _packed(source, ".", ("a", b"A"))

        with pytest.raises(UnsafeArchive, match="unpacked"):
            pull_artifact(source, "v1", tmp_path)

    def test_may_have_equal_members_twice(self, source: Repository, tmp_path: Path) -> None:
        """R-135: to the byte, even if the archive makes them unreadable."""
        secret = tarfile.TarInfo("d/secret")
        secret.mode = 0
        link = _member("d/l", tarfile.SYMTYPE, "a")
        hard = _member("d/h", tarfile.LNKTYPE, "d/a")
        once: list[tarfile.TarInfo | tuple[str, bytes]] = [("d/a", b"A" * 70_000), ("d/empty", b""), link, hard, secret]
        _packed(source, "d", *once, *once)

        pull_artifact(source, "v1", tmp_path, unpack=True)

        assert (tmp_path / "d" / "a").read_text() == "A" * 70_000
        assert (tmp_path / "d" / "h").samefile(tmp_path / "d" / "a")
        assert (tmp_path / "d" / "l").readlink() == Path("a")
        assert stat.S_IMODE((tmp_path / "d" / "secret").stat().st_mode) == 0

    @pytest.mark.parametrize(
        "second", [("d/a", b"2"), ("d/a", b"11"), ("d/a", b"1\0"), _member("d/a", tarfile.SYMTYPE, "b")]
    )
    def test_must_not_have_different_members_with_one_name(
        self, source: Repository, tmp_path: Path, second: tarfile.TarInfo | tuple[str, bytes]
    ) -> None:
        """R-135."""
        _packed(source, "d", ("d/a", b"1"), second)

        with pytest.raises(UnsafeArchive):
            pull_artifact(source, "v1", tmp_path, unpack=True)

        assert _tree(tmp_path) == {}

    @pytest.mark.parametrize("cut", [512, 1024, 1024 + 500])
    def test_may_end_without_closing_blocks(self, source: Repository, tmp_path: Path, cut: int) -> None:
        """R-144."""
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            info = tarfile.TarInfo("d/a")
            info.size = 1
            archive.addfile(info, io.BytesIO(b"A"))
        layer = _put(source, gzip.compress(stream.getvalue()[: 2048 - cut]))
        _store(source, layer | {"mediaType": OCI_LAYER_GZIP, "annotations": {TITLE: "d", UNPACK: "true"}})

        pull_artifact(source, "v1", tmp_path, unpack=True)

        assert _tree(tmp_path) == {"d": "/", "d/a": "A"}

    @pytest.mark.parametrize("unpack", [True, lambda file: True], ids=["all", "chosen"])
    @pytest.mark.parametrize("name", [".", "./"])
    def test_without_a_title_go_to_the_target_on_request(
        self, source: Repository, tmp_path: Path, name: str, unpack: bool | Callable[[Descriptor], bool]
    ) -> None:
        """The tars of Flux and of other tools have neither a title nor a mark."""
        (tmp_path / "mine").write_text("mine")
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            info = tarfile.TarInfo("./a")
            info.size = 1
            archive.addfile(info, io.BytesIO(b"A"))
        _store(source, _put(source, gzip.compress(stream.getvalue())) | {"mediaType": OCI_LAYER_GZIP})

        written = pull_artifact(source, "v1", tmp_path, unpack=unpack, untitled=lambda file: name)

        assert written == [tmp_path / "a"]
        assert _tree(tmp_path) == {"a": "A", "mine": "mine"}

    @pytest.mark.parametrize("unpack", [False, lambda file: False], ids=["none", "chosen"])
    def test_without_a_title_go_to_the_target_only_if_unpacked(
        self, source: Repository, tmp_path: Path, unpack: bool | Callable[[Descriptor], bool]
    ) -> None:
        _store(source, _put(source, b"x") | {"mediaType": OCI_LAYER_GZIP})

        with pytest.raises(InvalidName, match="only a layer that is unpacked"):
            pull_artifact(source, "v1", tmp_path, unpack=unpack, untitled=lambda file: ".")

        assert _tree(tmp_path) == {}

    def test_without_a_name_exclude_other_files(self, source: Repository, tmp_path: Path) -> None:
        here = {"mediaType": OCI_LAYER_GZIP, "annotations": {TITLE: ".", UNPACK: "true"}}
        _store(source, _put(source, b"x") | here, _put(source, b"y") | {"annotations": {TITLE: "y"}})

        with pytest.raises(UnsafeArchive, match="all other files"):
            pull_artifact(source, "v1", tmp_path, unpack=True)

        assert _tree(tmp_path) == {}

    def test_keep_their_own_permissions(self, source: Repository, tmp_path: Path) -> None:
        info = _member("data", tarfile.DIRTYPE)
        info.mode = 0o555
        _packed(source, "data", info, ("data/a", b"A"))

        pull_artifact(source, "v1", tmp_path, unpack=True)

        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o555

    def test_hard_links_are_made_inside(self, source: Repository, tmp_path: Path) -> None:
        _packed(source, "data", ("data/a", b"A"), _member("data/b", tarfile.LNKTYPE, "data/a"))

        pull_artifact(source, "v1", tmp_path, unpack=True)

        assert (tmp_path / "data" / "a").samefile(tmp_path / "data" / "b")

    @pytest.mark.parametrize(
        "members",
        [
            [("../evil", b"x")],
            [("data/../../evil", b"x")],
            [("data/a", b"A"), ("other/evil", b"x")],
            [_member("data/l", tarfile.SYMTYPE, "/etc"), ("data/l/evil", b"x")],
            [_member("data/l", tarfile.SYMTYPE, "..")],
            [_member("data/l", tarfile.SYMTYPE, "a/../../evil")],
            [_member("data/d/l", tarfile.SYMTYPE, ".."), ("data/d/l/evil", b"x")],
            [_member("data/l", tarfile.LNKTYPE, "../outside")],
            [_member("data/l", tarfile.LNKTYPE, "data/absent")],
            [_member("data/l", tarfile.LNKTYPE, "data")],
            [_member("data/l", tarfile.LNKTYPE, "data/l")],
            [_member("data/d", tarfile.DIRTYPE), _member("data/l", tarfile.LNKTYPE, "data/d")],
            [_member("data/l", tarfile.SYMTYPE, "")],
            [_member("data/l", tarfile.SYMTYPE, "x" * 5000)],
            [("data/" + "n" * 300, b"x")],
            [("data/a", b"A"), _member("data/a", tarfile.DIRTYPE)],
            [_member("data/d", tarfile.DIRTYPE), _member("data/d", tarfile.SYMTYPE, "x"), ("data/d/e", b"x")],
            [("data/./../../evil", b"x")],
            [_member("data/l", tarfile.SYMTYPE, "x"), _member("data/h", tarfile.LNKTYPE, "data/l")],
            [("data/a", b"1"), ("data/a", b"2")],
            [("data/a", b"1"), ("data/a/b", b"2")],
            [_member("data/f", tarfile.FIFOTYPE)],
            [_member("data/c", tarfile.CHRTYPE)],
            [_member("data", tarfile.SYMTYPE, "elsewhere")],
            [("data", b"a file")],
        ],
    )
    def test_that_leave_the_target_or_are_contradictory_leave_nothing(
        self, source: Repository, tmp_path: Path, members: list[Any]
    ) -> None:
        """R-130 to R-139."""
        (tmp_path / "outside").write_text("precious")
        _packed(source, "data", *members)

        with pytest.raises(UnsafeArchive):
            pull_artifact(source, "v1", tmp_path / "out", unpack=True)

        assert _tree(tmp_path) == {"outside": "precious"}

    def test_with_absolute_names_stay_inside(self, source: Repository, tmp_path: Path) -> None:
        """R-130."""
        _packed(source, "data", ("/etc/evil", b"x"))

        pull_artifact(source, "v1", tmp_path, unpack=True)

        assert _tree(tmp_path) == {"data": "/", "data/etc": "/", "data/etc/evil": "x"}

    def test_whose_digest_does_not_match_are_refused(self, source: Repository, tmp_path: Path) -> None:
        _packed(source, "data", ("data/a", b"A"), **{TAR_DIGEST: str(Digest.of(b"other"))})

        with pytest.raises(DigestMismatch):
            pull_artifact(source, "v1", tmp_path, unpack=True)

        assert _tree(tmp_path) == {}

    def test_with_an_invalid_digest_are_refused(self, source: Repository, tmp_path: Path) -> None:
        _packed(source, "data", ("data/a", b"A"), **{TAR_DIGEST: "nonsense"})

        with pytest.raises(InvalidDocument):
            pull_artifact(source, "v1", tmp_path, unpack=True)

    def test_that_are_no_archives_are_refused(self, source: Repository, tmp_path: Path) -> None:
        layer = _put(source, b"not a tar") | {"annotations": {TITLE: "data", UNPACK: "true"}}
        _store(source, layer)

        with pytest.raises(IntegrityError):
            pull_artifact(source, "v1", tmp_path, unpack=True)

        assert _tree(tmp_path) == {}

    def test_never_replace_anything(self, source: Repository, tmp_path: Path) -> None:
        _packed(source, "data", ("data/a", b"A"))
        (tmp_path / "data").mkdir()

        with pytest.raises(InvalidValue, match="target already exists"):
            pull_artifact(source, "v1", tmp_path, unpack=True, overwrite=True)

    def test_that_are_very_deep_are_cleaned_up_too(self, source: Repository, tmp_path: Path) -> None:
        """R-137."""
        deep = "data/" + "/".join(["d"] * 1500)
        _packed(source, "data", (f"{deep}/a", b"A"), **{TAR_DIGEST: str(Digest.of(b"other"))})

        with pytest.raises(DigestMismatch):
            pull_artifact(source, "v1", tmp_path, unpack=True)

        assert os.listdir(tmp_path) == []
