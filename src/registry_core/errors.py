"""The error tree of the library.

::

    RegistryError
    ├ InvalidValue(ValueError): InvalidName, InvalidReference, InvalidDigest, InvalidDocument, ConfigError
    ├ NotFound(LookupError): ImageNotFound ─ RepositoryNotFound; BlobNotFound; PlatformNotFound
    ├ NotAnImage, NotAnIndex
    ├ AccessDenied(PermissionError): Unauthorized, Forbidden
    ├ Unsupported(NotImplementedError): CatalogUnsupported
    ├ IntegrityError(ValueError): DigestMismatch, SizeMismatch, TooLarge, LayoutError, UnsafeArchive
    ├ Cancelled, DeadlineExceeded(TimeoutError)
    └ TransportError(OSError): Unavailable, RateLimited, TLSError, ServerError, ProtocolError

``code`` holds the error code of the distribution-spec ("Error Codes"), for every backend.
Every error can be pickled: constructor arguments other than the message are optional and stored as attributes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, TypedDict, Unpack

import msgspec

__all__ = [
    "AccessDenied",
    "BlobNotFound",
    "Cancelled",
    "CatalogUnsupported",
    "ConfigError",
    "DeadlineExceeded",
    "DigestMismatch",
    "ErrorInfo",
    "Forbidden",
    "ImageNotFound",
    "IntegrityError",
    "InvalidDigest",
    "InvalidDocument",
    "InvalidName",
    "InvalidReference",
    "InvalidValue",
    "LayoutError",
    "NotAnImage",
    "NotAnIndex",
    "NotFound",
    "PlatformNotFound",
    "ProtocolError",
    "RateLimited",
    "RegistryError",
    "RepositoryNotFound",
    "ServerError",
    "SizeMismatch",
    "TLSError",
    "TooLarge",
    "TransportError",
    "Unauthorized",
    "Unavailable",
    "UnsafeArchive",
    "Unsupported",
    "error_context",
    "error_reference",
]


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of an error response (distribution-spec, "Error Codes")."""

    code: str = ""
    message: str = ""
    detail: str = ""


class _Frame(TypedDict, total=False):
    """Keyword arguments of ``RegistryError``, for subclasses that add arguments."""

    reference: str
    operation: str
    code: str
    transport: TransportError | None


class RegistryError(Exception):
    """Base class of all errors of the library.

    Args:
        message: What was attempted and what went wrong, without secrets.
        reference: Image or blob, as ``registry/repository:tag`` or ``registry/repository@digest``.
        operation: Public name of the operation that failed.
        code: Error code of the distribution-spec; by default the code of the class.
        transport: The HTTP request that failed, if the error came from one.
    """

    default_code: ClassVar[str] = ""

    def __init__(
        self,
        message: str = "",
        *,
        reference: str = "",
        operation: str = "",
        code: str = "",
        transport: TransportError | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reference = reference
        self.operation = operation
        self.code = code or self.default_code
        self.transport = transport

    def __str__(self) -> str:
        """Return ``operation reference: message [code]``, without the parts that are unknown."""
        subject = " ".join(part for part in (self.operation, self.reference) if part)
        text = self._message_with_location()
        # The message of a failed request quotes the registry's code already.
        suffix = f" [{self.code}]" if self.code and self.code not in text else ""
        return f"{subject}: {text}{suffix}" if subject else f"{text}{suffix}"

    def _message_with_location(self) -> str:
        return self.message


class InvalidValue(RegistryError, ValueError):
    """An argument is malformed; no request was sent and no file was opened."""


class InvalidName(InvalidValue):
    """The text is not a valid tag, repository name, path segment or registry host."""

    default_code = "NAME_INVALID"


class InvalidReference(InvalidValue):
    """The text is not a valid image reference."""

    default_code = "NAME_INVALID"


class InvalidDigest(InvalidValue):
    """The text is not a valid digest."""

    default_code = "DIGEST_INVALID"


class InvalidDocument(InvalidValue):
    """A document is malformed: a manifest, an image configuration, a list or a file.

    ``code`` is ``MANIFEST_INVALID`` if the document is a manifest, and empty otherwise.

    Args:
        path: Location in the document, as ``$.layers[0].digest``; empty for the whole document.
    """

    def __init__(self, message: str = "", *, path: str = "", **frame: Unpack[_Frame]) -> None:
        super().__init__(message, **frame)
        self.path = path

    def _message_with_location(self) -> str:
        return f"{self.message} at {self.path}" if self.path and self.path not in self.message else self.message


class ConfigError(InvalidValue):
    """A setting, a configuration file or a backend URL cannot be used."""


class NotFound(RegistryError, LookupError):
    """The requested object does not exist."""


class ImageNotFound(NotFound):
    """The manifest does not exist under that tag or digest."""

    default_code = "MANIFEST_UNKNOWN"


class RepositoryNotFound(ImageNotFound):
    """The repository does not exist, and so neither does the image."""

    default_code = "NAME_UNKNOWN"


class BlobNotFound(NotFound):
    """The blob does not exist in the repository, or a manifest was refused because the blob is missing."""

    default_code = "BLOB_UNKNOWN"


class PlatformNotFound(NotFound):
    """No image fits the requested platform.

    Args:
        available: Platforms that exist.
    """

    default_code = "MANIFEST_UNKNOWN"

    def __init__(self, message: str = "", *, available: tuple[str, ...] = (), **frame: Unpack[_Frame]) -> None:
        super().__init__(message, **frame)
        self.available = available


class NotAnImage(RegistryError):
    """The manifest is not an image manifest."""


class NotAnIndex(RegistryError):
    """The manifest is not an image index."""


class AccessDenied(RegistryError, PermissionError):
    """The registry denied access. The object may or may not exist."""

    default_code = "DENIED"


class Unauthorized(AccessDenied):
    """Credentials are missing or wrong (401)."""

    default_code = "UNAUTHORIZED"


class Forbidden(AccessDenied):
    """The credentials do not allow the operation (403), or a policy of the registry forbids it.

    Policies are immutable tags, quotas, and rules against vulnerable or unsigned images. The message quotes the
    registry's words.
    """


class Unsupported(RegistryError, NotImplementedError):
    """The backend, the platform or the protocol does not support the operation."""

    default_code = "UNSUPPORTED"


class CatalogUnsupported(Unsupported):
    """The backend does not list repositories."""


class IntegrityError(RegistryError, ValueError):
    """Content does not match its descriptor or its format."""


class DigestMismatch(IntegrityError):
    """The digest of the content differs from the expected digest.

    Args:
        expected: Digest that was requested or declared.
        actual: Digest of the bytes received.
    """

    default_code = "DIGEST_INVALID"

    def __init__(self, message: str = "", *, expected: str = "", actual: str = "", **frame: Unpack[_Frame]) -> None:
        super().__init__(message, **frame)
        self.expected = expected
        self.actual = actual


class SizeMismatch(IntegrityError):
    """The content is shorter or longer than declared.

    Args:
        expected: Declared size in bytes.
        actual: Bytes received; if the content is too long, the bytes read before reading stopped.
    """

    default_code = "SIZE_INVALID"

    def __init__(self, message: str = "", *, expected: int = 0, actual: int = 0, **frame: Unpack[_Frame]) -> None:
        super().__init__(message, **frame)
        self.expected = expected
        self.actual = actual


class TooLarge(IntegrityError):
    """Content exceeds a limit on bytes, entries or pages."""

    default_code = "SIZE_INVALID"


class LayoutError(IntegrityError):
    """A directory is not an OCI image layout, an archive holds no images, or either is corrupt.

    See image-spec, "OCI Image Layout Specification".
    """


class UnsafeArchive(IntegrityError):
    """An archive entry would be read or written outside its root."""


class Cancelled(RegistryError):
    """The work was cancelled through its ``CancelScope``."""


class DeadlineExceeded(RegistryError, TimeoutError):
    """The deadline of the caller has passed."""


class TransportError(RegistryError, OSError):
    """A request to a registry failed.

    Args:
        status: HTTP status; 0 if there was no response.
        errors: Error codes and messages of the registry.
        method: HTTP method.
        url: URL of the request, without credentials and query values.
        retry_after: Seconds to wait as requested by the registry; ``None`` if it requested none.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status: int = 0,
        errors: tuple[ErrorInfo, ...] = (),
        method: str = "",
        url: str = "",
        retry_after: float | None = None,
        reference: str = "",
        operation: str = "",
        code: str = "",
    ) -> None:
        super().__init__(message, reference=reference, operation=operation, code=code)
        self.transport = self
        self.status = status
        self.errors = errors
        self.method = method
        self.url = url
        self.retry_after = retry_after


class Unavailable(TransportError):
    """The registry is unreachable, closed the connection or is out of order; a later call may succeed."""


class RateLimited(TransportError):
    """The registry received too many requests (429); ``retry_after`` holds the requested pause, if any."""

    default_code = "TOOMANYREQUESTS"


class TLSError(TransportError):
    """TLS failed: the certificate, the host name or the protocol version is wrong. Never retried."""


class ServerError(TransportError):
    """The registry failed (5xx), and a retry would not help."""


class ProtocolError(TransportError):
    """The response violates the protocol, or names a URL that the URL policy refuses."""


@contextmanager
def error_context(operation: str, reference: str = "") -> Iterator[None]:
    """Add the operation, and the reference, to each library error raised inside that has none yet.

    Args:
        operation: Public name of the operation.
        reference: Image, blob or repository that the operation works on; empty to leave it to the code inside.
    """
    try:
        yield
    except RegistryError as error:
        error.operation = error.operation or operation
        error.reference = error.reference or reference
        raise


@contextmanager
def error_reference(reference: str) -> Iterator[None]:
    """Add the reference to each library error raised inside that has none yet.

    Args:
        reference: Image, blob or repository that the code inside works on.
    """
    try:
        yield
    except RegistryError as error:
        error.reference = error.reference or reference
        raise
