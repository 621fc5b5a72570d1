"""A transport that expects given requests and sends given responses, written by hand as a transcript."""

from __future__ import annotations

import io
import logging
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import pytest

from registry_adapters.auth import authenticator_for
from registry_adapters.http import HttpCatalog, HttpSettings
from registry_adapters.http.messages import Body, Headers, Response
from registry_core.content.streams import FileObjectReader
from registry_core.domain.auth import Credential
from registry_core.domain.origin import Origin


class ExpectedRequest(NamedTuple):
    """A request that the client must send next.

    Args:
        line: Method and URL.
        authorization: Value of ``Authorization``; no other header may hold credentials.
        body: Request body.
        headers: All other headers; ``None`` for any.
    """

    line: str
    authorization: str | None = None
    body: bytes | None = None
    headers: Mapping[str, str] | None = None


class ScriptedResponse(NamedTuple):
    """The response to the request before it."""

    status: int
    headers: Mapping[str, str] = MappingProxyType({})
    content: bytes = b""


class Transcript:
    """A transport that accepts only the expected requests, in their order.

    Args:
        messages: Requests and responses in turn.
    """

    def __init__(self, *messages: ExpectedRequest | ScriptedResponse) -> None:
        self._messages = deque(messages)
        self.secrets = {
            message.authorization.partition(" ")[2]
            for message in messages
            if isinstance(message, ExpectedRequest) and message.authorization
        }

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        assert self._messages, f"unexpected request: {method} {url}"
        expected, response = self._messages.popleft(), self._messages.popleft()
        assert isinstance(expected, ExpectedRequest)
        assert isinstance(response, ScriptedResponse)
        content = None
        if body is not None:
            with body.source.open(body.start) as reader:
                content = reader.read(body.length)
        assert f"{method} {url}" == expected.line
        rest = {name: value for name, value in headers.items() if name != "Authorization"}
        assert headers.get("Authorization") == expected.authorization, expected.line
        assert not {name.lower() for name in rest} & {"authorization", "cookie", "proxy-authorization"}
        assert expected.headers is None or rest == expected.headers
        assert (content or None) == expected.body
        return Response(
            status=response.status,
            headers=Headers(list(response.headers.items())),
            url=url,
            reader=FileObjectReader(io.BytesIO(response.content)),
        )

    def close(self) -> None:
        """Do nothing."""

    @property
    def is_over(self) -> bool:
        """Whether all expected requests were sent."""
        return not self._messages


OpenTranscript = Callable[..., HttpCatalog]


@pytest.fixture
def open_transcript(caplog: pytest.LogCaptureFixture) -> Iterator[OpenTranscript]:
    """Open a registry with a transcript, which must be over after the test; no secret of it may be in a log."""
    caplog.set_level(logging.DEBUG)
    opened: list[tuple[HttpCatalog, Transcript]] = []

    def open_registry(
        host: str, *messages: ExpectedRequest | ScriptedResponse, auth: Credential | None = None
    ) -> HttpCatalog:
        transcript = Transcript(*messages)
        authenticator = authenticator_for(auth, registry=Origin.of(host))
        catalog = HttpCatalog(host, HttpSettings(retries=0), authenticator=authenticator, transport=transcript)
        opened.append((catalog, transcript))
        return catalog

    yield open_registry
    for catalog, transcript in opened:
        catalog.close()
        assert transcript.is_over, "an expected request was not sent"
        assert not any(secret in caplog.text for secret in transcript.secrets)


@pytest.fixture
def expect() -> type[ExpectedRequest]:
    """Create expected requests."""
    return ExpectedRequest


@pytest.fixture
def respond() -> type[ScriptedResponse]:
    """Create responses."""
    return ScriptedResponse


@pytest.fixture
def basic() -> Callable[[str], str]:
    """The ``Authorization`` value for a pair ``user:password``."""
    return lambda pair: f"Basic {b64encode(pair.encode()).decode()}"
