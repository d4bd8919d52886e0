"""Data sets behind one interface: classes, palette, splits, label fractions, a cache.

This is the registry. Each data set has one file with an :class:`Entry` that describes it, and one
line here. ``load`` returns one split of a data set, ``labelled_ids`` a nested share of its ids, and
``working_set`` the images and masks at one size, ready for batches.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from segnb.datasets import camvid, cityscapes, described, drawn, voc
from segnb.datasets.base import IGNORE, DatasetInfo, Sample, SegmentationDataset, Split
from segnb.datasets.entry import Archive, Entry
from segnb.errors import DataError

if TYPE_CHECKING:
    from segnb.datasets.cache import WorkingSet, working_set
    from segnb.datasets.fractions import SplitList, holdout, labelled_ids, read_split_list

__all__ = [
    "IGNORE",
    "Archive",
    "DatasetInfo",
    "Entry",
    "Sample",
    "SegmentationDataset",
    "Split",
    "SplitList",
    "WorkingSet",
    "get",
    "holdout",
    "info",
    "labelled_ids",
    "load",
    "names",
    "read_split_list",
    "title",
    "working_set",
]

_ENTRIES = {
    entry.name: entry
    for entry in (drawn.SHAPES, camvid.CAMVID, voc.VOC, voc.ANIMALS, cityscapes.CITYSCAPES)
}

#: Photographs that the notebooks train on where there is a GPU, the first of them that is here.
NOTEBOOK_PHOTOGRAPHS = ("camvid", "voc")

#: Names that are loaded when first used, because they need numpy or torch.
_LAZY = {
    "WorkingSet": "cache",
    "working_set": "cache",
    "SplitList": "fractions",
    "holdout": "fractions",
    "labelled_ids": "fractions",
    "read_split_list": "fractions",
}


def names() -> tuple[str, ...]:
    """Names of all registered data sets."""
    return tuple(_ENTRIES)


def get(name: str) -> Entry:
    """The entry of a data set; reads none of its files.

    Args:
        name: One of :func:`names`, or a folder of your own that contains a ``dataset.toml``: its
            path, its name in the data root, or ``NAME@FOLDER`` as in recipes.

    Raises:
        DataError: It is neither, or its ``dataset.toml`` is wrong.
    """
    if name in _ENTRIES:
        return _ENTRIES[name]
    if (own := described.find(name)) is not None:
        if own.title in _ENTRIES:
            raise DataError(
                f"{Path(own.folder, described.FILE)}: name is {own.title!r}, that of a registered "
                f"data set; choose another"
            )
        return own
    raise DataError(
        f"there is no data set {name!r}; there are {', '.join(_ENTRIES)}, and a folder of your "
        f"own needs a {described.FILE}, which `segnb describe FOLDER` writes"
    )


def title(name: str) -> str:
    """The name of a data set in ledgers, tables and file names.

    That of a folder of your own is in its ``dataset.toml``. An unknown name is returned as it is,
    because a ledger may hold runs of a folder that is no longer here.
    """
    own = None if name in _ENTRIES else described.find(name)
    return own.title if own else name


def info(name: str) -> DatasetInfo:
    """Classes, palette and licence of a data set, without opening an image.

    Raises:
        DataError: There is no such data set.
    """
    return get(name).info()


def load(
    name: str, split: Split, *, root: Path | None = None, size: tuple[int, int] | None = None
) -> SegmentationDataset:
    """One split of a data set.

    Args:
        name: As in :func:`get`.
        split: ``train``, ``val``, or ``test`` if its labels are public.
        root: The data root; by default ``$SEGNB_DATA``, or ``./data``.
        size: Height and width of the scenes of ``shapes``; other data sets have their own.

    Raises:
        DataError: There is no such data set or split, or a file of it is missing.
    """
    return get(name).load(split, root=root, size=size)


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
