"""The request log of a faulty registry."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from registry_adapters.testing import faults
from registry_adapters.wsgi import BasicAuthorizer

if TYPE_CHECKING:
    from tests.unit.registry_adapters.testing.conftest import Call

SECRET = "Basic YW5uOmh1bnRlcjI="


def test_every_request_is_logged_in_order(call: Call) -> None:
    caller = call()

    caller("GET", "/v2/app/tags/list?n=1&last=a", headers={"Accept": "x/y"})
    caller("POST", "/v2/app/blobs/uploads/", b"12345")

    first, second = caller.registry.request_log
    assert (first.method, first.path, first.query) == ("GET", "/v2/app/tags/list", "n=1&last=a")
    assert (first.endpoint, first.header("accept"), first.parameter("n")) == ("tags", "x/y", "1")
    assert (second.method, second.endpoint, second.status, second.received) == ("POST", "uploads", 202, 5)
    assert (first.number, second.number) == (1, 2)


def test_sent_bytes_are_counted(call: Call) -> None:
    caller = call(faults.cut(100).times(1))

    caller("GET", caller.blob)
    caller("GET", caller.blob)
    caller("HEAD", caller.blob)

    assert [entry.sent for entry in caller.registry.request_log] == [100, 1024, 0]
    assert caller.registry.request_log.bytes_sent == 1124


def test_received_bytes_are_counted(call: Call) -> None:
    caller = call()
    path = caller.start()

    caller("PATCH", path, iter([b"x" * 10, b"y" * 20]))

    assert caller.registry.request_log.bytes_received == 30


def test_connections_are_distinguished(call: Call) -> None:
    caller = call()
    caller("GET", "/v2/")
    caller("GET", "/v2/")
    caller.connection.close()

    caller("GET", "/v2/")

    first, second, third = (entry.connection for entry in caller.registry.request_log)
    assert first == second != third
    assert caller.registry.request_log.connections == 2


def test_requests_are_selected_by_each_criterion(call: Call) -> None:
    caller = call(faults.status(503).on("tags").times(1))
    for path in ("/v2/app/tags/list", "/v2/app/tags/list?n=7", caller.blob):
        caller("GET", path)
    caller("HEAD", caller.blob)
    log = caller.registry.request_log

    assert log.count(method="HEAD") == 1
    assert log.count(endpoint="tags") == 2
    assert log.count(path=r"\?n=7$") == 1
    assert log.count(status=503) == 1
    assert [entry.number for entry in log.requests(fault="status 503")] == [1]
    assert log.count(fault="") == 1
    assert log.count() == len(log) == 4


def test_a_request_without_a_response_has_no_status(call: Call) -> None:
    caller = call(faults.drop())
    try:
        caller("GET", "/v2/")
    except OSError:
        entries = caller.registry.request_log.requests()

    assert [(entry.status, entry.fault) for entry in entries] == [(0, "connection closed before the request")]


def test_it_can_be_cleared(call: Call) -> None:
    caller = call()
    caller("GET", "/v2/")

    caller.registry.request_log.clear()
    caller("HEAD", "/v2/")

    assert [(entry.number, entry.method) for entry in caller.registry.request_log] == [(2, "HEAD")]


def test_credentials_can_be_checked_but_are_not_shown(call: Call) -> None:
    caller = call(authorizer=BasicAuthorizer({"ann": "hunter2"}))

    caller("GET", "/v2/?account=hunter2&n=3", headers={"Authorization": SECRET, "Cookie": "hunter2"})

    log = caller.registry.request_log
    (entry,) = log
    assert entry.authorization == SECRET
    for text in (repr(entry), repr(log), str(log)):
        assert "hunter2" not in text
        assert SECRET not in text
        assert "/v2/?account=…&n=3" in text


def test_its_text_is_a_table(call: Call) -> None:
    caller = call(faults.status(503).on("blob"))
    caller("GET", "/v2/")
    caller("GET", caller.blob)

    head, first, second = str(caller.registry.request_log).splitlines()

    assert head.split() == ["#", "connection", "method", "target", "status", "received", "sent", "fault"]
    assert first.split() == ["1", "1", "GET", "/v2/", "200", "0", "2"]
    assert re.fullmatch(r"2 +1 +GET +/v2/app/blobs/sha256:[0-9a-f]{12}… +503 +0 +\d+ +status 503 \(blob\)", second)


def test_control_characters_do_not_reach_a_terminal(call: Call) -> None:
    caller = call()

    caller("GET", "/v2/%1b%5b2J?n=%1b")

    assert "\x1b" not in str(caller.registry.request_log)
