"""A new archive appears when it is closed, complete and at once, or not at all."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from registry_adapters import open_client
from registry_adapters.archive import ArchiveCatalog, ArchiveForm
from registry_core import ImageBuilder, IndexBuilder
from registry_core.cancellation import fail_after
from registry_core.content.streams import BytesSource
from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import (
    ConfigError,
    DeadlineExceeded,
    DigestMismatch,
    Forbidden,
    InvalidName,
    LayoutError,
    Unavailable,
    Unsupported,
)
from registry_core.ops.validation.validate import validate
from registry_core.ports.catalog import Repository
from registry_core.testing.content import image_manifest, index_manifest, push_image, put_blob
from registry_core.testing.faults import HookedSource

APP = RepositoryName("org/app")
V1 = Tag("v1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "directory" / "images.tar"


@pytest.fixture(autouse=True)
def _directory(path: Path) -> None:
    path.parent.mkdir()


def new(path: Path, form: ArchiveForm = ArchiveForm.DOCKER, *, replace: bool = False) -> ArchiveCatalog:
    return ArchiveCatalog(path, form, replace=replace, fsync=False)


def read_json(path: Path, name: str) -> Any:
    with tarfile.open(path) as archive:
        file = archive.extractfile(name)
        assert file is not None
        return json.load(file)


def other_files(path: Path) -> list[Path]:
    return [each for each in path.parent.iterdir() if each != path]


class TestClosing:
    def test_nothing_is_visible_before(self, path: Path) -> None:
        catalog = new(path)

        pushed = push_image(catalog.repository(APP), "one", tags=["v1"])

        assert not path.exists()
        assert catalog.repository(APP).manifests.get(V1) == pushed
        catalog.close()
        assert path.exists()
        assert other_files(path) == []

    def test_the_same_catalog_reads_it_afterwards(self, path: Path) -> None:
        catalog = new(path)
        pushed = push_image(catalog.repository(APP), "one", tags=["v1"])
        repository = catalog.repository(APP)

        catalog.close()
        catalog.close()

        assert repository.manifests.get(V1) == pushed
        assert not validate(ArchiveCatalog(path).repository(APP)).errors
        with pytest.raises(Unsupported):
            put_blob(repository, b"too late")

    def test_without_an_image_there_is_no_archive(self, path: Path) -> None:
        with new(path) as catalog:
            put_blob(catalog.repository(APP), b"a blob")

        assert list(path.parent.iterdir()) == []

    def test_it_has_the_permissions_of_any_new_file(self, path: Path) -> None:
        mask = os.umask(0o027)
        try:
            with new(path) as catalog:
                push_image(catalog.repository(APP), "one", tags=["v1"])
        finally:
            os.umask(mask)

        assert stat.S_IMODE(path.stat().st_mode) == 0o640

    def test_it_can_be_closed_in_a_cancelled_scope(self, path: Path) -> None:
        catalog = new(path)
        push_image(catalog.repository(APP), "one", tags=["v1"])

        with pytest.raises(DeadlineExceeded), fail_after(0):
            catalog.close()
            put_blob(catalog.repository(APP), b"x")

        assert path.exists()

    def test_the_same_images_in_the_same_order_give_the_same_bytes(self, path: Path) -> None:
        for name in ("a.tar", "b.tar"):
            with new(path.parent / name) as catalog:
                push_image(catalog.repository(APP), "one", tags=["v1", "v2"])
                push_image(catalog.repository(RepositoryName("debian")), "two", tags=["12"])

        assert (path.parent / "a.tar").read_bytes() == (path.parent / "b.tar").read_bytes()

    def test_a_blob_of_several_repositories_is_stored_once(self, path: Path) -> None:
        with new(path) as catalog:
            for name in ("org/app", "org/other"):
                push_image(catalog.repository(RepositoryName(name)), "one", tags=["v1"])

        with tarfile.open(path) as archive:
            names = archive.getnames()
        assert len(names) == len(set(names))
        assert list(catalog.repositories()) == ["org/app", "org/other"]


class TestDiscarding:
    def test_an_exception_leaves_no_file(self, path: Path) -> None:
        with pytest.raises(ZeroDivisionError), new(path) as catalog:
            push_image(catalog.repository(APP), "one", tags=["v1"])
            raise ZeroDivisionError

        assert list(path.parent.iterdir()) == []

    def test_an_exception_in_the_block_of_a_client_leaves_no_file(self, path: Path) -> None:
        image = ImageBuilder(platform="linux/amd64").build()

        with pytest.raises(ZeroDivisionError), open_client(f"docker-archive:{path}") as client:
            client.with_segment("app").push_image("v1", image)
            raise ZeroDivisionError

        assert list(path.parent.iterdir()) == []

    def test_a_process_that_ends_without_closing_leaves_no_file(self, path: Path) -> None:
        script = """
import sys
from registry_adapters import open_client
from registry_core import ImageBuilder
client = open_client(f"docker-archive:{sys.argv[1]}").with_segment("app")
client.push_image("v1", ImageBuilder(platform="linux/amd64").build())
"""
        subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)

        assert list(path.parent.iterdir()) == []

    def test_a_forked_child_removes_no_file_of_its_parent(self, path: Path) -> None:
        script = """
import os, sys
from registry_adapters import open_client
from registry_core import ImageBuilder
with open_client(f"docker-archive:{sys.argv[1]}") as client:
    client.with_segment("app").push_image("v1", ImageBuilder(platform="linux/amd64").build())
    child = os.fork()
    if not child:
        sys.exit(0)
    os.waitpid(child, 0)
"""
        subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)

        assert list(path.parent.iterdir()) == [path]

    def test_an_existing_file_is_kept(self, path: Path) -> None:
        with new(path) as catalog:
            push_image(catalog.repository(APP), "one", tags=["v1"])
        before = path.read_bytes()
        catalog = new(path, replace=True)
        push_image(catalog.repository(APP), "two", tags=["v1"])

        catalog.discard()
        catalog.discard()

        assert path.read_bytes() == before
        assert other_files(path) == []

    def test_a_new_archive_can_be_started_afterwards(self, path: Path) -> None:
        catalog = new(path)
        push_image(catalog.repository(APP), "one", tags=["v1"])
        catalog.discard()

        push_image(catalog.repository(APP), "two", tags=["v2"])
        catalog.close()

        assert list(ArchiveCatalog(path).repository(APP).manifests.tags()) == ["v2"]

    def test_a_blob_for_which_the_disk_is_full_leaves_no_bytes(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(descriptor: int, data: memoryview, position: int) -> int:
            if position > 1 << 20:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(descriptor, data[:65536], position)

        write = os.pwrite
        with new(path) as catalog:
            repository = catalog.repository(APP)
            monkeypatch.setattr(os, "pwrite", full)
            with pytest.raises(Unavailable, match="No space"):
                put_blob(repository, b"much" * (1 << 20))
            monkeypatch.undo()
            push_image(repository, "one", tags=["v1"])

        assert path.stat().st_size < 1 << 20
        assert not validate(repository).errors

    def test_wrong_content_leaves_no_bytes(self, path: Path) -> None:
        with new(path) as catalog:
            repository = catalog.repository(APP)
            with pytest.raises(DigestMismatch):
                size = 3 << 20
                repository.blobs.put(Digest.of(b"truth" * size), 5 * size, BytesSource(b"liars" * size))
            push_image(repository, "one", tags=["v1"])

        assert path.stat().st_size < 1 << 20
        assert not validate(repository).errors


class TestReplacing:
    def test_a_file_is_not_replaced_by_default(self, path: Path) -> None:
        path.write_bytes(b"precious")

        with pytest.raises(LayoutError), new(path) as catalog:
            push_image(catalog.repository(APP), "one", tags=["v1"])

        assert path.read_bytes() == b"precious"

    def test_replace_replaces_the_file_atomically(self, path: Path) -> None:
        with new(path) as catalog:
            push_image(catalog.repository(APP), "one", tags=["v1"])
        reader = ArchiveCatalog(path).repository(APP)
        assert list(reader.manifests.tags()) == ["v1"]

        with new(path, replace=True) as catalog:
            push_image(catalog.repository(APP), "two", tags=["v2"])

        assert list(reader.manifests.tags()) == ["v1"]
        assert list(catalog.repository(APP).manifests.tags()) == ["v2"]

    def test_a_link_is_kept_and_its_target_is_replaced(self, path: Path) -> None:
        """As with ``/dev/stdout``, which must not become a file."""
        link = path.parent / "link.tar"
        link.symlink_to(path.name)

        with new(link) as catalog:
            push_image(catalog.repository(APP), "one", tags=["v1"])

        assert link.is_symlink()
        assert not path.is_symlink()
        assert list(ArchiveCatalog(path).repositories()) == ["org/app"]


class TestStreams:
    @pytest.fixture(autouse=True)
    def _temporary(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(path.parent))

    def test_a_pipe_is_written_when_the_archive_is_closed(self, path: Path) -> None:
        os.mkfifo(path)
        with ThreadPoolExecutor() as pool:
            read = pool.submit(path.read_bytes)
            with new(path, replace=True) as catalog:
                pushed = push_image(catalog.repository(APP), "one", tags=["v1"])
            (path.parent / "copy.tar").write_bytes(read.result(30))

        assert stat.S_ISFIFO(path.stat().st_mode)
        copied = ArchiveCatalog(path.parent / "copy.tar").repository(APP)
        assert copied.manifests.get(V1) == pushed

    def test_a_full_device_is_an_error(self, path: Path) -> None:
        catalog = ArchiveCatalog("/dev/full", replace=True)
        push_image(catalog.repository(APP), "one", tags=["v1"])

        with pytest.raises(Unavailable, match="space"):
            catalog.close()

        assert list(path.parent.iterdir()) == []
        assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


class TestPaths:
    def test_a_missing_directory(self, path: Path) -> None:
        repository = new(path.parent / "absent" / "a.tar").repository(APP)

        with pytest.raises(ConfigError, match="absent"):
            put_blob(repository, b"x")

    def test_a_path_that_is_a_directory(self, path: Path) -> None:
        path.mkdir()
        catalog = new(path, replace=True)
        push_image(catalog.repository(APP), "one", tags=["v1"])

        with pytest.raises(LayoutError):
            catalog.close()

        assert other_files(path) == []

    @pytest.mark.parametrize("form", ArchiveForm)
    def test_the_path_does_not_depend_on_the_working_directory(
        self, form: ArchiveForm, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(path.parent)
        catalog = new(Path(path.name), form)
        monkeypatch.chdir("/")

        push_image(catalog.repository(APP), "one", tags=["v1"])
        catalog.close()

        assert path.exists()
        assert catalog.registry == f"{form.value}:images.tar"

    def test_denied_access(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", denied)
        with pytest.raises(Forbidden) as caught:
            list(ArchiveCatalog(path).repositories())

        assert pickle.loads(pickle.dumps(caught.value)).reference == f"docker-archive:{path}"


class TestJsonFiles:
    def test_manifest_json_has_the_first_image_of_an_index(self, path: Path) -> None:
        with new(path) as catalog:
            repository = catalog.repository(APP)
            children = [push_image(repository, label) for label in ("one", "two")]
            repository.manifests.put(index_manifest([child.descriptor for child in children]), tags=[V1])

        saved = read_json(path, "manifest.json")
        assert [image["RepoTags"] for image in saved] == [["org/app:v1"], None]
        assert saved[0]["Config"] == f"blobs/sha256/{children[0].image.config.digest.encoded}"
        assert len(read_json(path, "index.json")["manifests"]) == 1

    def test_manifest_json_has_no_attestations(self, path: Path) -> None:
        """An attestation of BuildKit has the configuration of an image."""
        with new(path) as catalog:
            repository = catalog.repository(APP)
            image = push_image(repository, "one")
            put_blob(repository, b"{}")
            put_blob(repository, b"statement")
            part = {"mediaType": "application/vnd.in-toto+json", "digest": str(Digest.of(b"statement")), "size": 9}
            config = {"mediaType": OCI_CONFIG, "digest": str(Digest.of(b"{}")), "size": 2}
            attestation = RawManifest(
                OCI_MANIFEST,
                strict_json.encode({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [part]}),
            )
            repository.manifests.put(attestation)
            index = index_manifest([image.descriptor, attestation.descriptor])
            repository.manifests.put(index, tags=[V1])

        assert len(read_json(path, "manifest.json")) == 1
        assert ArchiveCatalog(path).repository(APP).manifests.get(attestation.digest) == attestation

    def test_an_image_without_a_blob_is_refused(self, path: Path) -> None:
        """Docker cannot load an image without its nondistributable layers."""
        catalog = new(path)
        repository = catalog.repository(APP)
        put_blob(repository, b"{}")
        repository.manifests.put(image_manifest(b"{}", [b"absent"]), tags=[V1])

        with pytest.raises(Unsupported, match=f"without its blob {Digest.of(b'absent')}") as caught:
            catalog.close()

        assert caught.value.reference == "org/app:v1"
        assert list(path.parent.iterdir()) == []

    def test_an_image_with_a_layer_that_docker_cannot_read_is_refused(self, path: Path) -> None:
        encrypted = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
        catalog = new(path)
        repository = catalog.repository(APP)
        for content in (b"{}", b"secret"):
            put_blob(repository, content)
        part = {"mediaType": encrypted, "digest": str(Digest.of(b"secret")), "size": 6}
        document = strict_json.decode(image_manifest(b"{}").content) | {"layers": [part]}
        repository.manifests.put(RawManifest(OCI_MANIFEST, strict_json.encode(document)), tags=[V1])

        with pytest.raises(Unsupported, match=re.escape(encrypted)):
            catalog.close()

    def test_an_oci_archive_takes_images_that_docker_cannot_load(self, path: Path) -> None:
        with new(path, ArchiveForm.OCI) as catalog:
            repository = catalog.repository(RepositoryName(""))
            put_blob(repository, b"{}")
            repository.manifests.put(image_manifest(b"{}", [b"absent"]), tags=[V1])

        assert len(read_json(path, "index.json")["manifests"]) == 1

    def test_manifest_json_has_the_images_of_nested_indexes(self, path: Path) -> None:
        with new(path) as catalog:
            repository = catalog.repository(APP)
            children = [push_image(repository, label) for label in ("one", "two", "three")]
            inner = index_manifest([child.descriptor for child in children[:2]])
            repository.manifests.put(inner)
            outer = index_manifest([inner.descriptor, children[2].descriptor, children[0].descriptor])
            repository.manifests.put(outer, tags=[V1])

        saved = read_json(path, "manifest.json")
        configs = [child.image.config.digest.encoded for child in children]
        assert [image["Config"] for image in saved] == [f"blobs/sha256/{config}" for config in configs]
        assert [image["RepoTags"] for image in saved] == [["org/app:v1"], None, None]

    @pytest.mark.parametrize("config_type", ["application/octet-stream", "application/json", "text/html", "", None])
    def test_manifest_json_has_old_docker_images(self, path: Path, config_type: str | None) -> None:
        with new(path) as catalog:
            repository = catalog.repository(APP)
            for content in (b"{}", b"layer"):
                put_blob(repository, content)
            document = strict_json.decode(image_manifest(b"{}", [b"layer"], docker=True).content)
            document["config"]["mediaType"] = config_type
            repository.manifests.put(RawManifest(DOCKER_MANIFEST, strict_json.encode(document)), tags=[V1])

        assert [image["RepoTags"] for image in read_json(path, "manifest.json")] == [["org/app:v1"]]

    def test_an_artifact_is_only_in_index_json(self, path: Path) -> None:
        with new(path) as catalog:
            repository = catalog.repository(APP)
            put_blob(repository, b"{}")
            artifact = image_manifest(b"{}", config_type="application/vnd.example+json")
            repository.manifests.put(artifact, tags=[V1])

        assert read_json(path, "manifest.json") == []
        assert ArchiveCatalog(path).repository(APP).manifests.get(V1) == artifact

    def test_referrers_are_read_back(self, path: Path) -> None:
        with new(path) as catalog:
            repository = catalog.repository(APP)
            image = push_image(repository, "one", tags=["v1"])
            subject = {
                "mediaType": image.media_type,
                "digest": str(image.digest),
                "size": len(image.content),
            }
            signature = push_image(repository, "signature", subject=subject)

        (found,) = ArchiveCatalog(path).repository(APP).manifests.referrers(image.digest)
        assert found.digest == signature.digest

    def test_an_oci_archive_has_no_files_of_docker(self, path: Path) -> None:
        with new(path, ArchiveForm.OCI) as catalog:
            push_image(catalog.repository(RepositoryName("")), "one", tags=["v1"])

        with tarfile.open(path) as archive:
            assert {name for name in archive.getnames() if "/" not in name} == {"oci-layout", "index.json"}
        (found,) = read_json(path, "index.json")["manifests"]
        assert found["annotations"] == {"org.opencontainers.image.ref.name": "v1"}

    def test_a_manifest_without_a_docker_name_is_not_stored(self, path: Path) -> None:
        with new(path) as catalog:
            repository = catalog.repository(RepositoryName(""))
            with pytest.raises(InvalidName):
                repository.manifests.put(image_manifest(b"{}"), tags=[V1])

        assert not path.exists()

    @pytest.mark.parametrize("closed", [False, True])
    def test_images_are_listed_before_and_after_closing(self, path: Path, closed: bool) -> None:
        catalog = new(path)
        repository = catalog.repository(APP)
        child = push_image(repository, "child")
        index = index_manifest([child.descriptor])
        repository.manifests.put(index, tags=[V1, Tag("v2")])
        bare = push_image(repository, "bare")

        if closed:
            catalog.close()

        images = list(catalog.images())
        named = [(image.name, image.repository, image.tag, image.descriptor) for image in images if image.name]
        assert named == [(f"docker.io/org/app:{tag}", APP, tag, index.descriptor) for tag in ("v1", "v2")]
        assert index.descriptor.media_type == OCI_INDEX
        assert [image.descriptor for image in images if not image.name] == [bare.descriptor]
        assert len(images) == 3
        catalog.discard()


class TestManyThreads:
    def test_no_image_of_concurrent_threads_is_lost(self, path: Path) -> None:
        with new(path) as catalog, ThreadPoolExecutor(8) as pool:
            repositories = [catalog.repository(RepositoryName(f"org/app{number % 3}")) for number in range(24)]
            pushed = list(pool.map(_push, repositories, range(24)))

        reader = ArchiveCatalog(path)
        for repository, number, manifest in zip(repositories, range(24), pushed, strict=True):
            assert reader.repository(repository.name).manifests.get(Tag(f"v{number}")) == manifest
        assert not any(validate(reader.repository(name)).errors for name in reader.repositories())

    def test_waiting_for_another_writer_can_be_cancelled(self, path: Path) -> None:
        catalog = new(path)
        repository = catalog.repository(APP)
        begun, done = threading.Event(), threading.Event()
        content = b"slow" * 100

        def wait() -> None:
            begun.set()
            done.wait(30)

        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(repository.blobs.put, Digest.of(content), 400, HookedSource(content, wait))
            assert begun.wait(30)
            try:
                with pytest.raises(DeadlineExceeded), fail_after(0.05):
                    put_blob(repository, b"another")
                assert not first.done()
            finally:
                done.set()
            first.result(30)

        assert repository.blobs.stat(Digest.of(content)) == 400
        catalog.discard()

    def test_a_reader_outlives_its_catalog(self, path: Path) -> None:
        with new(path) as catalog:
            put_blob(catalog.repository(APP), b"content")
            push_image(catalog.repository(APP), "one", tags=["v1"])
            reader = catalog.repository(APP).blobs.open(Digest.of(b"content"))

        path.unlink()

        assert reader.read(-1) == b"content"
        reader.close()


def _push(repository: Repository, number: int) -> RawManifest:
    return push_image(repository, f"image {number % 5}", tags=[f"v{number}"])


def test_a_built_index_is_pushed_and_read_back(path: Path) -> None:
    image = ImageBuilder(platform="linux/amd64").add_files({"etc/motd": b"hello"}).build()
    with open_client(f"oci-archive:{path}") as client:
        client.push_index("v1", IndexBuilder().add(image).build())

    with open_client(f"oci-archive:{path}", default_platform="linux/amd64") as client:
        with client.get_image("v1").open_file("etc/motd") as file:
            assert file.read() == b"hello"
