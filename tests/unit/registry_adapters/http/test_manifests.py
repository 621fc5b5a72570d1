from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from registry_adapters.http import HttpCatalog, HttpSettings
from registry_core.content.streams import MANIFEST_LIMIT
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import MANIFESTS, OCI_INDEX, OCI_MANIFEST
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import (
    BlobNotFound,
    DigestMismatch,
    Forbidden,
    ImageNotFound,
    InvalidDocument,
    InvalidName,
    ProtocolError,
    RegistryError,
    RepositoryNotFound,
    TooLarge,
    Unsupported,
)
from registry_core.ports.manifest_store import ManifestStore

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import Reply, ScriptedTransport

    MakeTransport = Callable[..., ScriptedTransport]
    MakeReply = Callable[..., Reply]

CONTENT = b'{"schemaVersion":2,  "mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"vendor":1}'
INDEX = RawManifest.of(CONTENT)
TYPED = {"Content-Type": OCI_INDEX}
PAGE = {"Content-Type": "text/html; charset=utf-8"}
LOGIN = b"<!DOCTYPE html><html><body>Please sign in.</body></html>"
REPOSITORY = "https://registry.example.com/v2/org/app"


def manifests(transport: ScriptedTransport, name: str = "org/app") -> ManifestStore:
    catalog = HttpCatalog("registry.example.com", HttpSettings(retries=0), transport=transport)
    return catalog.repository(RepositoryName(name)).manifests


def requested(transport: ScriptedTransport) -> list[str]:
    return [f"{sent.method} {sent.url}" for sent in transport.sent]


def error_body(code: str) -> bytes:
    return json.dumps({"errors": [{"code": code}]}).encode()


class TestResolve:
    def test_head_gives_the_descriptor(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-204, R-205."""
        headers = {"Content-Type": f"{OCI_INDEX}; charset=utf-8", "Content-Length": "9"}
        transport = scripted(reply(200, headers | {"Docker-Content-Digest": INDEX.digest}))

        descriptor = manifests(transport).resolve(Tag("v1"))

        assert (descriptor.media_type, descriptor.digest, descriptor.size) == (OCI_INDEX, INDEX.digest, 9)
        assert requested(transport) == [f"HEAD {REPOSITORY}/manifests/v1"]
        assert transport.sent[0].headers["Accept"] == ", ".join(MANIFESTS)

    @pytest.mark.parametrize(
        ("status", "headers"),
        [
            (405, {}),
            (200, {}),
            (200, {**TYPED, "Content-Length": "9"}),
            (200, {**TYPED, "Content-Length": "9", "Docker-Content-Digest": "sha256:garbage"}),
            (200, {**TYPED, "Docker-Content-Digest": INDEX.digest}),
            (200, {"Content-Length": "9", "Content-Type": "text/html", "Docker-Content-Digest": INDEX.digest}),
        ],
    )
    def test_get_is_used_if_head_lacks_a_part(
        self, scripted: MakeTransport, reply: MakeReply, status: int, headers: dict[str, str]
    ) -> None:
        """R-205, R-005."""
        transport = scripted(reply(status, headers), reply(200, TYPED, CONTENT))

        assert manifests(transport).resolve(Tag("v1")) == INDEX.descriptor
        assert [sent.method for sent in transport.sent] == ["HEAD", "GET"]

    def test_a_digest_need_not_be_confirmed_by_a_header(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-005: the header may be missing."""
        transport = scripted(reply(200, {**TYPED, "Content-Length": "9"}))

        assert manifests(transport).resolve(INDEX.digest).digest == INDEX.digest

    def test_another_digest_than_requested_is_an_error(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-003."""
        headers = {**TYPED, "Content-Length": "9", "Docker-Content-Digest": Digest.of(b"")}

        with pytest.raises(DigestMismatch):
            manifests(scripted(reply(200, headers))).resolve(INDEX.digest)

    @pytest.mark.parametrize(("status", "error"), [(404, ImageNotFound), (403, Forbidden)])
    def test_a_refused_head_is_not_repeated_as_get(
        self, scripted: MakeTransport, reply: MakeReply, status: int, error: type[Exception]
    ) -> None:
        transport = scripted(reply(status))

        with pytest.raises(error):
            manifests(transport).resolve(Tag("v1"))

        assert len(transport.sent) == 1

    def test_a_repository_without_a_name_is_refused_on_use(self, scripted: MakeTransport) -> None:
        """R-010."""
        with pytest.raises(InvalidName):
            manifests(scripted(), "").resolve(Tag("v1"))


class TestGet:
    def test_the_exact_bytes_are_returned(self, scripted: MakeTransport, reply: MakeReply) -> None:
        manifest = manifests(scripted(reply(200, TYPED, CONTENT))).get(INDEX.digest)

        assert manifest.content == CONTENT
        assert manifest.digest == INDEX.digest

    def test_other_bytes_than_requested_are_refused(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-003: even if the headers agree."""
        headers = TYPED | {"Docker-Content-Digest": Digest.of(b"")}

        with pytest.raises(DigestMismatch) as caught:
            manifests(scripted(reply(200, headers, CONTENT))).get(Digest.of(b""))

        assert caught.value.actual == INDEX.digest

    @pytest.mark.parametrize("claim", ["", "sha256:short", "md5:d41d8cd98f00b204e9800998ecf8427e"])
    def test_the_digest_of_a_tag_is_computed_from_the_bytes(
        self, scripted: MakeTransport, reply: MakeReply, claim: str
    ) -> None:
        """R-005."""
        transport = scripted(reply(200, TYPED | {"Docker-Content-Digest": claim}, CONTENT))

        assert manifests(transport).get(Tag("v1")).digest == INDEX.digest

    def test_bytes_that_differ_from_the_reported_digest_are_refused(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-005: for a tag, this is the only way to detect damaged bytes."""
        transport = scripted(reply(200, TYPED | {"Docker-Content-Digest": Digest.of(b"")}, CONTENT))

        with pytest.raises(DigestMismatch) as caught:
            manifests(transport).get(Tag("v1"))

        assert (caught.value.expected, caught.value.actual) == (Digest.of(b""), INDEX.digest)

    def test_a_correct_digest_of_another_algorithm_is_kept(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-005."""
        digest = Digest.of(CONTENT, "sha512")

        assert (
            manifests(scripted(reply(200, TYPED | {"Docker-Content-Digest": digest}, CONTENT))).get(Tag("v1")).digest
            == digest
        )

    def test_a_digest_that_cannot_be_verified_is_not_requested(self, scripted: MakeTransport) -> None:
        """R-002."""
        with pytest.raises(Unsupported):
            manifests(scripted()).get(Digest("md5:d41d8cd98f00b204e9800998ecf8427e"))

    @pytest.mark.parametrize(
        ("status", "headers", "content", "error"),
        [
            (200, {"Content-Type": "text/html"}, b"<html>", InvalidDocument),
            (200, {"Content-Type": OCI_MANIFEST}, CONTENT, InvalidDocument),
            (200, TYPED, b" " * (MANIFEST_LIMIT + 1), TooLarge),
            (202, TYPED, CONTENT, ProtocolError),
            (204, {}, b"", ProtocolError),
            (404, {}, error_body("NAME_UNKNOWN"), RepositoryNotFound),
            (404, {}, b"", ImageNotFound),
        ],
    )
    def test_errors_have_the_reference_of_the_manifest(
        self,
        scripted: MakeTransport,
        reply: MakeReply,
        status: int,
        headers: dict[str, str],
        content: bytes,
        error: type[Exception],
    ) -> None:
        """R-055, R-056."""
        with pytest.raises(error) as caught:
            manifests(scripted(reply(status, headers, content))).get(Tag("v1"))

        assert getattr(caught.value, "reference", "") == "registry.example.com/org/app:v1"

    @pytest.mark.parametrize("coding", ["gzip", "x-gzip", "aws-chunked", "binary", "deflate, gzip"])
    @pytest.mark.parametrize("reference", [INDEX.digest, Tag("v1")])
    def test_a_content_coding_is_no_error_where_the_bytes_fit(
        self, scripted: MakeTransport, reply: MakeReply, coding: str, reference: Tag | Digest
    ) -> None:
        """R-056."""
        transport = scripted(reply(200, TYPED | {"Content-Encoding": coding}, CONTENT))

        assert manifests(transport).get(reference).content == CONTENT

    @pytest.mark.parametrize(
        ("reference", "claim", "error"),
        [
            (INDEX.digest, "", DigestMismatch),
            (Tag("v1"), INDEX.digest, DigestMismatch),
            (Tag("v1"), "", ProtocolError),
        ],
    )
    def test_encoded_bytes_are_an_error_that_names_the_content_coding(
        self,
        scripted: MakeTransport,
        reply: MakeReply,
        reference: Tag | Digest,
        claim: str,
        error: type[RegistryError],
    ) -> None:
        """R-056: they are not decoded."""
        headers = TYPED | {"Content-Encoding": "gzip"} | ({"Docker-Content-Digest": claim} if claim else {})

        with pytest.raises(error, match=r"\(the response has the Content-Encoding 'gzip'\)"):
            manifests(scripted(reply(200, headers, gzip.compress(CONTENT)))).get(reference)

    def test_a_content_type_that_is_no_kind_of_manifest_gives_way_to_the_document(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-029."""
        headers = {"Content-Type": "binary/octet-stream", "Content-Length": str(len(CONTENT))}
        transport = scripted(reply(200, headers), reply(200, headers, CONTENT))

        assert manifests(transport).resolve(INDEX.digest) == INDEX.descriptor


class TestPut:
    def test_the_media_type_of_the_document_is_sent(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-079: also for a manifest that was made with a generic type."""
        transport = scripted(reply(201))

        assert manifests(transport).put(RawManifest("text/html", CONTENT)) == INDEX.descriptor
        assert transport.sent[0].headers["Content-Type"] == OCI_INDEX

    def test_a_manifest_with_one_tag_is_put_with_one_request(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-079: exact bytes, and the type without parameters."""
        transport = scripted(reply(201))

        assert manifests(transport).put(INDEX, tags=[Tag("v1")]) == INDEX.descriptor
        assert requested(transport) == [f"PUT {REPOSITORY}/manifests/v1"]
        assert transport.sent[0].body == CONTENT
        assert transport.sent[0].headers["Content-Type"] == OCI_INDEX

    def test_a_manifest_without_a_tag_is_put_by_digest(self, scripted: MakeTransport, reply: MakeReply) -> None:
        transport = scripted(reply(201))

        manifests(transport).put(INDEX)

        assert requested(transport) == [f"PUT {REPOSITORY}/manifests/{INDEX.digest}"]

    def test_a_manifest_is_put_once_for_each_tag(self, scripted: MakeTransport, reply: MakeReply) -> None:
        transport = scripted(reply(201), reply(201))

        manifests(transport).put(INDEX, tags=[Tag("v1"), Tag("v2"), Tag("v1")])

        assert requested(transport) == [f"PUT {REPOSITORY}/manifests/v1", f"PUT {REPOSITORY}/manifests/v2"]

    def test_with_another_algorithm_tags_listed_in_oci_tag_are_not_put_again(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-238."""
        manifest = RawManifest(OCI_INDEX, CONTENT, "sha512")
        transport = scripted(reply(201, {"OCI-Tag": "v1"}), reply(201))

        manifests(transport).put(manifest, tags=[Tag("v1"), Tag("v2")])

        assert requested(transport) == [
            f"PUT {REPOSITORY}/manifests/{manifest.digest}?tag=v1&tag=v2",
            f"PUT {REPOSITORY}/manifests/v2",
        ]

    @pytest.mark.parametrize("content", [b"garbage", b"{}", b'{"schemaVersion":2,"manifests":[],"layers":[]}'])
    def test_an_invalid_manifest_is_not_sent(self, scripted: MakeTransport, content: bytes) -> None:
        with pytest.raises(InvalidDocument):
            manifests(scripted()).put(RawManifest(OCI_INDEX, content))

    def test_another_digest_in_the_response_is_an_error(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-079."""
        with pytest.raises(DigestMismatch):
            manifests(scripted(reply(201, {"Docker-Content-Digest": Digest.of(b"")}))).put(INDEX)

    @pytest.mark.parametrize("status", [200, 202, 203, 204, 206, 226])
    @pytest.mark.parametrize("name", [Tag("v1"), INDEX.digest])
    def test_after_another_success_status_the_manifest_is_looked_up(
        self, scripted: MakeTransport, reply: MakeReply, status: int, name: Tag | Digest
    ) -> None:
        """R-079: Quay and some proxies do not answer 201."""
        transport = scripted(reply(status), reply(200, TYPED | {"Docker-Content-Digest": INDEX.digest}))

        manifests(transport).put(INDEX, tags=[name] if isinstance(name, Tag) else [])

        assert requested(transport) == [f"{method} {REPOSITORY}/manifests/{name}" for method in ("PUT", "HEAD")]

    @pytest.mark.parametrize(
        "head", [(405, {}), (200, {}), (200, TYPED | {"Content-Length": str(len(CONTENT))}), (200, PAGE)]
    )
    def test_where_head_does_not_state_the_digest_the_manifest_is_read(
        self, scripted: MakeTransport, reply: MakeReply, head: tuple[int, dict[str, str]]
    ) -> None:
        """R-079."""
        transport = scripted(reply(202), reply(*head), reply(200, {}, CONTENT))

        manifests(transport).put(INDEX, tags=[Tag("v1")])

        assert requested(transport)[2:] == [f"GET {REPOSITORY}/manifests/v1"]

    @pytest.mark.parametrize("status", [200, 202, 204])
    @pytest.mark.parametrize(
        "look",
        [
            [(404, {})],
            [(403, {})],
            [(401, {})],
            [(500, {})],
            [(200, {"Docker-Content-Digest": Digest.of(b"")})],
            [(405, {}), (404, {})],
            [(200, PAGE), (200, PAGE, LOGIN)],
            [(200, {}), (200, {}, CONTENT + b" ")],
        ],
    )
    def test_a_success_status_without_the_manifest_is_an_error_that_names_the_status(
        self, scripted: MakeTransport, reply: MakeReply, status: int, look: list[tuple[Any, ...]]
    ) -> None:
        """R-079: a login page is no success."""
        transport = scripted(reply(status, PAGE, LOGIN), *[reply(*answer) for answer in look])

        with pytest.raises(ProtocolError, match=f"PUT .*v1: unexpected status {status}") as caught:
            manifests(transport).put(INDEX, tags=[Tag("v1")])

        assert caught.value.status == status
        assert len(transport.replies) == 0

    def test_a_manifest_that_was_stored_before_does_not_prove_that_a_tag_is_set(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-079: the tag is looked up, not the digest."""
        transport = scripted(
            reply(201), reply(200, PAGE, LOGIN), reply(200, {"Docker-Content-Digest": Digest.of(b"old")})
        )

        with pytest.raises(ProtocolError, match="manifests/v2"):
            manifests(transport).put(INDEX, tags=[Tag("v1"), Tag("v2")])

    def test_each_tag_of_another_algorithm_is_looked_up(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-079, R-238: the registry states the digest of its own algorithm."""
        named = reply(200, {"Docker-Content-Digest": INDEX.digest})
        manifest = RawManifest.of(CONTENT, algorithm="sha512")
        transport = scripted(reply(202, {"OCI-Tag": "v1"}), named, reply(202), named)

        manifests(transport).put(manifest, tags=[Tag("v1"), Tag("v2")])

        assert [sent.method for sent in transport.sent] == ["PUT", "HEAD", "PUT", "HEAD"]
        assert transport.sent[3].url.endswith("/manifests/v2")

    def test_another_digest_in_a_response_with_another_success_status_is_an_error(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-079."""
        with pytest.raises(DigestMismatch):
            manifests(scripted(reply(202, {"Docker-Content-Digest": Digest.of(b"")}))).put(INDEX)

    def test_a_missing_blob_raises_blob_not_found(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-078."""
        with pytest.raises(BlobNotFound):
            manifests(scripted(reply(404, {}, error_body("MANIFEST_BLOB_UNKNOWN")))).put(INDEX)


class TestDelete:
    def test_a_tag_is_deleted_by_its_name(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-251."""
        transport = scripted(reply(202))

        manifests(transport).untag(Tag("v1"))

        assert requested(transport) == [f"DELETE {REPOSITORY}/manifests/v1"]

    @pytest.mark.parametrize(("status", "error"), [(404, ImageNotFound), (400, Unsupported), (405, Unsupported)])
    def test_a_failed_deletion_of_a_tag_raises_the_error_of_its_status(
        self, scripted: MakeTransport, reply: MakeReply, status: int, error: type[Exception]
    ) -> None:
        """R-251: the manifest is not deleted instead."""
        transport = scripted(reply(status))

        with pytest.raises(error):
            manifests(transport).untag(Tag("v1"))

        assert len(transport.sent) == 1

    def test_the_error_of_an_unsupported_untag_names_an_alternative_and_the_response(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        with pytest.raises(Unsupported) as caught:
            manifests(scripted(reply(405))).untag(Tag("v1"))

        assert caught.value.message.startswith(
            "the registry does not delete tags; delete_by_digest deletes the manifest with all its tags: DELETE http"
        )
        assert caught.value.transport is not None
        assert caught.value.transport.status == 405

    def test_a_manifest_is_deleted_by_its_digest(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-252: a registry with the referrers API updates its list itself."""
        listed: dict[str, Any] = {"schemaVersion": 2, "manifests": []}
        transport = scripted(reply(200, TYPED, json.dumps(listed).encode()), reply(202), reply(202))
        store = manifests(transport)

        store.delete(INDEX.digest)
        store.delete(INDEX.digest)

        assert requested(transport) == [
            f"GET {REPOSITORY}/referrers/{INDEX.digest}",
            f"DELETE {REPOSITORY}/manifests/{INDEX.digest}",
            f"DELETE {REPOSITORY}/manifests/{INDEX.digest}",
        ]

    @pytest.mark.parametrize(("status", "error"), [(404, ImageNotFound), (400, Unsupported), (405, Unsupported)])
    def test_a_failed_deletion_of_a_manifest_raises_the_error_of_its_status(
        self, scripted: MakeTransport, reply: MakeReply, status: int, error: type[Exception]
    ) -> None:
        """R-250."""
        transport = scripted(reply(404), reply(404), reply(status))

        with pytest.raises(error):
            manifests(transport).delete(INDEX.digest)
