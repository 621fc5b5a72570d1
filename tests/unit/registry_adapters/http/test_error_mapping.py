from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_adapters.http.error_mapping import error_from_response
from registry_adapters.http.messages import Headers, Request
from registry_core.domain.error_bodies import error_infos, escaped
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
            (400, "manifest", "TAG_INVALID", Forbidden),
            (412, "manifest", "", Forbidden),
            (412, "blob", "", Forbidden),
            (402, "manifest", "", Forbidden),
            (423, "manifest", "", Forbidden),
            (451, "blob", "", Forbidden),
            (409, "manifest", "", ProtocolError),
            (422, "manifest", "", ProtocolError),
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


def body_of(code: str, message: str, detail: object = None) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message, "detail": detail}]}).encode()


ECR = "The image tag 'v1' already exists in the 'app' repository and cannot be overwritten because the {} is immutable."
HARBOR = "current image with 9 vulnerabilities cannot be pulled due to configured policy"
QUOTA = "adding 29.0 MiB of storage resource, which when updated to current usage of 152.4 MiB will exceed the limit"
ACR = "The operation is disallowed on this registry, repository or image."
NEXUS = "Repository does not allow updating assets: docker-hosted"
REGO = "application/vnd.cncf.openpolicyagent.policy.layer.v1+rego"
ARTIFACTORY = "Not enough permissions to delete/overwrite artifact 'app/v1/manifest.json'"


class TestRefusalsByPolicy:
    @pytest.mark.parametrize("method", ["GET", "PUT", "POST", "PATCH", "DELETE"])
    @pytest.mark.parametrize("missing", ["manifest", "blob", "repository", "upload"])
    @pytest.mark.parametrize(
        ("status", "content", "words"),
        [
            (400, body_of("TAG_INVALID", ECR.format("repository")), "is immutable"),
            (400, body_of("TAG_INVALID", ECR.format("tag")), "is immutable"),
            (400, json.dumps({"__type": "ImageTagAlreadyExistsException", "message": ECR.format("tag")}), "immutable"),
            (412, body_of("PROJECTPOLICYVIOLATION", HARBOR), HARBOR),
            (412, body_of("PROJECTPOLICYVIOLATION", "The image is not signed by cosign."), "not signed"),
            (412, body_of("PRECONDITION", "Failed to process request due to 'app:v1' is immutable."), "app:v1"),
            (403, body_of("DENIED", QUOTA), QUOTA),
            (403, body_of("DENIED", "Quota has been exceeded on namespace", {}), "Quota has been exceeded"),
            (400, body_of("QUOTA_EXCEEDED", "no space left for the project"), "no space left"),
            (403, body_of("DENIED", "registry contains 1 repositories, limit is 1"), "limit is 1"),
            (403, body_of("MANIFEST_INVALID", "manifest invalid", {"description": "HTTP 403 Forbidden"}), "invalid"),
            (403, json.dumps({"errors": [{"status": 403, "message": ARTIFACTORY}]}), ARTIFACTORY),
            (405, body_of("REGISTRY_DISALLOWED_OPERATION", ACR, {}), ACR),
            (400, body_of("BLOB_UPLOAD_INVALID", "blob upload invalid", NEXUS), NEXUS),
            (400, body_of("FAILED_PRECONDITION", "Cannot update tag v1."), "Cannot update tag v1."),
            (400, body_of("MANIFEST_INVALID", "The repository has enabled tag immutability."), "tag immutability"),
            (409, body_of("TAG_IMMUTABLE", "Tag 'v1' cannot be changed"), "cannot be changed"),
            (409, body_of("CONFLICT", "tag v1 already exists under the repository 111"), "already exists"),
            (409, body_of("TAG_ALREADY_EXISTS", "tag was already pushed", {}), "already pushed"),
            (400, body_of("tag_invalid", "no such tag name here"), "no such tag name"),
            (400, body_of("MANIFEST_INVALID", "the tag 'v1' cannot be overwritten"), "cannot be overwritten"),
            (400, b"\xef\xbb\xbf" + body_of("UNKNOWN", "storage quota exceeded"), "storage quota exceeded"),
            (400, b"the storage quota of r.example.com/quota is exceeded", "storage quota"),
            (403, b"Forbidden: the image violates the admission policy\n", "violates the admission policy"),
            (409, b"tag v1 is immutable", "tag v1 is immutable"),
            (403, json.dumps({"message": "permission_denied: write_package"}), "permission_denied"),
            (403, json.dumps({"error": {"code": 403, "message": "Quota exceeded for storage"}}), "Quota exceeded"),
            (403, json.dumps({"error": {"x": 1}, "detail": "account suspended"}), "account suspended"),
            (403, json.dumps("the subscription has ended"), "the subscription has ended"),
            (403, json.dumps({"errors": ["no space is left"]}), "no space is left"),
            (403, json.dumps({"errors": "no space is left"}), "no space is left"),
            (400, json.dumps({"errors": {"message": "quota exceeded"}}), "quota exceeded"),
            (400, json.dumps({"errors": [{"errorCode": "X.1", "errorMessage": "quota exceeded"}]}), "quota exceeded"),
            (403, json.dumps({"code": 1, "msg": "the account is frozen"}), "the account is frozen"),
            (402, json.dumps({"title": "Storage is over its paid limit"}), "paid limit"),
            (451, b"withdrawn", "withdrawn"),
            (412, b"", "Precondition Failed"),
            (403, b"<html><body>no</body></html>", "403 Forbidden"),
        ],
    )  # fmt: skip
    def test_the_registrys_words_are_quoted_by_forbidden(
        self, status: int, content: bytes | str, words: str, missing: str, method: str
    ) -> None:
        """R-244: pull, push and deletion alike."""
        content = content if isinstance(content, bytes) else content.encode()

        error = map_error(status, content, method=method, missing=missing)

        assert type(error) is Forbidden
        assert words in str(error)

    @pytest.mark.parametrize(
        ("method", "status", "code", "message", "kind"),
        [
            ("DELETE", 405, "UNSUPPORTED", "The operation is unsupported.", Unsupported),
            ("DELETE", 405, "", "method not allowed", Unsupported),
            ("DELETE", 400, "", "deletion is disabled", Unsupported),
            ("PUT", 405, "UNSUPPORTED", "the registry is read-only", Unsupported),
            ("PUT", 400, "MANIFEST_INVALID", "manifest exceeds the size limit of 4 MB", InvalidDocument),
            ("PUT", 400, "NAME_INVALID", "invalid repository name", InvalidName),
            ("PUT", 413, "SIZE_INVALID", "over the quota", TooLarge),
            ("PUT", 400, "DIGEST_INVALID", "overwritten on the way", DigestMismatch),
            ("PUT", 404, "MANIFEST_BLOB_UNKNOWN", "the policy of the cache removed it", BlobNotFound),
            ("GET", 404, "NAME_UNKNOWN", "no policy for this repository", RepositoryNotFound),
            ("GET", 401, "UNAUTHORIZED", "the policy wants credentials", Unauthorized),
            ("GET", 429, "TOOMANYREQUESTS", "pull quota exceeded", RateLimited),
            ("GET", 403, "toomanyrequests", "Rate exceeded", RateLimited),
            ("PUT", 409, "", "the upload session is in use", ProtocolError),
            ("PUT", 400, "MANIFEST_INVALID", f"unknown media type {REGO}", InvalidDocument),
            ("PUT", 415, "MANIFEST_INVALID", f"no artifact of type {REGO}, see the policy", InvalidDocument),
            ("PUT", 400, "MANIFEST_INVALID", "the second key overrides the first", InvalidDocument),
            ("PUT", 400, "", "not a manifest: org/policy-agent", ProtocolError),
            ("PUT", 400, "", "the project 'quota' does not exist", ProtocolError),
            ("PUT", 400, "NAME_INVALID", "the name of a policy must be lower case", InvalidName),
            ("PATCH", 416, "", "the chunk must not overwrite earlier bytes", ProtocolError),
            ("PATCH", 400, "RANGE_INVALID", "the chunk must not overwrite earlier bytes", ProtocolError),
            ("PUT", 500, "UNKNOWN", "quota exceeded", ServerError),
        ],
    )
    def test_other_refusals_keep_their_class(
        self, method: str, status: int, code: str, message: str, kind: type[RegistryError]
    ) -> None:
        """R-244."""
        error = map_error(status, body_of(code, message), method=method)

        assert type(error) is kind
        assert message in str(error)

    def test_the_name_of_the_repository_is_no_word_about_a_policy(self) -> None:
        """R-244."""
        request = Request(
            method="PUT",
            target="/v2/org/quota-policy/manifests/immutable-1",
            success=(201,),
            reference="registry.example.com/org/quota-policy:immutable-1",
            missing="manifest",
        )
        for text in ("no manifest for quota-policy", "tag immutable-1, repository Quota-Policy: bad request"):
            assert type(error_from_response(400, Headers([]), text.encode(), request)) is ProtocolError

    def test_a_page_is_no_word_about_a_policy(self) -> None:
        """R-244."""
        for page in (b"<html>Privacy policy</html>", b"\xef\xbb\xbf<!DOCTYPE html><html>Privacy policy</html>"):
            error = map_error(400, page)

            assert type(error) is ProtocolError
            assert "Privacy" not in str(error)

    def test_a_registry_without_a_list_of_repositories_stays_unsupported(self) -> None:
        """R-095."""
        error = map_error(405, body_of("X", ACR), missing="catalog")

        assert type(error) is CatalogUnsupported

    def test_words_in_another_format_are_escaped_and_cut(self) -> None:
        """R-063."""
        for content in (b"a\r\n\x1b[2J" + b"b" * 5000, json.dumps({"message": "a\n\u202e" + "b" * 5000}).encode()):
            error = map_error(412, content)

            assert str(error).isprintable()
            assert len(str(error)) < 800


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
