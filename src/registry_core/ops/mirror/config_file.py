"""TOML files that declare mirrors, without credentials and without code."""

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
from registry_core.ops.transfer.options import CopyOptions

__all__ = ["MirrorEntry", "MirrorFile", "read_mirror_file"]

_LIMIT: Final = 1 << 20
_Value = TypeVar("_Value")


class MirrorEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One ``[[mirror]]`` of a file: a rule with URLs in place of open backends.

    Args:
        source: URL for ``open_client``, with the path that repository names are relative to.
        target: URL for ``open_client``, with the path that repository names are relative to.
        repositories: Repository names and patterns; see ``MirrorRule``.
        tags: Tags to mirror; see ``MirrorRule``.
        options: Parts of each image to copy; see ``MirrorRule``.
        prune: Whether to remove tags from the target; see ``MirrorRule``.
        allow_empty: Whether patterns may match nothing; see ``MirrorRule``.
    """

    source: str
    target: str
    repositories: tuple[str, ...]
    tags: TagSelection
    options: CopyOptions
    prune: bool
    allow_empty: bool


class MirrorFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a file.

    Args:
        mirrors: The mirrors.
        backends: Settings for ``open_client``, by the URL of the registry without a path.
        jobs: Greatest number of blobs copied at a time.
        images: Greatest number of images in progress at a time.
        continue_on_error: Whether an error only fails the nodes that need the failed one.
    """

    mirrors: tuple[MirrorEntry, ...]
    backends: dict[str, dict[str, Any]]
    jobs: int
    images: int
    continue_on_error: bool


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A table in which unknown keys are errors."""


class _Patterns(_Strict, kw_only=True):
    names: tuple[str, ...] = ()
    glob: tuple[str, ...] = ()
    regex: tuple[str, ...] = ()
    semver: str = ""

    def patterns(self) -> TagPatterns:
        return TagPatterns(names=self.names, globs=self.glob, regexes=self.regex, semver=self.semver)


class _Tags(_Patterns, kw_only=True):
    exclude: _Patterns = msgspec.field(default_factory=_Patterns)
    latest: int | None = None

    def selection(self) -> TagSelection:
        return TagSelection(include=self.patterns(), exclude=self.exclude.patterns(), latest=self.latest)


class _Options(_Strict, kw_only=True):
    platforms: tuple[str, ...] | None = None
    index: Literal["sparse", "rewritten"] | None = None
    attestations: bool | None = None
    referrers: bool | None = None
    digest_tags: bool | None = None
    foreign_layers: bool | None = None
    overwrite: bool | None = None
    repair: bool | None = None
    prune: bool | None = None
    allow_empty: bool | None = None


class _Mirror(_Options, kw_only=True):
    source: str
    target: str
    repositories: tuple[str, ...] = ()
    tags: tuple[str, ...] | _Tags | None = None


class _File(_Strict, kw_only=True):
    mirror: tuple[_Mirror, ...]
    defaults: _Options = msgspec.field(default_factory=_Options)
    backends: dict[str, dict[str, Any]] = {}
    jobs: int = 4
    images: int = 4
    continue_on_error: bool = False


def read_mirror_file(path: str | os.PathLike[str]) -> MirrorFile:
    """Read a file, and check every field.

    Args:
        path: Path of the file.

    Raises:
        InvalidDocument: The file is not TOML, a field is unknown, missing or malformed, or a URL contains a password.
            ``path`` names the field, as ``$.mirror[1].tags.semver``.
        OSError: The file cannot be read.
    """
    with error_context("read_mirror_file", os.fspath(path)):
        with Path(path).open("rb") as stream:
            content = stream.read(_LIMIT + 1)
        return _read(_parse(content))


def _parse(content: bytes) -> dict[str, Any]:
    if len(content) > _LIMIT:
        raise InvalidDocument(f"the file is larger than {_LIMIT} bytes")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InvalidDocument(f"not TOML: {error}"[:300]) from None


def _read(document: dict[str, Any]) -> MirrorFile:
    try:
        file = msgspec.convert(document, _File)
    except (msgspec.ValidationError, RecursionError) as error:
        message, separator, path = str(error).rpartition(" - at `")
        raise InvalidDocument((message or path)[:300], path=path.rstrip("`") if separator else "") from None
    if not file.mirror:
        raise InvalidDocument("no mirror is declared", path="$.mirror")
    for name in ("jobs", "images"):
        if getattr(file, name) < 1:
            raise InvalidDocument("must be at least 1", path=f"$.{name}")
    for url in file.backends:
        _check_url(url, f"$.backends.{redact_url(url)}")
    mirrors = tuple(_entry(mirror, file.defaults, f"$.mirror[{number}]") for number, mirror in enumerate(file.mirror))
    return MirrorFile(
        mirrors=mirrors,
        backends=file.backends,
        jobs=file.jobs,
        images=file.images,
        continue_on_error=file.continue_on_error,
    )


def _entry(mirror: _Mirror, defaults: _Options, path: str) -> MirrorEntry:
    _check_url(mirror.source, f"{path}.source")
    _check_url(mirror.target, f"{path}.target")
    for number, name in enumerate(mirror.repositories):
        if not has_wildcard(name):
            _call(partial(RepositoryName, name), f"{path}.repositories[{number}]")
    for number, text in enumerate(mirror.platforms or ()):
        _call(partial(Platform.parse, text), f"{path}.platforms[{number}]")

    def option(name: str) -> Any:
        value = getattr(mirror, name)
        return getattr(defaults, name) if value is None else value

    options = _call(
        lambda: CopyOptions(
            platforms=option("platforms") or (),
            index_mode=option("index"),
            attestations=option("attestations") is not False,
            referrers=bool(option("referrers")),
            digest_tags=bool(option("digest_tags")),
            foreign_layers=bool(option("foreign_layers")),
            overwrite=option("overwrite") is not False,
            repair=bool(option("repair")),
        ),
        f"{path}.platforms",
    )
    return MirrorEntry(
        source=mirror.source,
        target=mirror.target,
        repositories=mirror.repositories,
        tags=_selection(mirror.tags, f"{path}.tags"),
        options=options,
        prune=bool(option("prune")),
        allow_empty=bool(option("allow_empty")),
    )


def _selection(tags: tuple[str, ...] | _Tags | None, path: str) -> TagSelection:
    if tags is None:
        return TagSelection()
    if not isinstance(tags, _Tags):
        # A list in place of a table has names, and shell patterns, which contain a wildcard.
        globs = tuple(tag for tag in tags if has_wildcard(tag))
        names = tuple(tag for tag in tags if not has_wildcard(tag))
        return TagSelection(include=_call(lambda: TagPatterns(names=names, globs=globs), path))
    _call(lambda: TagSelection(exclude=TagPatterns(names=tags.exclude.names)), f"{path}.exclude.names")
    for table, patterns in (("", tags), (".exclude", tags.exclude)):
        _call(partial(TagPatterns, names=patterns.names), f"{path}{table}.names")
        _call(partial(TagPatterns, regexes=patterns.regex), f"{path}{table}.regex")
        _call(partial(TagPatterns, semver=patterns.semver), f"{path}{table}.semver")
    return _call(tags.selection, f"{path}.latest")


def _check_url(url: str, path: str) -> None:
    rest = url.partition("://")[2] or url
    if "@" in rest.partition("/")[0]:
        raise InvalidDocument("the URL contains credentials; put them into a keychain", path=path)


def _call(make: Callable[[], _Value], path: str) -> _Value:
    """Return the result of a call; its errors become errors of a field."""
    try:
        return make()
    except InvalidValue as error:
        raise InvalidDocument(error.message, path=path) from None
