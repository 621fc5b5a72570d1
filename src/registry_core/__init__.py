"""A container registry library: the same operations on images in any backend.

Each name is imported on first use, so importing the package is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry_core.cancellation import CancelScope, fail_after
    from registry_core.client import RegistryClient
    from registry_core.content.compression import Compression
    from registry_core.domain.auth import Anonymous, Basic, IdentityToken, RegistryToken
    from registry_core.domain.descriptor import Descriptor
    from registry_core.domain.digest import Digest
    from registry_core.domain.image_config import ImageConfig, RawConfig
    from registry_core.domain.image_names import ImageName
    from registry_core.domain.manifest import ArtifactManifest, ImageIndex, ImageManifest, RawManifest
    from registry_core.domain.names import PathSegments, RepositoryName, Tag
    from registry_core.domain.platform import Platform
    from registry_core.domain.reference import Reference
    from registry_core.errors import (
        AccessDenied,
        BlobNotFound,
        Cancelled,
        CatalogUnsupported,
        ConfigError,
        DeadlineExceeded,
        DigestMismatch,
        ErrorInfo,
        Forbidden,
        ImageNotFound,
        IntegrityError,
        InvalidDigest,
        InvalidDocument,
        InvalidName,
        InvalidReference,
        InvalidValue,
        LayoutError,
        NotAnImage,
        NotAnIndex,
        NotFound,
        PlatformNotFound,
        ProtocolError,
        RateLimited,
        RegistryError,
        RepositoryNotFound,
        ServerError,
        SizeMismatch,
        TLSError,
        TooLarge,
        TransportError,
        Unauthorized,
        Unavailable,
        UnsafeArchive,
        Unsupported,
    )
    from registry_core.ops.artifacts.push import ArtifactFile
    from registry_core.ops.blobs import open_blob, push_blob, save_blob
    from registry_core.ops.builder.builder import ImageBuilder
    from registry_core.ops.builder.editor import ImageEditor
    from registry_core.ops.builder.index_builder import IndexBuilder
    from registry_core.ops.extract.unpack import Extracted
    from registry_core.ops.images import Image, Index, Layer, Manifest
    from registry_core.ops.mirror.mirror import MirrorPlan, MirrorRule, plan_mirror, run_mirror
    from registry_core.ops.mirror.selection import TagPatterns, TagSelection
    from registry_core.ops.tar.members import ExtractLimits, FileEntry, FileKind
    from registry_core.ops.transfer.copy import CopyPlan, copy, plan_copies, plan_copy, run_copies
    from registry_core.ops.transfer.options import CopyOptions, CopyTask, IndexMode
    from registry_core.ops.transfer.report import Action, CopyReport, NodeKind, Outcome, Side
    from registry_core.ops.validation.validate import validate
    from registry_core.ports.authenticator import Authenticator
    from registry_core.ports.blob_store import BlobStore
    from registry_core.ports.catalog import Catalog, Repository
    from registry_core.ports.image_names import ImageNames, NamedImage
    from registry_core.ports.keychain import CredentialStore, Keychain
    from registry_core.ports.manifest_store import ManifestStore
    from registry_core.ports.observer import Observer

__all__ = [
    "AccessDenied",
    "Action",
    "Anonymous",
    "ArtifactFile",
    "ArtifactManifest",
    "Authenticator",
    "Basic",
    "BlobNotFound",
    "BlobStore",
    "CancelScope",
    "Cancelled",
    "Catalog",
    "CatalogUnsupported",
    "Compression",
    "ConfigError",
    "CopyOptions",
    "CopyPlan",
    "CopyReport",
    "CopyTask",
    "CredentialStore",
    "DeadlineExceeded",
    "Descriptor",
    "Digest",
    "DigestMismatch",
    "ErrorInfo",
    "ExtractLimits",
    "Extracted",
    "FileEntry",
    "FileKind",
    "Forbidden",
    "IdentityToken",
    "Image",
    "ImageBuilder",
    "ImageConfig",
    "ImageEditor",
    "ImageIndex",
    "ImageManifest",
    "ImageName",
    "ImageNames",
    "ImageNotFound",
    "Index",
    "IndexBuilder",
    "IndexMode",
    "IntegrityError",
    "InvalidDigest",
    "InvalidDocument",
    "InvalidName",
    "InvalidReference",
    "InvalidValue",
    "Keychain",
    "Layer",
    "LayoutError",
    "Manifest",
    "ManifestStore",
    "MirrorPlan",
    "MirrorRule",
    "NamedImage",
    "NodeKind",
    "NotAnImage",
    "NotAnIndex",
    "NotFound",
    "Observer",
    "Outcome",
    "PathSegments",
    "Platform",
    "PlatformNotFound",
    "ProtocolError",
    "RateLimited",
    "RawConfig",
    "RawManifest",
    "Reference",
    "RegistryClient",
    "RegistryError",
    "RegistryToken",
    "Repository",
    "RepositoryName",
    "RepositoryNotFound",
    "ServerError",
    "Side",
    "SizeMismatch",
    "TLSError",
    "Tag",
    "TagPatterns",
    "TagSelection",
    "TooLarge",
    "TransportError",
    "Unauthorized",
    "Unavailable",
    "UnsafeArchive",
    "Unsupported",
    "copy",
    "fail_after",
    "open_blob",
    "plan_copies",
    "plan_copy",
    "plan_mirror",
    "push_blob",
    "run_copies",
    "run_mirror",
    "save_blob",
    "validate",
]

_EXPORTS = {
    "registry_core.cancellation": (
        "CancelScope",
        "fail_after",
    ),
    "registry_core.client": ("RegistryClient",),
    "registry_core.content.compression": ("Compression",),
    "registry_core.domain.auth": (
        "Anonymous",
        "Basic",
        "IdentityToken",
        "RegistryToken",
    ),
    "registry_core.domain.descriptor": ("Descriptor",),
    "registry_core.domain.digest": ("Digest",),
    "registry_core.domain.image_config": ("ImageConfig", "RawConfig"),
    "registry_core.domain.image_names": ("ImageName",),
    "registry_core.domain.manifest": (
        "ArtifactManifest",
        "ImageIndex",
        "ImageManifest",
        "RawManifest",
    ),
    "registry_core.domain.names": (
        "PathSegments",
        "RepositoryName",
        "Tag",
    ),
    "registry_core.domain.platform": ("Platform",),
    "registry_core.domain.reference": ("Reference",),
    "registry_core.errors": (
        "AccessDenied",
        "BlobNotFound",
        "Cancelled",
        "CatalogUnsupported",
        "ConfigError",
        "DeadlineExceeded",
        "DigestMismatch",
        "ErrorInfo",
        "Forbidden",
        "ImageNotFound",
        "IntegrityError",
        "InvalidDigest",
        "InvalidDocument",
        "InvalidName",
        "InvalidReference",
        "InvalidValue",
        "LayoutError",
        "NotAnImage",
        "NotAnIndex",
        "NotFound",
        "PlatformNotFound",
        "ProtocolError",
        "RateLimited",
        "RegistryError",
        "RepositoryNotFound",
        "ServerError",
        "SizeMismatch",
        "TLSError",
        "TooLarge",
        "TransportError",
        "Unauthorized",
        "Unavailable",
        "UnsafeArchive",
        "Unsupported",
    ),
    "registry_core.ops.artifacts.push": ("ArtifactFile",),
    "registry_core.ops.blobs": (
        "open_blob",
        "push_blob",
        "save_blob",
    ),
    "registry_core.ops.builder.builder": ("ImageBuilder",),
    "registry_core.ops.builder.editor": ("ImageEditor",),
    "registry_core.ops.builder.index_builder": ("IndexBuilder",),
    "registry_core.ops.extract.unpack": ("Extracted",),
    "registry_core.ops.images": (
        "Image",
        "Index",
        "Layer",
        "Manifest",
    ),
    "registry_core.ops.mirror.mirror": (
        "MirrorPlan",
        "MirrorRule",
        "plan_mirror",
        "run_mirror",
    ),
    "registry_core.ops.mirror.selection": (
        "TagPatterns",
        "TagSelection",
    ),
    "registry_core.ops.tar.members": (
        "ExtractLimits",
        "FileEntry",
        "FileKind",
    ),
    "registry_core.ops.transfer.copy": (
        "CopyPlan",
        "copy",
        "plan_copies",
        "plan_copy",
        "run_copies",
    ),
    "registry_core.ops.transfer.options": (
        "CopyOptions",
        "CopyTask",
        "IndexMode",
    ),
    "registry_core.ops.transfer.report": (
        "Action",
        "CopyReport",
        "NodeKind",
        "Outcome",
        "Side",
    ),
    "registry_core.ops.validation.validate": ("validate",),
    "registry_core.ports.authenticator": ("Authenticator",),
    "registry_core.ports.blob_store": ("BlobStore",),
    "registry_core.ports.catalog": (
        "Catalog",
        "Repository",
    ),
    "registry_core.ports.image_names": (
        "ImageNames",
        "NamedImage",
    ),
    "registry_core.ports.keychain": (
        "CredentialStore",
        "Keychain",
    ),
    "registry_core.ports.manifest_store": ("ManifestStore",),
    "registry_core.ports.observer": ("Observer",),
}
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names}


if not TYPE_CHECKING:  # hidden from type checkers, which would accept any name

    def __getattr__(name: str) -> object:
        module = _MODULES.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(module), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
