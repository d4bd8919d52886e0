"""Checkers of the notebook on embeddings and compactness."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from segnb.checks import Answer, Hint, call, need, need_close, numbers
from segnb.metrics.compactness import compactness

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def check_intra_inter(answer: Answer) -> None:
    """``answer(embeddings [M, D], labels [M])``: intra-class variance and inter-class distance."""
    points, labels = _sample(0)
    found = numbers(call(answer, points, labels))
    need(found.shape == (2,), "return two numbers: intra first, then inter.")
    intra, inter = (float(value) for value in found)
    right = compactness(
        points, labels, fit_embeddings=points, fit_labels=labels, num_classes=3, seed=0
    )
    if right.intra is None or right.inter is None:
        raise AssertionError("the sample defines both numbers")
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    _check_intra(intra, right.intra, points, unit, labels)
    _check_inter(inter, right.inter, points, unit, labels)
    relabelled = np.where(labels == 2, 7, labels)
    need_close(
        call(answer, points, relabelled),
        (right.intra, right.inter),
        "with classes 0, 1 and 7 (no class between) the result changes. A sample need not hold "
        "every class: go through the labels that are there.",
    )


def _check_intra(value: float, right: float, raw: Array, unit: Array, labels: Labels) -> None:
    def spread(points: Array, power: int = 2) -> list[float]:
        found = []
        for label in np.unique(labels):
            mine = points[labels == label]
            distance = np.linalg.norm(mine - mine.mean(0), axis=1)
            found.append(float((distance**power).mean()))
        return found

    counts = np.unique(labels, return_counts=True)[1]
    scaled = []
    for label in np.unique(labels):
        mine = unit[labels == label]
        mean = mine.mean(0)
        scaled.append(((mine - mean / np.linalg.norm(mean)) ** 2).sum(1).mean())
    mistakes = [
        (np.mean(spread(raw)), "intra is taken of the embeddings as they are. Scale each to unit "
         "length first, or long vectors look scattered."),
        (np.average(spread(unit), weights=counts), "intra weighs classes by their pixels. Take "
         "the mean within each class, then the mean over classes."),
        (np.mean(spread(unit, 1)), "intra is the mean distance; it should be that of the squares."),
        (np.sum(spread(unit)), "intra is added up over the classes: take their mean."),
        (np.mean(scaled), "the class means are scaled to unit length as well. Leave them as they "
         "are: a mean close to the centre tells that a class is scattered."),
        (np.mean(spread(unit)) / raw.shape[1], "intra is a mean over the dimensions, too: add "
         "the squares up over the dimensions of a vector."),
        (((unit - unit.mean(0)) ** 2).sum(1).mean(), "intra is measured from the mean of all "
         "pixels. Measure from the mean of the pixel's own class."),
    ]  # fmt: skip
    for wrong, hint in mistakes:
        if np.isclose(value, wrong) and not np.isclose(value, right):
            raise Hint(hint)
    need_close(
        value,
        right,
        "intra is not right yet: unit vectors, class mean, squared distances to it, mean within "
        "each class, mean over the classes.",
    )


def _check_inter(value: float, right: float, raw: Array, unit: Array, labels: Labels) -> None:
    def gaps(points: Array, power: int = 2) -> Array:
        means = np.stack([points[labels == label].mean(0) for label in np.unique(labels)])
        distances: Array = np.linalg.norm(means[:, None] - means[None], axis=2) ** power
        return distances

    first, second = np.triu_indices(len(np.unique(labels)), k=1)
    mistakes = [
        (gaps(raw)[first, second].mean(), "intra is right; inter is taken of embeddings that are "
         "not scaled to unit length."),
        (gaps(unit).mean(), "intra is right; inter counts the distance of each class to itself, "
         "which is 0. Take pairs of different classes."),
        (gaps(unit, 1)[first, second].mean(), "intra is right; inter should be the mean of the "
         "squared distances."),
        (gaps(unit)[first, second].sum(), "intra is right; inter is a sum over pairs: take the "
         "mean."),
    ]  # fmt: skip
    for wrong, hint in mistakes:
        if np.isclose(value, wrong) and not np.isclose(value, right):
            raise Hint(hint)
    need_close(
        value,
        right,
        "intra is right, inter not yet: squared distances between the class means, over all pairs "
        "of different classes.",
    )


def check_silhouette_of(answer: Answer) -> None:
    """``answer(embeddings [M, D], labels [M], index)``: the silhouette of one pixel, cosine."""
    from sklearn.metrics import silhouette_samples

    points, labels = _sample(1)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    right = silhouette_samples(unit, labels, metric="cosine")
    euclidean = silhouette_samples(unit, labels)
    for index in (0, 7, len(labels) - 1):
        value = numbers(call(answer, points, labels, index))
        need(value.shape == (), f"the result has shape {value.shape}; it should be one number.")
        if np.isclose(value, right[index]):
            continue
        raise Hint(_why_not(float(value), points, labels, index, float(euclidean[index])))
    need_close(
        call(answer, 3 * points, labels, 2),
        right[2],
        "with all embeddings three times as long the result changes. A cosine knows no length.",
    )


def _why_not(value: float, points: Array, labels: Labels, index: int, euclidean: float) -> str:
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    distance = 1 - unit @ unit[index]
    own = labels == labels[index]
    apart = {label: distance[labels == label].mean() for label in np.unique(labels[~own])}
    inside = distance[own].sum() / (own.sum() - 1)
    nearest = min(apart.values())
    if np.isclose(value, euclidean):
        return "this is the silhouette of straight-line distances. Here a distance is 1 - cosine."
    raw = 1 - points @ points[index]
    raw_inside = (raw[own].sum() - raw[index]) / (own.sum() - 1)
    raw_nearest = min(raw[labels == label].mean() for label in apart)
    for a, b, hint in (
        (distance[own].mean(), nearest, "a counts the pixel itself, at distance 0. It is no "
         "neighbour of its own."),
        (inside, np.mean([*apart.values()]), "b is the mean over the other classes. Only the "
         "nearest of them counts."),
        (inside, distance[~own].mean(), "b is taken over all other pixels. Take the mean for each "
         "other class; the nearest class counts."),
        (inside, distance[~own].min(), "b is the distance to the nearest pixel. Take the distance "
         "to the nearest class: the mean over its pixels."),
        (raw_inside, raw_nearest, "the dot products are not cosines yet: the embeddings are not "
         "of unit length."),
    ):  # fmt: skip
        if np.isclose(value, (b - a) / max(a, b)):
            return hint
    if np.isclose(value, (inside - nearest) / max(inside, nearest)):
        return "right but for the sign: it should be large where the pixel's own class is near."
    if np.isclose(value, nearest - inside):
        return "b - a is right; the silhouette divides it by the larger of the two."
    return (
        "not right yet: a is the mean distance to the other pixels of the class, b the mean "
        "distance to the nearest other class, and the result (b - a) / max(a, b)."
    )


def _sample(seed: int) -> tuple[Array, Labels]:
    """Three classes of uneven size, scattered, of uneven length."""
    generator = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], [4, 9, 6])
    points = generator.normal(size=(3, 5))[labels] + 0.7 * generator.normal(size=(len(labels), 5))
    return points * generator.uniform(0.5, 2.0, size=(len(labels), 1)), labels
