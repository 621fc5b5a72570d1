"""Images as file systems: flattened to one tar, or unpacked to a directory."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import msgspec

from registry_core.content.source import ByteReader
from registry_core.domain.layer_paths import ancestors, parent_of
from registry_core.errors import InvalidValue, Unsupported, during
from registry_core.ops.extract.chunks import BATCH, ChunkReader, without_holes
from registry_core.ops.extract.directory_handles import handles_work, open_directory
from registry_core.ops.extract.flatten import Flattening, StoredLayer
from registry_core.ops.extract.sinks import DirectorySink, Keep
from registry_core.ops.tar.header import padding
from registry_core.ops.tar.members import Budget, ExtractLimits, FileKind, Member
from registry_core.ops.tar.writer import END, header_of

__all__ = ["Extracted", "extract_to", "flat_tar"]


class Extracted(msgspec.Struct, frozen=True):
    """What was unpacked.

    Args:
        entries: How many files, directories and links were made.
        skipped: The devices and fifos that were not, as nobody had asked for them.
    """

    entries: int
    skipped: tuple[str, ...]


def flat_tar(
    layers: Sequence[StoredLayer], limits: ExtractLimits, *, reference: str = "", root: bool = False
) -> ByteReader:
    """The tar of what layers make together: a stream that is safe for whoever unpacks it naively (R-156).

    Names are relative and come once; directories come before what is in them, links behind what they link to; sparse
    files are written out. The same layers give the same bytes. The last read has verified every layer.

    Upper layers come first, so that what is in a directory need not come in one run: GNU tar should be given
    ``--delay-directory-restore``.

    Args:
        layers: Lowest first.
        limits: How much is accepted.
        reference: What is read, for errors.
        root: Whether the root's own entry is there, last, where a layer has one: it is left out for whoever unpacks,
            to whom the directory belongs.

    Returns:
        A reader. Its ``read`` raises ``UnsafeArchive`` where a layer contradicts itself or tries to reach outside,
        ``IntegrityError`` where one is corrupt, cut off, or not what the image says, ``TooLarge`` beyond a limit.
    """
    return ChunkReader(_chunks(layers, limits, reference, root=root))


def extract_to(
    layers: Sequence[StoredLayer],
    directory: str | os.PathLike[str],
    *,
    keep: Keep,
    limits: ExtractLimits,
    reference: str = "",
) -> Extracted:
    """Unpack layers to a directory that is empty or does not exist; complete and verified, or not at all.

    A new directory appears under its name when it is complete. One that exists keeps its inode, and is empty again
    after a failure.

    Args:
        layers: Lowest first.
        directory: Its own parent must exist.
        keep: What is kept of the files.
        limits: How much is accepted.
        reference: What is read, for errors.

    Raises:
        InvalidValue: There is something in the directory, or it is none: a symbolic link is not followed.
        UnsafeArchive: A layer contradicts itself, tries to reach outside, or has names that cannot be made.
        IntegrityError: A layer is corrupt, cut off, or not what the image says.
        TooLarge: It is beyond a limit.
        Unsupported: The system has no means to do this safely, or no extended attributes where they are asked for.
        OSError: The system refuses to make something.
    """
    if not handles_work():
        raise Unsupported("unpacking needs a system that works relative to open directories", reference=reference)
    target = Path(directory)
    try:
        root = open_directory(target)
    except FileNotFoundError:
        return _extract_new(layers, target, keep, limits, reference)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise InvalidValue(f"not a directory, or a link to one: {target}", reference=reference) from error
    try:
        if os.listdir(root):
            raise InvalidValue(f"not an empty directory: {target}", reference=reference)
        return _extract_into(root, layers, keep, limits, reference)
    finally:
        os.close(root)


def _extract_new(
    layers: Sequence[StoredLayer], target: Path, keep: Keep, limits: ExtractLimits, reference: str
) -> Extracted:
    temporary = target.with_name(f".{target.name[:50]}.{os.urandom(8).hex()}")
    temporary.mkdir(mode=0o700)
    try:
        root = open_directory(temporary)
        try:
            return _extract_into(root, layers, keep, limits, reference, publish=lambda: os.rename(temporary, target))
        finally:
            os.close(root)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.rmdir()
        raise


def _extract_into(
    root: int,
    layers: Sequence[StoredLayer],
    keep: Keep,
    limits: ExtractLimits,
    reference: str,
    *,
    publish: Callable[[], None] | None = None,
) -> Extracted:
    flat = Flattening(layers, Budget(limits, reference=reference), reference=reference)
    with contextlib.closing(DirectorySink(root, keep)) as sink, during("", reference):
        try:
            for member in flat.members():
                sink.add(member, flat.pieces())
            if flat.root is None and publish is not None:
                os.chmod(root, 0o755)
            sink.finish(flat.root)
            if publish is not None:
                publish()
        except BaseException:
            sink.clear()
            raise
        return Extracted(sink.count, tuple(os.fsdecode(path) for path in sink.skipped))


def _chunks(
    layers: Sequence[StoredLayer], limits: ExtractLimits, reference: str, *, root: bool
) -> Generator[bytes, None, None]:
    """The stream in pieces of a useful size."""
    batch: list[bytes | memoryview] = []
    count = 0
    with during("", reference):
        for part in _parts(layers, limits, reference, root=root):
            batch.append(part)
            count += len(part)
            if count >= BATCH:
                yield b"".join(batch)
                batch, count = [], 0
        yield b"".join((*batch, END))


def _parts(
    layers: Sequence[StoredLayer], limits: ExtractLimits, reference: str, *, root: bool
) -> Iterator[bytes | memoryview]:
    flat = Flattening(layers, Budget(limits, reference=reference), reference=reference)
    folders: dict[bytes, Member] | None = None
    done = {b""}
    for member in flat.members():
        path = member.path
        if parent_of(path) not in done:
            # Its parents are described further down, if at all: the names of all layers are read for that, once.
            if folders is None:
                folders = _folders(layers, limits, reference)
            for above in reversed([above for above in ancestors(path) if above not in done]):
                done.add(above)
                yield header_of(folders.get(above) or Member(above, FileKind.DIRECTORY, 0o755))
        if member.kind is FileKind.DIRECTORY:
            if path in done:
                continue
            done.add(path)
        yield header_of(member)
        if member.kind is FileKind.FILE:
            yield from without_holes(member.size, flat.pieces())
            yield bytes(padding(member.size))
    if root and flat.root is not None:
        yield header_of(msgspec.structs.replace(flat.root, path=b"."))


def _folders(layers: Sequence[StoredLayer], limits: ExtractLimits, reference: str) -> dict[bytes, Member]:
    flat = Flattening(layers, Budget(limits, reference=reference), reference=reference)
    return {member.path: member for member in flat.members() if member.kind is FileKind.DIRECTORY}
