"""Registries over TLS: private authorities, client certificates, and disabled verification."""

from __future__ import annotations

import shutil
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
import trustme

from registry_adapters import MemoryCatalog, open_client
from registry_adapters.wsgi import BasicAuthorizer, RegistryApp, TokenAuthorizer, registry_server
from registry_core import Basic, ConfigError, Image, ImageBuilder, RegistryClient, TLSError, TransportError


class Identity:
    """A certificate and its private key, as files."""

    def __init__(self, directory: Path, leaf: trustme.LeafCert) -> None:
        self.both = str(directory / "both.pem")
        self.certificate = str(directory / "certificate.pem")
        self.key = str(directory / "key.pem")
        directory.mkdir()
        leaf.private_key_and_cert_chain_pem.write_to_path(self.both)
        leaf.cert_chain_pems[0].write_to_path(self.certificate)
        leaf.private_key_pem.write_to_path(self.key)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
def server_identity(authority: trustme.CA, tmp_path: Path) -> Identity:
    return Identity(tmp_path / "server", authority.issue_cert("127.0.0.1"))


@pytest.fixture
def client_identity(authority: trustme.CA, tmp_path: Path) -> Identity:
    return Identity(tmp_path / "client", authority.issue_cert("client.example.com"))


def _image() -> Image:
    return ImageBuilder(platform="linux/amd64").add_files({"a": bytes(3 << 20)}).build()


@pytest.mark.parametrize(
    "guard", [None, BasicAuthorizer({"user": "secret"}), TokenAuthorizer({"user": "secret"})], ids=repr
)
def test_an_image_is_pushed_and_pulled_with_a_private_authority(
    guard: BasicAuthorizer | TokenAuthorizer | None, server_identity: Identity, ca_file: str
) -> None:
    """R-041."""
    auth = Basic("user", "secret") if guard else None
    tls = (server_identity.certificate, server_identity.key)
    with registry_server(MemoryCatalog(), tls=tls, authorizer=guard) as server:
        with open_client(server.url, ca_file=ca_file, auth=auth) as client:
            app = client.with_segment("app")

            pushed = app.push_image("v1", _image())
            with app.get_image("v1", platform="linux/amd64").layers()[0].open_uncompressed() as reader:
                content = reader.read()

    assert server.url.startswith("https://")
    assert pushed.digest == _image().digest
    assert len(content) > 3 << 20


@pytest.mark.parametrize("operation", ["list_tags", "iter_tags"])
def test_an_unknown_authority_is_a_tls_error_that_names_the_operation(
    operation: str, server_identity: Identity
) -> None:
    """R-041."""
    with registry_server(MemoryCatalog(), tls=(server_identity.certificate, server_identity.key)) as server:
        with open_client(server.url) as client, pytest.raises(TLSError) as caught:
            list(getattr(client.with_segment("app"), operation)())

    assert caught.value.operation == operation
    assert "app" in caught.value.reference
    assert caught.value.status == 0


def test_a_host_name_that_differs_from_the_certificate_is_a_tls_error(
    authority: trustme.CA, ca_file: str, tmp_path: Path
) -> None:
    """R-041."""
    other = Identity(tmp_path / "other", authority.issue_cert("registry.example.com"))
    with registry_server(MemoryCatalog(), tls=(other.certificate, other.key)) as server:
        with open_client(server.url, ca_file=ca_file) as client, pytest.raises(TLSError):
            client.with_segment("app").list_tags()


def test_an_unknown_authority_is_accepted_without_verification(server_identity: Identity) -> None:
    with registry_server(MemoryCatalog(), tls=(server_identity.certificate, server_identity.key)) as server:
        with open_client(server.url, tls_verify=False) as client:
            client.with_segment("app").push_image("v1", _image())

            repositories = client.list_repositories()

    assert repositories == ["app"]


def test_a_server_that_speaks_tls_tells_a_client_that_speaks_plain_http(server_identity: Identity) -> None:
    """R-064."""
    with registry_server(MemoryCatalog(), tls=(server_identity.certificate, server_identity.key)) as server:
        url = server.url.replace("https://", "http://")
        for _ in range(3):
            with open_client(url, retries=0) as client, pytest.raises(TLSError, match="the server speaks TLS, but"):
                client.with_segment("app").push_image("v1", _image())
        with open_client(server.url, tls_verify=False) as client:
            assert client.list_repositories() == []


def test_a_server_that_speaks_plain_http_is_named_to_a_client_that_speaks_tls() -> None:
    """R-064."""
    with registry_server(MemoryCatalog()) as server:
        url = server.url.replace("http://", "https://")
        for _ in range(3):
            with open_client(url, retries=0) as client, pytest.raises(TLSError, match="the server does not speak TLS"):
                client.with_segment("app").list_tags()


def test_a_missing_authority_file_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="ca_file"):
        open_client("registry.example.com", ca_file="/nowhere/ca.pem").with_segment("app").list_tags()


class _Handler(WSGIRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Write no log."""


class _Server(WSGIServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore failed handshakes; the client reports them."""


@contextmanager
def _with_client_certificates(catalog: MemoryCatalog, server: Identity, ca_file: str) -> Iterator[str]:
    """A registry that requires client certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.both)
    context.load_verify_locations(ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    app = RegistryApp(catalog)
    with make_server("127.0.0.1", 0, app, server_class=_Server, handler_class=_Handler) as listener:
        listener.socket = context.wrap_socket(listener.socket, server_side=True)
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.server_port}"
        finally:
            listener.shutdown()
            thread.join(5)
            app.close()


@pytest.mark.parametrize("files", ["one", "two"])
def test_a_client_presents_its_certificate(
    files: str, server_identity: Identity, client_identity: Identity, ca_file: str
) -> None:
    catalog = MemoryCatalog()
    RegistryClient(catalog, "app").push_image("v1", _image())
    shown = client_identity.both if files == "one" else (client_identity.certificate, client_identity.key)
    with _with_client_certificates(catalog, server_identity, ca_file) as url:
        with open_client(url, ca_file=ca_file, client_cert=shown) as client:
            tags = client.with_segment("app").list_tags()

    assert tags == ["v1"]


def test_a_client_without_a_certificate_is_refused(server_identity: Identity, ca_file: str) -> None:
    with _with_client_certificates(MemoryCatalog(), server_identity, ca_file) as url:
        with open_client(url, ca_file=ca_file, retries=0) as client, pytest.raises(TransportError) as caught:
            client.with_segment("app").list_tags()

    assert caught.value.status == 0


def test_a_given_authority_may_replace_those_of_the_system(server_identity: Identity, ca_file: str) -> None:
    """R-041."""
    with registry_server(MemoryCatalog(), tls=(server_identity.certificate, server_identity.key)) as server:
        with open_client(server.url, ca_file=ca_file, trust_system=False) as client:
            pushed = client.with_segment("app").push_image("v1", _image())

    assert pushed.digest == _image().digest


def test_a_client_without_any_authority_is_refused() -> None:
    """R-041."""
    with pytest.raises(ConfigError, match="trust_system"):
        open_client("registry.example.com", trust_system=False)


def test_one_directory_holds_the_authorities_of_two_registries(authority: trustme.CA, tmp_path: Path) -> None:
    """R-041: each authority is trusted for its registry only."""
    authorities = {"127.0.0.1": authority, "localhost": trustme.CA()}
    certs = tmp_path / "certs.d"
    with ExitStack() as stack:
        urls = {}
        for host, issuer in authorities.items():
            identity = Identity(tmp_path / host, issuer.issue_cert(host))
            server = stack.enter_context(registry_server(MemoryCatalog(), tls=(identity.certificate, identity.key)))
            port = server.url.rpartition(":")[2]
            urls[host] = f"https://{host}:{port}"
            (certs / f"{host}:{port}").mkdir(parents=True)
            issuer.cert_pem.write_to_path(str(certs / f"{host}:{port}" / "ca.crt"))
        for url in urls.values():
            with open_client(url, certs_dir=certs, trust_system=False) as client:
                client.with_segment("app").push_image("v1", _image())
                assert client.with_segment("app").list_tags() == ["v1"]

        other = urls["localhost"].replace("localhost", "127.0.0.1")
        with open_client(other, certs_dir=certs) as client, pytest.raises(TLSError):
            client.with_segment("app").list_tags()


def test_a_client_certificate_is_read_from_the_directory_of_the_registry(
    authority: trustme.CA, server_identity: Identity, client_identity: Identity, ca_file: str, tmp_path: Path
) -> None:
    catalog = MemoryCatalog()
    RegistryClient(catalog, "app").push_image("v1", _image())
    with _with_client_certificates(catalog, server_identity, ca_file) as url:
        directory = tmp_path / "certs.d" / url.removeprefix("https://")
        directory.mkdir(parents=True)
        authority.cert_pem.write_to_path(str(directory / "ca.crt"))
        shutil.copy(client_identity.certificate, directory / "me.cert")
        shutil.copy(client_identity.key, directory / "me.key")
        with open_client(url, certs_dir=directory.parent, trust_system=False) as client:
            tags = client.with_segment("app").list_tags()

    assert tags == ["v1"]


def test_a_token_server_of_another_origin_gets_no_client_certificate(
    server_identity: Identity, client_identity: Identity, ca_file: str
) -> None:
    """R-030: the certificate is a credential for the registry's origin; the token server has another port."""
    catalog = MemoryCatalog()
    tls = (server_identity.certificate, server_identity.key)
    with _with_client_certificates(catalog, server_identity, ca_file) as tokens:
        guard = TokenAuthorizer({"user": "secret"}, realm=f"{tokens}/token")
        with registry_server(catalog, tls=tls, authorizer=guard) as server:
            with open_client(
                server.url, ca_file=ca_file, client_cert=client_identity.both, auth=Basic("user", "secret"), retries=0
            ) as client:
                with pytest.raises(TransportError) as caught:
                    client.with_segment("app").list_tags()

    # The handshake failed: a response would have a status.
    assert caught.value.status == 0
