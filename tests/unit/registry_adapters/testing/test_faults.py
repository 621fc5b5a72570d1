"""The effect of every fault on a plain HTTP client."""

from __future__ import annotations

import hashlib
import http.client
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from registry_adapters.testing import Fault, faults
from registry_adapters.wsgi import BasicAuthorizer, TokenAuthorizer
from registry_core import ConfigError
from registry_core.domain.auth import Scope
from registry_core.domain.names import RepositoryName

if TYPE_CHECKING:
    from tests.unit.registry_adapters.testing.conftest import Call, Reply

CONTENT = bytes(range(256)) * 4
BROKEN = (http.client.HTTPException, ConnectionError)


class TestStatus:
    def test_it_replaces_the_response_by_an_error_document(self, call: Call) -> None:
        caller = call(faults.status(429, retry_after=2))

        reply = caller("GET", caller.blob)

        assert (reply.status, reply.headers["Retry-After"]) == (429, "2")
        assert reply.json["errors"][0]["code"] == "TOOMANYREQUESTS"

    @pytest.mark.parametrize(
        ("path", "code"),
        [
            ("/v2/app/blobs/x", "BLOB_UNKNOWN"),
            ("/v2/app/manifests/x", "MANIFEST_UNKNOWN"),
            ("/v2/app/blobs/uploads/x", "BLOB_UPLOAD_UNKNOWN"),
            ("/v2/app/tags/list", "NAME_UNKNOWN"),
        ],
    )
    def test_not_found_has_the_code_of_the_endpoint(self, call: Call, path: str, code: str) -> None:
        assert call(faults.status(404))("GET", path).json["errors"][0]["code"] == code

    def test_a_date_may_be_given_as_text(self, call: Call) -> None:
        date = "Wed, 21 Oct 2015 07:28:00 GMT"

        assert call(faults.status(503, retry_after=date))("GET", "/v2/").headers["Retry-After"] == date

    def test_the_request_is_not_executed(self, call: Call) -> None:
        caller = call(faults.status(503).on("manifest", method="PUT"))

        reply = caller("PUT", "/v2/app/manifests/new", caller.manifest.content)

        assert reply.status == 503
        assert caller("GET", "/v2/app/manifests/new").status == 404

    def test_the_connection_stays_open_after_a_request_with_a_body(self, call: Call) -> None:
        caller = call(faults.status(503).on("uploads").times(1))

        caller("POST", "/v2/app/blobs/uploads/", b"x" * 100_000)
        caller("GET", caller.blob)

        assert caller.registry.request_log.connections == 1

    def test_head_gets_no_body(self, call: Call) -> None:
        caller = call(faults.status(500).times(1))

        reply = caller("HEAD", caller.blob)

        assert (reply.status, reply.content) == (500, b"")
        assert caller("GET", caller.blob).content == CONTENT

    @pytest.mark.parametrize("code", [100, 199, 600])
    def test_a_status_that_is_not_final_is_rejected(self, code: int) -> None:
        with pytest.raises(ConfigError):
            faults.status(code)


def test_another_body(call: Call) -> None:
    reply = call(faults.body(b"[]", media_type="application/x"))("GET", "/v2/")

    assert (reply.status, reply.content, reply.headers["Content-Type"]) == (200, b"[]", "application/x")


def test_a_login_page(call: Call) -> None:
    reply = call(faults.login_page())("GET", "/v2/app/manifests/v1")

    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/html")
    assert reply.content.startswith(b"<!DOCTYPE html>")


def test_another_status_with_the_original_body(call: Call) -> None:
    caller = call(faults.change_status(203))

    reply = caller("GET", caller.blob)

    assert (reply.status, reply.content) == (203, CONTENT)


class TestConnection:
    @pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
    def test_a_dropped_request_is_not_executed(self, call: Call, *, reset: bool) -> None:
        caller = call(faults.drop(reset=reset).times(1))

        with pytest.raises(BROKEN):
            caller("PUT", "/v2/app/manifests/new", caller.manifest.content)

        assert caller("GET", "/v2/app/manifests/new").status == 404

    @pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
    def test_a_request_whose_response_is_lost_is_executed(self, call: Call, *, reset: bool) -> None:
        caller = call(faults.lost_response(reset=reset).times(1))

        with pytest.raises(BROKEN):
            caller("PUT", "/v2/app/manifests/new", caller.manifest.content)

        assert caller("GET", "/v2/app/manifests/new").status == 200

    @pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
    def test_only_a_kept_connection_is_closed_as_idle(self, call: Call, *, reset: bool) -> None:
        caller = call(faults.idle_close(reset=reset))
        first = caller("GET", "/v2/")

        with pytest.raises(BROKEN):
            caller("PUT", "/v2/app/manifests/new", caller.manifest.content)
        caller.connection.close()

        assert first.status == 200
        assert caller("GET", "/v2/app/manifests/new").status == 404

    def test_the_client_sees_a_reset(self, call: Call) -> None:
        caller = call(faults.drop(reset=True))

        with pytest.raises(ConnectionResetError):
            caller("GET", "/v2/")

    def test_garbage_is_not_http(self, call: Call) -> None:
        caller = call(faults.garbage(b"SSH-2.0-nothing\r\n"))
        with socket.create_connection(("127.0.0.1", caller.connection.port or 0), timeout=10) as sock:
            sock.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")

            reply = b"".join(iter(lambda: sock.recv(100), b""))

        assert reply == b"SSH-2.0-nothing\r\n"


class TestCut:
    @pytest.mark.parametrize("at", [0, 1, 255, 1023])
    def test_exactly_so_many_bytes_arrive(self, call: Call, at: int) -> None:
        caller = call(faults.cut(at))

        reply = caller("GET", caller.blob)

        assert (reply.status, reply.content, reply.complete) == (200, CONTENT[:at], False)

    def test_a_shorter_body_is_complete(self, call: Call) -> None:
        caller = call(faults.cut(len(CONTENT) + 1))

        assert caller("GET", caller.blob).content == CONTENT

    def test_a_shorter_body_does_not_count(self, call: Call) -> None:
        caller = call(faults.cut(100).times(1))

        tags, blob = caller("GET", "/v2/app/tags/list"), caller("GET", caller.blob)

        assert (tags.complete, blob.complete) == (True, False)
        assert [entry.fault != "" for entry in caller.registry.request_log] == [False, True]

    def test_a_challenge_does_not_count(self, call: Call) -> None:
        authorizer = BasicAuthorizer({"ann": ""})
        caller = call(faults.cut(1).times(1), authorizer=authorizer)

        first = caller("GET", caller.blob)
        second = caller("GET", caller.blob, headers={"Authorization": "Basic YW5uOg=="})

        assert (first.status, first.complete) == (401, True)
        assert (second.status, second.content) == (200, CONTENT[:1])

    def test_a_reset_body_is_not_complete(self, call: Call) -> None:
        caller = call(faults.cut(10, reset=True).times(1))

        try:
            complete = caller("GET", caller.blob).complete
        except BROKEN:
            complete = False

        assert not complete

    def test_a_range_continues_where_the_body_was_cut(self, call: Call) -> None:
        caller = call(faults.cut(300).times(1))
        first = caller("GET", caller.blob).content

        rest = caller("GET", caller.blob, headers={"Range": f"bytes={len(first)}-"})

        assert first + rest.content == CONTENT

    def test_the_bytes_of_a_cut_request_are_kept(self, call: Call) -> None:
        caller = call(faults.cut_request(100).on("upload", method="PATCH").times(1))
        path = caller.start()

        with pytest.raises(BROKEN):
            caller("PATCH", path, CONTENT, {"Content-Type": "application/octet-stream"})

        assert caller("GET", path).headers["Range"] == "0-99"

    def test_a_shorter_request_is_executed_without_a_response(self, call: Call) -> None:
        caller = call(faults.cut_request(5000).on("upload", method="PATCH").times(1))
        path = caller.start()

        with pytest.raises(BROKEN):
            caller("PATCH", path, CONTENT, {"Content-Type": "application/octet-stream"})

        assert caller("GET", path).headers["Range"] == f"0-{len(CONTENT) - 1}"


class TestStall:
    def test_it_lasts_until_it_is_released(self, call: Call) -> None:
        caller = call(faults.stall())
        reply: list[int] = []
        thread = threading.Thread(target=lambda: reply.append(caller("GET", caller.blob).status))
        thread.start()

        stalled = caller.registry.wait_for_stall()
        before = list(reply)
        caller.registry.release()
        thread.join(10)

        assert stalled
        assert (before, reply) == ([], [200])

    def test_the_bytes_before_a_stall_in_the_body_arrive(self, call: Call) -> None:
        caller = call(faults.stall(at=7))
        caller.connection.request("GET", caller.blob)

        with caller.connection.getresponse() as response:
            first = response.read(7)
            stalled = caller.registry.wait_for_stall()
            caller.registry.clear()
            rest = response.read()

        assert stalled
        assert first + rest == CONTENT

    def test_the_rest_of_a_stalled_request_is_read_later(self, call: Call) -> None:
        caller = call(faults.stall_request(10).on("upload"))
        path = caller.start()
        reply: list[int] = []
        thread = threading.Thread(target=lambda: reply.append(caller("PATCH", path, CONTENT).status))
        thread.start()

        stalled = caller.registry.wait_for_stall()
        received = caller.registry.request_log.requests(endpoint="upload")[0].received
        caller.registry.clear()
        thread.join(10)

        assert stalled
        assert (received, reply) == (10, [202])

    def test_it_ends_after_its_time(self, call: Call) -> None:
        caller = call(faults.stall(0.01))

        assert caller("GET", caller.blob).content == CONTENT


def test_a_dripping_body_is_complete_in_the_end(call: Call) -> None:
    caller = call(faults.drip(10_000))
    start = time.monotonic()

    reply = caller("GET", caller.blob)

    assert reply.content == CONTENT
    assert time.monotonic() - start > 0.09  # 1024 bytes at 10,000 a second


def test_a_dripping_body_that_is_released_arrives_at_once(call: Call) -> None:
    caller = call(faults.drip(1).on("blob"))
    reply: list[Reply] = []
    thread = threading.Thread(target=lambda: reply.append(caller("GET", caller.blob)))
    thread.start()

    assert caller.registry.wait_for_stall()
    caller.registry.release()
    thread.join(10)

    assert [one.content for one in reply] == [CONTENT]


def test_a_rate_of_zero_is_rejected() -> None:
    with pytest.raises(ConfigError):
        faults.drip(0)


class TestHeaders:
    def test_set(self, call: Call) -> None:
        caller = call(faults.set_header("content-type", "text/plain"))

        assert caller("GET", caller.blob).headers.get_all("Content-Type") == ["text/plain"]

    def test_missing(self, call: Call) -> None:
        caller = call(faults.missing_header("Docker-Content-Digest"))

        assert "Docker-Content-Digest" not in caller("GET", "/v2/app/manifests/v1").headers

    def test_a_body_without_a_length_is_chunked(self, call: Call) -> None:
        caller = call(faults.missing_header("Content-Length"))

        reply = caller("GET", caller.blob)

        assert reply.headers["Transfer-Encoding"] == "chunked"
        assert reply.content == CONTENT

    def test_the_wrong_digest(self, call: Call) -> None:
        caller = call(faults.wrong_digest_header())

        reply = caller("HEAD", "/v2/app/manifests/v1")

        assert reply.headers["Docker-Content-Digest"] == f"sha256:{'0' * 64}"


class TestBody:
    @pytest.mark.parametrize(("at", "position"), [(None, 512), (0, 0), (1023, 1023)])
    def test_one_bit_is_wrong(self, call: Call, at: int | None, position: int) -> None:
        caller = call(faults.wrong_bytes(at))

        content = caller("GET", caller.blob).content

        assert len(content) == len(CONTENT)
        assert [i for i in range(len(CONTENT)) if content[i] != CONTENT[i]] == [position]

    def test_a_length_that_is_too_long_ends_the_connection_early(self, call: Call) -> None:
        caller = call(faults.wrong_length(+10))

        reply = caller("GET", caller.blob)

        assert reply.headers["Content-Length"] == str(len(CONTENT) + 10)
        assert (reply.content, reply.complete) == (CONTENT, False)

    @pytest.mark.parametrize("by", [-1, -1024, -5000])
    def test_the_body_is_sent_whole_with_a_length_that_is_too_short(self, call: Call, by: int) -> None:
        caller = call(faults.wrong_length(by))
        with socket.create_connection(("127.0.0.1", caller.connection.port or 0), timeout=10) as sock:
            sock.sendall(f"GET {caller.blob} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())

            head, _, body = b"".join(iter(lambda: sock.recv(4096), b"")).partition(b"\r\n\r\n")

        assert f"Content-Length: {max(0, len(CONTENT) + by)}".encode() in head
        assert body == CONTENT

    @pytest.mark.parametrize(
        "fault", [faults.wrong_length(1), faults.empty_body(), faults.endless_body(), faults.wrong_bytes()], ids=str
    )
    def test_an_error_response_is_not_changed(self, call: Call, fault: Fault) -> None:
        reply = call(fault)("GET", "/v2/app/manifests/missing")

        assert (reply.status, reply.complete) == (404, True)
        assert reply.json["errors"][0]["code"] == "MANIFEST_UNKNOWN"

    def test_head_has_the_wrong_length_too(self, call: Call) -> None:
        caller = call(faults.wrong_length(3))

        assert caller("HEAD", caller.blob).headers["Content-Length"] == str(len(CONTENT) + 3)

    def test_empty(self, call: Call) -> None:
        caller = call(faults.empty_body())

        reply = caller("GET", caller.blob)

        assert (reply.status, reply.content, reply.complete) == (200, b"", True)

    @pytest.mark.parametrize("claimed", [None, 1 << 40])
    def test_endless(self, call: Call, claimed: int | None) -> None:
        caller = call(faults.endless_body(claimed=claimed))
        caller.connection.request("GET", caller.blob)

        with caller.connection.getresponse() as response:
            start = response.read(len(CONTENT) + 1_000_000)
            length = response.headers["Content-Length"]
        caller.connection.close()

        assert start == CONTENT + b" " * 1_000_000
        assert length == (None if claimed is None else str(claimed))


class TestTokens:
    def test_a_token_is_rejected_once(self, call: Call) -> None:
        authorizer = TokenAuthorizer({"ann": "secret"})
        caller = call(faults.expired_token().after(1), authorizer=authorizer)
        scope = Scope.repository(RepositoryName("app"), ("pull",))
        header = {"Authorization": f"Bearer {authorizer.token('ann', [scope])}"}

        statuses = [caller("GET", caller.blob, headers=header).status for _ in range(3)]
        challenge = caller.registry.request_log.requests(status=401)[0]

        assert statuses == [200, 401, 200]
        assert "expired token" in challenge.fault

    def test_the_challenge_is_the_authorizers(self, call: Call) -> None:
        caller = call(faults.expired_token(), authorizer=TokenAuthorizer({"ann": "secret"}, service="here"))

        reply = caller("GET", caller.blob, headers={"Authorization": "Bearer x"})

        challenge = reply.headers["WWW-Authenticate"]
        assert 'error="invalid_token"' in challenge
        assert 'service="here"' in challenge
        assert 'scope="repository:app:pull"' in challenge

    def test_a_password_is_rejected_as_well(self, call: Call) -> None:
        caller = call(faults.expired_token(), authorizer=BasicAuthorizer({"ann": "x"}))

        reply = caller("GET", "/v2/", headers={"Authorization": "Basic YW5uOng="})

        assert reply.headers["WWW-Authenticate"].startswith("Basic")

    def test_without_an_authorizer_the_request_is_not_executed_either(self, call: Call) -> None:
        caller = call(faults.expired_token())

        reply = caller("DELETE", "/v2/app/manifests/v1", headers={"Authorization": "Bearer x"})

        assert reply.status == 401
        assert "Bearer" in reply.headers["WWW-Authenticate"]
        assert caller("GET", "/v2/app/manifests/v1").status == 200


class TestHidden:
    @pytest.mark.parametrize("code", [403, 404])
    def test_anonymous_requests_are_answered_by_the_status(self, call: Call, code: int) -> None:
        caller = call(faults.hidden(code), authorizer=BasicAuthorizer({"ann": "x"}))

        assert caller("GET", caller.blob).status == code
        assert caller("GET", "/v2/").status == 401
        assert caller("GET", caller.blob, headers={"Authorization": "Basic YW5uOng="}).status == 200


def test_the_next_page_is_at_an_inner_origin(call: Call) -> None:
    caller = call(faults.inner_link("http://registry:5000"))

    first, last = caller("GET", "/v2/app/tags/list?n=1"), caller("GET", "/v2/app/tags/list")

    assert first.headers["Link"] == '<http://registry:5000/v2/app/tags/list?n=1&last=v1>; rel="next"'
    assert "Link" not in last.headers


class TestUploads:
    def test_a_session_is_lost_when_a_chunk_arrives(self, call: Call) -> None:
        caller = call(faults.lost_upload())
        path = caller.start()

        reply = caller("PATCH", path, b"abc")

        assert reply.json["errors"][0]["code"] == "BLOB_UPLOAD_UNKNOWN"
        assert caller("GET", path).status == 404

    def test_a_session_is_lost_when_it_is_finished(self, call: Call) -> None:
        caller = call(faults.lost_upload().on(method="PUT"))
        path = caller.start()
        caller("PATCH", path, b"abc")

        reply = caller("PUT", f"{path}?digest=sha256:{hashlib.sha256(b'abc').hexdigest()}")

        assert reply.status == 404

    def test_the_offset_is_wrong(self, call: Call) -> None:
        caller = call(faults.wrong_offset(-2))
        path = caller.start()

        assert caller("PATCH", path, b"0123456789").headers["Range"] == "0-7"
        assert caller("GET", path).headers["Range"] == "0-7"

    def test_the_location_is_at_another_origin(self, call: Call) -> None:
        caller = call(faults.off_origin_location("https://other.example"))

        reply = caller("POST", "/v2/app/blobs/uploads/")

        assert reply.headers["Location"].startswith("https://other.example/v2/app/blobs/uploads/")

    def test_nothing_is_mounted(self, call: Call) -> None:
        caller = call(faults.no_mount())

        reply = caller("POST", f"/v2/b/blobs/uploads/?mount={caller.digest}&from=app")

        assert reply.status == 202
        assert caller("HEAD", f"/v2/b/blobs/{caller.digest}").status == 404


class TestMissingFeatures:
    def test_no_head(self, call: Call) -> None:
        caller = call(faults.no_head())

        assert [caller(method, caller.blob).status for method in ("HEAD", "GET")] == [405, 200]

    def test_no_referrers(self, call: Call) -> None:
        caller = call(faults.no_referrers())
        content = caller.manifest.content.replace(b"{", b'{"subject":{"mediaType":"a/b","digest":"sha256:', 1)
        content = content.replace(b"sha256:", b"sha256:" + b"0" * 64 + b'","size":1},', 1)

        pushed = caller("PUT", "/v2/app/manifests/v3", content, {"Content-Type": caller.manifest.media_type})
        asked = caller("GET", f"/v2/app/referrers/sha256:{'0' * 64}")

        assert (pushed.status, asked.status) == (201, 404)
        assert "OCI-Subject" not in pushed.headers

    def test_no_range(self, call: Call) -> None:
        caller = call(faults.no_range())

        reply = caller("GET", caller.blob, headers={"Range": "bytes=10-"})

        assert (reply.status, reply.content) == (200, CONTENT)

    @pytest.mark.parametrize(("value", "expected"), [(None, "bytes 11-1024/1024"), ("bytes */5", "bytes */5")])
    def test_the_wrong_range(self, call: Call, value: str | None, expected: str) -> None:
        caller = call(faults.bad_content_range(value))

        reply = caller("GET", caller.blob, headers={"Range": "bytes=10-"})

        assert (reply.status, reply.headers["Content-Range"], reply.content) == (206, expected, CONTENT[10:])


class TestLists:
    def test_a_page_links_to_itself(self, call: Call) -> None:
        reply = call(faults.paging_loop())("GET", "/v2/app/tags/list?n=5")

        assert reply.headers["Link"] == '</v2/app/tags/list?n=5>; rel="next"'
        assert reply.json["tags"] == ["v1", "v2"]

    def test_pages_never_end(self, call: Call) -> None:
        caller = call(faults.endless_paging())
        path = "/v2/_catalog"

        links = []
        for _ in range(3):
            links.append(path)
            path = caller("GET", path).headers["Link"].partition("<")[2].partition(">")[0]

        assert links == ["/v2/_catalog", "/v2/_catalog?page=2", "/v2/_catalog?page=3"]

    def test_the_next_page_is_at_another_origin(self, call: Call) -> None:
        reply = call(faults.off_origin_link("https://other.example/next"))("GET", "/v2/app/tags/list")

        assert reply.headers["Link"] == '<https://other.example/next>; rel="next"'


class TestRedirects:
    @pytest.mark.parametrize(
        ("fault", "location"),
        [
            (faults.redirect("https://cdn.example"), "https://cdn.example/v2/app/tags/list?n=1"),
            (faults.redirect("https://cdn.example/x"), "https://cdn.example/x"),
            (faults.redirect_loop(), "/v2/app/tags/list?n=1"),
        ],
        ids=str,
    )
    def test_the_location(self, call: Call, fault: Fault, location: str) -> None:
        reply = call(fault)("GET", "/v2/app/tags/list?n=1")

        assert (reply.status, reply.headers["Location"]) == (307, location)


def test_the_text_of_a_fault() -> None:
    assert str(faults.status(503).on("blob", method="GET").times(2)) == "status 503 (GET blob at most 2 times)"
    assert str(faults.cut(10).after(3).times(1)) == "body cut at byte 10, connection closed (GET after 3 once)"
    assert repr(faults.drop()) == "<Fault: connection closed before the request>"


def test_a_fault_is_immutable() -> None:
    fault = faults.status(503)

    narrowed = fault.on("blob").times(1)

    assert str(fault) == "status 503"
    assert narrowed != fault
    assert narrowed.on("tags", method="GET HEAD").match.methods == ("GET", "HEAD")


def test_every_fault_is_in_the_how_to() -> None:
    text = (Path(__file__).parents[4] / "docs" / "how-to" / "testing.md").read_text()
    table = text[text.index("### All faults") :]

    missing = [name for name in faults.__all__ if name != "Fault" and f"`{name}(" not in table]

    assert missing == []
