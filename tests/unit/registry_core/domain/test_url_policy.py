"""The policy for URLs that servers choose (R-030 to R-037, R-041, R-042, R-046)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_core.domain.origin import Origin, Zone
from registry_core.domain.url_policy import (
    ALLOWED_ZONES,
    MAX_HOPS,
    RULES,
    AllowedUrl,
    TrustedHost,
    UrlPurpose,
    check_url,
)
from registry_core.errors import ConfigError, ProtocolError

REFERENCE: Final = Path(__file__).parents[4] / "docs" / "reference" / "url-policy.md"

SAME: Final = "the same origin"
OTHER_PORT: Final = "its own host, over https at port 8443"
# Registries at public names and at addresses.
REGISTRIES: Final = (
    "https://registry.example.com",
    "http://registry.example.com",
    "https://10.0.0.5:5000",
    "http://127.0.0.1:5000",
    "https://127.0.0.1:5000",
)
TARGETS: Final = (
    SAME,
    OTHER_PORT,
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
    UrlPurpose.REDIRECT: ("H--x-xxxxxx", "H----xxxxxx", "H--x--xxxxx", "H-----x--xx", "H--x--x-xxx"),
    UrlPurpose.WRITE: ("H-xxxxxxxxx", "H-xxxxxxxxx", "H-xxxxxxxxx", "H-xxxxx--xx", "H-xxxxx-xxx"),
    UrlPurpose.UPLOAD: ("H-xxxxxxxxx", "H-xxxxxxxxx", "H-xxxxxxxxx", "H-xxxxx--xx", "H-xxxxx-xxx"),
    UrlPurpose.LINK: ("H-xxxxxxxxx", "H-xxxxxxxxx", "H-xxxxxxxxx", "H-xxxxx--xx", "H-xxxxx-xxx"),
    UrlPurpose.REALM: ("HHHxxxxxxxx", "HHHxxxxxxxx", "HHHxxxxxxxx", "HHHxxxxHHxx", "HHHxxxxHxxx"),
    UrlPurpose.FOREIGN: ("---x-xxxxxx", "-----xxxxxx", "---x--xxxxx", "------x--xx", "---x--x-xxx"),
}
# Registries on private networks.
PRIVATE_REGISTRIES: Final = (
    "http://registry.gitlab.lan",
    "https://registry.gitlab.lan",
    "http://gitlab.lan:5050",
    "http://192.168.1.5:5050",
)
PRIVATE_TARGETS: Final = (
    SAME,
    "http://registry.gitlab.lan:8080",
    "https://registry.gitlab.lan:8443",
    "http://gitlab.lan",
    "https://gitlab.lan",
    "http://minio.gitlab.lan:9000",
    "http://minio.corp.lan:9000",
    "http://evilgitlab.lan",
    "http://gitlab.lan.example.com",
    "http://lan",
    "http://192.168.1.5",
    "http://192.168.1.6",
)
PRIVATE_EXPECTED: Final = {
    UrlPurpose.REDIRECT: ("H---------xx", "Hx-x-xxxxxxx", "H---------xx", "H-----------"),
    UrlPurpose.WRITE: ("H-----xxxxxx", "Hx-x-xxxxxxx", "Hxx--xxxxxxx", "Hxxxxxxxxx-x"),
    UrlPurpose.UPLOAD: ("H-----xxxxxx", "Hx-x-xxxxxxx", "Hxx--xxxxxxx", "Hxxxxxxxxx-x"),
    UrlPurpose.LINK: ("H-----xxxxxx", "Hx-x-xxxxxxx", "Hxx--xxxxxxx", "Hxxxxxxxxx-x"),
    UrlPurpose.REALM: ("HHHHHHxxxxxx", "HxHxHxxxxxxx", "HxxHHxxxxxxx", "HxxxxxxxxxHx"),
    UrlPurpose.FOREIGN: ("----------xx", "-x-x-xxxxxxx", "----------xx", "------------"),
}
TABLES: Final = ((REGISTRIES, TARGETS, EXPECTED), (PRIVATE_REGISTRIES, PRIVATE_TARGETS, PRIVATE_EXPECTED))
CELLS: Final = [
    (purpose, registry, target, row[column])
    for registries, targets, outcomes in TABLES
    for purpose, rows in outcomes.items()
    for registry, row in zip(registries, rows, strict=True)
    for column, target in enumerate(targets)
]
PUBLIC: Final = Origin.of("registry.example.com")


def outcome(purpose: UrlPurpose, registry: str, target: str) -> str:
    """The result of ``check_url`` as a cell of the table."""
    origin = Origin.of_url(registry)
    url = {SAME: registry, OTHER_PORT: f"https://{origin.host}:8443"}.get(target, target)
    try:
        found = check_url(purpose, origin, f"{url}/x")
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
        assert set(RULES) == set(UrlPurpose) == set(EXPECTED) == set(PRIVATE_EXPECTED)

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
    """R-035: unless the caller trusts it."""
    with pytest.raises(ProtocolError):
        check_url(UrlPurpose.REALM, PUBLIC, f"https://{host}/token")
    with pytest.raises(ProtocolError):
        check_url(UrlPurpose.REALM, PUBLIC, f"https://{host}/token", trusted_hosts=["other.internal"])


def test_a_trusted_private_name_gets_the_password() -> None:
    """R-035."""
    found = check_url(UrlPurpose.REALM, PUBLIC, "https://auth.internal/token", trusted_hosts=["auth.internal"])

    assert found.credentials == PUBLIC


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


TRUSTING: Final = (
    UrlPurpose.REDIRECT,
    UrlPurpose.WRITE,
    UrlPurpose.UPLOAD,
    UrlPurpose.LINK,
    UrlPurpose.REALM,
)


class TestTrustedHosts:
    @pytest.mark.parametrize("purpose", TRUSTING)
    @pytest.mark.parametrize(
        ("trusted", "url", "is_allowed"),
        [
            ("10.0.0.9", "https://10.0.0.9/x", True),
            ("10.0.0.9", "https://10.0.0.9:5001/x", True),
            ("10.0.0.9", "https://10.0.0.8/x", False),
            ("10.0.0.9:5001", "https://10.0.0.9:5001/x", True),
            ("10.0.0.9:5001", "https://10.0.0.9/x", False),
            ("10.0.0.9:443", "https://10.0.0.9/x", True),
            ("https://10.0.0.9", "https://10.0.0.9/x", True),
            ("https://10.0.0.9", "https://10.0.0.9:444/x", False),
            ("http://10.0.0.9:5001", "https://10.0.0.9:5001/x", False),
            ("[fd12:3456::1]:5001", "https://[fd12:3456::1]:5001/x", True),
            ("[fd12:3456:0:0::1]", "https://[FD12:3456::1]:5001/x", True),
            ("Auth_1.Corp.LAN.", "https://auth_1.corp.lan/x", True),
            ("auth.corp.lan", "https://AUTH.corp.lan./x", True),
        ],
    )
    def test_host_port_and_scheme_of_a_trusted_host_count(
        self, purpose: UrlPurpose, trusted: str, url: str, is_allowed: bool
    ) -> None:
        """R-033, R-035, R-046, R-047."""
        refused = False
        try:
            check_url(purpose, PUBLIC, url, trusted_hosts=[trusted])
        except ProtocolError:
            refused = True

        # A registry may redirect reads to every name.
        assert refused is not (is_allowed or (purpose is UrlPurpose.REDIRECT and "lan" in url))

    @pytest.mark.parametrize("purpose", TRUSTING)
    def test_only_a_trusted_token_server_gets_credentials(self, purpose: UrlPurpose) -> None:
        """R-030, R-033, R-035."""
        found = check_url(purpose, PUBLIC, "https://10.0.0.9:5001/x", trusted_hosts=["10.0.0.9:5001"])

        assert found == AllowedUrl(Origin.of("10.0.0.9:5001"), PUBLIC if purpose is UrlPurpose.REALM else None)

    @pytest.mark.parametrize("purpose", UrlPurpose)
    @pytest.mark.parametrize("trusted", ["other.example.net", "http://other.example.net"])
    def test_a_trusted_host_needs_tls_where_the_registry_has_it(self, purpose: UrlPurpose, trusted: str) -> None:
        """R-041."""
        with pytest.raises(ProtocolError, match=r"https to http.*trusted_hosts"):
            check_url(purpose, PUBLIC, "http://other.example.net/x", trusted_hosts=[trusted])

    @pytest.mark.parametrize("trusted", ["10.0.0.6:9000", "http://10.0.0.6:9000", "10.0.0.6"])
    def test_a_registry_without_tls_may_lead_to_a_trusted_host_without_tls(self, trusted: str) -> None:
        """R-041, R-047."""
        registry = Origin.of("harbor:5000", scheme="http")

        assert check_url(UrlPurpose.REDIRECT, registry, "http://10.0.0.6:9000/b", trusted_hosts=[trusted])

    @pytest.mark.parametrize("url", ["https://a.other.example.net/x", "https://nother.example.net/x"])
    def test_a_trusted_host_is_no_domain(self, url: str) -> None:
        """R-033."""
        with pytest.raises(ProtocolError):
            check_url(UrlPurpose.UPLOAD, PUBLIC, url, trusted_hosts=["other.example.net"])

    def test_trusted_hosts_do_not_count_for_foreign_layers(self) -> None:
        """R-032: their URLs come from users who may push."""
        with pytest.raises(ProtocolError, match="trusted_hosts does not count"):
            check_url(UrlPurpose.FOREIGN, PUBLIC, "https://10.0.0.9/x", trusted_hosts=["10.0.0.9"])

    @pytest.mark.parametrize("purpose", UrlPurpose)
    def test_every_refusal_names_the_setting(self, purpose: UrlPurpose) -> None:
        """R-047."""
        for url in ("https://10.0.0.9:9000/x", "https://127.0.0.1/x", "http://registry.example.com/x"):
            with pytest.raises(ProtocolError, match="trusted_hosts"):
                check_url(purpose, PUBLIC, url)

    def test_a_refusal_names_the_entry_that_would_permit_the_url(self) -> None:
        """R-047."""
        with pytest.raises(ProtocolError) as caught:
            check_url(UrlPurpose.REALM, PUBLIC, "https://10.0.0.9:5001/token?x=y")

        assert str(caught.value) == (
            "https://registry.example.com: token server https://10.0.0.9:5001/token?… refused: neither the registry's "
            "host nor a public name over https; to allow it, add 'https://10.0.0.9:5001' to trusted_hosts"
        )

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "*",
            "*.example.com",
            "a b",
            "auth.example.com/token",
            "auth.example.com:0",
            "auth.example.com:99999",
            "auth.example.com:https",
            "127.1",
            "0x7f.1",
            "::1",
            "fe80::1",
            "http://",
            "http://auth.example.com/",
            "http://auth.example.com/token",
            "http://auth.example.com?x",
            "http://auth.example.com#x",
            "ftp://auth.example.com",
            "//auth.example.com",
            "me:hunter2@auth.example.com",
            "http://me:hunter2@auth.example.com",
        ],
    )
    def test_a_malformed_trusted_host_is_refused_without_showing_a_password(self, text: str) -> None:
        """R-043, R-047."""
        with pytest.raises(ConfigError, match="trusted_hosts") as caught:
            TrustedHost.parse(text)

        assert "hunter2" not in str(caught.value)
        with pytest.raises(ConfigError):
            check_url(UrlPurpose.REALM, PUBLIC, "https://10.0.0.9/x", trusted_hosts=[text])


class TestNeighbours:
    """Hosts next to the registry in a private domain."""

    @pytest.mark.parametrize("purpose", [UrlPurpose.WRITE, UrlPurpose.UPLOAD, UrlPurpose.LINK, UrlPurpose.REALM])
    @pytest.mark.parametrize(
        ("registry", "target", "is_allowed"),
        [
            ("registry.gitlab.lan", "gitlab.lan", True),
            ("harbor.corp.lan", "minio.corp.lan", True),
            ("a.b.example.internal", "b.example.internal", True),
            ("a.b.example.internal", "c.b.example.internal", True),
            ("harbor.registry.svc", "minio.registry.svc", True),
            ("harbor.ns.svc.cluster.local", "minio.ns.svc.cluster.local", True),
            ("REGISTRY.Gitlab.lan", "gitlab.LAN.", True),
            ("harbor.corp.lan", "min_io.corp.lan", True),
            # A parent further up, a name further down, another domain, and names that only look similar.
            ("a.b.example.internal", "example.internal", False),
            ("a.b.example.internal", "c.example.internal", False),
            ("harbor.corp.lan", "x.minio.corp.lan", False),
            ("gitlab.lan", "registry.gitlab.lan", False),
            ("registry.one.lan", "sso.other.lan", False),
            ("registry.gitlab.lan", "evilgitlab.lan", False),
            ("registry.gitlab.lan", "gitlab.lan.evil.example", False),
            # A single label is the domain of the whole network.
            ("harbor.lan", "minio.lan", False),
            ("harbor.lan", "lan", False),
            ("harbor", "minio", False),
            # Names below a public suffix belong to different owners.
            ("registry.gitlab.co.uk", "gitlab.co.uk", False),
            ("a.co.uk", "b.co.uk", False),
            ("a.github.io", "b.github.io", False),
            ("registry.example.com", "example.com", False),
            # Addresses have no parents.
            ("10.0.0.5", "10.0.0.6", False),
            ("1.10.0.5", "10.0.0.5", False),
        ],
    )
    def test_parents_and_siblings_count_in_private_domains_only(
        self, purpose: UrlPurpose, registry: str, target: str, is_allowed: bool
    ) -> None:
        """R-033, R-034, R-035, R-047."""
        refused = False
        try:
            check_url(purpose, Origin.of(registry, scheme="http"), f"http://{target}:8080/x")
        except ProtocolError:
            refused = True

        assert refused is not is_allowed

    @pytest.mark.parametrize("purpose", UrlPurpose)
    @pytest.mark.parametrize("target", ["registry.gitlab.lan:8080", "gitlab.lan", "minio.gitlab.lan"])
    def test_neighbours_need_tls_where_the_registry_has_it(self, purpose: UrlPurpose, target: str) -> None:
        """R-041."""
        with pytest.raises(ProtocolError, match="https to http"):
            check_url(purpose, Origin.of("registry.gitlab.lan"), f"http://{target}/x")


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


def rendered_outcomes(registry: str, targets: Sequence[str]) -> str:
    """The results of the rules for one registry, as a table."""
    lines = [
        f"| From `{registry}` to | " + " | ".join(purpose.value for purpose in RULES) + " |",
        "| --- |" + " --- |" * len(RULES),
    ]
    for target in targets:
        name = target if target in (SAME, OTHER_PORT) else f"`{target}`"
        lines.append(f"| {name} | " + " | ".join(WORDS[outcome(purpose, registry, target)] for purpose in RULES) + " |")
    return "\n".join(lines)


def rendered_zones() -> str:
    """The zones that each zone may name, as a table."""
    lines = ["| Zone of the registry | Zones it may lead to |", "| --- | --- |"]
    for zone, reach in ALLOWED_ZONES.items():
        lines.append(f"| {zone.value} | {', '.join(other.value for other in Zone if other in reach)} |")
    return "\n".join(lines)


RENDERED: Final = [rendered_outcomes(registry, targets) for registries, targets, _ in TABLES for registry in registries]


@pytest.mark.parametrize("table", [rendered_rules(), rendered_zones(), *RENDERED])
def test_the_reference_shows_the_current_tables(table: str) -> None:
    assert table in REFERENCE.read_text(encoding="utf-8")
