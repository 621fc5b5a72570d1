"""The WSGI application: routing, authorization, and dispatch to the handlers of each endpoint."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from enum import Enum
from http import HTTPStatus
from typing import Final
from wsgiref.types import StartResponse, WSGIEnvironment

import msgspec

from registry_adapters.wsgi import blobs, manifests
from registry_adapters.wsgi.auth import Authorizer
from registry_adapters.wsgi.blobs import Uploads, UploadSessions
from registry_adapters.wsgi.messages import (
    INERT_HEADERS,
    HttpError,
    Request,
    Response,
    error_response,
    json_response,
    to_http_error,
)
from registry_core.content.streams import MANIFEST_LIMIT
from registry_core.domain.auth import Scope
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.errors import ConfigError, InvalidName, RegistryError
from registry_core.ports.catalog import Catalog, Repository

__all__ = ["Endpoint", "RegistryApp", "Route", "route"]

_log = logging.getLogger(__name__)


class Endpoint(Enum):
    """The endpoints of a registry (distribution-spec, "Endpoints")."""

    BASE = "base"
    CATALOG = "catalog"
    TAGS = "tags"
    MANIFEST = "manifest"
    BLOB = "blob"
    UPLOADS = "uploads"
    UPLOAD = "upload"
    REFERRERS = "referrers"


class Route(msgspec.Struct, frozen=True):
    """A parsed path.

    Args:
        endpoint: Endpoint of the path.
        name: Repository name as in the path, not validated.
        reference: Tag, digest or upload session at the end of the path, not validated.
    """

    endpoint: Endpoint
    name: str = ""
    reference: str = ""


# Greedy names: a repository's name may itself contain "blobs" or "manifests".
_PATTERNS: Final = tuple(
    (endpoint, re.compile(pattern))
    for endpoint, pattern in (
        (Endpoint.BASE, r"/v2/?"),
        (Endpoint.CATALOG, r"/v2/_catalog"),
        (Endpoint.UPLOADS, r"/v2/(?P<name>.+)/blobs/uploads/?"),
        (Endpoint.UPLOAD, r"/v2/(?P<name>.+)/blobs/uploads/(?P<reference>[^/]+)"),
        (Endpoint.TAGS, r"/v2/(?P<name>.+)/tags/list"),
        (Endpoint.MANIFEST, r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)"),
        (Endpoint.BLOB, r"/v2/(?P<name>.+)/blobs/(?P<reference>[^/]+)"),
        (Endpoint.REFERRERS, r"/v2/(?P<name>.+)/referrers/(?P<reference>[^/]+)"),
    )
)

_READ_METHODS: Final = frozenset({"GET", "HEAD"})
_METHODS: Final = {
    Endpoint.BASE: ("GET", "HEAD"),
    Endpoint.CATALOG: ("GET", "HEAD"),
    Endpoint.TAGS: ("GET", "HEAD"),
    Endpoint.REFERRERS: ("GET", "HEAD"),
    Endpoint.MANIFEST: ("GET", "HEAD", "PUT", "DELETE"),
    Endpoint.BLOB: ("GET", "HEAD", "DELETE"),
    Endpoint.UPLOADS: ("POST",),
    Endpoint.UPLOAD: ("GET", "PATCH", "PUT", "DELETE"),
}


def route(path: str) -> Route | None:
    """Parse a path; ``None`` if it belongs to no endpoint.

    Args:
        path: Percent-decoded path from ``/v2/`` on, without the query.
    """
    for endpoint, pattern in _PATTERNS:
        match = pattern.fullmatch(path)
        if match is not None:
            return Route(endpoint, **match.groupdict())
    return None


class RegistryApp:
    """A WSGI application that serves a catalog as a registry; for any WSGI server with threads.

    Args:
        catalog: Catalog to serve; not closed with the application.
        read_only: Whether requests that write get a 405.
        authorizer: Decides about each request; ``None`` allows all.
        manifest_limit: Maximum size of a pushed manifest in bytes.
        page_limit: Maximum number of entries in a page of a listing; ``None`` for no maximum.
        upload_directory: Directory for unfinished uploads; the system's temporary directory by default.
        referrers_api: Whether to serve the referrers API; without it, clients use the referrers tag schema.
        chunk_min_length: Minimum size of every chunk of an upload but the last; ``None`` for no minimum.
        root_name: Name under which the repository with the empty name is served; empty to hide it.

    Raises:
        ConfigError: A limit is not positive, or ``root_name`` is not a repository name.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        read_only: bool = False,
        authorizer: Authorizer | None = None,
        manifest_limit: int = MANIFEST_LIMIT,
        page_limit: int | None = None,
        upload_directory: str | os.PathLike[str] | None = None,
        referrers_api: bool = True,
        chunk_min_length: int | None = None,
        root_name: str = "",
    ) -> None:
        for name, limit in (("manifest_limit", manifest_limit), ("page_limit", page_limit)):
            if limit is not None and limit < 1:
                raise ConfigError(f"{name} must be positive: {limit}")
        try:
            self._root_name = RepositoryName(root_name)
        except InvalidName as error:
            raise ConfigError(f"root_name: {error.message}") from None
        self.catalog = catalog
        self._read_only = read_only
        self._authorizer = authorizer
        self._manifest_limit = manifest_limit
        self._page_limit = page_limit
        self._referrers_api = referrers_api
        self._sessions = UploadSessions(upload_directory)
        self._uploads = Uploads(self._sessions, chunk_min_length=chunk_min_length)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Handle one request (PEP 3333)."""
        request: Request | None = None
        try:
            request = Request(environ)
            response = self._respond(request)
        except Exception as error:
            response = _failure(error, writing=environ["REQUEST_METHOD"] not in _READ_METHODS)
        # The server would parse the rest of the body as the next request, or read all of it into memory.
        if request is not None and not request.body.drain():
            response.headers = [(name, value) for name, value in response.headers if name != "Connection"]
            response.headers.append(("Connection", "close"))
        response.headers += INERT_HEADERS
        if environ["REQUEST_METHOD"] == "HEAD":
            response.drop_body()
        start_response(response.status_line, response.headers)
        return response.body

    def close(self) -> None:
        """Discard unfinished uploads. The catalog stays open. Idempotent."""
        self._sessions.close()

    def _respond(self, request: Request) -> Response:
        if self._authorizer is not None:
            response = self._authorizer.serve(request)
            if response is not None:
                return response
        parsed = route(request.path)
        if parsed is None or (parsed.endpoint is Endpoint.REFERRERS and not self._referrers_api):
            raise HttpError(HTTPStatus.NOT_FOUND, "NOT_FOUND", "no such endpoint")
        denial = self._check(request, *_scopes(request.method, parsed))
        if denial is not None:
            return denial
        allowed = _METHODS[parsed.endpoint]
        if request.method not in allowed or (self._read_only and request.method not in _READ_METHODS):
            raise HttpError(
                HTTPStatus.METHOD_NOT_ALLOWED,
                "UNSUPPORTED",
                "the registry is read-only"
                if request.method in allowed
                else "the endpoint does not support this method",
                headers=(("Allow", ", ".join(_READ_METHODS & set(allowed) if self._read_only else allowed)),),
            )
        if parsed.endpoint is Endpoint.BASE:
            return json_response({}, headers=[("Docker-Distribution-API-Version", "registry/2.0")])
        if parsed.endpoint is Endpoint.CATALOG:
            limit = self._page_limit
            return manifests.repositories(request, self.catalog, root_name=self._root_name, page_limit=limit)
        return self._dispatch(request, parsed, self._repository(parsed.name))

    def _dispatch(self, request: Request, parsed: Route, repository: Repository) -> Response:
        repository_url = f"{request.prefix}/v2/{parsed.name}"
        blobs_url = f"{repository_url}/blobs"
        match parsed.endpoint:
            case Endpoint.MANIFEST:
                return self._manifest(request, repository, parsed.reference, f"{repository_url}/manifests")
            case Endpoint.BLOB:
                return _blob(request, repository, Digest(parsed.reference))
            case Endpoint.UPLOADS:
                return self._uploads.start(request, repository, blobs_url, self._mount_source(request, parsed))
            case Endpoint.UPLOAD:
                return self._upload(request, repository, parsed.reference, blobs_url)
            case Endpoint.TAGS:
                return manifests.tags(request, repository, parsed.name, page_limit=self._page_limit)
            case _:
                subject = Digest(parsed.reference)
                return manifests.referrers(request, repository, subject, page_limit=self._page_limit)

    def _manifest(self, request: Request, repository: Repository, text: str, manifests_url: str) -> Response:
        reference = manifests.parse_reference(text)
        match request.method:
            case "GET":
                return manifests.pull(repository, reference)
            case "HEAD":
                return manifests.head(repository, reference)
            case "PUT":
                return manifests.push(
                    request,
                    repository,
                    reference,
                    location=manifests_url,
                    limit=self._manifest_limit,
                    referrers_api=self._referrers_api,
                )
            case _:
                return manifests.delete(repository, reference)

    def _upload(self, request: Request, repository: Repository, identity: str, blobs_url: str) -> Response:
        match request.method:
            case "GET":
                return self._uploads.status(repository, identity, blobs_url)
            case "PATCH":
                return self._uploads.append(request, repository, identity, blobs_url)
            case "PUT":
                return self._uploads.finish(request, repository, identity, blobs_url)
            case _:
                return self._uploads.cancel(repository, identity)

    def _mount_source(self, request: Request, parsed: Route) -> RepositoryName | None:
        """The repository to mount from, if the request names one that the client may read."""
        text = request.parameter("from")
        if text is None or request.parameter("mount") is None:
            return None
        source = self._repository(text).name
        pull = Scope.repository(RepositoryName(text), ("pull",))
        denial = self._check(request, *_scopes(request.method, parsed), pull)
        if denial is None:
            return source
        if denial.status == HTTPStatus.UNAUTHORIZED:
            # A token with more scopes may help. A client that may never read the source uploads the blob instead.
            raise _Denied(denial)
        return None

    def _repository(self, text: str) -> Repository:
        if not text:
            raise InvalidName("a repository name must not be empty")
        name = RepositoryName(text)
        return self.catalog.repository(RepositoryName("") if name == self._root_name else name)

    def _check(self, request: Request, *scopes: Scope) -> Response | None:
        return None if self._authorizer is None else self._authorizer.check(request, scopes)


class _Denied(Exception):
    """Carries the authorizer's response out of a handler."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


def _blob(request: Request, repository: Repository, digest: Digest) -> Response:
    match request.method:
        case "GET":
            return blobs.pull(request, repository, digest)
        case "HEAD":
            return blobs.head(repository, digest)
        case _:
            return blobs.delete(repository, digest)


def _scopes(method: str, parsed: Route) -> tuple[Scope, ...]:
    if parsed.endpoint is Endpoint.BASE:
        return ()
    if parsed.endpoint is Endpoint.CATALOG:
        return (Scope.catalog(),)
    uploads = parsed.endpoint in (Endpoint.UPLOADS, Endpoint.UPLOAD)
    if uploads or method not in (*_READ_METHODS, "DELETE"):
        actions: tuple[str, ...] = ("pull", "push")
    else:
        actions = ("delete",) if method == "DELETE" else ("pull",)
    return (Scope.repository(RepositoryName(parsed.name), actions),)


def _failure(error: Exception, *, writing: bool) -> Response:
    if isinstance(error, _Denied):
        return error.response
    http_error = to_http_error(error, writing=writing)
    if http_error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, HttpError):
        _log.debug("a request failed", exc_info=error if not isinstance(error, RegistryError) else None)
    return error_response(http_error)
