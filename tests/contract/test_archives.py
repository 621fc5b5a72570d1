"""Archives fulfil the contract while they are written; nothing can be removed from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_adapters.archive import ArchiveCatalog, ArchiveForm
from registry_core.ports.catalog import Catalog
from registry_core.testing.contract import Can, ContractSuite

BACKENDS = {"docker-archive", "oci-archive"}


class TestDockerArchive(ContractSuite):
    can = ~(Can.DELETE_BLOBS | Can.DELETE_MANIFESTS | Can.UNTAG)

    @pytest.fixture
    def catalog(self, tmp_path: Path) -> Iterator[Catalog]:
        catalog = ArchiveCatalog(tmp_path / "images.tar", ArchiveForm.DOCKER, fsync=False)
        yield catalog
        catalog.discard()


class TestOciArchive(ContractSuite):
    can = ~(Can.DELETE_BLOBS | Can.DELETE_MANIFESTS | Can.UNTAG)

    @pytest.fixture
    def catalog(self, tmp_path: Path) -> Iterator[Catalog]:
        catalog = ArchiveCatalog(tmp_path / "images.tar", ArchiveForm.OCI, fsync=False)
        yield catalog
        catalog.discard()
