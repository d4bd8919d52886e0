"""One anchor and its keys: what the contrastive loss sees, drawn over the image.

A cell of the feature map stands for the pixel that corner-aligned sampling takes, so the first and
the last cell of a row are centred on the image's outermost pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from segnb.datasets.base import IGNORE, DatasetInfo
from segnb.methods import BLUE, ORANGE
from segnb.plots.images import as_array, as_image
from segnb.plots.style import (
    INK,
    PHOTO_PIXELS,
    QUIET,
    WIDTH,
    Picture,
    arrow,
    bare,
    legend_below,
    panel_grid,
    styled,
)

#: Colours of positives, negatives and ignored pixels; they differ in lightness, too.
POSITIVE, NEGATIVE, IGNORED = BLUE, ORANGE, "#eeeeee"

Floats = npt.NDArray[np.float64]


def anchor_and_keys(
    image: Any,
    distorted: Any,
    labels: Any,
    anchor: tuple[int, int],
    info: DatasetInfo,
    maps: Mapping[str, Any],
    *,
    limits: tuple[float, float] = (-1.0, 1.0),
) -> Picture:
    """An anchor in its image, its positives and negatives in the distorted one, and maps of keys.

    Args:
        image: The image I, uint8 ``[H, W, 3]`` or tensor ``[3, H, W]``; floats are 0 to 1.
        distorted: Its distorted view Î, of the same size.
        labels: Class ids ``[h, w]`` at the resolution of the loss, shared by both.
        anchor: Row and column of the anchor on the map of labels.
        info: The data set, for the name of the class.
        maps: A value for each key ``[h, w]`` by title, such as its similarity to the anchor.
        limits: Ends of the maps' colour scale.

    Raises:
        ValueError: The anchor lies outside the map, or a map has another shape.
    """
    ids = _grid(labels, "the map of labels").astype(np.int64)
    _check_inside(anchor, ids.shape)
    grids = {
        title: _grid(values, f"the map {title!r}", ids.shape) for title, values in maps.items()
    }
    label = int(ids[anchor])
    name = "ignored" if label == IGNORE else info.class_names[label]
    keys = (ids != IGNORE) & (label != IGNORE)
    positive, negative = keys & (ids == label), keys & (ids != label)
    said = "; ".join(
        f"{title}: mean {_mean(values[positive])} over the positives, "
        f"{_mean(values[negative])} over the negatives"
        for title, values in grids.items()
    )
    alt = (
        f"An anchor of class {name} in row {anchor[0]}, column {anchor[1]}, with {positive.sum()} "
        f"positives and {negative.sum()} negatives in the distorted image. {said}."
    )
    photo, other = as_image(image), as_image(distorted)
    shape = photo.shape[:2]
    # A single map stands beside the two images, several stand below them.
    alone = len(maps) == 1
    columns = 3 if alone else max(2, min(3, len(maps)))
    kinds = "" if alone else ": positives $P_p$, negatives"  # the legend names them, too
    gap = [] if alone else [None] * (columns - 2)
    titles = [f"anchor $p$ in $I$: {name}", rf"keys in $\hat I${kinds}", *gap, *grids]
    with styled():
        # A tenth of the width is for the colour bar.
        height = 0.9 * WIDTH / columns * shape[0] / shape[1] + 0.3
        figure, panels = panel_grid(
            titles, height=height, below=0.35, columns=columns, pixels=PHOTO_PIXELS
        )
        bare(panels[0]).imshow(photo, interpolation="antialiased")
        bare(panels[1]).imshow(other, interpolation="antialiased")
        for chosen, colour, opacity, what in (
            (positive, POSITIVE, 0.45, "positive: the anchor's class"),
            (negative, NEGATIVE, 0.45, "negative: another class"),
            (ids == IGNORE, IGNORED, 0.8, "ignored"),
        ):
            tint = np.where(chosen[..., None], (*to_rgb(colour), opacity), 0.0)
            _draw_cells(panels[1], tint, shape)
            if what != "ignored" or chosen.any():
                panels[1].bar(0, 0, color=colour, label=what)
        for axes, values in zip(panels[2:], grids.values(), strict=True):
            mapped = _draw_cells(axes, values, shape, vmin=limits[0], vmax=limits[1])
        for axes in panels:
            _mark(axes, anchor, ids.shape, shape)
        if grids:
            bar = figure.colorbar(mapped, ax=panels[2:], fraction=0.03, pad=0.01)
            bar.set_label(r"$f_p \cdot f_k$")
            bar.outline.set_visible(False)
        legend_below(figure, panels)
        return Picture(figure, alt)


def key_weights(
    image: Any, anchor: tuple[int, int], maps: Mapping[str, Any], *, caption: str
) -> Picture:
    """How an anchor's weights are spread over its keys, each map on its own scale.

    Args:
        image: The image of the keys.
        anchor: Row and column of the anchor on the maps.
        maps: Weights ``[h, w]`` of at least 0 by title, each scaled to its largest value.
        caption: What is drawn; it stands below the maps.

    Raises:
        ValueError: There are no maps, they differ in shape, or the anchor lies outside them.
    """
    if not maps:
        raise ValueError("no maps to show")
    grids: dict[str, Floats] = {}
    for title, values in maps.items():
        first = next(iter(grids.values())).shape if grids else None
        grids[title] = _grid(values, f"the map {title!r}", first)
        _check_inside(anchor, grids[title].shape)
    shape = as_image(image).shape[:2]
    halves = {title: f"on {_half(values)} of {values.size} keys" for title, values in grids.items()}
    alt = f"{caption} " + "; ".join(
        f"{title}: half of the weight {n}" for title, n in halves.items()
    )
    with styled():
        figure, panels = panel_grid(
            [*grids],
            height=WIDTH / len(grids) * shape[0] / shape[1] + 0.75,
            columns=len(grids),
            pixels=PHOTO_PIXELS,
        )
        for axes, (title, values) in zip(panels, grids.items(), strict=True):
            _draw_cells(axes, values, shape, vmin=0, vmax=float(values.max()))
            axes.set_xlabel(f"half of it {halves[title]}", color=QUIET)
            _mark(axes, anchor, values.shape, shape)
        figure.supxlabel(caption, fontsize=8.5, color=QUIET)
        return Picture(figure, alt + ".")


def pixels_on_a_circle(
    anchors: Any,
    keys: Any,
    anchor_labels: Sequence[int],
    key_labels: Sequence[int],
    *,
    anchor: int,
) -> Picture:
    """A few two-dimensional embeddings on the unit circle, seen from one anchor.

    Args:
        anchors: Unit vectors ``[N, 2]``.
        keys: Unit vectors ``[M, 2]``.
        anchor_labels: ``[N]``.
        key_labels: ``[M]``.
        anchor: Index of the anchor.

    Raises:
        ValueError: The vectors are not two-dimensional.
    """
    points, others = as_array(anchors).astype(float), as_array(keys).astype(float)
    if points.shape[1:] != (2,) or others.shape[1:] != (2,):
        raise ValueError(f"vectors are {points.shape} and {others.shape}; they must be [N, 2]")
    point = points[anchor]
    positive = np.asarray(key_labels) == anchor_labels[anchor]
    cosines = others @ point
    alt = (
        f"Anchor {anchor} and {len(others)} keys on the unit circle. Cosines with the positives: "
        f"{', '.join(f'{c:.2f}' for c in cosines[positive])}; with the negatives: "
        f"{', '.join(f'{c:.2f}' for c in cosines[~positive])}."
    )
    words: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7.5}
    with styled():
        figure, (axes,) = panel_grid([""], height=0.5 * WIDTH, width=0.5 * WIDTH)
        angle = np.linspace(0, 2 * np.pi, 200)
        axes.plot(np.cos(angle), np.sin(angle), color="#cccccc", linewidth=0.8)
        for index, ((x, y), same) in enumerate(zip(others, positive, strict=True)):
            colour = POSITIVE if same else NEGATIVE
            axes.plot([0, x], [0, y], color=colour, linewidth=1.2)
            axes.plot(x, y, "o" if same else "s", color=colour, markersize=7)
            text = f"key {index}\n$f_p\\cdot f_k = {cosines[index]:.2f}$"
            # Not in the colour of the line: small type in orange is hard to read.
            axes.text(1.42 * x, 1.24 * y, text, color=INK, **words)
        arrow(axes, (0, 0), point, colour=INK, width=2)
        axes.text(1.42 * point[0], 1.36 * point[1], f"anchor {anchor}", weight="bold", **words)
        axes.set(xlim=(-1.8, 1.8), ylim=(-1.55, 1.55), aspect="equal")
        bare(axes)
        return Picture(figure, alt)


def _draw_cells(axes: Axes, cells: Floats, shape: tuple[int, ...], **scale: Any) -> Any:
    """Draw a value or a colour for each cell over an image of this shape."""
    height, width = _cell(cells.shape, shape)
    bottom, right = (cells.shape[0] - 0.5) * height, (cells.shape[1] - 0.5) * width
    extent = (-0.5 * width, right, bottom, -0.5 * height)
    drawn = bare(axes).imshow(cells, extent=extent, interpolation="nearest", **scale)
    axes.set(xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5))
    return drawn


def _mark(
    axes: Axes, anchor: tuple[int, int], grid: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    height, width = _cell(grid, shape)
    corner = ((anchor[1] - 0.5) * width, (anchor[0] - 0.5) * height)
    for colour, line in (("white", 3.0), ("black", 1.3)):
        axes.add_patch(
            Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=line)
        )


def _cell(grid: tuple[int, ...], shape: tuple[int, ...]) -> tuple[float, float]:
    """Height and width of a cell in pixels."""
    return (shape[0] - 1) / max(grid[0] - 1, 1), (shape[1] - 1) / max(grid[1] - 1, 1)


def _grid(values: Any, name: str, shape: tuple[int, ...] | None = None) -> Floats:
    grid = as_array(values).astype(np.float64)
    if grid.ndim != 2 or grid.shape != (shape or grid.shape):
        raise ValueError(f"{name} is {grid.shape}; it must be {shape or '[h, w]'}")
    return grid


def _check_inside(anchor: tuple[int, int], shape: tuple[int, ...]) -> None:
    if not (0 <= anchor[0] < shape[0] and 0 <= anchor[1] < shape[1]):
        raise ValueError(f"the anchor {anchor} is outside the map of {shape}")


def _mean(values: Floats) -> str:
    return f"{values.mean():.2f}" if values.size else "nothing"


def _half(weights: Floats) -> int:
    """The fewest keys that hold half of the weight."""
    ordered = np.sort(weights.ravel())[::-1]
    return int(np.searchsorted(np.cumsum(ordered), 0.5 * ordered.sum())) + 1
