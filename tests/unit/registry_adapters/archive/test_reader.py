"""Archives in every format of other tools are read, and always give the same images."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.registry_adapters.archive.sample_archives import (
    LAYERS,
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

from registry_adapters.archive import ArchiveCatalog
from registry_core.content.compression import Compression
from registry_core.content.streams import BytesSource
from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_INDEX, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.reports import Severity
from registry_core.errors import BlobNotFound, ImageNotFound, LayoutError, RepositoryNotFound, Unsupported
from registry_core.ops.images import Image
from registry_core.ops.validation.validate import validate
from registry_core.ports.image_names import NamedImage
from registry_core.testing.content import put_blob

ONE, TWO, THREE = LAYERS
FIRST, SECOND = config_of([ONE, TWO]), config_of([ONE, THREE])
APP = RepositoryName("org/app")
V1 = Tag("v1")


def directory(name: str, layer: Member) -> list[Member]:
    """A layer as ``docker save`` before version 25 writes it."""
    return [
        member(f"{name}/", kind=tarfile.DIRTYPE),
        member(f"{name}/VERSION", b"1.0"),
        member(f"{name}/json", b"{}"),
        layer,
    ]


def docker_before_25(*links: Member, pack: Callable[[bytes], bytes] = bytes) -> bytes:
    """Two images that share a layer; the second one has no name."""
    return tar(
        *directory("a", member("a/layer.tar", pack(ONE))),
        *directory("b", member("b/layer.tar", pack(TWO))),
        *directory("c", member("c/layer.tar", pack(THREE))),
        *links,
        member(f"{sha256(FIRST)}.json", FIRST),
        member(f"{sha256(SECOND)}.json", SECOND),
        listing(
            saved(f"{sha256(FIRST)}.json", ["a/layer.tar", "b/layer.tar"], ["org/app:v1", "debian:12"]),
            saved(f"{sha256(SECOND)}.json", ["d/layer.tar" if links else "a/layer.tar", "c/layer.tar"], None),
        ),
        member("repositories", b'{"org/app":{"v1":"b"}}'),
    )


def write_archive(path: Path, content: bytes) -> ArchiveCatalog:
    path.write_bytes(content)
    return ArchiveCatalog(path)


def compressed(content: bytes, kind: str) -> bytes:
    encoder = Compression(kind).encoder()
    return encoder.compress(content) + encoder.finish()


def nameless(catalog: ArchiveCatalog) -> NamedImage:
    (found,) = [image for image in catalog.images() if not image.repository]
    return found


class TestDockerBefore25:
    def test_its_images_get_synthesized_manifests(self, tmp_path: Path) -> None:
        catalog = write_archive(tmp_path / "a.tar", docker_before_25())

        manifest = catalog.repository(APP).manifests.get(V1)

        assert manifest.media_type == OCI_MANIFEST
        assert manifest.image.config.digest == f"sha256:{sha256(FIRST)}"
        assert [layer.digest for layer in manifest.image.layers] == [f"sha256:{sha256(each)}" for each in (ONE, TWO)]
        assert not validate(catalog.repository(APP)).findings

    def test_the_digest_does_not_depend_on_file_names(self, tmp_path: Path) -> None:
        other = tar(
            member("c", FIRST), member("2", TWO), member("1", ONE), listing(saved("c", ["1", "2"], ["other:latest"]))
        )

        one = write_archive(tmp_path / "a.tar", docker_before_25()).repository(APP).manifests.get(V1)
        same = write_archive(tmp_path / "b.tar", other).repository(RepositoryName("other")).manifests.get(Tag("latest"))

        assert one == same
        # Byte for byte, because users pin its digest.
        assert one.content.decode() == (
            '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
            '"config":{"mediaType":"application/vnd.oci.image.config.v1+json",'
            f'"digest":"sha256:{sha256(FIRST)}","size":{len(FIRST)}}},'
            '"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar",'
            f'"digest":"sha256:{sha256(ONE)}","size":{len(ONE)}}},'
            '{"mediaType":"application/vnd.oci.image.layer.v1.tar",'
            f'"digest":"sha256:{sha256(TWO)}","size":{len(TWO)}}}]}}'
        )

    @pytest.mark.parametrize(
        "links",
        [
            [member("d/layer.tar", kind=tarfile.SYMTYPE, link="../a/layer.tar")],
            [member("d/layer.tar", kind=tarfile.LNKTYPE, link="a/layer.tar")],
            [
                member("d/layer.tar", kind=tarfile.LNKTYPE, link="e/layer.tar"),
                member("e/layer.tar", kind=tarfile.SYMTYPE, link="./../a/./layer.tar"),
            ],
        ],
        ids=["symbolic", "hard", "hard to a symbolic one"],
    )
    def test_a_layer_may_be_a_link_to_a_layer_of_another_image(self, links: list[Member], tmp_path: Path) -> None:
        linked, plain = (
            write_archive(tmp_path / "a.tar", docker_before_25(*links)),
            write_archive(tmp_path / "b.tar", docker_before_25()),
        )

        assert nameless(linked) == nameless(plain)
        assert not validate(linked.repository(RepositoryName("")), nameless(linked).descriptor.digest).findings

    @pytest.mark.parametrize(("kind", "media_type"), [("gzip", OCI_LAYER_GZIP), ("zstd", OCI_LAYER_ZSTD)])
    def test_layers_may_be_compressed(self, kind: str, media_type: str, tmp_path: Path) -> None:
        catalog = write_archive(tmp_path / "a.tar", docker_before_25(pack=lambda layer: compressed(layer, kind)))

        manifest = catalog.repository(APP).manifests.get(V1)

        assert {layer.media_type for layer in manifest.image.layers} == {media_type}
        assert not validate(catalog.repository(APP)).findings

    def test_an_image_without_a_name_is_listed_and_found_by_its_digest(self, tmp_path: Path) -> None:
        catalog = write_archive(tmp_path / "a.tar", docker_before_25())

        digest = nameless(catalog).descriptor.digest

        fresh = ArchiveCatalog(tmp_path / "a.tar").repository(RepositoryName(""))
        assert fresh.manifests.get(digest).image.config.digest == f"sha256:{sha256(SECOND)}"
        assert list(fresh.manifests.tags()) == []

    def test_its_blobs_are_found_before_a_manifest_is_requested(self, tmp_path: Path) -> None:
        repository = write_archive(tmp_path / "a.tar", docker_before_25()).repository(APP)

        assert repository.blobs.stat(Digest.of(ONE)) == len(ONE)
        assert repository.blobs.stat(Digest.of(FIRST)) == len(FIRST)
        with pytest.raises(BlobNotFound):
            repository.blobs.stat(Digest.of(b"other"))

    def test_images_are_listed_with_all_their_names(self, tmp_path: Path) -> None:
        images = list(write_archive(tmp_path / "a.tar", docker_before_25()).images())

        assert [(image.name, image.repository, image.tag) for image in images] == [
            ("", "", None),
            ("debian:12", "library/debian", "12"),
            ("org/app:v1", "org/app", "v1"),
        ]
        assert images[1].descriptor == images[2].descriptor

    def test_file_names_of_crane_are_read(self, tmp_path: Path) -> None:
        """They have digests in other places than those of docker."""
        layers = [compressed(each, "gzip") for each in (ONE, TWO)]
        names = [f"{sha256(each)}.tar.gz" for each in layers]
        content = tar(
            member(f"sha256:{sha256(FIRST)}", FIRST),
            *[member(name, layer) for name, layer in zip(names, layers, strict=True)],
            listing(saved(f"sha256:{sha256(FIRST)}", names)),
        )

        manifest = write_archive(tmp_path / "a.tar", content).repository(APP).manifests.get(V1)

        assert manifest.image.config.digest == f"sha256:{sha256(FIRST)}"
        assert [layer.digest for layer in manifest.image.layers] == [f"sha256:{sha256(each)}" for each in layers]

    def test_names_may_start_with_a_dot(self, tmp_path: Path) -> None:
        """As ``tar -c .`` writes them (R-136)."""
        content = tar(member("./", kind=tarfile.DIRTYPE), member("./c.json", config_of([])), listing(saved("c.json")))

        assert write_archive(tmp_path / "a.tar", content).repository(APP).manifests.resolve(V1)

    def test_an_archive_from_before_manifest_json_is_refused(self, tmp_path: Path) -> None:
        catalog = write_archive(
            tmp_path / "a.tar", tar(*directory("a", member("a/layer.tar", ONE)), member("repositories"))
        )

        with pytest.raises(LayoutError, match=r"neither index\.json nor manifest\.json"):
            list(catalog.repositories())


class TestDockerSince25:
    MANIFEST = manifest_of(FIRST, [ONE, TWO])

    def content(self, *entries: dict[str, object], tags: tuple[str, ...] | None = ("org/app:v1",)) -> bytes:
        parts = [blob(each) for each in (FIRST, ONE, TWO, self.MANIFEST)]
        names = [f"blobs/sha256/{sha256(each)}" for each in (FIRST, ONE, TWO)]
        return tar(*parts, *layout(*entries), listing(saved(names[0], names[1:], tags)))

    def test_the_manifest_in_the_archive_is_used(self, tmp_path: Path) -> None:
        name = {"io.containerd.image.name": "docker.io/org/app:v1", "org.opencontainers.image.ref.name": "v1"}
        catalog = write_archive(tmp_path / "a.tar", self.content({**entry(self.MANIFEST), "annotations": name}))

        assert list(catalog.repositories()) == ["org/app"]
        assert catalog.repository(APP).manifests.get(V1).content == self.MANIFEST
        assert not validate(catalog.repository(APP)).findings

    def test_without_a_name_it_is_listed_once(self, tmp_path: Path) -> None:
        catalog = write_archive(tmp_path / "a.tar", self.content(entry(self.MANIFEST), tags=None))

        assert [image.descriptor.digest for image in catalog.images()] == [Digest.of(self.MANIFEST)]

    def test_a_missing_manifest_is_synthesized(self, tmp_path: Path) -> None:
        name = {"io.containerd.image.name": "docker.io/org/app:v1"}
        absent = {**entry(b"absent"), "annotations": name}

        repository = write_archive(tmp_path / "a.tar", self.content(absent)).repository(APP)

        assert repository.manifests.get(V1).image.config.digest == f"sha256:{sha256(FIRST)}"


class TestLayout:
    MANIFEST = manifest_of(FIRST, [ONE, TWO])

    def test_a_nested_index_is_followed(self, tmp_path: Path) -> None:
        """R-306."""
        inner = layout(entry(self.MANIFEST))[1].content
        outer = layout(entry(inner, OCI_INDEX))[1].content
        parts = [blob(each) for each in (FIRST, ONE, TWO, self.MANIFEST, inner, outer)]

        catalog = write_archive(tmp_path / "a.tar", tar(*parts, *layout(named(outer, "v1", OCI_INDEX))))

        repository = catalog.repository(RepositoryName(""))
        assert repository.manifests.get(Digest.of(self.MANIFEST)).content == self.MANIFEST
        assert not validate(repository).findings
        assert [(image.name, image.tag) for image in catalog.images()] == [("v1", "v1")]

    def test_a_manifest_without_references_does_not_exist(self, tmp_path: Path) -> None:
        repository = write_archive(tmp_path / "a.tar", tar(*layout(), blob(self.MANIFEST))).repository(
            RepositoryName("")
        )

        with pytest.raises(ImageNotFound):
            repository.manifests.get(Digest.of(self.MANIFEST))

    def test_another_repository_does_not_exist(self, tmp_path: Path) -> None:
        catalog = write_archive(tmp_path / "a.tar", tar(*layout(named(self.MANIFEST, "v1")), blob(self.MANIFEST)))

        with pytest.raises(RepositoryNotFound):
            catalog.repository(APP).manifests.get(V1)

    def test_a_blob_whose_digest_cannot_be_verified_is_not_opened(self, tmp_path: Path) -> None:
        """R-002, R-311."""
        content = tar(*layout(), member(f"blobs/md5/{'0' * 32}", b"x"))

        with pytest.raises(BlobNotFound):
            write_archive(tmp_path / "a.tar", content).repository(RepositoryName("")).blobs.stat(
                Digest(f"md5:{'0' * 32}")
            )

    def test_other_files_are_ignored(self, tmp_path: Path) -> None:
        """R-303, R-312."""
        more = [member("README", b"x"), member("ingest/1.tmp", b"x"), blob(b"unreferenced"), member("blobs/md5/x", b"")]

        catalog = write_archive(
            tmp_path / "a.tar", tar(*layout(named(self.MANIFEST, "v1")), blob(self.MANIFEST), *more)
        )

        assert list(catalog.repository(RepositoryName("")).manifests.tags()) == ["v1"]

    def test_sha512_digests_are_verified_and_kept(self, tmp_path: Path) -> None:
        """The names of such blobs are too long for a tar header."""
        layer, config = Digest.of(ONE, "sha512"), Digest.of(FIRST, "sha512")
        mapping = strict_json.decode(manifest_of(FIRST, [ONE]))
        mapping["config"]["digest"], mapping["layers"][0]["digest"] = str(config), str(layer)
        manifest = RawManifest(OCI_MANIFEST, strict_json.encode(mapping), "sha512")
        with ArchiveCatalog(tmp_path / "a.tar", fsync=False) as catalog:
            repository = catalog.repository(APP)
            repository.blobs.put(layer, len(ONE), BytesSource(ONE))
            repository.blobs.put(config, len(FIRST), BytesSource(FIRST))
            repository.manifests.put(manifest, tags=[V1])

        again = ArchiveCatalog(tmp_path / "a.tar").repository(APP)

        assert again.manifests.get(V1) == manifest
        assert again.manifests.get(manifest.digest).content == manifest.content
        with again.blobs.open(layer) as reader:
            assert reader.read(-1) == ONE


def test_the_error_for_a_missing_file_says_so(tmp_path: Path) -> None:
    """R-314."""
    catalog = ArchiveCatalog(tmp_path / "imgaes.tar")

    reads: list[Callable[[], object]] = [
        lambda: catalog.repository(APP).manifests.get(V1),
        lambda: list(catalog.repository(APP).manifests.tags()),
        lambda: list(catalog.repositories()),
        lambda: list(catalog.images()),
    ]
    for read in reads:
        with pytest.raises(RepositoryNotFound, match=r"no such file: .*/imgaes\.tar"):
            read()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [b"", bytes(10240), b"garbage after the end"])
def test_bytes_after_the_end_are_ignored(suffix: bytes, tmp_path: Path) -> None:
    """R-145."""
    assert write_archive(tmp_path / "a.tar", docker_before_25() + suffix).repository(APP).manifests.resolve(V1)


def test_a_gzip_of_several_members_is_one_archive(tmp_path: Path) -> None:
    """R-142."""
    content = docker_before_25()
    half = len(content) // 2
    path = tmp_path / "a.tar.gz"

    catalog = write_archive(path, gzip.compress(content[:half]) + gzip.compress(content[half:]))

    assert not validate(catalog.repository(APP)).findings


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["GNU", "pax"])
def test_long_names_are_read(form: int, tmp_path: Path) -> None:
    name = "/".join(["directory"] * 20) + "/config.json"
    content = tar(member(name, config_of([])), listing(saved(name)), form=form)

    assert write_archive(tmp_path / "a.tar", content).repository(APP).manifests.resolve(V1)


def test_the_size_in_a_pax_header_counts(tmp_path: Path) -> None:
    """R-135: a file of more than 8 GiB has its size there."""
    content = config_of([])
    record = b"%d size=%d\n" % (len(f"12 size={len(content)}\n"), len(content))
    header = tar(member("extended", record, b"x"))[:1024] + tar(member("c.json"))[:512]
    whole = header + content + bytes(-len(content) % 512) + tar(listing(saved("c.json")))

    assert not validate(write_archive(tmp_path / "a.tar", whole).repository(APP)).findings


def test_a_file_that_is_truncated_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    repository = write_archive(path, docker_before_25()).repository(APP)
    with repository.blobs.open(Digest.of(TWO)) as reader:
        path.write_bytes(b"")

        with pytest.raises(LayoutError):
            reader.read(-1)


def test_after_closing_the_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    catalog = write_archive(path, docker_before_25())
    assert "org/app" in list(catalog.repositories())
    path.unlink()
    path.write_bytes(tar(member("c.json", config_of([])), listing(saved("c.json", tags=["other:v1"]))))

    catalog.close()

    assert list(catalog.repositories()) == ["library/other"]


def test_an_existing_archive_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    repository = write_archive(path, docker_before_25()).repository(APP)

    for change in (
        lambda: put_blob(repository, b"new"),
        lambda: repository.manifests.put(repository.manifests.get(V1), tags=[Tag("v2")]),
        lambda: repository.manifests.untag(V1),
        lambda: repository.manifests.delete(repository.manifests.resolve(V1).digest),
        lambda: repository.blobs.delete(Digest.of(ONE)),
        lambda: repository.blobs.mount(Digest.of(ONE), RepositoryName("debian")),
    ):
        with pytest.raises(Unsupported):
            change()

    assert path.read_bytes() == docker_before_25()


@pytest.mark.parametrize(
    "fields",
    [
        {"config": {"Entrypoint": "/bin/sh"}},
        {"config": {"Labels": {"a": 1}}},
        {"history": [None]},
        {"created": 7},
        {"os.features": "win32k"},
    ],
)
def test_files_of_an_image_with_an_odd_configuration_are_read(tmp_path: Path, fields: dict[str, object]) -> None:
    """R-017: where the archive has no manifest of the image, only the diff IDs are needed to make one."""
    config = config_of([ONE], **fields)
    name = f"{sha256(config)}.json"
    content = tar(member("a/layer.tar", ONE), member(name, config), listing(saved(name, ["a/layer.tar"])))

    repository = write_archive(tmp_path / "images.tar", content).repository(APP)

    image = Image(repository, repository.manifests.get(V1))
    assert list(image.list_files())
    # Tools written in Go refuse a date of another type, so validate reports it.
    errors = [finding for finding in validate(repository, V1).findings if finding.severity is Severity.ERROR]
    assert [finding.what.partition(" ")[0] for finding in errors] == (["created"] if "created" in fields else [])
