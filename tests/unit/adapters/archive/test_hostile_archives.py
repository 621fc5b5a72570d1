"""Archives that nobody honest wrote end in errors of ours, and nothing is written anywhere."""

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
from tests.unit.adapters.archive.forms import (
    MARKER,
    Member,
    config_of,
    entry,
    layout,
    listing,
    member,
    named,
    saved,
    sha256,
    tar,
)

from registry_adapters.archive import ArchiveCatalog, medium
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
    Unsupported,
)
from registry_core.ops.upkeep.validate import validate

CONFIG = config_of([])
CONFIG_NAME = f"{sha256(CONFIG)}.json"
ABSENT = f"sha256:{'0' * 64}"


def honest(*more: Member, images: Member | None = None) -> bytes:
    return tar(member(CONFIG_NAME, CONFIG), *more, images or listing(saved(CONFIG_NAME)))


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
            images=listing(saved("a")),
        ),
        LayoutError,
    ),
    "an extended header of a megabyte": (
        lambda: honest(member("x", b"x", pax={"comment": "y" * (1 << 20)})),
        TooLarge,
    ),
    "a configuration that climbs": (lambda: honest(images=listing(saved("../config.json"))), UnsafeArchive),
    "a configuration that is not there": (lambda: honest(images=listing(saved("absent.json"))), LayoutError),
    "a layer that is not there": (lambda: honest(images=listing(saved(CONFIG_NAME, ["l/layer.tar"]))), LayoutError),
    "another configuration than its name says": (
        lambda: tar(member(f"{'0' * 64}.json", CONFIG), listing(saved(f"{'0' * 64}.json"))),
        DigestMismatch,
    ),
    "a list that is no list": (lambda: honest(images=member("manifest.json", b"{}")), LayoutError),
    "a list that is no JSON": (lambda: honest(images=member("manifest.json", b"[" * 5000)), LayoutError),
    "images without end": (lambda: honest(images=listing(*[saved(CONFIG_NAME)] * 10_001)), TooLarge),
    "one name for two images": (
        lambda: tar(
            member(CONFIG_NAME, CONFIG),
            member("other.json", CONFIG + b" "),
            listing(saved(CONFIG_NAME), saved("other.json")),
        ),
        LayoutError,
    ),
    "another count of layers than in the configuration": (
        lambda: honest(member("l.tar", b"x"), images=listing(saved(CONFIG_NAME, ["l.tar"]))),
        LayoutError,
    ),
    "one file under many digests": (
        lambda: honest(
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
        lambda: tar(member("oci-layout", MARKER), member("index.json", b'{"manifests":3}')),
        LayoutError,
    ),
    "an index that is a manifest, too": (
        lambda: tar(member("oci-layout", MARKER), member("index.json", b'{"manifests":[],"layers":[]}')),
        LayoutError,
    ),
    "an index of another type": (
        lambda: tar(member("oci-layout", MARKER), member("index.json", b'{"manifests":[],"mediaType":"a/b"}')),
        LayoutError,
    ),
    "an index without a layout": (lambda: tar(member("index.json", b'{"manifests":[]}')), LayoutError),
    "an index of nine megabytes": (
        lambda: tar(member("oci-layout", MARKER), member("index.json", b" " * (9 << 20))),
        TooLarge,
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
    "gzip that is cut off": (lambda: gzip.compress(honest())[:-20], IntegrityError),
    "xz": (lambda: lzma.compress(honest()), Unsupported),
    "bzip2": (lambda: bz2.compress(honest()), Unsupported),
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
    content = bytearray(honest(member("layer.tar", tar(member("a", b"b")))))
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


def test_an_archive_that_swells_beyond_reason_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R-140: compressed a thousandfold; what it becomes is counted while it is unpacked."""
    monkeypatch.setattr(medium, "_RATIO_FLOOR", 1 << 20)
    path = tmp_path / "a.tar"
    path.write_bytes(gzip.compress(honest(member("zeros", bytes(64 << 20)))))

    with pytest.raises(TooLarge):
        read_everything(path)


def test_a_claimed_size_is_not_allocated(tmp_path: Path) -> None:
    """R-004: a layer of a terabyte, of which there is nothing."""
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


def test_a_broken_image_does_not_keep_others_from_being_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(honest(images=listing(saved("absent.json", tags=["broken:v1"]), saved(CONFIG_NAME))))
    catalog = ArchiveCatalog(path)

    report = validate(catalog.repository(RepositoryName("org/app")))

    assert not report.errors
    with pytest.raises(LayoutError):
        list(catalog.images())
