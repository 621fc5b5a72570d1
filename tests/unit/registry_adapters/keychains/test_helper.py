"""Credential helpers as programs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_adapters.keychains import HelperKeychain
from registry_adapters.keychains.helper import parse_output
from registry_core.cancellation import CancelScope, fail_after
from registry_core.domain.auth import Basic, IdentityToken, RegistryToken
from registry_core.errors import Cancelled, ConfigError, DeadlineExceeded, InvalidName, RegistryError

HOST = "registry.example.com"
ANSWER = """echo '{"ServerURL": "x", "Username": "user", "Secret": "hunter2"}'"""
NOT_FOUND = "echo 'credentials not found in native keychain'; exit 1"

InThread = Callable[[Callable[[], object]], tuple[threading.Thread, list[BaseException]]]


class Installer(Protocol):
    def __call__(self, script: str, *, name: str = "tests", **variables: str) -> dict[str, str]: ...


class Gate(Protocol):
    path: Path

    def wait_for_program(self) -> None: ...
    def wait_for_end(self) -> None: ...
    def close(self) -> None: ...


class Clock(Protocol):
    now: float

    def __call__(self) -> float: ...


def log(variables: dict[str, str]) -> list[str]:
    path = Path(variables["LOG"])
    return path.read_text().splitlines() if path.exists() else []


class TestName:
    @pytest.mark.parametrize(
        "name", ["", "-x", ".x", "../x", "a/b", "a b", "a;b", "a\n", "$(a)", "ä", "a" * 300, "/bin/sh", "a\0"]
    )
    def test_malformed_names_are_refused(self, name: str) -> None:
        """R-044."""
        with pytest.raises(ConfigError, match="not the name of a credential helper"):
            HelperKeychain(name)

    @pytest.mark.parametrize("name", ["pass", "ecr-login", "osxkeychain", "desktop.exe", "a_b", "1"])
    def test_valid_names_are_accepted(self, name: str) -> None:
        assert repr(HelperKeychain(name)) == f"HelperKeychain(docker-credential-{name})"


class TestGet:
    def test_the_server_is_passed_on_standard_input_only(self, install: Installer) -> None:
        """R-044: the only argument is the verb."""
        variables = install(f'echo "$# $1 [$(cat)]" >> "$LOG"; {ANSWER}')

        found = HelperKeychain("tests", environment=variables).credential("Registry.example.com:5000", None)

        assert found == Basic("user", "hunter2")
        assert log(variables) == ["1 get [registry.example.com:5000]"]

    def test_the_program_gets_the_given_environment_only(self, install: Installer) -> None:
        variables = install(f'env | sort | grep -v -e ^PWD -e ^SHLVL -e ^_= -e ^OLDPWD > "$LOG.env"; {ANSWER}', X="1")

        HelperKeychain("tests", environment=variables).credential(HOST, None)

        seen = Path(variables["LOG"] + ".env").read_text().splitlines()
        assert seen == sorted(f"{name}={value}" for name, value in variables.items())

    def test_docker_hub_is_asked_for_by_its_url_and_then_by_its_name(self, install: Installer) -> None:
        """R-045."""
        variables = install(f'echo "$(cat)" >> "$LOG"; {NOT_FOUND}')

        found = HelperKeychain("tests", environment=variables).credential("registry-1.docker.io", None)

        assert found is None
        assert log(variables) == ["https://index.docker.io/v1/", "docker.io"]

    def test_the_port_of_plain_http_is_asked_for_first(self, install: Installer) -> None:
        variables = install(f'echo "$(cat)" >> "$LOG"; {NOT_FOUND}')

        HelperKeychain("tests", environment=variables).credential(f"{HOST}:80", None)

        assert log(variables) == [f"{HOST}:80", HOST]

    @pytest.mark.parametrize("server", ["host\nprotocol=x", "-host", "ho st", "host\0", "host\r", "a/b", "x" * 300])
    def test_only_registry_names_are_passed_to_a_program(self, install: Installer, server: str) -> None:
        """R-044."""
        variables = install(f'echo started >> "$LOG"; {ANSWER}')

        with pytest.raises(InvalidName):
            HelperKeychain("tests", environment=variables).credential(server, None)

        assert log(variables) == []

    def test_not_found_is_not_an_error(self, install: Installer) -> None:
        """R-044."""
        assert HelperKeychain("tests", environment=install(NOT_FOUND)).credential(HOST, None) is None

    @pytest.mark.parametrize(
        "script",
        [
            "echo hunter2; exit 1",
            "echo hunter2 >&2; exit 3",
            "echo hunter2",
            "kill -9 $$",
            """echo '{"Username": "hunter2"}'""",
            "exit 0",
        ],
    )
    def test_a_failure_is_an_error_without_output(self, install: Installer, script: str) -> None:
        """R-044."""
        keychain = HelperKeychain("tests", environment=install(script))

        with pytest.raises(ConfigError, match="docker-credential-tests") as caught:
            keychain.credential(HOST, None)

        assert "hunter2" not in str(caught.value)
        assert caught.value.__context__ is None or caught.value.__suppress_context__

    def test_a_missing_program_is_named(self, tmp_path: Path) -> None:
        keychain = HelperKeychain("missing", environment={"PATH": str(tmp_path)})

        with pytest.raises(ConfigError, match="docker-credential-missing: no such program in PATH"):
            keychain.credential(HOST, None)

    def test_a_program_that_cannot_be_started_is_named(self, install: Installer) -> None:
        variables = install("exit 0")
        Path(variables["PATH"].split(":")[0], "docker-credential-tests").write_text("#!/nowhere/to/be/found\n")

        with pytest.raises(ConfigError, match="docker-credential-tests: cannot be started: "):
            HelperKeychain("tests", environment=variables).credential(HOST, None)

    @pytest.mark.parametrize("path", ["", ".", "programs", ":"])
    def test_relative_directories_in_path_are_ignored(
        self, install: Installer, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """R-044: programs in the current directory are not run."""
        install(ANSWER)
        monkeypatch.chdir(tmp_path / "programs" if path != "programs" else tmp_path)

        with pytest.raises(ConfigError, match="no such program in PATH"):
            HelperKeychain("tests", environment={"PATH": path}).credential(HOST, None)

    def test_endless_output_is_an_error(self, install: Installer, gate: Gate) -> None:
        """R-044."""
        variables = install(f'exec 9> "{gate.path}"; while :; do echo 0123456789012345678901234567890123456789; done')
        keychain = HelperKeychain("tests", environment=variables)
        opener = threading.Thread(target=gate.wait_for_program)
        opener.start()

        with pytest.raises(ConfigError, match=r"more than [0-9]+ bytes of output"):
            keychain.credential(HOST, None)

        opener.join()
        gate.wait_for_end()
        gate.close()

    def test_a_child_process_does_not_delay_the_end(self, install: Installer) -> None:
        """An agent that a helper starts may keep its output open."""
        variables = install(f"(trap '' HUP; sleep 5) & {ANSWER}")
        keychain = HelperKeychain("tests", environment=variables, timeout=4)

        assert keychain.credential(HOST, None) == Basic("user", "hunter2")


class TestTimeouts:
    def test_a_timeout_kills_the_process_group(self, install: Installer, gate: Gate) -> None:
        """R-044."""
        variables = install(f'exec 9> "{gate.path}"; sleep 100 & sleep 100')
        opener = threading.Thread(target=gate.wait_for_program)
        opener.start()

        with pytest.raises(ConfigError, match=r"docker-credential-tests: timed out after 1\.5 s"):
            HelperKeychain("tests", environment=variables, timeout=1.5).credential(HOST, None)

        opener.join()
        gate.wait_for_end()
        gate.close()

    def test_a_deadline_kills_the_program(self, install: Installer) -> None:
        start = time.monotonic()

        with pytest.raises(DeadlineExceeded):
            with fail_after(0.2):
                HelperKeychain("tests", environment=install("exec sleep 100")).credential(HOST, None)

        assert time.monotonic() - start < 2

    def test_a_cancelled_scope_kills_the_process_group(
        self, install: Installer, gate: Gate, in_thread: InThread
    ) -> None:
        keychain = HelperKeychain("tests", environment=install(f'exec 9> "{gate.path}"; sleep 100 & sleep 100'))
        scope = CancelScope()

        def work() -> None:
            with scope:
                keychain.credential(HOST, None)

        thread, raised = in_thread(work)
        gate.wait_for_program()
        start = time.monotonic()
        scope.cancel()
        thread.join(10)

        assert [type(error) for error in raised] == [Cancelled]
        assert time.monotonic() - start < 0.5
        gate.wait_for_end()
        gate.close()

    def test_waiting_for_another_thread_can_be_cancelled(
        self, install: Installer, gate: Gate, in_thread: InThread
    ) -> None:
        keychain = HelperKeychain("tests", environment=install(f'exec 9> "{gate.path}"; sleep 100'))
        scope = CancelScope()

        def work() -> None:
            with scope:
                keychain.credential(HOST, None)

        first, first_raised = in_thread(work)
        gate.wait_for_program()
        with pytest.raises(DeadlineExceeded):
            with fail_after(0.1):
                keychain.credential(HOST, None)
        scope.cancel()
        first.join(10)

        assert [type(error) for error in first_raised] == [Cancelled]
        gate.wait_for_end()
        gate.close()

    def test_a_program_that_never_reads_times_out(self, install: Installer) -> None:
        keychain = HelperKeychain("tests", environment=install("exec sleep 100"), timeout=0.3)

        with pytest.raises(ConfigError, match="timed out after"):
            keychain.store(HOST, Basic("user", "x" * (1 << 20)))


class TestCache:
    COUNTING = 'echo "$1" >> "$LOG"; '

    def test_a_credential_is_cached(self, install: Installer, clock: Clock) -> None:
        variables = install(self.COUNTING + ANSWER)
        keychain = HelperKeychain("tests", environment=variables, cache_seconds=5, clock=clock)

        keychain.credential(HOST, None)
        clock.now += 4.9
        keychain.credential(HOST, None)
        kept = len(log(variables))
        clock.now += 0.2
        keychain.credential(HOST, None)

        assert (kept, len(log(variables))) == (1, 2)

    def test_a_missing_credential_is_cached(self, install: Installer, clock: Clock) -> None:
        variables = install(self.COUNTING + NOT_FOUND)
        keychain = HelperKeychain("tests", environment=variables, clock=clock)

        found = [keychain.credential(HOST, None) for _ in range(3)]

        assert found == [None] * 3
        assert len(log(variables)) == 1

    def test_a_failure_is_cached(self, install: Installer, clock: Clock) -> None:
        """Otherwise each thread would wait for a program that hangs."""
        variables = install(self.COUNTING + "exit 7")
        keychain = HelperKeychain("tests", environment=variables, clock=clock)

        for _ in range(3):
            with pytest.raises(ConfigError, match="exit status 7"):
                keychain.credential(HOST, None)

        assert len(log(variables)) == 1

    def test_many_threads_run_the_program_once(self, install: Installer, clock: Clock) -> None:
        variables = install(self.COUNTING + ANSWER)
        keychain = HelperKeychain("tests", environment=variables, clock=clock)

        with ThreadPoolExecutor(16) as pool:
            found = set(pool.map(lambda _: keychain.credential(HOST, None), range(64)))

        assert found == {Basic("user", "hunter2")}
        assert len(log(variables)) == 1

    def test_a_cancelled_request_is_not_cached(
        self, install: Installer, clock: Clock, gate: Gate, in_thread: InThread
    ) -> None:
        hanging = f'touch "$LOG"; exec 9> "{gate.path}"; exec sleep 100'
        variables = install(f'if [ -e "$LOG" ]; then {ANSWER}; else {hanging}; fi')
        keychain = HelperKeychain("tests", environment=variables, clock=clock)
        scope = CancelScope()

        def work() -> None:
            with scope:
                keychain.credential(HOST, None)

        thread, raised = in_thread(work)
        gate.wait_for_program()
        scope.cancel()
        thread.join(10)

        assert keychain.credential(HOST, None) == Basic("user", "hunter2")
        assert [type(error) for error in raised] == [Cancelled]
        gate.close()

    def test_storing_invalidates_the_cache(self, install: Installer, clock: Clock) -> None:
        variables = install(self.COUNTING + 'cat > /dev/null; [ "$1" = get ] || exit 0; ' + ANSWER)
        keychain = HelperKeychain("tests", environment=variables, clock=clock)
        keychain.credential(HOST, None)

        keychain.store(HOST, Basic("user", "new"))
        keychain.credential(HOST, None)
        keychain.erase(HOST)
        keychain.credential(HOST, None)

        assert log(variables) == ["get", "store", "get", "erase", "get"]


class TestStore:
    @pytest.mark.parametrize(
        ("credential", "username"), [(Basic("us:er", "hunter2"), "us:er"), (IdentityToken("hunter2"), "<token>")]
    )
    def test_the_store_protocol(self, install: Installer, credential: Basic | IdentityToken, username: str) -> None:
        variables = install('echo "$1 $(cat)" >> "$LOG"')

        HelperKeychain("tests", environment=variables).store("docker.io", credential)

        assert log(variables) == [
            f'store {{"ServerURL":"https://index.docker.io/v1/","Username":"{username}","Secret":"hunter2"}}'
        ]

    @pytest.mark.parametrize(
        "credential", [RegistryToken("hunter2"), Basic("<token>", "hunter2"), Basic("\ud800", "x")]
    )
    def test_credentials_that_a_helper_cannot_store_are_refused(
        self, install: Installer, credential: Basic | RegistryToken
    ) -> None:
        variables = install('echo "$1" >> "$LOG"')

        with pytest.raises(ConfigError) as caught:
            HelperKeychain("tests", environment=variables).store(HOST, credential)

        assert "hunter2" not in str(caught.value)
        assert log(variables) == []

    @pytest.mark.parametrize("verb", ["store", "erase"])
    def test_a_failure_is_an_error_without_output(self, install: Installer, verb: str) -> None:
        """R-044."""
        keychain = HelperKeychain("tests", environment=install("cat; cat >&2; exit 1"))

        with pytest.raises(ConfigError, match=f"docker-credential-tests: {verb} {HOST}: exit status 1") as caught:
            if verb == "store":
                keychain.store(HOST, Basic("user", "hunter2"))
            else:
                keychain.erase(HOST)

        assert "hunter2" not in str(caught.value)


class TestParseOutput:
    @pytest.mark.parametrize(
        ("content", "credential"),
        [
            (b'{"Username": "user", "Secret": "pass"}', Basic("user", "pass")),
            (b'{"ServerURL": 1, "Username": "user", "Secret": ""}\n', Basic("user", "")),
            (b'{"Username": "<token>", "Secret": "refresh"}', IdentityToken("refresh")),
            (b'{"Username": "<token>", "Secret": ""}', None),
            (b'{"Username": "", "Secret": ""}', None),
        ],
    )
    def test_output_is_parsed(self, content: bytes, credential: Basic | IdentityToken | None) -> None:
        """R-044."""
        assert parse_output(content, "docker-credential-x") == credential

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"hunter2",
            b'["hunter2"]',
            b"{}",
            b'{"Username": "hunter2"}',
            b'{"Username": null, "Secret": "hunter2"}',
            b'{"Username": "hunter2", "Secret": 1}',
            b'{"Username": "a", "Secret": "b"} hunter2',
            b'{"Username": "a", "Username": "hunter2", "Secret": "b"}',
            b'\xff{"Username": "a", "Secret": "hunter2"}',
        ],
    )
    def test_malformed_output_is_an_error_without_secrets(self, content: bytes) -> None:
        """R-044: strict JSON."""
        with pytest.raises(ConfigError, match="docker-credential-x") as caught:
            parse_output(content, "docker-credential-x")

        assert "hunter2" not in str(caught.value)

    @given(st.binary(max_size=200) | st.text().map(lambda text: f'{{"Username": "{text}", "Secret": "x"}}'.encode()))
    def test_only_library_errors_are_raised(self, content: bytes) -> None:
        """R-044."""
        try:
            found = parse_output(content, "docker-credential-x")
        except RegistryError:
            return

        assert found is None or isinstance(found, Basic | IdentityToken)

    @pytest.mark.parametrize("content", [b"{" * (1 << 20), b'"' * (1 << 20), b'{"Username":' * (1 << 16)])
    def test_a_mebibyte_takes_less_than_a_second(self, content: bytes) -> None:
        start = time.thread_time()

        with pytest.raises(ConfigError):
            parse_output(content, "docker-credential-x")

        assert time.thread_time() - start < 1


def test_no_process_and_no_descriptor_is_left(install: Installer) -> None:
    variables = install('echo $$ >> "$LOG"; ' + ANSWER)
    keychain = HelperKeychain("tests", environment=variables, cache_seconds=0)
    keychain.credential(HOST, None)
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(5):
        keychain.credential(HOST, None)

    assert len(os.listdir("/proc/self/fd")) <= before
    for process in log(variables):
        with pytest.raises(ChildProcessError):
            os.waitpid(int(process), os.WNOHANG)
