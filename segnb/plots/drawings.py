"""Drawings of the method: the network with its two heads, and which pixels the loss pairs."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Polygon, Rectangle

from segnb.plots.style import (
    FAINT,
    INK,
    PULL,
    PUSH,
    QUIET,
    WIDTH,
    Picture,
    arrow,
    new_figure,
    styled,
)

_SHARED, _STAGE_1, _STAGE_2 = "#E8EEF4", "#D5EBDD", "#FBE3CB"
_ORANGE = "#B35900"

#: A beach in 6 x 8 pixels: sky, sea, sand and a ball.
_BEACH = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1],
        [2, 2, 3, 3, 2, 2, 2, 2],
        [2, 2, 3, 3, 2, 2, 2, 2],
        [2, 2, 2, 2, 2, 2, 2, 2],
    ]
)
#: The same beach with its ball elsewhere.
_OTHER_BEACH = np.roll(_BEACH, 3, axis=1)
_COLOURS = ("#A8D1F0", "#3D8DBC", "#F0DFA8", "#D9503F")
_DISTORTED = ("#C9B8E8", "#7A5FA8", "#BFE3C0", "#3FA7A0")


def network_drawing() -> Picture:
    """The network with its two heads, and which stage trains what."""
    with styled():
        figure, axes = _canvas(3.1)
        for bottom, colours, name, end in (
            (3.35, _COLOURS, "image I", 3.2),
            (1.25, _DISTORTED, "distorted Î", 2.7),
        ):
            _grid(axes, _BEACH, colours, left=0.35, bottom=bottom, cell=0.21)
            _text(axes, 1.19, bottom - 0.24, name, size=8)
            arrow(axes, (2.15, bottom + 0.63), (2.85, end))
        _text(axes, 1.19, 5.2, "two views,\none mask", size=8, colour=QUIET)
        _funnel(axes, 2.95, 2.93, "encoder")
        _box(axes, 5.0, 2.28, 1.75, 1.3, "decoder", _SHARED)
        arrow(axes, (4.55, 2.93), (4.95, 2.93))
        arrow(axes, (6.8, 2.93), (7.2, 2.93))
        _stack(axes, 7.3, 2.35)
        _text(axes, 7.95, 1.98, "features", size=8)
        arrow(axes, (8.75, 3.3), (9.3, 4.35))
        arrow(axes, (8.75, 2.56), (9.3, 1.5))
        _box(axes, 9.35, 3.85, 1.95, 1.1, "projection head\n3 × (1×1 conv)", _STAGE_1, size=7.5)
        arrow(axes, (11.35, 4.4), (11.8, 4.4))
        loss = "contrastive loss\npixel against pixel"
        _box(axes, 11.85, 3.85, 2.2, 1.1, loss, _STAGE_1, size=7.5)
        _box(axes, 9.35, 0.9, 1.95, 1.1, "pixel classifier\n1×1 conv", _STAGE_2, size=7.5)
        arrow(axes, (11.35, 1.45), (11.8, 1.45))
        _box(axes, 11.85, 0.9, 2.2, 1.1, "cross-entropy\npixel against mask", _STAGE_2, size=7.5)
        _text(axes, 11.7, 5.4, "Stage 1: gather the classes", size=9.5, colour=PULL, bold=True)
        _text(axes, 11.7, 3.5, "then this head is thrown away", size=7.5, colour=QUIET)
        _text(axes, 11.7, 2.42, "Stage 2: learn their names", size=9.5, colour=_ORANGE, bold=True)
        fine_tuned = "the whole network is fine-tuned, on image I"
        _text(axes, 11.7, 0.55, fine_tuned, size=7.5, colour=QUIET)
        _text(axes, 6.3, 4.15, "one network, trained in both stages", size=8, colour=QUIET)
        return Picture(
            figure,
            "Drawing. An image and its colour-distorted version go through one network, encoder "
            "and decoder, which gives a feature for each pixel. In stage 1 the features go through "
            "a projection head of three 1x1 convolutions into the contrastive loss. Then this head "
            "is thrown away. In stage 2 a pixel classifier takes its place, and the whole network "
            "is fine-tuned with cross-entropy.",
        )


def pairs_drawing(scope: Literal["within", "cross"] = "cross") -> Picture:
    """Which pixels the paper's loss pairs with one anchor.

    Args:
        scope: ``within``: the keys are the pixels of the distorted image. ``cross``: another
            distorted image adds positives.
    """
    cross = scope == "cross"
    cell, bottom, anchor = 0.42, 1.25, (4, 2)
    own = _BEACH[anchor]
    start = _centre(anchor, 0.6, bottom, cell)
    with styled():
        figure, axes = _canvas(2.5)
        for left, name, labels, colours, bend in (
            (0.6, "image I: the anchor", _BEACH, _COLOURS, None),
            (5.5, "Î: I with other colours", _BEACH, _DISTORTED, -0.05),
            # Bent around the image between them, so that the lines leave its pixels free.
            (10.4, "Ĵ: another image", _OTHER_BEACH, _DISTORTED, -0.2),
        )[: 3 if cross else 2]:
            _grid(axes, labels, colours, left, bottom, cell)
            _text(axes, left + 4 * cell, bottom + 6 * cell + 0.35, name, size=8.5)
            for pixel in np.argwhere(labels == own) if bend else ():
                end = _centre(pixel, left, bottom, cell)
                axes.add_patch(
                    FancyArrowPatch(
                        start,
                        end,
                        arrowstyle="-",
                        connectionstyle=f"arc3,rad={bend}",
                        color=PULL,
                        linewidth=1.2,
                        alpha=0.75,
                        zorder=5,
                    )
                )
                axes.plot(*end, "o", markersize=4, color=PULL, zorder=6)
        axes.plot(*start, "o", markersize=9, markerfacecolor="none", color="black", zorder=6)
        for pixel in np.argwhere(own != _BEACH):
            end = _centre(pixel, 5.5, bottom, cell)
            axes.plot(*end, "x", markersize=4.5, color=PUSH, markeredgewidth=1.2, zorder=6)
        _text(axes, 7.18, 0.82, "● positives pull: same class", size=8.5, colour=PULL)
        negatives = "× negatives push: every other pixel of Î"
        _text(axes, 7.18, 0.38, negatives, size=8.5, colour=PUSH)
        alt = (
            "Drawing of the pairs of one anchor, a pixel of a ball in image I. Pixels of the ball "
            "in the distorted image are its positives, all other pixels there its negatives."
        )
        if cross:
            _text(axes, 12.08, 0.82, "more positives, no negatives", size=8.5, colour=PULL)
            alt += (
                " Pixels of a ball in another distorted image are positives too; its other pixels"
                " take no part."
            )
        return Picture(figure, alt)


def _canvas(height: float) -> tuple[Figure, Axes]:
    """An empty figure of this height in inches, and axes over all of it in half inches."""
    figure = new_figure(WIDTH, height, tight=False)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 2 * WIDTH), ylim=(0, 2 * height))
    axes.axis("off")
    return figure, axes


def _text(
    axes: Axes,
    x: float,
    y: float,
    words: str,
    *,
    size: float,
    colour: str = INK,
    bold: bool = False,
) -> None:
    weight = "bold" if bold else "normal"
    axes.text(x, y, words, ha="center", va="center", fontsize=size, color=colour, weight=weight)


def _shape(axes: Axes, patch: Patch, colour: str, zorder: float = 1) -> None:
    patch.set(facecolor=colour, edgecolor="#9aa5b1", linewidth=0.9, zorder=zorder)
    axes.add_patch(patch)


def _box(
    axes: Axes,
    left: float,
    bottom: float,
    width: float,
    height: float,
    words: str,
    colour: str,
    *,
    size: float = 8.5,
) -> None:
    style = "round,pad=0.1,rounding_size=0.15"
    corner = (left + 0.1, bottom + 0.1)
    _shape(axes, FancyBboxPatch(corner, width - 0.2, height - 0.2, boxstyle=style), colour)
    _text(axes, left + width / 2, bottom + height / 2, words, size=size)


def _funnel(axes: Axes, left: float, middle: float, words: str) -> None:
    """The encoder: fewer and fewer positions, seen from the side."""
    corners = [(left, middle + 1.15), (left + 1.6, middle + 0.6)]
    corners += [(left + 1.6, middle - 0.6), (left, middle - 1.15)]
    _shape(axes, Polygon(corners, joinstyle="round"), _SHARED)
    _text(axes, left + 0.78, middle, words, size=8.5)


def _stack(axes: Axes, left: float, bottom: float) -> None:
    """Feature maps, one behind the other."""
    for depth in (3, 2, 1, 0):
        sheet = Rectangle((left + 0.13 * depth, bottom + 0.1 * depth), 0.95, 0.85)
        _shape(axes, sheet, "white" if depth else _SHARED, zorder=3 - depth)


def _grid(
    axes: Axes,
    labels: npt.NDArray[np.int64],
    colours: tuple[str, ...],
    left: float,
    bottom: float,
    cell: float,
) -> None:
    rows, columns = labels.shape
    axes.pcolormesh(
        left + cell * np.arange(columns + 1),
        bottom + cell * np.arange(rows, -1, -1),
        labels,
        cmap=ListedColormap(colours),
        vmin=0,
        vmax=len(colours) - 1,
        edgecolor="white",
        linewidth=0.6,
        antialiased=True,
    )
    frame = Rectangle((left, bottom), cell * columns, cell * rows, fill=False)
    frame.set(edgecolor=FAINT, linewidth=0.8)
    axes.add_patch(frame)


def _centre(pixel: Any, left: float, bottom: float, cell: float) -> tuple[float, float]:
    row, column = pixel
    return left + cell * (column + 0.5), bottom + cell * (len(_BEACH) - 0.5 - row)
