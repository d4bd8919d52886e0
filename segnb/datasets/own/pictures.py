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


def read_values(path: Path) -> Numbers:
    """A mask file's numbers ``[H, W]``, or its colours ``[H, W, 3]``.

    Colours that are all grey are numbers. Opacity is left out.

    Raises:
        DataError: The file cannot be decoded, or was stored with a loss.
    """
    with _decoded(path) as picture:
        if picture.format in ("JPEG", "WEBP"):
            raise DataError(
                f"{path} is a {picture.format}, which blurs the edges of classes; export the masks "
                f"as PNG"
            )
        if picture.mode in ("L", "P", "1"):
            return np.asarray(picture).astype(np.uint8)
        if picture.mode == "LA":
            return np.asarray(picture.getchannel("L"))
        if picture.mode.startswith("I"):
            return np.asarray(picture)
        colours = np.asarray(picture.convert("RGB"))
    grey = (colours == colours[..., :1]).all()
    return colours[..., 0] if grey else colours


def read_picture(path: Path) -> Bytes:
    """An image's colours ``[H, W, 3]``."""
    with _decoded(path) as picture:
        return np.array(picture.convert("RGB"))


def colour_codes(raw: Numbers) -> Numbers:
    """Colours as one number a pixel."""
    wide = raw.astype(np.int32)
    if wide.ndim == 2:
        return wide * 0x010101
    return (wide[..., 0] << 16) + (wide[..., 1] << 8) + wide[..., 2]
