"""Parsers for ``Link`` (RFC 8288, section 3) and ``WWW-Authenticate`` (RFC 9110, section 11.6.1).

A misread ``Link`` would end a list early, so a malformed one is an error. ``WWW-Authenticate`` is parsed leniently,
because registries send malformed challenges. Both parsers take linear time on hostile input.
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

_SEPARATORS: Final = re.compile(r"[ \t,]*")

_PARAMETER: Final = re.compile(
    r"""[ \t]*;[ \t]*(?:
        (?P<name>[^\s=;,"<>]+)
        (?:[ \t]*=[ \t]*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s;,"<>]*)))?
    )?""",
    re.VERBOSE | re.DOTALL,
)


# Some registries put ``rel`` inside of the brackets. A URL has neither white space nor quotes.
_INNER_RELATION: Final = re.compile(r";[ \t]*rel[ \t]*=[ \t]*(?P<quote>[\"']?)(?P<value>[^\"']*)(?P=quote)", re.I)

# A registered relation type, or a URI (RFC 8288, section 2.1).
_RELATION: Final = re.compile(r"[a-z][a-z0-9.-]*|[a-z][a-z0-9+.-]*:[^\"'<>]+")


class Link(msgspec.Struct, frozen=True):
    """One link of a ``Link`` header.

    Args:
        target: URL reference, not resolved.
        relations: Relation types in lower case; empty if the link has none, although RFC 8288 requires one.
    """

    target: str
    relations: frozenset[str]


def parse_links(field: str) -> Iterator[Link]:
    """Iterate over the links of one header field.

    Raises:
        ProtocolError: The field is malformed, or a relation is neither a registered type nor a URI.
    """
    position = _end(_SEPARATORS, field, 0)
    while position < len(field):
        brackets = _TARGET.match(field, position)
        if brackets is None:
            raise _malformed(field)
        position = brackets.end()
        relations: str | None = None
        while parameter := _PARAMETER.match(field, position):
            position = parameter.end()
            # RFC 8288, section 3.3: the first ``rel`` counts.
            if (parameter["name"] or "").lower() == "rel" and relations is None:
                quoted = parameter["quoted"]
                relations = (parameter["bare"] or "").strip("'") if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        target = brackets[1].strip()
        if relations is None and (inner := _INNER_RELATION.search(target)) is not None:
            if inner.end() != len(target):
                raise _malformed(field)
            target, relations = target[: inner.start()].rstrip(), inner["value"]
        types = frozenset((relations or "").lower().split())
        if not all(map(_RELATION.fullmatch, types)):
            raise _malformed(field)
        yield Link(target, types)
        position = _end(_SPACE, field, position)
        if position < len(field) and field[position] != ",":
            raise _malformed(field)
        position = _end(_SEPARATORS, field, position)


def next_target(fields: Iterable[str]) -> str | None:
    """Return the URL reference of the next page from ``Link`` fields, or ``None`` if there is no next page.

    Where no link is called ``next``, a link without a relation is the next page: some registries leave ``rel`` out.

    Raises:
        ProtocolError: A field is malformed, or the fields name two different next pages.
    """
    links = [link for field in fields for link in parse_links(field)]
    targets = {link.target for link in links if "next" in link.relations} or {
        link.target for link in links if not link.relations
    }
    if len(targets) > 1:
        raise ProtocolError("the Link headers name two different next pages")
    return targets.pop() if targets else None


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return position if match is None else match.end()


def _malformed(field: str) -> ProtocolError:
    return ProtocolError(f"malformed Link header: {field!r:.200}")


_MAX_CHALLENGES: Final = 32

_MAX_WORDS: Final = 1024

# Text between two tokens: commas, spaces, and any malformed text.
_NOISE = re.compile(r"""(?:[^!#$%&'*+.^_`|~0-9A-Za-z"-]++|"(?:[^"\\]|\\.)*+(?:"|\\?\Z))*+""", re.DOTALL)

_WHITESPACE = re.compile(r"[ \t\r\n]*+")

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]++")

_TOKEN68 = re.compile(r"[ \t]++[A-Za-z0-9._~+/-]++=*+[ \t]*+(?=,|\Z)")

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)', re.DOTALL)

# Some registries send the realm without quotes, although a URL is not a token.
_UNQUOTED = re.compile(r'[^ \t\r\n,"]*+')

_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


def challenges(values: Iterable[str]) -> list[Challenge]:
    """Return the challenges of ``WWW-Authenticate`` fields, in order.

    Scheme and parameter names are in lower case. A challenge with a token68 instead of parameters has no parameters.
    Malformed text, and text beyond the limits on challenges and words, is ignored; nothing is raised.

    Args:
        values: Field values.
    """
    found: list[Challenge] = []
    for value in values:
        _parse_challenges(value, found)
        if len(found) >= _MAX_CHALLENGES:
            break
    return found


def _parse_challenges(text: str, found: list[Challenge]) -> None:
    parameters: dict[str, str] | None = None
    position = 0
    for _ in range(_MAX_WORDS):
        start = _end(_NOISE, text, position)
        position = _end(_TOKEN, text, start)
        word = text[start:position].lower()
        if not word or len(found) >= _MAX_CHALLENGES:
            return
        after_space = _end(_WHITESPACE, text, position)
        if text[after_space : after_space + 1] == "=":
            value, position = _parse_value(text, _end(_WHITESPACE, text, after_space + 1))
            if parameters is not None:
                parameters.setdefault(word, value)
        elif after_space > position or text[position : position + 1] in ("", ","):
            parameters = {}
            found.append(Challenge(word, parameters))
            position = _end(_TOKEN68, text, position)


def _parse_value(text: str, position: int) -> tuple[str, int]:
    quoted = _QUOTED.match(text, position)
    if quoted is None:
        end = _end(_UNQUOTED, text, position)
        return text[position:end], end
    # Without a closing quote, the rest of the field is the value, except a trailing backslash.
    end = quoted.end() + 1 if text[quoted.end() : quoted.end() + 1] == '"' else len(text)
    return _QUOTED_PAIR.sub(r"\1", quoted[1]), end
