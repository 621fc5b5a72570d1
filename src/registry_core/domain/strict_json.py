"""Decoding and encoding of OCI documents as strict JSON (I-JSON); the only module that does so.

Structs are views for reading. Edits change the decoded mapping, so that unknown fields survive. Documents that were
fetched are never encoded again.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, TypeVar

import msgspec

from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import InvalidDocument, InvalidValue

__all__ = ["convert", "decode", "decode_any", "encode"]

T = TypeVar("T")

_DEPTH_LIMIT = 100
# The closing quote is optional: otherwise an unclosed string would be matched again from each quote, in quadratic time.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_ALIKE = bytes.maketrans(b"{}", b"[]")
_TEXTS: tuple[type[str], ...] = (Digest, Tag, RepositoryName)


def decode(content: bytes) -> dict[str, Any]:
    """Decode a JSON object as I-JSON (image-spec considerations.md, "JSON").

    Raises:
        InvalidDocument: The bytes are not UTF-8, not JSON or not an object, a name is repeated, or the nesting is
            too deep.
    """
    mapping = decode_any(content)
    if not isinstance(mapping, dict):
        raise InvalidDocument("not a JSON object", path="$")
    return mapping


def decode_any(content: bytes) -> Any:
    """Decode any JSON value, as strictly as ``decode``.

    Raises:
        InvalidDocument: The bytes are not UTF-8 or not JSON, a name is repeated, or the nesting is too deep.
    """
    _check_depth(content)
    try:
        text = content.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # raises for lone surrogates
    except InvalidDocument:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"not JSON: {_short(error)}") from None
    return value


def convert(mapping: object, kind: type[T]) -> T:
    """Convert decoded JSON to a typed view. ``null`` counts as absent, because Go writes it for nil.

    Raises:
        InvalidDocument: A field has the wrong type; ``path`` names it.
    """
    try:
        return msgspec.convert(_without_nulls(mapping), kind, dec_hook=_text)
    except (msgspec.MsgspecError, InvalidValue, ValueError, RecursionError) as error:
        # The path is the last part; the part before it may quote the document.
        message, found, path = str(error).rpartition(" - at `")
        raise InvalidDocument((message if found else path)[:300], path=path.rstrip("`") if found else "") from None


def encode(value: object) -> bytes:
    """Encode without spaces, in the order of the mapping; equal values give equal bytes.

    Raises:
        InvalidDocument: The value has a NaN, an infinity or text with lone surrogates.
    """
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"cannot be written as JSON: {_short(error)}") from None


def _check_depth(content: bytes) -> None:
    if content.count(b"{") + content.count(b"[") <= _DEPTH_LIMIT:
        return
    brackets = _STRING.sub(b"", content).translate(_ALIKE, _NO_BRACKETS)
    # Each round removes the innermost pairs, so that a million brackets take at most _DEPTH_LIMIT steps.
    for _ in range(_DEPTH_LIMIT):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise InvalidDocument(f"nested more than {_DEPTH_LIMIT} levels deep, or unbalanced brackets")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise InvalidDocument("duplicate name in an object")
    return mapping


def _constant(name: str) -> Any:
    raise InvalidDocument(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # it could not be encoded again
        raise InvalidDocument("number too large")
    return value


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _text(kind: type, value: Any) -> Any:
    if kind in _TEXTS:
        try:
            return kind(value)
        except InvalidValue as error:
            raise ValueError(error.message) from None
    raise TypeError(f"no decoder for {kind.__name__}")


def _short(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__
