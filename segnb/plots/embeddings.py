"""Pixel embeddings in the plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from segnb.datasets.base import DatasetInfo
from segnb.plots.images import class_handles, legend_columns
from segnb.plots.style import FAINT, WIDTH, Picture, new_figure, styled

#: More points than this make a picture no clearer and t-SNE slow.
MOST_POINTS = 5000


def tsne(
    embeddings: Any,
    *,
    seed: int = 0,
    perplexity: float = 30.0,
    start: Literal["pca", "random"] = "pca",
) -> npt.NDArray[np.float64]:
    """Place embeddings in the plane so that near neighbours stay near (van der Maaten, 2008).

    Embeddings are scaled to unit length first, as the contrastive loss and the compactness
    numbers see them. Distances between clusters, and their sizes, mean nothing.

    Args:
        embeddings: ``[M, D]``, at most 5000 of them.
        seed: Random state.
        perplexity: About how many neighbours count; below ``M``.
        start: From the principal components, so that the coarse layout hardly depends on the seed,
            or from random places.

    Returns:
        float64 ``[M, 2]``.

    Raises:
        ValueError: Too many points or too few, or values that are not finite.
    """
    from sklearn.manifold import TSNE

    values = embeddings.detach().float().cpu() if hasattr(embeddings, "detach") else embeddings
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 2 or len(points) > MOST_POINTS:
        raise ValueError(
            f"embeddings are {points.shape}; they must be [M, D] with M of at most {MOST_POINTS} "
            "(draw a sample with segnb.metrics.sample_pixels)"
        )
    if not perplexity < len(points):
        raise ValueError(f"perplexity is {perplexity}; it must be below the {len(points)} points")
    if not np.isfinite(points).all():
        raise ValueError("embeddings hold values that are not finite; did the training diverge?")
    length = np.linalg.norm(points, axis=1, keepdims=True)
    unit = points / np.where(length > 0, length, 1.0)
    solver = TSNE(init=start, perplexity=perplexity, max_iter=1000, random_state=seed)
    placed: npt.NDArray[np.float64] = solver.fit_transform(unit).astype(np.float64)
    return placed


def embedding_maps(points: Mapping[str, tuple[Any, Any]], info: DatasetInfo) -> Picture:
    """Embeddings in the plane, side by side, coloured by class.

    Args:
        points: Places ``[M, 2]`` and labels ``[M]`` by title, in the order they are shown.
        info: The data set.

    Raises:
        ValueError: Nothing to show, or places and labels that do not fit.
    """
    if not points:
        raise ValueError("no embeddings to show")
    maps: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]] = {}
    for title, (xy, labels) in points.items():
        places, ids = np.asarray(xy, dtype=np.float64), np.asarray(labels).astype(np.int64)
        if places.shape != (len(ids), 2):
            raise ValueError(f"{title!r}: places are {places.shape}, labels {ids.shape}")
        maps[title] = places, ids
    present = sorted({int(c) for _, ids in maps.values() for c in np.unique(ids)})
    columns = min(3, len(maps))
    rows = -(-len(maps) // columns)
    names = ", ".join(info.class_names[c] for c in present)
    alt = (
        f"Pixel embeddings of {info.name} in the plane, coloured by class ({names}): "
        + "; ".join(f"{title}, {len(ids)} pixels" for title, (_, ids) in maps.items())
        + "."
    )
    side = WIDTH / max(columns, 1.6)
    across = legend_columns(present, info, side * columns)
    lines = -(-len(present) // across)
    with styled():
        figure = new_figure(side * columns, (side + 0.22) * rows + 0.1 + 0.2 * lines)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (title, (xy, ids)) in zip(panels, maps.items(), strict=False):
            # Drawn in a mixed order: class by class, the last would hide the others.
            order = np.random.default_rng(0).permutation(len(ids))
            colours = np.array(info.palette)[ids] / 255
            axes.scatter(
                *xy[order].T,
                c=colours[order],
                s=min(9.0, 9000 / len(ids)),
                linewidths=0,
                alpha=0.85,
            )
            axes.set(title=title, xticks=[], yticks=[])
            axes.set_box_aspect(1)
            axes.margins(0.04)
            axes.spines[:].set(visible=True, color=FAINT)
        for axes in panels[len(maps) :]:
            axes.remove()
        figure.legend(
            handles=class_handles(present, info),
            loc="outside lower center",
            ncols=across,
            fontsize=8,
            handlelength=1.0,
            handletextpad=0.4,
            columnspacing=1.2,
        )
        return Picture(figure, alt)
