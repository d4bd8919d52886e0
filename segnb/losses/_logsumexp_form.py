"""What the paper form and SupCon share: logsumexp over the keys minus the mean positive score."""

from __future__ import annotations

import torch
from torch import Tensor

from segnb.losses import _core
from segnb.losses._inputs import PixelSet, check_temperature, class_counts
from segnb.losses._reduction import Reduction, anchor_weights, check_reduction


def logsumexp_form_loss(
    anchors: PixelSet,
    keys: PixelSet,
    other_keys: PixelSet | None,
    *,
    temperature: float,
    ignore_index: int,
    exclude_self: bool,
    reduction: Reduction,
    weights: Tensor | None,
    backend: _core.Backend,
) -> Tensor:
    """Mean over positives q of ``-log(exp(s_pq) / D_p)`` for every anchor p, reduced.

    ``D_p`` runs over all ``keys`` and over the ``other_keys`` of p's class; the positives are the
    keys of p's class in both. ``exclude_self`` says that anchors and keys are one set in which
    no pixel is its own key.

    Returns:
        A scalar for ``mean``; ``[B, N]`` for ``none``.
    """
    check_temperature(temperature)
    check_reduction(reduction)

    positive_mean, number = _positives(anchors, keys, other_keys, exclude_self, backend)
    positive_score = positive_mean / temperature
    counts = (anchors.labels != ignore_index) & (number > 0)
    factors = anchor_weights(counts, weights, reduction=reduction, dtype=positive_score.dtype)
    denominator = _core.Denominator(
        anchors=anchors,
        keys=keys,
        other_keys=other_keys,
        temperature=temperature,
        ignore_index=ignore_index,
        exclude_self=exclude_self,
    )
    if reduction == "mean":
        return (
            _core.denominator_total(denominator, factors, backend=backend)
            - (factors * positive_score).sum()
        )
    losses = _core.log_denominators(denominator, backend=backend) - positive_score
    return factors * torch.where(counts, losses, 0.0)


def _positives(
    anchors: PixelSet,
    keys: PixelSet,
    other_keys: PixelSet | None,
    exclude_self: bool,
    backend: _core.Backend,
) -> tuple[Tensor, Tensor]:
    """Mean over the positives q of ``f_p . f_q`` and their number, ``[B, N]`` each."""
    scores = _core.positive_scores(anchors, keys, backend=backend)
    number = class_counts(keys.labels, anchors.labels)
    if other_keys is not None:
        scores = scores + _core.positive_scores(anchors, other_keys, backend=backend)
        number = number + class_counts(other_keys.labels, anchors.labels)
    if exclude_self:
        scores = scores - anchors.features.square().sum(dim=2)
        number = number - 1
    return scores / number.clamp_min(1), number
