"""Capabilities and fixtures that all parts of the contract suite share."""

from __future__ import annotations

import enum
import uuid
from typing import ClassVar

import pytest

from registry_core.domain.names import RepositoryName
from registry_core.ports.catalog import Catalog, Repository

__all__ = ["Can", "Contract", "fresh_name"]


class Can(enum.Flag):
    """Capabilities that a backend may lack. The suite tests how a missing one is reported; it never skips."""

    DELETE_BLOBS = enum.auto()
    DELETE_MANIFESTS = enum.auto()
    UNTAG = enum.auto()
    LIST_REPOSITORIES = enum.auto()
    # Without it, ``mount`` returns False.
    MOUNT = enum.auto()
    # Stores blobs under sha512 digests.
    SHA512_BLOBS = enum.auto()
    # Stores manifests under sha512 digests.
    SHA512_MANIFESTS = enum.auto()
    # Stores manifests that reference absent content; without it, they are refused with BlobNotFound.
    KEEPS_DANGLING = enum.auto()
    # Has a repository with the empty name.
    EMPTY_NAME = enum.auto()
    # Stores manifests of unknown media types; without it, they are refused.
    ANY_MEDIA_TYPE = enum.auto()
    # Distinguishes an absent repository from an absent manifest.
    MISSING_REPOSITORY = enum.auto()
    # Lists repositories in ASCII order; without it, completely, but in any order.
    ASCII_CATALOG = enum.auto()
    # Raises ImageNotFound if the digest of a blob is requested as a manifest; without it, any RegistryError.
    DENIES_BLOBS_AS_MANIFESTS = enum.auto()
    # A read during a write sees the state before or after it; without it, it may raise ServerError.
    ATOMIC_WRITES = enum.auto()
    # The memory for a blob does not depend on its size.
    FLAT_MEMORY = enum.auto()


def fresh_name() -> RepositoryName:
    """A new repository name, so that the suite can run against a shared server."""
    return RepositoryName(f"contract/{uuid.uuid4().hex}")


class Contract:
    """Base class of the parts of the suite.

    A backend's test class overrides ``catalog``, and ``can`` if a capability is missing. The catalog need not be empty:
    each test uses new repositories.
    """

    can: ClassVar[Can] = ~Can(0)

    @pytest.fixture
    def catalog(self) -> Catalog:
        """The backend under test.

        Raises:
            NotImplementedError: The test class does not override the fixture.
        """
        raise NotImplementedError("the test class of a backend must override this fixture")

    @pytest.fixture
    def repository(self, catalog: Catalog) -> Repository:
        """A new repository for each test."""
        return catalog.repository(fresh_name())

    @pytest.fixture
    def neighbour(self, catalog: Catalog) -> Repository:
        """Another new repository of the same catalog."""
        return catalog.repository(fresh_name())
