"""Every error that leaves the library, in one tree.

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

``code`` holds the distribution-spec's word for an error ("Error Codes"), whichever backend raised it.
Every error can be pickled: what a constructor takes beyond the message is optional and kept as an attribute.
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
    """One entry of a registry's error answer (distribution-spec, "Error Codes")."""

    code: str = ""
    message: str = ""
    detail: str = ""


class _Frame(TypedDict, total=False):
    """What ``RegistryError`` takes beyond the message, for the errors that take more."""

    reference: str
    operation: str
    code: str
    transport: TransportError | None


class RegistryError(Exception):
    """The root of the tree.

    Args:
        message: What was asked and what was seen, without secrets.
        reference: What it is about, as ``registry/repository:tag`` or ``registry/repository@digest``.
        operation: The operation that failed, by its public name.
        code: The spec's error code; the class has one where a backend gave none.
        transport: The exchange behind it, where the error has an HTTP origin.
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
        """The message, framed by operation, reference and code where they are known."""
        subject = " ".join(part for part in (self.operation, self.reference) if part)
        text = f"{subject}: {self.message}" if subject else self.message
        return f"{text} [{self.code}]" if self.code else text


class InvalidValue(RegistryError, ValueError):
    """A value cannot be what it was said to be; nothing was sent or opened."""


class InvalidName(InvalidValue):
    """Not a tag, a repository name, a path segment or a registry host."""

    default_code = "NAME_INVALID"


class InvalidReference(InvalidValue):
    """Not an image reference."""

    default_code = "NAME_INVALID"


class InvalidDigest(InvalidValue):
    """Not a digest."""

    default_code = "DIGEST_INVALID"


class InvalidDocument(InvalidValue):
    """A document is not what its kind demands.

    Args:
        path: Where in the document, as ``$.layers[0].digest``; empty when it is about the whole.
    """

    default_code = "MANIFEST_INVALID"

    def __init__(self, message: str = "", *, path: str = "", **frame: Unpack[_Frame]) -> None:
        super().__init__(message, **frame)
        self.path = path


class ConfigError(InvalidValue):
    """Settings or a location that cannot work."""


class NotFound(RegistryError, LookupError):
    """What was asked for is not there."""


class ImageNotFound(NotFound):
    """No such manifest: neither under that tag nor under that digest."""

    default_code = "MANIFEST_UNKNOWN"


class RepositoryNotFound(ImageNotFound):
    """No such repository, hence no such image."""

    default_code = "NAME_UNKNOWN"


class BlobNotFound(NotFound):
    """No such blob in that repository, or a manifest was refused because one is missing."""

    default_code = "BLOB_UNKNOWN"


class PlatformNotFound(NotFound):
    """An index or image has nothing for the platform that was asked for.

    Args:
        available: The platforms that there are.
    """

    default_code = "MANIFEST_UNKNOWN"

    def __init__(self, message: str = "", *, available: tuple[str, ...] = (), **frame: Unpack[_Frame]) -> None:
        super().__init__(message, **frame)
        self.available = available


class NotAnImage(RegistryError):
    """An image manifest was asked of something else."""


class NotAnIndex(RegistryError):
    """An image index was asked of something else."""


class AccessDenied(RegistryError, PermissionError):
    """The registry refused; that says nothing about what exists."""

    default_code = "DENIED"


class Unauthorized(AccessDenied):
    """No credentials, or not the right ones (401)."""

    default_code = "UNAUTHORIZED"


class Forbidden(AccessDenied):
    """Known, but not allowed (403)."""


class Unsupported(RegistryError, NotImplementedError):
    """This backend, or this version of the protocol, cannot do that."""

    default_code = "UNSUPPORTED"


class CatalogUnsupported(Unsupported):
    """This registry does not list its repositories."""


class IntegrityError(RegistryError, ValueError):
    """Content is not what it was promised to be."""


class DigestMismatch(IntegrityError):
    """Content does not hash to its digest.

    Args:
        expected: The digest that was asked for or promised.
        actual: The digest of the bytes that came.
    """

    default_code = "DIGEST_INVALID"

    def __init__(self, message: str = "", *, expected: str = "", actual: str = "", **frame: Unpack[_Frame]) -> None:
        super().__init__(message, **frame)
        self.expected = expected
        self.actual = actual


class SizeMismatch(IntegrityError):
    """Content is shorter or longer than promised.

    Args:
        expected: The promised size in bytes.
        actual: The bytes that came; for too long a stream, as many as were read before giving up.
    """

    default_code = "SIZE_INVALID"

    def __init__(self, message: str = "", *, expected: int = 0, actual: int = 0, **frame: Unpack[_Frame]) -> None:
        super().__init__(message, **frame)
        self.expected = expected
        self.actual = actual


class TooLarge(IntegrityError):
    """More bytes, entries or pages than a limit allows."""

    default_code = "SIZE_INVALID"


class LayoutError(IntegrityError):
    """No OCI image layout or archive of images, or a broken one (image-spec, "OCI Image Layout Specification")."""


class UnsafeArchive(IntegrityError):
    """An archive tries to reach outside of where it belongs."""


class Cancelled(RegistryError):
    """The work was cancelled by its scope."""


class DeadlineExceeded(RegistryError, TimeoutError):
    """The time that the caller allowed has passed."""


class TransportError(RegistryError, OSError):
    """An exchange with a registry failed.

    Args:
        status: The HTTP status; 0 where no answer came.
        errors: What the registry said, in its own codes.
        method: The HTTP method.
        url: The target, without credentials and query values.
        retry_after: Seconds that the registry asked to wait, where it did.
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
    """Not reachable, cut off or out of order just now: the same call may succeed later."""


class RateLimited(TransportError):
    """Too many requests (429); ``retry_after`` says for how long, where the registry did."""

    default_code = "TOOMANYREQUESTS"


class TLSError(TransportError):
    """No trustworthy connection: a certificate, a name or a protocol version is wrong. Never retried."""


class ServerError(TransportError):
    """The registry failed in a way that repeating does not mend (5xx)."""


class ProtocolError(TransportError):
    """The answer breaks the protocol, or one of our rules about whom to follow."""


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
