"""The contract suite in another project, with pytest alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BACKEND = """
import pytest
from registry_adapters.memory import MemoryCatalog
from registry_core.testing.contract import Can, ContractSuite

class TestIt(ContractSuite):
{body}
"""
FIXTURE = """
    can = {can}

    @pytest.fixture
    def catalog(self):
        return MemoryCatalog()
"""


def run(directory: Path, body: str, only: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_it.py").write_text(BACKEND.format(body=body), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", only, "test_it.py"]
    # The packages that these tests run with, installed or not.
    paths = os.pathsep.join(str(Path(path).resolve()) for path in sys.path if path)
    environment = os.environ | {"PYTHONPATH": paths}
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=100
    )


def test_a_class_with_a_fixture_runs_the_suite(tmp_path: Path) -> None:
    result = run(tmp_path, FIXTURE.format(can="~Can.FLAT_MEMORY"), "ascii_order")

    assert result.returncode == 0, result.stdout
    assert "skipped" not in result.stdout


def test_a_class_without_the_fixture_fails_with_an_explanation(tmp_path: Path) -> None:
    result = run(tmp_path, "    pass", "test_a_tag_moves_back")

    assert result.returncode == 1
    assert "the test class of a backend must override this fixture" in result.stdout


def test_a_backend_with_an_undeclared_capability_fails(tmp_path: Path) -> None:
    result = run(tmp_path, FIXTURE.format(can="~Can.UNTAG"), "untag_leaves_the_manifest")

    assert result.returncode == 1
    assert "DID NOT RAISE" in result.stdout


def test_failures_show_the_compared_values(tmp_path: Path) -> None:
    """Assertions of the suite are rewritten as those in test files are."""
    result = run(tmp_path, FIXTURE.format(can="~Can.MOUNT"), "mount_adds_a_blob_of_another_repository")

    assert result.returncode == 1
    assert "assert True is False" in result.stdout
