"""One anchor and its keys: what the contrastive loss sees, drawn over the image.

A cell of the feature map stands for the pixel that corner-aligned sampling takes, so the first and
the last cell of a row are drawn around the image's own corners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.patches import Patch, Rectangle

from segnb.datasets.base import IGNORE, DatasetInfo
from segnb.plots.images import as_image
from segnb.plots.style import PHOTO_PIXELS, QUIET, WIDTH, Picture, new_figure, styled

#: Positives, negatives and pixels that do not count: told apart by lightness, too.
POSITIVE, NEGATIVE, IGNORED = "#0072B2", "#E69F00", "#eeeeee"

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
        info: The data set, for the class's name.
        maps: A value for each key ``[h, w]`` by title, such as its similarity to the anchor.
        limits: Ends of the maps' colour scale.

    Raises:
        ValueError: An anchor outside the map, or maps of another shape.
    """
    ids = _grid(labels)
    row, column = _inside(anchor, ids)
    photos = [as_image(image), as_image(distorted)]
    grids = {title: _grid_of(values, ids, title) for title, values in maps.items()}
    name = _class_name(int(ids[row, column]), info)
    positive, negative = _positives_and_negatives(ids, row, column)
    said = "; ".join(
        f"{title}: mean {_mean(values, positive)} over the positives, "
        f"{_mean(values, negative)} over the negatives"
        for title, values in grids.items()
    )
    alt = (
        f"An anchor of class {name} in row {row}, column {column}, with {int(positive.sum())} "
        f"positives and {int(negative.sum())} negatives in the distorted image. {said}."
    )
    shape = photos[0].shape[:2]
    # A single map stands beside the two images, several below them.
    alone = len(maps) == 1
    columns = 3 if alone else max(2, min(3, len(maps)))
    lines = 1 if alone else 1 + -(-len(maps) // columns)
    with styled():
        side = WIDTH / columns
        # A tenth of the width is the colour bar's.
        height = lines * (0.9 * side * shape[0] / shape[1] + 0.3) + 0.35
        figure = new_figure(WIDTH, height, pixels=PHOTO_PIXELS)
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        _photo(panels[0], photos[0], f"anchor $p$ in $I$: {name}")
        kinds = "" if alone else ": positives $P_p$, negatives"  # the legend names them, too
        _photo(panels[1], photos[1], rf"keys in $\hat I${kinds}")
        _tint(panels[1], positive, POSITIVE, ids.shape, shape)
        _tint(panels[1], negative, NEGATIVE, ids.shape, shape)
        _tint(panels[1], ids == IGNORE, IGNORED, ids.shape, shape, opacity=0.8)
        first = 2 if alone else columns
        mapped = None
        for axes, (title, values) in zip(panels[first:], grids.items(), strict=False):
            mapped = _map(axes, values, shape, limits)
            axes.set_title(title)
        for axes in [*panels[2:first], *panels[first + len(maps) :]]:
            axes.remove()
        for axes in figure.axes:
            _mark(axes, (row, column), ids.shape, shape)
        if mapped is not None:
            bar = figure.colorbar(mapped, ax=figure.axes[2:], fraction=0.03, pad=0.01)
            bar.set_label(r"$f_p \cdot f_k$")
            bar.outline.set_visible(False)
        handles = [
            Patch(color=POSITIVE, label="positive: the anchor's class"),
            Patch(color=NEGATIVE, label="negative: another class"),
        ]
        if (ids == IGNORE).any():
            handles.append(Patch(color=IGNORED, label="ignored"))
        figure.legend(handles=handles, loc="outside lower center", ncols=3, labelcolor=QUIET)
        return Picture(figure, alt)


def key_weights(
    image: Any, anchor: tuple[int, int], maps: Mapping[str, Any], *, caption: str
) -> Picture:
    """How an anchor's weights are spread over its keys, each map on a scale of its own.

    Args:
        image: The image of the keys.
        anchor: Row and column of the anchor on the maps.
        maps: Not negative ``[h, w]`` by title, each scaled to its largest value.
        caption: What is drawn, under the maps.

    Raises:
        ValueError: No maps, an anchor outside them, or maps of several shapes.
    """
    if not maps:
        raise ValueError("no maps to show")
    grids = {title: _values(values) for title, values in maps.items()}
    first = next(iter(grids.values()))
    _inside(anchor, first)
    photo = as_image(image)
    shape = photo.shape[:2]
    alt = f"{caption} " + "; ".join(
        f"{title}: half of the weight on {_half(values)} of {values.size} keys"
        for title, values in grids.items()
    )
    with styled():
        side = WIDTH / len(grids)
        figure = new_figure(WIDTH, side * shape[0] / shape[1] + 0.75, pixels=PHOTO_PIXELS)
        panels = figure.subplots(1, len(grids), squeeze=False)[0]
        for axes, (title, values) in zip(panels, grids.items(), strict=True):
            _photo(axes, photo, title)
            _map(axes, _grid_of(values, first, title), shape, (0, float(values.max())))
            axes.set_xlabel(f"half of it on {_half(values)} of {values.size} keys", color=QUIET)
            _mark(axes, anchor, first.shape, shape)
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
    """A handful of two-dimensional embeddings on the unit circle, seen from one anchor.

    Args:
        anchors: Unit vectors ``[N, 2]``.
        keys: Unit vectors ``[M, 2]``.
        anchor_labels: ``[N]``.
        key_labels: ``[M]``.
        anchor: Which of the anchors.

    Raises:
        ValueError: Vectors that are not two-dimensional.
    """
    points, others = _values(anchors), _values(keys)
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
    with styled():
        figure = new_figure(0.5 * WIDTH, 0.5 * WIDTH)
        axes = figure.subplots()
        angle = np.linspace(0, 2 * np.pi, 200)
        axes.plot(np.cos(angle), np.sin(angle), color="#cccccc", linewidth=0.8)
        for index, (place, same) in enumerate(zip(others, positive, strict=True)):
            colour = POSITIVE if same else NEGATIVE
            axes.plot([0, place[0]], [0, place[1]], color=colour, linewidth=1.2)
            axes.plot(*place, "o" if same else "s", color=colour, markersize=7)
            text = f"key {index}\n$f_p\\cdot f_k = {cosines[index]:.2f}$"
            at = (1.42 * place[0], 1.24 * place[1])
            # The line tells the kind; small type in orange would be hard to read.
            axes.annotate(text, at, ha="center", va="center", fontsize=7.5, color="#222222")
        axes.annotate(
            "",
            xy=point,
            xytext=(0, 0),
            arrowprops={"arrowstyle": "-|>", "linewidth": 2, "color": "#222222"},
        )
        beyond = (1.42 * point[0], 1.36 * point[1])
        axes.annotate(
            f"anchor {anchor}", beyond, ha="center", va="center", fontsize=7.5, weight="bold"
        )
        axes.set(xlim=(-1.8, 1.8), ylim=(-1.55, 1.55), xticks=[], yticks=[])
        axes.set_aspect("equal")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        return Picture(figure, alt)


def _photo(axes: Any, photo: Any, title: str) -> None:
    axes.imshow(photo, interpolation="antialiased")
    _bare(axes, title)


def _bare(axes: Any, title: str = "") -> None:
    axes.set(xticks=[], yticks=[], title=title)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _map(
    axes: Any,
    values: Floats,
    shape: tuple[int, int],
    limits: tuple[float, float],
) -> Any:
    low, high = limits
    drawn = axes.imshow(
        values,
        extent=_extent(values.shape, shape),
        cmap="viridis",
        vmin=low,
        vmax=high,
        interpolation="nearest",
    )
    _bare(axes, axes.get_title())
    axes.set(xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5))
    return drawn


def _tint(
    axes: Any,
    chosen: npt.NDArray[np.bool_],
    colour: str,
    grid: tuple[int, ...],
    shape: tuple[int, int],
    *,
    opacity: float = 0.45,
) -> None:
    from matplotlib.colors import to_rgb

    layer = np.zeros((*grid, 4))
    layer[chosen] = (*to_rgb(colour), opacity)
    axes.imshow(layer, extent=_extent(grid, shape), interpolation="nearest")
    axes.set(xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5))


def _mark(
    axes: Any, anchor: tuple[int, int], grid: tuple[int, ...], shape: tuple[int, int]
) -> None:
    height, width = _cell(grid[0], shape[0]), _cell(grid[1], shape[1])
    corner = ((anchor[1] - 0.5) * width, (anchor[0] - 0.5) * height)
    for colour, line in (("white", 3.0), ("black", 1.3)):
        axes.add_patch(
            Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=line)
        )


def _extent(grid: tuple[int, ...], shape: tuple[int, int]) -> tuple[float, float, float, float]:
    height, width = _cell(grid[0], shape[0]), _cell(grid[1], shape[1])
    bottom, right = (grid[0] - 0.5) * height, (grid[1] - 0.5) * width
    return (-0.5 * width, right, bottom, -0.5 * height)


def _cell(cells: int, pixels: int) -> float:
    return (pixels - 1) / max(cells - 1, 1)


def _grid(labels: Any) -> npt.NDArray[np.int64]:
    ids = _values(labels).astype(np.int64)
    if ids.ndim != 2:
        raise ValueError(f"labels are {ids.shape}; they must be [h, w]")
    return ids


def _grid_of(values: Any, ids: npt.NDArray[Any], title: str) -> Floats:
    grid = _values(values)
    if grid.shape != ids.shape:
        raise ValueError(f"the map {title!r} is {grid.shape}; it must be {ids.shape}")
    return grid


def _values(values: Any) -> Floats:
    found = values.detach().cpu().double() if hasattr(values, "detach") else values
    return np.asarray(found, dtype=np.float64)


def _inside(anchor: tuple[int, int], grid: npt.NDArray[Any]) -> tuple[int, int]:
    row, column = anchor
    if not (0 <= row < grid.shape[0] and 0 <= column < grid.shape[1]):
        raise ValueError(f"the anchor {anchor} is outside of the map of {grid.shape}")
    return row, column


def _positives_and_negatives(
    ids: npt.NDArray[np.int64], row: int, column: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    if ids[row, column] == IGNORE:
        nothing = np.zeros(ids.shape, dtype=bool)
        return nothing, nothing
    positive = ids == ids[row, column]
    return positive, ~positive & (ids != IGNORE)


def _class_name(label: int, info: DatasetInfo) -> str:
    return "ignored" if label == IGNORE else info.class_names[label]


def _mean(values: Floats, chosen: npt.NDArray[np.bool_]) -> str:
    return f"{values[chosen].mean():.2f}" if chosen.any() else "nothing"


def _half(weights: Floats) -> int:
    """The fewest keys that hold half of the weight."""
    ordered = np.sort(weights.ravel())[::-1]
    return int(np.searchsorted(np.cumsum(ordered), 0.5 * ordered.sum())) + 1


__all__ = ["anchor_and_keys", "key_weights", "pixels_on_a_circle"]
