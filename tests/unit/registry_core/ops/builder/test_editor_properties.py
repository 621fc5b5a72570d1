"""Any sequence of edits compared with models of an image: of its files and of its configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.registry_core.ops.extract.test_flatten_properties import LAYERS, Model, Step, of_stream, shape

from registry_core.content.streams import BytesSource
from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.ops.builder.builder import ImageBuilder
from registry_core.ops.builder.editor import ImageEditor
from registry_core.ops.builder.staged import staged_repository
from registry_core.ops.images import Image
from registry_core.ops.transfer.copy import copy
from registry_core.ops.validation.validate import validate

WORDS = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(WORDS, min_size=1, max_size=3).map("/".join)
REPACKINGS = st.sampled_from(["squash", "canonicalise", "gzip", "zstd", "plain", "label", "docker", "oci"])


def repack(image: Image, how: str) -> Image:
    editor = ImageEditor(image)
    if how == "squash":
        editor.squash()
    elif how == "canonicalise":
        editor.canonicalise(1_700_000_000, owner=(0, 0))
    elif how == "label":
        editor.label("touched", "yes")
    elif how in ("docker", "oci"):
        editor.to_docker() if how == "docker" else editor.to_oci()
    else:
        editor.recompress("" if how == "plain" else how)
    return editor.build()


def aligned(image: Image) -> bool:
    """Return whether layers, diff_ids and history agree."""
    config = image.config()
    steps = [step for step in config.history if not step.empty_layer]
    return len(image.layers()) == len(config.rootfs.diff_ids) == len(steps)


@settings(max_examples=150, deadline=None)
@given(LAYERS, st.lists(REPACKINGS, min_size=1, max_size=4))
def test_repacked_layers_give_the_same_files(steps: list[list[Step]], how: list[str]) -> None:
    model = Model(steps)
    builder = ImageBuilder(platform="linux/amd64")
    for layer in model.layers:
        builder.add_layer(layer.content)
    image = builder.build()

    for each in how:
        image = repack(image, each)

    with image.extract() as stream:
        assert shape(of_stream(stream.read())) == shape(model.tree)
    assert aligned(image)


class Files:
    """Layers as dictionaries: content by path, and ``None`` for removed paths."""

    def __init__(self) -> None:
        self.layers: list[dict[str, str | None]] = []

    def flat(self) -> dict[str, str]:
        whole: dict[str, str] = {}
        for layer in self.layers:
            # A file creates the directories above it, which replace files of lower layers; a whiteout does not.
            for path, content in layer.items():
                whole = {
                    each: text
                    for each, text in whole.items()
                    if not _within(each, path) and (content is None or not _within(path, each))
                }
            whole |= {path: text for path, text in layer.items() if text is not None}
        return whole


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def members(layer: dict[str, str | None]) -> dict[str, str | bytes]:
    found: dict[str, str | bytes] = {}
    for path, text in layer.items():
        folder, _, name = path.rpartition("/")
        if text is None:
            found[f"{folder}/.wh.{name}".lstrip("/")] = b""
        else:
            found[path] = text
    return found


@st.composite
def layers(draw: st.DrawFn) -> dict[str, str | None]:
    """A consistent layer: no path is below a file of the same layer."""
    layer: dict[str, str | None] = {}
    for path, text in draw(st.lists(st.tuples(PATHS, st.none() | st.text("xyz", max_size=3)), max_size=4)):
        if not any(_within(path, other) or _within(other, path) for other in layer):
            layer[path] = text
    return layer


EDITS = st.one_of(
    st.tuples(st.just("add"), layers()),
    st.tuples(st.sampled_from(["remove", "replace", "recompress", "squash", "canonicalise"]), st.integers(0, 9)),
    st.tuples(st.sampled_from(["label", "env", "annotate"]), st.tuples(WORDS, st.none() | st.text(max_size=4))),
)


class ConfigModel:
    """A model of the configuration."""

    def __init__(self) -> None:
        self.said: dict[str, dict[str, str]] = {"label": {}, "env": {}, "annotate": {}}


def apply(editor: ImageEditor, files: Files, told: ConfigModel, kind: str, what: Any) -> None:
    if kind in told.said:
        key, value = what
        getattr(editor, kind)(key, value)
        told.said[kind].pop(key, None)
        if value is not None:
            told.said[kind][key] = value
    elif kind == "add":
        editor.add_files(members(what), compression="zstd" if len(what) == 1 else "gzip")
        # A whiteout below a file is written with a directory, which replaces the file.
        replaced = {
            each for each in files.flat() for path, text in what.items() if text is None and _within(path, each)
        }
        files.layers.append(what | dict.fromkeys(replaced))
    elif kind == "canonicalise":
        editor.canonicalise(what)
    elif kind == "squash":
        flat = dict(files.flat())
        editor.squash()
        files.layers = [dict(flat)]
    elif files.layers:
        position = what % len(files.layers)
        if kind == "remove":
            editor.remove_layer(position)
            del files.layers[position]
        elif kind == "replace":
            content = ImageBuilder().add_files({"new": "new"}, compression="").build().layers()[0]
            with content.open() as reader:
                editor.replace_layer(position, reader.read())
            files.layers[position] = {"new": "new"}
        else:
            editor.recompress(("gzip", "zstd", "")[what % 3], position)


def odd() -> Image:
    """An image without layers and with unknown fields."""
    repository = staged_repository()
    config = strict_json.encode(
        {"os": "linux", "architecture": "amd64", "vendor": [1, {"a": None}], "config": {"X": 1}}
    )
    repository.blobs.put(Digest.of(config), len(config), BytesSource(config))
    document = {
        "schemaVersion": 2,
        "x-vendor": {"kept": True},
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": str(Digest.of(config)),
            "size": len(config),
            "x-note": "kept",
        },
        "layers": [],
    }
    raw = RawManifest.of(json.dumps(document, indent=1).encode())
    repository.manifests.put(raw)
    return Image(repository, raw)


def edited(edits: Sequence[tuple[str, Any]], files: Files, told: ConfigModel, *, at_once: bool) -> Image:
    image = odd()
    editor = ImageEditor(image)
    for kind, what in edits:
        apply(editor, files, told, kind, what)
        if not at_once:
            editor = ImageEditor(editor.build())
    return editor.build()


@settings(max_examples=200, deadline=None)
@given(st.lists(EDITS, max_size=8))
@example([("add", {"b": ""}), ("add", {"b": None}), ("add", {"b/a": None}), ("remove", 1)])
@example([("add", {"b": ""}), ("add", {"b/a": None}), ("remove", 0)])
def test_edits_change_an_image_as_they_change_the_model(edits: list[tuple[str, Any]]) -> None:
    """R-026, R-027."""
    files, told = Files(), ConfigModel()

    image = edited(edits, files, told, at_once=False)

    found = {}
    for entry in image.list_files():
        if entry.kind.value != "directory":
            with image.open_file(entry.path) as reader:
                found[entry.path] = reader.read().decode()
    assert found == files.flat()
    assert aligned(image)
    config, manifest = strict_json.decode(image.config().raw), strict_json.decode(image.raw)
    assert (config["vendor"], config["config"].pop("X", None) if edits else 1) == ([1, {"a": None}], 1)
    assert (manifest["x-vendor"], manifest["config"]["x-note"]) == ({"kept": True}, "kept")
    assert image.config().config.labels == told.said["label"]
    assert dict(item.split("=", 1) for item in image.config().config.env) == told.said["env"]
    assert image.manifest().annotations == told.said["annotate"]


@settings(max_examples=100, deadline=None)
@given(st.lists(EDITS, max_size=8))
def test_edits_at_once_or_one_by_one_make_the_same_files(edits: list[tuple[str, Any]]) -> None:
    one = edited(edits, Files(), ConfigModel(), at_once=True)
    other = edited(edits, Files(), ConfigModel(), at_once=False)

    assert [layer.digest for layer in one.layers()] == [layer.digest for layer in other.layers()]
    assert one.config().rootfs == other.config().rootfs


@settings(max_examples=30, deadline=None)
@given(st.lists(EDITS, max_size=8))
def test_an_edited_image_is_valid(edits: list[tuple[str, Any]]) -> None:
    image = edited(edits, Files(), ConfigModel(), at_once=True)
    target = staged_repository()

    copy(image.repository, target, image.document)

    assert validate(target, image.digest).findings == ()
