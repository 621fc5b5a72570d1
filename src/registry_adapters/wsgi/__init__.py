"""Serve any ``Catalog`` as a registry (OCI distribution specification 1.1).

``RegistryApp`` is a WSGI application; ``registry_server`` runs one in a thread (extra ``ociport[serve]``).
"""

from __future__ import annotations

from registry_adapters.wsgi.app import RegistryApp
from registry_adapters.wsgi.auth import Authorizer, BasicAuthorizer, TokenAuthorizer
from registry_adapters.wsgi.server import RegistryServer, registry_server

__all__ = ["Authorizer", "BasicAuthorizer", "RegistryApp", "RegistryServer", "TokenAuthorizer", "registry_server"]
