"""Parsing of ``WWW-Authenticate`` (R-040)."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry_adapters.http.headers import challenges
from registry_core.domain.auth import Challenge

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=12)
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40)


def quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([""], []),
        (['Basic realm="r"'], [("basic", {"realm": "r"})]),
        (["Basic"], [("basic", {})]),
        (
            ['Bearer realm="https://auth.example.com/token",service="registry",scope="repository:a/b:pull,push"'],
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.example.com/token",
                        "service": "registry",
                        "scope": "repository:a/b:pull,push",
                    },
                )
            ],
        ),
        (['bEaReR REALM="x" , Service="y"'], [("bearer", {"realm": "x", "service": "y"})]),
        (['Bearer realm="a", Basic realm="b"'], [("bearer", {"realm": "a"}), ("basic", {"realm": "b"})]),
        (['Bearer realm="a"', 'Basic realm="b"'], [("bearer", {"realm": "a"}), ("basic", {"realm": "b"})]),
        (['Negotiate, Basic realm="b"'], [("negotiate", {}), ("basic", {"realm": "b"})]),
        (['Negotiate YWJj==, Basic realm="b"'], [("negotiate", {}), ("basic", {"realm": "b"})]),
        (["Negotiate YWJj/+=="], [("negotiate", {})]),
        (
            ["Bearer realm=https://a.example/token,service=x"],
            [("bearer", {"realm": "https://a.example/token", "service": "x"})],
        ),
        (['Bearer realm="x",scope=""'], [("bearer", {"realm": "x", "scope": ""})]),
        ([r'Bearer realm="a\"b\\c"'], [("bearer", {"realm": 'a"b\\c'})]),
        (['Bearer realm = "x" ,\tservice\t=\ty'], [("bearer", {"realm": "x", "service": "y"})]),
        ([', ,Bearer realm="x",, service="y",'], [("bearer", {"realm": "x", "service": "y"})]),
        (['Bearer realm="x" service="y"'], [("bearer", {"realm": "x", "service": "y"})]),
        (['Bearer realm="first",realm="second"'], [("bearer", {"realm": "first"})]),
        (
            ['Bearer realm="https://a/t",service="",scope="repository:a:pull repository:b:pull,push",error=""'],
            [
                (
                    "bearer",
                    {
                        "realm": "https://a/t",
                        "service": "",
                        "scope": "repository:a:pull repository:b:pull,push",
                        "error": "",
                    },
                )
            ],
        ),
        (
            ["Bearer realm=https://a/t,service=,scope="],
            [("bearer", {"realm": "https://a/t", "service": "", "scope": ""})],
        ),
        (
            ["Bearer realm=https://a/t?x=1&y=2 ,service=s"],
            [("bearer", {"realm": "https://a/t?x=1&y=2", "service": "s"})],
        ),
        (
            ['Digest qop="auth, auth-int", nonce=abc==, Bearer realm="t", Negotiate'],
            [("digest", {"qop": "auth, auth-int", "nonce": "abc=="}), ("bearer", {"realm": "t"}), ("negotiate", {})],
        ),
        (
            ["NTLM TlRMTVNTUAACAAAA==", 'Negotiate oYG2MIGz, BASIC Realm="r", CharSet="UTF-8"'],
            [("ntlm", {}), ("negotiate", {}), ("basic", {"realm": "r", "charset": "UTF-8"})],
        ),
        (['Bearer error="x" Basic realm="y"'], [("bearer", {"error": "x"}), ("basic", {"realm": "y"})]),
        (['Bearer realm="t",,,', "", ",", 'Basic realm="b"'], [("bearer", {"realm": "t"}), ("basic", {"realm": "b"})]),
        (['Bearer realm="a, Basic realm=b", service="s"'], [("bearer", {"realm": "a, Basic realm=b", "service": "s"})]),
    ],
)
def test_each_form_of_challenge_is_parsed(values: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    found = challenges(values)

    assert [(one.scheme, one.parameters) for one in found] == expected


@pytest.mark.parametrize(
    "value",
    ['Bearer realm="open', 'Bearer realm="x\\', "=", '"', 'realm="x"', "Bearer realm=", "\x00\x01", "Bearer,=,=", "é"],
)
def test_malformed_challenges_do_not_raise(value: str) -> None:
    """R-040: malformed input ends in an authentication error, not in the parser."""
    found = challenges([value])

    assert all(isinstance(one, Challenge) for one in found)


def test_a_valid_challenge_between_malformed_ones_is_parsed() -> None:
    found = challenges([';;; @"(" /, Bearer realm="x"', '"noise" Basic realm="y"'])

    assert Challenge("bearer", {"realm": "x"}) in found
    assert Challenge("basic", {"realm": "y"}) in found


def test_the_number_of_challenges_is_limited() -> None:
    found = challenges(["a," * 1000, "b"])

    assert len(found) == 32


def test_the_number_of_parameters_is_limited() -> None:
    found = challenges(["Bearer " + ",".join(f"p{number}=x" for number in range(5000))])

    assert found[0].parameters["p0"] == "x"
    assert "p4999" not in found[0].parameters


@given(st.lists(st.one_of(st.text(max_size=200), st.text('aB=", \\\t/', max_size=200)), max_size=4))
def test_arbitrary_text_does_not_raise(values: list[str]) -> None:
    found = challenges(values)

    assert all(one.scheme == one.scheme.lower() for one in found)


@given(st.lists(st.tuples(NAMES, st.dictionaries(NAMES, TEXTS, min_size=1, max_size=4)), min_size=1, max_size=4))
def test_challenges_written_by_the_grammar_are_parsed_back(parts: list[tuple[str, dict[str, str]]]) -> None:
    value = ", ".join(
        f"{scheme} " + ", ".join(f"{name}={quote(text)}" for name, text in parameters.items())
        for scheme, parameters in parts
    )

    found = challenges([value])

    assert [(one.scheme, one.parameters) for one in found] == parts


@pytest.mark.parametrize(
    "unit",
    [
        '"',
        "\\",
        "=",
        ",",
        "a",
        "a ",
        "a=",
        'a="',
        "a,",
        '\\"',
        " ",
        "a=b,",
        'a="b",',
        "/",
        "x/",
        "x x/ ",
        '"\\',
        "a =",
        "(",
        '("',
    ],
)
def test_a_mebibyte_of_any_character_is_parsed_in_linear_time(unit: str) -> None:
    """R-040."""
    value = "Bearer " + unit * (2**20 // len(unit))
    start = time.process_time()

    challenges([value])

    assert time.process_time() - start < 1.0


@settings(max_examples=60, deadline=None)
@given(st.text('aB="\\, \t/.~(;é', min_size=1, max_size=6), st.sampled_from(["", "Bearer ", 'Bearer realm="', "a="]))
def test_repeated_tokens_are_parsed_in_linear_time(unit: str, before: str) -> None:
    """R-040."""
    value = before + unit * (2**18 // len(unit))
    start = time.process_time()

    challenges([value])

    assert time.process_time() - start < 0.5


def test_the_number_of_header_fields_is_limited() -> None:
    """R-040."""
    found = challenges(f"Bearer p{number}=x" for number in range(100_000))

    assert len(found) == 32
