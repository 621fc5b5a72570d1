"""Cost of one digest look-up in process: calls of our own functions, and CPU beside bare urllib3.

``python tests/benchmarks/count_calls.py`` starts a server in a child process, counts the calls of Python functions
whose code is in ``src/`` during ``get_digest``, then measures the CPU of look-ups by the library and of HEAD requests
by bare urllib3 in turn. ``--list`` prints the functions.
"""

from __future__ import annotations

import argparse
import collections
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

import urllib3

import registry_core
from registry_adapters import open_client

__all__ = ["count_calls", "head_server", "look_up_costs"]

_SOURCES: Final = str(Path(registry_core.__file__).resolve().parents[1])
_ACCEPT: Final = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
_RESPONSE: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\nContent-Length: 428\r\n"
    b"Docker-Content-Digest: sha256:" + b"4" * 64 + b"\r\nDocker-Distribution-Api-Version: registry/2.0\r\n"
    b'Etag: "sha256:' + b"4" * 64 + b'"\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n'
)


@contextmanager
def head_server() -> Iterator[str]:
    """Run a server that gives the same response to every HEAD, in a child process; yields ``host:port``."""
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def _serve() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        sys.stdout.write(f"{host}:{port}\n")
        sys.stdout.flush()
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_respond, args=(connection,), daemon=True).start()


def _respond(connection: socket.socket) -> None:
    received = b""
    with connection:
        while data := connection.recv(1 << 16):
            received += data
            while b"\r\n\r\n" in received:
                received = received.partition(b"\r\n\r\n")[2]
                connection.sendall(_RESPONSE)


def count_calls(work: Callable[[], object]) -> collections.Counter[str]:
    """Count the calls of Python functions of the library in this thread, by ``file:function``.

    Args:
        work: Function to run once.
    """
    counts: collections.Counter[CodeType] = collections.Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            counts[frame.f_code] += 1

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    found: collections.Counter[str] = collections.Counter()
    for code, number in counts.items():
        if code.co_filename.startswith(_SOURCES):
            found[f"{code.co_filename.removeprefix(_SOURCES)[1:]}:{code.co_qualname}"] += number
    return found


def look_up_costs(host: str, *, count: int, rounds: int) -> tuple[float, float]:
    """Measure CPU seconds of one look-up: by the library, and by bare urllib3; medians of the rounds.

    Args:
        host: Address of the server.
        count: Look-ups in each round.
        rounds: Number of rounds.
    """
    name, _, port = host.partition(":")
    samples: tuple[list[float], list[float]] = ([], [])
    pool = urllib3.HTTPConnectionPool(name, int(port), maxsize=1, retries=False)
    with closing(pool), open_client(f"http://{host}/repository") as client:

        def library(number: int) -> None:
            client.get_digest(f"v0.{number}")

        def bare(number: int) -> None:
            assert pool.request("HEAD", f"/v2/repository/manifests/v0.{number}", headers=_ACCEPT).headers[
                "Docker-Content-Digest"
            ]

        for turn in range(rounds + 1):
            for work, costs in zip((library, bare), samples, strict=True):
                before = time.process_time()
                for number in range(count):
                    work(number)
                # The first round warms up.
                if turn:
                    costs.append((time.process_time() - before) / count)
    return statistics.median(samples[0]), statistics.median(samples[1])


def main() -> None:
    """Print the number of calls, the CPU of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print each function with its number of calls")
    parser.add_argument("--count", type=int, default=500, help="look-ups in each round (default: 500)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds (default: 9)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _serve()
    with head_server() as host:
        with open_client(f"http://{host}/repository") as client:
            client.get_digest("v1")
            calls = count_calls(lambda: client.get_digest("v1"))
        ours, bare = look_up_costs(host, count=options.count, rounds=options.rounds)
    if options.list:
        for name, number in calls.most_common():
            sys.stdout.write(f"{number:5} {name}\n")
    sys.stdout.write(
        f"{calls.total()} calls; CPU {ours * 1000:.3f} ms, bare urllib3 {bare * 1000:.3f} ms, ratio {ours / bare:.2f}\n"
    )


if __name__ == "__main__":
    main()
