"""Archives as people make them, and as they should never be: nothing leaves the folder."""

import bz2
import errno
import gzip
import hashlib
import io
import os
import stat
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import segcore.acquisition.members
import segcore.acquisition.unpacking
from segcore.acquisition.archives import Archive, written_below
from segcore.acquisition.members import UnusableError
from segcore.acquisition.unpacking import unpack
from segcore.acquisition.watch import StoppedError
from segcore.errors import InputError

FILES = {"list.txt": b"a\nb\n", "tree/a.jpg": b"\xff\xd8" + bytes(range(256)) * 20, "tree/b": b""}


def tar_bytes(files: dict[str, bytes], mode: Any = "w", *extra: tarfile.TarInfo) -> bytes:
    """A tar; entries of ``extra`` come after the files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return buffer.getvalue()


def zip_bytes(files: dict[str, bytes], *extra: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in [*files.items(), *extra]:
            opened.writestr(name, content)
    return buffer.getvalue()


def entry(name: str, kind: bytes, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def zip_entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def tree_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Unpacks bytes; everything that is not below the folder it returns must stay empty."""

    def unpacked(content: bytes, name: str = "given") -> Path:
        (tmp_path / "archives").mkdir(exist_ok=True)
        (tmp_path / "archives" / name).write_bytes(content)
        unpack(tmp_path / "archives" / name, tmp_path / "outer/root", lambda: None)
        return tmp_path / "outer/root"

    yield unpacked
    assert {path.name for path in tmp_path.iterdir()} <= {"archives", "outer", "secret"}
    if (tmp_path / "outer").exists():
        assert [path.name for path in (tmp_path / "outer").iterdir()] == ["root"]


@pytest.mark.parametrize(
    "content",
    [
        tar_bytes(FILES),
        tar_bytes(FILES, "w:gz"),
        tar_bytes(FILES, "w:bz2"),
        tar_bytes(FILES, "w:xz"),
        zip_bytes(FILES),
    ],
    ids=["tar", "tgz", "bz2", "xz", "zip"],
)
@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a", "a.tar"])
def test_the_kind_is_told_by_content(opened, content, name):
    assert tree_of(opened(content, name)) == FILES


def test_folders_repeated_names_and_a_leading_dot(opened):
    folder = entry("./tree/", tarfile.DIRTYPE)
    content = tar_bytes({"./tree/a": b"old", "tree//a": b"new", "tree/./b": b"b"}, "w", folder)
    assert tree_of(opened(content)) == {"tree/a": b"new", "tree/b": b"b"}
    empty = zip_bytes({"empty/": b"", "tree\\c": b"c"})
    root = opened(empty)
    assert (root / "empty").is_dir()
    assert (root / "tree/c").read_bytes() == b"c"


@pytest.mark.parametrize("flags", ["-cf", "-czf"])
def test_a_folder_packed_as_a_whole(opened, tmp_path, flags):
    """``tar -C folder .``: its first member is the folder itself."""
    packed = tmp_path / "archives/folder.tar"
    for name, content in FILES.items():
        path = tmp_path / "archives/folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    subprocess.run(["tar", flags, packed, "-C", packed.with_suffix(""), "."], check=True)
    with tarfile.open(packed) as tar:
        assert tar.getnames()[0] == "."
    assert tree_of(opened(packed.read_bytes())) == FILES
    assert tree_of(opened(zip_bytes({"./": b"", **FILES}))) == FILES


@pytest.mark.parametrize("name", [".", "./", ".//."])
def test_only_a_folder_may_be_without_a_name(opened, name):
    link = entry("tree/l", tarfile.LNKTYPE, name)
    for content in tar_bytes({name: b"x"}), tar_bytes(FILES, "w", link):
        with pytest.raises(UnusableError, match=r"is a (file|hard) without a name"):
            opened(content)


def test_a_tar_whose_last_member_is_a_zip_is_a_tar(opened):
    inner = zip_bytes({"x": b"x"})
    assert tree_of(opened(tar_bytes({"inner.data": inner}))) == {"inner.data": inner}


def test_archives_inside_are_unpacked_where_they_lie(opened):
    """LIP's are: unzip twice."""
    inner = zip_bytes({"train/1.jpg": b"1", "train/2.jpg": b"2"})
    deeper = tar_bytes({"val/3.jpg": b"3"}, "w:gz")
    content = zip_bytes({"all/train.zip": inner, "all/val.tar.gz": deeper, "all/x.gz": b"no tar"})
    expected = {"all/train/1.jpg": b"1", "all/train/2.jpg": b"2", "all/val/3.jpg": b"3"}
    assert tree_of(opened(content)) == expected | {"all/x.gz": b"no tar"}


def test_archives_without_end(opened):
    content = zip_bytes({"x": b"x"})
    for _ in range(segcore.acquisition.unpacking.DEPTH):
        content = zip_bytes({"inner.zip": content})
    assert tree_of(opened(content)) == {"x": b"x"}
    with pytest.raises(UnusableError, match="more than 3 archives inside one another"):
        opened(zip_bytes({"inner.zip": content}))


def test_links_inside_are_kept(opened):
    links = (
        entry("tree/soft", tarfile.SYMTYPE, "../list.txt"),
        entry("way", tarfile.SYMTYPE, "tree"),
    )
    hard = entry("hard", tarfile.LNKTYPE, "tree/a.jpg")
    root = opened(tar_bytes(FILES, "w", *links, hard))
    assert (root / "tree/soft").read_bytes() == FILES["list.txt"]
    assert (root / "way").resolve() == (root / "tree").resolve()
    assert (root / "hard").read_bytes() == FILES["tree/a.jpg"]
    assert (root / "hard").stat().st_nlink == 1, "a change of one must not change the other"
    in_zip = zip_entry("soft", stat.S_IFLNK | 0o777), b"list.txt"
    assert (opened(zip_bytes(FILES, in_zip)) / "soft").is_symlink()


LEAD_OUT = {
    "dots": tar_bytes({"../evil": b"x"}),
    "dots inside": tar_bytes({"tree/../../evil": b"x"}),
    "absolute": tar_bytes({"/tmp/evil": b"x"}),
    "dots in a zip": zip_bytes({"../evil": b"x"}),
    "absolute in a zip": zip_bytes({"/tmp/evil": b"x"}),
    "backslashes": zip_bytes({"tree\\..\\..\\evil": b"x"}),
    "a link": tar_bytes({}, "w", entry("l", tarfile.SYMTYPE, "../secret")),
    "an absolute link": tar_bytes({}, "w", entry("l", tarfile.SYMTYPE, "/etc")),
    "a link in a zip": zip_bytes({}, (zip_entry("l", stat.S_IFLNK | 0o777), b"../../secret")),
    "a hard link": tar_bytes({}, "w", entry("l", tarfile.LNKTYPE, "../../secret")),
    "an absolute hard link": tar_bytes({}, "w", entry("l", tarfile.LNKTYPE, "/etc/passwd")),
    "links over links": tar_bytes(
        {},
        "w",
        entry("x/", tarfile.DIRTYPE),
        entry("x/up", tarfile.SYMTYPE, ".."),
        entry("m", tarfile.SYMTYPE, "x/up/.."),
    ),
    "links over later links": tar_bytes(
        {},
        "w",
        entry("x/y/", tarfile.DIRTYPE),
        entry("m", tarfile.SYMTYPE, "x/up/.."),
        entry("x/up", tarfile.SYMTYPE, ".."),
    ),
}


@pytest.mark.parametrize("content", LEAD_OUT.values(), ids=list(LEAD_OUT))
def test_nothing_leads_out(opened, tmp_path, content):
    (tmp_path / "secret").write_bytes(b"mine")
    with pytest.raises(UnusableError, match=r"given: member .* leads out of its folder.*publisher"):
        opened(content)
    assert (tmp_path / "secret").read_bytes() == b"mine"


def test_a_file_is_written_through_no_link(opened):
    """The link takes the name of a file, then a file takes the link's."""
    first = tar_bytes({"a": b"old"}, "w", entry("l", tarfile.SYMTYPE, "a"))
    content = (
        first.rstrip(b"\0") + bytes(-len(first.rstrip(b"\0")) % 512) + tar_bytes({"l": b"new"})
    )
    root = opened(content)
    assert (root / "a").read_bytes() == b"old"
    assert (root / "l").read_bytes() == b"new"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_refused(opened, kind):
    with pytest.raises(UnusableError, match=r"member 'odd' is a device or pipe"):
        opened(tar_bytes(FILES, "w", entry("odd", kind)))


def test_a_device_in_a_zip(opened):
    with pytest.raises(UnusableError, match=r"member 'odd' is a device or pipe"):
        opened(zip_bytes(FILES, (zip_entry("odd", stat.S_IFCHR | 0o600), b"")))


def test_a_hard_link_to_nothing(opened):
    with pytest.raises(UnusableError, match="link to 'nowhere', which is not there"):
        opened(tar_bytes({}, "w", entry("l", tarfile.LNKTYPE, "nowhere")))


def test_rights_of_the_archive_are_not_taken_over(opened):
    info = entry("run", tarfile.REGTYPE)
    info.mode, info.uid, info.gid = 0o6777, 1234, 1234
    found = (opened(tar_bytes(FILES, "w", info)) / "run").stat()
    assert not found.st_mode & (stat.S_ISUID | stat.S_ISGID | 0o111)
    assert found.st_uid == os.getuid()


@pytest.mark.parametrize("build", [zip_bytes, lambda files: tar_bytes(files, "w:gz")])
def test_a_bomb_is_no_archive(opened, monkeypatch, build):
    monkeypatch.setattr(segcore.acquisition.unpacking, "SLACK", 1000)
    bomb = build({"zeros": bytes(3_000_000)})
    assert len(bomb) * segcore.acquisition.unpacking.RATIO < 3_000_000
    with pytest.raises(UnusableError, match="unpacks to more than 100 times its size"):
        opened(bomb)
    many = build({f"{number:06d}": b"" for number in range(3000)})
    monkeypatch.setattr(segcore.acquisition.unpacking, "RATIO", 20)
    with pytest.raises(UnusableError, match="unpacks to more than 20 times"):
        opened(many)


def test_a_bomb_inside_counts_by_the_outer_size(opened, monkeypatch):
    monkeypatch.setattr(segcore.acquisition.unpacking, "SLACK", 10_000)
    inner = zip_bytes({"zeros": bytes(3_000_000)})
    with pytest.raises(UnusableError, match="unpacks to more"):
        opened(zip_bytes({"a.zip": inner}))


CUT = {
    "tar": tar_bytes(FILES),
    "tgz": tar_bytes({"a": os.urandom(5000), "b": os.urandom(5000)}, "w:gz"),
    "zip": zip_bytes({"a": os.urandom(5000), "b": os.urandom(5000)}),
}


@pytest.mark.parametrize("kind", CUT)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.6, 0.9])
def test_an_archive_cut_short_is_refused(opened, kind, share):
    whole = CUT[kind].rstrip(b"\0") if kind == "tar" else CUT[kind]
    with pytest.raises(UnusableError, match=r"given .*(damaged|cut short|neither|whole)"):
        opened(whole[: int(len(whole) * share)])


@pytest.mark.parametrize("blocks", [1, 2, 14, 15])
def test_a_tar_cut_between_two_members_is_refused(opened, blocks):
    """``tarfile`` takes a missing end for the end."""
    whole = tar_bytes(FILES)
    assert whole[14 * 512 :][:6] == b"tree/b"
    with pytest.raises(UnusableError, match="cut short"):
        opened(whole[: blocks * 512])


def test_a_damaged_header_in_the_middle_is_no_end(opened):
    whole = bytearray(tar_bytes(FILES))
    whole[1024 + 150] ^= 1  # a checksum
    with pytest.raises(UnusableError, match=r"damaged .*its end is missing"):
        opened(bytes(whole))


def test_names_that_are_no_text_are_refused(opened):
    """What a list of files in JSON could not hold."""
    latin = tar_bytes({"caf\udce9.jpg": b"x"}, "w")
    assert b"caf\xe9.jpg" in latin
    with pytest.raises(UnusableError, match=r"member 'caf\\udce9.jpg' has a name that is no UTF-8"):
        opened(latin)
    assert tree_of(opened(tar_bytes({"café.jpg": b"x"}))) == {"café.jpg": b"x"}


def pax(link: str) -> bytes:
    """A symbolic link whose target stands in a header of its own."""
    info = entry("l", tarfile.SYMTYPE, "x")
    info.pax_headers = {"linkpath": link}
    return info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)


def test_a_link_to_no_path_is_refused(opened):
    assert (opened(pax("list.txt")) / "l").is_symlink()
    in_zip = zip_entry("l", stat.S_IFLNK | 0o777), b"a\0b"
    for content in pax("a\0b"), zip_bytes({}, in_zip):
        with pytest.raises(UnusableError, match=r"member 'l' is a link to 'a\\x00b', which is no"):
            opened(content)


def test_a_link_in_a_zip_is_no_longer_than_a_path(opened):
    for size, told in (4096, "cannot be written"), (4097, "damaged .*l is a link of 4097 bytes"):
        long = zip_entry("l", stat.S_IFLNK | 0o777), b"a" * size
        with pytest.raises(InputError, match=told):
            opened(zip_bytes({}, long))


def test_names_and_links_longer_than_a_path(opened):
    """Their folders would be looked up one by one, each with all those above it."""
    name = "a/" * 400_000
    with pytest.raises(UnusableError, match=r"member '(a/){100}' is longer than a path; nothing"):
        opened(tar_bytes({name: b"x"}))
    with pytest.raises(UnusableError, match=r"is a link to '(a/){100}', which is no path"):
        opened(pax(name))


def header(kind: bytes, size: int) -> bytes:
    """One block that says that ``size`` bytes follow, as GNU writes what 11 octal digits cannot."""
    info = entry("l", kind)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (size % (1 << 96)).to_bytes(12, "big")
    block[124] |= 0x80
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", segcore.acquisition.members.READ_WHOLE)
@pytest.mark.parametrize("size", [10 << 30, (1 << 20) + 1, -1000])
def test_a_header_says_that_it_is_huge(opened, monkeypatch, kind, size):
    asked, plain = list[int](), tarfile.bltn_open
    monkeypatch.setattr(tarfile, "bltn_open", lambda *given: Counting(plain(*given), asked))
    member = tar_bytes({"a": b"x"})[:1024]
    for content in header(kind, size) + bytes(1024), member + header(kind, size) + bytes(1024):
        with pytest.raises(UnusableError, match=r"given .*(neither|damaged.*a header of .*bytes)"):
            opened(content)
    assert asked
    assert 0 <= min(asked) <= max(asked) <= 1 << 20


class Counting:
    """A file that notes how many bytes are asked for at once."""

    def __init__(self, file: Any, asked: list[int]) -> None:
        self.file, self.asked = file, asked

    def read(self, size: int = -1) -> bytes:
        self.asked.append(size)
        return self.file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_long_names_of_honest_archives_come(opened):
    name = "/".join(["a long name of a folder"] * 20) + "/b.jpg"
    assert tree_of(opened(tar_bytes({name: b"x"}))) == {name: b"x"}


def test_headers_count_as_well(opened, monkeypatch):
    """A few kilobytes, compressed, would else be held in memory as gigabytes of names."""
    monkeypatch.setattr(segcore.acquisition.unpacking, "SLACK", 100_000)
    content = b"".join(
        tarfile.TarInfo(f"{number}").create_pax_global_header({f"k{number}": "v" * 100_000})
        + tarfile.TarInfo(f"{number}").tobuf()
        for number in range(100)
    )
    with pytest.raises(UnusableError, match="unpacks to more than 100 times its size"):
        opened(gzip.compress(content + bytes(1024)))


def test_files_with_holes_are_refused(opened):
    info = entry("holes", tarfile.GNUTYPE_SPARSE)
    newer = tarfile.TarInfo("holes")
    newer.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    newer.pax_headers |= {"GNU.sparse.name": "holes", "GNU.sparse.realsize": "0"}
    for content in tar_bytes(FILES, "w", info), newer.tobuf(tarfile.PAX_FORMAT) + bytes(2048):
        with pytest.raises(UnusableError, match=r"neither|damaged .*a file with holes"):
            opened(content)


def test_headers_without_end_are_damage(opened):
    """Each is read inside the one before it: Python's stack ends first."""
    chain = b"".join(header(tarfile.GNUTYPE_LONGNAME, 0) for _ in range(2000))
    first = tar_bytes({"a": b"x"})[:1024]
    for content in chain + bytes(1024), first + chain + bytes(1024):
        with pytest.raises(UnusableError, match=r"neither|damaged or cut short .*recursion"):
            opened(content)


@pytest.mark.parametrize("error", [ValueError("odd"), KeyError("odd"), IndexError("odd")])
def test_whatever_a_library_raises_is_damage(opened, monkeypatch, error):
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(zipfile.ZipFile, "infolist", fails)
    with pytest.raises(UnusableError, match=r"given is damaged or cut short \(.*odd"):
        opened(zip_bytes(FILES))


def test_a_damaged_byte_of_a_zip_is_found(opened):
    whole = bytearray(zip_bytes({"a": os.urandom(5000)}))
    whole[2000] ^= 1
    with pytest.raises(UnusableError, match="damaged"):
        opened(bytes(whole))


def test_an_encrypted_zip(opened):
    whole = bytearray(zip_bytes({"a": b"secret"}))
    whole[6] |= 1
    whole[whole.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(UnusableError, match="encrypted; unpack it into the drop folder"):
        opened(bytes(whole))


def test_an_unknown_compression(opened):
    whole = bytearray(zip_bytes({"a": b"secret"}))
    whole[8] = 99
    whole[whole.index(b"PK\x01\x02") + 10] = 99
    with pytest.raises(UnusableError, match="damaged or cut short"):
        opened(bytes(whole))


NO_ARCHIVE = {
    "empty": b"",
    "text": b"hello, " * 100,
    "a gzip of no tar": gzip.compress(b"hello" * 1000),
    "a bz2 of no tar": bz2.compress(b"hello" * 1000),
    "a zlib stream": zlib.compress(b"hello" * 1000),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(1000),
}


@pytest.mark.parametrize("content", NO_ARCHIVE.values(), ids=list(NO_ARCHIVE))
def test_what_is_no_archive(opened, content):
    with pytest.raises(UnusableError, match="is neither a zip nor a tar archive"):
        opened(content)


def test_a_web_page_is_told_as_such(opened):
    with pytest.raises(UnusableError, match="is a web page"):
        opened(b"<!doctype html><html>expired</html>" + b" " * 600)


@pytest.mark.parametrize("content", [zip_bytes({}), tar_bytes({})])
def test_an_empty_archive(opened, content):
    with pytest.raises(UnusableError, match="holds no file"):
        opened(content)


def test_a_file_where_a_folder_is_needed(opened):
    with pytest.raises(InputError, match="cannot be written"):
        opened(tar_bytes({"a": b"x", "a/b": b"y"}))


def test_a_full_disk_is_not_the_archives_fault(opened, monkeypatch, tmp_path):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segcore.acquisition.unpacking.Unpacking, "_store", full)
    with pytest.raises(
        InputError, match=f"no space left below {tmp_path}/outer/root; make room"
    ) as e:
        opened(zip_bytes(FILES))
    assert not isinstance(e.value, UnusableError), "a good archive would be deleted"


def test_other_troubles_of_the_disk_name_the_file(tmp_path):
    told = pytest.raises(InputError, match=r"none/file cannot be written: No such file")
    with told, written_below(tmp_path):
        (tmp_path / "none/file").write_text("x")


def test_a_stop_is_heard_between_pieces(tmp_path):
    (tmp_path / "a.zip").write_bytes(zip_bytes({"a": bytes(5 << 20)}))
    beats = list[int]()

    def beat() -> None:
        beats.append(1)
        if len(beats) == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        unpack(tmp_path / "a.zip", tmp_path / "root", beat)
    assert 0 < (tmp_path / "root/a").stat().st_size < 5 << 20


def test_difference(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    assert Archive("f").difference(path) == ""
    assert (
        Archive("f", size=3, checksum="md5:900150983cd24fb0d6963f7d28e17f72").difference(path) == ""
    )
    assert Archive("f", size=4).difference(path) == "has 3 bytes, 4 are published"
    found = hashlib.sha1(b"abc").hexdigest()
    assert Archive("f", checksum="sha1:00").difference(path) == f"has sha1 {found}, 00 is published"
    path.write_bytes(b"  <html>")
    assert "web page" in Archive("f").difference(path)
    assert Archive("f.html").difference(path) == ""
