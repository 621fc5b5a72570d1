"""Real programs: found or reported as missing, started on loopback, stopped by their process id."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest

_START_SECONDS: Final = 20.0


def program(name: str, package: str) -> str:
    """The path of a program. Without it a test fails in CI, and is skipped elsewhere with the package to install."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is missing, and has to be there in CI: apt-get install {package}")
    if found is None:
        pytest.skip(f"needs {name}: apt-get install {package}")
    return found


def free_port() -> int:
    """A free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A server in a separate process, listening on a loopback port.

    Args:
        command: Command line.
        port: Port that it will listen on.
        log: File for its output.
    """

    def __init__(self, command: list[str], port: int, log: Path) -> None:
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port
        self.host = f"127.0.0.1:{port}"

    def start(self) -> None:
        """Start the process, and wait until it listens."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "REGISTRY_"))}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        self.stop()
        pytest.fail(f"{self._command[0]} did not start: {self._log.read_text(errors='replace')[-800:]}")

    def stop(self) -> None:
        """Terminate the process. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    def kill(self) -> None:
        """Kill the process, as a crash would end it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class DockerRegistry(Process):
    """A docker-registry, which keeps its content when it is started again.

    Args:
        executable: Path of the program.
        root: Directory for its files.
        http: Additional entries of the section ``http``.
        sections: Additional sections of its configuration.
    """

    def __init__(self, executable: str, root: Path, http: dict[str, Any], sections: dict[str, Any]) -> None:
        port = free_port()
        root.mkdir(parents=True, exist_ok=True)
        config = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(root / "data")}, "delete": {"enabled": True}},
            "http": {"addr": f"127.0.0.1:{port}", "secret": "secret of the tests", **http},
            **sections,
        }
        path = root / "config.yml"
        path.write_text(json.dumps(config))
        super().__init__([executable, "serve", str(path)], port, root / "log")
        self.url = f"{'https' if 'tls' in http else 'http'}://{self.host}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start slow tests first; a slow test at the end would keep one worker busy while the others are idle."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def skopeo() -> str:
    """The skopeo program."""
    return program("skopeo", "skopeo")


@pytest.fixture(scope="session")
def umoci() -> str:
    """The umoci program."""
    return program("umoci", "umoci")


@pytest.fixture(scope="session")
def buildah() -> str:
    """The buildah program."""
    return program("buildah", "buildah")


@pytest.fixture(scope="session")
def podman() -> str:
    """The podman program."""
    return program("podman", "podman")


@pytest.fixture(scope="session")
def as_root() -> None:
    """Root, who may create devices and change owners. Other users fail in CI, and are skipped elsewhere."""
    if os.geteuid() and os.environ.get("CI") == "true":
        pytest.fail("in CI the tests have to run as root")
    if os.geteuid():
        pytest.skip("needs root: only root makes devices and gives files away")


@pytest.fixture(scope="session")
def nginx() -> str:
    """The nginx program."""
    return program("nginx", "nginx-light")


@pytest.fixture(scope="session")
def docker_registry_program() -> str:
    """The docker-registry program."""
    return program("docker-registry", "docker-registry")


@pytest.fixture(scope="module")
def docker_registry(docker_registry_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a fresh docker-registry that allows deletion."""
    with DockerRegistry(docker_registry_program, tmp_path_factory.mktemp("docker-registry"), {}, {}) as registry:
        yield registry.url


@pytest.fixture
def run_docker_registry(docker_registry_program: str, tmp_path: Path) -> Iterator[Callable[..., DockerRegistry]]:
    """Start docker-registries with some configuration: ``run_docker_registry(http={…}, auth={…})``."""
    with ExitStack() as stack:
        count = 0

        def run(http: dict[str, Any] | None = None, **sections: Any) -> DockerRegistry:
            nonlocal count
            count += 1
            registry = DockerRegistry(docker_registry_program, tmp_path / f"registry-{count}", http or {}, sections)
            return stack.enter_context(registry)

        yield run


@pytest.fixture
def run_nginx(nginx: str, tmp_path: Path) -> Iterator[Callable[[str], Process]]:
    """Start nginx with the contents of a ``server`` block, without ``listen``."""
    with ExitStack() as stack:
        count = 0

        def run(server: str) -> Process:
            nonlocal count
            count += 1
            port, root = free_port(), tmp_path / f"nginx-{count}"
            root.mkdir()
            temporary = "".join(
                f"{kind}_temp_path {root}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            (root / "nginx.conf").write_text(
                f"daemon off;\nmaster_process off;\npid {root}/pid;\nerror_log {root}/log error;\n"
                "events { worker_connections 256; }\n"
                f"http {{\naccess_log off;\n{temporary}"
                f"server {{\nlisten 127.0.0.1:{port};\n{server}\n}}\n}}\n"
            )
            command = [nginx, "-p", str(root), "-c", str(root / "nginx.conf"), "-e", str(root / "log")]
            return stack.enter_context(Process(command, port, root / "out"))

        yield run
