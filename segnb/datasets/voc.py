"""PASCAL VOC 2012 segmentation, and the part of it that shows animals and people."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segnb.datasets.base import (
    IGNORE,
    DatasetInfo,
    Pair,
    PairedDataset,
    Split,
    data_root,
    need_folder,
)
from segnb.datasets.fractions import class_presence
from segnb.errors import DataError

_NAMES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "dining table",
    "dog",
    "horse",
    "motorbike",
    "person",
    "potted plant",
    "sheep",
    "sofa",
    "train",
    "tv monitor",
)


def _colour(label: int) -> tuple[int, int, int]:
    """The devkit's colour map: the label's bits, dealt out to red, green, blue from the top."""
    channels = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            channels[channel] |= (label >> (3 * place + channel) & 1) << (7 - place)
    return channels[0], channels[1], channels[2]


INFO = DatasetInfo(
    name="voc",
    class_names=_NAMES,
    palette=tuple(_colour(label) for label in range(len(_NAMES))),
    licence="Images from Flickr, under Flickr's terms of use; offered for research.",
    homepage="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
)

#: VOC's ids of the classes that ``voc-animals`` keeps: background, the six animals, person.
ANIMAL_IDS = (0, 3, 8, 10, 12, 13, 15, 17)

ANIMALS_INFO = DatasetInfo(
    name="voc-animals",
    class_names=tuple(_NAMES[label] for label in ANIMAL_IDS),
    palette=tuple(INFO.palette[label] for label in ANIMAL_IDS),
    licence=INFO.licence,
    homepage=INFO.homepage,
)

HOW = (
    "`segnb fetch voc` gets it, or by hand: unpack VOCtrainval_11-May-2012.tar (see "
    "data/README.md for mirrors and its checksum) in the data root"
)


SBD = (
    "put the masks of SBD (SegmentationClassAug/, of DrSleep/tensorflow-deeplab-resnet) and the "
    "list train_aug.txt (in ImageSets/Segmentation/) into VOCdevkit/VOC2012; see data/README.md"
)


def load_voc(split: Split, *, root: Path | None = None) -> PairedDataset:
    """One split of VOC 2012.

    ``train`` is SBD's ``train_aug`` where both ``ImageSets/Segmentation/train_aug.txt`` and
    ``SegmentationClassAug/`` are there, and the official ``train`` elsewhere; ``val`` is always
    the official one with the official masks.

    Args:
        split: ``train`` or ``val``; the labels of the official test split are not public.
        root: The data root, which holds ``VOCdevkit/VOC2012/``.

    Raises:
        DataError: The folder or the list is missing or empty, or a listed file is missing.
    """
    folder = data_root(root) / "VOCdevkit" / "VOC2012"
    need_folder(folder, INFO, HOW)
    lists = folder / "ImageSets" / "Segmentation"
    source, masks = lists / f"{split}.txt", folder / "SegmentationClass"
    if split == "train":
        more, more_masks = lists / "train_aug.txt", folder / "SegmentationClassAug"
        if more.is_file() and more_masks.is_dir():
            source, masks = more, more_masks
    if not source.is_file():
        raise DataError(f"{INFO.name}: there is no list {source}; {HOW}")
    # A line may hold paths (SBD's lists in some copies do) or the bare id.
    names = [Path(line.split()[0]).stem for line in source.read_text().splitlines() if line.strip()]
    pairs = [
        Pair(name, folder / "JPEGImages" / f"{name}.jpg", masks / f"{name}.png")
        for name in dict.fromkeys(names)
    ]
    labels = {**{c: c for c in range(INFO.num_classes)}, IGNORE: IGNORE}
    return PairedDataset(INFO, split, pairs, labels=labels, source=source)


def load_voc_animals(split: Split, *, root: Path | None = None) -> PairedDataset:
    """VOC with the classes of ``ANIMAL_IDS`` alone, renumbered in that order; the rest is void.

    Images in which none of the kept classes but background is left are dropped. Which those are
    is read from the masks once and kept in the cache.

    Args:
        split: ``train`` or ``val``.
        root: The data root, which holds ``VOCdevkit/VOC2012/``.

    Raises:
        DataError: As :func:`load_voc`; or no image is left.
    """
    whole = load_voc(split, root=root)
    kept = class_presence(whole)[:, ANIMAL_IDS[1:]].any(axis=1)
    pairs = [whole.pairs[i] for i in np.flatnonzero(kept)]
    labels = {**dict.fromkeys(range(INFO.num_classes), IGNORE), IGNORE: IGNORE}
    labels.update({label: new for new, label in enumerate(ANIMAL_IDS)})
    return PairedDataset(
        ANIMALS_INFO, split, pairs, labels=labels, source=whole.pairs[0].mask.parent
    )
