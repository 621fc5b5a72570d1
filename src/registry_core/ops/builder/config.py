"""Edit image configurations as decoded JSON, so that unknown fields are kept (image-spec config.md).

This includes the forms of times and platforms that builders accept, and the rebase of a configuration on a new base.
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
from registry_core.domain.media_types import CREATED
from registry_core.domain.platform import Platform
from registry_core.domain.rfc3339 import is_rfc3339, normalise_rfc3339, parse_rfc3339
from registry_core.errors import InvalidDocument, InvalidValue

__all__ = [
    "EPOCH_TEXT",
    "ConfigEditor",
    "order_keys",
    "platform_json",
    "to_platform",
    "to_rfc3339",
    "unix_seconds",
    "update_strings",
]


EPOCH_TEXT: Final = "1970-01-01T00:00:00Z"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_PLATFORM_FIELDS: Final = ("architecture", "os", "variant", "os.version", "os.features")

# Fields of the configuration that other methods keep consistent with the layers.
_MANAGED_FIELDS: Final = frozenset({"rootfs", "history", "config", "created"})

# Fields in which Docker records the machine and the container of the build.
_BUILD_MACHINE_FIELDS: Final = ("container", "container_config", "docker_version")

# A rebase keeps these: they describe this build, or follow from the layers.
_NOT_REBASED: Final = _MANAGED_FIELDS.union(_BUILD_MACHINE_FIELDS)

# Objects whose keys are compared one by one.
_OBJECT_FIELDS: Final = ("Labels", "ExposedPorts", "Volumes")

_MISSING: Final = object()


def to_platform(platform: Platform | str) -> Platform:
    """Parse a platform given as text.

    Raises:
        InvalidName: The text is not a platform.
        InvalidValue: The value is neither text nor a platform.
    """
    if isinstance(platform, str):
        return Platform.parse(platform)
    if not isinstance(platform, Platform):
        raise InvalidValue(f"not a platform: {platform!r:.100}; pass text such as 'linux/amd64'")
    return platform


def to_rfc3339(time: str | int | datetime) -> str:
    """Format a time as RFC 3339, with ``T``, and with ``Z`` or an offset ``±hh:mm``.

    Args:
        time: RFC 3339 text, which is kept unchanged in this form and converted to it otherwise; a ``datetime`` with a
            time zone; or whole seconds since 1970.

    Raises:
        InvalidValue: The time has none of these forms.
    """
    if isinstance(time, int) and not isinstance(time, bool):
        try:
            time = _EPOCH + timedelta(seconds=time)
        except OverflowError:
            raise InvalidValue(f"seconds since 1970 out of range: {time!r:.100}") from None
    if isinstance(time, datetime):
        # A subclass may give other text, such as ``NaT`` of pandas, so this is checked too.
        time = _utc(time).isoformat().replace("+00:00", "Z")
    if not isinstance(time, str):
        raise InvalidValue(
            f"not a time: {time!r:.100}; pass RFC 3339 text, a datetime with a time zone, or whole seconds since 1970"
        )
    return normalise_rfc3339(time)


def unix_seconds(time: str | int | datetime) -> int:
    """Convert a time to whole seconds since 1970, as tar headers store it.

    Raises:
        InvalidValue: The time is not RFC 3339 text, a ``datetime`` with a time zone, or whole seconds since 1970.
    """
    return (parse_rfc3339(to_rfc3339(time)) - _EPOCH) // timedelta(seconds=1)


def _utc(time: datetime) -> datetime:
    if time.utcoffset() is None:
        raise InvalidValue(f"datetime without a time zone: {time!r}; pass one with tzinfo")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise InvalidValue(f"datetime out of range: {time!r}") from None


def _rebase_config(
    image: Mapping[str, Any], old_base: Mapping[str, Any], new_base: Mapping[str, Any]
) -> dict[str, Any]:
    """Rebase a decoded configuration; ``rootfs`` and ``history`` are kept.

    A field whose value equals that of the old base gets the value of the new base; all others keep their value, also if
    both the image and the new base changed them. Labels, ports, volumes and environment variables are compared one by
    one. ``Cmd`` belongs to ``Entrypoint``: an image with another entrypoint than the old base keeps its command.

    Args:
        image: Configuration of the image.
        old_base: Configuration of the base that the image was built on.
        new_base: Configuration of the base to build on.
    """
    rebased = _rebase_fields(image, old_base, new_base, keep=_NOT_REBASED)
    config = _rebase_container(_object(image, "config"), _object(old_base, "config"), _object(new_base, "config"))
    if config or "config" in image:
        rebased["config"] = config
    return rebased


def _rebase_container(
    image: Mapping[str, Any], old_base: Mapping[str, Any], new_base: Mapping[str, Any]
) -> dict[str, Any]:
    keep: frozenset[str] = frozenset({"Cmd"} if image.get("Entrypoint") != old_base.get("Entrypoint") else ())
    rebased = _rebase_fields(image, old_base, new_base, keep=keep | {"Env", *_OBJECT_FIELDS})
    for key in _OBJECT_FIELDS:
        fields = _rebase_fields(_object(image, key), _object(old_base, key), _object(new_base, key))
        _set_or_remove(rebased, key, fields)
    env, old_env, new_env = (_variables(config) for config in (image, old_base, new_base))
    variables = _rebase_fields(env, old_env, new_env)
    names = [*(name for name in new_env if name in variables), *(name for name in env if name not in new_env)]
    _set_or_remove(rebased, "Env", [variables[name] for name in names if name in variables])
    return rebased


def _rebase_fields(
    image: Mapping[str, Any],
    old_base: Mapping[str, Any],
    new_base: Mapping[str, Any],
    *,
    keep: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    rebased: dict[str, Any] = {}
    for key in (*image, *(key for key in new_base if key not in image)):
        value = image.get(key, _MISSING)
        if key not in keep and value == old_base.get(key, _MISSING):
            value = new_base.get(key, _MISSING)
        if value is not _MISSING:
            rebased[key] = value
    return rebased


def _set_or_remove(mapping: dict[str, Any], key: str, value: object) -> None:
    if value:
        mapping[key] = value
    else:
        mapping.pop(key, None)


def _object(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = mapping.get(key)
    return value if isinstance(value, dict) else {}


def _variables(config: Mapping[str, Any]) -> dict[str, str]:
    return {item.partition("=")[0]: item for item in config.get("Env") or []}


class _NewHistoryEntry(msgspec.Struct, frozen=True):
    """A history entry to write; its time is the creation time of the image, which may still change."""

    created_by: str
    empty_layer: bool = False


class ConfigEditor:
    """Edit a decoded image configuration and keep it consistent with the layers.

    Args:
        mapping: Decoded configuration; it is copied.
        layers: Number of layers of the image.
        complete: Whether to write ``rootfs``, ``history`` and ``config`` even if they are unchanged.

    Raises:
        InvalidDocument: ``rootfs`` does not have one diff ID per layer, or ``rootfs`` or ``history`` is malformed.
    """

    def __init__(self, mapping: Mapping[str, Any], layers: int, *, complete: bool = False) -> None:
        self._mapping = copy.deepcopy(dict(mapping))
        rootfs = self._mapping.get("rootfs") or {}
        history = self._mapping.get("history") or []
        if not isinstance(rootfs, dict) or not isinstance(history, list):
            raise InvalidDocument("image configuration: rootfs is not an object, or history is not a list")
        self.diff_ids: list[str] = list(rootfs.get("diff_ids") or [])
        if len(self.diff_ids) != layers:
            raise InvalidDocument(
                f"image configuration: {len(self.diff_ids)} diff_ids for {layers} layers", path="$.rootfs.diff_ids"
            )
        if not all(isinstance(entry, dict) for entry in history):
            raise InvalidDocument("image configuration: a history entry is not an object", path="$.history")
        self._history: list[dict[str, Any] | _NewHistoryEntry] = list(history)
        self._original_diff_ids = list(self.diff_ids)
        self._original_history = list(self._history)
        self._original_keys = {key: tuple(self._config_object(key)) for key in _OBJECT_FIELDS}
        self._complete = complete
        self.created: str | None = None

    @property
    def mapping(self) -> dict[str, Any]:
        """The edited configuration, except for changes of ``rootfs``, ``history`` and ``created``."""
        return self._mapping

    @property
    def history_matches_layers(self) -> bool:
        """Whether the history has one entry per layer; otherwise no entries are added to it."""
        return len(self._layer_entries()) == len(self.diff_ids)

    @property
    def platform(self) -> Platform | None:
        """The platform; ``None`` if the configuration has no ``os`` or ``architecture``."""
        mapping = self._mapping
        if not (mapping.get("os") and mapping.get("architecture")):
            return None
        fields = {key: mapping[key] for key in _PLATFORM_FIELDS if key in mapping}
        return strict_json.convert(fields, Platform).normalised()

    @property
    def os(self) -> str:
        """The operating system, in lower case; empty if the configuration names none."""
        os = self._mapping.get("os")
        return os.lower() if isinstance(os, str) else ""

    def append(self, diff_id: Digest, created_by: str) -> None:
        """Add a layer on top."""
        if self.history_matches_layers:
            self._history.append(_NewHistoryEntry(created_by))
        self.diff_ids.append(str(diff_id))

    def replace(self, position: int, diff_id: Digest, created_by: str = "") -> None:
        """Replace a layer; its history entry is kept if ``created_by`` is empty."""
        if created_by and self.history_matches_layers:
            self._history[self._layer_entries()[position]] = _NewHistoryEntry(created_by)
        self.diff_ids[position] = str(diff_id)

    def remove(self, position: int) -> None:
        """Remove a layer and its history entry."""
        if self.history_matches_layers:
            del self._history[self._layer_entries()[position]]
        del self.diff_ids[position]

    def squash(self, diff_id: Digest, created_by: str) -> None:
        """Replace all layers by one; the history entries are kept and marked as empty layers."""
        entries = [
            _NewHistoryEntry(entry.created_by, empty_layer=True)
            if isinstance(entry, _NewHistoryEntry)
            else entry | {"empty_layer": True}
            for entry in self._history
        ]
        self._history = [*entries, _NewHistoryEntry(created_by)]
        self.diff_ids = [str(diff_id)]

    def set_config(self, key: str, value: object) -> None:
        """Set a field of ``config``; ``None`` and empty values remove it.

        Raises:
            InvalidValue: The value is not JSON, or not of the type that the field has.
        """
        is_empty = value in (None, "", [], (), {})
        value = _to_json(key, None if is_empty else value, ContainerConfig)
        if not is_empty:
            self._writable_config()[key] = value
        elif key in self._config():
            self._writable_config().pop(key)

    def set_field(self, key: str, value: object) -> None:
        """Set a field of the configuration itself; ``None`` removes it.

        Raises:
            InvalidValue: Other methods manage the field, the value is not JSON, or it is not of the type that the field
                has.
        """
        if key in _MANAGED_FIELDS:
            raise InvalidValue(f"set_field cannot set {key!r:.100}: other methods keep it consistent")
        value = _to_json(key, value, ImageConfig)
        if value is None:
            self._mapping.pop(key, None)
        else:
            self._mapping[key] = value

    def label(self, key: str, value: str | None) -> None:
        """Set or remove a label.

        Raises:
            InvalidValue: The key or the value is not a string.
        """
        self.set_config("Labels", update_strings(self._config_object("Labels"), {key: value}))

    def add_keys(self, field: str, keys: Iterable[str]) -> None:
        """Add to a field of ``config`` that is a set: a JSON object whose values are empty objects."""
        known = self._config_object(field)
        self.set_config(field, known | {key: {} for key in keys if key not in known})

    def env(self, name: str, value: str | None) -> None:
        """Set or remove an environment variable.

        Raises:
            InvalidValue: The name is empty or contains ``=``, or the value is not a string.
        """
        if not isinstance(name, str) or not name or "=" in name:
            raise InvalidValue(f"env: not the name of a variable: {name!r:.200}")
        if not isinstance(value, str | None):
            raise InvalidValue(f"env: value of {name!r:.100} is not a string: {type(value).__name__}")
        before = self._config().get("Env") or []
        after = [item for item in before if item.partition("=")[0] != name]
        if value is not None:
            # The first one keeps its place: tools compare the list with that of the base.
            place = next((index for index, item in enumerate(before) if item.partition("=")[0] == name), len(after))
            after.insert(place, f"{name}={value}")
        if after != before:
            self.set_config("Env", after)

    def set_platform(self, platform: Platform) -> None:
        """Set the platform."""
        if platform.normalised() != self.platform:
            for key in _PLATFORM_FIELDS:
                self._mapping.pop(key, None)
            self._mapping |= platform_json(platform)

    def set_times(self, created: str) -> None:
        """Set the time of the image and of all history entries, and remove fields about the machine of the build."""
        self.created = created
        self._history = [
            entry if isinstance(entry, _NewHistoryEntry) else entry | {"created": created} for entry in self._history
        ]
        for key in _BUILD_MACHINE_FIELDS:
            self._mapping.pop(key, None)
        if "Hostname" in self._config():
            self.set_config("Hostname", None)

    def rebase(self, old_base: ConfigEditor, new_base: ConfigEditor) -> None:
        """Replace the layers of the old base, which must be the lowest, by those of the new base.

        The history becomes that of the new base, followed by the entries that the image added. If either history does
        not have one entry per layer, the result has no history.

        Args:
            old_base: Configuration of the base that the image was built on.
            new_base: Configuration of the base to build on.
        """
        history: list[dict[str, Any] | _NewHistoryEntry] = []
        if self.history_matches_layers and new_base.history_matches_layers:
            history = [*new_base._history, *self._history[self._end_of_base_history(old_base) :]]
        self._mapping = _rebase_config(self._mapping, old_base.mapping, new_base.mapping)
        self._history = history
        self.diff_ids = [*new_base.diff_ids, *self.diff_ids[len(old_base.diff_ids) :]]

    def _end_of_base_history(self, base: ConfigEditor) -> int:
        """The index of the first history entry that the image added to its base.

        If the history does not begin with that of the base, the entry of the highest layer of the base is its end.
        """
        length = len(base._history)
        if base.history_matches_layers and self._history[:length] == base._history:
            return length
        return self._layer_entries()[len(base.diff_ids) - 1] + 1 if base.diff_ids else 0

    def document(self) -> dict[str, Any]:
        """The configuration to write, as JSON."""
        document = copy.deepcopy(self._mapping)
        config = document.get("config")
        if isinstance(config, dict):
            for key, first in self._original_keys.items():
                if isinstance(config.get(key), dict):
                    config[key] = order_keys(config[key], first=first)
        elif self._complete:
            document["config"] = {}
        created = self.created or _readable_date(document.get("created"))
        if self.created is not None:
            document["created"] = self.created
        if self._complete or self.diff_ids != self._original_diff_ids:
            document["rootfs"] = dict(document.get("rootfs") or {}) | {"type": "layers", "diff_ids": self.diff_ids}
        if self._complete or self._history != self._original_history:
            document["history"] = [_history_json(entry, created) for entry in self._history]
        return document

    def _layer_entries(self) -> list[int]:
        """The indexes of the history entries that have a layer."""
        return [
            index
            for index, entry in enumerate(self._history)
            if not (entry.empty_layer if isinstance(entry, _NewHistoryEntry) else entry.get("empty_layer"))
        ]

    def _writable_config(self) -> dict[str, Any]:
        if not isinstance(self._mapping.get("config"), dict):
            self._mapping["config"] = {}
        config: dict[str, Any] = self._mapping["config"]
        return config

    def _config(self) -> Mapping[str, Any]:
        return _object(self._mapping, "config")

    def _config_object(self, key: str) -> dict[str, Any]:
        return dict(_object(self._config(), key))


def _to_json(key: str, value: object, kind: type[ContainerConfig | ImageConfig]) -> Any:
    """Convert a value to JSON, and check that readers of the document accept it."""
    if not isinstance(key, str) or not key:
        raise InvalidValue(f"not the name of a field: {key!r:.100}")
    try:
        value = strict_json.decode_any(strict_json.encode(value))
        strict_json.convert({key: value}, kind)
    except TypeError:
        raise InvalidValue(f"value of field {key!r:.100} is not JSON: {type(value).__name__}") from None
    except InvalidDocument as error:
        raise InvalidValue(f"value of field {key!r:.100} is not valid: {error.message}") from None
    return value


def _readable_date(created: object) -> str:
    """The date of an existing configuration for new history entries; 1970 if it has none that can be read."""
    if isinstance(created, str) and not is_rfc3339(created):
        try:
            return normalise_rfc3339(created)
        except InvalidValue:
            return EPOCH_TEXT
    return created if isinstance(created, str) else EPOCH_TEXT


def _history_json(entry: dict[str, Any] | _NewHistoryEntry, created: str) -> dict[str, Any]:
    if isinstance(entry, dict):
        return entry
    written: dict[str, Any] = {"created": created, "created_by": entry.created_by}
    return written | {"empty_layer": True} if entry.empty_layer else written


def platform_json(platform: Platform) -> dict[str, Any]:
    """The JSON of a platform, as in image configurations and index entries."""
    document: dict[str, Any] = {"architecture": platform.architecture, "os": platform.os}
    if platform.variant:
        document["variant"] = platform.variant
    if platform.os_version:
        document["os.version"] = platform.os_version
    if platform.os_features:
        document["os.features"] = list(platform.os_features)
    return document


def update_strings(strings: Mapping[str, Any], changes: Mapping[str, str | None]) -> dict[str, Any]:
    """Apply changes to labels or annotations; ``None`` removes a key.

    The date in ``org.opencontainers.image.created`` is written as ``normalise_rfc3339`` returns it.

    Raises:
        InvalidValue: A key or a value is not a string, a key is empty, or the value of
            ``org.opencontainers.image.created`` is not an RFC 3339 date.
    """
    for key, value in changes.items():
        if not isinstance(key, str) or not key or not isinstance(value, str | None):
            raise InvalidValue(f"labels and annotations must be strings with non-empty keys: {key!r:.200}")
    updated = {**strings, **changes}
    date = changes.get(CREATED)
    if date is not None:
        try:
            updated[CREATED] = normalise_rfc3339(date)
        except InvalidValue as error:
            raise InvalidValue(f"{CREATED}: {error.message}") from None
    return {key: value for key, value in updated.items() if value is not None or key not in changes}


def order_keys(strings: Mapping[str, Any], *, first: Iterable[str]) -> dict[str, Any]:
    """Order labels or annotations: the keys in ``first`` in that order, then all others sorted."""
    known = [key for key in first if key in strings]
    return {key: strings[key] for key in [*known, *sorted(strings.keys() - set(known))]}
