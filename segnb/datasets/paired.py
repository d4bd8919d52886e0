"""A split stored on disk as pairs of an image file and a mask file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from segnb.datasets.base import IGNORE, Bytes, DatasetInfo, Sample, Split
from segnb.datasets.reading import (
    RULES,
    Colour,
    not_a_file,
    read_image,
    read_mask,
    require_same_size,
)
from segnb.errors import DataError


class Pair(NamedTuple):
    """The files of one labelled image."""

    id: str
    image: Path
    mask: Path


class PairedDataset:
    """One split stored on disk as pairs of an image file and a mask file.

    The constructor checks ids, labels and that the files exist; they are decoded when a sample is
    requested, as :mod:`segnb.datasets.reading` says.

    Args:
        info: The data set's description.
        split: ``train``, ``val`` or ``test``.
        pairs: The files, in the order of the ids.
        labels: The class id, or ``IGNORE``, for each value in a mask file; by default the value
            itself. A value that is not a key is an error in the data, except that ``IGNORE`` is
            void unless ``labels`` says otherwise.
        colours: The colour that each value has in palette masks, if they all have the same.
        source: The folder or list that the pairs come from, for messages.

    Raises:
        DataError: There are no pairs, two have one id, a file is missing, or a label is no class.
    """

    def __init__(
        self,
        info: DatasetInfo,
        split: Split,
        pairs: Sequence[Pair],
        *,
        source: Path,
        labels: Mapping[int, int] | None = None,
        colours: Mapping[int, Colour] | None = None,
    ) -> None:
        if split not in get_args(Split):
            raise DataError(f"there is no split {split!r}; splits are {', '.join(get_args(Split))}")
        if not pairs:
            raise DataError(
                f"{info.name}: the split {split!r} is empty: {source} names no images; "
                f"see data/README.md for the layout"
            )
        self.info = info
        self.split = split
        self.pairs = tuple(
            Pair(pair.id, Path(pair.image).expanduser(), Path(pair.mask).expanduser())
            for pair in pairs
        )
        self.ids = tuple(pair.id for pair in self.pairs)
        if labels is None:
            labels = {value: value for value in range(info.num_classes)}
        _need_classes(labels, info)
        self.labels = {IGNORE: IGNORE, **labels}
        self.colours = colours
        self._table = np.full(256, IGNORE, dtype=np.uint8)
        self._table[list(self.labels)] = list(self.labels.values())
        _need_unique_ids(self.pairs)
        _need_files(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image, mask = read_image(pair.image), self.mask(index)
        require_same_size(image, mask, image_path=pair.image, mask_path=pair.mask)
        return Sample(image, mask, pair.id)

    def mask(self, index: int) -> Bytes:
        """The mask of ``ids[index]``, ``[H, W]``, in class ids.

        Raises:
            DataError: The file cannot be read exactly, or has an unknown value.
        """
        path = self.pairs[index].mask
        raw = read_mask(path, colours=self.colours)
        unknown = set(np.flatnonzero(np.bincount(raw.ravel()))) - self.labels.keys()
        if unknown:
            raise DataError(
                f"{path} holds the label {min(unknown)}, which is no class of "
                f"{self.info.name} (known values: {_ranges(self.labels)})"
            )
        mask: Bytes = self._table[raw]
        return mask

    @property
    def fingerprint(self) -> str:
        """Changes with the ids, the meaning of labels, and each file's size and times.

        The files are looked at each time. Their times include that of the last change of any kind,
        which programs cannot set back, so an edit that keeps the size and the date is noticed.

        Raises:
            DataError: A file is missing.
        """
        meaning = (RULES, self.info.name, sorted(self.labels.items()))
        digest = hashlib.sha256(repr(meaning).encode())
        for pair in self.pairs:
            digest.update(repr((pair.id, stamp(pair.image), stamp(pair.mask))).encode())
        return digest.hexdigest()[:16]

    def contents(self) -> tuple[str, list[Path]]:
        """What the labels mean, and the files whose bytes decide all samples, in order."""
        files = [Path(path) for pair in self.pairs for path in (pair.image, pair.mask)]
        return repr(sorted(self.labels.items())), files


def stamp(path: Path) -> tuple[int, int, int]:
    """A file's size, its date and the time of its last change of any kind.

    Raises:
        DataError: It is missing.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {not_a_file(path) or error}") from error
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _need_classes(labels: Mapping[int, int], info: DatasetInfo) -> None:
    """Check that labels map mask values to classes or void."""
    for value, label in labels.items():
        if not _is_integer(value) or not 0 <= value <= 255:
            raise DataError(f"{info.name}: labels name {value!r}; mask values are 0 to 255")
        if not _is_integer(label) or not (0 <= label < info.num_classes or label == IGNORE):
            raise DataError(
                f"{info.name}: labels map the mask value {value} to {label!r}, but its "
                f"{info.num_classes} classes are numbered from 0 to {info.num_classes - 1}, and "
                f"void is {IGNORE}; map the first class to 0"
            )


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _need_unique_ids(pairs: Sequence[Pair]) -> None:
    """Check that no two pairs have one id: splits and results name images by it."""
    first: dict[str, Pair] = {}
    for pair in pairs:
        other = first.setdefault(pair.id, pair)
        if other is not pair:
            raise DataError(
                f"{other.image} and {pair.image} have the same id {pair.id!r}; give each image an "
                f"id of its own, such as its folder and name"
            )


def _need_files(pairs: Sequence[Pair]) -> None:
    """Check that all files exist. Each folder is listed once, as network disks are slow."""
    listed: dict[Path, frozenset[str]] = {}
    for pair in pairs:
        for kind, path in (("image", pair.image), ("mask", pair.mask)):
            if path.parent not in listed:
                listed[path.parent] = _names_of_files(path.parent)
            if path.name not in listed[path.parent]:
                problem = not_a_file(path)
                if problem in (None, "there is no such file"):
                    problem = f"there is no file {path}"
                else:
                    problem = f"{path}: {problem}"
                raise DataError(f"the {kind} of {pair.id!r} is missing: {problem}")


def _names_of_files(folder: Path) -> frozenset[str]:
    """Names of the regular files in a folder, and of links to such."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError as error:
        raise DataError(f"the folder {folder} can't be read ({error.strerror})") from error


def _ranges(values: Mapping[int, int]) -> str:
    """``0-11, 255`` for the keys 0 to 11 and 255."""
    words: list[str] = []
    ordered = sorted(values)
    start = 0
    for end, value in enumerate(ordered):
        if end + 1 == len(ordered) or ordered[end + 1] != value + 1:
            first = ordered[start]
            words.append(str(first) if first == value else f"{first}-{value}")
            start = end + 1
    return ", ".join(words)
