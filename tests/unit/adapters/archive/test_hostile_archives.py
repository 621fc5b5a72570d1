"""Archives that nobody honest wrote end in errors of ours, and nothing is written anywhere."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry_adapters.archive import ArchiveCatalog
from registry_core.domain.names import RepositoryName
from registry_core.errors import (
    ConfigError,
    DigestMismatch,
    IntegrityError,
    LayoutError,
    NotFound,
    RegistryError,
    TooLarge,
    UnsafeArchive,
)
from registry_core.ops.upkeep.validate import validate

CONFIG = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
CONFIG_NAME = f"{hashlib.sha256(CONFIG).hexdigest()}.json"
MARKER = b'{"imageLayoutVersion":"1.0.0"}'


class Member(tarfile.TarInfo):
    """A member of a tar, with what is in it."""

    content: bytes


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", pax: dict[str, str] | None = None
) -> Member:
    made = Member(name)
    made.type, made.linkname, made.size, made.content = kind, link, len(content), content
    made.pax_headers = pax or {}
    return made


def tar(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as out:
        for each in members:
            out.addfile(each, io.BytesIO(each.content))
    return stream.getvalue()


def listing(config: str = CONFIG_NAME, layers: list[str] | None = None, tags: Any = ("org/app:v1",)) -> bytes:
    return json.dumps([{"Config": config, "RepoTags": list(tags), "Layers": layers or []}]).encode()


def honest(*more: Member, saved: bytes | None = None) -> bytes:
    return tar(member(CONFIG_NAME, CONFIG), *more, member("manifest.json", saved or listing()))


def layout(index: Any, *more: Member) -> bytes:
    return tar(member("oci-layout", MARKER), member("index.json", json.dumps(index).encode()), *more)


def read_everything(path: Path) -> None:
    catalog = ArchiveCatalog(path)
    for name in [*catalog.repositories(), RepositoryName("")]:
        repository = catalog.repository(name)
        for tag in list(repository.manifests.tags()):
            raw = repository.manifests.get(tag)
            for part in raw.children:
                with repository.blobs.open(part.digest) as reader:
                    while reader.read(1 << 16):
                        pass
        report = validate(repository)
        if report.errors:
            raise LayoutError(str(report))


def test_the_honest_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(honest())

    read_everything(path)


BAD: dict[str, tuple[Callable[[], bytes], type[RegistryError]]] = {
    "nothing": (lambda: b"", LayoutError),
    "no tar": (lambda: b"x" * 4096, LayoutError),
    "a tar of something else": (lambda: tar(member("a", b"b")), LayoutError),
    "cut off in a header": (lambda: honest()[:700], LayoutError),
    "cut off in a member": (lambda: honest(member("x", b"y" * 5000))[:2500], LayoutError),
    "a header with another sum": (lambda: honest().replace(b"ustar", b"ustbr", 1), LayoutError),
    "the same name twice": (lambda: honest(member(CONFIG_NAME, CONFIG)), LayoutError),
    "a name that climbs": (lambda: honest(member("../../evil", b"x")), UnsafeArchive),
    "an absolute name": (lambda: honest(member("/etc/evil", b"x")), UnsafeArchive),
    "a name that climbs in extended headers": (
        lambda: honest(member("x", b"x", pax={"path": "a/../../evil"})),
        UnsafeArchive,
    ),
    "a link out": (lambda: honest(member("x", kind=tarfile.SYMTYPE, link="../../etc/passwd")), UnsafeArchive),
    "an absolute link": (lambda: honest(member("x", kind=tarfile.SYMTYPE, link="/etc/passwd")), UnsafeArchive),
    "a hard link out": (lambda: honest(member("x", kind=tarfile.LNKTYPE, link="../x")), UnsafeArchive),
    "a device": (lambda: honest(member("x", kind=tarfile.CHRTYPE)), UnsafeArchive),
    "a pipe": (lambda: honest(member("x", kind=tarfile.FIFOTYPE)), UnsafeArchive),
    "a sparse file": (lambda: honest(member("x", b"x", pax={"GNU.sparse.major": "1"})), LayoutError),
    "links in a circle": (
        lambda: honest(
            member("a", kind=tarfile.SYMTYPE, link="b"),
            member("b", kind=tarfile.SYMTYPE, link="a"),
            saved=listing(config="a"),
        ),
        LayoutError,
    ),
    "an extended header of a gigabyte": (
        lambda: honest(member("x", b"x", pax={"comment": "y" * (1 << 20)})),
        TooLarge,
    ),
    "a configuration that climbs": (lambda: honest(saved=listing(config="../config.json")), UnsafeArchive),
    "a configuration that is not there": (lambda: honest(saved=listing(config="absent.json")), LayoutError),
    "a layer that is not there": (lambda: honest(saved=listing(layers=["absent/layer.tar"])), LayoutError),
    "another configuration than its name says": (
        lambda: tar(member(f"{'0' * 64}.json", CONFIG), member("manifest.json", listing(config=f"{'0' * 64}.json"))),
        DigestMismatch,
    ),
    "a list that is no list": (lambda: honest(saved=b"{}"), LayoutError),
    "a list that is no JSON": (lambda: honest(saved=b"[" * 5000), LayoutError),
    "images without end": (lambda: honest(saved=b"[" + b",".join([listing()[1:-1]] * 10_001) + b"]"), TooLarge),
    "one name for two images": (
        lambda: tar(
            member(CONFIG_NAME, CONFIG),
            member("other.json", CONFIG + b" "),
            member("manifest.json", b"[%b,%b]" % (listing()[1:-1], listing(config="other.json")[1:-1])),
        ),
        LayoutError,
    ),
    "a layout of another version": (
        lambda: tar(member("oci-layout", b'{"imageLayoutVersion":"9.0.0"}'), member("index.json", b'{"manifests":[]}')),
        LayoutError,
    ),
    "an index that is none": (lambda: layout({"schemaVersion": 2, "manifests": 3}), LayoutError),
    "an entry that is not there": (
        lambda: layout(
            {
                "schemaVersion": 2,
                "manifests": [
                    {
                        "mediaType": "application/vnd.oci.image.manifest.v1+json",
                        "digest": f"sha256:{'0' * 64}",
                        "size": 3,
                        "annotations": {"org.opencontainers.image.ref.name": "v1"},
                    }
                ],
            }
        ),
        NotFound,
    ),
    "a blob that is not what its name says": (
        lambda: layout(
            {
                "schemaVersion": 2,
                "manifests": [
                    {
                        "mediaType": "application/vnd.oci.image.manifest.v1+json",
                        "digest": f"sha256:{'0' * 64}",
                        "size": 2,
                        "annotations": {"org.opencontainers.image.ref.name": "v1"},
                    }
                ],
            },
            member(f"blobs/sha256/{'0' * 64}", b"{}"),
        ),
        DigestMismatch,
    ),
    "gzip that is cut off": (lambda: gzip.compress(honest())[:-20], IntegrityError),
    "gzip with another sum": (lambda: gzip.compress(honest())[:-8] + b"\0" * 8, IntegrityError),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_hostile_archive_is_refused(name: str, tmp_path: Path) -> None:
    """R-130, R-135, R-140, R-143, R-144: whatever it holds, it is never unpacked."""
    make, error = BAD[name]
    path = tmp_path / "a.tar"
    path.write_bytes(make())

    with pytest.raises(error) as caught:
        read_everything(path)

    assert caught.value.reference.startswith("docker-archive:")
    assert list(tmp_path.iterdir()) == [path]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_anywhere_is_found_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(honest(member("layer.tar", tar(member("a", b"b"))), saved=listing()))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.tar"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])

    try:
        read_everything(path)
    except RegistryError:
        return
    # Whatever is left of the image is the image.
    catalog = ArchiveCatalog(path)
    for name in catalog.repositories():
        for tag in catalog.repository(name).manifests.tags():
            assert catalog.repository(name).manifests.get(tag).image.config.size == len(CONFIG)


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(ConfigError):
        ArchiveCatalog(path)


def test_a_directory_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(RegistryError):
        list(ArchiveCatalog(tmp_path).repositories())
