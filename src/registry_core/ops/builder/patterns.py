"""Patterns of files to leave out of a layer, as in ``.gitignore`` (gitignore(5), "PATTERN FORMAT")."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from registry_core.errors import InvalidValue

__all__ = ["path_filter"]

# Spaces at the end are ignored, unless a backslash precedes them.
_END: Final = re.compile(r"((?:[^\\]|\\.)*?) *", re.DOTALL)

# Two asterisks are special only as a whole part of a path.
_PART: Final = re.compile(
    r"(?P<any_parents>(?:^|(?<=/))\*\*+/)|(?P<all_below>(?:^|(?<=/))\*\*+$)|(?P<any>\*+)|(?P<one>\?)"
    r"|\[(?P<not>[!^]?)(?P<class>\]?(?:\[:\w+:\]|[^\]\\]|\\.)*)\]|\\(?P<escaped>.)|(?P<literal>[^\[\\])",
    re.DOTALL,
)

_CLASS_ITEM: Final = re.compile(r"\[:(?P<name>\w+):\]|(?P<first>\\.|[^\\])(?:-(?P<last>\\.|[^\\]))?", re.DOTALL)

_CLASSES: Final = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t-\r ",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}


class _Pattern(msgspec.Struct, frozen=True):
    """A parsed pattern.

    Args:
        expression: Regular expression of whole paths.
        excludes: Whether matching paths are left out; otherwise they are included again.
        directories_only: Whether only directories match.
    """

    expression: re.Pattern[str]
    excludes: bool
    directories_only: bool


def path_filter(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Make a function that returns whether a path is left out.

    The last pattern that matches the path decides. Do not pass paths below a directory that is left out.

    Args:
        patterns: Patterns, such as the lines of a file; one that begins with ``!`` includes a path again.

    Returns:
        The function. Its argument is a clean relative path, with a slash at the end for a directory.

    Raises:
        InvalidValue: A pattern is malformed, or the patterns are not a list of strings.
    """
    lines = tuple(patterns) if isinstance(patterns, Iterable) and not isinstance(patterns, str) else (patterns, None)
    if not all(isinstance(line, str) for line in lines):
        raise InvalidValue(f"exclude must be a list of patterns, not {patterns!r:.100}")
    parsed = [pattern for line in reversed(lines) if (pattern := _parse(str(line))) is not None]

    def excludes(path: str) -> bool:
        is_directory, name = path.endswith("/"), path.rstrip("/")
        for pattern in parsed:
            if (is_directory or not pattern.directories_only) and pattern.expression.fullmatch(name):
                return pattern.excludes
        return False

    return excludes


def _parse(line: str) -> _Pattern | None:
    line = line.rstrip("\r\n")
    match = _END.fullmatch(line)
    text = line if match is None else match[1]
    if not text or text.startswith("#"):
        return None
    excludes = not text.startswith("!")
    text = text if excludes else text[1:]
    directories_only = text.endswith("/")
    text = text[:-1] if directories_only else text
    # A pattern without a slash matches in every directory.
    prefix = "" if "/" in text else "(?:.*/)?"
    text = text.removeprefix("/")
    if not text:
        raise InvalidValue(f"exclude: pattern matches nothing: {line!r:.200}")
    position, expression = 0, prefix
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            raise InvalidValue(
                f"exclude: malformed pattern: {line!r:.200} has an open bracket, or ends with a backslash"
            )
        expression += _expression(part)
        position = part.end()
    try:
        return _Pattern(re.compile(expression, re.DOTALL), excludes, directories_only)
    except re.error as error:
        raise InvalidValue(f"exclude: malformed pattern: {line!r:.200}: {error.msg}") from None


def _expression(part: re.Match[str]) -> str:
    fixed = {"any_parents": "(?:.*/)?", "all_below": ".*", "any": "[^/]*", "one": "[^/]"}
    kind = part.lastgroup or ""
    if kind == "class":
        return f"(?!/)[{'^' if part['not'] else ''}{_CLASS_ITEM.sub(_class_item, part['class'])}]"
    return fixed.get(kind) or re.escape(part[kind])


def _class_item(item: re.Match[str]) -> str:
    if item["name"] is not None:
        if item["name"] not in _CLASSES:
            raise InvalidValue(f"exclude: no class of characters has the name {item['name']!r:.50}")
        return _CLASSES[item["name"]]
    ends = [end[-1] for end in (item["first"], item["last"]) if end is not None]
    return "-".join(re.escape(end) for end in ends)
