"""``Link`` headers (RFC 8288, section 3), read strictly: a list must not end early because one was misread (R-091)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from registry_core.errors import ProtocolError

__all__ = ["Link", "next_target", "parse_links"]

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
