"""Pictures of images, masks and predictions, in the data set's own colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from segnb.datasets.base import IGNORE, DatasetInfo
from segnb.errors import DataError
from segnb.plots.style import PHOTO_PIXELS, QUIET, WIDTH, Picture, new_figure, styled

Bytes = npt.NDArray[np.uint8]

#: Void is drawn in a grey that no palette here uses.
VOID_COLOUR = (238, 238, 238)

#: Lines of a legend that is read at a glance; a longer one is split up among the rows.
_SHARED_LINES = 2

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
        DataError: A label outside the classes.
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
    """A mask laid over its image; void leaves the image as it is.

    Args:
        image: uint8 ``[H, W, 3]`` or tensor ``[3, H, W]``; floats are 0 to 1.
        mask: Class ids ``[H, W]``.
        info: The data set.
        opacity: 0 shows the image alone, 1 the mask alone.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        ValueError: Sizes differ, or an opacity out of its range.
        DataError: A label outside the classes.
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
    """Image, truth and each method's prediction side by side, one row an image.

    Under each prediction stands the share of the labelled pixels that it has right. One legend
    at the foot serves all rows where it takes two lines at most; where there are more classes than
    that, each row, or the last of several rows with the same classes, names its own. (The share is
    of one image; mIoU belongs to a whole split.)

    Args:
        images: uint8 ``[H, W, 3]`` or tensors ``[3, H, W]``.
        masks: Class ids ``[H, W]``, void 255.
        predictions: Class ids by name of the method, in the order they are shown.
        info: The data set.

    Raises:
        ValueError: No images, or sequences of different lengths.
        DataError: A label outside the classes.
    """
    _same_length(images, {"masks": masks, **predictions})
    truths = [_as_mask(mask) for mask in masks]
    guesses = {name: [_as_mask(mask) for mask in found] for name, found in predictions.items()}
    present = [
        _classes(truth, *(found[i] for found in guesses.values())) for i, truth in enumerate(truths)
    ]
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
    titles = _columns(["image", "truth", *guesses])
    everything = _classes(*truths, *(guess for found in guesses.values() for guess in found))
    if _legend_lines(everything, info) <= _SHARED_LINES:
        present = [everything] * len(truths)
    # One legend serves neighbouring rows with the same classes.
    legends = {i for i, classes in enumerate(present) if present[i + 1 : i + 2] != [classes]}
    bands = [
        _Band(
            aspect=_aspect(images[i : i + 1]),
            title_lines=_most_lines(titles) if i == 0 else 0,
            caption=True,
            legend_lines=_legend_lines(present[i], info) if i in legends else 0,
        )
        for i in range(len(present))
    ]
    with styled():
        page = _Page(len(titles), bands)
        for i, image in enumerate(images):
            page.panel(i, 0, as_image(image), title=titles[0])
            page.panel(i, 1, colour_mask(truths[i], info), title=titles[1], exact=True)
            for column, (name, found) in enumerate(guesses.items(), start=2):
                coloured = colour_mask(found[i], info)
                axes = page.panel(i, column, coloured, title=titles[column], exact=True)
                axes.set_xlabel(f"{right[name][i]} % right", fontsize=7.5, color=QUIET, labelpad=2)
            if i in legends:
                page.legend(i, present[i], info)
        return Picture(page.figure, alt)


def contact_sheet(
    images: Sequence[Any],
    masks: Sequence[Any],
    info: DatasetInfo,
    *,
    titles: Sequence[str] | None = None,
    columns: int = 4,
) -> Picture:
    """Many images at a glance, each with its mask below, and one legend for all.

    Args:
        images: uint8 ``[H, W, 3]`` or tensors ``[3, H, W]``.
        masks: Class ids ``[H, W]``, void 255.
        info: The data set.
        titles: A title for each image, its id for example.
        columns: Images in a row.

    Raises:
        ValueError: No images, or sequences of different lengths.
        DataError: A label outside the classes.
    """
    _same_length(images, {"masks": masks} | ({} if titles is None else {"titles": titles}))
    columns = min(columns, len(images))
    present = _classes(*(_as_mask(mask) for mask in masks))
    alt = (
        f"Contact sheet of {len(images)} images of {info.name}, each above its mask. "
        f"Classes: {', '.join(_class_names(present, info))}."
    )
    bands = []
    for start in range(0, len(images), columns):
        aspect = _aspect(images[start : start + columns])
        bands += [_Band(aspect, title_lines=int(titles is not None), gap=0.02)]
        bands += [_Band(aspect, gap=0.1)]
    bands[-1] = _Band(aspect, legend_lines=_legend_lines(present, info))
    with styled():
        page = _Page(columns, bands)
        for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
            row, column = 2 * (i // columns), i % columns
            page.panel(row, column, as_image(image), title=titles[i] if titles else "")
            page.panel(row + 1, column, colour_mask(mask, info), exact=True)
        page.legend(len(bands) - 1, present, info)
        return Picture(page.figure, alt)


def views(images: Sequence[Any], others: Mapping[str, Sequence[Any]]) -> Picture:
    """Originals and what an augmentation makes of them, one row an image.

    Args:
        images: uint8 ``[H, W, 3]`` or tensors ``[3, H, W]``; floats are 0 to 1.
        others: Views of the same images by name, ``{"strength 1": [...]}``, in their order.

    Raises:
        ValueError: No images, or sequences of different lengths.
    """
    _same_length(images, others)
    many = f"{len(images)} images, one a row, as they are"
    shown = many if len(images) > 1 else "One image as it is"
    alt = f"{shown} and as: {', '.join(others)}."
    titles = _columns(["original", *others])
    bands = [
        _Band(_aspect(images[i : i + 1]), title_lines=_most_lines(titles) if i == 0 else 0)
        for i in range(len(images))
    ]
    with styled():
        page = _Page(len(titles), bands)
        for i, image in enumerate(images):
            page.panel(i, 0, as_image(image), title=titles[0])
            for column, found in enumerate(others.values(), start=1):
                page.panel(i, column, as_image(found[i]), title=titles[column])
        return Picture(page.figure, alt)


@dataclass(frozen=True)
class _Band:
    """One row of panels: height over width, text above them, caption and legend below."""

    aspect: float
    title_lines: int = 0
    caption: bool = False
    legend_lines: int = 0
    gap: float = _GAP

    @property
    def above(self) -> float:
        return 0.08 + 0.14 * self.title_lines if self.title_lines else 0.0

    @property
    def below(self) -> float:
        return _CAPTION if self.caption else self.gap

    @property
    def legend(self) -> float:
        return 0.07 + _LEGEND_LINE * self.legend_lines if self.legend_lines else 0.0


class _Page:
    """Panels of one width in rows, measured in inches, each row with room for its words."""

    def __init__(self, columns: int, bands: Sequence[_Band]) -> None:
        self.width = max(WIDTH, 1.5 * columns)
        self.panel_width = (self.width - _GAP * (columns - 1)) / max(columns, 2)
        self.heights = [self.panel_width * band.aspect for band in bands]
        self.bands = bands
        self.tops: list[float] = []
        place = 0.0
        for band, height in zip(bands, self.heights, strict=True):
            self.tops.append(place + band.above)
            place += band.above + height + band.below + band.legend
        self.height = place + 0.02
        self.figure = new_figure(self.width, self.height, tight=False, pixels=PHOTO_PIXELS)

    def panel(
        self, row: int, column: int, image: Bytes, *, title: str = "", exact: bool = False
    ) -> Axes:
        left = column * (self.panel_width + _GAP) / self.width
        bottom = 1 - (self.tops[row] + self.heights[row]) / self.height
        axes = self.figure.add_axes(
            (left, bottom, self.panel_width / self.width, self.heights[row] / self.height)
        )
        # Classes must not be blended into colours that mean another class.
        axes.imshow(image, interpolation="nearest" if exact else "antialiased")
        axes.set_anchor("N")
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        if title and self.bands[row].title_lines:
            axes.set_title(title, fontsize=8.5, pad=4, linespacing=1.1)
        return axes

    def legend(self, row: int, classes: Sequence[int], info: DatasetInfo) -> None:
        top = self.tops[row] + self.heights[row] + self.bands[row].below
        self.figure.legend(
            handles=class_handles(classes, info),
            loc="upper left",
            bbox_to_anchor=(0.0, 1 - top / self.height),
            ncols=legend_columns(classes, info),
            borderaxespad=0.0,
            borderpad=0.1,
            fontsize=7.5,
            handlelength=1.0,
            handleheight=0.9,
            handletextpad=0.4,
            columnspacing=1.1,
            labelspacing=0.35,
        )


def class_handles(classes: Sequence[int], info: DatasetInfo) -> list[Patch]:
    """Legend entries of some classes, with the class names and colours of the data set."""
    colours = [VOID_COLOUR if c == IGNORE else info.palette[c] for c in classes]
    return [
        Patch(facecolor=[v / 255 for v in colour], edgecolor="#999999", linewidth=0.4, label=name)
        for colour, name in zip(colours, _class_names(classes, info), strict=True)
    ]


def _class_names(classes: Sequence[int], info: DatasetInfo) -> list[str]:
    return ["void" if c == IGNORE else info.class_names[c] for c in classes]


def _classes(*masks: Bytes) -> list[int]:
    return sorted({int(c) for mask in masks for c in np.unique(mask)})


def legend_columns(classes: Sequence[int], info: DatasetInfo, width: float = WIDTH) -> int:
    """How many columns a legend of these classes may have in a width in inches."""
    longest = max((len(name) for name in _class_names(classes, info)), default=1)
    return max(1, min(len(classes), int(width / (0.064 * longest + 0.36))))


def _legend_lines(classes: Sequence[int], info: DatasetInfo) -> int:
    return -(-len(classes) // legend_columns(classes, info)) if classes else 0


def _aspect(images: Sequence[Any]) -> float:
    """Height over width of the tallest; an upright image is made narrower than its panel."""
    shapes = [as_image(image).shape for image in images]
    return float(max(min(1.0, height / width) for height, width, _ in shapes))


def _share_right(guess: Bytes, truth: Bytes) -> str:
    counted = truth != IGNORE
    if not counted.any():
        return "–"
    return f"{100 * float((guess == truth)[counted].mean()):.0f}"


def _columns(titles: Sequence[str]) -> list[str]:
    """Titles in two lines where one would not fit over a panel."""
    width = max(WIDTH / len(titles), 1.5)
    return [_wrapped(title) if len(title) * 0.075 > width else title for title in titles]


def _wrapped(title: str) -> str:
    breaks = [i for i, letter in enumerate(title) if letter == " "]
    if not breaks:
        return title
    middle = min(breaks, key=lambda i: abs(i - len(title) / 2))
    return title[:middle] + "\n" + title[middle + 1 :]


def _most_lines(titles: Sequence[str]) -> int:
    return max(title.count("\n") + 1 for title in titles)


def as_image(image: Any) -> Bytes:
    """An image ``[H, W, 3]`` or ``[3, H, W]``, bytes or 0 to 1, as bytes ``[H, W, 3]``.

    Raises:
        ValueError: Another shape.
    """
    array = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if array.ndim != 3 or 3 not in (array.shape[0], array.shape[2]):
        raise ValueError(f"an image is [H, W, 3] or [3, H, W]; this one is {array.shape}")
    if array.shape[2] != 3:
        array = np.moveaxis(array, 0, 2)
    if array.dtype != np.uint8:
        array = np.round(np.clip(array, 0, 1) * 255).astype(np.uint8)
    return array


def _as_mask(mask: Any) -> Bytes:
    array = np.asarray(mask.detach().cpu() if hasattr(mask, "detach") else mask)
    if array.ndim != 2:
        raise ValueError(f"a mask is [H, W]; this one is {array.shape}")
    return array


def _same_length(images: Sequence[Any], others: Mapping[str, Sequence[Any]]) -> None:
    if len(images) == 0:
        raise ValueError("no images to show")
    for name, found in others.items():
        if len(found) != len(images):
            raise ValueError(f"{len(images)} images but {len(found)} for {name!r}")
