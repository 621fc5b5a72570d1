"""Challenges answered over real sockets, with a separate token server."""

from __future__ import annotations

import json
import socket
import threading
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from registry_adapters import open_client
from registry_adapters.auth import ChallengeAuthenticator
from registry_adapters.keychains import StaticKeychain
from registry_core.domain.auth import Basic, IdentityToken, RegistryToken
from registry_core.errors import Forbidden, ProtocolError, Unauthorized, Unavailable

USER = Basic("user", "hunter2")
PASSWORD = f"Basic {b64encode(b'user:hunter2').decode()}"


class Servers:
    """A registry and a token server on two ports, which record their requests."""

    def __init__(self) -> None:
        self.challenge = ""
        self.accepted: set[str] = set()
        self.anonymous = False
        self.broken = 0
        self.ready = threading.Event()
        self.exchanges: list[tuple[str, str]] = []
        self.registry_saw: list[str] = []
        self.lock = threading.Lock()
        self.registry = ThreadingHTTPServer(("127.0.0.1", 0), self._registry())
        self.tokens = ThreadingHTTPServer(("127.0.0.1", 0), self._tokens())
        self.challenge = f'Bearer realm="http://127.0.0.1:{self.tokens.server_port}/token",service="test"'
        self.host = f"127.0.0.1:{self.registry.server_port}"
        self.url = f"http://{self.host}/org/app"

    def _registry(servers) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Registry(Quiet):
            def do_GET(self) -> None:
                sent = self.headers.get("Authorization", "")
                with servers.lock:
                    servers.registry_saw.append(sent)
                    allowed = sent in servers.accepted
                if allowed:
                    self.reply(200, {"name": "org/app", "tags": ["v1"]})
                else:
                    self.reply(401, {"errors": [{"code": "UNAUTHORIZED"}]}, challenge=servers.challenge)

        return Registry

    def _tokens(servers) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Tokens(Quiet):
            def do_GET(self) -> None:
                scope = parse_qs(urlsplit(self.path).query).get("scope", [""])[0]
                self.give(self.headers.get("Authorization", ""), scope)

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self.give(form["refresh_token"][0], form["scope"][0])

            def give(self, identity: str, scope: str) -> None:
                servers.ready.wait(30)
                with servers.lock:
                    servers.exchanges.append((identity, scope))
                    if servers.broken:
                        self.reply(servers.broken, {})
                        return
                    text = f"token-{len(servers.exchanges)}"
                    welcome = identity in (PASSWORD, "identity") or servers.anonymous
                    if welcome:
                        servers.accepted = {f"Bearer {text}"}
                self.reply(200 if welcome else 401, {"token": text} if welcome else {})

        return Tokens

    def close(self) -> None:
        for server in (self.registry, self.tokens):
            server.shutdown()
            server.server_close()


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, status: int, body: object, *, challenge: str = "") -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        if challenge:
            self.send_header("WWW-Authenticate", challenge)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


@pytest.fixture
def servers() -> Iterator[Servers]:
    servers = Servers()
    servers.ready.set()
    threads = [
        threading.Thread(target=server.serve_forever, args=(0.01,)) for server in (servers.registry, servers.tokens)
    ]
    for thread in threads:
        thread.start()
    yield servers
    servers.close()
    for thread in threads:
        thread.join()


def test_a_password_is_sent_to_the_token_server_only(servers: Servers) -> None:
    with open_client(servers.url, auth=USER) as client:
        assert client.list_tags() == ["v1"]

    assert servers.exchanges == [(PASSWORD, "repository:org/app:pull")]
    assert servers.registry_saw == ["", "Bearer token-1"]


def test_an_identity_token_is_sent_to_the_token_server_only(servers: Servers) -> None:
    """R-037."""
    with open_client(servers.url, auth=IdentityToken("identity")) as client:
        assert client.list_tags() == ["v1"]

    assert servers.exchanges == [("identity", "repository:org/app:pull")]
    assert servers.registry_saw == ["", "Bearer token-1"]


def test_an_anonymous_token_is_fetched(servers: Servers) -> None:
    servers.anonymous = True

    with open_client(servers.url) as client:
        assert client.list_tags() == ["v1"]

    assert servers.exchanges == [("", "repository:org/app:pull")]


def test_the_second_operation_uses_the_same_token(servers: Servers) -> None:
    with open_client(servers.url, auth=USER) as client:
        client.list_tags()
        client.list_tags()

    assert len(servers.exchanges) == 1
    assert servers.registry_saw == ["", "Bearer token-1", "Bearer token-1"]


def test_an_expired_token_is_replaced(servers: Servers) -> None:
    """R-038."""
    with open_client(servers.url, auth=USER) as client:
        client.list_tags()
        servers.accepted.clear()

        assert client.list_tags() == ["v1"]

    assert len(servers.exchanges) == 2


def test_many_threads_fetch_one_token(servers: Servers) -> None:
    """R-039."""
    start = threading.Barrier(8)

    with open_client(servers.url, auth=USER) as client, ThreadPoolExecutor(8) as pool:

        def work(_: int) -> list[str]:
            start.wait(30)
            return client.list_tags()

        results = list(pool.map(work, range(8)))

    assert results == [["v1"]] * 8
    assert len(servers.exchanges) == 1


@pytest.mark.parametrize(
    ("status", "kind", "most"), [(401, Unauthorized, 1), (403, Forbidden, 1), (503, Unavailable, 2)]
)
def test_a_token_server_that_fails_is_not_asked_by_each_thread(
    servers: Servers, status: int, kind: type[Exception], most: int
) -> None:
    """R-039: the threads that wait for the token raise the same error."""
    servers.broken = status
    servers.ready.clear()
    authenticator = ChallengeAuthenticator(StaticKeychain({servers.host: USER}))

    with open_client(servers.url, auth=authenticator, retries=0) as client, ThreadPoolExecutor(8) as pool:
        tries = [pool.submit(client.list_tags) for _ in range(8)]
        while len(authenticator._single_flight._changed._waiters) < 7:  # type: ignore[attr-defined]
            threading.Event().wait(0.001)
        servers.ready.set()
        errors = [one.exception(30) for one in tries]

    assert [type(one) for one in errors] == [kind] * 8
    assert len(servers.exchanges) == most


def test_the_error_of_an_unreachable_token_server_says_that_a_token_was_requested(servers: Servers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    servers.challenge = f'Bearer realm="http://127.0.0.1:{port}/token"'

    with open_client(servers.url, retries=0) as client, pytest.raises(Unavailable) as caught:
        client.list_tags()

    assert f"request a token: connect to 127.0.0.1:{port}: connection refused" in str(caught.value)


def test_a_wrong_password_raises_unauthorized_and_is_not_shown(servers: Servers) -> None:
    with open_client(servers.url, auth=Basic("user", "s3cret")) as client, pytest.raises(Unauthorized) as caught:
        client.list_tags()

    assert caught.value.transport is not None
    assert caught.value.transport.status == 401
    assert "s3cret" not in repr(caught.value) + str(caught.value)


def test_a_basic_challenge_is_answered_with_the_password(servers: Servers) -> None:
    servers.challenge = 'Basic realm="registry"'
    servers.accepted = {PASSWORD}

    with open_client(servers.url, auth=USER) as client:
        assert client.list_tags() == ["v1"]
        assert client.list_tags() == ["v1"]

    assert servers.registry_saw == ["", PASSWORD, PASSWORD]


def test_after_a_token_a_basic_challenge_gets_another_token_and_no_password(servers: Servers) -> None:
    """R-031."""
    with open_client(servers.url, auth=USER) as client:
        client.list_tags()
        servers.accepted.clear()
        servers.challenge = 'Basic realm="registry"'

        assert client.list_tags() == ["v1"]

    assert PASSWORD not in servers.registry_saw
    assert len(servers.exchanges) == 2


def test_a_registry_token_is_sent_with_the_first_request(servers: Servers) -> None:
    servers.accepted = {"Bearer given"}

    with open_client(servers.url, auth=RegistryToken("given")) as client:
        assert client.list_tags() == ["v1"]

    assert servers.registry_saw == ["Bearer given"]


def test_a_refused_realm_gets_no_request(servers: Servers) -> None:
    """R-035."""
    servers.challenge = 'Bearer realm="http://169.254.169.254/token"'

    with open_client(servers.url, auth=USER) as client, pytest.raises(ProtocolError):
        client.list_tags()

    assert servers.registry_saw == [""]


@pytest.mark.parametrize("challenge", ["", "Bearer", "Negotiate", 'Bearer realm="', "=,=", "Digest realm=x"])
def test_a_malformed_challenge_raises_unauthorized(servers: Servers, challenge: str) -> None:
    """R-040."""
    servers.challenge = challenge

    with open_client(servers.url, auth=USER) as client, pytest.raises(Unauthorized):
        client.list_tags()

    assert servers.exchanges == []
