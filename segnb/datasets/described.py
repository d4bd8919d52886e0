"""A folder that describes itself: your own images, without any Python."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from segnb.datasets.entry import PHOTOGRAPHS, Entry
from segnb.errors import DataError

#: The file that makes a folder a data set.
FILE = "dataset.toml"


def is_described(folder: Path) -> bool:
    """Whether a folder describes itself."""
    return (folder / FILE).is_file()


def entry(folder: Path) -> Entry:
    """The entry of a folder for which :func:`is_described` is true.

    Recipes and presets can name it. Its classes and images cannot be read in this version: that
    raises a :class:`DataError`.
    """
    folder = folder.resolve()

    def refuse(*_: object) -> NoReturn:
        raise DataError(
            f"{folder / FILE} is there, but this version of segnb cannot read such data sets yet; "
            f"use a registered one"
        )

    return Entry(
        name=str(folder),
        info=refuse,
        open=refuse,
        presets=PHOTOGRAPHS,
        how="its path is part of the recipe",
        folder=str(folder),
    )
