from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from registry_adapters.auth import authenticator_for
from registry_adapters.http import HttpCatalog, HttpSettings
from registry_adapters.http.paging import PAGE_LIMIT
from registry_core.domain.auth import RegistryToken
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCI_INDEX
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
    transport = scripted(*[reply(*tags("b", "a"))] * 3)

    assert list(manifests(transport).tags(page_size=2)) == ["a", "b"]
    assert [sent.url for sent in transport.sent] == [f"{LIST}?n=2", f"{LIST}?n=2&last=a", LIST]


def test_a_list_of_a_registry_that_ignores_last_is_complete(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-211: it keeps to n, and sends the first page again; without n, it sends all."""
    transport = scripted(*[reply(*tags("a", "b"))] * 2, reply(*tags("a", "b", "c")))

    assert list(manifests(transport).tags(page_size=2)) == ["a", "b", "c"]


def test_an_entry_that_is_no_name_does_not_make_a_full_page_the_last_one(
    scripted: MakeTransport, reply: MakeReply
) -> None:
    """R-211, R-094."""
    transport = scripted(reply(*tags("a", None)), reply(*tags("c")))

    assert list(manifests(transport).tags(page_size=2)) == ["a", "c"]


def test_a_list_longer_than_the_page_size_is_complete(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-090: from a registry that ignores n."""
    transport = scripted(reply(*tags("c", "b", "a")))

    assert list(manifests(transport).tags(page_size=2)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example.com/v2/x",
        "//evil.example.com/x",
        "http://registry.example.com/x",
        "ftp://a/b",
        "ftp://registry.example.com/v2/org/app/tags/list?last=a",
        "https://user:pw@registry.example.com/v2/org/app/tags/list?last=a",
        "https://evil.example.com\\@registry.example.com/v2/org/app/tags/list",
        "https://evil.example.com/v2/org/other/tags/list?last=a",
        "https://evil.example.com/v2/org/app/tags/list/../../../x",
    ],
)
def test_a_link_to_another_origin_is_refused_and_not_requested(
    scripted: MakeTransport, reply: MakeReply, link: str
) -> None:
    """R-034."""
    transport = scripted(reply(*tags("a", more=link)))

    with pytest.raises(ProtocolError):
        list(manifests(transport).tags())

    assert len(transport.sent) == 1


@pytest.mark.parametrize(
    "origin",
    [
        "http://registry.example.com",
        "https://registry.example.com:5000",
        "http://registry:5000",
        "https://10.0.0.7:443",
        "http://localhost:5000",
        "//inner.example.com",
        "https://evil.example.com",
    ],
)
def test_a_link_that_differs_in_its_origin_alone_is_followed_at_the_registry(
    scripted: MakeTransport, reply: MakeReply, origin: str
) -> None:
    """R-034: a registry behind a proxy names itself by an inner host, or by http; that host is not contacted."""
    transport = scripted(reply(*tags("a", more=f"{origin}/v2/org/app/tags/list?n=1&last=a%2Fb")), reply(*tags("b")))

    assert list(manifests(transport).tags()) == ["a", "b"]
    assert [sent.url for sent in transport.sent] == [LIST, f"{LIST}?n=1&last=a%2Fb"]


def test_a_link_of_repositories_and_of_referrers_may_differ_in_its_origin_too(
    scripted: MakeTransport, reply: MakeReply
) -> None:
    """R-034: a digest may be percent-encoded in the link."""
    subject, listed = Digest.of(b"subject"), Digest.of(b"referrer")
    index = json.dumps(
        {"schemaVersion": 2, "manifests": [{"mediaType": "a/b", "digest": listed, "size": 1, "artifactType": "x/y"}]}
    ).encode()
    empty = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    encoded = f"http://inner/v2/org/app/referrers/{quote(subject, safe='')}?page=2"
    transport = scripted(
        reply(200, {"Link": '<http://inner/v2/_catalog?last=a>; rel="next"'}, b'{"repositories":["a"]}'),
        reply(200, {}, b'{"repositories":["b"]}'),
        reply(200, {"Content-Type": OCI_INDEX, "Link": f"<{encoded}>"}, empty),
        reply(200, {"Content-Type": OCI_INDEX}, index),
    )

    assert list(repositories(transport)) == ["a", "b"]
    assert [entry.digest for entry in manifests(transport).referrers(subject)] == [listed]
    assert {sent.url.partition("/v2/")[0] for sent in transport.sent} == {"https://registry.example.com"}


@pytest.mark.parametrize("link", ["/v2/org/app/tags/list?last=a", "http://inner:5000/v2/org/app/tags/list?last=a"])
def test_a_link_that_lacks_the_path_prefix_of_a_proxy_gets_it(
    scripted: MakeTransport, reply: MakeReply, link: str
) -> None:
    """R-034."""
    transport = scripted(reply(*tags("a", more=link)), reply(*tags("b")))
    catalog = HttpCatalog("registry.example.com", HttpSettings(path_prefix="/registry"), transport=transport)

    assert list(catalog.repository(RepositoryName("org/app")).manifests.tags()) == ["a", "b"]
    assert transport.sent[1].url == "https://registry.example.com/registry/v2/org/app/tags/list?last=a"


class TestTrustedHosts:
    def list_tags(self, transport: ScriptedTransport, *trusted_hosts: str) -> list[Tag]:
        settings = HttpSettings(retries=0, trusted_hosts=trusted_hosts)
        catalog = HttpCatalog("registry.example.com", settings, transport=transport)
        return list(catalog.repository(RepositoryName("org/app")).manifests.tags())

    @pytest.mark.parametrize("path", ["/v2/org/app/tags/list?last=a", "/pages/2"])
    def test_a_link_to_a_trusted_host_is_followed_there(
        self, scripted: MakeTransport, reply: MakeReply, path: str
    ) -> None:
        """R-034."""
        transport = scripted(
            reply(*tags("a", more=f"https://lists.example.net{path}")),
            reply(*tags("b", more="?last=b")),
            reply(*tags()),
        )

        assert self.list_tags(transport, "lists.example.net") == ["a", "b"]
        assert transport.sent[1].url == f"https://lists.example.net{path}"
        assert transport.sent[2].url == f"https://lists.example.net{path.partition('?')[0]}?last=b"

    def test_a_trusted_host_does_not_permit_http(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-034, R-041: where the path is the same, the registry is asked by https."""
        transport = scripted(reply(*tags("a", more="http://inner/v2/org/app/tags/list?last=a")), reply(*tags("b")))

        assert self.list_tags(transport, "inner") == ["a", "b"]
        assert transport.sent[1].url == f"{LIST}?last=a"


class TestPagesThatCameThroughARedirect:
    @pytest.mark.parametrize(
        "link",
        [
            "?page=2",
            "/lists/app?page=2",
            "https://cdn.example.net/lists/app?page=2",
            "http://inner.example.net/lists/app?page=2",
        ],
    )
    def test_a_link_belongs_to_the_origin_of_its_page(
        self, scripted: MakeTransport, reply: MakeReply, link: str
    ) -> None:
        """R-034, R-030: and no credentials are sent there."""
        transport = scripted(
            reply(307, {"Location": "https://cdn.example.net/lists/app"}),
            reply(*tags("a", more=link)),
            reply(*tags("b")),
        )
        authenticator = authenticator_for(RegistryToken("secret"))
        catalog = HttpCatalog("registry.example.com", transport=transport, authenticator=authenticator)

        assert list(catalog.repository(RepositoryName("org/app")).manifests.tags()) == ["a", "b"]
        assert [sent.url for sent in transport.sent][1:] == [
            "https://cdn.example.net/lists/app",
            "https://cdn.example.net/lists/app?page=2",
        ]
        assert ["Authorization" in sent.headers for sent in transport.sent] == [True, False, False]

    @pytest.mark.parametrize("link", [f"{LIST}?page=2", "https://inner.example.net/v2/org/app/tags/list?page=2"])
    def test_a_link_back_to_the_registry_is_followed_there(
        self, scripted: MakeTransport, reply: MakeReply, link: str
    ) -> None:
        """R-034."""
        transport = scripted(
            reply(307, {"Location": "https://cdn.example.net/lists/app"}),
            reply(*tags("a", more=link)),
            reply(*tags("b")),
        )

        assert list(manifests(transport).tags()) == ["a", "b"]
        assert transport.sent[2].url == f"{LIST}?page=2"

    @pytest.mark.parametrize("link", ["https://third.example.net/lists/other", "http://cdn.example.net/lists/other"])
    def test_a_link_to_a_third_origin_is_refused(self, scripted: MakeTransport, reply: MakeReply, link: str) -> None:
        """R-034."""
        transport = scripted(
            reply(307, {"Location": "https://cdn.example.net/lists/app"}), reply(*tags("a", more=link))
        )

        with pytest.raises(ProtocolError):
            list(manifests(transport).tags())

        assert len(transport.sent) == 2


class TestEmptyPages:
    @pytest.mark.parametrize("link", ["?last=b", "?last=b&n=", "http://inner/v2/org/app/tags/list?last=b", ""])
    def test_an_empty_page_that_links_to_itself_is_the_last_one(
        self, scripted: MakeTransport, reply: MakeReply, link: str
    ) -> None:
        """R-092: the list is complete by then."""
        transport = scripted(reply(*tags("a", "b", more="?last=b")), reply(*tags(more=link)))

        assert list(manifests(transport).tags()) == ["a", "b"]

    @pytest.mark.parametrize("link", ["/v2/org/app/tags/list", "?", "?last=", "?last=&n="])
    def test_an_empty_page_that_links_back_is_the_last_one(
        self, scripted: MakeTransport, reply: MakeReply, link: str
    ) -> None:
        """R-092: an empty ``last`` is the beginning."""
        transport = scripted(reply(*tags("a", "b", more="?last=b")), reply(*tags(more=link)))

        assert list(manifests(transport).tags()) == ["a", "b"]
        assert len(transport.sent) == 2

    def test_a_list_that_begins_anew_after_an_empty_page_has_ended(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-092: the beginning may have another URL, and other pages."""
        transport = scripted(
            reply(*tags("a", "b", more="?last=b")), reply(*tags(more="?n=100&last=")), reply(*tags("a", more="?last=a"))
        )

        assert list(manifests(transport).tags()) == ["a", "b"]

    def test_an_empty_page_within_a_list_does_not_end_it(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-090."""
        transport = scripted(
            reply(*tags("a", more="?p=2")), reply(*tags(more="?p=3")), reply(*tags("b", more="?p=4")), reply(*tags())
        )

        assert list(manifests(transport).tags()) == ["a", "b"]

    @pytest.mark.parametrize("names", [(), (None,), None])
    def test_the_only_page_may_link_to_itself_if_it_is_empty(
        self, scripted: MakeTransport, reply: MakeReply, names: tuple[None] | None
    ) -> None:
        """R-092, R-094."""
        content = json.dumps({"tags": names}).encode()
        transport = scripted(reply(200, {"Link": "</v2/org/app/tags/list>"}, content))

        if names:
            with pytest.raises(ProtocolError, match="pagination loop"):
                list(manifests(transport).tags())
        else:
            assert list(manifests(transport).tags()) == []


@pytest.mark.parametrize("link", ["?p=2", "?p=2&last=", f"{LIST}?p=2", "http://inner/v2/org/app/tags/list?p=2"])
def test_a_page_with_entries_that_leads_back_is_an_error_in_each_spelling(
    scripted: MakeTransport, reply: MakeReply, link: str
) -> None:
    """R-092."""
    transport = scripted(reply(*tags("a", more="?p=2")), reply(*tags("b", more=link)))

    with pytest.raises(ProtocolError, match="pagination loop: page 2 links back to page 2"):
        list(manifests(transport).tags())


@pytest.mark.parametrize(
    "link", ["</v2/org/app/tags/list?p=2>", '</v2/org/app/tags/list?p=2; rel="next">', "<?p=2>; rel"]
)
def test_a_link_without_a_relation_is_followed(scripted: MakeTransport, reply: MakeReply, link: str) -> None:
    """R-091: no list ends early without an error."""
    transport = scripted(reply(200, {"Link": link}, b'{"tags":["a"]}'), reply(*tags("b")))

    assert list(manifests(transport).tags()) == ["a", "b"]


def test_a_pagination_loop_is_an_error(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-092."""
    transport = scripted(reply(*tags("a", more="?p=2")), reply(*tags("b", more="?p=2")))

    with pytest.raises(ProtocolError, match="pagination loop: page 2 links back to page 2"):
        list(manifests(transport).tags())


@pytest.mark.parametrize("link", ["</x; rel=next", "</x>; rel=&quot;next&quot;", '</x>; rel="next'])
def test_a_malformed_link_is_an_error(scripted: MakeTransport, reply: MakeReply, link: str) -> None:
    """R-091."""
    transport = scripted(reply(200, {"Link": link}, b'{"tags":["a"]}'))

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


@pytest.mark.parametrize("coding", ["gzip", "aws-chunked", "binary"])
def test_a_page_that_is_json_counts_under_each_content_coding(
    scripted: MakeTransport, reply: MakeReply, coding: str
) -> None:
    """R-056: bytes that are JSON are not encoded."""
    transport = scripted(reply(200, {"Content-Encoding": coding}, b'{"tags":["a"]}'))

    assert list(manifests(transport).tags()) == ["a"]


def test_an_encoded_page_is_an_error_that_names_the_coding(scripted: MakeTransport, reply: MakeReply) -> None:
    """R-056."""
    transport = scripted(reply(200, {"Content-Encoding": "gzip"}, gzip.compress(b'{"tags":[]}')))

    with pytest.raises(ProtocolError, match="Content-Encoding 'gzip'"):
        list(manifests(transport).tags())


def test_the_tags_of_an_unknown_repository_raise_repository_not_found(
    scripted: MakeTransport, reply: MakeReply
) -> None:
    """R-094."""
    with pytest.raises(RepositoryNotFound):
        list(manifests(scripted(reply(404))).tags())


@pytest.mark.parametrize("status", [404, 405])
@pytest.mark.parametrize("key", ["tags", "repositories", "manifests"])
def test_a_later_page_that_is_missing_is_no_absent_list(
    scripted: MakeTransport, reply: MakeReply, key: str, status: int
) -> None:
    """R-094: callers take an absent repository for one without tags."""
    first = reply(200, {"Link": "<?after=a>; rel=next", "Content-Type": OCI_INDEX}, empty_page(key))
    transport = scripted(first, reply(status))
    listed: dict[str, Callable[[], Iterator[object]]] = {
        "tags": lambda: manifests(transport).tags(),
        "repositories": lambda: repositories(transport),
        "manifests": lambda: manifests(transport).referrers(Digest.of(b"")),
    }

    with pytest.raises(ProtocolError, match=f"page 2 of the list is missing: .*{status}"):
        list(listed[key]())


def empty_page(key: str) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, key: []}).encode()


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
