"""What is secret stays secret: no log, event, repr, error or pickle of any run has a secret in it (R-043)."""

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
from registry_adapters.auth import authenticator
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


class Evidence(Observer):
    """Everything that a run shows to anyone, as text, by where it was shown."""

    def __init__(self) -> None:
        self.secrets: set[str] = set()
        self.shown: list[tuple[str, str]] = []
        self.kinds: set[str] = set()
        self.records = 0

    def secret(self, text: str, *, user: str = "") -> str:
        """A secret to look for, in whatever way it may be written."""
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
        self.show(f"event {type(event).__name__}", repr(event), str(event), encoded, pickled)

    def log(self, record: logging.LogRecord) -> None:
        """A log record, with all that a handler might make of it."""
        self.records += 1
        self.show(
            f"log {record.name}",
            record.getMessage(),
            repr(record.args),
            logging.Formatter().format(record),
            repr(record.__dict__),
        )

    def see(self, *things: object) -> None:
        """Objects that a program may print or pickle."""
        for thing in things:
            name = f"object {type(thing).__name__}"
            self.show(name, repr(thing), str(thing), f"{thing}", repr([thing]))
            rich = getattr(thing, "__rich_repr__", None)
            if callable(rich):
                self.show(f"rich {name}", repr(list(rich())))
            for protocol in (0, pickle.HIGHEST_PROTOCOL):
                with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError):
                    self.show(f"pickled {name}", pickle.dumps(thing, protocol).decode("latin-1"))

    def catch(self, error: BaseException) -> None:
        """An error, and all behind it."""
        self.show("traceback", "".join(traceback.format_exception(error)))
        waiting: list[BaseException | None] = [error]
        seen: set[int] = set()
        while waiting:
            one = waiting.pop()
            if one is None or id(one) in seen:
                continue
            seen.add(id(one))
            name = f"error {type(one).__name__} behind {type(error).__name__}"
            self.show(name, str(one), repr(one), repr(one.args), repr(getattr(one, "__notes__", ())))
            waiting += [one.__cause__, one.__context__, getattr(one, "transport", None)]
            waiting += [part for part in one.args if isinstance(part, BaseException)]
            if isinstance(one, RegistryError):
                self.show(f"attributes of {name}", repr(vars(one)))
                self.show(f"pickled {name}", pickle.dumps(one, 0).decode("latin-1"))

    def leaks(self) -> list[str]:
        """Where a secret was shown."""
        found = [
            f"{place}: {secret!r} in {text[:2000]!r}"
            for place, text in self.shown
            for secret in self.secrets
            if secret in text
        ]
        return list(dict.fromkeys(found))

    def show(self, place: str, *texts: str) -> None:
        """Texts that were shown somewhere."""
        self.shown.extend((place, text) for text in texts)


@pytest.fixture
def evidence() -> Iterator[Evidence]:
    """Collects what every logger says at any level, until the test is over."""
    made = Evidence()

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            made.log(record)

    keeper = Keeper(1)
    names = ["", *logging.root.manager.loggerDict, "registry_adapters.http", "urllib3.connectionpool"]
    loggers = [logging.getLogger(name) for name in dict.fromkeys(names)]
    before = [(logger, logger.level, logger.disabled) for logger in loggers]
    for logger in loggers:
        logger.setLevel(1)
        logger.disabled = False
        if not logger.propagate or logger is logging.root:
            logger.addHandler(keeper)
    yield made
    for logger, level, disabled in before:
        logger.setLevel(level)
        logger.disabled = disabled
        logger.removeHandler(keeper)


class Asked(NamedTuple):
    """A request; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Said(NamedTuple):
    """An answer; one that is cut promises more than it has."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    cut: bool = False


Script = Callable[[Asked], Said | None]


class Peer(ThreadingHTTPServer):
    """A registry with one image, that does whatever its script says, and notes what it was asked."""

    daemon_threads = False

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.host = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.host}"
        self.script = script
        self.asked: list[Asked] = []

    def answer(self, asked: Asked) -> Said:
        self.asked.append(asked)
        return self.script(asked) or _registry(asked)

    def got(self, text: str) -> bool:
        """Whether anything of a text has arrived here."""
        return any(text in f"{one.path} {one.headers} {one.body!r}" for one in self.asked)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may leave when they like."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Peer

    def log_message(self, *arguments: Any) -> None:
        """Keep quiet."""

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        said = self.server.answer(Asked(self.command, self.path, headers, body))
        self.send_response(said.status)
        for name, value in said.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(said.body) + (100 if said.cut else 0)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said.body)
        self.close_connection = self.close_connection or said.cut

    def __getattr__(self, name: str) -> Callable[[], None]:
        if not name.startswith("do_"):
            raise AttributeError(name)
        return self._any


def _registry(asked: Asked) -> Said:
    path = asked.path.partition("?")[0]
    if "/manifests/" in path and asked.method in ("GET", "HEAD"):
        headers = (("Content-Type", IMAGE.media_type), ("Docker-Content-Digest", IMAGE.digest))
        return Said(200, IMAGE.raw, headers)
    for content, digest in ((LAYER, IMAGE.layers()[0].digest), (CONFIG, IMAGE.manifest().config.digest)):
        if path.endswith(f"/blobs/{digest}") and asked.method == "GET":
            return Said(200, content)
    if path.endswith("/blobs/uploads/") and asked.method == "POST":
        return Said(202, headers=(("Location", "/v2/app/blobs/uploads/1"),))
    return Said(201) if asked.method == "PUT" else Said(404)


@pytest.fixture
def peer() -> Iterator[Callable[[Script], Peer]]:
    """Starts servers."""
    running: list[tuple[Peer, threading.Thread]] = []

    def start(script: Script) -> Peer:
        server = Peer(script)
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
    """Read an image whole."""
    image = client.get_image("v1")
    image.config()
    with image.layers()[0].open() as reader:
        while reader.read(1 << 16):
            continue


def push(client: RegistryClient) -> None:
    """Store a blob."""
    push_blob(client.repository, b"some content")


def run(
    evidence: Evidence,
    url: str,
    work: Callable[[RegistryClient], object] = pull,
    *,
    fails: type[RegistryError] | None = None,
    **settings: Any,
) -> None:
    """Do some work at a registry and keep all there is to see of it."""
    settings = {"retries": 0, "backoff": 0.001, **settings}
    with open_client(f"{url}/app", observer=evidence, **settings) as client:
        evidence.see(client, client.catalog, client.repository, client.repository.blobs, client.repository.manifests)
        evidence.see(vars(client), vars(client.catalog))
        if fails is None:
            work(client)
        else:
            with pytest.raises(fails) as caught:
                work(client)
            evidence.catch(caught.value)
        evidence.see(client, client.catalog, vars(client), vars(client.catalog))


def bearer(realm: str) -> Script:
    """A registry that asks for tokens; its own token server is beside it."""

    def script(asked: Asked) -> Said | None:
        if asked.headers.get("authorization", "").startswith("Bearer "):
            return None
        challenge = f'Bearer realm="{realm}",service="registry",scope="repository:app:pull"'
        return Said(401, headers=(("WWW-Authenticate", challenge),))

    return script


class TestTheSearchItself:
    @pytest.mark.parametrize("form", ["hunter+/2", "hunter%2B%2F2", "dXNlcjpodW50ZXIrLzI"])
    def test_a_secret_that_is_logged_is_found(self, evidence: Evidence, form: str) -> None:
        evidence.secret("hunter+/2", user="user")

        logging.getLogger("urllib3.connectionpool").debug("asked with %s", form)

        assert len(evidence.leaks()) >= 1

    def test_a_secret_behind_an_error_is_found(self, evidence: Evidence) -> None:
        evidence.secret("hunter2")

        try:
            try:
                raise ValueError("hunter2")
            except ValueError as error:
                raise Unavailable("cut") from error
        except Unavailable as error:
            evidence.catch(error)

        assert evidence.leaks() != []

    def test_a_secret_in_an_event_is_found(self, evidence: Evidence) -> None:
        evidence.secret("hunter2")
        evidence.on(WarningReceived(registry="r", text="hunter2"))

        assert evidence.leaks() != []


class TestPasswords:
    @pytest.mark.parametrize("guard", [BasicAuthorizer, TokenAuthorizer])
    @pytest.mark.parametrize("right", [True, False])
    def test_passwords(self, evidence: Evidence, guard: Any, right: bool) -> None:
        """R-043."""
        password = evidence.secret("pass-wörd+/?&=1", user="user")
        auth = Basic("user", password if right else evidence.secret("wrong-wörd+/2", user="user"))

        with registry_server(MemoryCatalog(), authorizer=guard({"user": password})) as server:
            evidence.see(server, server.app, auth, StaticKeychain({server.host: auth}), authenticator(auth))
            for each in (auth, StaticKeychain({server.host: auth}), authenticator(auth)):
                run(
                    evidence,
                    server.url,
                    lambda client: client.push_image("v1", IMAGE),
                    auth=each,
                    fails=None if right else Unauthorized,
                )

        assert "RequestCompleted" in evidence.kinds
        assert evidence.leaks() == []

    @pytest.mark.parametrize("status", [403, 500, 503])
    def test_passwords_that_do_not_help(self, evidence: Evidence, peer: Callable[[Script], Peer], status: int) -> None:
        """R-043."""
        password = evidence.secret("pass-word-1", user="user")

        def script(asked: Asked) -> Said:
            if "authorization" in asked.headers:
                return Said(status, headers=(("Warning", '299 - "read the news"'),))
            return Said(401, headers=(("WWW-Authenticate", 'Basic realm="r"'),))

        server = peer(script)
        kind = Forbidden if status == 403 else TransportError
        run(evidence, server.url, auth=Basic("user", password), fails=kind, retries=1)

        assert server.got("Basic ")
        assert evidence.leaks() == []

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
    @pytest.mark.parametrize("kind", ["basic", "token"])
    def test_a_registry_that_repeats_what_it_was_shown(
        self, evidence: Evidence, peer: Callable[[Script], Peer], status: int, kind: str
    ) -> None:
        """R-043."""
        secret = evidence.secret("pass-word-1", user="user")

        def script(asked: Asked) -> Said:
            shown = asked.headers.get("authorization", "")
            if not shown:
                return Said(401, headers=(("WWW-Authenticate", 'Basic realm="r"'),))
            entry = {"code": "DENIED", "message": f"who is {shown}?", "detail": {"header": shown}}
            return Said(status, msgspec.json.encode({"errors": [entry]}))

        auth = Basic("user", secret) if kind == "basic" else RegistryToken(secret)
        run(evidence, peer(script).url, auth=auth, fails=RegistryError)

        assert any("who is" in text for _, text in evidence.shown)
        assert evidence.leaks() == []

    def test_a_password_that_no_header_can_carry(self, evidence: Evidence, peer: Callable[[Script], Peer]) -> None:
        """R-043."""
        password = evidence.secret("pass\nword")
        server = peer(lambda asked: Said(401, headers=(("WWW-Authenticate", 'Basic realm="r"'),)))

        run(evidence, server.url, auth=Basic("us:er", password), fails=RegistryError)

        assert evidence.leaks() == []


class TestTokens:
    @pytest.mark.parametrize("work", [pull, push])
    def test_tokens_and_what_they_are_traded_for(
        self, evidence: Evidence, peer: Callable[[Script], Peer], work: Callable[[RegistryClient], object]
    ) -> None:
        """R-043."""
        identity, token, refresh = (evidence.secret(f"{kind}-tök/en+1".replace("ö", "o")) for kind in "irt")

        def tokens(asked: Asked) -> Said:
            return Said(200, msgspec.json.encode({"access_token": token, "refresh_token": refresh, "expires_in": 60}))

        issuer = peer(tokens)
        server = peer(bearer(f"{issuer.url}/token"))
        run(evidence, server.url, work, auth=IdentityToken(identity))

        assert issuer.got(quote(identity, safe=""))
        assert server.got(token)
        assert evidence.leaks() == []

    @pytest.mark.parametrize(
        "reply",
        [
            Said(401),
            Said(403, b'{"details": "no"}'),
            Said(400, b'{"error": "invalid_grant"}'),
            Said(500),
            Said(200, b'{"token": ""}'),
            Said(200, b'{"token": "hidden-token-1 with spaces"}'),
            Said(200, b'{"token": "hidden-token-1\\n"}'),
            Said(200, b'{"token": "hidden-token-1"'),
            Said(200, b'["hidden-token-1"]'),
            Said(200, b'{"token": {"hidden-token-1": 1}}'),
            Said(200, b'{"token": "hidden-token-1"', cut=True),
            Said(302, headers=(("Location", "/elsewhere?code=hidden-token-1"),)),
        ],
        ids=lambda said: f"{said.status}-{said.body[:24]!r}",
    )
    @pytest.mark.parametrize("kind", [Basic, IdentityToken])
    def test_token_servers_that_fail(
        self, evidence: Evidence, peer: Callable[[Script], Peer], reply: Said, kind: type[Basic] | type[IdentityToken]
    ) -> None:
        """R-043."""
        evidence.secret("hidden-token-1")
        secret = evidence.secret("what-is-traded+1", user="user")
        auth = Basic("user", secret) if kind is Basic else IdentityToken(secret)

        issuer = peer(lambda asked: reply)
        server = peer(bearer(f"{issuer.url}/token?tenant={evidence.secret('in-the-realm-1')}"))
        run(evidence, server.url, auth=auth, fails=RegistryError)

        assert issuer.asked
        assert evidence.leaks() == []

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
    def test_realms_that_nothing_is_sent_to(
        self, evidence: Evidence, peer: Callable[[Script], Peer], realm: str
    ) -> None:
        """R-035, R-043."""
        evidence.secret("in-the-realm-1")
        server = peer(bearer(realm))

        run(evidence, server.url, auth=Basic("user", evidence.secret("pass-word-1", user="user")), fails=RegistryError)

        assert evidence.leaks() == []

    @pytest.mark.parametrize("accepted", [True, False])
    def test_registry_tokens(self, evidence: Evidence, peer: Callable[[Script], Peer], accepted: bool) -> None:
        """R-043."""
        token = evidence.secret("registry.token+1")

        def script(asked: Asked) -> Said | None:
            return None if accepted else Said(401, headers=(("WWW-Authenticate", 'Bearer realm="http://x.y/"'),))

        server = peer(script)
        evidence.see(RegistryToken(token), authenticator(RegistryToken(token)))
        run(evidence, server.url, auth=RegistryToken(token), fails=None if accepted else Unauthorized)

        assert server.got(token)
        assert evidence.leaks() == []

    def test_a_token_that_no_header_can_carry(self, evidence: Evidence) -> None:
        """R-039, R-043."""
        with pytest.raises(ConfigError) as caught:
            open_client("registry.example.com", auth=RegistryToken(evidence.secret("to ken-1\n")))
        evidence.catch(caught.value)

        assert evidence.leaks() == []

    def test_what_passes_between_authenticator_and_session(self, evidence: Evidence) -> None:
        """R-043."""
        secret = evidence.secret("in-between-1")
        asked = TokenRequest(
            method="POST",
            url=f"https://a.example.com/token?k={secret}",
            headers={"Authorization": secret},
            body=secret.encode(),
        )

        evidence.see(asked, TokenReply(status=200, content=secret.encode()))

        assert evidence.leaks() == []


class TestURLs:
    @pytest.mark.parametrize("failure", [None, "403", "500", "cut", "404", "echo"])
    def test_signatures_of_where_blobs_are(
        self, evidence: Evidence, peer: Callable[[Script], Peer], failure: str | None
    ) -> None:
        """R-043."""
        signature = evidence.secret("sig/nature+1==")

        def store(asked: Asked) -> Said:
            if failure == "cut":
                return Said(200, LAYER[:10], cut=True)
            if failure == "echo":
                return Said(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
            return Said(int(failure)) if failure else Said(200, LAYER)

        cdn = peer(store)
        where = f"{cdn.url}/data?X-Amz-Signature={quote(signature, safe='')}"
        digest = IMAGE.layers()[0].digest
        server = peer(lambda asked: Said(307, headers=(("Location", where),)) if digest in asked.path else None)
        run(
            evidence,
            server.url,
            fails=RegistryError if failure else None,
            retries=1 if failure in ("500", "cut") else 0,
        )

        assert cdn.got(quote(signature, safe=""))
        assert evidence.records
        assert evidence.leaks() == []

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
    def test_redirects_that_are_refused(
        self, evidence: Evidence, peer: Callable[[Script], Peer], where: str, status: int
    ) -> None:
        """R-042, R-043."""
        evidence.secret("in-the-url-1")
        server = peer(lambda asked: Said(status, headers=(("Location", where),)))

        run(evidence, server.url, fails=TransportError)

        assert evidence.leaks() == []

    @pytest.mark.parametrize("said", [Said(201), Said(500), Said(404), Said(401), Said(403), Said(416)])
    @pytest.mark.parametrize("chunk_size", [None, 5])
    def test_upload_locations(
        self, evidence: Evidence, peer: Callable[[Script], Peer], said: Said, chunk_size: int | None
    ) -> None:
        """R-043."""
        state = evidence.secret("sta/te+1==")
        where = f"/v2/app/blobs/uploads/1?_state={quote(state, safe='')}"

        def script(asked: Asked) -> Said | None:
            if asked.method == "POST":
                return Said(202, headers=(("Location", where),))
            if asked.method == "PATCH" and said.status == 201:
                end = int(asked.headers["content-range"].partition("-")[2])
                return Said(202, headers=(("Location", where), ("Range", f"0-{end}")))
            return said if asked.method in ("PUT", "PATCH") else None

        server = peer(script)
        fails = None if said.status == 201 else RegistryError
        run(evidence, server.url, push, fails=fails, chunk_size=chunk_size)

        assert server.got(quote(state, safe=""))
        assert evidence.leaks() == []

    @pytest.mark.parametrize(
        "where", ["http://user:in-the-url-1@127.0.0.1/x", "http://10.0.0.1/x?s=in-the-url-1", "ftp://x?in-the-url-1"]
    )
    def test_upload_locations_that_are_refused(
        self, evidence: Evidence, peer: Callable[[Script], Peer], where: str
    ) -> None:
        """R-033, R-043."""
        evidence.secret("in-the-url-1")
        server = peer(lambda asked: Said(202, headers=(("Location", where),)) if asked.method == "POST" else None)

        run(evidence, server.url, push, fails=RegistryError)

        assert evidence.leaks() == []

    @pytest.mark.parametrize(
        "link", ["<http://10.0.0.1/?t=in-the-url-1>; rel=next", "<ftp://x/?in-the-url-1>; rel=next"]
    )
    def test_links_that_are_refused(self, evidence: Evidence, peer: Callable[[Script], Peer], link: str) -> None:
        """R-034, R-043."""
        evidence.secret("in-the-url-1")
        server = peer(lambda asked: Said(200, b'{"name": "app", "tags": ["a"]}', (("Link", link),)))

        run(evidence, server.url, lambda client: client.list_tags(), fails=ProtocolError)

        assert evidence.leaks() == []

    def test_a_url_with_a_password_is_refused_without_repeating_it(self, evidence: Evidence) -> None:
        """R-043."""
        evidence.secret("in-the-url-1")
        for url in (
            "https://user:in-the-url-1@registry.example.com",
            "user:in-the-url-1@registry.example.com/app",
            "https://registry.example.com?token=in-the-url-1",
            "nowhere://user:in-the-url-1@x",
            "oci://user:in-the-url-1@x",
        ):
            with pytest.raises(RegistryError) as caught:
                open_client(url)
            evidence.catch(caught.value)

        assert evidence.leaks() == []


class TestProxies:
    @pytest.mark.parametrize("kind", ["407", "dead", "works", "500"])
    @pytest.mark.parametrize("from_environment", [True, False])
    def test_passwords_of_proxies(
        self,
        evidence: Evidence,
        peer: Callable[[Script], Peer],
        monkeypatch: pytest.MonkeyPatch,
        kind: str,
        from_environment: bool,
    ) -> None:
        """R-043."""
        password = evidence.secret("proxy+/pass 1", user="user")
        proxy = peer(lambda asked: Said(int(kind)) if kind.isdigit() else None)
        port = 1 if kind == "dead" else proxy.server_port
        url = f"http://user:{quote(password, safe='')}@127.0.0.1:{port}"
        for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        if from_environment:
            monkeypatch.setenv("http_proxy", url)
        settings: dict[str, Any] = {} if from_environment else {"proxy": url}
        evidence.see(HttpSettings(**settings))

        run(evidence, "http://registry.example.com", fails=None if kind == "works" else TransportError, **settings)

        assert (kind == "dead") is not proxy.got(base64.b64encode(f"user:{password}".encode()).decode())
        assert evidence.leaks() == []

    def test_a_tunnel_that_is_refused(self, evidence: Evidence, peer: Callable[[Script], Peer]) -> None:
        """R-043."""
        password = evidence.secret("proxy-pass-1", user="user")
        proxy = peer(lambda asked: Said(500))

        run(
            evidence,
            "https://registry.example.com",
            proxy=f"http://user:{password}@{proxy.host}",
            fails=TransportError,
        )

        assert evidence.leaks() == []

    def test_settings_with_a_proxys_password_are_not_pickled(self) -> None:
        """R-043."""
        settings = HttpSettings(proxy="http://user:hunter2@proxy.example.com")

        with pytest.raises(TypeError) as caught:
            pickle.dumps(settings)

        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        "proxy", ["user:hunter2@host", "ftp://user:hunter2@host", "http://user:hunter2@:x", "http://hunter2@"]
    )
    def test_a_proxy_that_cannot_be_is_not_repeated(self, evidence: Evidence, proxy: str) -> None:
        """R-043."""
        evidence.secret("hunter2")
        with pytest.raises(ConfigError) as caught:
            HttpSettings(proxy=proxy)
        evidence.catch(caught.value)

        assert evidence.leaks() == []


class TestTLS:
    def test_a_registry_that_nobody_vouches_for(self, evidence: Evidence, tmp_path: Path) -> None:
        """R-043."""
        leaf = trustme.CA().issue_cert("127.0.0.1")
        leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
        leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
        password = evidence.secret("pass-word-1", user="user")

        with registry_server(
            MemoryCatalog(),
            authorizer=BasicAuthorizer({"user": password}),
            tls=(tmp_path / "cert.pem", tmp_path / "key.pem"),
        ) as server:
            run(evidence, server.url, auth=Basic("user", password), fails=TLSError)

        assert evidence.leaks() == []

    def test_a_key_that_is_broken(self, evidence: Evidence, tmp_path: Path) -> None:
        """R-043: the file's path may be told, what is in it may not."""
        key = tmp_path / "client.pem"
        key.write_text(f"-----BEGIN PRIVATE KEY-----\n{evidence.secret('aGlkZGVuIGtleQ')}\n-----END PRIVATE KEY-----\n")

        with pytest.raises(ConfigError) as caught:
            open_client("https://registry.example.com", client_cert=str(key))
        evidence.catch(caught.value)

        assert str(key) in str(caught.value)
        assert evidence.leaks() == []


class TestMiddleware:
    @pytest.mark.parametrize("status", [200, 401, 403, 500])
    def test_headers_that_a_middleware_adds(
        self, evidence: Evidence, peer: Callable[[Script], Peer], status: int
    ) -> None:
        """R-043."""
        key = evidence.secret("api-key+1")

        def signed(request: OutgoingRequest, send: Send) -> Response:
            wanted = request.with_headers({"X-Api-Key": key})
            evidence.see(request, wanted, wanted.headers)
            answer = send(wanted)
            evidence.see(answer)
            return answer

        server = peer(lambda asked: None if status == 200 else Said(status))
        run(evidence, server.url, middleware=[signed], fails=None if status == 200 else RegistryError)

        assert server.got(key)
        assert evidence.leaks() == []

    @pytest.mark.parametrize("name", ["X-Api-Key", "Host", "X Key", "Authorization"])
    def test_headers_that_cannot_be(self, evidence: Evidence, peer: Callable[[Script], Peer], name: str) -> None:
        """R-043."""
        key = evidence.secret("api-key+1")
        server = peer(lambda asked: None)

        run(
            evidence,
            server.url,
            middleware=[lambda request, send: send(request.with_headers({name: f"{key}\n"}))],
            fails=ConfigError,
        )

        assert server.asked == []
        assert evidence.leaks() == []


class TestTelemetry:
    def test_spans_and_metrics(self, evidence: Evidence, peer: Callable[[Script], Peer]) -> None:
        """R-043."""
        password = evidence.secret("pass-word+1", user="user")
        token = evidence.secret("token+1")
        signature = evidence.secret("sig/nature+1==")
        issuer = peer(lambda asked: Said(200, msgspec.json.encode({"token": token})))
        authorised = bearer(f"{issuer.url}/token?tenant={evidence.secret('in-the-realm-1')}")
        cdn = peer(lambda asked: Said(200, LAYER))
        where = f"{cdn.url}/data?X-Amz-Signature={quote(signature, safe='')}"
        digest = IMAGE.layers()[0].digest

        def script(asked: Asked) -> Said | None:
            return authorised(asked) or (Said(307, headers=(("Location", where),)) if digest in asked.path else None)

        server = peer(script)
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
            evidence.show(f"span {span.name}", span.to_json())
        evidence.show("metrics", metrics.to_json() if metrics else "")
        assert {"GET", "ociport.token"} <= {span.name for span in spans}
        assert cdn.got(quote(signature, safe=""))
        assert evidence.leaks() == []


class TestLogin:
    @pytest.mark.parametrize("right", [True, False])
    def test_what_is_proved_and_kept(self, evidence: Evidence, tmp_path: Path, right: bool) -> None:
        """R-043."""
        password = evidence.secret("pass-word+1", user="user")
        credential = Basic("user", password if right else evidence.secret("wrong-word+1", user="user"))
        keychain = DockerConfigKeychain(tmp_path / "config.json")

        with registry_server(MemoryCatalog(), authorizer=BasicAuthorizer({"user": password})) as server:
            if right:
                login(server.url, credential, keychain=keychain, observer=evidence)
            else:
                with pytest.raises(Unauthorized) as caught:
                    login(server.url, credential, keychain=keychain, observer=evidence)
                evidence.catch(caught.value)
            evidence.see(keychain, keychain.credential(server.host, None))

        assert (keychain.credential(server.host, None) == credential) is right
        assert evidence.leaks() == []

    @pytest.mark.parametrize("kept", ["no json: kept-before-1", '{"auths": "kept-before-1"}', '["kept-before-1"]'])
    def test_a_file_that_cannot_be_kept_in(self, evidence: Evidence, tmp_path: Path, kept: str) -> None:
        """R-043."""
        evidence.secret("kept-before-1")
        password = evidence.secret("pass-word+1", user="user")
        path = tmp_path / "config.json"
        path.write_text(kept)

        with registry_server(MemoryCatalog(), authorizer=BasicAuthorizer({"user": password})) as server:
            with pytest.raises(ConfigError) as caught:
                login(server.url, Basic("user", password), keychain=DockerConfigKeychain(path))
        evidence.catch(caught.value)

        assert evidence.leaks() == []


HELPER = """#!/bin/sh
cat > /dev/null
echo '{"ServerURL": "r", "Username": "user", "Secret": "SECRET"'"$TAIL"
echo "SECRET" >&2
exit $CODE
"""


def files(evidence: Evidence, host: str) -> dict[str, str]:
    """Docker configurations by what is special about them, each with a secret."""
    secret = evidence.secret("kept-in-a-file+1", user="user")
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
    whole = texts["plain"]
    return {
        **texts,
        "cut": whole[:-1],
        "a list": f"[{whole}]",
        "no json": f"password = {secret}",
        "twice": f"{whole}{whole}",
        "auths is a list": msgspec.json.encode({"auths": [secret]}).decode(),
        "entry is text": msgspec.json.encode({"auths": {host: secret}}).decode(),
    }


FILES = [
    *("auth", "plain", "identity", "registry", "spaced", "colonless", "not base64", "number", "unprintable"),
    *("cut", "a list", "no json", "twice", "auths is a list", "entry is text"),
]


class TestKeychains:
    def _use(self, evidence: Evidence, server: Peer, make: Callable[[], Keychain]) -> None:
        """Build a keychain, and let a client ask it; either may fail."""
        try:
            keychain = make()
            evidence.see(keychain, authenticator(keychain))
            run(evidence, server.url, auth=keychain, fails=RegistryError)
            evidence.see(keychain, keychain.credential(server.host, None))
        except RegistryError as error:
            evidence.catch(error)

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("kind", [DockerConfigKeychain, AuthFileKeychain])
    def test_files(
        self, evidence: Evidence, peer: Callable[[Script], Peer], tmp_path: Path, name: str, kind: Any
    ) -> None:
        """R-043, R-045."""
        server = peer(lambda asked: Said(401, headers=(("WWW-Authenticate", 'Basic realm="r"'),)))
        path = tmp_path / "config.json"
        path.write_text(files(evidence, server.host)[name])

        self._use(evidence, server, lambda: kind(path))
        self._use(evidence, server, lambda: ChainKeychain(kind(path), MemoryKeychain()))

        assert set(FILES) == set(files(evidence, server.host))
        assert evidence.leaks() == []

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("coded", [True, False])
    def test_texts(self, evidence: Evidence, peer: Callable[[Script], Peer], name: str, coded: bool) -> None:
        """R-043."""
        server = peer(lambda asked: Said(401, headers=(("WWW-Authenticate", 'Basic realm="r"'),)))
        text = files(evidence, server.host)[name]

        self._use(evidence, server, lambda: TextKeychain(base64.b64encode(text.encode()) if coded else text))

        assert evidence.leaks() == []

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
        self, evidence: Evidence, peer: Callable[[Script], Peer], variables: dict[str, str], named: bool
    ) -> None:
        """R-043."""
        evidence.secret("in-a-variable-1", user="user")
        server = peer(lambda asked: Said(401, headers=(("WWW-Authenticate", 'Basic realm="r"'),)))
        found = {f"OCIPORT_{name}": value for name, value in variables.items()}
        found |= {"OCIPORT_REGISTRY": server.host} if named else {}

        self._use(evidence, server, lambda: EnvironmentKeychain(found))

        assert evidence.leaks() == []

    @pytest.mark.parametrize("tail", ["}", "", "} trailing"])
    @pytest.mark.parametrize("code", ["0", "1"])
    def test_helpers(
        self, evidence: Evidence, peer: Callable[[Script], Peer], tmp_path: Path, tail: str, code: str
    ) -> None:
        """R-043, R-044."""
        secret = evidence.secret("what-a-helper-says-1", user="user")
        server = peer(lambda asked: Said(401, headers=(("WWW-Authenticate", 'Basic realm="r"'),)))
        program = tmp_path / "docker-credential-mine"
        program.write_text(HELPER.replace("SECRET", secret))
        program.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TAIL": tail, "CODE": code}
        config = tmp_path / "config.json"
        config.write_text('{"credsStore": "mine"}')

        self._use(evidence, server, lambda: HelperKeychain("mine", environment=environment))
        self._use(evidence, server, lambda: DockerConfigKeychain(config, environment=environment))

        assert server.got("Basic ") is (tail == "}" and code == "0")
        assert evidence.leaks() == []


class TestContainer:
    def test_a_container_and_what_is_in_it(self, evidence: Evidence, peer: Callable[[Script], Peer]) -> None:
        """R-043."""
        password = evidence.secret("pass-word-1", user="user")
        proxied = evidence.secret("proxy-pass-1", user="user")
        server = peer(lambda asked: None)
        container = configured(
            {
                "backend": "http",
                "http": {"registry": server.host, "plain_http": True, "proxy": f"http://user:{proxied}@127.0.0.1:1"},
            }
        )
        container.keychain.override(Basic("user", password))
        container.observer.override(evidence)

        client = container.client().with_segment("app")
        evidence.see(container, container.settings(), container.keychain(), container.catalog(), client)
        with pytest.raises(TransportError) as caught:
            client.get_image("v1")
        evidence.catch(caught.value)
        close(container)

        assert "RequestCompleted" in evidence.kinds
        assert evidence.leaks() == []
