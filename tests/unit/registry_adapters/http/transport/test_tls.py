"""Whom a transport trusts, and to whom it says who it is, against real TLS servers (R-030, R-041)."""

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


class Server:
    """A TLS server that notes which certificates it was shown."""

    def __init__(
        self,
        start_server: StartServer,
        response_bytes: ResponseBytes,
        authority: trustme.CA,
        clients: trustme.CA | None = None,
    ) -> None:
        self.shown: list[bool] = []
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
                self.shown.append(sock.getpeercert() is not None)
                sock.sendall(self._response)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def others() -> trustme.CA:
    """Another authority."""
    return trustme.CA()


def written(path: Path, *blobs: trustme.Blob) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(blob.bytes() for blob in blobs))
    return str(path)


def identified(place: Path, authority: trustme.CA, *, stem: str = "me") -> tuple[str, str]:
    """A certificate and its key, in files as ``certs_dir`` has them."""
    leaf = authority.issue_cert("me@example.com")
    return (
        written(place / f"{stem}.cert", *leaf.cert_chain_pems),
        written(place / f"{stem}.key", leaf.private_key_pem),
    )


@contextmanager
def transport(home: Origin | None = None, **settings: Any) -> Iterator[Urllib3Transport]:
    with closing(Urllib3Transport(HttpSettings(proxy="", **settings), home)) as opened:
        yield opened


def status(opened: Urllib3Transport, host: str, port: int) -> int:
    with opened.send("GET", f"https://{host}:{port}/", {}, None) as response:
        response.content(100)
        return response.status


class TestAuthorities:
    def test_those_of_the_caller_may_stand_alone(
        self, start_server: StartServer, response_bytes: ResponseBytes, authority: trustme.CA, tmp_path: Path
    ) -> None:
        """R-041."""
        server = Server(start_server, response_bytes, authority)
        ca_file = written(tmp_path / "ca.pem", authority.cert_pem)

        with transport(ca_file=ca_file, trust_system=False) as opened:
            assert status(opened, "127.0.0.1", server.port) == 200

    def test_the_systems_are_left_out_where_they_are_not_trusted(
        self, start_server: StartServer, response_bytes: ResponseBytes, authority: trustme.CA, others: trustme.CA,
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """R-041."""
        server = Server(start_server, response_bytes, authority)
        monkeypatch.setenv("SSL_CERT_FILE", written(tmp_path / "system.pem", authority.cert_pem))
        ca_file = written(tmp_path / "ca.pem", others.cert_pem)

        with transport(ca_file=ca_file) as opened:
            assert status(opened, "127.0.0.1", server.port) == 200
        with transport(ca_file=ca_file, trust_system=False) as opened, pytest.raises(TLSError):
            status(opened, "127.0.0.1", server.port)

    @pytest.mark.parametrize("home", [None, REGISTRY])
    def test_trusting_nobody_is_a_config_error(self, home: Origin | None) -> None:
        with pytest.raises(ConfigError, match="trust_system"):
            Urllib3Transport(HttpSettings(trust_system=False), home)

    def test_a_directory_that_says_nothing_of_the_registry_is_nobody(self, tmp_path: Path) -> None:
        (tmp_path / "other.example.com").mkdir()

        with pytest.raises(ConfigError, match="certs_dir"):
            Urllib3Transport(HttpSettings(trust_system=False, certs_dir=str(tmp_path)), REGISTRY)

    def test_where_nobody_checks_nobody_needs_to_be_trusted(
        self, start_server: StartServer, response_bytes: ResponseBytes, authority: trustme.CA
    ) -> None:
        server = Server(start_server, response_bytes, authority)

        with transport(REGISTRY, trust_system=False, tls_verify=False) as opened:
            assert status(opened, "127.0.0.1", server.port) == 200

    def test_each_host_has_its_own(
        self,
        start_server: StartServer,
        response_bytes: ResponseBytes,
        authority: trustme.CA,
        others: trustme.CA,
        tmp_path: Path,
    ) -> None:
        """R-030, R-041."""
        one, two = Server(start_server, response_bytes, authority), Server(start_server, response_bytes, others)
        written(tmp_path / f"127.0.0.1:{one.port}" / "ca.crt", authority.cert_pem)
        written(tmp_path / f"localhost:{two.port}" / "ca.crt", others.cert_pem)

        with transport(certs_dir=str(tmp_path)) as opened:
            assert status(opened, "127.0.0.1", one.port) == 200
            assert status(opened, "localhost", two.port) == 200

    def test_one_hosts_authority_vouches_for_no_other(
        self,
        start_server: StartServer,
        response_bytes: ResponseBytes,
        authority: trustme.CA,
        others: trustme.CA,
        tmp_path: Path,
    ) -> None:
        """R-030, R-041: not on another port of the same host, either, nor after a connection to the first."""
        one, two = Server(start_server, response_bytes, authority), Server(start_server, response_bytes, authority)
        written(tmp_path / f"127.0.0.1:{one.port}" / "ca.crt", authority.cert_pem)
        written(tmp_path / f"127.0.0.1:{two.port}" / "ca.crt", others.cert_pem)

        with transport(certs_dir=str(tmp_path)) as opened:
            assert status(opened, "127.0.0.1", one.port) == 200
            for host, port in [("127.0.0.1", two.port), ("localhost", one.port)]:
                with pytest.raises(TLSError):
                    status(opened, host, port)

    @pytest.mark.parametrize("content", [b"", b"no PEM"])
    def test_a_file_that_is_none_is_named(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "registry.example.com" / "ca.crt"
        path.parent.mkdir()
        path.write_bytes(content)

        with pytest.raises(ConfigError, match=r"ca\.crt"):
            Urllib3Transport(HttpSettings(certs_dir=str(tmp_path)), REGISTRY)


class TestIdentity:
    def test_the_client_certificate_is_shown_to_the_registry_alone(
        self, start_server: StartServer, response_bytes: ResponseBytes, authority: trustme.CA, tmp_path: Path
    ) -> None:
        """R-030: not to a CDN or a token server, on whatever other port or host."""
        registry, other = (Server(start_server, response_bytes, authority, clients=authority) for _ in range(2))
        ca_file = written(tmp_path / "ca.pem", authority.cert_pem)
        pair = identified(tmp_path, authority)
        home = Origin.of(f"127.0.0.1:{registry.port}")

        with transport(home, ca_file=ca_file, client_cert=pair) as opened:
            status(opened, "127.0.0.1", registry.port)
            status(opened, "127.0.0.1", other.port)
            status(opened, "localhost", registry.port)

        assert registry.shown == [True, False]
        assert other.shown == [False]

    def test_a_hosts_own_certificate_is_shown_to_it_alone(
        self, start_server: StartServer, response_bytes: ResponseBytes, authority: trustme.CA, tmp_path: Path
    ) -> None:
        """R-030."""
        registry, tokens = (Server(start_server, response_bytes, authority, clients=authority) for _ in range(2))
        ca_file = written(tmp_path / "ca.pem", authority.cert_pem)
        identified(tmp_path / "certs" / f"127.0.0.1:{tokens.port}", authority)

        with transport(
            Origin.of(f"127.0.0.1:{registry.port}"), ca_file=ca_file, certs_dir=str(tmp_path / "certs")
        ) as opened:
            status(opened, "127.0.0.1", registry.port)
            status(opened, "127.0.0.1", tokens.port)

        assert (registry.shown, tokens.shown) == ([False], [True])

    def test_what_the_caller_says_counts_more_than_what_lies_in_a_directory(
        self,
        start_server: StartServer,
        response_bytes: ResponseBytes,
        authority: trustme.CA,
        others: trustme.CA,
        tmp_path: Path,
    ) -> None:
        """The server accepts the certificate of the setting only."""
        server = Server(start_server, response_bytes, authority, clients=authority)
        identified(tmp_path / "certs" / f"127.0.0.1:{server.port}", others)
        settings = {
            "ca_file": written(tmp_path / "ca.pem", authority.cert_pem),
            "client_cert": identified(tmp_path, authority),
            "certs_dir": str(tmp_path / "certs"),
        }

        with transport(Origin.of(f"127.0.0.1:{server.port}"), **settings) as opened:
            status(opened, "127.0.0.1", server.port)

        assert server.shown == [True]

    def test_without_a_registry_there_is_nobody_to_show_it_to(self, tmp_path: Path, authority: trustme.CA) -> None:
        """R-030."""
        with pytest.raises(ConfigError, match="client_cert"):
            Urllib3Transport(HttpSettings(client_cert=identified(tmp_path, authority)))

    def test_a_key_that_needs_a_password_is_a_config_error(self, tmp_path: Path) -> None:
        """Nobody is asked on the terminal."""
        (tmp_path / "me.pem").write_text(
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n"
            "-----END RSA PRIVATE KEY-----\n"
        )

        with pytest.raises(ConfigError, match="client_cert"):
            ssl_context(HttpSettings(client_cert=str(tmp_path / "me.pem")))


class TestContexts:
    def test_one_context_serves_all_hosts_without_files_of_their_own(self) -> None:
        contexts = SSLContexts(HttpSettings(), REGISTRY)

        assert contexts.of(Origin.of("cdn.example.net")) is contexts.of(Origin.of("auth.example.net"))

    def test_files_are_read_once(self, tmp_path: Path, authority: trustme.CA) -> None:
        path = written(tmp_path / "registry.example.com" / "ca.crt", authority.cert_pem)
        contexts = SSLContexts(HttpSettings(certs_dir=str(tmp_path)), REGISTRY)
        Path(path).unlink()

        first, again = contexts.of(REGISTRY), contexts.of(REGISTRY)

        assert first is again
        assert any("trustme" in str(known["subject"]) for known in first.get_ca_certs())

    @pytest.mark.parametrize(("text", "version"), [("1.2", ssl.TLSVersion.TLSv1_2), ("1.3", ssl.TLSVersion.TLSv1_3)])
    def test_the_oldest_version_is_the_callers_choice(self, text: str, version: ssl.TLSVersion) -> None:
        """R-041."""
        assert ssl_context(HttpSettings(tls_minimum=text)).minimum_version == version

    def test_strictness_is_the_same_with_every_python(self) -> None:
        """Python 3.13 made its own contexts refuse what many private authorities issue."""
        assert not ssl_context(HttpSettings()).verify_flags & ssl.VERIFY_X509_STRICT
