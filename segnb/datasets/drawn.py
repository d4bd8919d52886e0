"""The registry entry of ``shapes``, the data set that is drawn from a seed.

Its classes and the code that draws it are in :mod:`segnb.datasets.shapes`, which needs numpy.
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
        # Every notebook waits for these runs. This network and schedule learn the scenes in
        # minutes; they were chosen on val with seed 90 (results/PLAN.md, E27). The loss uses a
        # quarter of the features' 24x24 cells, because all of them would add two thirds to the
        # network's own time. Colours carry no information here, so a strong distortion is harmless.
        "quick": {
            "size": (96, 128),
            "crop": (96, 96),
            "scale": (0.7, 1.4),
            "distortion": 1.0,
            "architecture": "DeepLabV3Plus",
            "output_stride": 16,
            "form": "official",
            "loss_size": (12, 12),
            "pretrain": {"steps": 400},
            "finetune": {"lr": 0.1, "warmup": 50},
        },
        "gpu": {
            "size": (192, 256),
            "crop": (192, 192),
            "scale": (0.7, 1.4),
            "distortion": 1.0,
            "form": "official",
        },
        "colab": {"size": (192, 256), "crop": (192, 192)},
        "paper": {"size": (384, 512), "crop": (384, 384)},
    },
    how="shapes is drawn from a seed, so there is nothing to fetch",
)
