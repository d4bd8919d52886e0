"""The losses as the paper writes them (Zhao et al., ICCV 2021, arXiv 2012.06985).

Anchors p are pixels of an image, keys are pixels of its distorted version and, in the cross-image
loss, of another distorted image. Ignored pixels are neither anchor nor key. Anchors without a
positive are left out of the mean; an image without any anchor left counts as 0.

``reduction="none"`` is always computed by the plain form, with ``[N, M]`` matrices of all pairs
in memory.
"""

from __future__ import annotations

from torch import Tensor

from segnb.losses.backends import Backend, Reduction, logsumexp_loss
from segnb.losses.pixels import Pixels, pixel_sets


def within_image_loss(
    anchors: Tensor,
    keys: Tensor,
    anchor_labels: Tensor,
    key_labels: Tensor,
    *,
    temperature: float = 0.07,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """Within-image loss: anchors in an image, keys in its distorted version.

    With ``s_pk = f_p . f_k / temperature`` and P_p the keys of p's class,

        loss_p = -1/|P_p| sum over q in P_p of log(exp(s_pq) / sum over all keys k of exp(s_pk))

    Args:
        anchors: Unit-normalised features of the images, ``[B, N, D]`` or ``[B, D, H, W]``.
        keys: Features of the distorted images; the number of pixels may differ.
        anchor_labels: Integer ``[B, N]`` or ``[B, H, W]``.
        key_labels: Labels of the keys.
        temperature: Divides the scores.
        ignore_index: Label of pixels left out of the loss.
        reduction: ``mean`` over anchors, then images; ``none`` for a loss of each anchor.
        backend: ``auto``, ``plain``, ``tiled`` or ``triton``.

    Returns:
        A scalar, or with ``reduction="none"`` the shape of ``anchor_labels``; float32 (float64
        for float64 features).

    Raises:
        ValueError: Shapes or devices that do not match, an unusable temperature, or (on the CPU)
            non-finite features (elsewhere those give a NaN loss) or negative labels that are not
            ``ignore_index``.
        TypeError: Features that are not floating point, or labels that are not integers.
    """
    anchor_set, key_set = pixel_sets(
        anchors=(anchors, anchor_labels),
        keys=(keys, key_labels),
        temperature=temperature,
        ignore_index=ignore_index,
    )
    loss = logsumexp_loss(anchor_set, key_set, reduction=reduction, backend=backend)
    return loss if reduction == "mean" else loss.reshape(anchor_labels.shape)


def cross_image_loss(
    anchors: Tensor,
    keys: Tensor,
    other_keys: Tensor,
    anchor_labels: Tensor,
    key_labels: Tensor,
    other_labels: Tensor,
    *,
    temperature: float = 0.07,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """Cross-image loss: another distorted image adds positives but no negatives.

        D_p = sum over keys k of exp(s_pk) + sum over other keys k of p's class of exp(s_pk)
        loss_p = -mean over p's class in keys and other keys of log(exp(s_pq) / D_p)

    Args:
        anchors: Unit-normalised features of the images, ``[B, N, D]`` or ``[B, D, H, W]``.
        keys: Features of the distorted images.
        other_keys: Features of the other distorted images, one for each image.
        anchor_labels: Integer ``[B, N]`` or ``[B, H, W]``.
        key_labels: Labels of the keys.
        other_labels: Labels of the other keys.
        temperature: Divides the scores.
        ignore_index: Label of pixels left out of the loss.
        reduction: ``mean`` over anchors, then images; ``none`` for a loss of each anchor.
        backend: ``auto``, ``plain``, ``tiled`` or ``triton``.

    Returns:
        A scalar, or with ``reduction="none"`` the shape of ``anchor_labels``.

    Raises:
        ValueError, TypeError: As in :func:`within_image_loss`.
    """
    anchor_set, key_set, other_set = pixel_sets(
        anchors=(anchors, anchor_labels),
        keys=(keys, key_labels),
        other_keys=(other_keys, other_labels),
        temperature=temperature,
        ignore_index=ignore_index,
    )
    loss = logsumexp_loss(anchor_set, key_set, other_set, reduction=reduction, backend=backend)
    return loss if reduction == "mean" else loss.reshape(anchor_labels.shape)


def batch_loss(
    features: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.07,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """Batch loss: all pixels of the batch in one set, each against all others.

    Pass the images and their distorted versions concatenated along the batch. No pixel is its own
    key, so this is SupCon over ``B * N`` pixels, averaged over all anchors with a positive.

    Args:
        features: Unit-normalised, ``[B, N, D]`` or ``[B, D, H, W]``.
        labels: Integer ``[B, N]`` or ``[B, H, W]``.
        temperature: Divides the scores.
        ignore_index: Label of pixels left out of the loss.
        reduction: ``mean`` over all anchors, or ``none``.
        backend: ``auto``, ``plain``, ``tiled`` or ``triton``.

    Returns:
        A scalar, or with ``reduction="none"`` the shape of ``labels``.

    Raises:
        ValueError, TypeError: As in :func:`within_image_loss`.
    """
    (pixels,) = pixel_sets(
        features=(features, labels), temperature=temperature, ignore_index=ignore_index
    )
    bag = Pixels(  # torch 2.6 can't compile dataclasses.replace
        features=pixels.features.flatten(0, 1)[None],
        labels=pixels.labels.flatten()[None],
        temperature=pixels.temperature,
        dtype=pixels.dtype,
    )
    loss = logsumexp_loss(bag, None, reduction=reduction, backend=backend)
    return loss if reduction == "mean" else loss.reshape(labels.shape)
