from __future__ import annotations

import pytest

from registry_adapters.http.session import redirect_target
from registry_core.domain.origin import Origin
from registry_core.domain.url_policy import AllowedUrl, UrlPurpose, check_url
from registry_core.errors import ProtocolError

REGISTRY = Origin.of("registry.example.com")


def target(
    method: str, status: int, location: str, purpose: UrlPurpose = UrlPurpose.REDIRECT
) -> tuple[str, AllowedUrl]:
    purpose, url = redirect_target(purpose, method, "https://registry.example.com/v2/a/blobs/x?q=1", status, location)
    return url, check_url(purpose, REGISTRY, url)


class TestRedirectTarget:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_get_and_head_keep_their_method(self, method: str, status: int) -> None:
        found = target(method, status, "https://cdn.example.net/x?sig=1")

        assert found == ("https://cdn.example.net/x?sig=1", AllowedUrl(Origin.of("cdn.example.net"), None))

    @pytest.mark.parametrize("status", [307, 308])
    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    def test_other_methods_follow_307_and_308(self, method: str, status: int) -> None:
        found = target(method, status, "/v2/b")

        assert found == ("https://registry.example.com/v2/b", AllowedUrl(REGISTRY, REGISTRY))

    def test_the_url_purpose_decides_whether_a_redirect_keeps_credentials(self) -> None:
        """R-032: requests for foreign layers have no credentials, even when redirected to the registry."""
        found = target("GET", 307, "/v2/b", UrlPurpose.FOREIGN)

        assert found == ("https://registry.example.com/v2/b", AllowedUrl(REGISTRY, None))

    @pytest.mark.parametrize("status", [307, 308])
    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    @pytest.mark.parametrize("location", ["https://cdn.example.net/u", "https://example.com/u"])
    def test_other_methods_are_not_redirected_to_another_host(self, location: str, method: str, status: int) -> None:
        """R-033: a redirect must not send content to another host, although reads may come from there."""
        with pytest.raises(ProtocolError, match="redirect of a write"):
            target(method, status, location)

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    def test_other_methods_go_without_credentials_to_another_port_of_the_registrys_host(self, method: str) -> None:
        """R-030, R-033."""
        url = "https://registry.example.com:8443/u"

        assert target(method, 307, url) == (url, AllowedUrl(Origin.of_url(url), None))

    @pytest.mark.parametrize("status", [301, 302, 303])
    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    def test_other_methods_never_become_a_get(self, method: str, status: int) -> None:
        """R-254."""
        with pytest.raises(ProtocolError, match=method):
            target(method, status, "/v2/b")

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
    def test_invalid_and_unsafe_locations_are_refused(self, location: str) -> None:
        """R-041, R-042, R-046."""
        with pytest.raises(ProtocolError):
            target("GET", 307, location)
