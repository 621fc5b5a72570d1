"""A request's body on its way out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from registry_adapters.http.messages import Body
from registry_core.cancellation import checkpoint
from registry_core.content.streams import CHUNK_SIZE
from registry_core.errors import Cancelled, DeadlineExceeded, SizeMismatch

__all__ = ["BodyChunks", "SourceFailed"]

# Two pieces live at a time for each upload, the one being sent and the next: half as large measured as fast.
_LENGTH: Final = CHUNK_SIZE // 2


class SourceFailed(Exception):
    """Not the exchange failed but the source of its body; the session raises what the source raised, unchanged.

    It is no ``OSError``, whatever the source raised: an error of the source must not be taken for one of the
    connection that its bytes were going to.

    Args:
        error: What the source raised.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class BodyChunks:
    """A body in pieces, opened when it is iterated.

    Args:
        body: What to send.

    Attributes:
        error: What the source raised, if it did: some consumers swallow what an iterator raises.
    """

    def __init__(self, body: Body) -> None:
        self._body = body
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        """The bytes, as many as promised.

        Raises:
            SourceFailed: The source failed, or is too short.
            Cancelled: The ambient scope was cancelled.
            DeadlineExceeded: Its deadline has passed.
        """
        try:
            with self._body.source.open(self._body.start) as reader:
                left = self._body.length
                while left:
                    checkpoint()
                    data = reader.read(min(_LENGTH, left))
                    if not data:
                        sent = self._body.length - left
                        raise SizeMismatch(
                            f"the source ended after {sent} of {self._body.length} bytes",
                            expected=self._body.length,
                            actual=sent,
                        )
                    if len(data) > left:
                        raise SizeMismatch(
                            "the source gave out more bytes than it was asked for",
                            expected=self._body.length,
                            actual=self._body.length - left + len(data),
                        )
                    left -= len(data)
                    yield data
        except (Cancelled, DeadlineExceeded):
            raise
        except Exception as error:
            self.error = error
            raise SourceFailed(error) from error
