"""The values in a mask file as they are stored: numbers, or colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segnb.datasets.base import Bytes
from segnb.datasets.paired import _decoded
from segnb.errors import DataError

Numbers = npt.NDArray[Any]


def read_numbers(path: Path) -> Numbers:
    """A mask file's numbers ``[H, W]``, of 8 or 16 bits, as they were written.

    Colours that are all grey are numbers too.

    Raises:
        DataError: The file cannot be read exactly, or holds colours.
    """
    with _exact(path) as picture:
        if picture.mode in ("L", "P", "1"):
            return np.asarray(picture).astype(np.uint8)
        if picture.mode == "LA":
            return np.asarray(picture.getchannel("L"))
        if picture.mode.startswith("I"):
            return np.asarray(picture)
        colours = np.asarray(picture.convert("RGB"))
    if (colours != colours[..., :1]).any():
        raise DataError(
            f'{path} holds colours; write format = "colour" in dataset.toml, and a colour as the '
            f"value of each class"
        )
    return colours[..., 0]


def read_colours(path: Path) -> Numbers:
    """A mask file's colours as one number a pixel, ``[H, W]``: red, green and blue, 8 bits each.

    Opacity is left out.

    Raises:
        DataError: The file cannot be read exactly.
    """
    with _exact(path) as picture:
        wide = np.asarray(picture.convert("RGB")).astype(np.int32)
    return (wide[..., 0] << 16) + (wide[..., 1] << 8) + wide[..., 2]


def palette_of(path: Path) -> list[tuple[int, int, int]] | None:
    """The colours of a palette mask by number; ``None`` for other files."""
    with _exact(path) as picture:
        flat = picture.getpalette("RGB") if picture.mode == "P" else None
    return None if flat is None else [tuple(flat[i : i + 3]) for i in range(0, len(flat), 3)]


def _exact(path: Path) -> Any:
    picture = _decoded(path)
    if picture.format in ("JPEG", "WEBP"):
        raise DataError(
            f"{path} is a {picture.format}, which blurs the edges of classes; export the masks as "
            f"PNG"
        )
    return picture


def read_picture(path: Path) -> Bytes:
    """An image's colours ``[H, W, 3]``."""
    with _decoded(path) as picture:
        return np.array(picture.convert("RGB"))
