"""The layout backend fulfils the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry_adapters.layout import LayoutCatalog
from registry_core.ports.catalog import Catalog
from registry_core.testing.contract import ContractSuite

BACKENDS = {"oci"}


class TestLayout(ContractSuite):
    @pytest.fixture
    def catalog(self, tmp_path: Path) -> Catalog:
        return LayoutCatalog(tmp_path)


class TestLayoutByPaths(ContractSuite):
    """Systems without file descriptors of directories."""

    @pytest.fixture
    def catalog(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
        monkeypatch.setattr("registry_core.content.operating_system.HAS_DIR_FDS", False)
        return LayoutCatalog(tmp_path, fsync=False)
