"""Which requests a fault befalls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from registry_adapters.testing import Fault, faults
from registry_adapters.testing.matching import RequestMatch, RequestMatcher, endpoint
from registry_core import ConfigError

if TYPE_CHECKING:
    from tests.unit.registry_adapters.testing.conftest import Call

ASKED = 12


def befallen(occasion: RequestMatch) -> list[int]:
    """Which of a dozen equal requests are meant, by their numbers from 1."""
    occasions = RequestMatcher(occasion)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/v2/"}
    return [number for number in range(1, ASKED + 1) if occasions.meant(environ) and occasions.take()]


@pytest.mark.parametrize(
    ("occasion", "expected"),
    [
        (RequestMatch(), list(range(1, 13))),
        (RequestMatch(limit=3), [1, 2, 3]),
        (RequestMatch(skip=4, limit=2), [5, 6]),
        (RequestMatch(every=5), [5, 10]),
        (RequestMatch(every=2, skip=3), [5, 7, 9, 11]),
        (RequestMatch(chance=0), []),
        (RequestMatch(methods=("PUT",)), []),
    ],
    ids=str,
)
def test_how_often(occasion: RequestMatch, expected: list[int]) -> None:
    assert befallen(occasion) == expected


def test_the_last_time_is_not_given_to_two_requests_at_once() -> None:
    occasions = RequestMatcher(RequestMatch(limit=1))
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/v2/"}

    meant = [occasions.meant(environ), occasions.meant(environ)]
    taken = [occasions.take(), occasions.take()]

    assert meant == [True, True]
    assert taken == [True, False]


def test_luck_is_the_same_in_every_run_and_depends_on_the_seed() -> None:
    first, again, other = (befallen(RequestMatch(chance=0.5, seed=seed)) for seed in (1, 1, 2))

    assert first == again != other
    assert 0 < len(first) < ASKED


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/", "base"),
        ("/v2/_catalog", "catalog"),
        ("/v2/a/b/tags/list", "tags"),
        ("/v2/a/b/manifests/v1", "manifest"),
        ("/v2/a/b/blobs/sha256:0", "blob"),
        ("/v2/a/b/blobs/uploads/", "uploads"),
        ("/v2/a/b/blobs/uploads/1-2", "upload"),
        ("/v2/a/b/referrers/sha256:0", "referrers"),
        ("/token", "token"),
        ("/favicon.ico", "other"),
    ],
)
def test_every_path_has_an_endpoint(path: str, expected: str) -> None:
    assert endpoint(path) == expected


@pytest.mark.parametrize(
    ("occasion", "environ"),
    [
        (RequestMatch(endpoints=("tags",)), {}),
        (RequestMatch(methods=("PUT", "GET")), {"PATH_INFO": "/x"}),
        (RequestMatch(path=r"^/v2/a/tags/list\?n=1$"), {"QUERY_STRING": "n=1"}),
        (RequestMatch(header="If-Range"), {"HTTP_IF_RANGE": "x"}),
    ],
    ids=str,
)
def test_what_fits_and_what_does_not(occasion: RequestMatch, environ: dict[str, Any]) -> None:
    fitting = {"REQUEST_METHOD": "GET", "PATH_INFO": "/v2/a/tags/list"} | environ
    other = {"REQUEST_METHOD": "DELETE", "PATH_INFO": "/v2/a/blobs/x"}

    assert occasion.fits(fitting)
    assert not occasion.fits(other)


@pytest.mark.parametrize(
    "changes",
    [{"skip": -1}, {"every": 0}, {"chance": 1.1}, {"limit": 0}, {"path": "("}, {"endpoints": ("blobs",)}],
    ids=str,
)
def test_what_could_never_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RequestMatch(**changes)


@pytest.mark.parametrize(
    ("faulty", "expected"),
    [
        ([faults.status(503).times(1), faults.status(500).times(2)], [503, 500, 500, 200]),
        ([faults.status(503).after(2), faults.status(500).times(1)], [500, 200, 503, 503]),
        ([faults.status(503).on("tags"), faults.status(500).every(3)], [200, 200, 500, 200]),
    ],
    ids=["one after the other", "the later one begins first", "another endpoint"],
)
def test_of_several_the_first_that_fits_befalls_a_request(call: Call, faulty: list[Fault], expected: list[int]) -> None:
    caller = call(*faulty)

    statuses = [caller("GET", "/v2/").status for _ in range(4)]

    assert statuses == expected
