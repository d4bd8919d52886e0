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

#: Classes nearer to each other than this share of the circle's radius are named together.
_APART = 0.2

#: Radians between two names on the circle.
_GAP = 0.45

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
    groups = together(one.labels, points, within=_APART * limit)
    if len(groups) > 1:  # before that there is nothing to tell apart
        centres = np.array([np.mean([*group.values()], axis=0) for group in groups])
        turned = spread(np.arctan2(centres[:, 1], centres[:, 0]), gap=_GAP)
        for group, angle in zip(groups, turned, strict=True):
            direction = np.array([np.cos(angle), np.sin(angle)])
            names = _in_lines([one.info.class_names[c] for c in group])
            x, y = 1.12 * limit * direction
            axes.text(
                x,
                y,
                names,
                ha="left" if direction[0] > 0.3 else "right" if direction[0] < -0.3 else "center",
                va="bottom" if direction[1] > 0.3 else "top" if direction[1] < -0.3 else "center",
                color=QUIET,
                fontsize=8,
                linespacing=1.1,
            )
    axes.set(xlim=(-1.6 * limit, 1.6 * limit), ylim=(-1.45 * limit, 1.45 * limit), aspect="equal")
    axes.axis("off")


def together(
    labels: npt.NDArray[np.int64], points: Points, *, within: float
) -> list[dict[int, Points]]:
    """Classes whose middles lie close to each other, as groups.

    Args:
        labels: A class id each, ``[M]``.
        points: Their places, ``[M, 2]``.
        within: Two classes closer than this share a group, and so do the neighbours of both.

    Returns:
        In each group, the median place of each of its classes.
    """
    from sklearn.cluster import DBSCAN

    classes = np.unique(labels)
    middles = np.stack([np.median(points[labels == c], axis=0) for c in classes])
    group_of = DBSCAN(eps=within, min_samples=1).fit_predict(middles)
    return [
        {int(classes[i]): middles[i] for i in np.flatnonzero(group_of == group)}
        for group in np.unique(group_of)
    ]


def spread(angles: Points, *, gap: float) -> Points:
    """Angles in radians, turned as little as needed to lie ``gap`` apart around the circle."""
    order = np.argsort(angles)
    turned = np.array(angles, dtype=np.float64)[order]
    for _ in range(200):
        between = np.diff(turned, append=turned[0] + 2 * np.pi)
        push = np.clip(gap - between, 0, None) / 2 if len(turned) > 1 else np.zeros(len(turned))
        if not push.any():
            break
        turned += np.roll(push, 1) - push
    found = np.empty_like(turned)
    found[order] = turned
    return found


def _in_lines(names: Sequence[str]) -> str:
    """Names with commas, two a line."""
    pairs = [", ".join(names[i : i + 2]) for i in range(0, len(names), 2)]
    return ",\n".join(pairs)
