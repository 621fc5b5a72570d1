"""Typed views of image configurations (image-spec config.md)."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Self

import msgspec

from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.platform import Platform
from registry_core.errors import InvalidDocument

__all__ = ["ContainerConfig", "History", "ImageConfig", "RawConfig", "RootFS"]

_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class ContainerConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Execution parameters of a container."""

    user: str = ""
    exposed_ports: dict[str, Any] = {}
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    volumes: dict[str, Any] = {}
    working_dir: str = ""
    labels: dict[str, str] = {}
    stop_signal: str = ""


class RootFS(msgspec.Struct, frozen=True, kw_only=True):
    """The diff IDs of the layers: digests of the uncompressed tars, lowest layer first."""

    type: str = "layers"
    diff_ids: tuple[Digest, ...] = ()


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One history entry: how a layer, or a step without a layer, was made."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A typed view of an image configuration.

    ``created`` is the original text, with nanoseconds; ``created_at`` is the same as a ``datetime``.
    ``raw`` holds the bytes of the document.
    """

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")
    created: str = ""
    author: str = ""
    config: ContainerConfig = ContainerConfig()
    rootfs: RootFS = RootFS()
    history: tuple[History, ...] = ()
    raw: bytes = b""

    @classmethod
    def read(cls, content: bytes) -> Self:
        """Parse the bytes of a configuration.

        Raises:
            InvalidDocument: The bytes are not an image configuration.
        """
        mapping = strict_json.decode(content)
        mapping.pop("raw", None)  # ``raw`` is ours: a field of that name in the document is ignored
        return msgspec.structs.replace(strict_json.convert(mapping, cls), raw=content)

    @property
    def platform(self) -> Platform | None:
        """The platform of the image, or ``None`` if the configuration does not name one."""
        if not (self.os and self.architecture):
            return None
        return Platform(
            os=self.os,
            architecture=self.architecture,
            variant=self.variant,
            os_version=self.os_version,
            os_features=self.os_features,
        ).normalised()

    @property
    def created_at(self) -> datetime | None:
        """Creation time to the microsecond, or ``None`` if the configuration has none.

        Raises:
            InvalidDocument: ``created`` is not an RFC 3339 date.
        """
        if not self.created:
            return None
        try:
            return msgspec.convert(self.created, _Moment)
        except msgspec.ValidationError:
            raise InvalidDocument(f"not an RFC 3339 date: {self.created!r:.100}", path="$.created") from None


class _DiffIds(msgspec.Struct, frozen=True):
    diff_ids: tuple[Digest, ...] = ()


class _Layers(msgspec.Struct, frozen=True):
    rootfs: _DiffIds = _DiffIds()


class RawConfig(msgspec.Struct, frozen=True, dict=True):
    """The exact bytes of an image configuration. A part is checked when it is used.

    Files can be read where a field that concerns running a container is malformed.

    Args:
        content: Exact bytes.
    """

    content: bytes

    @cached_property
    def config(self) -> ImageConfig:
        """View of all fields.

        Raises:
            InvalidDocument: The bytes are not JSON, or any field has the wrong type; ``path`` names the field.
        """
        return ImageConfig.read(self.content)

    @cached_property
    def diff_ids(self) -> tuple[Digest, ...]:
        """The digests of the uncompressed layers, lowest layer first.

        Raises:
            InvalidDocument: The bytes are not JSON, or the diff IDs are malformed.
        """
        rootfs = strict_json.decode(self.content).get("rootfs")
        return strict_json.convert({"rootfs": rootfs}, _Layers).rootfs.diff_ids

    @cached_property
    def platform(self) -> Platform | None:
        """The platform, as far as its fields have the right type; ``None`` without operating system or architecture.

        Raises:
            InvalidDocument: The bytes are not JSON.
        """
        mapping = strict_json.decode(self.content)
        required = {key: mapping.get(key) for key in ("os", "architecture")}
        platform = Platform.of_document(mapping) or Platform.of_document(required)
        return None if platform is None else platform.normalised()

    def allows(self, requested: Platform) -> bool:
        """Return whether the image may run on a platform. A field that is not stated, or malformed, excludes none.

        Raises:
            InvalidDocument: The bytes are not JSON.
        """
        if self.platform is not None:
            return requested.runs(self.platform)
        mapping, wanted = strict_json.decode(self.content), requested.normalised()
        for name in ("os", "architecture"):
            stated = mapping.get(name)
            if isinstance(stated, str) and stated.strip():
                filled = msgspec.structs.replace(wanted, **{name: stated}).normalised()
                if getattr(filled, name) != getattr(wanted, name):
                    return False
        return True
