"""Cityscapes, fine annotations: 19 train ids out of the 34 label ids."""

from __future__ import annotations

from pathlib import Path

from segnb.datasets.base import IGNORE, DatasetInfo, SegmentationDataset, Split
from segnb.datasets.entry import Entry, Size

#: Label id in the mask files, name and colour of each class, in the order of the train ids
#: (cityscapesScripts, ``helpers/labels.py``).
_CLASSES: tuple[tuple[int, str, tuple[int, int, int]], ...] = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)

INFO = DatasetInfo(
    name="cityscapes",
    class_names=tuple(name for _, name, _ in _CLASSES),
    palette=tuple(colour for _, _, colour in _CLASSES),
    licence="Non-commercial research use, after registration; may not be redistributed.",
    homepage="https://www.cityscapes-dataset.com/",
)

_IMAGE_END = "_leftImg8bit"
_MASK_END = "_gtFine_labelIds"


def _open(folder: Path, split: Split, _: Size | None = None) -> SegmentationDataset:
    """Images and masks by city; an id is ``{city}_{sequence}_{frame}``."""
    from segnb.datasets.paired import Pair, PairedDataset

    images = folder / "leftImg8bit" / split
    pairs = []
    for image in sorted(images.glob(f"*/[!.]*{_IMAGE_END}.png")):
        name = image.stem[: -len(_IMAGE_END)]
        mask = folder / "gtFine" / split / image.parent.name / f"{name}{_MASK_END}.png"
        pairs.append(Pair(name, image, mask))
    labels = dict.fromkeys(range(34), IGNORE)
    labels.update({label: train_id for train_id, (label, _, _) in enumerate(_CLASSES)})
    return PairedDataset(INFO, split, pairs, labels=labels, source=images)


CITYSCAPES = Entry(
    name=INFO.name,
    info=lambda: INFO,
    open=_open,
    presets={
        "smoke": {"size": (48, 96), "crop": (48, 48)},
        "quick": {"size": (96, 192), "crop": (96, 96)},
        "colab": {"size": (512, 1024), "crop": (512, 512)},
        "paper": {"size": (1024, 2048), "crop": (769, 769)},
    },
    how="Cityscapes must be fetched by hand: register at https://www.cityscapes-dataset.com/, "
    "download leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, and unpack both there so "
    "that it holds leftImg8bit/ and gtFine/",
    folder="cityscapes",
    splits=("train", "val"),
)
