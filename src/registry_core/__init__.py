"""A container registry library: images in any backend, through one set of ports.

Names are loaded when they are first asked for, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from registry_core.client import RegistryClient
    from registry_core.content.compression import Compression
    from registry_core.domain.access import Anonymous, Basic, IdentityToken, RegistryToken
    from registry_core.domain.config import ImageConfig
    from registry_core.domain.descriptor import Descriptor
    from registry_core.domain.digest import Digest
    from registry_core.domain.manifest import ImageIndex, ImageManifest, RawManifest
    from registry_core.domain.names import RepositoryName, Tag
    from registry_core.domain.paths import PathSegments
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
    from registry_core.ops.build.builders import ImageBuilder, IndexBuilder
    from registry_core.ops.build.edit import ImageEditor
    from registry_core.ops.copy import copy
    from registry_core.ops.document import Manifest
    from registry_core.ops.extract.unpack import Extracted
    from registry_core.ops.image import Image, Index, Layer
    from registry_core.ops.read import open_blob, push_blob, save_blob
    from registry_core.ops.tar.members import ExtractLimits, FileEntry, FileKind
    from registry_core.ports.authenticator import Authenticator
    from registry_core.ports.blob_store import BlobStore
    from registry_core.ports.catalog import Catalog
    from registry_core.ports.keychain import CredentialStore, Keychain
    from registry_core.ports.manifest_store import ManifestStore
    from registry_core.ports.observer import Observer
    from registry_core.ports.repository import Repository
    from registry_core.scope import CancelScope, fail_after

__all__ = [
    "AccessDenied",
    "Anonymous",
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
    "ImageNotFound",
    "Index",
    "IndexBuilder",
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
    "NotAnImage",
    "NotAnIndex",
    "NotFound",
    "Observer",
    "PathSegments",
    "Platform",
    "PlatformNotFound",
    "ProtocolError",
    "RateLimited",
    "RawManifest",
    "Reference",
    "RegistryClient",
    "RegistryError",
    "RegistryToken",
    "Repository",
    "RepositoryName",
    "RepositoryNotFound",
    "ServerError",
    "SizeMismatch",
    "TLSError",
    "Tag",
    "TooLarge",
    "TransportError",
    "Unauthorized",
    "Unavailable",
    "UnsafeArchive",
    "Unsupported",
    "copy",
    "fail_after",
    "open_blob",
    "push_blob",
    "save_blob",
]

_HOMES = {
    "registry_core.client": ("RegistryClient",),
    "registry_core.content.compression": ("Compression",),
    "registry_core.domain.access": (
        "Anonymous",
        "Basic",
        "IdentityToken",
        "RegistryToken",
    ),
    "registry_core.domain.config": ("ImageConfig",),
    "registry_core.domain.descriptor": ("Descriptor",),
    "registry_core.domain.digest": ("Digest",),
    "registry_core.domain.manifest": (
        "ImageIndex",
        "ImageManifest",
        "RawManifest",
    ),
    "registry_core.domain.names": (
        "RepositoryName",
        "Tag",
    ),
    "registry_core.domain.paths": ("PathSegments",),
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
    "registry_core.ops.build.builders": (
        "ImageBuilder",
        "IndexBuilder",
    ),
    "registry_core.ops.copy": ("copy",),
    "registry_core.ops.document": ("Manifest",),
    "registry_core.ops.build.edit": ("ImageEditor",),
    "registry_core.ops.extract.unpack": ("Extracted",),
    "registry_core.ops.image": (
        "Image",
        "Index",
        "Layer",
    ),
    "registry_core.ops.tar.members": (
        "ExtractLimits",
        "FileEntry",
        "FileKind",
    ),
    "registry_core.ops.read": (
        "open_blob",
        "push_blob",
        "save_blob",
    ),
    "registry_core.ports.authenticator": ("Authenticator",),
    "registry_core.ports.blob_store": ("BlobStore",),
    "registry_core.ports.catalog": ("Catalog",),
    "registry_core.ports.keychain": (
        "CredentialStore",
        "Keychain",
    ),
    "registry_core.ports.manifest_store": ("ManifestStore",),
    "registry_core.ports.observer": ("Observer",),
    "registry_core.ports.repository": ("Repository",),
    "registry_core.scope": (
        "CancelScope",
        "fail_after",
    ),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
