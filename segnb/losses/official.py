"""The losses of the authors' released code (google-research, supervised_pixel_contrastive_loss).

They differ from the paper in earnest: other positives are left out of a pair's denominator, a
pixel is one of its own positives, and the cross-image loss takes its anchors from both images.
``segnb.losses.paper`` holds the paper's own form; raw values of the two are not comparable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segnb.losses import _core
from segnb.losses._core import Backend
from segnb.losses._inputs import PixelSet, check_temperature, pixel_set, same_space
from segnb.losses._reduction import Reduction, anchor_weights, check_reduction, flat_weights


def within_image_loss(
    features: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.07,
    ignore_index: int = 255,
    normalize: bool = False,
    reduction: Reduction = "mean",
    weights: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Within-image loss: one set of pixels against itself.

    The official training adds it for the images and for their distorted versions. With P_p the
    pixels of p's class (p included) and neg_p the sum of ``exp(s_pk)`` over the other classes,

        loss_p = mean over q in P_p of log(1 + neg_p / exp(s_pq))

    Args:
        features: Unit-normalised, ``[B, N, D]`` or ``[B, D, H, W]``.
        labels: Integer ``[B, N]`` or ``[B, H, W]``.
        temperature: Divides the scores.
        ignore_index: Label of pixels that do not take part.
        normalize: Project the features to unit length first.
        reduction: ``mean`` over anchors, then images; ``none`` gives a loss for each pixel.
        weights: Factor of each anchor's loss, shaped as ``labels``; ``mean`` is then the
            weighted mean.
        backend: ``auto``, ``reference``, ``tiled`` or ``triton``.

    Returns:
        A scalar, or with ``reduction="none"`` the shape of ``labels``; float32 (float64 for
        float64 features).

    Raises:
        ValueError: Shapes or devices that do not fit, an unusable temperature, or (on the CPU)
            non-finite features. On other devices those give a NaN loss.
        TypeError: Types that do not fit.
    """
    pixels = pixel_set(features, labels, normalize=normalize)
    loss = _official_loss(
        pixels,
        torch.zeros_like(pixels.labels),
        temperature=temperature,
        ignore_index=ignore_index,
        reduction=reduction,
        weights=flat_weights(weights, labels),
        backend=backend,
    )
    return loss if reduction == "mean" else loss.reshape(pixels.shape)


def cross_image_loss(
    features1: Tensor,
    features2: Tensor,
    labels1: Tensor,
    labels2: Tensor,
    *,
    temperature: float = 0.07,
    ignore_index: int = 255,
    normalize: bool = False,
    reduction: Reduction = "mean",
    weights: tuple[Tensor, Tensor] | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Cross-image loss: anchors in both images, positives in both, negatives in the anchor's own.

        loss_p = mean over q of p's class in both images of log(1 + neg_p / exp(s_pq))

    Args:
        features1: Unit-normalised features of the images, ``[B, N, D]`` or ``[B, D, H, W]``.
        features2: The same of the images they are paired with; may differ in size.
        labels1: Integer ``[B, N]`` or ``[B, H, W]``.
        labels2: The same of the second images.
        temperature: Divides the scores.
        ignore_index: Label of pixels that do not take part.
        normalize: Project the features to unit length first.
        reduction: ``mean`` over the anchors of both images, then over pairs, or ``none``.
        weights: Factors of the anchors' losses, shaped as ``labels1`` and ``labels2``.
        backend: ``auto``, ``reference``, ``tiled`` or ``triton``.

    Returns:
        A scalar, or with ``reduction="none"`` ``[B, N1 + N2]``, the first images' pixels first.

    Raises:
        ValueError: As in :func:`within_image_loss`.
        TypeError: Types that do not fit.
    """
    first = pixel_set(features1, labels1, normalize=normalize, name="features1")
    second = pixel_set(features2, labels2, normalize=normalize, name="features2")
    same_space(first, second, "features1", "features2")
    labels = torch.cat([first.labels, second.labels], dim=1)
    both = PixelSet(
        torch.cat([first.features, second.features], dim=1), labels, labels.shape, first.dtype
    )
    flat = None
    if weights is not None:
        pairs = zip(weights, (labels1, labels2), strict=True)
        flat = torch.cat([flat_weights(w, y) for w, y in pairs], dim=1)
    images = torch.cat([torch.zeros_like(first.labels), torch.ones_like(second.labels)], dim=1)
    return _official_loss(
        both,
        images,
        temperature=temperature,
        ignore_index=ignore_index,
        reduction=reduction,
        weights=flat,
        backend=backend,
    )


def _official_loss(
    pixels: PixelSet,
    images: Tensor,
    *,
    temperature: float,
    ignore_index: int,
    reduction: Reduction,
    weights: Tensor | None,
    backend: Backend,
) -> Tensor:
    check_temperature(temperature)
    check_reduction(reduction)
    # Every pixel that is not ignored is its own positive.
    counts = pixels.labels != ignore_index
    factors = anchor_weights(counts, weights, reduction=reduction, dtype=pixels.features.dtype)
    if reduction == "mean":
        return _core.official_total(
            pixels,
            images,
            factors,
            temperature=temperature,
            ignore_index=ignore_index,
            backend=backend,
        )
    losses = _core.official_anchor_losses(
        pixels, images, temperature=temperature, ignore_index=ignore_index, backend=backend
    )
    return factors * losses
