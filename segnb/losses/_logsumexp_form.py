"""What the paper form and SupCon share: logsumexp over the keys minus the mean positive score."""

from __future__ import annotations

import torch
from torch import Tensor

from segnb.losses import _core
from segnb.losses._inputs import PixelSet, check_temperature, compute_dtype
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

    denominator = _core.masked_logsumexp(
        anchors.features,
        keys.features,
        anchors.labels,
        keys.labels,
        temperature=temperature,
        ignore_index=ignore_index,
        pairs="all",
        exclude_self=exclude_self,
        backend=backend,
    )
    if other_keys is not None:
        same_class = _core.masked_logsumexp(
            anchors.features,
            other_keys.features,
            anchors.labels,
            other_keys.labels,
            temperature=temperature,
            ignore_index=ignore_index,
            pairs="same",
            exclude_self=False,
            backend=backend,
        )
        denominator = _logaddexp(denominator, same_class)

    positive_mean, number = _positives(anchors, keys, other_keys, exclude_self, backend)
    counts = (anchors.labels != ignore_index) & (number > 0)
    losses = torch.where(counts, denominator - positive_mean / temperature, 0.0)
    factors = anchor_weights(counts, weights, reduction=reduction, dtype=losses.dtype)
    return (factors * losses).sum() if reduction == "mean" else factors * losses


def _positives(
    anchors: PixelSet,
    keys: PixelSet,
    other_keys: PixelSet | None,
    exclude_self: bool,
    backend: _core.Backend,
) -> tuple[Tensor, Tensor]:
    """Mean over the positives q of ``f_p . f_q`` and their number, ``[B, N]`` each.

    The mean is linear in f_q: the anchor's product with its class's sum, no pairs needed.
    """
    wide = anchors.features.to(compute_dtype(anchors.features.dtype))
    sums = torch.zeros_like(wide)
    number = torch.zeros_like(anchors.labels)
    for key_set in (keys, other_keys):
        if key_set is not None:
            sums = sums + _core.class_sums(
                key_set.features, key_set.labels, anchors.labels, backend=backend
            )
            number = number + _count(key_set.labels, anchors.labels)
    if exclude_self:
        sums = sums - wide
        number = number - 1
    return (wide * sums).sum(dim=2) / number.clamp_min(1), number


def _count(labels: Tensor, query_labels: Tensor) -> Tensor:
    """How often each query's label occurs among the labels, ``[B, N]``."""
    ordered = labels.sort(dim=1).values
    query_labels = query_labels.contiguous()
    first = torch.searchsorted(ordered, query_labels, right=False)
    return torch.searchsorted(ordered, query_labels, right=True) - first


def _logaddexp(first: Tensor, second: Tensor) -> Tensor:
    """``torch.logaddexp`` with a zero, not NaN, gradient where both are -inf."""
    neither = (first == -torch.inf) & (second == -torch.inf)
    result = torch.logaddexp(first.masked_fill(neither, 0.0), second.masked_fill(neither, 0.0))
    return result.masked_fill(neither, -torch.inf)
