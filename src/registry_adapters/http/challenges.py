"""The challenges of an answer: ``WWW-Authenticate``, by RFC 9110, section 11.6.1, and by what registries write (R-040).

One pass from left to right, never backwards further than one word: what is hostile costs no more than what is long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from registry_core.domain.access import Challenge

__all__ = ["challenges"]

_LIMIT: Final = 32
_WORDS: Final = 1024
# Between two words anything may stand: commas and spaces as they should, and what makes no sense.
_NOISE = re.compile(r"""(?:[^!#$%&'*+.^_`|~0-9A-Za-z"-]++|"(?:[^"\\]|\\.)*+(?:"|\\?\Z))*+""", re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n]*+")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]++")
_TOKEN68 = re.compile(r"[ \t]++[A-Za-z0-9._~+/-]++=*+[ \t]*+(?=,|\Z)")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)', re.DOTALL)
# A realm without quotes is no token, for it has colons and slashes; some registries send it so nevertheless.
_UNQUOTED = re.compile(r'[^ \t\r\n,"]*+')
_PAIR = re.compile(r"\\(.)", re.DOTALL)


def challenges(values: Iterable[str]) -> list[Challenge]:
    """Every challenge in the values of one or several ``WWW-Authenticate`` fields, in order.

    Scheme and parameter names come in lower case. A challenge that carries one opaque word (token68) instead of
    parameters comes without parameters. What cannot be understood, and what comes after more words than any registry
    has to say, is left out; nothing is raised.

    Args:
        values: The field values as they came.
    """
    found: list[Challenge] = []
    for value in values:
        _read(value, found)
        if len(found) >= _LIMIT:
            break
    return found


def _read(text: str, found: list[Challenge]) -> None:
    parameters: dict[str, str] | None = None
    position = 0
    for _ in range(_WORDS):
        start = _end(_NOISE, text, position)
        position = _end(_TOKEN, text, start)
        word = text[start:position].lower()
        if not word or len(found) >= _LIMIT:
            return
        ahead = _end(_SPACE, text, position)
        if text[ahead : ahead + 1] == "=":
            value, position = _value(text, _end(_SPACE, text, ahead + 1))
            if parameters is not None:
                parameters.setdefault(word, value)
        elif ahead > position or text[position : position + 1] in ("", ","):
            parameters = {}
            found.append(Challenge(word, parameters))
            position = _end(_TOKEN68, text, position)


def _value(text: str, position: int) -> tuple[str, int]:
    quoted = _QUOTED.match(text, position)
    if quoted is None:
        end = _end(_UNQUOTED, text, position)
        return text[position:end], end
    # Without a closing quote the rest of the field is the value, but for a backslash that escapes nothing.
    end = quoted.end() + 1 if text[quoted.end() : quoted.end() + 1] == '"' else len(text)
    return _PAIR.sub(r"\1", quoted[1]), end


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return position if match is None else match.end()
