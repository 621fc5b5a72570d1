"""Whom a registry may send credentials to (R-035)."""

from __future__ import annotations

import io
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import nullcontext

import pytest

from registry_adapters.auth import ChallengeAuthenticator, authenticator_for
from registry_adapters.http.messages import Body, Headers, Request, Response
from registry_adapters.http.session import Session
from registry_adapters.http.settings import HttpSettings
from registry_adapters.keychains import StaticKeychain
from registry_core.content.streams import FileObjectReader
from registry_core.domain import url_policy
from registry_core.domain.auth import Basic, Challenge, Credential, IdentityToken, Scope, TokenReply, TokenRequest
from registry_core.domain.origin import Origin
from registry_core.domain.url_policy import (
    RULES,
    AllowedUrl,
    CredentialRule,
    CrossOriginRule,
    Rule,
    UrlPurpose,
    check_url,
)
from registry_core.errors import ProtocolError
from registry_core.ports.authenticator import Authenticator
from registry_core.ports.keychain import Keychain

SCOPES = (Scope("repository", "app", ("pull",)),)


def check_realm(registry: Origin, realm: str) -> AllowedUrl:
    return check_url(UrlPurpose.REALM, registry, realm)


@pytest.mark.parametrize(
    ("registry", "realm"),
    [
        ("https://registry.example.com", "https://registry.example.com/token"),
        ("https://registry.example.com:5000", "https://registry.example.com:5000/token"),
        ("https://registry-1.docker.io", "https://auth.docker.io/token"),
        ("https://ghcr.io", "https://ghcr.io/token?x=y"),
        ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth"),
        ("https://registry.example.com", "https://auth.example.com:8443/token"),
        ("http://registry.example.com", "https://auth.example.com/token"),
        ("http://registry:5000", "http://registry:5000/token"),
        ("http://10.0.0.5:5000", "http://10.0.0.5:5000/token"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token"),
        ("http://localhost:5000", "http://127.0.0.1:5001/token"),
        ("https://[::1]:5000", "https://[::1]:5001/token"),
        ("https://10.0.0.5:5000", "https://10.0.0.5:5001/token"),
        ("http://192.168.1.5:5050", "http://192.168.1.5/jwt/auth"),
        ("http://gitlab.example.com:5500", "http://gitlab.example.com:10080/jwt/auth"),
        ("http://registry.gitlab.lan", "http://gitlab.lan/jwt/auth"),
        ("https://registry.gitlab.lan", "https://gitlab.lan:8443/jwt/auth"),
    ],
)
def test_allowed_realms(registry: str, realm: str) -> None:
    found = check_realm(Origin.of_url(registry), realm)

    assert found.origin == Origin.of_url(realm.split("/token")[0].split("/jwt")[0])
    assert found.credentials == Origin.of_url(registry)


@pytest.mark.parametrize(
    ("registry", "realm"),
    [
        ("https://registry.example.com", "http://registry.example.com/token"),
        ("https://registry.example.com", "http://auth.example.com/token"),
        ("https://registry.example.com", "https://user:word@auth.example.com/token"),
        ("https://registry.example.com", "https://registry.example.com@evil.example/token"),
        ("https://registry.example.com", "/token"),
        ("https://registry.example.com", "//auth.example.com/token"),
        ("https://registry.example.com", ""),
        ("https://registry.example.com", "ftp://auth.example.com/token"),
        ("https://registry.example.com", "file:///etc/passwd"),
        ("https://registry.example.com", "https://auth.example.com\\@evil.example/token"),
        ("https://registry.example.com", "https://auth.example.com/\r\nX: y"),
        ("https://registry.example.com", "https://127.0.0.1/token"),
        ("https://registry.example.com", "https://localhost/token"),
        ("https://registry.example.com", "https://auth.localhost/token"),
        ("https://registry.example.com", "https://169.254.169.254/latest"),
        ("https://registry.example.com", "https://10.0.0.1/token"),
        ("https://registry.example.com", "https://224.0.0.1/token"),
        ("https://registry.example.com", "https://0.0.0.0/token"),
        ("https://registry.example.com", "https://[::1]/token"),
        ("https://registry.example.com", "https://[::ffff:10.0.0.1]/token"),
        ("https://registry.example.com", "https://[fe80::1]/token"),
        ("https://registry.example.com", "https://8.8.8.8/token"),
        ("https://registry.example.com", "https://2130706433/token"),
        ("https://registry.example.com", "https://127.1/token"),
        ("https://registry.example.com", "https://0x7f.1/token"),
        ("https://registry.example.com", "https://0x7f.0x1/token"),
        ("https://registry.example.com", "https://intranet/token"),
        ("https://registry.example.com", "https://metadata.google.internal/token"),
        ("https://registry.example.com", "https://printer.local/token"),
        ("https://10.0.0.5:5000", "https://10.0.0.6:5000/token"),
        ("https://10.0.0.5:5000", "http://10.0.0.5:5001/token"),
        ("https://registry.gitlab.lan", "http://gitlab.lan/jwt/auth"),
        ("http://registry.one.lan", "http://sso.other.lan/jwt/auth"),
        ("https://10.0.0.5:5000", "https://127.0.0.1:5000/token"),
        ("http://127.0.0.1:5000", "http://10.0.0.1/token"),
        ("http://127.0.0.1:5000", "http://auth.example.com/token"),
        ("http://registry:5000", "http://auth:5001/token"),
    ],
)
def test_refused_realms(registry: str, realm: str) -> None:
    with pytest.raises(ProtocolError):
        check_realm(Origin.of_url(registry), realm)


def test_the_error_shows_neither_password_nor_query() -> None:
    """R-043."""
    with pytest.raises(ProtocolError) as caught:
        check_realm(Origin.of("registry.example.com"), "https://user:hunter2@auth.example.com/token?key=s3cret")

    assert "hunter2" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


class Network:
    """A registry with a public name, and a token server at a private address that the user trusts."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        self.requests.append((url.partition("?")[0], headers.get("Authorization", "").partition(" ")[0]))
        status, fields, content = 200, Headers([]), b"{}"
        if "/token" in url:
            content = b'{"token": "abc"}'
        elif "Authorization" not in headers:
            realm = 'Bearer realm="https://10.0.0.6:5001/token",service="s"'
            status, fields = 401, Headers([("WWW-Authenticate", realm)])
        return Response(status=status, headers=fields, url=url, reader=FileObjectReader(io.BytesIO(content)))

    def close(self) -> None:
        """Do nothing: there are no connections."""


def open_session(network: Network, authenticator: Authenticator, *trusted_hosts: str) -> Session:
    return Session(
        Origin.of("registry.example.com"),
        HttpSettings(trusted_hosts=trusted_hosts, retries=0),
        transport=network,
        authenticator=authenticator,
    )


LIST_TAGS = Request(
    method="GET", target="/v2/app/tags/list", success=(200,), scopes=SCOPES, reference="app", missing="repository"
)
REGISTRY, TOKENS = "https://registry.example.com/v2/app/tags/list", "https://10.0.0.6:5001/token"
KEYCHAIN = StaticKeychain({"registry.example.com": Basic("me", "pw")})


def test_the_url_policy_decides_about_credentials_for_token_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-030: the policy table is used, not a copy of it."""
    rule = Rule(cross_origin=CrossOriginRule.TOKEN_SERVER, credentials=CredentialRule.NONE, hops=0)
    monkeypatch.setattr(url_policy, "RULES", {**RULES, UrlPurpose.REALM: rule})
    network = Network()

    with pytest.raises(ProtocolError, match="credentials must not be sent there"):
        open_session(network, ChallengeAuthenticator(KEYCHAIN), "10.0.0.6:5001").send(LIST_TAGS)

    assert network.requests == [(REGISTRY, "")]


@pytest.mark.parametrize("is_trusted", [True, False])
def test_only_a_trusted_private_token_server_gets_requests(is_trusted: bool) -> None:
    """R-035, R-047."""
    network = Network()
    session = open_session(network, ChallengeAuthenticator(KEYCHAIN), *(["10.0.0.6:5001"] if is_trusted else []))

    with nullcontext() if is_trusted else pytest.raises(ProtocolError, match=r"token server .* trusted_hosts"):
        session.send(LIST_TAGS).close()

    assert network.requests == [(REGISTRY, ""), *([(TOKENS, "Basic"), (REGISTRY, "Bearer")] if is_trusted else [])]


@pytest.mark.parametrize("auth", [None, Basic("me", "pw"), IdentityToken("s3cret"), KEYCHAIN])
def test_no_request_is_sent_to_a_refused_token_server(auth: Credential | Keychain | None) -> None:
    """R-035: not even an anonymous one."""
    network = Network()

    with pytest.raises(ProtocolError, match="trusted_hosts"):
        open_session(network, authenticator_for(auth)).send(LIST_TAGS)

    assert network.requests == [(REGISTRY, "")]


class OwnAuthenticator(Authenticator):
    """An authenticator of the application that requests tokens without any check."""

    def cached_authorization(self, registry: Origin, scopes: Collection[Scope]) -> str | None:
        return None

    def handle_challenge(
        self,
        registry: Origin,
        challenges: Sequence[Challenge],
        scopes: Collection[Scope],
        *,
        rejected: str | None = None,
    ) -> Generator[TokenRequest, TokenReply, str | None]:
        yield TokenRequest(method="GET", url=TOKENS, headers={"Authorization": "Basic bWU6cHc="})
        return "Bearer abc"


def test_the_policy_holds_for_an_authenticator_of_the_application() -> None:
    """R-035, R-047."""
    refused, trusted = Network(), Network()

    with pytest.raises(ProtocolError, match="trusted_hosts"):
        open_session(refused, OwnAuthenticator()).send(LIST_TAGS)
    open_session(trusted, OwnAuthenticator(), "https://10.0.0.6:5001").send(LIST_TAGS).close()

    assert refused.requests == [(REGISTRY, "")]
    assert trusted.requests == [(REGISTRY, ""), (TOKENS, "Basic"), (REGISTRY, "Bearer")]
