"""The losses as people write them: every pair in memory, autograd through it all.

These are what the back ends are timed against, so they follow their sources line by line
instead of borrowing anything from ``segnb.losses``. One set or pair of sets, ``[N, D]``; every
anchor has a positive.
"""

from __future__ import annotations

import torch
from torch import Tensor


def official_cross(
    features1: Tensor,
    features2: Tensor,
    labels1: Tensor,
    labels2: Tensor,
    temperature: float,
    ignore_index: int = 255,
) -> Tensor:
    """The released TensorFlow code of the paper, put into torch."""
    features = torch.cat([features1, features2])
    labels = torch.cat([labels1, labels2])
    images = torch.cat([torch.zeros_like(labels1), torch.ones_like(labels2)])
    valid = (labels != ignore_index).to(features.dtype)
    both_valid = valid[:, None] * valid[None, :]
    same_image = (images[:, None] == images[None, :]).to(features.dtype)
    positive_mask = (labels[:, None] == labels[None, :]).to(features.dtype)
    negative_mask = (1.0 - positive_mask) * same_image * both_valid
    positive_mask = positive_mask * both_valid

    exp_logits = torch.exp(features @ features.T / temperature)
    negative_sum = (exp_logits * negative_mask).sum(dim=1, keepdim=True)
    log_probability = torch.log(exp_logits / (exp_logits + negative_sum))
    weight = positive_mask / positive_mask.sum(dim=1, keepdim=True).clamp_min(1.0)
    return -(log_probability * weight).sum() / valid.sum().clamp_min(1.0)


def paper_within(
    anchors: Tensor, keys: Tensor, anchor_labels: Tensor, key_labels: Tensor, temperature: float
) -> Tensor:
    """Within-image loss of the paper, the way ContrastiveSeg and SupContrast write theirs."""
    logits = anchors @ keys.T / temperature
    positive_mask = (anchor_labels[:, None] == key_labels[None, :]).to(anchors.dtype)
    logits = logits - logits.amax(dim=1, keepdim=True).detach()
    log_probability = logits - torch.log(torch.exp(logits).sum(dim=1, keepdim=True))
    mean = (log_probability * positive_mask).sum(dim=1) / positive_mask.sum(dim=1)
    return -mean.mean()


def paper_within_logsumexp(
    anchors: Tensor, keys: Tensor, anchor_labels: Tensor, key_labels: Tensor, temperature: float
) -> Tensor:
    """The same with ``torch.logsumexp``: the leanest way to write it with every pair in memory."""
    logits = anchors @ keys.T / temperature
    positive_mask = (anchor_labels[:, None] == key_labels[None, :]).to(anchors.dtype)
    log_probability = logits - torch.logsumexp(logits, dim=1, keepdim=True)
    mean = (log_probability * positive_mask).sum(dim=1) / positive_mask.sum(dim=1)
    return -mean.mean()


def paper_cross(
    anchors: Tensor,
    keys: Tensor,
    other_keys: Tensor,
    anchor_labels: Tensor,
    key_labels: Tensor,
    other_labels: Tensor,
    temperature: float,
) -> Tensor:
    """Cross-image loss of the paper: other keys enter the denominator as positives alone."""
    logits = anchors @ torch.cat([keys, other_keys]).T / temperature
    labels = torch.cat([key_labels, other_labels])
    positive_mask = (anchor_labels[:, None] == labels[None, :]).to(anchors.dtype)
    denominator_mask = positive_mask.clone()
    denominator_mask[:, : len(keys)] = 1.0
    logits = logits - logits.amax(dim=1, keepdim=True).detach()
    denominator = (torch.exp(logits) * denominator_mask).sum(dim=1, keepdim=True)
    log_probability = logits - torch.log(denominator)
    mean = (log_probability * positive_mask).sum(dim=1) / positive_mask.sum(dim=1)
    return -mean.mean()


def supcon(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """SupCon as HobbitLong/SupContrast writes it, with one view."""
    logits = features @ features.T / temperature
    logits = logits - logits.amax(dim=1, keepdim=True).detach()
    others = torch.ones_like(logits).fill_diagonal_(0.0)
    positive_mask = (labels[:, None] == labels[None, :]).to(features.dtype) * others
    exp_logits = torch.exp(logits) * others
    log_probability = logits - torch.log(exp_logits.sum(dim=1, keepdim=True))
    mean = (positive_mask * log_probability).sum(dim=1) / positive_mask.sum(dim=1)
    return -mean.mean()
