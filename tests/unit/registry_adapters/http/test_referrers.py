from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from registry_adapters.http import HttpCatalog, HttpSettings
from registry_core.content.streams import MANIFEST_LIMIT
from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import DOCKER_INDEX, OCI_INDEX, OCI_MANIFEST
from registry_core.domain.names import RepositoryName
from registry_core.domain.referrers import fallback_tag
from registry_core.errors import Forbidden, NotAnIndex, ProtocolError, TooLarge, Unavailable
from registry_core.ports.manifest_store import ManifestStore

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import Reply, ScriptedTransport

    MakeTransport = Callable[..., ScriptedTransport]
    MakeReply = Callable[..., Reply]

SUBJECT = Digest.of(b"subject")
TAG = fallback_tag(SUBJECT)
REPOSITORY = "https://registry.example.com/v2/org/app"
TYPED = {"Content-Type": OCI_INDEX}


def manifests(transport: ScriptedTransport) -> ManifestStore:
    catalog = HttpCatalog("registry.example.com", HttpSettings(retries=0), transport=transport)
    return catalog.repository(RepositoryName("org/app")).manifests


def requested(transport: ScriptedTransport) -> list[str]:
    return [f"{sent.method} {sent.url}" for sent in transport.sent]


def entry(text: str, kind: str = "text/a") -> dict[str, Any]:
    return {"mediaType": OCI_MANIFEST, "digest": Digest.of(text.encode()), "size": 3, "artifactType": kind}


def listing(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def digests(*texts: str) -> list[Digest]:
    return [Digest.of(text.encode()) for text in texts]


def attachment(text: str = "a") -> RawManifest:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "artifactType": "text/a",
        "manifests": [],
        "subject": {"mediaType": OCI_MANIFEST, "digest": SUBJECT, "size": 7},
        "annotations": {"key": text},
    }
    return RawManifest.of(json.dumps(document).encode())


class TestApi:
    def test_pages_are_followed_and_each_referrer_is_listed_once(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-220."""
        transport = scripted(
            reply(
                200, {"Content-Type": f"{OCI_INDEX}; charset=utf-8", "Link": "<?p=2>; rel=next"}, listing(entry("a"))
            ),
            reply(200, TYPED, listing(entry("a"), entry("b"))),
        )

        assert [found.digest for found in manifests(transport).referrers(SUBJECT)] == digests("a", "b")
        assert requested(transport) == [
            f"GET {REPOSITORY}/referrers/{SUBJECT}",
            f"GET {REPOSITORY}/referrers/{SUBJECT}?p=2",
        ]

    @pytest.mark.parametrize("headers", [{}, {"OCI-Filters-Applied": "artifactType"}])
    def test_referrers_are_filtered_even_if_the_registry_filters(
        self, scripted: MakeTransport, reply: MakeReply, headers: dict[str, str]
    ) -> None:
        """R-220."""
        transport = scripted(reply(200, TYPED | headers, listing(entry("a", "text/a+b"), entry("b", "text/c"))))

        found = list(manifests(transport).referrers(SUBJECT, artifact_type="text/a+b"))

        assert [descriptor.digest for descriptor in found] == digests("a")
        assert requested(transport) == [f"GET {REPOSITORY}/referrers/{SUBJECT}?artifactType=text%2Fa%2Bb"]

    @pytest.mark.parametrize("content", [b"{", b"[]", b'{"schemaVersion":2,"manifests":[{"digest":"x"}]}'])
    def test_a_malformed_list_is_an_error(self, scripted: MakeTransport, reply: MakeReply, content: bytes) -> None:
        with pytest.raises(ProtocolError):
            list(manifests(scripted(reply(200, TYPED, content))).referrers(SUBJECT))

    def test_a_403_of_the_referrers_api_is_raised(self, scripted: MakeTransport, reply: MakeReply) -> None:
        with pytest.raises(Forbidden):
            list(manifests(scripted(reply(403))).referrers(SUBJECT))


class TestFallback:
    def test_the_list_is_read_from_the_tag(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-221; the missing API is cached."""
        transport = scripted(reply(404), *[reply(200, TYPED, listing(entry("a"), entry("b", "text/b")))] * 2)
        store = manifests(transport)

        assert [found.digest for found in store.referrers(SUBJECT)] == digests("a", "b")
        assert [found.digest for found in store.referrers(SUBJECT, artifact_type="text/b")] == digests("b")
        assert requested(transport) == [
            f"GET {REPOSITORY}/referrers/{SUBJECT}",
            *[f"GET {REPOSITORY}/manifests/{TAG}"] * 2,
        ]

    def test_an_unknown_repository_has_no_referrers(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-220: like any unknown digest."""
        name_unknown = b'{"errors":[{"code":"NAME_UNKNOWN"}]}'
        transport = scripted(*[reply(404, {}, name_unknown)] * 2)

        assert list(manifests(transport).referrers(SUBJECT)) == []

    @pytest.mark.parametrize(
        ("headers", "content"),
        [
            ({"Content-Type": "text/html"}, b"<html>"),
            ({"Content-Type": "application/json"}, b"{}"),
            ({}, b""),
            ({"Content-Type": OCI_MANIFEST}, listing(entry("a"))),
            ({"Content-Type": DOCKER_INDEX}, listing(entry("a"))),
        ],
    )
    def test_a_response_that_is_no_image_index_means_no_api(
        self, scripted: MakeTransport, reply: MakeReply, headers: dict[str, str], content: bytes
    ) -> None:
        """R-221."""
        transport = scripted(reply(200, headers, content), reply(404))

        assert list(manifests(transport).referrers(SUBJECT)) == []
        assert requested(transport)[1] == f"GET {REPOSITORY}/manifests/{fallback_tag(SUBJECT)}"

    @pytest.mark.parametrize("content_type", ["", "application/json", "text/plain", "binary/octet-stream", "text/html"])
    def test_an_image_index_without_its_type_is_the_list(
        self, scripted: MakeTransport, reply: MakeReply, content_type: str
    ) -> None:
        """R-221, R-029: no list is lost because the server does not know the type."""
        transport = scripted(reply(200, {"Content-Type": content_type}, listing(entry("a"))))

        assert [found.digest for found in manifests(transport).referrers(SUBJECT)] == digests("a")

    @pytest.mark.parametrize(
        ("status", "headers", "content"),
        [
            (404, {}, b""),
            (200, {"Content-Type": "text/html"}, b"<html>"),
            (200, {"Content-Type": OCI_MANIFEST}, listing()),
        ],
    )
    def test_a_tag_without_a_list_gives_no_referrers(
        self, scripted: MakeTransport, reply: MakeReply, status: int, headers: dict[str, str], content: bytes
    ) -> None:
        """R-221."""
        assert list(manifests(scripted(reply(404), reply(status, headers, content))).referrers(SUBJECT)) == []

    def test_a_list_under_the_tag_that_is_really_encoded_is_an_error(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-056, R-221: it is not taken for no referrers."""
        encoded = reply(200, TYPED | {"Content-Encoding": "gzip"}, gzip.compress(listing(entry("a"))))

        with pytest.raises(ProtocolError, match="Content-Encoding 'gzip'"):
            list(manifests(scripted(reply(404), encoded)).referrers(SUBJECT))

    def test_a_404_for_an_absent_repository_does_not_mark_the_api_as_missing(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        name_unknown = reply(404, {}, b'{"errors":[{"code":"NAME_UNKNOWN"}]}')
        transport = scripted(name_unknown, reply(404), reply(200, TYPED, listing(entry("a"))))
        store = manifests(transport)

        assert list(store.referrers(SUBJECT)) == []
        assert [found.digest for found in store.referrers(SUBJECT)] == digests("a")


class TestListUpdates:
    def test_with_oci_subject_the_list_is_not_changed(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-222."""
        transport = scripted(reply(201, {"OCI-Subject": SUBJECT}))

        manifests(transport).put(attachment())

        assert len(transport.sent) == 1

    def test_without_oci_subject_the_list_is_updated(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-222: with artifact type and annotations; other entries are kept, and the result is read again."""
        manifest = attachment()
        done = listing(entry("other"), entry("x") | {"digest": manifest.digest})
        transport = scripted(
            reply(201), reply(200, TYPED, listing(entry("other"))), reply(201), reply(200, TYPED, done)
        )

        manifests(transport).put(manifest)

        assert requested(transport)[1:] == [
            f"GET {REPOSITORY}/manifests/{TAG}",
            f"PUT {REPOSITORY}/manifests/{TAG}",
            f"GET {REPOSITORY}/manifests/{TAG}",
        ]
        written = strict_json.decode(transport.sent[2].body or b"")["manifests"]
        assert written[0] == json.loads(json.dumps(entry("other")))
        assert written[1]["digest"] == manifest.digest
        assert written[1]["artifactType"] == "text/a"
        assert written[1]["annotations"] == {"key": "a"}

    def test_the_first_entry_creates_the_list(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-222: a missing list counts as empty."""
        manifest = attachment()
        done = listing(entry("x") | {"digest": manifest.digest})
        transport = scripted(reply(201), reply(404), reply(201), reply(200, TYPED, done))

        manifests(transport).put(manifest)

        assert len(strict_json.decode(transport.sent[2].body or b"")["manifests"]) == 1

    def test_an_existing_entry_is_not_written_again(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-222."""
        manifest = attachment()
        transport = scripted(reply(201), reply(200, TYPED, listing(entry("x") | {"digest": manifest.digest})))

        manifests(transport).put(manifest)

        assert len(transport.replies) == 0

    def test_an_entry_that_another_process_overwrote_is_written_again(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-222."""
        manifest = attachment()
        other_list, complete_list = listing(entry("b")), listing(entry("b"), entry("x") | {"digest": manifest.digest})
        transport = scripted(
            reply(201),
            reply(404),
            reply(201),
            reply(200, TYPED, other_list),
            reply(201),
            reply(200, TYPED, complete_list),
        )

        manifests(transport).put(manifest)

        assert [item["digest"] for item in strict_json.decode(transport.sent[4].body or b"")["manifests"]] == [
            *digests("b"),
            manifest.digest,
        ]

    def test_rewrites_are_limited(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-222."""
        transport = scripted(reply(201), reply(404), *[reply(201), reply(404)] * 4)

        with pytest.raises(Unavailable):
            manifests(transport).put(attachment())

        assert len(transport.replies) == 0

    def test_a_list_that_is_too_long_is_not_sent(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-222: registries need not accept it."""
        full = listing(*[entry(str(number), "x" * 4000) for number in range(1010)])
        assert 4 << 20 < len(full) < MANIFEST_LIMIT
        manifest = attachment()
        transport = scripted(reply(201), reply(200, TYPED, full))

        with pytest.raises(TooLarge):
            manifests(transport).put(manifest)

        assert requested(transport) == [
            f"PUT {REPOSITORY}/manifests/{manifest.digest}",
            f"GET {REPOSITORY}/manifests/{TAG}",
        ]

    @pytest.mark.parametrize("status", [500, 503])
    def test_a_failing_api_does_not_prevent_deletion(
        self, scripted: MakeTransport, reply: MakeReply, status: int
    ) -> None:
        """R-224: an entry in the list under the tag is removed."""
        manifest = attachment()
        transport = scripted(
            reply(status),
            reply(200, TYPED, manifest.content),
            reply(202),
            reply(200, TYPED, listing(entry("x") | {"digest": manifest.digest})),
            reply(201),
            reply(404),
        )

        manifests(transport).delete(manifest.digest)

        assert requested(transport)[0] == f"GET {REPOSITORY}/referrers/{manifest.digest}"
        assert requested(transport)[2] == f"DELETE {REPOSITORY}/manifests/{manifest.digest}"
        assert strict_json.decode(transport.sent[4].body or b"")["manifests"] == []

    def test_an_unreachable_registry_prevents_deletion(self, scripted: MakeTransport) -> None:
        """R-224: no manifest is deleted."""
        transport = scripted(Unavailable("no connection"))

        with pytest.raises(Unavailable):
            manifests(transport).delete(attachment().digest)

        assert len(transport.sent) == 1

    def test_a_tag_with_other_content_is_not_changed(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-222: the error is raised."""
        image = {"schemaVersion": 2, "config": entry("c") | {"artifactType": ""}, "layers": []}
        transport = scripted(reply(201), reply(200, {"Content-Type": OCI_MANIFEST}, json.dumps(image).encode()))

        with pytest.raises(NotAnIndex):
            manifests(transport).put(attachment())

        assert len(transport.sent) == 2

    def test_a_deleted_manifest_is_removed_from_the_list(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-224: other entries are kept."""
        manifest = attachment()
        own_entry = entry("x") | {"digest": manifest.digest}
        transport = scripted(
            reply(404),
            reply(200, TYPED, manifest.content),
            reply(202),
            reply(200, TYPED, listing(own_entry, entry("b"))),
            reply(201),
            reply(200, TYPED, listing(entry("b"))),
        )

        manifests(transport).delete(manifest.digest)

        assert requested(transport)[2:5] == [
            f"DELETE {REPOSITORY}/manifests/{manifest.digest}",
            f"GET {REPOSITORY}/manifests/{TAG}",
            f"PUT {REPOSITORY}/manifests/{TAG}",
        ]
        assert [item["digest"] for item in strict_json.decode(transport.sent[4].body or b"")["manifests"]] == digests(
            "b"
        )
