"""Which scopes a token is asked for: the operation's, and of a challenge only what is no step up (R-037).

============================  ==================================================================
The operation names           What a challenge may add to it
============================  ==================================================================
nothing                       reading: ``pull`` of any repository, and the catalog
``pull`` of a repository      reading of the same repository
``push``                      the same
``delete``                    the same, and ``push``: Quay holds that who deletes must push
============================  ==================================================================
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from registry_core.domain.access import Scope
from registry_core.domain.names import RepositoryName
from registry_core.errors import InvalidName

__all__ = ["joined", "offered", "own", "repository", "widened"]

_LIMIT: Final = 16
# Azure has a right of its own to read what is said about content.
_READING: Final = frozenset({"pull", "metadata_read"})


def joined(scopes: Collection[Scope]) -> tuple[Scope, ...]:
    """Each repository once, with all of its actions, in a steady order."""
    actions: dict[tuple[str, str], set[str]] = {}
    for one in scopes:
        actions.setdefault((one.kind, one.name), set()).update(one.actions)
    return tuple(Scope(kind, name, tuple(sorted(some))) for (kind, name), some in sorted(actions.items()))


def own(scopes: Collection[Scope]) -> tuple[Scope, ...]:
    """What is asked of the repository that comes first: the operation's own, not one that it only reads beside."""
    first = next(iter(scopes), None)
    return joined([one for one in scopes if first is not None and (one.kind, one.name) == (first.kind, first.name)])


def repository(scopes: Collection[Scope]) -> RepositoryName | None:
    """The repository that an operation is about; ``None`` where it is about the registry."""
    for one in scopes:
        if one.kind == "repository":
            try:
                return RepositoryName(one.name)
            except InvalidName:
                return None
    return None


def offered(text: str) -> tuple[Scope, ...]:
    """What a challenge proposes where the operation named nothing: reading only, whatever it says."""
    found = []
    for kind, name, actions in _read(text):
        if kind == "repository" and "pull" in actions:
            found.append(Scope(kind, name, ("pull",)))
        elif (kind, name, actions) == ("registry", "catalog", ("*",)):
            found.append(Scope.catalog())
    return joined(found)


def widened(wanted: Collection[Scope], text: str) -> tuple[Scope, ...]:
    """The operation's scopes, and what a challenge may add to them."""
    named = {(one.kind, one.name): one.actions for one in wanted if one.kind == "repository"}
    added = []
    for kind, name, actions in _read(text):
        mine = named.get((kind, name))
        if mine is not None:
            welcome = _READING | {"push"} if "delete" in mine else _READING
            added.append(Scope(kind, name, tuple(welcome.intersection(actions))))
    return joined([*wanted, *added])


def _read(text: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """Kind, name and actions of each word; a name may have a port in it."""
    found = []
    for word in text.split(None, _LIMIT)[:_LIMIT]:
        kind, _, rest = word.partition(":")
        name, _, actions = rest.rpartition(":")
        if name:
            found.append((kind, name, tuple(actions.split(",", _LIMIT)[:_LIMIT])))
    return found
