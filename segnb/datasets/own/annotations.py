"""From the labels of a folder of your own, in any format, to class ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segnb.datasets.base import IGNORE, Bytes
from segnb.datasets.own import coco, labelme
from segnb.datasets.own.description import Description, Value
from segnb.datasets.own.scan import Item
from segnb.datasets.reading import read_colours, read_numbers
from segnb.errors import DataError

#: Values of a 16-bit mask; colours have three bytes.
_NUMBERS, _COLOURS = 1 << 16, 1 << 24

Numbers = npt.NDArray[Any]


class Labels:
    """Reads the masks of a described folder.

    Args:
        description: What stands for each class.
    """

    def __init__(self, description: Description) -> None:
        self.description = description
        self.labels: dict[Value, int] = {
            **dict.fromkeys(description.void, IGNORE),
            **description.labels,
        }
        if description.format in ("index", "colour"):
            size = _NUMBERS if description.format == "index" else _COLOURS
            # Unknown values have an id that no class can have.
            other = IGNORE if description.other == "void" else _UNKNOWN
            self._table = np.full(size, other, np.uint16)
            for value, label in self.labels.items():
                self._table[_code(value)] = label

    @property
    def meaning(self) -> tuple[tuple[str | Value, str | int], ...]:
        """What values stand for: two folders of equal bytes and equal meaning are the same data."""
        other = self.description.other
        return (*self.labels.items(), *((("other", other),) if other != "refused" else ()))

    def mask(self, item: Item) -> Bytes:
        """The mask of a labelled image, ``[H, W]`` in class ids.

        Raises:
            DataError: The file cannot be read, or holds something that is neither a class nor void.
        """
        path = item.labels
        assert path is not None
        if self.description.format in ("coco", "labelme"):
            return shape_mask(item, self.labels)
        codes = self.codes(path)
        found = self._table[codes]
        if (found == _UNKNOWN).any():
            wrong = codes[found == _UNKNOWN]
            first = value_of(int(wrong[0]), self.description.format)
            value = list(first) if isinstance(first, tuple) else first
            share = 100 * len(wrong) / codes.size
            raise DataError(
                f"{path} holds {value} ({share:.2g} % of it unknown), which is neither a class nor "
                f"void in dataset.toml; add a class with value = {value}, add it to void, or write "
                f'other = "void" to make all such values void'
            )
        return found.astype(np.uint8)

    def codes(self, path: Path) -> Numbers:
        """The values in a mask file, colours as one number, ``[H, W]``."""
        if self.description.format == "colour":
            return colour_codes(path)
        return numbers_of(path)


def shape_mask(item: Item, labels: Mapping[Value, int]) -> Bytes:
    """The mask of an image whose labels are shapes in a JSON file, ``[H, W]`` in class ids.

    Raises:
        DataError: See :func:`segnb.datasets.own.coco.mask` and its LabelMe counterpart.
    """
    assert item.labels is not None
    if item.entry is None:
        return labelme.mask(item.labels, labels)
    return coco.mask(item.labels, item.entry, labels)


def shape_names(items: Iterable[Item]) -> list[str]:
    """The names of all shapes that items have: by COCO's categories, or in alphabetical order."""
    files = {item.labels: item.entry is None for item in items if item.labels is not None}
    if all(files.values()):
        return sorted({name for path in files for name in labelme.shape_labels(path)})
    return list(dict.fromkeys(name for path in files for name in coco.read_coco(path).used))


def numbers_of(path: Path) -> Numbers:
    """The numbers in a mask file, ``[H, W]``, 0 to 65535; grey in three channels is a number too.

    Raises:
        DataError: The file cannot be read exactly, or holds colours.
    """
    try:
        numbers = read_numbers(path)
    except DataError as error:
        try:
            colours = read_colours(path)
        except DataError:
            raise error from None
        if (colours != colours[..., :1]).any():
            raise DataError(
                f'{path} holds colours; in dataset.toml, write format = "colour", and a colour as '
                f"the value of each class"
            ) from None
        return colours[..., 0]
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high >= _NUMBERS:
        raise DataError(
            f"{path} holds the value {low if low < 0 else high}; save the mask with values from 0 "
            f"to {_NUMBERS - 1}"
        )
    return numbers


def colour_codes(path: Path) -> Numbers:
    """The colours in a mask file as one number of 24 bits a pixel, ``[H, W]``.

    Raises:
        DataError: The file cannot be read exactly.
    """
    wide = read_colours(path).astype(np.int32)
    return (wide[..., 0] << 16) + (wide[..., 1] << 8) + wide[..., 2]


_UNKNOWN = 256


def _code(value: Value) -> int:
    if isinstance(value, tuple):
        red, green, blue = value
        return (red << 16) + (green << 8) + blue
    assert isinstance(value, int)
    return value


def value_of(code: int, format: str) -> Value:
    """The number or colour that a code stands for."""
    return (code >> 16, code >> 8 & 255, code & 255) if format == "colour" else code
