"""Foreign layers: requested without credentials, and verified."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from typing import Any

import pytest

from registry_adapters.http.catalog import HttpCatalog
from registry_adapters.http.foreign_layers import AnonymousClient
from registry_adapters.http.messages import Response
from registry_adapters.http.middleware import OutgoingRequest, Send
from registry_adapters.http.settings import HttpSettings
from registry_core import RepositoryName
from registry_core.domain.auth import Challenge, Scope, TokenReply, TokenRequest
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import DOCKER_FOREIGN_LAYER_GZIP
from registry_core.domain.origin import Origin
from registry_core.errors import (
    BlobNotFound,
    ConfigError,
    DigestMismatch,
    IntegrityError,
    ProtocolError,
    SizeMismatch,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from registry_core.ports.authenticator import Authenticator
from registry_core.ports.catalog import ForeignLayers
from registry_core.ports.observer import TransferResumed

NAME = RepositoryName("windows/servercore")
CONTENT = bytes(range(256)) * 1024
DIGEST = Digest.of(CONTENT)
LAYER_URL = "https://layers.example.com/servercore?sig=1"


class AuthenticatorForAllHosts(Authenticator):
    """Send a password to every registry."""

    def cached_authorization(self, registry: Origin, scopes: Collection[Scope]) -> str | None:
        return "Basic c2VjcmV0"

    def handle_challenge(
        self,
        registry: Origin,
        challenges: Sequence[Challenge],
        scopes: Collection[Scope],
        *,
        rejected: str | None = None,
    ) -> Generator[TokenRequest, TokenReply, str | None]:
        yield from ()
        return "Basic c2VjcmV0"


def _layer(*urls: str, digest: Digest = DIGEST, size: int = len(CONTENT)) -> Descriptor:
    return Descriptor(media_type=DOCKER_FOREIGN_LAYER_GZIP, digest=digest, size=size, urls=urls)


@pytest.fixture
def foreign_of() -> Iterator[Callable[..., ForeignLayers]]:
    """Return a function that builds the foreign layers of a repository."""
    opened: list[HttpCatalog] = []

    def build(host: str = "registry.example.com", **more: Any) -> ForeignLayers:
        settings = more.pop("settings", HttpSettings(retries=0, backoff=0.001))
        opened.append(HttpCatalog(host, settings, authenticator=AuthenticatorForAllHosts(), **more))
        foreign = opened[-1].repository(NAME).foreign_layers
        assert foreign is not None
        return foreign

    yield build
    for catalog in opened:
        catalog.close()


class TestRequests:
    def test_a_layer_is_read_from_its_url(self, foreign_of: Any, scripted: Any, reply: Any) -> None:
        transport = scripted(reply(200, {"Content-Length": str(len(CONTENT))}, CONTENT))

        with foreign_of(transport=transport).open(_layer(LAYER_URL)) as reader:
            content = reader.read()

        assert content == CONTENT
        assert [(sent.method, sent.url) for sent in transport.sent] == [("GET", LAYER_URL)]

    @pytest.mark.parametrize("url", [LAYER_URL, "https://registry.example.com/v2/secret/blobs/sha256:1"])
    def test_no_credentials_are_sent_even_to_the_registry(
        self, foreign_of: Any, scripted: Any, reply: Any, url: str
    ) -> None:
        """R-032: otherwise a pushed manifest could make the client read private content of the registry."""
        back = "https://registry.example.com/v2/other/blobs/sha256:2"
        transport = scripted(reply(302, {"Location": back}), reply(200, {}, CONTENT))
        seen: list[bool] = []

        def record(request: OutgoingRequest, send: Send) -> Response:
            seen.append(request.to_registry)
            return send(request)

        with foreign_of(transport=transport, middleware=[record]).open(_layer(url)) as reader:
            reader.read()

        assert [sent.url for sent in transport.sent] == [url, back]
        assert all("authorization" not in map(str.lower, sent.headers) for sent in transport.sent)
        assert seen == [False, False]

    def test_challenges_are_not_answered(self, foreign_of: Any, scripted: Any, reply: Any) -> None:
        """R-031, R-032."""
        transport = scripted(reply(401, {"WWW-Authenticate": 'Bearer realm="https://registry.example.com/token"'}))

        with pytest.raises(Unauthorized):
            foreign_of(transport=transport).open(_layer(LAYER_URL))

        assert len(transport.sent) == 1

    def test_no_client_certificate_is_sent(self) -> None:
        """R-030: it is for the registry only."""
        settings = HttpSettings(client_cert="/absent/me.pem", certs_dir="/absent/certs.d", retries=0)
        client = AnonymousClient(Origin.of("registry.example.com"), settings)

        assert (client._settings.client_cert, client._settings.certs_dir) == (None, None)

    def test_the_ca_file_is_read_on_first_use(self, foreign_of: Any, tmp_path: Any) -> None:
        home = tmp_path / "registry.example.com"
        home.mkdir()
        (home / "ca.crt").write_text("")
        settings = HttpSettings(plain_http=True, trust_system=False, retries=0)
        foreign = foreign_of("127.0.0.1:1", settings=settings)

        with pytest.raises((ConfigError, Unavailable)):
            foreign.open(_layer("https://127.0.0.1:1/layer"))

    @pytest.mark.parametrize("start", [0, 1, len(CONTENT) - 1])
    def test_a_layer_is_read_from_an_offset(
        self, foreign_of: Any, start_server: Any, responses: Any, response_bytes: Any, start: int
    ) -> None:
        """R-051."""
        rest = CONTENT[start:]
        content_range = {"Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"}
        script = responses(response_bytes(206 if start else 200, rest, content_range if start else {}))
        server = start_server(script)
        foreign = foreign_of(server.origin.netloc, settings=HttpSettings(plain_http=True, retries=0))

        with foreign.open(_layer(f"{server.origin}/layer"), start=start) as reader:
            content = reader.read()

        assert content == rest
        assert script.received[0].headers.get("range") == (f"bytes={start}-" if start else None)

    def test_a_broken_connection_is_resumed(
        self, foreign_of: Any, start_server: Any, responses: Any, response_bytes: Any, recorder: Any
    ) -> None:
        """R-050, R-051."""
        size, middle = len(CONTENT), len(CONTENT) // 2
        content_range = {"Content-Range": f"bytes {middle}-{size - 1}/{size}"}
        replies = [
            response_bytes(200, CONTENT, {"Connection": "close"})[: -(size - middle)],
            response_bytes(206, CONTENT[middle:], content_range),
        ]

        def script(connection: Any) -> None:
            if connection.receive() is not None:
                connection.send(replies.pop(0))

        server = start_server(script)
        settings = HttpSettings(plain_http=True, retries=2, backoff=0.001)
        foreign = foreign_of(server.origin.netloc, settings=settings, observer=recorder)

        with foreign.open(_layer(f"{server.origin}/layer")) as reader:
            content = reader.read()

        assert content == CONTENT
        assert [event.offset for event in recorder.events if isinstance(event, TransferResumed)] == [middle]


class TestUrlPolicy:
    @pytest.mark.parametrize(
        "url",
        [
            "http://layers.example.com/layer", "file:///etc/passwd", "ftp://layers.example.com/layer", "/v2/layer",
            "//layers.example.com/layer", "", "https://user:pass@layers.example.com/layer",
            "https://169.254.169.254/latest/meta-data", "https://127.0.0.1/layer", "https://localhost/layer",
            "https://10.0.0.1/layer", "https://[::1]/layer", "https://2130706433/layer", "https://0x7f.1/layer",
            "https://[::ffff:169.254.169.254]/layer", "https://layers.example.com\\@evil.example/layer",
            "https://layers.example.com/a\r\nX: y", "gopher://layers.example.com/", "https:///layer",
        ],
    )  # fmt: skip
    def test_a_refused_url_is_not_requested(self, foreign_of: Any, scripted: Any, url: str) -> None:
        """R-032, R-042, R-046."""
        transport = scripted()

        with pytest.raises(ProtocolError) as caught:
            foreign_of(transport=transport).open(_layer(url))

        assert transport.sent == []
        assert caught.value.reference == f"registry.example.com/{NAME}@{DIGEST}"
        assert "pass" not in str(caught.value).partition("etc/")[0]

    @pytest.mark.parametrize(
        "location",
        [
            "http://169.254.169.254/latest/meta-data", "https://169.254.169.254/latest/meta-data",
            "http://layers.example.com/layer", "https://127.0.0.1/layer", "https://192.168.0.1/", "file:///etc/passwd",
            "https://me@layers.example.com/", "",
        ],
    )  # fmt: skip
    def test_a_refused_redirect_is_not_followed(
        self, foreign_of: Any, scripted: Any, reply: Any, location: str
    ) -> None:
        """R-032: the policy is applied to each redirect."""
        transport = scripted(
            reply(307, {"Location": "https://cdn.example.com/1"}), reply(302, {"Location": location}), reply(200)
        )

        with pytest.raises(ProtocolError):
            foreign_of(transport=transport).open(_layer(LAYER_URL))

        assert [sent.url for sent in transport.sent] == [LAYER_URL, "https://cdn.example.com/1"]

    def test_redirects_are_limited(self, foreign_of: Any, scripted: Any, reply: Any) -> None:
        transport = scripted(*(reply(302, {"Location": f"https://cdn.example.com/{number}"}) for number in range(20)))

        with pytest.raises(ProtocolError, match="more than 10 redirects"):
            foreign_of(transport=transport).open(_layer(LAYER_URL))

        assert len(transport.sent) == 11

    def test_a_registry_on_loopback_cannot_name_the_metadata_address(
        self, foreign_of: Any, start_server: Any, responses: Any, response_bytes: Any
    ) -> None:
        """R-046: cloud machines keep credentials there."""
        server = start_server(
            responses(response_bytes(302, headers={"Location": "http://169.254.169.254/latest/meta-data"}))
        )
        foreign = foreign_of(server.origin.netloc, settings=HttpSettings(plain_http=True, retries=0))

        with pytest.raises(ProtocolError, match="internal address"):
            foreign.open(_layer(f"{server.origin}/layer"))

    def test_a_plain_http_registry_may_name_plain_http_urls(self, foreign_of: Any, scripted: Any, reply: Any) -> None:
        """R-032."""
        transport = scripted(reply(200, {}, CONTENT))
        foreign = foreign_of(transport=transport, settings=HttpSettings(plain_http=True, retries=0))

        with foreign.open(_layer("http://layers.example.com/layer")) as reader:
            content = reader.read()

        assert content == CONTENT


class TestContent:
    def test_content_is_verified(self, foreign_of: Any, scripted: Any, reply: Any) -> None:
        """R-003, R-032."""
        transport = scripted(reply(200, {}, bytes(len(CONTENT))))

        with foreign_of(transport=transport).open(_layer(LAYER_URL)) as reader, pytest.raises(DigestMismatch):
            reader.read()

    @pytest.mark.parametrize("start", [0, 5])
    @pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"!"])
    def test_content_of_another_size_is_a_size_mismatch(
        self, foreign_of: Any, scripted: Any, reply: Any, content: bytes, start: int
    ) -> None:
        """R-004."""
        transport = scripted(reply(200, {}, content))

        with foreign_of(transport=transport).open(_layer(LAYER_URL), start=start) as reader:
            with pytest.raises(SizeMismatch):
                reader.read()

    @pytest.mark.parametrize("start", [0, 5])
    def test_endless_content_is_an_error(self, foreign_of: Any, start_server: Any, start: int) -> None:
        """R-023, R-032."""

        def script(connection: Any) -> None:
            if connection.receive() is not None:
                connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    connection.send(bytes(1 << 16))

        server = start_server(script)
        foreign = foreign_of(server.origin.netloc, settings=HttpSettings(plain_http=True, retries=0))

        with foreign.open(_layer(f"{server.origin}/layer"), start=start) as reader, pytest.raises(IntegrityError):
            reader.read()

    def test_a_layer_that_cannot_be_verified_is_not_requested(self, foreign_of: Any, scripted: Any) -> None:
        """R-002."""
        transport = scripted()

        with pytest.raises(Unsupported):
            foreign_of(transport=transport).open(_layer(LAYER_URL, digest=Digest("md5:" + "0" * 32)))

        assert transport.sent == []


class TestSeveralUrls:
    def test_urls_are_tried_in_order(self, foreign_of: Any, scripted: Any, reply: Any) -> None:
        transport = scripted(reply(404), reply(403), Unavailable("gone"), reply(200, {}, CONTENT))
        urls = [f"https://{number}.example.com/" for number in range(5)]

        with foreign_of(transport=transport).open(_layer("ftp://example.com/", *urls)) as reader:
            content = reader.read()

        assert content == CONTENT
        assert [sent.url for sent in transport.sent] == urls[:4]

    def test_the_number_of_urls_is_limited(self, foreign_of: Any, scripted: Any, reply: Any) -> None:
        transport = scripted(*(reply(404) for _ in range(100)))

        with pytest.raises(BlobNotFound):
            foreign_of(transport=transport).open(_layer(*(f"https://example.com/{number}" for number in range(100))))

        assert len(transport.sent) == 8

    def test_a_layer_without_urls_is_not_found(self, foreign_of: Any, scripted: Any) -> None:
        with pytest.raises(BlobNotFound) as caught:
            foreign_of(transport=scripted()).open(_layer())

        assert caught.value.reference == f"registry.example.com/{NAME}@{DIGEST}"

    def test_a_url_without_a_path_requests_the_root(self, foreign_of: Any, scripted: Any, reply: Any) -> None:
        transport = scripted(reply(200, {}, CONTENT))

        foreign_of(transport=transport).open(_layer("https://layers.example.com#part")).close()

        assert [sent.url for sent in transport.sent] == ["https://layers.example.com/"]
