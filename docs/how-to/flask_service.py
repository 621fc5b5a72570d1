"""A small web service for a registry: lists tags and shows image configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dependency_injector import containers, providers
from flask import Flask, jsonify
from flask.typing import ResponseReturnValue

from registry_adapters.container import RegistryContainer
from registry_core import (
    AccessDenied,
    ConfigError,
    InvalidValue,
    Keychain,
    NotFound,
    RegistryClient,
    RegistryError,
    fail_after,
)


class Images:
    """Queries about images; independent of dependency-injector and Flask.

    Args:
        client: Client for the registry.
        seconds: Time limit of each query.
    """

    def __init__(self, client: RegistryClient, *, seconds: float) -> None:
        self._client = client
        self._seconds = seconds

    def tags(self, repository: str) -> list[str]:
        """All tags of a repository."""
        with fail_after(self._seconds):
            return self._client.with_segment(repository).list_tags()

    def configuration(self, repository: str, reference: str, platform: str | None = None) -> dict[str, object]:
        """The digest, platform, labels and environment of an image."""
        with fail_after(self._seconds):
            image = self._client.with_segment(repository).get_image(reference, platform=platform)
            document = image.config()
            return {
                "digest": str(image.digest),
                "platform": str(image.platform),
                "labels": dict(document.config.labels),
                "environment": list(document.config.env),
            }


class Application(containers.DeclarativeContainer):
    """The container of the service; it embeds the container of the library."""

    config = providers.Configuration(strict=True)
    keychain: providers.Object[Keychain | None] = providers.Object(None)
    registry = providers.Container(RegistryContainer, config=config.registry, keychain=keychain)
    images = providers.Factory(Images, registry.client, seconds=config.seconds.as_float())


def create_app(application: Application) -> Flask:
    """Create the Flask application for a configured container; the caller closes the container."""
    app = Flask(__name__)

    @app.get("/tags/<path:repository>")
    def tags(repository: str) -> ResponseReturnValue:
        return jsonify(application.images().tags(repository))

    @app.get("/images/<path:repository>/<reference>")
    def image(repository: str, reference: str) -> ResponseReturnValue:
        return jsonify(application.images().configuration(repository, reference))

    @app.errorhandler(RegistryError)
    def failed(error: RegistryError) -> ResponseReturnValue:
        return jsonify({"error": type(error).__name__, "message": str(error)}), _status(error)

    return app


def configured(mapping: Mapping[str, Any]) -> Application:
    """Create a container for a configuration such as ``{"seconds": 30, "registry": {"backend": "memory"}}``."""
    application = Application()
    application.config.from_dict(dict(mapping))
    application.check_dependencies()
    return application


def _status(error: RegistryError) -> int:
    for kind, status in ((ConfigError, 500), (NotFound, 404), (InvalidValue, 400), (AccessDenied, 403)):
        if isinstance(error, kind):
            return status
    return 502
