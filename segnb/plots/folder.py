"""The contact sheet of a folder of your own."""

from __future__ import annotations

from pathlib import Path

from segnb import datasets
from segnb.datasets.base import Bytes
from segnb.datasets.cache import letterbox
from segnb.datasets.own.check import SHEET_IMAGES, sheet_samples
from segnb.errors import DataError
from segnb.plots.images import contact_sheet
from segnb.plots.style import Picture

#: Longest side of an image on the sheet, in pixels.
_SIDE = 320


def folder_sheet(folder: Path, *, most: int = SHEET_IMAGES) -> Picture:
    """Images of all splits above their masks, in the colours of the classes.

    Images that cannot be read are passed over; :func:`segnb.datasets.own.check.check` names them.

    Args:
        folder: A folder with a ``dataset.toml``.
        most: How many images.

    Raises:
        DataError: ``dataset.toml`` is wrong, or no image can be read.
    """
    name = str(Path(folder).resolve())
    images: list[Bytes] = []
    masks: list[Bytes] = []
    titles: list[str] = []
    for split, indices in sheet_samples(Path(folder), most=most).items():
        data = datasets.load(name, split)  # type: ignore[arg-type]
        for index in indices:
            try:
                sample = data[index]
            except DataError:
                continue
            image, mask = letterbox(sample.image, sample.mask, (_SIDE, _SIDE))
            images.append(image)
            masks.append(mask)
            titles.append(f"{sample.id} ({split})")
    if not images:
        raise DataError(f"none of the images of {folder} can be read; `segnb check` says why")
    return contact_sheet(images, masks, datasets.info(name), titles=titles)
