"""Pseudo-labels: a trained network's predictions for unlabelled images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from segnb.datasets import IGNORE, WorkingSet


def pseudo_label(
    data: WorkingSet, scores: Iterable[tuple[int, Tensor]], *, threshold: float = 0.0
) -> WorkingSet:
    """The same images with the network's predictions as masks.

    Args:
        data: Unlabelled images; their masks are not read.
        scores: Index and class scores ``[K, h, w]`` of every image, as yielded by
            :func:`segnb.evaluation.score_maps`.
        threshold: Lowest softmax probability of a label; pixels below it are ignored.

    Returns:
        A working set whose masks are predictions; padding stays ignored.
    """
    masks = torch.full_like(data.masks, IGNORE)
    for index, one in scores:
        confidence, label = one.softmax(0).max(0)
        label = label.where(confidence >= threshold, torch.full_like(label, IGNORE))
        height, width = label.shape
        masks[index, :height, :width] = label.to(masks.device, masks.dtype)
    return data.with_masks(masks)
