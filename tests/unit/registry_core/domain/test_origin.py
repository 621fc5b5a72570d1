from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_core.domain.origin import Origin, Zone, redact_url, resolve_url
from registry_core.errors import InvalidName, ProtocolError

BASE = "https://registry.example.com/v2/app/blobs/uploads/1?state=old"


@pytest.mark.parametrize(
    ("text", "host", "port", "written"),
    [
        ("EXAMPLE.com", "example.com", 443, "https://example.com"),
        ("example.com:443", "example.com", 443, "https://example.com"),
        ("example.com:5000", "example.com", 5000, "https://example.com:5000"),
        ("box", "box", 443, "https://box"),
        ("[::1]:5000", "::1", 5000, "https://[::1]:5000"),
        ("[0:0:0:0:0:0:0:1]:5000", "::1", 5000, "https://[::1]:5000"),
        ("[FD12:3456:0::1]", "fd12:3456::1", 443, "https://[fd12:3456::1]"),
        ("10.0.0.1", "10.0.0.1", 443, "https://10.0.0.1"),
        ("1.example", "1.example", 443, "https://1.example"),
    ],
)
def test_a_host_is_parsed(text: str, host: str, port: int, written: str) -> None:
    """R-011."""
    origin = Origin.of(text)

    assert (origin.host, origin.port, str(origin)) == (host, port, written)
    assert Origin.of(origin.netloc) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://example.com",
        "example.com/",
        "user@example.com",
        "user:secret@example.com",
        "example.com\n",
        "exa mple.com",
        "example.com:",
        "example.com:0",
        "example.com:65536",
        "example.com:x",
        "example.com:\u0663",
        "a..b",
        "-a",
        "a-",
        "a_b",
        "a.",
        "a.example.:5000",
        "é.example",
        "::1",
        "[::1",
        "[fe80::1%25eth0]",
        "[1.2.3.4]",
        "[::g]",
        "127.1",
        "0x7f.1",
        "2130706433",
        "0177.0.0.1",
        "example.com?x",
        "example.com#x",
        "a" * 64,
        "a." * 127 + "aa",
    ],
)
def test_an_invalid_host_is_refused(text: str) -> None:
    """R-011, R-046: short and numeric spellings of addresses are no names."""
    with pytest.raises(InvalidName) as caught:
        Origin.of(text)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "host", "written"),
    [
        ("https://minio_1.storage_net.corp.lan/x", "minio_1.storage_net.corp.lan", "minio_1.storage_net.corp.lan"),
        ("https://_dmarc.example.com:8443/x", "_dmarc.example.com", "_dmarc.example.com:8443"),
        ("https://MINIO.corp.lan./x", "minio.corp.lan", "minio.corp.lan"),
        ("https://minio.corp.lan.:9000/x", "minio.corp.lan", "minio.corp.lan:9000"),
        ("https://localhost./x", "localhost", "localhost"),
    ],
)
def test_the_host_of_a_url_may_have_underscores_and_a_trailing_dot(url: str, host: str, written: str) -> None:
    """R-042: the dot does not make another origin."""
    origin = Origin.of_url(url)

    assert (origin.host, origin.netloc) == (host, written)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example/",
        "javascript:alert(1)",
        "https://user@a.example/",
        "https://@a.example/",
        "https://a.example:x/",
        "https://a.example../",
        "https://./",
        "https://.a.example/",
        "https://127.0.0.1./",
        "https://10.1./",
        "https://[::1]./",
        "https://a.example:99999/",
        "https://a.example\\@b.example/",
        "https://a.example/\r\nX: y",
        "https://a.example/ b",
        "https:///x",
        "//a.example/",
        "https://[::1",
        "https://\u2100.example/",
        "",
    ],
)
def test_malformed_and_unsupported_urls_are_refused(url: str) -> None:
    """R-042."""
    with pytest.raises(ProtocolError):
        Origin.of_url(url)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("https://other.example/x?a=1", "https://other.example/x?a=1"),
        ("//other.example/x", "https://other.example/x"),
        ("/v2/x?_state=a%2Fb%3D&c=", "https://registry.example.com/v2/x?_state=a%2Fb%3D&c="),
        ("2?q", "https://registry.example.com/v2/app/blobs/uploads/2?q"),
        ("?state=new%zz", "https://registry.example.com/v2/app/blobs/uploads/1?state=new%zz"),
        ("/x#part?y", "https://registry.example.com/x"),
    ],
)
def test_every_form_of_location_is_resolved(target: str, expected: str) -> None:
    """R-071: the query is kept unchanged, the fragment is removed."""
    assert resolve_url(BASE, target) == expected


@pytest.mark.parametrize(
    "target",
    ["", "javascript:alert(1)", "data:,x", "http:x", "file:///etc/passwd", "\\\\evil.example", "/a b", "/a\tb"],
)
def test_malformed_and_unsupported_locations_are_refused(target: str) -> None:
    """R-042, R-071."""
    with pytest.raises(ProtocolError):
        resolve_url(BASE, target)


@given(st.text(alphabet="htps:/?#@[]\\.%a1 \n\u2100", max_size=25))
def test_resolving_raises_only_protocol_error(target: str) -> None:
    try:
        url = resolve_url(BASE, target)
    except ProtocolError:
        return

    assert Origin.of_url(url).scheme in ("http", "https")
    assert "#" not in url


@given(st.text(max_size=40))
def test_parsing_a_host_raises_only_invalid_name(text: str) -> None:
    try:
        origin = Origin.of(text)
    except InvalidName:
        return

    assert Origin.of(origin.netloc) == origin


@pytest.mark.parametrize(
    ("host", "zone"),
    [
        ("registry.example.com", Zone.PUBLIC),
        ("box", Zone.PUBLIC),
        ("8.8.8.8", Zone.PUBLIC),
        ("[2606:4700::1111]", Zone.PUBLIC),
        ("[::ffff:8.8.8.8]", Zone.PUBLIC),
        ("[64:ff9b::8.8.8.8]", Zone.PUBLIC),
        ("[2002:808:808::1]", Zone.PUBLIC),
        ("localhost", Zone.LOOPBACK),
        ("registry.localhost", Zone.LOOPBACK),
        ("127.0.0.2", Zone.LOOPBACK),
        ("[::1]", Zone.LOOPBACK),
        ("[::ffff:127.0.0.1]", Zone.LOOPBACK),
        ("[64:ff9b::127.0.0.1]", Zone.LOOPBACK),
        ("10.1.2.3", Zone.PRIVATE),
        ("100.64.0.1", Zone.PRIVATE),
        ("172.16.0.1", Zone.PRIVATE),
        ("192.168.0.1", Zone.PRIVATE),
        ("[fd00::1]", Zone.PRIVATE),
        ("[fec0::1]", Zone.PRIVATE),
        ("[2002:a00:1::]", Zone.PRIVATE),
        ("169.254.169.254", Zone.LINK_LOCAL),
        ("[fe80::1]", Zone.LINK_LOCAL),
        ("[::ffff:169.254.169.254]", Zone.LINK_LOCAL),
        ("0.0.0.0", Zone.UNROUTABLE),
        ("[::]", Zone.UNROUTABLE),
        ("224.0.0.1", Zone.UNROUTABLE),
        ("255.255.255.255", Zone.UNROUTABLE),
        ("[ff02::1]", Zone.UNROUTABLE),
    ],
)
def test_addresses_have_a_zone(host: str, zone: Zone) -> None:
    """R-046."""
    origin = Origin.of(host)

    assert origin.zone is zone


def test_a_name_below_localhost_is_not_loopback() -> None:
    """R-041: some resolvers look such names up, so plain http is not the default for them."""
    assert not Origin.of("registry.localhost").is_loopback


@pytest.mark.parametrize(
    ("host", "loopback"), [("localhost", True), ("127.9.9.9", True), ("[::1]", True), ("10.0.0.1", False)]
)
def test_loopback_is_recognised_by_name_and_by_address(host: str, loopback: bool) -> None:
    """R-041."""
    assert Origin.of(host).is_loopback is loopback


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2@a.example/x",
        "https://a.example/x?sig=hunter2",
        "https://a.example/x#hunter2",
        "https:user:hunter2@a.example",
        "hunter2@[::1",
    ],
)
def test_secrets_are_left_out_of_messages(url: str) -> None:
    """R-043."""
    assert "hunter2" not in redact_url(url)


def test_messages_hold_no_control_characters_and_are_short() -> None:
    """R-063."""
    text = redact_url("https://a.example/\x1b[31m" + "x" * 9999)

    assert text.isprintable()
    assert len(text) <= 500


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_user_information_in_a_location_is_refused_with_the_scheme_of_the_url(scheme: str) -> None:
    """R-042, R-043."""
    with pytest.raises(ProtocolError) as caught:
        resolve_url(BASE, f"{scheme}://me:hunter2@cdn.example.net/x?sig=hunter2")

    assert str(caught.value) == f"the URL has user information, which is never sent: {scheme}://cdn.example.net/x?…"
