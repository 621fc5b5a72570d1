"""What is said when there is no trustworthy connection: what is wrong, and what to do (R-041)."""

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
    """A server's, with a proper certificate for this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def secured(context: ssl.SSLContext) -> Callable[[ServerConnection], None]:
    """A script that shakes hands and says nothing."""

    def script(connection: ServerConnection) -> None:
        # What the client sent before it read our alert is read as well: a reset would swallow the alert.
        with contextlib.suppress(ssl.SSLError), context.wrap_socket(connection.sock.dup(), server_side=True) as sock:
            while sock.recv(65536):
                continue
        connection.wait()

    return script


def failure(server: ScriptedServer, *, scheme: str = "https", kind: type[Exception] = TLSError, **settings: Any) -> str:
    """What a request says that fails."""
    origin = Origin(scheme, "127.0.0.1", server.origin.port)
    with closing(Urllib3Transport(HttpSettings(proxy="", **settings), origin)) as transport:
        with pytest.raises(kind) as caught:
            transport.send("GET", f"{origin}/v2/", {}, None)
    assert f"127.0.0.1:{server.origin.port}" in str(caught.value)
    return str(caught.value)


def shown(tmp_path: Path, leaf: trustme.LeafCert) -> str:
    path = tmp_path / "me.pem"
    leaf.private_key_and_cert_chain_pem.write_to_path(str(path))
    return str(path)


class TestServerCertificates:
    def test_an_unknown_authority(self, start_server: StartServer, context: ssl.SSLContext) -> None:
        said = failure(start_server(secured(context)))

        assert "certificate signed by unknown authority" in said
        assert "ca_file or certs_dir" in said

    def test_a_certificate_that_vouches_for_itself(self, start_server: StartServer, tmp_path: Path) -> None:
        alone = trustme.CA()
        alone.cert_pem.write_to_path(str(tmp_path / "self.pem"))
        alone.private_key_pem.write_to_path(str(tmp_path / "self.key"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "self.pem", tmp_path / "self.key")

        said = failure(start_server(secured(context)))

        assert "certificate is self-signed: if it is the right one, add it with ca_file or certs_dir" in said

    @pytest.mark.parametrize(
        ("since", "until", "words"),
        [(-20, -10, "certificate has expired: renew it"), (10, 20, "certificate is not valid yet: check the clocks")],
    )
    def test_the_wrong_time(
        self, start_server: StartServer, authority: trustme.CA, ca_file: str, since: int, until: int, words: str
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf = authority.issue_cert(
            "127.0.0.1", not_before=NOW + timedelta(days=since), not_after=NOW + timedelta(days=until)
        )
        leaf.configure_cert(context)

        assert words in failure(start_server(secured(context)), ca_file=ca_file)

    @pytest.mark.parametrize("identity", ["registry.example.com", "127.0.0.2"])
    def test_another_name(self, start_server: StartServer, authority: trustme.CA, ca_file: str, identity: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(identity).configure_cert(context)

        assert "certificate is not valid for this host: use a host name in the certificate" in failure(
            start_server(secured(context)), ca_file=ca_file
        )


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
class TestClientCertificates:
    @pytest.fixture
    def demanding(self, version: ssl.TLSVersion, context: ssl.SSLContext, authority: trustme.CA) -> ssl.SSLContext:
        context.minimum_version = context.maximum_version = version
        context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(context)
        return context

    def test_one_is_demanded(self, start_server: StartServer, demanding: ssl.SSLContext, ca_file: str) -> None:
        """With TLS 1.3 the refusal comes when the answer is read."""
        said = failure(start_server(secured(demanding)), ca_file=ca_file)

        assert "require" in said
        assert "client_cert" in said

    def test_its_authority_is_not_known(
        self, start_server: StartServer, demanding: ssl.SSLContext, ca_file: str, tmp_path: Path
    ) -> None:
        other = shown(tmp_path, trustme.CA().issue_cert("me@example.com"))

        said = failure(start_server(secured(demanding)), ca_file=ca_file, client_cert=other)

        assert "the server does not trust the CA of the client certificate" in said

    def test_it_has_expired(
        self, start_server: StartServer, demanding: ssl.SSLContext, ca_file: str, authority: trustme.CA, tmp_path: Path
    ) -> None:
        late = authority.issue_cert(
            "me@example.com", not_before=NOW - timedelta(days=20), not_after=NOW - timedelta(days=10)
        )

        said = failure(start_server(secured(demanding)), ca_file=ca_file, client_cert=shown(tmp_path, late))

        assert "the client certificate has expired" in said


class TestVersions:
    def test_the_server_is_too_old(self, start_server: StartServer, context: ssl.SSLContext, ca_file: str) -> None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2

        said = failure(start_server(secured(context)), ca_file=ca_file, tls_minimum="1.3")

        assert "no TLS version in common with the server: see tls_minimum" in said

    def test_the_server_speaks_plain_http(self, start_server: StartServer) -> None:
        def script(connection: ServerConnection) -> None:
            connection.sock.recv(1)
            connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.wait()

        assert "the server does not speak TLS: for plain http, set plain_http" in failure(start_server(script))

    def test_the_server_hangs_up_in_the_handshake(self, start_server: StartServer) -> None:
        """It may be down, so this is no lasting fault."""

        def script(connection: ServerConnection) -> None:
            connection.sock.recv(65536)

        assert "does the server speak TLS?" in failure(start_server(script), kind=NotConnected)

    def test_the_server_is_silent_in_the_handshake(self, start_server: StartServer) -> None:
        found = failure(start_server(lambda connection: connection.wait()), kind=NotConnected, connect_timeout=0.2)

        assert "the TLS handshake was not finished within 0.2 s" in found

    def test_the_server_speaks_tls_and_was_asked_without(self, start_server: StartServer) -> None:
        def script(connection: ServerConnection) -> None:
            connection.receive()
            connection.send(b"\x15\x03\x01\x00\x02\x02\x46")

        said = failure(start_server(script), scheme="http", plain_http=True)

        assert "the server speaks TLS, but the request was plain http: remove plain_http" in said


def test_a_tls_fault_is_not_tried_again(start_server: StartServer, context: ssl.SSLContext) -> None:
    """R-054."""
    server = start_server(secured(context))
    origin = Origin.of(f"127.0.0.1:{server.origin.port}")

    with closing(Session(origin, HttpSettings(proxy="", retries=3), sleep=lambda seconds: None)) as session:
        with pytest.raises(TLSError):
            session.send(Request(method="GET", target="/v2/", success=(200,), reference="x", missing="repository"))

    assert server.connections == 1
