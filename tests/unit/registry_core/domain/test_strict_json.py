from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.image_config import ImageConfig
from registry_core.domain.manifest import ImageIndex, ImageManifest, RawManifest
from registry_core.errors import InvalidDocument, InvalidValue, Unsupported

DEEP = 100_000
MIB = 1 << 20
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["mediaType", "digest", "size", "layers", "config", "manifests", "platform", "schemaVersion"]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{} {}",
        b"{}x",
        b'{"a":1,"a":2}',
        b'{"x":{"a":1,"\\u0061":2}}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"a":"\\ud800"}',
        b'{"a":"\\uDFFF"}',
        b'{"\\udc00":1}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b'{"a":"\n"}',
        b"{'a':1}",
        b'{"a":1,}',
        b"[" * DEEP,
        b'{"a":' * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b'"' + b"[" * 200,
    ],
)
def test_content_that_is_not_strict_json_is_refused(content: bytes) -> None:
    """R-022."""
    with pytest.raises(InvalidDocument):
        strict_json.decode_any(content)


@pytest.mark.parametrize("content", [b"[]", b"null", b"1", b'"a"', b"true"])
def test_a_document_must_be_an_object(content: bytes) -> None:
    """R-022."""
    with pytest.raises(InvalidDocument):
        strict_json.decode(content)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "content",
    [
        b'"\\' * (MIB // 2) + b"[" * 200,
        b'{"a":"' + b'\\"' * (MIB // 2),
        b"[" * 101 + b'"' * MIB,
        b"\\" * MIB + b"[" * 200,
        b'{"a":' + b"1" * MIB + b"}",
        b"{" * MIB,
        b'{"a":"' + b"[" * MIB,
        b"[]" * (MIB // 2),
    ],
)
def test_a_hostile_megabyte_is_refused_quickly(content: bytes) -> None:
    """R-022: no input takes more than linear time."""
    with pytest.raises(InvalidDocument):
        strict_json.decode(content)


def test_brackets_in_text_do_not_count_as_depth() -> None:
    content = json.dumps({"a": "[{" * 500, 'b"\\': "]"}).encode()

    assert strict_json.decode(content)["a"] == "[{" * 500


def test_a_hundred_levels_are_read() -> None:
    """R-022."""
    assert strict_json.decode_any(b"[" * 100 + b"]" * 100) is not None
    with pytest.raises(InvalidDocument):
        strict_json.decode_any(b"[" * 101 + b"]" * 101)


def test_surrogates_in_pairs_are_text() -> None:
    assert strict_json.decode(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}


@given(JSON)
def test_decoding_encoded_values_gives_equal_values(value: object) -> None:
    assert strict_json.decode_any(strict_json.encode(value)) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {"\udfff": 1}])
def test_values_without_json_representation_are_not_encoded(value: object) -> None:
    with pytest.raises(InvalidDocument):
        strict_json.encode(value)


def test_the_same_mapping_always_gives_the_same_bytes() -> None:
    assert strict_json.encode({"b": "é", "a": [1, None]}) == '{"b":"é","a":[1,null]}'.encode()


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"schemaVersion": 2, "config": {"mediaType": "a", "digest": "x", "size": 1}}, "$.config.digest"),
        ({"schemaVersion": "2"}, "$.schemaVersion"),
        ({"schemaVersion": 2, "config": 5}, "$.config"),
        ({"schemaVersion": 2, "layers": [None]}, "$.layers[0]"),
        (
            {"schemaVersion": 2, "config": {"mediaType": "a", "digest": "x - at `$.lie`", "size": 1}},
            "$.config.digest",
        ),
        ({}, ""),
    ],
)
def test_an_error_has_the_path_of_the_invalid_value(document: object, path: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        strict_json.convert(document, ImageManifest)

    assert caught.value.path == path


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_decoding_raises_only_invalid_value(content: bytes) -> None:
    for read in (strict_json.decode_any, strict_json.decode, RawManifest.of, ImageConfig.read):
        try:
            read(content)
        except (InvalidValue, Unsupported):
            continue


@given(JSON)
def test_converting_raises_only_invalid_value(value: object) -> None:
    for kind in (Descriptor, ImageManifest, ImageIndex, ImageConfig):
        try:
            strict_json.convert(value, kind)
        except InvalidValue:
            continue
