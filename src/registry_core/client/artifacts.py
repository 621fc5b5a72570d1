"""Artifacts: files in a repository, alone or about something that is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from registry_core.client.place import Place
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.names import Tag
from registry_core.domain.reference import locator
from registry_core.errors import during

if TYPE_CHECKING:
    from registry_core.ops.artifacts.push import ArtifactFile
    from registry_core.ports.observer import Observer

__all__ = ["ArtifactMethods"]


class ArtifactMethods(Place):
    """The part of the client that is about artifacts; what it takes is loaded when it is first used."""

    def push_artifact(
        self,
        tag: str,
        files: Iterable[ArtifactFile | os.PathLike[str]],
        *,
        artifact_type: str = "",
        config: ArtifactFile | None = None,
        annotations: Mapping[str, str] | None = None,
        observer: Observer | None = None,
        jobs: int = 4,
    ) -> Descriptor:
        """Store files and directories as an artifact under a tag.

        Args:
            tag: What points at it.
            files: In their order; a path alone is a file or directory by its own name.
            artifact_type: What kind of artifact it is, as a media type; may be left out where ``config`` has one.
            config: More about the whole, with a media type of its own.
            annotations: Of the manifest.
            observer: Told of each blob, in place of the client's own observer.
            jobs: How many blobs move at a time.

        Raises:
            InvalidValue: The tag, a title, a media type or an annotation is malformed.
            UnsafeArchive: Two titles are the same file.
            Unsupported: The backend cannot be written.
            OSError: A file cannot be read.
        """
        from registry_core.ops.artifacts.push import push_artifact

        with during("push_artifact", self._at(tag)):
            return push_artifact(
                self._repository,
                files,
                artifact_type=artifact_type,
                config=config,
                annotations=annotations,
                tags=(Tag(tag),),
                observer=self._told(observer),
                jobs=jobs,
            )

    def attach(
        self,
        subject: str,
        files: Iterable[ArtifactFile | os.PathLike[str]],
        *,
        artifact_type: str = "",
        config: ArtifactFile | None = None,
        annotations: Mapping[str, str] | None = None,
        observer: Observer | None = None,
        jobs: int = 4,
    ) -> Descriptor:
        """Store files as an artifact about an image, an index or another artifact: it is one of its referrers then.

        Args:
            subject: What it is about, by tag or digest.
            files: As of ``push_artifact``; there may be none at all.
            artifact_type: As of ``push_artifact``.
            config: As of ``push_artifact``.
            annotations: Of the manifest, and of its entry in the list of referrers.
            observer: Told of each blob, in place of the client's own observer.
            jobs: How many blobs move at a time.

        Raises:
            ImageNotFound: The subject is not here.
            InvalidValue: The reference, a title, a media type or an annotation is malformed.
            UnsafeArchive: Two titles are the same file.
            Unsupported: The backend cannot be written.
            OSError: A file cannot be read.
        """
        from registry_core.ops.artifacts.push import push_artifact

        with during("attach", self._at(subject)):
            return push_artifact(
                self._repository,
                files,
                artifact_type=artifact_type,
                config=config,
                subject=locator(subject),
                annotations=annotations,
                observer=self._told(observer),
                jobs=jobs,
                operation="attach",
            )

    def pull_artifact(
        self,
        reference: str,
        directory: str | os.PathLike[str],
        *,
        unpack: bool | Callable[[Descriptor], bool] = False,
        overwrite: bool = False,
        select: Callable[[Descriptor], bool] = lambda _: True,
        untitled: Callable[[Descriptor], str | None] = lambda _: None,
        observer: Observer | None = None,
        jobs: int = 4,
    ) -> list[Path]:
        """Write an artifact's files to a directory by their titles: all of them, verified, or none.

        Args:
            reference: A tag or a digest.
            directory: Where to; made if it does not exist.
            unpack: Whether packed directories become directories again, or which of them.
            overwrite: Whether files that exist are replaced.
            select: Which files, by their descriptors.
            untitled: What files without a title are called.
            observer: Told of each blob, in place of the client's own observer.
            jobs: How many blobs move at a time.

        Raises:
            ImageNotFound: No such manifest.
            NotAnImage: It is an index.
            NotFound: Nothing in it has a title, or its content is missing.
            UnsafeArchive: Titles or a packed directory reach outside, or contradict each other.
            InvalidValue: Something is in the way, or the reference is malformed.
            IntegrityError: Content is not what the manifest says.
            OSError: A file cannot be written.
        """
        from registry_core.ops.artifacts.pull import pull_artifact

        with during("pull_artifact", self._at(reference)):
            return pull_artifact(
                self._repository,
                reference,
                directory,
                unpack=unpack,
                overwrite=overwrite,
                select=select,
                untitled=untitled,
                observer=self._told(observer),
                jobs=jobs,
            )

    def list_referrers(self, subject: str, artifact_type: str = "") -> list[Descriptor]:
        """The manifests that refer to one: signatures, bills of materials, attestations. Each comes once.

        Args:
            subject: A tag, or a digest, which need not be here.
            artifact_type: Only those of this type.

        Raises:
            ImageNotFound: No such tag.
            InvalidValue: The reference is malformed.
            TooLarge: There are more than any honest registry lists.
        """
        from registry_core.ops.artifacts.referrers import list_referrers

        with during("list_referrers", self._at(subject)):
            return list(list_referrers(self._repository, subject, artifact_type=artifact_type))
