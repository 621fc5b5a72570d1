"""Names of images in layouts and archives, and their repositories and tags."""

from __future__ import annotations

import pytest

from registry_core.domain.image_names import ImageName, aliases, entry_name, parse_name
from registry_core.domain.names import RepositoryName
from registry_core.errors import InvalidName

CONTAINERD = "io.containerd.image.name"
REF = "org.opencontainers.image.ref.name"
DIGEST = f"sha256:{'a' * 64}"
OTHER = f"sha256:{'b' * 64}"


@pytest.mark.parametrize(
    ("text", "repository", "tag"),
    [
        ("debian:12", "library/debian", "12"),
        ("debian", "library/debian", "latest"),
        ("library/debian:12", "library/debian", "12"),
        ("docker.io/library/debian:12", "library/debian", "12"),
        ("index.docker.io/debian:12", "library/debian", "12"),
        ("org/app:v1", "org/app", "v1"),
        ("docker.io/org/app:v1", "org/app", "v1"),
        ("quay.io/org/app:v1", "quay.io/org/app", "v1"),
        ("registry.example.com:5000/org/app:v1", "registry.example.com/org/app", "v1"),
        ("localhost/app:v1", "localhost/app", "v1"),
        ("localhost:5000/app:v1", "localhost/app", "v1"),
        ("Registry.Example.Com/app:v1", "registry.example.com/app", "v1"),
        (f"org/app@sha256:{'0' * 64}", "org/app", None),
        (f"org/app:v1@sha256:{'0' * 64}", "org/app", "v1"),
    ],
)
def test_a_name_is_parsed_into_repository_and_tag(text: str, repository: str, tag: str | None) -> None:
    assert parse_name(text) == (repository, tag)


@pytest.mark.parametrize("text", ["", ":", "Debian:12", "<none>:<none>", "a//b:v1", "debian:", "0" * 64, "x" * 300])
def test_an_invalid_name_is_none(text: str) -> None:
    assert parse_name(text) is None


WHOLE_REFERENCES = [
    ("docker.io/library/alpine:3.18", "library/alpine", "3.18"),
    ("docker.io/org/app:v1", "org/app", "v1"),
    ("index.docker.io/org/app:v1", "org/app", "v1"),
    ("org/app:v1", "org/app", "v1"),
    ("debian:12", "debian", "12"),
    ("my_app:v1__2", "my_app", "v1__2"),
    ("quay.io/org/app:v1", "quay.io/org/app", "v1"),
    ("gcr.io/my_project/app:v1", "gcr.io/my_project/app", "v1"),
    ("localhost/org/app:v1", "localhost/org/app", "v1"),
    ("localhost:5000/app:v1", "localhost/app", "v1"),
    ("Registry.Example.Com:443/org/app:v1", "registry.example.com/org/app", "v1"),
    ("quay.io/org/app", "quay.io/org/app", "latest"),
    (f"quay.io/org/app:v1@{DIGEST}", "quay.io/org/app", "v1"),
    (f"org/app:v1@{DIGEST}", "org/app", "v1"),
]


@pytest.mark.parametrize(("text", "repository", "tag"), WHOLE_REFERENCES)
@pytest.mark.parametrize("beside", [{}, {CONTAINERD: "docker.io/other/image:v9"}])
def test_a_whole_reference_means_repository_and_tag(
    text: str, repository: str, tag: str, beside: dict[str, str]
) -> None:
    """R-307: it decides also beside the name that containerd writes."""
    name = entry_name({REF: text} | beside, DIGEST)

    assert (name.written, name.repository, name.tag) == (text, repository, tag)


@pytest.mark.parametrize(
    "text",
    [
        "1.0+build",
        "v1/rc",
        "org/app",
        "docker.io/org/app:1.0+build",
        "not a name",
        "../../etc/passwd:v1",
        "/etc/passwd:v1",
        "Org/App:v1",
        "debian:",
        ":v1",
        "a//b:v1",
        f"org/app:v1@{OTHER}",
        "x" * 200,
        "",
    ],
)
def test_other_names_mean_nothing(text: str) -> None:
    """R-307: they are kept as written, and never used as paths."""
    name = entry_name({REF: text}, DIGEST)

    assert (name.written, name.repository, name.tag) == (text, "", None)
    assert not name.is_mapped


@pytest.mark.parametrize(
    ("annotations", "written", "repository", "tag"),
    [
        ({REF: "v1"}, "v1", "", "v1"),
        ({CONTAINERD: "docker.io/library/debian:12", REF: "12"}, "docker.io/library/debian:12", "library/debian", "12"),
        ({CONTAINERD: "docker.io/library/debian:12"}, "docker.io/library/debian:12", "library/debian", "12"),
        ({CONTAINERD: "docker.io/org/app:v1", REF: "1.0+build"}, "docker.io/org/app:v1", "org/app", "v1"),
        ({CONTAINERD: "not a name: at all", REF: "v1"}, "v1", "", "v1"),
        ({CONTAINERD: "not a name: at all"}, "not a name: at all", "", None),
        ({CONTAINERD: f"docker.io/org/app:v1@{OTHER}", REF: "v1"}, "v1", "", "v1"),
        ({"title": "x"}, "", "", None),
        ({}, "", "", None),
    ],
)
def test_the_name_of_containerd_counts_unless_the_other_is_a_whole_reference(
    annotations: dict[str, str], written: str, repository: str, tag: str | None
) -> None:
    """R-307."""
    assert entry_name(annotations, DIGEST)[:3] == (written, repository, tag)


@pytest.mark.parametrize("text", ["", "v1", "1.0+build", "v1/rc", *[text for text, _, _ in WHOLE_REFERENCES]])
def test_a_name_as_written_may_be_any_of_the_grammar(text: str) -> None:
    assert ImageName(text) == text


@pytest.mark.parametrize("text", [" ", "a b", "a//b", "/a", "a/", "-a", "v1\n", "a\0b", "ä", "a" * 1025, "a?b", "a#b"])
def test_text_that_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        ImageName(text)


def test_aliases_of_a_repository() -> None:
    assert list(aliases(RepositoryName("debian"))) == ["debian", "library/debian", "debian"]
    assert list(aliases(RepositoryName("docker.io/org/app"))) == ["docker.io/org/app", "org/app"]
