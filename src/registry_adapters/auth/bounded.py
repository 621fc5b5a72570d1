"""Memories that do not grow without end."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, TypeVar

__all__ = ["remember"]

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")

_LIMIT: Final = 4096


def remember(memory: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    """Remember, and forget what was remembered longest ago where there is too much: that costs a 401, no more."""
    memory.pop(key, None)
    if len(memory) >= _LIMIT:
        del memory[next(iter(memory))]
    memory[key] = value
