"""Downloading data sets: several mirrors, resumed downloads, hashes, safe unpacking.

Nothing here runs unless :func:`fetch` is called, and a data set that is already there needs no
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
_TRIES = 5  # requests to one mirror, as long as each brings something new
_BLOCK = 1 << 20


def fetch(entry: Entry, *, root: Path | None = None, say: Callable[[str], None] = print) -> None:
    """Put a data set into the data root, unless it is already there.

    An interrupted download is resumed. An archive that is already in the data root under its own
    name is used instead of a download, and kept; a downloaded archive is deleted after unpacking.

    Args:
        entry: The data set, from :func:`segnb.datasets.get`.
        root: The data root; by default ``$SEGNB_DATA``, or ``./data``.
        say: Called with lines for the reader: licence, sources, what to do by hand.

    Raises:
        DataError: The data set must be downloaded by hand, no mirror has it, or the file is wrong.
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
        downloaded = _download_any(entry.name, archive, folder, say)
        say(f"Unpacking {downloaded.name}.")
        try:
            _unpack(downloaded, archive, folder)
        except DataError:
            # Delete it, or the next call would take it for a good download.
            downloaded.unlink()
            raise
        downloaded.unlink()
    say(f"{entry.name} is ready: {whole.count(folder)}.")
    if entry.hint:
        say(f"{entry.hint}.")


def extract(path: Path, into: Path, take: tuple[str, ...]) -> None:
    """Unpack some files of a tar or zip archive; none can be written outside ``into``.

    Links and devices are skipped.

    Args:
        path: A tar (of any compression) or zip file.
        into: The folder to unpack into.
        take: The files to unpack, as in :attr:`Archive.take`.

    Raises:
        DataError: The archive is damaged, has paths outside ``into``, or has no file of ``take``.
    """

    def wanted(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in take)

    if not hasattr(tarfile, "data_filter"):
        raise DataError("unpacking safely needs Python 3.10.12, 3.11.4 or newer; update Python")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                names = [name for name in packed.namelist() if wanted(name)]
                packed.extractall(into, names)  # creates no links, and drops "/" and ".."
        else:
            with tarfile.open(path) as bundle:
                names = []
                for member in bundle:
                    if member.isreg() and wanted(member.name):
                        bundle.extract(member, into, filter="data")  # refuses paths outside
                        names.append(member.name)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} cannot be unpacked ({error}); fetch it again") from error
    if not names:
        raise DataError(
            f"{path} holds none of {', '.join(take)}; it is not the archive that its name says"
        )


def download(url: str, to: Path, *, resume: bool) -> None:
    """Download ``url`` to ``to``; with ``resume``, continue after what ``to`` already contains.

    A broken connection is retried as long as each try brings something new.

    Args:
        url: An http or https address.
        to: The file.
        resume: Whether the file contains the beginning of ``url``. Only use this if there is a hash
            to check the result: otherwise nothing would notice a mismatch.

    Raises:
        OSError: The host cannot be reached, refuses, or keeps breaking the connection.
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
    """Make one request; returns whether everything has arrived."""
    from tqdm.auto import tqdm

    headers = {"User-Agent": "segnb", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        answer = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT
        )
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        # There is nothing more to download; the hash shows whether the file is right.
        error.close()
        return True
    with answer:
        # A host that cannot resume sends everything again.
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
    """Try each mirror until one has sent the right file."""
    whole = folder / ".downloads" / archive.file
    part = whole.with_name(f"{whole.name}.part")
    if whole.is_file():
        return whole
    whole.parent.mkdir(parents=True, exist_ok=True)
    reasons: list[str] = []
    for url in archive.mirrors:
        # The partial file may be wrong, perhaps from another mirror: then start again.
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
            say(f"  no: this is not the right file, {_fault(archive)}")
            part.unlink()
    known = f" (SHA-1 {archive.sha1})" if archive.sha1 else ""
    raise DataError(
        f"no mirror has {archive.file} ({'; '.join(reasons)}). To get {name} by hand, download "
        f"{' or '.join(archive.mirrors)}{known}, {archive.size}, with a browser, save it as "
        f"{folder / archive.file} and run `segnb fetch {name}` again, which then needs no network"
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
    """Unpack into a temporary folder, check, then move each file; other files there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpack.") as name:
        side = Path(name)
        extract(path, side, archive.take)
        if archive.wrapped:
            side = next(side.iterdir())
        if archive.check is not None:
            archive.check(side)
        files = [path for path in side.rglob("*") if path.is_file()]
        # Lists last: without them, an interrupted move is not taken for a complete data set.
        for file in sorted(files, key=lambda path: (path.suffix == ".txt", path)):
            target = folder / file.relative_to(side)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
