from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_adapters.http.error_mapping import error_from_response, error_infos, escaped
from registry_adapters.http.messages import Headers, Request
from registry_core.errors import (
    BlobNotFound,
    CatalogUnsupported,
    DigestMismatch,
    ErrorInfo,
    Forbidden,
    ImageNotFound,
    InvalidDocument,
    InvalidName,
    ProtocolError,
    RateLimited,
    RegistryError,
    RepositoryNotFound,
    ServerError,
    SizeMismatch,
    TLSError,
    TooLarge,
    TransportError,
    Unauthorized,
    Unavailable,
    Unsupported,
)


def make_request(method: str = "GET", missing: str = "manifest") -> Request:
    return Request(
        method=method,
        target="/v2/a/b/manifests/v1?sig=hunter2",
        success=(200,),
        reference="registry.example.com/a/b:v1",
        missing=missing,
    )


def error_body(*codes: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": f"about {code}"} for code in codes]}).encode()


def map_error(
    status: int, content: bytes = b"", *, method: str = "GET", missing: str = "manifest", **headers: str
) -> RegistryError:
    return error_from_response(
        status,
        Headers([(name.replace("_", "-"), value) for name, value in headers.items()]),
        content,
        make_request(method, missing),
        url="https://registry.example.com/v2/a/b/manifests/v1?sig=hunter2",
        now=0.0,
    )


class TestErrorClasses:
    @pytest.mark.parametrize(
        ("status", "missing", "code", "kind"),
        [
            (401, "manifest", "", Unauthorized),
            (401, "catalog", "UNSUPPORTED", Unauthorized),
            (401, "blob", "NAME_UNKNOWN", Unauthorized),
            (403, "blob", "", Forbidden),
            (403, "blob", "UNAUTHORIZED", Forbidden),
            (404, "manifest", "DENIED", Forbidden),
            (400, "manifest", "UNAUTHORIZED", Unauthorized),
            (404, "manifest", "", ImageNotFound),
            (404, "blob", "", BlobNotFound),
            (404, "repository", "", RepositoryNotFound),
            (404, "upload", "", BlobNotFound),
            (404, "manifest", "NOT_FOUND", ImageNotFound),
            (404, "blob", "NOT_FOUND", BlobNotFound),
            (404, "blob", "NAME_UNKNOWN", RepositoryNotFound),
            (404, "blob", "MANIFEST_UNKNOWN", ImageNotFound),
            (404, "manifest", "BLOB_UNKNOWN", BlobNotFound),
            (400, "manifest", "MANIFEST_BLOB_UNKNOWN", BlobNotFound),
            (422, "manifest", "MANIFEST_BLOB_UNKNOWN", BlobNotFound),
            (404, "catalog", "", CatalogUnsupported),
            (404, "catalog", "NAME_UNKNOWN", CatalogUnsupported),
            (405, "catalog", "", CatalogUnsupported),
            (400, "catalog", "UNSUPPORTED", CatalogUnsupported),
            (405, "manifest", "", Unsupported),
            (501, "manifest", "UNSUPPORTED", Unsupported),
            (404, "manifest", "UNSUPPORTED", Unsupported),
            (413, "blob", "", TooLarge),
            (400, "manifest", "MANIFEST_INVALID", InvalidDocument),
            (400, "manifest", "NAME_INVALID", InvalidName),
            (400, "manifest", "TAG_INVALID", InvalidName),
            (404, "registry", "", Unsupported),
            (404, "registry", "NAME_UNKNOWN", Unsupported),
            (407, "manifest", "", ProtocolError),
            (407, "manifest", "UNAUTHORIZED", ProtocolError),
            (429, "manifest", "", RateLimited),
            (429, "manifest", "DENIED", RateLimited),
            (403, "manifest", "TOOMANYREQUESTS", RateLimited),
            (408, "manifest", "", Unavailable),
            (499, "manifest", "", Unavailable),
            (502, "manifest", "", Unavailable),
            (503, "manifest", "UNSUPPORTED", Unavailable),
            (504, "manifest", "", Unavailable),
            (522, "manifest", "", Unavailable),
            (500, "manifest", "", ServerError),
            (500, "manifest", "UNKNOWN", ServerError),
            (507, "manifest", "", ServerError),
            (400, "manifest", "", ProtocolError),
            (400, "manifest", "DIGEST_INVALID", ProtocolError),
            (416, "upload", "", ProtocolError),
            (418, "manifest", "", ProtocolError),
            (200, "manifest", "", ProtocolError),
            (202, "manifest", "MANIFEST_UNKNOWN", ProtocolError),
            (304, "manifest", "", ProtocolError),
        ],
    )
    def test_status_and_code_of_a_read_determine_the_error_class(
        self, status: int, missing: str, code: str, kind: type[RegistryError]
    ) -> None:
        """R-055, R-095."""
        error = map_error(status, error_body(code) if code else b"", missing=missing)

        assert type(error) is kind

    @pytest.mark.parametrize(
        ("method", "status", "code", "kind"),
        [
            ("DELETE", 400, "", Unsupported),
            ("DELETE", 405, "", Unsupported),
            ("DELETE", 400, "NAME_INVALID", InvalidName),
            ("DELETE", 404, "", ImageNotFound),
            ("PUT", 400, "", ProtocolError),
            ("PUT", 413, "", TooLarge),
            ("PUT", 400, "DIGEST_INVALID", DigestMismatch),
            ("PATCH", 400, "SIZE_INVALID", SizeMismatch),
        ],
    )
    def test_status_and_code_of_a_write_determine_the_error_class(
        self, method: str, status: int, code: str, kind: type[RegistryError]
    ) -> None:
        """R-239, R-250, R-253."""
        error = map_error(status, error_body(code) if code else b"", method=method)

        assert type(error) is kind


class TestErrorAttributes:
    def test_an_error_has_the_failed_request_and_response_as_transport(self) -> None:
        """R-055, R-241."""
        error = map_error(404, error_body("MANIFEST_UNKNOWN", "NAME_UNKNOWN"), retry_after="9")

        transport = error.transport
        assert transport is not None
        assert (transport.status, transport.method, transport.retry_after) == (404, "GET", 9.0)
        assert transport.errors == (
            ErrorInfo(code="MANIFEST_UNKNOWN", message="about MANIFEST_UNKNOWN"),
            ErrorInfo(code="NAME_UNKNOWN", message="about NAME_UNKNOWN"),
        )
        assert (error.reference, error.code) == ("registry.example.com/a/b:v1", "MANIFEST_UNKNOWN")

    def test_a_transport_error_is_its_own_transport(self) -> None:
        error = map_error(503, error_body("UNAVAILABLE"))

        assert isinstance(error, TransportError)
        assert error.transport is error
        assert (error.status, error.code, error.reference) == (503, "UNAVAILABLE", "registry.example.com/a/b:v1")

    def test_retry_after_may_be_a_date(self) -> None:
        """R-054, R-242."""
        error = map_error(429, retry_after="Thu, 01 Jan 1970 00:02:00 GMT")

        assert isinstance(error, RateLimited)
        assert error.retry_after == 120.0

    def test_the_message_has_the_requested_pause(self) -> None:
        assert str(map_error(429, retry_after="30")).endswith(
            ": 429 Too Many Requests (retry after 30 s) [TOOMANYREQUESTS]"
        )

    @pytest.mark.parametrize(
        "content",
        [
            b"Client sent an HTTP request to an HTTPS server.\n",
            b"<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>",
            b"Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",
        ],
    )
    def test_the_message_says_that_plain_http_was_sent_to_a_tls_port(self, content: bytes) -> None:
        url = "http://registry.example.com/v2/"

        error = error_from_response(400, Headers([]), content, make_request(), url=url)

        assert type(error) is TLSError
        assert error.message == f"GET {url}: the server speaks TLS, but the request was plain http: remove plain_http"
        assert type(map_error(400, content)) is ProtocolError  # Over https, the text does not mean plain http.

    def test_without_a_code_the_error_has_the_code_of_its_class(self) -> None:
        assert (map_error(404).code, map_error(404, missing="upload").code) == (
            "MANIFEST_UNKNOWN",
            "BLOB_UPLOAD_UNKNOWN",
        )

    def test_the_message_has_no_query_values(self) -> None:
        """R-043."""
        error = map_error(404)

        assert "hunter2" not in str(error)
        assert error.transport is not None
        assert "hunter2" not in error.transport.url

    def test_text_of_the_registry_is_escaped_and_truncated(self) -> None:
        """R-063."""
        content = json.dumps({"errors": [{"code": "X\x1b[2J", "message": "a\r\n\u202eb" + "c" * 5000}]}).encode()

        error = map_error(400, content)

        assert error.transport is not None
        assert str(error).isprintable()
        assert error.transport.errors[0].code == "X\\x1b[2J"
        assert len(error.transport.errors[0].message) <= 300
        assert len(str(error)) < 800

    def test_errors_survive_pickling(self) -> None:
        error = pickle.loads(pickle.dumps(map_error(404, error_body("MANIFEST_UNKNOWN"))))

        assert isinstance(error, ImageNotFound)
        assert error.transport is not None
        assert error.transport.status == 404


class TestErrorInfos:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"<html>not found</html>",
            b"null",
            b"[]",
            b'"errors"',
            b"{}",
            b'{"errors":null}',
            b'{"errors":{}}',
            b'{"errors":"x"}',
            b'{"errors":[null,1,"x",[]]}',
            b'{"errors":[{"code":"X"',
            b"\xff\xfe",
            b"[" * 60000,
        ],
    )
    def test_bodies_in_other_formats_give_no_entries(self, content: bytes) -> None:
        """R-055."""
        assert error_infos(content) == ()

    def test_fields_of_wrong_types_are_dropped(self) -> None:
        """R-055."""
        infos = error_infos(b'{"errors":[{"code":5,"message":["x"],"detail":{"Name":"a/b"}},{"code":"X"}]}')

        assert infos == (ErrorInfo(detail='{"Name":"a/b"}'), ErrorInfo(code="X"))

    def test_a_body_that_is_not_utf_8_gives_no_entries(self) -> None:
        """R-055, R-062."""
        assert (
            error_infos('{"errors":[{"code":"DENIED","message":"Zugriff verweigert für alle"}]}'.encode("latin-1"))
            == ()
        )

    def test_the_number_of_entries_is_limited(self) -> None:
        """R-055."""
        assert len(error_infos(error_body(*["X"] * 1000))) <= 16

    @given(st.integers(100, 599), st.binary(max_size=200), st.sampled_from(["GET", "PUT", "DELETE"]))
    def test_any_response_maps_to_an_error_of_the_library(self, status: int, content: bytes, method: str) -> None:
        """R-062."""
        error = map_error(status, content, method=method)

        assert isinstance(error, RegistryError)
        assert error.transport is not None
        assert error.transport.status == status

    @given(
        st.recursive(
            st.none() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner) | st.dictionaries(st.sampled_from(["code", "message", "detail", "errors"]), inner)
            ),
        )
    )
    def test_any_json_document_is_tolerated(self, document: object) -> None:
        """R-055, R-241."""
        infos = error_infos(json.dumps({"errors": [document]}).encode())

        assert all(isinstance(info, ErrorInfo) for info in infos)


@given(st.text(max_size=50), st.integers(1, 40))
def test_escaped_text_is_printable_and_short(text: str, limit: int) -> None:
    """R-063."""
    safe = escaped(text, limit)

    assert safe.isprintable()
    assert len(safe) <= limit
