from __future__ import annotations

import pytest

from registry_adapters.http.headers import next_target
from registry_core.errors import ProtocolError


@pytest.mark.parametrize(
    ("field", "target"),
    [
        ('</v2/a/tags/list?last=b&n=2>; rel="next"', "/v2/a/tags/list?last=b&n=2"),
        ("</v2/a/tags/list?last=b>; rel=next", "/v2/a/tags/list?last=b"),
        ('<?last=b>;rel="next"', "?last=b"),
        ('<//registry.example.com/x> ; REL = "Next"', "//registry.example.com/x"),
        ('<https://registry.example.com/x>; rel="prev next"', "https://registry.example.com/x"),
        ('</first>; rel="first", </x,y;z>; rel="next"', "/x,y;z"),
        ('</x>; title="a, <b>; rel=\\"prev\\""; rel=next', "/x"),
        ("</x>; rel=next;", "/x"),
        (", </x>; rel=next, ", "/x"),
        ('</x>; rel="prev"; rel="next"', None),
        ("</x>; rel='next'", "/x"),
        ('</x>; rel="first next"', "/x"),
        ('</x>; rel="describedby"', None),
        ('</x>; rel="last", </y>; rel=prev', None),
        ("</x>; rel=https://example.com/relations/other", None),
        ("</x>; title=next", "/x"),
        ("</x>", "/x"),
        ("</x>; rel", "/x"),
        ('</x>; rel=""', "/x"),
        ('</x>; rel="first", </y>', "/y"),
        ("</x>, </x>", "/x"),
        ("</x>, </y>; rel=next", "/y"),
        ('</v2/a/tags/list?last=b; rel="next">', "/v2/a/tags/list?last=b"),
        ("<?last=b;rel=next>", "?last=b"),
        ("<?last=b ; Rel = 'Next'>", "?last=b"),
        ('</x; rel="first">', None),
        ('</x;rel=prev>; rel="next"', "/x;rel=prev"),
        ("", None),
    ],
)
def test_the_next_page_is_found_in_each_form_of_link(field: str, target: str | None) -> None:
    """R-091."""
    assert next_target([field]) == target


@pytest.mark.parametrize(
    "field",
    [
        "/x; rel=next",
        "</x; rel=next",
        '</x>; rel="next',
        "</x> rel=next",
        "</a>; rel=prev </b>; rel=next",
        "<a<b>; rel=next",
        '</x>, rel="next"',
        '</x>; rel=\\"next\\"',
        "</x>; rel=&quot;next&quot;",
        "</x>; rel=%22next%22",
        "</x>; rel=\u201cnext\u201d",
        '</x>; rel="next_"',
        "</x>; rel='first next'",
        '</x; rel="next"; title="a">',
        '</x; rel="next>',
        "</x>, </y>",
    ],
)
def test_a_malformed_link_is_an_error_and_not_the_last_page(field: str) -> None:
    """R-091."""
    with pytest.raises(ProtocolError):
        next_target([field])


def test_several_link_fields_are_read_as_one_list() -> None:
    """R-091."""
    assert next_target(["</a>; rel=prev", "</b>; rel=next"]) == "/b"


def test_two_different_next_links_are_an_error() -> None:
    """R-091: neither link is silently ignored."""
    with pytest.raises(ProtocolError):
        next_target(["</a>; rel=next", "</b>; rel=next"])


def test_a_repeated_next_link_is_one_link() -> None:
    assert next_target(["</a>; rel=next, </a>; rel=next"]) == "/a"
