"""Runs a benchmark on a wheel of the library, installed with compiled modules.

An editable install, or ``PYTHONDONTWRITEBYTECODE`` in the environment, makes Python compile the sources at each start:
then a benchmark would measure the compiler.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

__all__ = ["environment_without_python", "install", "run_installed"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_MARK: Final = "OCIPORT_BENCH_INSTALLED"


def run_installed(script: str) -> None:
    """Run a script again in a virtual environment with the wheel, and exit with its status; there, do nothing.

    Args:
        script: Path of the script; it gets the arguments of this process.
    """
    if os.environ.get(_MARK):
        return
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory:
        python = install(Path(directory))
        environment = {**environment_without_python(), _MARK: "1"}
        status = subprocess.run([python, script, *sys.argv[1:]], env=environment, check=False).returncode
    sys.exit(status)


def install(directory: Path) -> Path:
    """Build a wheel, install it in a new virtual environment and compile it; returns the interpreter.

    Dependencies and other libraries are those of this interpreter.

    Args:
        directory: Existing directory for the wheel and the environment.
    """
    environment = environment_without_python()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    venv = directory / "venv"
    python = venv / "bin" / "python"
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", directory, _ROOT], env=environment, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], env=environment, check=True)
    (wheel,) = directory.glob("ociport-*.whl")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], env=environment, check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    subprocess.run([python, "-m", "compileall", "-q", packages], env=environment, check=True)
    # A plain line adds the directory only: an editable install in it is not followed.
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return python


def environment_without_python() -> dict[str, str]:
    """The environment without ``PYTHONPATH``, ``PYTHONDONTWRITEBYTECODE`` and the like."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
