"""The batch loss over a batch spread over several processes.

Every process gathers all features (in their own type) and labels, and computes the rows of its
own pixels against all keys. Scores are symmetric, so once the processes have exchanged the log
denominators, each has the complete gradient of its own pixels, including what they get as keys of
other processes' anchors. No gradient is sent.

The official losses and the paper's within and cross losses are per pair of images: there each
process only needs the mean over its own images.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from segnb.losses.backends import note
from segnb.losses.pixels import (
    IGNORED,
    Pixels,
    class_counts,
    mean_factors,
    once_differentiable,
    pixel_sets,
)
from segnb.losses.tiled import operators as tiled
from segnb.losses.tiled import passes
from segnb.losses.tiled.passes import Band


def batch_loss(
    features: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.07,
    ignore_index: int = 255,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """:func:`segnb.losses.paper.batch_loss` over the pixels of all processes as one set.

    This is SupCon over the whole global batch. All processes must call it with the same shapes.

    Args:
        features: This process's features, unit-normalised, ``[B, N, D]`` or ``[B, D, H, W]``.
        labels: Integer ``[B, N]`` or ``[B, H, W]``.
        temperature: Divides the scores.
        ignore_index: Label of pixels left out of the loss.
        group: The processes; None for all.

    Returns:
        The loss of the global batch, the same scalar on every process. Its gradient is the
        global one times the number of processes, which cancels the mean that
        DistributedDataParallel takes.

    Raises:
        ValueError, TypeError: As in :func:`segnb.losses.paper.within_image_loss`.
    """
    (pixels,) = pixel_sets(
        features=(features, labels), temperature=temperature, ignore_index=ignore_index
    )
    note("tiled")
    loss: Tensor = _BatchLoss.apply(pixels.features, pixels, group)  # type: ignore[no-untyped-call]
    return loss


class _BatchLoss(torch.autograd.Function):
    """One set of pixels over several processes; the forward pass computes the gradient too."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, pixels: Pixels, group: dist.ProcessGroup | None
    ) -> Tensor:
        temperature, labels = pixels.temperature, pixels.labels.flatten()
        with torch.autocast(features.device.type, enabled=False):
            own_features = features.flatten(0, 1).to(pixels.dtype)
            everyone = _gather_own_first(own_features, group).to(features.dtype)
            all_labels = _gather_own_first(labels, group)
            number = len(labels)
            own = slice(0, number)

            positives = class_counts(all_labels, all_labels) - 1
            counts = (all_labels != IGNORED) & (positives > 0)
            factors = mean_factors(counts[None], features.dtype)[0]
            # The sum of c_p f_p / |P_p| over a class is the gradient its pixels get as positives.
            shares = (factors / positives.clamp_min(1))[:, None]
            sums, shared = (
                tiled.class_sums(values[None], all_labels[None], labels[None])[0]
                for values in (everyone, shares * everyone)
            )
            mine = everyone[own]
            positive_scores = (mine * (sums - mine)).sum(dim=1) / positives[own].clamp_min(1)
            positive_gradient = shares[own] * (sums - mine) + shared - shares[own] * mine

            logs, gradient = _denominators(
                everyone, all_labels, factors, number, temperature, group
            )
            losses = torch.where(counts[own], logs - positive_scores / temperature, 0.0)
            loss = (factors[own] * losses).sum()
            dist.all_reduce(loss, group=group)
            gradient = (gradient - positive_gradient / temperature) * dist.get_world_size(group)
            ctx.save_for_backward(gradient.view_as(features))
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        once_differentiable()
        return (gradients[0] * ctx.saved_tensors[0], None, None)


def _denominators(
    everyone: Tensor,
    labels: Tensor,
    factors: Tensor,
    number: int,
    temperature: float,
    group: dist.ProcessGroup | None,
) -> tuple[Tensor, Tensor]:
    """Log denominators of the first ``number`` pixels, and their complete gradient."""
    theirs = torch.arange(len(labels), device=labels.device) >= number
    own = slice(0, number)
    anchors = tiled.sort_pixels(everyone[own], labels[own], temperature)
    keys = tiled.sort_pixels(everyone, labels, temperature, theirs)
    bands = _bands(anchors.labels, keys.labels, everyone.element_size())
    (logs,) = passes.band_pass(
        anchors.features,
        keys.features,
        bands,
        unshifted=passes.fits_unshifted(anchors.features, keys.features),
    )
    own_logs = anchors.put_back(logs, -math.inf)
    all_logs = _gather_own_first(own_logs, group)
    gradient = passes.band_products(
        anchors.features,
        keys.features,
        (factors[own][anchors.order], logs),
        (factors[keys.order], all_logs[keys.order]),
        bands,
    )
    return own_logs * math.log(2), anchors.gradient(gradient)


def _bands(own_labels: Tensor, labels: Tensor, size: int) -> list[Band]:
    """All pairs except a pixel with itself; the process's own pixels are the first keys."""
    if tiled.knows_labels(labels):
        return list(passes.bands_without_self(len(own_labels), len(labels), size))
    rows_of = torch.arange(len(own_labels), device=labels.device)
    cols_of = torch.arange(len(labels), device=labels.device)

    def allowed(rows: slice, cols: slice) -> Tensor:
        both = (own_labels[rows, None] != IGNORED) & (labels[None, cols] != IGNORED)
        return both & (rows_of[rows, None] != cols_of[None, cols])

    return list(passes.masked_bands(len(own_labels), len(labels), size, allowed))


def _gather_own_first(values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The values of all processes: this one's first, then the others' by rank."""
    values = values.contiguous()
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, values, group=group)
    parts.pop(dist.get_rank(group))
    return torch.cat([values, *parts])
