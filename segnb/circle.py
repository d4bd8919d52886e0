"""The losses on a circle: a handful of pixels whose forces can be drawn.

Embeddings have unit length, so with two channels every pixel is an angle. Everything a loss does
to a pixel is then one number, the force along the circle, and every other pixel's part in it can be
drawn. All in numpy: instant, and small enough to read. A test holds each gradient to the package's
own losses.

With s_pk = cos(θ_p - θ_k) / τ, a loss is a function of the scores; G_pk is its derivative by s_pk.
The force on p is -∂L/∂θ_p = Σ_k (G_pk + G_kp) sin(θ_p - θ_k) / τ, one term a partner: a negative G
pulls p towards k, a positive G pushes it away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Loss = Literal["infonce", "supcon", "paper", "official", "cross-entropy"]

#: What each loss is called where people read it.
LOSS_NAMES: dict[Loss, str] = {
    "infonce": "InfoNCE (each pixel its own class)",
    "supcon": "SupCon",
    "paper": "paper form, within-image",
    "official": "official form, within-image",
    "cross-entropy": "cross-entropy with class vectors",
}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Pixels on the circle, each in two views: as it is, and with its colours distorted.

    Attributes:
        angles: Of all pixels, the first views and then the distorted ones, in radians ``[2N]``.
        labels: Class of each of them, int ``[2N]``.
        vectors: Angles of the learnt class vectors, which cross-entropy alone has, ``[C]``.
    """

    angles: Array
    labels: npt.NDArray[np.int64]
    vectors: Array

    @property
    def pixels(self) -> int:
        """N: pixels of one view."""
        return len(self.angles) // 2


@dataclass(frozen=True, kw_only=True)
class Forces:
    """What a loss does to a scene.

    Attributes:
        loss: Its value.
        pairs: ``[2N, 2N]``: the force on the row's pixel along the circle (positive:
            counter-clockwise) that comes from the column's pixel. For cross-entropy
            ``[2N, C]``: from each class vector.
        weights: ``[2N, 2N]`` or ``[2N, C]``: G, the derivative of the loss by each score.
        vectors: ``[C]``: force on each class vector; zero but for cross-entropy.
    """

    loss: float
    pairs: Array
    weights: Array
    vectors: Array

    @property
    def total(self) -> Array:
        """``[2N]``: the force on each pixel."""
        total: Array = self.pairs.sum(axis=1)
        return total


def scatter(*, classes: int = 3, pixels: int = 4, distortion: float = 0.25, seed: int = 0) -> Scene:
    """A scene before training: classes mixed all around the circle.

    Args:
        classes: How many classes, 2 or more.
        pixels: Pixels of each.
        distortion: Standard deviation, in radians, by which a distorted view lies beside its pixel.
        seed: Of the angles.
    """
    generator = np.random.default_rng(seed)
    count = classes * pixels
    # Evenly spread, then shaken: no two pixels of the picture lie on top of each other.
    places = 2 * np.pi * (np.arange(count) + generator.uniform(-0.3, 0.3, count)) / count
    first = places[generator.permutation(count)]
    second = first + distortion * generator.normal(size=count)
    labels = np.tile(np.repeat(np.arange(classes), pixels), 2)
    vectors = 2 * np.pi * np.arange(classes) / classes + 0.4
    return Scene(angles=np.concatenate([first, second]), labels=labels, vectors=vectors)


def forces(scene: Scene, loss: Loss, *, temperature: float = 0.3) -> Forces:
    """The loss of a scene and the force it puts on every pixel.

    ``infonce``: a pixel's one positive is its own other view, all other pixels are negatives.
    ``supcon``: all pixels of the class are positives (Khosla et al. 2020, eq. 2). ``paper``:
    anchors are the first views, keys the distorted ones. ``official``: each view with itself, the
    pixel among its own positives, other positives left out of a pair's denominator; the two added.
    ``cross-entropy``: a softmax over the scores with one learnt vector a class.

    Args:
        scene: The pixels.
        loss: Which loss.
        temperature: τ.

    Raises:
        ValueError: An unknown loss, or a temperature that is not above 0.
    """
    if loss not in get_args(Loss):
        raise ValueError(f"loss is {loss!r}; it must be one of {', '.join(get_args(Loss))}")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    targets = scene.vectors if loss == "cross-entropy" else scene.angles
    gap = scene.angles[:, None] - targets[None, :]
    value, weights = _LOSSES[loss](np.cos(gap) / temperature, scene)
    along = np.sin(gap) / temperature
    if loss == "cross-entropy":
        pairs = weights * along
        return Forces(loss=value, pairs=pairs, weights=weights, vectors=-pairs.sum(axis=0))
    pairs = (weights + weights.T) * along
    return Forces(loss=value, pairs=pairs, weights=weights, vectors=np.zeros_like(scene.vectors))


def step(scene: Scene, loss: Loss, *, temperature: float = 0.3, rate: float = 0.3) -> Scene:
    """The scene after one step of gradient descent on the angles."""
    found = forces(scene, loss, temperature=temperature)
    return replace(
        scene,
        angles=scene.angles + rate * found.total,
        vectors=scene.vectors + rate * found.vectors,
    )


def train(
    scene: Scene, loss: Loss, *, steps: int, temperature: float = 0.3, rate: float = 0.3
) -> list[Scene]:
    """The scene, and after it the scene after each of the steps."""
    scenes = [scene]
    for _ in range(steps):
        scenes.append(step(scenes[-1], loss, temperature=temperature, rate=rate))
    return scenes


def fisher(scene: Scene) -> float:
    """Between-class over within-class spread of the embeddings, as in :mod:`segnb.metrics`.

    Mean squared distance between class means over the mean within-class variance.
    """
    points = np.stack([np.cos(scene.angles), np.sin(scene.angles)], axis=1)
    classes = np.unique(scene.labels)
    means = np.stack([points[scene.labels == c].mean(axis=0) for c in classes])
    within = np.mean(
        [((points[scene.labels == c] - means[i]) ** 2).sum(1).mean() for i, c in enumerate(classes)]
    )
    first, second = np.triu_indices(len(classes), k=1)
    between = ((means[first] - means[second]) ** 2).sum(axis=1).mean()
    return float(between / max(within, 1e-12))


def _softmax_loss(
    scores: Array, keys: npt.NDArray[np.bool_], positives: npt.NDArray[np.bool_]
) -> tuple[float, Array]:
    """-mean over positives of log softmax over the keys, mean over the anchors that have one."""
    anchors = positives.any(axis=1)
    masked = np.where(keys, scores, -np.inf)[anchors]
    shares = np.exp(masked - masked.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    each = positives[anchors] / positives[anchors].sum(axis=1, keepdims=True)
    logs = np.log(np.where(positives[anchors], shares, 1.0))
    weights = np.zeros_like(scores)
    weights[anchors] = (shares - each) / anchors.sum()
    return float(-(each * logs).sum() / anchors.sum()), weights


def _infonce(scores: Array, scene: Scene) -> tuple[float, Array]:
    count = len(scores)
    other_view = np.roll(np.eye(count, dtype=bool), scene.pixels, axis=1)
    return _softmax_loss(scores, ~np.eye(count, dtype=bool), other_view)


def _supcon(scores: Array, scene: Scene) -> tuple[float, Array]:
    not_self = ~np.eye(len(scores), dtype=bool)
    same = scene.labels[:, None] == scene.labels[None, :]
    return _softmax_loss(scores, not_self, same & not_self)


def _paper(scores: Array, scene: Scene) -> tuple[float, Array]:
    distorted = np.arange(len(scores)) >= scene.pixels
    pair = ~distorted[:, None] & distorted[None, :]
    same = scene.labels[:, None] == scene.labels[None, :]
    return _softmax_loss(scores, pair, pair & same)


def _official(scores: Array, scene: Scene) -> tuple[float, Array]:
    distorted = np.arange(len(scores)) >= scene.pixels
    one_view = distorted[:, None] == distorted[None, :]
    same = scene.labels[:, None] == scene.labels[None, :]
    positives, negatives = one_view & same, one_view & ~same
    number = positives.sum(axis=1, keepdims=True) * scene.pixels
    exps = np.exp(scores)
    against = (exps * negatives).sum(axis=1, keepdims=True)
    ratio = np.where(positives, against / exps, 0.0)
    loss = float((np.log1p(ratio) / number).sum())
    sigma = ratio / (1 + ratio)
    shared = sigma.sum(axis=1, keepdims=True) / np.maximum(against, 1e-300)
    return loss, (negatives * exps * shared - sigma) / number


def _cross_entropy(scores: Array, scene: Scene) -> tuple[float, Array]:
    own = scene.labels[:, None] == np.arange(scores.shape[1])[None, :]
    return _softmax_loss(scores, np.ones_like(own), own)


_LOSSES: dict[Loss, Callable[[Array, Scene], tuple[float, Array]]] = {
    "infonce": _infonce,
    "supcon": _supcon,
    "paper": _paper,
    "official": _official,
    "cross-entropy": _cross_entropy,
}
