"""Artifacts back on disk.

Files that appear in a directory together: all of them, whole, or none.

They are made in a private directory beside where they go, and moved once all are there. Every step goes through open
directories, and no link is followed below the one that was named.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.operating_system import require_dir_fds
from registry_core.content.safe_files import create_file, open_directory
from registry_core.content.streams import CHUNK_SIZE, ByteReader, BytesSource, CallableSource
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import EMPTY_JSON, TITLE
from registry_core.domain.names import Tag
from registry_core.domain.reference import parse_tag_or_digest
from registry_core.errors import (
    InvalidDigest,
    InvalidDocument,
    InvalidName,
    InvalidValue,
    NotFound,
    UnsafeArchive,
    error_context,
)
from registry_core.ops.artifacts.directories import check_distinct_titles, clean_title
from registry_core.ops.artifacts.directories import unpack as unpack_tar
from registry_core.ops.artifacts.push import TAR_DIGEST, UNPACK
from registry_core.ops.blobs import ProgressSource, open_verified
from registry_core.ops.extract.directory_fds import DirectoryFds
from registry_core.ops.manifests import fetch_manifest
from registry_core.ops.workers import run_each
from registry_core.ports.catalog import Repository
from registry_core.ports.observer import Observer

__all__ = ["HERE", "FileInstaller", "is_packed", "pull_artifact"]


# The title of a packed directory whose files belong into the directory itself.
HERE: Final = "."


class FileInstaller:
    """Files and directories on their way into one directory; closing throws away what was not placed.

    Args:
        directory: Where to; made if it does not exist, though not its parents. It may be reached through links.
        overwrite: Whether files that exist are replaced.

    Raises:
        Unsupported: The system has no means to do this safely.
        OSError: There is no such directory, and none can be made.
    """

    def __init__(self, directory: str | os.PathLike[str], *, overwrite: bool) -> None:
        require_dir_fds(f"write files to {os.fspath(directory)}")
        self._overwrite = overwrite
        self._made: list[bytes] = []
        self._placed = False
        target = Path(directory)
        self._is_new = not target.exists()
        if self._is_new:
            target.mkdir()
        self._target = target
        # The directory itself is the caller's choice, links and all; only what is below it is not trusted.
        self._root = open_directory(target.resolve())
        self._name = f".ociport-{os.urandom(8).hex()}".encode()
        try:
            os.mkdir(self._name, 0o700, dir_fd=self._root)
            self._stage = open_directory(self._name, inside=self._root)
        except BaseException:
            os.close(self._root)
            self._forget_root()
            raise
        self._handles = DirectoryFds(self._root, self._made.append)

    def check(self, titles: Iterable[str]) -> None:
        """Nothing, if nothing is in the way of any of these.

        Raises:
            InvalidValue: Something is.
            UnsafeArchive: A link or a file stands where a directory should be.
        """
        for title in titles:
            if title == HERE:
                continue
            folder, _, name = title.encode().rpartition(b"/")
            try:
                with _explained(title):
                    handle = self._handles.open(folder)
            except FileNotFoundError:
                continue
            self._check_free(handle, name, title)

    @contextmanager
    def file(self, number: int) -> Iterator[FileIO]:
        """A new file, to be placed later under that number.

        Raises:
            Cancelled: The ambient scope was cancelled, and the stage may be gone.
        """
        checkpoint()
        with FileIO(create_file(b"%d" % number, mode=0o666, inside=self._stage), "w") as file:
            yield file
            os.fsync(file.fileno())

    @contextmanager
    def folder(self, number: int) -> Iterator[int]:
        """A descriptor of a new directory, to be placed later under that number.

        Raises:
            Cancelled: The ambient scope was cancelled, and the stage may be gone.
        """
        checkpoint()
        os.mkdir(b"%d" % number, 0o700, dir_fd=self._stage)
        handle = open_directory(b"%d" % number, inside=self._stage)
        try:
            yield handle
        finally:
            os.close(handle)

    def place(self, titles: Iterable[tuple[int, str]]) -> list[Path]:
        """Give everything its name.

        Args:
            titles: By number, clean; what is in a directory called ``.`` gets its name in the directory itself.

        Raises:
            InvalidValue: Something is in the way; nothing has changed.
            UnsafeArchive: A link or a file stands where a directory should be; nothing has changed.
            OSError: The system refuses; nothing has changed.
        """
        placed: list[Path] = []
        with contextlib.ExitStack() as undo:
            for staged, title in self._staged(titles):
                folder, _, name = title.encode().rpartition(b"/")
                with _explained(title):
                    handle = self._handles.open(folder, create=True)
                self._check_free(handle, name, title)
                self._move(staged, handle, folder, title, undo)
                placed.append(self._target / title)
            self._open_up()
            self._placed = True
            undo.pop_all()
        os.fsync(self._root)
        return placed

    def close(self) -> None:
        """Remove what was not placed, and the directories made for it."""
        _empty(self._stage)
        os.close(self._stage)
        with contextlib.suppress(OSError):
            os.rmdir(self._name, dir_fd=self._root)
        if not self._placed:
            for path in sorted(self._made, key=lambda path: path.count(b"/"), reverse=True):
                folder, _, name = path.rpartition(b"/")
                with contextlib.suppress(OSError):
                    os.rmdir(name, dir_fd=self._handles.open(folder))
        self._handles.close()
        os.close(self._root)
        self._forget_root()

    def _staged(self, titles: Iterable[tuple[int, str]]) -> Iterator[tuple[bytes, str]]:
        """Where everything is in the stage, and what it is to be called."""
        for number, title in titles:
            if title != HERE:
                yield b"%d" % number, title
                continue
            handle = open_directory(b"%d" % number, inside=self._stage)
            try:
                os.fchmod(handle, 0o700)
                names = sorted(os.listdir(handle))
            finally:
                os.close(handle)
            for name in names:
                yield b"%d/%s" % (number, os.fsencode(name)), name

    def _open_up(self) -> None:
        """Give the directories that were made on the way the permissions that new ones have here."""
        os.mkdir(b"mode", dir_fd=self._stage)
        mode = stat.S_IMODE(os.stat(b"mode", dir_fd=self._stage).st_mode)
        for path in self._made:
            os.chmod(self._handles.open(path), mode)

    def _forget_root(self) -> None:
        if self._is_new and not self._placed:
            with contextlib.suppress(OSError):
                self._target.rmdir()

    def _check_free(self, handle: int, name: bytes, title: str) -> None:
        try:
            status = os.stat(name, dir_fd=handle, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not (self._overwrite and stat.S_ISREG(status.st_mode)):
            raise InvalidValue(f"something is in the way: {title!r:.200}")

    def _move(self, staged: bytes, handle: int, folder: bytes, title: str, undo: contextlib.ExitStack) -> None:
        name, kept = title.encode().rpartition(b"/")[2], b"old-" + staged.replace(b"/", b"-")
        if stat.S_ISDIR(os.stat(staged, dir_fd=self._stage, follow_symlinks=False).st_mode):
            try:
                _move_directory(staged, self._stage, name, handle)
            except (FileExistsError, NotADirectoryError):
                raise InvalidValue(f"something is in the way: {title!r:.200}") from None
            undo.callback(lambda: _move_directory(name, self._handles.open(folder), staged, self._stage))
        elif self._overwrite and _linked(name, handle, kept, self._stage):
            os.replace(staged, name, src_dir_fd=self._stage, dst_dir_fd=handle)
            undo.callback(lambda: os.replace(kept, name, src_dir_fd=self._stage, dst_dir_fd=self._handles.open(folder)))
        else:
            try:
                # Unlike renaming, this never replaces what somebody else has put there meanwhile.
                os.link(staged, name, src_dir_fd=self._stage, dst_dir_fd=handle, follow_symlinks=False)
            except FileExistsError:
                raise InvalidValue(f"something is in the way: {title!r:.200}") from None
            undo.callback(lambda: os.unlink(name, dir_fd=self._handles.open(folder)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _linked(name: bytes, folder: int, other: bytes, target: int) -> bool:
    """Give a file one more name; ``False`` where there is no such file."""
    try:
        os.link(name, other, src_dir_fd=folder, dst_dir_fd=target, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _move_directory(name: bytes, folder: int, other: bytes, target: int) -> None:
    handle = open_directory(name, inside=folder)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        # A directory that its owner may not write cannot be moved to another one.
        os.fchmod(handle, mode | 0o700)
        try:
            os.rename(name, other, src_dir_fd=folder, dst_dir_fd=target)
        finally:
            os.fchmod(handle, mode)
    finally:
        os.close(handle)


def _empty(stage: int) -> None:
    """Remove all that is in a directory, however deep, as far as the system lets that happen."""
    waiting = [os.fsencode(name) for name in os.listdir(stage)]
    count = 0
    while waiting:
        name = waiting.pop()
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=stage)
            continue
        with contextlib.suppress(OSError):
            os.chmod(name, 0o700, dir_fd=stage)
            folder = open_directory(name, inside=stage)
            try:
                for inner in os.listdir(folder):
                    # Moved up instead of gone down to: a tree may be deeper than there are descriptors.
                    count += 1
                    raised = b"rest-%d" % count
                    with contextlib.suppress(OSError):
                        os.rename(os.fsencode(inner), raised, src_dir_fd=folder, dst_dir_fd=stage)
                        waiting.append(raised)
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=stage)


@contextmanager
def _explained(title: str) -> Iterator[None]:
    try:
        yield
    except (NotADirectoryError, FileExistsError) as error:
        raise UnsafeArchive(f"a link or a file is on the way to {title!r:.200}") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafeArchive(f"a link is on the way to {title!r:.200}") from error
        raise


_OPERATION: Final = "pull_artifact"

# What other tools call the directory that they were started in.
_HERE: Final = frozenset({".", "./"})

# What the tools of the ORAS project take for yes.
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})


class _Part(msgspec.Struct, frozen=True):
    number: int
    title: str
    descriptor: Descriptor
    unpacked: bool


def pull_artifact(
    repository: Repository,
    reference: Tag | Digest | str,
    directory: str | os.PathLike[str],
    *,
    unpack: bool | Callable[[Descriptor], bool] = False,
    overwrite: bool = False,
    select: Callable[[Descriptor], bool] = lambda _: True,
    untitled: Callable[[Descriptor], str | None] = lambda _: None,
    observer: Observer | None = None,
    jobs: int = 4,
) -> list[Path]:
    """Write an artifact's files to a directory by their titles: all of them, complete and verified, or none.

    Titles are somebody else's words: those that lead out of the directory, or mean the same file on some system, are
    refused before anything is fetched. No link below the directory is followed.

    Args:
        repository: Where the artifact is.
        reference: A tag or digest.
        directory: Made if it does not exist; its own parent must exist.
        unpack: Whether packed directories become directories again; they stay single files otherwise. A function says
            so of single files, also of those that are not marked as packed: some tools do not.
        overwrite: Whether files that exist are replaced. Directories never are.
        select: Which files are wanted, by their descriptors.
        untitled: What to call a file that has no title, as those of a Helm chart; ``None`` leaves it out.
        observer: Told how far each has come.
        jobs: How many are fetched at a time.

    Returns:
        The paths of what was written, in the artifact's order; of a packed directory that is called ``.``, of all that
        was in it.

    Raises:
        ImageNotFound: There is no such manifest.
        NotAnImage: It is an index.
        NotFound: Nothing in it has a title, or its content is missing.
        InvalidName: ``untitled`` gave a name that no file can have.
        UnsafeArchive: Titles or a packed directory reach outside, or contradict each other.
        InvalidValue: Something is in the way, or the reference is malformed.
        IntegrityError: Content is not what the manifest says.
        Unsupported: The system has no means to do this safely.
        OSError: The system refuses to write.
    """
    if not isinstance(jobs, int) or jobs < 1:
        raise InvalidValue(f"a pull needs at least one job, not {jobs!r:.50}")
    named = reference if isinstance(reference, Tag | Digest) else parse_tag_or_digest(reference)
    unpacked = unpack if callable(unpack) else lambda file: unpack and is_packed(file)
    with error_context(_OPERATION, repository.at(named)):
        parts = _parts(fetch_manifest(repository, named), select, untitled, unpacked)
        with FileInstaller(directory, overwrite=overwrite) as to:
            to.check(part.title for part in parts)
            delivery = _Downloader(repository, to, observer)
            # The largest first, so that none is left to be waited for alone.
            run_each(delivery.fetch, sorted(parts, key=lambda part: part.descriptor.size, reverse=True), jobs=jobs)
            checkpoint()
            return to.place((part.number, part.title) for part in parts)


def is_packed(file: Descriptor) -> bool:
    """Whether a file is marked as a directory that was packed."""
    return file.annotations.get(UNPACK) in _TRUE


def _parts(
    manifest: RawManifest,
    select: Callable[[Descriptor], bool],
    untitled: Callable[[Descriptor], str | None],
    unpacked: Callable[[Descriptor], bool],
) -> list[_Part]:
    parts, nameless = [], 0
    for number, layer in enumerate(manifest.image.layers):
        name = None if TITLE in layer.annotations else untitled(layer)
        if name is None and TITLE not in layer.annotations:
            # The empty layer of an artifact without files is none.
            nameless += layer.media_type != EMPTY_JSON
        elif select(layer):
            unfold = unpacked(layer)
            title = _title(layer, number, unpacked=unfold) if name is None else clean_title(name)
            parts.append(_Part(number, title, layer, unfold))
    titles = [part.title for part in parts]
    if HERE in titles and len(titles) > 1:
        raise UnsafeArchive("a packed directory takes the place of all other files: select one of them")
    check_distinct_titles(titles)
    if nameless and not parts:
        raise NotFound("nothing in it has a title to be written under")
    return parts


def _title(layer: Descriptor, number: int, *, unpacked: bool) -> str:
    title = layer.annotations[TITLE]
    if title in _HERE and (unpacked or is_packed(layer)):
        if unpacked:
            return HERE
        raise UnsafeArchive(f"a packed directory without a name, which can only be unpacked, at $.layers[{number}]")
    try:
        return clean_title(title)
    except InvalidName as error:
        raise UnsafeArchive(f"{error.message} at $.layers[{number}]") from None


class _Downloader:
    """Fetches parts to where they can be placed from."""

    def __init__(self, repository: Repository, target: FileInstaller, observer: Observer | None) -> None:
        self._repository = repository
        self._target = target
        self._observer = observer

    def fetch(self, part: _Part) -> None:
        reference = self._repository.at(part.descriptor.digest)
        with error_context(_OPERATION, reference), self._open(part.descriptor) as stored:
            if part.unpacked:
                with self._target.folder(part.number) as folder:
                    unpack_tar(
                        stored,
                        part.descriptor.size,
                        folder,
                        title=part.title,
                        tar_digest=_tar_digest(part.descriptor),
                        reference=reference,
                    )
                return
            with self._target.file(part.number) as file:
                while data := stored.read(CHUNK_SIZE):
                    checkpoint()
                    view = memoryview(data)
                    while len(view):
                        view = view[file.write(view) :]

    def _open(self, part: Descriptor) -> ByteReader:
        embedded = part.embedded()
        if embedded is not None:
            return BytesSource(embedded).open()
        if self._observer is None:
            return open_verified(self._repository, part.digest, part.size)
        source = CallableSource(lambda _: open_verified(self._repository, part.digest, part.size))
        return ProgressSource(source, part.digest, part.size, self._observer).open()


def _tar_digest(part: Descriptor) -> Digest | None:
    text = part.annotations.get(TAR_DIGEST)
    if text is None:
        return None
    try:
        digest = Digest(text)
    except InvalidDigest:
        raise InvalidDocument(f"not a digest of a directory: {text!r:.200}") from None
    digest.hasher()
    return digest
