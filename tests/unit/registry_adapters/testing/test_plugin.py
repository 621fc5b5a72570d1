"""The fixtures in the test run of an application."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
PLUGIN = "registry_adapters.testing.plugin"


class Application:
    """An application with its tests."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
        (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")

    def run(self, tests: str, *options: str) -> tuple[int, str]:
        """Run some tests; return the exit status and the output."""
        (self._directory / "test_application.py").write_text(tests)
        command = [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", "-q", *options]
        done = subprocess.run(command, cwd=self._directory, capture_output=True, text=True, timeout=100)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Application:
    """An application whose tests run in a separate process."""
    return Application(tmp_path, monkeypatch)


PASSING = """
import pytest
from registry_adapters import open_client
from registry_adapters.testing import faults
from registry_core import ImageBuilder, Unavailable


def release(client):
    client.push_image("v1", ImageBuilder(platform="linux/amd64").build())
    return client.list_tags()


def test_in_memory(memory_client):
    assert release(memory_client.with_segment("app")) == ["v1"]


def test_over_the_wire(registry_server):
    with open_client(registry_server.url) as client:
        assert release(client.with_segment("app")) == ["v1"]


def test_through_a_burst(faulty_registry):
    faulty_registry.inject(faults.status(503, retry_after=0).on("tags").times(2))
    assert release(faulty_registry.client().with_segment("app")) == ["v1"]
    assert faulty_registry.request_log.count(status=503) == 2


def test_through_an_outage(faulty_registry):
    faulty_registry.inject(faults.drop())
    with pytest.raises(Unavailable):
        faulty_registry.client(retries=0).with_segment("app").list_tags()


def test_each_test_has_its_own_registry(faulty_registry):
    assert len(faulty_registry.request_log) == 0
    assert list(faulty_registry.catalog.repositories()) == []
"""
FAILING = """
from registry_adapters.testing import faults


def test_fails(faulty_registry):
    faulty_registry.inject(faults.drip(1e6).on("catalog"))
    list(faulty_registry.client().list_repositories())
    assert faulty_registry.request_log.count() == 0
"""


def test_tests_with_the_fixtures_pass(application: Application) -> None:
    code, output = application.run(PASSING)

    assert code == 0, output
    assert "5 passed" in output


def test_they_run_in_parallel(application: Application) -> None:
    code, output = application.run(PASSING, "-p", "xdist", "-n", "2")

    assert code == 0, output
    assert "5 passed" in output


def test_a_failing_test_shows_the_requests(application: Application) -> None:
    code, output = application.run(FAILING)

    assert code == 1, output
    assert "requests to the faulty registry" in output
    assert "/v2/_catalog" in output
    assert "1e+06 bytes per second" in output


def test_a_run_without_the_fixtures_imports_only_pytest(application: Application) -> None:
    code, output = application.run(
        """
import sys


def test_imports():
    heavy = {"urllib3", "cheroot", "msgspec", "dependency_injector", "registry_core"}
    assert heavy & set(sys.modules) == set()
"""
    )

    assert code == 0, output


def test_the_error_without_a_server_names_the_missing_extra(application: Application) -> None:
    code, output = application.run(
        """
import sys

sys.modules["cheroot"] = None


def test_needs_the_server(registry_server):
    raise AssertionError
"""
    )

    assert code == 1, output
    assert "ociport[testing]" in output


def test_the_plugin_is_found_by_every_test_run() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["entry-points"]["pytest11"] == {"ociport": PLUGIN}


def test_the_extra_has_what_the_fixtures_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    names = {requirement.partition(">")[0] for requirement in project["optional-dependencies"]["testing"]}

    assert names == {"pytest", "cheroot"}
