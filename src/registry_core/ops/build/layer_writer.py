"""Layers from files: the same files give the same tar on any machine (image-spec layer.md).

Nothing of the machine goes in: no owners, times, link counts or directory order. Headers are written here, field by
field, because what the standard library writes has changed between versions. The bytes of the compressed
layer are up to the zlib that Python was built with.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from registry_core.content.compression import GZIP, Compression
from registry_core.content.source import PIECE, ByteSource, BytesSource, FileSource
from registry_core.errors import InvalidName, InvalidValue, SizeMismatch, TooLarge
from registry_core.ops.build.new_layer import LayerStream, NewLayer
from registry_core.scope import checkpoint

__all__ = ["Entry", "NewLayer", "clean_name", "directory_entries", "file_entries", "write_layer"]

_BLOCK: Final = 512
_REGULAR, _SYMLINK, _DIRECTORY, _EXTENDED = b"0", b"2", b"5", b"x"
_PROGRAMS: Final = (b"#!", b"\x7fELF")


class Entry(msgspec.Struct, frozen=True):
    """One member of a layer.

    Args:
        kind: ``0`` for a file, ``2`` for a symbolic link, ``5`` for a directory, as tar has it.
        mode: Its permissions.
        size: Of the content, in bytes.
        content: Of a file.
        link: Where a symbolic link points, as it stands.
    """

    kind: bytes
    mode: int
    size: int = 0
    content: ByteSource | None = None
    link: str = ""


_FOLDER: Final = Entry(_DIRECTORY, 0o755)


def clean_name(name: str) -> str:
    """A member's name: relative, with single slashes and without dots; empty for the root itself.

    Raises:
        InvalidName: It climbs with ``..``, has a NUL, or is not text.
    """
    if not isinstance(name, str) or "\0" in name:
        raise InvalidName(f"not a path: {name!r:.200}")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidName(f"a path that leaves the image: {name!r:.200}")
    _encoded(name)
    return "/".join(parts)


def file_entries(files: Mapping[str, bytes | str | os.PathLike[str]]) -> dict[str, Entry]:
    """Members for single files, by their names in the image.

    Files on disk are executable where their owner may execute them; content given as such is, where it begins as
    programs do: with ``#!`` or as ELF.

    Args:
        files: Bytes, text (as UTF-8), or the path of a file on disk.

    Raises:
        InvalidName: A name leaves the image, or is the image's root.
        InvalidValue: What stands on disk is not a file.
        OSError: It cannot be read.
    """
    entries: dict[str, Entry] = {}
    for name, content in files.items():
        cleaned = clean_name(name)
        if not cleaned:
            raise InvalidName(f"not a file's path: {name!r:.200}")
        if cleaned in entries:
            raise InvalidName(f"two files for one path: {cleaned!r:.200}")
        if isinstance(content, os.PathLike):
            entries[cleaned] = _from_disk(Path(content), follow=True)
        elif isinstance(content, bytes | bytearray | memoryview | str):
            data = content.encode("utf-8") if isinstance(content, str) else bytes(content)
            mode = 0o755 if data.startswith(_PROGRAMS) else 0o644
            entries[cleaned] = Entry(_REGULAR, mode, len(data), BytesSource(data))
        else:
            raise InvalidValue(f"neither content nor a path for {cleaned!r:.200}: {type(content).__name__}")
    return entries


def directory_entries(directory: str | os.PathLike[str], target: str = "") -> dict[str, Entry]:
    """Members for everything below a directory on disk; symbolic links are kept as they are, never followed.

    Args:
        directory: On disk.
        target: Where its content goes in the image; the root if empty.

    Raises:
        InvalidName: The target leaves the image, or a file's name is not UTF-8.
        InvalidValue: Something is neither a file, a directory nor a symbolic link.
        OSError: Something cannot be read.
    """
    base = clean_name(target)
    entries = {base: _FOLDER} if base else {}
    waiting = [(Path(directory), base)]
    while waiting:
        checkpoint()
        folder, prefix = waiting.pop()
        with os.scandir(folder) as found:
            names = [item.name for item in found]
        for name in names:
            member = clean_name(f"{prefix}/{name}")
            path = folder / name
            entries[member] = entry = _from_disk(path, follow=False)
            if entry.kind == _DIRECTORY:
                waiting.append((path, member))
    return entries


def write_layer(entries: Mapping[str, Entry], compression: Compression = GZIP) -> NewLayer:
    """A compressed layer of some members, parents before what is in them.

    Args:
        entries: By clean names; directories that are not among them are made.
        compression: How it is stored.

    Raises:
        InvalidName: Something lies below a file.
        SizeMismatch: A file changed while it was read.
        OSError: A file cannot be read.
        Unsupported: The compression is zstd, which is not installed.
        Cancelled: The ambient scope was cancelled.
        DeadlineExceeded: Its deadline has passed.
    """
    writer = LayerStream(compression)
    for name, entry in _with_parents(entries):
        checkpoint()
        writer.write(_header(name, entry))
        if entry.content is not None:
            for piece in _content(name, entry.content, entry.size):
                writer.write(piece)
            writer.write(bytes(-entry.size % _BLOCK))
    writer.write(bytes(2 * _BLOCK))
    return writer.finish()


def _with_parents(entries: Mapping[str, Entry]) -> Iterator[tuple[str, Entry]]:
    whole = dict(entries)
    for name in entries:
        parent = name.rpartition("/")[0]
        while parent:
            if whole.setdefault(parent, _FOLDER).kind != _DIRECTORY:
                raise InvalidName(f"{name!r:.200} lies below {parent!r:.200}, which is not a directory")
            parent = parent.rpartition("/")[0]
    return iter(sorted(whole.items(), key=lambda item: item[0].split("/")))


def _from_disk(path: Path, *, follow: bool) -> Entry:
    status = path.stat() if follow else path.lstat()
    if stat.S_ISLNK(status.st_mode):
        link = os.fspath(path.readlink())
        _encoded(link)
        return Entry(_SYMLINK, 0o777, link=link)
    if stat.S_ISDIR(status.st_mode) and not follow:
        return _FOLDER
    if not stat.S_ISREG(status.st_mode):
        raise InvalidValue(f"not a file: {path}")
    mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
    return Entry(_REGULAR, mode, status.st_size, FileSource(path))


def _content(name: str, source: ByteSource, size: int) -> Iterator[bytes]:
    count = 0
    with source.open() as reader:
        while data := reader.read(PIECE):
            checkpoint()
            count += len(data)
            if count > size:
                break
            yield data
    if count != size:
        raise SizeMismatch(f"{name!r:.200} changed while it was read", expected=size, actual=count)


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidName(f"not UTF-8: {text!r:.200}") from None


def _header(name: str, entry: Entry) -> bytes:
    full = f"{name}/" if entry.kind == _DIRECTORY else name
    records = {"path": full, "linkpath": entry.link}
    extended = b"".join(
        _record(key, value) for key, value in records.items() if len(_encoded(value)) > 100 or not value.isascii()
    )
    if entry.size > 0o77777777777:
        extended += _record("size", str(entry.size))
    plain = _ustar(full, entry.kind, entry.mode, min(entry.size, 0o77777777777), entry.link)
    if not extended:
        return plain
    head = _ustar("PaxHeaders/member", _EXTENDED, 0o644, len(extended), "")
    return head + extended + bytes(-len(extended) % _BLOCK) + plain


def _record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode()
    length = len(body)
    while length != len(body) + len(str(length)):
        length = len(body) + len(str(length))
    return f"{length}".encode() + body


def _ustar(name: str, kind: bytes, mode: int, size: int, link: str) -> bytes:
    if size < 0 or size > 0o77777777777:
        raise TooLarge("too large for a tar header")
    fields = b"".join(
        (
            _ascii(name).ljust(100, b"\0"),
            b"%07o\0" % mode,
            b"%07o\0" % 0,
            b"%07o\0" % 0,
            b"%011o\0" % size,
            b"%011o\0" % 0,
            b" " * 8,
            kind,
            _ascii(link).ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),
            b"%07o\0" % 0,
            b"%07o\0" % 0,
            bytes(155 + 12),
        )
    )
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def _ascii(text: str) -> bytes:
    return text.encode("ascii", "replace")[:100]
