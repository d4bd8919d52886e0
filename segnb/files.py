"""Files that are either whole or not there: written to one side, then renamed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
