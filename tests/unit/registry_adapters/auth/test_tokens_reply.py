"""Replies of token servers (R-039)."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_adapters.auth.token_requests import token_form, token_query
from registry_adapters.auth.tokens import MAX_LIFETIME, MAX_REPLY_BYTES, Token, parse_token
from registry_core.domain.auth import Basic, IdentityToken, TokenReply, TokenRequest
from registry_core.domain.origin import redact_url
from registry_core.errors import (
    Forbidden,
    ProtocolError,
    RateLimited,
    RegistryError,
    TLSError,
    Unauthorized,
    Unavailable,
)

GET = TokenRequest(method="GET", url="https://auth.example.com/token?account=me")
POST = TokenRequest(method="POST", url="https://auth.example.com/token", body=b"password=hunter2")


def reply(**fields: object) -> TokenReply:
    return TokenReply(status=200, content=json.dumps(fields).encode())


@pytest.mark.parametrize(
    "fields",
    [
        {"token": "abc"},
        {"access_token": "abc"},
        {"token": "abc", "access_token": "other"},
        {"token": "", "access_token": "abc"},
        {"token": None, "access_token": "abc", "unknown": [1]},
    ],
)
def test_the_token_is_found_under_either_name(fields: dict[str, object]) -> None:
    assert parse_token(GET, reply(**fields)).text == "abc"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"abc"',
        b"<html>",
        b"\xff",
        b'{"token": 5}',
        b'{"token": ["abc"]}',
        b'{"token": ""}',
        b'{"token": "a\\r\\nX: y"}',
        b'{"token": "a\\u0000"}',
        '{"token": "ä"}'.encode(),
        b"[" * 100_000,
    ],
)
def test_a_reply_without_a_usable_token_is_a_protocol_error(content: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_token(GET, TokenReply(status=200, content=content))


def test_a_reply_that_is_too_large_is_refused() -> None:
    padded = json.dumps({"token": "abc", "pad": "x" * MAX_REPLY_BYTES}).encode()

    with pytest.raises(ProtocolError):
        parse_token(GET, TokenReply(status=200, content=padded))


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [
        (300, 300.0),
        (90.5, 90.5),
        (1, 60.0),
        (0, 60.0),
        (-5, 60.0),
        ("300", 60.0),
        (True, 60.0),
        (None, 60.0),
        ([], 60.0),
        (60_000_000_000, MAX_LIFETIME),
        (10**400, MAX_LIFETIME),
    ],
)
def test_a_lifetime_is_limited(expires_in: object, lifetime: float) -> None:
    assert parse_token(GET, reply(token="abc", expires_in=expires_in)).lifetime == lifetime


@pytest.mark.parametrize("text", [b"1e400", b"-1e400", b"1" + b"0" * 10_000, b"1e-400", b"[[{}]]", b"-0"])
def test_a_malformed_lifetime_does_not_affect_the_token(text: bytes) -> None:
    """R-039."""
    found = parse_token(GET, TokenReply(status=200, content=b'{"expires_in": ' + text + b', "token": "abc"}'))

    assert found.text == "abc"
    assert found.lifetime in (60.0, MAX_LIFETIME)


@pytest.mark.parametrize("issued_at", ["1970-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "garbage", 5, None])
def test_the_time_of_issue_is_ignored(issued_at: object) -> None:
    assert parse_token(GET, reply(token="abc", expires_in=300, issued_at=issued_at)).lifetime == 300.0


@pytest.mark.parametrize(
    ("request_", "status", "kind"),
    [
        (GET, 401, Unauthorized),
        (POST, 401, Unauthorized),
        (POST, 400, Unauthorized),
        (GET, 400, ProtocolError),
        (GET, 403, Forbidden),
        (GET, 404, ProtocolError),
        (GET, 307, ProtocolError),
        (GET, 429, RateLimited),
        (GET, 500, Unavailable),
        (GET, 503, Unavailable),
    ],
)
def test_each_status_raises_its_error(request_: TokenRequest, status: int, kind: type[RegistryError]) -> None:
    with pytest.raises(kind) as caught:
        parse_token(request_, TokenReply(status=status, content=b'{"token": "abc"}'))

    assert type(caught.value) is kind
    assert caught.value.transport is not None
    assert caught.value.transport.status == status


@given(st.sampled_from([GET, POST]), st.integers(100, 599), st.binary(max_size=200))
def test_any_reply_gives_a_token_or_an_error_of_the_library(
    request_: TokenRequest, status: int, content: bytes
) -> None:
    outcome: object
    try:
        outcome = parse_token(request_, TokenReply(status=status, content=content))
    except RegistryError as error:
        outcome = error

    assert isinstance(outcome, Token | RegistryError)


def test_the_error_of_a_refusal_shows_no_secret() -> None:
    """R-043."""
    with pytest.raises(Unauthorized) as caught:
        parse_token(GET, TokenReply(status=401, content=b"s3cret"))

    assert "account=me" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_token_shows_no_secret_and_cannot_be_pickled() -> None:
    secret = Token("s3cret", 60.0)

    assert "s3cret" not in repr(secret)
    with pytest.raises(TypeError):
        pickle.dumps(secret)


@pytest.mark.parametrize(
    ("request_", "status", "outcome"),
    [
        (GET, 401, "401 Unauthorized: no credentials were given"),
        (POST, 400, "400 Bad Request: the token server refused the credentials"),
        (GET, 403, "403 Forbidden"),
        (
            GET,
            302,
            "302 Found: redirects of token requests are not followed, because the request may hold credentials",
        ),
        (GET, 599, "599"),
    ],
)
def test_the_error_names_the_token_server_and_the_reason(request_: TokenRequest, status: int, outcome: str) -> None:
    with pytest.raises(RegistryError) as caught:
        parse_token(request_, TokenReply(status=status, content=b""))

    assert caught.value.message == f"token request to {redact_url(request_.url)}: {outcome}"


@pytest.mark.parametrize("build", [token_query, token_form])
def test_a_token_server_that_wants_tls_at_a_plain_http_url_says_so(build: Callable[..., TokenRequest]) -> None:
    answer = TokenReply(status=400, content=b"Client sent an HTTP request to an HTTPS server.\n")

    with pytest.raises(TLSError, match="the token server speaks TLS, but the registry names it by a plain http URL"):
        parse_token(build("http://auth.lan/token", "", (), Basic("me", "hunter2-hunter2")), answer)
    with pytest.raises((ProtocolError, Unauthorized), match="400 Bad Request"):
        parse_token(build("https://auth.lan/token", "", (), Basic("me", "hunter2-hunter2")), answer)


def error_body(message: str) -> bytes:
    return json.dumps({"errors": [{"code": "DENIED", "message": message}]}).encode()


@pytest.mark.parametrize("request_", [GET, POST])
@pytest.mark.parametrize(
    ("status", "content", "words"),
    [
        (403, error_body("registry contains 1 repositories, limit is 1"), "DENIED: registry contains 1 repositories"),
        (403, b'{"message": "your storage quota is used up"}', "your storage quota is used up"),
        (403, b"the subscription has ended", "the subscription has ended"),
        (402, error_body("payment required for private repositories"), "payment required"),
        (412, error_body("the project is archived"), "the project is archived"),
        (423, b"", "423 Locked"),
        (451, error_body("not available in your country"), "not available"),
        (403, b"<html><title>Forbidden</title></html>", "403 Forbidden"),
    ],
)
def test_a_refusal_by_policy_is_forbidden_in_the_words_of_the_token_server(
    request_: TokenRequest, status: int, content: bytes, words: str
) -> None:
    """R-244."""
    with pytest.raises(Forbidden) as caught:
        parse_token(request_, TokenReply(status=status, content=content))

    assert words in str(caught.value)
    assert "<" not in str(caught.value)


@pytest.mark.parametrize(
    "request_",
    [
        token_query("https://auth.example.com/token", "", (), Basic("me", "hunter2-hunter2")),
        token_form("https://auth.example.com/token", "", (), Basic("me", "hunter2-hunter2")),
        token_form("https://auth.example.com/token", "", (), IdentityToken("hunter2-hunter2")),
    ],
)
def test_a_secret_that_the_token_server_repeats_is_masked(request_: TokenRequest) -> None:
    """R-043."""
    value = request_.headers.get("Authorization", "").partition(" ")[2]
    content = error_body(f"no access for hunter2-hunter2 {value}")

    with pytest.raises(Forbidden, match=r"no access for \*\*\*") as caught:
        parse_token(request_, TokenReply(status=403, content=content))

    assert "hunter2" not in str(caught.value)
    assert not value or value not in str(caught.value)
