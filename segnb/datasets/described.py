"""A folder that describes itself: your own images, without any Python.

In recipes, such a data set is ``NAME@FOLDER``. The name, which its ``dataset.toml`` states, is what
counts in hashes, tables and file names, so a folder may move.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

from segnb.datasets.base import DatasetInfo, SegmentationDataset, Split, data_root
from segnb.datasets.entry import PHOTOGRAPHS, Entry, Size
from segnb.datasets.own.description import FILE, Description, is_name, read_description
from segnb.errors import DataError
from segnb.files import write_atomic

__all__ = ["FILE", "copy", "entry", "find", "info_of_copy"]


def find(text: str) -> Entry | None:
    """The entry of a folder of your own; ``None`` if the text names none.

    Args:
        text: A folder with a ``dataset.toml``, the name of such a folder in the data root, or
            ``NAME@FOLDER``. The last one is found even if the folder is gone, so that the results
            in a ledger stay readable.

    Raises:
        DataError: Something in ``dataset.toml`` is wrong.
    """
    for folder in (Path(text).expanduser(), data_root() / text):
        if text and (folder / FILE).is_file():
            return entry(folder)
    name, at, place = text.partition("@")
    if not (at and place and is_name(name)):
        return None
    folder = Path(place)
    for one in (folder, data_root() / name):
        # Correcting the file under a new name makes another data set.
        if (one / FILE).is_file() and read_description(one).name == name:
            return entry(one)
    return _entry(name, folder, None)


def copy(name: str, target: Path) -> None:
    """Put a copy of ``dataset.toml`` into a run's folder; nothing for registered data sets.

    Then predictions need neither the images nor an unchanged file.
    """
    place = Path(name.partition("@")[2])
    if "@" in name and (place / FILE).is_file():
        write_atomic(target / FILE, (place / FILE).read_bytes())


def info_of_copy(folder: Path) -> DatasetInfo | None:
    """The classes in a copy of ``dataset.toml``; ``None`` if there is none."""
    return read_description(folder).info if (folder / FILE).is_file() else None


def entry(folder: Path) -> Entry:
    """The entry of a folder that contains a ``dataset.toml``.

    Raises:
        DataError: Something in that file is wrong.
    """
    folder = Path(os.path.abspath(folder))
    description = read_description(folder)
    return _entry(description.name, folder, description)


def _entry(name: str, folder: Path, description: Description | None) -> Entry:
    def described() -> Description:
        if description is None:
            raise DataError(
                f"{name}: {folder / FILE} is no longer there, or has another name in it; give the "
                f"folder's new place with --dataset, or put it at {data_root() / name}"
            )
        return description

    def load(_: Path, split: Split, __: Size | None) -> SegmentationDataset:
        from segnb.datasets.own.dataset import open_splits

        return open_splits(folder, described())[split]

    return Entry(
        name=f"{name}@{folder}",
        info=lambda: described().info,
        open=load,
        presets=PHOTOGRAPHS,
        how="it is a folder of your own: give its new place with --dataset",
        folder=str(folder),
        splits=description.split_names if description else get_args(Split),
        drive=description.splits.group_of if description and description.splits.group else None,
    )
