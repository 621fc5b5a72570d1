"""Parsers of untrusted input raise only errors of the library, in linear time (R-022, R-040, R-091).

The long inputs have 256 KiB; with ``OCIPORT_FULL_TESTS=1`` they have 1 MiB.
"""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import example, given, note, settings
from hypothesis import strategies as st
from tests.scale import FULL

from registry_adapters.http.blobs import content_range
from registry_adapters.http.headers import challenges, next_target
from registry_adapters.http.messages import Headers
from registry_adapters.http.retry import retry_after
from registry_adapters.http.upload_sessions import committed_bytes
from registry_adapters.keychains import TextKeychain
from registry_adapters.keychains.helper import parse_output
from registry_core.domain.error_bodies import error_infos
from registry_core.domain.image_config import ImageConfig
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from registry_core.domain.names import RepositoryName
from registry_core.errors import RegistryError

LENGTH = 1 << 20 if FULL else 256 << 10
# One second per mebibyte.
SECONDS = LENGTH / (1 << 20)


def read_challenge(text: str) -> None:
    challenges([text])


def read_link(text: str) -> None:
    next_target([text])


def read_range(text: str) -> None:
    committed_bytes(Headers([("Range", text)]))


def read_content_range(text: str) -> None:
    parsed = content_range(text)
    assert parsed is None or parsed[0] <= parsed[1]


def read_retry_after(text: str) -> None:
    parsed = retry_after(text, 1_800_000_000.0)
    assert parsed is None or parsed >= 0


def read_manifest(content: bytes, *claims: str) -> None:
    for claimed in claims or ("",):
        with contextlib.suppress(RegistryError):
            manifest = RawManifest.of(content, claimed=claimed)
            assert manifest.content == content
            _ = manifest.image, manifest.children
            [part.embedded() for part in manifest.children]


def read_index(content: bytes, *claims: str) -> None:
    for claimed in claims or ("",):
        with contextlib.suppress(RegistryError):
            manifest = RawManifest.of(content, claimed=claimed)
            _ = manifest.index, manifest.children


def read_config(content: bytes) -> None:
    with contextlib.suppress(RegistryError):
        config = ImageConfig.read(content)
        _ = config.platform, config.created_at


def read_docker_config(content: bytes) -> None:
    with contextlib.suppress(RegistryError):
        keychain = TextKeychain(content)
        for registry in ("docker.io", "a.example", "localhost:5000"):
            keychain.credential(registry, RepositoryName("org/app"))


def read_helper_output(content: bytes) -> None:
    with contextlib.suppress(RegistryError):
        parse_output(content, "docker-credential-test")


def read_error_body(content: bytes) -> None:
    for info in error_infos(content):
        assert info.message.isprintable()


HEADERS: dict[str, Callable[[str], None]] = {
    "challenge": read_challenge,
    "link": read_link,
    "range": read_range,
    "content-range": read_content_range,
    "retry-after": read_retry_after,
}
DOCUMENTS: dict[str, Callable[..., None]] = {
    "manifest": read_manifest,
    "index": read_index,
    "config": read_config,
    "error": read_error_body,
    "docker config": read_docker_config,
    "helper output": read_helper_output,
}

_TOKENS = st.sampled_from(
    [
        "Bearer", "Basic", "Negotiate", "realm", "=", '"', "\\", ",", ";", " ", "\t", "<", ">", "rel", "next", "/v2/",
        "https://a.example/", "bytes", "0-", "-", "/", "*", "99999999999999999999", "Wed, 21 Oct 2026 07:28:00 GMT",
        "\x00", "é", "\ud800", "\r\n", "%00", "abc==",
    ]
)  # fmt: skip
TEXTS = st.one_of(st.lists(_TOKENS, max_size=40).map("".join), st.text(max_size=200))

_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)),
    max_leaves=12,
)
_FIELDS = st.sampled_from(
    [
        "schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers", "digest", "size", "data", "urls",
        "platform", "annotations", "subject", "artifactType", "os", "architecture", "rootfs", "diff_ids", "history",
        "created", "Env", "Labels", "errors", "code", "message", "detail", "raw", "auths",
        "credHelpers", "credsStore", "auth", "username", "password", "identitytoken", "registrytoken", "a.example",
        "https://index.docker.io/v1/", "localhost:5000/org", "Username", "Secret",
    ]
)  # fmt: skip
_DIGEST = "sha256:" + "a" * 64
_VALUES = st.one_of(
    _JSON,
    st.sampled_from([2, -1, 2**70, OCI_MANIFEST, OCI_INDEX, _DIGEST, "sha256:x", "e30=", "dXNlcjpwYXNz", "<token>"]),
)
_OBJECTS = st.recursive(
    st.dictionaries(_FIELDS, _VALUES, max_size=6),
    lambda inner: st.dictionaries(_FIELDS, st.one_of(inner, st.lists(inner, max_size=3), _VALUES), max_size=6),
    max_leaves=8,
)


def _encoded(value: object) -> bytes:
    import json

    return json.dumps(value).encode()


CONTENTS = st.one_of(st.binary(max_size=200), _OBJECTS.map(_encoded), _JSON.map(_encoded))


@settings(max_examples=600, deadline=None)
@given(text=TEXTS)
@example(text='Bearer realm="')
@example(text="<")
def test_headers_raise_only_errors_of_the_library(text: str) -> None:
    """R-062."""
    for name, reader in HEADERS.items():
        note(name)
        with contextlib.suppress(RegistryError):
            reader(text)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(content=CONTENTS)
@example(content=b"[" * 100_000)
@example(content=b'{"a":' + b"9" * 5000 + b"}")
@example(content=b'{"mediaType":"\\ud800"}')
def test_documents_raise_only_errors_of_the_library(content: bytes) -> None:
    """R-022, R-062."""
    for name, reader in DOCUMENTS.items():
        note(name)
        reader(content)
    read_manifest(content, OCI_MANIFEST, DOCKER_MANIFEST)
    read_index(content, OCI_INDEX, DOCKER_INDEX)


def repeat(unit: str) -> str:
    return (unit * (LENGTH // len(unit) + 1))[:LENGTH]


HOSTILE_TEXTS = [
    "a", '"', "\\", '\\"', "=", ",", ", ", " ", ";", "<", "<>", "<>,", "</v2/>;", "</v2/>; rel=next,", 'a="', 'a="\\',
    "a=b,", 'Bearer realm="x",', "Bearer ", "Bearer a=b ", "Basic ,", "a b ", "0", "0-", "bytes 0-0/0", "Wed, ", "-",
    "%", "é", "\t", '<a>;x="', '<a>;x="\\', "<a>;rel=next;", "<a>;=", "<a>;;",
]  # fmt: skip
HOSTILE_CONTENTS = [
    b"[", b"{", b'{"', b'"', b'\\"', b"[]", b"[],", b'{"a":', b'{"a":[', b'"a",', b"0", b"1e9", b" ", b"\xff",
    b"\xf0\x90\x80\x80", b'"\\ud800",', b'{"layers":[', b'{"manifests":[{},', b"9", b"-",
    b"\\u0000", b'{"auths":{"a":{}},', b"e30=",
]  # fmt: skip


def seconds_for(work: Callable[[], None]) -> float:
    """Return the minimum processor time of three runs, without garbage collection of other objects."""
    best = math.inf
    gc.freeze()
    try:
        for _ in range(3):
            started = time.process_time()
            with contextlib.suppress(RegistryError):
                work()
            best = min(best, time.process_time() - started)
            if best < SECONDS / 2:
                break
    finally:
        gc.unfreeze()
    return best


@pytest.mark.parametrize("unit", HOSTILE_TEXTS)
@pytest.mark.parametrize("reader", HEADERS)
def test_a_long_hostile_header_is_parsed_in_linear_time(reader: str, unit: str) -> None:
    for text in (repeat(unit), 'Bearer realm="' + repeat(unit), "<" + repeat(unit), "</a>; rel=next" + repeat(unit)):
        assert seconds_for(partial(HEADERS[reader], text)) < SECONDS


@pytest.mark.parametrize("unit", HOSTILE_CONTENTS)
@pytest.mark.parametrize("reader", DOCUMENTS)
def test_a_long_hostile_document_is_parsed_in_linear_time(reader: str, unit: bytes) -> None:
    """R-022."""
    content = (unit * (LENGTH // len(unit) + 1))[:LENGTH]
    documents = (content, b'{"a":"' + content, b'{"layers":[' + content, b"[" + content + b"]", b'"' + content + b'"')
    for document in documents:
        assert seconds_for(partial(DOCUMENTS[reader], document)) < SECONDS
