"""What becomes of a configuration on a new base: what came from the old base comes from the new one, the rest stays.

A field came from the old base if it is as it is there. Where both the image and the new base have changed one, the
image's word counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["BY_KEY", "rebased"]

# When and where the image was built, and what follows from its layers.
_OWN: Final = frozenset({"created", "rootfs", "history", "config", "container", "container_config", "docker_version"})
# What is a set of keys, or has a meaning by key.
BY_KEY: Final = ("Labels", "ExposedPorts", "Volumes")
_ABSENT: Final = object()


def rebased(ours: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration on a new base; ``rootfs`` and ``history`` stay as they are.

    Labels, ports, volumes and variables are compared one by one. A command belongs to its entrypoint: whoever has set
    an entrypoint of their own keeps their command, too.

    Args:
        ours: The image's.
        old: Of the base it stands on.
        new: Of the base it shall stand on.
    """
    merged = _merged(ours, old, new, keep=_OWN)
    config = _config(_dict(ours, "config"), _dict(old, "config"), _dict(new, "config"))
    if config or "config" in ours:
        merged["config"] = config
    return merged


def _config(ours: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    keep: frozenset[str] = frozenset({"Cmd"} if ours.get("Entrypoint") != old.get("Entrypoint") else ())
    merged = _merged(ours, old, new, keep=keep | {"Env", *BY_KEY})
    for key in BY_KEY:
        _put(merged, key, _merged(_dict(ours, key), _dict(old, key), _dict(new, key)))
    mine, base, other = (_variables(config) for config in (ours, old, new))
    variables = _merged(mine, base, other)
    names = [*(name for name in other if name in variables), *(name for name in mine if name not in other)]
    _put(merged, "Env", [variables[name] for name in names if name in variables])
    return merged


def _merged(
    ours: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any], *, keep: frozenset[str] = frozenset()
) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for key in (*ours, *(key for key in new if key not in ours)):
        mine = ours.get(key, _ABSENT)
        value = new.get(key, _ABSENT) if key not in keep and mine == old.get(key, _ABSENT) else mine
        if value is not _ABSENT:
            merged[key] = value
    return merged


def _put(mapping: dict[str, Any], key: str, value: object) -> None:
    if value:
        mapping[key] = value
    else:
        mapping.pop(key, None)


def _dict(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = mapping.get(key)
    return value if isinstance(value, dict) else {}


def _variables(config: Mapping[str, Any]) -> dict[str, str]:
    return {item.partition("=")[0]: item for item in config.get("Env") or []}
