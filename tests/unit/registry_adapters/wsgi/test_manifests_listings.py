"""Listings over real sockets (distribution-spec, "Content Discovery")."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from registry_adapters.layout import LayoutCatalog
from registry_adapters.memory import MemoryCatalog
from registry_core import ImageName, RawManifest, RepositoryName, Tag

if TYPE_CHECKING:
    from tests.unit.registry_adapters.wsgi.conftest import Reply, Serve, Wire

INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = RawManifest(INDEX, b'{"schemaVersion":2,"manifests":[]}')
TAGS = ["A", "a", "b", "c", "d"]


def tagged() -> MemoryCatalog:
    catalog = MemoryCatalog()
    catalog.repository(RepositoryName("org/app")).manifests.put(EMPTY, tags=[Tag(tag) for tag in TAGS])
    return catalog


def named(*names: str) -> MemoryCatalog:
    catalog = MemoryCatalog()
    for name in names:
        catalog.repository(RepositoryName(name)).manifests.put(EMPTY, tags=[Tag("v1")])
    return catalog


def following(reply: Reply) -> str | None:
    link = reply.headers["Link"]
    match = re.fullmatch(r'<([^>]*)>; rel="next"', link) if link else None
    return match[1] if match else None


def pages(wire: Wire, path: str, key: str) -> list[Any]:
    found = []
    target: str | None = path
    while target is not None:
        reply = wire("GET", target)
        assert reply.status == 200
        found.append(reply.json[key])
        target = following(reply)
    return found


class TestTags:
    def test_all_tags_are_listed_in_order(self, serve: Serve) -> None:
        """R-210."""
        wire = serve(tagged())

        reply = wire("GET", "/v2/org/app/tags/list")

        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
        assert reply.json == {"name": "org/app", "tags": TAGS}
        assert following(reply) is None

    def test_a_page_links_to_the_next_one(self, serve: Serve) -> None:
        wire = serve(tagged())

        reply = wire("GET", "/v2/org/app/tags/list?n=2")

        assert reply.json["tags"] == ["A", "a"]
        assert following(reply) == "/v2/org/app/tags/list?n=2&last=a"

    @pytest.mark.parametrize(
        ("n", "expected"),
        [(1, [["A"], ["a"], ["b"], ["c"], ["d"]]), (2, [["A", "a"], ["b", "c"], ["d"]]), (5, [TAGS]), (9, [TAGS])],
    )
    def test_links_lead_through_all_pages(self, serve: Serve, n: int, expected: list[list[str]]) -> None:
        """R-212."""
        wire = serve(tagged())

        found = pages(wire, f"/v2/org/app/tags/list?n={n}", "tags")

        assert found == expected

    @pytest.mark.parametrize(
        ("query", "expected"),
        [("last=b", ["c", "d"]), ("last=aa", ["b", "c", "d"]), ("last=zz", []), ("last=b&n=1", ["c"])],
    )
    def test_last_is_exclusive_and_need_not_exist(self, serve: Serve, query: str, expected: list[str]) -> None:
        """R-211."""
        wire = serve(tagged())

        reply = wire("GET", f"/v2/org/app/tags/list?{query}")

        assert reply.json["tags"] == expected

    def test_a_page_can_be_empty(self, serve: Serve) -> None:
        """R-212."""
        wire = serve(tagged())

        reply = wire("GET", "/v2/org/app/tags/list?n=0")

        assert (reply.status, reply.json["tags"], following(reply)) == (200, [], None)

    @pytest.mark.parametrize("n", ["-1", "x", "", "1.5"])
    def test_an_invalid_page_size_is_400(self, serve: Serve, n: str) -> None:
        wire = serve(tagged())

        reply = wire("GET", f"/v2/org/app/tags/list?n={n}")

        assert (reply.status, reply.code) == (400, "PAGINATION_NUMBER_INVALID")

    @pytest.mark.parametrize("query", ["", "?n=3", "?n=100"])
    def test_the_server_can_limit_the_page_size(self, serve: Serve, query: str) -> None:
        wire = serve(tagged(), page_limit=2)

        found = pages(wire, f"/v2/org/app/tags/list{query}", "tags")

        assert found == [["A", "a"], ["b", "c"], ["d"]]

    @pytest.mark.parametrize("query", ["", "?n=0", "?n=2"])
    def test_an_unknown_repository_is_404(self, serve: Serve, query: str) -> None:
        wire = serve(tagged())

        reply = wire("GET", f"/v2/org/other/tags/list{query}")

        assert (reply.status, reply.code) == (404, "NAME_UNKNOWN")


class TestCatalog:
    def test_all_repositories_are_listed_in_order(self, serve: Serve) -> None:
        wire = serve(named("b", "a/x", "a"))

        reply = wire("GET", "/v2/_catalog")

        assert (reply.status, reply.json) == (200, {"repositories": ["a", "a/x", "b"]})

    def test_links_lead_through_all_pages(self, serve: Serve) -> None:
        wire = serve(named("a", "a/x", "b", "c"))

        found = pages(wire, "/v2/_catalog?n=3", "repositories")

        assert found == [["a", "a/x", "b"], ["c"]]

    def test_a_repository_without_a_name_is_not_listed(self, serve: Serve) -> None:
        wire = serve(named("", "a"))

        found = pages(wire, "/v2/_catalog?n=1", "repositories")

        assert found == [["a"]]

    def test_the_root_repository_is_listed_by_its_root_name(self, serve: Serve) -> None:
        wire = serve(named("", "a", "z"), root_name="image")

        found = pages(wire, "/v2/_catalog?n=1", "repositories")

        assert found == [["a"], ["image"], ["z"]]
        assert wire("GET", "/v2/image/manifests/v1").content == EMPTY.content

    def test_the_root_name_is_not_listed_without_a_root_repository(self, serve: Serve) -> None:
        wire = serve(named("a"), root_name="image")

        reply = wire("GET", "/v2/_catalog")

        assert reply.json["repositories"] == ["a"]

    def test_an_empty_registry_has_an_empty_list(self, wire: Wire) -> None:
        reply = wire("GET", "/v2/_catalog")

        assert (reply.status, reply.json) == (200, {"repositories": []})


class TestReferrers:
    SUBJECT = "sha256:" + "1" * 64

    def refer(self, wire: Wire, artifact_type: str, note: str = "") -> str:
        document = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "artifactType": artifact_type,
            "manifests": [],
            "subject": {"mediaType": INDEX, "digest": self.SUBJECT, "size": 7},
            "annotations": {"note": note},
        }
        content = json.dumps(document).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert wire("PUT", f"/v2/org/app/manifests/{digest}", content, {"Content-Type": INDEX}).status == 201
        return digest

    def test_the_referrers_of_a_manifest_are_an_index(self, wire: Wire) -> None:
        """R-220."""
        digest = self.refer(wire, "a/sbom", "hello")

        reply = wire("GET", f"/v2/org/app/referrers/{self.SUBJECT}")

        assert (reply.status, reply.headers["Content-Type"]) == (200, INDEX)
        assert (reply.json["schemaVersion"], reply.json["mediaType"]) == (2, INDEX)
        (entry,) = reply.json["manifests"]
        assert (entry["digest"], entry["mediaType"], entry["artifactType"]) == (digest, INDEX, "a/sbom")
        assert entry["annotations"] == {"note": "hello"}
        assert entry["size"] == len(wire("GET", f"/v2/org/app/manifests/{digest}").content)

    def test_a_filter_is_applied_and_acknowledged(self, wire: Wire) -> None:
        self.refer(wire, "a/sbom")
        wanted = self.refer(wire, "a/signature+json")

        reply = wire("GET", f"/v2/org/app/referrers/{self.SUBJECT}?artifactType=a%2Fsignature%2Bjson")

        assert [entry["digest"] for entry in reply.json["manifests"]] == [wanted]
        assert reply.headers["OCI-Filters-Applied"] == "artifactType"

    def test_without_a_filter_none_is_acknowledged(self, wire: Wire) -> None:
        self.refer(wire, "a/sbom")

        reply = wire("GET", f"/v2/org/app/referrers/{self.SUBJECT}")

        assert reply.headers["OCI-Filters-Applied"] is None

    @pytest.mark.parametrize("name", ["org/app", "org/nothing"])
    def test_an_unknown_manifest_has_no_referrers(self, wire: Wire, name: str) -> None:
        self.refer(wire, "a/sbom")

        reply = wire("GET", f"/v2/{name}/referrers/sha256:{'2' * 64}")

        assert (reply.status, reply.json["manifests"]) == (200, [])

    def test_an_invalid_digest_is_400(self, wire: Wire) -> None:
        reply = wire("GET", "/v2/org/app/referrers/sha256:short")

        assert (reply.status, reply.code) == (400, "DIGEST_INVALID")

    def test_pages_have_each_referrer_once_and_keep_the_filter(self, serve: Serve) -> None:
        wire = serve(page_limit=2)
        wanted = {self.refer(wire, "a/sbom", str(number)) for number in range(5)}
        self.refer(wire, "a/signature")

        found = pages(wire, f"/v2/org/app/referrers/{self.SUBJECT}?artifactType=a/sbom", "manifests")

        digests = [entry["digest"] for page in found for entry in page]
        assert [len(page) for page in found] == [2, 2, 1]
        assert (set(digests), len(digests)) == (wanted, 5)

    def test_without_the_referrers_api_the_endpoint_is_404(self, serve: Serve) -> None:
        """R-221."""
        wire = serve(referrers_api=False)

        reply = wire("GET", f"/v2/org/app/referrers/{self.SUBJECT}")

        assert reply.status == 404


class TestLayouts:
    def test_a_layout_that_does_not_exist_yet_is_an_empty_registry(self, serve: Serve, tmp_path: Path) -> None:
        """R-314: the first push creates it."""
        wire = serve(LayoutCatalog(tmp_path / "absent"))

        reply = wire("GET", "/v2/_catalog")

        assert (reply.status, reply.json) == (200, {"repositories": []})
        assert wire("GET", "/v2/org/app/tags/list").status == 404
        assert not (tmp_path / "absent").exists()

    def test_images_are_served_by_the_repositories_in_their_names(self, serve: Serve, tmp_path: Path) -> None:
        """R-307."""
        repository = LayoutCatalog(tmp_path).repository("")
        assert repository.names is not None
        for name in ("docker.io/library/alpine:3.18", "1.0+build"):
            repository.names.assign(ImageName(name), repository.manifests.put(EMPTY))
        wire = serve(LayoutCatalog(tmp_path))

        assert wire("GET", "/v2/_catalog").json == {"repositories": ["library/alpine"]}
        assert wire("GET", "/v2/library/alpine/tags/list").json["tags"] == ["3.18"]
        assert wire("GET", "/v2/library/alpine/manifests/3.18").content == EMPTY.content
        assert wire("GET", "/v2/library/alpine/manifests/1.0%2Bbuild").status in (400, 404)
