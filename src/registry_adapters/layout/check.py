"""A whole layout checked again: its entries, what they lead to, and each file that is there."""

from __future__ import annotations

import stat

from registry_adapters.layout.blobs import open_blob
from registry_adapters.layout.directory import Directory
from registry_adapters.layout.files import kind_of
from registry_adapters.layout.garbage import blob_dirs
from registry_adapters.layout.layout import BLOBS, MARKER, Layout
from registry_core.cancellation import checkpoint
from registry_core.content.safe_files import TEMPORARY_PREFIX
from registry_core.content.streams import CHUNK_SIZE
from registry_core.content.verify import Verifier
from registry_core.domain.digest import Digest
from registry_core.domain.reports import Report, Severity
from registry_core.errors import IntegrityError, InvalidDigest, LayoutError, RepositoryNotFound
from registry_core.ops.validation.validate import Validation
from registry_core.ports.catalog import Repository

__all__ = ["check_layout"]

_EXPECTED = frozenset({MARKER, "index.json", ".ociport.lock"})


def check_layout(place: Layout, repository: Repository, *, sparse: bool = False, jobs: int = 4) -> Report:
    """What is wrong in a layout; nothing is changed.

    Args:
        place: Of the layout.
        repository: The same layout as a repository.
        sparse: Whether what indexes list may be absent.
        jobs: How many blobs are read at a time.

    Raises:
        RepositoryNotFound: There is no layout at all.
        Forbidden: A file cannot be read.
    """
    validation = Validation(repository, sparse=sparse)
    try:
        with place.open() as directory:
            if directory is None:
                raise RepositoryNotFound("no image layout there")
            _check_entries(place, directory, validation, repository)
            _check_files(directory, validation, _EXPECTED)
            blobs = directory.child(BLOBS)
            if blobs is not None:
                with blobs:
                    _check_files(blobs, validation, frozenset())
            with blob_dirs(directory) as found:
                for algorithm, shelf in found.items():
                    _check_shelf(directory, algorithm, shelf, validation)
    except LayoutError as error:
        validation.found(str(repository), error.message)
    return validation.report(jobs=jobs)


def _check_entries(place: Layout, directory: Directory, validation: Validation, repository: Repository) -> None:
    index = place.index(directory)
    for tag in index.tags:
        try:
            index.find(tag)
        except LayoutError as error:
            validation.found(repository.at(tag), error.message)
    for number, entry in enumerate(index.entries):
        checkpoint()
        validation.entry(entry, f"{directory.where('index.json')} $.manifests[{number}]")


def _check_files(directory: Directory, validation: Validation, expected: frozenset[str]) -> None:
    for name, status in directory.files():
        where = directory.where(name)
        if name.startswith(TEMPORARY_PREFIX):
            validation.found(where, "left behind by a writer, or being written", severity=Severity.WARNING)
        elif name not in expected:
            what = f"{kind_of(status.st_mode)} that is no part of a layout"
            validation.found(where, what, severity=Severity.WARNING)


def _check_shelf(directory: Directory, algorithm: str, shelf: Directory, validation: Validation) -> None:
    needed = validation.named
    for name in shelf.directories():
        validation.found(shelf.where(name), "a directory where blobs are", severity=Severity.WARNING)
    for name, status in shelf.files():
        checkpoint()
        where = shelf.where(name)
        if name.startswith(TEMPORARY_PREFIX):
            validation.found(where, "left behind by a writer, or being written", severity=Severity.WARNING)
            continue
        try:
            digest = Digest(f"{algorithm}:{name}")
        except InvalidDigest:
            validation.found(where, "not the name of a blob", severity=Severity.WARNING)
            continue
        if not stat.S_ISREG(status.st_mode):
            validation.found(where, f"{kind_of(status.st_mode)} where a blob should be")
        elif digest not in needed:
            validation.found(where, "nothing refers to it", severity=Severity.WARNING)
            problem = _problem(directory, digest) if digest.verifiable else ""
            if problem:
                validation.found(where, problem)


def _problem(directory: Directory, digest: Digest) -> str:
    file = open_blob(directory, digest)
    if file is None:
        return ""
    verifier = Verifier(digest, None)
    try:
        with file:
            while data := file.read(CHUNK_SIZE):
                verifier.update(data)
        verifier.finish()
    except IntegrityError as error:
        return error.message
    return ""
