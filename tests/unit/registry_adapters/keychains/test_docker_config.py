"""The formats of Docker's and podman's files, without files."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_adapters.keychains import TextKeychain
from registry_adapters.keychains.docker_config import DockerConfig, entry_of
from registry_core.domain.auth import Anonymous, Basic, Credential, IdentityToken, RegistryToken
from registry_core.domain.names import RepositoryName
from registry_core.errors import ConfigError, RegistryError

HOST = "registry.example.com"
USER = Basic("user", "pass")


def auth(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def found(document: dict[str, Any], registry: str = HOST, repository: str | None = None) -> Credential | None:
    name = None if repository is None else RepositoryName(repository)
    return DockerConfig(document, "config.json").credential(registry, name)


class TestEntry:
    @pytest.mark.parametrize(
        ("entry", "credential"),
        [
            ({"auth": auth("user:pass")}, USER),
            ({"auth": auth("user:pass:with:colons")}, Basic("user", "pass:with:colons")),
            ({"auth": auth(b"user:pass\0\0\0")}, USER),
            ({"auth": auth("user:pä$$ ")}, Basic("user", "pä$$ ")),
            ({"auth": auth("user:")}, Basic("user", "")),
            ({"auth": auth("user:pass")[:8] + "\r\n" + auth("user:pass")[8:]}, USER),
            ({"auth": auth("user:pass").rstrip("=")}, USER),
            ({"auth": auth("user:passw").rstrip("=")}, Basic("user", "passw")),
            ({"auth": auth("user:passwd").rstrip("=")}, Basic("user", "passwd")),
            ({"auth": f" {auth('user:passw').rstrip('=')}\n"}, Basic("user", "passw")),
            ({"auth": auth("user:passw")[:-1]}, Basic("user", "passw")),
            ({"username": "user", "password": "pass"}, USER),
            ({"username": "stale", "password": "stale", "auth": auth("user:pass")}, USER),
            ({"auth": "", "username": "user", "password": "pass"}, USER),
            ({"auth": auth("user:pass"), "email": "user@example.com", "unknown": [1]}, USER),
            ({"identitytoken": "refresh"}, IdentityToken("refresh")),
            ({"auth": auth("user:"), "identitytoken": "refresh"}, IdentityToken("refresh", "user")),
            ({"registrytoken": "bearer"}, RegistryToken("bearer")),
            ({"registrytoken": "bearer", "identitytoken": "refresh"}, RegistryToken("bearer")),
            ({"auth": auth("user:pass"), "registrytoken": "bearer"}, RegistryToken("bearer")),
        ],
    )
    def test_an_entry_is_read_as_docker_reads_it(self, entry: dict[str, object], credential: Credential) -> None:
        """R-045: NULs at the end are cut, only the first colon splits."""
        assert found({"auths": {HOST: entry}}) == credential

    @pytest.mark.parametrize("entry", [{}, None, {"auth": ""}, {"auth": None}, {"auth": auth(":")}, {"email": "a@b"}])
    def test_an_empty_entry_has_no_credential(self, entry: object) -> None:
        """R-045: Docker writes ``{}`` beside a helper."""
        assert found({"auths": {HOST: entry}}) is None

    @pytest.mark.parametrize(
        "entry",
        [
            1,
            "text",
            ["list"],
            {"auth": 1},
            {"auth": "hunter2!"},
            {"auth": auth("hunter2")},
            {"auth": "!" + auth("user:hunter2")},
            {"auth": auth("user:hunter2") + "==="},
            {"auth": auth("user:hunter2").rstrip("=")[:-3]},
            {"auth": "=" + auth("user:hunter2")},
            {"auth": auth("user:hunter2?>~~").replace("+", "-").replace("/", "_") + "_-"},
            {"auth": auth(b"user:\xff\xfe")},
            {"username": {}, "password": "hunter2"},
            {"identitytoken": ["hunter2"]},
        ],
    )
    def test_a_malformed_entry_is_an_error_without_secrets(self, entry: object) -> None:
        """R-043, R-045."""
        with pytest.raises(ConfigError, match=r"config\.json: the entry for registry\.example\.com") as caught:
            found({"auths": {HOST: entry}})

        assert "hunter2" not in str(caught.value)
        assert auth("hunter2") not in str(caught.value)

    def test_a_malformed_entry_of_another_host_is_ignored(self) -> None:
        """R-045."""
        broken = {"broken.example.com": 1, "": 2, "::::": {}, "https://": [], "a b": {"auth": "?"}}

        assert found({"auths": {**broken, HOST: {"auth": auth("user:pass")}}}) == USER


class TestKey:
    @pytest.mark.parametrize(
        "key",
        [
            HOST,
            "REGISTRY.example.com",
            f"https://{HOST}",
            f"http://{HOST}",
            f"HTTPS://{HOST}/",
            f"https://{HOST}/v1/",
            f"https://{HOST}/v2",
            f"{HOST}/v2/",
            f"{HOST}:443",
            f"https://{HOST}:443/v2/",
        ],
    )
    def test_scheme_and_version_of_a_key_are_ignored(self, key: str) -> None:
        """R-045."""
        assert found({"auths": {key: {"auth": auth("user:pass")}}}) == USER

    @pytest.mark.parametrize(
        "key",
        [
            "example.com",
            f"evil-{HOST}",
            f"{HOST}.evil.example",
            f"https://evil.example/{HOST}",
            f"https://{HOST}@evil.example",
            f"user@{HOST}",
            f"{HOST}:5000",
            f"{HOST}:80",
            "*.example.com",
            f"https://https://{HOST}",
            f" {HOST}",
        ],
    )
    def test_other_keys_do_not_match(self, key: str) -> None:
        """R-045: exact host and port, never suffix, prefix or substring."""
        assert found({"auths": {key: {"auth": auth("user:pass")}}}) is None

    @pytest.mark.parametrize(
        "key", ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "https://registry-1.docker.io/v2/"]
    )
    @pytest.mark.parametrize("registry", ["docker.io", "index.docker.io", "registry-1.docker.io"])
    def test_docker_hub_has_several_names(self, key: str, registry: str) -> None:
        """R-045."""
        assert found({"auths": {key: {"auth": auth("user:pass")}}}, registry, "library/alpine") == USER

    def test_the_canonical_key_is_preferred_to_the_url(self) -> None:
        auths = {f"https://{HOST}/v1/": {"auth": auth("old:old")}, HOST: {"auth": auth("user:pass")}}

        assert found({"auths": auths}) == USER


class TestNamespace:
    AUTHS: dict[str, Any] = {  # noqa: RUF012 - read only
        f"{HOST}/org/team/app": {"auth": auth("app:1")},
        f"{HOST}/org/team": {"auth": auth("team:1")},
        f"{HOST}/org": {"auth": auth("org:1")},
        HOST: {"auth": auth("all:1")},
    }

    @pytest.mark.parametrize(
        ("repository", "username"),
        [
            ("org/team/app", "app"),
            ("org/team/app/sub", "app"),
            ("org/team/application", "team"),
            ("org/team", "team"),
            ("org/teams", "org"),
            ("organisation/app", "all"),
            ("app", "all"),
            (None, "all"),
        ],
    )
    def test_the_most_specific_namespace_is_used(self, repository: str | None, username: str) -> None:
        """containers-auth.json(5): from the repository up to the host, by whole segments."""
        assert found({"auths": self.AUTHS}, HOST, repository) == Basic(username, "1")

    @pytest.mark.parametrize("repository", ["other/app", "organisation", None])
    def test_without_an_entry_for_the_host_other_repositories_have_no_credential(self, repository: str | None) -> None:
        assert found({"auths": {f"{HOST}/org": {"auth": auth("org:1")}}}, HOST, repository) is None

    def test_an_empty_entry_is_skipped(self) -> None:
        auths = {f"{HOST}/org": {}, HOST: {"auth": auth("user:pass")}}

        assert found({"auths": auths}, HOST, "org/app") == USER


class TestDocument:
    @pytest.mark.parametrize("auths", [1, "text", [], [{}], True])
    def test_auths_that_is_not_an_object_is_an_error(self, auths: object) -> None:
        with pytest.raises(ConfigError):
            found({"auths": auths})

    @pytest.mark.parametrize("document", [{}, {"auths": None}, {"auths": {}}, {"HttpHeaders": {}}])
    def test_a_document_without_entries_has_no_credential(self, document: dict[str, Any]) -> None:
        assert found(document) is None

    def test_a_dockercfg_has_only_entries(self) -> None:
        document = {f"https://{HOST}/v1/": {"auth": auth("user:pass"), "email": "user@example.com"}}

        assert DockerConfig(document, ".dockercfg", legacy=True).credential(HOST, None) == USER


class TestWriting:
    @pytest.mark.parametrize(
        "credential",
        [USER, Basic("user", "a:b"), IdentityToken("refresh"), IdentityToken("refresh", "user"), RegistryToken("t")],
    )
    def test_a_written_credential_can_be_read(self, credential: Credential) -> None:
        assert found({"auths": {HOST: entry_of(credential)}}) == credential

    @pytest.mark.parametrize(
        "credential",
        [
            Anonymous(),
            Basic("us:er", "pass"),
            Basic("user", "pass\0"),
            Basic("", ""),
            Basic("\ud800", "pass"),
            IdentityToken(""),
            RegistryToken(""),
        ],
    )
    def test_a_credential_that_would_be_read_as_another_one_is_refused(self, credential: Credential) -> None:
        with pytest.raises(ConfigError):
            entry_of(credential)

    def test_other_content_is_kept(self) -> None:
        document = {
            "auths": {
                f"https://{HOST}/v1/": {"auth": auth("old:old")},
                HOST: {"auth": auth("old:old"), "email": "user@example.com"},
                f"{HOST}/org": {"auth": auth("org:1")},
                "other.example.com": {"auth": auth("other:1")},
            },
            "HttpHeaders": {"X": "1"},
        }

        DockerConfig(document, "config.json").put(HOST, entry_of(USER))

        assert document == {
            "auths": {
                HOST: {"auth": auth("user:pass"), "email": "user@example.com"},
                f"{HOST}/org": {"auth": auth("org:1")},
                "other.example.com": {"auth": auth("other:1")},
            },
            "HttpHeaders": {"X": "1"},
        }

    def test_docker_hub_is_written_under_its_url(self) -> None:
        """R-045."""
        document: dict[str, Any] = {"auths": {"docker.io": {"auth": auth("old:old")}}}

        DockerConfig(document, "config.json").put("registry-1.docker.io", entry_of(USER))

        assert document["auths"] == {"https://index.docker.io/v1/": entry_of(USER)}


class TestText:
    DOCUMENT = json.dumps({"auths": {HOST: {"auth": auth("user:pass")}}})
    OLD = json.dumps({f"https://{HOST}": {"auth": auth("user:pass")}})

    @pytest.mark.parametrize(
        "text",
        [
            DOCUMENT,
            DOCUMENT.encode(),
            f"\n {DOCUMENT}\n",
            auth(DOCUMENT),
            auth(DOCUMENT)[:40] + "\n" + auth(DOCUMENT)[40:] + "\n",
            OLD,
            auth(OLD),
            auth(OLD).rstrip("="),
            auth(DOCUMENT + " ").rstrip("="),
            auth(DOCUMENT + "  ").rstrip("=") + "\n",
        ],
    )
    def test_a_pull_secret_is_read_in_all_forms(self, text: str | bytes) -> None:
        assert TextKeychain(text).credential(HOST, None) == USER

    @pytest.mark.parametrize(
        "text",
        ["", "hunter2", "{hunter2", "[]", auth("hunter2"), b"\xff\xfe", '{"a": 1, "a": 2}', "\ud800", "{" * 5000],
    )
    def test_other_text_is_an_error_without_secrets(self, text: str | bytes) -> None:
        """R-043, R-045."""
        with pytest.raises(ConfigError) as caught:
            TextKeychain(text)

        assert "hunter2" not in str(caught.value)

    def test_a_text_that_is_too_large_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="more than"):
            TextKeychain(" " * (5 << 20))

    @pytest.mark.parametrize(
        ("key", "registry"),
        [
            ("*.example.com", HOST),
            ("https://*.example.com/v1/", HOST),
            ("*.EXAMPLE.com", "Registry.Example.COM"),
            ("reg*.example.com", HOST),
            ("*stry.example.com", HOST),
            ("r*t*y.example.com", HOST),
            ("registry.*.com", HOST),
            ("*.*.*", HOST),
            ("**.example.com", HOST),
            ("registry.example.com*", HOST),
            ("*.example.com:443", f"{HOST}:443"),
            ("*.example.com:5000", f"{HOST}:5000"),
            ("*", "localhost"),
            ("*:5000", "localhost:5000"),
            ("10.0.*.*", "10.0.1.2"),
            ("*.io", "docker.io"),
        ],
    )
    def test_a_star_matches_in_one_part_of_the_host(self, key: str, registry: str) -> None:
        """R-045: as the kubelet reads it."""
        text = json.dumps({"auths": {key: {"auth": auth("user:pass")}}})

        assert TextKeychain(text).credential(registry, None) == USER

    @pytest.mark.parametrize(
        ("key", "registry"),
        [
            ("*.example.com", "example.com"),
            ("*.example.com", f"a.{HOST}"),
            ("*.example.com", "registry.example.com.evil.test"),
            ("*.example.com", "registry.evil-example.com"),
            ("*.example.com", f"{HOST}:5000"),
            ("*.example.com", f"{HOST}:443"),
            ("*.example.com", f"{HOST}:80"),
            ("*.example.com:5000", HOST),
            ("*.example.com:443", HOST),
            ("*.example.com:80", HOST),
            ("*.example.com:*", f"{HOST}:5000"),
            ("*", HOST),
            ("*.com", HOST),
            ("reg*", HOST),
            ("*example.com", HOST),
            ("a*.example.com", HOST),
            ("*.docker.io", "docker.io"),
            ("*.docker.io", "registry-1.docker.io"),
            ("user@*.example.com", HOST),
            ("[a-z]*.example.com", HOST),
            ("?*.example.com", HOST),
            ("*.example.com?x", HOST),
            (" *.example.com", HOST),
            ("ftp://*.example.com", HOST),
        ],
    )
    def test_a_star_matches_no_other_host(self, key: str, registry: str) -> None:
        """R-045."""
        text = json.dumps({"auths": {key: {"auth": auth("user:pass")}}})

        assert TextKeychain(text).credential(registry, None) is None

    @pytest.mark.parametrize(
        ("repository", "username"), [("org/app", "org"), ("org", "org"), ("organisation/app", "all"), (None, "all")]
    )
    def test_an_entry_with_a_star_may_have_a_namespace(self, repository: str | None, username: str) -> None:
        """R-045: by whole segments."""
        auths = {"*.example.com": {"auth": auth("all:1")}, "*.example.com/org": {"auth": auth("org:1")}}
        name = None if repository is None else RepositoryName(repository)

        assert TextKeychain(json.dumps({"auths": auths})).credential(HOST, name) == Basic(username, "1")

    def test_the_most_specific_entry_is_used_first(self) -> None:
        """R-045."""
        keys = [f"{HOST}/org", HOST, "reg*.example.com", "*.example.com/org", "*.example.com", "*.*.com"]
        for count in range(len(keys)):
            entries = [(key, {"auth": auth(f"user{number}:x")}) for number, key in enumerate(keys)][count:]

            for auths in (dict(entries), dict(reversed(entries))):
                keychain = TextKeychain(json.dumps({"auths": auths}))

                assert keychain.credential(HOST, RepositoryName("org/app")) == Basic(f"user{count}", "x")

    def test_a_star_is_a_pattern_in_a_dockercfg_too(self) -> None:
        text = json.dumps({"https://*.example.com": {"auth": auth("user:pass")}})

        assert TextKeychain(text).credential(HOST, None) == USER

    def test_an_empty_entry_with_a_star_is_skipped(self) -> None:
        auths = {"*.example.com/org": {}, "*.example.com": {"auth": auth("user:pass")}}

        assert TextKeychain(json.dumps({"auths": auths})).credential(HOST, RepositoryName("org/app")) == USER

    def test_a_malformed_entry_with_a_star_is_an_error_for_its_hosts_only(self) -> None:
        """R-043, R-045."""
        keychain = TextKeychain(json.dumps({"auths": {"*.example.com": {"auth": "hunter2"}}}))

        assert keychain.credential("other.test", None) is None
        with pytest.raises(ConfigError, match=r"entry for \*\.example\.com is malformed") as caught:
            keychain.credential(HOST, None)
        assert "hunter2" not in str(caught.value)

    def test_many_stars_take_no_time(self) -> None:
        """R-040."""
        key = "*a" * 3000 + ".example.com"
        started = time.perf_counter()

        assert TextKeychain(json.dumps({"auths": {key: {}}})).credential(f"{'a' * 60}.example.com", None) is None

        assert time.perf_counter() - started < 1

    def test_credential_helpers_are_not_run(self) -> None:
        """R-044: a secret must not start programs; the entry is used."""
        document = {**json.loads(self.DOCUMENT), "credsStore": "missing", "credHelpers": {HOST: "missing"}}

        assert TextKeychain(json.dumps(document)).credential(HOST, None) == USER


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([HOST, "auths", "auth", "credHelpers", "credsStore", "username", f"{HOST}/org"])
            | st.text(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


class TestHostileInput:
    @given(st.text() | st.binary() | JSON.map(json.dumps))
    def test_only_library_errors_are_raised(self, text: str | bytes) -> None:
        """R-045: any shape gives a credential, ``None`` or a library error."""
        try:
            result = TextKeychain(text).credential(HOST, RepositoryName("org/app"))
        except RegistryError:
            return

        assert result is None or isinstance(result, Basic | IdentityToken | RegistryToken)

    @given(JSON, JSON, JSON)
    def test_sections_of_any_shape_are_handled(self, auths: object, helpers: object, store: object) -> None:
        entries = DockerConfig({"auths": auths, "credHelpers": helpers, "credsStore": store}, "config.json")

        for ask in (lambda: entries.credential(HOST, None), lambda: entries.helper(HOST), entries.default_helper):
            said = "config.json"
            try:
                ask()
            except RegistryError as error:
                said = str(error)
            assert "config.json" in said

    @pytest.mark.parametrize(
        "text",
        [
            "{" * (1 << 20),
            '{"auths":' * 100_000,
            '"' * (1 << 20),
            json.dumps({"auths": {f"{HOST}:{port}/{'a' * 5}": {} for port in range(25_000)}}),
            json.dumps({"auths": {HOST + "/" + "a/" * 500_000: {"auth": "x"}}}),
            json.dumps({"auths": {HOST: {"auth": "A" * (1 << 20)}}}),
            json.dumps({"auths": {"a." * 500_000 + HOST: {}}}),
        ],
        ids=["braces", "nested", "quotes", "keys", "path", "auth", "host"],
    )
    def test_a_mebibyte_takes_less_than_a_second(self, text: str) -> None:
        said = ""

        start = time.thread_time()
        try:
            TextKeychain(text).credential(HOST, RepositoryName("org/app"))
        except RegistryError as error:
            said = str(error)
        seconds = time.thread_time() - start

        assert seconds < 1
        assert len(said) < 300
