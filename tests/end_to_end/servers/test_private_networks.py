"""Registries on private networks, whose token servers and object stores are other hosts (R-033, R-035, R-047)."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from registry_adapters import open_catalog, open_client, open_mirror
from registry_adapters.auth import authenticator_for
from registry_adapters.backends import Auth
from registry_adapters.container import close, configured
from registry_adapters.http import HttpCatalog, HttpSettings
from registry_adapters.keychains import StaticKeychain
from registry_core import Basic, ConfigError, Digest, ProtocolError, Unauthorized
from registry_core.content.streams import BytesSource

PASSWORD = Basic("me", "hunter2")
CONTENT = b"content"
DIGEST = Digest.of(CONTENT)
CONFIG = b"{}"
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": f"sha256:{hashlib.sha256(CONFIG).hexdigest()}",
            "size": len(CONFIG),
        },
        "layers": [],
    }
).encode()


class Seen(NamedTuple):
    """A request that some host received."""

    method: str
    netloc: str
    authorization: str


class Network(ThreadingHTTPServer):
    """A proxy that plays all hosts of a private network: a registry, its token server, and its object store.

    Args:
        registry: Host of the registry.
        realm: URL of the token server; empty for a registry without passwords.
        store: Origin of the object store; empty for a registry that stores blobs itself.
    """

    def __init__(self, registry: str, *, realm: str = "", store: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.registry = registry
        self.realm = realm
        self.store = store
        self.seen: list[Seen] = []
        self.stored = b""
        self.store_needs_credentials = False
        self.url = f"http://127.0.0.1:{self.server_port}"

    def hosts(self, method: str = "") -> list[str]:
        """The hosts that received requests, in order, each once."""
        return list(dict.fromkeys(each.netloc for each in self.seen if method in ("", each.method)))

    def answer(self, method: str, url: str, authorization: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(url)
        if self.realm and f"{parts.scheme}://{parts.netloc}{parts.path}" == self.realm:
            return 200, {}, b'{"token": "tok"}'
        if parts.netloc != self.registry:
            return self._answer_store(method, body)
        if self.realm and authorization != "Bearer tok":
            return 401, {"WWW-Authenticate": f'Bearer realm="{self.realm}",service="s"'}, b""
        if "/manifests/" in parts.path:
            return 200, {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}, MANIFEST
        if parts.path.endswith("/tags/list"):
            return 200, {}, b'{"tags": ["v1"]}'
        if method == "POST":
            return 202, {"Location": f"{self.store}/upload/1?sig=1"}, b""
        if method == "HEAD":
            return 404, {}, b""
        return 307, {"Location": f"{self.store}/blob?sig=1"}, b""

    def _answer_store(self, method: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.store_needs_credentials:
            return 401, {"WWW-Authenticate": 'Basic realm="store"'}, b""
        if method == "GET":
            return 200, {}, CONTENT
        self.stored += body
        return 201, {}, b""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Network

    def log_message(self, *arguments: Any) -> None:
        """Write no log."""

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        authorization = self.headers.get("Authorization", "")
        self.server.seen.append(Seen(self.command, urlsplit(self.path).netloc, authorization))
        status, headers, content = self.server.answer(self.command, self.path, authorization, body)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()


@pytest.fixture
def networks() -> Iterator[list[Network]]:
    """The networks of a test, stopped after it."""
    started: list[Network] = []
    yield started
    for network in started:
        network.shutdown()
        network.server_close()


def start(networks: list[Network], registry: str, **options: str) -> Network:
    network = Network(registry, **options)
    networks.append(network)
    threading.Thread(target=network.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return network


def settings_for(network: Network, trusted: list[str] | None) -> dict[str, Any]:
    return {"proxy": network.url, "retries": 0} | ({} if trusted is None else {"trusted_hosts": trusted})


class TestTokenServers:
    @pytest.mark.parametrize(
        ("registry", "realm", "trusted"),
        [
            ("registry.gitlab.lan", "http://gitlab.lan/jwt/auth", None),
            ("gitlab.lan:5050", "http://gitlab.lan/jwt/auth", None),
            ("harbor.corp.local", "http://sso.corp.local:8080/token", None),
            ("192.168.1.5:5050", "http://192.168.1.5/jwt/auth", None),
            ("gitlab.example.com:5500", "http://gitlab.example.com:10080/jwt/auth", None),
            ("registry.one.lan", "http://sso.other.lan/jwt/auth", ["sso.other.lan"]),
            ("registry.one.lan", "http://sso.other.lan:81/jwt/auth", ["sso.other.lan:81"]),
            ("registry:5000", "http://auth:5001/token", ["http://auth:5001"]),
            ("registry:5000", "http://10.0.0.6:5001/token", ["10.0.0.6"]),
        ],
    )
    def test_the_password_goes_to_the_token_server_and_the_token_to_the_registry(
        self, networks: list[Network], registry: str, realm: str, trusted: list[str] | None
    ) -> None:
        network = start(networks, registry, realm=realm)

        with open_client(f"http://{registry}", auth=PASSWORD, **settings_for(network, trusted)) as client:
            assert client.with_segment("org", "app").list_tags() == ["v1"]

        issuer = urlsplit(realm).netloc
        assert [(each.netloc, each.authorization.partition(" ")[0]) for each in network.seen] == [
            (registry, ""),
            (issuer, "Basic"),
            (registry, "Bearer"),
        ]

    @pytest.mark.parametrize(
        ("registry", "realm"),
        [
            ("registry.one.lan", "http://sso.other.lan/jwt/auth"),
            ("registry.gitlab.lan", "http://evilgitlab.lan/jwt/auth"),
            ("registry.gitlab.lan", "http://gitlab.lan.evil.example/jwt/auth"),
            ("registry.gitlab.co.uk", "http://gitlab.co.uk/jwt/auth"),
            ("harbor.lan", "http://minio.lan/token"),
            ("192.168.1.5", "http://192.168.1.6/token"),
        ],
    )
    def test_another_token_server_gets_nothing_and_the_refusal_names_the_setting(
        self, networks: list[Network], registry: str, realm: str
    ) -> None:
        network = start(networks, registry, realm=realm)

        with open_client(f"http://{registry}", auth=PASSWORD, **settings_for(network, ["x.example"])) as client:
            with pytest.raises(ProtocolError, match=r"add 'http://.*' to trusted_hosts"):
                client.with_segment("org", "app").list_tags()

        assert network.hosts() == [registry]

    @pytest.mark.parametrize("auth", ["credential", "keychain", "authenticator"])
    def test_the_setting_does_not_depend_on_the_kind_of_credentials(self, networks: list[Network], auth: str) -> None:
        network = start(networks, "registry:5000", realm="http://auth:5001/token")
        keychain = StaticKeychain({"registry:5000": PASSWORD})
        kinds: dict[str, Auth] = {
            "credential": PASSWORD,
            "keychain": keychain,
            "authenticator": authenticator_for(keychain),
        }
        settings = settings_for(network, ["auth:5001"])

        with closing(open_catalog("http://registry:5000", auth=kinds[auth], **settings)) as catalog:
            assert list(catalog.repository("org/app").manifests.tags()) == ["v1"]

        assert network.seen[1].authorization.startswith("Basic ")

    def test_a_catalog_made_by_hand_has_the_setting(self, networks: list[Network]) -> None:
        network = start(networks, "registry:5000", realm="http://auth:5001/token")
        settings = HttpSettings(plain_http=True, proxy=network.url, trusted_hosts={"auth:5001"})

        with closing(HttpCatalog("registry:5000", settings, authenticator=authenticator_for(PASSWORD))) as catalog:
            assert list(catalog.repository("org/app").manifests.tags()) == ["v1"]

    @pytest.mark.parametrize("is_trusted", [True, False])
    def test_the_container_has_the_setting(self, networks: list[Network], is_trusted: bool) -> None:
        network = start(networks, "registry:5000", realm="http://auth:5001/token")
        section = {"registry": "registry:5000", "plain_http": True, **settings_for(network, ["auth"][:is_trusted])}
        container = configured({"backend": "http", "http": section})
        client = container.client().with_segment("org", "app")

        if is_trusted:
            assert client.list_tags() == ["v1"]
        else:
            with pytest.raises(ProtocolError, match="trusted_hosts"):
                client.list_tags()
        close(container)

    @pytest.mark.parametrize("is_trusted", [True, False])
    def test_a_mirror_file_has_the_setting(self, networks: list[Network], tmp_path: Path, is_trusted: bool) -> None:
        network = start(networks, "registry:5000", realm="http://auth:5001/token", store="http://registry:9000")
        trusted = 'trusted_hosts = ["http://auth:5001"]' if is_trusted else ""
        path = tmp_path / "mirror.toml"
        path.write_text(
            f"""
[backends."http://registry:5000"]
proxy = "{network.url}"
retries = 0
{trusted}

[[mirror]]
source = "http://registry:5000"
target = "memory:"
repositories = ["org/app"]
"""
        )

        with open_mirror(path, auth=StaticKeychain({"registry:5000": PASSWORD})) as mirror:
            if is_trusted:
                mirror.plan()
            else:
                with pytest.raises(ProtocolError, match="trusted_hosts"):
                    mirror.plan()

        assert network.hosts() == (["registry:5000", "auth:5001"] if is_trusted else ["registry:5000"])

    def test_a_malformed_entry_of_a_mirror_file_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "mirror.toml"
        path.write_text(
            '[backends."registry:5000"]\ntrusted_hosts = "auth:5001"\n'
            '[[mirror]]\nsource = "registry:5000"\ntarget = "memory:"\n'
        )

        with pytest.raises(ConfigError, match=r"registry:5000: trusted_hosts must be a list"):
            open_mirror(path)


STORES = [
    ("harbor.corp.lan", "http://minio.corp.lan:9000", None),
    ("harbor.corp.lan", "http://harbor.corp.lan:9000", None),
    ("harbor.corp.lan", "http://min_io.corp.lan.:9000", None),
    ("192.168.1.5:5000", "http://192.168.1.5:9000", None),
    ("harbor.corp.lan", "http://10.0.0.6:9000", ["http://10.0.0.6:9000"]),
    ("harbor:5000", "http://10.43.7.12:9000", ["10.43.7.12"]),
    ("harbor:5000", "http://minio:9000", ["minio:9000"]),
]


class TestObjectStores:
    def test_an_upload_that_needs_credentials_at_another_port_is_refused_with_the_reason(
        self, networks: list[Network]
    ) -> None:
        """R-030: a registry behind a proxy names its inner port."""
        network = start(networks, "gitlab.lan:5050", realm="http://gitlab.lan/jwt/auth", store="http://gitlab.lan:5000")
        network.store_needs_credentials = True

        with closing(open_catalog("http://gitlab.lan:5050", auth=PASSWORD, **settings_for(network, None))) as catalog:
            with pytest.raises(
                Unauthorized, match=r"no credentials are sent to http://gitlab\.lan:5000, another origin"
            ):
                catalog.repository("org/app").blobs.put(DIGEST, len(CONTENT), BytesSource(CONTENT))

        assert {each.authorization for each in network.seen if each.netloc == "gitlab.lan:5000"} == {""}

    @pytest.mark.parametrize(("registry", "store", "trusted"), STORES)
    def test_downloads_and_uploads_go_there_without_credentials(
        self, networks: list[Network], registry: str, store: str, trusted: list[str] | None
    ) -> None:
        """R-030, R-046."""
        network = start(networks, registry, realm=f"http://{registry}/token", store=store)

        with closing(open_catalog(f"http://{registry}", auth=PASSWORD, **settings_for(network, trusted))) as catalog:
            blobs = catalog.repository("org/app").blobs
            with blobs.open(DIGEST) as reader:
                assert reader.read() == CONTENT
            blobs.put(DIGEST, len(CONTENT), BytesSource(CONTENT))

        assert network.stored == CONTENT
        assert {each.authorization for each in network.seen if each.netloc != registry} == {""}

    @pytest.mark.parametrize(
        ("registry", "store"),
        [
            ("harbor.corp.lan", "http://minio.other.lan:9000"),
            ("harbor:5000", "http://minio:9000"),
            ("192.168.1.5:5000", "http://192.168.1.6:9000"),
            ("registry.example.com", "http://cdn.example.com"),
        ],
    )
    def test_uploads_to_another_host_are_refused(self, networks: list[Network], registry: str, store: str) -> None:
        network = start(networks, registry, store=store)

        with closing(open_catalog(f"http://{registry}", **settings_for(network, None))) as catalog:
            with pytest.raises(ProtocolError, match=r"upload location .* trusted_hosts"):
                catalog.repository("org/app").blobs.put(DIGEST, len(CONTENT), BytesSource(CONTENT))

        assert network.hosts() == [registry]
        assert network.stored == b""

    @pytest.mark.parametrize(
        ("registry", "store"),
        [("harbor.corp.lan", "http://10.0.0.6:9000"), ("harbor:5000", "http://10.43.7.12:9000")],
    )
    def test_downloads_from_an_untrusted_address_are_refused(
        self, networks: list[Network], registry: str, store: str
    ) -> None:
        """R-046."""
        network = start(networks, registry, store=store)

        with closing(open_catalog(f"http://{registry}", **settings_for(network, None))) as catalog:
            with pytest.raises(ProtocolError, match=r"redirect .* internal address \(private\).* trusted_hosts"):
                catalog.repository("org/app").blobs.open(DIGEST)

        assert network.hosts() == [registry]
