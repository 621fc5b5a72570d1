"""Mirrors as a small TOML file: what is to be kept alike, without credentials and without code."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import redact_url
from registry_core.domain.platform import Platform
from registry_core.errors import InvalidDocument, InvalidValue, error_context
from registry_core.ops.mirror.selection import TagPatterns, TagSelection, has_wildcard
from registry_core.ops.transfer.options import CopyOptions, IndexMode

__all__ = ["MirrorEntry", "MirrorFile", "read_mirror_file"]

_LIMIT: Final = 1 << 20
_Value = TypeVar("_Value")


class MirrorEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One ``[[mirror]]`` of a file: a rule whose backends are still URLs.

    Args:
        source: A URL as ``open_client`` takes it, with the path that names are relative to.
        target: Likewise.
        repositories: As of ``MirrorRule``.
        tags: As of ``MirrorRule``.
        options: As of ``MirrorRule``.
        prune: As of ``MirrorRule``.
    """

    source: str
    target: str
    repositories: tuple[str, ...]
    tags: TagSelection
    options: CopyOptions
    prune: bool


class MirrorFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of mirrors.

    Args:
        mirrors: What is to be kept alike.
        backends: For each URL of a registry without its path, the settings that ``open_client`` is given.
        jobs: How many blobs move at a time.
        images: How many images are under way at a time.
        continue_on_error: Whether an error ends only what needs the node.
    """

    mirrors: tuple[MirrorEntry, ...]
    backends: dict[str, dict[str, Any]]
    jobs: int
    images: int
    continue_on_error: bool


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A table that has no other keys."""


class _Patterns(_Strict, kw_only=True):
    names: tuple[str, ...] = ()
    glob: tuple[str, ...] = ()
    regex: tuple[str, ...] = ()
    semver: str = ""

    def value(self) -> TagPatterns:
        return TagPatterns(names=self.names, globs=self.glob, regexes=self.regex, semver=self.semver)


class _Tags(_Patterns, kw_only=True):
    exclude: _Patterns = msgspec.field(default_factory=_Patterns)
    latest: int | None = None

    def selection(self) -> TagSelection:
        return TagSelection(include=self.value(), exclude=self.exclude.value(), latest=self.latest)


class _Choices(_Strict, kw_only=True):
    platforms: tuple[str, ...] | None = None
    index: Literal["sparse", "rewritten"] | None = None
    referrers: bool | None = None
    digest_tags: bool | None = None
    foreign_layers: bool | None = None
    overwrite: bool | None = None
    repair: bool | None = None
    prune: bool | None = None


class _Mirror(_Choices, kw_only=True):
    source: str
    target: str
    repositories: tuple[str, ...] = ()
    tags: tuple[str, ...] | _Tags | None = None


class _File(_Strict, kw_only=True):
    mirror: tuple[_Mirror, ...]
    defaults: _Choices = msgspec.field(default_factory=_Choices)
    backends: dict[str, dict[str, Any]] = {}
    jobs: int = 4
    images: int = 4
    continue_on_error: bool = False


def read_mirror_file(path: str | os.PathLike[str]) -> MirrorFile:
    """What a file says, checked to the last field.

    Args:
        path: The file.

    Raises:
        InvalidDocument: It is no TOML, or a field is unknown, missing or wrong; ``path`` says which, as
            ``$.mirror[1].tags.semver``. It holds a password, which belongs into a keychain.
        OSError: It cannot be read.
    """
    with error_context("read_mirror_file", os.fspath(path)):
        with Path(path).open("rb") as stream:
            content = stream.read(_LIMIT + 1)
        if len(content) > _LIMIT:
            raise InvalidDocument(f"larger than {_LIMIT} bytes")
        try:
            document = tomllib.loads(content.decode("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise InvalidDocument(f"not TOML: {error}"[:300]) from None
        return _read(document)


def _read(document: dict[str, Any]) -> MirrorFile:
    try:
        found = msgspec.convert(document, _File)
    except (msgspec.ValidationError, RecursionError) as error:
        message, named, where = str(error).rpartition(" - at `")
        raise InvalidDocument((message if named else where)[:300], path=where.rstrip("`") if named else "") from None
    if not found.mirror:
        raise InvalidDocument("nothing to mirror", path="$.mirror")
    for name in ("jobs", "images"):
        if getattr(found, name) < 1:
            raise InvalidDocument("not a positive number", path=f"$.{name}")
    for url in found.backends:
        _check_url(url, f"$.backends.{redact_url(url)}")
    mirrors = tuple(_entry(mirror, found.defaults, f"$.mirror[{number}]") for number, mirror in enumerate(found.mirror))
    return MirrorFile(
        mirrors=mirrors,
        backends=found.backends,
        jobs=found.jobs,
        images=found.images,
        continue_on_error=found.continue_on_error,
    )


def _entry(mirror: _Mirror, defaults: _Choices, at: str) -> MirrorEntry:
    _check_url(mirror.source, f"{at}.source")
    _check_url(mirror.target, f"{at}.target")
    for number, name in enumerate(mirror.repositories):
        if not has_wildcard(name):
            _checked(partial(RepositoryName, name), f"{at}.repositories[{number}]")
    for number, text in enumerate(mirror.platforms or ()):
        _checked(partial(Platform.parse, text), f"{at}.platforms[{number}]")

    def choice(name: str) -> Any:
        own = getattr(mirror, name)
        return getattr(defaults, name) if own is None else own

    form = choice("index")
    options = _checked(
        lambda: CopyOptions(
            platforms=tuple(choice("platforms") or ()),
            index_mode=None if form is None else IndexMode(form),
            referrers=bool(choice("referrers")),
            digest_tags=bool(choice("digest_tags")),
            foreign_layers=bool(choice("foreign_layers")),
            overwrite=choice("overwrite") is not False,
            repair=bool(choice("repair")),
        ),
        f"{at}.platforms",
    )
    return MirrorEntry(
        source=mirror.source,
        target=mirror.target,
        repositories=mirror.repositories,
        tags=_selection(mirror.tags, f"{at}.tags"),
        options=options,
        prune=bool(choice("prune")),
    )


def _selection(tags: tuple[str, ...] | _Tags | None, at: str) -> TagSelection:
    if tags is None:
        return TagSelection()
    if not isinstance(tags, _Tags):
        # A list alone: names, and shell patterns where there is a wildcard.
        globs = tuple(tag for tag in tags if has_wildcard(tag))
        names = tuple(tag for tag in tags if not has_wildcard(tag))
        return TagSelection(include=_checked(lambda: TagPatterns(names=names, globs=globs), at))
    for place, patterns in (("", tags), (".exclude", tags.exclude)):
        _checked(partial(TagPatterns, names=patterns.names), f"{at}{place}.names")
        _checked(partial(TagPatterns, regexes=patterns.regex), f"{at}{place}.regex")
        _checked(partial(TagPatterns, semver=patterns.semver), f"{at}{place}.semver")
    return _checked(tags.selection, f"{at}.latest")


def _check_url(url: str, at: str) -> None:
    rest = url.partition("://")[2] or url
    if "@" in rest.partition("/")[0]:
        raise InvalidDocument("a URL with a user or password: those belong into a keychain", path=at)


def _checked(make: Callable[[], _Value], at: str) -> _Value:
    try:
        return make()
    except InvalidValue as error:
        raise InvalidDocument(error.message, path=at) from None
