"""Mypy and pyright report misspelt names and settings in programs that use the library."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PROGRAM: Final = """\
from registry_adapters import open_catalog, open_client
from registry_adapters import open_clinet
from registry_adapters.login import login
from registry_adapters.testing import faulty_registry
from registry_adapters.testing import faulty_registery
from registry_core import Basic, RegistryClient
from registry_core import RegistryCleint

open_client("registry.example.com", tls_verfy=False)
open_catalog("registry.example.com", read_timout=5)
open_catalog("oci:images", fsync="yes")
login("registry.example.com", Basic("user", "word"), retrys=2)
with faulty_registry() as registry:
    registry.client(chunksize=5)

correct: RegistryClient = open_client("registry.example.com", tls_verify=False, ca_file=None, middleware=[])
open_catalog("docker-archive:images.tar", replace=True, fsync=False)
login("registry.example.com", Basic("user", "word"), retries=2)
"""
WRONG_LINES: Final = [2, 5, 7, 9, 10, 11, 12, 14]


def mypy_errors(program: Path) -> list[int]:
    # With the project's options and from its root, so that the cache of `make types` is used.
    output = run("mypy", "--config-file", str(ROOT / "pyproject.toml"), str(program))
    return sorted(int(line) for line in re.findall(r"^.+?:(\d+): error:", output, re.MULTILINE))


def pyright_errors(program: Path) -> list[int]:
    options = {"typeCheckingMode": "standard", "pythonVersion": "3.11", "extraPaths": [str(ROOT / "src")]}
    (program.parent / "pyrightconfig.json").write_text(json.dumps(options))
    output = run("pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(program.parent))
    report = json.loads(output)
    assert report["summary"]["filesAnalyzed"] == 1
    errors = (each for each in report["generalDiagnostics"] if each["severity"] == "error")
    return sorted(error["range"]["start"]["line"] + 1 for error in errors)


def run(checker: str, *arguments: str) -> str:
    command = [sys.executable, "-m", checker, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
@pytest.mark.parametrize("errors", [mypy_errors, pyright_errors])
def test_a_misspelt_import_and_a_misspelt_setting_are_type_errors(
    errors: Callable[[Path], list[int]], tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    assert errors(program) == WRONG_LINES
