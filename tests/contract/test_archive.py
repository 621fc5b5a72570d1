"""New archives keep every promise of the ports, except that nothing is ever taken out of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_adapters.archive import ArchiveCatalog, ArchiveForm
from registry_core.ports.catalog import Catalog
from registry_core.testing.contract import Can, ContractSuite

BACKENDS = {"docker-archive", "oci-archive"}

_ONLY_GROWS = ~(Can.DELETE_BLOBS | Can.DELETE_MANIFESTS | Can.UNTAG)


class TestDockerArchive(ContractSuite):
    can = _ONLY_GROWS

    @pytest.fixture
    def catalog(self, tmp_path: Path) -> Iterator[Catalog]:
        with ArchiveCatalog(tmp_path / "images.tar", ArchiveForm.DOCKER, fsync=False) as catalog:
            yield catalog


class TestOciArchive(ContractSuite):
    can = _ONLY_GROWS

    @pytest.fixture
    def catalog(self, tmp_path: Path) -> Iterator[Catalog]:
        with ArchiveCatalog(tmp_path / "images.tar", ArchiveForm.OCI, fsync=False) as catalog:
            yield catalog
