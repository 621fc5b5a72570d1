"""The short image names that people type at a Docker prompt, spelled out. Strictly opt-in: nothing else guesses."""

from __future__ import annotations

import re
from typing import Final

from registry_core.domain.names import Tag
from registry_core.domain.reference import Reference, is_host
from registry_core.errors import InvalidReference

__all__ = ["familiar"]

_HUB: Final = "docker.io"
_ALIASES: Final = frozenset({"docker.io", "index.docker.io"})
_OFFICIAL: Final = "library"
_LONGEST: Final = 255
_IDENTIFIER: Final = re.compile(r"[a-f0-9]{64}")


def familiar(text: str) -> Reference:
    """The full reference behind a familiar name: ``debian`` is ``docker.io/library/debian:latest``.

    The first part is a host if it has a dot, a colon or a capital letter, or is ``localhost``; else the name is one
    of Docker Hub's. A name with neither tag nor digest means ``latest``.

    Raises:
        InvalidReference: It is no such name, is too long, or looks like an image identifier.
    """
    if not isinstance(text, str) or _IDENTIFIER.fullmatch(text):
        raise InvalidReference(f"not an image name: {text!r:.300}")
    first, slash, rest = text.partition("/")
    host, path = (first, rest) if slash and is_host(first.partition("@")[0]) else (_HUB, text)
    if host in _ALIASES:
        host = _HUB
        path = path if "/" in path.partition("@")[0] else f"{_OFFICIAL}/{path}"
    reference = Reference.parse(f"{host}/{path}")
    if len(f"{reference.registry}/{reference.repository}") > _LONGEST:
        raise InvalidReference(f"longer than {_LONGEST} characters: {text!r:.300}")
    if reference.tag is None and reference.digest is None:
        return Reference(reference.registry, reference.repository, Tag("latest"))
    return reference
