"""Credential helpers: programs called ``docker-credential-NAME``.

A small program, run for its output: without a shell, within a time limit, its output bounded.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from registry_adapters.keychains.registry_names import HUB_KEY, exact_aliases, helper_keys
from registry_core.cancellation import CancellableLock, checkpoint, remaining
from registry_core.content.operating_system import kill_process_group
from registry_core.domain import strict_json
from registry_core.domain.auth import Basic, Credential, IdentityToken, NotPicklable
from registry_core.domain.names import RepositoryName
from registry_core.errors import ConfigError, InvalidDocument
from registry_core.ports.keychain import CredentialStore

__all__ = ["HelperKeychain", "Output", "parse_answer", "run"]


_SLICE: Final = 0.05

_PIECE: Final = 64 << 10


class Output(msgspec.Struct, frozen=True):
    """What came of it. It may hold secrets.

    Args:
        status: The exit status; negative for a signal.
        content: Of the standard output.
    """

    status: int
    content: bytes

    def __repr__(self) -> str:
        """Without the content."""
        return f"Output({self.status})"


def run(
    arguments: Sequence[str], content: bytes, *, environment: Mapping[str, str], seconds: float, limit: int
) -> Output:
    """Start a program in a group of its own, give it some bytes, and wait until it is done.

    Its error output is dropped. It is killed, with all that it started, when the time is up or the work is cancelled.

    Args:
        arguments: The program, by its path, and what it is told.
        content: For its standard input.
        environment: All the variables it sees.
        seconds: How long it may take.
        limit: How many bytes it may say.

    Raises:
        ConfigError: It cannot be started, takes too long, or says too much.
        Cancelled: Meanwhile.
        DeadlineExceeded: Meanwhile.
    """
    checkpoint()
    name = os.path.basename(arguments[0])
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
        raise ConfigError(f"{name} cannot be started: {getattr(error, 'strerror', None) or 'malformed'}") from None
    with process:
        try:
            output = _talk(process, content, deadline=time.monotonic() + seconds, limit=limit)
        except BaseException:
            _kill(process)
            raise
    if output is None:
        raise ConfigError(f"{name} took more than {seconds:g} s")
    if len(output) > limit:
        raise ConfigError(f"{name} said more than {limit} bytes")
    return Output(process.returncode, output)


def _talk(process: subprocess.Popen[bytes], content: bytes, *, deadline: float, limit: int) -> bytes | None:
    """The output, a byte more than the limit at most; ``None`` where the time was not enough."""
    stdin, stdout = process.stdin, process.stdout
    if stdin is None or stdout is None:
        raise ConfigError("a program without pipes")
    os.set_blocking(stdin.fileno(), False)
    os.set_blocking(stdout.fileno(), False)
    said = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(stdin, selectors.EVENT_WRITE)
        selector.register(stdout, selectors.EVENT_READ)
        unsaid = memoryview(content)
        while stdout in {key.fileobj for key in selector.get_map().values()}:
            checkpoint()
            left = deadline - time.monotonic()
            if left <= 0:
                _kill(process)
                return None
            # Who has ended says nothing more, even if somebody he left behind keeps the pipe open.
            over = process.poll() is not None
            ready = selector.select(0 if over else min(_SLICE, left, _left_in_scope()))
            for key, _ in ready:
                if key.fileobj is stdin:
                    unsaid = _write(stdin.fileno(), unsaid)
                    if not unsaid:
                        selector.unregister(stdin)
                        stdin.close()
                elif data := os.read(stdout.fileno(), min(_PIECE, limit + 1 - len(said))):
                    said += data
                else:
                    selector.unregister(stdout)
            if len(said) > limit:
                _kill(process)
                break
            if over and not any(key.fileobj is stdout for key, _ in ready):
                break
    return bytes(said) if _ended(process, deadline) else None


def _ended(process: subprocess.Popen[bytes], deadline: float) -> bool:
    while process.poll() is None:
        checkpoint()
        left = deadline - time.monotonic()
        if left <= 0:
            _kill(process)
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, min(_SLICE, left, _left_in_scope())))
    return True


def _write(descriptor: int, content: memoryview) -> memoryview:
    try:
        return content[os.write(descriptor, content[:_PIECE]) :] if content else content
    except BlockingIOError:
        return content
    except BrokenPipeError:
        return content[:0]


def _left_in_scope() -> float:
    left = remaining()
    return _SLICE if left is None else left


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill_process_group(process.pid)
        process.kill()
        process.wait()


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_PREFIX: Final = "docker-credential-"

_NOT_FOUND: Final = b"credentials not found"

_TOKEN: Final = "<token>"

_LIMIT: Final = 256 << 10


_REMEMBERED: Final = 1024


class _Found(msgspec.Struct, frozen=True):
    until: float
    credential: Credential | None = None
    problem: str = ""


class HelperKeychain(NotPicklable, CredentialStore):
    """A credential helper, spoken to as a process: no shell, a time limit, bounded output.

    Only a registry's name goes to the program, through its standard input; what it says is never quoted. Its answers,
    failures included, are kept for a few seconds, and many threads that ask at once start one process.

    Args:
        name: What comes after ``docker-credential-``.
        environment: The program's variables, and where ``PATH`` is taken from; the process's own if not given.
        seconds: How long the program may take.
        lifetime: For how many seconds an answer is kept.
        clock: Seconds that only grow.

    Raises:
        ConfigError: The name is none.
    """

    def __init__(
        self,
        name: str,
        *,
        environment: Mapping[str, str] | None = None,
        seconds: float = 30.0,
        lifetime: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(name, str) or len(name) > 200 or not _NAME.fullmatch(name):
            raise ConfigError(f"not the name of a credential helper: {name!r:.100}")
        self._program = _PREFIX + name
        self._environment = os.environ if environment is None else environment
        self._seconds = seconds
        self._lifetime = lifetime
        self._clock = clock
        self._lock = threading.Lock()
        self._turns: dict[str, CancellableLock] = {}
        self._found: dict[str, _Found] = {}

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """What the helper has for a registry, for all of its repositories.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
            ConfigError: There is no such program, it failed, took too long, or made no sense.
            Cancelled: Meanwhile.
            DeadlineExceeded: Meanwhile.
        """
        for server in helper_keys(registry):
            with self._turn(server):
                found = self._remembered(server) or self._ask(server)
            if found.problem:
                raise ConfigError(found.problem)
            if found.credential is not None:
                return found.credential
        return None

    def store(self, registry: str, credential: Credential) -> None:
        """Have the helper keep a credential.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
            ConfigError: Helpers keep passwords and identity tokens only, or this one failed.
        """
        server = helper_keys(registry)[0]
        match credential:
            case Basic(username, password) if username != _TOKEN:
                entry = {"ServerURL": server, "Username": username, "Secret": password}
            case IdentityToken(token):
                entry = {"ServerURL": server, "Username": _TOKEN, "Secret": token}
            case _:
                raise ConfigError(
                    f"{self._program} keeps passwords and identity tokens, not {type(credential).__name__}"
                )
        try:
            content = strict_json.encode(entry)
        except InvalidDocument:
            raise ConfigError(f"{self._program} cannot keep this credential: it is no Unicode") from None
        with self._turn(server):
            self._forget(server)
            output = self._run("store", content)
        if output.status:
            raise ConfigError(f"{self._program} store failed for {server} with status {output.status}")

    def erase(self, registry: str) -> None:
        """Have the helper forget a registry.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
            ConfigError: The helper failed.
        """
        for server in helper_keys(registry):
            if server not in (*exact_aliases(registry), HUB_KEY):
                continue
            with self._turn(server):
                self._forget(server)
                output = self._run("erase", server.encode())
            if output.status and _NOT_FOUND not in output.content:
                raise ConfigError(f"{self._program} erase failed for {server} with status {output.status}")

    def __repr__(self) -> str:
        """The program's name."""
        return f"HelperKeychain({self._program})"

    def _ask(self, server: str) -> _Found:
        try:
            output = self._run("get", server.encode())
            credential = None
            if output.status == 0:
                credential = parse_answer(output.content, self._program)
            elif _NOT_FOUND not in output.content:
                raise ConfigError(f"{self._program} get failed for {server} with status {output.status}")
            found = _Found(self._clock() + self._lifetime, credential)
        except ConfigError as error:
            found = _Found(self._clock() + self._lifetime, problem=error.message)
        with self._lock:
            self._found[server] = found
        return found

    def _remembered(self, server: str) -> _Found | None:
        with self._lock:
            found = self._found.get(server)
        return found if found is not None and self._clock() < found.until else None

    def _forget(self, server: str) -> None:
        with self._lock:
            self._found.pop(server, None)

    def _run(self, verb: str, content: bytes) -> Output:
        # An empty or relative part of PATH would mean wherever we happen to be.
        places = [part for part in self._environment.get("PATH", os.defpath).split(os.pathsep) if os.path.isabs(part)]
        program = shutil.which(self._program, path=os.pathsep.join(places)) if places else None
        if program is None:
            raise ConfigError(f"there is no program {self._program}")
        return run([program, verb], content, environment=self._environment, seconds=self._seconds, limit=_LIMIT)

    @contextmanager
    def _turn(self, server: str) -> Iterator[None]:
        """One thread at a time for each server; the others find its answer."""
        with self._lock:
            if len(self._turns) >= _REMEMBERED:
                self._turns.clear()
                self._found.clear()
            turn = self._turns.setdefault(server, CancellableLock())
        with turn:
            yield


def parse_answer(content: bytes, program: str) -> Credential | None:
    """The credential in what a helper said; ``None`` where both name and secret are empty.

    Args:
        content: A JSON object with ``Username`` and ``Secret``.
        program: What messages call the helper.

    Raises:
        ConfigError: It is anything else; it is not quoted.
    """
    try:
        answer = strict_json.decode(content)
    except InvalidDocument:
        raise ConfigError(f"{program} did not answer with a JSON object") from None
    username, secret = answer.get("Username"), answer.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise ConfigError(f"{program} did not answer with a Username and a Secret")
    if username == _TOKEN:
        return IdentityToken(secret) if secret else None
    return Basic(username, secret) if username or secret else None
