"""A split stored on disk as pairs of an image file and a mask file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from segnb.datasets.base import IGNORE, Bytes, DatasetInfo, Sample, Split
from segnb.errors import DataError


class Pair(NamedTuple):
    """The files of one labelled image."""

    id: str
    image: Path
    mask: Path


class PairedDataset:
    """One split stored on disk as pairs of an image file and a mask file.

    The constructor checks that the files exist; they are decoded when a sample is requested.

    Args:
        info: The data set's description.
        split: ``train``, ``val`` or ``test``.
        pairs: The files, in the order of the ids.
        labels: The class id, or ``IGNORE``, for each value in a mask file; by default the value
            itself. A value that is neither a key nor ``IGNORE`` is an error in the data.
        source: The folder or list that the pairs come from, for messages.

    Raises:
        DataError: There are no pairs, or a file is missing.
    """

    def __init__(
        self,
        info: DatasetInfo,
        split: Split,
        pairs: Sequence[Pair],
        *,
        source: Path,
        labels: Mapping[int, int] | None = None,
    ) -> None:
        if not pairs:
            raise DataError(
                f"{info.name}: the split {split!r} is empty: {source} names no images; "
                f"see data/README.md for the layout"
            )
        self.info = info
        self.split = split
        self.ids = tuple(pair.id for pair in pairs)
        self.pairs = tuple(pairs)
        if labels is None:
            labels = {value: value for value in range(info.num_classes)}
        self.labels = {**labels, IGNORE: IGNORE}
        self._table = np.full(256, IGNORE, dtype=np.uint8)
        self._table[list(self.labels)] = list(self.labels.values())
        _need_files(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        with _decoded(pair.image) as picture:
            image = np.array(picture.convert("RGB"))
        mask = self.mask(index)
        if image.shape[:2] != mask.shape:
            raise DataError(
                f"{pair.mask} is {mask.shape[1]}x{mask.shape[0]} but its image {pair.image} is "
                f"{image.shape[1]}x{image.shape[0]}; both must have the same size"
            )
        return Sample(image, mask, pair.id)

    def mask(self, index: int) -> Bytes:
        """The mask of ``ids[index]``, ``[H, W]``, in class ids.

        Raises:
            DataError: The file cannot be decoded, holds colours, or has an unknown value.
        """
        path = self.pairs[index].mask
        with _decoded(path) as picture:
            if picture.mode not in ("L", "P"):
                raise DataError(
                    f"{path} holds {picture.mode} colours; a mask must hold one class id per pixel "
                    f"(mode L or P)"
                )
            raw = np.asarray(picture)
        unknown = set(np.flatnonzero(np.bincount(raw.ravel()))) - self.labels.keys()
        if unknown:
            raise DataError(
                f"{path} holds the label {min(unknown)}, which is no class of "
                f"{self.info.name} (known values: {_ranges(self.labels)})"
            )
        mask: Bytes = self._table[raw]
        return mask

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the ids, the meaning of labels, and each file's size and time."""
        digest = hashlib.sha256(repr((self.info.name, sorted(self.labels.items()))).encode())
        for pair in self.pairs:
            image, mask = pair.image.stat(), pair.mask.stat()
            digest.update(
                f"{pair.id}:{image.st_size}:{image.st_mtime_ns}:"
                f"{mask.st_size}:{mask.st_mtime_ns}\n".encode()
            )
        return digest.hexdigest()[:16]


def _need_files(pairs: Sequence[Pair]) -> None:
    """Check that all files exist. Each folder is listed once, as network disks are slow."""
    listed: dict[Path, frozenset[str]] = {}
    for pair in pairs:
        for kind, path in (("image", pair.image), ("mask", pair.mask)):
            folder = path.parent
            if folder not in listed:
                names = os.listdir(folder) if folder.is_dir() else []
                listed[folder] = frozenset(names)
            if path.name not in listed[folder]:
                raise DataError(f"the {kind} of {pair.id!r} is missing: there is no file {path}")


def _decoded(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
        picture.load()
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be decoded ({error}); the file is damaged, fetch it again"
        ) from error
    return picture


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
