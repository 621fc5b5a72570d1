"""The HTTP backend over a registry that others wrote: distribution 2.8, as Debian packages it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from registry_adapters.http import HttpCatalog, HttpSettings
from registry_core.ports.catalog import Catalog
from registry_core.testing.contract import Can, ContractSuite

BACKENDS: Final = {"http", "https"}


class DockerRegistry(ContractSuite):
    """What distribution 2.8 lacks."""

    can = ~(
        Can.EMPTY_NAME
        | Can.UNTAG
        | Can.SHA512_MANIFESTS
        | Can.KEEPS_DANGLING
        | Can.ANY_MEDIA_TYPE
        | Can.MISSING_REPOSITORY
        # Pages of its catalog come in the order of paths, where a/b stands before a-b.
        | Can.ASCII_CATALOG
        # It answers 500 to such a question.
        | Can.DENIES_BLOBS_AS_MANIFESTS
        # It writes its link files in place, and answers 500 to who reads one just then.
        | Can.ATOMIC_WRITES
    )


class TestHttpOverDockerRegistry(DockerRegistry):
    @pytest.fixture
    def catalog(self, docker_registry: str) -> Iterator[Catalog]:
        catalog = HttpCatalog(docker_registry.partition("://")[2], HttpSettings(plain_http=True))
        yield catalog
        catalog.close()


class TestHttpOverDockerRegistryInChunks(DockerRegistry):
    @pytest.fixture
    def catalog(self, docker_registry: str) -> Iterator[Catalog]:
        catalog = HttpCatalog(docker_registry.partition("://")[2], HttpSettings(plain_http=True, chunk_size=700_000))
        yield catalog
        catalog.close()
