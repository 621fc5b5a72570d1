"""The faulty registry as a whole: starting, serving clients, and stopping."""

from __future__ import annotations

import inspect
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import NoReturn
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.util import setup_testing_defaults

import pytest

from registry_adapters.http.transport.wsgi_transport import WsgiTransport
from registry_adapters.memory import MemoryCatalog
from registry_adapters.testing import Entry, Fault, FaultyApp, FaultyRegistry, RequestLog, faults, faulty_registry
from registry_adapters.testing.request import FaultContext, StallGate
from registry_adapters.testing.server import ServerOptions
from registry_adapters.wsgi import RegistryApp, registry_server
from registry_core import ConfigError, ImageBuilder, RegistryError, ServerError, Unavailable
from registry_core.domain.names import RepositoryName
from registry_core.testing.content import push_image


class TestClient:
    def test_it_retries_through_a_burst(self) -> None:
        with faulty_registry(faults.status(503, retry_after=0).on("tags").times(2)) as registry:
            client = registry.client().with_segment("app")
            client.push_image("v1", ImageBuilder(platform="linux/amd64").build())

            tags = client.list_tags()

            assert tags == ["v1"]
            assert registry.request_log.count(endpoint="tags") == 3

    def test_it_gives_up_if_the_burst_does_not_end(self) -> None:
        with faulty_registry(faults.status(503, retry_after=0)) as registry:
            client = registry.client(retries=1).with_segment("app")

            with pytest.raises(Unavailable):
                client.list_tags()

            assert registry.request_log.count(endpoint="tags") == 2

    def test_pushed_content_is_in_the_catalog(self) -> None:
        catalog = MemoryCatalog()
        with faulty_registry(catalog=catalog) as registry:
            registry.client().with_segment("app").push_image("v1", ImageBuilder(platform="linux/amd64").build())

        assert list(catalog.repositories()) == ["app"]
        assert registry.catalog is catalog


def test_faults_come_and_go_while_it_runs() -> None:
    with faulty_registry() as registry:
        push_image(registry.catalog.repository(RepositoryName("app")), "x", tags=["v1"])
        client = registry.client(retries=0).with_segment("app")
        before = client.list_tags()
        registry.inject(faults.status(503))
        with pytest.raises(Unavailable):
            client.list_tags()
        registry.clear()

        after = client.list_tags()

    assert before == after == ["v1"]


def sending(registry: FaultyRegistry, data: bytes) -> socket.socket:
    """Open a connection and send some bytes."""
    host, _, port = registry.host.rpartition(":")
    sock = socket.create_connection((host, int(port)), timeout=10)
    sock.sendall(data)
    return sock


class TestStopping:
    @pytest.mark.parametrize("fault", [faults.stall(), faults.stall(at=1), faults.drip(1)], ids=str)
    def test_stalled_responses_do_not_delay_it(self, fault: Fault) -> None:
        threads = set(threading.enumerate())
        with faulty_registry(fault) as registry:
            with closing(sending(registry, b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")):
                stalled = registry.wait_for_stall()
            start = time.monotonic()

        assert time.monotonic() - start < 0.5
        assert stalled
        assert set(threading.enumerate()) <= threads

    def test_an_endless_response_does_not_delay_it(self) -> None:
        with ExitStack() as after:
            with faulty_registry(faults.endless_body()) as registry:
                sock = after.enter_context(closing(sending(registry, b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")))
                begun = sock.recv(1)
                start = time.monotonic()

            seconds = time.monotonic() - start

        assert begun == b"H"
        assert seconds < 0.5

    def test_a_stalled_request_does_not_delay_it(self) -> None:
        head = b"POST /v2/a/blobs/uploads/?digest=sha256:" + b"0" * 64 + b" HTTP/1.1\r\nHost: x\r\n"
        with ExitStack() as after:
            with faulty_registry(faults.stall_request(1)) as registry:
                after.enter_context(closing(sending(registry, head + b"Content-Length: 9\r\n\r\n123")))
                stalled = registry.wait_for_stall()
                start = time.monotonic()

            seconds = time.monotonic() - start

        assert stalled
        assert seconds < 0.5

    @pytest.mark.parametrize(
        "fault", [faults.drop(reset=True), faults.cut(1, reset=True), faults.cut(1), faults.garbage()], ids=str
    )
    def test_it_leaves_no_file_descriptor(self, fault: Fault) -> None:
        before = len(os.listdir("/proc/self/fd"))

        with faulty_registry(fault) as registry, pytest.raises(RegistryError):
            push_image(registry.catalog.repository(RepositoryName("app")), "x", tags=["v1"])
            registry.client(retries=0).with_segment("app").list_tags()

        assert len(os.listdir("/proc/self/fd")) <= before

    def test_its_clients_are_closed_with_it(self) -> None:
        before = len(os.listdir("/proc/self/fd"))

        with faulty_registry() as registry:
            push_image(registry.catalog.repository(RepositoryName("app")), "x", tags=["v1"])
            client = registry.client().with_segment("app")
            tags = client.list_tags()

        assert tags == ["v1"]
        assert len(os.listdir("/proc/self/fd")) <= before


def test_without_requests_none_stalls() -> None:
    with faulty_registry(faults.stall()) as registry:
        assert not registry.wait_for_stall(0.01)


def test_a_release_right_after_the_stall_is_reported_is_not_missed() -> None:
    gate = StallGate()

    class Eager(RequestLog):
        def set_stalled(self, entry: Entry, *, stalled: bool) -> None:
            super().set_stalled(entry, stalled=stalled)
            gate.release()

    environ: WSGIEnvironment = {}
    setup_testing_defaults(environ)
    log = Eager()
    context = FaultContext(RegistryApp(MemoryCatalog()), environ, log.add(environ), log, gate)

    released = context.stall(5)

    assert released


def test_options_are_those_of_the_server() -> None:
    with pytest.raises(ConfigError), faulty_registry(page_limit=0):
        pass


def test_no_option_of_the_server_is_missing() -> None:
    parameters = set(inspect.signature(registry_server).parameters)

    assert parameters - {"catalog", "wrap"} == set(ServerOptions.__annotations__)


def test_an_application_may_start_the_response_late() -> None:
    def late(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "4")])
        yield b"la"
        yield b"te"

    app = FaultyApp(late, faults.wrong_bytes(3))

    with WsgiTransport(app).send("GET", "http://r/v2/", {}, None).reader as reader:
        assert reader.read() == b"latd"


@pytest.mark.parametrize("fault", [faults.wrong_bytes(3), faults.missing_header("X"), faults.cut(100)], ids=str)
def test_the_body_of_the_application_is_closed_once(fault: Fault) -> None:
    """PEP 3333: also if the fault replaced it."""
    closed: list[bool] = []

    class Body(list[bytes]):
        def close(self) -> None:
            closed.append(True)

    def plain(environ: WSGIEnvironment, start_response: StartResponse) -> Body:
        start_response("200 OK", [("Content-Length", "4")])
        return Body([b"late"])

    WsgiTransport(FaultyApp(plain, fault)).send("GET", "http://r/v2/", {}, None).reader.close()

    assert closed == [True]


class TestInProcess:
    """Without a socket, a fault of the connection becomes an exception of the application."""

    def test_a_body_is_cut(self) -> None:
        app = FaultyApp(RegistryApp(MemoryCatalog()), faults.cut(1))

        with WsgiTransport(app).send("GET", "http://r/v2/", {}, None).reader as reader:
            with pytest.raises(Unavailable):
                reader.read()

        assert app.request_log.count(fault="cut") == 1

    @pytest.mark.parametrize("fault", [faults.drop(), faults.garbage(), faults.lost_response()], ids=str)
    def test_there_is_no_response(self, fault: Fault) -> None:
        app = FaultyApp(RegistryApp(MemoryCatalog()), fault)

        with pytest.raises(Unavailable):
            WsgiTransport(app).send("GET", "http://r/v2/", {}, None)

    def test_a_status_needs_no_socket(self) -> None:
        app = FaultyApp(RegistryApp(MemoryCatalog()), faults.status(503))

        WsgiTransport(app).send("GET", "http://r/v2/", {}, None).reader.close()

        assert [entry.status for entry in app.request_log] == [503]

    def test_a_request_whose_application_fails_is_finished(self) -> None:
        def failing(environ: object, start_response: object) -> list[bytes]:
            raise ZeroDivisionError

        app = FaultyApp(failing)

        with pytest.raises(ServerError):
            WsgiTransport(app).send("GET", "http://r/v2/", {}, None)

        assert [entry.is_finished for entry in app.request_log] == [True]

    def test_a_request_whose_response_the_server_rejects_is_finished(self) -> None:
        def refuse(*_: object) -> NoReturn:
            raise ValueError("not a header")

        app = FaultyApp(RegistryApp(MemoryCatalog()))
        environ: WSGIEnvironment = {}
        setup_testing_defaults(environ)

        with pytest.raises(ValueError, match="not a header"):
            app(environ, refuse)

        assert [entry.is_finished for entry in app.request_log] == [True]
