"""One split of a folder of your own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segnb.datasets.base import IGNORE, Bytes, DatasetInfo, Sample, Split
from segnb.datasets.own.annotations import Labels
from segnb.datasets.own.description import Description
from segnb.datasets.own.scan import Item, scan
from segnb.datasets.paired import stamp
from segnb.datasets.reading import RULES, read_image, require_same_size


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
        image = read_image(item.image)
        if item.labels is None:
            return Sample(image, np.full(image.shape[:2], IGNORE, np.uint8), item.id)
        mask = self.mask(index)
        require_same_size(image, mask, image_path=item.image, mask_path=item.labels)
        return Sample(image, mask, item.id)

    def mask(self, index: int) -> Bytes:
        """The mask of ``ids[index]``, ``[H, W]``, in class ids.

        Raises:
            DataError: The labels cannot be read, or show something that is no class.
        """
        item = self.items[index]
        if item.labels is None:
            height, width = read_image(item.image).shape[:2]
            return np.full((height, width), IGNORE, np.uint8)
        return self._labels.mask(item)

    @property
    def fingerprint(self) -> str:
        """Changes with the ids, the meaning of labels, and each file's size and times.

        Raises:
            DataError: A file is missing.
        """
        meaning = (RULES, self.info.name, *self._labels.meaning)
        digest = hashlib.sha256(repr(meaning).encode())
        for item in self.items:
            stamps = [stamp(path) for path in (item.image, item.labels) if path is not None]
            digest.update(repr((item.id, item.entry, stamps)).encode())
        return digest.hexdigest()[:16]

    def contents(self) -> tuple[str, list[Path]]:
        """What the labels mean, and the files whose bytes decide all samples, in order."""
        entries = [(item.id, item.entry, item.labels is None) for item in self.items]
        files = [path for one in self.items for path in (one.image, one.labels) if path is not None]
        return repr((self.info.name, *self._labels.meaning, entries)), files


def open_splits(folder: Path, description: Description) -> dict[Split, OwnSplit]:
    """The splits of a folder; its files are decoded when a sample is requested.

    Raises:
        DataError: See :func:`segnb.datasets.own.scan.scan`.
    """
    found = scan(folder, description)
    return {name: OwnSplit(description, name, items) for name, items in found.items()}
