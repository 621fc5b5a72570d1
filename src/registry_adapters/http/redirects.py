"""Where a redirect leads, and how: decisions without I/O (R-030, R-042, R-254)."""

from __future__ import annotations

from typing import Final

import msgspec

from registry_core.domain.errands import MAX_HOPS, Errand, judge
from registry_core.domain.origin import Origin, redacted, resolve
from registry_core.errors import ProtocolError

__all__ = ["MAX_HOPS", "Hop", "is_redirect", "next_hop"]

_STATUSES: Final = frozenset({301, 302, 303, 307, 308})
_KEEPING: Final = frozenset({307, 308})


class Hop(msgspec.Struct, frozen=True):
    """The next request of a redirected one.

    Args:
        method: Its method; the body goes along exactly if the method is the same.
        url: Absolute, and judged.
        origin: Whom it goes to: credentials only if that is the registry itself.
    """

    method: str
    url: str
    origin: Origin


def is_redirect(status: int) -> bool:
    """Whether a status sends one elsewhere."""
    return status in _STATUSES


def next_hop(home: Origin, hop: Hop, status: int, location: str) -> Hop:
    """What to ask next.

    GET and HEAD stay what they are. Anything that changes something is only followed where the answer says that method
    and body are to be kept: a DELETE or PUT that became a GET would be reported as done (R-254). And it stays with the
    registry, as uploads do (R-033).

    Args:
        home: The registry.
        hop: What was asked last.
        status: The redirecting status.
        location: The ``Location`` that came with it.

    Raises:
        ProtocolError: It must not be followed, or leads nowhere.
    """
    if hop.method not in ("GET", "HEAD") and status not in _KEEPING:
        raise ProtocolError(f"refused to turn a {hop.method} into a GET by a redirect ({status})")
    if not location:
        raise ProtocolError(f"a redirect ({status}) without a single Location, from {redacted(hop.url)}")
    url = resolve(hop.url, location)
    target = judge(Errand.REDIRECT, home, url).origin
    if hop.method not in ("GET", "HEAD") and target != home:
        raise ProtocolError(f"refused to repeat a {hop.method} at another place: {redacted(url)}")
    return Hop(hop.method, url, target)
