"""Keychains: fixed credentials, environment variables, Docker's and podman's files, and credential helpers."""

from registry_adapters.keychains.default import default_keychain, default_store
from registry_adapters.keychains.docker_config import AuthFileKeychain, DockerConfigKeychain
from registry_adapters.keychains.helper import HelperKeychain
from registry_adapters.keychains.sources import (
    ChainKeychain,
    EnvironmentKeychain,
    MemoryKeychain,
    StaticKeychain,
    TextKeychain,
)

__all__ = [
    "AuthFileKeychain",
    "ChainKeychain",
    "DockerConfigKeychain",
    "EnvironmentKeychain",
    "HelperKeychain",
    "MemoryKeychain",
    "StaticKeychain",
    "TextKeychain",
    "default_keychain",
    "default_store",
]
