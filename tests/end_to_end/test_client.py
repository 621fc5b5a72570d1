"""The documented features of the client, each against every backend."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from registry_adapters import MemoryCatalog, open_client
from registry_adapters.wsgi import registry_server
from registry_core import (
    Anonymous,
    Basic,
    Cancelled,
    CancelScope,
    DeadlineExceeded,
    Digest,
    IdentityToken,
    Image,
    ImageBuilder,
    ImageNotFound,
    IndexBuilder,
    InvalidName,
    PlatformNotFound,
    RegistryClient,
    RegistryToken,
    TransportError,
    fail_after,
)

AMD64 = "linux/amd64"


def build(text: str = "hello", platform: str = AMD64) -> Image:
    return (
        ImageBuilder(platform=platform)
        .add_files({"hello.txt": text.encode()})
        .add_files({"etc/more": b"more"})
        .label("org.example.text", text)
        .created("2024-05-06T07:08:09.123456789Z")
        .annotate("org.example.note", text)
        .build()
    )


@pytest.fixture
def module(client: RegistryClient) -> RegistryClient:
    return client.with_segment("deckhouse").with_segment("modules").with_segment("my-module")


class TestQuickStart:
    def test_list_pull_and_inspect(self, module: RegistryClient) -> None:
        module.push_image("v1.0.0", build())

        assert module.list_tags() == ["v1.0.0"]
        image = module.get_image("v1.0.0", platform=AMD64)
        assert dict(image.config().config.labels) == {"org.example.text": "hello"}


class TestPathSegmentation:
    def test_segments_chain(self, client: RegistryClient) -> None:
        base = client.registry

        org = client.with_segment("myorg")
        project = org.with_segment("myproject")
        component = project.with_segment("mycomponent")

        assert org.registry == f"{base}/myorg"
        assert project.registry == f"{base}/myorg/myproject"
        assert component.registry == f"{base}/myorg/myproject/mycomponent"

    def test_several_segments_at_once(self, client: RegistryClient) -> None:
        component = client.with_segment("myorg", "myproject", "mycomponent")

        assert component.registry == f"{client.registry}/myorg/myproject/mycomponent"

    def test_adding_a_segment_does_not_change_the_client(self, client: RegistryClient) -> None:
        org = client.with_segment("org")
        first, second = org.with_segment("a"), org.with_segment("b")

        assert first.registry.endswith("/org/a")
        assert second.registry.endswith("/org/b")
        assert org.registry.endswith("/org")

    def test_outer_slashes_of_a_segment_are_removed(self, client: RegistryClient) -> None:
        assert client.with_segment("/myorg/project/").registry == f"{client.registry}/myorg/project"

    @pytest.mark.parametrize("bad", ["", "UPPER", "a//b", "..", "a/../b", "sp ace", "a\n"])
    def test_an_invalid_segment_is_refused(self, client: RegistryClient, bad: str) -> None:
        with pytest.raises(InvalidName):
            client.with_segment(bad)


class TestCreatingAClient:
    def test_options(self) -> None:
        for options in (
            {},
            {"auth": Basic("myuser", "mypassword")},
            {"auth": IdentityToken("my-token")},
            {"auth": RegistryToken("oauth2-token")},
            {"auth": Anonymous()},
            {"tls_verify": False},
            {"plain_http": True},
        ):
            with open_client("registry.example.com", **options) as opened:
                assert opened.registry == "registry.example.com"

    def test_an_unknown_option_is_a_type_error(self) -> None:
        with pytest.raises(TypeError, match="tls_verfy"):
            open_client("registry.example.com", tls_verfy=False)  # type: ignore[call-arg]  # the error is what is tested


class TestImages:
    def test_pull_by_tag_and_by_digest(self, module: RegistryClient) -> None:
        digest = module.push_image("v1.0.0", build()).digest

        assert module.get_image("v1.0.0", platform=AMD64).digest == digest
        assert module.get_image(f"@{digest}", platform=AMD64).digest == digest
        assert module.get_image(digest, platform=AMD64).digest == digest

    def test_the_digest_of_a_tag(self, module: RegistryClient) -> None:
        pushed = module.push_image("v1.0.0", build())

        digest = module.get_digest("v1.0.0")

        assert isinstance(digest, Digest)
        assert digest == pushed.digest

    def test_the_manifest_of_an_image(self, module: RegistryClient) -> None:
        image = build()
        module.push_image("v1.0.0", image)

        result = module.get_manifest("v1.0.0")

        assert (result.descriptor.media_type, result.descriptor.digest) == (image.media_type, image.digest)
        assert result.descriptor.size == len(result.raw)
        assert not result.is_index
        assert result.manifest.schema_version == 2
        assert result.manifest.config.digest == image.manifest().config.digest
        assert [layer.digest for layer in result.manifest.layers] == [layer.digest for layer in image.layers()]
        assert result.manifest.annotations == {"org.example.note": "hello"}

    def test_the_manifest_of_an_index(self, module: RegistryClient) -> None:
        index = IndexBuilder().add(build()).add(build(platform="linux/arm64")).build()
        module.push_index("v1.0.0", index)

        result = module.get_manifest("v1.0.0")

        assert result.is_index
        assert result.index.schema_version == 2
        assert [str(entry.platform) for entry in result.index.manifests] == ["linux/amd64", "linux/arm64"]

    def test_the_configuration(self, module: RegistryClient) -> None:
        module.push_image("v1.0.0", build())

        config = module.get_image_config("v1.0.0", platform=AMD64)

        assert (config.architecture, config.os) == ("amd64", "linux")
        assert config.created == "2024-05-06T07:08:09.123456789Z"
        assert dict(config.config.labels) == {"org.example.text": "hello"}
        assert len(config.rootfs.diff_ids) == 2

    def test_image_exists(self, module: RegistryClient) -> None:
        module.push_image("v1.0.0", build())

        module.check_image_exists("v1.0.0")
        assert module.image_exists("v1.0.0")
        assert not module.image_exists("v2.0.0")
        with pytest.raises(ImageNotFound):
            module.check_image_exists("v2.0.0")

    def test_layers(self, module: RegistryClient) -> None:
        module.push_image("v1.0.0", build())

        layers = module.get_image("v1.0.0", platform=AMD64).layers()

        assert len(layers) == 2
        for layer in layers:
            with layer.open() as reader:
                assert Digest.of(reader.read()) == layer.digest
            with layer.open_uncompressed() as reader:
                assert Digest.of(reader.read()) == layer.diff_id()

    def test_tagging_and_deleting(self, module: RegistryClient) -> None:
        digest = module.push_image("v1", build()).digest
        module.tag_image("v1", "latest")

        module.delete_tag("latest")
        assert module.get_digest("v1") == digest
        assert not module.image_exists("latest")
        module.delete_by_digest(digest)
        assert not module.image_exists("v1")


class TestTags:
    def test_pages_follow_each_other(self, module: RegistryClient) -> None:
        module.push_image("t0", build())
        for number in range(1, 7):
            module.tag_image("t0", f"t{number}")

        first = module.list_tags(limit=4)
        rest = module.list_tags(limit=4, last=first[-1])

        assert first == ["t0", "t1", "t2", "t3"]
        assert rest == ["t4", "t5", "t6"]
        assert list(module.iter_tags(last="t4")) == ["t5", "t6"]


class TestRepositories:
    def test_names_are_relative_to_the_path_of_the_client(self, client: RegistryClient) -> None:
        for path in ("alpha/one", "alpha/two", "beta/one", "alphabet"):
            client.with_segment(path).push_image("v1", build())
        alpha = client.with_segment("alpha")

        assert client.list_repositories() == ["alpha/one", "alpha/two", "alphabet", "beta/one"]
        assert alpha.list_repositories() == ["one", "two"]
        assert alpha.list_repositories(limit=1) == ["one"]
        assert alpha.list_repositories(limit=1, last="one") == ["two"]
        for name in alpha.iter_repositories():
            assert alpha.with_segment(name).list_tags() == ["v1"]


class TestCancellation:
    def test_a_deadline_ends_an_operation(self, module: RegistryClient) -> None:
        module.push_image("v1", build())

        with pytest.raises(DeadlineExceeded), fail_after(0):
            module.get_image("v1")

        assert module.image_exists("v1")

    def test_a_cancelled_scope_ends_an_operation(self, module: RegistryClient) -> None:
        module.push_image("v1", build())

        with pytest.raises(Cancelled), CancelScope() as scope:
            scope.cancel()
            module.list_tags()

        assert module.list_tags() == ["v1"]

    def test_cancelling_from_another_thread_ends_a_blocked_read(self) -> None:
        import socket

        with socket.create_server(("127.0.0.1", 0)) as hung:
            client = open_client(f"http://127.0.0.1:{hung.getsockname()[1]}").with_segment("app")
            started = time.monotonic()
            with pytest.raises(Cancelled), CancelScope() as scope:
                timer = threading.Timer(0.3, scope.cancel)
                timer.start()
                client.get_digest("v1")
            timer.join()
            client.close()

        assert time.monotonic() - started < 5


class TestThreads:
    def test_one_client_serves_many_threads(self, module: RegistryClient) -> None:
        tags = [f"v{number}" for number in range(8)]
        digests = {tag: module.push_image(tag, build(tag)).digest for tag in tags}

        with ThreadPoolExecutor(8) as pool:
            found = dict(zip(tags * 4, pool.map(module.get_digest, tags * 4), strict=True))

        assert found == digests


class TestPlatforms:
    PLATFORMS = ("linux/amd64", "linux/arm64", "linux/arm/v7", "windows/amd64")

    def test_each_platform_gets_its_own_image(self, module: RegistryClient) -> None:
        images = {platform: build(platform, platform) for platform in self.PLATFORMS}
        builder = IndexBuilder()
        for image in images.values():
            builder = builder.add(image)
        module.push_index("v1", builder.build())

        for platform, image in images.items():
            pulled = module.get_image("v1", platform=platform)
            assert pulled.digest == image.digest
            assert pulled.config().architecture == platform.split("/")[1]

    def test_an_error_lists_the_available_platforms(self, module: RegistryClient) -> None:
        module.push_index("v1", IndexBuilder().add(build()).build())

        with pytest.raises(PlatformNotFound) as caught:
            module.get_image("v1", platform="linux/s390x")

        assert caught.value.available == ("linux/amd64",)

    def test_an_image_of_another_platform_is_refused(self, module: RegistryClient) -> None:
        module.push_image("v1", build())

        with pytest.raises(PlatformNotFound):
            module.get_image("v1", platform="linux/arm64")


class TestErrors:
    def test_falling_back_to_another_tag(self, module: RegistryClient) -> None:
        module.push_image("v1.0.0", build())

        for tag in ("latest", "stable", "v1.0.0"):
            try:
                image = module.get_image(tag, platform=AMD64)
                break
            except ImageNotFound:
                continue

        assert image.reference.endswith("v1.0.0")

    def test_an_error_has_the_response_that_caused_it(self) -> None:
        with registry_server(MemoryCatalog()) as server, open_client(server.url) as client:
            with pytest.raises(ImageNotFound) as caught:
                client.with_segment("app").get_image("v1")

        assert isinstance(caught.value.transport, TransportError)
        assert caught.value.transport.status == 404


class TestMirroring:
    def test_an_index_is_copied_with_all_images(self, module: RegistryClient) -> None:
        index = IndexBuilder().add(build()).add(build(platform="linux/arm64")).build()
        module.push_index("v1", index)
        target = open_client("memory:").with_segment("mirror", "org")

        copied = module.copy_image("v1", target, "v1")

        assert copied.digest == index.digest == target.get_digest("v1")
        assert target.get_image("v1", platform="linux/arm64").config().architecture == "arm64"

    def test_missing_tags_are_copied(self, module: RegistryClient) -> None:
        target = open_client("memory:").with_segment("mirror")
        target.push_image("v1", build("v1"))
        for tag in ("v1", "v2", "v3"):
            module.push_image(tag, build(tag))

        missing = set(module.list_tags()) - set(target.list_tags())
        for tag in sorted(missing):
            target.push_image(tag, module.get_image(tag, platform=AMD64))

        assert target.list_tags() == ["v1", "v2", "v3"]


class TestLogging:
    def test_debug_logging_shows_requests_without_secrets(self, caplog: pytest.LogCaptureFixture) -> None:
        with (
            caplog.at_level(logging.DEBUG, logger="registry_adapters"),
            registry_server(MemoryCatalog()) as server,
            open_client(server.url, auth=Basic("user", "hunter2")) as client,
        ):
            client.with_segment("app").push_image("v1", build())

        assert "PUT" in caplog.text
        assert "hunter2" not in caplog.text
