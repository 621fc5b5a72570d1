"""Whom a registry may send credentials to: the policy for token servers (R-035).

The realm of a Bearer challenge is text from the network, and passwords go there. A realm may be

* the registry itself: its own host and port;
* a host that stands in the allow-list for this registry, which knows Docker Hub's from the start;
* any public DNS name, over https: a name with a dot, below no domain that is private by convention;
* this machine, where the registry is this machine as well: for token servers in development.

Never another scheme than http and https, never with user information, never http where the registry is https, and
never an address literal but in the cases above. Names are not looked up: a public name that leads to a private address
is not noticed (R-046). Requests without credentials follow the same rules, for they too can be aimed.

The rules are those of ``registry_core.domain.errands``; here stands whom a user trusts for which registry.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

from registry_core.domain.errands import Errand, judge
from registry_core.domain.origin import Origin

__all__ = ["REALMS", "check_realm"]

_HUB: Final = ("auth.docker.io",)

REALMS: Final[Mapping[str, Collection[str]]] = MappingProxyType(
    {"docker.io": _HUB, "index.docker.io": _HUB, "registry-1.docker.io": _HUB}
)


def check_realm(registry: Origin, realm: str, allowed: Mapping[str, Collection[str]] = REALMS) -> Origin:
    """The origin of a token server that the registry named, if requests may go there at all.

    Args:
        registry: Who named it.
        realm: The ``realm`` of its Bearer challenge.
        allowed: Further hosts to trust, as ``host[:port]``, by the registry's ``host[:port]``.

    Raises:
        ProtocolError: They may not; nothing was sent.
    """
    return judge(Errand.REALM, registry, realm, listed=allowed.get(registry.netloc, ())).origin
