"""Proxies of the environment: plain HTTP is forwarded, TLS is tunnelled, and the proxy gets no credentials."""

from __future__ import annotations

import http.client
import select
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from registry_adapters import MemoryCatalog, open_client
from registry_adapters.wsgi import BasicAuthorizer, registry_server
from registry_core import Basic, Image, ImageBuilder, RegistryClient, Unavailable

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class Proxy(ThreadingHTTPServer):
    """A proxy that connects every name to one address, and records its requests."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Forwarder)
        self.address = ""
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close the connection."""


class _Forwarder(BaseHTTPRequestHandler):
    server: Proxy

    def log_message(self, *arguments: Any) -> None:
        """Write no log."""

    def _note(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.command, self.path, headers))

    def do_GET(self) -> None:
        self._note()
        connection = http.client.HTTPConnection(self.server.address, timeout=10)
        try:
            path = "/" + self.path.split("/", 3)[3]
            passed = {name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")}
            connection.request(self.command, path, headers=passed)
            answer = connection.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "server", "date"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        finally:
            connection.close()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_CONNECT(self) -> None:
        self._note()
        host, _, port = self.server.address.partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as upstream:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: upstream, upstream: self.connection}
            while True:
                ready, _, _ = select.select(list(ends), [], [], 10)
                for end in ready:
                    data = end.recv(65536)
                    if not data:
                        return
                    ends[end].sendall(data)
                if not ready:
                    return


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Proxy() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join(5)


@pytest.fixture
def catalog() -> MemoryCatalog:
    filled = MemoryCatalog()
    RegistryClient(filled, "app").push_image("v1", _image())
    return filled


def _image() -> Image:
    return ImageBuilder(platform="linux/amd64").add_files({"a": b"1"}).build()


def test_plain_http_uses_the_proxy_of_the_environment(
    proxy: Proxy, catalog: MemoryCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-208: the registry receives no headers of the proxy."""
    monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:pw@"))
    with registry_server(catalog, authorizer=BasicAuthorizer({"user": "secret"})) as server:
        proxy.address = server.host
        with open_client("http://registry.example.com", auth=Basic("user", "secret")) as client:
            digest = client.with_segment("app").get_digest("v1")

    assert digest == _image().digest
    assert {target for _, target, _ in proxy.requests} == {"http://registry.example.com/v2/app/manifests/v1"}
    assert {headers["proxy-authorization"] for _, _, headers in proxy.requests} == {"Basic bWU6cHc="}


def test_tls_is_tunnelled_and_the_proxy_sees_no_credentials(
    proxy: Proxy, catalog: MemoryCatalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """R-208, R-041: certificate and credentials are those of the registry."""
    authority = trustme.CA()
    leaf = authority.issue_cert("registry.example.com")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    guard = BasicAuthorizer({"user": "secret"})
    with registry_server(catalog, authorizer=guard, tls=(tmp_path / "cert.pem", tmp_path / "key.pem")) as server:
        proxy.address = server.host
        auth = Basic("user", "secret")
        with open_client("registry.example.com", auth=auth, ca_file=str(tmp_path / "ca.pem")) as client:
            tags = client.with_segment("app").list_tags()

    assert tags == ["v1"]
    assert {(method, target) for method, target, _ in proxy.requests} == {("CONNECT", "registry.example.com:443")}
    assert all("authorization" not in headers for _, _, headers in proxy.requests)


@pytest.mark.parametrize("how", ["no_proxy", "setting"])
def test_the_proxy_is_bypassed_for_configured_hosts(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    if how == "no_proxy":
        monkeypatch.setenv("no_proxy", "192.0.2.0/24")
    proxies = "" if how == "setting" else None
    with open_client("http://192.0.2.1", retries=0, connect_timeout=0.05, proxy=proxies) as client:
        with pytest.raises(Unavailable):
            client.with_segment("app").list_tags()

    assert proxy.requests == []


def test_loopback_addresses_bypass_the_proxy_of_the_environment(
    proxy: Proxy, catalog: MemoryCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    with registry_server(catalog) as server, open_client(server.url) as client:
        tags = client.with_segment("app").list_tags()

    assert (tags, proxy.requests) == (["v1"], [])
