"""Tar headers for flattened images and new layers: equal members give equal bytes.

Names of users and groups are omitted; the numeric IDs are used (image-spec layer.md, "File Attributes").
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
_NAME_SIZE: Final = 100
_MAX_ID: Final = 0o7777777
_MAX_NUMBER: Final = 0o77777777777
# The checksum field counts as eight spaces.
_EMPTY_CHECKSUM: Final = b" " * 8
# Name; mode, uid, gid, size, mtime; checksum, typeflag, link name, magic; owner names; device; prefix and padding.
_BLOCK_FORMAT: Final = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0%b%b%bustar\x0000" + bytes(64) + b"%07o\0%07o\0" + bytes(167)


def encode_header(member: Member, records: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """Encode the header of a member: one block if all values fit, else a PAX header and a block.

    Sparse maps are ignored: the content is to be written with zeros in its holes.

    Args:
        member: Member to describe.
        records: Further PAX records, as keywords and values.

    Raises:
        IntegrityError: A device number is out of range.
    """
    path = member.path + b"/" if member.kind is FileKind.DIRECTORY else member.path
    seconds, fraction = divmod(member.mtime, 10**9)
    size = member.size if member.kind is FileKind.FILE else 0
    block = _block(
        path,
        _TYPES[member.kind],
        (
            member.mode,
            min(member.uid, _MAX_ID),
            min(member.gid, _MAX_ID),
            min(size, _MAX_NUMBER),
            min(max(seconds, 0), _MAX_NUMBER),
        ),
        member.link,
        member.device,
    )
    if (
        len(path) <= _NAME_SIZE
        and len(member.link) <= _NAME_SIZE
        and not fraction
        and 0 <= seconds <= _MAX_NUMBER
        and size <= _MAX_NUMBER
        and member.uid <= _MAX_ID
        and member.gid <= _MAX_ID
        and not member.xattrs
        and not records
    ):
        return block
    return _pax_header(member, path, size, records) + block


def _pax_header(member: Member, path: bytes, size: int, more: tuple[tuple[bytes, bytes], ...]) -> bytes:
    records: list[tuple[bytes, bytes]] = []
    long_names = [
        (keyword, text) for keyword, text in ((b"path", path), (b"linkpath", member.link)) if len(text) > _NAME_SIZE
    ]
    if not all(_is_utf8(text) for _, text in long_names):
        records.append((b"hdrcharset", b"BINARY"))
    records += long_names
    for keyword, value, maximum in (
        (b"gid", member.gid, _MAX_ID),
        (b"size", size, _MAX_NUMBER),
        (b"uid", member.uid, _MAX_ID),
    ):
        if value > maximum:
            records.append((keyword, b"%d" % value))
    seconds, fraction = divmod(abs(member.mtime), 10**9)
    if fraction or not 0 <= member.mtime // 10**9 <= _MAX_NUMBER:
        exact = b"%d.%09d" % (seconds, fraction) if fraction else b"%d" % seconds
        records.append((b"mtime", b"-" + exact if member.mtime < 0 else exact))
    records += [(b"SCHILY.xattr." + name, value) for name, value in member.xattrs]
    records += more
    data = b"".join(_record(keyword, value) for keyword, value in records)
    block = _block(b"PaxHeaders/member", b"x", (0o644, 0, 0, len(data), 0), b"", (0, 0))
    return block + data + bytes(padding(len(data)))


def _record(keyword: bytes, value: bytes) -> bytes:
    # The stated length includes its own digits.
    rest = len(keyword) + len(value) + 3
    length = rest + len(b"%d" % rest)
    length = rest + len(b"%d" % length)
    return b"%d %b=%b\n" % (length, keyword, value)


def _block(
    path: bytes, typeflag: bytes, numbers: tuple[int, int, int, int, int], link: bytes, device: tuple[int, int]
) -> bytes:
    if max(device) > MAX_DEVICE_NUMBER:
        raise IntegrityError(f"device number out of range: {printable(path)}")
    block = _BLOCK_FORMAT % (
        path[:_NAME_SIZE].ljust(_NAME_SIZE, b"\0"),
        *numbers,
        _EMPTY_CHECKSUM,
        typeflag,
        link[:_NAME_SIZE].ljust(_NAME_SIZE, b"\0"),
        *device,
    )
    return b"%b%06o\0 %b" % (block[:148], header_checksum(block), block[156:])


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
