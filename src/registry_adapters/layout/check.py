"""Validation of a layout: the entries of its index, everything that they lead to, and every file."""

from __future__ import annotations

import os
import stat

from registry_adapters.layout.blobs import open_blob
from registry_adapters.layout.directory import Directory
from registry_adapters.layout.files import kind_of
from registry_adapters.layout.layout import BLOBS, INDEX, LOCK, MARKER, Layout, blob_dirs
from registry_adapters.layout.links import FOLLOW_HINT
from registry_core.cancellation import checkpoint
from registry_core.content.safe_files import TEMPORARY_PREFIX
from registry_core.content.streams import CHUNK_SIZE
from registry_core.content.verify import Verifier
from registry_core.domain.digest import Digest
from registry_core.domain.image_names import ROOT
from registry_core.domain.reference import join_reference
from registry_core.domain.reports import Report, Severity
from registry_core.errors import IntegrityError, InvalidDigest, InvalidDocument, LayoutError
from registry_core.ops.validation.validate import Validation
from registry_core.ports.catalog import Repository

__all__ = ["check_layout"]

_LAYOUT_FILES = frozenset({MARKER, INDEX, LOCK})

_TEMPORARY_FILE = "temporary file of a running or killed writer"


def check_layout(layout: Layout, repository: Repository, *, sparse: bool = False, jobs: int = 4) -> Report:
    """Validate a layout without changing it.

    Args:
        layout: Layout to validate.
        repository: Repository in the same layout.
        sparse: Whether the children of an index may be absent.
        jobs: Number of blobs to read at the same time.

    Raises:
        RepositoryNotFound: The layout does not exist.
        Forbidden: A file cannot be read.
    """
    validation = Validation(repository, sparse=sparse)
    try:
        with layout.open() as directory:
            if directory is None:
                raise layout.not_found()
            _check_entries(layout, directory, validation, repository)
            _check_files(directory, validation, _LAYOUT_FILES.union({BLOBS}.intersection(directory.links())))
            blobs = directory.child(BLOBS, read_only=True)
            if blobs is not None:
                with blobs:
                    _check_files(blobs, validation, frozenset(blobs.links()))
            with blob_dirs(directory, read_only=True) as dirs:
                for algorithm, blob_dir in dirs.items():
                    _check_blob_dir(directory, algorithm, blob_dir, validation)
    except LayoutError as error:
        validation.add_finding(str(repository), error.message)
    return validation.report(jobs=jobs)


def _check_entries(layout: Layout, directory: Directory, validation: Validation, repository: Repository) -> None:
    index = layout.index(directory)
    for name in (ROOT, *sorted(index.repositories)):
        for tag in index.tags(name):
            try:
                index.find(tag, name)
            except LayoutError as error:
                where = join_reference("/".join(part for part in (str(repository), name) if part), tag)
                validation.add_finding(where, error.message)
    for written in dict.fromkeys(each.written for each in index.names if each.written and not each.is_mapped):
        entries = {entry.digest for entry, each in index.images() if each.written == written}
        if len(entries) > 1:
            validation.add_finding(join_reference(repository, written), f"ambiguous name of {len(entries)} manifests")
    try:
        index.check()
    except InvalidDocument as error:
        validation.add_finding(f"{directory.where(INDEX)} {error.path}", error.message)
    for number, entry in enumerate(index.entries):
        checkpoint()
        if entry.media_type:
            validation.add_descriptor(f"{directory.where(INDEX)} $.manifests[{number}]", entry)
        else:
            validation.add_reference(entry.digest)


def _check_files(directory: Directory, validation: Validation, expected: frozenset[str]) -> None:
    for name, status in directory.files():
        where = directory.where(name)
        if name.startswith(TEMPORARY_PREFIX):
            validation.add_finding(where, _TEMPORARY_FILE, severity=Severity.WARNING)
        elif name not in expected:
            what = f"{kind_of(status.st_mode)} that does not belong to the layout"
            validation.add_finding(where, what, severity=Severity.WARNING)


def _check_blob_dir(directory: Directory, algorithm: str, blob_dir: Directory, validation: Validation) -> None:
    referenced = validation.digests
    followed = frozenset(blob_dir.links())
    for name in blob_dir.directories():
        validation.add_finding(blob_dir.where(name), "a directory among the blobs", severity=Severity.WARNING)
    for name, status in blob_dir.files():
        checkpoint()
        where = blob_dir.where(name)
        if name.startswith(TEMPORARY_PREFIX):
            validation.add_finding(where, _TEMPORARY_FILE, severity=Severity.WARNING)
            continue
        try:
            digest = Digest(f"{algorithm}:{name}")
        except InvalidDigest:
            validation.add_finding(where, f"not a {algorithm} digest, so not a blob", severity=Severity.WARNING)
            continue
        problem = _problem_of_link(blob_dir, name) if name in followed else _problem_of_file(status)
        if problem:
            validation.add_finding(where, problem)
        elif digest not in referenced:
            validation.add_finding(where, "nothing refers to this blob", severity=Severity.WARNING)
            problem = _verify_blob(directory, digest) if digest.verifiable else ""
            if problem:
                validation.add_finding(where, problem)


def _problem_of_file(status: os.stat_result) -> str:
    """Why something is no blob; empty for a regular file."""
    if stat.S_ISREG(status.st_mode):
        return ""
    hint = FOLLOW_HINT if stat.S_ISLNK(status.st_mode) else ""
    return f"expected a blob, found {kind_of(status.st_mode)}{hint}"


def _problem_of_link(blob_dir: Directory, name: str) -> str:
    """Why a link does not lead to a blob; empty if it does."""
    try:
        return "" if blob_dir.is_file(name) else "expected a blob, found a dangling symbolic link"
    except LayoutError as error:
        return error.message


def _verify_blob(directory: Directory, digest: Digest) -> str:
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
