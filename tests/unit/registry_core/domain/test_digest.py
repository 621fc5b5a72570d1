from __future__ import annotations

import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_core.domain.digest import Digest
from registry_core.errors import InvalidDigest, InvalidValue, Unsupported

HEX = "a" * 64


@pytest.mark.parametrize(
    "text",
    [
        f"sha256:{HEX}",
        f"sha512:{HEX}{HEX}",
        "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8",
        "sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "blake3:AA==",
    ],
)
def test_valid_digests_are_accepted(text: str) -> None:
    """R-001."""
    digest = Digest(text)

    assert str(digest) == text
    assert f"{digest.algorithm}:{digest.encoded}" == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        ":abc",
        f"sha256:{HEX}\n",
        f" sha256:{HEX}",
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}a",
        f"sha256:{HEX[:-1]}A",
        f"sha256:{HEX[:-1]}g",
        f"SHA256:{HEX}",
        f"sha512:{HEX}",
        f"sha256:{HEX[:-1]}\u0663",
        "+sha:abc",
        "sha++256:abc",
        "sha256:../../x",
        "x:a/b",
    ],
)
def test_malformed_digests_are_refused(text: str) -> None:
    """R-001."""
    with pytest.raises(InvalidDigest):
        Digest(text)


@pytest.mark.parametrize("value", [None, 5, b"sha256:abc", ["sha256:abc"]])
def test_a_value_that_is_not_text_is_refused(value: object) -> None:
    """R-001."""
    with pytest.raises(InvalidDigest):
        Digest(value)  # type: ignore[arg-type]  # as untyped code may call it


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha384", "sha3-256", "blake2b", "shake_128"])
def test_unregistered_algorithms_cannot_be_verified(algorithm: str) -> None:
    """R-002."""
    digest = Digest(f"{algorithm}:abc")

    assert not digest.verifiable
    with pytest.raises(Unsupported):
        digest.hasher()
    with pytest.raises(Unsupported):
        Digest.of(b"", algorithm)


@given(st.binary(), st.sampled_from(["sha256", "sha512"]))
def test_digests_of_content_equal_those_of_hashlib(content: bytes, algorithm: str) -> None:
    digest = Digest.of(content, algorithm)

    assert digest == f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
    assert digest.verifiable


def test_an_incremental_hash_gives_the_digest_of_all_content() -> None:
    hasher = Digest.of(b"").hasher()

    hasher.update(b"ab")
    hasher.update(memoryview(b"c"))

    assert hasher.hexdigest() == Digest.of(b"abc").encoded


def test_a_digest_is_a_string_and_can_be_pickled() -> None:
    digest = Digest(f"sha256:{HEX}")

    copied = pickle.loads(pickle.dumps(digest))

    assert type(copied) is Digest
    assert copied == f"sha256:{HEX}"


@given(st.text())
def test_parsing_raises_only_invalid_value(text: str) -> None:
    try:
        digest = Digest(text)
    except InvalidValue:
        return

    assert digest == text


def test_a_megabyte_of_separators_is_refused_quickly() -> None:
    """R-001: the grammar has no catastrophic input."""
    with pytest.raises(InvalidDigest):
        Digest("a+" * (1 << 19))
