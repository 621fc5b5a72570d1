"""Trusted authorities and client certificates, against real TLS servers (R-030, R-041)."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.tls import SSLContexts, ssl_context
from registry_adapters.http.transport.urllib3_transport import Urllib3Transport
from registry_core.domain.origin import Origin
from registry_core.errors import ConfigError, TLSError

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import ScriptedServer, ServerConnection

    StartServer = Callable[[Callable[[ServerConnection], None]], ScriptedServer]
    ResponseBytes = Callable[..., bytes]

REGISTRY = Origin.of("registry.example.com")


class TlsServer:
    """A TLS server that records for each request whether it received a client certificate."""

    def __init__(
        self,
        start_server: StartServer,
        response_bytes: ResponseBytes,
        authority: trustme.CA,
        clients: trustme.CA | None = None,
    ) -> None:
        self.client_certificates: list[bool] = []
        self._response = response_bytes(200, b"hello")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(self._context)
        if clients is not None:
            clients.configure_trust(self._context)
            self._context.verify_mode = ssl.CERT_OPTIONAL
        self.port = start_server(self._script).origin.port

    def _script(self, connection: ServerConnection) -> None:
        with self._context.wrap_socket(connection.sock.dup(), server_side=True) as sock:
            while b"\r\n\r\n" in sock.recv(65536):
                self.client_certificates.append(sock.getpeercert() is not None)
                sock.sendall(self._response)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def other_authority() -> trustme.CA:
    """A second authority."""
    return trustme.CA()


def write_pem(path: Path, *blobs: trustme.Blob) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(blob.bytes() for blob in blobs))
    return str(path)


def write_client_certificate(directory: Path, authority: trustme.CA, *, stem: str = "me") -> tuple[str, str]:
    """Write a certificate and its key to files that are named as in ``certs_dir``."""
    leaf = authority.issue_cert("me@example.com")
    return (
        write_pem(directory / f"{stem}.cert", *leaf.cert_chain_pems),
        write_pem(directory / f"{stem}.key", leaf.private_key_pem),
    )


@contextmanager
def open_transport(registry: Origin | None = None, **settings: Any) -> Iterator[Urllib3Transport]:
    with closing(Urllib3Transport(HttpSettings(proxy="", **settings), registry)) as transport:
        yield transport


def status(transport: Urllib3Transport, host: str, port: int) -> int:
    with transport.send("GET", f"https://{host}:{port}/", {}, None) as response:
        response.content(100)
        return response.status


class TestAuthorities:
    def test_the_ca_file_is_enough_without_the_authorities_of_the_system(
        self, start_server: StartServer, response_bytes: ResponseBytes, authority: trustme.CA, tmp_path: Path
    ) -> None:
        """R-041."""
        server = TlsServer(start_server, response_bytes, authority)
        ca_file = write_pem(tmp_path / "ca.pem", authority.cert_pem)

        with open_transport(ca_file=ca_file, trust_system=False) as transport:
            assert status(transport, "127.0.0.1", server.port) == 200

    def test_authorities_of_the_system_are_not_trusted_without_trust_system(
        self, start_server: StartServer, response_bytes: ResponseBytes, authority: trustme.CA,
        other_authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """R-041."""
        server = TlsServer(start_server, response_bytes, authority)
        monkeypatch.setenv("SSL_CERT_FILE", write_pem(tmp_path / "system.pem", authority.cert_pem))
        ca_file = write_pem(tmp_path / "ca.pem", other_authority.cert_pem)

        with open_transport(ca_file=ca_file) as transport:
            assert status(transport, "127.0.0.1", server.port) == 200
        with open_transport(ca_file=ca_file, trust_system=False) as transport, pytest.raises(TLSError):
            status(transport, "127.0.0.1", server.port)

    @pytest.mark.parametrize("registry", [None, REGISTRY])
    def test_a_configuration_without_any_authority_is_a_config_error(self, registry: Origin | None) -> None:
        with pytest.raises(ConfigError, match="trust_system"):
            Urllib3Transport(HttpSettings(trust_system=False), registry)

    def test_a_certs_dir_without_files_for_the_registry_adds_no_authority(self, tmp_path: Path) -> None:
        (tmp_path / "other.example.com").mkdir()

        with pytest.raises(ConfigError, match="certs_dir"):
            Urllib3Transport(HttpSettings(trust_system=False, certs_dir=str(tmp_path)), REGISTRY)

    def test_without_verification_no_authority_is_needed(
        self, start_server: StartServer, response_bytes: ResponseBytes, authority: trustme.CA
    ) -> None:
        server = TlsServer(start_server, response_bytes, authority)

        with open_transport(REGISTRY, trust_system=False, tls_verify=False) as transport:
            assert status(transport, "127.0.0.1", server.port) == 200

    def test_each_host_has_the_authorities_of_its_directory(
        self,
        start_server: StartServer,
        response_bytes: ResponseBytes,
        authority: trustme.CA,
        other_authority: trustme.CA,
        tmp_path: Path,
    ) -> None:
        """R-030, R-041."""
        one, two = (
            TlsServer(start_server, response_bytes, authority),
            TlsServer(start_server, response_bytes, other_authority),
        )
        write_pem(tmp_path / f"127.0.0.1:{one.port}" / "ca.crt", authority.cert_pem)
        write_pem(tmp_path / f"localhost:{two.port}" / "ca.crt", other_authority.cert_pem)

        with open_transport(certs_dir=str(tmp_path)) as transport:
            assert status(transport, "127.0.0.1", one.port) == 200
            assert status(transport, "localhost", two.port) == 200

    def test_authorities_of_one_host_are_not_trusted_for_another(
        self,
        start_server: StartServer,
        response_bytes: ResponseBytes,
        authority: trustme.CA,
        other_authority: trustme.CA,
        tmp_path: Path,
    ) -> None:
        """R-030, R-041: neither on another port of the same host nor after a connection to the first."""
        one, two = (
            TlsServer(start_server, response_bytes, authority),
            TlsServer(start_server, response_bytes, authority),
        )
        write_pem(tmp_path / f"127.0.0.1:{one.port}" / "ca.crt", authority.cert_pem)
        write_pem(tmp_path / f"127.0.0.1:{two.port}" / "ca.crt", other_authority.cert_pem)

        with open_transport(certs_dir=str(tmp_path)) as transport:
            assert status(transport, "127.0.0.1", one.port) == 200
            for host, port in [("127.0.0.1", two.port), ("localhost", one.port)]:
                with pytest.raises(TLSError):
                    status(transport, host, port)

    @pytest.mark.parametrize("content", [b"", b"no PEM"])
    def test_the_error_names_a_ca_file_without_certificates(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "registry.example.com" / "ca.crt"
        path.parent.mkdir()
        path.write_bytes(content)

        with pytest.raises(ConfigError, match=r"ca\.crt"):
            Urllib3Transport(HttpSettings(certs_dir=str(tmp_path)), REGISTRY)


class TestClientCertificates:
    def test_the_client_certificate_is_sent_to_the_registry_only(
        self, start_server: StartServer, response_bytes: ResponseBytes, authority: trustme.CA, tmp_path: Path
    ) -> None:
        """R-030: not to a CDN or a token server on another port or host."""
        registry, other = (TlsServer(start_server, response_bytes, authority, clients=authority) for _ in range(2))
        ca_file = write_pem(tmp_path / "ca.pem", authority.cert_pem)
        pair = write_client_certificate(tmp_path, authority)
        origin = Origin.of(f"127.0.0.1:{registry.port}")

        with open_transport(origin, ca_file=ca_file, client_cert=pair) as transport:
            status(transport, "127.0.0.1", registry.port)
            status(transport, "127.0.0.1", other.port)
            status(transport, "localhost", registry.port)

        assert registry.client_certificates == [True, False]
        assert other.client_certificates == [False]

    def test_a_client_certificate_of_a_host_directory_is_sent_to_that_host_only(
        self, start_server: StartServer, response_bytes: ResponseBytes, authority: trustme.CA, tmp_path: Path
    ) -> None:
        """R-030."""
        registry, tokens = (TlsServer(start_server, response_bytes, authority, clients=authority) for _ in range(2))
        ca_file = write_pem(tmp_path / "ca.pem", authority.cert_pem)
        write_client_certificate(tmp_path / "certs" / f"127.0.0.1:{tokens.port}", authority)

        with open_transport(
            Origin.of(f"127.0.0.1:{registry.port}"), ca_file=ca_file, certs_dir=str(tmp_path / "certs")
        ) as transport:
            status(transport, "127.0.0.1", registry.port)
            status(transport, "127.0.0.1", tokens.port)

        assert (registry.client_certificates, tokens.client_certificates) == ([False], [True])

    def test_the_setting_client_cert_precedes_the_files_in_certs_dir(
        self,
        start_server: StartServer,
        response_bytes: ResponseBytes,
        authority: trustme.CA,
        other_authority: trustme.CA,
        tmp_path: Path,
    ) -> None:
        """The server trusts only the certificate of the setting."""
        server = TlsServer(start_server, response_bytes, authority, clients=authority)
        write_client_certificate(tmp_path / "certs" / f"127.0.0.1:{server.port}", other_authority)
        settings = {
            "ca_file": write_pem(tmp_path / "ca.pem", authority.cert_pem),
            "client_cert": write_client_certificate(tmp_path, authority),
            "certs_dir": str(tmp_path / "certs"),
        }

        with open_transport(Origin.of(f"127.0.0.1:{server.port}"), **settings) as transport:
            status(transport, "127.0.0.1", server.port)

        assert server.client_certificates == [True]

    def test_a_client_certificate_without_a_registry_is_a_config_error(
        self, tmp_path: Path, authority: trustme.CA
    ) -> None:
        """R-030."""
        with pytest.raises(ConfigError, match="client_cert"):
            Urllib3Transport(HttpSettings(client_cert=write_client_certificate(tmp_path, authority)))

    def test_an_encrypted_key_is_a_config_error(self, tmp_path: Path) -> None:
        """OpenSSL must not prompt for the password on the terminal."""
        (tmp_path / "me.pem").write_text(
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n"
            "-----END RSA PRIVATE KEY-----\n"
        )

        with pytest.raises(ConfigError, match="client_cert"):
            ssl_context(HttpSettings(client_cert=str(tmp_path / "me.pem")))


class TestContexts:
    def test_hosts_without_files_share_one_context(self) -> None:
        contexts = SSLContexts(HttpSettings(), REGISTRY)

        assert contexts.of(Origin.of("cdn.example.net")) is contexts.of(Origin.of("auth.example.net"))

    def test_files_are_read_once(self, tmp_path: Path, authority: trustme.CA) -> None:
        path = write_pem(tmp_path / "registry.example.com" / "ca.crt", authority.cert_pem)
        contexts = SSLContexts(HttpSettings(certs_dir=str(tmp_path)), REGISTRY)
        Path(path).unlink()

        first, again = contexts.of(REGISTRY), contexts.of(REGISTRY)

        assert first is again
        assert any("trustme" in str(known["subject"]) for known in first.get_ca_certs())

    @pytest.mark.parametrize(("text", "version"), [("1.2", ssl.TLSVersion.TLSv1_2), ("1.3", ssl.TLSVersion.TLSv1_3)])
    def test_tls_minimum_sets_the_minimum_version(self, text: str, version: ssl.TLSVersion) -> None:
        """R-041."""
        assert ssl_context(HttpSettings(tls_minimum=text)).minimum_version == version

    def test_strict_x509_verification_is_off_in_every_python_version(self) -> None:
        """Since Python 3.13, default contexts refuse certificates that many private authorities issue."""
        assert not ssl_context(HttpSettings()).verify_flags & ssl.VERIFY_X509_STRICT
