from __future__ import annotations

from pathlib import Path

import pytest

from registry_adapters.http.transport.tls import NO_FILES, HostFiles, host_files
from registry_core.domain.origin import Origin
from registry_core.errors import ConfigError

HOST = Origin.of("registry.example.com:5000")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The directory for the host, empty."""
    place = tmp_path / "registry.example.com:5000"
    place.mkdir()
    return place


def fill(place: Path, *names: str) -> None:
    place.mkdir(exist_ok=True)
    for name in names:
        (place / name).write_bytes(b"")


def test_authorities_and_the_pair_are_told_by_their_names(tmp_path: Path, place: Path) -> None:
    fill(place, "b.crt", "a.crt", "me.cert", "me.key", "README", "ca.pem")

    found = host_files(str(tmp_path), HOST)

    assert found == HostFiles(
        authorities=(str(place / "a.crt"), str(place / "b.crt")),
        identity=(str(place / "me.cert"), str(place / "me.key")),
    )


@pytest.mark.parametrize(
    ("directory", "host"),
    [
        ("registry.example.com", "registry.example.com"),
        ("registry.example.com:443", "registry.example.com"),
        ("registry.example.com:5000", "registry.example.com:5000"),
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        ("[::1]:5000", "[::1]:5000"),
        ("[::1]", "[::1]"),
    ],
)
def test_a_directory_is_named_like_the_host(tmp_path: Path, directory: str, host: str) -> None:
    fill(tmp_path / directory, "ca.crt")

    found = host_files(str(tmp_path), Origin.of(host))

    assert found.authorities == (str(tmp_path / directory / "ca.crt"),)


@pytest.mark.parametrize(
    ("directory", "host"),
    [
        ("registry.example.com", "registry.example.com:5000"),
        ("registry.example.com:5000", "registry.example.com"),
        ("example.com", "registry.example.com"),
        ("registry.example.com", "cdn.registry.example.com"),
        ("127.0.0.1:5000", "localhost:5000"),
    ],
)
def test_no_other_host_or_port_has_part_in_it(tmp_path: Path, directory: str, host: str) -> None:
    """R-030."""
    fill(tmp_path / directory, "ca.crt", "me.cert", "me.key")

    assert host_files(str(tmp_path), Origin.of(host)) == NO_FILES


def test_the_directory_with_the_port_comes_first(tmp_path: Path) -> None:
    fill(tmp_path / "a.example", "general.crt")
    fill(tmp_path / "a.example:443", "exact.crt")

    found = host_files(str(tmp_path), Origin.of("a.example"))

    assert found.authorities == (str(tmp_path / "a.example:443" / "exact.crt"),)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["me.cert"], "me.key"),
        (["me.key"], "me.cert"),
        (["me.cert", "other.key"], "me.key"),
        (["a.cert", "a.key", "b.cert", "b.key"], "more than one"),
    ],
)
def test_half_a_pair_or_two_are_config_errors_that_name_the_file(
    tmp_path: Path, place: Path, names: list[str], said: str
) -> None:
    fill(place, *names)

    with pytest.raises(ConfigError, match=said):
        host_files(str(tmp_path), HOST)


def test_a_directory_that_is_not_there_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="certs_dir"):
        host_files(str(tmp_path / "nowhere"), HOST)


def test_without_a_directory_there_are_no_files() -> None:
    assert host_files(None, HOST) == NO_FILES
