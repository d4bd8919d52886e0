"""The formulas as written, with every pair in memory: the reference for the other back ends.

Comments give each step's shape without the batch: n anchors, m keys, D channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segnb.losses.pixels import IGNORED, Pixels, joined, mean_factors


def logsumexp_losses(
    anchors: Pixels, keys: Pixels | None, other_keys: Pixels | None
) -> tuple[Tensor, Tensor]:
    """``loss_p = log sum over allowed keys k of exp(s_pk) - mean over positives q of s_pq``.

    Args:
        anchors: n pixels.
        keys: Keys for every anchor; None takes the anchors, without the pixel itself.
        other_keys: Keys only for anchors of their class.

    Returns:
        Every anchor's loss, 0 for anchors that do not count, and which count: ``[B, n]`` each.
    """
    everyone = joined(anchors if keys is None else keys, other_keys)
    scores = _scores(anchors, everyone)  # [n, m]
    allowed = _valid(anchors, everyone)  # [n, m]
    positive = allowed & (anchors.labels[:, :, None] == everyone.labels[:, None, :])  # [n, m]
    if keys is None:
        itself = torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)  # [n, n]
        allowed, positive = allowed & ~itself, positive & ~itself
    elif other_keys is not None:
        first = torch.arange(scores.shape[2], device=scores.device) < keys.labels.shape[1]  # [m]
        allowed = positive | (allowed & first)

    log_denominator = _logsumexp(scores, allowed)  # [n]
    counts = positive.any(dim=2)  # [n]
    number = positive.sum(dim=2).clamp_min(1)  # [n]
    mean_score = torch.where(positive, scores, 0.0).sum(dim=2) / number  # [n]
    return torch.where(counts, log_denominator - mean_score, 0.0), counts


def official_losses(pixels: Pixels, images: Tensor) -> tuple[Tensor, Tensor]:
    """``loss_p = mean over positives q of log(1 + neg_p / exp(s_pq))``.

    Args:
        pixels: n pixels, both anchors and keys.
        images: int64 ``[B, n]``: which image of the pair a pixel belongs to.

    Returns:
        Every anchor's loss, 0 for ignored ones, and which count: ``[B, n]`` each.
    """
    scores = _scores(pixels, pixels)  # [n, n]
    valid = _valid(pixels, pixels)  # [n, n]
    same_class = pixels.labels[:, :, None] == pixels.labels[:, None, :]  # [n, n]
    same_image = images[:, :, None] == images[:, None, :]  # [n, n]
    positive = valid & same_class  # [n, n]
    log_negatives = _logsumexp(scores, valid & same_image & ~same_class)  # [n]

    # log(1 + neg / exp(s)) = softplus(log neg - s), which is 0 without negatives.
    some = (log_negatives.detach() != -torch.inf)[:, :, None]  # [n, 1]
    margin = torch.where(some, log_negatives[:, :, None], 0.0) - scores  # [n, n]
    terms = torch.where(positive & some, F.softplus(margin, threshold=50), 0.0)  # [n, n]
    losses = terms.sum(dim=2) / positive.sum(dim=2).clamp_min(1)  # [n]
    return losses, pixels.labels != IGNORED


def logsumexp_form(anchors: Pixels, keys: Pixels | None, other_keys: Pixels | None) -> Tensor:
    """See :class:`segnb.losses.backends.LossBackend`."""
    return _mean(*logsumexp_losses(anchors, keys, other_keys))


def official_form(pixels: Pixels, images: Tensor) -> Tensor:
    """See :class:`segnb.losses.backends.LossBackend`."""
    return _mean(*official_losses(pixels, images))


def _mean(losses: Tensor, counts: Tensor) -> Tensor:
    return (mean_factors(counts, losses.dtype) * losses).sum()


def _scores(anchors: Pixels, keys: Pixels) -> Tensor:
    with torch.autocast(anchors.features.device.type, enabled=False):
        return anchors.features @ keys.features.transpose(1, 2) / anchors.temperature  # [n, m]


def _valid(anchors: Pixels, keys: Pixels) -> Tensor:
    return (anchors.labels != IGNORED)[:, :, None] & (keys.labels != IGNORED)[:, None, :]  # [n, m]


def _logsumexp(scores: Tensor, allowed: Tensor) -> Tensor:
    """Logsumexp over the allowed keys; -inf with zero (not NaN) gradient where there is none."""
    some = allowed.any(dim=2)  # [n]
    masked = torch.where(allowed, scores, -torch.inf)  # [n, m]
    safe = torch.where(some[:, :, None], masked, 0.0)  # [n, m]
    return torch.where(some, torch.logsumexp(safe, dim=2), -torch.inf)  # [n]
