"""Drawings of the method: the network with its two heads, and which pixels the loss pairs."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from segnb.plots.style import FAINT, QUIET, WIDTH, Picture, new_figure, styled

_INK = "#222222"
_SHARED, _STAGE_1, _STAGE_2 = "#E8EEF4", "#D5EBDD", "#FBE3CB"
_GREEN, _ORANGE = "#117733", "#B35900"

#: A beach in 6 x 8 pixels: sky, sea, sand and a ball. The pairs are drawn on it.
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
#: Another beach: the ball lies elsewhere.
_OTHER_BEACH = np.roll(_BEACH, 3, axis=1)
_COLOURS = ("#A8D1F0", "#3D8DBC", "#F0DFA8", "#D9503F")
_DISTORTED = ("#C9B8E8", "#7A5FA8", "#BFE3C0", "#3FA7A0")


def network_drawing() -> Picture:
    """The network with its two heads, and which stage trains what."""
    with styled():
        figure = new_figure(WIDTH, 3.1, tight=False)
        axes = _canvas(figure.add_axes((0, 0, 1, 1)), 14.4, 6.2)
        for place, (colours, name) in enumerate(
            ((_COLOURS, "image I"), (_DISTORTED, "distorted Î"))
        ):
            bottom = 3.35 - 2.1 * place
            _grid(axes, _BEACH, colours, left=0.35, bottom=bottom, cell=0.21)
            _text(axes, 1.19, bottom - 0.24, name, size=8)
        _text(axes, 1.19, 5.2, "two views,\none mask", size=8, colour=QUIET)
        for bottom in (3.98, 1.88):
            _arrow(axes, (2.15, bottom), (2.85, 2.95 + 0.25 * np.sign(bottom - 2.93)))
        _funnel(axes, 2.95, 2.93, "encoder")
        _box(axes, 5.0, 2.28, 1.75, 1.3, "decoder", _SHARED)
        _arrow(axes, (4.55, 2.93), (4.95, 2.93))
        _arrow(axes, (6.8, 2.93), (7.2, 2.93))
        _stack(axes, 7.3, 2.35)
        _text(axes, 7.95, 1.98, "features", size=8)
        _arrow(axes, (8.75, 3.3), (9.3, 4.35))
        _arrow(axes, (8.75, 2.56), (9.3, 1.5))
        _box(axes, 9.35, 3.85, 1.95, 1.1, "projection head\n3 × (1×1 conv)", _STAGE_1, size=7.5)
        _arrow(axes, (11.35, 4.4), (11.8, 4.4))
        _box(
            axes, 11.85, 3.85, 2.2, 1.1, "contrastive loss\npixel against pixel", _STAGE_1, size=7.5
        )
        _box(axes, 9.35, 0.9, 1.95, 1.1, "pixel classifier\n1×1 conv", _STAGE_2, size=7.5)
        _arrow(axes, (11.35, 1.45), (11.8, 1.45))
        _box(axes, 11.85, 0.9, 2.2, 1.1, "cross-entropy\npixel against mask", _STAGE_2, size=7.5)
        _text(axes, 11.7, 5.4, "Stage 1: gather the classes", size=9.5, colour=_GREEN, bold=True)
        _text(axes, 11.7, 3.5, "then this head is thrown away", size=7.5, colour=QUIET)
        _text(axes, 11.7, 2.42, "Stage 2: learn their names", size=9.5, colour=_ORANGE, bold=True)
        _text(
            axes, 11.7, 0.55, "the whole network is fine-tuned, on image I", size=7.5, colour=QUIET
        )
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
        scope: ``within``: keys are the pixels of the distorted image. ``cross``: another distorted
            image gives more positives.
    """
    cross = scope == "cross"
    with styled():
        figure = new_figure(WIDTH, 2.5, tight=False)
        axes = _canvas(figure.add_axes((0, 0, 1, 1)), 14.4, 5.0)
        cell, bottom = 0.42, 1.25
        lefts = {"I": 0.6, "Î": 5.5, "Ĵ": 10.4}
        names = {
            "I": "image I: the anchor",
            "Î": "Î: I with other colours",
            "Ĵ": "Ĵ: another image",
        }
        anchor = (4, 2)
        for key, left in lefts.items():
            if key == "Ĵ" and not cross:
                continue
            labels = _OTHER_BEACH if key == "Ĵ" else _BEACH
            _grid(axes, labels, _COLOURS if key == "I" else _DISTORTED, left, bottom, cell)
            _text(axes, left + 4 * cell, bottom + 6 * cell + 0.35, names[key], size=8.5)
        start = _centre(anchor, lefts["I"], bottom, cell)
        axes.plot(*start, "o", markersize=9, markerfacecolor="none", color="black", zorder=6)
        own = _BEACH[anchor]
        for key, labels in (("Î", _BEACH), ("Ĵ", _OTHER_BEACH)):
            if key == "Ĵ" and not cross:
                continue
            for row, column in np.argwhere(labels == own):
                end = _centre((row, column), lefts[key], bottom, cell)
                # Over the image between them, where a straight line would run through its pixels.
                bend = -0.2 if key == "Ĵ" else -0.05
                axes.add_patch(
                    FancyArrowPatch(
                        start,
                        end,
                        arrowstyle="-",
                        connectionstyle=f"arc3,rad={bend}",
                        color=_GREEN,
                        linewidth=1.2,
                        alpha=0.75,
                        zorder=5,
                    )
                )
                axes.plot(*end, "o", markersize=4, color=_GREEN, zorder=6)
        for row, column in np.argwhere(own != _BEACH):
            end = _centre((row, column), lefts["Î"], bottom, cell)
            axes.plot(*end, "x", markersize=4.5, color="#AA3377", markeredgewidth=1.2, zorder=6)
        _text(axes, 7.18, 0.82, "● positives pull: same class", size=8.5, colour=_GREEN)
        _text(
            axes, 7.18, 0.38, "× negatives push: every other pixel of Î", size=8.5, colour="#AA3377"
        )
        if cross:
            _text(axes, 12.08, 0.82, "more positives, no negatives", size=8.5, colour=_GREEN)
        alt = (
            "Drawing of the pairs of one anchor, a pixel of a ball in image I. Pixels of the ball "
            "in the distorted image are its positives, all other pixels there its negatives."
        )
        if cross:
            alt += (
                " Pixels of a ball in another distorted image are positives too; its other pixels"
            )
            alt += " take no part."
        return Picture(figure, alt)


def _canvas(axes: Axes, width: float, height: float) -> Axes:
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return axes


def _text(
    axes: Axes,
    x: float,
    y: float,
    words: str,
    *,
    size: float,
    colour: str = _INK,
    bold: bool = False,
) -> None:
    weight = "bold" if bold else "normal"
    axes.text(x, y, words, ha="center", va="center", fontsize=size, color=colour, weight=weight)


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
    axes.add_patch(
        FancyBboxPatch(
            (left + 0.1, bottom + 0.1),
            width - 0.2,
            height - 0.2,
            boxstyle="round,pad=0.1,rounding_size=0.15",
            facecolor=colour,
            edgecolor="#9aa5b1",
            linewidth=0.9,
        )
    )
    _text(axes, left + width / 2, bottom + height / 2, words, size=size)


def _funnel(axes: Axes, left: float, middle: float, words: str) -> None:
    """The encoder: fewer and fewer places, seen from the side."""
    corners = [(left, middle + 1.15), (left + 1.6, middle + 0.6)]
    corners += [(left + 1.6, middle - 0.6), (left, middle - 1.15)]
    axes.add_patch(
        Polygon(corners, facecolor=_SHARED, edgecolor="#9aa5b1", linewidth=0.9, joinstyle="round")
    )
    _text(axes, left + 0.78, middle, words, size=8.5)


def _stack(axes: Axes, left: float, bottom: float) -> None:
    """Feature maps, one behind the other."""
    for depth in (3, 2, 1, 0):
        axes.add_patch(
            Rectangle(
                (left + 0.13 * depth, bottom + 0.1 * depth),
                0.95,
                0.85,
                facecolor="white" if depth else _SHARED,
                edgecolor="#9aa5b1",
                linewidth=0.9,
                zorder=3 - depth,
            )
        )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=QUIET, linewidth=1.1)
    )


def _grid(
    axes: Axes,
    labels: npt.NDArray[np.int64],
    colours: tuple[str, ...],
    left: float,
    bottom: float,
    cell: float,
) -> None:
    rows, columns = labels.shape
    for row in range(rows):
        for column in range(columns):
            axes.add_patch(
                Rectangle(
                    (left + cell * column, bottom + cell * (rows - 1 - row)),
                    cell,
                    cell,
                    facecolor=colours[labels[row, column]],
                    edgecolor="white",
                    linewidth=0.6,
                )
            )
    axes.add_patch(
        Rectangle(
            (left, bottom), cell * columns, cell * rows, fill=False, edgecolor=FAINT, linewidth=0.8
        )
    )


def _centre(place: tuple[int, int], left: float, bottom: float, cell: float) -> tuple[float, float]:
    row, column = place
    return left + cell * (column + 0.5), bottom + cell * (len(_BEACH) - 0.5 - row)
