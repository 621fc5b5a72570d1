from __future__ import annotations

import copy
import pickle

import pytest

from registry_core import errors
from registry_core.errors import (
    DigestMismatch,
    ErrorInfo,
    ImageNotFound,
    InvalidDocument,
    PlatformNotFound,
    RegistryError,
    SizeMismatch,
    TransportError,
    Unavailable,
    error_context,
)

CLASSES = [
    kind
    for name in errors.__all__
    if isinstance(kind := getattr(errors, name), type) and issubclass(kind, RegistryError)
]
BASES = {
    "InvalidValue": ValueError,
    "InvalidName": ValueError,
    "InvalidReference": ValueError,
    "InvalidDigest": ValueError,
    "InvalidDocument": ValueError,
    "ConfigError": ValueError,
    "NotFound": LookupError,
    "ImageNotFound": LookupError,
    "RepositoryNotFound": ImageNotFound,
    "BlobNotFound": LookupError,
    "PlatformNotFound": LookupError,
    "NotAnImage": RegistryError,
    "NotAnIndex": RegistryError,
    "AccessDenied": PermissionError,
    "Unauthorized": PermissionError,
    "Forbidden": PermissionError,
    "Unsupported": NotImplementedError,
    "CatalogUnsupported": NotImplementedError,
    "IntegrityError": ValueError,
    "DigestMismatch": ValueError,
    "SizeMismatch": ValueError,
    "TooLarge": ValueError,
    "LayoutError": ValueError,
    "UnsafeArchive": ValueError,
    "Cancelled": RegistryError,
    "DeadlineExceeded": TimeoutError,
    "TransportError": OSError,
    "Unavailable": OSError,
    "RateLimited": OSError,
    "TLSError": OSError,
    "ServerError": OSError,
    "ProtocolError": OSError,
    "RegistryError": Exception,
}


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_also_a_builtin_error(kind: type[RegistryError]) -> None:
    assert issubclass(kind, BASES[kind.__name__])
    assert issubclass(kind, RegistryError)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_can_be_pickled_and_copied(kind: type[RegistryError]) -> None:
    error = kind("it failed", reference="a.io/b:v1", operation="get", code="X")
    if not isinstance(error, TransportError):
        error.transport = Unavailable("cut", status=503, url="https://a.io/", method="GET", retry_after=1.5)

    for copied in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(copied) is kind
        assert str(copied) == str(error) == "get a.io/b:v1: it failed [X]"
        assert copied.args == error.args
        assert copied.transport is not None
        assert error.transport is not None
        assert copied.transport.status == error.transport.status
        assert copied.transport is copied or not isinstance(copied, TransportError)


@pytest.mark.parametrize(
    "error",
    [
        InvalidDocument("x", path="$.a"),
        PlatformNotFound("x", available=("linux/amd64",)),
        DigestMismatch("x", expected="a", actual="b"),
        SizeMismatch("x", expected=1, actual=2),
        TransportError(
            "x",
            status=500,
            errors=(ErrorInfo(code="C", message="m", detail="d"),),
            method="GET",
            url="u",
            retry_after=2.0,
        ),
        ImageNotFound("x", transport=TransportError("y", status=404)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_attribute_is_lost_by_pickling(error: RegistryError) -> None:
    copied = pickle.loads(pickle.dumps(error))

    for name, value in vars(error).items():
        found = getattr(copied, name)
        assert (vars(found) if isinstance(found, RegistryError) else found) == (
            vars(found) if isinstance(value, RegistryError) else value
        )
    assert (copied.transport is None) is (error.transport is None)
    if error.transport is not None:
        assert copied.transport.status == error.transport.status


@pytest.mark.parametrize("kind", CLASSES)
def test_every_argument_of_an_error_is_optional(kind: type[RegistryError]) -> None:
    assert kind().code == kind.default_code


def test_the_text_has_reference_and_code() -> None:
    assert str(RegistryError("gone")) == "gone"
    assert str(ImageNotFound("gone", reference="a.io/b:v1")) == "a.io/b:v1: gone [MANIFEST_UNKNOWN]"


def test_a_code_that_the_message_quotes_is_not_repeated() -> None:
    assert str(ImageNotFound("404 MANIFEST_UNKNOWN: gone")) == "404 MANIFEST_UNKNOWN: gone"


def test_the_text_has_the_location_in_a_document() -> None:
    assert str(InvalidDocument("not a digest", path="$.layers[0].digest")) == "not a digest at $.layers[0].digest"


def test_a_transport_error_is_its_own_transport() -> None:
    error = TransportError("cut", status=502)

    assert error.transport is error


def test_a_code_of_the_registry_replaces_that_of_the_class() -> None:
    assert ImageNotFound("x", code="NAME_UNKNOWN").code == "NAME_UNKNOWN"


def test_a_passing_error_gets_missing_operation_and_reference() -> None:
    with pytest.raises(ImageNotFound) as caught, error_context("pull", "a.io/b"):
        raise ImageNotFound("x")

    assert (caught.value.operation, caught.value.reference) == ("pull", "a.io/b")


def test_operation_and_reference_of_an_inner_context_are_kept() -> None:
    with pytest.raises(ImageNotFound) as caught, error_context("copy", "outer"), error_context("pull", "inner"):
        raise ImageNotFound("x", reference="innermost")

    assert (caught.value.operation, caught.value.reference) == ("pull", "innermost")


def test_other_exceptions_pass_unchanged() -> None:
    with pytest.raises(KeyError) as caught, error_context("pull"):
        raise KeyError("x")

    assert not hasattr(caught.value, "operation")


@pytest.mark.parametrize("kind", CLASSES)
def test_an_unknown_argument_is_refused(kind: type[RegistryError]) -> None:
    with pytest.raises(TypeError):
        kind("x", colour="red")  # type: ignore[call-arg]


def test_a_transport_error_has_no_other_transport_error() -> None:
    with pytest.raises(TypeError):
        Unavailable("x", transport=TransportError("y"))  # type: ignore[call-arg]
