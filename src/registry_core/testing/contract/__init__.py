"""Contract tests for backends, to inherit.

::

    from registry_core.testing.contract import Can, ContractSuite

    class TestMyBackend(ContractSuite):
        can = ~Can.MOUNT

        @pytest.fixture
        def catalog(self) -> Catalog:
            return MyCatalog(...)
"""

from registry_core.testing.contract.base import Can, Contract
from registry_core.testing.contract.big_blobs import BigBlobContract
from registry_core.testing.contract.blobs import BlobContract
from registry_core.testing.contract.cancellation import CancellationContract
from registry_core.testing.contract.catalogs import CatalogContract
from registry_core.testing.contract.concurrency import ConcurrencyContract
from registry_core.testing.contract.faulty_sources import FaultySourceContract
from registry_core.testing.contract.manifests import ManifestContract
from registry_core.testing.contract.odd_json import OddJsonContract
from registry_core.testing.contract.referrers import ReferrerContract
from registry_core.testing.contract.tags import TagContract

__all__ = ["Can", "Contract", "ContractSuite"]


class ContractSuite(
    BlobContract,
    FaultySourceContract,
    ManifestContract,
    OddJsonContract,
    TagContract,
    ReferrerContract,
    CatalogContract,
    ConcurrencyContract,
    CancellationContract,
    BigBlobContract,
):
    """All parts of the suite. A backend's test class overrides ``catalog``, and ``can`` if a capability is missing."""
