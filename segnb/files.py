"""Whole files or none: each file is written under another name, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it on success, remove it on failure.

    The rename is atomic because both are in one folder. It survives a power cut because the
    content is flushed to disk first.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    side = Path(name)
    try:
        yield side
        # mkstemp and some writers create private files; results should be as readable as any
        # other file here.
        side.chmod(0o666 & ~_umask())
        with side.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(side, target)
    finally:
        side.unlink(missing_ok=True)


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


@contextlib.contextmanager
def claimed(folder: Path, *, busy: Callable[[], None]) -> Iterator[None]:
    """Reserve a folder for this process until the block or the process ends.

    Args:
        folder: Created if missing. Partial files left by a killed process are removed.
        busy: Called repeatedly while another process holds the folder; it waits or raises.
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
            # Folders are none of ours; Jupyter makes some.
            if left.name != ".lock" and not left.is_dir():
                left.unlink()
        yield
    finally:
        lock.release()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
