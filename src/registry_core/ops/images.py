"""Images, indexes and layers of a repository, whose content is read on demand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from registry_core.content.compression import compression_for, decompress
from registry_core.content.streams import ByteReader, BytesSource
from registry_core.content.verify import VerifyingReader
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.image_config import ImageConfig, RawConfig
from registry_core.domain.manifest import ArtifactManifest, ImageIndex, ImageManifest, RawManifest
from registry_core.domain.platform import Platform
from registry_core.errors import InvalidDocument, InvalidValue, error_context, error_reference
from registry_core.ops.blobs import open_verified
from registry_core.ops.manifests import (
    fetch_child,
    has_config,
    is_listed_image,
    names_platform,
    read_config,
    select,
)
from registry_core.ports.catalog import Repository

if TYPE_CHECKING:
    from registry_core.domain.reports import Report
    from registry_core.ops.extract.unpack import Extracted
    from registry_core.ops.tar.members import ExtractLimits, FileEntry

__all__ = ["Image", "Index", "Layer", "Manifest", "ManifestView", "StoredManifest", "check_kind"]


class ManifestView:
    """Properties of a manifest that follow from its bytes.

    Attributes:
        document: Bytes and media type.
    """

    document: RawManifest

    @property
    def raw(self) -> bytes:
        """Exact bytes."""
        return self.document.content

    @property
    def descriptor(self) -> Descriptor:
        """Descriptor with media type, digest and size."""
        return self.document.descriptor

    @property
    def digest(self) -> Digest:
        """Digest of the bytes."""
        return self.document.digest

    @property
    def size(self) -> int:
        """Size of the manifest itself in bytes, without its layers."""
        return len(self.document.content)

    @property
    def media_type(self) -> str:
        """Media type of the manifest."""
        return self.document.media_type


class StoredManifest(ManifestView):
    """A manifest in a repository.

    Attributes:
        repository: Repository that holds the blobs and child manifests.
    """

    repository: Repository

    def validate(
        self, *, referrers: bool = False, sparse: bool = False, limits: ExtractLimits | None = None, jobs: int = 4
    ) -> Report:
        """Check all content, including uncompressed layers, and report all problems. Changes nothing.

        Args:
            referrers: Whether to validate referrers as well, and their referrers.
            sparse: Whether manifests that an index lists may be missing; they are warnings then.
            limits: Limits for decompressing layers; uncompressed data is not kept.
            jobs: Number of blobs to read at a time.

        Raises:
            InvalidValue: ``jobs`` is less than 1.
            AccessDenied: The registry denied access.
            TransportError: The registry cannot be reached.
        """
        from registry_core.ops.validation.validate import validate

        return validate(self, referrers=referrers, sparse=sparse, limits=limits, jobs=jobs)


class Manifest(ManifestView):
    """A manifest of any kind, as it was fetched: an image, an index or another artifact.

    Args:
        document: Bytes and media type.
        reference: Reference for messages.
    """

    def __init__(self, document: RawManifest, *, reference: str) -> None:
        self.document = document
        self.reference = reference

    @property
    def is_index(self) -> bool:
        """Whether it is an image index or a Docker manifest list."""
        return self.document.is_index

    @property
    def manifest(self) -> ImageManifest:
        """View as an image manifest.

        Raises:
            NotAnImage: The manifest is of another kind.
            InvalidDocument: The manifest is malformed.
        """
        with error_reference(self.reference):
            return self.document.image

    @property
    def index(self) -> ImageIndex:
        """View as an image index.

        Raises:
            NotAnIndex: The manifest is of another kind.
            InvalidDocument: The manifest is malformed.
        """
        with error_reference(self.reference):
            return self.document.index

    @property
    def artifact(self) -> ArtifactManifest:
        """View as an artifact manifest of OCI or ORAS.

        Raises:
            NotAnImage: The manifest is of another kind.
            InvalidDocument: The manifest is malformed.
        """
        with error_reference(self.reference):
            return self.document.artifact

    def __repr__(self) -> str:
        """Return reference, digest and media type."""
        return f"Manifest({self.reference!r}, digest={str(self.digest)!r}, media_type={self.media_type!r})"


class Image(StoredManifest):
    """An image in a repository. Configuration and layers are read on demand.

    Args:
        repository: Repository that holds the blobs.
        manifest: Image manifest.
        reference: Reference for messages; by default, repository and digest.
        platform: Platform of the image, if an index states it.

    Raises:
        NotAnImage: The manifest is of another kind.
        InvalidDocument: The manifest is malformed.
    """

    def __init__(
        self, repository: Repository, manifest: RawManifest, *, reference: str = "", platform: Platform | None = None
    ) -> None:
        with error_reference(reference or repository.at(manifest.digest)):
            self._view = manifest.image
        self.repository = repository
        self.document = manifest
        self.reference = reference or repository.at(manifest.digest)
        self._platform = platform
        self._raw_config: RawConfig | None = None

    @property
    def descriptor(self) -> Descriptor:
        """Descriptor for an index: media type, digest and size, and the platform if it is known already."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=self.size, platform=self._platform)

    @property
    def platform(self) -> Platform | None:
        """Platform of the image, from its index or else from its configuration, which is read if need be.

        Raises:
            NotAnImage: The configuration is not an image's.
            RegistryError: The configuration cannot be read.
        """
        if self._platform is None:
            with error_reference(self.reference):
                self._platform = self.raw_config().platform
        return self._platform

    def manifest(self) -> ImageManifest:
        """Return the view of the manifest."""
        return self._view

    def config(self) -> ImageConfig:
        """Return the verified configuration; it is read once.

        Raises:
            NotAnImage: The manifest is not an image's but another artifact's.
            BlobNotFound: The configuration is missing.
            IntegrityError: It does not match its descriptor.
            TooLarge: It is larger than 8 MiB.
            InvalidDocument: It is malformed, in any field; ``path`` names the field.
        """
        with error_reference(self.reference):
            return self.raw_config().config

    def raw_config(self) -> RawConfig:
        """Return the verified bytes of the configuration; they are read once, and only what is used is checked.

        Raises:
            NotAnImage: The manifest is not an image's but another artifact's.
            BlobNotFound: The configuration is missing.
            IntegrityError: It does not match its descriptor.
            TooLarge: It is larger than 8 MiB.
        """
        if self._raw_config is None:
            with error_reference(self.reference):
                self._raw_config = read_config(self.repository, self.document)
        return self._raw_config

    def layers(self) -> tuple[Layer, ...]:
        """Return the layers, lowest first."""
        return tuple(Layer(self, position, descriptor) for position, descriptor in enumerate(self._view.layers))

    @property
    def has_config(self) -> bool:
        """Whether the configuration is that of an image, rather than of another artifact."""
        return has_config(self.document)

    def extract(self, *, limits: ExtractLimits | None = None) -> ByteReader:
        """Return a tar stream of the image's file system, with all layers applied; close it after use.

        The stream is safe to unpack: names are clean, relative and unique, directories come before their entries, and
        hard links after their targets. The read that reaches the end has verified every layer and diff ID.

        Args:
            limits: Limits on the uncompressed layers.

        Raises:
            Unsupported: The media type of a layer is unknown.
            UnsafeArchive: Raised by the reader: a layer contradicts itself, or refers to files outside the root.
            IntegrityError: Raised by the reader: a layer is corrupt, truncated or does not match its digest.
            TooLarge: Raised by the reader: a limit was exceeded.
        """
        from registry_core.ops.extract.unpack import flat_tar

        return flat_tar(self._known_layers("extract"), _limits(limits), reference=self.reference)

    def extract_to(
        self,
        directory: str | os.PathLike[str],
        *,
        owners: bool = False,
        special_modes: bool = False,
        devices: bool = False,
        xattrs: bool = False,
        limits: ExtractLimits | None = None,
    ) -> Extracted:
        """Unpack the image's file system into a directory: completely and verified, or not at all.

        No layer can change anything outside the directory. A new directory gets its name when it is
        complete; an existing one must be empty, keeps its inode, and is emptied after a failure.

        Args:
            directory: Directory to unpack into; its parent must exist.
            owners: Whether to set the numeric owners that the image states; otherwise the current user owns all files.
            special_modes: Whether to keep setuid and setgid bits.
            devices: Whether to create devices and FIFOs; otherwise they are skipped.
            xattrs: Whether to keep extended attributes.
            limits: Limits on the uncompressed layers.

        Returns:
            The number of entries, and the devices and FIFOs that were skipped.

        Raises:
            InvalidValue: The directory is not empty, is not a directory, or is a symbolic link.
            UnsafeArchive: A layer contradicts itself, refers to files outside the root, or has names that the file
                system does not allow.
            IntegrityError: A layer is corrupt, truncated or does not match its digest.
            TooLarge: A limit was exceeded.
            Unsupported: The media type of a layer is unknown, or this system cannot unpack safely or store extended
                attributes.
            OSError: The system failed to create an entry.
        """
        from registry_core.ops.extract.unpack import ExtractOptions, extract_to

        options = ExtractOptions(owners=owners, special_modes=special_modes, devices=devices, xattrs=xattrs)
        layers = self._known_layers("extract_to")
        with error_context("extract_to", self.reference):
            return extract_to(layers, directory, options=options, limits=_limits(limits), reference=self.reference)

    def open_file(self, path: str | os.PathLike[str], *, limits: ExtractLimits | None = None) -> ByteReader:
        """Open a file of the image; layers are read from the top until one contains it, and nothing is unpacked.

        Symbolic links are followed inside the image. The read that returns the last byte has verified the layer.

        Args:
            path: Path from the root, such as ``etc/os-release``.
            limits: Limits on the uncompressed layers.

        Raises:
            NotFound: The image has no such file.
            InvalidName: The path is malformed.
            IntegrityError: A layer is corrupt, truncated or does not match its digest.
            Unsupported: The media type of a layer is unknown.
        """
        from registry_core.ops.extract.files import open_file

        layers = self._known_layers("open_file")
        with error_context("open_file", self.reference):
            return open_file(layers, path, _limits(limits), reference=self.reference)

    def list_files(self, *, limits: ExtractLimits | None = None) -> Iterator[FileEntry]:
        """Yield the entries of the image's file system, each once, in no particular order.

        A layer is only verified once the iteration has passed its end.

        Args:
            limits: Limits on the uncompressed layers.

        Raises:
            UnsafeArchive: A layer contradicts itself, or refers to files outside the root.
            IntegrityError: A layer is corrupt, truncated or does not match its digest.
            Unsupported: The media type of a layer is unknown.
        """
        from registry_core.ops.extract.files import list_files

        return list_files(self._known_layers("list_files"), _limits(limits), reference=self.reference)

    def _known_layers(self, operation: str) -> tuple[Layer, ...]:
        layers = self.layers()
        with error_context(operation, self.reference):
            for layer in layers:
                compression_for(layer.media_type)
        return layers

    def __repr__(self) -> str:
        """Return reference and digest."""
        return f"Image({self.reference!r}, digest={str(self.digest)!r})"


def _limits(limits: ExtractLimits | None) -> ExtractLimits:
    from registry_core.ops.tar.members import ExtractLimits

    return ExtractLimits() if limits is None else limits


class Layer:
    """A layer of an image.

    Args:
        image: Image of the layer.
        position: Position in the image, from the lowest.
        descriptor: Descriptor in the manifest.
    """

    def __init__(self, image: Image, position: int, descriptor: Descriptor) -> None:
        self._image = image
        self._position = position
        self.descriptor = descriptor

    @property
    def digest(self) -> Digest:
        """Digest of the stored layer."""
        return self.descriptor.digest

    @property
    def size(self) -> int:
        """Size of the stored layer in bytes."""
        return self.descriptor.size

    @property
    def media_type(self) -> str:
        """Media type of the layer, which states its compression."""
        return self.descriptor.media_type

    def diff_id(self) -> Digest:
        """Return the digest of the uncompressed tar, from the configuration (image-spec config.md, "Layer DiffID").

        Raises:
            NotAnImage: The configuration is not an image's.
            InvalidDocument: The diff IDs are malformed, or their number is not the number of layers.
            RegistryError: The configuration cannot be read.
        """
        with error_reference(self._image.reference):
            diff_ids = self._image.raw_config().diff_ids
        count = len(self._image.manifest().layers)
        if len(diff_ids) != count:
            raise InvalidDocument(
                f"configuration has {len(diff_ids)} diff_ids for {count} layers",
                path="$.rootfs.diff_ids",
                reference=self._image.reference,
            )
        return diff_ids[self._position]

    def open(self) -> ByteReader:
        """Open the stored layer; the read that reaches its end verifies it.

        Raises:
            BlobNotFound: The layer is missing; its ``urls`` are not followed.
            IntegrityError: Embedded data does not match the descriptor.
            Unsupported: The digest's algorithm cannot be verified.
        """
        repository = self._image.repository
        with error_reference(repository.at(self.digest)):
            embedded = self.descriptor.embedded()
            if embedded is not None:
                return BytesSource(embedded).open()
            return open_verified(repository, self.digest, self.size)

    def open_uncompressed(self) -> ByteReader:
        """Open the layer's uncompressed tar; the read that reaches its end has verified the layer and its diff ID.

        Raises:
            BlobNotFound: The layer is missing.
            Unsupported: The media type is unknown, or the digest's algorithm cannot be verified.
            IntegrityError: Raised by the reader: the layer is corrupt, truncated or does not match its digest.
            InvalidDocument: The number of diff IDs is not the number of layers.
        """
        reference = self._image.repository.at(self.digest)
        with error_reference(reference):
            compression_for(self.media_type)
            diff_id = self.diff_id() if self._image.has_config else None
            stored = self.open()
            try:
                tar = decompress(stored, self.media_type, reference=reference)
                if diff_id is None:
                    return tar
                return VerifyingReader(tar, diff_id, None, reference=reference, what="the uncompressed layer")
            except BaseException:
                stored.close()
                raise

    def __repr__(self) -> str:
        """Return digest and size."""
        return f"Layer(digest={str(self.digest)!r}, size={self.size})"


class Index(StoredManifest):
    """An image index in a repository: several images, usually one for each platform.

    Args:
        repository: Repository that holds the manifests.
        manifest: Index.
        reference: Reference for messages; by default, repository and digest.
        default_platform: Platform to select if none is given; this machine's by default.

    Raises:
        NotAnIndex: The manifest is of another kind.
        InvalidDocument: The manifest is malformed.
    """

    def __init__(
        self,
        repository: Repository,
        manifest: RawManifest,
        *,
        reference: str = "",
        default_platform: Platform | None = None,
    ) -> None:
        with error_reference(reference or repository.at(manifest.digest)):
            self._view = manifest.index
        self._default_platform = default_platform
        self.repository = repository
        self.document = manifest
        self.reference = reference or repository.at(manifest.digest)

    @property
    def manifests(self) -> tuple[Descriptor, ...]:
        """Descriptors of the entries, in order."""
        return self._view.manifests

    @property
    def annotations(self) -> dict[str, str]:
        """Annotations of the index."""
        return dict(self._view.annotations)

    def manifest(self) -> ImageIndex:
        """Return the view of the index."""
        return self._view

    def image(self, platform: Platform | str | None = None) -> Image:
        """Return the image that fits a platform best.

        Args:
            platform: Platform to select; by default, the default platform of the index.

        Raises:
            InvalidName: The platform is malformed.
            PlatformNotFound: No image fits; the error lists the available platforms.
            RegistryError: A manifest cannot be read.
        """
        wanted = Platform.parse(platform) if isinstance(platform, str) else platform
        with error_reference(self.reference):
            selection = select(self.repository, self.document, wanted, default=self._default_platform)
        return Image(self.repository, selection.manifest, platform=selection.platform)

    def images(self) -> Iterator[Image]:
        """Yield the images that the index itself lists, in order, without attestations and other artifacts.

        An entry with an unknown platform is an image if its configuration states one, and otherwise an attestation.

        Raises:
            RegistryError: A manifest cannot be read.
        """
        for descriptor in self.manifests:
            if is_listed_image(self.repository, descriptor):
                listed = descriptor.platform if names_platform(descriptor) else None
                yield Image(self.repository, fetch_child(self.repository, descriptor), platform=listed)

    def __repr__(self) -> str:
        """Return reference and digest."""
        return f"Index({self.reference!r}, digest={str(self.digest)!r})"


def check_kind(value: object, *kinds: type) -> None:
    """Check that an argument is an image or an index.

    Args:
        value: The argument.
        *kinds: ``Image``, ``Index`` or both.

    Raises:
        InvalidValue: It is something else, such as a builder whose ``build`` was not called.
    """
    if not isinstance(value, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        hint = "; call build() first" if hasattr(value, "build") else ""
        raise InvalidValue(f"expected {expected}, not {type(value).__name__}{hint}")
