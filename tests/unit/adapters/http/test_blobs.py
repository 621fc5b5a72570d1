from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from registry_adapters.http import HttpCatalog, HttpSettings
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.errors import BlobNotFound, DigestMismatch, Forbidden, InvalidName, ProtocolError, Unsupported
from registry_core.ports.blob_store import BlobStore

if TYPE_CHECKING:
    from tests.unit.adapters.http.conftest import Reply, ScriptedTransport

    Script = Callable[..., ScriptedTransport]
    Build = Callable[..., Reply]

CONTENT = b"some content"
DIGEST = Digest.of(CONTENT)
HOME = "https://registry.example.com"
BLOB = f"{HOME}/v2/org/app/blobs/{DIGEST}"


def blobs(transport: ScriptedTransport, name: str = "org/app") -> BlobStore:
    catalog = HttpCatalog("registry.example.com", HttpSettings(retries=0), transport=transport)
    return catalog.repository(RepositoryName(name)).blobs


def asked(transport: ScriptedTransport) -> list[str]:
    return [f"{sent.method} {sent.url}" for sent in transport.sent]


class TestStat:
    def test_it_is_asked_by_head(self, scripted: Script, reply: Build) -> None:
        """R-205."""
        transport = scripted(reply(200, {"Content-Length": "12"}))

        assert blobs(transport).stat(DIGEST) == 12
        assert asked(transport) == [f"HEAD {BLOB}"]

    @pytest.mark.parametrize(
        ("status", "headers"),
        [(405, {}), (501, {}), (200, {}), (200, {"Content-Length": "-1"}), (200, {"Content-Length": "12, 12"})],
    )
    def test_get_answers_where_head_says_too_little(
        self, scripted: Script, reply: Build, status: int, headers: dict[str, str]
    ) -> None:
        """R-205."""
        transport = scripted(reply(status, headers), reply(200, {"Content-Length": "12"}, CONTENT))

        assert blobs(transport).stat(DIGEST) == 12
        assert asked(transport) == [f"HEAD {BLOB}", f"GET {BLOB}"]

    def test_bytes_are_counted_where_nobody_says_how_many(self, scripted: Script, reply: Build) -> None:
        """R-058."""
        assert blobs(scripted(reply(200), reply(200, {}, CONTENT))).stat(DIGEST) == 12

    @pytest.mark.parametrize(("status", "error"), [(404, BlobNotFound), (403, Forbidden)])
    def test_a_denial_is_not_asked_about_twice(
        self, scripted: Script, reply: Build, status: int, error: type[Exception]
    ) -> None:
        transport = scripted(reply(status))

        with pytest.raises(error):
            blobs(transport).stat(DIGEST)

        assert len(transport.sent) == 1

    def test_the_nameless_repository_is_refused_on_use(self, scripted: Script) -> None:
        """R-010."""
        with pytest.raises(InvalidName):
            blobs(scripted(), "").stat(DIGEST)


class TestOpen:
    def test_the_whole(self, scripted: Script, reply: Build) -> None:
        transport = scripted(reply(200, {}, CONTENT))

        with blobs(transport).open(DIGEST) as reader:
            assert reader.read() == CONTENT

        assert asked(transport) == [f"GET {BLOB}"]
        assert "Range" not in transport.sent[0].headers

    def test_a_stretch(self, scripted: Script, reply: Build) -> None:
        """R-051, R-206."""
        transport = scripted(reply(206, {"Content-Range": "bytes 5-11/12"}, CONTENT[5:]))

        with blobs(transport).open(DIGEST, start=5) as reader:
            assert reader.read() == CONTENT[5:]

        assert transport.sent[0].headers["Range"] == "bytes=5-"

    def test_a_registry_that_knows_no_ranges_is_skipped_forward(self, scripted: Script, reply: Build) -> None:
        """R-051."""
        with blobs(scripted(reply(200, {}, CONTENT))).open(DIGEST, start=5) as reader:
            assert reader.read() == CONTENT[5:]

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Content-Range": "bytes 4-11/12"},
            {"Content-Range": "bytes 5-10/12"},
            {"Content-Range": "5-11/12"},
            {"Content-Type": "multipart/byteranges"},
        ],
    )
    def test_another_stretch_than_asked_for_is_refused(
        self, scripted: Script, reply: Build, headers: dict[str, str]
    ) -> None:
        """R-051."""
        with pytest.raises(ProtocolError):
            blobs(scripted(reply(206, headers, CONTENT[5:]))).open(DIGEST, start=5)

    def test_an_unasked_part_is_refused(self, scripted: Script, reply: Build) -> None:
        """R-051."""
        with pytest.raises(ProtocolError):
            blobs(scripted(reply(206, {"Content-Range": "bytes 0-11/12"}, CONTENT))).open(DIGEST)

    def test_the_end_is_empty(self, scripted: Script, reply: Build) -> None:
        """R-051: 416 is how registries say so."""
        transport = scripted(reply(416), reply(200, {"Content-Length": "12"}))

        with blobs(transport).open(DIGEST, start=12) as reader:
            assert reader.read() == b""

    def test_a_range_refused_within_the_blob_is_an_error(self, scripted: Script, reply: Build) -> None:
        """R-051."""
        with pytest.raises(ProtocolError):
            blobs(scripted(reply(416), reply(200, {"Content-Length": "12"}))).open(DIGEST, start=11)

    def test_encoded_content_is_refused(self, scripted: Script, reply: Build) -> None:
        """R-056."""
        with pytest.raises(ProtocolError):
            blobs(scripted(reply(200, {"Content-Encoding": "gzip"}, CONTENT))).open(DIGEST)

    def test_an_absent_blob_is_reported_at_once(self, scripted: Script, reply: Build) -> None:
        with pytest.raises(BlobNotFound):
            blobs(scripted(reply(404))).open(DIGEST)


class TestMount:
    origin = RepositoryName("org/base")

    def test_a_blob_is_taken_over(self, scripted: Script, reply: Build) -> None:
        """R-077."""
        transport = scripted(reply(201, {"Docker-Content-Digest": DIGEST}))

        assert blobs(transport).mount(DIGEST, self.origin) is True
        assert asked(transport) == [
            f"POST {HOME}/v2/org/app/blobs/uploads/?mount=sha256%3A{DIGEST.encoded}&from=org%2Fbase"
        ]

    def test_the_session_of_a_refusal_is_given_up(self, scripted: Script, reply: Build) -> None:
        """R-236: nothing is left open."""
        transport = scripted(reply(202, {"Location": "/upload/1"}), reply(204))

        assert blobs(transport).mount(DIGEST, self.origin) is False
        assert asked(transport)[1:] == [f"DELETE {HOME}/upload/1"]

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 501])
    def test_a_refusal_is_no_error(self, scripted: Script, reply: Build, status: int) -> None:
        """R-077."""
        assert blobs(scripted(reply(status))).mount(DIGEST, self.origin) is False

    def test_another_digest_is_an_error(self, scripted: Script, reply: Build) -> None:
        """R-077."""
        with pytest.raises(DigestMismatch):
            blobs(scripted(reply(201, {"Docker-Content-Digest": Digest.of(b"")}))).mount(DIGEST, self.origin)


class TestDelete:
    @pytest.mark.parametrize("status", [200, 202, 204])
    def test_it_is_done(self, scripted: Script, reply: Build, status: int) -> None:
        """R-254."""
        transport = scripted(reply(status))

        blobs(transport).delete(DIGEST)

        assert asked(transport) == [f"DELETE {BLOB}"]

    @pytest.mark.parametrize(("status", "error"), [(404, BlobNotFound), (400, Unsupported), (405, Unsupported)])
    def test_it_is_not(self, scripted: Script, reply: Build, status: int, error: type[Exception]) -> None:
        """R-253."""
        with pytest.raises(error):
            blobs(scripted(reply(status))).delete(DIGEST)
