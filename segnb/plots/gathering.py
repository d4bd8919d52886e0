"""A film of stage 1: pixel embeddings of several data sets while their classes gather."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from segnb.datasets.base import DatasetInfo
from segnb.plots.film import Film, animated
from segnb.plots.style import FAINT, QUIET, new_figure, styled

Points = npt.NDArray[np.float64]

#: Classes that are named in the picture; more names would cover each other.
_NAMED = 6

#: Inches of a panel, and pixels an inch.
_WIDTH, _HEIGHT, _PIXELS = 3.6, 3.4, 100


@dataclass(frozen=True, eq=False)
class Gathering:
    """The same pixels' embeddings again and again during stage 1.

    Attributes:
        title: What the images show.
        info: The data set's classes.
        labels: int64 ``[M]``, a class id each.
        moments: Steps, ascending, and unit vectors ``[M, D]`` at each.
    """

    title: str
    info: DatasetInfo
    labels: npt.NDArray[np.int64]
    moments: Sequence[tuple[int, npt.NDArray[Any]]]

    def in_plane(self) -> list[tuple[int, Points]]:
        """The embeddings on two axes, the same in all moments.

        The axes are those along which the means of the classes lie furthest apart at the end.
        """
        last = np.asarray(self.moments[-1][1], dtype=np.float64)
        means = np.stack([last[self.labels == c].mean(0) for c in np.unique(self.labels)])
        axes = np.linalg.svd(means - means.mean(0), full_matrices=False)[2][:2]
        return [(step, np.asarray(unit, dtype=np.float64) @ axes.T) for step, unit in self.moments]

    def tightness(self, index: int) -> float:
        """Mean cosine of two different pixels of one class at a moment, over the classes."""
        unit = np.asarray(self.moments[index][1], dtype=np.float64)
        cosines = []
        for c in np.unique(self.labels):
            own = unit[self.labels == c]
            count = len(own)
            if count > 1:
                cosines.append((np.square(own.sum(0)).sum() - count) / (count * (count - 1)))
        return float(np.mean(cosines))


def gathering_film(gatherings: Sequence[Gathering], *, milliseconds: int = 140) -> Film:
    """Stage 1 of several data sets side by side, as one animated PNG.

    Args:
        gatherings: One a panel; all need as many moments.
        milliseconds: Time of one frame; the first and the last stay longer.

    Raises:
        ValueError: None, or different numbers of moments.
    """
    lengths = {len(one.moments) for one in gatherings}
    if len(lengths) != 1:
        raise ValueError(f"all panels need as many moments, got {sorted(lengths) or 'no panel'}")
    placed = [one.in_plane() for one in gatherings]
    figures = []
    for index in range(lengths.pop()):
        with styled():
            width = _WIDTH * len(gatherings)
            figure = new_figure(width, _HEIGHT, tight=False, pixels=_PIXELS)
            for panel, (one, moments) in enumerate(zip(gatherings, placed, strict=True)):
                axes = figure.add_axes((panel / len(gatherings), 0, 1 / len(gatherings), 0.93))
                step, points = moments[index]
                _draw(axes, one, points, limit=max(np.abs(p).max() for _, p in moments))
                axes.set_title(f"{one.title}, step {step}", fontsize=9)
        figures.append(figure)
    said = "; ".join(
        f"{one.title}: mean cosine of two pixels of one class {one.tightness(0):.2f} at step "
        f"{one.moments[0][0]}, {one.tightness(-1):.2f} at step {one.moments[-1][0]}"
        for one in gatherings
    )
    alt = f"Animation: pixel embeddings gather by class during stage 1. {said}."
    return animated(figures, alt, milliseconds=milliseconds)


def _draw(axes: Axes, one: Gathering, points: Points, *, limit: float) -> None:
    around = np.linspace(0, 2 * np.pi, 200)
    axes.plot(limit * np.cos(around), limit * np.sin(around), color=FAINT, linewidth=1)
    colours = np.array(one.info.palette)[one.labels] / 255
    order = np.random.default_rng(0).permutation(len(points))
    axes.scatter(
        points[order, 0],
        points[order, 1],
        c=colours[order],
        s=14,
        linewidths=0.3,
        edgecolors="white",
        alpha=0.9,
    )
    present = np.unique(one.labels)
    # The classes that lie furthest out are named: those in the middle would cover each other.
    middle = {int(c): np.median(points[one.labels == c], axis=0) for c in present}
    outer = sorted(middle, key=lambda c: -float(np.hypot(*middle[c])))[:_NAMED]
    for c in outer:
        direction = middle[c] / max(float(np.hypot(*middle[c])), 1e-9)
        x, y = 1.14 * limit * direction
        name = one.info.class_names[c]
        axes.text(x, y, name, ha="center", va="center", color=QUIET, fontsize=8)
        axes.plot(*(direction * 1.0 * limit), "o", markersize=5, color=_colour(one.info, c))
    axes.set(xlim=(-1.4 * limit, 1.4 * limit), ylim=(-1.3 * limit, 1.3 * limit), aspect="equal")
    axes.axis("off")


def _colour(info: DatasetInfo, c: int) -> tuple[float, ...]:
    return tuple(value / 255 for value in info.palette[c])
