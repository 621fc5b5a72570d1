"""Docker's and podman's files: read again after each change, and replaced atomically."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

import registry_adapters
from registry_adapters.keychains import AuthFileKeychain, DockerConfigKeychain
from registry_adapters.keychains.json_file import JsonFile
from registry_core.cancellation import fail_after
from registry_core.domain.auth import Basic, IdentityToken, RegistryToken
from registry_core.errors import ConfigError, DeadlineExceeded

HOST = "registry.example.com"
USER = Basic("user", "pass")
NOT_FOUND = "echo 'credentials not found in native keychain'; exit 1"
SOURCES = Path(registry_adapters.__file__).parents[1]


class Installer(Protocol):
    def __call__(self, script: str, *, name: str = "tests", **variables: str) -> dict[str, str]: ...


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def write(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def script_returning(username: str) -> str:
    return f"""echo '{{"Username": "{username}", "Secret": "secret"}}'"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "docker" / "config.json"


class TestReading:
    def test_a_missing_file_has_no_credential(self, path: Path) -> None:
        assert DockerConfigKeychain(path).credential(HOST, None) is None

    def test_a_file_in_place_of_the_directory_has_no_credential(self, path: Path) -> None:
        write(path, {})

        assert DockerConfigKeychain(path / "config.json").credential(HOST, None) is None

    @pytest.mark.parametrize("content", ["", " \n", "{}"])
    def test_an_empty_file_has_no_credential(self, path: Path, content: str) -> None:
        write(path, {})
        path.write_text(content)

        assert DockerConfigKeychain(path).credential(HOST, None) is None

    def test_the_null_device_has_no_credential(self) -> None:
        """REGISTRY_AUTH_FILE is often set to it."""
        keychain = AuthFileKeychain(environment={"REGISTRY_AUTH_FILE": os.devnull})

        assert keychain.credential(HOST, None) is None

    @pytest.mark.parametrize(
        "content", [b"hunter2", b"[]", b'{"auths": {"hunter2', b"\xff\xfe", b'{"auths": 1}', b"[" * 9999]
    )
    def test_a_malformed_file_is_named_and_not_quoted(self, path: Path, content: bytes) -> None:
        """R-043, R-045."""
        write(path, {})
        path.write_bytes(content)

        with pytest.raises(ConfigError, match=r"docker/config\.json") as caught:
            DockerConfigKeychain(path).credential(HOST, None)

        assert "hunter2" not in str(caught.value)

    def test_a_file_that_is_too_large_is_refused(self, path: Path) -> None:
        """R-023."""
        write(path, {})
        with path.open("r+b") as file:
            file.truncate(1 << 40)

        with pytest.raises(ConfigError, match="more than"):
            DockerConfigKeychain(path).credential(HOST, None)

    def test_a_pipe_is_refused_and_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")

        for name in ("pipe", "."):
            with pytest.raises(ConfigError):
                DockerConfigKeychain(tmp_path / name).credential(HOST, None)

    def test_a_loop_of_links_is_an_error(self, path: Path) -> None:
        path.parent.mkdir()
        path.symlink_to(path)

        with pytest.raises(ConfigError, match=r"config\.json"):
            DockerConfigKeychain(path).credential(HOST, None)


def rewrite(path: Path, content: str) -> None:
    path.write_text(content)


def replace(path: Path, content: str) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(content)
    temporary.replace(path)


def relink(path: Path, content: str) -> None:
    """Update a file as Kubernetes updates a mounted secret."""
    real = path.with_name(f"real-{len(list(path.parent.iterdir()))}")
    real.write_text(content)
    link = path.with_suffix(".new")
    link.symlink_to(real)
    link.replace(path)


class TestReload:
    @pytest.mark.parametrize("change", [rewrite, replace, relink])
    def test_each_change_is_seen_at_once(self, path: Path, change: Callable[[Path, str], None]) -> None:
        """Also a change that keeps the size within one tick of the clock."""
        write(path, {"auths": {HOST: auth("user:0000")}})
        keychain = DockerConfigKeychain(path)
        seen = []

        for number in range(1, 30):
            change(path, json.dumps({"auths": {HOST: auth(f"user:{number:04}")}}))
            seen.append(keychain.credential(HOST, None))

        assert seen == [Basic("user", f"{number:04}") for number in range(1, 30)]

    def test_an_unchanged_file_is_not_read_again(self, path: Path) -> None:
        file = JsonFile(write(path, {"x": 1}), clock=lambda: time.time_ns() + 10**10)

        assert file.document() is file.document()

    def test_a_file_that_changed_just_now_is_read_again(self, path: Path) -> None:
        file = JsonFile(write(path, {"x": 1}), clock=lambda: path.stat().st_mtime_ns + 10**9)

        assert file.document() is not file.document()

    @pytest.mark.parametrize("change", [rewrite, replace, relink])
    def test_a_change_that_keeps_size_and_time_is_seen(self, path: Path, change: Callable[[Path, str], None]) -> None:
        """By its inode, or by its change time."""
        write(path, {"x": 1})
        os.utime(path, ns=(10**18, 10**18))
        file = JsonFile(path, clock=lambda: time.time_ns() + 10**10)
        before = file.document()
        while time.time_ns() < path.stat().st_ctime_ns + 10**7:
            os.sched_yield()

        change(path, '{"x": 2}')
        os.utime(path, ns=(10**18, 10**18))

        assert (before, file.document()) == ({"x": 1}, {"x": 2})

    def test_a_file_that_is_removed_and_created_is_noticed(self, path: Path) -> None:
        keychain = DockerConfigKeychain(path)
        before = keychain.credential(HOST, None)
        write(path, {"auths": {HOST: auth("user:pass")}})
        during = keychain.credential(HOST, None)
        path.unlink()

        assert (before, during, keychain.credential(HOST, None)) == (None, USER, None)

    def test_a_malformed_file_invalidates_the_old_credential(self, path: Path) -> None:
        write(path, {"auths": {HOST: auth("user:pass")}})
        keychain = DockerConfigKeychain(path)
        keychain.credential(HOST, None)
        path.write_text('{"auths": {')
        with pytest.raises(ConfigError):
            keychain.credential(HOST, None)

        write(path, {"auths": {HOST: auth("user:mended")}})

        assert keychain.credential(HOST, None) == Basic("user", "mended")

    def test_a_partly_written_file_is_read_again(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(path, {})
        path.write_text('{"auths": {')
        waits: list[float] = []

        def finish(seconds: float) -> None:
            waits.append(seconds)
            write(path, {"auths": {HOST: auth("user:pass")}})

        monkeypatch.setattr("registry_adapters.keychains.json_file.sleep", finish)

        assert DockerConfigKeychain(path).credential(HOST, None) == USER
        assert len(waits) == 1

    def test_waiting_for_it_can_be_cancelled(self, path: Path) -> None:
        write(path, {})
        path.write_text("{")

        with pytest.raises(DeadlineExceeded):
            with fail_after(0.0):
                DockerConfigKeychain(path).credential(HOST, None)

    def test_readers_see_complete_files_during_a_store(self, path: Path) -> None:
        DockerConfigKeychain(path).store(HOST, USER)
        reader, writer = DockerConfigKeychain(path), DockerConfigKeychain(path)
        done = threading.Event()
        seen: list[object] = []

        def read_on() -> None:
            while not done.is_set():
                seen.append(reader.credential(HOST, None))

        thread = threading.Thread(target=read_on)
        thread.start()
        for number in range(50):
            writer.store("other.example.com", Basic("other", "x" * number * 100))
        done.set()
        thread.join()

        assert set(seen) == {USER}


class TestHelpers:
    def test_the_helper_for_the_host_is_asked_first(self, path: Path, install: Installer) -> None:
        """R-045: credHelpers, then credsStore, then auths."""
        variables = install(script_returning("for-all"), name="all")
        install(script_returning("for-host"), name="one")
        write(path, {"auths": {HOST: auth("user:pass")}, "credHelpers": {HOST: "one"}, "credsStore": "all"})
        keychain = DockerConfigKeychain(path, environment=variables)

        assert keychain.credential(HOST, None) == Basic("for-host", "secret")
        assert keychain.credential("other.example.com", None) == Basic("for-all", "secret")

    def test_if_the_default_helper_has_no_credential_the_file_is_used(self, path: Path, install: Installer) -> None:
        """R-045."""
        write(path, {"auths": {HOST: auth("user:pass")}, "credsStore": "tests"})

        assert DockerConfigKeychain(path, environment=install(NOT_FOUND)).credential(HOST, None) == USER

    def test_if_the_helper_for_the_host_has_no_credential_there_is_none(self, path: Path, install: Installer) -> None:
        """containers-auth.json(5): with a helper, the entry is not used."""
        write(path, {"auths": {HOST: auth("user:pass")}, "credHelpers": {HOST: "tests"}})

        assert DockerConfigKeychain(path, environment=install(NOT_FOUND)).credential(HOST, None) is None

    @pytest.mark.parametrize("key", ["docker.io", "index.docker.io", "https://index.docker.io/v1/"])
    def test_the_helper_for_docker_hub_is_found_under_any_name(self, path: Path, install: Installer, key: str) -> None:
        """R-045."""
        write(path, {"credHelpers": {key: "tests"}})
        keychain = DockerConfigKeychain(path, environment=install(script_returning("hub")))

        assert keychain.credential("docker.io", None) == Basic("hub", "secret")

    @pytest.mark.parametrize("name", ["../../bin/sh", "a b", "-x", 7, ["tests"], "missing"])
    def test_a_malformed_helper_is_an_error_for_its_host_only(self, path: Path, name: object) -> None:
        """R-044, R-045."""
        other = {"other.example.com": auth("user:pass")}
        write(path, {"auths": other, "credHelpers": {HOST: name}})
        keychain = DockerConfigKeychain(path, environment={"PATH": str(path.parent)})

        with pytest.raises(ConfigError):
            keychain.credential(HOST, None)
        assert keychain.credential("other.example.com", None) == USER

    def test_repeated_requests_run_the_helper_once(self, path: Path, install: Installer) -> None:
        variables = install('echo x >> "$LOG"; ' + script_returning("user"))
        write(path, {"credsStore": "tests"})
        keychain = DockerConfigKeychain(path, environment=variables)

        for _ in range(5):
            keychain.credential(HOST, None)

        assert Path(variables["LOG"]).read_text() == "x\n"


class TestStore:
    def test_directory_and_file_are_private(self, path: Path) -> None:
        DockerConfigKeychain(path).store(HOST, USER)

        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert read(path) == {"auths": {HOST: auth("user:pass")}}

    def test_a_readable_file_becomes_private(self, path: Path) -> None:
        write(path, {}).chmod(0o644)

        DockerConfigKeychain(path).store(HOST, USER)

        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_unknown_fields_are_kept(self, path: Path) -> None:
        document = {"HttpHeaders": {"X": "1"}, "auths": {}, "proxies": {"default": {"a": [1, 2.5, None]}}}
        write(path, document)

        DockerConfigKeychain(path).store(HOST, USER)

        assert read(path) == {**document, "auths": {HOST: auth("user:pass")}}

    def test_a_link_is_kept_and_its_target_replaced(self, path: Path, tmp_path: Path) -> None:
        real = write(tmp_path / "dotfiles" / "config.json", {"x": 1})
        path.parent.mkdir()
        path.symlink_to(os.path.relpath(real, path.parent))

        DockerConfigKeychain(path).store(HOST, USER)

        assert path.is_symlink()
        assert read(real) == {"x": 1, "auths": {HOST: auth("user:pass")}}

    def test_a_malformed_file_is_not_overwritten(self, path: Path) -> None:
        write(path, {})
        path.write_text('{"auths": {')

        with pytest.raises(ConfigError):
            DockerConfigKeychain(path).store(HOST, USER)
        with pytest.raises(ConfigError):
            DockerConfigKeychain(path).erase(HOST)

        assert path.read_text() == '{"auths": {'

    def test_a_device_is_not_replaced(self, tmp_path: Path) -> None:
        """If root sets REGISTRY_AUTH_FILE to the null device, it must not be replaced."""
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "auth.json").symlink_to(tmp_path / "pipe")

        with pytest.raises(ConfigError, match="not a regular file, so no credentials are stored in it"):
            JsonFile(tmp_path / "auth.json").edit(lambda document: document.update(x=1))

        assert (tmp_path / "pipe").is_fifo()
        assert len(list(tmp_path.iterdir())) == 2

    def test_the_temporary_file_of_a_killed_writer_is_removed(self, path: Path) -> None:
        write(path.with_name(".config.json.ociport.tmp"), {"half": 1})

        DockerConfigKeychain(path).store(HOST, USER)

        assert sorted(entry.name for entry in path.parent.iterdir() if not entry.name.endswith(".lock")) == [
            "config.json"
        ]

    def test_a_failed_write_keeps_the_old_file_only(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(path, {"auths": {HOST: auth("user:pass")}})

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ConfigError, match="No space left"):
            DockerConfigKeychain(path).store(HOST, Basic("user", "new"))

        assert DockerConfigKeychain(path).credential(HOST, None) == USER
        assert not [entry for entry in path.parent.iterdir() if entry.name.endswith(".tmp")]

    def test_an_unchanged_document_is_not_written(self, path: Path) -> None:
        write(path, {"auths": {"other.example.com": {}}})
        before = path.stat().st_mtime_ns, path.stat().st_ino

        DockerConfigKeychain(path).erase(HOST)

        assert (path.stat().st_mtime_ns, path.stat().st_ino) == before

    def test_erasing_does_not_create_a_file(self, path: Path) -> None:
        DockerConfigKeychain(path).erase(HOST)

        assert not path.parent.exists()

    def test_concurrent_processes_lose_no_credential(self, path: Path) -> None:
        script = (
            "import sys\n"
            "from registry_adapters.keychains import DockerConfigKeychain\n"
            "from registry_core.domain.auth import Basic\n"
            "keychain = DockerConfigKeychain(sys.argv[1])\n"
            "for number in range(10):\n"
            "    keychain.store(f'{sys.argv[2]}-{number}.example.com', Basic('user', 'pass'))\n"
        )
        variables = {**os.environ, "PYTHONPATH": str(SOURCES)}

        running = [
            subprocess.Popen([sys.executable, "-c", script, str(path), name], env=variables) for name in ("a", "b", "c")
        ]

        assert [process.wait(60) for process in running] == [0, 0, 0]
        assert len(read(path)["auths"]) == 30

    def test_a_helper_is_preferred_and_the_file_has_no_password(self, path: Path, install: Installer) -> None:
        """R-045: like Docker, an empty entry is written."""
        variables = install('echo "$1 $(cat)" >> "$LOG"')
        write(path, {"auths": {HOST: auth("user:old")}, "credsStore": "tests"})

        DockerConfigKeychain(path, environment=variables).store(HOST, USER)

        assert Path(variables["LOG"]).read_text().split()[0] == "store"
        assert read(path)["auths"] == {HOST: {}}

    def test_if_the_helper_fails_no_password_is_written(self, path: Path, install: Installer) -> None:
        write(path, {"auths": {}, "credHelpers": {HOST: "tests"}})

        with pytest.raises(ConfigError):
            DockerConfigKeychain(path, environment=install("exit 1")).store(HOST, USER)

        assert read(path)["auths"] == {}

    def test_erasing_changes_all_helpers_and_the_file(self, path: Path, install: Installer) -> None:
        variables = install('echo "one $1 $(cat)" >> "$LOG"', name="one")
        install('echo "all $1 $(cat)" >> "$LOG"', name="all")
        write(path, {"auths": {HOST: auth("user:old")}, "credHelpers": {HOST: "one"}, "credsStore": "all"})

        DockerConfigKeychain(path, environment=variables).erase(HOST)

        assert Path(variables["LOG"]).read_text().splitlines() == [f"one erase {HOST}", f"all erase {HOST}"]
        assert read(path)["auths"] == {}

    @pytest.mark.parametrize("credential", [IdentityToken("refresh", "user"), RegistryToken("bearer")])
    def test_tokens_can_be_stored(self, path: Path, credential: IdentityToken | RegistryToken) -> None:
        DockerConfigKeychain(path).store("docker.io", credential)

        assert DockerConfigKeychain(path).credential("registry-1.docker.io", None) == credential
        assert list(read(path)["auths"]) == ["https://index.docker.io/v1/"]

    def test_without_a_home_directory_storing_is_an_error(self) -> None:
        class Homeless(DockerConfigKeychain):
            def __init__(self) -> None:
                super(DockerConfigKeychain, self).__init__([], {}, 1.0)

        with pytest.raises(ConfigError, match="no home directory"):
            Homeless().store(HOST, USER)
