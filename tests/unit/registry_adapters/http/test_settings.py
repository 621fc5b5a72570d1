from __future__ import annotations

import ssl
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import trustme

from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.tls import ssl_context
from registry_core.errors import ConfigError


class TestHttpSettings:
    def test_defaults_are_safe(self) -> None:
        """R-041, R-052."""
        settings = HttpSettings()

        assert (settings.plain_http, settings.tls_verify) == (False, True)
        assert (settings.connect_timeout, settings.read_timeout) == (10.0, 60.0)
        assert settings.user_agent.startswith("ociport")

    def test_paths_may_be_path_objects(self, tmp_path: Path) -> None:
        given: dict[str, Any] = {"ca_file": tmp_path / "ca.pem", "client_cert": (tmp_path / "crt", tmp_path / "key")}

        settings = HttpSettings(**given)

        assert settings.ca_file == str(tmp_path / "ca.pem")
        assert settings.client_cert == (str(tmp_path / "crt"), str(tmp_path / "key"))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"plain_http": 1},
            {"tls_verify": "no"},
            {"connect_timeout": 0},
            {"connect_timeout": True},
            {"read_timeout": -1.0},
            {"read_timeout": None},
            {"read_timeout": float("inf")},
            {"read_timeout": float("nan")},
            {"chunk_size": 0},
            {"chunk_size": 1.5},
            {"max_connections": 0},
            {"backoff": 0},
            {"requests_per_second": 0},
            {"requests_per_second": -1.0},
            {"requests_per_second": float("nan")},
            {"requests_per_second": True},
            {"path_prefix": "registry"},
            {"path_prefix": "/registry/"},
            {"path_prefix": "/a/../b"},
            {"path_prefix": "/a?b"},
            {"path_prefix": None},
            {"trust_system": 1},
            {"certs_dir": ""},
            {"tls_minimum": "1.1"},
            {"retries": -1},
            {"retries": True},
            {"ca_file": ""},
            {"client_cert": ("only one",)},
            {"client_cert": 5},
            {"user_agent": "a\r\nEvil: yes"},
            {"proxy": "proxy:3128"},
            {"proxy": "socks5://proxy:1080"},
            {"proxy": "http://"},
            {"proxy": "http://host:99999"},
        ],
        ids=repr,
    )
    def test_invalid_settings_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            HttpSettings(**wrong)

    @pytest.mark.parametrize("prefix", ["", "/registry", "/a/b-c/d_e.f~g"])
    def test_an_invalid_path_prefix_is_refused(self, prefix: str) -> None:
        assert HttpSettings(path_prefix=prefix).path_prefix == prefix

    def test_every_setting_is_documented(self) -> None:
        page = (Path(__file__).parents[4] / "docs" / "reference" / "settings.md").read_text()

        missing = [name for name in HttpSettings.__struct_fields__ if f"| `{name}` |" not in page]

        assert missing == []

    @pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
    def test_trusted_hosts_may_be_any_plain_collection(self, kind: Callable[[list[str]], Collection[str]]) -> None:
        """R-047."""
        settings = HttpSettings(trusted_hosts=kind(["sso.other.lan", "10.0.0.6:9000", "http://minio:9000"]))

        assert sorted(settings.trusted_hosts) == ["10.0.0.6:9000", "http://minio:9000", "sso.other.lan"]
        assert isinstance(settings.trusted_hosts, tuple)

    @pytest.mark.parametrize(
        "wrong",
        [
            "sso.other.lan",
            b"sso.other.lan",
            None,
            True,
            {"sso.other.lan": 1},
            [None],
            [["sso.other.lan"]],
            {"sso.other.lan", 1},
            ["sso.other.lan", ""],
            ["http://sso.other.lan/token"],
            ["me:hunter2@sso.other.lan"],
            ["ftp://sso.other.lan"],
            ["*.other.lan"],
        ],
        ids=repr,
    )
    def test_malformed_trusted_hosts_are_refused(self, wrong: Any) -> None:
        """R-047."""
        with pytest.raises(ConfigError, match="trusted_hosts") as caught:
            HttpSettings(trusted_hosts=wrong)

        assert "hunter2" not in str(caught.value)

    def test_config_error_is_a_value_error(self) -> None:
        with pytest.raises(ValueError, match="retries"):
            HttpSettings(retries=-1)

    def test_the_repr_has_no_secret(self) -> None:
        """R-043."""
        text = repr(HttpSettings(proxy="http://me:hunter2@proxy:3128"))

        assert "hunter2" not in text
        assert "http://***@proxy:3128" in text

    def test_settings_are_frozen(self) -> None:
        settings = HttpSettings(retries=1)

        with pytest.raises(AttributeError):
            settings.retries = 2  # type: ignore[misc]  # the assignment that must fail
        assert settings == HttpSettings(retries=1)


class TestContext:
    def test_by_default_certificates_are_verified_and_tls_1_2_is_required(self) -> None:
        """R-041."""
        context = ssl_context(HttpSettings())

        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2

    def test_verification_is_off_only_with_tls_verify_false(self) -> None:
        context = ssl_context(HttpSettings(tls_verify=False))

        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)

    def test_a_ca_file_adds_authorities(self, tmp_path: Path) -> None:
        path = tmp_path / "ca.pem"
        trustme.CA().cert_pem.write_to_path(str(path))

        context = ssl_context(HttpSettings(ca_file=str(path)))

        assert any("trustme" in str(known["subject"]) for known in context.get_ca_certs())

    def test_a_client_certificate_is_one_file_or_two(self, tmp_path: Path) -> None:
        certificate_and_key = trustme.CA().issue_cert("me@example.com")
        combined, certificate, key = (str(tmp_path / name) for name in ("both.pem", "cert.pem", "key.pem"))
        certificate_and_key.private_key_and_cert_chain_pem.write_to_path(combined)
        certificate_and_key.cert_chain_pems[0].write_to_path(certificate)
        certificate_and_key.private_key_pem.write_to_path(key)

        contexts = [ssl_context(HttpSettings(client_cert=files)) for files in (combined, (certificate, key))]

        assert len(contexts) == 2

    @pytest.mark.parametrize("field", ["ca_file", "client_cert"])
    @pytest.mark.parametrize("content", [None, b"no PEM"])
    def test_an_unusable_certificate_file_is_a_config_error(
        self, tmp_path: Path, field: str, content: bytes | None
    ) -> None:
        path = tmp_path / "file.pem"
        if content is not None:
            path.write_bytes(content)

        values: dict[str, Any] = {field: str(path)}

        with pytest.raises(ConfigError, match=field):
            ssl_context(HttpSettings(**values))
