"""The strict tar reader."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from typing import Any

import pytest

from registry_core.cancellation import CancelScope
from registry_core.content.streams import ByteReader, BytesSource, FileObjectReader
from registry_core.errors import Cancelled, IntegrityError, InvalidValue, TooLarge, UnsafeArchive
from registry_core.ops.tar.members import Budget, ExtractLimits, FileKind, Member
from registry_core.ops.tar.reader import TarReader
from registry_core.testing.layers import TarLayer, member, pax_records, tar


def read(stream: bytes | ByteReader, limits: ExtractLimits | None = None) -> list[tuple[Member, bytes]]:
    """All members with their content, zeros in holes."""
    reader = BytesSource(stream).open() if isinstance(stream, bytes) else stream
    archive = TarReader(reader, Budget(limits or ExtractLimits()), reference="the layer")
    found = []
    for each in archive.members():
        content = bytearray(each.size)
        for offset, piece in archive.chunks():
            content[offset : offset + len(piece)] = piece
        found.append((each, bytes(content)))
    return found


def only(*parts: bytes) -> Member:
    [(found, _)] = read(tar(*parts).content)
    return found


def made(format_: int, *infos: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format_, encoding="utf-8") as archive:
        for info in infos:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return stream.getvalue()


FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@pytest.mark.parametrize("format_", FORMATS)
class TestFormats:
    def test_names_and_attributes_are_read(self, format_: int) -> None:
        info = tarfile.TarInfo("etc/motd")
        info.size, info.mode, info.uid, info.gid, info.mtime = 700, 0o4751, 12, 34, 1234567890

        [(found, content)] = read(made(format_, info))

        assert found == Member(b"etc/motd", FileKind.FILE, 0o4751, 12, 34, 1234567890 * 10**9, 700)
        assert content == bytes(700)

    def test_long_names_are_read(self, format_: int) -> None:
        """R-136."""
        name = "/".join(["directory"] * 20)
        info = tarfile.TarInfo(name)

        [(found, _)] = read(made(format_, info))

        assert found.path == name.encode()

    @pytest.mark.parametrize(
        ("type_", "kind"),
        [
            (tarfile.DIRTYPE, FileKind.DIRECTORY),
            (tarfile.SYMTYPE, FileKind.SYMLINK),
            (tarfile.LNKTYPE, FileKind.HARDLINK),
            (tarfile.FIFOTYPE, FileKind.FIFO),
            (tarfile.CHRTYPE, FileKind.CHARACTER_DEVICE),
            (tarfile.BLKTYPE, FileKind.BLOCK_DEVICE),
            (tarfile.CONTTYPE, FileKind.FILE),
        ],
    )
    def test_every_kind_is_read(self, format_: int, type_: bytes, kind: FileKind) -> None:
        info = tarfile.TarInfo("x")
        info.type, info.linkname, info.devmajor, info.devminor = type_, "y", 8, 1

        [(found, _)] = read(made(format_, info))

        assert found.kind is kind


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_link_targets_are_read(format_: int) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.linkname = tarfile.SYMTYPE, "t" * 300

    [(found, _)] = read(made(format_, info))

    assert found.link == b"t" * 300


def test_numbers_may_be_in_base_256() -> None:
    info = tarfile.TarInfo("x")
    info.uid, info.mtime = 5_000_000, -5

    [(found, _)] = read(made(tarfile.GNU_FORMAT, info))

    assert found.uid == 5_000_000
    assert found.mtime == -5 * 10**9


def test_pax_records_override_the_header() -> None:
    """R-135."""
    found = only(
        member(
            "short",
            b"12345",
            size=0,
            pax={
                b"path": b"long/\xc3\xa4",
                b"size": b"5",
                b"mtime": b"-1.25",
                b"uid": b"3000000000",
                b"gid": b"7",
                b"SCHILY.xattr.user.a": b"\0=\n",
                b"comment": b"nothing",
            },
        )
    )

    assert found == Member(
        b"long/\xc3\xa4", FileKind.FILE, 0o644, 3_000_000_000, 7, -1_250_000_000, 5, xattrs=((b"user.a", b"\0=\n"),)
    )


def test_a_size_in_a_pax_header_moves_the_next_member() -> None:
    """R-135: content within the size of the PAX header is not parsed, even if it looks like a header."""
    inner = member("inner")
    outer = member("outer", inner, size=0, pax={b"size": b"%d" % len(inner)})

    assert [each.path for each, _ in read(tar(outer, member("next")).content)] == [b"outer", b"next"]


def test_a_pax_path_and_a_gnu_name_may_be_the_same() -> None:
    """R-135."""
    assert only(member("L", b"a/b\0", kind="L"), member("x", pax={b"path": b"a/b"})).path == b"a/b"


def test_global_headers_do_not_set_paths() -> None:
    """R-135."""
    found = only(member("g", pax_records({b"path": b"../evil", b"comment": b"x"}), kind="g"), member("mine"))

    assert found.path == b"mine"


@pytest.mark.parametrize("keyword", [b"size", b"GNU.sparse.major"])
def test_global_headers_do_not_move_members(keyword: bytes) -> None:
    """R-135."""
    with pytest.raises(IntegrityError):
        only(member("g", pax_records({keyword: b"1"}), kind="g"), member("mine"))


def test_the_ustar_prefix_is_part_of_the_name() -> None:
    """R-130: the check covers the whole name."""
    assert only(member("c", patch={345: b"a/b"})).path == b"a/b/c"

    with pytest.raises(UnsafeArchive):
        only(member("c", patch={345: b"../b"}))


def test_a_v7_file_whose_name_ends_with_a_slash_is_a_directory() -> None:
    assert only(member("old/", kind="\0", patch={257: bytes(8)})).kind is FileKind.DIRECTORY


def test_names_of_any_bytes_are_kept() -> None:
    """R-136."""
    names = [b"\xff\xfe", "é".encode(), "e\u0301".encode(), b"A", b"a", b"new\nline", b" ", b"-rf"]

    found = read(tar(*(member(name) for name in names)).content)

    assert [each.path for each, _ in found] == names


@pytest.mark.parametrize("name", [b"../x", b"a/../../x", b"/../x"])
@pytest.mark.parametrize("carrier", ["header", "pax", "gnu"])
def test_names_that_leave_the_root_are_refused_in_every_field(name: bytes, carrier: str) -> None:
    """R-130: after every extension."""
    parts = {
        "header": [member(name)],
        "pax": [member("x", pax={b"path": name})],
        "gnu": [member("L", name + b"\0", kind="L"), member("x")],
    }

    with pytest.raises(UnsafeArchive):
        read(tar(*parts[carrier]).content)


@pytest.mark.parametrize("name", [b"../\x1b[2J\n\xff", b"../" + b"x" * 5000])
def test_names_in_messages_are_printable_and_short(name: bytes) -> None:
    """R-063."""
    leaving = tar(member("x", pax={b"path": name})).content
    full = tar(member("x", kind="3", patch={329: b"77777777"}, pax={b"path": name.removeprefix(b"../")})).content

    for content in (leaving, full):
        with pytest.raises(IntegrityError) as caught:
            read(content)

        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300


MALFORMED = {
    "wrong checksum": member("x", checksum=b"000000\0 "),
    "no checksum": member("x", checksum=bytes(8)),
    "octal with a nine": member("x", patch={100: b"0000649\0"}),
    "octal with an underscore": member("x", patch={124: b"000000_0010\0"}),
    "octal with a sign": member("x", patch={124: b"-0000000010\0"}),
    "octal with a prefix": member("x", patch={124: b"0o000000010\0"}),
    "negative size in base 256": member("x", patch={124: b"\xff" * 12}),
    "huge size in base 256": member("x", patch={124: b"\x80" + b"\xff" * 11}),
    "negative owner": member("x", patch={108: b"\xff" * 8}),
    "garbage": b"garbage!" * 64,
    "unknown type": member("x", kind="Q"),
    "a directory with content": member("x", b"content", kind="5"),
    "a symbolic link with content": member("x", b"content", kind="2", link="y"),
    "pax without length": member("p", b"path=x\n", kind="x") + member("x"),
    "pax with length zero": member("p", b"0 path=x\n", kind="x") + member("x"),
    "pax with a length beyond the end": member("p", b"99 path=x\n", kind="x") + member("x"),
    "pax with a length that is too short": member("p", b"5 path=x\n", kind="x") + member("x"),
    "pax with a length that cuts itself": member("p", b"2 path=x\n", kind="x") + member("x"),
    "pax with a signed length": member("p", b"+9 path=x\n", kind="x") + member("x"),
    "pax with a length of a thousand digits": member("p", b"1" * 1000 + b" a=b\n", kind="x") + member("x"),
    "pax without a newline": member("p", b"9 path=xy", kind="x") + member("x"),
    "pax without a keyword": member("p", b"5 =x\n", kind="x") + member("x"),
    "pax without an equals sign": member("p", b"7 path\n", kind="x") + member("x"),
    "pax with a negative size": member("x", pax={b"size": b"-1"}),
    "pax with a size in words": member("x", pax={b"size": b"many"}),
    "pax with a size of 5000 digits": member("x", pax={b"size": b"9" * 5000}),
    "pax with a time that is none": member("x", pax={b"mtime": b"nan"}),
    "pax with an owner that is none": member("x", pax={b"uid": b"root"}),
    "pax with an empty path": member("x", pax={b"path": b""}),
    "pax with a NUL in a path": member("x", pax={b"path": b"a\0b"}),
    "pax with a NUL in a link": member("x", kind="2", pax={b"linkpath": b"a\0b"}),
    "pax with an empty attribute name": member("x", pax={b"SCHILY.xattr.": b"v"}),
    "GNU name with a NUL": member("L", b"a\0b\0", kind="L") + member("x"),
    "GNU name that is empty": member("L", b"\0", kind="L") + member("x"),
    "two extended headers": member("p", pax_records({b"path": b"a"}), kind="x") * 2 + member("x"),
    "two GNU names": member("L", b"a\0", kind="L") * 2 + member("x"),
    "two GNU link names": member("K", b"a\0", kind="K") * 2 + member("x", kind="2"),
    "a pax path and a GNU name that differ": member("L", b"a\0", kind="L") + member("x", pax={b"path": b"b"}),
    "a pax path of a directory and a GNU name of a file": (
        member("L", b"a\0", kind="L") + member("x", kind="\0", size=512, pax={b"path": b"a/"})
    ),
    "a pax link and a GNU link that differ": (
        member("K", b"a\0", kind="K") + member("x", kind="2", pax={b"linkpath": b"b"})
    ),
    "a directory with a map of sparse records": (
        member("x", kind="5", pax={b"GNU.sparse.map": b"0,3", b"GNU.sparse.size": b"3"})
    ),
    "a link with another name in sparse records": member("x", kind="2", link="a", pax={b"GNU.sparse.name": b"y"}),
    "no name": member(""),
    "a directory without a name": member("", kind="5"),
    "a root that is a file": member("./"),
    "a root that is a link": member(".", kind="2", link="/etc"),
    "a symbolic link without a text": member("x", kind="2"),
    "half an end in the middle": bytes(512) + member("x"),
}


@pytest.mark.parametrize("bad", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_member_in_the_middle_is_refused(bad: bytes) -> None:
    """R-133, R-135, R-143."""
    with pytest.raises(IntegrityError):
        read(tar(member("before"), bad, member("behind")).content)


@pytest.mark.parametrize(
    "last",
    [member("p", pax_records({b"path": b"a"}), kind="x"), member("L", b"a\0", kind="L"), member("K", b"a\0", kind="K")],
)
def test_extended_headers_without_a_member_are_refused(last: bytes) -> None:
    """R-143."""
    with pytest.raises(IntegrityError, match="archive ends between the headers"):
        read(tar(member("before"), last).content)


@pytest.mark.parametrize("size", [1, 99, 200, 511, 512, 513, 1000, 512 + 599])
def test_a_tar_that_is_cut_in_a_header_or_in_content_is_an_error(size: int) -> None:
    """R-144."""
    whole = tar(member("a", b"x" * 600)).content

    for before in (b"", member("before", b"y")):
        with pytest.raises(IntegrityError, match="truncated tar"):
            read(before + whole[:size])


@pytest.mark.parametrize("size", [512, 513, 512 + 599])
def test_unread_content_has_to_be_complete(size: int) -> None:
    """R-144."""
    whole = tar(member("a", b"x" * 600)).content
    archive = TarReader(BytesSource(whole[:size]).open(), Budget(ExtractLimits()))

    with pytest.raises(IntegrityError, match="truncated tar"):
        list(archive.members())


@pytest.mark.parametrize("size", [10, 600, 1100])
def test_a_tar_that_is_cut_in_an_extended_header_is_an_error(size: int) -> None:
    """R-144."""
    with pytest.raises(IntegrityError):
        read((member("a", pax={b"path": b"p" * 500}))[:size])


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(512 + 600, id="no padding"),
        pytest.param(512 + 600 + 1, id="one byte of padding"),
        pytest.param(512 + 1023, id="all but one byte of padding"),
        pytest.param(512 + 1024, id="no marker"),
        pytest.param(512 + 1024 + 1, id="one byte of a marker"),
        pytest.param(512 + 1024 + 511, id="a cut zero block"),
        pytest.param(512 + 1024 + 512, id="one zero block"),
        pytest.param(512 + 1024 + 700, id="one zero block and a part"),
        pytest.param(512 + 1024 + 1023, id="all but one byte"),
    ],
)
@pytest.mark.parametrize("piece", [1 << 20, 7])
def test_the_end_of_a_tar_may_be_incomplete(end: int, piece: int) -> None:
    """R-144: no closing zero blocks, one of them, or a last block that is not filled."""
    whole = tar(member("a", b"x" * 600)).content[:end]

    class Pieces(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(piece)

    assert read(FileObjectReader(Pieces(whole))) == [(Member(b"a", FileKind.FILE, size=600), b"x" * 600)]


def test_the_last_block_of_a_sparse_file_may_be_unfilled() -> None:
    """R-144."""
    pax = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"8"}
    content = member("s", b"1\n4\n4\n".ljust(512, b"\0") + b"data", pax=pax)

    assert read(content.rstrip(b"\0"))[0][1] == b"\0\0\0\0data"


HEADER_ONLY = {"1": FileKind.HARDLINK, "2": FileKind.SYMLINK, "3": FileKind.CHARACTER_DEVICE} | {
    "4": FileKind.BLOCK_DEVICE, "5": FileKind.DIRECTORY, "6": FileKind.FIFO
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADER_ONLY)
@pytest.mark.parametrize("size", [1, 3, 4096, 10**10])
@pytest.mark.parametrize("pax", [False, True])
def test_the_size_of_what_has_no_content_is_ignored(kind: str, size: int, pax: bool) -> None:
    """R-135: as in Go's archive/tar, the next header follows at once."""
    records = {b"size": b"%d" % size} if pax else None
    first = member("a", kind=kind, link="b", size=0 if pax else size, pax=records)

    [(found, content), (behind, _)] = read(tar(first, member("c", b"x")).content, ExtractLimits(file_bytes=100))

    assert (found.kind, found.size, content) == (HEADER_ONLY[kind], 0, b"")
    assert behind.path == b"c"


def test_the_size_of_a_v7_directory_is_ignored() -> None:
    """R-135."""
    first = member("old/", kind="\0", size=512, patch={257: bytes(8)})

    assert [each.path for each, _ in read(tar(first, member("next")).content)] == [b"old", b"next"]


@pytest.mark.parametrize("kind", HEADER_ONLY)
def test_content_after_what_can_have_none_is_refused(kind: str) -> None:
    """R-135: it is read as a header, which it is not."""
    with pytest.raises(IntegrityError):
        read(tar(member("a", b"content" * 100, kind=kind, link="b"), member("c")).content)


@pytest.mark.parametrize("behind", [member("hidden"), b"garbage", bytes(1 << 20) + member("hidden")])
def test_data_after_the_end_marker_is_read_but_has_no_members(behind: bytes) -> None:
    """R-145, R-007."""
    stream = io.BytesIO(tar(member("a")).content + behind)

    found = read(FileObjectReader(stream))

    assert [each.path for each, _ in found] == [b"a"]
    assert stream.read() == b""


def test_unread_content_is_skipped() -> None:
    archive = TarReader(BytesSource(tar(member("a", bytes(600)), member("b")).content).open(), Budget(ExtractLimits()))

    assert [each.path for each in archive.members()] == [b"a", b"b"]


def test_small_reads_give_the_same_members() -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(7)

    layer = tar(member("a", b"x" * 1000), member("b", pax={b"path": b"c"}))

    assert read(FileObjectReader(Slow(layer.content))) == read(layer.content)


def test_the_limit_of_extended_headers_applies_before_they_are_read() -> None:
    """R-141."""

    class Endless(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size) or bytes(size or 0)
            self.count += len(data)
            return data

    stream = Endless(member("p", kind="x", size=(1 << 20) + 1))

    with pytest.raises(TooLarge):
        read(FileObjectReader(stream))

    assert stream.count < 1 << 20


def test_a_chain_of_extended_headers_is_refused_at_once() -> None:
    """R-137."""
    link = member("g", pax_records({b"comment": b"x"}), kind="g")

    assert read(tar(link * 20_000, member("a")).content)[0][0].path == b"a"


class TestLimits:
    def test_the_total_size_is_limited(self) -> None:
        """R-140."""
        with pytest.raises(TooLarge):
            read(tar(member("a", bytes(5000))).content, ExtractLimits(total_bytes=5000))

    def test_the_size_of_a_file_is_limited_before_it_is_read(self) -> None:
        """R-140."""
        with pytest.raises(TooLarge):
            read(member("a", size=1001), ExtractLimits(file_bytes=1000))

    def test_holes_are_counted(self) -> None:
        """R-140."""
        sparse = member("a", pax={b"GNU.sparse.map": b"", b"GNU.sparse.size": b"9999999999"})

        with pytest.raises(TooLarge):
            read(tar(sparse).content, ExtractLimits(total_bytes=1 << 30))

    def test_the_ratio_is_limited_only_above_the_floor(self) -> None:
        """R-140: compression alone is no error."""
        content = tar(member("a", bytes(10_000))).content
        for floor, refused in ((20_000, False), (5_000, True)):
            budget = Budget(ExtractLimits(ratio=10, ratio_floor=floor))
            budget.begin_layer(100)
            archive = TarReader(BytesSource(content).open(), budget)

            if refused:
                with pytest.raises(TooLarge):
                    list(archive.members())
            else:
                assert len(list(archive.members())) == 1

    def test_memory_is_constant(self) -> None:
        """R-140."""
        content = tar(member("a", bytes(30 << 20))).content
        tracemalloc.start()
        try:
            archive = TarReader(BytesSource(content).open(), Budget(ExtractLimits()))
            for _ in archive.members():
                for _, piece in archive.chunks():
                    assert len(piece) <= 1 << 20
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert peak < len(content) + (4 << 20)


def test_a_cancelled_read_raises() -> None:
    with CancelScope() as scope:
        scope.cancel()
        with pytest.raises(Cancelled):
            read(tar(member("a")).content)


def test_errors_name_the_member() -> None:
    with pytest.raises(IntegrityError) as caught:
        read(b"garbage!" * 64)

    assert caught.value.reference == "the layer"


class TestSparseFiles:
    """R-135, R-140."""

    EXPECTED = b"head" + bytes(5996) + b"tail" + bytes(1000)
    PARTS = b"0,4,6000,4"

    def check(self, layer: TarLayer) -> None:
        [(found, content), (behind, _)] = read(layer.content)

        assert found.path == b"sparse"
        assert found.size == 7004
        assert found.sparse_map == ((0, 4), (6000, 4))
        assert content == self.EXPECTED
        assert behind.path == b"behind"

    def test_of_the_format_0_0(self) -> None:
        data = (
            pax_records({b"GNU.sparse.size": b"7004", b"GNU.sparse.numblocks": b"2"})
            + pax_records({b"GNU.sparse.offset": b"0", b"GNU.sparse.numbytes": b"4"})
            + pax_records({b"GNU.sparse.offset": b"6000", b"GNU.sparse.numbytes": b"4"})
        )

        self.check(tar(member("p", data, kind="x"), member("sparse", b"headtail"), member("behind")))

    def test_of_the_format_0_1(self) -> None:
        pax = {
            b"GNU.sparse.size": b"7004",
            b"GNU.sparse.numblocks": b"2",
            b"GNU.sparse.name": b"sparse",
            b"GNU.sparse.map": self.PARTS,
        }

        self.check(tar(member("GNUSparseFile.1/sparse", b"headtail", pax=pax), member("behind")))

    def test_of_the_format_1_0(self) -> None:
        pax = {
            b"GNU.sparse.major": b"1",
            b"GNU.sparse.minor": b"0",
            b"GNU.sparse.name": b"./sparse",
            b"GNU.sparse.realsize": b"7004",
        }
        content = b"2\n0\n4\n6000\n4\n".ljust(512, b"\0") + b"headtail"

        self.check(tar(member("GNUSparseFile.1/sparse", content, pax=pax), member("behind")))

    def test_of_old_gnu(self) -> None:
        spans = b"%011o\0%011o\0%011o\0%011o\0" % (0, 4, 6000, 4)

        self.check(
            tar(
                member("sparse", b"headtail", kind="S", patch={257: b"ustar  \0", 386: spans, 483: b"%011o\0" % 7004}),
                member("behind"),
            )
        )

    def test_of_old_gnu_with_a_long_map(self) -> None:
        parts = [(number * 1000, 1) for number in range(30)]
        text = b"".join(b"%011o\0%011o\0" % part for part in parts)
        first = {257: b"ustar  \0", 386: text[:96], 482: b"\1", 483: b"%011o\0" % 30_000}
        header = member("sparse", kind="S", size=30, patch=first)
        second = text[96 : 96 + 504].ljust(504, b"\0") + b"\1" + bytes(7)
        third = text[600:].ljust(512, b"\0")

        [(found, content)] = read(tar(header, second, third, b"x" * 30 + bytes(482)).content)

        assert found.sparse_map == tuple(parts)
        assert content[29_000:29_001] == b"x"

    def test_a_name_in_a_sparse_record_is_checked(self) -> None:
        """R-130."""
        pax = {b"GNU.sparse.map": b"", b"GNU.sparse.size": b"0", b"GNU.sparse.name": b"../x"}

        with pytest.raises(UnsafeArchive):
            read(tar(member("x", pax=pax)).content)

    @pytest.mark.parametrize(
        ("text", "size"),
        [
            (b"0,4,2,4", b"9"),
            (b"6,4,0,4", b"99"),
            (b"0,4,6,4", b"9"),
            (b"0,4,6", b"99"),
            (b"0,4,6,5", b"99"),
            (b"0,4,-6,4", b"99"),
            (b"0,4,x,4", b"99"),
            (b"0,4,9223372036854775807,4", b"99"),
        ],
    )
    def test_a_map_that_does_not_match_file_and_data_is_refused(self, text: bytes, size: bytes) -> None:
        pax = {b"GNU.sparse.map": text, b"GNU.sparse.size": size}

        with pytest.raises(IntegrityError):
            read(tar(member("x", b"headtail", pax=pax)).content)

    @pytest.mark.parametrize(
        "text", [b"2\n0\n4\n", b"x\n", b"99999999999999999999\n", b"-1\n", b"70000\n", b"1" * 512, b"1\n0\n"]
    )
    def test_a_map_before_the_data_is_bounded(self, text: bytes) -> None:
        pax = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"99"}

        with pytest.raises(IntegrityError):
            read(tar(member("x", text.ljust(512, b"\0"), pax=pax)).content)

    def test_an_endless_map_of_old_gnu_is_bounded(self) -> None:
        header = member("x", kind="S", patch={482: b"\1"})
        more = (b"%011o\0%011o\0" % (0, 0)) * 21 + b"\1" + bytes(7)

        with pytest.raises(IntegrityError):
            read(header + more * 4000)

    @pytest.mark.parametrize("keyword", [b"GNU.sparse.major", b"GNU.sparse.realsize", b"GNU.sparse.new"])
    def test_unknown_formats_are_refused(self, keyword: bytes) -> None:
        with pytest.raises(IntegrityError):
            read(tar(member("x", pax={keyword: b"7"})).content)


@pytest.mark.parametrize("value", [-1, "10", 1.5, True, None])
def test_limits_are_whole_numbers(value: Any) -> None:
    with pytest.raises(InvalidValue, match="entries must be a number of at least 0"):
        ExtractLimits(entries=value)
