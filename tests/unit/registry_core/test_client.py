"""Each documented method of ``RegistryClient``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from registry_adapters.layout import LayoutCatalog
from registry_adapters.memory import MemoryCatalog
from registry_core import (
    ArtifactFile,
    BlobNotFound,
    Cancelled,
    CancelScope,
    Digest,
    Image,
    ImageBuilder,
    ImageEditor,
    ImageNotFound,
    Index,
    IndexBuilder,
    InvalidDigest,
    InvalidName,
    InvalidReference,
    InvalidValue,
    NotAnImage,
    NotAnIndex,
    Platform,
    PlatformNotFound,
    RegistryClient,
    RegistryError,
    Repository,
    RepositoryName,
    RepositoryNotFound,
    copy,
)
from registry_core.domain.names import Tag
from registry_core.ops.transfer.options import CopyOptions, IndexMode
from registry_core.ports.catalog import Catalog
from registry_core.ports.observer import Event, Observer, Observers, WarningReceived
from registry_core.testing.content import artifact_manifest

AMD64, ARM64 = "linux/amd64", "linux/arm64"


def build(text: str = "hello", platform: str = AMD64) -> Image:
    return ImageBuilder(platform=platform).add_files({"hello": text}).label("text", text).build()


def build_index() -> Index:
    return IndexBuilder().add(build(platform=AMD64)).add(build(platform=ARM64)).build()


class RecordingCatalog(Catalog):
    """Records the arguments of its listings."""

    def __init__(self) -> None:
        self._inner = MemoryCatalog("registry.example.com")
        self.listings: list[tuple[RepositoryName | None, int | None]] = []
        self.closed = 0

    @property
    def registry(self) -> str:
        return self._inner.registry

    def repository(self, name: str) -> Repository:
        return self._inner.repository(name)

    def repositories(
        self, *, after: RepositoryName | None = None, page_size: int | None = None
    ) -> Iterator[RepositoryName]:
        self.listings.append((after, page_size))
        return self._inner.repositories(after=after, page_size=page_size)

    def close(self) -> None:
        self.closed += 1


class Discarding(MemoryCatalog):
    """Records whether it is closed or discarded."""

    def __init__(self, registry: str) -> None:
        super().__init__(registry)
        self.ends: list[str] = []

    def close(self) -> None:
        self.ends.append("closed")

    def discard(self) -> None:
        self.ends.append("discarded")


@pytest.fixture
def catalog() -> RecordingCatalog:
    return RecordingCatalog()


@pytest.fixture
def root(catalog: RecordingCatalog) -> RegistryClient:
    return RegistryClient(catalog)


@pytest.fixture
def app(root: RegistryClient) -> RegistryClient:
    return root.with_segment("org", "app")


class TestPaths:
    def test_segments_make_new_clients(self, root: RegistryClient) -> None:
        org = root.with_segment("org")
        app = org.with_segment("/team/app/")

        assert root.registry == "registry.example.com"
        assert org.registry == "registry.example.com/org"
        assert app.registry == "registry.example.com/org/team/app"
        assert app.path == ("org", "team/app")
        assert app.catalog is root.catalog

    @pytest.mark.parametrize("segment", ["", "/", "UPPER", "..", "a//b", "a b", "a\n"])
    def test_a_bad_segment_is_refused(self, root: RegistryClient, segment: str) -> None:
        """R-010."""
        with pytest.raises(InvalidName):
            root.with_segment(segment)

    def test_the_default_platform_is_inherited(self, catalog: RecordingCatalog) -> None:
        app = RegistryClient(catalog, default_platform=ARM64).with_segment("app")
        app.push_index("v1", build_index())

        assert app.get_image("v1").platform == Platform.parse(ARM64)

    @pytest.mark.parametrize("system", ["windows", "darwin"])
    def test_a_default_of_another_operating_system_is_never_answered_by_linux(
        self, catalog: RecordingCatalog, system: str
    ) -> None:
        """R-014."""
        index = IndexBuilder().add(ImageBuilder(platform="linux/amd64").build()).build()
        RegistryClient(catalog, "app").push_index("v1", index)
        app = RegistryClient(catalog, "app", default_platform=f"{system}/amd64")

        for read in (
            lambda: app.get_image("v1"),
            lambda: app.get_image_config("v1"),
            lambda: app.get_index("v1").image(),
            lambda: app.get_manifest("v1", platform=f"{system}/amd64"),
        ):
            with pytest.raises(PlatformNotFound):
                read()

    def test_an_index_is_resolved_to_the_clients_default_platform(self, catalog: RecordingCatalog) -> None:
        """R-024."""
        app = RegistryClient(catalog, "app", default_platform="linux/s390x")
        app.push_index("v1", IndexBuilder().add(build(platform=AMD64)).add(build(platform="linux/s390x")).build())

        image = app.get_index("v1").image()

        assert image.platform == Platform.parse("linux/s390x")

    def test_an_exception_in_the_block_discards(self) -> None:
        catalog = Discarding("registry.example.com")

        with pytest.raises(ZeroDivisionError), RegistryClient(catalog, "app"):
            raise ZeroDivisionError

        assert catalog.ends == ["discarded"]

    def test_closing_closes_the_backend(self, catalog: RecordingCatalog) -> None:
        with RegistryClient(catalog, "app") as client:
            assert catalog.closed == 0

        assert catalog.closed == 1
        assert repr(client) == "RegistryClient('registry.example.com/app')"


class Seen(Observer):
    """Records the types of events."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()

    def on(self, event: Event) -> None:
        self.kinds.add(type(event).__name__)


class TestWatching:
    def test_the_observer_of_the_client_receives_the_blobs_of_each_operation(self, catalog: RecordingCatalog) -> None:
        pushed, indexed, copied = Seen(), Seen(), Seen()

        RegistryClient(catalog, "a", observer=pushed).push_image("v1", build())
        RegistryClient(catalog, "b", observer=indexed).push_index("v1", build_index())
        RegistryClient(catalog, "a", observer=copied).copy_image("v1", RegistryClient(catalog, "c"), "v1")

        assert "BlobCopied" in pushed.kinds
        assert "BlobCopied" in indexed.kinds
        assert "BlobMounted" in copied.kinds

    def test_it_is_inherited(self, catalog: RecordingCatalog) -> None:
        seen = Seen()

        RegistryClient(catalog, observer=seen).with_segment("org", "app").push_image("v1", build())

        assert "BlobCopied" in seen.kinds

    def test_a_call_may_name_another(self, catalog: RecordingCatalog) -> None:
        clients, calls = Seen(), Seen()

        RegistryClient(catalog, "a", observer=clients).push_image("v1", build(), observer=calls)

        assert "BlobCopied" in calls.kinds
        assert clients.kinds == set()

    def test_several_observers_receive_events_in_order(self) -> None:
        received: list[str] = []

        class Named(Observer):
            def __init__(self, name: str) -> None:
                self._name = name

            def on(self, event: Event) -> None:
                received.append(self._name)

        Observers(Named("first"), Named("second")).on(WarningReceived(registry="r", text="t"))

        assert received == ["first", "second"]


class TestReading:
    def test_an_image_is_found_by_tag_and_by_digest(self, app: RegistryClient) -> None:
        image = build()
        pushed = app.push_image("v1", image)

        found = [app.get_image(reference) for reference in ("v1", str(pushed.digest), f"@{pushed.digest}")]

        assert [each.digest for each in found] == [image.digest] * 3
        assert found[0].reference == "registry.example.com/org/app:v1"
        assert found[1].reference == found[2].reference == f"registry.example.com/org/app@{image.digest}"
        assert found[0].config().config.labels == {"text": "hello"}

    def test_of_a_tag_with_a_digest_the_digest_counts(self, app: RegistryClient) -> None:
        old, new = build("old"), build("new")
        app.push_image("v1", old)
        app.push_image("v1", new)
        reference, other = f"v1@{old.digest}", app.with_segment("other")

        assert app.get_image(reference).digest == app.get_digest(reference) == old.digest
        assert app.get_image(reference).reference == f"registry.example.com/org/app:v1@{old.digest}"
        assert app.tag_image(reference, "kept").digest == old.digest
        assert app.copy_image(reference, other, "v1").digest == old.digest
        assert not app.image_exists(f"v1@{Digest.of(b'absent')}")
        with pytest.raises(ImageNotFound) as caught:
            app.get_image(f"v1@{Digest.of(b'absent')}")
        assert caught.value.reference == f"registry.example.com/org/app@{Digest.of(b'absent')}"

    def test_an_index_is_resolved_by_platform(self, app: RegistryClient) -> None:
        app.push_index("v1", build_index())

        for platform in (AMD64, ARM64, Platform.parse(ARM64)):
            image = app.get_image("v1", platform=platform)
            assert str(image.platform) == str(platform)
            assert app.get_image_config("v1", platform=platform).platform == image.platform
            assert app.get_manifest("v1", platform=platform).digest == image.digest

    def test_an_absent_platform_is_an_error(self, app: RegistryClient) -> None:
        app.push_index("index", build_index())
        app.push_image("image", build(platform=AMD64))

        with pytest.raises(PlatformNotFound) as of_index:
            app.get_image("index", platform="linux/s390x")
        with pytest.raises(PlatformNotFound) as of_image:
            app.get_image("image", platform=ARM64)

        assert of_index.value.available == (AMD64, ARM64)
        assert of_index.value.reference == "registry.example.com/org/app:index"
        assert of_image.value.available == (AMD64,)

    def test_the_platform_of_a_single_image_is_not_checked_unless_requested(self, app: RegistryClient) -> None:
        app.push_image("v1", build(platform="linux/s390x"))

        assert app.get_image("v1").config().architecture == "s390x"
        assert app.get_image_config("v1").architecture == "s390x"

    def test_a_manifest_is_returned_unchanged(self, app: RegistryClient) -> None:
        image, index = build(), build_index()
        app.push_image("image", image)
        app.push_index("index", index)

        one, many = app.get_manifest("image"), app.get_manifest("index")

        assert (one.raw, one.is_index, one.size) == (image.raw, False, image.size)
        assert (one.media_type, one.descriptor) == (image.media_type, image.document.descriptor)
        assert one.manifest == image.manifest()
        assert (many.raw, many.is_index, many.digest) == (index.raw, True, index.digest)
        assert many.index.manifests == index.manifests
        with pytest.raises(NotAnIndex) as no_index:
            _ = one.index
        with pytest.raises(NotAnImage) as no_image:
            _ = many.manifest
        assert no_index.value.reference == f"{app.registry}:image"
        assert no_image.value.reference == f"{app.registry}:index"

    def test_an_artifact_manifest_is_viewed_as_such(self, app: RegistryClient) -> None:
        """R-016."""
        artifact = artifact_manifest([b"1", b"2"], artifactType="a/b")
        app.repository.manifests.put(artifact, tags=[Tag("artifact")])

        found = app.get_manifest("artifact")

        assert (found.artifact.artifact_type, len(found.artifact.blobs)) == ("a/b", 2)
        for read in (lambda: found.manifest, lambda: app.get_image("artifact")):
            with pytest.raises(NotAnImage):
                read()

    def test_push_image_stores_an_index_with_all_its_images(self, app: RegistryClient) -> None:
        index = build_index()

        descriptor = app.push_image("all", index)

        assert descriptor.digest == index.digest
        assert app.get_index("all").raw == index.raw
        assert app.get_image("all", platform=ARM64).config().architecture == "arm64"

    def test_an_index_is_returned_complete(self, app: RegistryClient) -> None:
        index = build_index()
        app.push_index("index", index)
        app.push_image("image", build())

        assert app.get_index("index").raw == index.raw
        with pytest.raises(NotAnIndex) as caught:
            app.get_index("image")
        assert caught.value.operation == "get_index"
        assert caught.value.reference == f"{app.registry}:image"

    def test_the_digest_of_a_tag(self, app: RegistryClient) -> None:
        pushed = app.push_image("v1", build())

        digest = app.get_digest("v1")

        assert digest == pushed.digest
        assert isinstance(digest, Digest)

    def test_existence(self, app: RegistryClient) -> None:
        app.push_image("v1", build())

        app.check_image_exists("v1")
        assert (app.image_exists("v1"), app.image_exists("v2")) == (True, False)
        assert not app.with_segment("absent").image_exists("v1")
        with pytest.raises(ImageNotFound):
            app.check_image_exists("v2")


class TestWriting:
    def test_pushing_by_digest_leaves_no_tag(self, app: RegistryClient) -> None:
        image = build()

        app.push_image(f"@{image.digest}", image)

        assert app.image_exists(str(image.digest))
        assert app.list_tags() == []

    def test_pushing_by_tag_and_digest_sets_the_tag(self, app: RegistryClient) -> None:
        image = build()

        app.push_image(f"v1@{image.digest}", image)
        app.copy_image("v1", app.with_segment("other"), f"v2@{image.digest}")

        assert app.get_digest("v1") == image.digest
        assert app.with_segment("other").list_tags() == ["v2"]

    @pytest.mark.parametrize("open_catalog", [MemoryCatalog, LayoutCatalog])
    def test_a_tag_with_a_digest_is_set_if_the_image_has_that_digest(
        self, tmp_path: Path, open_catalog: Callable[[str], Catalog]
    ) -> None:
        app, image = RegistryClient(open_catalog(str(tmp_path / "store")), "app"), build()
        app.push_image("v1", image)

        app.tag_image("v1", f"v2@{image.digest}")
        with pytest.raises(InvalidReference, match="cannot be stored as v3@"):
            app.tag_image("v1", f"v3@{Digest.of(b'other')}")

        assert app.list_tags() == ["v1", "v2"]

    @pytest.mark.parametrize("prefix", ["", "@", "v1@"])
    def test_pushing_under_another_digest_is_refused(self, app: RegistryClient, prefix: str) -> None:
        image = build()

        with pytest.raises(InvalidReference):
            app.push_image(f"{prefix}{Digest.of(b'other')}", image)

        assert not app.image_exists(str(image.digest))

    def test_arguments_of_other_types_are_refused(self, app: RegistryClient) -> None:
        builder = ImageBuilder(platform="linux/amd64")
        app.push_image("v1", builder.build())

        with pytest.raises(InvalidValue, match=r"expected Image or Index, not ImageBuilder; call build\(\) first"):
            app.push_image("v1", cast("Any", builder))
        with pytest.raises(InvalidValue, match=r"expected Image or Index, not ImageBuilder; call build\(\) first"):
            IndexBuilder().add(cast("Any", builder))
        with pytest.raises(InvalidValue, match=r"expected Image, not ImageBuilder; call build\(\) first"):
            ImageEditor(cast("Any", builder))
        with pytest.raises(InvalidValue, match="options must be CopyOptions, not dict"):
            app.copy_image("v1", app, "v2", options=cast("Any", {"referrers": True}))
        with pytest.raises(InvalidValue, match="source must be a Repository, not RegistryClient"):
            copy(cast("Any", app), app.repository, "v1")
        with pytest.raises(InvalidValue, match="target_client must be a RegistryClient, not str"):
            app.copy_image("v1", cast("Any", "registry.example.com/app"), "v1")
        with pytest.raises(InvalidValue, match="catalog must be a Catalog, not str; open_client takes a URL"):
            RegistryClient(cast("Any", "memory:"))

    def test_a_tag_is_added_and_removed(self, app: RegistryClient) -> None:
        pushed = app.push_image("v1", build())

        tagged = app.tag_image("v1", "latest")
        app.delete_tag("v1")

        assert tagged == pushed
        assert app.list_tags() == ["latest"]
        assert app.image_exists(str(pushed.digest))

    def test_deleting_a_manifest_takes_its_tags(self, app: RegistryClient) -> None:
        digest = app.push_image("v1", build()).digest
        app.push_image("other", build("other"))
        app.tag_image("v1", "latest")

        app.delete_by_digest(f"@{digest}")

        assert app.list_tags() == ["other"]

    def test_an_index_is_copied_completely_to_another_backend(self, app: RegistryClient) -> None:
        index = build_index()
        app.push_index("v1", index)
        mirror = RegistryClient(MemoryCatalog(), "mirror")

        copied = app.copy_image("v1", mirror, "v2")

        assert copied.digest == index.digest == mirror.get_digest("v2")
        assert mirror.get_index("v2").raw == index.raw
        for platform in (AMD64, ARM64):
            with mirror.get_image("v2", platform=platform).layers()[0].open_uncompressed() as reader:
                assert reader.read()

    def test_a_copy_may_be_of_some_platforms_only(self, app: RegistryClient) -> None:
        app.push_index("v1", build_index())
        mirror = RegistryClient(MemoryCatalog(), "mirror")
        options = CopyOptions(platforms=(Platform.parse(ARM64),), index_mode=IndexMode.REWRITTEN)

        copied = app.copy_image("v1", mirror, "v1", options=options)

        assert [str(entry.platform) for entry in mirror.get_index("v1").manifests] == [ARM64]
        assert copied.digest == mirror.get_digest("v1") != app.get_digest("v1")


class TestTags:
    @pytest.fixture
    def tagged(self, app: RegistryClient) -> RegistryClient:
        app.push_image("t0", build())
        for number in range(1, 5):
            app.tag_image("t0", f"t{number}")
        return app

    def test_all_or_a_part(self, tagged: RegistryClient) -> None:
        assert tagged.list_tags() == ["t0", "t1", "t2", "t3", "t4"]
        assert tagged.list_tags(limit=2) == ["t0", "t1"]
        assert tagged.list_tags(limit=2, last="t1") == ["t2", "t3"]
        assert tagged.list_tags(last="t4") == []
        assert tagged.list_tags(limit=0) == []

    def test_a_limit_of_zero_fails_for_an_absent_repository(self, tagged: RegistryClient) -> None:
        with pytest.raises(RepositoryNotFound) as caught:
            tagged.with_segment("absent").list_tags(limit=0)

        assert caught.value.operation == "list_tags"

    def test_they_can_be_iterated(self, tagged: RegistryClient) -> None:
        tags = tagged.iter_tags(last="t2")

        assert next(tags) == "t3"
        assert list(tags) == ["t4"]

    def test_pages_are_requested_on_demand(self, tagged: RegistryClient) -> None:
        absent = tagged.with_segment("absent").iter_tags()

        with pytest.raises(RepositoryNotFound) as caught:
            next(absent)

        assert caught.value.operation == "iter_tags"
        assert caught.value.reference.startswith("registry.example.com/org/app/absent")

    @pytest.mark.parametrize("limit", [-1, 1.5, True, "1"])
    def test_an_invalid_limit_is_refused_at_once(self, tagged: RegistryClient, limit: int) -> None:
        for ask in (tagged.list_tags, tagged.iter_tags, tagged.list_repositories, tagged.iter_repositories):
            with pytest.raises(InvalidValue):
                ask(limit=limit)

    def test_last_must_be_a_name(self, tagged: RegistryClient) -> None:
        with pytest.raises(InvalidName):
            tagged.iter_tags(last="not a tag")
        with pytest.raises(InvalidName):
            tagged.iter_repositories(last="../up")


class TestRepositories:
    @pytest.fixture
    def filled(self, root: RegistryClient) -> RegistryClient:
        for path in ("org", "org-x/a", "org/a", "org/b/c", "org/d", "other"):
            root.with_segment(path).push_image("v1", build())
        return root

    def test_names_are_relative_to_the_client(self, filled: RegistryClient) -> None:
        org = filled.with_segment("org")

        names = org.list_repositories()

        assert names == ["a", "b/c", "d"]
        assert all(org.with_segment(name).image_exists("v1") for name in names)
        assert filled.list_repositories() == ["org", "org-x/a", "org/a", "org/b/c", "org/d", "other"]

    def test_limit_and_last_are_relative_too(self, filled: RegistryClient, catalog: RecordingCatalog) -> None:
        org = filled.with_segment("org")

        assert org.list_repositories(limit=1) == ["a"]
        assert org.list_repositories(limit=2, last="a") == ["b/c", "d"]
        assert list(org.iter_repositories(last="d")) == []
        assert catalog.listings == [("org", 1), ("org/a", 2), ("org/d", None)]

    def test_a_limit_of_zero_still_asks_the_backend(self, filled: RegistryClient, catalog: RecordingCatalog) -> None:
        assert filled.list_repositories(limit=0) == []
        assert catalog.listings == [(None, 1)]


class TestArtifacts:
    def test_files_come_back_by_their_titles(self, app: RegistryClient, tmp_path: Path) -> None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "a.bin").write_bytes(b"weights")
        card = ArtifactFile(b"a card", title="card.md")

        pushed = app.push_artifact("v1", [tmp_path / "model", card], artifact_type="application/vnd.example.model")
        written = app.pull_artifact("v1", tmp_path / "out", unpack=True)

        assert pushed.digest == app.get_digest("v1")
        assert written == [tmp_path / "out" / "model", tmp_path / "out" / "card.md"]
        assert (tmp_path / "out" / "model" / "a.bin").read_bytes() == b"weights"

    def test_referrers_are_found_by_artifact_type(self, app: RegistryClient) -> None:
        image = app.push_image("v1", build())
        types = ("application/vnd.example.sbom", "application/vnd.example.signature")

        sbom, _ = (app.attach("v1", [], artifact_type=kind, annotations={"by": "us"}) for kind in types)

        (found,) = app.list_referrers("v1", types[0])
        assert (found.digest, found.annotations) == (sbom.digest, {"by": "us"})
        assert {entry.artifact_type for entry in app.list_referrers(image.digest)} == set(types)

    def test_an_observer_of_the_call_replaces_that_of_the_client(self, catalog: Catalog) -> None:
        own, other = Seen(), Seen()
        client = RegistryClient(catalog, "a", observer=own)

        client.push_artifact("v1", [], artifact_type="application/vnd.example", observer=other)
        told_first = (bool(own.kinds), bool(other.kinds))
        client.push_artifact("v2", [ArtifactFile(b"1", title="1")], artifact_type="application/vnd.example")

        assert told_first == (False, True)
        assert own.kinds


BAD_REFERENCES = ["", "a tag", "v1\n", "sha256:short", "@v1", "x" * 129, "a/b", "../v1", "v1@sha256:short", "v1@v2"]
OPERATIONS: dict[str, Callable[[RegistryClient, str], object]] = {
    "get_image": lambda client, reference: client.get_image(reference),
    "get_index": lambda client, reference: client.get_index(reference),
    "get_manifest": lambda client, reference: client.get_manifest(reference),
    "get_image_config": lambda client, reference: client.get_image_config(reference),
    "get_digest": lambda client, reference: client.get_digest(reference),
    "check_image_exists": lambda client, reference: client.check_image_exists(reference),
    "tag_image": lambda client, reference: client.tag_image(reference, "other"),
    "copy_image": lambda client, reference: client.copy_image(reference, client.with_segment("other"), "v1"),
    "attach": lambda client, reference: client.attach(reference, [], artifact_type="application/vnd.example"),
    "pull_artifact": lambda client, reference: client.pull_artifact(reference, "/nowhere/at/all"),
    "list_referrers": lambda client, reference: client.list_referrers(reference),
}


class TestScopes:
    @pytest.mark.parametrize("operation", [*OPERATIONS, "list_tags", "delete_tag", "push_index"])
    def test_in_a_cancelled_scope_no_operation_begins(self, app: RegistryClient, operation: str) -> None:
        app.push_image("v1", build())
        built = build_index()
        more: dict[str, Callable[[RegistryClient, str], object]] = {
            "list_tags": lambda client, _: client.list_tags(),
            "delete_tag": lambda client, reference: client.delete_tag(reference),
            "push_index": lambda client, reference: client.push_index(reference, built),
        }

        with CancelScope() as scope:
            scope.cancel()
            with pytest.raises(Cancelled):
                (OPERATIONS | more)[operation](app, "v1")

        assert app.list_tags() == ["v1"]


class TestErrors:
    @pytest.mark.parametrize("reference", BAD_REFERENCES)
    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_a_malformed_reference_is_refused_and_named(
        self, app: RegistryClient, operation: str, reference: str
    ) -> None:
        with pytest.raises((InvalidName, InvalidDigest, InvalidReference)) as caught:
            OPERATIONS[operation](app, reference)

        assert caught.value.operation == operation
        assert caught.value.reference.startswith("registry.example.com/org/app")

    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_an_error_names_the_absent_reference(self, app: RegistryClient, operation: str) -> None:
        app.push_image("other", build())

        with pytest.raises(ImageNotFound) as caught:
            OPERATIONS[operation](app, "v1")

        assert caught.value.operation == operation
        assert caught.value.reference == "registry.example.com/org/app:v1"
        assert caught.value.code == "MANIFEST_UNKNOWN"

    @pytest.mark.parametrize("reference", BAD_REFERENCES)
    def test_nothing_is_pushed_under_a_malformed_reference(self, app: RegistryClient, reference: str) -> None:
        with pytest.raises(RegistryError):
            app.push_image(reference, build())

        assert list(app.catalog.repositories()) == []

    @pytest.mark.parametrize("target", ["a b", "@" + "sha256:" + "0" * 64, "sha256:" + "0" * 64, ""])
    def test_an_image_is_tagged_with_tags_only(self, app: RegistryClient, target: str) -> None:
        app.push_image("v1", build())

        with pytest.raises(InvalidName):
            app.tag_image("v1", target)

    def test_errors_of_deletions_name_the_reference(self, app: RegistryClient) -> None:
        app.push_image("v1", build())

        with pytest.raises(ImageNotFound) as of_tag:
            app.delete_tag("absent")
        with pytest.raises(ImageNotFound):
            app.delete_by_digest(Digest.of(b"absent"))
        with pytest.raises(InvalidDigest) as malformed:
            app.delete_by_digest("v1")

        assert of_tag.value.operation == "delete_tag"
        assert of_tag.value.reference == "registry.example.com/org/app:absent"
        assert malformed.value.operation == "delete_by_digest"

    def test_a_missing_part_names_the_push(self, app: RegistryClient) -> None:
        image = build()
        image.repository.blobs.delete(image.layers()[0].digest)

        with pytest.raises(BlobNotFound) as caught:
            app.push_image("v1", image)

        assert caught.value.operation == "push_image"
        assert not app.image_exists("v1")
