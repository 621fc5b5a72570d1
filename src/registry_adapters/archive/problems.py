"""What the operating system says, in errors of the library's own."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from registry_core.errors import (
    ConfigError,
    Forbidden,
    InvalidName,
    LayoutError,
    RegistryError,
    Unavailable,
    Unsupported,
)

__all__ = ["explained"]


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Errors of the system as errors of the library.

    Args:
        where: The file that it is about.

    Raises:
        LayoutError: A directory stands where the file should.
        ConfigError: The directory that it should be in is none.
        Forbidden: The system does not let us.
        Unsupported: The file system cannot be written.
        InvalidName: The name is longer than the file system takes.
        Unavailable: Anything else, such as a full disk.
    """
    try:
        yield
    except RegistryError:
        raise
    except OSError as error:
        message = f"{where}: {error.strerror or type(error).__name__}"
        if error.errno == errno.EISDIR:
            raise LayoutError(message) from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise ConfigError(message) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise Forbidden(message) from error
        if error.errno == errno.EROFS:
            raise Unsupported(message) from error
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidName(message) from error
        raise Unavailable(message) from error
