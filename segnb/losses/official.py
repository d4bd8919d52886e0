"""The losses of the authors' released code (google-research, supervised_pixel_contrastive_loss).

They differ from the paper in substance: a pair's denominator leaves out the other positives, a
pixel is one of its own positives, and the cross-image loss takes its anchors from both images.
``segnb.losses.paper`` holds the paper's own form; values of the two are not comparable.

``reduction="none"`` is always computed by the plain form, with ``[N, M]`` matrices of all pairs
in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segnb.losses.backends import Backend, Reduction, official_loss
from segnb.losses.pixels import joined, pixel_sets


def within_image_loss(
    features: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.07,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """Within-image loss: one set of pixels against itself.

    The official training adds this loss of the images and of their distorted versions. With P_p
    the pixels of p's class (p included) and neg_p the sum of ``exp(s_pk)`` over other classes,

        loss_p = mean over q in P_p of log(1 + neg_p / exp(s_pq))

    Args:
        features: Unit-normalised, ``[B, N, D]`` or ``[B, D, H, W]``.
        labels: Integer ``[B, N]`` or ``[B, H, W]``.
        temperature: Divides the scores.
        ignore_index: Label of pixels left out of the loss.
        reduction: ``mean`` over anchors, then images; ``none`` for a loss of each pixel.
        backend: ``auto``, ``plain``, ``tiled`` or ``triton``.

    Returns:
        A scalar, or with ``reduction="none"`` the shape of ``labels``; float32 (float64 for
        float64 features).

    Raises:
        ValueError: Shapes or devices that do not match, an unusable temperature, or (on the CPU)
            non-finite features (elsewhere those give a NaN loss) or negative labels that are not
            ``ignore_index``.
        TypeError: Features that are not floating point, or labels that are not integers.
    """
    (pixels,) = pixel_sets(
        features=(features, labels), temperature=temperature, ignore_index=ignore_index
    )
    images = torch.zeros_like(pixels.labels)
    loss = official_loss(pixels, images, reduction=reduction, backend=backend)
    return loss if reduction == "mean" else loss.reshape(labels.shape)


def cross_image_loss(
    features1: Tensor,
    features2: Tensor,
    labels1: Tensor,
    labels2: Tensor,
    *,
    temperature: float = 0.07,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """Cross-image loss: anchors in both images, positives in both, negatives in the anchor's own.

        loss_p = mean over q of p's class in both images of log(1 + neg_p / exp(s_pq))

    Args:
        features1: Unit-normalised features of the images, ``[B, N, D]`` or ``[B, D, H, W]``.
        features2: Features of the images they are paired with; the size may differ.
        labels1: Integer ``[B, N]`` or ``[B, H, W]``.
        labels2: Labels of the second images.
        temperature: Divides the scores.
        ignore_index: Label of pixels left out of the loss.
        reduction: ``mean`` over the anchors of both images, then over pairs, or ``none``.
        backend: ``auto``, ``plain``, ``tiled`` or ``triton``.

    Returns:
        A scalar, or with ``reduction="none"`` ``[B, N1 + N2]``, the first images' pixels first.

    Raises:
        ValueError, TypeError: As in :func:`within_image_loss`.
    """
    first, second = pixel_sets(
        features1=(features1, labels1),
        features2=(features2, labels2),
        temperature=temperature,
        ignore_index=ignore_index,
    )
    images = torch.cat([torch.zeros_like(first.labels), torch.ones_like(second.labels)], dim=1)
    return official_loss(joined(first, second), images, reduction=reduction, backend=backend)
