"""Random layers, flattened in every way, compared with a model that applies one layer after the other."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from registry_core.errors import NotFound
from registry_core.ops.extract.files import list_files, open_file
from registry_core.ops.extract.unpack import ExtractOptions, extract_to, flat_tar
from registry_core.ops.tar.members import ExtractLimits, FileKind
from registry_core.testing.layers import TarLayer, member, tar

LIMITS = ExtractLimits()


class Node(NamedTuple):
    """A file of the model; hard links to one file share the number."""

    kind: str
    text: str
    number: int


Tree = dict[str, Node]
Step = tuple[str, str, str]
PARTS = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
STEPS = st.tuples(
    st.sampled_from(["file", "file", "folder", "symlink", "link", "link", "gone", "opaque"]), PATHS, PATHS
)
LAYERS = st.lists(st.lists(STEPS, max_size=6), min_size=1, max_size=4)


def above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def remove(tree: Tree, path: str, *, itself: bool = True) -> None:
    for each in list(tree):
        if each.startswith(f"{path}/") or (itself and each == path):
            del tree[each]


class Model:
    """Valid steps applied one layer after the other, and the tars of these layers."""

    def __init__(self, layers: Sequence[Sequence[Step]]) -> None:
        self.tree: Tree = {}
        self.layers: list[TarLayer] = []
        self._number = 0
        for steps in layers:
            self._apply(steps)

    def _apply(self, steps: Sequence[Step]) -> None:
        before = dict(self.tree)
        marks = [(kind, path) for kind, path, _ in steps if kind in ("gone", "opaque")]
        for kind, path in marks:
            # Whiteouts are not followed through what is no directory: then nothing is there.
            remove(self.tree, path, itself=kind == "gone")
        here: Tree = {}
        members = []
        for kind, path, other in steps:
            if (kind, path) in marks:
                folder, _, name = path.rpartition("/")
                marker = f"{path}/.wh..wh..opq" if kind == "opaque" else f"{folder}/.wh.{name}".lstrip("/")
                members.append(member(marker))
                continue
            node = self._node(kind, path, other, here, before)
            if node is None:
                continue
            for folder in above(path):
                if folder not in here:
                    self._put(folder, Node("folder", "", 0), here)
            self._put(path, node, here)
            members.append(self._member(kind, path, other, node))
        self.layers.append(tar(*members))

    def _node(self, kind: str, path: str, other: str, here: Tree, before: Tree) -> Node | None:
        known = here.get(path)
        below = any(each.startswith(f"{path}/") for each in here)
        if any(here.get(folder, Node("folder", "", 0)).kind != "folder" for folder in above(path)):
            return None
        if kind == "folder":
            return Node("folder", "", 0) if known is None or known.kind == "folder" else None
        if known is not None or below:
            return None
        self._number += 1
        if kind == "file":
            return Node("file", f"content {self._number}", self._number)
        if kind == "symlink":
            return Node("symlink", other, self._number)
        target = here.get(other) or before.get(other)
        if target is None or target.kind == "folder" or other in (path, *above(path)):
            return None
        return target

    def _put(self, path: str, node: Node, here: Tree) -> None:
        here[path] = node
        old = self.tree.get(path)
        if node.kind != "folder" or (old is not None and old.kind != "folder"):
            remove(self.tree, path)
        self.tree[path] = node

    @staticmethod
    def _member(kind: str, path: str, other: str, node: Node) -> bytes:
        if kind == "folder":
            return member(path, kind="5", mode=0o755)
        if kind == "file":
            return member(path, node.text.encode())
        return member(path, kind="2" if kind == "symlink" else "1", link=other)


def shape(tree: Tree) -> tuple[dict[str, tuple[str, str]], set[frozenset[str]]]:
    """The content by path, and the groups of hard links."""
    groups: dict[int, set[str]] = {}
    for path, node in tree.items():
        if node.kind == "file":
            groups.setdefault(node.number, set()).add(path)
    return {path: (node.kind, node.text) for path, node in tree.items()}, {
        frozenset(group) for group in groups.values()
    }


def of_stream(content: bytes) -> Tree:
    tree: Tree = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for number, info in enumerate(archive):
            assert info.name not in tree, "a name comes twice"
            assert all(tree[folder].kind == "folder" for folder in above(info.name)), (
                "below something else, or too early"
            )
            if info.isdir():
                tree[info.name] = Node("folder", "", 0)
            elif info.issym():
                tree[info.name] = Node("symlink", info.linkname, number)
            elif info.islnk():
                tree[info.name] = tree[info.linkname]
                assert tree[info.name].kind == "file"
            else:
                reader = archive.extractfile(info)
                assert reader is not None
                tree[info.name] = Node("file", reader.read().decode(), number)
    return tree


def of_directory(directory: Path) -> Tree:
    tree: Tree = {}
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            tree[name] = Node("symlink", os.readlink(path), 0)
        elif path.is_dir():
            tree[name] = Node("folder", "", 0)
        else:
            tree[name] = Node("file", path.read_text(), path.stat().st_ino)
    return tree


@settings(max_examples=400, deadline=None)
@given(LAYERS)
def test_a_flattened_tar_equals_the_model(steps: list[list[Step]]) -> None:
    """R-134, R-150 to R-156."""
    model = Model(steps)

    with flat_tar(model.layers, LIMITS) as stream:
        content = stream.read()

    assert shape(of_stream(content)) == shape(model.tree)


@settings(max_examples=150, deadline=None)
@given(LAYERS)
def test_an_extracted_directory_equals_the_model(steps: list[list[Step]]) -> None:
    """R-134, R-150 to R-155."""
    model = Model(steps)

    with tempfile.TemporaryDirectory() as place:
        extract_to(model.layers, Path(place) / "new", options=ExtractOptions(), limits=LIMITS)
        found = of_directory(Path(place) / "new")

    assert shape(found) == shape(model.tree)


@settings(max_examples=150, deadline=None)
@given(LAYERS)
def test_listed_and_opened_files_equal_the_model(steps: list[list[Step]]) -> None:
    model = Model(steps)

    kinds = {entry.path: entry.kind for entry in list_files(model.layers, LIMITS)}

    assert set(kinds) == set(model.tree)
    for path in ["a", "b/c", *model.tree]:
        node = model.tree.get(path)
        if node is not None and node.kind == "file":
            assert kinds[path] in (FileKind.FILE, FileKind.HARDLINK)
            with open_file(model.layers, path, LIMITS) as reader:
                assert reader.read().decode() == node.text
        elif node is not None and node.kind == "folder":
            assert kinds[path] is FileKind.DIRECTORY
            try:
                open_file(model.layers, path, LIMITS).close()
            except NotFound:
                continue
            raise AssertionError("a directory was opened")
