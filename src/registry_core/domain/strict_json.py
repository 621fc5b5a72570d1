"""The one door for the JSON of OCI documents.

Structs are views for reading; edits work on the decoded mapping, so that fields nobody knew survive; what was
fetched travels as its bytes and is never encoded again.
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
# An unclosed string reaches to the end: tried again from each quote in it, it would take quadratic time.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_ALIKE = bytes.maketrans(b"{}", b"[]")
_TEXTS: tuple[type[str], ...] = (Digest, Tag, RepositoryName)


def decode(content: bytes) -> dict[str, Any]:
    """The JSON object in some bytes, strictly: I-JSON as image-spec considerations.md demands.

    Raises:
        InvalidDocument: Not UTF-8, not JSON, not an object, duplicate names, or nested too deeply.
    """
    mapping = decode_any(content)
    if not isinstance(mapping, dict):
        raise InvalidDocument("not a JSON object", path="$")
    return mapping


def decode_any(content: bytes) -> Any:
    """Any JSON value in some bytes, as strictly as ``decode``.

    Raises:
        InvalidDocument: Not UTF-8, not JSON, duplicate names, or nested too deeply.
    """
    _check_depth(content)
    try:
        text = content.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate is no text
    except InvalidDocument:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"not JSON: {_short(error)}") from None
    return value


def convert(mapping: object, kind: type[T]) -> T:
    """A typed view of decoded JSON. A field that is ``null`` counts as absent: that is what Go prints for nil.

    Raises:
        InvalidDocument: A field has the wrong shape; ``path`` says which.
    """
    try:
        return msgspec.convert(_without_nulls(mapping), kind, dec_hook=_text)
    except (msgspec.MsgspecError, InvalidValue, ValueError, RecursionError) as error:
        # The path comes last: what stands before it may quote the document.
        message, found, path = str(error).rpartition(" - at `")
        raise InvalidDocument((message if found else path)[:300], path=path.rstrip("`") if found else "") from None


def encode(value: object) -> bytes:
    """JSON without spaces, in the order of the mapping: the same value always gives the same bytes.

    Raises:
        InvalidDocument: There is no JSON for it: a number that is none, or text that is no Unicode.
    """
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"cannot be written as JSON: {_short(error)}") from None


def _check_depth(content: bytes) -> None:
    if content.count(b"{") + content.count(b"[") <= _DEPTH_LIMIT:
        return
    brackets = _STRING.sub(b"", content).translate(_ALIKE, _NO_BRACKETS)
    # Each round takes away the innermost pairs, so that there is no step for each of a million brackets.
    for _ in range(_DEPTH_LIMIT):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise InvalidDocument(f"nested more than {_DEPTH_LIMIT} levels deep, or brackets that do not match")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise InvalidDocument("a name stands twice in one object")
    return mapping


def _constant(name: str) -> Any:
    raise InvalidDocument(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # it could never be written again
        raise InvalidDocument("a number that is too large")
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
