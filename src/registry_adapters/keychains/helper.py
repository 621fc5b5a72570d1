"""Credential helpers: programs called ``docker-credential-NAME``, run without a shell and with limits."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from registry_adapters.keychains.registry_names import HUB_KEY, exact_aliases, helper_keys
from registry_core.cancellation import CancellableLock, checkpoint, remaining
from registry_core.content.operating_system import kill_process_group, require_pipe_polling
from registry_core.domain import strict_json
from registry_core.domain.auth import Basic, Credential, IdentityToken, NotPicklable
from registry_core.domain.names import RepositoryName
from registry_core.errors import ConfigError, InvalidDocument
from registry_core.ports.keychain import CredentialStore

__all__ = ["HelperKeychain", "Output", "parse_output", "run"]


_POLL_SECONDS: Final = 0.05

_CHUNK: Final = 64 << 10


class Output(msgspec.Struct, frozen=True):
    """The result of a program. It may hold secrets.

    Args:
        status: Exit status; negative for a signal.
        content: Standard output.
    """

    status: int
    content: bytes

    def __repr__(self) -> str:
        """Omit the content, which may hold secrets."""
        return f"Output({self.status})"


def run(
    arguments: Sequence[str], stdin: bytes, *, environment: Mapping[str, str], timeout: float, max_output: int
) -> Output:
    """Run a program in a new process group and wait for its end. Its standard error is discarded.

    The process group is killed if the time is up or the current scope is cancelled.

    Args:
        arguments: Path of the program, and its arguments.
        stdin: Standard input.
        environment: All environment variables of the program.
        timeout: Seconds that the program may take.
        max_output: Bytes that the program may write to standard output.

    Raises:
        ConfigError: The program cannot be started, takes too long, or writes too much.
        Unsupported: The operating system cannot poll pipes.
        Cancelled: The current scope was cancelled.
        DeadlineExceeded: The deadline has passed.
    """
    checkpoint()
    name = os.path.basename(arguments[0])
    require_pipe_polling(f"credential helper {name}")
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            bufsize=0,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "malformed arguments or environment"
        raise ConfigError(f"credential helper {name}: cannot be started: {reason}") from None
    with process:
        try:
            output = _communicate(process, stdin, deadline=time.monotonic() + timeout, max_output=max_output)
        except BaseException:
            _kill(process)
            raise
    if output is None:
        raise ConfigError(f"credential helper {name}: timed out after {timeout:g} s")
    if len(output) > max_output:
        raise ConfigError(f"credential helper {name}: more than {max_output} bytes of output")
    return Output(process.returncode, output)


def _communicate(process: subprocess.Popen[bytes], content: bytes, *, deadline: float, max_output: int) -> bytes | None:
    """Write the input and read the output, at most one byte beyond the limit; ``None`` after the deadline."""
    stdin, stdout = process.stdin, process.stdout
    if stdin is None or stdout is None:
        raise ConfigError("run a credential helper: the process has no pipes")
    os.set_blocking(stdin.fileno(), False)
    os.set_blocking(stdout.fileno(), False)
    output = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(stdin, selectors.EVENT_WRITE)
        selector.register(stdout, selectors.EVENT_READ)
        unwritten = memoryview(content)
        while stdout in {key.fileobj for key in selector.get_map().values()}:
            checkpoint()
            time_left = deadline - time.monotonic()
            if time_left <= 0:
                _kill(process)
                return None
            # After the program has ended, the pipe may stay open in a child process; no more output is expected.
            has_ended = process.poll() is not None
            ready = selector.select(0 if has_ended else min(_POLL_SECONDS, time_left, _scope_time_left()))
            for key, _ in ready:
                if key.fileobj is stdin:
                    unwritten = _write(stdin.fileno(), unwritten)
                    if not unwritten:
                        selector.unregister(stdin)
                        stdin.close()
                elif data := os.read(stdout.fileno(), min(_CHUNK, max_output + 1 - len(output))):
                    output += data
                else:
                    selector.unregister(stdout)
            if len(output) > max_output:
                _kill(process)
                break
            if has_ended and not any(key.fileobj is stdout for key, _ in ready):
                break
    return bytes(output) if _wait_for_exit(process, deadline) else None


def _wait_for_exit(process: subprocess.Popen[bytes], deadline: float) -> bool:
    while process.poll() is None:
        checkpoint()
        time_left = deadline - time.monotonic()
        if time_left <= 0:
            _kill(process)
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, min(_POLL_SECONDS, time_left, _scope_time_left())))
    return True


def _write(descriptor: int, content: memoryview) -> memoryview:
    """Write as much as the pipe takes; return the rest."""
    try:
        return content[os.write(descriptor, content[:_CHUNK]) :] if content else content
    except BlockingIOError:
        return content
    except BrokenPipeError:
        return content[:0]


def _scope_time_left() -> float:
    time_left = remaining()
    return _POLL_SECONDS if time_left is None else time_left


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill_process_group(process.pid)
        process.kill()
        process.wait()


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_PREFIX: Final = "docker-credential-"

_NOT_FOUND: Final = b"credentials not found"

# The user name that marks a secret as an identity token.
_IDENTITY_TOKEN_USER: Final = "<token>"

_MAX_OUTPUT: Final = 256 << 10

_MAX_CACHED: Final = 1024


class _CachedResult(msgspec.Struct, frozen=True):
    expires_at: float
    credential: Credential | None = None
    error: str = ""


class HelperKeychain(NotPicklable, CredentialStore):
    """Credentials of a credential helper.

    The program gets the name of a registry on standard input, and its output is never quoted. Its results and failures
    are cached for some seconds, and threads that ask for the same registry at once run it once.

    Args:
        name: Name of the helper without ``docker-credential-``.
        environment: Environment variables of the program, also for ``PATH``; those of the process if not given.
        timeout: Seconds that the program may take.
        cache_seconds: Seconds for which a result is cached.
        clock: Monotonic clock, in seconds.

    Raises:
        ConfigError: The name has characters that are not allowed.
    """

    def __init__(
        self,
        name: str,
        *,
        environment: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        cache_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(name, str) or len(name) > 200 or not _NAME.fullmatch(name):
            raise ConfigError(f"not the name of a credential helper: {name!r:.100}")
        self._program = _PREFIX + name
        self._environment = os.environ if environment is None else environment
        self._timeout = timeout
        self._cache_seconds = cache_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._server_locks: dict[str, CancellableLock] = {}
        self._results: dict[str, _CachedResult] = {}

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """Return the credential of a registry; it is the same for all repositories.

        Raises:
            InvalidName: The registry is not ``host[:port]``.
            ConfigError: The program does not exist, failed, took too long, or its output is malformed.
            Cancelled: The current scope was cancelled.
            DeadlineExceeded: The deadline has passed.
        """
        for server in helper_keys(registry):
            with self._server_lock(server):
                result = self._cached(server) or self._get(server)
            if result.error:
                raise ConfigError(result.error)
            if result.credential is not None:
                return result.credential
        return None

    def store(self, registry: str, credential: Credential) -> None:
        """Store a credential in the helper.

        Raises:
            InvalidName: The registry is not ``host[:port]``.
            ConfigError: The credential is neither a password nor an identity token, or the program failed.
        """
        server = helper_keys(registry)[0]
        match credential:
            case Basic(username, password) if username != _IDENTITY_TOKEN_USER:
                entry = {"ServerURL": server, "Username": username, "Secret": password}
            case IdentityToken(token):
                entry = {"ServerURL": server, "Username": _IDENTITY_TOKEN_USER, "Secret": token}
            case _:
                raise ConfigError(
                    f"credential helper {self._program}: cannot store this {type(credential).__name__}, "
                    "only passwords and identity tokens"
                )
        try:
            content = strict_json.encode(entry)
        except InvalidDocument:
            raise ConfigError(f"credential helper {self._program}: the credential cannot be encoded as UTF-8") from None
        with self._server_lock(server):
            self._discard(server)
            output = self._run("store", content)
        if output.status:
            raise self._failure("store", server, output)

    def erase(self, registry: str) -> None:
        """Erase a registry from the helper.

        Raises:
            InvalidName: The registry is not ``host[:port]``.
            ConfigError: The program failed.
        """
        for server in helper_keys(registry):
            if server not in (*exact_aliases(registry), HUB_KEY):
                continue
            with self._server_lock(server):
                self._discard(server)
                output = self._run("erase", server.encode())
            if output.status and _NOT_FOUND not in output.content:
                raise self._failure("erase", server, output)

    def __repr__(self) -> str:
        """Show the name of the program."""
        return f"HelperKeychain({self._program})"

    def _get(self, server: str) -> _CachedResult:
        try:
            output = self._run("get", server.encode())
            credential = None
            if output.status == 0:
                credential = parse_output(output.content, self._program)
            elif _NOT_FOUND not in output.content:
                raise self._failure("get", server, output)
            result = _CachedResult(self._clock() + self._cache_seconds, credential)
        except ConfigError as error:
            result = _CachedResult(self._clock() + self._cache_seconds, error=error.message)
        with self._lock:
            self._results[server] = result
        return result

    def _cached(self, server: str) -> _CachedResult | None:
        with self._lock:
            result = self._results.get(server)
        return result if result is not None and self._clock() < result.expires_at else None

    def _discard(self, server: str) -> None:
        with self._lock:
            self._results.pop(server, None)

    def _run(self, verb: str, content: bytes) -> Output:
        # an empty or relative part of PATH would mean the current directory.
        directories = [
            part for part in self._environment.get("PATH", os.defpath).split(os.pathsep) if os.path.isabs(part)
        ]
        program = shutil.which(self._program, path=os.pathsep.join(directories)) if directories else None
        if program is None:
            raise ConfigError(f"credential helper {self._program}: no such program in PATH")
        return run(
            [program, verb], content, environment=self._environment, timeout=self._timeout, max_output=_MAX_OUTPUT
        )

    def _failure(self, verb: str, server: str, output: Output) -> ConfigError:
        ended = f"exit status {output.status}" if output.status > 0 else f"killed by signal {-output.status}"
        return ConfigError(f"credential helper {self._program}: {verb} {server}: {ended}")

    def _server_lock(self, server: str) -> CancellableLock:
        """The lock under which one thread asks for a server, and the others then find the cached result."""
        with self._lock:
            if len(self._server_locks) >= _MAX_CACHED:
                self._server_locks.clear()
                self._results.clear()
            return self._server_locks.setdefault(server, CancellableLock())


def parse_output(content: bytes, program: str) -> Credential | None:
    """Parse the output of ``get``; ``None`` if both user name and secret are empty.

    Args:
        content: JSON object with ``Username`` and ``Secret``.
        program: Name of the helper in errors.

    Raises:
        ConfigError: The output is something else; it is not quoted.
    """
    try:
        document = strict_json.decode(content)
    except InvalidDocument:
        raise ConfigError(f"credential helper {program}: the output is not a JSON object") from None
    username, secret = document.get("Username"), document.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise ConfigError(f"credential helper {program}: the output has no Username and Secret")
    if username == _IDENTITY_TOKEN_USER:
        return IdentityToken(secret) if secret else None
    return Basic(username, secret) if username or secret else None
