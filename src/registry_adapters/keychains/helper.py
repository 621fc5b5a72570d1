"""Credential helpers: programs called ``docker-credential-NAME`` (R-044)."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import msgspec

from registry_adapters.keychains.names import HUB_KEY, same, servers
from registry_adapters.keychains.processes import Output, run
from registry_adapters.keychains.sealed import Sealed
from registry_core.domain import wire
from registry_core.domain.access import Basic, Credential, IdentityToken
from registry_core.domain.names import RepositoryName
from registry_core.errors import ConfigError, InvalidDocument
from registry_core.ports.keychain import CredentialStore
from registry_core.scope import checkpoint

__all__ = ["HelperKeychain", "parse_answer"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PREFIX: Final = "docker-credential-"
_NOT_FOUND: Final = b"credentials not found"
_TOKEN: Final = "<token>"
_LIMIT: Final = 256 << 10
_POLL: Final = 0.05
_REMEMBERED: Final = 1024


class _Found(msgspec.Struct, frozen=True):
    until: float
    credential: Credential | None = None
    problem: str = ""


class HelperKeychain(Sealed, CredentialStore):
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
        self._turns: dict[str, threading.Lock] = {}
        self._found: dict[str, _Found] = {}

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """What the helper has for a registry, for all of its repositories.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
            ConfigError: There is no such program, it failed, took too long, or made no sense.
            Cancelled: Meanwhile.
            DeadlineExceeded: Meanwhile.
        """
        for server in servers(registry):
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
        server = servers(registry)[0]
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
            content = wire.encode(entry)
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
        for server in servers(registry):
            if server not in (*same(registry), HUB_KEY):
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
            turn = self._turns.setdefault(server, threading.Lock())
        while not turn.acquire(timeout=_POLL):
            checkpoint()
        try:
            yield
        finally:
            turn.release()


def parse_answer(content: bytes, program: str) -> Credential | None:
    """The credential in what a helper said; ``None`` where both name and secret are empty.

    Args:
        content: A JSON object with ``Username`` and ``Secret``.
        program: What messages call the helper.

    Raises:
        ConfigError: It is anything else; it is not quoted.
    """
    try:
        answer = wire.decode(content)
    except InvalidDocument:
        raise ConfigError(f"{program} did not answer with a JSON object") from None
    username, secret = answer.get("Username"), answer.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise ConfigError(f"{program} did not answer with a Username and a Secret")
    if username == _TOKEN:
        return IdentityToken(secret) if secret else None
    return Basic(username, secret) if username or secret else None
