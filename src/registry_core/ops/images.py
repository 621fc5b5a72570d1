"""Images, indexes and layers as values that read lazily from wherever they are.

A manifest of any kind, as it was fetched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from registry_core.content.compression import compression_for, decompress
from registry_core.content.streams import ByteReader, BytesSource
from registry_core.content.verify import VerifyingReader
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.image_config import ImageConfig
from registry_core.domain.manifest import ImageIndex, ImageManifest, RawManifest
from registry_core.domain.platform import Platform
from registry_core.errors import InvalidDocument, error_context, error_reference
from registry_core.ops.blobs import open_verified
from registry_core.ops.manifests import fetch_child, has_config, is_image, read_config, select
from registry_core.ports.catalog import Repository

if TYPE_CHECKING:
    from registry_core.domain.reports import Report
    from registry_core.ops.extract.unpack import Extracted
    from registry_core.ops.tar.members import ExtractLimits, FileEntry

__all__ = ["Image", "Index", "Layer", "Manifest", "ManifestView", "StoredManifest"]


class ManifestView:
    """What is known of a manifest by its bytes alone; ``document`` holds them and their type."""

    document: RawManifest

    @property
    def raw(self) -> bytes:
        """The exact bytes."""
        return self.document.content

    @property
    def descriptor(self) -> Descriptor:
        """Type, digest and size, and whatever else is known without asking."""
        return self.document.descriptor

    @property
    def digest(self) -> Digest:
        """The digest of the bytes."""
        return self.document.digest

    @property
    def size(self) -> int:
        """The size of the manifest in bytes; that of each layer is with the layer."""
        return len(self.document.content)

    @property
    def media_type(self) -> str:
        """The media type of the manifest."""
        return self.document.media_type


class StoredManifest(ManifestView):
    """A manifest of which is known where its parts are: ``repository`` holds them, or says where it is empty."""

    repository: Repository

    def validate(
        self, *, referrers: bool = False, sparse: bool = False, limits: ExtractLimits | None = None, jobs: int = 4
    ) -> Report:
        """A report on all that it consists of, down to the uncompressed layers; nothing is changed.

        Args:
            referrers: Whether what refers to any of it is checked as well, and what refers to that.
            sparse: Whether what an index lists may be absent: that is only a warning then.
            limits: How much layers may become when they are unpacked for their diff_id; nothing is kept of them.
            jobs: How many blobs are read at a time.

        Raises:
            InvalidValue: There are no jobs.
            AccessDenied: The registry refused.
            TransportError: The registry could not be asked.
        """
        from registry_core.ops.validation.validate import validate

        return validate(self, referrers=referrers, sparse=sparse, limits=limits, jobs=jobs)


class Manifest(ManifestView):
    """A manifest or an index; nobody has decided yet which. ``document`` is what it was read as.

    Args:
        document: Its bytes and type.
        reference: How it was asked for, for messages.
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
        """The view as an image manifest.

        Raises:
            NotAnImage: It is something else.
            InvalidDocument: It is malformed.
        """
        with error_reference(self.reference):
            return self.document.image

    @property
    def index(self) -> ImageIndex:
        """The view as an image index.

        Raises:
            NotAnIndex: It is something else.
            InvalidDocument: It is malformed.
        """
        with error_reference(self.reference):
            return self.document.index

    def __repr__(self) -> str:
        """What it is and where."""
        return f"Manifest({self.reference!r}, digest={str(self.digest)!r}, media_type={self.media_type!r})"


class Image(StoredManifest):
    """An image in some repository. Nothing but its manifest, ``document``, is read before it is asked for.

    Args:
        repository: Where its blobs are.
        manifest: Its manifest.
        reference: How it was asked for, for messages; by its digest if not given.
        platform: What it runs on, where an index has said so.

    Raises:
        NotAnImage: The manifest is of another kind.
        InvalidDocument: It is malformed.
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
        self._config: ImageConfig | None = None

    @property
    def descriptor(self) -> Descriptor:
        """What an index would say about it: type, digest, size, and the platform where it is known already."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=self.size, platform=self._platform)

    @property
    def platform(self) -> Platform | None:
        """What it runs on: as its index said, else as its configuration says, which is read for that.

        Raises:
            NotAnImage: Its configuration is not an image's.
            RegistryError: The configuration cannot be read.
        """
        if self._platform is None:
            self._platform = self.config().platform
        return self._platform

    def manifest(self) -> ImageManifest:
        """The manifest, as a view."""
        return self._view

    def config(self) -> ImageConfig:
        """The configuration, verified; read once.

        Raises:
            NotAnImage: It is not an image's: the manifest belongs to some other artifact.
            BlobNotFound: It is missing.
            IntegrityError: It is not what the manifest says.
            TooLarge: It is larger than any honest one.
            InvalidDocument: It is malformed.
        """
        if self._config is None:
            with error_reference(self.reference):
                self._config = read_config(self.repository, self.document)
        return self._config

    def layers(self) -> tuple[Layer, ...]:
        """The layers, lowest first."""
        return tuple(Layer(self, position, descriptor) for position, descriptor in enumerate(self._view.layers))

    @property
    def has_config(self) -> bool:
        """Whether its configuration is one of images, and not of some other artifact."""
        return has_config(self.document)

    def extract(self, *, limits: ExtractLimits | None = None) -> ByteReader:
        """A readable tar stream of the file system that the layers make together; close it after use.

        It is safe for whoever unpacks it: clean relative names, each once, directories before what is in them, links
        behind what they link to. The read that reaches the end has verified every layer and diff_id.

        Args:
            limits: How much is accepted.

        Raises:
            Unsupported: A layer is of a type that nobody knows.
            UnsafeArchive: Raised by the reader: a layer contradicts itself, or tries to reach outside.
            IntegrityError: Raised by the reader: a layer is corrupt, cut off, or not what the image says.
            TooLarge: Raised by the reader: a limit was reached.
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
        """Unpack the file system that the layers make together: complete and verified, or not at all.

        Nothing outside of the directory is ever touched, whatever the layers hold. A new directory appears under its
        name when it is complete; one that exists must be empty, keeps its inode, and is empty again after a failure.

        Args:
            directory: Where to; its own parent must exist.
            owners: Whether files belong to whom the image says, by number, instead of to the present user.
            special_modes: Whether setuid and setgid bits are kept.
            devices: Whether devices and fifos are made instead of skipped.
            xattrs: Whether extended attributes are kept.
            limits: How much is accepted.

        Returns:
            How many entries were made, and the devices and fifos that were not.

        Raises:
            InvalidValue: There is something in the directory, or it is none: a symbolic link is not followed.
            UnsafeArchive: A layer contradicts itself, tries to reach outside, or has names that cannot be made.
            IntegrityError: A layer is corrupt, cut off, or not what the image says.
            TooLarge: A limit was reached.
            Unsupported: A layer is of a type that nobody knows, or this system has no means to do it safely, or no
                extended attributes where they are asked for.
            OSError: The system refuses to make something.
        """
        from registry_core.ops.extract.unpack import ExtractOptions, extract_to

        options = ExtractOptions(owners=owners, special_modes=special_modes, devices=devices, xattrs=xattrs)
        layers = self._known_layers("extract_to")
        with error_context("extract_to", self.reference):
            return extract_to(layers, directory, options=options, limits=_limits(limits), reference=self.reference)

    def open_file(self, path: str | os.PathLike[str], *, limits: ExtractLimits | None = None) -> ByteReader:
        """A reader over a single file; layers are read from the top until one has it, and nothing is unpacked.

        Symbolic links are followed inside the image. The read that hands out the last byte has verified the layer.

        Args:
            path: From the root, such as ``etc/os-release``.
            limits: How much is accepted.

        Raises:
            NotFound: There is no such file.
            InvalidName: Not a path.
            IntegrityError: A layer is corrupt, cut off, or not what the image says.
            Unsupported: A layer is of a type that nobody knows.
        """
        from registry_core.ops.extract.files import open_file

        layers = self._known_layers("open_file")
        with error_context("open_file", self.reference):
            return open_file(layers, path, _limits(limits), reference=self.reference)

    def list_files(self, *, limits: ExtractLimits | None = None) -> Iterator[FileEntry]:
        """Everything in the file system that the layers make together, each entry once, in no particular order.

        Whoever stops early has verified nothing of the layer at hand.

        Args:
            limits: How much is accepted.

        Raises:
            UnsafeArchive: A layer contradicts itself, or tries to reach outside.
            IntegrityError: A layer is corrupt, cut off, or not what the image says.
            Unsupported: A layer is of a type that nobody knows.
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
        """What it is and where."""
        return f"Image({self.reference!r}, digest={str(self.digest)!r})"


def _limits(limits: ExtractLimits | None) -> ExtractLimits:
    from registry_core.ops.tar.members import ExtractLimits

    return ExtractLimits() if limits is None else limits


class Layer:
    """One layer of an image.

    Args:
        image: Whose.
        position: Which one, from the lowest.
        descriptor: What the manifest says about it.
    """

    def __init__(self, image: Image, position: int, descriptor: Descriptor) -> None:
        self._image = image
        self._position = position
        self.descriptor = descriptor

    @property
    def digest(self) -> Digest:
        """The digest of the layer as it is stored."""
        return self.descriptor.digest

    @property
    def size(self) -> int:
        """The size of the layer as it is stored, in bytes."""
        return self.descriptor.size

    @property
    def media_type(self) -> str:
        """The media type, which tells how it is compressed."""
        return self.descriptor.media_type

    def diff_id(self) -> Digest:
        """The digest of the uncompressed tar, from the configuration (image-spec config.md, "Layer DiffID").

        Raises:
            NotAnImage: The configuration is not an image's.
            InvalidDocument: It does not have one for each layer.
            RegistryError: The configuration cannot be read.
        """
        diff_ids = self._image.config().rootfs.diff_ids
        count = len(self._image.manifest().layers)
        if len(diff_ids) != count:
            raise InvalidDocument(
                f"{len(diff_ids)} diff_ids for {count} layers",
                path="$.rootfs.diff_ids",
                reference=self._image.reference,
            )
        return diff_ids[self._position]

    def open(self) -> ByteReader:
        """A reader over the layer as it is stored; the read that reaches its end has verified it.

        Raises:
            BlobNotFound: It is missing; its ``urls`` are not followed.
            IntegrityError: Its embedded content is wrong.
            Unsupported: Its digest cannot be verified.
        """
        repository = self._image.repository
        with error_reference(repository.at(self.digest)):
            embedded = self.descriptor.embedded()
            if embedded is not None:
                return BytesSource(embedded).open()
            return open_verified(repository, self.digest, self.size)

    def open_uncompressed(self) -> ByteReader:
        """A reader over the layer's tar; the read that reaches its end has verified the layer and its diff_id.

        Raises:
            BlobNotFound: It is missing.
            Unsupported: It is of a type that nobody knows, or its digest cannot be verified.
            IntegrityError: Raised by the reader: the content is corrupt, cut off, or not what the image says.
            InvalidDocument: The configuration does not have a diff_id for each layer.
        """
        reference = self._image.repository.at(self.digest)
        with error_reference(reference):
            compression_for(self.media_type)
            diff_id = self.diff_id() if self._image.has_config else None
            stored = self.open()
            try:
                tar = decompress(stored, self.media_type, reference=reference)
                return tar if diff_id is None else VerifyingReader(tar, diff_id, None, reference=reference)
            except BaseException:
                stored.close()
                raise

    def __repr__(self) -> str:
        """Its digest and size."""
        return f"Layer(digest={str(self.digest)!r}, size={self.size})"


class Index(StoredManifest):
    """An image index in some repository: several images, mostly one a platform; ``document`` is its manifest.

    Args:
        repository: Where its manifests are.
        manifest: Its bytes.
        reference: How it was asked for, for messages; by its digest if not given.
        default_platform: What it is resolved to where no platform is asked for; the host's own if not given.

    Raises:
        NotAnIndex: The manifest is of another kind.
        InvalidDocument: It is malformed.
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
        """What it lists, in its order."""
        return self._view.manifests

    @property
    def annotations(self) -> dict[str, str]:
        """Its annotations."""
        return dict(self._view.annotations)

    def manifest(self) -> ImageIndex:
        """The index, as a view."""
        return self._view

    def image(self, platform: Platform | str | None = None) -> Image:
        """The image that fits a platform best; the default platform, where none is named.

        Raises:
            InvalidName: The text is not a platform.
            PlatformNotFound: Nothing fits; the error lists what there is.
            RegistryError: A manifest cannot be read.
        """
        wanted = Platform.parse(platform) if isinstance(platform, str) else platform
        with error_reference(self.reference):
            choice = select(self.repository, self.document, wanted, default=self._default_platform)
        return Image(self.repository, choice.manifest, platform=choice.platform)

    def images(self) -> Iterator[Image]:
        """The images that it lists, in its order; nested indexes, attestations and other artifacts are left out.

        Raises:
            RegistryError: A manifest cannot be read.
        """
        for descriptor in self.manifests:
            if is_image(descriptor):
                yield Image(self.repository, fetch_child(self.repository, descriptor), platform=descriptor.platform)

    def __repr__(self) -> str:
        """What it is and where."""
        return f"Index({self.reference!r}, digest={str(self.digest)!r})"
