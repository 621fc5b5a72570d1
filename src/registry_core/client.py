"""The facade: one path into one backend, and everything one does with what is there.

Where a client works: a path inside a backend.

Images and indexes: looked at, stored, copied, tagged, removed.

What is there: tags, and repositories below a path.

Artifacts: files in a repository, alone or about something that is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from registry_core.cancellation import checkpoint
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.image_config import ImageConfig
from registry_core.domain.names import PathSegments, Tag
from registry_core.domain.platform import Platform
from registry_core.domain.reference import parse_tag_or_digest
from registry_core.errors import ImageNotFound, InvalidReference, error_context
from registry_core.ops.images import Image, Index, Manifest
from registry_core.ops.listing import repositories_below, tags_of
from registry_core.ops.manifests import fetch_manifest, select
from registry_core.ops.transfer.copy import move_graph
from registry_core.ports.catalog import Catalog, Repository

if TYPE_CHECKING:
    from registry_core.ops.artifacts.push import ArtifactFile
    from registry_core.ops.transfer.options import CopyOptions
    from registry_core.ports.observer import Observer

__all__ = ["ArtifactMethods", "ImageMethods", "ListingMethods", "Place", "RegistryClient", "platform_of"]


class Place:
    """A path inside a backend, and what calls there fall back to; see ``RegistryClient`` for its arguments."""

    def __init__(
        self,
        catalog: Catalog,
        *segments: str,
        default_platform: Platform | str | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._catalog = catalog
        self._path = PathSegments(*segments)
        self._default_platform = platform_of(default_platform)
        self._observer = observer
        self._repository = catalog.repository(self._path.repository)

    def with_segment(self, *segments: str) -> Self:
        """A client for a path below this one; this one stays as it is, and both share the backend.

        Args:
            *segments: Outer slashes are trimmed; ``"a/b"`` is one segment.

        Raises:
            InvalidName: A segment is empty or malformed.
        """
        path = self._path.with_segment(*segments)
        return type(self)(self._catalog, *path, default_platform=self._default_platform, observer=self._observer)

    @property
    def registry(self) -> str:
        """Backend and path, as ``registry.example.com/org/repo``."""
        return str(self._repository)

    @property
    def path(self) -> PathSegments:
        """The path inside the backend."""
        return self._path

    @property
    def catalog(self) -> Catalog:
        """The backend."""
        return self._catalog

    @property
    def repository(self) -> Repository:
        """The repository at this path, for everything that this facade does not cover."""
        return self._repository

    def close(self) -> None:
        """Close the backend, for every client that shares it. Idempotent.

        A registry's connections are let go; a later call opens new ones. A new archive gets its name. Leaving a
        ``with`` block closes as well, unless it is left by an exception: a new archive is discarded then.
        """
        self._catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._catalog.discard()

    def __repr__(self) -> str:
        """Where it works."""
        return f"{type(self).__name__}({self.registry!r})"

    def _at(self, reference: object) -> str:
        text = str(reference)[:200]
        return (
            f"{self.registry}{text}" if text.startswith("@") else f"{self.registry}{'@' if ':' in text else ':'}{text}"
        )

    def _observer_or_default(self, observer: Observer | None) -> Observer | None:
        return self._observer if observer is None else observer


def platform_of(platform: Platform | str | None) -> Platform | None:
    """A platform that may be given as text.

    Raises:
        InvalidName: The text is no platform.
    """
    return platform if platform is None or isinstance(platform, Platform) else Platform.parse(platform)


class ImageMethods(Place):
    """The part of the client that is about images."""

    def get_image(self, reference: str, platform: Platform | str | None = None) -> Image:
        """An image, lazily: only manifests are read for now.

        Of an index, the image that fits the platform best. Of an image that stands alone, that image; its
        configuration is compared if a platform was asked for.

        Args:
            reference: A tag or a digest.
            platform: As ``linux/arm64/v8``; by default the client's default.

        Raises:
            ImageNotFound: No such manifest.
            PlatformNotFound: Nothing there fits; ``available`` lists what there is.
            NotAnImage: It is neither an image nor an index.
            IntegrityError: The backend sent something else than what was asked for.
            InvalidValue: The reference or the platform is malformed.
        """
        return self._image("get_image", reference, platform)

    def get_index(self, reference: str) -> Index:
        """An image index.

        Raises:
            ImageNotFound: No such manifest.
            NotAnIndex: It is something else.
            InvalidValue: The reference is malformed.
        """
        with error_context("get_index", self._at(reference)):
            named = parse_tag_or_digest(reference)
            raw, at = fetch_manifest(self._repository, named), self._repository.at(named)
            return Index(self._repository, raw, reference=at, default_platform=self._default_platform)

    def get_manifest(self, reference: str, platform: Platform | str | None = None) -> Manifest:
        """A manifest of any kind, as it is; with a platform, the one of the image that fits it.

        Raises:
            ImageNotFound: No such manifest.
            PlatformNotFound: Nothing there fits.
            InvalidValue: The reference or the platform is malformed.
        """
        with error_context("get_manifest", self._at(reference)):
            wanted, named = platform_of(platform), parse_tag_or_digest(reference)
            raw = fetch_manifest(self._repository, named)
            if wanted is not None:
                raw = select(self._repository, raw, wanted).manifest
            return Manifest(raw, reference=self._repository.at(named))

    def get_image_config(self, reference: str, platform: Platform | str | None = None) -> ImageConfig:
        """An image's configuration, verified.

        Raises:
            ImageNotFound: No such manifest.
            PlatformNotFound: Nothing there fits.
            NotAnImage: It is no image, but some other artifact.
            InvalidDocument: The configuration is malformed.
            InvalidValue: The reference or the platform is malformed.
        """
        image = self._image("get_image_config", reference, platform)
        with error_context("get_image_config", self._at(reference)):
            return image.config()

    def get_digest(self, reference: str) -> Digest:
        """The digest that a tag stands for just now.

        Raises:
            ImageNotFound: No such manifest.
            InvalidValue: The reference is malformed.
        """
        return self._resolve("get_digest", reference).digest

    def check_image_exists(self, reference: str) -> None:
        """Nothing, if there is such a manifest.

        Raises:
            ImageNotFound: There is none.
            InvalidValue: The reference is malformed.
        """
        self._resolve("check_image_exists", reference)

    def image_exists(self, reference: str) -> bool:
        """Whether there is such a manifest; a denial is an error, never "no".

        Raises:
            AccessDenied: The registry does not tell.
            InvalidValue: The reference is malformed.
        """
        try:
            self._resolve("image_exists", reference)
        except ImageNotFound:
            return False
        return True

    def push_image(
        self, reference: str, image: Image, *, observer: Observer | None = None, jobs: int = 4
    ) -> Descriptor:
        """Store an image from any backend or builder under a tag; what is here already is not moved.

        Args:
            reference: A tag, or the image's own digest to store it untagged.
            image: What to store.
            observer: Told of each blob, in place of the client's own observer.
            jobs: How many blobs move at a time.

        Raises:
            InvalidReference: The digest is not the image's.
            Unsupported: The backend cannot be written.
            NotFound: A part of the image is missing.
            IntegrityError: A part of the image is not what it should be.
        """
        return self._push("push_image", reference, image, observer, jobs)

    def push_index(
        self, reference: str, index: Index, *, observer: Observer | None = None, jobs: int = 4
    ) -> Descriptor:
        """Store an index and all it lists; otherwise as ``push_image``.

        Raises:
            InvalidReference: The digest is not the index's.
            Unsupported: The backend cannot be written.
            NotFound: A part of it is missing.
            IntegrityError: A part of it is not what it should be.
        """
        return self._push("push_index", reference, index, observer, jobs)

    def tag_image(self, source: str, target: str) -> Descriptor:
        """Point another tag at an image or index of this repository.

        Raises:
            ImageNotFound: No such manifest.
            InvalidValue: The source is malformed, or the target is not a tag.
        """
        with error_context("tag_image", self._at(source)):
            named, tag = parse_tag_or_digest(source), Tag(target)
            raw = fetch_manifest(self._repository, named)
            self._repository.manifests.put(raw, tags=(tag,))
            return raw.descriptor

    def copy_image(
        self,
        source: str,
        target_client: Place,
        target: str,
        *,
        options: CopyOptions | None = None,
        observer: Observer | None = None,
        jobs: int = 4,
    ) -> Descriptor:
        """Copy an image, or an index whole, to another path or backend.

        Args:
            source: A tag or digest here.
            target_client: Where to.
            target: A tag there, or the same digest to store it untagged.
            options: What of it is copied: some platforms, referrers, cosign's tags; by default the whole, and nothing
                that merely refers to it.
            observer: Told of each blob, in place of this client's own observer.
            jobs: How many blobs move at a time.

        Raises:
            ImageNotFound: No such manifest.
            PlatformNotFound: Nothing there is for any of the platforms that were chosen.
            InvalidValue: A reference is malformed, or the target is another digest.
            Unsupported: The target cannot be written.
            IntegrityError: The source sent something else than what was asked for.
        """
        with error_context("copy_image", self._at(source)):
            raw = fetch_manifest(self._repository, parse_tag_or_digest(source))
            return move_graph(
                self._repository,
                target_client.repository,
                raw,
                tags=_tags(target, raw.digest),
                options=options,
                observer=self._observer_or_default(observer),
                jobs=jobs,
                operation="copy_image",
            )

    def delete_tag(self, tag: str) -> None:
        """Remove a tag; the manifest stays, with its other tags.

        Raises:
            ImageNotFound: No such tag.
            InvalidName: Not a tag.
            Unsupported: The backend does not remove tags alone.
        """
        with error_context("delete_tag", self._at(tag)):
            checkpoint()
            self._repository.manifests.untag(Tag(tag))

    def delete_by_digest(self, digest: str) -> None:
        """Remove a manifest and every tag on it.

        Raises:
            ImageNotFound: No such manifest.
            InvalidDigest: Not a digest.
            Unsupported: The backend does not delete.
        """
        with error_context("delete_by_digest", self._at(digest)):
            text = digest.removeprefix("@") if isinstance(digest, str) else digest
            checkpoint()
            self._repository.manifests.delete(Digest(text))

    def _image(self, operation: str, reference: str, platform: Platform | str | None) -> Image:
        with error_context(operation, self._at(reference)):
            wanted, named = platform_of(platform), parse_tag_or_digest(reference)
            raw = fetch_manifest(self._repository, named)
            choice = select(self._repository, raw, wanted, default=self._default_platform)
            reference = self._repository.at(named)
            return Image(self._repository, choice.manifest, reference=reference, platform=choice.platform)

    def _resolve(self, operation: str, reference: str) -> Descriptor:
        with error_context(operation, self._at(reference)):
            checkpoint()
            return self._repository.manifests.resolve(parse_tag_or_digest(reference))

    def _push(
        self, operation: str, reference: str, pushed: Image | Index, observer: Observer | None, jobs: int
    ) -> Descriptor:
        with error_context(operation, self._at(reference)):
            tags, told = _tags(reference, pushed.digest), self._observer_or_default(observer)
            here, raw = self._repository, pushed.document
            return move_graph(pushed.repository, here, raw, tags=tags, observer=told, jobs=jobs, operation=operation)


def _tags(reference: str, digest: Digest) -> tuple[Tag, ...]:
    named = parse_tag_or_digest(reference)
    if not isinstance(named, Digest):
        return (named,)
    if named != digest:
        raise InvalidReference(f"{digest} cannot be stored as {named}")
    return ()


class ListingMethods(Place):
    """The part of the client that lists."""

    def list_tags(self, limit: int | None = None, last: str | None = None) -> list[str]:
        """The tags in ASCII order: all of them, or an error.

        Args:
            limit: No more than so many; the registry is asked for no more at a time. With 0 it is asked all the same,
                so that what is missing is an error.
            last: Start behind this tag, whether it exists or not.

        Raises:
            RepositoryNotFound: No such repository.
            InvalidValue: The limit is negative, or ``last`` is not a tag.
        """
        return list(tags_of(self._repository, limit, last, operation="list_tags"))

    def iter_tags(self, limit: int | None = None, last: str | None = None) -> Iterator[str]:
        """As ``list_tags``, page by page as one goes on.

        Raises:
            RepositoryNotFound: No such repository.
            InvalidValue: The limit is negative, or ``last`` is not a tag.
        """
        return tags_of(self._repository, limit, last, operation="iter_tags")

    def list_repositories(self, limit: int | None = None, last: str | None = None) -> list[str]:
        """The repositories below this path, relative to it: ``with_segment(name)`` reaches each.

        Args:
            limit: No more than so many; the registry is asked for no more at a time. With 0 it is asked all the same,
                so that what is missing is an error.
            last: Start behind this name, relative as well, whether it exists or not.

        Raises:
            CatalogUnsupported: The backend does not list repositories.
            InvalidValue: The limit is negative, or ``last`` is not a name.
        """
        return list(
            repositories_below(self._catalog, self._path.repository, limit, last, operation="list_repositories")
        )

    def iter_repositories(self, limit: int | None = None, last: str | None = None) -> Iterator[str]:
        """As ``list_repositories``, page by page as one goes on.

        Raises:
            CatalogUnsupported: The backend does not list repositories.
            InvalidValue: The limit is negative, or ``last`` is not a name.
        """
        return repositories_below(self._catalog, self._path.repository, limit, last, operation="iter_repositories")


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

        with error_context("push_artifact", self._at(tag)):
            return push_artifact(
                self._repository,
                files,
                artifact_type=artifact_type,
                config=config,
                annotations=annotations,
                tags=(Tag(tag),),
                observer=self._observer_or_default(observer),
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

        with error_context("attach", self._at(subject)):
            return push_artifact(
                self._repository,
                files,
                artifact_type=artifact_type,
                config=config,
                subject=parse_tag_or_digest(subject),
                annotations=annotations,
                observer=self._observer_or_default(observer),
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

        with error_context("pull_artifact", self._at(reference)):
            return pull_artifact(
                self._repository,
                reference,
                directory,
                unpack=unpack,
                overwrite=overwrite,
                select=select,
                untitled=untitled,
                observer=self._observer_or_default(observer),
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

        with error_context("list_referrers", self._at(subject)):
            return list(list_referrers(self._repository, subject, artifact_type=artifact_type))


class RegistryClient(ImageMethods, ListingMethods, ArtifactMethods):
    """Images, indexes and artifacts below one path of one backend.

    References are tags or digests within the repository at that path: ``v1``, ``sha256:…`` or ``@sha256:…``.
    Every method may raise ``AccessDenied``, ``TransportError``, ``Cancelled`` and ``DeadlineExceeded``; all errors
    name the method and what they are about.

    Args:
        catalog: The backend.
        *segments: The path; see ``with_segment``.
        default_platform: What an index is resolved to where no platform is asked for; the host's own if not given.
        observer: Told of each blob that this client moves, where a call names no observer of its own.

    Raises:
        InvalidName: A segment or the platform is malformed.
    """
