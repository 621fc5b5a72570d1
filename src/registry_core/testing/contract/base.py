"""What the parts of the suite share: capabilities and fixtures."""

from __future__ import annotations

import enum
import uuid
from typing import ClassVar

import pytest

from registry_core.domain.names import RepositoryName
from registry_core.ports.catalog import Catalog, Repository

__all__ = ["Can", "Contract", "fresh_name"]


class Can(enum.Flag):
    """What a backend may honestly lack. The suite tests how it says so; it never skips."""

    DELETE_BLOBS = enum.auto()
    DELETE_MANIFESTS = enum.auto()
    UNTAG = enum.auto()
    LIST_REPOSITORIES = enum.auto()
    # Without it, ``mount`` says False.
    MOUNT = enum.auto()
    # Blobs under sha512 digests.
    SHA512_BLOBS = enum.auto()
    # Manifests under sha512 digests.
    SHA512_MANIFESTS = enum.auto()
    # Takes manifests whose parts are absent; without it, they are refused with BlobNotFound.
    KEEPS_DANGLING = enum.auto()
    # Has a repository with the empty name.
    EMPTY_NAME = enum.auto()
    # Takes manifests of media types that nobody knows; without it, they are refused.
    ANY_MEDIA_TYPE = enum.auto()
    # Tells an absent repository apart from an absent manifest.
    MISSING_REPOSITORY = enum.auto()
    # Lists repositories in ASCII order; without it, completely, but in an order of its own.
    ASCII_CATALOG = enum.auto()
    # Says ImageNotFound when a blob's digest is asked for as a manifest; without it, fails over the question.
    DENIES_BLOBS_AS_MANIFESTS = enum.auto()
    # Who reads while others write gets what was or what is; without it, now and then a ServerError.
    ATOMIC_WRITES = enum.auto()
    # Blobs of any size take no more memory than a few pieces.
    FLAT_MEMORY = enum.auto()


def fresh_name() -> RepositoryName:
    """The name of a repository that no test has used before, so that a suite can run against a shared server."""
    return RepositoryName(f"contract/{uuid.uuid4().hex}")


class Contract:
    """The root of all parts of the suite.

    A backend's test class overrides ``catalog``, and ``can`` if it cannot do everything. The catalog need not be
    empty: each test works in repositories of its own.
    """

    can: ClassVar[Can] = ~Can(0)

    @pytest.fixture
    def catalog(self) -> Catalog:
        """The backend under test.

        Raises:
            NotImplementedError: Not overridden.
        """
        raise NotImplementedError("a backend's test class overrides this fixture")

    @pytest.fixture
    def repository(self, catalog: Catalog) -> Repository:
        """A repository of its own for each test."""
        return catalog.repository(fresh_name())

    @pytest.fixture
    def neighbour(self, catalog: Catalog) -> Repository:
        """Another repository of the same catalog."""
        return catalog.repository(fresh_name())
