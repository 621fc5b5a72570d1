"""Files of authorities and identities for single hosts, kept as Docker and podman keep them (``certs.d``)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from registry_core.domain.origin import Origin
from registry_core.errors import ConfigError

__all__ = ["NO_FILES", "HostFiles", "host_files"]


class HostFiles(msgspec.Struct, frozen=True):
    """What there is for one host.

    Args:
        authorities: PEM files of further authorities to trust there.
        identity: Who we are there: a file with a certificate and one with its key; ``None`` for nobody.
    """

    authorities: tuple[str, ...] = ()
    identity: tuple[str, str] | None = None


NO_FILES: Final = HostFiles()


def host_files(directory: str | None, origin: Origin) -> HostFiles:
    """The files for an origin: those in ``<directory>/<host>:<port>``, or ``<directory>/<host>`` for port 443.

    Nothing is inherited: a directory for a host without a port says nothing about the host's other ports.

    Args:
        directory: Where the hosts' directories are; ``None`` for nowhere.
        origin: Whose files are wanted.

    Raises:
        ConfigError: The directory cannot be read, a key is missing, or it is not clear who we are.
    """
    if directory is None:
        return NO_FILES
    root = Path(directory)
    if not root.is_dir():
        raise ConfigError(f"certs_dir is no directory: {directory!r}")
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    names = [f"{host}:{origin.port}", *([host] if origin.port == 443 else [])]
    for place in (root / name for name in names):
        if place.is_dir():
            return _read(place)
    return NO_FILES


def _read(place: Path) -> HostFiles:
    try:
        files = sorted(path for path in place.iterdir() if not path.is_dir())
    except OSError as error:
        raise ConfigError(f"certs_dir has a directory that cannot be read: {str(place)!r}") from error
    for path in files:
        if path.suffix == ".cert" and not path.with_suffix(".key").exists():
            raise ConfigError(
                f"a certificate without its key, {path.with_suffix('.key').name}: {str(path)!r}; "
                "one of an authority ends in .crt"
            )
        if path.suffix == ".key" and not path.with_suffix(".cert").exists():
            raise ConfigError(f"a key without its certificate, {path.with_suffix('.cert').name}: {str(path)!r}")
    identities = [path for path in files if path.suffix == ".cert"]
    if len(identities) > 1:
        raise ConfigError(f"more than one client certificate for a host: {str(place)!r}")
    return HostFiles(
        authorities=tuple(str(path) for path in files if path.suffix == ".crt"),
        identity=(str(identities[0]), str(identities[0].with_suffix(".key"))) if identities else None,
    )
