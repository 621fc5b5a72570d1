"""Conversations with registries and token servers, written down by hand and checked word by word."""

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


class Asked(NamedTuple):
    """A request that is expected.

    Args:
        line: Method and URL.
        authorization: What it is authorised with; nothing else is allowed to be there.
        body: What it carries.
        headers: If given, all of its headers but ``Authorization``.
    """

    line: str
    authorization: str | None = None
    body: bytes | None = None
    headers: Mapping[str, str] | None = None


class Said(NamedTuple):
    """What it is answered."""

    status: int
    headers: Mapping[str, str] = MappingProxyType({})
    content: bytes = b""


class Transcript:
    """A transport that knows a whole conversation beforehand, and takes no other.

    Args:
        lines: Requests and their answers, in turn.
    """

    def __init__(self, *lines: Asked | Said) -> None:
        self._lines = deque(lines)
        self.secrets = {
            line.authorization.partition(" ")[2] for line in lines if isinstance(line, Asked) and line.authorization
        }

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        assert self._lines, f"nothing more was expected, but {method} {url} came"
        asked, said = self._lines.popleft(), self._lines.popleft()
        assert isinstance(asked, Asked)
        assert isinstance(said, Said)
        content = None
        if body is not None:
            with body.source.open(body.start) as reader:
                content = reader.read(body.length)
        assert f"{method} {url}" == asked.line
        rest = {name: value for name, value in headers.items() if name != "Authorization"}
        assert headers.get("Authorization") == asked.authorization, asked.line
        assert not {name.lower() for name in rest} & {"authorization", "cookie", "proxy-authorization"}
        assert asked.headers is None or rest == asked.headers
        assert (content or None) == asked.body
        return Response(
            status=said.status,
            headers=Headers(list(said.headers.items())),
            url=url,
            reader=FileObjectReader(io.BytesIO(said.content)),
        )

    def close(self) -> None:
        """Nothing is kept open."""

    @property
    def is_over(self) -> bool:
        """Whether all of it has been said."""
        return not self._lines


Converse = Callable[..., HttpCatalog]


@pytest.fixture
def converse(caplog: pytest.LogCaptureFixture) -> Iterator[Converse]:
    """Opens a registry by its host and a transcript, which has to be over at the end of the test, and in no log."""
    caplog.set_level(logging.DEBUG)
    opened: list[tuple[HttpCatalog, Transcript]] = []

    def open_registry(host: str, *lines: Asked | Said, auth: Credential | None = None) -> HttpCatalog:
        transcript = Transcript(*lines)
        chosen = authenticator_for(auth, registry=Origin.of(host))
        catalog = HttpCatalog(host, HttpSettings(retries=0), authenticator=chosen, transport=transcript)
        opened.append((catalog, transcript))
        return catalog

    yield open_registry
    for catalog, transcript in opened:
        catalog.close()
        assert transcript.is_over, "less was said than expected"
        assert not any(secret in caplog.text for secret in transcript.secrets)


@pytest.fixture
def asked() -> type[Asked]:
    """Writes requests down."""
    return Asked


@pytest.fixture
def said() -> type[Said]:
    """Writes answers down."""
    return Said


@pytest.fixture
def basic() -> Callable[[str], str]:
    """What a pair ``user:password`` looks like on the wire."""
    return lambda pair: f"Basic {b64encode(pair.encode()).decode()}"
