"""``shapes``, the data set that is drawn from a seed: its entry in the registry.

The code that draws it, and its classes, are in :mod:`segnb.datasets.shapes`, which needs numpy.
"""

from __future__ import annotations

from pathlib import Path

from segnb.datasets.base import DatasetInfo, SegmentationDataset, Split
from segnb.datasets.entry import Entry, Size


def _info() -> DatasetInfo:
    from segnb.datasets.shapes import INFO

    return INFO


def _open(_: Path, split: Split, size: Size | None) -> SegmentationDataset:
    from segnb.datasets.shapes import ShapesDataset

    return ShapesDataset(split) if size is None else ShapesDataset(split, size=size)


SHAPES = Entry(
    name="shapes",
    info=_info,
    open=_open,
    presets={
        "smoke": {"size": (48, 64), "crop": (48, 48)},
        # Colours mean nothing here, so that a strong distortion does no harm; and a run that
        # every notebook waits for has to be short.
        "quick": {
            "size": (96, 128),
            "crop": (96, 96),
            "distortion": 1.0,
            "pretrain": {"steps": 400},
        },
        "colab": {"size": (192, 256), "crop": (192, 192)},
        "paper": {"size": (384, 512), "crop": (384, 384)},
    },
    how="shapes is drawn from a seed; there is nothing to fetch",
)
