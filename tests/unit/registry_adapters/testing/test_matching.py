"""Which requests a fault applies to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from registry_adapters.testing import Fault, faults
from registry_adapters.testing.matching import RequestMatch, RequestMatcher, endpoint_name
from registry_core import ConfigError

if TYPE_CHECKING:
    from tests.unit.registry_adapters.testing.conftest import Call

COUNT = 12


def applied_to(match: RequestMatch) -> list[int]:
    """The numbers, from 1, of those of a dozen equal requests that the fault applies to."""
    matcher = RequestMatcher(match)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/v2/"}
    return [number for number in range(1, COUNT + 1) if matcher.applies(environ) and matcher.apply()]


@pytest.mark.parametrize(
    ("match", "expected"),
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
def test_how_often(match: RequestMatch, expected: list[int]) -> None:
    assert applied_to(match) == expected


def test_two_simultaneous_requests_do_not_exceed_the_limit() -> None:
    matcher = RequestMatcher(RequestMatch(limit=1))
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/v2/"}

    applies = [matcher.applies(environ), matcher.applies(environ)]
    applied = [matcher.apply(), matcher.apply()]

    assert applies == [True, True]
    assert applied == [True, False]


def test_chance_is_the_same_in_every_run_and_depends_on_the_seed() -> None:
    first, again, other = (applied_to(RequestMatch(chance=0.5, seed=seed)) for seed in (1, 1, 2))

    assert first == again != other
    assert 0 < len(first) < COUNT


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
    assert endpoint_name(path) == expected


@pytest.mark.parametrize(
    ("match", "environ"),
    [
        (RequestMatch(endpoints=("tags",)), {}),
        (RequestMatch(methods=("PUT", "GET")), {"PATH_INFO": "/x"}),
        (RequestMatch(path=r"^/v2/a/tags/list\?n=1$"), {"QUERY_STRING": "n=1"}),
        (RequestMatch(header="If-Range"), {"HTTP_IF_RANGE": "x"}),
    ],
    ids=str,
)
def test_which_requests_match(match: RequestMatch, environ: dict[str, Any]) -> None:
    matching = {"REQUEST_METHOD": "GET", "PATH_INFO": "/v2/a/tags/list"} | environ
    other = {"REQUEST_METHOD": "DELETE", "PATH_INFO": "/v2/a/blobs/x"}

    assert match.matches(matching)
    assert not match.matches(other)


@pytest.mark.parametrize(
    "changes",
    [{"skip": -1}, {"every": 0}, {"chance": 1.1}, {"limit": 0}, {"path": "("}, {"endpoints": ("blobs",)}],
    ids=str,
)
def test_impossible_conditions_are_rejected(changes: dict[str, Any]) -> None:
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
def test_the_first_of_several_matching_faults_applies(call: Call, faulty: list[Fault], expected: list[int]) -> None:
    caller = call(*faulty)

    statuses = [caller("GET", "/v2/").status for _ in range(4)]

    assert statuses == expected
