"""Backend for registries that speak the OCI distribution protocol over HTTP."""

from __future__ import annotations

from registry_adapters.http.catalog import HttpCatalog
from registry_adapters.http.messages import Response
from registry_adapters.http.middleware import Middleware, OutgoingRequest, Send
from registry_adapters.http.settings import HttpSettings

__all__ = ["HttpCatalog", "HttpSettings", "Middleware", "OutgoingRequest", "Response", "Send"]
