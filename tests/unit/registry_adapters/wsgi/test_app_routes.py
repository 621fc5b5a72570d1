"""Paths (distribution-spec, "Endpoints")."""

from __future__ import annotations

import pytest

from registry_adapters.wsgi.app import Endpoint, Route, route


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/", Route(Endpoint.BASE)),
        ("/v2", Route(Endpoint.BASE)),
        ("/v2/_catalog", Route(Endpoint.CATALOG)),
        ("/v2/a/tags/list", Route(Endpoint.TAGS, "a")),
        ("/v2/a/b/c/manifests/v1", Route(Endpoint.MANIFEST, "a/b/c", "v1")),
        ("/v2/a/blobs/sha256:00", Route(Endpoint.BLOB, "a", "sha256:00")),
        ("/v2/a/blobs/uploads/", Route(Endpoint.UPLOADS, "a")),
        ("/v2/a/blobs/uploads", Route(Endpoint.UPLOADS, "a")),
        ("/v2/a/blobs/uploads/u-1", Route(Endpoint.UPLOAD, "a", "u-1")),
        ("/v2/a/referrers/sha256:00", Route(Endpoint.REFERRERS, "a", "sha256:00")),
    ],
)
def test_the_path_of_every_endpoint(path: str, expected: Route) -> None:
    parsed = route(path)

    assert parsed == expected


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v2/manifests/blobs/manifests/v1", "manifests/blobs"),
        ("/v2/a/manifests/b/manifests/v1", "a/manifests/b"),
        ("/v2/tags/list/tags/list", "tags/list"),
        ("/v2/blobs/uploads/blobs/uploads/", "blobs/uploads"),
        ("/v2/x/blobs/uploads/blobs/sha256:00", "x/blobs/uploads"),
        ("/v2/referrers/referrers/sha256:00", "referrers"),
    ],
)
def test_a_name_can_contain_the_words_of_the_paths(path: str, name: str) -> None:
    parsed = route(path)

    assert parsed is not None
    assert parsed.name == name


@pytest.mark.parametrize(
    "path", ["/", "/v1/", "/v2/a", "/v2/manifests/v1", "/v2//manifests", "/v2/a/manifests/", "/x/v2/"]
)
def test_other_paths_have_no_route(path: str) -> None:
    assert route(path) is None
