"""The public names."""

from __future__ import annotations

import registry_adapters
import registry_core
from registry_core import errors

PROMISED = """
    RegistryClient Catalog Repository BlobStore ManifestStore Authenticator Keychain
    Digest Tag RepositoryName PathSegments Reference Descriptor Platform RawManifest ImageManifest ImageIndex
    ArtifactManifest ImageConfig RawConfig Image Index Layer ImageBuilder IndexBuilder
    Basic IdentityToken RegistryToken Anonymous
    CancelScope fail_after copy open_blob save_blob push_blob
    CopyOptions CopyPlan CopyReport CopyTask IndexMode plan_copies plan_copy run_copies Action NodeKind Outcome Side
    ImageName ImageNames NamedImage
    MirrorPlan MirrorRule TagPatterns TagSelection plan_mirror run_mirror validate ArtifactFile
"""


def test_the_core_exports_the_public_names() -> None:
    names = set(PROMISED.split()) | {
        name for name in errors.__all__ if name not in ("error_context", "error_reference")
    }

    missing = {name for name in names if not hasattr(registry_core, name)}

    assert missing == set()
    assert names - {"ErrorInfo"} <= set(registry_core.__all__)


def test_the_adapters_export_the_public_names() -> None:
    catalogs = {"MemoryCatalog", "LayoutCatalog", "ArchiveCatalog", "HttpCatalog"}
    names = catalogs | {"ArchiveForm", "HttpSettings", "open_catalog", "open_client", "open_mirror"}

    assert names == set(registry_adapters.__all__)
    assert all(hasattr(registry_adapters, name) for name in names)


def test_every_export_exists() -> None:
    assert all(hasattr(registry_core, name) for name in registry_core.__all__)
