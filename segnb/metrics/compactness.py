"""Do the embeddings of one class lie close together, and those of two classes far apart?

t-SNE draws this; these are the numbers, which do not depend on a perplexity or a seed. All are
taken on a class-balanced sample of pixels, or the road and the sky would decide alone.
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
#: The silhouette compares all pairs; beyond this many points it takes a random sample.
SILHOUETTE_POINTS = 5000
#: Variances below this are rounding, not spread: the Fisher ratio has no value there.
_NO_SPREAD = 1e-12

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Compactness:
    """Six views of the same question; ``None`` where the sample does not define the number.

    With ``z`` the embeddings scaled to unit length and ``m_c`` the mean of class ``c`` (not
    scaled again):

    Attributes:
        intra: Intra-class variance. Mean over ``z`` of a class of ``|z - m_c|²``, then mean over
            the classes with two pixels or more. 0 (all alike) to 1. Small is compact.
        inter: Inter-class distance. Mean of ``|m_c - m_d|²`` over all pairs of classes. 0 to 4.
        fisher: Fisher ratio, ``inter / intra``. Large is good.
        silhouette: Mean silhouette with cosine distance, -1 to 1. Large is good.
        knn_miou: mIoU in percent, over the pixels of the sample, of a vote among the five nearest
            fit embeddings (cosine).
        probe_miou: mIoU in percent, over the pixels of the sample, of a logistic regression on
            the standardised fit embeddings.

    The two mIoUs are of a class-balanced sample and so are not those of a split, where a pixel of
    a rare class weighs what it weighs in the images.
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


def pixel_positions(
    masks: Tensor, size: tuple[int, int], *, per_class: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw at most ``per_class`` pixels of each class, all images of the set taken together.

    It needs the masks alone, so that features too many to keep can be picked batch by batch.
    The same masks, size and generator state give the same pixels: draw once, compare stages.

    Args:
        masks: Class ids ``[B, H, W]``; 255 is never drawn.
        size: Height and width of the feature map, labelled by
            :func:`segnb.views.nearest_labels`, as in the loss.
        per_class: Pixels wanted of each class; a class with fewer gives what it has.
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


def sample_pixels(
    features: Tensor, masks: Tensor, *, per_class: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a class-balanced sample of pixel embeddings; see :func:`pixel_positions`.

    Args:
        features: ``[B, D, h, w]``, on any device.
        masks: Class ids ``[B, H, W]``, at the features' resolution or a finer one.
        per_class: Pixels wanted of each class over all ``B`` images.
        generator: A CPU generator.

    Returns:
        embeddings: ``[M, D]``, where the features are, in their type.
        labels: int64 ``[M]`` on the CPU, in ascending order.

    Raises:
        ValueError: Shapes that do not fit.
    """
    if features.ndim != 4 or len(features) != len(masks):
        raise ValueError(
            f"features {tuple(features.shape)} do not fit masks {tuple(masks.shape)}; "
            "they must be [B, D, h, w] and [B, H, W]"
        )
    height, width = features.shape[2:]
    positions, labels = pixel_positions(
        masks, (height, width), per_class=per_class, generator=generator
    )
    image, row, column = positions.to(features.device).unbind(1)
    return features.detach()[image, :, row, column], labels


def compactness(
    embeddings: Tensor | npt.NDArray[Any],
    labels: Tensor | npt.NDArray[Any],
    *,
    fit_embeddings: Tensor | npt.NDArray[Any],
    fit_labels: Tensor | npt.NDArray[Any],
    num_classes: int,
    seed: int = 0,
) -> Compactness:
    """Measure a sample of embeddings.

    The classifiers behind ``knn_miou`` and ``probe_miou`` are fitted on one sample, of training
    images, and scored on the other, of images the network has not seen.

    Args:
        embeddings: ``[M, D]``, the sample that is measured.
        labels: ``[M]``.
        fit_embeddings: ``[N, D]``, the sample the classifiers are fitted on.
        fit_labels: ``[N]``.
        num_classes: Number of classes.
        seed: Draws the points of the silhouette where there are more than 5000.

    Raises:
        ValueError: Shapes that do not fit, an empty sample, or values that are not finite.
    """
    points, classes = _unit(embeddings, "embeddings"), _ids(labels, embeddings, "labels")
    fit_points = _unit(fit_embeddings, "fit_embeddings")
    fit_classes = _ids(fit_labels, fit_embeddings, "fit_labels")
    if points.shape[1] != fit_points.shape[1]:
        raise ValueError(
            f"embeddings have {points.shape[1]} dimensions, fit_embeddings {fit_points.shape[1]}"
        )
    intra, inter = _variances(points, classes)
    defined = intra is not None and inter is not None and intra > _NO_SPREAD
    return Compactness(
        intra=intra,
        inter=inter,
        fisher=inter / intra if defined and inter is not None and intra is not None else None,
        silhouette=_silhouette(points, classes, seed),
        knn_miou=_knn_miou(fit_points, fit_classes, points, classes, num_classes),
        probe_miou=_probe_miou(fit_points, fit_classes, points, classes, num_classes),
    )


def _variances(points: Array, labels: npt.NDArray[np.int64]) -> tuple[float | None, float | None]:
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


def _silhouette(points: Array, labels: npt.NDArray[np.int64], seed: int) -> float | None:
    from sklearn.metrics import silhouette_score

    if len(points) > SILHOUETTE_POINTS:
        chosen = np.random.default_rng(seed).choice(len(points), SILHOUETTE_POINTS, replace=False)
        points, labels = points[chosen], labels[chosen]
    if not 2 <= len(np.unique(labels)) < len(points):
        return None
    return float(silhouette_score(points, labels, metric="cosine"))


def _knn_miou(
    fit_points: Array,
    fit_labels: npt.NDArray[np.int64],
    points: Array,
    labels: npt.NDArray[np.int64],
    num_classes: int,
) -> float:
    from sklearn.neighbors import KNeighborsClassifier

    # On unit vectors the Euclidean order of neighbours is the cosine order, and faster.
    vote = KNeighborsClassifier(min(NEIGHBOURS, len(fit_points)), algorithm="brute")
    return _miou(vote.fit(fit_points, fit_labels).predict(points), labels, num_classes)


def _probe_miou(
    fit_points: Array,
    fit_labels: npt.NDArray[np.int64],
    points: Array,
    labels: npt.NDArray[np.int64],
    num_classes: int,
) -> float | None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(fit_labels)) < 2:
        return None
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return _miou(probe.fit(fit_points, fit_labels).predict(points), labels, num_classes)


def _miou(
    prediction: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], num_classes: int
) -> float:
    score = ConfusionScore(num_classes)
    score.update(torch.from_numpy(prediction), torch.from_numpy(labels))
    return score.compute().miou


def _unit(values: Tensor | npt.NDArray[Any], name: str) -> Array:
    if isinstance(values, Tensor):
        # NumPy has no bfloat16.
        values = values.detach().to("cpu", torch.float64).numpy()
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 2 or len(points) == 0:
        raise ValueError(f"{name} are {points.shape}; they must be [M, D] with M of 1 or more")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} hold values that are not finite; did the training diverge?")
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.where(length > 0, length, 1.0)


def _ids(
    labels: Tensor | npt.NDArray[Any], values: Tensor | npt.NDArray[Any], name: str
) -> npt.NDArray[np.int64]:
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu().numpy()
    ids = np.asarray(labels).astype(np.int64)
    if ids.shape != (len(values),):
        raise ValueError(f"{name} are {ids.shape}; they must be ({len(values)},), one a pixel")
    return ids
