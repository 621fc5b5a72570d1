"""Serves any ``Catalog`` as a registry of the OCI distribution specification, version 1.1.

``RegistryApp`` is a plain WSGI application; ``registry_server`` runs one in a thread (extra ``ociport[serve]``).
"""

from __future__ import annotations

from registry_adapters.wsgi.app import RegistryApp
from registry_adapters.wsgi.auth import Authorizer, BasicAuthorizer, TokenAuthorizer
from registry_adapters.wsgi.server import RegistryServer, registry_server

__all__ = ["Authorizer", "BasicAuthorizer", "RegistryApp", "RegistryServer", "TokenAuthorizer", "registry_server"]
