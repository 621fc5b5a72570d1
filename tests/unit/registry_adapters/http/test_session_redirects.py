from __future__ import annotations

import pytest

from registry_adapters.http.session import Hop, is_redirect, next_hop
from registry_core.domain.origin import Origin
from registry_core.errors import ProtocolError

HOME = Origin.of("registry.example.com")


def hop(method: str) -> Hop:
    return Hop(method, "https://registry.example.com/v2/a/blobs/x?q=1", HOME)


class TestNextHop:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_reading_stays_what_it_is(self, method: str, status: int) -> None:
        found = next_hop(HOME, hop(method), status, "https://cdn.example.net/x?sig=1")

        assert found == Hop(method, "https://cdn.example.net/x?sig=1", Origin.of("cdn.example.net"))

    @pytest.mark.parametrize("status", [307, 308])
    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    def test_changes_are_repeated_where_the_answer_says_so(self, method: str, status: int) -> None:
        found = next_hop(HOME, hop(method), status, "/v2/b")

        assert found == Hop(method, "https://registry.example.com/v2/b", HOME)

    @pytest.mark.parametrize("status", [307, 308])
    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    @pytest.mark.parametrize("location", ["https://cdn.example.net/u", "https://registry.example.com:8443/u"])
    def test_changes_stay_with_the_registry(self, location: str, method: str, status: int) -> None:
        """R-033: no content goes to another origin by a redirect, either."""
        with pytest.raises(ProtocolError, match=method):
            next_hop(HOME, hop(method), status, location)

    @pytest.mark.parametrize("status", [301, 302, 303])
    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    def test_changes_never_become_a_get(self, method: str, status: int) -> None:
        """R-254."""
        with pytest.raises(ProtocolError, match=method):
            next_hop(HOME, hop(method), status, "/v2/b")

    @pytest.mark.parametrize(
        "location",
        [
            "",
            "http://registry.example.com/v2/b",
            "ftp://cdn.example.net/x",
            "file:///etc/passwd",
            "https://me:pw@cdn.example.net/x",
            "https://cdn.example.net:99999/x",
            "https://cdn.example.net/a\\b",
            "https://cdn.example.net/a b",
            "https://127.0.0.1/x",
            "https://169.254.169.254/latest/meta-data",
            "https://[::1]/x",
            "https://10.0.0.1/x",
            "//[broken/x",
        ],
    )
    def test_some_places_are_not_gone_to(self, location: str) -> None:
        """R-041, R-042, R-046."""
        with pytest.raises(ProtocolError):
            next_hop(HOME, hop("GET"), 307, location)


@pytest.mark.parametrize(("status", "expected"), [(300, False), (301, True), (304, False), (308, True), (200, False)])
def test_statuses_that_send_elsewhere(status: int, expected: bool) -> None:
    assert is_redirect(status) is expected
