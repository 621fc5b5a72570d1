from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.reference import Reference, parse_familiar, parse_tag_and_digest, parse_tag_or_digest
from registry_core.errors import InvalidDigest, InvalidName, InvalidReference, InvalidValue

SHA = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        (f"registry.example.com:5000/org/app:v1@{SHA}", "registry.example.com:5000", "org/app", "v1", SHA),
        ("registry.example.com/app", "registry.example.com", "app", None, None),
        ("localhost/app:v1", "localhost", "app", "v1", None),
        (f"[::1]:5000/a/b@{SHA}", "[::1]:5000", "a/b", None, SHA),
        ("box:80/a:b", "box:80", "a", "b", None),
    ],
)
def test_a_reference_is_parsed(text: str, registry: str, repository: str, tag: str | None, digest: str | None) -> None:
    reference = Reference.parse(text)

    assert (reference.registry, reference.repository, reference.tag, reference.digest) == (
        registry,
        repository,
        tag,
        digest,
    )
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "debian",
        "org/app:v1",
        "/app",
        "example.com",
        "example.com/",
        "example.com/App",
        "example.com/app:",
        "example.com/app@",
        "example.com/app@sha256:abc",
        f"example.com/app@{SHA}@{SHA}",
        f"example.com/app@{SHA}:v1",
        "example.com/app:v1:v2",
        "user@example.com/app",
        "https://example.com/app",
        "example.com:port/app",
        "example.com:70000/app",
        "example.com/app\n",
        " example.com/app",
        "oci:dir/app",
    ],
)
def test_malformed_references_are_refused(text: str) -> None:
    """R-010, R-011."""
    with pytest.raises(InvalidReference):
        Reference.parse(text)


def test_the_digest_takes_precedence_over_the_tag() -> None:
    assert Reference.parse(f"a.io/b:v1@{SHA}").tag_or_digest == Digest(SHA)
    assert Reference.parse("a.io/b:v1").tag_or_digest == Tag("v1")


def test_a_repository_alone_has_neither_tag_nor_digest() -> None:
    with pytest.raises(InvalidReference) as caught:
        _ = Reference.parse("a.io/b").tag_or_digest

    assert caught.value.reference == "a.io/b"


def test_the_constructor_refuses_malformed_parts() -> None:
    with pytest.raises(InvalidReference):
        Reference("u:p@a.io", RepositoryName("b"))
    with pytest.raises(InvalidReference):
        Reference("a.io", RepositoryName(""))
    with pytest.raises(InvalidReference):
        Reference("registry", RepositoryName("b"))


def test_parts_given_as_text_get_their_types() -> None:
    reference = Reference("a.io", "b", "v1", SHA)  # type: ignore[arg-type]  # as untyped code may call it

    assert type(reference.repository) is RepositoryName
    assert type(reference.tag) is Tag
    assert type(reference.digest) is Digest


def test_references_are_compared_by_value() -> None:
    reference = Reference.parse(f"a.io/b:v1@{SHA}")

    assert pickle.loads(pickle.dumps(reference)) == reference
    assert len({reference, Reference.parse(str(reference))}) == 1


@given(
    st.sampled_from(["a.io", "localhost", "EXAMPLE.com", "x:1", "[::1]", "127.0.0.1:5000"]),
    st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+)?(/[a-z0-9]+)?", fullmatch=True),
    st.none() | st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,9}", fullmatch=True),
    st.none() | st.just(SHA),
)
def test_text_of_a_reference_parses_to_the_same_reference(
    registry: str, repository: str, tag: str | None, digest: str | None
) -> None:
    reference = Reference(
        registry, RepositoryName(repository), Tag(tag) if tag else None, Digest(digest) if digest else None
    )

    assert Reference.parse(str(reference)) == reference


@given(st.text(alphabet="aA0.:/@[]-_ \nsh", max_size=30))
def test_parsing_raises_only_invalid_value(text: str) -> None:
    for parse in (Reference.parse, parse_tag_or_digest):
        try:
            parsed = parse(text)
        except InvalidValue:
            continue
        assert text.removeprefix("@").endswith(str(parsed))


@pytest.mark.parametrize("text", [SHA, f"@{SHA}", "sha512:" + "b" * 128, "@md5:abc"])
def test_text_with_a_colon_is_a_digest(text: str) -> None:
    found = parse_tag_or_digest(text)

    assert isinstance(found, Digest)
    assert found == text.removeprefix("@")


@pytest.mark.parametrize(
    ("text", "tag", "digest"),
    [("v1", "v1", None), (SHA, None, SHA), (f"@{SHA}", None, SHA), (f"v1.0_a-b@{SHA}", "v1.0_a-b", SHA)],
)
def test_a_tag_and_a_digest_may_be_given_together(text: str, tag: str | None, digest: str | None) -> None:
    found = parse_tag_and_digest(text)

    assert found == (tag, digest)
    assert [type(each) for each in found if each is not None] == [
        kind for kind, each in ((Tag, tag), (Digest, digest)) if each is not None
    ]
    assert parse_tag_or_digest(text) == (digest or tag)
    assert isinstance(parse_tag_or_digest(text), Digest if digest else Tag)


def test_text_without_a_colon_is_a_tag() -> None:
    found = parse_tag_or_digest("v1")

    assert isinstance(found, Tag)
    assert found == "v1"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", InvalidReference),
        ("a/b", InvalidReference),
        (f"app:v1@{SHA}", InvalidName),
        (f"a/b@{SHA}", InvalidReference),
        (f"no tag@{SHA}", InvalidName),
        (f"{SHA}@{SHA}", InvalidName),
        (f"v1@{SHA}@{SHA}", InvalidReference),
        ("v1@", InvalidDigest),
        ("v1@v2", InvalidDigest),
        ("v1@sha256:abc", InvalidDigest),
        (f"v1@{SHA}\n", InvalidDigest),
        (f"@@{SHA}", InvalidReference),
        (None, InvalidReference),
        ("@v1", InvalidDigest),
        ("sha256:abc", InvalidDigest),
        ("@", InvalidDigest),
        ("-v1", InvalidName),
        ("v1\n", InvalidName),
    ],
)
def test_text_that_is_neither_tag_nor_digest_is_refused(text: str, error: type[InvalidValue]) -> None:
    with pytest.raises(error):
        parse_tag_or_digest(text)


@pytest.mark.parametrize("parse", [Reference.parse, parse_familiar])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:hunter2@host/app:v1", "http://host/app:v1"),
        ("https://user:hunter2@host", "https://host"),
        ("user:hunter2@host/app:v1", "***@host"),
        ("user:hunter2@host.example.com:5000/app:v1", "***@host.example.com:5000"),
        ("hunter2@host.example.com/app", "***@host.example.com"),
        ("user:hunter2@host", "***@host"),
        ("user:hunter2@host:5000", "***@host:5000"),
    ],
)
def test_user_information_is_refused_and_not_shown(parse: Callable[[str], Reference], text: str, shown: str) -> None:
    """R-043."""
    with pytest.raises(InvalidReference) as caught:
        parse(text)

    assert f"no user information: {shown};" in str(caught.value)
    assert "hunter2" not in str(caught.value)
