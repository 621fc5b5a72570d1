"""Pull artifacts: write their files to a directory, all of them, verified, or none.

The files are written to a staging directory inside the target directory, and moved when all are complete. Every step is
relative to open directories, and no symbolic link below the target directory is followed.
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
from registry_core.content.safe_files import create_file, open_directory, os_errors_about, write_all
from registry_core.content.streams import CHUNK_SIZE, ByteReader, BytesSource, CallableSource
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import EMPTY_JSON, TITLE, is_artifact_manifest
from registry_core.domain.names import Tag
from registry_core.errors import (
    InvalidDigest,
    InvalidDocument,
    InvalidName,
    InvalidValue,
    NotFound,
    UnsafeArchive,
    error_context,
)
from registry_core.ops.artifacts.directories import check_distinct_titles, clean_title, unpack_directory
from registry_core.ops.artifacts.push import TAR_DIGEST, UNPACK
from registry_core.ops.blobs import ProgressSource, open_verified
from registry_core.ops.extract.directory_fds import DirectoryFds
from registry_core.ops.manifests import fetch_manifest
from registry_core.ops.references import parse_reference
from registry_core.ops.workers import run_each
from registry_core.ports.catalog import Repository
from registry_core.ports.observer import Observer

__all__ = ["pull_artifact"]

_OPERATION: Final = "pull_artifact"

# The title of a packed directory whose content goes into the target directory itself.
_ROOT_TITLE: Final = "."

# The forms in which other tools write it.
_ROOT_TITLES: Final = frozenset({".", "./"})

# The values that the ORAS tools accept as true.
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})


class _File(msgspec.Struct, frozen=True):
    """A file to pull; its number names it in the staging directory."""

    number: int
    title: str
    descriptor: Descriptor
    unpack: bool


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
    """Write the files of an artifact to a directory by their titles: all of them, verified, or none.

    Titles are untrusted: titles that leave the directory, or that name the same file on some system, are refused before
    anything is fetched. No symbolic link below the directory is followed.

    Args:
        repository: Repository of the artifact.
        reference: Tag or digest of the artifact.
        directory: Target directory; created if it does not exist, but its parent must exist.
        unpack: Whether to unpack packed directories, which are written as files otherwise, and layers for which
            ``untitled`` returns ``.``. A function decides for each layer, also for layers that are not marked as
            packed: some tools do not mark them.
        overwrite: Whether to replace existing files. Directories are never replaced.
        select: Returns whether to pull a layer.
        untitled: Returns the title of a layer that has none, such as those of Helm charts; ``None`` omits the layer.
            The title ``.``, for a layer that is unpacked, means the target directory itself.
        observer: Receives progress events.
        jobs: Number of layers to fetch at a time.

    Returns:
        Paths of the files in the order of the layers. For a directory that is unpacked with the title ``.``, paths of
        all its entries.

    Raises:
        ImageNotFound: The manifest does not exist.
        NotAnImage: The manifest is an index.
        NotFound: No layer has a title, or the content of a layer is missing.
        InvalidName: ``untitled`` returned a title that is not valid on every system, or ``.`` for a layer that is not
            unpacked.
        UnsafeArchive: Titles or packed directories leave the directory, or contradict each other.
        InvalidValue: A target path already exists, or the reference is malformed.
        IntegrityError: Content does not match its digest.
        Unsupported: The system lacks the functions for doing this safely.
        OSError: The system refuses to write.
    """
    if not isinstance(jobs, int) or jobs < 1:
        raise InvalidValue(f"{_OPERATION}: jobs must be at least 1, not {jobs!r:.50}")
    parsed = parse_reference(repository, reference)
    with error_context(_OPERATION, repository.at(parsed)):
        files = _select_files(fetch_manifest(repository, parsed), select, untitled, unpack)
        with _FileInstaller(directory, overwrite=overwrite) as installer:
            installer.check_targets(file.title for file in files)
            downloader = _Downloader(repository, installer, observer)
            # The largest first, so that none runs alone at the end.
            run_each(downloader.fetch, sorted(files, key=lambda file: file.descriptor.size, reverse=True), jobs=jobs)
            checkpoint()
            return installer.install((file.number, file.title) for file in files)


def _is_packed(layer: Descriptor) -> bool:
    """Return whether a layer is marked as a packed directory."""
    return layer.annotations.get(UNPACK) in _TRUE


def _select_files(
    manifest: RawManifest,
    select: Callable[[Descriptor], bool],
    untitled: Callable[[Descriptor], str | None],
    unpack: bool | Callable[[Descriptor], bool],
) -> list[_File]:
    files, omitted = [], 0
    layers = manifest.children if is_artifact_manifest(manifest.media_type) else manifest.image.layers
    for number, layer in enumerate(layers):
        name = None if TITLE in layer.annotations else untitled(layer)
        if name is None and TITLE not in layer.annotations:
            # The empty layer of an artifact without files does not count.
            omitted += layer.media_type != EMPTY_JSON
        elif select(layer):
            is_packed = _is_packed(layer) or _is_root_title(name)
            is_unpacked = unpack(layer) if callable(unpack) else unpack and is_packed
            if name is None:
                title = _title(layer, number, unpack=is_unpacked)
            else:
                title = _given_title(name, unpack=is_unpacked)
            files.append(_File(number, title, layer, is_unpacked))
    titles = [file.title for file in files]
    if _ROOT_TITLE in titles and len(titles) > 1:
        raise UnsafeArchive(
            "a packed directory with the title '.' replaces all other files: select either the directory or the files"
        )
    check_distinct_titles(titles)
    if omitted and not files:
        raise NotFound("no layer has a title: pass untitled to name the files")
    return files


def _title(layer: Descriptor, number: int, *, unpack: bool) -> str:
    title = layer.annotations[TITLE]
    if title in _ROOT_TITLES and (unpack or _is_packed(layer)):
        if unpack:
            return _ROOT_TITLE
        raise UnsafeArchive(
            f"packed directory with the title '.' at $.layers[{number}] can only be unpacked: pass unpack=True"
        )
    try:
        return clean_title(title)
    except InvalidName as error:
        raise UnsafeArchive(f"{error.message} at $.layers[{number}]") from None


def _given_title(name: str, *, unpack: bool) -> str:
    if not _is_root_title(name):
        return clean_title(name)
    if unpack:
        return _ROOT_TITLE
    raise InvalidName(
        "untitled returned '.', which names the target directory itself: only a layer that is unpacked can have that"
        " title, so pass unpack=True, or a function that returns True for the layer"
    )


def _is_root_title(name: str | None) -> bool:
    return isinstance(name, str) and name in _ROOT_TITLES


class _FileInstaller:
    """Stage files and directories, then move all of them to a directory; close removes everything not installed.

    Args:
        directory: Target directory; created if it does not exist, but its parent must exist. Its path may contain
            symbolic links.
        overwrite: Whether to replace existing files.

    Raises:
        Unsupported: The system lacks the functions for doing this safely.
        OSError: The directory cannot be opened or created.
    """

    def __init__(self, directory: str | os.PathLike[str], *, overwrite: bool) -> None:
        require_dir_fds(f"write files to {os.fspath(directory)}")
        self._overwrite = overwrite
        self._created: list[bytes] = []
        self._installed = False
        target = Path(directory)
        self._is_new = not target.exists()
        if self._is_new:
            target.mkdir()
        self._target = target
        # The user chooses the target directory, with its links; only the paths below it are untrusted.
        self._root = open_directory(target.resolve())
        self._staging_name = f".ociport-{os.urandom(8).hex()}".encode()
        try:
            os.mkdir(self._staging_name, 0o700, dir_fd=self._root)
            self._staging = open_directory(self._staging_name, inside=self._root)
        except BaseException:
            os.close(self._root)
            self._remove_new_target()
            raise
        self._directories = DirectoryFds(self._root, self._created.append)

    def check_targets(self, titles: Iterable[str]) -> None:
        """Check that no target path exists.

        Raises:
            InvalidValue: A target path exists, and is not a file that may be replaced.
            UnsafeArchive: A parent of a target path is a symbolic link or a file.
        """
        for title in titles:
            if title == _ROOT_TITLE:
                continue
            parent, _, name = title.encode().rpartition(b"/")
            try:
                with _map_parent_errors(title):
                    directory = self._directories.open(parent)
            except FileNotFoundError:
                continue
            self._check_target(directory, name, title)

    @contextmanager
    def new_file(self, number: int) -> Iterator[FileIO]:
        """Create a file in the staging directory.

        Raises:
            Cancelled: The current scope was cancelled; the staging directory may be gone.
        """
        checkpoint()
        with FileIO(create_file(b"%d" % number, mode=0o666, inside=self._staging), "w") as file:
            yield file
            os.fsync(file.fileno())

    @contextmanager
    def new_directory(self, number: int) -> Iterator[int]:
        """Create a directory in the staging directory, and return its descriptor.

        Raises:
            Cancelled: The current scope was cancelled; the staging directory may be gone.
        """
        checkpoint()
        os.mkdir(b"%d" % number, 0o700, dir_fd=self._staging)
        directory = open_directory(b"%d" % number, inside=self._staging)
        try:
            yield directory
        finally:
            os.close(directory)

    def install(self, titles: Iterable[tuple[int, str]]) -> list[Path]:
        """Move everything from the staging directory to its target path, or change nothing.

        Args:
            titles: Numbers in the staging directory, and clean titles. The content of a directory with the title ``.``
                is moved to the target directory itself.

        Returns:
            Target paths.

        Raises:
            InvalidValue: A target path exists.
            UnsafeArchive: A parent of a target path is a symbolic link or a file.
            OSError: The system refuses.
        """
        installed: list[Path] = []
        with contextlib.ExitStack() as undo:
            for staged, title in self._staged_entries(titles):
                parent, _, name = title.encode().rpartition(b"/")
                with _map_parent_errors(title):
                    directory = self._directories.open(parent, create=True)
                self._check_target(directory, name, title)
                self._install(staged, directory, parent, title, undo)
                installed.append(self._target / title)
            self._set_permissions()
            self._installed = True
            undo.pop_all()
        os.fsync(self._root)
        return installed

    def close(self) -> None:
        """Remove what was not installed, and the directories that were created for it."""
        _remove_content(self._staging)
        os.close(self._staging)
        with contextlib.suppress(OSError):
            os.rmdir(self._staging_name, dir_fd=self._root)
        if not self._installed:
            for path in sorted(self._created, key=lambda path: path.count(b"/"), reverse=True):
                parent, _, name = path.rpartition(b"/")
                with contextlib.suppress(OSError):
                    os.rmdir(name, dir_fd=self._directories.open(parent))
        self._directories.close()
        os.close(self._root)
        self._remove_new_target()

    def _staged_entries(self, titles: Iterable[tuple[int, str]]) -> Iterator[tuple[bytes, str]]:
        """Paths in the staging directory, and titles; of a directory with the title ``.``, those of its entries."""
        for number, title in titles:
            if title != _ROOT_TITLE:
                yield b"%d" % number, title
                continue
            directory = open_directory(b"%d" % number, inside=self._staging)
            try:
                os.fchmod(directory, 0o700)
                names = sorted(os.listdir(directory))
            finally:
                os.close(directory)
            for name in names:
                yield b"%d/%s" % (number, os.fsencode(name)), name

    def _set_permissions(self) -> None:
        """Give the created parent directories the default permissions of new directories."""
        os.mkdir(b"mode", dir_fd=self._staging)
        mode = stat.S_IMODE(os.stat(b"mode", dir_fd=self._staging).st_mode)
        for path in self._created:
            os.chmod(self._directories.open(path), mode)

    def _remove_new_target(self) -> None:
        if self._is_new and not self._installed:
            with contextlib.suppress(OSError):
                self._target.rmdir()

    def _check_target(self, directory: int, name: bytes, title: str) -> None:
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not (self._overwrite and stat.S_ISREG(status.st_mode)):
            hint = "; pass overwrite=True to replace files" if stat.S_ISREG(status.st_mode) else ""
            raise InvalidValue(f"target already exists: {title!r:.200}{hint}")

    def _install(self, staged: bytes, directory: int, parent: bytes, title: str, undo: contextlib.ExitStack) -> None:
        name, backup = title.encode().rpartition(b"/")[2], b"old-" + staged.replace(b"/", b"-")
        if stat.S_ISDIR(os.stat(staged, dir_fd=self._staging, follow_symlinks=False).st_mode):
            try:
                _move_directory(staged, self._staging, name, directory)
            except (FileExistsError, NotADirectoryError):
                raise InvalidValue(f"target already exists: {title!r:.200}") from None
            undo.callback(lambda: _move_directory(name, self._directories.open(parent), staged, self._staging))
        elif self._overwrite and _link_if_exists(name, directory, backup, self._staging):
            os.replace(staged, name, src_dir_fd=self._staging, dst_dir_fd=directory)
            undo.callback(
                lambda: os.replace(backup, name, src_dir_fd=self._staging, dst_dir_fd=self._directories.open(parent))
            )
        else:
            try:
                # Unlike rename, link never replaces a file that another process has created meanwhile.
                os.link(staged, name, src_dir_fd=self._staging, dst_dir_fd=directory, follow_symlinks=False)
            except FileExistsError:
                raise InvalidValue(f"target already exists: {title!r:.200}") from None
            undo.callback(lambda: os.unlink(name, dir_fd=self._directories.open(parent)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _link_if_exists(name: bytes, directory: int, other: bytes, other_directory: int) -> bool:
    """Make a hard link to a file; return whether the file exists."""
    try:
        os.link(name, other, src_dir_fd=directory, dst_dir_fd=other_directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _move_directory(name: bytes, directory: int, other: bytes, other_directory: int) -> None:
    descriptor = open_directory(name, inside=directory)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        # A directory can be moved to another parent only if its owner may write to it.
        os.fchmod(descriptor, mode | 0o700)
        try:
            os.rename(name, other, src_dir_fd=directory, dst_dir_fd=other_directory)
        finally:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _remove_content(directory: int) -> None:
    """Remove the content of a directory, however deep, as far as the system allows."""
    pending = [os.fsencode(name) for name in os.listdir(directory)]
    count = 0
    while pending:
        name = pending.pop()
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=directory)
            continue
        with contextlib.suppress(OSError):
            os.chmod(name, 0o700, dir_fd=directory)
            child = open_directory(name, inside=directory)
            try:
                for entry in os.listdir(child):
                    # Entries are moved up instead of descending: a tree may be deeper than the limit on descriptors.
                    count += 1
                    moved = b"rest-%d" % count
                    with contextlib.suppress(OSError):
                        os.rename(os.fsencode(entry), moved, src_dir_fd=child, dst_dir_fd=directory)
                        pending.append(moved)
            finally:
                os.close(child)
            os.rmdir(name, dir_fd=directory)


@contextmanager
def _map_parent_errors(title: str) -> Iterator[None]:
    try:
        yield
    except (NotADirectoryError, FileExistsError) as error:
        raise UnsafeArchive(f"a parent directory of {title!r:.200} is a symbolic link or a file") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafeArchive(f"a parent directory of {title!r:.200} is a symbolic link") from error
        raise


class _Downloader:
    """Fetch layers to the staging directory."""

    def __init__(self, repository: Repository, installer: _FileInstaller, observer: Observer | None) -> None:
        self._repository = repository
        self._installer = installer
        self._observer = observer

    def fetch(self, file: _File) -> None:
        layer = file.descriptor
        reference = self._repository.at(layer.digest)
        with error_context(_OPERATION, reference), self._open(layer) as stored:
            if file.unpack:
                with self._installer.new_directory(file.number) as directory:
                    unpack_directory(
                        stored,
                        layer.size,
                        directory,
                        title=file.title,
                        tar_digest=_tar_digest(layer),
                        reference=reference,
                    )
                return
            with self._installer.new_file(file.number) as output:
                while data := stored.read(CHUNK_SIZE):
                    checkpoint()
                    with os_errors_about(file.title):
                        write_all(output, data)

    def _open(self, layer: Descriptor) -> ByteReader:
        embedded = layer.embedded()
        if embedded is not None:
            return BytesSource(embedded).open()
        if self._observer is None:
            return open_verified(self._repository, layer.digest, layer.size)
        source = CallableSource(lambda _: open_verified(self._repository, layer.digest, layer.size))
        return ProgressSource(source, layer.digest, layer.size, self._observer).open()


def _tar_digest(layer: Descriptor) -> Digest | None:
    text = layer.annotations.get(TAR_DIGEST)
    if text is None:
        return None
    try:
        digest = Digest(text)
    except InvalidDigest:
        raise InvalidDocument(
            f"annotation {TAR_DIGEST} is not a digest: {text!r:.200}", code="MANIFEST_INVALID"
        ) from None
    digest.hasher()
    return digest
