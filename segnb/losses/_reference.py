"""The formulas as they stand, every pair in memory: the oracle for the other back ends."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segnb.losses._inputs import PixelSet


def masked_logsumexp(
    anchors: PixelSet,
    keys: PixelSet,
    *,
    temperature: float,
    ignore_index: int,
    pairs: str,
    exclude_self: bool,
) -> Tensor:
    """See :func:`segnb.losses._core.masked_logsumexp`."""
    scores = _scores(anchors.features, keys.features, temperature)
    same = anchors.labels[:, :, None] == keys.labels[:, None, :]
    allowed = _both_valid(anchors.labels, keys.labels, ignore_index)
    if pairs == "same":
        allowed = allowed & same
    elif pairs == "other":
        allowed = allowed & ~same
    if exclude_self:
        allowed = allowed & ~torch.eye(same.shape[1], dtype=torch.bool, device=same.device)
    return _logsumexp(scores, allowed)


def official_anchor_losses(
    pixels: PixelSet, images: Tensor, *, temperature: float, ignore_index: int
) -> Tensor:
    """See :func:`segnb.losses._core.official_anchor_losses`."""
    labels = pixels.labels
    scores = _scores(pixels.features, pixels.features, temperature)
    valid = _both_valid(labels, labels, ignore_index)
    same = labels[:, :, None] == labels[:, None, :]
    positive = valid & same
    negative = valid & ~same & (images[:, :, None] == images[:, None, :])
    log_negatives = _logsumexp(scores, negative)
    # log(1 + neg exp(-s)) = softplus(log neg - s), which is 0 without negatives.
    has_negative = log_negatives.detach() != -torch.inf
    margin = torch.where(has_negative, log_negatives, 0.0)[:, :, None] - scores
    terms = torch.where(positive & has_negative[:, :, None], F.softplus(margin, threshold=50), 0.0)
    return terms.sum(dim=2) / positive.sum(dim=2).clamp_min(1)


def positive_scores(anchors: PixelSet, keys: PixelSet) -> Tensor:
    """See :func:`segnb.losses._core.positive_scores`."""
    same = anchors.labels[:, :, None] == keys.labels[:, None, :]
    return torch.where(same, _scores(anchors.features, keys.features, 1.0), 0.0).sum(dim=2)


def _scores(anchors: Tensor, keys: Tensor, temperature: float) -> Tensor:
    with torch.autocast(anchors.device.type, enabled=False):
        return anchors @ keys.transpose(1, 2) / temperature


def _both_valid(anchor_labels: Tensor, key_labels: Tensor, ignore_index: int) -> Tensor:
    return (anchor_labels != ignore_index)[:, :, None] & (key_labels != ignore_index)[:, None, :]


def _logsumexp(scores: Tensor, allowed: Tensor) -> Tensor:
    """Logsumexp over the allowed keys; -inf with zero (not NaN) gradient where there is none."""
    if scores.shape[2] == 0:
        return scores.sum(dim=2) - torch.inf
    some = allowed.any(dim=2)
    masked = torch.where(allowed, scores, -torch.inf)
    safe = torch.where(some[:, :, None], masked, 0.0)
    return torch.where(some, torch.logsumexp(safe, dim=2), -torch.inf)
