"""From losses of anchors to the loss: mean over the anchors that count, then over images."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Reduction = Literal["mean", "none"]


def check_reduction(reduction: str) -> None:
    """Raise ValueError for a reduction there is not."""
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction must be one of {get_args(Reduction)}, got {reduction!r}")


def anchor_weights(
    counts: Tensor, weights: Tensor | None, *, reduction: Reduction, dtype: torch.dtype
) -> Tensor:
    """The factor of each anchor's loss in the result, ``[B, N]``.

    With ``mean``, the loss is the sum of factor times anchor loss: weighted mean over the anchors
    that count, then mean over the images, where an image without such an anchor counts as 0.
    With ``none``, each anchor's loss is multiplied by its weight, and by 0 where it does not count.

    Args:
        counts: bool ``[B, N]``: the anchor is not ignored and has a positive.
        weights: ``[B, N]``, not negative, or None for equal weights.
        reduction: ``mean`` or ``none``.
        dtype: Type of the factors.

    Raises:
        ValueError: The weights' shape or device does not fit, or (looked at on the CPU alone)
            a weight is negative or not finite.
    """
    factors = counts.to(dtype)
    if weights is not None:
        if weights.numel() != counts.numel() or weights.shape[0] != counts.shape[0]:
            raise ValueError(
                f"weights of shape {tuple(weights.shape)} do not fit {tuple(counts.shape)} pixels"
            )
        if weights.device != counts.device:
            raise ValueError(f"weights are on {weights.device}, features on {counts.device}")
        if (
            weights.device.type == "cpu"
            and not torch.compiler.is_compiling()
            and not bool(((weights >= 0) & torch.isfinite(weights)).all())
        ):
            raise ValueError("weights must be finite and not negative")
        factors = factors * weights.detach().reshape(counts.shape).to(dtype)
    if reduction == "none":
        return factors
    total = factors.sum(dim=1, keepdim=True)
    return factors / torch.where(total > 0, total, 1.0) / counts.shape[0]
