"""What a fault is: something that goes wrong, and when."""

from __future__ import annotations

import msgspec

from registry_adapters.testing.occasions import Endpoint, Occasion
from registry_adapters.testing.visits import Effect

__all__ = ["Fault"]


class Fault(msgspec.Struct, frozen=True):
    """Something that goes wrong; a value that any number of registries can be given.

    Args:
        title: What goes wrong, in words.
        effect: What is done about a request.
        occasion: Which requests it is done to.
    """

    title: str
    effect: Effect
    occasion: Occasion = Occasion()

    def on(self, *endpoints: Endpoint, method: str = "", path: str = "", header: str = "") -> Fault:
        """The same for certain requests only; what is not said here stays as it was.

        Args:
            endpoints: What they ask for.
            method: ``GET``, ``PUT`` and so on; several with blanks between them.
            path: A regular expression to be found in path and query.
            header: A header that must be there.

        Raises:
            ConfigError: No such endpoint, or not a regular expression.
        """
        return self._for(
            endpoints=endpoints or self.occasion.endpoints,
            methods=tuple(method.split()) or self.occasion.methods,
            path=path or self.occasion.path,
            header=header or self.occasion.header,
        )

    def times(self, count: int) -> Fault:
        """The same for so many requests, and then no more.

        Raises:
            ConfigError: Not even once.
        """
        return self._for(limit=count)

    def after(self, count: int) -> Fault:
        """The same, but so many of the requests that it is for pass first.

        Raises:
            ConfigError: A negative number.
        """
        return self._for(skip=count)

    def every(self, number: int) -> Fault:
        """The same for each second, third or so of the requests that it is for.

        Raises:
            ConfigError: Not a positive number.
        """
        return self._for(every=number)

    def sometimes(self, chance: float, *, seed: int = 0) -> Fault:
        """The same by chance, from 0 to 1, alike in every run.

        Raises:
            ConfigError: Not a chance.
        """
        return self._for(chance=chance, seed=seed)

    def _for(self, **changes: object) -> Fault:
        return msgspec.structs.replace(self, occasion=msgspec.structs.replace(self.occasion, **changes))

    def __str__(self) -> str:
        """What goes wrong, and for which requests."""
        occasion = str(self.occasion)
        return f"{self.title} ({occasion})" if occasion else self.title

    def __repr__(self) -> str:
        """The same, in brackets."""
        return f"<Fault: {self}>"
