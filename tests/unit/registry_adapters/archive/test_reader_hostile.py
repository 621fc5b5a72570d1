"""Hostile archives raise errors of the library, and nothing is written."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.registry_adapters.archive.sample_archives import (
    MARKER,
    Member,
    blob,
    config_of,
    entry,
    layout,
    listing,
    manifest_of,
    member,
    named,
    saved,
    sha256,
    tar,
)

from registry_adapters.archive import ArchiveCatalog, file_io, tar_index
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCI_INDEX
from registry_core.domain.names import RepositoryName
from registry_core.errors import (
    ConfigError,
    DigestMismatch,
    IntegrityError,
    LayoutError,
    NotFound,
    RegistryError,
    SizeMismatch,
    TooLarge,
    UnsafeArchive,
    Unsupported,
)
from registry_core.ops import manifests
from registry_core.ops.validation.validate import validate

CONFIG = config_of([])
CONFIG_NAME = f"{sha256(CONFIG)}.json"
ABSENT = f"sha256:{'0' * 64}"


def valid(*more: Member, images: Member | None = None) -> bytes:
    return tar(member(CONFIG_NAME, CONFIG), *more, images or listing(saved(CONFIG_NAME)))


def indexed(content: bytes) -> bytes:
    """An image layout whose ``index.json`` has these bytes."""
    return tar(member("oci-layout", MARKER), member("index.json", content))


def header(kind: bytes, content: bytes) -> bytes:
    """An extended header for the next member."""
    return tar(member("extended", content, kind))[:1024]


def without_end(archive: bytes, *more: bytes) -> bytes:
    """An archive that continues after its last member."""
    content = archive.rstrip(b"\0")
    return content + bytes(-len(content) % 512) + b"".join(more) + bytes(1024)


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


def test_a_valid_archive_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(valid())

    read_everything(path)


UNUSUAL: dict[str, Callable[[], bytes]] = {
    "no closing blocks": lambda: without_end(valid())[:-1024],
    "one closing block": lambda: without_end(valid())[:-512],
    "a part of a closing block": lambda: without_end(valid())[:-600],
    "a last block that is not filled": lambda: valid().rstrip(b"\0"),
    "the same file twice": lambda: valid(member(CONFIG_NAME, CONFIG)),
    "the same link twice": lambda: valid(*[member("x", kind=tarfile.SYMTYPE, link=CONFIG_NAME)] * 2),
    "a directory with a size": lambda: with_size(b"d", tarfile.DIRTYPE),
    "a symbolic link with a size": lambda: with_size(b"l", tarfile.SYMTYPE),
    "a hard link with a size": lambda: with_size(b"h", tarfile.LNKTYPE),
}


def with_size(name: bytes, kind: bytes) -> bytes:
    """A valid archive whose first member states a size, although no content follows."""
    info = tarfile.TarInfo(name.decode())
    info.type, info.linkname, info.size = kind, "" if kind == tarfile.DIRTYPE else CONFIG_NAME, 4096
    return info.tobuf(tarfile.USTAR_FORMAT) + valid()


@pytest.mark.parametrize("name", UNUSUAL)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_an_unusual_archive_is_read(name: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """R-135, R-144: as Go's archive/tar and GNU tar read it."""
    path = tmp_path / "a.tar"
    path.write_bytes(pack(UNUSUAL[name]()))

    read_everything(path)


BAD: dict[str, tuple[Callable[[], bytes], type[RegistryError]]] = {
    "nothing": (lambda: b"", LayoutError),
    "no tar": (lambda: b"x" * 4096, LayoutError),
    "a tar of something else": (lambda: tar(member("a", b"b")), LayoutError),
    "cut off in a header": (lambda: valid()[:700], LayoutError),
    "cut off in a member": (lambda: valid(member("x", b"y" * 5000))[:2500], LayoutError),
    "a header with another sum": (lambda: valid().replace(b"ustar", b"ustbr", 1), LayoutError),
    "the same name twice with other content": (lambda: valid(member(CONFIG_NAME, CONFIG + b" ")), LayoutError),
    "a file and a link of the same name": (
        lambda: valid(member(CONFIG_NAME, kind=tarfile.SYMTYPE, link="x")),
        LayoutError,
    ),
    "two links of the same name": (
        lambda: valid(*[member("x", kind=tarfile.SYMTYPE, link=link) for link in ("a", "b")]),
        LayoutError,
    ),
    "a name that climbs": (lambda: valid(member("../../evil", b"x")), UnsafeArchive),
    "an absolute name": (lambda: valid(member("/etc/evil", b"x")), UnsafeArchive),
    "a name that climbs in extended headers": (
        lambda: valid(member("x", b"x", pax={"path": "a/../../evil"})),
        UnsafeArchive,
    ),
    "a name that climbs and comes back": (lambda: valid(member("a/../b", b"x")), UnsafeArchive),
    "a link that climbs out after all": (
        lambda: valid(member("a/x", kind=tarfile.SYMTYPE, link="../b/../../c")),
        UnsafeArchive,
    ),
    "a block of zeros in its middle": (lambda: without_end(valid(), bytes(512), tar(member("x", b"y"))), LayoutError),
    "a global header with a name for every member": (
        lambda: header(b"g", b"19 path=manifest.x\n") + valid(),
        LayoutError,
    ),
    "two extended headers for one member": (lambda: header(b"x", b"13 comment=x\n") * 2 + valid(), LayoutError),
    "two long names for one member": (
        lambda: header(b"L", CONFIG_NAME.encode()) * 2 + valid(),
        LayoutError,
    ),
    "two long link names for one member": (lambda: header(b"K", b"abc\0") * 2 + valid(), LayoutError),
    "a long name that differs from the path of a PAX record": (
        lambda: header(b"L", b"other\0") + without_end(tar(member("x", b"x", pax={"path": "a/b"})), valid()),
        UnsafeArchive,
    ),
    "an extended header at its end": (lambda: without_end(valid(), header(b"x", b"12 path=abc\n")), LayoutError),
    "a link out": (lambda: valid(member("x", kind=tarfile.SYMTYPE, link="../../etc/passwd")), UnsafeArchive),
    "an absolute link": (lambda: valid(member("x", kind=tarfile.SYMTYPE, link="/etc/passwd")), UnsafeArchive),
    "a hard link out": (lambda: valid(member("x", kind=tarfile.LNKTYPE, link="../x")), UnsafeArchive),
    "a device": (lambda: valid(member("x", kind=tarfile.CHRTYPE)), UnsafeArchive),
    "a pipe": (lambda: valid(member("x", kind=tarfile.FIFOTYPE)), UnsafeArchive),
    "a sparse file": (lambda: valid(member("x", b"x", pax={"GNU.sparse.major": "1"})), LayoutError),
    "links in a circle": (
        lambda: valid(
            member("a", kind=tarfile.SYMTYPE, link="b"),
            member("b", kind=tarfile.SYMTYPE, link="a"),
            images=listing(saved("a")),
        ),
        LayoutError,
    ),
    "an extended header of a megabyte": (
        lambda: valid(member("x", b"x", pax={"comment": "y" * (1 << 20)})),
        TooLarge,
    ),
    "a configuration that climbs": (lambda: valid(images=listing(saved("../config.json"))), UnsafeArchive),
    "a configuration that is not there": (lambda: valid(images=listing(saved("absent.json"))), LayoutError),
    "a layer that is not there": (lambda: valid(images=listing(saved(CONFIG_NAME, ["l/layer.tar"]))), LayoutError),
    "another configuration than its name says": (
        lambda: tar(member(f"{'0' * 64}.json", CONFIG), listing(saved(f"{'0' * 64}.json"))),
        DigestMismatch,
    ),
    "a list that is no list": (lambda: valid(images=member("manifest.json", b"{}")), LayoutError),
    "a list that is no JSON": (lambda: valid(images=member("manifest.json", b"[" * 5000)), LayoutError),
    "images without end": (lambda: valid(images=listing(*[saved(CONFIG_NAME)] * 10_001)), TooLarge),
    "one name for two images": (
        lambda: tar(
            member(CONFIG_NAME, CONFIG),
            member("other.json", CONFIG + b" "),
            listing(saved(CONFIG_NAME), saved("other.json")),
        ),
        LayoutError,
    ),
    "another count of layers than in the configuration": (
        lambda: valid(member("l.tar", b"x"), images=listing(saved(CONFIG_NAME, ["l.tar"]))),
        LayoutError,
    ),
    "fewer layers than in the configuration": (
        lambda: tar(member("c", config_of([b"x", b"y"])), member("l", b"x"), listing(saved("c", ["l"]))),
        LayoutError,
    ),
    "one file under many digests": (
        lambda: valid(
            *[
                member(f"blobs/sha256/{sha256(bytes([i]))}", kind=tarfile.LNKTYPE, link=CONFIG_NAME)
                for i in range(2)
            ]
        ),
        LayoutError,
    ),
    "one configuration for very many images": (
        lambda: tar(
            member("c.json", b"{" * (4 << 20)),
            listing(*[saved("c.json", tags=[f"app:v{i}"]) for i in range(65)]),
        ),
        TooLarge,
    ),
    "a layout of another version": (
        lambda: tar(member("oci-layout", b'{"imageLayoutVersion":"9.0.0"}'), member("index.json", b'{"manifests":[]}')),
        LayoutError,
    ),
    "an index that is none": (
        lambda: indexed(b'{"schemaVersion":2,"manifests":3}'),
        LayoutError,
    ),
    "an index that is a manifest, too": (
        lambda: indexed(b'{"schemaVersion":2,"manifests":[],"layers":[]}'),
        LayoutError,
    ),
    "an index of another type": (
        lambda: indexed(b'{"schemaVersion":2,"manifests":[],"mediaType":"a/b"}'),
        LayoutError,
    ),
    "an index without a layout": (lambda: tar(layout()[1]), LayoutError),
    "an index of nine megabytes": (
        lambda: indexed(b" " * (9 << 20)),
        TooLarge,
    ),
    "an entry of another size": (
        lambda: tar(*layout({**named(b"{}", "v1"), "size": 3}), blob(b"{}")),
        SizeMismatch,
    ),
    "an entry that is not there": (
        lambda: tar(*layout({**named(b"{}", "v1"), "digest": ABSENT})),
        NotFound,
    ),
    "a blob that is not what its name says": (
        lambda: tar(*layout({**named(b"{}", "v1"), "digest": ABSENT}), member(f"blobs/sha256/{'0' * 64}", b"{}")),
        DigestMismatch,
    ),
    "a digest that climbs": (
        lambda: tar(*layout({**entry(b"{}"), "digest": "sha256:../../../etc/passwd"})),
        LayoutError,
    ),
    "gzip that is cut off": (lambda: gzip.compress(valid())[:-20], IntegrityError),
    "xz": (lambda: lzma.compress(valid()), Unsupported),
    "bzip2": (lambda: bz2.compress(valid()), Unsupported),
    "gzip with another sum": (lambda: gzip.compress(valid())[:-8] + b"\0" * 8, IntegrityError),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_hostile_archive_is_refused(name: str, tmp_path: Path) -> None:
    """R-130, R-135, R-140, R-143, R-144: nothing is unpacked."""
    make, error = BAD[name]
    path = tmp_path / "a.tar"
    path.write_bytes(make())

    with pytest.raises(error) as caught:
        read_everything(path)

    assert caught.value.reference.startswith("docker-archive:")
    assert list(tmp_path.iterdir()) == [path]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_random_damage_is_found_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(valid(member("layer.tar", tar(member("a", b"b")))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.tar"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])

    try:
        read_everything(path)
    except RegistryError:
        return
    # An image that can be read is complete.
    catalog = ArchiveCatalog(path)
    for name in catalog.repositories():
        for tag in catalog.repository(name).manifests.tags():
            assert catalog.repository(name).manifests.get(tag).image.config.size == len(CONFIG)


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_an_invalid_path_is_refused(path: str) -> None:
    with pytest.raises(ConfigError):
        ArchiveCatalog(path)


def test_a_directory_is_not_an_archive(tmp_path: Path) -> None:
    with pytest.raises(RegistryError):
        list(ArchiveCatalog(tmp_path).repositories())


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R-140: the bytes are counted while they are decompressed."""
    monkeypatch.setattr(file_io, "_RATIO_FLOOR", 1 << 20)
    path = tmp_path / "a.tar"
    path.write_bytes(gzip.compress(valid(member("zeros", bytes(64 << 20)))))

    with pytest.raises(TooLarge):
        read_everything(path)


@pytest.mark.parametrize(("limit", "most"), [("_MEMBER_LIMIT", 10), ("_NAMES_LIMIT", 400)])
def test_members_and_their_names_are_limited(
    limit: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-140."""
    path = tmp_path / "a.tar"
    path.write_bytes(valid(*[member(f"{'x' * 50}{number}") for number in range(10)]))
    read_everything(path)
    monkeypatch.setattr(tar_index, limit, most)

    with pytest.raises(TooLarge):
        read_everything(path)


def test_manifests_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R-024: also those that are only in a nested index."""
    index = layout(*[entry(bytes([number])) for number in range(9)])[1].content
    path = tmp_path / "a.tar"
    path.write_bytes(tar(*layout(named(index, "v1", OCI_INDEX)), blob(index)))
    repository = ArchiveCatalog(path).repository(RepositoryName(""))
    monkeypatch.setattr(manifests, "NODE_LIMIT", 9)

    with pytest.raises(TooLarge):
        repository.manifests.get(Digest(ABSENT))


def test_a_malformed_manifest_does_not_hide_others(tmp_path: Path) -> None:
    intact = manifest_of(CONFIG, [])
    path = tmp_path / "a.tar"
    path.write_bytes(tar(*layout(named(b"broken", "v1"), entry(intact)), blob(b"broken"), blob(intact)))

    found = ArchiveCatalog(path).repository(RepositoryName("")).manifests.get(Digest.of(intact))

    assert found.content == intact


def test_a_claimed_size_is_not_allocated(tmp_path: Path) -> None:
    """R-004: the header of a layer claims 1 TiB, but no content follows."""
    path = tmp_path / "a.tar"
    huge = member("l.tar")
    huge.size = 1 << 40
    path.write_bytes(tar(member(CONFIG_NAME, CONFIG))[:1024] + huge.tobuf())
    tracemalloc.start()

    with pytest.raises(LayoutError):
        read_everything(path)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_malformed_image_does_not_prevent_others_from_being_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(valid(images=listing(saved("absent.json", tags=["broken:v1"]), saved(CONFIG_NAME))))
    catalog = ArchiveCatalog(path)

    report = validate(catalog.repository(RepositoryName("org/app")))

    assert not report.errors
    with pytest.raises(LayoutError):
        list(catalog.images())
