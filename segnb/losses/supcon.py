"""Supervised contrastive loss (Khosla et al., NeurIPS 2020, eq. 2) over pixels."""

from __future__ import annotations

from torch import Tensor

from segnb.losses.backends import Backend, Reduction, logsumexp_loss
from segnb.losses.pixels import pixel_sets


def supcon_loss(
    features: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.07,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """SupCon: all pairs of a set, with no pixel among its own positives or in its denominator.

        loss_p = -mean over q != p of p's class of log(exp(s_pq) / sum over k != p of exp(s_pk))

    Args:
        features: Unit-normalised: one set ``[N, D]``, or B separate sets ``[B, N, D]`` or
            ``[B, D, H, W]``.
        labels: Integer ``[N]``, ``[B, N]`` or ``[B, H, W]``.
        temperature: Divides the scores.
        ignore_index: Label of pixels left out of the loss.
        reduction: ``mean`` over anchors with a positive, then over sets; ``none`` for a loss of
            each pixel, which the plain form computes, with all pairs in memory.
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
    shape = labels.shape
    if features.dim() == 2 and labels.dim() == 1:
        features, labels = features[None], labels[None]
    (pixels,) = pixel_sets(
        features=(features, labels), temperature=temperature, ignore_index=ignore_index
    )
    loss = logsumexp_loss(pixels, None, reduction=reduction, backend=backend)
    return loss if reduction == "mean" else loss.reshape(shape)
