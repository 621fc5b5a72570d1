"""A small program, run for its output: without a shell, within a time limit, its output bounded."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from registry_core.errors import ConfigError
from registry_core.scope import checkpoint, remaining

__all__ = ["Output", "run"]

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
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
