"""One split of a folder of your own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from segnb.datasets.base import IGNORE, Bytes, DatasetInfo, Sample, Split
from segnb.datasets.own.annotations import Labels
from segnb.datasets.own.description import Description
from segnb.datasets.own.pictures import read_picture
from segnb.datasets.own.scan import Item, scan
from segnb.errors import DataError


class OwnSplit:
    """One split of a described folder.

    Images without labels have a mask that is void everywhere; they are only in ``train``.

    Args:
        description: What the folder says about itself.
        split: ``train``, ``val`` or ``test``.
        items: Its images.

    Attributes:
        unlabelled: Ids of images without labels.
    """

    def __init__(self, description: Description, split: Split, items: Sequence[Item]) -> None:
        self.info: DatasetInfo = description.info
        self.split = split
        self.items = tuple(items)
        self.ids = tuple(item.id for item in items)
        self.unlabelled = frozenset(item.id for item in items if item.labels is None)
        self._labels = Labels(description)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        item = self.items[index]
        image = read_picture(item.image)
        if item.labels is None:
            return Sample(image, np.full(image.shape[:2], IGNORE, np.uint8), item.id)
        mask = self.mask(index)
        if image.shape[:2] != mask.shape:
            raise DataError(
                f"{item.labels} is {mask.shape[1]}x{mask.shape[0]} for {item.image}, which is "
                f"{image.shape[1]}x{image.shape[0]}; both must have the same size"
            )
        return Sample(image, mask, item.id)

    def mask(self, index: int) -> Bytes:
        """The mask of ``ids[index]``, ``[H, W]``, in class ids.

        Raises:
            DataError: The labels cannot be read, or show something that is no class.
        """
        item = self.items[index]
        if item.labels is None:
            height, width = read_picture(item.image).shape[:2]
            return np.full((height, width), IGNORE, np.uint8)
        return self._labels.mask(item)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the ids, the meaning of labels, and each file's size and time."""
        digest = hashlib.sha256(repr((self.info.name, [*self._labels.labels.items()])).encode())
        for item in self.items:
            stats = [path.stat() for path in (item.image, item.labels) if path is not None]
            sizes = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
            digest.update(f"{item.id}:{item.entry}:{sizes}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]


def open_split(folder: Path, description: Description, split: Split) -> OwnSplit:
    """One split of a folder; its files are decoded when a sample is requested.

    Raises:
        DataError: See :func:`segnb.datasets.own.scan.scan`.
    """
    return OwnSplit(description, split, scan(folder, description)[split])
