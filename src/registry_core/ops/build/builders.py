"""Images from parts: the same parts give the same digest, wherever zlib compresses alike."""

from __future__ import annotations

from registry_core.domain.media_types import OCI_MANIFEST
from registry_core.domain.platform import Platform
from registry_core.errors import InvalidValue
from registry_core.ops.build.config_draft import EPOCH, ConfigDraft
from registry_core.ops.build.draft import Draft
from registry_core.ops.build.parts import draft_of, inherited_parts
from registry_core.ops.image import Image

__all__ = ["ImageBuilder"]


class ImageBuilder(Draft):
    """A new image in the making. Each method changes the builder and returns it.

    Layers are read and written when they are added. Times are those given by ``created``, else the beginning of
    1970, so that nothing depends on when the image is built.

    The same parts give the same tars, and so the same ``diff_id`` of each layer, on any machine. They give the same
    digest as well wherever Python was built with the same zlib: another one, such as zlib-ng, may compress the same
    tar to other bytes. Where digests must agree across such machines, make the layers once and use ``add_layer``, or
    do not compress them.

    What is built is an OCI image, with annotations of its own, whatever its base is: to change an image and keep the
    rest of it as it is, take an ``ImageEditor``.

    Args:
        platform: What the image will run on; by default what its base runs on, or ``linux/amd64`` without one.
        base: An image to stand on: its layers, its configuration, unknown fields included, and its history.

    Raises:
        InvalidName: The text is not a platform.
        InvalidValue: The base does not run on the platform.
        RegistryError: The base's configuration cannot be read.
    """

    def __init__(self, platform: Platform | str | None = None, base: Image | None = None) -> None:
        wanted = Platform.parse(platform) if isinstance(platform, str) else platform
        config = ConfigDraft({}, 0, complete=True) if base is None else draft_of(base, complete=True)
        offered = config.platform
        if wanted is not None and offered is not None and not _stands_on(wanted, offered):
            raise InvalidValue(f"a base for {offered} does not run on {wanted}")
        if wanted is not None or offered is None:
            config.set_platform(wanted or Platform(os="linux", architecture="amd64"))
        config.moment = EPOCH
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST}
        super().__init__(manifest, [] if base is None else inherited_parts(base, ours=True), config)
        self._inherited_cmd = base is not None


def _stands_on(platform: Platform, base: Platform) -> bool:
    """Whether an image for a platform may have a base for another: Windows runs Linux images, but not as its own."""
    return platform.normalised().os == base.normalised().os and platform.runs(base)
