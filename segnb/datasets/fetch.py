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
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from segnb import datasets
from segnb.datasets.base import data_root
from segnb.datasets.entry import Archive, Entry
from segnb.errors import DataError
from segnb.files import claimed

_TIMEOUT = 30.0  # seconds without a byte
_TRIES = 5  # requests to one mirror, as long as each brings something new
_BLOCK = 1 << 20
_SLOWEST = 1000.0  # bytes a second; a host that sends fewer has stalled
_WAIT = 0.5  # seconds between two looks at whether another process has finished
_DOWNLOADS = ".downloads"  # in the data root: the lock, half downloads, half-unpacked archives
_HALF = "unpack."

#: Faults of this machine's disk. All other errors are the host's or the file's.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


def fetch(entry: Entry, *, root: Path | None = None, say: Callable[[str], None] = print) -> None:
    """Put a data set into the data root, unless it is already there.

    An interrupted download is resumed. An archive that is already in the data root under its own
    name is used instead of a download, and kept; a downloaded archive is deleted after unpacking.
    Of two calls at once, one waits for the other.

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
    waits = _Waiting(folder, say)
    with claimed(folder / _DOWNLOADS, busy=waits):
        for left in (folder / _DOWNLOADS).glob(f"{_HALF}*"):  # by a kill
            shutil.rmtree(left)
        if not (waits.said and _is_there(whole, folder)):
            _get(entry.name, archive, whole, folder, say)
    say(f"{entry.name} is ready: {whole.count(folder)}.")
    if entry.hint:
        say(f"{entry.hint}.")


class _Waiting:
    """Waits while another process fetches into the same folder, and says so once."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say, self.said = folder, say, False

    def __call__(self) -> None:
        if not self.said:
            self.say(f"Another process is fetching into {self.folder}; waiting for it.")
            self.said = True
        time.sleep(_WAIT)


def _is_there(entry: Entry, folder: Path) -> bool:
    try:
        entry.count(folder)
    except DataError:
        return False
    return True


def _get(
    name: str, archive: Archive, entry: Entry, folder: Path, say: Callable[[str], None]
) -> None:
    """Unpack the archive put there by hand, else that of the first mirror that has it right."""
    placed = folder / archive.file
    if placed.is_file():
        say(f"Using {placed}.")
        if not _is_right(placed, archive):
            raise DataError(f"{placed} is not the right file: {_fault(archive)}; remove it")
        _unpack(placed, archive, entry, folder)
        return
    downloaded = folder / _DOWNLOADS / archive.file
    reasons: list[str] = []
    # A kill may have come between downloading and unpacking: try what is there first.
    for url in ("", *archive.mirrors) if downloaded.is_file() else archive.mirrors:
        try:
            if url:
                _download_from(url, downloaded, archive, say)
            say(f"Unpacking {downloaded.name}.")
            _unpack(downloaded, archive, entry, folder)
            return
        except DataError as error:
            say(f"  no: {error}")
            if url:
                reasons.append(f"{url}: {error}")
        finally:
            # Wrong or done with; the next call must not take it for a good download.
            downloaded.unlink(missing_ok=True)
    known = f" (SHA-1 {archive.sha1})" if archive.sha1 else ""
    raise DataError(
        f"no mirror has {archive.file} ({'; '.join(reasons)}). To get {name} by hand, download "
        f"{' or '.join(archive.mirrors)}{known}, {archive.size}, with a browser, save it as "
        f"{placed} and run `segnb fetch {name}` again, which then needs no network"
    )


def extract(path: Path, into: Path, take: tuple[str, ...]) -> None:
    """Unpack some files of a tar or zip archive; none can be written outside ``into``.

    Links and devices are skipped.

    Args:
        path: A tar (of any compression) or zip file.
        into: The folder to unpack into.
        take: The files to unpack, as in :attr:`Archive.take`.

    Raises:
        DataError: The archive is damaged or encrypted, is compressed in a way that Python does not
            know, has paths outside ``into``, or has no file of ``take``.
    """

    def wanted(name: str) -> bool:
        # Archives made on a Mac hold a twin of every file, named ._ and the file's name.
        twin = name.rpartition("/")[2].startswith("._")
        return not twin and any(fnmatch.fnmatchcase(name, pattern) for pattern in take)

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
                # The checksum of a compressed file stands at its end, beyond the last member.
                assert bundle.fileobj is not None
                while bundle.fileobj.read(1 << 20):
                    pass
    except RuntimeError as error:  # a password, or a method of compression that Python lacks
        raise DataError(
            f"{path} cannot be unpacked here ({_line(error)}); unpack it with another program and "
            "make an ordinary zip file of it, or delete it and fetch it again"
        ) from error
    except Exception as error:  # over damaged bytes, the libraries raise errors of many kinds
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise
        raise DataError(f"{path} cannot be unpacked ({_line(error)}); fetch it again") from error
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
        OSError: The host cannot be reached, refuses, redirects to no usable address, or keeps
            breaking the connection or stalling.
    """
    if not resume:
        to.unlink(missing_ok=True)
    for _ in range(_TRIES):
        have = to.stat().st_size if to.is_file() else 0
        if _download_once(url, to, have):
            return
        if not to.is_file() or to.stat().st_size <= have:
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
        if not have or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        # There is nothing more to download; the hash shows whether the file is right.
        error.close()
        return True
    except (http.client.HTTPException, ValueError) as error:
        # An answer that is no HTTP, or a redirect to something that is no address.
        raise OSError(f"the host's answer can't be used: {error}") from error
    with answer:
        if not isinstance(answer, http.client.HTTPResponse):
            raise OSError(f"the host redirects to {answer.url}")
        # A host that cannot resume sends everything again.
        start = have if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        span = str(answer.headers["Content-Range"])
        if start and not span.startswith(f"bytes {have}-"):
            raise OSError(f"asked for bytes from {have} on, the host answered {span!r}")
        # None without a length, or with one that is no number.
        total = None if answer.length is None else start + answer.length
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=to.name, delay=1)
        with to.open("ab" if start else "wb") as stream, bar:
            since, arrived = time.monotonic(), 0
            try:
                while block := answer.read1(_BLOCK):
                    stream.write(block)
                    bar.update(len(block))
                    arrived += len(block)
                    if time.monotonic() - since > _TIMEOUT:
                        if arrived < _SLOWEST * _TIMEOUT:
                            return False
                        since, arrived = time.monotonic(), 0
            except (http.client.HTTPException, ConnectionError, TimeoutError, ValueError):
                return False
            return total is None or stream.tell() >= total


def _download_from(url: str, to: Path, archive: Archive, say: Callable[[str], None]) -> None:
    """Download from one mirror, and check the hash.

    Raises:
        DataError: The mirror does not answer or has another file.
    """
    part = to.with_name(f"{to.name}.part")
    # The partial file may be wrong, perhaps from another mirror: then start again.
    for resume in (True, False) if archive.sha1 and part.is_file() else (False,):
        say(f"Downloading {url} ({archive.size}){', resumed' if resume else ''}.")
        try:
            download(url, part, resume=resume)
        except OSError as error:
            if error.errno in _DISK_ERRORS:
                raise
            raise DataError(_line(error)) from error
        if _is_right(part, archive):
            os.replace(part, to)
            return
        part.unlink()
    raise DataError(f"not the right file, {_fault(archive)}")


def _is_right(path: Path, archive: Archive) -> bool:
    if archive.sha1 is None:
        return _is_archive(path)
    digest = hashlib.sha1(usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest() == archive.sha1


def _is_archive(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    except Exception:  # over damaged bytes, the libraries raise errors of many kinds
        return False


def _line(error: Exception) -> str:
    """An error in one line of moderate length; a host or a file may choose its words."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _fault(archive: Archive) -> str:
    return f"its SHA-1 is not {archive.sha1}" if archive.sha1 else "it is no archive"


def _unpack(path: Path, archive: Archive, entry: Entry, folder: Path) -> None:
    """Unpack into a temporary folder, check, then move each file; other files there are kept."""
    with tempfile.TemporaryDirectory(dir=folder / _DOWNLOADS, prefix=_HALF) as name:
        side = Path(name)
        extract(path, side, archive.take)
        if archive.wrapped:
            outer = [path.name for path in side.iterdir()]
            if len(outer) > 1:
                raise DataError(f"{path} has {len(outer)} outer folders: {', '.join(outer)[:200]}")
            side /= outer[0]
        if archive.check is not None:
            archive.check(side)
        try:
            entry.count(side)
        except DataError as error:
            raise DataError(f"{path} is not complete: {error}") from error
        files = [path for path in side.rglob("*") if path.is_file()]
        # Lists last: without them, an interrupted move is not taken for a complete data set.
        for file in sorted(files, key=lambda path: (path.suffix == ".txt", path)):
            target = folder / file.relative_to(side)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
