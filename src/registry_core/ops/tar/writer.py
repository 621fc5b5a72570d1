"""Headers of the tar that an image is flattened to: the same member gives the same bytes, whoever wrote it first.

Names of users and groups are left out: the numbers count (image-spec layer.md, "File Attributes").
"""

from __future__ import annotations

from typing import Final

from registry_core.errors import IntegrityError
from registry_core.ops.tar.headers import header_checksum, padding
from registry_core.ops.tar.members import MAX_DEVICE_NUMBER, FileKind, Member, printable

__all__ = ["END_OF_ARCHIVE", "encode_header"]

# Two blocks of zeros.
END_OF_ARCHIVE: Final = bytes(1024)

_TYPES: Final = {
    FileKind.FILE: b"0",
    FileKind.HARDLINK: b"1",
    FileKind.SYMLINK: b"2",
    FileKind.CHARACTER_DEVICE: b"3",
    FileKind.BLOCK_DEVICE: b"4",
    FileKind.DIRECTORY: b"5",
    FileKind.FIFO: b"6",
}
_NAME: Final = 100
_ID: Final = 0o7777777
_LARGE: Final = 0o77777777777
# The checksum counts itself as eight spaces.
_UNSUMMED: Final = b" " * 8
# Name; mode, owner, group, size and time; checksum, type, link, magic; names of owners; device; prefix and filling.
_BLOCK: Final = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0%b%b%bustar\x0000" + bytes(64) + b"%07o\0%07o\0" + bytes(167)


def encode_header(member: Member) -> bytes:
    """A member's header: one block where all fits into it, with an extended header in front otherwise.

    Holes of a sparse file are no matter here: they follow as zeros.

    Raises:
        IntegrityError: A device's numbers are none.
    """
    path = member.path + b"/" if member.kind is FileKind.DIRECTORY else member.path
    seconds, fraction = divmod(member.mtime, 10**9)
    size = member.size if member.kind is FileKind.FILE else 0
    plain = _block(
        path,
        _TYPES[member.kind],
        (member.mode, min(member.uid, _ID), min(member.gid, _ID), min(size, _LARGE), min(max(seconds, 0), _LARGE)),
        member.link,
        member.device,
    )
    if (
        len(path) <= _NAME
        and len(member.link) <= _NAME
        and not fraction
        and 0 <= seconds <= _LARGE
        and size <= _LARGE
        and member.uid <= _ID
        and member.gid <= _ID
        and not member.xattrs
    ):
        return plain
    return _extended(member, path, size) + plain


def _extended(member: Member, path: bytes, size: int) -> bytes:
    records: list[tuple[bytes, bytes]] = []
    long_texts = [
        (keyword, text) for keyword, text in ((b"path", path), (b"linkpath", member.link)) if len(text) > _NAME
    ]
    if not all(_is_text(text) for _, text in long_texts):
        records.append((b"hdrcharset", b"BINARY"))
    records += long_texts
    for keyword, value, most in ((b"gid", member.gid, _ID), (b"size", size, _LARGE), (b"uid", member.uid, _ID)):
        if value > most:
            records.append((keyword, b"%d" % value))
    seconds, fraction = divmod(abs(member.mtime), 10**9)
    if fraction or not 0 <= member.mtime // 10**9 <= _LARGE:
        exact = b"%d.%09d" % (seconds, fraction) if fraction else b"%d" % seconds
        records.append((b"mtime", b"-" + exact if member.mtime < 0 else exact))
    records += [(b"SCHILY.xattr." + name, value) for name, value in member.xattrs]
    data = b"".join(_record(keyword, value) for keyword, value in records)
    head = _block(b"PaxHeaders/member", b"x", (0o644, 0, 0, len(data), 0), b"", (0, 0))
    return head + data + bytes(padding(len(data)))


def _record(keyword: bytes, value: bytes) -> bytes:
    rest = len(keyword) + len(value) + 3
    length = rest + len(b"%d" % rest)
    length = rest + len(b"%d" % length)
    return b"%d %b=%b\n" % (length, keyword, value)


def _block(
    path: bytes, kind: bytes, numbers: tuple[int, int, int, int, int], link: bytes, device: tuple[int, int]
) -> bytes:
    if max(device) > MAX_DEVICE_NUMBER:
        raise IntegrityError(f"a device with impossible numbers: {printable(path)}")
    block = _BLOCK % (
        path[:_NAME].ljust(_NAME, b"\0"),
        *numbers,
        _UNSUMMED,
        kind,
        link[:_NAME].ljust(_NAME, b"\0"),
        *device,
    )
    return b"%b%06o\0 %b" % (block[:148], header_checksum(block), block[156:])


def _is_text(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
