"""The server in a thread: starting, serving, and stopping."""

from __future__ import annotations

import http.client
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from registry_adapters.memory import MemoryCatalog
from registry_adapters.wsgi import BasicAuthorizer, RegistryApp, TokenAuthorizer, registry_server
from registry_adapters.wsgi.cheroot_server import CherootServer
from registry_core import ConfigError

if TYPE_CHECKING:
    from tests.unit.registry_adapters.wsgi.conftest import Serve


def get_status(host: str, path: str = "/v2/") -> int:
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_it_listens_only_within_the_block() -> None:
    with registry_server(MemoryCatalog()) as server:
        inside = get_status(server.host)

    with pytest.raises(OSError, match="refused"):
        get_status(server.host)
    assert inside == 200
    assert server.url == f"http://{server.host}"
    assert server.host.startswith("127.0.0.1:")


def test_it_leaves_no_thread_and_no_file(tmp_path: Path) -> None:
    before = set(threading.enumerate())

    with registry_server(MemoryCatalog(), upload_directory=tmp_path / "uploads") as server:
        connection = http.client.HTTPConnection(server.host, timeout=10)
        connection.request("POST", "/v2/a/blobs/uploads/")
        connection.getresponse().read()
        connection.close()
        assert list((tmp_path / "uploads").rglob("*-*-*-*"))

    assert list((tmp_path / "uploads").iterdir()) == []
    assert set(threading.enumerate()) <= before


def test_open_connections_do_not_delay_the_end() -> None:
    with registry_server(MemoryCatalog()) as server:
        idle = http.client.HTTPConnection(server.host, timeout=10)
        idle.request("GET", "/v2/")
        idle.getresponse().read()
        silent = socket.create_connection(("127.0.0.1", int(server.host.split(":")[1])))
        busy = http.client.HTTPConnection(server.host, timeout=10)
        busy.putrequest("POST", "/v2/a/blobs/uploads/?digest=sha256:" + "0" * 64)
        busy.putheader("Content-Length", "1000")
        busy.endheaders(b"half")
        get_status(server.host)
        start = time.monotonic()

    seconds = time.monotonic() - start
    for connection in (idle, busy, silent):
        connection.close()
    assert seconds < 3  # far below the server's timeout for idle clients


def test_it_ends_while_connections_are_being_accepted() -> None:
    server = CherootServer(RegistryApp(MemoryCatalog()), host="127.0.0.1", port=0, tls=None, threads=1)
    interval, over = sys.getswitchinterval(), threading.Event()

    def accept(count: int) -> list[socket.socket]:
        accepted = []
        for _ in range(count):
            with socket.socket() as sock:
                accepted.append(sock)
            server.cut_on_stop(sock)
        return accepted

    def accept_on() -> None:
        while not over.is_set():
            accept(100)

    held = accept(2000)
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(1) as pool:
            accepting = pool.submit(accept_on)
            try:
                for _ in range(20):
                    server.stop()
            finally:
                over.set()
            accepting.result(30)
    finally:
        sys.setswitchinterval(interval)

    assert len(held) == 2000


def test_the_catalog_stays_open() -> None:
    catalog = MemoryCatalog()
    with registry_server(catalog):
        pass

    with registry_server(catalog) as server:
        status = get_status(server.host)

    assert status == 200


def test_a_taken_port_is_a_config_error() -> None:
    with registry_server(MemoryCatalog()) as server:
        port = int(server.host.split(":")[1])

        message = rf"listen on 127\.0\.0\.1:{port}: .*Address already in use"
        with pytest.raises(ConfigError, match=message), registry_server(MemoryCatalog(), port=port):
            get_status(server.host)


def test_the_error_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "registry_adapters.wsgi.cheroot_server", raising=False)
    monkeypatch.setitem(sys.modules, "cheroot.server", None)

    with pytest.raises(ConfigError, match=r"ociport\[serve\]"), registry_server(MemoryCatalog()) as server:
        get_status(server.host)


def test_many_clients_at_once() -> None:
    statuses: list[int] = []
    with registry_server(MemoryCatalog()) as server:
        threads = [threading.Thread(target=lambda: statuses.append(get_status(server.host))) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert statuses == [200] * 40


def test_an_idle_client_after_a_chunked_request_blocks_no_thread() -> None:
    with registry_server(MemoryCatalog(), threads=1) as server:
        idle = http.client.HTTPConnection(server.host, timeout=10)
        idle.request("POST", "/v2/a/blobs/uploads/", iter([b"x"]), encode_chunked=True)
        idle.getresponse().read()

        status = get_status(server.host)

        idle.close()
    assert status == 200


def test_an_early_error_response_reaches_a_client_that_is_still_sending(serve: Serve) -> None:
    host = serve(authorizer=BasicAuthorizer({"ann": "x"})).host
    connection = http.client.HTTPConnection(host, timeout=20)

    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b"\0" * (1 << 20)

    connection.request("POST", "/v2/a/blobs/uploads/", chunks(), {"Content-Length": str(40 << 20)})
    response = connection.getresponse()
    response.read()
    connection.close()

    assert (response.status, response.headers["Connection"]) == (401, "close")


def test_a_request_of_a_terabyte_gets_its_response_at_once(serve: Serve) -> None:
    connection = http.client.HTTPConnection(serve(authorizer=BasicAuthorizer({"ann": "x"})).host, timeout=20)

    connection.putrequest("PUT", "/v2/a/manifests/v1")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders(b"{")
    response = connection.getresponse()
    response.read()
    connection.close()

    assert response.status == 401


class TestTls:
    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    @pytest.fixture
    def files(self, authority: trustme.CA, tmp_path: Path) -> tuple[Path, Path]:
        issued = authority.issue_cert("127.0.0.1")
        chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
        issued.private_key_pem.write_to_path(key)
        for position, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(chain, append=position > 0)
        return chain, key

    def test_it_serves_https(self, authority: trustme.CA, files: tuple[Path, Path]) -> None:
        context = ssl.create_default_context()
        authority.configure_trust(context)

        with registry_server(MemoryCatalog(), tls=files, authorizer=TokenAuthorizer({})) as server:
            connection = http.client.HTTPSConnection(server.host, context=context, timeout=10)
            connection.request("GET", "/v2/")
            response = connection.getresponse()
            response.read()
            connection.close()

        assert server.url.startswith("https://")
        assert response.status == 401
        assert f'realm="{server.url}/token"' in response.headers["WWW-Authenticate"]

    def test_a_missing_certificate_is_a_config_error(self, tmp_path: Path) -> None:
        missing = (tmp_path / "chain.pem", tmp_path / "key.pem")

        with pytest.raises(ConfigError), registry_server(MemoryCatalog(), tls=missing) as server:
            get_status(server.host)
