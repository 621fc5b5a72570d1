"""docker-registry and nginx in usual configurations, on loopback."""

from __future__ import annotations

import base64
import json
import random
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import bcrypt
import jwt
import pytest
import trustme

from registry_adapters import open_client
from registry_core import (
    Basic,
    Forbidden,
    Image,
    ImageBuilder,
    ImageNotFound,
    RegistryClient,
    TLSError,
    Unauthorized,
    fail_after,
)
from registry_core.ports.observer import Event, RequestCompleted, TokenRequested

USER = Basic("worker", "correct horse")
Run = Callable[..., Any]


class Events:
    """An observer that collects events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on(self, event: Event) -> None:
        self.events.append(event)

    def exchanges(self, method: str) -> list[RequestCompleted]:
        return [event for event in self.events if isinstance(event, RequestCompleted) and event.method == method]


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture(scope="module")
def image() -> Image:
    """Two layers, one of them with several mebibytes of random data."""
    noise = random.Random(1).randbytes(3 << 20)
    return ImageBuilder(platform="linux/amd64").add_files({"noise": noise}).add_files({"etc/name": b"one\n"}).build()


def _round_trip(client: RegistryClient, image: Image) -> None:
    """Push, list, look up, pull and compare every byte."""
    app = client.with_segment("org", "app")
    pushed = app.push_image("v1", image)

    assert app.list_tags() == ["v1"]
    assert app.get_digest("v1") == pushed.digest == image.digest
    pulled = app.get_image("v1", platform="linux/amd64")
    for theirs, ours in zip(pulled.layers(), image.layers(), strict=True):
        with theirs.open() as expected, ours.open() as actual:
            assert expected.read() == actual.read()
    assert client.list_repositories() == ["org/app"]
    with pytest.raises(ImageNotFound):
        app.get_digest("v2")


class TestPasswords:
    @pytest.fixture
    def url(self, run_docker_registry: Run, tmp_path: Path) -> str:
        users = tmp_path / "users"
        secret = bcrypt.hashpw(USER.password.encode(), bcrypt.gensalt(4)).decode()
        users.write_text(f"{USER.username}:{secret}\n")
        registry = run_docker_registry(auth={"htpasswd": {"realm": "these tests", "path": str(users)}})
        return str(registry.url)

    def test_a_correct_password_permits_everything(self, url: str, image: Image) -> None:
        with open_client(url, auth=USER) as client:
            _round_trip(client, image)

    @pytest.mark.parametrize("auth", [None, Basic(USER.username, "wrong"), Basic("stranger", USER.password)])
    def test_a_missing_or_wrong_password_is_refused(self, url: str, auth: Basic | None) -> None:
        with open_client(url, auth=auth) as client, pytest.raises(Unauthorized):
            client.with_segment("app").list_tags()


class TokenServer(ThreadingHTTPServer):
    """A token server as in the registry's documentation: it checks passwords and signs claims."""

    daemon_threads = False

    def __init__(self, authority: trustme.CA, *, lifetime: float) -> None:
        super().__init__(("127.0.0.1", 0), _TokenHandler)
        self.leaf = authority.issue_cert("token.example.com")
        self.lifetime = lifetime
        self.requests: list[tuple[str, list[str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/token"

    def token(self, service: str, scopes: list[str]) -> str:
        """A token for all scopes, except repositories named private."""
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":", 2)
            if not name.startswith("private"):
                access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = datetime.now(UTC)
        claims = {
            "iss": "these tests", "sub": USER.username, "aud": service, "jti": uuid.uuid4().hex, "access": access,
            "nbf": now - timedelta(seconds=5), "iat": now, "exp": now + timedelta(seconds=self.lifetime),
        }  # fmt: skip
        certificate = ssl.PEM_cert_to_DER_cert(self.leaf.cert_chain_pems[0].bytes().decode())
        chain = [base64.b64encode(certificate).decode()]
        key = self.leaf.private_key_pem.bytes()
        return jwt.encode(claims, key, algorithm="ES256", headers={"x5c": chain})


class _TokenHandler(BaseHTTPRequestHandler):
    server: TokenServer

    def log_message(self, *arguments: Any) -> None:
        """Write no log."""

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        pair = base64.b64encode(f"{USER.username}:{USER.password}".encode()).decode()
        self.server.requests.append((self.headers.get("Authorization", ""), query.get("scope", [])))
        known = self.headers.get("Authorization") == f"Basic {pair}"
        reply: dict[str, Any] = {"errors": [{"code": "UNAUTHORIZED"}]}
        if known:
            # Longer than the real lifetime, so that the registry finds the token expired before the client does.
            reply = {"token": self.server.token(query["service"][0], query.get("scope", [])), "expires_in": 300}
        content = json.dumps(reply).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class TestTokens:
    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    @pytest.fixture
    def tokens(self, authority: trustme.CA, request: pytest.FixtureRequest) -> Iterator[TokenServer]:
        server = TokenServer(authority, lifetime=getattr(request, "param", 300.0))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
        server.server_close()

    @pytest.fixture
    def url(self, run_docker_registry: Run, authority: trustme.CA, tokens: TokenServer, tmp_path: Path) -> str:
        bundle = tmp_path / "issuer.pem"
        authority.cert_pem.write_to_path(str(bundle))
        settings = {"realm": tokens.url, "service": "registry", "issuer": "these tests", "rootcertbundle": str(bundle)}
        return str(run_docker_registry(auth={"token": settings}).url)

    def test_a_token_is_fetched_and_used(self, url: str, image: Image, tokens: TokenServer, events: Events) -> None:
        with open_client(url, auth=USER, observer=events) as client:
            _round_trip(client, image)

        assert len([event for event in events.events if isinstance(event, TokenRequested)]) == len(tokens.requests)
        # Reading and writing, reading alone where it came first, and the catalog.
        assert len(tokens.requests) <= 4

    def test_a_wrong_password_is_refused_by_the_token_server(self, url: str) -> None:
        with open_client(url, auth=Basic(USER.username, "wrong")) as client, pytest.raises(Unauthorized):
            client.with_segment("app").list_tags()

    def test_a_scope_that_the_token_server_denies_is_forbidden(self, url: str, image: Image) -> None:
        with open_client(url, auth=USER) as client, pytest.raises((Unauthorized, Forbidden)):
            client.with_segment("private", "app").push_image("v1", image)

    @pytest.mark.parametrize("tokens", [1.0], indirect=True)
    def test_an_expired_token_is_replaced_during_an_operation(
        self, url: str, image: Image, tokens: TokenServer
    ) -> None:
        """R-038. The registry allows a minute of leeway, so the issuer dates it back."""
        tokens.lifetime = -58.0
        with open_client(url, auth=USER) as client:
            app = client.with_segment("org", "app")
            app.push_image("v1", image)
            before = len(tokens.requests)
            end = time.monotonic() + 20
            while len(tokens.requests) == before and time.monotonic() < end:
                assert app.get_digest("v1") == image.digest

        assert len(tokens.requests) > before

    def test_a_mount_requests_the_scopes_of_both_repositories(
        self, url: str, image: Image, tokens: TokenServer
    ) -> None:
        """R-077."""
        with open_client(url, auth=USER) as client:
            source = client.with_segment("org", "app")
            source.push_image("v1", image)
            source.copy_image("v1", client.with_segment("org", "copy"), "v1")

        both = [scopes for _, scopes in tokens.requests if len(scopes) == 2]
        assert both == [["repository:org/app:pull", "repository:org/copy:pull,push"]]


class TestMutualTLS:
    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    @pytest.fixture
    def ca_file(self, authority: trustme.CA, tmp_path: Path) -> Path:
        path = tmp_path / "authority.pem"
        authority.cert_pem.write_to_path(str(path))
        return path

    @pytest.fixture
    def url(self, run_docker_registry: Run, authority: trustme.CA, ca_file: Path, tmp_path: Path) -> str:
        leaf = authority.issue_cert("127.0.0.1")
        certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
        leaf.cert_chain_pems[0].write_to_path(str(certificate))
        leaf.private_key_pem.write_to_path(str(key))
        tls = {"certificate": str(certificate), "key": str(key), "clientcas": [str(ca_file)]}
        return str(run_docker_registry(http={"tls": tls}).url)

    @pytest.fixture
    def client_cert(self, authority: trustme.CA, tmp_path: Path) -> Path:
        path = tmp_path / "worker.pem"
        authority.issue_cert("worker.example.com").private_key_and_cert_chain_pem.write_to_path(str(path))
        return path

    def test_a_private_authority_and_a_client_certificate_are_accepted(
        self, url: str, image: Image, ca_file: Path, client_cert: Path
    ) -> None:
        with open_client(url, ca_file=ca_file, client_cert=client_cert) as client:
            _round_trip(client, image)

    def test_files_of_certs_d_are_accepted(
        self, url: str, image: Image, ca_file: Path, client_cert: Path, tmp_path: Path
    ) -> None:
        directory = tmp_path / "certs.d" / urlsplit(url).netloc
        directory.mkdir(parents=True)
        (directory / "ca.crt").write_bytes(ca_file.read_bytes())
        (directory / "client.cert").write_bytes(client_cert.read_bytes())
        (directory / "client.key").write_bytes(client_cert.read_bytes())

        with open_client(url, certs_dir=tmp_path / "certs.d", trust_system=False) as client:
            _round_trip(client, image)

    def test_a_missing_client_certificate_is_refused(self, url: str, ca_file: Path) -> None:
        """R-041."""
        with open_client(url, ca_file=ca_file) as client, pytest.raises(TLSError):
            client.with_segment("app").list_tags()

    def test_an_unknown_authority_is_not_trusted(self, url: str, client_cert: Path) -> None:
        """R-041."""
        with open_client(url, client_cert=client_cert) as client, pytest.raises(TLSError):
            client.with_segment("app").list_tags()


class TestBehindNginx:
    """A path prefix, no buffering, and bodies of ten mebibytes at most."""

    @pytest.fixture
    def host(self, run_docker_registry: Run, run_nginx: Run) -> str:
        registry = run_docker_registry(http={"prefix": "/registry/"})
        proxy = run_nginx(
            "client_max_body_size 10m;\n"
            "location /registry/ {\n"
            f"proxy_pass http://{registry.host};\n"
            "proxy_set_header Host $http_host;\n"
            "proxy_http_version 1.1;\n"
            "proxy_buffering off;\nproxy_request_buffering off;\n}\n"
        )
        return str(proxy.host)

    @pytest.fixture
    def large(self) -> Image:
        """A layer above nginx's limit."""
        noise = random.Random(2).randbytes(12 << 20)
        return ImageBuilder(platform="linux/amd64").add_files({"noise": noise}).build()

    def test_small_images_pass(self, host: str, image: Image) -> None:
        with open_client(host, plain_http=True, path_prefix="/registry") as client:
            _round_trip(client, image)

    def test_large_images_pass_in_chunks(self, host: str, large: Image) -> None:
        with open_client(host, plain_http=True, path_prefix="/registry", chunk_size=8 << 20) as client:
            _round_trip(client, large)

    def test_large_images_pass_without_a_configured_chunk_size(self, host: str, large: Image) -> None:
        """After status 413 the client sends smaller chunks."""
        with open_client(host, plain_http=True, path_prefix="/registry") as client:
            _round_trip(client, large)


class _Forwarder(BaseHTTPRequestHandler):
    """A forward proxy for plain HTTP: one request a connection."""

    def log_message(self, *arguments: Any) -> None:
        """Write no log."""

    def _forward(self) -> None:
        import http.client

        server: Any = self.server
        server.requests.append((self.command, self.path))
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        upstream = http.client.HTTPConnection(server.upstream, timeout=20)
        parts = urlsplit(self.path)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        passed = {name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")}
        upstream.request(self.command, target, body=body or None, headers=passed)
        answer = upstream.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "server", "date"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        upstream.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _forward  # noqa: N815


class TestForwardProxy:
    @pytest.fixture
    def proxy(self, docker_registry: str) -> Iterator[Any]:
        server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Forwarder)
        server.upstream = urlsplit(docker_registry).netloc
        server.requests = []
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
        server.server_close()

    def test_the_proxy_of_the_environment_is_used(
        self, proxy: Any, image: Image, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")

        with open_client("http://registry.test:5000") as client:
            app = client.with_segment("through", "proxy")
            app.push_image("v1", image)
            digest = app.get_digest("v1")

        assert digest == image.digest
        assert {urlsplit(path).netloc for _, path in proxy.requests} == {"registry.test:5000"}


class _Restarting:
    """An observer that restarts a registry once, after a number of responses to one method."""

    def __init__(self, registry: Any, method: str, count: int, status: int) -> None:
        self._registry = registry
        self._left = count
        self._method = method
        self._status = status
        self._lock = threading.Lock()
        self.done = False

    def on(self, event: Event) -> None:
        if not isinstance(event, RequestCompleted) or (event.method, event.status) != (self._method, self._status):
            return
        with self._lock:
            self._left -= 1
            due = self._left == 0
        if due:
            self._registry.kill()
            self._registry.start()
            self.done = True


class TestRestart:
    """The registry is killed and started again."""

    def test_in_the_middle_of_a_push(self, run_docker_registry: Run, image: Image) -> None:
        registry = run_docker_registry()
        restarting = _Restarting(registry, "PATCH", 2, 202)

        with fail_after(60), open_client(registry.url, chunk_size=700_000, observer=restarting) as client:
            app = client.with_segment("app")
            app.push_image("v1", image, jobs=1)

            assert restarting.done
            assert app.get_image("v1", platform="linux/amd64").digest == image.digest
            for layer in app.get_image("v1", platform="linux/amd64").layers():
                with layer.open() as reader:
                    assert len(reader.read()) == layer.size

    def test_in_the_middle_of_a_pull(self, run_docker_registry: Run, image: Image) -> None:
        registry = run_docker_registry()
        with fail_after(60), open_client(registry.url) as client:
            app = client.with_segment("app")
            app.push_image("v1", image)
            layer = max(app.get_image("v1", platform="linux/amd64").layers(), key=lambda each: each.size)
            with layer.open() as reader:
                start = reader.read(100_000)
                registry.kill()
                registry.start()
                content = start + reader.read()

        with max(image.layers(), key=lambda each: each.size).open() as ours:
            assert content == ours.read()
