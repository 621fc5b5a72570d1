"""Patterns of files to leave out of a layer, as in ``.gitignore`` (extra ``ociport[build]``)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from registry_core.errors import ConfigError, InvalidValue

__all__ = ["NO_PATTERNS", "PathFilter", "path_filter"]

# The library reads these otherwise than git: a backslash or a class in brackets, and two asterisks at the end of a
# pattern of directories.
_UNSUPPORTED: Final = re.compile(r"(?<!\\)\[[!^]?\]?[^]]*?(?:\\|\[:\w+:\])|[^/]/\*\*/\s*$")


class PathFilter(msgspec.Struct, frozen=True):
    """A selection of the paths to leave out.

    Args:
        excludes: Function that returns whether a path is left out. Its argument is a clean relative path, with a slash
            at the end for a directory.
        prunes: Whether all paths below a directory that is left out are left out too.
    """

    excludes: Callable[[str], bool]
    prunes: bool


NO_PATTERNS: Final = PathFilter(lambda path: False, prunes=True)


def path_filter(patterns: Iterable[str]) -> PathFilter:
    """Select paths by patterns.

    ``pathspec.GitIgnoreSpec`` judges the paths. Unlike git, its versions up to 1.1 include a file again that is below a
    directory that is left out: after ``src``, ``!src/keep`` keeps the file.

    Args:
        patterns: Patterns, such as the lines of a file; one that begins with ``!`` includes a path again.

    Returns:
        The selection.

    Raises:
        InvalidValue: A pattern is malformed, or the patterns are not a list of strings.
        ConfigError: The extra is not installed.
    """
    lines = _lines(patterns)
    if not lines:
        return NO_PATTERNS
    try:
        from pathspec import GitIgnoreSpec
    except ImportError as error:
        raise ConfigError(f"exclude needs an extra: pip install 'ociport[build]' ({error})") from error
    for line in lines:
        if _UNSUPPORTED.search(line):
            raise InvalidValue(
                f"exclude: unsupported pattern: {line!r:.200} has a backslash or a class in brackets, or ends with /**/"
            )
        try:
            (pattern,) = GitIgnoreSpec.from_lines([line]).patterns
        except (ValueError, re.error) as error:
            raise InvalidValue(f"exclude: malformed pattern: {line!r:.200}: {error}") from None
        if pattern.include is None:
            raise InvalidValue(f"exclude: malformed pattern, which matches nothing: {line!r:.200}")
    spec = GitIgnoreSpec.from_lines(lines)
    later = {
        index: GitIgnoreSpec.from_lines(lines[index + 1 :]) for index, line in enumerate(lines) if line.startswith("!")
    }

    def excludes(path: str) -> bool:
        found = spec.check_file(path)
        # Versions up to 1.1 let "!a" win over a later pattern of a directory that contains it.
        return found.include or (found.index in later and bool(later[found.index].match_file(path)))

    # A set in brackets, such as "[!a]", may match the slash at the end of a directory, and nothing below it.
    return PathFilter(excludes, prunes=not later and not any("[" in line for line in lines))


def _lines(patterns: object) -> list[str]:
    """The patterns without line ends, empty lines and comments."""
    given = list(patterns) if isinstance(patterns, Iterable) and not isinstance(patterns, str) else [None]
    lines = [line.rstrip("\r\n") for line in given if isinstance(line, str)]
    if len(lines) < len(given):
        raise InvalidValue(f"exclude must be a list of patterns, not {patterns!r:.100}")
    return [line for line in lines if line.strip() and not line.startswith("#")]
