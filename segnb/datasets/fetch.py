"""Getting the data: mirrors in order, downloads that resume, hashes, safe unpacking.

Nothing here runs unless :func:`fetch` is called, and a data set that is there already needs no
network.
"""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import http.client
import os
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from segnb import datasets
from segnb.datasets.base import data_root
from segnb.datasets.entry import Archive, Entry
from segnb.errors import DataError

_TIMEOUT = 30.0  # seconds without a byte
_TRIES = 5  # of one mirror, while each brings something new
_BLOCK = 1 << 20


def fetch(entry: Entry, *, root: Path | None = None, say: Callable[[str], None] = print) -> None:
    """Put a data set into the data root, if it is not there already.

    A download that was cut off goes on where it ended. An archive that lies in the data root
    under its own name is used in place of a download and is kept; one that was downloaded is
    removed when it is unpacked.

    Args:
        entry: What :func:`segnb.datasets.get` gives.
        root: The data root; by default ``$SEGNB_DATA``, or ``./data``.
        say: Takes the lines for the reader: licence, sources, what to do by hand.

    Raises:
        DataError: The set must be fetched by hand, no mirror has it, or what came is not it.
    """
    if not entry.folder:
        say(f"{entry.how}.")
        return
    folder, info = data_root(root), entry.info()
    whole = datasets.get(entry.part_of) if entry.part_of else entry
    say(f"{entry.name}: {info.homepage}\nTerms: {info.licence}")
    try:
        say(f"{entry.name} is there already: {whole.count(folder)}.")
        return
    except DataError as error:
        say(f"Not there yet: {error}")
    archive = entry.archive
    if archive is None:
        raise DataError(f"{entry.how}; 'there' is {folder / entry.folder}")
    placed = folder / archive.file
    if placed.is_file():
        say(f"Using {placed}.")
        if not _is_right(placed, archive):
            raise DataError(f"{placed} is not the right file: {_fault(archive)}; remove it")
        _unpack(placed, archive, folder)
    else:
        arrived = _download_any(entry.name, archive, folder, say)
        say(f"Unpacking {arrived.name}.")
        try:
            _unpack(arrived, archive, folder)
        except DataError:
            # What is no good must not be taken for a finished download the next time.
            arrived.unlink()
            raise
        arrived.unlink()
    say(f"{entry.name} is ready: {whole.count(folder)}.")
    if entry.hint:
        say(f"{entry.hint}.")


def extract(path: Path, into: Path, take: tuple[str, ...]) -> None:
    """Unpack some files of a tar or zip archive, none of which can land outside ``into``.

    Links and devices are left out.

    Args:
        path: A tar (of any compression) or zip file.
        into: Where to unpack.
        take: Which, as :attr:`Archive.take`.

    Raises:
        DataError: The archive is damaged, climbs out of ``into``, or holds nothing of ``take``.
    """

    def wanted(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in take)

    if not hasattr(tarfile, "data_filter"):
        raise DataError("unpacking safely needs Python 3.10.12, 3.11.4 or newer; update Python")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                names = [name for name in packed.namelist() if wanted(name)]
                packed.extractall(into, names)  # makes no links, and drops "/" and ".."
        else:
            with tarfile.open(path) as bundle:
                names = []
                for member in bundle:
                    if member.isreg() and wanted(member.name):
                        bundle.extract(member, into, filter="data")  # refuses what climbs out
                        names.append(member.name)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} cannot be unpacked ({error}); fetch it again") from error
    if not names:
        raise DataError(
            f"{path} holds none of {', '.join(take)}; it is not the archive it is named after"
        )


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
        have = to.stat().st_size if to.is_file() else 0
        if _download_once(url, to, have):
            return
        if to.stat().st_size <= have:
            break
    raise OSError("the connection broke off")


def _download_once(url: str, to: Path, have: int) -> bool:
    """One request; whether all arrived."""
    from tqdm.auto import tqdm

    headers = {"User-Agent": "segnb", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        answer = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT
        )
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        # Nothing lies beyond what is here; the hash shows whether it is the right thing.
        error.close()
        return True
    with answer:
        # A host that cannot resume sends all of it again, from the start.
        start = have if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        span = str(answer.headers["Content-Range"])
        if start and not span.startswith(f"bytes {have}-"):
            raise OSError(f"asked for bytes from {have} on, the host answered {span!r}")
        length = answer.headers["Content-Length"]
        total = None if length is None else start + int(length)
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=to.name, delay=1)
        with to.open("ab" if start else "wb") as stream, bar:
            try:
                while block := answer.read(_BLOCK):
                    stream.write(block)
                    bar.update(len(block))
            except (http.client.HTTPException, ConnectionError, TimeoutError):
                return False
            return total is None or stream.tell() >= total


def _download_any(name: str, archive: Archive, folder: Path, say: Callable[[str], None]) -> Path:
    """Try each mirror until one has brought the right file."""
    whole = folder / ".downloads" / archive.file
    part = whole.with_name(f"{whole.name}.part")
    if whole.is_file():
        return whole
    whole.parent.mkdir(parents=True, exist_ok=True)
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
            reasons.append(f"{url}: not the right file, {_fault(archive)}")
            say(f"  no: what came is not the right file, {_fault(archive)}")
            part.unlink()
    known = f" (SHA-1 {archive.sha1})" if archive.sha1 else ""
    raise DataError(
        f"no mirror has {archive.file} ({'; '.join(reasons)}). To fetch {name} by hand, download "
        f"{' or '.join(archive.mirrors)}{known}, {archive.size}, with a browser, put it at "
        f"{folder / archive.file} and call `segnb fetch {name}` again, which then needs no network"
    )


def _is_right(path: Path, archive: Archive) -> bool:
    if archive.sha1 is None:
        return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    digest = hashlib.sha1(usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest() == archive.sha1


def _fault(archive: Archive) -> str:
    return f"its SHA-1 is not {archive.sha1}" if archive.sha1 else "it is no archive"


def _unpack(path: Path, archive: Archive, folder: Path) -> None:
    """Unpack to one side, check, then move file by file: what else lies there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpack.") as name:
        side = Path(name)
        extract(path, side, archive.take)
        if archive.wrapped:
            side = next(side.iterdir())
        if archive.check is not None:
            archive.check(side)
        files = [path for path in side.rglob("*") if path.is_file()]
        # Lists last: without them a move that was cut short is not taken for a whole data set.
        for file in sorted(files, key=lambda path: (path.suffix == ".txt", path)):
            target = folder / file.relative_to(side)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
