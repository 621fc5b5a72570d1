"""Request bodies as chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from registry_adapters.http.messages import Body
from registry_core.cancellation import checkpoint
from registry_core.content.streams import CHUNK_SIZE
from registry_core.errors import Cancelled, DeadlineExceeded, SizeMismatch

__all__ = ["BodyChunks", "SourceFailed"]

# Each upload holds two chunks at a time, the one being sent and the next. Half of CHUNK_SIZE measured as fast.
_SEND_SIZE: Final = CHUNK_SIZE // 2


class SourceFailed(Exception):
    """The source of a request body failed, not the request. The session raises the source's error unchanged.

    This class is not an ``OSError``, so that an error of the source cannot be mistaken for one of the connection.

    Args:
        error: Error that the source raised.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class BodyChunks:
    """An iterable of the chunks of a body. Iteration opens the source.

    Args:
        body: Body to send.

    Attributes:
        error: Error that the source raised, for consumers that swallow the errors of an iterator.
    """

    def __init__(self, body: Body) -> None:
        self._body = body
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the chunks; together they have the declared length.

        Raises:
            SourceFailed: The source failed, or is too short or too long.
            Cancelled: The current scope was cancelled.
            DeadlineExceeded: The deadline has passed.
        """
        try:
            with self._body.source.open(self._body.start) as reader:
                remaining = self._body.length
                while remaining:
                    checkpoint()
                    data = reader.read(min(_SEND_SIZE, remaining))
                    if not data:
                        sent = self._body.length - remaining
                        raise SizeMismatch(
                            f"upload: the source ended after {sent} of {self._body.length} bytes",
                            expected=self._body.length,
                            actual=sent,
                        )
                    if len(data) > remaining:
                        raise SizeMismatch(
                            "upload: the source returned more bytes than requested",
                            expected=self._body.length,
                            actual=self._body.length - remaining + len(data),
                        )
                    remaining -= len(data)
                    yield data
        except (Cancelled, DeadlineExceeded):
            raise
        except Exception as error:
            self.error = error
            raise SourceFailed(error) from error
