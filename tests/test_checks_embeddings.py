"""The embedding notebook's checkers name the usual mistakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from segnb.checks import Hint
from segnb.checks.embeddings import check_intra_inter, check_silhouette_of


def intra_inter(
    points: Any,
    labels: Any,
    *,
    scale: bool = True,
    scale_means: bool = False,
    weigh: bool = False,
    power: int = 2,
    itself: bool = False,
    classes: Any = None,
) -> tuple[float, float]:
    if scale:
        points = points / np.linalg.norm(points, axis=1, keepdims=True)
    present = np.unique(labels) if classes is None else classes
    means = [points[labels == c].mean(0) for c in present]
    if scale_means:
        means = [mean / np.linalg.norm(mean) for mean in means]
    spreads = [
        (np.linalg.norm(points[labels == c] - m, axis=1) ** power).mean()
        for c, m in zip(present, means, strict=True)
    ]
    weights = [np.sum(labels == c) for c in present] if weigh else None
    gaps = cdist(means, means) ** 2 if itself else pdist(means) ** 2
    return float(np.average(spreads, weights=weights)), float(gaps.mean())


@pytest.mark.filterwarnings(
    "ignore:Mean of empty:RuntimeWarning", "ignore:invalid value:RuntimeWarning"
)
@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"scale": False}, "as they are"),
        ({"scale_means": True}, "means are scaled"),
        ({"weigh": True}, "weights classes"),
        ({"power": 1}, "squares"),
        ({"itself": True}, "to itself"),
        ({"classes": (0, 1, 2)}, "that are there|stopped"),
    ],
)
def test_mistakes_in_intra_and_inter_are_named(change: dict[str, Any], hint: str) -> None:
    check_intra_inter(intra_inter)
    with pytest.raises(Hint, match=hint):
        check_intra_inter(lambda points, labels: np.array(intra_inter(points, labels, **change)))


def test_one_number_is_not_two() -> None:
    with pytest.raises(Hint, match="two numbers"):
        check_intra_inter(lambda points, labels: 1.0)


def silhouette(
    points: Any,
    labels: Any,
    index: int,
    *,
    metric: str = "cosine",
    itself: bool = False,
    others: Callable[[list[float]], float] = min,
    sign: float = 1.0,
    divide: bool = True,
) -> float:
    distance = cdist(points[index : index + 1], points, metric)[0]
    if metric == "raw":
        distance = 1 - points @ points[index]
    own = labels == labels[index]
    if not itself:
        own[index] = False
    a = distance[own].mean()
    b = others([distance[labels == c].mean() for c in set(labels) - {labels[index]}])
    return float(sign * (b - a) / (max(a, b) if divide else 1.0))


def nearest_pixel(points: Any, labels: Any, index: int) -> float:
    distance = cdist(points[index : index + 1], points, "cosine")[0]
    own = labels == labels[index]
    b = distance[~own].min()
    own[index] = False
    a = distance[own].mean()
    return float((b - a) / max(a, b))


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda *a: silhouette(*a, itself=True), "itself"),
        (lambda *a: silhouette(*a, others=np.mean), "Only the nearest"),
        (lambda *a: silhouette(*a, sign=-1.0), "sign"),
        (lambda *a: silhouette(*a, divide=False), "divides"),
        (nearest_pixel, "nearest pixel"),
        (lambda *a: 0.5, "not right yet"),
        (
            lambda p, y, i: silhouette(
                p / np.linalg.norm(p, axis=1, keepdims=True), y, i, metric="euclidean"
            ),
            "straight-line",
        ),
        (lambda p, y, i: np.zeros(3), "single number"),
    ],
)
def test_mistakes_in_the_silhouette_are_named(wrong: Callable[..., Any], hint: str) -> None:
    check_silhouette_of(silhouette)
    with pytest.raises(Hint, match=hint):
        check_silhouette_of(wrong)
