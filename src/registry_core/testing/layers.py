"""Tar layers for tests, written field by field, so that any field can be wrong."""

from __future__ import annotations

from collections.abc import Mapping

from registry_core.content.streams import ByteReader, BytesSource

__all__ = ["TarLayer", "member", "pax_records", "tar"]

_BLOCK = 512


class TarLayer:
    """An uncompressed layer in memory.

    Args:
        content: The tar.
        size: Claimed size; the real one if not given.
    """

    def __init__(self, content: bytes, *, size: int | None = None) -> None:
        self.content = content
        self.size = len(content) if size is None else size
        self.opened = 0

    def open_uncompressed(self) -> ByteReader:
        """Open the tar."""
        self.opened += 1
        return BytesSource(self.content).open()


def member(
    name: bytes | str,
    content: bytes = b"",
    *,
    kind: str = "0",
    link: bytes | str = b"",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    size: int | None = None,
    pax: Mapping[bytes, bytes] | None = None,
    patch: Mapping[int, bytes] | None = None,
    checksum: bytes | None = None,
) -> bytes:
    """A member of a tar: header, content and padding.

    Args:
        name: Name; only the first 100 bytes are written.
        content: Content.
        kind: Type flag, one character; ``5`` is a directory.
        link: Target of a link.
        mode: Permissions.
        uid: User ID.
        gid: Group ID.
        mtime: Modification time in seconds.
        size: Size in the header; the real one if not given.
        pax: Records of an extended header before the member.
        patch: Bytes to write over the header before the checksum is computed, by offset.
        checksum: Checksum to write; the right one if not given.
    """
    block = bytearray(
        b"%b%07o\0%07o\0%07o\0%b%011o\0%b%b%b%b"
        % (
            _bytes(name)[:100].ljust(100, b"\0"),
            mode,
            uid,
            gid,
            _size(len(content) if size is None else size),
            mtime,
            b" " * 8,
            kind.encode("latin-1"),
            _bytes(link)[:100].ljust(100, b"\0"),
            b"ustar\x0000".ljust(255, b"\0"),
        )
    )
    for offset, data in (patch or {}).items():
        block[offset : offset + len(data)] = data
    block[148:156] = b"%06o\0 " % sum(block) if checksum is None else checksum
    result = bytes(block) + content + bytes(-len(content) % _BLOCK)
    return result if pax is None else member("PaxHeaders/x", pax_records(pax), kind="x") + result


def pax_records(values: Mapping[bytes, bytes]) -> bytes:
    """The content of a PAX extended header."""
    parts = []
    for keyword, value in values.items():
        rest = b" %b=%b\n" % (keyword, value)
        length = len(rest)
        while length != len(rest) + len(str(length)):
            length = len(rest) + len(str(length))
        parts.append(b"%d%b" % (length, rest))
    return b"".join(parts)


def tar(*members: bytes, end: bytes = bytes(2 * _BLOCK)) -> TarLayer:
    """A layer of some members.

    Args:
        members: Members in their order.
        end: Bytes after the last member.
    """
    return TarLayer(b"".join(members) + end)


def _size(size: int) -> bytes:
    return b"%011o\0" % size if size <= 0o77777777777 else b"\x80" + size.to_bytes(11, "big")


def _bytes(text: bytes | str) -> bytes:
    return text.encode("utf-8") if isinstance(text, str) else text
