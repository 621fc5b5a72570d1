"""Familiar names, against a table and against an independent implementation of Docker's grammar.

Where that implementation is known to differ, no comparison is made: its ``$`` lets a final newline pass, it takes
ports beyond 65535 and hosts that end in a number without being an address, it limits only the path to 255
characters, and it puts no ``library/`` rule on digests other than those of 32 hexadecimal digits and more.
"""

from __future__ import annotations

import pytest
from docker_image import reference as oracle
from hypothesis import given
from hypothesis import strategies as st

from registry_core.domain.reference import Reference, parse_familiar
from registry_core.errors import InvalidReference

SHA = "sha256:" + "a" * 64
GOOD = [
    ("debian", "docker.io/library/debian:latest"),
    ("debian:12", "docker.io/library/debian:12"),
    (f"debian@{SHA}", f"docker.io/library/debian@{SHA}"),
    (f"debian:12@{SHA}", f"docker.io/library/debian:12@{SHA}"),
    ("user/app", "docker.io/user/app:latest"),
    ("library/debian", "docker.io/library/debian:latest"),
    ("docker.io/debian", "docker.io/library/debian:latest"),
    ("index.docker.io/debian", "docker.io/library/debian:latest"),
    ("index.docker.io/user/app:v", "docker.io/user/app:v"),
    ("localhost/x", "localhost/x:latest"),
    ("localhost:5000/x", "localhost:5000/x:latest"),
    ("box:5000/x/y", "box:5000/x/y:latest"),
    ("example.com/x", "example.com/x:latest"),
    ("Foo/bar", "Foo/bar:latest"),
    ("localhost", "docker.io/library/localhost:latest"),
    ("a.b", "docker.io/library/a.b:latest"),
    ("[::1]:5000/x", "[::1]:5000/x:latest"),
]
BAD = [
    "",
    "Debian",
    "user/App",
    "Foo",
    "a//b",
    "/a",
    "a/",
    "debian:",
    "debian@",
    "-a/b",
    "a" * 63 + "+",
    "a b",
    "f" * 64,
]
HOSTS = st.sampled_from(
    ["", "localhost/", "docker.io/", "index.docker.io/", "example.com/", "Box/", "box:5000/", "a-b.c/"]
)
PATHS = st.from_regex(r"[a-zA-C0-9]{1,3}(?:(?:[._-]|__|\.\.|/)[a-z0-9]{1,3}){0,3}", fullmatch=True)
TAGS = st.sampled_from(["", ":v1", ":", ":.x", ":A_b.c-d", ":a:b"])
DIGESTS = st.sampled_from(["", f"@{SHA}", "@", "@sha256:abc"])


@pytest.mark.parametrize(("text", "expected"), GOOD)
def test_a_familiar_name_is_completed(text: str, expected: str) -> None:
    assert str(parse_familiar(text)) == expected


@pytest.mark.parametrize("text", BAD)
def test_references_that_docker_refuses_are_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse_familiar(text)


def test_names_beyond_255_characters_are_refused() -> None:
    with pytest.raises(InvalidReference):
        parse_familiar("example.com/" + "a" * 244)


def test_only_parse_familiar_assumes_a_registry() -> None:
    with pytest.raises(InvalidReference):
        Reference.parse("user/app")


@pytest.mark.parametrize(("text", "expected"), [pair for pair in GOOD if not pair[0].startswith("[")])
def test_the_table_agrees_with_the_other_implementation(text: str, expected: str) -> None:
    assert _by_the_other(text) == expected


@given(st.tuples(HOSTS, PATHS, TAGS, DIGESTS).map("".join))
def test_both_implementations_agree(text: str) -> None:
    try:
        ours: str | None = str(parse_familiar(text))
    except InvalidReference:
        ours = None

    assert ours == _by_the_other(text)


def test_a_full_reference_parses_to_itself() -> None:
    for _, full in GOOD:
        assert str(parse_familiar(full)) == full


def _by_the_other(text: str) -> str | None:
    try:
        named = oracle.Reference.parse_normalized_named(text)
    except Exception:  # its digest errors do not derive from its other errors
        return None
    tag, digest = named.get("tag"), named.get("digest")
    tag = tag or (None if digest else "latest")
    return f"{named['name']}{f':{tag}' if tag else ''}{f'@{digest}' if digest else ''}"
