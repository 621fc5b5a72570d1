"""Every example of the README and the docs passes mypy and pyright in strict mode.

The blocks of one document become one module, because they share one namespace when they run. Each line keeps its
number, so a finding names the document and the line. Each checker runs once, over all modules.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT: Final = Path(__file__).parents[3]
DOCUMENTS: Final = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
PROGRAMS: Final = tuple(sorted((ROOT / "docs").rglob("*.py")))
# The types of dependency-injector are partial: `Provider` has a parameter that they leave out.
RELAXED: Final = {
    "docs/how-to/dependency-injection.md": "reportUnknownMemberType",
    "docs/how-to/flask_service.py": "reportUnknownMemberType",
}
# Misspelt imports and settings, settings of a wrong type, and correct calls, which must not be reported.
MISTAKES: Final = """\
from registry_core import ImageBilder
from registry_core import RegistryCleint
from registry_adapters import open_cleint
from registry_adapters.http import HttpSetings
from registry_adapters.testing import faulty_registery
from registry_adapters import open_catalog, open_client
from registry_adapters.login import login
from registry_adapters.testing import faulty_registry
from registry_core import Basic, RegistryClient

open_client("memory:", read_timeuot=1.0)
open_client("registry.example.com", tls_verfy=False)
open_catalog("memory:", read_timeuot=1.0)
open_client("memory:", read_timeout="1")
open_catalog("memory:", retries="3")
open_catalog("oci:images", fsync="yes")
login("registry.example.com", Basic("user", "word"), retrys=2)
with faulty_registry() as registry:
    registry.client(chunksize=5)

correct: RegistryClient = open_client("registry.example.com", tls_verify=False, ca_file=None, middleware=[])
open_catalog("docker-archive:images.tar", replace=True, fsync=False)
login("registry.example.com", Basic("user", "word"), retries=2)
"""
MISTAKEN_LINES: Final = (1, 2, 3, 4, 5, 11, 12, 13, 14, 15, 16, 17, 19)
MYPY_LINE: Final = re.compile(r"(?P<path>.+?):(?P<line>\d+): error: (?P<message>.+)")


class Finding(NamedTuple):
    """An error reported by a checker."""

    document: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.message}"


class Examples:
    """Modules made of documents.

    Args:
        directory: Directory for the modules.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._documents: dict[str, str] = {}

    def add(self, document: str, code: str) -> None:
        name = re.sub(r"\W", "_", document) + ".py"
        relaxed = f"\n# pyright: {RELAXED[document]}=false\n" if document in RELAXED else ""
        self._documents[name] = document
        (self._directory / name).write_text(code + relaxed)

    def check_with_mypy(self) -> list[Finding]:
        # With the options of `make types`, so that its cache is used.
        paths = [str(self._directory / name) for name in self._documents]
        output = _run("mypy", "--config-file", str(ROOT / "pyproject.toml"), *paths)
        lines = [match for match in map(MYPY_LINE.fullmatch, output.splitlines()) if match]
        return [self._finding(match["path"], int(match["line"]), match["message"]) for match in lines]

    def check_with_pyright(self) -> list[Finding]:
        options = {"typeCheckingMode": "strict", "pythonVersion": "3.11", "extraPaths": [str(ROOT / "src")]}
        (self._directory / "pyrightconfig.json").write_text(json.dumps(options))
        output = _run("pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(self._directory))
        report = json.loads(output)
        assert report["summary"]["filesAnalyzed"] == len(self._documents)
        return [
            self._finding(each["file"], each["range"]["start"]["line"] + 1, each["message"])
            for each in report["generalDiagnostics"]
            if each["severity"] == "error"
        ]

    def _finding(self, path: str, line: int, message: str) -> Finding:
        return Finding(self._documents.get(Path(path).name, path), line, message)


def blocks_of(document: Path) -> str:
    """The Python blocks of a document; other lines are empty."""
    lines = [""] * len(document.read_text().splitlines())
    parsed = Sybil(parsers=[PythonCodeBlockParser()], path=str(ROOT), patterns=["*.md"]).parse(document)
    for example in parsed.examples():
        first = example.line + example.parsed.line_offset
        for number, line in enumerate(str(example.parsed).splitlines(), start=first):
            lines[number] = line
    return "\n".join(lines)


def _run(checker: str, *arguments: str) -> str:
    command = [sys.executable, "-m", checker, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Finding]]:
    """The findings of each checker."""
    examples = Examples(tmp_path_factory.mktemp("examples"))
    for document in DOCUMENTS:
        code = blocks_of(document)
        if code.strip():
            examples.add(str(document.relative_to(ROOT)), code)
    for program in PROGRAMS:
        examples.add(str(program.relative_to(ROOT)), program.read_text())
    examples.add("mistakes", MISTAKES)
    return {"mypy": examples.check_with_mypy(), "pyright": examples.check_with_pyright()}


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_every_example_passes(checker: str, findings: dict[str, list[Finding]]) -> None:
    assert [str(finding) for finding in findings[checker] if finding.document != "mistakes"] == []


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_exactly_the_lines_with_mistakes_are_reported(checker: str, findings: dict[str, list[Finding]]) -> None:
    # Pyright also reports the misspelt imports as unused; that must not count as their detection.
    reported = {
        finding.line
        for finding in findings[checker]
        if finding.document == "mistakes" and not finding.message.endswith("is not accessed")
    }

    assert reported == set(MISTAKEN_LINES)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_line_of_an_example_keeps_its_number(document: Path) -> None:
    original = document.read_text().splitlines()

    moved = [
        number for number, line in enumerate(blocks_of(document).splitlines()) if line and original[number] != line
    ]

    assert moved == []
