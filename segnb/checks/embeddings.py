"""Checkers of notebook 06: embeddings and their compactness."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from segnb.checks import Answer, call, need_cases, need_close, numbers
from segnb.metrics.compactness import compactness

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def check_intra_inter(answer: Answer) -> None:
    """``answer(embeddings [M, D], labels [M])``: intra-class variance and inter-class distance."""
    points, labels = _sample(0)
    intra, inter = numbers(call(answer, points, labels), (2,), "two numbers, intra first")
    right = compactness(
        points, labels, fit_embeddings=points, fit_labels=labels, num_classes=3, seed=0
    )
    need_close(
        intra,
        right.intra,
        "intra is not right yet: unit vectors, class mean, squared distances to it, mean within "
        "each class, mean over the classes.",
        mistakes=_mistakes_in_intra(points, labels),
    )
    need_close(
        inter,
        right.inter,
        "intra is right, inter not yet: squared distances between the class means, over all pairs "
        "of different classes.",
        mistakes=_mistakes_in_inter(points, labels),
    )
    need_close(
        call(answer, points, np.where(labels == 2, 7, labels)),
        (right.intra, right.inter),
        "with classes 0, 1 and 7 (none in between) the result changes. A sample need not contain "
        "every class: go through the labels that are there.",
    )


def _mistakes_in_intra(points: Array, labels: Labels) -> list[tuple[float, str]]:
    unit = _unit(points)

    def spreads(points: Array, power: int = 2, *, unit_means: bool = False) -> list[float]:
        found = []
        for mine in _by_class(points, labels):
            mean = mine.mean(0)
            mean = mean / np.linalg.norm(mean) if unit_means else mean
            found.append(float((np.linalg.norm(mine - mean, axis=1) ** power).mean()))
        return found

    counts = np.unique(labels, return_counts=True)[1]
    return [
        (np.mean(spreads(points)), "intra is computed from the embeddings as they are. Scale each "
         "to unit length first, or long vectors look scattered."),
        (np.average(spreads(unit), weights=counts), "intra weights classes by their pixels. Take "
         "the mean within each class, then the mean over classes."),
        (np.mean(spreads(unit, 1)), "intra is the mean distance; take the mean of the squares."),
        (np.sum(spreads(unit)), "intra is a sum over the classes: take their mean."),
        (np.mean(spreads(unit, unit_means=True)), "the class means are scaled to unit length as "
         "well. Leave them as they are: a mean near the centre shows that a class is scattered."),
        (np.mean(spreads(unit)) / points.shape[1], "intra is a mean over the dimensions, too: add "
         "up the squares over the dimensions of a vector."),
        (((unit - unit.mean(0)) ** 2).sum(1).mean(), "intra is measured from the mean of all "
         "pixels. Measure from the mean of the pixel's own class."),
    ]  # fmt: skip


def _mistakes_in_inter(points: Array, labels: Labels) -> list[tuple[float, str]]:
    def gaps(points: Array) -> Array:
        means = np.stack([mine.mean(0) for mine in _by_class(points, labels)])
        distances: Array = np.linalg.norm(means[:, None] - means[None], axis=2)
        return distances

    unit = gaps(_unit(points))
    pairs = np.triu_indices(len(unit), k=1)
    return [
        ((gaps(points)[pairs] ** 2).mean(), "intra is right; inter is computed from embeddings "
         "that are not scaled to unit length."),
        ((unit**2).mean(), "intra is right; inter counts the distance of each class to itself, "
         "which is 0. Take pairs of different classes."),
        (unit[pairs].mean(), "intra is right; inter should be the mean of the squared distances."),
        ((unit[pairs] ** 2).sum(), "intra is right; inter is a sum over pairs: take the mean."),
    ]  # fmt: skip


def check_silhouette_of(answer: Answer) -> None:
    """``answer(embeddings [M, D], labels [M], index)``: the silhouette of one pixel, cosine."""
    from sklearn.metrics import silhouette_samples

    points, labels = _sample(1)
    right = silhouette_samples(points, labels, metric="cosine")
    euclidean = silhouette_samples(_unit(points), labels)
    for index in (0, 7, len(labels) - 1):
        straight = (euclidean[index], "this is the silhouette of straight-line distances. Here a "
                    "distance is 1 - cosine.")  # fmt: skip
        need_close(
            call(answer, points, labels, index),
            right[index],
            "not right yet: a is the mean distance to the other pixels of the class, b the mean "
            "distance to the nearest other class, and the result (b - a) / max(a, b).",
            mistakes=[straight, *_mistakes_in_silhouette(points, labels, index)],
        )
    cases = [
        ((3 * points, labels, 2), right[2], "with all embeddings three times as long the result "
         "changes. A cosine does not depend on length."),
    ]  # fmt: skip
    need_cases(answer, cases)


def _mistakes_in_silhouette(points: Array, labels: Labels, index: int) -> list[tuple[float, str]]:
    own = labels == labels[index]

    def to_classes(distance: Array) -> tuple[float, list[float]]:
        """Mean distance to the other pixels of the own class, and to each other class."""
        others = [float(mine.mean()) for mine in _by_class(distance[~own], labels[~own])]
        return (distance[own].sum() - distance[index]) / (own.sum() - 1), others

    def silhouette(a: float, b: float) -> float:
        return (b - a) / max(a, b)

    unit = _unit(points)
    distance = 1 - unit @ unit[index]
    inside, others = to_classes(distance)
    raw_inside, raw_others = to_classes(1 - points @ points[index])
    nearest = min(others)
    return [
        (silhouette(distance[own].mean(), nearest), "a counts the pixel itself, at distance 0. It "
         "is not its own neighbour."),
        (silhouette(inside, float(np.mean(others))), "b is the mean over the other classes. Only "
         "the nearest of them counts."),
        (silhouette(inside, distance[~own].mean()), "b is the mean over all other pixels. Take "
         "the mean for each other class; the nearest class counts."),
        (silhouette(inside, distance[~own].min()), "b is the distance to the nearest pixel. Take "
         "the distance to the nearest class: the mean over its pixels."),
        (silhouette(raw_inside, min(raw_others)), "the dot products are not cosines yet: the "
         "embeddings are not of unit length."),
        (silhouette(nearest, inside), "right except for the sign: it should be large where the "
         "pixel's own class is near."),
        (nearest - inside, "b - a is right; the silhouette divides it by the larger of the two."),
    ]  # fmt: skip


def _by_class(values: Array, labels: Labels) -> list[Array]:
    return [values[labels == label] for label in np.unique(labels)]


def _unit(points: Array) -> Array:
    unit: Array = points / np.linalg.norm(points, axis=1, keepdims=True)
    return unit


def _sample(seed: int) -> tuple[Array, Labels]:
    """Three scattered classes of different sizes, with vectors of different lengths."""
    generator = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], [4, 9, 6])
    points = generator.normal(size=(3, 5))[labels] + 0.7 * generator.normal(size=(len(labels), 5))
    return points * generator.uniform(0.5, 2.0, size=(len(labels), 1)), labels
