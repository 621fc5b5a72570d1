"""Fixtures for pytest, there for every test run once the distribution is installed.

Nothing but pytest is imported before a fixture is used.
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

_JOURNAL: pytest.StashKey[RequestLog] = pytest.StashKey()


@pytest.fixture
def memory_client() -> Iterator[RegistryClient]:
    """A client of an empty registry in memory, without any network."""
    from registry_adapters.backends import open_client

    with open_client("memory:") as client:
        yield client


@pytest.fixture
def registry_server() -> Iterator[RegistryServer]:
    """An empty registry on a free loopback port, served from memory."""
    from registry_adapters.memory import MemoryCatalog
    from registry_adapters.wsgi import registry_server as serving

    with serving(MemoryCatalog()) as server:
        yield server


@pytest.fixture
def faulty_registry(request: pytest.FixtureRequest) -> Iterator[FaultyRegistry]:
    """An empty registry on a free loopback port that fails on demand; a failing test shows what it was asked."""
    from registry_adapters.testing.server import faulty_registry as serving

    with serving() as registry:
        request.node.stash[_JOURNAL] = registry.journal
        yield registry


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the journal of a failing test's registry into its report."""
    report = yield
    journal = item.stash.get(_JOURNAL, None)
    if journal is not None and report.when == "call" and report.failed:
        report.sections.append(("requests to the faulty registry", str(journal)))
    return report
