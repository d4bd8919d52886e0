"""Pixel embeddings in the plane."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation

from segnb.datasets.base import DatasetInfo
from segnb.plots.style import FAINT, WIDTH, Picture, luminance, panel_grid, styled

#: More points make the picture no clearer and t-SNE slow.
MOST_POINTS = 5000

#: Unit vectors that differ less than this in every direction are one point.
_NO_SPREAD = 1e-9

#: Lightest colour of a class name, 0 is black and 1 white.
_LIGHTEST = 0.33

#: Rounds of moving names apart; a handful is enough for twenty names.
_MOST_MOVES = 200


def tsne(
    embeddings: Any,
    *,
    seed: int = 0,
    perplexity: float = 30.0,
    start: Literal["pca", "random"] = "pca",
) -> npt.NDArray[np.float64]:
    """Positions of embeddings in the plane, near neighbours near each other (van der Maaten, 2008).

    Embeddings are first scaled to unit length, as in the contrastive loss and the compactness
    numbers. Sizes of clusters and distances between them mean nothing.

    Args:
        embeddings: ``[M, D]``, M at most 5000.
        seed: Random state.
        perplexity: Roughly how many neighbours count; below ``M``.
        start: Start from the principal components, so that the coarse layout hardly depends on the
            seed, or from random positions.

    Returns:
        float64 ``[M, 2]``; all in one point where the embeddings are all alike.

    Raises:
        ValueError: There are too many points or too few, or values that are not finite.
    """
    from sklearn.manifold import TSNE

    values = embeddings.detach().float().cpu() if hasattr(embeddings, "detach") else embeddings
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 2 or len(points) > MOST_POINTS:
        raise ValueError(
            f"embeddings are {points.shape}; they must be [M, D] with M of at most {MOST_POINTS} "
            "(take a sample of the pixels)"
        )
    if not perplexity < len(points):
        raise ValueError(f"perplexity is {perplexity}; it must be below the {len(points)} points")
    if not np.isfinite(points).all():
        raise ValueError("embeddings hold values that are not finite; did the training diverge?")
    length = np.linalg.norm(points, axis=1, keepdims=True)
    unit = points / np.where(length > 0, length, 1.0)
    if unit.std(axis=0).max() < _NO_SPREAD:
        # t-SNE has nothing to spread, and its solver crashes the process: one point it is.
        return np.zeros((len(unit), 2))
    # One channel has no two principal components to start from.
    solver = TSNE(
        init=start if unit.shape[1] > 1 else "random",
        perplexity=perplexity,
        max_iter=1000,
        random_state=seed,
    )
    positions: npt.NDArray[np.float64] = solver.fit_transform(unit).astype(np.float64)
    return positions


def embedding_maps(points: Mapping[str, tuple[Any, Any]], info: DatasetInfo) -> Picture:
    """Embeddings in the plane, side by side, coloured by class.

    Each class is named at the median of its points, where names do not collide.

    Args:
        points: Positions ``[M, 2]`` and labels ``[M]`` by title, in the order of the panels.
        info: The data set.

    Raises:
        ValueError: There are no embeddings, or positions and labels differ in number.
    """
    if not points:
        raise ValueError("no embeddings to show")
    maps: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]] = {}
    for title, (xy, labels) in points.items():
        positions, ids = np.asarray(xy, dtype=np.float64), np.asarray(labels).astype(np.int64)
        if positions.shape != (len(ids), 2):
            raise ValueError(f"{title!r}: positions are {positions.shape}, labels {ids.shape}")
        maps[title] = positions, ids
    present = sorted({int(c) for _, ids in maps.values() for c in np.unique(ids)})
    classes = ", ".join(info.class_names[c] for c in present)
    alt = (
        f"Pixel embeddings of {info.name} in the plane, coloured by class ({classes}): "
        + "; ".join(f"{title}, {len(ids)} pixels" for title, (_, ids) in maps.items())
        + "."
    )
    columns = min(3, len(maps))
    side = WIDTH / max(columns, 1.6)
    with styled():
        figure, panels = panel_grid(
            [*maps], height=side + 0.22, width=side * columns, columns=columns
        )
        for axes, (xy, ids) in zip(panels, maps.values(), strict=True):
            # In random order: class by class, the last would hide the others.
            order = np.random.default_rng(0).permutation(len(ids))
            axes.scatter(
                xy[order, 0],
                xy[order, 1],
                c=np.array(info.palette)[ids[order]] / 255,
                s=min(9.0, 9000 / len(ids)),
                linewidths=0,
                alpha=0.85,
            )
            axes.set(xticks=[], yticks=[])
            axes.set_box_aspect(1)
            axes.margins(0.04)
            axes.spines[:].set(visible=True, color=FAINT)
            names = [_class_name(axes, c, xy[ids == c], info) for c in np.unique(ids)]
            axes.add_artist(_Apart(axes, names))
        return Picture(figure, alt)


def _class_name(
    axes: Axes, label: int, xy: npt.NDArray[np.float64], info: DatasetInfo
) -> Annotation:
    """The name of a class at the median of its points, dark enough to read."""
    colour = np.array(info.palette[label]) / 255
    while luminance(colour) > _LIGHTEST:
        colour = 0.95 * colour
    return axes.annotate(
        info.class_names[label],
        tuple(np.median(xy, axis=0)),
        xytext=(0, 0),
        textcoords="offset pixels",
        ha="center",
        va="center",
        fontsize=7.5,
        color=colour,
        path_effects=[withStroke(linewidth=2, foreground="white")],
        in_layout=False,
    )


class _Apart(Artist):
    """Moves texts until none covers another, each time the figure is drawn.

    Only then are the sizes of the texts and the limits of the axes known.
    """

    zorder = 2  # drawn before the texts

    def __init__(self, axes: Axes, texts: Sequence[Annotation]) -> None:
        super().__init__()
        self.frame, self.texts = axes.bbox, texts
        self.set_in_layout(False)

    def draw(self, renderer: Any) -> None:
        for text in self.texts:
            text.set_position((0, 0))
        extents = [text.get_window_extent(renderer).extents for text in self.texts]
        corners = np.array(extents).reshape(-1, 2, 2)
        start, half = corners.mean(axis=1), np.diff(corners, axis=1)[:, 0] / 2
        centres = start.copy()
        for _ in range(_MOST_MOVES):
            before = centres.copy()
            for a, b in itertools.combinations(range(len(start)), 2):
                apart = centres[b] - centres[a]
                overlap = half[a] + half[b] - np.abs(apart)
                if (overlap > 0).all():
                    axis = overlap.argmin()
                    move = np.copysign(overlap[axis] / 2, apart[axis])
                    centres[[a, b], axis] += -move, move
            centres = np.clip(centres, self.frame.min + half, self.frame.max - half)
            if np.allclose(centres, before, atol=0.5):
                break
        for text, offset in zip(self.texts, centres - start, strict=True):
            text.set_position(offset)
