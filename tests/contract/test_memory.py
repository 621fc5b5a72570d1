from __future__ import annotations

import pytest

from registry_adapters.memory import MemoryCatalog
from registry_core.ports import Catalog
from registry_core.testing.contract import Can, ContractSuite

BACKENDS = {"memory"}


class TestMemory(ContractSuite):
    can = ~Can.FLAT_MEMORY

    @pytest.fixture
    def catalog(self) -> Catalog:
        return MemoryCatalog()
