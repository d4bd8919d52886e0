"""Are the embeddings of one class close together, and those of two classes far apart?

t-SNE shows this in a picture. These numbers depend on neither a perplexity nor a seed. All are
computed on a class-balanced sample of pixels; otherwise road and sky would dominate them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segnb.datasets.base import IGNORE
from segnb.metrics.segmentation import ConfusionScore
from segnb.views import nearest_labels

#: Neighbours that vote in ``knn_miou``.
NEIGHBOURS = 5
#: The silhouette compares all pairs; above this many points it uses a random sample.
SILHOUETTE_POINTS = 5000
#: Variances below this are rounding errors: the Fisher ratio is then undefined.
_NO_SPREAD = 1e-12

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Values = Tensor | npt.NDArray[Any]


@dataclass(frozen=True)
class Compactness:
    """Six measures of compactness; ``None`` where the sample does not define one.

    ``z`` are the embeddings scaled to unit length, ``m_c`` is the mean of class ``c`` (not scaled
    again).

    Attributes:
        intra: Intra-class variance: the mean of ``|z - m_c|²`` over each class, then over the
            classes with two pixels or more. From 0 (all alike) to 1; small means compact.
        inter: Inter-class distance: the mean of ``|m_c - m_d|²`` over all pairs of classes, 0 to 4.
        fisher: Fisher ratio, ``inter / intra``. Large is good.
        silhouette: Mean silhouette with cosine distance, -1 to 1. Large is good.
        knn_miou: mIoU in percent, over the pixels of the sample, of a vote among the five nearest
            fit embeddings (cosine).
        probe_miou: mIoU in percent, over the pixels of the sample, of a logistic regression on
            the standardised fit embeddings.

    Both mIoUs are those of a class-balanced sample. They differ from the mIoU of a split, in which
    classes are as rare as in the images.
    """

    intra: float | None
    inter: float | None
    fisher: float | None
    silhouette: float | None
    knn_miou: float | None
    probe_miou: float | None

    def as_dict(self) -> dict[str, float | None]:
        """Plain values by name, for JSON."""
        return dataclasses.asdict(self)


#: The measures of a sample without pixels.
UNMEASURED = Compactness(
    intra=None, inter=None, fisher=None, silhouette=None, knn_miou=None, probe_miou=None
)


def pixel_positions(
    masks: Tensor, size: tuple[int, int], *, per_class: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw at most ``per_class`` pixels of each class from all images together.

    Only the masks are needed, so that features too large to keep can be picked batch by batch.
    The same masks, size and generator state give the same pixels, so that stages can be compared.

    Args:
        masks: Class ids ``[B, H, W]``; 255 is never drawn.
        size: Height and width of the feature map, labelled by
            :func:`segnb.views.nearest_labels`, as in the loss.
        per_class: Pixels to draw of each class; all pixels of a class that has fewer.
        generator: A CPU generator.

    Returns:
        positions: int64 ``[M, 3]``: image, row and column on the feature map.
        labels: int64 ``[M]``, in ascending order.

    Raises:
        ValueError: ``per_class`` below 1, or masks of another shape.
    """
    if per_class < 1:
        raise ValueError(f"per_class is {per_class}; it must be 1 or more")
    if masks.ndim != 3:
        raise ValueError(f"masks are {tuple(masks.shape)}; they must be [B, H, W]")
    height, width = size
    small = nearest_labels(masks.cpu(), size).flatten()
    drawn: list[Tensor] = []
    for label in torch.unique(small).tolist():
        if label == IGNORE:
            continue
        (here,) = torch.nonzero(small == label, as_tuple=True)
        drawn.append(here[torch.randperm(len(here), generator=generator)[:per_class]])
    flat = torch.cat(drawn) if drawn else torch.empty(0, dtype=torch.int64)
    cell = flat % (height * width)
    positions = torch.stack([flat // (height * width), cell // width, cell % width], dim=1)
    return positions, small[flat].long()


def compactness(
    embeddings: Values,
    labels: Values,
    *,
    fit_embeddings: Values,
    fit_labels: Values,
    num_classes: int,
    seed: int = 0,
) -> Compactness:
    """Measure a sample of embeddings.

    The classifiers behind ``knn_miou`` and ``probe_miou`` are fitted on one sample, from training
    images, and scored on the other, from images the network has not seen.

    Args:
        embeddings: ``[M, D]``, the sample that is measured.
        labels: ``[M]``.
        fit_embeddings: ``[N, D]``, the sample that the classifiers are fitted on.
        fit_labels: ``[N]``.
        num_classes: Number of classes.
        seed: Draws the points of the silhouette where there are more than 5000.

    Raises:
        ValueError: Shapes that do not fit, an empty sample, or values that are not finite.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    points, classes = _unit(embeddings, "embeddings"), _ids(labels, embeddings, "labels")
    fit_points = _unit(fit_embeddings, "fit_embeddings")
    fit_classes = _ids(fit_labels, fit_embeddings, "fit_labels")
    if points.shape[1] != fit_points.shape[1]:
        raise ValueError(
            f"embeddings have {points.shape[1]} dimensions, fit_embeddings {fit_points.shape[1]}"
        )

    def miou(classifier: Any) -> float:
        predicted = classifier.fit(fit_points, fit_classes).predict(points)
        score = ConfusionScore(num_classes)
        score.update(torch.from_numpy(predicted), torch.from_numpy(classes))
        return score.compute().miou

    # On unit vectors, Euclidean distance ranks neighbours as cosine distance does, and faster.
    vote = KNeighborsClassifier(min(NEIGHBOURS, len(fit_points)), algorithm="brute")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    intra, inter = _variances(points, classes)
    return Compactness(
        intra=intra,
        inter=inter,
        fisher=inter / intra if intra and inter is not None and intra > _NO_SPREAD else None,
        silhouette=_silhouette(points, classes, seed),
        knn_miou=miou(vote),
        probe_miou=miou(probe) if len(np.unique(fit_classes)) > 1 else None,
    )


def _variances(points: Array, labels: Ids) -> tuple[float | None, float | None]:
    present = np.unique(labels)
    means = np.stack([points[labels == c].mean(0) for c in present])
    spreads = [
        float(((points[labels == c] - mean) ** 2).sum(1).mean())
        for c, mean in zip(present, means, strict=True)
        if np.count_nonzero(labels == c) > 1
    ]
    first, second = np.triu_indices(len(means), k=1)
    gaps = ((means[first] - means[second]) ** 2).sum(1)
    return (
        float(np.mean(spreads)) if spreads else None,
        float(gaps.mean()) if len(gaps) else None,
    )


def _silhouette(points: Array, labels: Ids, seed: int) -> float | None:
    from sklearn.metrics import silhouette_score

    if len(points) > SILHOUETTE_POINTS:
        chosen = np.random.default_rng(seed).choice(len(points), SILHOUETTE_POINTS, replace=False)
        points, labels = points[chosen], labels[chosen]
    if not 2 <= len(np.unique(labels)) < len(points):
        return None
    return float(silhouette_score(points, labels, metric="cosine"))


def _unit(values: Values, name: str) -> Array:
    if isinstance(values, Tensor):
        # NumPy has no bfloat16.
        values = values.detach().to("cpu", torch.float64).numpy()
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 2 or len(points) == 0:
        raise ValueError(f"{name} are {points.shape}; they must be [M, D] with M of 1 or more")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} contain values that are not finite; did training diverge?")
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.where(length > 0, length, 1.0)


def _ids(labels: Values, values: Values, name: str) -> Ids:
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu().numpy()
    ids = np.asarray(labels).astype(np.int64)
    if ids.shape != (len(values),):
        raise ValueError(f"{name} are {ids.shape}; they must be ({len(values)},), one per pixel")
    return ids
