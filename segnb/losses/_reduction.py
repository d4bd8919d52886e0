"""From losses of anchors to the loss: mean over the anchors that count, then over images."""

from __future__ import annotations

from typing import Literal, get_args, overload

import torch
from torch import Tensor

Reduction = Literal["mean", "none"]


def check_reduction(reduction: str) -> None:
    """Raise ValueError for a reduction there is not."""
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction must be one of {get_args(Reduction)}, got {reduction!r}")


@overload
def flat_weights(weights: Tensor, labels: Tensor) -> Tensor: ...
@overload
def flat_weights(weights: None, labels: Tensor) -> None: ...
def flat_weights(weights: Tensor | None, labels: Tensor) -> Tensor | None:
    """The caller's weights as ``[B, N]``.

    Args:
        weights: Shaped as ``labels``, or None.
        labels: ``[B, N]`` or ``[B, H, W]``, as the caller gave them.

    Raises:
        ValueError: The shapes differ. As many weights in another order would pass silently.
    """
    if weights is None:
        return None
    if weights.shape != labels.shape:
        raise ValueError(
            f"weights of shape {tuple(weights.shape)} do not fit labels of shape "
            f"{tuple(labels.shape)}"
        )
    return weights.flatten(1)


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
        ValueError: The weights are on another device, or (looked at on the CPU alone) one is
            negative or not finite.
    """
    factors = counts.to(dtype)
    if weights is not None:
        if weights.device != counts.device:
            raise ValueError(f"weights are on {weights.device}, features on {counts.device}")
        if (
            weights.device.type == "cpu"
            and not torch.compiler.is_compiling()
            and not bool(((weights >= 0) & torch.isfinite(weights)).all())
        ):
            raise ValueError("weights must be finite and not negative")
        factors = factors * weights.detach().to(dtype)
    if reduction == "none":
        return factors
    total = factors.sum(dim=1, keepdim=True)
    return factors / torch.where(total > 0, total, 1.0) / counts.shape[0]
