"""The container for dependency-injector."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dependency_injector import containers, providers

from registry_adapters import ArchiveCatalog, HttpCatalog, LayoutCatalog, MemoryCatalog
from registry_adapters.container import RegistryContainer, close, configured, parse_settings
from registry_adapters.http import OutgoingRequest, Response, Send
from registry_adapters.keychains import StaticKeychain
from registry_adapters.wsgi import registry_server
from registry_core.client import RegistryClient
from registry_core.domain.auth import Basic
from registry_core.errors import ConfigError
from registry_core.ops.builder.builder import ImageBuilder
from registry_core.ports.catalog import Catalog
from registry_core.ports.observer import Event, Observer, RequestCompleted

MEMORY: dict[str, Any] = {"backend": "memory"}
HTTP: dict[str, Any] = {"backend": "http", "http": {"registry": "registry.example.com"}}


class Application(containers.DeclarativeContainer):
    """An application that embeds the container."""

    config = providers.Configuration(strict=True)
    keychain = providers.Object(StaticKeychain({"registry.example.com": Basic("user", "word")}))
    registry = providers.Container(RegistryContainer, config=config.registry, keychain=keychain)
    greeting = providers.Factory("{0.registry}".format, registry.client)


class TestBackends:
    def test_http(self) -> None:
        container = configured({"backend": "http", "http": {"registry": "localhost:80", "plain_http": True}})

        catalog = container.catalog()

        assert isinstance(catalog, HttpCatalog)
        assert catalog.registry == "localhost"
        close(container)

    def test_layout(self, tmp_path: Path) -> None:
        container = configured({"backend": "layout", "layout": {"root": str(tmp_path)}})

        assert isinstance(container.catalog(), LayoutCatalog)
        assert container.catalog().registry == f"oci:{tmp_path}"
        close(container)

    def test_archive(self, tmp_path: Path) -> None:
        section = {"path": str(tmp_path / "images.tar"), "form": "oci-archive", "fsync": "false"}
        container = configured({"backend": "archive", "archive": section})

        container.client().push_image("v1", ImageBuilder(platform="linux/amd64").build())

        assert isinstance(container.catalog(), ArchiveCatalog)
        assert container.catalog().registry == f"oci-archive:{tmp_path}/images.tar"
        close(container)
        assert container.client().list_tags() == ["v1"]
        close(container)

    def test_memory(self) -> None:
        container = configured(MEMORY)

        assert isinstance(container.catalog(), MemoryCatalog)

    @pytest.mark.parametrize("backend", ["memory", "layout", "archive", "http"])
    def test_each_backend_provides_clients(self, backend: str, tmp_path: Path) -> None:
        archive = {"path": str(tmp_path / "images.tar")}
        container = configured({**HTTP, "layout": {"root": str(tmp_path)}, "archive": archive, "backend": backend})

        client = container.client()

        assert isinstance(client, RegistryClient)
        assert client.registry == container.catalog().registry
        close(container)

    def test_no_dependency_is_undefined(self) -> None:
        configured(MEMORY).check_dependencies()


class TestConfiguration:
    @pytest.mark.parametrize(
        ("mapping", "word"),
        [
            ({}, "backend"),
            ({"backend": "tape"}, "tape"),
            ({"backend": "http"}, "http"),
            ({"backend": "layout"}, "layout"),
            ({"backend": "http", "http": {}}, "registry"),
            ({"backend": "http", "http": {"registry": "https://registry.example.com"}}, "host"),
            ({"backend": "http", "http": {"registry": "r", "tls_verfy": False}}, "tls_verfy"),
            ({"backend": "http", "http": {"registry": "r", "read_timeout": "soon"}}, "read_timeout"),
            ({"backend": "http", "http": {"registry": "r", "read_timeout": -1}}, "read_timeout"),
            ({"backend": "layout", "layout": {"root": ""}}, "root"),
            ({"backend": "layout", "layout": {"root": "x", "colour": "red"}}, "colour"),
            ({"backend": "archive"}, "archive"),
            ({"backend": "archive", "archive": {"path": ""}}, "path"),
            ({"backend": "archive", "archive": {"path": "x", "form": "zip"}}, "zip"),
            ({"backend": "memory", "colour": "red"}, "colour"),
            (None, "object"),
        ],
    )
    def test_an_invalid_configuration_is_a_config_error_that_names_the_value(self, mapping: Any, word: str) -> None:
        with pytest.raises(ConfigError, match=word):
            configured(mapping)

    def test_values_can_be_text(self) -> None:
        settings = parse_settings(
            {
                "backend": "http",
                "http": {
                    "registry": "r",
                    "plain_http": "true",
                    "tls_verify": "false",
                    "read_timeout": "2.5",
                    "retries": "1",
                },
            }
        )

        assert settings.http is not None
        assert (settings.http.plain_http, settings.http.tls_verify) == (True, False)
        assert (settings.http.read_timeout, settings.http.retries) == (2.5, 1)

    def test_every_http_setting_can_be_text(self) -> None:
        text = {
            "trust_system": "true",
            "certs_dir": "/etc/certs.d",
            "tls_minimum": "1.3",
            "requests_per_second": "2.5",
            "max_connections": "4",
            "path_prefix": "/registry",
            "chunk_size": "1048576",
        }

        settings = parse_settings({"backend": "http", "http": {"registry": "r", **text}})

        assert settings.http is not None
        assert (settings.http.trust_system, settings.http.certs_dir) == (True, "/etc/certs.d")
        assert (settings.http.tls_minimum, settings.http.requests_per_second) == ("1.3", 2.5)
        assert (settings.http.max_connections, settings.http.path_prefix) == (4, "/registry")
        assert settings.http.chunk_size == 1 << 20

    def test_the_text_null_is_none(self) -> None:
        settings = parse_settings({"backend": "http", "http": {"registry": "r", "requests_per_second": "null"}})

        assert settings.http is not None
        assert settings.http.requests_per_second is None

    def test_an_error_does_not_repeat_the_password_of_a_proxy(self) -> None:
        """R-043."""
        mapping = {"backend": "http", "http": {"registry": "r", "proxy": "ftp://user:hunter2@proxy"}}

        with pytest.raises(ConfigError) as caught:
            parse_settings(mapping)

        assert "hunter2" not in str(caught.value)

    def test_a_container_without_a_configuration_is_a_config_error(self) -> None:
        with pytest.raises(ConfigError, match="backend"):
            RegistryContainer().catalog()

    @pytest.mark.parametrize("backend", ["http", "layout"])
    def test_a_backend_without_its_section_is_a_config_error(self, backend: str) -> None:
        container = configured(MEMORY)

        with pytest.raises(ConfigError, match=backend):
            container.providers[backend]()

    def test_an_invalid_embedded_configuration_is_a_config_error(self) -> None:
        application = Application()
        application.config.from_dict({"registry": {"backend": "tape"}})

        with pytest.raises(ConfigError, match="tape"):
            application.registry.catalog()


class TestSharing:
    def test_sixteen_threads_get_one_catalog(self) -> None:
        container = configured(HTTP)
        start = threading.Barrier(16)

        def take(_: int) -> Catalog:
            start.wait(30)
            catalog: Catalog = container.catalog()
            return catalog

        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(take, range(16)))

        assert len({id(catalog) for catalog in found}) == 1
        close(container)

    def test_two_containers_have_two_catalogs(self) -> None:
        assert configured(MEMORY).catalog() is not configured(MEMORY).catalog()


class TestOverriding:
    def test_an_override_of_the_catalog_applies_until_it_is_reset(self) -> None:
        container = configured(HTTP)
        fake = MemoryCatalog("memory:fake")
        before = container.client().registry

        with container.catalog.override(providers.Object(fake)):
            during = container.client().registry

        assert (before, during, container.client().registry) == (
            "registry.example.com",
            "memory:fake",
            "registry.example.com",
        )
        close(container)

    def test_an_override_applies_to_one_container(self) -> None:
        first, second = configured(MEMORY), configured(MEMORY)

        with first.catalog.override(providers.Object(MemoryCatalog("memory:fake"))):
            assert second.client().registry == "memory:"

    def test_the_keychain_can_be_a_credential(self) -> None:
        container = configured(HTTP)

        with container.keychain.override(providers.Object(Basic("user", "word"))):
            assert container.catalog().registry == "registry.example.com"
        close(container)


class TestObserversAndMiddleware:
    def test_the_observer_receives_the_transfers_of_clients(self) -> None:
        kinds: list[str] = []

        class Seen(Observer):
            def on(self, event: Event) -> None:
                kinds.append(type(event).__name__)

        container = configured(MEMORY)
        container.observer.override(providers.Object(Seen()))
        client = container.client().with_segment("app")
        client.push_image("v1", ImageBuilder(platform="linux/amd64").add_files({"a": "b"}).build())

        assert "BlobCopied" in kinds

    def test_the_observer_receives_each_request(self) -> None:
        methods: list[str] = []

        class Seen(Observer):
            def on(self, event: Event) -> None:
                if isinstance(event, RequestCompleted):
                    methods.append(event.method)

        with registry_server(MemoryCatalog()) as server:
            container = configured({"backend": "http", "http": {"registry": server.host, "plain_http": True}})
            container.observer.override(providers.Object(Seen()))

            container.client().with_segment("app").image_exists("v1")
            close(container)

        assert methods == ["HEAD"]

    def test_the_middleware_wraps_each_request(self) -> None:
        methods: list[str] = []

        def note(request: OutgoingRequest, send: Send) -> Response:
            methods.append(request.method)
            return send(request)

        with registry_server(MemoryCatalog()) as server:
            container = configured({"backend": "http", "http": {"registry": server.host, "plain_http": True}})
            container.middleware.override(providers.Object((note,)))

            exists = container.client().with_segment("app").image_exists("v1")
            close(container)

        assert (exists, methods) == (False, ["HEAD"])


class TestEmbedding:
    def test_an_application_embeds_it(self) -> None:
        application = Application()
        application.config.from_dict({"registry": HTTP})

        assert application.greeting() == "registry.example.com"
        close(application.registry())

    def test_an_application_overrides_the_catalog(self) -> None:
        application = Application()
        application.config.from_dict({"registry": HTTP})

        with application.registry.catalog.override(providers.Object(MemoryCatalog("memory:fake"))):
            assert application.greeting() == "memory:fake"

    def test_no_dependency_of_an_application_is_undefined(self) -> None:
        application = Application()

        application.check_dependencies()


class TestClosing:
    def test_the_built_catalog_is_closed_and_reset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        closed: list[Catalog] = []
        real = HttpCatalog.close

        def close_and_note(catalog: HttpCatalog) -> None:
            closed.append(catalog)
            real(catalog)

        monkeypatch.setattr(HttpCatalog, "close", close_and_note)
        container = configured(HTTP)
        catalog = container.catalog()

        close(container)

        assert closed == [catalog]
        assert container.catalog() is not catalog
        close(container)

    def test_closing_twice_or_unused_is_allowed(self) -> None:
        container = configured(HTTP)

        close(container)
        close(container)

        assert container.catalog().registry == "registry.example.com"
        close(container)

    def test_an_override_is_not_closed(self) -> None:
        closed: list[str] = []

        class Fake(MemoryCatalog):
            def close(self) -> None:
                closed.append("fake")

        container = configured(MEMORY)
        with container.catalog.override(providers.Object(Fake())):
            container.client()
            close(container)

        assert closed == []
