"""Files that are either whole or not there: written to one side, then renamed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a path beside ``path``; rename it to ``path`` on success, remove it on failure.

    The renaming is atomic because both lie in one folder, and it survives a power cut because
    the content is flushed to disk first.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    side = Path(name)
    try:
        yield side
        # mkstemp makes private files, and so do some writers; results are as readable as any
        # other file here.
        side.chmod(0o666 & ~_umask())
        with side.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(side, target)
    finally:
        side.unlink(missing_ok=True)


def write_atomic(path: Path | str, data: str | bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old content or the new, never half."""
    with atomic_path(path) as side:
        side.write_bytes(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def claimed(folder: Path, *, busy: Callable[[], None]) -> Iterator[None]:
    """Keep a folder to one process until the block ends; the end of the process ends it too.

    Args:
        folder: Made where it is missing. Halves of files that a killed process left there go.
        busy: Called again and again while another process has the folder; it waits or raises.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            busy()
    try:
        for left in folder.glob(".*"):
            if left.name != ".lock":
                left.unlink()
        yield
    finally:
        lock.release()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
