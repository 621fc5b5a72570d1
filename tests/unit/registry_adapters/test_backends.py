"""Backends by URL."""

from __future__ import annotations

import inspect
import os
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from registry_adapters import ArchiveCatalog, HttpCatalog, LayoutCatalog, MemoryCatalog, open_catalog, open_client
from registry_adapters.backends import (
    BackendSettings,
    HttpSettingsDict,
    open_docker_archive,
    open_http,
    open_layout,
    open_memory,
    open_oci_archive,
)
from registry_adapters.http import HttpSettings, Middleware, OutgoingRequest, Send
from registry_adapters.http.messages import Body, Headers, Response
from registry_adapters.http.transport.urllib3_transport import Urllib3Transport
from registry_adapters.wsgi import registry_server
from registry_core.client import RegistryClient
from registry_core.content.streams import BytesSource
from registry_core.domain.auth import Basic, Credential, RegistryToken
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import ConfigError, Forbidden, InvalidName, Unauthorized
from registry_core.ops.builder.builder import ImageBuilder
from registry_core.ports.keychain import Keychain
from registry_core.ports.observer import Event, Observer

HUB_CHALLENGE = Headers([("WWW-Authenticate", 'Basic realm="hub"')])


@pytest.mark.parametrize(
    ("url", "settings", "registry"),
    [
        ("https://registry.example.com", {}, "registry.example.com"),
        ("https://registry.example.com:5000/", {}, "registry.example.com:5000"),
        ("HTTPS://Registry.Example.com", {}, "registry.example.com"),
        ("registry.example.com", {}, "registry.example.com"),
        ("registry.example.com:443", {}, "registry.example.com"),
        ("registry.example.com:80", {}, "registry.example.com:80"),
        ("localhost:5000", {}, "localhost:5000"),
        ("http://registry.example.com", {}, "registry.example.com"),
        ("http://registry.example.com:80", {}, "registry.example.com"),
        ("http://registry.example.com:443", {"plain_http": True}, "registry.example.com:443"),
        ("registry.example.com:80", {"plain_http": True}, "registry.example.com"),
        ("https://[::1]:5000", {}, "[::1]:5000"),
        ("[::1]:5000", {}, "[::1]:5000"),
    ],
)
def test_a_registry_url_opens_an_http_catalog(url: str, settings: dict[str, Any], registry: str) -> None:
    catalog = open_catalog(url, **settings)

    assert isinstance(catalog, HttpCatalog)
    assert catalog.registry == registry
    catalog.close()


@pytest.mark.parametrize("host", ["localhost:80", "127.0.0.1:80", "registry.example.com:80"])
def test_plain_http_is_used_only_if_requested(host: str) -> None:
    """R-041: the name shows the scheme, because port 80 is the default of http only."""
    secure = open_catalog(host)
    plain = open_catalog(f"http://{host}")

    assert (secure.registry, plain.registry) == (host, host.removesuffix(":80"))
    secure.close()
    plain.close()


def test_an_oci_url_opens_a_layout(tmp_path: Path) -> None:
    catalog = open_catalog(f"oci:{tmp_path}/images", fsync=False)

    assert isinstance(catalog, LayoutCatalog)
    assert catalog.registry == f"oci:{tmp_path}/images"
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize(("scheme", "entries"), [("docker-archive", 4), ("oci-archive", 2)])
def test_an_archive_url_opens_an_archive_of_its_form(scheme: str, entries: int, tmp_path: Path) -> None:
    url = f"{scheme}:{tmp_path}/images.tar"
    catalog = open_catalog(url, fsync=False)

    assert isinstance(catalog, ArchiveCatalog)
    assert catalog.registry == url
    assert list(tmp_path.iterdir()) == []
    with catalog:
        RegistryClient(catalog, "org/app").push_image("v1", IMAGE)
    with tarfile.open(tmp_path / "images.tar") as archive:
        assert len([name for name in archive.getnames() if "/" not in name]) == entries
    assert list(open_catalog(url, replace=True).repositories()) == []


def test_each_memory_url_opens_a_new_catalog() -> None:
    first, second = open_catalog("memory:"), open_catalog("memory:")

    assert isinstance(first, MemoryCatalog)
    assert first.registry == "memory:"
    assert first is not second


@pytest.mark.parametrize(
    ("url", "registry"),
    [
        ("registry.example.com/org/app", "registry.example.com/org/app"),
        ("https://registry.example.com/org/app/", "registry.example.com/org/app"),
        ("localhost:5000/app", "localhost:5000/app"),
        ("registry.example.com", "registry.example.com"),
        ("memory:", "memory:"),
    ],
)
def test_the_path_of_a_url_is_the_path_of_the_client(url: str, registry: str) -> None:
    client = open_client(url)

    assert client.registry == registry
    client.close()


def test_a_path_that_is_not_a_repository_name_is_an_invalid_name() -> None:
    with pytest.raises(InvalidName):
        open_client("registry.example.com/Org/app:v1")


class Seen(Observer):
    """Record the types of events."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()

    def on(self, event: Event) -> None:
        self.kinds.add(type(event).__name__)


IMAGE = ImageBuilder(platform="linux/amd64").add_files({"a": "b"}).build()


class TestObserversAndMiddleware:
    @pytest.mark.parametrize("scheme", ["memory:", "oci:", "docker-archive:", "http:"])
    def test_an_observer_receives_the_transfers_of_any_backend(self, scheme: str, tmp_path: Path) -> None:
        seen = Seen()

        with registry_server(MemoryCatalog()) as server:
            url = {"http:": server.url, "memory:": scheme}.get(scheme, f"{scheme}{tmp_path / 'images'}")
            with open_client(url, observer=seen) as client:
                client.with_segment("app").push_image("v1", IMAGE)

        assert "BlobCopied" in seen.kinds
        assert ("RequestCompleted" in seen.kinds) is (scheme == "http:")

    def test_middleware_wraps_each_request_the_first_outermost(self) -> None:
        called: list[str] = []

        def named(name: str) -> Middleware:
            def note(request: OutgoingRequest, send: Send) -> Response:
                called.append(name)
                return send(request)

            return note

        with registry_server(MemoryCatalog()) as server:
            with open_client(server.url, middleware=[named("first"), named("second")]) as client:
                client.with_segment("app").image_exists("v1")

        assert called == ["first", "second"]

    def test_a_catalog_without_events_takes_no_observer(self) -> None:
        with pytest.raises(TypeError, match="observer"):
            open_catalog("memory:", observer=Seen())


def test_an_invalid_default_platform_is_an_invalid_name() -> None:
    with pytest.raises(InvalidName):
        open_client("memory:", default_platform="not a platform/at/all/x/y")


def test_a_catalog_has_no_path() -> None:
    with pytest.raises(ConfigError):
        open_catalog("registry.example.com/org/app")


@pytest.mark.parametrize(
    "url",
    [
        *("", "nowhere://registry.example.com", "foo:bar", "http:", "https://", "https:///x"),
        *("oci:", "oci://host/x", "oci-archive:", "docker-archive://host/x", "a b"),
    ],
)
def test_other_urls_are_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError):
        open_catalog(url)


@pytest.mark.parametrize("opener", [open_catalog, open_client, open_http])
@pytest.mark.parametrize("url", [Path("images"), b"memory:", None], ids=repr)
def test_a_url_that_is_not_text_is_a_config_error(opener: Callable[[Any], object], url: object) -> None:
    with pytest.raises(ConfigError, match=f"must be text, not {type(url).__name__}"):
        opener(url)


@pytest.mark.parametrize("url", ["memory:", "oci:images", "https://registry.example.com/org"])
def test_open_http_opens_only_registries(url: str) -> None:
    with pytest.raises(ConfigError):
        open_http(url)


@pytest.mark.parametrize("url", ["oci:", "oci://host/images"])
def test_the_error_for_a_bad_directory_repeats_the_whole_url(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_catalog(url)

    assert str(caught.value).endswith(f": {url}")


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("", ""),
        ("nowhere:place", ""),
        ("ftp://place", ""),
        ("registry.example.com:port", ""),
        ("./images", "; for a directory of image layouts, write oci:DIRECTORY"),
        ("/srv/images", "; for a directory of image layouts, write oci:DIRECTORY"),
        ("docker://registry.example.com/app", "; for a registry, write host[:port] without docker://"),
    ],
)
def test_the_error_for_an_unknown_backend_repeats_the_whole_url(url: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_client(url)

    assert str(caught.value).startswith(f"open '{url}': neither a registry, as host[:port], nor a known backend (")
    assert str(caught.value).endswith(f"){hint}")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://my_registry:5000", "a registry's name has no underscore and no trailing dot: 'my_registry:5000'"),
        ("https://registry.lan./app", "a registry's name has no underscore and no trailing dot: 'registry.lan.'"),
        ("http://127.1", "not a host[:port]: '127.1'"),
    ],
)
def test_the_error_for_the_host_in_a_url_with_a_scheme_gives_the_reason(url: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_client(url)

    assert str(caught.value) == f"open a registry: {reason}"


@pytest.mark.parametrize(
    ("url", "settings", "message"),
    [
        ("memory:", {"plain_http": True}, "the memory backend has no setting 'plain_http'"),
        ("oci:images", {"replace": True}, "the oci backend has no setting 'replace'"),
        ("oci:images", {"auth": Basic("user", "hunter2")}, "the oci backend has no setting 'auth'"),
        ("registry.example.com", {"timeout": 3}, "the HTTP backend has no setting 'timeout'"),
        ("registry.example.com", {"middleware": print}, "middleware must be a list of functions, not a single one"),
    ],
)
def test_unknown_settings_are_named(url: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        open_client(url, **settings)

    assert str(caught.value) == message


def test_the_error_for_an_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"http, https, memory, oci"):
        open_catalog("nowhere://registry.example.com")


@pytest.mark.parametrize("url", ["https://user:hunter2@registry.example.com", "user:hunter2@registry.example.com/app"])
def test_credentials_in_a_url_are_rejected_and_not_repeated(url: str) -> None:
    """R-043."""
    with pytest.raises(ConfigError) as caught:
        open_client(url)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:hunter2@host", "http://host"),
        ("https://user:hunter2@host", "https://host"),
        ("HTTP://user:hunter2@host:5000", "http://host:5000"),
        ("http://user:hunter2@host/app", "http://host/app"),
        ("http://hunter2@host", "http://host"),
        ("http://user:hunter2@host?x=hunter2", "http://host?…"),
        ("user:hunter2@host", "host"),
        ("user:hunter2@host:5000/app", "host:5000/app"),
    ],
)
@pytest.mark.parametrize("opener", [open_client, open_catalog, open_http])
def test_the_error_for_credentials_in_a_url_shows_the_scheme_of_the_url(
    opener: Callable[[str], object], url: str, shown: str
) -> None:
    """R-043."""
    with pytest.raises(ConfigError) as caught:
        opener(url)

    assert str(caught.value) == f"pass credentials by auth, not in the URL: {shown}"


@pytest.mark.parametrize("url", ["https://registry.example.com?a=s3cret", "registry.example.com/app#s3cret"])
def test_query_and_fragment_are_rejected(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_client(url)

    assert "s3cret" not in str(caught.value)


def test_close_closes_connections_although_an_error_refers_to_one() -> None:
    def answer_once(listener: socket.socket) -> bytes:
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(10)
            while not peer.recv(1 << 16).endswith(b"\r\n\r\n"):
                continue
            peer.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
            return peer.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        rest = pool.submit(answer_once, listener)
        client = open_client(f"http://127.0.0.1:{listener.getsockname()[1]}/app")
        with pytest.raises(Forbidden) as caught:
            client.get_manifest("v1")

        client.close()

        assert rest.result(20) == b""
        assert caught.value.__traceback__ is not None


@pytest.mark.parametrize(
    ("url", "plain"), [("https://registry.example.com", True), ("http://registry.example.com", False)]
)
def test_plain_http_must_not_contradict_the_url(url: str, plain: bool) -> None:
    with pytest.raises(ConfigError):
        open_catalog(url, plain_http=plain)


@pytest.mark.parametrize("url", ["registry.example.com", "oci:images", "memory:"])
@pytest.mark.parametrize("opener", [open_catalog, open_client])
def test_an_unknown_setting_is_a_type_error_that_names_it(opener: Any, url: str) -> None:
    with pytest.raises(TypeError, match="verify_tls"):
        opener(url, verify_tls=False)


@pytest.mark.parametrize("url", ["oci:images", "docker-archive:images.tar", "oci-archive:images.tar", "memory:"])
def test_only_registries_take_auth(url: str) -> None:
    with pytest.raises(TypeError, match="auth"):
        open_catalog(url, auth=Basic("user", "word"))


def test_an_invalid_auth_is_a_type_error() -> None:
    auth: Any = ("user", "hunter2")

    with pytest.raises(TypeError, match="tuple"):
        open_catalog("registry.example.com", auth=auth)


@pytest.mark.parametrize("auth", [Basic("user", "word"), RegistryToken("abc")])
def test_a_credential_is_accepted(auth: Basic | RegistryToken) -> None:
    catalog = open_catalog("registry.example.com", auth=auth)

    assert catalog.registry == "registry.example.com"
    catalog.close()


@pytest.mark.parametrize("settings", [{"read_timeout": -1}, {"tls_verify": "no"}, {"max_connections": 0}])
def test_invalid_settings_are_a_config_error(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        open_catalog("registry.example.com", **settings)


OPENER = """
from registry_adapters.memory import MemoryCatalog

def open_mine(url, *, auth=None, colour="red"):
    return MemoryCatalog(f"{url}#{colour}")

def open_watched(url, *, auth=None, observer=None):
    return MemoryCatalog(f"{url}#{observer}")

def open_nothing(url, *, auth=None):
    return object()

closed = []

class Closing(MemoryCatalog):
    def close(self):
        closed.append(self.registry)

def open_closing(url, *, auth=None):
    return Closing(url)
"""


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution that registers backends."""
    (tmp_path / "mine_backend.py").write_text(OPENER)
    metadata = tmp_path / "mine-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[ociport.backends]\n"
        "mine = mine_backend:open_mine\n"
        "watched = mine_backend:open_watched\n"
        "nothing = mine_backend:open_nothing\n"
        "closing = mine_backend:open_closing\n"
        "broken = mine_backend:absent\n"
        "memory = mine_backend:open_mine\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("third_party")
class TestThirdParty:
    @pytest.mark.parametrize("url", ["mine:place", "mine://place/deep"])
    def test_a_catalog_is_opened_with_its_settings(self, url: str) -> None:
        settings: dict[str, Any] = {"colour": "blue"}

        assert open_catalog(url, **settings).registry == f"{url}#blue"

    def test_a_client_is_opened(self) -> None:
        client = open_client("mine:place")

        assert client.registry.startswith("mine:place#red")
        client.close()

    def test_only_an_opener_with_an_observer_parameter_is_passed_the_observer(self) -> None:
        seen = Seen()

        assert open_client("watched:place", observer=seen).registry == f"watched:place#{seen}"
        assert open_client("mine:place", observer=seen).registry == "mine:place#red"

    def test_a_backend_whose_client_cannot_be_created_is_closed(self) -> None:
        with pytest.raises(InvalidName):
            open_client("closing:place", default_platform="no platform")

        assert import_module("mine_backend").closed == ["closing:place"]

    def test_an_unknown_setting_of_it_is_a_type_error(self) -> None:
        settings: dict[str, Any] = {"taste": "sweet"}

        with pytest.raises(TypeError, match="taste"):
            open_catalog("mine:place", **settings)

    def test_a_built_in_scheme_cannot_be_replaced(self) -> None:
        assert open_catalog("memory:").registry == "memory:"

    @pytest.mark.parametrize("url", ["broken:x", "nothing:x"])
    def test_an_opener_that_fails_or_returns_no_catalog_is_a_config_error(self, url: str) -> None:
        with pytest.raises(ConfigError):
            open_catalog(url)

    def test_its_scheme_is_listed_in_errors(self) -> None:
        with pytest.raises(ConfigError, match="mine"):
            open_catalog("nowhere://x")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_importing_the_package_imports_no_backend() -> None:
    code = "import sys, registry_adapters; print({'urllib3', 'ssl', 'filelock'} & set(sys.modules))"

    assert run(code) == "set()"


def test_a_memory_backend_does_not_import_http() -> None:
    code = "import sys, registry_adapters; registry_adapters.open_catalog('memory:'); print('urllib3' in sys.modules)"

    assert run(code) == "False"


def test_the_package_lists_its_names() -> None:
    import registry_adapters

    assert set(registry_adapters.__all__) <= set(dir(registry_adapters))
    with pytest.raises(AttributeError, match="nonsense"):
        registry_adapters.nonsense  # type: ignore[attr-defined]  # noqa: B018  # the error is what is tested


class _RecordingKeychain(Keychain):
    def __init__(self) -> None:
        self.registries: list[str] = []

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        self.registries.append(registry)
        return None


@pytest.mark.parametrize("url", ["docker.io", "https://index.docker.io", "Docker.io:443"])
def test_docker_hub_is_named_docker_io_and_requested_at_its_host(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Keychains use its name too."""
    urls: list[str] = []

    def answer(
        self: Urllib3Transport, method: str, url: str, headers: Mapping[str, str], body: Body | None
    ) -> Response:
        urls.append(url)
        return Response(status=401, headers=HUB_CHALLENGE, url=url, reader=BytesSource(b"").open())

    monkeypatch.setattr(Urllib3Transport, "send", answer)
    keychain = _RecordingKeychain()
    catalog = open_catalog(url, auth=keychain)

    with pytest.raises(Unauthorized, match=r"docker\.io/library/debian"):
        catalog.repository(RepositoryName("library/debian")).manifests.resolve(Tag("12"))

    assert catalog.registry == "docker.io"
    assert urls == ["https://registry-1.docker.io/v2/library/debian/manifests/12"]
    assert keychain.registries == ["docker.io"]


@pytest.mark.parametrize("url", ["docker.io:5000", "http://docker.io", "registry-1.docker.io", "notdocker.io"])
def test_no_other_registry_is_docker_hub(url: str) -> None:
    """R-045: names match exactly."""
    catalog = open_catalog(url)

    assert catalog.registry == url.removeprefix("http://")
    catalog.close()


def keywords(function: Callable[..., object]) -> set[str]:
    """The keyword-only parameters of a function."""
    return {
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


class TestTypesOfSettings:
    """``BackendSettings`` lists the settings that the built-in backends take, and no others."""

    def test_http_has_the_fields_of_http_settings(self) -> None:
        assert HttpSettingsDict.__optional_keys__ == frozenset(HttpSettings.__struct_fields__)

    def test_each_type_is_that_of_the_field_or_also_a_path(self) -> None:
        fields = {
            **get_type_hints(HttpSettings),
            "ca_file": str | os.PathLike[str] | None,
            "certs_dir": str | os.PathLike[str] | None,
            "client_cert": str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]] | None,
            # Of the collections, those that are no text.
            "trusted_hosts": list[str] | tuple[str, ...] | set[str] | frozenset[str],
        }

        assert get_type_hints(HttpSettingsDict) == {name: fields[name] for name in HttpSettings.__struct_fields__}

    def test_the_others_are_the_parameters_of_the_openers(self) -> None:
        openers = (open_http, open_layout, open_docker_archive, open_oci_archive, open_memory)
        others = {name for opener in openers for name in keywords(opener)} - keywords(open_catalog)

        assert keywords(open_catalog) == {"auth", "observer"}
        assert BackendSettings.__optional_keys__ == HttpSettingsDict.__optional_keys__ | others

    def test_none_is_required(self) -> None:
        assert BackendSettings.__required_keys__ == frozenset()


@pytest.mark.parametrize(
    ("url", "option"),
    [
        ("oci:layouts", "follow_symlinks"),
        ("oci:layouts", "fsync"),
        ("oci-archive:images.tar", "replace"),
        ("docker-archive:images.tar", "replace"),
        ("docker-archive:images.tar", "fsync"),
    ],
)
@pytest.mark.parametrize("value", ["yes", "no", 0, None])
def test_a_switch_is_a_boolean(url: str, option: str, value: Any) -> None:
    """A word, as from a configuration file, would count as true."""
    with pytest.raises(ConfigError, match=f"{option} must be True or False, not {value!r}"):
        open_catalog(url, **{option: value})
