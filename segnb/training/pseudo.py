"""Pseudo-labels: what a trained network says about images that have no label."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from segnb.datasets import IGNORE, WorkingSet


def pseudo_label(
    data: WorkingSet, scores: Iterable[tuple[int, Tensor]], *, threshold: float = 0.0
) -> WorkingSet:
    """The same images with the network's own predictions as masks.

    Args:
        data: Unlabelled images; their masks are not read.
        scores: Index and class scores ``[K, h, w]`` of every image, as
            :func:`segnb.evaluation.score_maps` yields them.
        threshold: Least softmax probability of a label; pixels below become ignored.

    Returns:
        A working set with masks made of predictions; padding stays ignored.
    """
    masks = torch.full_like(data.masks, IGNORE)
    for index, one in scores:
        confidence, label = one.softmax(0).max(0)
        label = label.where(confidence >= threshold, torch.full_like(label, IGNORE))
        height, width = label.shape
        masks[index, :height, :width] = label.to(masks.device, masks.dtype)
    return data.with_masks(masks)
