"""Decompression of layers."""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
from collections.abc import Callable, Iterator

import pytest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from registry_core.cancellation import CancelScope
from registry_core.content import compression
from registry_core.content.compression import compression_for, decompress
from registry_core.content.streams import BytesSource, FileObjectReader
from registry_core.domain.media_types import (
    DOCKER_FOREIGN_LAYER_GZIP,
    DOCKER_LAYER_GZIP,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
)
from registry_core.errors import Cancelled, IntegrityError, Unsupported

TAR = bytes(range(256)) * 5000
PACK: dict[str, Callable[[bytes], bytes]] = {OCI_LAYER_GZIP: gzip.compress, OCI_LAYER_ZSTD: zstd.compress}


@pytest.fixture(autouse=True, params=["standard library", "faster, where installed"])
def inflater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test runs with each gzip implementation."""
    if request.param == "standard library":
        monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    compression._inflater.cache_clear()
    yield
    compression._inflater.cache_clear()


class AskedStream(io.BytesIO):
    """Remembers the most that was ever asked for."""

    most = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.most = max(self.most, -1 if size is None else size)
        return super().read(size)


def unpack(stored: bytes, media_type: str, size: int = -1) -> bytes:
    with decompress(BytesSource(stored).open(), media_type) as reader:
        return reader.read() if size < 0 else b"".join(iter(lambda: reader.read(size), b""))


@pytest.mark.parametrize("media_type", PACK)
class TestSoundStreams:
    @pytest.mark.parametrize("size", [-1, 1000, 1 << 22])
    def test_everything_comes_out(self, media_type: str, size: int) -> None:
        assert unpack(PACK[media_type](TAR), media_type, size) == TAR

    def test_all_members_come_out(self, media_type: str) -> None:
        """R-142."""
        pack = PACK[media_type]

        assert unpack(pack(b"one") + pack(b"") + pack(TAR), media_type) == b"one" + TAR

    def test_the_stream_is_fed_in_pieces_that_are_cheap_to_copy(self, media_type: str) -> None:
        """A decompressor copies its unused input at each step, so small reads cost no more than a chunk."""
        stored = AskedStream(PACK[media_type](TAR))

        with decompress(FileObjectReader(stored), media_type) as reader:
            unpacked = b"".join(iter(lambda: reader.read(1 << 20), b""))

        assert unpacked == TAR
        assert 0 < stored.most <= 1 << 16

    def test_a_layer_of_no_bytes_is_empty(self, media_type: str) -> None:
        """R-142: the digest of the stored layer and the diff ID are those of nothing, and are verified by others."""
        assert unpack(PACK[media_type](b""), media_type) == b""
        assert unpack(b"", media_type) == b""

    def test_it_fills_buffers(self, media_type: str) -> None:
        buffer = bytearray(10)

        with decompress(BytesSource(PACK[media_type](TAR)).open(), media_type) as reader:
            count = reader.readinto(buffer)

        assert bytes(buffer[:count]) == TAR[:count]
        assert count > 0

    def test_little_that_makes_much_comes_in_small_pieces(self, media_type: str) -> None:
        """R-140."""
        with decompress(BytesSource(PACK[media_type](bytes(50 << 20))).open(), media_type) as reader:
            largest = max(len(piece) for piece in iter(lambda: reader.read(1 << 16), b""))

        assert largest <= 1 << 16


@pytest.mark.parametrize("media_type", PACK)
class TestUnsoundStreams:
    @pytest.mark.parametrize("cut", [1, 4, 9, 50])
    def test_a_stream_that_is_cut_off_is_an_error(self, media_type: str, cut: int) -> None:
        """R-144."""
        packed = PACK[media_type](TAR)
        for content in (packed[:-cut], packed[:cut]):
            with pytest.raises(IntegrityError):
                unpack(content, media_type)

    @pytest.mark.parametrize("behind", [b"garbage", b"\x1f\x8b", b"\0\0\0\0garbage"])
    def test_data_after_the_stream_is_an_error(self, media_type: str, behind: bytes) -> None:
        with pytest.raises(IntegrityError):
            unpack(PACK[media_type](TAR) + behind, media_type)

    def test_content_that_is_not_compressed_is_an_error(self, media_type: str) -> None:
        with pytest.raises(IntegrityError):
            unpack(TAR, media_type)

    def test_a_cancelled_read_raises(self, media_type: str) -> None:
        with CancelScope() as scope, decompress(BytesSource(PACK[media_type](TAR)).open(), media_type) as reader:
            scope.cancel()
            with pytest.raises(Cancelled):
                reader.read()


@pytest.mark.parametrize("place", [-1, -5, -8, 30, 0, 2])
def test_a_flipped_bit_in_gzip_is_an_error(place: int) -> None:
    """R-144: data, CRC, length and header."""
    stored = bytearray(gzip.compress(TAR))
    stored[place] ^= 0x04

    with pytest.raises(IntegrityError):
        unpack(bytes(stored), OCI_LAYER_GZIP)


def test_a_zstd_checksum_is_checked() -> None:
    """R-144."""
    stored = bytearray(zstd.compress(TAR, options={zstd.CompressionParameter.checksum_flag: 1}))
    stored[-1] ^= 1

    with pytest.raises(IntegrityError):
        unpack(bytes(stored), OCI_LAYER_ZSTD)


@pytest.mark.parametrize(("window_log", "accepted"), [(20, True), (27, True), (28, False), (31, False), (41, False)])
def test_a_zstd_frame_may_ask_for_so_much_memory_and_no_more(window_log: int, accepted: bool) -> None:
    """R-140: a valid frame of 128 MiB with one uncompressed block."""
    content = b"x" * 1000
    block = (len(content) << 3 | 1).to_bytes(3, "little") + content
    stored = b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3]) + block

    if accepted:
        assert unpack(stored, OCI_LAYER_ZSTD) == content
    else:
        with pytest.raises(IntegrityError):
            unpack(stored, OCI_LAYER_ZSTD)


def test_a_gzip_bomb_of_very_many_members_is_read_on() -> None:
    """R-137, R-142: one after the other, and not one inside of the other."""
    assert unpack(gzip.compress(b"") * 20_000 + gzip.compress(TAR), OCI_LAYER_GZIP) == TAR


def test_skippable_zstd_frames_are_skipped() -> None:
    """R-142."""
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"

    assert unpack(skippable + zstd.compress(TAR) + skippable, OCI_LAYER_ZSTD) == TAR


def test_zeros_after_gzip_are_padding() -> None:
    assert unpack(gzip.compress(TAR) + bytes(3 << 20), OCI_LAYER_GZIP) == TAR


def test_zstd_under_the_old_name_is_read() -> None:
    assert unpack(zstd.compress(TAR), DOCKER_LAYER_GZIP) == TAR


@pytest.mark.parametrize("media_type", [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD])
@pytest.mark.parametrize("name", ["etc/", "\x1f\x8b\x08"])
def test_a_plain_tar_is_detected_whatever_its_first_name(media_type: str, name: str) -> None:
    """R-142: the checksum of the tar header takes precedence over the first bytes and the media type."""
    stored = io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w", encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo(name))

    assert unpack(stored.getvalue(), media_type) == stored.getvalue()


@pytest.mark.parametrize("pack", PACK.values())
def test_a_compressed_tar_is_unpacked_although_it_is_called_plain(pack: Callable[[bytes], bytes]) -> None:
    """R-142."""
    assert unpack(pack(TAR), OCI_LAYER) == TAR


@pytest.mark.parametrize(
    ("media_type", "compression"),
    [
        (OCI_LAYER, ""),
        (OCI_LAYER_GZIP, "gzip"),
        (OCI_LAYER_ZSTD, "zstd"),
        (DOCKER_LAYER_GZIP, "gzip"),
        (DOCKER_FOREIGN_LAYER_GZIP, "gzip"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", "zstd"),
        ("application/vnd.docker.image.rootfs.diff.tar", ""),
    ],
)
def test_the_compression_follows_from_the_media_type(media_type: str, compression: str) -> None:
    assert compression_for(media_type) == compression


@pytest.mark.parametrize("media_type", ["", "application/octet-stream", OCI_MANIFEST, f"{OCI_LAYER}+bzip2", "x+gzip"])
def test_an_unknown_type_is_not_guessed(media_type: str) -> None:
    """R-142."""
    with pytest.raises(Unsupported):
        compression_for(media_type)
