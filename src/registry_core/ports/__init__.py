"""The ports: protocols that adapters implement and that the operations of the core call."""

from registry_core.ports.authenticator import Authenticator, HoldsCredentials
from registry_core.ports.blob_store import BlobStore
from registry_core.ports.catalog import BlobLocator, Catalog, ForeignLayers, Repository
from registry_core.ports.image_names import ImageNames, NamedImage
from registry_core.ports.keychain import CredentialStore, Keychain
from registry_core.ports.manifest_store import ManifestStore
from registry_core.ports.observer import Observer

__all__ = [
    "Authenticator",
    "BlobLocator",
    "BlobStore",
    "Catalog",
    "CredentialStore",
    "ForeignLayers",
    "HoldsCredentials",
    "ImageNames",
    "Keychain",
    "ManifestStore",
    "NamedImage",
    "Observer",
    "Repository",
]
