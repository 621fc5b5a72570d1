"""Mirrors declared in files: their backends, settings, credentials and events."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from registry_adapters import open_client, open_mirror
from registry_adapters.wsgi import registry_server
from registry_adapters.wsgi.auth import BasicAuthorizer
from registry_core import ConfigError, ImageBuilder, InvalidValue, NotFound, RegistryClient
from registry_core.domain.auth import Basic
from registry_core.ops.transfer.report import Outcome, Result
from registry_core.ports.observer import BlobCopied, Event, Observer


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mirror.toml"
    path.write_text(text)
    return path


def push(client: RegistryClient, *tags: str) -> None:
    for tag in tags:
        client.push_image(tag, ImageBuilder("linux/amd64").add_files({"tag": tag.encode()}).build())


class RecordingObserver(Observer):
    def __init__(self) -> None:
        self.events: list[Event] = []

    def on(self, event: Event) -> None:
        self.events.append(event)


def test_paths_in_one_registry_share_its_catalog(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [[mirror]]
        source = "registry.test/org"
        target = "registry.test/mirror/org"
        [[mirror]]
        source = "https://other.test/org/"
        target = "http://other.test/org"
        """,
    )

    with open_mirror(path) as mirror:
        first, second = mirror.rules

    assert first.source is first.target
    assert (first.source_path, first.target_path) == ("org", "mirror/org")
    assert second.source is not second.target
    assert (second.source_path, second.target_path) == ("org", "org")


@pytest.mark.parametrize("target", ["registry.test/a/", "https://registry.test/a"])
def test_a_repository_cannot_be_pruned_from_itself(tmp_path: Path, target: str) -> None:
    path = write(
        tmp_path, f'[[mirror]]\nsource = "registry.test/a"\ntarget = "{target}"\nprune = true\ntags = ["v*"]\n'
    )

    with pytest.raises(InvalidValue, match="itself"):
        open_mirror(path)


def test_settings_apply_only_to_their_registry(tmp_path: Path) -> None:
    with registry_server(open_client("memory:").catalog) as one, registry_server(open_client("memory:").catalog) as two:
        hosts = [server.url.removeprefix("http://") for server in (one, two)]
        with open_client(one.url) as client:
            push(client.with_segment("app"), "v1")
        text = f'[[mirror]]\nsource = "{hosts[0]}/app"\ntarget = "{hosts[1]}/app"\n[backends."{hosts[0]}"]\n'
        plain = f'plain_http = true\n[backends."{hosts[1]}"]\n'

        with open_mirror(write(tmp_path, text + plain + "plain_http = true\n")) as mirror:
            report = mirror.run()
        with (
            open_mirror(write(tmp_path, text + plain + "connect_timeout = 5\n")) as mirror,
            pytest.raises(Exception, match=hosts[1]) as caught,
        ):
            mirror.run()

        assert report.counts[Outcome.TAGGED] == 1
        assert isinstance(caught.value, OSError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[backends."oci:x"]\nplain_http = true\n[[mirror]]\nsource = "oci:x"\ntarget = "oci:y"\n', "oci:x"),
        ('[[mirror]]\nsource = "nothing:x"\ntarget = "oci:y"\n', "nothing"),
        (
            '[backends."registry.test"]\nauth = "x"\n[[mirror]]\nsource = "registry.test/x"\ntarget = "oci:y"\n',
            "settings of registry.test: 'auth' is no setting; pass auth to open_mirror",
        ),
        (
            '[backends."registry.test/"]\nplain_http = 1\n[[mirror]]\nsource = "registry.test/x"\ntarget = "oci:y"\n',
            "settings of registry.test/: plain_http must be True or False",
        ),
    ],
)
def test_an_unusable_setting_or_backend_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_mirror(write(tmp_path, text))


@pytest.mark.parametrize(
    ("backend", "url", "applies"),
    [
        ("registry.test", "registry.test/x", True),
        ("registry.test", "https://registry.test/x", True),
        ("registry.test", "http://registry.test", True),
        ("registry.test/", "registry.test/x/", True),
        ("https://registry.test", "registry.test/x", True),
        ("http://registry.test/", "http://registry.test/x", True),
        ("https://registry.test", "http://registry.test/x", False),
        ("http://registry.test", "registry.test/x", False),
        ("registry.test", "registry.test2/x", False),
        ("registry.test", "registry.test:5000/x", False),
        ("oci:store", "oci:store/", True),
        ("oci:store", "oci:store2", False),
    ],
)
def test_settings_apply_to_every_spelling_of_their_backend(
    tmp_path: Path, backend: str, url: str, applies: bool
) -> None:
    path = write(
        tmp_path, f'[[mirror]]\nsource = "{url}"\ntarget = "memory:"\n[backends."{backend}"]\nunknown = true\n'
    )

    if applies:
        with pytest.raises(ConfigError, match="no setting 'unknown'"):
            open_mirror(path)
    else:
        open_mirror(path).close()


def test_credentials_and_observer_are_given_by_the_caller(tmp_path: Path) -> None:
    with registry_server(open_client("memory:").catalog, authorizer=BasicAuthorizer({"me": "secret"})) as server:
        host = server.url.removeprefix("http://")
        with open_client(server.url, auth=Basic("me", "secret")) as client:
            push(client.with_segment("app"), "v1", "v2")
        path = write(
            tmp_path,
            f"""
            [backends."{host}"]
            plain_http = true
            [[mirror]]
            source = "{host}"
            target = "oci:{tmp_path / "copy"}"
            repositories = ["app"]
            """,
        )
        observer, results = RecordingObserver(), list[Result]()

        with open_mirror(path, auth=Basic("me", "secret"), observer=observer) as mirror:
            report = mirror.run(on_result=results.append)

    assert report.ok
    assert list(report.results) == results
    assert sum(isinstance(event, BlobCopied) for event in observer.events) == 4
    assert open_client(f"oci:{tmp_path / 'copy'}").with_segment("app").list_tags() == ["v1", "v2"]


def test_continue_on_error_is_read_from_the_file(tmp_path: Path) -> None:
    push(open_client(f"oci:{tmp_path / 'store'}").with_segment("app"), "v1")
    text = f"""
        continue_on_error = true
        [[mirror]]
        source = "oci:{tmp_path / "store"}"
        target = "oci:{tmp_path / "copy"}"
        repositories = ["lost", "app"]
        """
    path = write(tmp_path, text)

    with open_mirror(path) as mirror:
        plan, report = mirror.plan(), mirror.run()

    assert [failure.node.source for failure in plan.failures] == [result.node.source for result in report.failed]
    assert report.counts[Outcome.TAGGED] == 1
    with open_mirror(write(tmp_path, text.replace("true", "false"))) as mirror, pytest.raises(LookupError):
        mirror.run()


def test_backends_are_closed_when_one_of_them_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Any] = []
    monkeypatch.setattr("registry_core.client.RegistryClient.close", lambda client: closed.append(client.registry))

    with pytest.raises(ConfigError):
        open_mirror(write(tmp_path, '[[mirror]]\nsource = "registry.test/a"\ntarget = "nothing:y"\n'))

    assert closed == ["registry.test/a"]


@pytest.mark.parametrize("scheme", ["oci", "oci-archive", "docker-archive"])
@pytest.mark.parametrize("allow_empty", ["false", "true"])
@pytest.mark.parametrize("more", ["", 'repositories = ["app"]', 'repositories = ["*"]', 'tags = ["v1"]'])
def test_a_source_that_does_not_exist_is_an_error_that_names_it(
    tmp_path: Path, scheme: str, more: str, allow_empty: str
) -> None:
    source = f"{scheme}:{tmp_path / 'lost'}"
    text = (
        f'[[mirror]]\nsource = "{source}"\ntarget = "oci:{tmp_path / "copy"}"\n'
        f"allow_empty = {allow_empty}\nprune = true\n{more}\n"
    )

    with open_mirror(write(tmp_path, text)) as mirror:
        for call in (mirror.plan, mirror.run):
            with pytest.raises(NotFound, match=re.escape(source)):
                call()
    with open_mirror(write(tmp_path, f"continue_on_error = true\n{text}")) as mirror:
        plan = mirror.plan()
        reports = [plan.apply(), mirror.run()]

    assert source in str(plan)
    for report in reports:
        (failed,) = report.failed
        assert isinstance(failed.error, NotFound)
        assert source in str(failed.error)
    assert not (tmp_path / "lost").exists()


def test_a_mirror_that_may_match_nothing_is_declared_in_the_file(tmp_path: Path) -> None:
    push(open_client(f"oci:{tmp_path / 'store'}").with_segment("app"), "v1")
    text = f"""
        [[mirror]]
        source = "oci:{tmp_path / "store"}"
        target = "oci:{tmp_path / "copy"}"
        repositories = ["app", "lib/*"]
        tags = {{ semver = ">=2" }}
        """

    with open_mirror(write(tmp_path, text)) as mirror:
        report = mirror.run()
    with open_mirror(write(tmp_path, f"{text}allow_empty = true\n")) as mirror:
        allowed_report = mirror.run()

    assert [str(failed.error) for failed in report.failed] == [
        f"oci:{tmp_path / 'store'}/app: no tag matches semver '>=2'; if that is right, set allow_empty",
        f"oci:{tmp_path / 'store'}/lib/*: no repository matches this pattern; if that is right, set allow_empty",
    ]
    assert allowed_report.ok
