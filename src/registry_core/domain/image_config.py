"""Image configurations as views (image-spec config.md)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

import msgspec

from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.platform import Platform
from registry_core.errors import InvalidDocument

__all__ = ["ContainerConfig", "History", "ImageConfig", "RootFS"]

_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class ContainerConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """What a container of the image starts with."""

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
    """The layers by the digests of their uncompressed tars, lowest first."""

    type: str = "layers"
    diff_ids: tuple[Digest, ...] = ()


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one layer, or one step without a layer, came to be."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An image configuration, read from its bytes.

    ``created`` keeps the text as it stands, nanoseconds included; ``created_at`` is a ``datetime`` of it.
    ``raw`` holds the bytes that were read.
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
        """The view of a configuration's bytes.

        Raises:
            InvalidDocument: Not an image configuration.
        """
        mapping = strict_json.decode(content)
        mapping.pop("raw", None)  # not a field of the document, whatever somebody put there
        return msgspec.structs.replace(strict_json.convert(mapping, cls), raw=content)

    @property
    def platform(self) -> Platform | None:
        """What the image says it runs on, or ``None`` where it does not say."""
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
        """When it was made, to the microsecond, or ``None`` where it does not say.

        Raises:
            InvalidDocument: ``created`` is not a date of RFC 3339.
        """
        if not self.created:
            return None
        try:
            return msgspec.convert(self.created, _Moment)
        except msgspec.ValidationError:
            raise InvalidDocument(f"not a date: {self.created!r:.100}", path="$.created") from None
