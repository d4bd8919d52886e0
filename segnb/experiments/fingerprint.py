"""Fingerprints of the data that a run reads: the bytes of every image and mask, split by split.

Equal fingerprints mean equal ids, files and meaning of labels, wherever the files lie and whatever
their times. A file's hash is remembered by size, time of its content, and the time that the
system itself sets at every change (``ctime``), which no tool can set back: an edit that keeps size
and time is noticed too. Where a system has no such time, every file is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, runtime_checkable

from segnb import datasets
from segnb.datasets import SegmentationDataset
from segnb.datasets.base import cache_root
from segnb.datasets.shapes import ShapesDataset
from segnb.errors import DataError
from segnb.files import write_atomic
from segnb.recipe import Recipe

#: Fingerprint by the name of the split.
Fingerprint = dict[str, str]

#: Increase this with any change of what a fingerprint means.
VERSION = 1

#: A file that changed less than this many seconds ago may change again within one tick of the
#: clock, so its hash is not remembered.
_SETTLED = 2.0

#: Size, times and number of a file.
_State = tuple[int, int, int, int]


def fingerprint(recipe: Recipe, *, root: Path | None = None) -> Fingerprint:
    """The fingerprint of every split of a recipe's data set.

    Raises:
        DataError: A file is missing or can't be read.
    """
    return {
        split: of_split(datasets.load(recipe.dataset, split, root=root, size=recipe.size))
        for split in datasets.get(recipe.dataset).splits
    }


def of_split(data: SegmentationDataset) -> str:
    """Sixteen hex digits over the ids of a split, its files and what labels mean.

    Args:
        data: A split. If it consists of files, it has ``contents``; of one that is drawn, a few
            images stand for all; of any other, every image and mask is read.

    Raises:
        DataError: A file can't be read.
    """
    digest = hashlib.sha256(repr((VERSION, data.info.class_names, data.ids)).encode())
    if isinstance(data, OfFiles):
        meaning, files = data.contents()
        digest.update(meaning.encode())
        for one in _Memory(data.split, files[0].absolute().parent).hashes(files):
            digest.update(one.encode())
    else:
        drawn = isinstance(data, ShapesDataset)
        digest.update(_samples(data, most=_OF_DRAWN if drawn else len(data)).encode())
    return digest.hexdigest()[:16]


@runtime_checkable
class OfFiles(Protocol):
    """A split that consists of files."""

    @property
    def split(self) -> str:
        """``train``, ``val`` or ``test``."""
        ...

    def contents(self) -> tuple[str, list[Path]]:
        """What the labels mean, and the files whose bytes decide all samples, in order."""
        ...


#: Of a drawn split, so many images from the first to the last stand for all: the code that draws
#: them may be reworded without a change of any pixel.
_OF_DRAWN = 8

#: Hashes of splits that are no files, by all that makes them.
_SAMPLED: dict[str, str] = {}


def _samples(data: SegmentationDataset, *, most: int) -> str:
    """A hash of images and masks from the first to the last."""
    if data.fingerprint not in _SAMPLED:
        digest = hashlib.sha256()
        last = max(most - 1, 1)
        for index in sorted({round(i * (len(data) - 1) / last) for i in range(most)}):
            sample = data[index]
            digest.update(sample.image.tobytes() + sample.mask.tobytes())
        _SAMPLED[data.fingerprint] = digest.hexdigest()
    return _SAMPLED[data.fingerprint]


class _Memory:
    """Hashes of a split's files, remembered in the cache."""

    def __init__(self, split: str, folder: Path) -> None:
        place = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        self.path = cache_root() / "contents" / f"{place}-{split}.json"
        self.known: dict[str, tuple[_State, str]] = {}
        # A damaged or foreign memory is no memory.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            if stored["check"] == _check(stored["files"]):
                self.known = {
                    name: (tuple(state), found) for name, (state, found) in stored["files"].items()
                }

    def hashes(self, files: Iterable[Path]) -> list[str]:
        """The hash of each file's bytes, in order."""
        files = list(files)
        once = list(dict.fromkeys(files))  # one COCO file may stand behind all masks
        # Reading and hashing release the GIL.
        with ThreadPoolExecutor() as pool:
            of_file = dict(zip(once, pool.map(self._hash, once), strict=True))
        found = [of_file[path] for path in files]
        now = time.time_ns()
        new = {
            str(path): (state, one)
            for path, (state, one) in zip(files, found, strict=True)
            if os.name == "posix" and now - max(state[1:3]) > _SETTLED * 1e9
        }
        if new and new.items() - self.known.items():
            kept = {**self.known, **new}
            with contextlib.suppress(OSError, DataError, ValueError):
                write_atomic(self.path, json.dumps({"check": _check(kept), "files": kept}))
        return [one for _, one in found]

    def _hash(self, path: Path) -> tuple[_State, str]:
        try:
            state = _state(path)
            known = self.known.get(str(path))
            if known is not None and known[0] == state:
                return known
            return state, hashlib.sha256(path.read_bytes()).hexdigest()[:24]
        except OSError as error:
            raise DataError(f"{path} can't be read ({error.strerror or error})") from error


def _state(path: Path) -> _State:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _check(files: object) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
