from __future__ import annotations

from pathlib import Path

import pytest

from registry_adapters.http.transport.tls import NO_FILES, HostFiles, host_files
from registry_core.domain.origin import Origin
from registry_core.errors import ConfigError

HOST = Origin.of("registry.example.com:5000")


@pytest.fixture
def host_directory(tmp_path: Path) -> Path:
    """An empty directory for the host."""
    host_directory = tmp_path / "registry.example.com:5000"
    host_directory.mkdir()
    return host_directory


def create_files(directory: Path, *names: str) -> None:
    directory.mkdir(exist_ok=True)
    for name in names:
        (directory / name).write_bytes(b"")


def test_authorities_certificate_and_key_are_found_by_file_name(tmp_path: Path, host_directory: Path) -> None:
    create_files(host_directory, "b.crt", "a.crt", "me.cert", "me.key", "README", "ca.pem")

    found = host_files(str(tmp_path), HOST)

    assert found == HostFiles(
        authorities=(str(host_directory / "a.crt"), str(host_directory / "b.crt")),
        identity=(str(host_directory / "me.cert"), str(host_directory / "me.key")),
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
def test_the_directory_has_the_name_of_the_host(tmp_path: Path, directory: str, host: str) -> None:
    create_files(tmp_path / directory, "ca.crt")

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
def test_files_of_another_host_or_port_are_not_used(tmp_path: Path, directory: str, host: str) -> None:
    """R-030."""
    create_files(tmp_path / directory, "ca.crt", "me.cert", "me.key")

    assert host_files(str(tmp_path), Origin.of(host)) == NO_FILES


def test_the_directory_with_the_default_port_precedes_the_one_without(tmp_path: Path) -> None:
    create_files(tmp_path / "a.example", "general.crt")
    create_files(tmp_path / "a.example:443", "exact.crt")

    found = host_files(str(tmp_path), Origin.of("a.example"))

    assert found.authorities == (str(tmp_path / "a.example:443" / "exact.crt"),)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["me.cert"], "me.key"),
        (["me.key"], "me.cert"),
        (["me.cert", "other.key"], "me.key"),
        (["a.cert", "a.key", "b.cert", "b.key"], "more than one"),
    ],
)
def test_an_incomplete_or_second_pair_is_a_config_error_that_names_the_file(
    tmp_path: Path, host_directory: Path, names: list[str], message: str
) -> None:
    create_files(host_directory, *names)

    with pytest.raises(ConfigError, match=message):
        host_files(str(tmp_path), HOST)


def test_an_absent_certs_dir_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="certs_dir"):
        host_files(str(tmp_path / "nowhere"), HOST)


def test_without_certs_dir_there_are_no_files() -> None:
    assert host_files(None, HOST) == NO_FILES
