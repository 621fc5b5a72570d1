from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from registry_adapters.auth import authenticator_for
from registry_adapters.http import HttpCatalog, HttpSettings
from registry_adapters.http.messages import Headers
from registry_adapters.http.sender import SecretMasker
from registry_core.domain.auth import RegistryToken
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.origin import Origin
from registry_core.errors import ProtocolError
from registry_core.ports.observer import WarningReceived

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.registry_adapters.http.conftest import Recorder, Reply, ScriptedTransport

PAIR = b64encode(b"user:pass:word").decode()


@pytest.mark.parametrize(
    ("authorization", "body", "masked"),
    [
        (f"Basic {PAIR}", f"you said {PAIR}", "you said ***"),
        (f"Basic {PAIR}", "your password is pass:word", "your password is ***"),
        (f"basic {PAIR}", f"you said {PAIR}", "you said ***"),
        ("Bearer tok.en.ours", "tok.en.ours has expired", "*** has expired"),
        ("Bearer abc", "abc is too short to tell", "abc is too short to tell"),
        ("Basic !!!!!!!!", "!!!!!!!! is no base64", "*** is no base64"),
        ("", "nothing was said", "nothing was said"),
    ],
)
def test_sent_credentials_are_masked_in_a_body(authorization: str, body: str, masked: str) -> None:
    """R-043."""
    assert SecretMasker(authorization).mask_body(body.encode()).decode() == masked


def test_headers_mask_sent_tokens_but_no_word_equal_to_the_password() -> None:
    """R-043."""
    pair = b64encode(b"user:registry").decode()
    headers = Headers([("Warning", f"you said {pair}"), ("Location", "https://registry.example.com/v2/")])

    masked_headers = SecretMasker(f"Basic {pair}").mask_headers(headers)

    assert masked_headers.get("Warning") == "you said ***"
    assert masked_headers.get("Location") == "https://registry.example.com/v2/"


def test_the_password_is_masked_in_warnings() -> None:
    """R-043."""
    headers = Headers([("Warning", '299 - "user with pass:word is old"'), ("Link", "</pass:word>")])

    masked_headers = SecretMasker(f"Basic {PAIR}").mask_headers(headers)

    assert list(masked_headers) == [("warning", '299 - "user with *** is old"'), ("link", "</pass:word>")]


def test_a_token_is_masked_in_every_header(
    scripted: Callable[..., ScriptedTransport], reply: Callable[..., Reply], recorder: Recorder
) -> None:
    """R-043: in a warning, and in the URL of a redirect that is refused."""
    secret = "secret-token-of-ours"
    headers = {"Warning": f'299 - "you said {secret}"', "Location": f"ftp://a.example/{secret}"}
    transport = scripted(reply(307, headers))
    registry = Origin.of("registry.example.com")
    catalog = HttpCatalog(
        "registry.example.com", HttpSettings(retries=0), transport=transport, observer=recorder,
        authenticator=authenticator_for(RegistryToken(secret), registry=registry),
    )  # fmt: skip

    with pytest.raises(ProtocolError) as caught:
        catalog.repository(RepositoryName("app")).manifests.get(Tag("v1"))

    assert transport.sent[0].headers["Authorization"].endswith(secret)
    assert secret not in f"{caught.value} {caught.value!r} {recorder.events!r}"
    assert any(isinstance(event, WarningReceived) for event in recorder.events)
