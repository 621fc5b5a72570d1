from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_core.domain import strict_json
from registry_core.domain.platform import Platform, best_match
from registry_core.errors import InvalidName, InvalidValue

PLATFORMS = st.builds(
    Platform,
    os=st.sampled_from(["linux", "windows", "darwin", "macOS", "plan9", "unknown", ""]),
    architecture=st.sampled_from(["amd64", "x86_64", "arm64", "aarch64", "arm", "armhf", "riscv64", "unknown"]),
    variant=st.sampled_from(["", "v1", "v2", "V3", "v6", "7", "v8", "8", "v8.1", "rva22", "."]),
    os_version=st.sampled_from(["", "10.0", "10.0.1", "10.0.17763.1", "10.0.17763.2", "10.0.20348.1"]),
    os_features=st.sampled_from([(), ("win32k",), ("win32k", "gpu")]),
)
TEXTS = st.text(max_size=6)
ANY_PLATFORM = st.builds(
    Platform, os=TEXTS, architecture=TEXTS, variant=TEXTS, os_version=TEXTS, os_features=st.lists(TEXTS).map(tuple)
)


def chosen(requested: str, *offers: str) -> str | None:
    return best_match(Platform.parse(requested), [(Platform.parse(offer), offer) for offer in offers])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/aarch64/8", "linux/arm64"),
        ("arm64", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/i386", "linux/386"),
        ("macos/arm64", "darwin/arm64"),
        ("LINUX/AMD64", "linux/amd64"),
        ("windows/amd64,osver=10.0.17763.1", "windows/amd64,osver=10.0.17763.1"),
        ("windows/amd64,osfeatures=win32k+gpu,osver=10.0", "windows/amd64,osver=10.0,osfeatures=win32k+gpu"),
        ("my%20os/%61md64", "my%20os/amd64"),
    ],
)
def test_a_platform_is_normalized(text: str, expected: str) -> None:
    assert str(Platform.parse(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "linux/",
        "linux//v8",
        "a/b/c/d",
        "linux/amd 64",
        "linux/amd64,x=1",
        "linux/amd64,",
        "linux/amd64,osver",
        "linux/amd64,osver=",
        "linux/amd64,osver=1,osver=2",
        "linux/amd64,osver=1+2",
        "linux/amd64,osfeatures=",
        "linux/amd64,osfeatures=a++b",
        "linux/%",
        "linux/%FF",
        "é/a",
        None,
    ],
)
def test_malformed_platforms_are_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        Platform.parse(text)


@given(st.text(alphabet="linuxarmv8/,=osver10. \n", max_size=25))
def test_parsing_raises_only_invalid_value(text: str) -> None:
    try:
        platform = Platform.parse(text)
    except InvalidValue:
        return

    assert Platform.parse(str(platform)) == platform


@given(PLATFORMS | ANY_PLATFORM)
def test_the_text_of_a_platform_always_parses_back(platform: Platform) -> None:
    assert Platform.parse(str(platform)) == platform.normalised()


@pytest.mark.parametrize(
    ("platform", "text"),
    [
        (Platform(os="windows", architecture="amd64", os_features=("win32k",)), "windows/amd64,osfeatures=win32k"),
        (Platform(os="linux", architecture=""), "linux/unknown"),
        (Platform(os="", architecture=""), "unknown/unknown"),
        (Platform(os="a/b", architecture="c,osver=1"), "a%2Fb/c%2Cosver%3D1"),
        (Platform(os="windows", architecture="amd64", os_version="10.0 (1)"), "windows/amd64,osver=10.0%20%281%29"),
    ],
)
def test_what_has_no_place_in_the_text_is_encoded(platform: Platform, text: str) -> None:
    assert str(platform) == text
    assert Platform.parse(text) == platform.normalised()


@given(PLATFORMS | ANY_PLATFORM)
def test_normalising_twice_changes_nothing(platform: Platform) -> None:
    assert platform.normalised().normalised() == platform.normalised()


def test_json_names_are_those_of_the_specification() -> None:
    document = {
        "os": "windows",
        "architecture": "amd64",
        "os.version": "10.0.1",
        "os.features": ["win32k"],
        "features": ["sse4"],
    }

    platform = strict_json.convert(document, Platform)

    assert platform == Platform(os="windows", architecture="amd64", os_version="10.0.1", os_features=("win32k",))


@pytest.mark.parametrize(
    ("requested", "offers", "expected"),
    [
        ("linux/arm64", ["linux/amd64", "linux/arm64/v8"], "linux/arm64/v8"),
        ("linux/arm64/v8", ["linux/amd64", "linux/arm64"], "linux/arm64"),
        ("linux/arm64", ["linux/arm64/v9"], None),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], "linux/arm/v6"),
        ("linux/arm/v8", ["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v7"),
        ("linux/arm/v6", ["linux/arm/v7"], None),
        ("linux/arm/v6", ["linux/arm"], None),
        ("linux/arm64", ["linux/arm/v7"], None),
        ("linux/amd64", ["linux/amd64/v2"], None),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], "linux/amd64/v2"),
        ("linux/amd64/v3", ["linux/amd64/v2", "linux/amd64/v3"], "linux/amd64/v3"),
        ("linux/arm64", ["linux/arm64/strange"], None),
        ("linux/arm64/strange", ["linux/arm64", "linux/arm64/strange"], "linux/arm64/strange"),
        ("windows/amd64", ["linux/amd64", "windows/amd64,osver=10.0.1"], "windows/amd64,osver=10.0.1"),
        ("windows/amd64", ["linux/amd64"], None),
        ("darwin/arm64", ["linux/amd64", "linux/arm64"], None),
        ("freebsd/amd64", ["linux/amd64", "windows/amd64"], None),
        ("linux/amd64", ["windows/amd64", "darwin/amd64"], None),
        ("plan9/amd64", ["linux/amd64"], None),
        (
            "windows/amd64,osver=10.0.17763.999",
            ["windows/amd64,osver=10.0.20348.1", "windows/amd64,osver=10.0.17763.1"],
            "windows/amd64,osver=10.0.17763.1",
        ),
        ("windows/amd64,osver=10.0.17763.1", ["windows/amd64,osver=10.0.20348.1"], None),
        (
            "windows/amd64",
            ["windows/amd64,osver=10.0.9", "windows/amd64,osver=10.0.10"],
            "windows/amd64,osver=10.0.10",
        ),
    ],
)
def test_the_best_match_is_selected(requested: str, offers: list[str], expected: str | None) -> None:
    assert chosen(requested, *offers) == expected


def test_among_equals_the_first_wins() -> None:
    platform = Platform.parse("linux/amd64")

    assert best_match(platform, [(platform, 1), (platform, 2)]) == 1


def test_offers_without_a_platform_are_never_chosen() -> None:
    assert best_match(Platform.parse("linux/amd64"), [(None, 1)]) is None


@given(PLATFORMS)
def test_unknown_platforms_are_never_chosen(requested: Platform) -> None:
    unknown = Platform(os="unknown", architecture="unknown")

    assert best_match(requested, [(unknown, 1)]) is None


def test_a_short_version_is_older_than_a_long_one_in_either_order() -> None:
    """A comparison that ends with the shorter version would depend on the order."""
    short, long = "windows/amd64,osver=10.0", "windows/amd64,osver=10.0.1"

    assert chosen("windows/amd64", short, long) == long
    assert chosen("windows/amd64", long, short) == long


def test_requested_features_must_be_present() -> None:
    requested = Platform(os="windows", architecture="amd64", os_features=("win32k",))
    plain = Platform(os="windows", architecture="amd64")

    assert not requested.runs(plain)
    assert plain.runs(requested)


def test_an_offer_that_demands_features_is_the_last_choice() -> None:
    requested = Platform(os="windows", architecture="amd64")
    newest = Platform(os="windows", architecture="amd64", os_version="10.0.9", os_features=("win32k",))
    older = Platform(os="windows", architecture="amd64", os_version="10.0.8")
    both = msgspec.structs.replace(newest, os_features=("win32k", "gpu"))
    with_feature = msgspec.structs.replace(requested, os_features=("win32k",))

    assert best_match(requested, [(both, 1), (newest, 2), (older, 3)]) == 3
    assert best_match(requested, [(both, 1), (newest, 2)]) == 2
    assert best_match(with_feature, [(older, 1), (both, 2), (newest, 3)]) == 3


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            {"os": "linux", "architecture": "arm", "variant": "v6"},
            Platform(os="linux", architecture="arm", variant="v6"),
        ),
        ({"os": "linux", "architecture": "s390x", "variant": None, "os.features": None, "features": 1}, "linux/s390x"),
        ({"os": "unknown", "architecture": "unknown"}, "unknown/unknown"),
        ({}, None),
        ({"os": "", "architecture": ""}, None),
        ({"os": "linux", "architecture": " "}, None),
        ({"architecture": "amd64"}, None),
        ({"os": "linux"}, None),
        ({"os": "linux", "architecture": None}, None),
        ({"os": 7, "architecture": "amd64"}, None),
        ({"os": "linux", "architecture": ["amd64"]}, None),
        ({"os": "linux", "architecture": "arm", "variant": 7}, None),
        ({"os": "windows", "architecture": "amd64", "os.features": "win32k"}, None),
        ({"os": "windows", "architecture": "amd64", "os.version": {}}, None),
        ("linux/amd64", None),
        (["linux", "amd64"], None),
        (True, None),
        (None, None),
    ],
)
def test_an_incomplete_or_malformed_document_states_no_platform(
    document: object, expected: Platform | str | None
) -> None:
    wanted = Platform.parse(expected) if isinstance(expected, str) else expected

    assert Platform.of_document(document) == wanted


@given(PLATFORMS, st.lists(PLATFORMS, max_size=4))
def test_the_choice_does_not_depend_on_the_order_of_offers(requested: Platform, offers: list[Platform]) -> None:
    """The preference is a strict weak order: the result is among the best for every order of the offers."""
    choices = [best_match(requested, [(offer, offer) for offer in order]) for order in itertools.permutations(offers)]

    first = choices[0]
    for choice in choices:
        assert (choice is None) is (first is None)
        if choice is not None and first is not None:
            assert best_match(requested, [(choice, 1), (first, 2)]) == 1
            assert best_match(requested, [(first, 1), (choice, 2)]) == 1


@given(PLATFORMS, PLATFORMS)
def test_a_selected_platform_matches(requested: Platform, offer: Platform) -> None:
    assert (best_match(requested, [(offer, 1)]) == 1) is requested.runs(offer)


@given(PLATFORMS)
def test_a_known_platform_matches_itself(platform: Platform) -> None:
    assert platform.runs(platform) is not platform.normalised().is_unknown


def test_this_machine_has_a_platform() -> None:
    host = Platform.host()

    assert host.os == "linux"
    assert host.runs(host)
