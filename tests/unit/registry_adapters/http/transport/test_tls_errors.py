"""Error messages of failed TLS connections name the cause and the remedy (R-041)."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from registry_adapters.http.messages import Request
from registry_adapters.http.retry import NotConnected
from registry_adapters.http.session import Session
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.urllib3_transport import Urllib3Transport
from registry_core.domain.origin import Origin
from registry_core.errors import TLSError

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import ScriptedServer, ServerConnection

    StartServer = Callable[[Callable[[ServerConnection], None]], ScriptedServer]

NOW = datetime.now(UTC)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    """A server context with a valid certificate for 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def tls_script(context: ssl.SSLContext) -> Callable[[ServerConnection], None]:
    """Return a script that completes the handshake and sends no response."""

    def script(connection: ServerConnection) -> None:
        # Bytes that the client sent before it read the alert are read, too: otherwise a reset would discard the alert.
        with contextlib.suppress(ssl.SSLError), context.wrap_socket(connection.sock.dup(), server_side=True) as sock:
            while sock.recv(65536):
                continue
        connection.wait()

    return script


def error_message(
    server: ScriptedServer, *, scheme: str = "https", kind: type[Exception] = TLSError, **settings: Any
) -> str:
    """Send a request that fails, and return the error message."""
    origin = Origin(scheme, "127.0.0.1", server.origin.port)
    with closing(Urllib3Transport(HttpSettings(proxy="", **settings), origin)) as transport:
        with pytest.raises(kind) as caught:
            transport.send("GET", f"{origin}/v2/", {}, None)
    assert f"127.0.0.1:{server.origin.port}" in str(caught.value)
    return str(caught.value)


def write_client_certificate(tmp_path: Path, leaf: trustme.LeafCert) -> str:
    path = tmp_path / "me.pem"
    leaf.private_key_and_cert_chain_pem.write_to_path(str(path))
    return str(path)


class TestServerCertificates:
    def test_the_message_names_an_unknown_authority(self, start_server: StartServer, context: ssl.SSLContext) -> None:
        message = error_message(start_server(tls_script(context)))

        assert "certificate signed by unknown authority" in message
        assert "ca_file or certs_dir" in message

    def test_the_message_names_a_self_signed_certificate(self, start_server: StartServer, tmp_path: Path) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(tmp_path / "self.pem"))
        authority.private_key_pem.write_to_path(str(tmp_path / "self.key"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "self.pem", tmp_path / "self.key")

        message = error_message(start_server(tls_script(context)))

        assert "certificate is self-signed: if it is the right one, add it with ca_file or certs_dir" in message

    @pytest.mark.parametrize(
        ("begin_days", "end_days", "expected"),
        [(-20, -10, "certificate has expired: renew it"), (10, 20, "certificate is not valid yet: check the clocks")],
    )
    def test_the_message_names_a_certificate_outside_its_validity(
        self,
        start_server: StartServer,
        authority: trustme.CA,
        ca_file: str,
        begin_days: int,
        end_days: int,
        expected: str,
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf = authority.issue_cert(
            "127.0.0.1", not_before=NOW + timedelta(days=begin_days), not_after=NOW + timedelta(days=end_days)
        )
        leaf.configure_cert(context)

        assert expected in error_message(start_server(tls_script(context)), ca_file=ca_file)

    @pytest.mark.parametrize("identity", ["registry.example.com", "127.0.0.2"])
    def test_the_message_names_a_certificate_for_another_host(
        self, start_server: StartServer, authority: trustme.CA, ca_file: str, identity: str
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(identity).configure_cert(context)

        assert "certificate is not valid for this host: use a host name in the certificate" in error_message(
            start_server(tls_script(context)), ca_file=ca_file
        )


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
class TestClientCertificates:
    @pytest.fixture
    def requiring_context(
        self, version: ssl.TLSVersion, context: ssl.SSLContext, authority: trustme.CA
    ) -> ssl.SSLContext:
        context.minimum_version = context.maximum_version = version
        context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(context)
        return context

    def test_the_message_says_that_a_client_certificate_is_required(
        self, start_server: StartServer, requiring_context: ssl.SSLContext, ca_file: str
    ) -> None:
        """With TLS 1.3, the alert arrives when the response is read."""
        message = error_message(start_server(tls_script(requiring_context)), ca_file=ca_file)

        assert "require" in message
        assert "client_cert" in message

    def test_the_message_says_that_the_client_certificate_is_not_trusted(
        self, start_server: StartServer, requiring_context: ssl.SSLContext, ca_file: str, tmp_path: Path
    ) -> None:
        other = write_client_certificate(tmp_path, trustme.CA().issue_cert("me@example.com"))

        message = error_message(start_server(tls_script(requiring_context)), ca_file=ca_file, client_cert=other)

        assert "the server does not trust the CA of the client certificate" in message

    def test_the_message_says_that_the_client_certificate_has_expired(
        self,
        start_server: StartServer,
        requiring_context: ssl.SSLContext,
        ca_file: str,
        authority: trustme.CA,
        tmp_path: Path,
    ) -> None:
        expired = authority.issue_cert(
            "me@example.com", not_before=NOW - timedelta(days=20), not_after=NOW - timedelta(days=10)
        )

        message = error_message(
            start_server(tls_script(requiring_context)),
            ca_file=ca_file,
            client_cert=write_client_certificate(tmp_path, expired),
        )

        assert "the client certificate has expired" in message


class TestVersions:
    def test_the_message_says_that_no_tls_version_is_common(
        self, start_server: StartServer, context: ssl.SSLContext, ca_file: str
    ) -> None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2

        message = error_message(start_server(tls_script(context)), ca_file=ca_file, tls_minimum="1.3")

        assert "no TLS version in common with the server: see tls_minimum" in message

    def test_the_message_says_that_the_server_speaks_plain_http(self, start_server: StartServer) -> None:
        def script(connection: ServerConnection) -> None:
            connection.sock.recv(1)
            connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.wait()

        assert "the server does not speak TLS: for plain http, set plain_http" in error_message(start_server(script))

    def test_a_connection_closed_during_the_handshake_is_not_connected(self, start_server: StartServer) -> None:
        """The server may be starting, so the error is transient."""

        def script(connection: ServerConnection) -> None:
            connection.sock.recv(65536)

        assert "does the server speak TLS?" in error_message(start_server(script), kind=NotConnected)

    def test_a_handshake_without_reply_ends_at_the_connect_timeout(self, start_server: StartServer) -> None:
        message = error_message(
            start_server(lambda connection: connection.wait()), kind=NotConnected, connect_timeout=0.2
        )

        assert "the TLS handshake was not finished within 0.2 s" in message

    def test_the_message_says_that_the_server_speaks_tls(self, start_server: StartServer) -> None:
        def script(connection: ServerConnection) -> None:
            connection.receive()
            connection.send(b"\x15\x03\x01\x00\x02\x02\x46")

        message = error_message(start_server(script), scheme="http", plain_http=True)

        assert "the server speaks TLS, but the request was plain http: remove plain_http" in message


def test_a_tls_error_is_not_retried(start_server: StartServer, context: ssl.SSLContext) -> None:
    """R-054."""
    server = start_server(tls_script(context))
    origin = Origin.of(f"127.0.0.1:{server.origin.port}")

    with closing(Session(origin, HttpSettings(proxy="", retries=3), sleep=lambda seconds: None)) as session:
        with pytest.raises(TLSError):
            session.send(Request(method="GET", target="/v2/", success=(200,), reference="x", missing="repository"))

    assert server.connections == 1
