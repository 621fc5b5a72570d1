"""`RegistryClient`: images, tags, repositories and artifacts below one path of one backend."""

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
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import PathSegments
from registry_core.domain.platform import Platform
from registry_core.errors import ImageNotFound, InvalidValue, error_context
from registry_core.ops.images import Image, Index, Manifest, check_kind
from registry_core.ops.listing import repositories_below, tags_of
from registry_core.ops.manifests import fetch_manifest, select
from registry_core.ops.references import (
    describe_reference,
    parse_named_target,
    parse_reference,
    parse_tag_or_name,
    remove_name,
    resolve,
    store_manifest,
    target_names,
)
from registry_core.ops.transfer.copy import move_graph
from registry_core.ports.catalog import Catalog, Repository

if TYPE_CHECKING:
    from registry_core.ops.artifacts.push import ArtifactFile
    from registry_core.ops.transfer.options import CopyOptions
    from registry_core.ports.observer import Observer

__all__ = ["RegistryClient"]


class RegistryClient:
    """Images, indexes and artifacts below one path of one backend.

    A reference is a tag or a digest in the repository at that path: ``v1``, ``sha256:…`` or ``@sha256:…``. It may be
    both, as ``v1@sha256:…``: then the digest is read, and a tag is set if the content has that digest.
    In a layout or archive, a reference may also be the name of an image as it is written there, such as
    ``docker.io/library/alpine:3.18`` or ``1.0+build``; an empty one is its only image.
    Every method may raise ``AccessDenied``, ``TransportError``, ``Cancelled`` and ``DeadlineExceeded``.
    Every error names the method and the reference.

    Args:
        catalog: The backend.
        *segments: The path; see ``with_segment``.
        default_platform: Platform chosen from an index when a call names none; by default the host's platform.
        observer: Receives an event for each blob that this client moves, unless the call names another observer.

    Raises:
        InvalidName: A segment or the platform is malformed.
    """

    def __init__(
        self,
        catalog: Catalog,
        *segments: str,
        default_platform: Platform | str | None = None,
        observer: Observer | None = None,
    ) -> None:
        if not isinstance(catalog, Catalog):
            raise InvalidValue(f"catalog must be a Catalog, not {type(catalog).__name__}; open_client takes a URL")
        self._catalog = catalog
        self._path = PathSegments(*segments)
        self._default_platform = _parse_platform(default_platform)
        self._observer = observer
        self._repository = catalog.repository(self._path.repository)
        self._label = str(self._repository)

    def with_segment(self, *segments: str) -> Self:
        """Return a client for a path below this one. Both clients share the backend; this one does not change.

        Args:
            *segments: Path segments. Outer slashes are trimmed; ``"a/b"`` is one segment.

        Raises:
            InvalidName: A segment is empty or malformed.
        """
        path = self._path.with_segment(*segments)
        return type(self)(self._catalog, *path, default_platform=self._default_platform, observer=self._observer)

    @property
    def registry(self) -> str:
        """Backend and path, as ``registry.example.com/org/repo``."""
        return self._label

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
        """The repository at this path, for operations that the client does not offer."""
        return self._repository

    def close(self) -> None:
        """Close the backend for every client that shares it. Idempotent.

        HTTP connections are closed; a later call opens new ones. A new archive is completed and gets its name.
        The end of a ``with`` block calls this too, but after an exception a new archive is discarded.
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
        return f"{type(self).__name__}({self.registry!r})"

    def get_image(self, reference: str = "", platform: Platform | str | None = None) -> Image:
        """Return an image. Only manifests are read now; configuration and layers are read on demand.

        If the reference is an index, the image that fits the platform best is chosen. If it is a single image, its
        configuration is compared with the platform, if one was asked for.

        Args:
            reference: Tag or digest.
            platform: Platform such as ``linux/arm64/v8``; by default the client's default platform.

        Raises:
            ImageNotFound: The manifest does not exist.
            PlatformNotFound: No image fits the platform; ``available`` lists the platforms that exist.
            NotAnImage: The manifest is neither an image nor an index.
            IntegrityError: The backend sent other content than the digest names.
            InvalidValue: The reference or the platform is malformed.
        """
        return self._select_image("get_image", reference, platform)

    def get_index(self, reference: str = "") -> Index:
        """Return an image index.

        Args:
            reference: Tag or digest.

        Raises:
            ImageNotFound: The manifest does not exist.
            NotAnIndex: The manifest is not an index.
            InvalidValue: The reference is malformed.
        """
        with error_context("get_index", describe_reference(self._label, reference)):
            raw = self._fetch(reference)
            return Index(
                self._repository,
                raw,
                reference=describe_reference(self._label, reference or raw.digest),
                default_platform=self._default_platform,
            )

    def get_manifest(self, reference: str = "", platform: Platform | str | None = None) -> Manifest:
        """Return a manifest of any kind, with its exact bytes.

        Args:
            reference: Tag or digest.
            platform: Platform of the image to choose from an index; ``None`` returns the index itself.

        Raises:
            ImageNotFound: The manifest does not exist.
            PlatformNotFound: No image fits the platform.
            InvalidValue: The reference or the platform is malformed.
        """
        with error_context("get_manifest", describe_reference(self._label, reference)):
            requested = _parse_platform(platform)
            raw = self._fetch(reference)
            if requested is not None:
                raw = select(self._repository, raw, requested).manifest
            return Manifest(raw, reference=describe_reference(self._label, reference or raw.digest))

    def get_image_config(self, reference: str = "", platform: Platform | str | None = None) -> ImageConfig:
        """Return the configuration of an image, verified against its digest.

        Args:
            reference: Tag or digest.
            platform: Platform of the image; by default the client's default platform.

        Raises:
            ImageNotFound: The manifest does not exist.
            PlatformNotFound: No image fits the platform.
            NotAnImage: The manifest is an artifact without an image configuration.
            InvalidDocument: The configuration is malformed.
            InvalidValue: The reference or the platform is malformed.
        """
        image = self._select_image("get_image_config", reference, platform)
        with error_context("get_image_config", describe_reference(self._label, reference)):
            return image.config()

    def get_digest(self, reference: str = "") -> Digest:
        """Return the digest that a tag points to now.

        Args:
            reference: Tag or digest.

        Raises:
            ImageNotFound: The manifest does not exist.
            InvalidValue: The reference is malformed.
        """
        return self._resolve("get_digest", reference).digest

    def check_image_exists(self, reference: str) -> None:
        """Raise ``ImageNotFound`` unless the manifest exists.

        Args:
            reference: Tag or digest.

        Raises:
            ImageNotFound: The manifest does not exist.
            InvalidValue: The reference is malformed.
        """
        self._resolve("check_image_exists", reference)

    def image_exists(self, reference: str) -> bool:
        """Return whether the manifest exists. A denied request raises an error; it never returns ``False``.

        Args:
            reference: Tag or digest.

        Raises:
            AccessDenied: The registry denied access.
            InvalidValue: The reference is malformed.
        """
        try:
            self._resolve("image_exists", reference)
        except ImageNotFound:
            return False
        return True

    def push_image(
        self, reference: str, image: Image | Index, *, observer: Observer | None = None, jobs: int = 4
    ) -> Descriptor:
        """Store an image, or an index with all its images. Content that the repository has already is not sent again.

        Args:
            reference: Tag, or the digest of the image to store it without a tag, or both.
            image: Image or index from any backend or builder.
            observer: Receives an event for each blob, in place of the client's observer.
            jobs: Number of blobs to transfer at a time.

        Returns:
            Descriptor of the stored manifest.

        Raises:
            InvalidReference: The reference is a digest, but not the digest of the image.
            Unsupported: The backend is read-only.
            NotFound: A part of the image is missing at its source.
            IntegrityError: A part of the image does not match its digest or size.
        """
        return self._push("push_image", reference, image, observer, jobs)

    def push_index(
        self, reference: str, index: Index, *, observer: Observer | None = None, jobs: int = 4
    ) -> Descriptor:
        """Store an index and all its images, as ``push_image`` does with the same arguments.

        Raises:
            InvalidReference: The reference is a digest, but not the digest of the index.
            Unsupported: The backend is read-only.
            NotFound: A part of the index is missing at its source.
            IntegrityError: A part of the index does not match its digest or size.
        """
        return self._push("push_index", reference, index, observer, jobs)

    def tag_image(self, source: str, target: str) -> Descriptor:
        """Point another tag at an image or index of this repository.

        Args:
            source: Tag or digest of the image.
            target: Tag to set; with a digest, as ``v1@sha256:…``, it is set only if the image has that digest.

        Returns:
            Descriptor of the tagged manifest.

        Raises:
            ImageNotFound: The manifest does not exist.
            InvalidReference: The target has a digest, but not that of the image.
            InvalidValue: The source is malformed, or the target is not a tag.
        """
        with error_context("tag_image", describe_reference(self._label, source)):
            parse_reference(self._repository, source)
            parse_named_target(self._repository, target)
            raw = self._fetch(source)
            store_manifest(self._repository, raw, target_names(self._repository, target, raw.digest))
            return raw.descriptor

    def copy_image(
        self,
        source: str,
        target_client: RegistryClient,
        target: str,
        *,
        options: CopyOptions | None = None,
        observer: Observer | None = None,
        jobs: int = 4,
    ) -> Descriptor:
        """Copy an image, or an index with all its images, to another path or backend.

        Args:
            source: Tag or digest in this repository.
            target_client: Client of the repository to copy to.
            target: Tag in the target repository, or the same digest to store it without a tag, or both.
            options: What to copy: selected platforms, referrers, cosign's tags. By default the image or index with
                all its platforms, without referrers.
            observer: Receives an event for each blob, in place of this client's observer.
            jobs: Number of blobs to transfer at a time.

        Returns:
            Descriptor of the manifest at the target.

        Raises:
            ImageNotFound: The manifest does not exist.
            PlatformNotFound: No image fits any of the chosen platforms.
            InvalidValue: A reference is malformed, or the target is another digest.
            Unsupported: The target is read-only.
            IntegrityError: The source sent other content than the digest names.
        """
        with error_context("copy_image", describe_reference(self._label, source)):
            if not isinstance(target_client, RegistryClient):
                raise InvalidValue(f"target_client must be a RegistryClient, not {type(target_client).__name__}")
            raw = self._fetch(source)
            return move_graph(
                self._repository,
                target_client.repository,
                raw,
                tags=target_names(target_client.repository, target, raw.digest),
                options=options,
                observer=self._observer_or_default(observer),
                jobs=jobs,
                operation="copy_image",
            )

    def delete_tag(self, tag: str) -> None:
        """Delete a tag. The manifest and its other tags stay.

        Args:
            tag: Tag to delete.

        Raises:
            ImageNotFound: The tag does not exist.
            InvalidName: The text is not a tag.
            Unsupported: The backend cannot delete a tag without its manifest.
        """
        with error_context("delete_tag", describe_reference(self._label, tag)):
            checkpoint()
            remove_name(self._repository, parse_tag_or_name(self._repository, tag))

    def delete_by_digest(self, digest: str) -> None:
        """Delete a manifest and every tag that points to it.

        Args:
            digest: Digest of the manifest.

        Raises:
            ImageNotFound: The manifest does not exist.
            InvalidDigest: The text is not a digest.
            Unsupported: The backend does not delete manifests.
        """
        with error_context("delete_by_digest", describe_reference(self._label, digest)):
            text = digest.removeprefix("@") if isinstance(digest, str) else digest
            checkpoint()
            self._repository.manifests.delete(Digest(text))

    def list_tags(self, limit: int | None = None, last: str | None = None) -> list[str]:
        """Return the tags in ASCII order. The list is complete, or an error is raised.

        Args:
            limit: Maximum number of tags; also the page size that the registry is asked for. With 0 the registry is
                still asked, so that a missing repository raises an error.
            last: Start after this tag; it need not exist.

        Raises:
            RepositoryNotFound: The repository does not exist.
            InvalidValue: The limit is negative, or ``last`` is not a tag.
        """
        return list(tags_of(self._repository, limit, last, operation="list_tags"))

    def iter_tags(self, limit: int | None = None, last: str | None = None) -> Iterator[str]:
        """Iterate over the tags as ``list_tags`` returns them; pages are requested on demand.

        Args:
            limit: Maximum number of tags; also the page size that the registry is asked for.
            last: Start after this tag; it need not exist.

        Raises:
            RepositoryNotFound: The repository does not exist.
            InvalidValue: The limit is negative, or ``last`` is not a tag.
        """
        return tags_of(self._repository, limit, last, operation="iter_tags")

    def list_repositories(self, limit: int | None = None, last: str | None = None) -> list[str]:
        """Return the repositories below this path, relative to it, so that ``with_segment(name)`` reaches each.

        Args:
            limit: Maximum number of repositories; also the page size that the registry is asked for. With 0 the
                registry is still asked, so that a missing catalog raises an error.
            last: Start after this name, relative to this path; it need not exist.

        Raises:
            CatalogUnsupported: The backend does not list repositories.
            InvalidValue: The limit is negative, or ``last`` is not a repository name.
        """
        return list(
            repositories_below(self._catalog, self._path.repository, limit, last, operation="list_repositories")
        )

    def iter_repositories(self, limit: int | None = None, last: str | None = None) -> Iterator[str]:
        """Iterate over the repositories as ``list_repositories`` returns them; pages are requested on demand.

        Args:
            limit: Maximum number of repositories; also the page size that the registry is asked for.
            last: Start after this name, relative to this path; it need not exist.

        Raises:
            CatalogUnsupported: The backend does not list repositories.
            InvalidValue: The limit is negative, or ``last`` is not a repository name.
        """
        return repositories_below(self._catalog, self._path.repository, limit, last, operation="iter_repositories")

    def push_artifact(
        self,
        tag: str,
        files: Iterable[ArtifactFile | str | os.PathLike[str]],
        *,
        artifact_type: str = "",
        config: ArtifactFile | None = None,
        annotations: Mapping[str, str] | None = None,
        observer: Observer | None = None,
        jobs: int = 4,
    ) -> Descriptor:
        """Store files and directories as an artifact under a tag.

        Args:
            tag: Tag of the artifact; with a digest, as ``v1@sha256:…``, only if the artifact has that digest.
            files: Files in the order of the layers. A path alone stores a file or directory under its own name.
            artifact_type: Media type that names the kind of artifact; optional if ``config`` has a media type.
            config: Config blob with its media type.
            annotations: Manifest annotations to set.
            observer: Receives an event for each blob, in place of the client's observer.
            jobs: Number of blobs to transfer at a time.

        Returns:
            Descriptor of the artifact manifest.

        Raises:
            InvalidValue: The tag, a title, a media type or an annotation is malformed.
            UnsafeArchive: Two titles name the same file.
            Unsupported: The backend is read-only.
            OSError: A file cannot be read.
        """
        from registry_core.ops.artifacts.push import push_artifact

        with error_context("push_artifact", describe_reference(self._label, tag)):
            return push_artifact(
                self._repository,
                files,
                artifact_type=artifact_type,
                config=config,
                annotations=annotations,
                tags=(tag,),
                observer=self._observer_or_default(observer),
                jobs=jobs,
            )

    def attach(
        self,
        subject: str,
        files: Iterable[ArtifactFile | str | os.PathLike[str]],
        *,
        artifact_type: str = "",
        config: ArtifactFile | None = None,
        annotations: Mapping[str, str] | None = None,
        observer: Observer | None = None,
        jobs: int = 4,
    ) -> Descriptor:
        """Store files as an artifact that refers to an image, an index or another artifact.

        Args:
            subject: Tag or digest that the artifact refers to.
            files: Files in the order of the layers; may be empty.
            artifact_type: Media type that names the kind of artifact; optional if ``config`` has a media type.
            config: Config blob with its media type.
            annotations: Manifest annotations to set; the list of referrers repeats them.
            observer: Receives an event for each blob, in place of the client's observer.
            jobs: Number of blobs to transfer at a time.

        Returns:
            Descriptor of the artifact manifest.

        Raises:
            ImageNotFound: The subject does not exist in this repository.
            InvalidValue: The reference, a title, a media type or an annotation is malformed.
            UnsafeArchive: Two titles name the same file.
            Unsupported: The backend is read-only.
            OSError: A file cannot be read.
        """
        from registry_core.ops.artifacts.push import push_artifact

        with error_context("attach", describe_reference(self._label, subject)):
            return push_artifact(
                self._repository,
                files,
                artifact_type=artifact_type,
                config=config,
                subject=subject,
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
        """Write the files of an artifact into a directory, named by their titles: all of them, verified, or none.

        Args:
            reference: Tag or digest.
            directory: Directory to write to; created if it does not exist.
            unpack: Whether to unpack packed directories; a function decides for each descriptor.
            overwrite: Whether to replace existing files.
            select: Decides for each descriptor whether its file is written.
            untitled: Returns the file name for a descriptor without a title, or ``None`` to skip it. The name ``.``,
                for a layer that is unpacked, means the directory itself.
            observer: Receives an event for each blob, in place of the client's observer.
            jobs: Number of blobs to transfer at a time.

        Returns:
            Paths of the written files.

        Raises:
            ImageNotFound: The manifest does not exist.
            NotAnImage: The manifest is an index.
            NotFound: No file has a title, or content is missing.
            UnsafeArchive: A title or a packed file would be written outside the directory, or titles conflict.
            InvalidValue: A file exists already, or the reference is malformed.
            IntegrityError: Content does not match its digest or size.
            OSError: A file cannot be written.
        """
        from registry_core.ops.artifacts.pull import pull_artifact

        with error_context("pull_artifact", describe_reference(self._label, reference)):
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
        """Return the manifests that refer to a subject, such as signatures, SBOMs and attestations, each once.

        Args:
            subject: Tag, or a digest that need not exist in this repository.
            artifact_type: Return only referrers of this type; empty returns all.

        Raises:
            ImageNotFound: The tag does not exist.
            InvalidValue: The reference is malformed.
            TooLarge: The registry lists more referrers than the limit.
        """
        from registry_core.ops.artifacts.referrers import list_referrers

        with error_context("list_referrers", describe_reference(self._label, subject)):
            return list(list_referrers(self._repository, subject, artifact_type=artifact_type))

    def _observer_or_default(self, observer: Observer | None) -> Observer | None:
        return self._observer if observer is None else observer

    def _select_image(self, operation: str, reference: str, platform: Platform | str | None) -> Image:
        with error_context(operation, describe_reference(self._label, reference)):
            requested = _parse_platform(platform)
            raw = self._fetch(reference)
            selection = select(self._repository, raw, requested, default=self._default_platform)
            return Image(
                self._repository,
                selection.manifest,
                reference=describe_reference(self._label, reference or raw.digest),
                platform=selection.platform,
            )

    def _resolve(self, operation: str, reference: str) -> Descriptor:
        with error_context(operation, describe_reference(self._label, reference)):
            checkpoint()
            return resolve(self._repository, parse_reference(self._repository, reference))

    def _fetch(self, reference: str) -> RawManifest:
        return fetch_manifest(self._repository, parse_reference(self._repository, reference))

    def _push(
        self, operation: str, reference: str, image: Image | Index, observer: Observer | None, jobs: int
    ) -> Descriptor:
        with error_context(operation, describe_reference(self._label, reference)):
            check_kind(image, Image, Index)
            return move_graph(
                image.repository,
                self._repository,
                image.document,
                tags=target_names(self._repository, reference, image.digest),
                observer=self._observer_or_default(observer),
                jobs=jobs,
                operation=operation,
            )


def _parse_platform(platform: Platform | str | None) -> Platform | None:
    """Return a platform given as a value or as text; ``None`` stays ``None``.

    Raises:
        InvalidName: The text is not a platform.
    """
    return platform if platform is None or isinstance(platform, Platform) else Platform.parse(platform)
