"""Layers to test with: tars written field by field, so that they can be wrong in any way."""

from __future__ import annotations

from collections.abc import Mapping

from registry_core.content.streams import ByteReader, BytesSource

__all__ = ["TarLayer", "member", "records", "tar"]

_BLOCK = 512


class TarLayer:
    """A layer in memory that nobody has compressed.

    Args:
        content: Its tar.
        size: As which it is stored; its real size if not given.
    """

    def __init__(self, content: bytes, *, size: int | None = None) -> None:
        self.content = content
        self.size = len(content) if size is None else size
        self.opened = 0

    def open_uncompressed(self) -> ByteReader:
        """A reader over the tar."""
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
    """One member of a tar: its header, its content and what fills up the last block.

    Args:
        name: At most 100 bytes of it are written.
        content: What follows the header.
        kind: The type, one character; ``5`` for a directory.
        link: The link's text.
        mode: Its permissions.
        uid: Its owner.
        gid: Its group.
        mtime: In seconds.
        size: What the header says about the content's size; the truth if not given.
        pax: Records for an extended header in front.
        patch: Bytes to put over the header before its checksum is made, by their offsets.
        checksum: What to write as the checksum; the right one if not given.
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
    whole = bytes(block) + content + bytes(-len(content) % _BLOCK)
    return whole if pax is None else member("PaxHeaders/x", records(pax), kind="x") + whole


def records(values: Mapping[bytes, bytes]) -> bytes:
    """The content of an extended header."""
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
        members: In their order.
        end: What stands behind the last one.
    """
    return TarLayer(b"".join(members) + end)


def _size(size: int) -> bytes:
    return b"%011o\0" % size if size <= 0o77777777777 else b"\x80" + size.to_bytes(11, "big")


def _bytes(text: bytes | str) -> bytes:
    return text.encode("utf-8") if isinstance(text, str) else text
