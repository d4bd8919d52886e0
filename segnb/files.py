"""Whole files or none: each file is written under another name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from segnb.errors import DataError

#: Seconds after which a half in a folder that several processes share is taken for a dead one's.
HALF_SECONDS = 3600.0

#: What a disk answers that has no such operation: some network, FUSE and FAT mounts.
_LACKING = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}

#: What :func:`atomic_path` leaves if it is killed; without the ending in earlier versions.
_HALF = re.compile(r"\..+\.[a-z0-9_]{8}(\.part)?")


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it on success, remove it on failure.

    The rename is atomic because both are in one folder. It survives a power cut because the
    content is flushed to disk first. A symbolic link is written through.

    Raises:
        DataError: ``path`` is a folder, or a link into a folder that isn't there.
    """
    target = behind_link(Path(path))
    if target.is_dir():
        raise DataError(f"{target} is a folder where a file should be; move it away")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    side = Path(name)
    try:
        yield side
        # mkstemp and some writers create private files; results should be as readable as any
        # other file here. Disks without permissions refuse.
        with contextlib.suppress(OSError):
            side.chmod(0o666 & ~_umask())
        with side.open("rb") as stream:
            flush(stream.fileno())
        os.replace(side, target)
    finally:
        side.unlink(missing_ok=True)


def behind_link(path: Path) -> Path:
    """The file that a symbolic link leads to; any other path as it is.

    Raises:
        DataError: It leads into a folder that isn't there.
    """
    if not path.is_symlink():
        return path
    try:
        target = path.resolve()
        there = target.parent.is_dir()
    except (OSError, RuntimeError):  # a loop
        there = False
    if not there:
        raise DataError(
            f"{path} is a link to {os.readlink(path)}, which isn't there; connect its disk, or "
            "remove the link"
        )
    return target


def flush(descriptor: int) -> None:
    """Write an open file to the disk, on disks that can be asked to."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _LACKING:
            raise


def write_atomic(path: Path | str, data: str | bytes) -> None:
    """Write ``data`` to ``path``; a reader sees either the old content or the new."""
    with atomic_path(path) as side:
        side.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, value: Any) -> None:
    """Write one indented JSON value."""
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value per line."""
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def need_writable(*paths: Path) -> None:
    """Check, before any work, that files can be written; creates their folders.

    Raises:
        DataError: A path is a folder, or its folder is a file or refuses.
    """
    for path in map(behind_link, paths):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except (FileExistsError, NotADirectoryError) as error:
            raise DataError(
                f"{path} can't be written: there is a file where a folder should be; move it "
                "away, or name another folder"
            ) from error
        except OSError as error:
            raise DataError(
                f"{path} can't be written ({error.strerror or error}); make {path.parent} "
                "writable, or name another folder"
            ) from error
        if path.is_dir():
            raise DataError(f"{path} is a folder where a file should be; move it away")


def sweep_halves(folder: Path, *, older_than: float = HALF_SECONDS) -> None:
    """Remove the halves of files that killed processes left in a folder.

    Args:
        folder: May be missing.
        older_than: Age in seconds; 0 where no other process writes here.
    """
    for path in folder.glob(".*"):
        with contextlib.suppress(OSError):
            if (
                _HALF.fullmatch(path.name)
                and path.is_file()
                and time.time() - path.stat().st_mtime >= older_than
            ):
                path.unlink()


@contextlib.contextmanager
def locked(path: Path, *, busy: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock file until the block or the process ends.

    A disk without locks is used without, after a warning.

    Args:
        path: The lock file; its folder is created.
        busy: Called repeatedly while another process holds it; it waits or raises. By default
            wait.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        while not lock.is_locked:
            try:
                lock.acquire(timeout=-1 if busy is None else 0)
            except Timeout:
                if busy is not None:
                    busy()
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _LACKING:
            raise
        _warn_once(path.parent)
    try:
        yield
    finally:
        lock.release()


_WARNED: set[Path] = set()


def _warn_once(folder: Path) -> None:
    if folder not in _WARNED:
        _WARNED.add(folder)
        print(
            f"segnb: the disk of {folder} has no file locks: let no second process write there",
            file=sys.stderr,
        )


@contextlib.contextmanager
def claimed(folder: Path, *, busy: Callable[[], None]) -> Iterator[None]:
    """Reserve a folder for this process until the block or the process ends.

    Args:
        folder: Created if missing. Partial files left by a killed process are removed.
        busy: Called repeatedly while another process holds the folder; it waits or raises.
    """
    with locked(folder / ".lock", busy=busy):
        sweep_halves(folder, older_than=0)
        yield


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
