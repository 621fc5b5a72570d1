"""Mirrors configured in TOML, with every field checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry_core.domain.platform import Platform
from registry_core.errors import InvalidDocument
from registry_core.ops.mirror.config_file import read_mirror_file
from registry_core.ops.mirror.selection import TagPatterns, TagSelection
from registry_core.ops.transfer.options import CopyOptions, IndexMode

FULL_CONFIG = """
jobs = 2
images = 3
continue_on_error = true

[defaults]
platforms = ["linux/amd64"]
index = "rewritten"
prune = true
allow_empty = true

[backends."localhost:5000"]
plain_http = true

[[mirror]]
source = "localhost:5000/org"
target = "oci:mirror"
repositories = ["app", "lib/*"]
tags = { semver = ">=1.2, <2", glob = ["*-alpine"], exclude = { regex = [".*rc.*"] }, latest = 3 }
referrers = true
digest_tags = true

[[mirror]]
source = "localhost:5000/org/tool"
target = "oci:tools"
tags = ["v1", "v2.*"]
platforms = ["linux/arm64"]
index = "sparse"
foreign_layers = true
overwrite = false
repair = true
attestations = false
prune = false
allow_empty = false
"""


def read(tmp_path: Path, text: str | bytes) -> object:
    path = tmp_path / "mirror.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_mirror_file(path)


def test_a_file_describes_mirrors(tmp_path: Path) -> None:
    path = tmp_path / "mirror.toml"
    path.write_text(
        FULL_CONFIG.replace('platforms = []\nindex = "sparse"\n', 'platforms = ["linux/arm64"]\nindex = "sparse"\n')
    )

    found = read_mirror_file(path)

    first, second = found.mirrors
    assert (found.jobs, found.images, found.continue_on_error) == (2, 3, True)
    assert found.backends == {"localhost:5000": {"plain_http": True}}
    assert (first.source, first.target, first.repositories, first.prune, first.allow_empty) == (
        "localhost:5000/org", "oci:mirror", ("app", "lib/*"), True, True,
    )  # fmt: skip
    assert first.tags == TagSelection(
        include=TagPatterns(globs=("*-alpine",), semver=">=1.2, <2"), exclude=TagPatterns(regexes=(".*rc.*",)), latest=3
    )
    assert first.options == CopyOptions(
        platforms=(Platform.parse("linux/amd64"),), index_mode=IndexMode.REWRITTEN, referrers=True, digest_tags=True
    )
    assert second.tags == TagSelection(include=TagPatterns(names=("v1",), globs=("v2.*",)))
    assert second.options == CopyOptions(
        platforms=(Platform.parse("linux/arm64"),),
        index_mode=IndexMode.SPARSE,
        foreign_layers=True,
        attestations=False,
        overwrite=False,
        repair=True,
    )
    assert (second.repositories, second.prune, second.allow_empty) == ((), False, False)


DIGEST = f"sha256:{'a' * 64}"
MINIMAL_CONFIG = '[[mirror]]\nsource = "a.test"\ntarget = "oci:x"\n'


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", ""),
        ("mirror = []", "$.mirror"),
        ('[[mirror]]\nsource = "a.test"', "$.mirror[0]"),
        (MINIMAL_CONFIG + "wrong = 1", "$.mirror[0]"),
        (MINIMAL_CONFIG + MINIMAL_CONFIG + "prune = 1", "$.mirror[1].prune"),
        (MINIMAL_CONFIG + 'allow_empty = "yes"', "$.mirror[0].allow_empty"),
        (MINIMAL_CONFIG + "tags = 3", "$.mirror[0].tags"),
        (MINIMAL_CONFIG + 'tags = ["no tag!"]', "$.mirror[0].tags"),
        (MINIMAL_CONFIG + 'tags = ["sha256:short"]', "$.mirror[0].tags"),
        (MINIMAL_CONFIG + 'tags = ["app:v1"]', "$.mirror[0].tags"),
        (MINIMAL_CONFIG + "tags = { semver = 24.04 }", "$.mirror[0].tags.semver"),
        (MINIMAL_CONFIG + "tags = { latest = true }", "$.mirror[0].tags.latest"),
        (MINIMAL_CONFIG + 'tags = { names = ["v1@sha256:short"] }', "$.mirror[0].tags.names"),
        (MINIMAL_CONFIG + f'tags = {{ exclude = {{ names = ["{DIGEST}"] }} }}', "$.mirror[0].tags.exclude.names"),
        (MINIMAL_CONFIG + 'tags = { names = ["no tag!"] }', "$.mirror[0].tags.names"),
        (MINIMAL_CONFIG + 'tags = { regex = ["("] }', "$.mirror[0].tags.regex"),
        (MINIMAL_CONFIG + MINIMAL_CONFIG + 'tags = { semver = "nonsense" }', "$.mirror[1].tags.semver"),
        (MINIMAL_CONFIG + 'tags = { exclude = { semver = "nonsense" } }', "$.mirror[0].tags.exclude.semver"),
        (MINIMAL_CONFIG + "tags = { latest = 0 }", "$.mirror[0].tags.latest"),
        (MINIMAL_CONFIG + "tags = { older = 1 }", "$.mirror[0].tags"),
        (MINIMAL_CONFIG + 'repositories = ["ok", "NOT OK"]', "$.mirror[0].repositories[1]"),
        (MINIMAL_CONFIG + 'platforms = ["/"]\nindex = "sparse"', "$.mirror[0].platforms[0]"),
        (MINIMAL_CONFIG + 'platforms = ["linux/amd64"]', "$.mirror[0].platforms"),
        (MINIMAL_CONFIG + 'index = "other"', "$.mirror[0].index"),
        ("jobs = 0\n" + MINIMAL_CONFIG, "$.jobs"),
        ('[[mirror]]\nsource = "https://user:secret@a.test"\ntarget = "oci:x"', "$.mirror[0].source"),
        (MINIMAL_CONFIG + '[backends."user:secret@a.test"]\n', "$.backends"),
        ("not toml", ""),
        (b"\xff", ""),
        ("a = " + "[" * 5000, ""),
    ],
)  # fmt: skip
def test_an_error_names_the_wrong_field(tmp_path: Path, text: str | bytes, path: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        read(tmp_path, text)

    assert caught.value.path.startswith(path)
    assert (caught.value.path == "") is (path == "")
    assert "secret" not in f"{caught.value}{caught.value.path}"
    assert caught.value.operation == "read_mirror_file"


def test_tags_may_list_digests(tmp_path: Path) -> None:
    path = tmp_path / "mirror.toml"
    path.write_text(MINIMAL_CONFIG + f'tags = ["v1", "{DIGEST}", "v2@{DIGEST}", "v3*"]\n')

    (mirror,) = read_mirror_file(path).mirrors

    assert mirror.tags == TagSelection(include=TagPatterns(names=("v1", DIGEST, f"v2@{DIGEST}"), globs=("v3*",)))


def test_a_file_beyond_the_size_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocument, match="larger"):
        read(tmp_path, "#" * (2 << 20))
