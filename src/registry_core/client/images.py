"""Images and indexes: looked at, stored, copied, tagged, removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry_core.client.place import Place, platform_of
from registry_core.domain.config import ImageConfig
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.names import Tag
from registry_core.domain.platform import Platform
from registry_core.domain.reference import locator
from registry_core.errors import ImageNotFound, InvalidReference, during
from registry_core.ops.copy import move_graph
from registry_core.ops.document import Manifest
from registry_core.ops.graph import fetch
from registry_core.ops.image import Image, Index
from registry_core.ops.select import select
from registry_core.scope import checkpoint

if TYPE_CHECKING:
    from registry_core.ops.transfer.choices import CopyChoices
    from registry_core.ports.observer import Observer

__all__ = ["ImageMethods"]


class ImageMethods(Place):
    """The part of the client that is about images."""

    def get_image(self, reference: str, platform: Platform | str | None = None) -> Image:
        """An image, lazily: only manifests are read for now.

        Of an index, the image that fits the platform best. Of an image that stands alone, that image; its
        configuration is compared if a platform was asked for.

        Args:
            reference: A tag or a digest.
            platform: As ``linux/arm64/v8``; by default the client's default.

        Raises:
            ImageNotFound: No such manifest.
            PlatformNotFound: Nothing there fits; ``available`` lists what there is.
            NotAnImage: It is neither an image nor an index.
            IntegrityError: The backend sent something else than what was asked for.
            InvalidValue: The reference or the platform is malformed.
        """
        return self._image("get_image", reference, platform)

    def get_index(self, reference: str) -> Index:
        """An image index.

        Raises:
            ImageNotFound: No such manifest.
            NotAnIndex: It is something else.
            InvalidValue: The reference is malformed.
        """
        with during("get_index", self._at(reference)):
            named = locator(reference)
            raw, at = fetch(self._repository, named), self._repository.at(named)
            return Index(self._repository, raw, reference=at, default_platform=self._default_platform)

    def get_manifest(self, reference: str, platform: Platform | str | None = None) -> Manifest:
        """A manifest of any kind, as it is; with a platform, the one of the image that fits it.

        Raises:
            ImageNotFound: No such manifest.
            PlatformNotFound: Nothing there fits.
            InvalidValue: The reference or the platform is malformed.
        """
        with during("get_manifest", self._at(reference)):
            wanted, named = platform_of(platform), locator(reference)
            raw = fetch(self._repository, named)
            if wanted is not None:
                raw = select(self._repository, raw, wanted).manifest
            return Manifest(raw, reference=self._repository.at(named))

    def get_image_config(self, reference: str, platform: Platform | str | None = None) -> ImageConfig:
        """An image's configuration, verified.

        Raises:
            ImageNotFound: No such manifest.
            PlatformNotFound: Nothing there fits.
            NotAnImage: It is no image, but some other artifact.
            InvalidDocument: The configuration is malformed.
            InvalidValue: The reference or the platform is malformed.
        """
        image = self._image("get_image_config", reference, platform)
        with during("get_image_config", self._at(reference)):
            return image.config()

    def get_digest(self, reference: str) -> Digest:
        """The digest that a tag stands for just now.

        Raises:
            ImageNotFound: No such manifest.
            InvalidValue: The reference is malformed.
        """
        return self._resolve("get_digest", reference).digest

    def check_image_exists(self, reference: str) -> None:
        """Nothing, if there is such a manifest.

        Raises:
            ImageNotFound: There is none.
            InvalidValue: The reference is malformed.
        """
        self._resolve("check_image_exists", reference)

    def image_exists(self, reference: str) -> bool:
        """Whether there is such a manifest; a denial is an error, never "no".

        Raises:
            AccessDenied: The registry does not tell.
            InvalidValue: The reference is malformed.
        """
        try:
            self._resolve("image_exists", reference)
        except ImageNotFound:
            return False
        return True

    def push_image(
        self, reference: str, image: Image, *, observer: Observer | None = None, jobs: int = 4
    ) -> Descriptor:
        """Store an image from any backend or builder under a tag; what is here already is not moved.

        Args:
            reference: A tag, or the image's own digest to store it untagged.
            image: What to store.
            observer: Told of each blob, in place of the client's own observer.
            jobs: How many blobs move at a time.

        Raises:
            InvalidReference: The digest is not the image's.
            Unsupported: The backend cannot be written.
            NotFound: A part of the image is missing.
            IntegrityError: A part of the image is not what it should be.
        """
        return self._push("push_image", reference, image, observer, jobs)

    def push_index(
        self, reference: str, index: Index, *, observer: Observer | None = None, jobs: int = 4
    ) -> Descriptor:
        """Store an index and all it lists; otherwise as ``push_image``.

        Raises:
            InvalidReference: The digest is not the index's.
            Unsupported: The backend cannot be written.
            NotFound: A part of it is missing.
            IntegrityError: A part of it is not what it should be.
        """
        return self._push("push_index", reference, index, observer, jobs)

    def tag_image(self, source: str, target: str) -> Descriptor:
        """Point another tag at an image or index of this repository.

        Raises:
            ImageNotFound: No such manifest.
            InvalidValue: The source is malformed, or the target is not a tag.
        """
        with during("tag_image", self._at(source)):
            named, tag = locator(source), Tag(target)
            raw = fetch(self._repository, named)
            self._repository.manifests.put(raw, tags=(tag,))
            return raw.descriptor

    def copy_image(
        self,
        source: str,
        target_client: Place,
        target: str,
        *,
        choices: CopyChoices | None = None,
        observer: Observer | None = None,
        jobs: int = 4,
    ) -> Descriptor:
        """Copy an image, or an index whole, to another path or backend.

        Args:
            source: A tag or digest here.
            target_client: Where to.
            target: A tag there, or the same digest to store it untagged.
            choices: What of it is copied: some platforms, referrers, cosign's tags; by default the whole, and nothing
                that merely refers to it.
            observer: Told of each blob, in place of this client's own observer.
            jobs: How many blobs move at a time.

        Raises:
            ImageNotFound: No such manifest.
            PlatformNotFound: Nothing there is for any of the platforms that were chosen.
            InvalidValue: A reference is malformed, or the target is another digest.
            Unsupported: The target cannot be written.
            IntegrityError: The source sent something else than what was asked for.
        """
        with during("copy_image", self._at(source)):
            raw = fetch(self._repository, locator(source))
            return move_graph(
                self._repository,
                target_client.repository,
                raw,
                tags=_tags(target, raw.digest),
                choices=choices,
                observer=self._told(observer),
                jobs=jobs,
                operation="copy_image",
            )

    def delete_tag(self, tag: str) -> None:
        """Remove a tag; the manifest stays, with its other tags.

        Raises:
            ImageNotFound: No such tag.
            InvalidName: Not a tag.
            Unsupported: The backend does not remove tags alone.
        """
        with during("delete_tag", self._at(tag)):
            checkpoint()
            self._repository.manifests.untag(Tag(tag))

    def delete_by_digest(self, digest: str) -> None:
        """Remove a manifest and every tag on it.

        Raises:
            ImageNotFound: No such manifest.
            InvalidDigest: Not a digest.
            Unsupported: The backend does not delete.
        """
        with during("delete_by_digest", self._at(digest)):
            text = digest.removeprefix("@") if isinstance(digest, str) else digest
            checkpoint()
            self._repository.manifests.delete(Digest(text))

    def _image(self, operation: str, reference: str, platform: Platform | str | None) -> Image:
        with during(operation, self._at(reference)):
            wanted, named = platform_of(platform), locator(reference)
            raw = fetch(self._repository, named)
            choice = select(self._repository, raw, wanted, default=self._default_platform)
            reference = self._repository.at(named)
            return Image(self._repository, choice.manifest, reference=reference, platform=choice.platform)

    def _resolve(self, operation: str, reference: str) -> Descriptor:
        with during(operation, self._at(reference)):
            checkpoint()
            return self._repository.manifests.resolve(locator(reference))

    def _push(
        self, operation: str, reference: str, pushed: Image | Index, observer: Observer | None, jobs: int
    ) -> Descriptor:
        with during(operation, self._at(reference)):
            tags, told = _tags(reference, pushed.digest), self._told(observer)
            here, raw = self._repository, pushed.document
            return move_graph(pushed.repository, here, raw, tags=tags, observer=told, jobs=jobs, operation=operation)


def _tags(reference: str, digest: Digest) -> tuple[Tag, ...]:
    named = locator(reference)
    if not isinstance(named, Digest):
        return (named,)
    if named != digest:
        raise InvalidReference(f"{digest} cannot be stored as {named}")
    return ()
