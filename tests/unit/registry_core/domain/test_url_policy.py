"""The policy for URLs that servers choose (R-030 to R-037, R-041, R-042, R-046)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_core.domain.origin import Origin, Zone
from registry_core.domain.url_policy import ALLOWED_ZONES, MAX_HOPS, RULES, AllowedUrl, UrlPurpose, check_url
from registry_core.errors import ProtocolError

REFERENCE: Final = Path(__file__).parents[4] / "docs" / "reference" / "url-policy.md"

REGISTRIES: Final = (
    "https://registry.example.com",
    "http://registry.example.com",
    "https://10.0.0.5:5000",
    "http://127.0.0.1:5000",
    "https://127.0.0.1:5000",
)
TARGETS: Final = (
    "the same origin",
    "https://cdn.example.net",
    "http://cdn.example.net",
    "https://8.8.8.8",
    "https://10.0.0.6",
    "https://169.254.169.254",
    "https://127.0.0.1:9000",
    "http://127.0.0.1:9000",
    "https://0.0.0.0",
    "https://224.0.0.1",
)
# By registry, and then by target: H with the registry's credentials, - without credentials, x not at all.
EXPECTED: Final = {
    UrlPurpose.REDIRECT: ("H-x-xxxxxx", "H---xxxxxx", "H-x--xxxxx", "H----x--xx", "H-x--x-xxx"),
    UrlPurpose.UPLOAD: ("Hxxxxxxxxx",) * 5,
    UrlPurpose.LINK: ("Hxxxxxxxxx",) * 5,
    UrlPurpose.REALM: ("HHxxxxxxxx", "HHxxxxxxxx", "HHxxxxxxxx", "HHxxxxHHxx", "HHxxxxHxxx"),
    UrlPurpose.FOREIGN: ("--x-xxxxxx", "----xxxxxx", "--x--xxxxx", "-----x--xx", "--x--x-xxx"),
}
CELLS: Final = [
    (purpose, registry, target, row[column])
    for purpose, rows in EXPECTED.items()
    for registry, row in zip(REGISTRIES, rows, strict=True)
    for column, target in enumerate(TARGETS)
]
PUBLIC: Final = Origin.of("registry.example.com")


def outcome(purpose: UrlPurpose, registry: str, target: str) -> str:
    """The result of ``check_url`` as a cell of the table."""
    origin = Origin.of_url(registry)
    try:
        found = check_url(purpose, origin, f"{registry if target == TARGETS[0] else target}/x")
    except ProtocolError:
        return "x"
    return "-" if found.credentials is None else "H"


class TestTable:
    @pytest.mark.parametrize(("purpose", "registry", "target", "expected"), CELLS)
    def test_each_purpose_from_each_origin_to_each_target(
        self, purpose: UrlPurpose, registry: str, target: str, expected: str
    ) -> None:
        """R-030, R-032, R-033, R-034, R-035, R-041, R-046."""
        assert outcome(purpose, registry, target) == expected

    def test_every_purpose_has_a_rule_and_a_row(self) -> None:
        assert set(RULES) == set(UrlPurpose) == set(EXPECTED)

    def test_no_purpose_allows_more_than_ten_redirects_and_sending_passwords_allows_none(self) -> None:
        """R-036, R-042."""
        assert MAX_HOPS == 10
        assert {rule.hops for purpose, rule in RULES.items() if purpose is not UrlPurpose.REALM} == {10}
        assert RULES[UrlPurpose.REALM].hops == 0

    def test_every_zone_may_name_public_addresses_and_none_may_name_unroutable_ones(self) -> None:
        """R-046."""
        assert set(ALLOWED_ZONES) == set(Zone)
        assert all(Zone.PUBLIC in reach and Zone.UNROUTABLE not in reach for reach in ALLOWED_ZONES.values())


@pytest.mark.parametrize("purpose", UrlPurpose)
@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "registry.localhost",
        "127.0.0.1",
        "127.1",
        "127.0.0.1.",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "0x7f000001",
        "2130706433",
        "017700000001",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::a00:1]",
        "[2002:a00:1::]",
        "[::]",
        "[fe80::1]",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[fc00::1]",
        "[fd12:3456::1]",
        "[fec0::1]",
        "[ff02::1]",
        "0",
        "0.0.0.0",
        "0.1.2.3",
        "10.1.2.3",
        "100.64.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "%6cocalhost",
        "127\u30020\u30020\u30021",
        "\uff11\uff12\uff17.0.0.1",
    ],
)
def test_a_public_server_never_points_to_a_private_address_in_any_spelling(purpose: UrlPurpose, host: str) -> None:
    """R-046."""
    with pytest.raises(ProtocolError):
        check_url(purpose, PUBLIC, f"https://{host}/x")


@pytest.mark.parametrize("purpose", UrlPurpose)
@pytest.mark.parametrize(
    "url",
    [
        "",
        "/relative",
        "//registry.example.com/x",
        "ftp://registry.example.com/x",
        "file:///etc/passwd",
        "data:,x",
        "https://me@registry.example.com/x",
        "https://me:pw@registry.example.com/x",
        "https://registry.example.com:0/x",
        "https://registry.example.com:99999/x",
        "https://registry.example.com\\@evil.example/x",
        "https://registry.example.com/\r\nX: y",
        "https://registry.example.com/a b",
        "https:///x",
    ],
)
def test_an_invalid_url_is_refused_for_every_purpose(purpose: UrlPurpose, url: str) -> None:
    """R-032, R-042."""
    with pytest.raises(ProtocolError):
        check_url(purpose, PUBLIC, url)


@pytest.mark.parametrize(
    "host",
    [
        "auth",
        "auth.localhost",
        "auth.localdomain",
        "auth.local",
        "auth.internal",
        "auth.intranet",
        "auth.private",
        "auth.corp",
        "auth.home",
        "auth.home.arpa",
        "auth.lan",
        "auth.test",
        "auth.invalid",
        "auth.onion",
        "AUTH.Internal",
        "auth.123",
        "auth.0x7f",
    ],
)
def test_names_of_private_networks_get_no_password(host: str) -> None:
    """R-035: unless the caller lists it."""
    listed = host.lower()

    with pytest.raises(ProtocolError):
        check_url(UrlPurpose.REALM, PUBLIC, f"https://{host}/token")
    with pytest.raises(ProtocolError):
        check_url(UrlPurpose.REALM, PUBLIC, f"https://{host}/token", listed=[f"other.{listed}"])


def test_a_listed_private_name_gets_the_password() -> None:
    """R-035."""
    assert (
        check_url(UrlPurpose.REALM, PUBLIC, "https://auth.internal/token", listed=["auth.internal"]).credentials
        == PUBLIC
    )


@pytest.mark.parametrize("spelling", ["https://REGISTRY.example.com/x", "https://registry.example.com:443/x"])
def test_another_spelling_of_the_registrys_origin_is_the_registry(spelling: str) -> None:
    """R-030: default ports filled in, case ignored."""
    assert check_url(UrlPurpose.LINK, PUBLIC, spelling) == AllowedUrl(PUBLIC, PUBLIC)


@pytest.mark.parametrize(
    "other",
    [
        "https://registry.example.com:8443/x",
        "https://registry.example.com.evil.example/x",
        "https://cdn.registry.example.com/x",
        "https://example.com/x",
    ],
)
def test_a_similar_origin_gets_no_credentials(other: str) -> None:
    """R-030."""
    assert check_url(UrlPurpose.REDIRECT, PUBLIC, other).credentials is None


def test_a_registry_without_tls_gets_no_credentials_at_its_own_name_with_tls() -> None:
    """R-030: the scheme is part of the origin."""
    registry = Origin.of("registry.example.com", scheme="http")

    assert check_url(UrlPurpose.REDIRECT, registry, "https://registry.example.com/x").credentials is None


class TestLists:
    def test_a_listed_host_takes_uploads_without_credentials(self) -> None:
        """R-033."""
        found = check_url(UrlPurpose.UPLOAD, PUBLIC, "https://uploads.example.net/x", listed=["uploads.example.net"])

        assert found == AllowedUrl(Origin.of("uploads.example.net"), None)

    def test_a_listed_host_gets_passwords(self) -> None:
        """R-035."""
        found = check_url(UrlPurpose.REALM, PUBLIC, "https://10.0.0.9:5001/token", listed=["10.0.0.9:5001"])

        assert found == AllowedUrl(Origin.of("10.0.0.9:5001"), PUBLIC)

    @pytest.mark.parametrize("purpose", [UrlPurpose.UPLOAD, UrlPurpose.REALM])
    def test_a_listed_host_needs_tls_where_the_registry_has_it(self, purpose: UrlPurpose) -> None:
        """R-041."""
        with pytest.raises(ProtocolError, match="https to http"):
            check_url(purpose, PUBLIC, "http://other.example.net/x", listed=["other.example.net"])

    @pytest.mark.parametrize("url", ["https://other.example.net:444/x", "https://a.other.example.net/x"])
    def test_a_list_names_hosts_exactly(self, url: str) -> None:
        """R-033."""
        with pytest.raises(ProtocolError):
            check_url(UrlPurpose.UPLOAD, PUBLIC, url, listed=["other.example.net"])

    @pytest.mark.parametrize("purpose", [UrlPurpose.LINK, UrlPurpose.REDIRECT, UrlPurpose.FOREIGN])
    def test_an_allow_list_applies_to_its_purpose_only(self, purpose: UrlPurpose) -> None:
        """R-034, R-046."""
        with pytest.raises(ProtocolError):
            check_url(purpose, PUBLIC, "https://10.0.0.9/x", listed=["10.0.0.9"])


def test_a_refusal_names_origin_url_and_reason_without_secrets() -> None:
    """R-043."""
    with pytest.raises(ProtocolError) as caught:
        check_url(UrlPurpose.UPLOAD, PUBLIC, "https://evil.example/x?sig=hunter2")

    assert "https://registry.example.com" in str(caught.value)
    assert "upload" in str(caught.value)
    assert "https://evil.example/x" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@given(
    st.sampled_from(UrlPurpose),
    st.sampled_from(REGISTRIES),
    st.text(alphabet="htps:/@[].%0127lcaofx\\ \n", max_size=30).map(lambda text: f"https://{text}"),
)
def test_no_url_gets_credentials_of_another_origin_or_leaves_tls(purpose: UrlPurpose, registry: str, url: str) -> None:
    """R-030, R-041."""
    origin = Origin.of_url(registry)
    try:
        found = check_url(purpose, origin, url)
    except ProtocolError:
        return

    assert found.origin == Origin.of_url(url)
    assert found.credentials in (None, found.origin) or purpose is UrlPurpose.REALM
    assert origin.scheme == "http" or found.origin.scheme == "https"


WORDS: Final = {"H": "yes + credentials", "-": "yes", "x": "no"}


def rendered_rules() -> str:
    """The rules as a table."""
    lines = [
        "| URL | Other origins allowed | Credentials sent | Redirects followed |",
        "| --- | --- | --- | --- |",
    ]
    for purpose, rule in RULES.items():
        lines.append(f"| {purpose.value} | {rule.cross_origin.value} | {rule.credentials.value} | {rule.hops} |")
    return "\n".join(lines)


def rendered_outcomes(registry: str) -> str:
    """The results of the rules for one registry, as a table."""
    lines = [
        f"| From `{registry}` to | " + " | ".join(purpose.value for purpose in RULES) + " |",
        "| --- |" + " --- |" * len(RULES),
    ]
    for target in TARGETS:
        name = target if target == TARGETS[0] else f"`{target}`"
        lines.append(f"| {name} | " + " | ".join(WORDS[outcome(purpose, registry, target)] for purpose in RULES) + " |")
    return "\n".join(lines)


def rendered_zones() -> str:
    """The zones that each zone may name, as a table."""
    lines = ["| Zone of the registry | Zones it may lead to |", "| --- | --- |"]
    for zone, reach in ALLOWED_ZONES.items():
        lines.append(f"| {zone.value} | {', '.join(other.value for other in Zone if other in reach)} |")
    return "\n".join(lines)


@pytest.mark.parametrize("table", [rendered_rules(), rendered_zones(), *map(rendered_outcomes, REGISTRIES)])
def test_the_reference_shows_the_current_tables(table: str) -> None:
    assert table in REFERENCE.read_text(encoding="utf-8")
