"""No log record, event, repr, error or pickle contains a secret (R-043)."""

from __future__ import annotations

import base64
import contextlib
import logging
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

import msgspec
import pytest
import trustme
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from registry_adapters import HttpSettings, MemoryCatalog, open_client
from registry_adapters.auth import authenticator_for
from registry_adapters.container import close, configured
from registry_adapters.http import OutgoingRequest, Response, Send
from registry_adapters.keychains import (
    AuthFileKeychain,
    ChainKeychain,
    DockerConfigKeychain,
    EnvironmentKeychain,
    HelperKeychain,
    MemoryKeychain,
    StaticKeychain,
    TextKeychain,
)
from registry_adapters.login import login
from registry_adapters.telemetry import OpenTelemetryObserver
from registry_adapters.wsgi import BasicAuthorizer, TokenAuthorizer, registry_server
from registry_core import (
    Basic,
    ConfigError,
    Forbidden,
    IdentityToken,
    ImageBuilder,
    ProtocolError,
    RegistryClient,
    RegistryError,
    RegistryToken,
    TLSError,
    TransportError,
    Unauthorized,
    Unavailable,
    push_blob,
)
from registry_core.domain.auth import TokenReply, TokenRequest
from registry_core.ports.keychain import Keychain
from registry_core.ports.observer import Event, Observer, WarningReceived

IMAGE = ImageBuilder(platform="linux/amd64").add_files({"hello": "world"}).build()
with IMAGE.layers()[0].open() as _layer:
    LAYER = _layer.read()
with IMAGE.repository.blobs.open(IMAGE.manifest().config.digest) as _config:
    CONFIG = _config.read()


class Output(Observer):
    """Everything that an operation outputs, as text with the kind of output."""

    def __init__(self) -> None:
        self.secrets: set[str] = set()
        self.shown: list[tuple[str, str]] = []
        self.kinds: set[str] = set()
        self.records = 0

    def secret(self, text: str, *, user: str = "") -> str:
        """Register a secret, in all its encodings, and return it."""
        plain = {text, *([f"{user}:{text}"] if user else [])}
        for one in plain:
            data = one.encode()
            self.secrets |= {
                one,
                quote(one, safe=""),
                quote_plus(one),
                base64.b64encode(data).decode().rstrip("="),
                base64.urlsafe_b64encode(data).decode().rstrip("="),
                data.hex(),
            }
        return text

    def on(self, event: Event) -> None:
        self.kinds.add(type(event).__name__)
        encoded = msgspec.json.encode(event, enc_hook=str).decode()
        pickled = pickle.dumps(event, 0).decode("latin-1")
        self.record(f"event {type(event).__name__}", repr(event), str(event), encoded, pickled)

    def log(self, record: logging.LogRecord) -> None:
        """Record a log record, also as a handler may format it."""
        self.records += 1
        self.record(
            f"log {record.name}",
            record.getMessage(),
            repr(record.args),
            logging.Formatter().format(record),
            repr(record.__dict__),
        )

    def record_objects(self, *things: object) -> None:
        """Record objects as a program may print or pickle them."""
        for thing in things:
            name = f"object {type(thing).__name__}"
            self.record(name, repr(thing), str(thing), f"{thing}", repr([thing]))
            rich = getattr(thing, "__rich_repr__", None)
            if callable(rich):
                self.record(f"rich {name}", repr(list(rich())))
            for protocol in (0, pickle.HIGHEST_PROTOCOL):
                with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError):
                    self.record(f"pickled {name}", pickle.dumps(thing, protocol).decode("latin-1"))

    def record_error(self, error: BaseException) -> None:
        """Record an error and all its causes."""
        self.record("traceback", "".join(traceback.format_exception(error)))
        waiting: list[BaseException | None] = [error]
        seen: set[int] = set()
        while waiting:
            one = waiting.pop()
            if one is None or id(one) in seen:
                continue
            seen.add(id(one))
            name = f"error {type(one).__name__} behind {type(error).__name__}"
            self.record(name, str(one), repr(one), repr(one.args), repr(getattr(one, "__notes__", ())))
            waiting += [one.__cause__, one.__context__, getattr(one, "transport", None)]
            waiting += [part for part in one.args if isinstance(part, BaseException)]
            if isinstance(one, RegistryError):
                self.record(f"attributes of {name}", repr(vars(one)))
                self.record(f"pickled {name}", pickle.dumps(one, 0).decode("latin-1"))

    def leaks(self) -> list[str]:
        """The outputs that contain a secret."""
        found = [
            f"{kind}: {secret!r} in {text[:2000]!r}"
            for kind, text in self.shown
            for secret in self.secrets
            if secret in text
        ]
        return list(dict.fromkeys(found))

    def record(self, kind: str, *texts: str) -> None:
        """Record texts."""
        self.shown.extend((kind, text) for text in texts)


@pytest.fixture
def output() -> Iterator[Output]:
    """Collect the records of every logger at every level until the test ends."""
    made = Output()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            made.log(record)

    collector = Collector(1)
    names = ["", *logging.root.manager.loggerDict, "registry_adapters.http", "urllib3.connectionpool"]
    loggers = [logging.getLogger(name) for name in dict.fromkeys(names)]
    before = [(logger, logger.level, logger.disabled) for logger in loggers]
    for logger in loggers:
        logger.setLevel(1)
        logger.disabled = False
        if not logger.propagate or logger is logging.root:
            logger.addHandler(collector)
    yield made
    for logger, level, disabled in before:
        logger.setLevel(level)
        logger.disabled = disabled
        logger.removeHandler(collector)


class Received(NamedTuple):
    """A request; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Reply(NamedTuple):
    """A response; with ``cut``, its Content-Length is larger than its body."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    cut: bool = False


Script = Callable[[Received], Reply | None]


class ScriptedRegistry(ThreadingHTTPServer):
    """A registry with one image and scripted responses, which records its requests."""

    daemon_threads = False

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.host = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.host}"
        self.script = script
        self.received: list[Received] = []

    def answer(self, received: Received) -> Reply:
        self.received.append(received)
        return self.script(received) or _registry(received)

    def has_received(self, text: str) -> bool:
        """Return whether a request contained a text."""
        return any(text in f"{one.path} {one.headers} {one.body!r}" for one in self.received)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close the connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedRegistry

    def log_message(self, *arguments: Any) -> None:
        """Write no log."""

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.answer(Received(self.command, self.path, headers, body))
        self.send_response(reply.status)
        for name, value in reply.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body) + (100 if reply.cut else 0)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)
        self.close_connection = self.close_connection or reply.cut

    def __getattr__(self, name: str) -> Callable[[], None]:
        if not name.startswith("do_"):
            raise AttributeError(name)
        return self._any


def _registry(received: Received) -> Reply:
    path = received.path.partition("?")[0]
    if "/manifests/" in path and received.method in ("GET", "HEAD"):
        headers = (("Content-Type", IMAGE.media_type), ("Docker-Content-Digest", IMAGE.digest))
        return Reply(200, IMAGE.raw, headers)
    for content, digest in ((LAYER, IMAGE.layers()[0].digest), (CONFIG, IMAGE.manifest().config.digest)):
        if path.endswith(f"/blobs/{digest}") and received.method == "GET":
            return Reply(200, content)
    if path.endswith("/blobs/uploads/") and received.method == "POST":
        return Reply(202, headers=(("Location", "/v2/app/blobs/uploads/1"),))
    return Reply(201) if received.method == "PUT" else Reply(404)


Start = Callable[[Script], ScriptedRegistry]


@pytest.fixture
def start_registry() -> Iterator[Start]:
    """Start registries."""
    running: list[tuple[ScriptedRegistry, threading.Thread]] = []

    def start(script: Script) -> ScriptedRegistry:
        server = ScriptedRegistry(script)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def pull(client: RegistryClient) -> None:
    """Read an image with its configuration and layer."""
    image = client.get_image("v1")
    image.config()
    with image.layers()[0].open() as reader:
        while reader.read(1 << 16):
            continue


def push(client: RegistryClient) -> None:
    """Store a blob."""
    push_blob(client.repository, b"some content")


def run(
    output: Output,
    url: str,
    work: Callable[[RegistryClient], object] = pull,
    *,
    fails: type[RegistryError] | None = None,
    **settings: Any,
) -> None:
    """Run an operation against a registry, and record its output."""
    settings = {"retries": 0, "backoff": 0.001, **settings}
    with open_client(f"{url}/app", observer=output, **settings) as client:
        output.record_objects(
            client, client.catalog, client.repository, client.repository.blobs, client.repository.manifests
        )
        output.record_objects(vars(client), vars(client.catalog))
        if fails is None:
            work(client)
        else:
            with pytest.raises(fails) as caught:
                work(client)
            output.record_error(caught.value)
        output.record_objects(client, client.catalog, vars(client), vars(client.catalog))


def bearer(realm: str) -> Script:
    """A registry that requires tokens of a separate token server."""

    def script(received: Received) -> Reply | None:
        if received.headers.get("authorization", "").startswith("Bearer "):
            return None
        challenge = f'Bearer realm="{realm}",service="registry",scope="repository:app:pull"'
        return Reply(401, headers=(("WWW-Authenticate", challenge),))

    return script


class TestOutput:
    @pytest.mark.parametrize("form", ["hunter+/2", "hunter%2B%2F2", "dXNlcjpodW50ZXIrLzI"])
    def test_a_secret_that_is_logged_is_found(self, output: Output, form: str) -> None:
        output.secret("hunter+/2", user="user")

        logging.getLogger("urllib3.connectionpool").debug("sent with %s", form)

        assert len(output.leaks()) >= 1

    def test_a_secret_behind_an_error_is_found(self, output: Output) -> None:
        output.secret("hunter2")

        try:
            try:
                raise ValueError("hunter2")
            except ValueError as error:
                raise Unavailable("cut") from error
        except Unavailable as error:
            output.record_error(error)

        assert output.leaks() != []

    def test_a_secret_in_an_event_is_found(self, output: Output) -> None:
        output.secret("hunter2")
        output.on(WarningReceived(registry="r", text="hunter2"))

        assert output.leaks() != []


class TestPasswords:
    @pytest.mark.parametrize("guard", [BasicAuthorizer, TokenAuthorizer])
    @pytest.mark.parametrize("right", [True, False])
    def test_passwords(self, output: Output, guard: Any, right: bool) -> None:
        """R-043."""
        password = output.secret("pass-wörd+/?&=1", user="user")
        auth = Basic("user", password if right else output.secret("wrong-wörd+/2", user="user"))

        with registry_server(MemoryCatalog(), authorizer=guard({"user": password})) as server:
            output.record_objects(
                server, server.app, auth, StaticKeychain({server.host: auth}), authenticator_for(auth)
            )
            for each in (auth, StaticKeychain({server.host: auth}), authenticator_for(auth)):
                run(
                    output,
                    server.url,
                    lambda client: client.push_image("v1", IMAGE),
                    auth=each,
                    fails=None if right else Unauthorized,
                )

        assert "RequestCompleted" in output.kinds
        assert output.leaks() == []

    @pytest.mark.parametrize("status", [403, 500, 503])
    def test_rejected_passwords(self, output: Output, start_registry: Start, status: int) -> None:
        """R-043."""
        password = output.secret("pass-word-1", user="user")

        def script(received: Received) -> Reply:
            if "authorization" in received.headers:
                return Reply(status, headers=(("Warning", '299 - "read the news"'),))
            return Reply(401, headers=(("WWW-Authenticate", 'Basic realm="r"'),))

        server = start_registry(script)
        kind = Forbidden if status == 403 else TransportError
        run(output, server.url, auth=Basic("user", password), fails=kind, retries=1)

        assert server.has_received("Basic ")
        assert output.leaks() == []

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
    @pytest.mark.parametrize("kind", ["basic", "token"])
    def test_a_registry_that_repeats_the_authorization(
        self, output: Output, start_registry: Start, status: int, kind: str
    ) -> None:
        """R-043."""
        secret = output.secret("pass-word-1", user="user")

        def script(received: Received) -> Reply:
            shown = received.headers.get("authorization", "")
            if not shown:
                return Reply(401, headers=(("WWW-Authenticate", 'Basic realm="r"'),))
            entry = {"code": "DENIED", "message": f"who is {shown}?", "detail": {"header": shown}}
            return Reply(status, msgspec.json.encode({"errors": [entry]}))

        auth = Basic("user", secret) if kind == "basic" else RegistryToken(secret)
        run(output, start_registry(script).url, auth=auth, fails=RegistryError)

        assert any("who is" in text for _, text in output.shown)
        assert output.leaks() == []

    def test_a_password_that_no_header_can_contain(self, output: Output, start_registry: Start) -> None:
        """R-043."""
        password = output.secret("pass\nword")
        server = start_registry(lambda received: Reply(401, headers=(("WWW-Authenticate", 'Basic realm="r"'),)))

        run(output, server.url, auth=Basic("us:er", password), fails=RegistryError)

        assert output.leaks() == []


class TestTokens:
    @pytest.mark.parametrize("work", [pull, push])
    def test_tokens_and_the_credentials_exchanged_for_them(
        self,
        output: Output,
        start_registry: Start,
        work: Callable[[RegistryClient], object],
    ) -> None:
        """R-043."""
        identity, token, refresh = (output.secret(f"{kind}-tök/en+1".replace("ö", "o")) for kind in "irt")

        def tokens(received: Received) -> Reply:
            return Reply(200, msgspec.json.encode({"access_token": token, "refresh_token": refresh, "expires_in": 60}))

        issuer = start_registry(tokens)
        server = start_registry(bearer(f"{issuer.url}/token"))
        run(output, server.url, work, auth=IdentityToken(identity))

        assert issuer.has_received(quote(identity, safe=""))
        assert server.has_received(token)
        assert output.leaks() == []

    @pytest.mark.parametrize(
        "reply",
        [
            Reply(401),
            Reply(403, b'{"details": "no"}'),
            Reply(400, b'{"error": "invalid_grant"}'),
            Reply(500),
            Reply(200, b'{"token": ""}'),
            Reply(200, b'{"token": "hidden-token-1 with spaces"}'),
            Reply(200, b'{"token": "hidden-token-1\\n"}'),
            Reply(200, b'{"token": "hidden-token-1"'),
            Reply(200, b'["hidden-token-1"]'),
            Reply(200, b'{"token": {"hidden-token-1": 1}}'),
            Reply(200, b'{"token": "hidden-token-1"', cut=True),
            Reply(302, headers=(("Location", "/elsewhere?code=hidden-token-1"),)),
        ],
        ids=lambda reply: f"{reply.status}-{reply.body[:24]!r}",
    )
    @pytest.mark.parametrize("kind", [Basic, IdentityToken])
    def test_failing_token_servers(
        self,
        output: Output,
        start_registry: Start,
        reply: Reply,
        kind: type[Basic] | type[IdentityToken],
    ) -> None:
        """R-043."""
        output.secret("hidden-token-1")
        secret = output.secret("what-is-traded+1", user="user")
        auth = Basic("user", secret) if kind is Basic else IdentityToken(secret)

        issuer = start_registry(lambda received: reply)
        server = start_registry(bearer(f"{issuer.url}/token?tenant={output.secret('in-the-realm-1')}"))
        run(output, server.url, auth=auth, fails=RegistryError)

        assert issuer.received
        assert output.leaks() == []

    @pytest.mark.parametrize(
        "realm",
        [
            "http://127.0.0.1:99999/token?key=in-the-realm-1",
            "http://user:in-the-realm-1@127.0.0.1/token",
            "ftp://127.0.0.1/token?key=in-the-realm-1",
            "http://10.0.0.1/token?key=in-the-realm-1",
            "http://auth.example.com/in path?key=in-the-realm-1",
            "http://[::1/token?key=in-the-realm-1",
            "/token?key=in-the-realm-1",
            "token?key=in-the-realm-1#in-the-realm-1",
        ],
    )
    def test_refused_realms(self, output: Output, start_registry: Start, realm: str) -> None:
        """R-035, R-043."""
        output.secret("in-the-realm-1")
        server = start_registry(bearer(realm))

        run(output, server.url, auth=Basic("user", output.secret("pass-word-1", user="user")), fails=RegistryError)

        assert output.leaks() == []

    @pytest.mark.parametrize("accepted", [True, False])
    def test_registry_tokens(self, output: Output, start_registry: Start, accepted: bool) -> None:
        """R-043."""
        token = output.secret("registry.token+1")

        def script(received: Received) -> Reply | None:
            return None if accepted else Reply(401, headers=(("WWW-Authenticate", 'Bearer realm="http://x.y/"'),))

        server = start_registry(script)
        output.record_objects(RegistryToken(token), authenticator_for(RegistryToken(token)))
        run(output, server.url, auth=RegistryToken(token), fails=None if accepted else Unauthorized)

        assert server.has_received(token)
        assert output.leaks() == []

    def test_a_token_that_no_header_can_contain(self, output: Output) -> None:
        """R-039, R-043."""
        with pytest.raises(ConfigError) as caught:
            open_client("registry.example.com", auth=RegistryToken(output.secret("to ken-1\n")))
        output.record_error(caught.value)

        assert output.leaks() == []

    def test_values_between_authenticator_and_session(self, output: Output) -> None:
        """R-043."""
        secret = output.secret("in-between-1")
        request = TokenRequest(
            method="POST",
            url=f"https://a.example.com/token?k={secret}",
            headers={"Authorization": secret},
            body=secret.encode(),
        )

        output.record_objects(request, TokenReply(status=200, content=secret.encode()))

        assert output.leaks() == []


class TestURLs:
    @pytest.mark.parametrize("failure", [None, "403", "500", "cut", "404", "echo"])
    def test_signed_urls_of_blobs(self, output: Output, start_registry: Start, failure: str | None) -> None:
        """R-043."""
        signature = output.secret("sig/nature+1==")

        def store(received: Received) -> Reply:
            if failure == "cut":
                return Reply(200, LAYER[:10], cut=True)
            if failure == "echo":
                return Reply(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
            return Reply(int(failure)) if failure else Reply(200, LAYER)

        cdn = start_registry(store)
        where = f"{cdn.url}/data?X-Amz-Signature={quote(signature, safe='')}"
        digest = IMAGE.layers()[0].digest
        server = start_registry(
            lambda received: Reply(307, headers=(("Location", where),)) if digest in received.path else None
        )
        run(
            output,
            server.url,
            fails=RegistryError if failure else None,
            retries=1 if failure in ("500", "cut") else 0,
        )

        assert cdn.has_received(quote(signature, safe=""))
        assert output.records
        assert output.leaks() == []

    @pytest.mark.parametrize(
        "where",
        [
            "ftp://127.0.0.1/data?sig=in-the-url-1",
            "http://user:in-the-url-1@127.0.0.1/data",
            "http://127.0.0.1:99999/data?sig=in-the-url-1",
            "http://127.0.0.1:1/data?sig=in-the-url-1",
            "http://127.0.0.1/da ta?sig=in-the-url-1",
            "//in-the-url-1@[::1/",
            "http://[::1/data?sig=in-the-url-1",
            "javascript:alert(1)?in-the-url-1",
        ],
    )
    @pytest.mark.parametrize("status", [307, 301])
    def test_refused_redirects(self, output: Output, start_registry: Start, where: str, status: int) -> None:
        """R-042, R-043."""
        output.secret("in-the-url-1")
        server = start_registry(lambda received: Reply(status, headers=(("Location", where),)))

        run(output, server.url, fails=TransportError)

        assert output.leaks() == []

    @pytest.mark.parametrize("reply", [Reply(201), Reply(500), Reply(404), Reply(401), Reply(403), Reply(416)])
    @pytest.mark.parametrize("chunk_size", [None, 5])
    def test_upload_locations(
        self, output: Output, start_registry: Start, reply: Reply, chunk_size: int | None
    ) -> None:
        """R-043."""
        state = output.secret("sta/te+1==")
        where = f"/v2/app/blobs/uploads/1?_state={quote(state, safe='')}"

        def script(received: Received) -> Reply | None:
            if received.method == "POST":
                return Reply(202, headers=(("Location", where),))
            if received.method == "PATCH" and reply.status == 201:
                end = int(received.headers["content-range"].partition("-")[2])
                return Reply(202, headers=(("Location", where), ("Range", f"0-{end}")))
            return reply if received.method in ("PUT", "PATCH") else None

        server = start_registry(script)
        fails = None if reply.status == 201 else RegistryError
        run(output, server.url, push, fails=fails, chunk_size=chunk_size)

        assert server.has_received(quote(state, safe=""))
        assert output.leaks() == []

    @pytest.mark.parametrize(
        "where", ["http://user:in-the-url-1@127.0.0.1/x", "http://10.0.0.1/x?s=in-the-url-1", "ftp://x?in-the-url-1"]
    )
    def test_refused_upload_locations(self, output: Output, start_registry: Start, where: str) -> None:
        """R-033, R-043."""
        output.secret("in-the-url-1")
        server = start_registry(
            lambda received: Reply(202, headers=(("Location", where),)) if received.method == "POST" else None
        )

        run(output, server.url, push, fails=RegistryError)

        assert output.leaks() == []

    @pytest.mark.parametrize(
        "link", ["<http://10.0.0.1/?t=in-the-url-1>; rel=next", "<ftp://x/?in-the-url-1>; rel=next"]
    )
    def test_refused_links(self, output: Output, start_registry: Start, link: str) -> None:
        """R-034, R-043."""
        output.secret("in-the-url-1")
        server = start_registry(lambda received: Reply(200, b'{"name": "app", "tags": ["a"]}', (("Link", link),)))

        run(output, server.url, lambda client: client.list_tags(), fails=ProtocolError)

        assert output.leaks() == []

    def test_a_url_with_a_password_is_refused_without_repeating_it(self, output: Output) -> None:
        """R-043."""
        output.secret("in-the-url-1")
        for url in (
            "https://user:in-the-url-1@registry.example.com",
            "user:in-the-url-1@registry.example.com/app",
            "https://registry.example.com?token=in-the-url-1",
            "nowhere://user:in-the-url-1@x",
            "oci://user:in-the-url-1@x",
        ):
            with pytest.raises(RegistryError) as caught:
                open_client(url)
            output.record_error(caught.value)

        assert output.leaks() == []


class TestProxies:
    @pytest.mark.parametrize("kind", ["407", "dead", "works", "500"])
    @pytest.mark.parametrize("from_environment", [True, False])
    def test_passwords_of_proxies(
        self,
        output: Output,
        start_registry: Start,
        monkeypatch: pytest.MonkeyPatch,
        kind: str,
        from_environment: bool,
    ) -> None:
        """R-043."""
        password = output.secret("proxy+/pass 1", user="user")
        proxy = start_registry(lambda received: Reply(int(kind)) if kind.isdigit() else None)
        port = 1 if kind == "dead" else proxy.server_port
        url = f"http://user:{quote(password, safe='')}@127.0.0.1:{port}"
        for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        if from_environment:
            monkeypatch.setenv("http_proxy", url)
        settings: dict[str, Any] = {} if from_environment else {"proxy": url}
        output.record_objects(HttpSettings(**settings))

        run(output, "http://registry.example.com", fails=None if kind == "works" else TransportError, **settings)

        assert (kind == "dead") is not proxy.has_received(base64.b64encode(f"user:{password}".encode()).decode())
        assert output.leaks() == []

    def test_a_refused_tunnel(self, output: Output, start_registry: Start) -> None:
        """R-043."""
        password = output.secret("proxy-pass-1", user="user")
        proxy = start_registry(lambda received: Reply(500))

        run(
            output,
            "https://registry.example.com",
            proxy=f"http://user:{password}@{proxy.host}",
            fails=TransportError,
        )

        assert output.leaks() == []

    def test_settings_with_the_password_of_a_proxy_are_not_pickled(self) -> None:
        """R-043."""
        settings = HttpSettings(proxy="http://user:hunter2@proxy.example.com")

        with pytest.raises(TypeError) as caught:
            pickle.dumps(settings)

        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        "proxy", ["user:hunter2@host", "ftp://user:hunter2@host", "http://user:hunter2@:x", "http://hunter2@"]
    )
    def test_an_invalid_proxy_is_not_repeated(self, output: Output, proxy: str) -> None:
        """R-043."""
        output.secret("hunter2")
        with pytest.raises(ConfigError) as caught:
            HttpSettings(proxy=proxy)
        output.record_error(caught.value)

        assert output.leaks() == []


class TestTLS:
    def test_an_untrusted_certificate(self, output: Output, tmp_path: Path) -> None:
        """R-043."""
        leaf = trustme.CA().issue_cert("127.0.0.1")
        leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
        leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
        password = output.secret("pass-word-1", user="user")

        with registry_server(
            MemoryCatalog(),
            authorizer=BasicAuthorizer({"user": password}),
            tls=(tmp_path / "cert.pem", tmp_path / "key.pem"),
        ) as server:
            run(output, server.url, auth=Basic("user", password), fails=TLSError)

        assert output.leaks() == []

    def test_a_corrupt_private_key(self, output: Output, tmp_path: Path) -> None:
        """R-043: a message may name the path of the file, but not its content."""
        key = tmp_path / "client.pem"
        key.write_text(f"-----BEGIN PRIVATE KEY-----\n{output.secret('aGlkZGVuIGtleQ')}\n-----END PRIVATE KEY-----\n")

        with pytest.raises(ConfigError) as caught:
            open_client("https://registry.example.com", client_cert=str(key))
        output.record_error(caught.value)

        assert str(key) in str(caught.value)
        assert output.leaks() == []


class TestMiddleware:
    @pytest.mark.parametrize("status", [200, 401, 403, 500])
    def test_headers_of_a_middleware(self, output: Output, start_registry: Start, status: int) -> None:
        """R-043."""
        key = output.secret("api-key+1")

        def signed(request: OutgoingRequest, send: Send) -> Response:
            wanted = request.with_headers({"X-Api-Key": key})
            output.record_objects(request, wanted, wanted.headers)
            answer = send(wanted)
            output.record_objects(answer)
            return answer

        server = start_registry(lambda received: None if status == 200 else Reply(status))
        run(output, server.url, middleware=[signed], fails=None if status == 200 else RegistryError)

        assert server.has_received(key)
        assert output.leaks() == []

    @pytest.mark.parametrize("name", ["X-Api-Key", "Host", "X Key", "Authorization"])
    def test_invalid_headers(self, output: Output, start_registry: Start, name: str) -> None:
        """R-043."""
        key = output.secret("api-key+1")
        server = start_registry(lambda received: None)

        run(
            output,
            server.url,
            middleware=[lambda request, send: send(request.with_headers({name: f"{key}\n"}))],
            fails=ConfigError,
        )

        assert server.received == []
        assert output.leaks() == []


class TestTelemetry:
    def test_spans_and_metrics(self, output: Output, start_registry: Start) -> None:
        """R-043."""
        password = output.secret("pass-word+1", user="user")
        token = output.secret("token+1")
        signature = output.secret("sig/nature+1==")
        issuer = start_registry(lambda received: Reply(200, msgspec.json.encode({"token": token})))
        authorised = bearer(f"{issuer.url}/token?tenant={output.secret('in-the-realm-1')}")
        cdn = start_registry(lambda received: Reply(200, LAYER))
        where = f"{cdn.url}/data?X-Amz-Signature={quote(signature, safe='')}"
        digest = IMAGE.layers()[0].digest

        def script(received: Received) -> Reply | None:
            return authorised(received) or (
                Reply(307, headers=(("Location", where),)) if digest in received.path else None
            )

        server = start_registry(script)
        exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers, meters = TracerProvider(), MeterProvider(metric_readers=[reader])
        tracers.add_span_processor(SimpleSpanProcessor(exporter))
        observer = OpenTelemetryObserver(tracer_provider=tracers, meter_provider=meters)
        with open_client(f"{server.url}/app", auth=Basic("user", password), observer=observer) as client:
            pull(client)
        spans, metrics = exporter.get_finished_spans(), reader.get_metrics_data()
        tracers.shutdown()
        meters.shutdown()

        for span in spans:
            output.record(f"span {span.name}", span.to_json())
        output.record("metrics", metrics.to_json() if metrics else "")
        assert {"GET", "ociport.token"} <= {span.name for span in spans}
        assert cdn.has_received(quote(signature, safe=""))
        assert output.leaks() == []


class TestLogin:
    @pytest.mark.parametrize("right", [True, False])
    def test_login_and_stored_credentials(self, output: Output, tmp_path: Path, right: bool) -> None:
        """R-043."""
        password = output.secret("pass-word+1", user="user")
        credential = Basic("user", password if right else output.secret("wrong-word+1", user="user"))
        keychain = DockerConfigKeychain(tmp_path / "config.json")

        with registry_server(MemoryCatalog(), authorizer=BasicAuthorizer({"user": password})) as server:
            if right:
                login(server.url, credential, keychain=keychain, observer=output)
            else:
                with pytest.raises(Unauthorized) as caught:
                    login(server.url, credential, keychain=keychain, observer=output)
                output.record_error(caught.value)
            output.record_objects(keychain, keychain.credential(server.host, None))

        assert (keychain.credential(server.host, None) == credential) is right
        assert output.leaks() == []

    @pytest.mark.parametrize("kept", ["no json: kept-before-1", '{"auths": "kept-before-1"}', '["kept-before-1"]'])
    def test_a_file_that_cannot_store_credentials(self, output: Output, tmp_path: Path, kept: str) -> None:
        """R-043."""
        output.secret("kept-before-1")
        password = output.secret("pass-word+1", user="user")
        path = tmp_path / "config.json"
        path.write_text(kept)

        with registry_server(MemoryCatalog(), authorizer=BasicAuthorizer({"user": password})) as server:
            with pytest.raises(ConfigError) as caught:
                login(server.url, Basic("user", password), keychain=DockerConfigKeychain(path))
        output.record_error(caught.value)

        assert output.leaks() == []


HELPER = """#!/bin/sh
cat > /dev/null
echo '{"ServerURL": "r", "Username": "user", "Secret": "SECRET"'"$TAIL"
echo "SECRET" >&2
exit $CODE
"""


def files(output: Output, host: str) -> dict[str, str]:
    """Docker configurations with a secret, by their peculiarity."""
    secret = output.secret("kept-in-a-file+1", user="user")
    coded = base64.b64encode(f"user:{secret}".encode()).decode()
    sound = {
        "auth": {"auth": coded},
        "plain": {"username": "user", "password": secret},
        "identity": {"auth": base64.b64encode(b"user:").decode(), "identitytoken": secret},
        "registry": {"registrytoken": secret},
        "spaced": {"auth": f" {coded}\n"},
        "colonless": {"auth": base64.b64encode(secret.encode()).decode()},
        "not base64": {"auth": f"{secret}!"},
        "number": {"auth": {secret: 1}},
        "unprintable": {"identitytoken": f"{secret}\n"},
    }
    texts = {name: msgspec.json.encode({"auths": {host: entry}}).decode() for name, entry in sound.items()}
    plain = texts["plain"]
    return {
        **texts,
        "cut": plain[:-1],
        "a list": f"[{plain}]",
        "no json": f"password = {secret}",
        "twice": f"{plain}{plain}",
        "auths is a list": msgspec.json.encode({"auths": [secret]}).decode(),
        "entry is text": msgspec.json.encode({"auths": {host: secret}}).decode(),
    }


FILES = [
    *("auth", "plain", "identity", "registry", "spaced", "colonless", "not base64", "number", "unprintable"),
    *("cut", "a list", "no json", "twice", "auths is a list", "entry is text"),
]


class TestKeychains:
    def _use(self, output: Output, server: ScriptedRegistry, make: Callable[[], Keychain]) -> None:
        """Create a keychain and use it in a client; both may fail."""
        try:
            keychain = make()
            output.record_objects(keychain, authenticator_for(keychain))
            run(output, server.url, auth=keychain, fails=RegistryError)
            output.record_objects(keychain, keychain.credential(server.host, None))
        except RegistryError as error:
            output.record_error(error)

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("kind", [DockerConfigKeychain, AuthFileKeychain])
    def test_files(self, output: Output, start_registry: Start, tmp_path: Path, name: str, kind: Any) -> None:
        """R-043, R-045."""
        server = start_registry(lambda received: Reply(401, headers=(("WWW-Authenticate", 'Basic realm="r"'),)))
        path = tmp_path / "config.json"
        path.write_text(files(output, server.host)[name])

        self._use(output, server, lambda: kind(path))
        self._use(output, server, lambda: ChainKeychain(kind(path), MemoryKeychain()))

        assert set(FILES) == set(files(output, server.host))
        assert output.leaks() == []

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("coded", [True, False])
    def test_texts(self, output: Output, start_registry: Start, name: str, coded: bool) -> None:
        """R-043."""
        server = start_registry(lambda received: Reply(401, headers=(("WWW-Authenticate", 'Basic realm="r"'),)))
        text = files(output, server.host)[name]

        self._use(output, server, lambda: TextKeychain(base64.b64encode(text.encode()) if coded else text))

        assert output.leaks() == []

    @pytest.mark.parametrize(
        "variables",
        [
            {"USERNAME": "user", "PASSWORD": "in-a-variable-1"},
            {"IDENTITY_TOKEN": "in-a-variable-1"},
            {"TOKEN": "in-a-variable-1"},
            {"TOKEN": "in-a-variable-1\n"},
            {"PASSWORD": "in-a-variable-1"},
            {"TOKEN": "in-a-variable-1", "PASSWORD": "in-a-variable-1", "USERNAME": "user"},
        ],
        ids="-".join,
    )
    @pytest.mark.parametrize("named", [True, False])
    def test_variables(
        self,
        output: Output,
        start_registry: Start,
        variables: dict[str, str],
        named: bool,
    ) -> None:
        """R-043."""
        output.secret("in-a-variable-1", user="user")
        server = start_registry(lambda received: Reply(401, headers=(("WWW-Authenticate", 'Basic realm="r"'),)))
        found = {f"OCIPORT_{name}": value for name, value in variables.items()}
        found |= {"OCIPORT_REGISTRY": server.host} if named else {}

        self._use(output, server, lambda: EnvironmentKeychain(found))

        assert output.leaks() == []

    @pytest.mark.parametrize("tail", ["}", "", "} trailing"])
    @pytest.mark.parametrize("code", ["0", "1"])
    def test_helpers(self, output: Output, start_registry: Start, tmp_path: Path, tail: str, code: str) -> None:
        """R-043, R-044."""
        secret = output.secret("what-a-helper-says-1", user="user")
        server = start_registry(lambda received: Reply(401, headers=(("WWW-Authenticate", 'Basic realm="r"'),)))
        program = tmp_path / "docker-credential-mine"
        program.write_text(HELPER.replace("SECRET", secret))
        program.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TAIL": tail, "CODE": code}
        config = tmp_path / "config.json"
        config.write_text('{"credsStore": "mine"}')

        self._use(output, server, lambda: HelperKeychain("mine", environment=environment))
        self._use(output, server, lambda: DockerConfigKeychain(config, environment=environment))

        assert server.has_received("Basic ") is (tail == "}" and code == "0")
        assert output.leaks() == []


class TestContainer:
    def test_a_container_and_its_objects(self, output: Output, start_registry: Start) -> None:
        """R-043."""
        password = output.secret("pass-word-1", user="user")
        proxied = output.secret("proxy-pass-1", user="user")
        server = start_registry(lambda received: None)
        container = configured(
            {
                "backend": "http",
                "http": {"registry": server.host, "plain_http": True, "proxy": f"http://user:{proxied}@127.0.0.1:1"},
            }
        )
        container.keychain.override(Basic("user", password))
        container.observer.override(output)

        client = container.client().with_segment("app")
        output.record_objects(container, container.settings(), container.keychain(), container.catalog(), client)
        with pytest.raises(TransportError) as caught:
            client.get_image("v1")
        output.record_error(caught.value)
        close(container)

        assert "RequestCompleted" in output.kinds
        assert output.leaks() == []
