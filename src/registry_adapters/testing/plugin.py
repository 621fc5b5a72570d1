"""Fixtures for pytest, available in every test run once the distribution is installed.

The module imports only pytest; the fixtures import the rest.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from registry_adapters.testing.request_log import RequestLog
    from registry_adapters.testing.server import FaultyRegistry
    from registry_adapters.wsgi import RegistryServer
    from registry_core.client import RegistryClient

__all__ = ["faulty_registry", "memory_client", "pytest_runtest_makereport", "registry_server"]

_REQUEST_LOG: pytest.StashKey[RequestLog] = pytest.StashKey()


@pytest.fixture
def memory_client() -> Iterator[RegistryClient]:
    """A client for an empty registry in memory, without a network."""
    from registry_adapters.backends import open_client

    with open_client("memory:") as client:
        yield client


@pytest.fixture
def registry_server() -> Iterator[RegistryServer]:
    """An empty registry on a free loopback port."""
    from registry_adapters.memory import MemoryCatalog
    from registry_adapters.wsgi import registry_server as serve

    with serve(MemoryCatalog()) as server:
        yield server


@pytest.fixture
def faulty_registry(request: pytest.FixtureRequest) -> Iterator[FaultyRegistry]:
    """An empty registry on a free loopback port that fails on demand; a failing test reports its requests."""
    from registry_adapters.testing.server import faulty_registry as serve

    with serve() as registry:
        request.node.stash[_REQUEST_LOG] = registry.request_log
        yield registry


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the request log of the faulty registry to the report of a failing test."""
    report = yield
    request_log = item.stash.get(_REQUEST_LOG, None)
    if request_log is not None and report.when == "call" and report.failed:
        report.sections.append(("requests to the faulty registry", str(request_log)))
    return report
