"""The facade: one path into one backend, and everything one does with what is there."""

from __future__ import annotations

from registry_core.client.artifacts import ArtifactMethods
from registry_core.client.images import ImageMethods
from registry_core.client.listings import ListingMethods

__all__ = ["RegistryClient"]


class RegistryClient(ImageMethods, ListingMethods, ArtifactMethods):
    """Images, indexes and artifacts below one path of one backend.

    References are tags or digests within the repository at that path: ``v1``, ``sha256:…`` or ``@sha256:…``.
    Every method may raise ``AccessDenied``, ``TransportError``, ``Cancelled`` and ``DeadlineExceeded``; all errors
    name the method and what they are about.

    Args:
        catalog: The backend.
        *segments: The path; see ``with_segment``.
        default_platform: What an index is resolved to where no platform is asked for; the host's own if not given.
        observer: Told of each blob that this client moves, where a call names no observer of its own.

    Raises:
        InvalidName: A segment or the platform is malformed.
    """
