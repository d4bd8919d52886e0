"""Pictures of images, masks and predictions, in the data set's own colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from segnb.datasets.base import IGNORE, DatasetInfo
from segnb.errors import DataError
from segnb.plots.style import (
    PHOTO_PIXELS,
    QUIET,
    WIDTH,
    Picture,
    bare,
    legend_columns,
    new_figure,
    panel_title,
    styled,
)

Bytes = npt.NDArray[np.uint8]

#: Void is drawn in a grey that no palette here uses.
VOID_COLOUR = (238, 238, 238)

#: Inches.
_CAPTION, _LEGEND_LINE, _GAP = 0.20, 0.155, 0.07


def colour_mask(mask: Any, info: DatasetInfo) -> Bytes:
    """A mask in the data set's colours.

    Args:
        mask: Class ids ``[H, W]``, array or tensor; void is 255.
        info: The data set.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        DataError: The mask holds a label outside the classes.
    """
    ids = _as_mask(mask)
    wrong = ids[(ids != IGNORE) & ((ids < 0) | (ids >= info.num_classes))]
    if len(wrong):
        raise DataError(
            f"{info.name}: the mask holds class {int(wrong[0])}; the classes are 0 to "
            f"{info.num_classes - 1}, and {IGNORE} for void"
        )
    table = np.full((256, 3), VOID_COLOUR, dtype=np.uint8)
    table[: info.num_classes] = info.palette
    return table[ids]


def overlay(image: Any, mask: Any, info: DatasetInfo, *, opacity: float = 0.55) -> Bytes:
    """A mask laid over its image; void pixels show the image alone.

    Args:
        image: uint8 ``[H, W, 3]`` or tensor ``[3, H, W]``; floats are 0 to 1.
        mask: Class ids ``[H, W]``.
        info: The data set.
        opacity: 0 shows the image alone, 1 the mask alone.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        ValueError: The sizes differ, or the opacity is out of range.
        DataError: The mask holds a label outside the classes.
    """
    photo, ids = as_image(image), _as_mask(mask)
    if photo.shape[:2] != ids.shape:
        raise ValueError(f"image {photo.shape[:2]} and mask {ids.shape} differ in size")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}; it must be in 0 to 1")
    weight = np.where(ids == IGNORE, 0.0, opacity)[..., None]
    blend = (1 - weight) * photo + weight * colour_mask(ids, info)
    return np.round(blend).astype(np.uint8)


def predictions(
    images: Sequence[Any],
    masks: Sequence[Any],
    predictions: Mapping[str, Sequence[Any]],
    info: DatasetInfo,
) -> Picture:
    """Image, truth and each method's prediction side by side, one row per image.

    The caption of a prediction is the share of labelled pixels that it gets right in this image;
    mIoU belongs to a whole split.

    Args:
        images: uint8 ``[H, W, 3]`` or tensors ``[3, H, W]``.
        masks: Class ids ``[H, W]``, void 255.
        predictions: Class ids by name of the method, in the order of the columns.
        info: The data set.

    Raises:
        ValueError: There are no images, or the sequences differ in length.
        DataError: A mask holds a label outside the classes.
    """
    _same_length(images, {"masks": masks, **predictions})
    truths = [_as_mask(mask) for mask in masks]
    guesses = {name: [_as_mask(mask) for mask in found] for name, found in predictions.items()}
    right = {
        name: [_share_right(guess, truth) for guess, truth in zip(found, truths, strict=True)]
        for name, found in guesses.items()
    }
    alt = (
        f"{len(truths)} images of {info.name}, one a row; beside each its true classes and the "
        "predictions. Percent of labelled pixels right: "
        + "; ".join(f"{name} {', '.join(shares)}" for name, shares in right.items())
        + "."
    )
    with styled():
        page = _Page(2 + len(guesses))
        for i, image in enumerate(images):
            coloured = [colour_mask(mask[i], info) for mask in (truths, *guesses.values())]
            page.row(
                [as_image(image), *coloured],
                photos=1,
                titles=() if i else ["image", "truth", *guesses],
                captions=["", "", *(f"{shares[i]} % right" for shares in right.values())],
            )
        page.legend(
            _classes(*truths, *(mask for found in guesses.values() for mask in found)), info
        )
        return page.picture(alt)


def contact_sheet(
    images: Sequence[Any],
    masks: Sequence[Any],
    info: DatasetInfo,
    *,
    titles: Sequence[str] | None = None,
    columns: int = 4,
) -> Picture:
    """Many images at a glance, each above its mask.

    Args:
        images: uint8 ``[H, W, 3]`` or tensors ``[3, H, W]``.
        masks: Class ids ``[H, W]``, void 255.
        info: The data set.
        titles: A title for each image, such as its id.
        columns: Images per row.

    Raises:
        ValueError: There are no images, or the sequences differ in length.
        DataError: A mask holds a label outside the classes.
    """
    _same_length(images, {"masks": masks} | ({} if titles is None else {"titles": titles}))
    columns = min(columns, len(images))
    present = _classes(*(_as_mask(mask) for mask in masks))
    alt = (
        f"Contact sheet of {len(images)} images of {info.name}, each above its mask. "
        f"Classes: {', '.join(_class_names(present, info))}."
    )
    with styled():
        page = _Page(columns)
        for start in range(0, len(images), columns):
            row = slice(start, start + columns)
            photos = [as_image(image) for image in images[row]]
            page.row(photos, photos=columns, titles=titles[row] if titles else (), gap=0.02)
            page.row([colour_mask(mask, info) for mask in masks[row]], gap=0.1)
        page.legend(present, info)
        return page.picture(alt)


def views(images: Sequence[Any], others: Mapping[str, Sequence[Any]]) -> Picture:
    """Originals and their augmented views, one row per image.

    Args:
        images: uint8 ``[H, W, 3]`` or tensors ``[3, H, W]``; floats are 0 to 1.
        others: Views of the same images by name, ``{"strength 1": [...]}``, in column order.

    Raises:
        ValueError: There are no images, or the sequences differ in length.
    """
    _same_length(images, others)
    many = f"{len(images)} images, one a row, as they are"
    shown = many if len(images) > 1 else "One image as it is"
    alt = f"{shown} and as: {', '.join(others)}."
    with styled():
        page = _Page(1 + len(others))
        for i, row in enumerate(zip(images, *others.values(), strict=True)):
            titles = () if i else ["original", *others]
            page.row([as_image(image) for image in row], photos=len(row), titles=titles)
        return page.picture(alt)


class _Page:
    """Rows of panels of equal width, in inches; the figure's height is known at the end."""

    def __init__(self, columns: int) -> None:
        self.width = max(WIDTH, 1.5 * columns)
        self.panel = (self.width - _GAP * (columns - 1)) / max(columns, 2)
        self.height = 0.0
        self.figure = new_figure(self.width, WIDTH, tight=False, pixels=PHOTO_PIXELS)
        self.boxes: dict[Axes, tuple[float, float, float]] = {}

    def row(
        self,
        images: Sequence[Bytes],
        *,
        photos: int = 0,
        titles: Sequence[str] = (),
        captions: Sequence[str] = (),
        gap: float = _GAP,
    ) -> None:
        """Add a row; its first images are photos, the others masks."""
        titles = [panel_title(title, self.panel / WIDTH, letters=110) for title in titles]
        if titles:
            self.height += 0.22 + 0.14 * max(title.count("\n") for title in titles)
        # As tall as its tallest image; an upright one is made narrower than its panel.
        height = self.panel * max(min(1.0, len(image) / image.shape[1]) for image in images)
        for column, image in enumerate(images):
            axes = bare(self.figure.add_axes((column, self.height, 1, 1)))
            # Masks are not smoothed: a blend of two classes has the colour of a third.
            axes.imshow(image, interpolation="antialiased" if column < photos else "nearest")
            axes.set_anchor("N")
            self.boxes[axes] = column * (self.panel + _GAP), self.height, height
            if titles:
                axes.set_title(titles[column], fontsize=8.5, pad=4, linespacing=1.1)
            if captions:
                axes.set_xlabel(captions[column], fontsize=7.5, color=QUIET, labelpad=2)
        self.height += height + (_CAPTION if captions else gap)

    def legend(self, classes: Sequence[int], info: DatasetInfo) -> None:
        """Add a legend of the classes."""
        names = _class_names(classes, info)
        columns = legend_columns(names, WIDTH, letter=0.064, sample=0.36)
        colours = [VOID_COLOUR if c == IGNORE else info.palette[c] for c in classes]
        look: dict[str, Any] = {"edgecolor": "#999999", "linewidth": 0.4}
        self.figure.legend(
            [Patch(facecolor=np.array(colour) / 255, **look) for colour in colours],
            names,
            loc="lower left",
            bbox_to_anchor=(0.0, 0.0),
            ncols=columns,
            borderaxespad=0.0,
            borderpad=0.2,
            fontsize=7.5,
            handlelength=1.0,
            handleheight=0.9,
            handletextpad=0.4,
            columnspacing=1.1,
            labelspacing=0.35,
        )
        self.height += 0.07 + _LEGEND_LINE * -(-len(names) // columns)

    def picture(self, alt: str) -> Picture:
        """The page, cut to its height."""
        self.height += 0.02
        self.figure.set_size_inches(self.width, self.height)
        for axes, (left, top, height) in self.boxes.items():
            x, width = left / self.width, self.panel / self.width
            y, tall = 1 - (top + height) / self.height, height / self.height
            axes.set_position((x, y, width, tall))
        return Picture(self.figure, alt)


def _class_names(classes: Sequence[int], info: DatasetInfo) -> list[str]:
    return ["void" if c == IGNORE else info.class_names[c] for c in classes]


def _classes(*masks: Bytes) -> list[int]:
    return sorted({int(c) for mask in masks for c in np.unique(mask)})


def _share_right(guess: Bytes, truth: Bytes) -> str:
    counted = truth != IGNORE
    if not counted.any():
        return "–"
    return f"{100 * float((guess == truth)[counted].mean()):.0f}"


def as_array(values: Any) -> npt.NDArray[Any]:
    """An array or tensor as an array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def as_image(image: Any) -> Bytes:
    """An image ``[H, W, 3]`` or ``[3, H, W]``, bytes or floats 0 to 1, as bytes ``[H, W, 3]``.

    Raises:
        ValueError: The image has another shape.
    """
    array = as_array(image)
    if array.ndim != 3 or 3 not in (array.shape[0], array.shape[2]):
        raise ValueError(f"an image is [H, W, 3] or [3, H, W]; this one is {array.shape}")
    if array.shape[2] != 3:
        array = np.moveaxis(array, 0, 2)
    if array.dtype != np.uint8:
        array = np.round(np.clip(array, 0, 1) * 255).astype(np.uint8)
    return array


def _as_mask(mask: Any) -> Bytes:
    array = as_array(mask)
    if array.ndim != 2:
        raise ValueError(f"a mask is [H, W]; this one is {array.shape}")
    return array


def _same_length(images: Sequence[Any], others: Mapping[str, Sequence[Any]]) -> None:
    if len(images) == 0:
        raise ValueError("no images to show")
    for name, found in others.items():
        if len(found) != len(images):
            raise ValueError(f"{len(images)} images but {len(found)} for {name!r}")
