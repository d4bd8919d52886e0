"""Five data sets behind one interface: classes, palette, splits, label fractions, a cache.

``load`` gives one split of a data set, ``labelled_ids`` a nested share of its ids, and
``working_set`` the images and masks at one size, ready for batches.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from segnb.datasets.base import IGNORE, DatasetInfo, Sample, SegmentationDataset, Split
from segnb.errors import DataError

if TYPE_CHECKING:
    from segnb.datasets.cache import WorkingSet, working_set
    from segnb.datasets.fractions import SplitList, holdout, labelled_ids, read_split_list

__all__ = [
    "IGNORE",
    "DatasetInfo",
    "Sample",
    "SegmentationDataset",
    "Split",
    "SplitList",
    "WorkingSet",
    "drive",
    "has_test",
    "holdout",
    "info",
    "labelled_ids",
    "load",
    "names",
    "read_split_list",
    "working_set",
]

_NAMES = ("shapes", "camvid", "voc", "voc-animals", "cityscapes")
_WITH_TEST = ("shapes", "camvid")

#: Names that are loaded when first used: the cache needs torch, reading a name does not.
_LAZY = {
    "WorkingSet": "cache",
    "working_set": "cache",
    "SplitList": "fractions",
    "holdout": "fractions",
    "labelled_ids": "fractions",
    "read_split_list": "fractions",
}


def names() -> tuple[str, ...]:
    """Names of all data sets."""
    return _NAMES


def has_test(name: str) -> bool:
    """Whether the test split's labels are public; where not, ``val`` is what is reported."""
    return _known(name) in _WITH_TEST


def info(name: str) -> DatasetInfo:
    """Classes, palette and licence of a data set, without reading a file.

    Raises:
        DataError: There is no such data set.
    """
    name = _known(name)
    if name == "shapes":
        from segnb.datasets import shapes

        return shapes.INFO
    if name == "camvid":
        from segnb.datasets import camvid

        return camvid.INFO
    if name == "cityscapes":
        from segnb.datasets import cityscapes

        return cityscapes.INFO
    from segnb.datasets import voc

    return voc.INFO if name == "voc" else voc.ANIMALS_INFO


def drive(name: str, image: str) -> str | None:
    """The drive that an image was filmed on; ``None`` where a data set has no drives.

    Frames of one drive show one street in one light: a network that was trained on some of them
    has seen the others' scene.

    Args:
        name: One of :func:`names`.
        image: An image's id.
    """
    if _known(name) != "camvid":
        return None
    from segnb.datasets import camvid

    return camvid.drive(image)


def load(
    name: str,
    split: Split,
    *,
    root: Path | None = None,
    size: tuple[int, int] | None = None,
) -> SegmentationDataset:
    """One split of a data set.

    Args:
        name: One of :func:`names`.
        split: ``train``, ``val``, or ``test`` where :func:`has_test` says so.
        root: The data root; by default ``$SEGNB_DATA``, or ``./data``.
        size: Height and width that ``shapes`` draws its scenes at; the others have their own.

    Raises:
        DataError: There is no such data set or split, or a file of it is missing.
    """
    name = _known(name)
    if split not in get_args(Split):
        raise DataError(f"there is no split {split!r}; splits are {', '.join(get_args(Split))}")
    if split == "test" and name not in _WITH_TEST:
        raise DataError(
            f"{name} has no test split with public labels; report on 'val' and tune on a part "
            f"held out of 'train'"
        )
    if name == "shapes":
        from segnb.datasets.shapes import ShapesDataset

        return ShapesDataset(split) if size is None else ShapesDataset(split, size=size)
    if name == "camvid":
        from segnb.datasets.camvid import load_camvid

        return load_camvid(split, root=root)
    if name == "cityscapes":
        from segnb.datasets.cityscapes import load_cityscapes

        return load_cityscapes(split, root=root)
    from segnb.datasets.voc import load_voc, load_voc_animals

    return load_voc(split, root=root) if name == "voc" else load_voc_animals(split, root=root)


def _known(name: str) -> str:
    if name not in _NAMES:
        raise DataError(f"there is no data set {name!r}; there are {', '.join(_NAMES)}")
    return name


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
