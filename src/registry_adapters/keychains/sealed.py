"""What keeps credentials in itself is not pickled."""

from __future__ import annotations

from typing import NoReturn

__all__ = ["NotPicklable"]


class NotPicklable:
    """Refuses to be pickled or copied, as the credentials in it do."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} may hold secrets and is not pickled; let each process make its own")
