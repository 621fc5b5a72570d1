"""The HTTP backend with a real registry: distribution 2.8 as packaged by Debian."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from registry_adapters.http import HttpCatalog, HttpSettings
from registry_core.ports.catalog import Catalog
from registry_core.testing.contract import Can, ContractSuite

BACKENDS: Final = {"http", "https"}


# Nothing to wait for: the registry answers 500 to some questions each time.
_BACKOFF: Final = 0.01

# Differences of distribution 2.8 from the specification.
_CAN: Final = ~(
    Can.EMPTY_NAME
    | Can.UNTAG
    | Can.SHA512_MANIFESTS
    | Can.KEEPS_DANGLING
    | Can.ANY_MEDIA_TYPE
    | Can.MISSING_REPOSITORY
    # The catalog is ordered by paths: a/b comes before a-b.
    | Can.ASCII_CATALOG
    # The digest of a blob, requested as a manifest, gives status 500.
    | Can.DENIES_BLOBS_AS_MANIFESTS
    # Link files are written in place; a concurrent read gives status 500.
    | Can.ATOMIC_WRITES
)


class TestHttpOverDockerRegistry(ContractSuite):
    can = _CAN

    @pytest.fixture
    def catalog(self, docker_registry: str) -> Iterator[Catalog]:
        settings = HttpSettings(plain_http=True, backoff=_BACKOFF)
        catalog = HttpCatalog(docker_registry.partition("://")[2], settings)
        yield catalog
        catalog.close()


class TestHttpOverDockerRegistryInChunks(ContractSuite):
    can = _CAN

    @pytest.fixture
    def catalog(self, docker_registry: str) -> Iterator[Catalog]:
        settings = HttpSettings(plain_http=True, backoff=_BACKOFF, chunk_size=700_000)
        catalog = HttpCatalog(docker_registry.partition("://")[2], settings)
        yield catalog
        catalog.close()
