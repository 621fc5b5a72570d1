"""An image's configuration in the making: its decoded JSON, so that fields nobody knew survive.

Moments as image documents write them.

What becomes of a configuration on a new base: what came from the old base comes from the new one, the rest stays.

A field came from the old base if it is as it is there. Where both the image and the new base have changed one, the
image's word counts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.image_config import ContainerConfig, ImageConfig
from registry_core.domain.platform import Platform
from registry_core.errors import InvalidDocument, InvalidValue

__all__ = [
    "BY_KEY",
    "EPOCH",
    "ConfigEditor",
    "merged",
    "ordered",
    "platform_entry",
    "rebased",
    "rfc3339",
    "unix_seconds",
]


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(moment: str | int | datetime) -> str:
    """A moment as text of RFC 3339.

    Args:
        moment: Such text, which is kept as it is; a ``datetime`` with a time zone; or whole seconds since 1970, as
            ``SOURCE_DATE_EPOCH`` has them.

    Raises:
        InvalidValue: It is none of these.
    """
    if isinstance(moment, str):
        _parsed(moment)
        return moment
    return _aware(moment).isoformat().replace("+00:00", "Z")


def unix_seconds(moment: str | int | datetime) -> int:
    """A moment in whole seconds since 1970, as tar has it.

    Raises:
        InvalidValue: It is neither RFC 3339 text, nor a ``datetime`` with a time zone, nor seconds.
    """
    return (_aware(moment) - _EPOCH) // timedelta(seconds=1)


def _aware(moment: str | int | datetime) -> datetime:
    if isinstance(moment, str):
        return _parsed(moment)
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise InvalidValue("a moment without a time zone means another one on each machine")
        return moment.astimezone(UTC)
    try:
        return _EPOCH + timedelta(seconds=moment)
    except (OverflowError, TypeError):
        raise InvalidValue(f"not seconds since 1970: {moment!r:.100}") from None


def _parsed(text: str) -> datetime:
    try:
        parsed = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        raise InvalidValue(f"not a date of RFC 3339: {text!r:.100}") from None
    if parsed.tzinfo is None:
        raise InvalidValue(f"a date without a time zone: {text!r:.100}")
    return parsed


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


EPOCH: Final = "1970-01-01T00:00:00Z"

# What the other methods keep in step with the layers.
_KEPT_IN_STEP: Final = frozenset({"rootfs", "history", "config", "created"})

_PLATFORM: Final = ("architecture", "os", "variant", "os.version", "os.features")

# What Docker has left there of the machine and the container that built the image.
_OF_THE_MACHINE: Final = ("container", "container_config", "docker_version")


class _Step(msgspec.Struct, frozen=True):
    """A step of the history that is new: its time is the image's, whatever that will be."""

    created_by: str
    empty: bool = False


class ConfigEditor:
    """A configuration that layers are added to and taken from.

    Args:
        mapping: What it begins with; copied.
        layers: How many layers that has.
        complete: Whether ``rootfs``, ``history`` and ``config`` are written even where nothing changed.

    Raises:
        InvalidDocument: It does not have a diff_id for each layer, or a history that is none.
    """

    def __init__(self, mapping: Mapping[str, Any], layers: int, *, complete: bool = False) -> None:
        self._mapping = copy.deepcopy(dict(mapping))
        rootfs = self._mapping.get("rootfs") or {}
        history = self._mapping.get("history") or []
        if not isinstance(rootfs, dict) or not isinstance(history, list):
            raise InvalidDocument("not an image configuration: rootfs and history are something else")
        self.diff_ids: list[str] = list(rootfs.get("diff_ids") or [])
        if len(self.diff_ids) != layers:
            raise InvalidDocument("the image does not have a diff_id for each layer", path="$.rootfs.diff_ids")
        if not all(isinstance(step, dict) for step in history):
            raise InvalidDocument("not a list of steps", path="$.history")
        self._steps: list[dict[str, Any] | _Step] = list(history)
        self._before = (list(self.diff_ids), list(self._steps))
        self._first = {key: tuple(self._dict(key)) for key in BY_KEY}
        self._complete = complete
        self.moment: str | None = None

    @property
    def mapping(self) -> dict[str, Any]:
        """The configuration as it is so far, without what is new of ``rootfs`` and ``history``."""
        return self._mapping

    @property
    def tells_of_each_layer(self) -> bool:
        """Whether the history has one step for each layer; one that has not tells nothing by one step more."""
        return len(self._positions()) == len(self.diff_ids)

    @property
    def platform(self) -> Platform | None:
        """What it runs on; ``None`` where it does not say."""
        mapping = self._mapping
        if not (mapping.get("os") and mapping.get("architecture")):
            return None
        return strict_json.convert({key: mapping[key] for key in _PLATFORM if key in mapping}, Platform).normalised()

    def append(self, diff_id: Digest, created_by: str) -> None:
        """Take in a new layer on top of the others."""
        if self.tells_of_each_layer:
            self._steps.append(_Step(created_by))
        self.diff_ids.append(str(diff_id))

    def replace(self, position: int, diff_id: Digest, created_by: str = "") -> None:
        """Put a new layer in the place of another; its step stays if nothing is told."""
        if created_by and self.tells_of_each_layer:
            self._steps[self._positions()[position]] = _Step(created_by)
        self.diff_ids[position] = str(diff_id)

    def remove(self, position: int) -> None:
        """Take out a layer and its step."""
        if self.tells_of_each_layer:
            del self._steps[self._positions()[position]]
        del self.diff_ids[position]

    def squash(self, diff_id: Digest, created_by: str) -> None:
        """Have one layer instead of all; the steps stay as ones without a layer."""
        steps = [
            _Step(step.created_by, empty=True) if isinstance(step, _Step) else step | {"empty_layer": True}
            for step in self._steps
        ]
        self._steps = [*steps, _Step(created_by)]
        self.diff_ids = [str(diff_id)]

    def set(self, key: str, value: object) -> None:
        """Set a field of ``config``; ``None`` and what is empty remove it.

        Raises:
            InvalidValue: It is not JSON, or not of the kind that the field has.
        """
        empty = value in (None, "", [], (), {})
        value = _json(key, None if empty else value, ContainerConfig)
        if not empty:
            self._container()[key] = value
        elif key in self._dict_config():
            self._container().pop(key)

    def set_top(self, key: str, value: object) -> None:
        """Set a field of the configuration itself; ``None`` removes it.

        Raises:
            InvalidValue: It is one that other methods keep in step with the layers, or the value is not JSON, or not of
                the kind that the field has.
        """
        if key in _KEPT_IN_STEP:
            raise InvalidValue(f"not a field to set by hand: {key!r:.100}")
        value = _json(key, value, ImageConfig)
        if value is None:
            self._mapping.pop(key, None)
        else:
            self._mapping[key] = value

    def label(self, key: str, value: str | None) -> None:
        """Set a label, or remove it.

        Raises:
            InvalidValue: Key or value is no text.
        """
        self.set("Labels", merged(self._dict("Labels"), {key: value}))

    def add_keys(self, field: str, keys: Iterable[str]) -> None:
        """Add to a field of ``config`` that is a set, as OCI has them: an object whose values are empty objects."""
        self.set(field, self._dict(field) | {key: {} for key in keys if key not in self._dict(field)})

    def env(self, name: str, value: str | None) -> None:
        """Set a variable, or remove it.

        Raises:
            InvalidValue: The name is empty or has a ``=``, or the value is no text.
        """
        if not isinstance(name, str) or not name or "=" in name:
            raise InvalidValue(f"not a variable's name: {name!r:.200}")
        if not isinstance(value, str | None):
            raise InvalidValue(f"not a variable's value: {value!r:.200}")
        variables = self._dict_config().get("Env") or []
        new = [] if value is None else [f"{name}={value}"]
        if [item for item in variables if item.partition("=")[0] == name] != new:
            self.set("Env", [*(item for item in variables if item.partition("=")[0] != name), *new])

    def set_platform(self, platform: Platform) -> None:
        """Say what it runs on."""
        if platform.normalised() != self.platform:
            for key in _PLATFORM:
                self._mapping.pop(key, None)
            self._mapping |= platform_entry(platform)

    def date(self, moment: str) -> None:
        """Give every step the same time, and remove what is left of the machine that built the image."""
        self.moment = moment
        self._steps = [step if isinstance(step, _Step) else step | {"created": moment} for step in self._steps]
        for key in _OF_THE_MACHINE:
            self._mapping.pop(key, None)
        if "Hostname" in self._dict_config():
            self.set("Hostname", None)

    def rebase(self, old: ConfigEditor, new: ConfigEditor) -> None:
        """Stand on a new base instead of an old one, whose layers are the lowest.

        The history is the new base's with our own steps behind it. Where one of the two does not tell of each layer,
        nothing sound can be told, and the result has none.

        Args:
            old: The configuration of the base so far.
            new: The configuration of the new one.
        """
        own: list[dict[str, Any] | _Step] | None = None
        if self.tells_of_each_layer and new.tells_of_each_layer:
            own = self._steps[self._above(old) :]
        self._mapping = rebased(self._mapping, old.mapping, new.mapping)
        self._steps = [] if own is None else [*new._steps, *own]
        self.diff_ids = [*new.diff_ids, *self.diff_ids[len(old.diff_ids) :]]

    def _above(self, old: ConfigEditor) -> int:
        """Where our own steps begin: behind the old base's, or behind its highest layer if it tells another story."""
        steps = old._steps
        if old.tells_of_each_layer and self._steps[: len(steps)] == steps:
            return len(steps)
        return self._positions()[len(old.diff_ids) - 1] + 1 if old.diff_ids else 0

    def document(self) -> dict[str, Any]:
        """The JSON to write."""
        document = copy.deepcopy(self._mapping)
        config = document.get("config")
        if isinstance(config, dict):
            for key, first in self._first.items():
                if isinstance(config.get(key), dict):
                    config[key] = ordered(config[key], first=first)
        elif self._complete:
            document["config"] = {}
        made = self.moment or document.get("created") or EPOCH
        diff_ids, steps = self._before
        if self.moment is not None:
            document["created"] = self.moment
        if self._complete or self.diff_ids != diff_ids:
            document["rootfs"] = dict(document.get("rootfs") or {}) | {"type": "layers", "diff_ids": self.diff_ids}
        if self._complete or self._steps != steps:
            document["history"] = [_written(step, made) for step in self._steps]
        return document

    def _positions(self) -> list[int]:
        return [
            position
            for position, step in enumerate(self._steps)
            if not (step.empty if isinstance(step, _Step) else step.get("empty_layer"))
        ]

    def _container(self) -> dict[str, Any]:
        if not isinstance(self._mapping.get("config"), dict):
            self._mapping["config"] = {}
        config: dict[str, Any] = self._mapping["config"]
        return config

    def _dict_config(self) -> Mapping[str, Any]:
        config = self._mapping.get("config")
        return config if isinstance(config, dict) else {}

    def _dict(self, key: str) -> dict[str, Any]:
        value = self._dict_config().get(key)
        return value if isinstance(value, dict) else {}


def _json(key: str, value: object, kind: type[ContainerConfig | ImageConfig]) -> Any:
    """A value as JSON has it, once it is clear that whoever reads the document will understand it."""
    if not isinstance(key, str) or not key:
        raise InvalidValue(f"not a field: {key!r:.100}")
    try:
        value = strict_json.decode_any(strict_json.encode(value))
        strict_json.convert({key: value}, kind)
    except TypeError:
        raise InvalidValue(f"not JSON for {key!r:.100}: {type(value).__name__}") from None
    except InvalidDocument as error:
        raise InvalidValue(f"nothing for {key!r:.100}: {error.message}") from None
    return value


def _written(step: dict[str, Any] | _Step, made: str) -> dict[str, Any]:
    if isinstance(step, dict):
        return step
    return {"created": made, "created_by": step.created_by} | ({"empty_layer": True} if step.empty else {})


def platform_entry(platform: Platform) -> dict[str, Any]:
    """A platform as it stands in configurations and indexes."""
    entry: dict[str, Any] = {"architecture": platform.architecture, "os": platform.os}
    if platform.variant:
        entry["variant"] = platform.variant
    if platform.os_version:
        entry["os.version"] = platform.os_version
    if platform.os_features:
        entry["os.features"] = list(platform.os_features)
    return entry


def merged(texts: Mapping[str, Any], changes: Mapping[str, str | None]) -> dict[str, Any]:
    """Labels or annotations after some changes; ``None`` removes one.

    Raises:
        InvalidValue: A key or value is no text.
    """
    for key, value in changes.items():
        if not isinstance(key, str) or not key or not isinstance(value, str | None):
            raise InvalidValue(f"labels and annotations are text by text: {key!r:.200}")
    whole = {**texts, **changes}
    return {key: value for key, value in whole.items() if value is not None or key not in changes}


def ordered(texts: Mapping[str, Any], *, first: Iterable[str]) -> dict[str, Any]:
    """The same texts, those that were there before in their old order, new ones behind them by their names."""
    known = [key for key in first if key in texts]
    return {key: texts[key] for key in [*known, *sorted(texts.keys() - set(known))]}
