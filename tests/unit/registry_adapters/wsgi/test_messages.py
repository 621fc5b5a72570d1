"""Error responses (distribution-spec, "Error Codes"; R-241, R-242)."""

from __future__ import annotations

import re

import pytest

from registry_adapters.wsgi.messages import HttpError, error_response, to_http_error
from registry_core import errors


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.BlobNotFound("x"), 404, "BLOB_UNKNOWN"),
        (errors.ImageNotFound("x"), 404, "MANIFEST_UNKNOWN"),
        (errors.RepositoryNotFound("x"), 404, "NAME_UNKNOWN"),
        (errors.PlatformNotFound("x"), 404, "MANIFEST_UNKNOWN"),
        (errors.InvalidName("x"), 400, "NAME_INVALID"),
        (errors.InvalidName("x", code="TAG_INVALID"), 400, "TAG_INVALID"),
        (errors.InvalidReference("x"), 400, "NAME_INVALID"),
        (errors.InvalidDigest("x"), 400, "DIGEST_INVALID"),
        (errors.InvalidDocument("x"), 400, "MANIFEST_INVALID"),
        (errors.NotAnIndex("x"), 400, "MANIFEST_INVALID"),
        (errors.Unsupported("x"), 405, "UNSUPPORTED"),
        (errors.CatalogUnsupported("x"), 405, "UNSUPPORTED"),
        (errors.TooLarge("x"), 413, "SIZE_INVALID"),
        (errors.DigestMismatch("x"), 400, "DIGEST_INVALID"),
        (errors.SizeMismatch("x"), 400, "SIZE_INVALID"),
        (errors.Forbidden("x"), 403, "DENIED"),
        (errors.Unauthorized("x"), 403, "DENIED"),
        (errors.RateLimited("x"), 429, "TOOMANYREQUESTS"),
        (errors.Unavailable("x"), 503, "UNAVAILABLE"),
        (errors.DeadlineExceeded("x"), 504, "UNAVAILABLE"),
        (errors.ServerError("x"), 502, "UNAVAILABLE"),
        (errors.LayoutError("x"), 500, "UNKNOWN"),
        (OSError("x"), 500, "UNKNOWN"),
        (KeyError("x"), 500, "UNKNOWN"),
        (HttpError(418, "TEAPOT", "x"), 418, "TEAPOT"),
    ],
)
def test_every_error_has_its_status_and_code(error: Exception, status: int, code: str) -> None:
    http_error = to_http_error(error, writing=True)

    assert (http_error.status, http_error.code) == (status, code)


def test_every_error_of_the_library_has_a_well_formed_code() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__]
    raised = [kind("x") for kind in kinds if isinstance(kind, type) and issubclass(kind, errors.RegistryError)]

    codes = [to_http_error(error, writing=False).code for error in raised]

    assert len(codes) > 20
    assert all(re.fullmatch("[A-Z_]+", code) for code in codes)


@pytest.mark.parametrize("error", [errors.DigestMismatch("x"), errors.SizeMismatch("x")])
def test_wrong_content_is_an_internal_error_of_reads(error: Exception) -> None:
    http_error = to_http_error(error, writing=False)

    assert http_error.status == 500


@pytest.mark.parametrize(
    "error",
    [
        OSError("/srv/secret"),
        errors.LayoutError("/srv/secret"),
        errors.Unavailable("https://secret"),
        errors.ImageNotFound("secret", reference="secret"),
        errors.InvalidDigest("bad", reference="secret"),
    ],
)
def test_internal_details_are_not_sent(error: Exception) -> None:
    http_error = to_http_error(error, writing=True)

    assert b"secret" not in b"".join(error_response(http_error).body)


def test_a_rate_limit_has_retry_after() -> None:
    http_error = to_http_error(errors.RateLimited("x", retry_after=7.2), writing=False)

    assert ("Retry-After", "7") in http_error.headers
