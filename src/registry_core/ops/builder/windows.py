"""Layers for Windows: files are below ``Files``, registry hives in ``Hives``, and attributes in PAX records.

The importer of Windows creates each member in a directory of the same layer, so every parent directory is a member too.
It reads the attributes and the security descriptor of a file from PAX records, and neither modes nor owners.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterable, Mapping
from typing import Final

from registry_core.domain.layer_paths import WhiteoutKind
from registry_core.errors import InvalidName, Unsupported
from registry_core.ops.builder.entries import Entry, whiteout_entry
from registry_core.ops.tar.members import FileKind, Member, printable

__all__ = ["check_windows_member", "windows_entries", "windows_records"]

_FILES: Final = "Files"
# ``UtilityVM`` holds the files of the virtual machine in which Hyper-V runs a container.
_TOP_DIRECTORIES: Final = (_FILES, "Hives", "UtilityVM")

_DIRECTORY: Final = Entry(FileKind.DIRECTORY, 0o755)

# A colon would name a stream of a file, and a backslash separates names.
_FORBIDDEN: Final = re.compile(r'[\x00-\x1f<>:"\\|?*]')

# FILE_ATTRIBUTE_DIRECTORY and FILE_ATTRIBUTE_ARCHIVE.
_FILE_ATTRIBUTES: Final = {FileKind.DIRECTORY: b"16", FileKind.FILE: b"32"}


def windows_entries(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The entries of a layer for Windows: below ``Files``, with all parent directories.

    Args:
        entries: Entries by clean path in the container, without the drive.

    Raises:
        InvalidName: A name is not possible on Windows, or two names differ only in case.
        Unsupported: An entry is a symbolic link or an opaque whiteout, or its path begins with ``Files`` or ``Hives``
            already.
    """
    complete: dict[str, Entry] = {_FILES: _DIRECTORY, "Hives": _DIRECTORY}
    for path, entry in entries.items():
        _check_entry(path, entry)
        names = [_FILES, *path.split("/")]
        for length in range(2, len(names)):
            complete.setdefault("/".join(names[:length]), _DIRECTORY)
        complete["/".join(names)] = entry
    _check_case(complete)
    return complete


def windows_records(path: str, entry: Entry) -> tuple[tuple[bytes, bytes], ...]:
    """The PAX records of an entry: its attributes and, below ``Files``, its security descriptor.

    Args:
        path: Path in the layer, as ``windows_entries`` returns it.
        entry: The entry.
    """
    attributes = (b"MSWINDOWS.fileattr", _FILE_ATTRIBUTES[entry.kind])
    if path in _TOP_DIRECTORIES:
        # The root of the drive keeps the access rights that the base gives it.
        return (attributes,)
    descriptor = _security_descriptor(inherited=entry.kind is FileKind.DIRECTORY)
    return (attributes, (b"MSWINDOWS.rawsd", base64.b64encode(descriptor)))


def check_windows_member(member: Member) -> None:
    """Check that a member of an existing layer is where Windows expects it.

    Raises:
        Unsupported: The path begins with another directory.
    """
    if member.path.partition(b"/")[0] not in (b"", *(name.encode() for name in _TOP_DIRECTORIES)):
        raise Unsupported(
            f"layer for Windows has {printable(member.path)}: files must be below Files/, and registry hives in "
            "Hives/; add_files and add_directory place files there"
        )


def _check_entry(path: str, entry: Entry) -> None:
    first = path.partition("/")[0]
    if first.casefold() in {name.casefold() for name in _TOP_DIRECTORIES}:
        raise Unsupported(
            f"layer for Windows: {path!r:.200} begins with {first!r}; pass the path in the container, which is placed "
            f"below {_FILES}/"
        )
    if entry.kind not in _FILE_ATTRIBUTES:
        raise Unsupported(f"layer for Windows: {path!r:.200} is a {entry.kind.value}; only files and directories")
    whiteout = whiteout_entry(path, entry)
    if whiteout is not None and whiteout.kind is WhiteoutKind.OPAQUE:
        raise Unsupported(f"layer for Windows: {path!r:.200} is an opaque whiteout; add a whiteout for each file")
    for name in path.split("/"):
        if _FORBIDDEN.search(name) or name.endswith((".", " ")):
            raise InvalidName(f"not a name on Windows: {name!r:.100} in {path!r:.200}")


def _check_case(paths: Iterable[str]) -> None:
    known: dict[str, str] = {}
    for path in paths:
        other = known.setdefault(path.casefold(), path)
        if other != path:
            raise InvalidName(f"two paths are the same on Windows: {other!r:.200} and {path!r:.200}")


def _security_descriptor(*, inherited: bool) -> bytes:
    """A security descriptor in the self-relative form of Windows (MS-DTYP, "SECURITY_DESCRIPTOR").

    It belongs to Administrators and SYSTEM, which have full access; Users may read and execute. In the language of
    Windows: ``O:BAG:SYD:(A;;FA;;;BA)(A;;FA;;;SY)(A;;0x1200a9;;;BU)``.

    Args:
        inherited: Whether new files and directories below get the same access rights.
    """
    flags = 0x03 if inherited else 0  # OBJECT_INHERIT_ACE and CONTAINER_INHERIT_ACE
    administrators, system, users = _sid(32, 544), _sid(18), _sid(32, 545)
    full, read = 0x1F01FF, 0x1200A9
    entries = [
        struct.pack("<BBHI", 0, flags, 8 + len(sid), access) + sid
        for sid, access in ((administrators, full), (system, full), (users, read))
    ]
    access_list = struct.pack("<BBHHH", 2, 0, 8 + sum(map(len, entries)), len(entries), 0) + b"".join(entries)
    owner = 20
    group = owner + len(administrators)
    # SE_DACL_PRESENT and SE_SELF_RELATIVE; there is no system access list.
    header = struct.pack("<BBHIIII", 1, 0, 0x8004, owner, group, 0, group + len(system))
    return header + administrators + system + access_list


def _sid(*authorities: int) -> bytes:
    """A security identifier of the authority NT (MS-DTYP, "SID")."""
    return (
        struct.pack("<BB", 1, len(authorities))
        + (5).to_bytes(6, "big")
        + struct.pack(f"<{len(authorities)}I", *authorities)
    )
