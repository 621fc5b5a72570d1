"""``Link`` headers (RFC 8288, section 3), read strictly: a list must not end early because one was misread.

The challenges of an answer: ``WWW-Authenticate``, by RFC 9110, section 11.6.1, and by what registries write.

One pass from left to right, never backwards further than one word: what is hostile costs no more than what is long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from registry_core.domain.auth import Challenge
from registry_core.errors import ProtocolError

__all__ = ["Link", "challenges", "next_target", "parse_links"]


_TARGET: Final = re.compile(r"<([^<>]*)>")

_SPACE: Final = re.compile(r"[ \t]*")

_BETWEEN: Final = re.compile(r"[ \t,]*")

_PARAMETER: Final = re.compile(
    r"""[ \t]*;[ \t]*(?:
        (?P<name>[^\s=;,"<>]+)
        (?:[ \t]*=[ \t]*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s;,"<>]*)))?
    )?""",
    re.VERBOSE | re.DOTALL,
)


class Link(msgspec.Struct, frozen=True):
    """One link.

    Args:
        target: As it stands, unresolved.
        relations: In lower case.
    """

    target: str
    relations: frozenset[str]


def parse_links(field: str) -> Iterator[Link]:
    """The links of one header field.

    Raises:
        ProtocolError: It is malformed.
    """
    position = _end(_BETWEEN, field, 0)
    while position < len(field):
        target = _TARGET.match(field, position)
        if target is None:
            raise _malformed(field)
        position = target.end()
        relations: str | None = None
        while parameter := _PARAMETER.match(field, position):
            position = parameter.end()
            # The first rel counts (section 3.3).
            if (parameter["name"] or "").lower() == "rel" and relations is None:
                quoted = parameter["quoted"]
                relations = (parameter["bare"] or "") if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        yield Link(target[1].strip(), frozenset((relations or "").lower().split()))
        position = _end(_SPACE, field, position)
        if position < len(field) and field[position] != ",":
            raise _malformed(field)
        position = _end(_BETWEEN, field, position)


def next_target(fields: Iterable[str]) -> str | None:
    """Where the next page is, as it stands in an answer's ``Link`` fields, or ``None`` on the last one.

    Raises:
        ProtocolError: A field is malformed, or there are two different next pages.
    """
    targets = {link.target for field in fields for link in parse_links(field) if "next" in link.relations}
    if len(targets) > 1:
        raise ProtocolError("the registry named two next pages")
    return targets.pop() if targets else None


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return position if match is None else match.end()


def _malformed(field: str) -> ProtocolError:
    return ProtocolError(f"a Link header that cannot be read: {field!r:.200}")


_LIMIT: Final = 32

_WORDS: Final = 1024

# Between two words anything may stand: commas and spaces as they should, and what makes no sense.
_NOISE = re.compile(r"""(?:[^!#$%&'*+.^_`|~0-9A-Za-z"-]++|"(?:[^"\\]|\\.)*+(?:"|\\?\Z))*+""", re.DOTALL)

_WHITESPACE = re.compile(r"[ \t\r\n]*+")

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
        ahead = _end(_WHITESPACE, text, position)
        if text[ahead : ahead + 1] == "=":
            value, position = _value(text, _end(_WHITESPACE, text, ahead + 1))
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
