"""Where credentials come from: the program, the environment, Docker's and podman's files, and credential helpers."""

from registry_adapters.keychains.chain import ChainKeychain
from registry_adapters.keychains.default import default_keychain, default_store
from registry_adapters.keychains.docker import DockerConfigKeychain
from registry_adapters.keychains.environment import EnvironmentKeychain
from registry_adapters.keychains.helper import HelperKeychain
from registry_adapters.keychains.memory import MemoryKeychain
from registry_adapters.keychains.podman import AuthFileKeychain
from registry_adapters.keychains.static import StaticKeychain
from registry_adapters.keychains.text import TextKeychain

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
