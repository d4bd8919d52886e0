"""Entries of the cache: their names, one builder at a time, nothing left by killed builders."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from tqdm import tqdm

from segnb.datasets.base import SegmentationDataset, writing_cache
from segnb.errors import DataError

T = TypeVar("T")

#: What a killed builder leaves beside an entry.
_HALF = re.compile(r"\.(.+)\.[a-z0-9_]{8}(\.part)?")


def entry_name(dataset: SegmentationDataset, *details: object) -> str:
    """A file name for what is derived from a split; it changes with the fingerprint and details.

    The name of a data set is any text, so only its letters and digits become part of it.
    """
    words = re.sub(r"[^A-Za-z0-9]+", "-", dataset.info.name).strip("-")[-40:] or "set"
    exact = (dataset.info.name, dataset.split, dataset.fingerprint, *details)
    digest = hashlib.sha256(repr(exact).encode(errors="backslashreplace")).hexdigest()[:16]
    return "-".join((words, re.sub(r"\W+", "-", dataset.split), *map(str, details), digest))


def read_or_build(path: Path, read: Callable[[], T | None], build: Callable[[], None]) -> T:
    """The content of an entry, which is built if it is missing or damaged.

    Args:
        path: The entry, a file or a folder.
        read: Returns its content; ``None`` if it is missing or damaged.
        build: Writes it; called where nothing stands at ``path``, by one process at a time.

    Raises:
        DataError: The cache cannot be written, or not read back.
    """
    found = read()
    if found is not None:
        return found
    with building(path):
        found = read()  # another process may have built it meanwhile
        if found is None:
            if os.path.lexists(path):
                say(f"the cache {path} is damaged and is built again")
                remove(path)
            build()
            found = read()
    if found is None:
        raise DataError(
            f"the cache {path} cannot be read back; set SEGNB_CACHE to a folder on a local disk"
        )
    return found


@contextlib.contextmanager
def building(path: Path) -> Iterator[None]:
    """Hold the right to write an entry; other processes wait. Halves of earlier ones are removed.

    Raises:
        DataError: The cache cannot be written.
    """
    with writing_cache(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            for half in path.parent.glob(".*"):
                if found := _HALF.fullmatch(half.name):
                    _sweep(half, of=path.with_name(found[1]), held=path)
            yield


def remove(path: Path) -> None:
    """Remove an entry, be it a file, a folder or a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def say(line: str) -> None:
    """Print a line above a progress bar, not into it."""
    tqdm.write(line, file=sys.stderr)


def _sweep(half: Path, *, of: Path, held: Path) -> None:
    """Remove a half of the entry ``of``, unless another process is building it now."""
    if of == held:
        remove(half)
        return
    with contextlib.suppress(Timeout), _lock(of).acquire(timeout=0):
        remove(half)


def _lock(path: Path) -> FileLock:
    return FileLock(f"{path}.lock")
