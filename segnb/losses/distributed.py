"""The batch loss over a batch that is spread over several processes.

Every process gathers all features (in their own type) and labels, and computes the rows of its
own pixels against all keys. Scores are symmetric: with three floats a pixel exchanged (the log
denominator, the factor and the positive score), each process has the complete gradient of its own
pixels, those it gets as keys of other processes' anchors included, and no gradient travels.

The official losses and the paper's within and cross losses are per pair of images: there each
process's mean over its own images is all that is needed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from segnb.losses import _tiled, _tiles
from segnb.losses._differentiation import once_differentiable
from segnb.losses._inputs import check_temperature, class_counts, pixel_set
from segnb.losses._reduction import anchor_weights, flat_weights
from segnb.losses._tiles import Band


def batch_loss(
    features: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.07,
    ignore_index: int = 255,
    normalize: bool = False,
    weights: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """:func:`segnb.losses.paper.batch_loss` over the pixels of all processes, as one bag.

    Which is SupCon over the whole global batch. All processes must call it with the same shapes.

    Args:
        features: This process's, unit-normalised, ``[B, N, D]`` or ``[B, D, H, W]``.
        labels: Integer ``[B, N]`` or ``[B, H, W]``.
        temperature: Divides the scores.
        ignore_index: Label of pixels that do not take part.
        normalize: Project the features to unit length first.
        weights: Factor of each anchor's loss, shaped as ``labels``.
        group: The processes; None for all.

    Returns:
        The loss of the global batch, the same scalar on every process. Its gradient is the
        global one times the number of processes, which cancels the mean that
        DistributedDataParallel takes.

    Raises:
        ValueError: As in :func:`segnb.losses.paper.within_image_loss`.
        TypeError: Types that do not fit.
    """
    check_temperature(temperature)
    pixels = pixel_set(features, labels, normalize=normalize)
    flat = flat_weights(weights, labels)
    own_weights = torch.ones_like(pixels.labels) if flat is None else flat.detach()
    loss: Tensor = _BatchLoss.apply(  # type: ignore[no-untyped-call]
        pixels.features.flatten(0, 1),
        pixels.labels.flatten(),
        own_weights.to(pixels.features.dtype).flatten(),
        pixels.dtype,
        temperature,
        ignore_index,
        group,
    )
    return loss


class _BatchLoss(torch.autograd.Function):
    """One bag of pixels over several processes; the gradient is made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        labels: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
        temperature: float,
        ignore_index: int,
        group: dist.ProcessGroup | None,
    ) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            everyone = _gather_own_first(features.to(dtype), group).to(features.dtype)
            all_labels = _gather_own_first(labels, group)
            all_weights = _gather_own_first(weights, group)
            number = len(labels)
            own = slice(0, number)

            positives = class_counts(all_labels, all_labels) - 1
            counts = (all_labels != ignore_index) & (positives > 0)
            factors = anchor_weights(
                counts[None], all_weights[None], reduction="mean", dtype=features.dtype
            )[0]
            # c_p f_p / |P_p| summed over a class gives what its pixels get as positives.
            shares = (factors / positives.clamp_min(1))[:, None]
            sums, shared = (
                _tiled.class_sums(values[None], all_labels[None], labels[None])[0]
                for values in (everyone, shares * everyone)
            )
            mine = everyone[own]
            positive_scores = (mine * (sums - mine)).sum(dim=1) / positives[own].clamp_min(1)
            positive_gradient = shares[own] * (sums - mine) + shared - shares[own] * mine

            logs, gradient = _denominators(
                everyone, all_labels, factors, number, temperature, ignore_index, group
            )
            losses = torch.where(counts[own], logs - positive_scores / temperature, 0.0)
            loss = (factors[own] * losses).sum()
            dist.all_reduce(loss, group=group)
            ctx.save_for_backward(
                (gradient - positive_gradient / temperature) * dist.get_world_size(group)
            )
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        once_differentiable()
        return (gradients[0] * ctx.saved_tensors[0], *(None,) * 6)


def _denominators(
    everyone: Tensor,
    labels: Tensor,
    factors: Tensor,
    number: int,
    temperature: float,
    ignore_index: int,
    group: dist.ProcessGroup | None,
) -> tuple[Tensor, Tensor]:
    """Log denominators of the first ``number`` pixels, and their complete gradient."""
    theirs = torch.arange(len(labels), device=labels.device) >= number
    own = slice(0, number)
    anchors = _tiled.sort_pixels(everyone[own], labels[own], temperature, ignore_index, None)
    keys = _tiled.sort_pixels(everyone, labels, temperature, ignore_index, theirs)
    bands = list(_bands(anchors.labels, keys.labels, ignore_index, everyone.element_size()))
    logs, _, _ = _tiles.band_pass(
        anchors.features,
        keys.features,
        bands,
        unshifted=_tiles.fits_unshifted(anchors.features, keys.features),
    )
    own_logs = _tiled.put_back(logs, anchors.order, number, -math.inf)
    all_logs = _gather_own_first(own_logs, group)
    gradient = _tiles.band_products(
        anchors.features,
        keys.features,
        (factors[own][anchors.order], logs),
        (factors[keys.order], all_logs[keys.order]),
        bands,
    )
    gradient.mul_(_tiled.gradient_scale(temperature))
    return own_logs * math.log(2), _tiled.put_back(gradient, anchors.order, number)


def _bands(own_labels: Tensor, labels: Tensor, ignore_index: int, size: int) -> list[Band]:
    """All pairs but a pixel with itself; the process's own pixels come first among the keys."""
    if _tiled.knows_labels(labels):
        return list(_tiles.bands_without_self(len(own_labels), len(labels), size))
    rows_of = torch.arange(len(own_labels), device=labels.device)
    cols_of = torch.arange(len(labels), device=labels.device)

    def allowed(rows: slice, cols: slice) -> Tensor:
        both = (own_labels[rows, None] != ignore_index) & (labels[None, cols] != ignore_index)
        return both & (rows_of[rows, None] != cols_of[None, cols])

    return list(_tiles.masked_bands(len(own_labels), len(labels), size, allowed))


def _gather_own_first(values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Everyone's values, this process's first, then the others' by rank."""
    values = values.contiguous()
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, values, group=group)
    parts.pop(dist.get_rank(group))
    return torch.cat([values, *parts])
