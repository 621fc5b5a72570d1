"""Registries that hide content from anonymous requests behind 404 or 403, and show a challenge at ``/v2/`` only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest

from registry_adapters.auth import authenticator_for
from registry_adapters.http import HttpCatalog, HttpSettings
from registry_adapters.http.messages import Request
from registry_adapters.http.session import Session
from registry_adapters.http.transport.wsgi_transport import WsgiTransport
from registry_adapters.keychains import StaticKeychain
from registry_adapters.memory import MemoryCatalog
from registry_adapters.wsgi import Authorizer, BasicAuthorizer, RegistryApp, TokenAuthorizer
from registry_core import ImageBuilder, RegistryClient
from registry_core.content.streams import BytesSource
from registry_core.domain.auth import Anonymous, Basic, Credential, RegistryToken, Scope
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.origin import Origin
from registry_core.errors import (
    ConfigError,
    Forbidden,
    ImageNotFound,
    NotFound,
    Unauthorized,
    Unavailable,
)
from registry_core.ports.keychain import Keychain

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import Reply, ScriptedTransport

    MakeTransport = Callable[..., ScriptedTransport]
    MakeReply = Callable[..., Reply]

ORIGIN = Origin.of("registry.test")
USER = Basic("user", "hunter2")
IMAGE = ImageBuilder(platform="linux/amd64").add_files({"a": b"1"}).build()
CHALLENGE = {"WWW-Authenticate": 'Basic realm="registry"'}
BLOB = b"blob"
DIGEST = Digest.of(BLOB)


class HidingRegistry:
    """Answers anonymous requests by one status, except for ``/v2/``; records all requests."""

    def __init__(self, status: int, authorizer: Authorizer) -> None:
        self.catalog = MemoryCatalog("registry.test")
        self._app: WSGIApplication = RegistryApp(self.catalog, authorizer=authorizer)
        self._status = f"{status} Hidden"
        self.seen: list[tuple[str, str, bool]] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        self.seen.append((environ["REQUEST_METHOD"], path, "HTTP_AUTHORIZATION" in environ))

        if "HTTP_AUTHORIZATION" not in environ and path not in ("/v2/", "/token"):
            start_response(self._status, [("Content-Type", "text/plain")])
            return []
        return self._app(environ, start_response)

    def connect(self, auth: Credential | Keychain | None = USER) -> HttpCatalog:
        authenticator = authenticator_for(auth, registry=ORIGIN)
        settings = HttpSettings(retries=0)
        return HttpCatalog("registry.test", settings, authenticator=authenticator, transport=WsgiTransport(self))

    @property
    def looks(self) -> int:
        return sum(path == "/v2/" for _, path, _ in self.seen)


@pytest.fixture(params=[(404, "basic"), (403, "basic"), (404, "bearer"), (403, "bearer")], ids=str)
def registry(request: pytest.FixtureRequest) -> Iterator[HidingRegistry]:
    status, scheme = request.param
    users = {USER.username: USER.password}
    registry = HidingRegistry(status, BasicAuthorizer(users) if scheme == "basic" else TokenAuthorizer(users))
    direct = RegistryClient(registry.catalog)
    direct.with_segment("org", "app").push_image("v1", IMAGE)
    registry.catalog.repository(RepositoryName("org/app")).blobs.put(DIGEST, len(BLOB), BytesSource(BLOB))
    yield registry
    registry.catalog.close()


def attach(app: RegistryClient) -> bool:
    signature = app.attach("v1", [], artifact_type="application/vnd.example.signature").digest
    return [found.digest for found in app.list_referrers("v1")] == [signature]


def is_left(app: RegistryClient, digest: Digest) -> bool:
    try:
        app.repository.manifests.get(digest)
    except NotFound:
        return False
    return True


def delete_tag(app: RegistryClient) -> bool:
    digest = IMAGE.digest
    app.delete_tag("v1")
    return not app.image_exists("v1") and is_left(app, digest)


def delete_manifest(app: RegistryClient) -> bool:
    app.delete_by_digest(IMAGE.digest)
    return not is_left(app, IMAGE.digest)


def delete_blob(app: RegistryClient) -> bool:
    app.repository.blobs.delete(DIGEST)
    with pytest.raises(NotFound):
        app.repository.blobs.stat(DIGEST)
    return True


def put_blob(app: RegistryClient) -> bool:
    app.repository.blobs.put(Digest.of(b"new"), 3, BytesSource(b"new"))
    return app.repository.blobs.stat(Digest.of(b"new")) == 3


OPERATIONS: dict[str, Callable[[RegistryClient], object]] = {
    "image_exists": lambda app: app.image_exists("v1"),
    "get_image": lambda app: app.get_image("v1").open_file("a").read() == b"1",
    "get_digest": lambda app: app.get_digest("v1"),
    "list_tags": lambda app: app.list_tags() == ["v1"],
    "list_repositories": lambda app: list(app.catalog.repositories()) == ["org/app"],
    "push_image": lambda app: app.push_image("v2", IMAGE),
    "tag_image": lambda app: app.tag_image("v1", "v2"),
    "attach": attach,
    "delete_tag": delete_tag,
    "delete_by_digest": delete_manifest,
    "stat": lambda app: app.repository.blobs.stat(DIGEST) == 4,
    "open": lambda app: app.repository.blobs.open(DIGEST, start=1).read() == b"lob",
    "put": put_blob,
    "delete": delete_blob,
    "resolve": lambda app: app.repository.manifests.resolve(Tag("v1")),
    "referrers": lambda app: list(app.repository.manifests.referrers(DIGEST)) == [],
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_sees_what_is_hidden_from_the_anonymous(registry: HidingRegistry, operation: str) -> None:
    """R-048: with one look at ``/v2/``."""
    with closing(registry.connect()) as catalog:
        assert OPERATIONS[operation](RegistryClient(catalog).with_segment("org", "app"))

    assert registry.looks == 1


def test_a_blob_is_mounted(registry: HidingRegistry) -> None:
    """R-048: the source is hidden too."""
    with closing(registry.connect()) as catalog:
        target = catalog.repository(RepositoryName("org/other")).blobs

        assert target.mount(DIGEST, RepositoryName("org/app"))


def test_one_look_serves_all_repositories_and_threads(registry: HidingRegistry) -> None:
    """R-048: the threads wait for it."""
    with closing(registry.connect()) as catalog, ThreadPoolExecutor(8) as pool:
        client = RegistryClient(catalog)
        names = ["org/app", "absent/app"] * 8
        found = list(pool.map(lambda name: client.with_segment(*name.split("/")).image_exists("v1"), names))

    assert found == [True, False] * 8
    assert registry.looks == 1


@pytest.mark.parametrize("auth", [None, Anonymous(), StaticKeychain({"other.test": USER})])
def test_nothing_is_asked_without_a_credential(registry: HidingRegistry, auth: Credential | Keychain | None) -> None:
    """R-048: the response is the result."""
    with closing(registry.connect(auth)) as catalog, pytest.raises((NotFound, Forbidden)):
        RegistryClient(catalog).with_segment("org", "app").list_tags()

    assert [path for _, path, _ in registry.seen] == ["/v2/org/app/tags/list"]


def test_a_wrong_password_is_an_error_and_not_an_absent_image(registry: HidingRegistry) -> None:
    """R-048."""
    with closing(registry.connect(Basic("user", "wrong"))) as catalog, pytest.raises(Unauthorized):
        RegistryClient(catalog).with_segment("org", "app").image_exists("v1")


class CountingKeychain(Keychain):
    """A keychain without credentials that counts the questions."""

    def __init__(self) -> None:
        self.asked = 0

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        self.asked += 1
        return None


def test_a_keychain_without_a_credential_is_asked_once_a_minute_for_a_repository(
    scripted: MakeTransport, reply: MakeReply
) -> None:
    """R-048: it may run a program."""
    keychain = CountingKeychain()
    transport = scripted(*[reply(404)] * 3)
    session = Session(ORIGIN, HttpSettings(), transport=transport, authenticator=authenticator_for(keychain))

    for _ in range(3):
        with pytest.raises(NotFound):
            session.send(request_for())

    assert (keychain.asked, len(transport.sent)) == (1, 3)


class UnreadableKeychain(Keychain):
    """A keychain whose source cannot be read, such as a credential helper that is not installed."""

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        raise ConfigError("credential helper docker-credential-desktop: no such program")


def test_credentials_that_cannot_be_read_do_not_hinder_the_use_of_an_open_registry(
    scripted: MakeTransport, reply: MakeReply
) -> None:
    """R-048: an absent image is absent."""
    session = open_session(scripted(reply(404), reply(200)), UnreadableKeychain())

    with pytest.raises(ImageNotFound):
        session.send(request_for())


def test_credentials_that_cannot_be_read_are_the_error_where_they_are_needed(
    scripted: MakeTransport, reply: MakeReply
) -> None:
    """R-048."""
    session = open_session(scripted(reply(404), reply(401, CHALLENGE)), UnreadableKeychain())

    with pytest.raises(ConfigError, match="docker-credential-desktop"):
        session.send(request_for())


def request_for(method: str = "GET", target: str = "/v2/a/b/manifests/v1", **more: Any) -> Request:
    scopes = (Scope.repository(RepositoryName("a/b"), ["pull"]),)
    return Request(method=method, target=target, success=(200, 202), scopes=scopes, **more)


def open_session(transport: ScriptedTransport, auth: Credential | Keychain | None = USER, retries: int = 0) -> Session:
    settings = HttpSettings(retries=retries, backoff=0.001)
    return Session(ORIGIN, settings, transport=transport, authenticator=authenticator_for(auth, registry=ORIGIN))


def sent(transport: ScriptedTransport) -> list[tuple[str, bool]]:
    return [
        (f"{one.method} {one.url.removeprefix('https://registry.test')}", "Authorization" in one.headers)
        for one in transport.sent
    ]


@pytest.mark.parametrize(
    ("status", "headers"),
    [(200, {}), (404, {}), (403, CHALLENGE), (401, {}), (401, {"WWW-Authenticate": "Negotiate"}), (400, {}), (501, {})],
)
def test_the_first_response_is_the_result_where_v2_has_no_challenge(
    scripted: MakeTransport, reply: MakeReply, status: int, headers: dict[str, str]
) -> None:
    """R-048: and ``/v2/`` is not asked again."""
    is_unsupported = "WWW-Authenticate" in headers and status == 401
    transport = scripted(reply(404), reply(status, headers), reply(404))
    session = open_session(transport)

    for _ in range(2):
        with pytest.raises(Unauthorized if is_unsupported else ImageNotFound):
            session.send(request_for())

    assert sent(transport) == [
        ("GET /v2/a/b/manifests/v1", False),
        ("GET /v2/", False),
        ("GET /v2/a/b/manifests/v1", False),
    ]


def test_a_request_that_carried_credentials_causes_no_look(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-048."""
    transport = scripted(reply(404), reply(401, CHALLENGE), reply(403))

    with pytest.raises(ImageNotFound):
        open_session(transport, RegistryToken("t0ken")).send(request_for())
    with pytest.raises(Forbidden):
        open_session(transport).send(request_for())

    assert len(transport.sent) == 3


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_response_of_another_origin_causes_no_look(scripted: MakeTransport, reply: MakeReply, status: int) -> None:
    """R-048, R-031."""
    transport = scripted(reply(status, {"Location": "https://cdn.example.net/x"}), reply(404))

    with pytest.raises(ImageNotFound):
        open_session(transport).send(request_for())

    assert len(transport.sent) == 2


def test_a_challenge_of_another_origin_that_v2_redirects_to_is_not_answered(
    scripted: MakeTransport, reply: MakeReply
) -> None:
    """R-048, R-031: the password stays here."""
    transport = scripted(reply(404), reply(302, {"Location": "https://sso.example.net/"}), reply(401, CHALLENGE))

    with pytest.raises(ImageNotFound):
        open_session(transport).send(request_for())

    assert not any(carried for _, carried in sent(transport))


def test_a_refused_redirect_of_v2_shows_no_challenge(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-048, R-041."""
    transport = scripted(reply(404), reply(302, {"Location": "http://registry.test/login"}))

    with pytest.raises(ImageNotFound):
        open_session(transport).send(request_for())


def test_a_look_that_fails_is_an_error_and_repeated(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-048: without its answer, a 404 proves nothing."""
    with pytest.raises(Unavailable):
        open_session(scripted(reply(404), reply(503))).send(request_for())

    transport = scripted(reply(404), reply(503), reply(404), reply(401, CHALLENGE), reply(200))
    open_session(transport, retries=1).send(request_for()).close()

    assert sent(transport)[-1] == ("GET /v2/a/b/manifests/v1", True)


class TestDeletion:
    def test_a_hidden_404_after_a_lost_response_is_not_taken_for_success(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-048, R-254."""
        transport = scripted(Unavailable("lost"), reply(404), reply(401, CHALLENGE), reply(202))

        open_session(transport, retries=1).send(request_for("DELETE")).close()

        assert sent(transport)[-1] == ("DELETE /v2/a/b/manifests/v1", True)

    def test_a_404_after_a_failed_look_is_not_taken_for_success(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-048, R-254: the first 404 says that nothing was carried out."""
        transport = scripted(reply(404), reply(503), reply(404), reply(200))

        with pytest.raises(ImageNotFound):
            open_session(transport, retries=1).send(request_for("DELETE"))

    def test_a_404_after_a_lost_response_is_success_where_nothing_is_hidden(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-048, R-254."""
        transport = scripted(Unavailable("lost"), reply(404), reply(200))

        assert open_session(transport, retries=1).send(request_for("DELETE")).status == 404


def test_a_path_prefix_holds_for_the_look(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-048."""
    transport = scripted(reply(404), reply(401, CHALLENGE), reply(200))
    settings = HttpSettings(path_prefix="/registry")
    authenticator = authenticator_for(USER, registry=ORIGIN)

    Session(ORIGIN, settings, transport=transport, authenticator=authenticator).send(request_for()).close()

    assert [one.url for one in transport.sent][1:] == [
        "https://registry.test/registry/v2/",
        "https://registry.test/registry/v2/a/b/manifests/v1",
    ]


def test_a_ping_needs_no_look(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-048: it is one."""
    transport = scripted(reply(403))
    catalog = HttpCatalog("registry.test", authenticator=authenticator_for(USER, registry=ORIGIN), transport=transport)

    with pytest.raises(Forbidden):
        catalog.ping()

    assert len(transport.sent) == 1
