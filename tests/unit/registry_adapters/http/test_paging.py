from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from registry_adapters.http import HttpCatalog, HttpSettings
from registry_adapters.http.paging import PAGE_LIMIT
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import (
    CatalogUnsupported,
    Forbidden,
    InvalidName,
    ProtocolError,
    RegistryError,
    RepositoryNotFound,
    TooLarge,
    Unauthorized,
    Unsupported,
)
from registry_core.ports.manifest_store import ManifestStore

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import Reply, ScriptedTransport

    MakeTransport = Callable[..., ScriptedTransport]
    MakeReply = Callable[..., Reply]

LIST = "https://registry.example.com/v2/org/app/tags/list"


def manifests(transport: ScriptedTransport, name: str = "org/app") -> ManifestStore:
    catalog = HttpCatalog("registry.example.com", HttpSettings(retries=0), transport=transport)
    return catalog.repository(RepositoryName(name)).manifests


def tags(*names: object, more: str = "") -> tuple[int, dict[str, str], bytes]:
    return 200, ({"Link": f"<{more}>; rel=next"} if more else {}), json.dumps({"name": "x", "tags": names}).encode()


class TestRepetition:
    def test_identical_pages_without_end_are_an_error(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-092: each has another URL, so no URL repeats."""
        transport = scripted(*(reply(*tags("a", "b", more=f"{LIST}?page={number}")) for number in range(300)))

        with pytest.raises(ProtocolError, match="101 identical pages in a row"):
            list(manifests(transport).tags())

        assert len(transport.sent) == 101

    def test_empty_pages_are_skipped(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-090."""
        empty = (reply(*tags(more=f"{LIST}?page={number}")) for number in range(50))

        assert list(manifests(scripted(*empty, reply(*tags("a")))).tags()) == ["a"]


class TestPing:
    def test_a_ping_succeeds_with_200(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-200."""
        transport = scripted(reply(200))

        HttpCatalog("registry.example.com", transport=transport).ping()

        assert [(sent.method, sent.url) for sent in transport.sent] == [("GET", "https://registry.example.com/v2/")]

    @pytest.mark.parametrize(
        ("status", "kind"), [(401, Unauthorized), (403, Forbidden), (404, Unsupported), (204, ProtocolError)]
    )
    def test_a_ping_with_another_status_is_an_error(
        self, scripted: MakeTransport, reply: MakeReply, status: int, kind: type[RegistryError]
    ) -> None:
        with pytest.raises(kind) as caught:
            HttpCatalog("registry.example.com", transport=scripted(reply(status))).ping()

        assert (type(caught.value), caught.value.reference) == (kind, "registry.example.com")

    def test_a_path_prefix_is_used(self, scripted: MakeTransport, reply: MakeReply) -> None:
        transport = scripted(reply(200))

        HttpCatalog("registry.example.com", HttpSettings(path_prefix="/registry"), transport=transport).ping()

        assert transport.sent[0].url == "https://registry.example.com/registry/v2/"


def test_links_are_resolved_below_a_path_prefix(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-034: a link is resolved against the URL of the request."""
    transport = scripted(reply(*tags("a", more="list?last=a")), reply(*tags("b")))
    settings = HttpSettings(retries=0, path_prefix="/registry")
    catalog = HttpCatalog("registry.example.com", settings, transport=transport)

    listed = list(catalog.repository(RepositoryName("org/app")).manifests.tags())

    assert listed == ["a", "b"]
    assert transport.sent[1].url == "https://registry.example.com/registry/v2/org/app/tags/list?last=a"


def test_a_list_in_one_page_is_sorted(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-213: registries promise no order."""
    transport = scripted(reply(*tags("b", "a", "_x", "B", "b")))

    assert list(manifests(transport).tags()) == ["B", "_x", "a", "b"]
    assert [sent.url for sent in transport.sent] == [LIST]


def test_a_registry_may_ignore_last(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-211: earlier names are dropped."""
    transport = scripted(reply(*tags("c", "a", "b")))

    assert list(manifests(transport).tags(after=Tag("a"))) == ["b", "c"]
    assert [sent.url for sent in transport.sent] == [f"{LIST}?last=a"]


def test_links_are_followed_to_the_last_page(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-090: a short page need not be the last one, and a name may be on two pages."""
    transport = scripted(
        reply(*tags("a", "b", more="?p=2")), reply(*tags("b", more="/v2/org/app/tags/list?p=3")), reply(*tags("b", "c"))
    )

    assert list(manifests(transport).tags(page_size=2)) == ["a", "b", "c"]
    assert [sent.url for sent in transport.sent] == [f"{LIST}?n=2", f"{LIST}?p=2", f"{LIST}?p=3"]


def test_pages_are_requested_lazily(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-092: an endless list costs only the pages that are read."""
    transport = scripted(*(reply(*tags(f"t{page:03}", more=f"?p={page + 1}")) for page in range(20)))

    assert list(itertools.islice(manifests(transport).tags(), 5)) == ["t000", "t001", "t002", "t003", "t004"]
    assert len(transport.sent) == 5


def test_after_a_full_page_without_link_more_is_requested(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-211: the list is never silently cut."""
    transport = scripted(reply(*tags("a", "b")), reply(*tags("c", "d")), reply(*tags()))

    assert list(manifests(transport).tags(page_size=2)) == ["a", "b", "c", "d"]
    assert [sent.url for sent in transport.sent] == [f"{LIST}?n=2", f"{LIST}?n=2&last=b", f"{LIST}?n=2&last=d"]


def test_a_complete_list_of_exactly_the_page_size_is_sorted(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-090: from a registry that supports neither n nor last."""
    transport = scripted(reply(*tags("b", "a")), reply(*tags("b", "a")))

    assert list(manifests(transport).tags(page_size=2)) == ["a", "b"]


def test_a_list_longer_than_the_page_size_is_complete(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-090: from a registry that ignores n."""
    transport = scripted(reply(*tags("c", "b", "a")))

    assert list(manifests(transport).tags(page_size=2)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "link", ["https://evil.example.com/v2/x", "//evil.example.com/x", "http://registry.example.com/x", "ftp://a/b"]
)
def test_a_link_to_another_origin_is_refused_and_not_requested(
    scripted: MakeTransport, reply: MakeReply, link: str
) -> None:
    """R-034."""
    transport = scripted(reply(*tags("a", more=link)))

    with pytest.raises(ProtocolError):
        list(manifests(transport).tags())

    assert len(transport.sent) == 1


def test_a_pagination_loop_is_an_error(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-092."""
    transport = scripted(reply(*tags("a", more="?p=2")), reply(*tags("b", more="?p=2")))

    with pytest.raises(ProtocolError, match="pagination loop: page 2 links back to page 2"):
        list(manifests(transport).tags())


def test_a_malformed_link_is_an_error(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-091."""
    transport = scripted(reply(200, {"Link": "</x; rel=next"}, b'{"tags":["a"]}'))

    with pytest.raises(ProtocolError):
        list(manifests(transport).tags())


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"{}", b'{"tags":{"a":1}}', b'{"tags":"a"}', b""])
def test_a_response_that_is_not_a_list_is_an_error(scripted: MakeTransport, reply: MakeReply, content: bytes) -> None:
    """R-094."""
    transport = scripted(reply(200, {}, content))

    with pytest.raises(ProtocolError) as caught:
        list(manifests(transport).tags())

    assert caught.value.reference == "registry.example.com/org/app"


def test_a_null_list_of_tags_is_empty(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-094: Go encodes nil as null."""
    assert list(manifests(scripted(reply(200, {}, b'{"name":"x","tags":null}'))).tags()) == []


def test_invalid_tags_are_skipped(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-094."""
    assert list(manifests(scripted(reply(*tags("a", "../b", "c d", 7, None, "", "d")))).tags()) == ["a", "d"]


def test_a_page_beyond_the_limit_is_an_error(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-093."""
    with pytest.raises(TooLarge):
        list(manifests(scripted(reply(200, {}, b" " * (PAGE_LIMIT + 1)))).tags())


def test_an_encoded_page_is_refused(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-056."""
    with pytest.raises(ProtocolError):
        list(manifests(scripted(reply(200, {"Content-Encoding": "gzip"}, b'{"tags":[]}'))).tags())


def test_the_tags_of_an_unknown_repository_raise_repository_not_found(
    scripted: MakeTransport, reply: MakeReply
) -> None:
    """R-094."""
    with pytest.raises(RepositoryNotFound):
        list(manifests(scripted(reply(404))).tags())


def test_a_repository_without_a_name_is_refused_on_use(scripted: MakeTransport) -> None:
    """R-010: no request is sent."""
    store = manifests(scripted(), "")

    with pytest.raises(InvalidName):
        store.tags()


def repositories(transport: ScriptedTransport, after: str | None = None) -> Iterator[RepositoryName]:
    catalog = HttpCatalog("registry.example.com", HttpSettings(retries=0), transport=transport)
    return catalog.repositories(after=None if after is None else RepositoryName(after))


def test_repositories_are_listed(scripted: MakeTransport, reply: MakeReply) -> None:
    transport = scripted(reply(200, {}, b'{"repositories":["b/c","a","B",""]}'))

    assert list(repositories(transport, "a")) == ["b/c"]
    assert [sent.url for sent in transport.sent] == ["https://registry.example.com/v2/_catalog?last=a"]


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_registry_without_a_catalog_raises_catalog_unsupported(
    scripted: MakeTransport, reply: MakeReply, status: int
) -> None:
    """R-095."""
    with pytest.raises(CatalogUnsupported):
        list(repositories(scripted(reply(status))))
