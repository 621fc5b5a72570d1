from __future__ import annotations

import pytest

from registry_adapters.http.transport.proxies import Proxy, is_bypassed, proxy_for
from registry_core.domain.origin import Origin
from registry_core.errors import ConfigError

ENVIRONMENT = {"http": "http://plain:3128", "https": "http://secure:3128", "no": "internal.example.com"}


class TestProxyFor:
    def test_the_proxy_of_the_environment_depends_on_the_scheme(self) -> None:
        found = [
            proxy_for(Origin.of_url(url), None, environment=ENVIRONMENT)
            for url in ("http://registry.example.com/v2/", "https://registry.example.com/v2/")
        ]

        assert found == [Proxy("http://plain:3128"), Proxy("http://secure:3128")]

    def test_the_process_environment_is_read_in_lower_case(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HTTPS_PROXY", "NO_PROXY", "no_proxy", "REQUEST_METHOD"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("https_proxy", "http://lower:1")

        assert proxy_for(Origin.of("registry.example.com"), None) == Proxy("http://lower:1")

    def test_the_process_environment_is_read_in_upper_case(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("https_proxy", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTPS_PROXY", "http://upper:1")

        assert proxy_for(Origin.of("registry.example.com"), None) == Proxy("http://upper:1")

    def test_hosts_in_no_proxy_are_connected_directly(self) -> None:
        assert proxy_for(Origin.of("internal.example.com"), None, environment=ENVIRONMENT) is None

    @pytest.mark.parametrize("host", ["localhost:5000", "127.0.0.1", "127.8.9.1:80", "[::1]:5000"])
    def test_loopback_hosts_do_not_use_a_proxy_of_the_environment(self, host: str) -> None:
        assert proxy_for(Origin.of(host, scheme="http"), None, environment=ENVIRONMENT) is None

    def test_the_setting_precedes_the_environment_and_no_proxy(self) -> None:
        found = proxy_for(Origin.of("internal.example.com"), "http://mine:1", environment=ENVIRONMENT)

        assert found == Proxy("http://mine:1")

    def test_an_empty_setting_disables_the_proxy(self) -> None:
        assert proxy_for(Origin.of("registry.example.com"), "", environment=ENVIRONMENT) is None

    def test_all_proxy_is_used_without_a_proxy_for_the_scheme(self) -> None:
        found = proxy_for(Origin.of("registry.example.com"), None, environment={"all": "any:1"})

        assert found == Proxy("http://any:1")


class TestProxy:
    def test_user_information_becomes_an_authorization_header(self) -> None:
        """R-043."""
        proxy = Proxy.parse("https://me:p%40ss@proxy.example.com:8443")

        assert proxy == Proxy("https://proxy.example.com:8443", "Basic bWU6cEBzcw==")
        assert "bWU6" not in repr(proxy)

    def test_user_information_that_is_not_utf_8_is_encoded_as_bytes(self) -> None:
        """R-062: Python decodes such bytes of the environment as lone surrogates."""
        proxy = Proxy.parse("http://me:\udcff@proxy.example.com")

        assert proxy.authorization == "Basic bWU6/w=="

    @pytest.mark.parametrize(
        "text",
        ["socks5://proxy:1080", "http://", "http://proxy:port", "http://[::1", "http://a proxy:80", "http://a%zz"],
    )
    def test_an_invalid_proxy_is_refused_without_quoting_it(self, text: str) -> None:
        with pytest.raises(ConfigError) as caught:
            Proxy.parse(text)

        assert text not in str(caught.value)


class TestIsBypassed:
    @pytest.mark.parametrize(
        ("host", "exceptions"),
        [
            ("a.example.com", "*"),
            ("a.example.com", "other, example.com"),
            ("a.example.com", ".example.com"),
            ("a.example.com", "*.example.com"),
            ("a.example.com", "A.EXAMPLE.COM"),
            ("a.example.com:5000", "a.example.com:5000"),
            ("10.1.2.3", "10.0.0.0/8"),
            ("10.1.2.3:5000", "10.1.2.3"),
            ("[fd00::5]:5000", "fd00::/8"),
            ("[fd00::5]:5000", "[fd00::5]"),
            ("[fd00::5]:5000", "[fd00:0::5]:5000"),
        ],
    )
    def test_a_host_in_no_proxy_is_bypassed(self, host: str, exceptions: str) -> None:
        assert is_bypassed(Origin.of(host), exceptions)

    @pytest.mark.parametrize(
        ("host", "exceptions"),
        [
            ("a.example.com", ""),
            ("a.example.com", ",,"),
            ("a.example.com", "."),
            ("badexample.com", "example.com"),
            ("badexample.com", "*.example.com"),
            ("example.com.evil.org", "example.com"),
            ("a.example.com:5000", "a.example.com:5001"),
            ("11.1.2.3", "10.0.0.0/8"),
            ("a.example.com", "10.0.0.0/8"),
            ("10.1.2.3", "10.0.0.0/99"),
        ],
    )
    def test_a_host_not_in_no_proxy_is_not_bypassed(self, host: str, exceptions: str) -> None:
        assert not is_bypassed(Origin.of(host), exceptions)
