"""Artifacts back on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from registry_core.content.source import PIECE, ByteReader, BytesSource, OpenerSource
from registry_core.domain.annotations import TITLE
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import EMPTY_JSON
from registry_core.domain.names import Tag
from registry_core.domain.reference import locator
from registry_core.domain.titles import clean_title, distinct_titles
from registry_core.errors import (
    InvalidDigest,
    InvalidDocument,
    InvalidName,
    InvalidValue,
    NotFound,
    UnsafeArchive,
    during,
)
from registry_core.ops.artifacts.directory_tars import unpack as unpack_tar
from registry_core.ops.artifacts.placements import HERE, Placements
from registry_core.ops.artifacts.push import TAR_DIGEST, UNPACK
from registry_core.ops.graph import fetch
from registry_core.ops.progress import ProgressSource
from registry_core.ops.read import verified
from registry_core.ops.workers import Workers
from registry_core.ports.observer import Observer
from registry_core.ports.repository import Repository
from registry_core.scope import CancelScope, checkpoint

__all__ = ["is_packed", "pull_artifact"]

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
    named = reference if isinstance(reference, Tag | Digest) else locator(reference)
    unpacked = unpack if callable(unpack) else lambda file: unpack and is_packed(file)
    with during(_OPERATION, repository.at(named)):
        parts = _parts(fetch(repository, named), select, untitled, unpacked)
        with CancelScope() as scope, Workers(jobs, scope) as workers, Placements(directory, overwrite=overwrite) as to:
            to.check(part.title for part in parts)
            delivery = _Delivery(repository, to, observer)
            # The largest first, so that none is left to be waited for alone.
            workers.each(delivery.fetch, sorted(parts, key=lambda part: part.descriptor.size, reverse=True))
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
    distinct_titles(titles)
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


class _Delivery:
    """Fetches parts to where they can be placed from."""

    def __init__(self, repository: Repository, target: Placements, observer: Observer | None) -> None:
        self._repository = repository
        self._target = target
        self._observer = observer

    def fetch(self, part: _Part) -> None:
        reference = self._repository.at(part.descriptor.digest)
        with during(_OPERATION, reference), self._open(part.descriptor) as stored:
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
                while data := stored.read(PIECE):
                    checkpoint()
                    view = memoryview(data)
                    while len(view):
                        view = view[file.write(view) :]

    def _open(self, part: Descriptor) -> ByteReader:
        embedded = part.embedded()
        if embedded is not None:
            return BytesSource(embedded).open()
        if self._observer is None:
            return verified(self._repository, part.digest, part.size)
        source = OpenerSource(lambda _: verified(self._repository, part.digest, part.size))
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
