"""The ``tiled`` back end as the losses call it: custom operators around the passes over tiles.

The passes are in :mod:`segnb.losses.tiled.passes`. Every operator gives a scalar and computes its
gradients in the same pass, while it has the tiles.

On the CPU the pixels are sorted by class and tiles that are not needed are skipped. On other
devices the host would have to wait for the labels: there all tiles are computed and masked.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segnb.device import is_intel_processor
from segnb.losses.pixels import (
    IGNORED,
    Pixels,
    class_counts,
    joined,
    mean_factors,
    once_differentiable,
)
from segnb.losses.tiled import passes
from segnb.losses.tiled.passes import Band, Tile

#: Sorted pixels that one product sums by class, where the host does not know the classes.
CLASS_SUM_ROWS = 128
#: Most feature values summed at once there, over images: bounds the memory, keeps the calls few.
CLASS_SUM_VALUES = 1 << 24
#: Largest error of a product of unit vectors that still counts as float32.
FLOAT32_ERROR = 1e-6

#: Largest set of pixels that oneDNN multiplies. At 33,282 pixels its kernels took 290 MiB on an
#: AMD processor, at 100,000 pixels and 200 classes 680 MiB, for products a tenth faster.
ONEDNN_PIXELS = 1 << 15


def logsumexp_form(anchors: Pixels, keys: Pixels | None, other_keys: Pixels | None) -> Tensor:
    """See :class:`segnb.losses.backends.LossBackend`; computes the gradient too."""
    everyone = joined(anchors if keys is None else keys, other_keys)
    factors, positive = positive_term(anchors, everyone, with_self=keys is not None)
    wanted = _wanted(anchors.features, everyone.features)
    features, labels, tau = anchors.features, anchors.labels, anchors.temperature
    total: Tensor
    if keys is None:
        total = _self_logsumexp_total(features, labels, factors, tau, wanted)[0]
    else:
        split = keys.labels.shape[1]
        total = _logsumexp_total(
            features, everyone.features, labels, everyone.labels, factors, tau, split, wanted
        )[0]
    return total - positive


def official_form(pixels: Pixels, images: Tensor) -> Tensor:
    """See :class:`segnb.losses.backends.LossBackend`; computes the gradient too."""
    # Every pixel that is not ignored is its own positive.
    factors = mean_factors(pixels.labels != IGNORED, pixels.features.dtype)
    features, wanted = pixels.features, _wanted(pixels.features)
    total: Tensor = _official_total(
        features, pixels.labels, images, factors, pixels.temperature, wanted
    )[0]
    return total


def positive_term(anchors: Pixels, keys: Pixels, *, with_self: bool) -> tuple[Tensor, Tensor]:
    """The linear half of the logsumexp form, which needs no pairs.

    Args:
        anchors: The anchors.
        keys: All keys that can be positives.
        with_self: False where the keys are the anchors: no pixel is its own positive.

    Returns:
        The anchors' factors in the mean, ``[B, N]``, and the sum over anchors of the factor times
        the positives' mean score, a scalar.
    """
    number = class_counts(keys.labels, anchors.labels)
    if not with_self:
        number = number - 1
    factors = mean_factors((anchors.labels != IGNORED) & (number > 0), anchors.features.dtype)
    shares = factors / number.clamp_min(1) / anchors.temperature
    total: Tensor = _positive_total(
        anchors.features,
        keys.features,
        anchors.labels,
        keys.labels,
        shares,
        _wanted(anchors.features, keys.features),
    )[0]
    if not with_self:
        total = total - (shares * anchors.features.square().sum(dim=2)).sum()
    return factors, total


# ------------------------------------------------------------------------------- sorted pixels


def knows_labels(labels: Tensor) -> bool:
    """Whether the host can look at labels without waiting for a device."""
    return labels.device.type == "cpu"


@dataclass(frozen=True)
class SortedPixels:
    """Pixels in an order that puts each class together; on the CPU without ignored pixels.

    Attributes:
        features: ``[n, D]``, scaled so that the product of two is a score in units of log 2.
        labels: ``[n]``.
        order: ``[n]``: the index of each pixel before sorting.
        number: Number of pixels before sorting.
        scale: Scale of the features.
    """

    features: Tensor
    labels: Tensor
    order: Tensor
    number: int
    scale: float

    def put_back(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """Values in the order before sorting; pixels left out get ``fill``."""
        shape = (self.number, *values.shape[1:])
        complete = len(self.order) == self.number
        result = values.new_empty(shape) if complete else values.new_full(shape, fill)
        return result.index_copy_(0, self.order, values)

    def gradient(self, products: Tensor) -> Tensor:
        """The gradient from products with scaled features, in units of log 2; changes them."""
        return self.put_back(products.mul_(self.scale * math.log(2)))


def sort_pixels(
    features: Tensor, labels: Tensor, temperature: float, by: Tensor | None = None
) -> SortedPixels:
    """Scale the features; on the CPU drop ignored pixels and sort by ``by``, then by label."""
    number, scale = len(labels), math.sqrt(math.log2(math.e) / temperature)
    if not knows_labels(labels):
        order = torch.arange(number, device=labels.device)
        return SortedPixels(features * scale, labels, order, number, scale)
    order = torch.argsort(labels, stable=True)
    if by is not None:
        order = order[torch.argsort(by[order], stable=True)]
    order = order[labels[order] != IGNORED]
    return SortedPixels(features[order].mul_(scale), labels[order], order, number, scale)


def _each_image(
    compute: Callable[..., list[Tensor]], features: Tensor, *tensors: Tensor | None, **options: Any
) -> list[Tensor]:
    """What a function computes for each image of the batch, stacked; without autocast."""
    with fast_products(features):
        results = [
            compute(features[b], *(None if t is None else t[b] for t in tensors), **options)
            for b in range(len(features))
        ]
    # A single image needs no copy.
    return [c[0][None] if len(c) == 1 else torch.stack(c) for c in zip(*results, strict=True)]


# -------------------------------------------------------------- logsumexp, two sets of pixels


def _bands(anchors: SortedPixels, keys: SortedPixels, split: int) -> Iterator[Band]:
    """Keys before the split serve every anchor, the others only anchors of their class."""
    size = anchors.features.element_size()
    if knows_labels(anchors.labels):
        if not len(anchors.labels) or not len(keys.labels):
            return iter(())
        # Sorting keeps the keys before the split in front.
        border = int((keys.order < split).sum())
        return passes.bands_by_class(
            passes.class_runs(anchors.labels),
            passes.class_runs(keys.labels[:border]),
            passes.class_runs(keys.labels[border:], border),
            size,
        )
    before_split = torch.arange(len(keys.labels), device=keys.labels.device) < split

    def allowed(rows: slice, cols: slice) -> Tensor:
        a, k = anchors.labels[rows, None], keys.labels[None, cols]
        return ((a == k) | before_split[None, cols]) & (a != IGNORED) & (k != IGNORED)

    return passes.masked_bands(len(anchors.labels), len(keys.labels), size, allowed)


def _logsumexp_image(
    anchors: Tensor,
    keys: Tensor,
    anchor_labels: Tensor,
    key_labels: Tensor,
    factors: Tensor | None,
    *,
    temperature: float,
    split: int,
) -> list[Tensor]:
    """Logsumexp ``[N]`` and, given its upstream gradient, the gradients of both sets."""
    behind_split = torch.arange(len(keys), device=keys.device) >= split
    a = sort_pixels(anchors, anchor_labels, temperature)
    k = sort_pixels(keys, key_labels, temperature, behind_split)
    logs, *products = passes.band_pass(
        a.features,
        k.features,
        _bands(a, k, split),
        unshifted=passes.fits_unshifted(a.features, k.features),
        factors=None if factors is None else factors[a.order],
    )
    gradients = [s.gradient(product) for s, product in zip((a, k), products, strict=False)]
    return [a.put_back(logs * math.log(2), -torch.inf), *gradients]


@torch.library.custom_op("segnb::logsumexp_total", mutates_args=())
def _logsumexp_total(
    anchors: Tensor,
    keys: Tensor,
    anchor_labels: Tensor,
    key_labels: Tensor,
    factors: Tensor,
    temperature: float,
    split: int,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    logs, *gradients = _each_image(
        _logsumexp_image,
        anchors,
        keys,
        anchor_labels,
        key_labels,
        factors if with_gradient else None,
        temperature=temperature,
        split=split,
    )
    to_anchors, to_keys = gradients or (anchors.new_empty(0), keys.new_empty(0))
    return _weighted_sum(logs, factors), to_anchors, to_keys


# ----------------------------------------------------- logsumexp, one set, no pixel with itself


def _self_image(
    features: Tensor, labels: Tensor, factors: Tensor | None, *, temperature: float
) -> list[Tensor]:
    """As :func:`_logsumexp_image` for one set whose pixels are not their own keys."""
    pixels = sort_pixels(features, labels, temperature)
    tiles = _self_tiles(pixels)
    unshifted = passes.fits_unshifted(pixels.features, pixels.features)
    logs = passes.log_row_sums(pixels.features, tiles, unshifted=unshifted)
    results = [pixels.put_back(logs * math.log(2), -torch.inf)]
    if factors is not None:
        products = torch.zeros_like(pixels.features)
        passes.add_products(
            products, pixels.features, factors[pixels.order], logs, tiles, unshifted=unshifted
        )
        results.append(pixels.gradient(products))
    return results


def _self_tiles(pixels: SortedPixels) -> list[Tile]:
    tiles = passes.tiles_of_all_pairs(len(pixels.labels), diagonal=False)
    if knows_labels(pixels.labels):
        return list(tiles)
    index = torch.arange(len(pixels.labels), device=pixels.labels.device)

    def allowed(rows: slice, cols: slice) -> Tensor:
        a, k = pixels.labels[rows, None], pixels.labels[None, cols]
        return (a != IGNORED) & (k != IGNORED) & (index[rows, None] != index[cols])

    return passes.masked(tiles, allowed)


@torch.library.custom_op("segnb::self_logsumexp_total", mutates_args=())
def _self_logsumexp_total(
    features: Tensor, labels: Tensor, factors: Tensor, temperature: float, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    given = factors if with_gradient else None
    logs, *gradients = _each_image(_self_image, features, labels, given, temperature=temperature)
    return _weighted_sum(logs, factors), gradients[0] if gradients else features.new_empty(0)


# ------------------------------------------------------------------------------- official form


#: Ranges of sorted pixels that are each other's positives (up to the tiles' masks), and the tiles
#: of their pairs, counted over the ranges side by side.
_Group = tuple[list[slice], list[Tile]]


def _official_tiles(pixels: SortedPixels, images: Tensor) -> tuple[list[Tile], list[_Group]]:
    """Tiles of negatives, and of positives in groups."""
    labels = pixels.labels
    if knows_labels(labels):
        negatives: list[Tile] = []
        ranges: dict[int, list[slice]] = {}
        for image in passes.class_runs(images):
            runs = passes.class_runs(labels[image.start : image.stop], image.start)
            negatives += passes.tiles_of_other_classes(runs)
            for run in runs:
                ranges.setdefault(run.label, []).append(slice(run.start, run.stop))
        return negatives, [(parts, _positive_tiles(parts)) for parts in ranges.values()]

    def valid(rows: slice, cols: slice) -> Tensor:
        return (labels[rows, None] != IGNORED) & (labels[None, cols] != IGNORED)

    def positive(rows: slice, cols: slice) -> Tensor:
        return valid(rows, cols) & (labels[rows, None] == labels[None, cols])

    def negative(rows: slice, cols: slice) -> Tensor:
        same_image = images[rows, None] == images[None, cols]
        return valid(rows, cols) & (labels[rows, None] != labels[None, cols]) & same_image

    everything = [slice(0, len(labels))]
    all_pairs = passes.tiles_of_all_pairs(len(labels), diagonal=True)
    masked_positives = passes.masked(_positive_tiles(everything), positive)
    return passes.masked(all_pairs, negative), [(everything, masked_positives)]


def _positive_tiles(parts: list[slice]) -> list[Tile]:
    size = sum(part.stop - part.start for part in parts)
    tiles = passes.tiles_of_all_pairs(
        size, passes.POSITIVE_ROWS, passes.POSITIVE_COLUMNS, diagonal=True
    )
    return list(tiles)


def _official_image(
    features: Tensor,
    labels: Tensor,
    images: Tensor,
    factors: Tensor,
    *,
    temperature: float,
    with_gradient: bool,
) -> list[Tensor]:
    """Losses ``[N]`` and, if wanted, the features' gradient; ``factors`` weigh the losses.

    Three passes: sums over negatives; positives, with their gradient; the negatives' gradient.
    """
    pixels = sort_pixels(features, labels, temperature, images)
    features = pixels.features
    unshifted = passes.fits_unshifted(features, features)
    negatives, groups = _official_tiles(pixels, images[pixels.order])
    log_negatives = passes.log_row_sums(features, negatives, unshifted=unshifted)

    number = class_counts(pixels.labels, pixels.labels)
    per_positive = factors[pixels.order] / number
    losses, sigmas = torch.zeros_like(log_negatives), torch.zeros_like(log_negatives)
    products = torch.zeros_like(features) if with_gradient else None
    for parts, tiles in groups:
        group, logs, weights = (_pick(v, parts) for v in (features, log_negatives, per_positive))
        found = torch.zeros_like(group) if with_gradient else None
        sums = passes.positive_sums(group, logs, tiles, weights, found, unshifted=unshifted)
        _put(losses, parts, sums[0])
        _put(sigmas, parts, sums[1])
        if products is not None and found is not None:
            _put(products, parts, found)

    results = [pixels.put_back(losses / number)]
    if products is not None:
        passes.add_products(
            products, features, per_positive * sigmas, log_negatives, negatives, unshifted=unshifted
        )
        results.append(pixels.gradient(products))
    return results


def _pick(values: Tensor, parts: list[slice]) -> Tensor:
    return values[parts[0]] if len(parts) == 1 else torch.cat([values[part] for part in parts])


def _put(values: Tensor, parts: list[slice], picked: Tensor) -> None:
    """The reverse of :func:`_pick`."""
    sizes = [part.stop - part.start for part in parts]
    for part, some in zip(parts, torch.split(picked, sizes), strict=True):
        values[part] = some


@torch.library.custom_op("segnb::official_total", mutates_args=())
def _official_total(
    features: Tensor,
    labels: Tensor,
    images: Tensor,
    factors: Tensor,
    temperature: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    losses, *gradients = _each_image(
        _official_image,
        features,
        labels,
        images,
        factors,
        temperature=temperature,
        with_gradient=with_gradient,
    )
    return _weighted_sum(losses, factors), gradients[0] if gradients else features.new_empty(0)


# --------------------------------------------------------------------------------- positive term


@torch.library.custom_op("segnb::positive_total", mutates_args=())
def _positive_total(
    anchors: Tensor,
    keys: Tensor,
    anchor_labels: Tensor,
    key_labels: Tensor,
    shares: Tensor,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum over anchors p of share times ``f_p . (sum of the keys of p's class)``."""
    to_anchors = class_sums(keys, key_labels, anchor_labels).mul_(shares[:, :, None])
    total = (anchors * to_anchors).sum(dim=2).sum()
    if not with_gradient:
        return total, anchors.new_empty(0), keys.new_empty(0)
    return total, to_anchors, class_sums(anchors * shares[:, :, None], anchor_labels, key_labels)


def class_sums(values: Tensor, labels: Tensor, query_labels: Tensor) -> Tensor:
    """For each query the sum of the values of its class.

    Args:
        values: ``[B, M, D]``.
        labels: int64 ``[B, M]``.
        query_labels: int64 ``[B, N]``.

    Returns:
        ``[B, N, D]``.
    """
    if not knows_labels(labels):
        images = max(1, CLASS_SUM_VALUES // max(values[0].numel(), 1))
        with fast_products(values):
            parts = [
                _sums_of_sorted(values[some], labels[some], query_labels[some])
                for some in passes.chunks(0, len(values), images)
            ]
        return torch.cat(parts)
    return torch.stack(
        [_sums_of_known(*one) for one in zip(values, labels, query_labels, strict=True)]
    )


def _sums_of_sorted(values: Tensor, labels: Tensor, query_labels: Tensor) -> Tensor:
    """:func:`class_sums` without waiting for the device, atomics, or float64 (which mps lacks).

    The pixels are sorted by class and cut into blocks. A class fills part of the block where it
    begins, then whole blocks, then part of the block where it ends. Products of zeros and ones
    with the features give the sums of the parts and of the whole blocks.
    """
    batch, number, width = values.shape
    if number == 0:
        return values.new_zeros(*query_labels.shape, width)
    ordered, order = labels.contiguous().sort(dim=1, stable=True)
    queries = query_labels.contiguous()
    first = torch.searchsorted(ordered, queries, right=False)
    last = torch.searchsorted(ordered, queries, right=True) - 1
    # The last block is filled up with zeros of the last class.
    blocks = -(-number // CLASS_SUM_ROWS)
    full = torch.arange(blocks * CLASS_SUM_ROWS, device=values.device).clamp_max(number - 1)
    ordered = ordered[:, full].view(batch, blocks, CLASS_SUM_ROWS)
    rows = values.take_along_dim(order[:, full, None], dim=1)
    rows[:, number:] = 0.0
    same = (ordered[..., :, None] == ordered[..., None, :]).to(values.dtype)
    parts = same @ rows.view(batch, blocks, CLASS_SUM_ROWS, width)

    starts, ends = ordered[:, :, 0], ordered[:, :, -1]
    whole = starts == ends
    follows = (ends[:, :, None] == ends[:, None, :]) & whole[:, None, :]
    whole_blocks = follows.triu(1).to(values.dtype) @ parts[:, :, 0]

    found = last >= first
    first, last = first.clamp_max(number - 1), last.clamp_min(0)
    begins, stops = first // CLASS_SUM_ROWS, last // CLASS_SUM_ROWS
    goes_on = stops > begins
    ends_inside = goes_on & ~whole.take_along_dim(stops, dim=1)

    def taken(sums: Tensor, index: Tensor, where: Tensor) -> Tensor:
        picked: Tensor = sums.take_along_dim(index[:, :, None], dim=1)
        return picked.masked_fill_(~where[:, :, None], 0.0)

    parts = parts.flatten(1, 2)
    sums = taken(parts, first, found)
    sums += taken(whole_blocks, begins, found & goes_on)
    sums += taken(parts, last, found & ends_inside)
    return sums


def _sums_of_known(values: Tensor, labels: Tensor, query_labels: Tensor) -> Tensor:
    """:func:`class_sums` of one image, ``[M, D]``, where the host knows the labels."""
    distinct, classes = torch.unique(labels, return_inverse=True)
    # The last row stays zero, for queries of a class that does not occur.
    table = values.new_zeros(len(distinct) + 1, values.shape[1])
    table.index_add_(0, classes, values)
    rows = torch.searchsorted(distinct, query_labels.contiguous())
    padded = torch.cat([distinct, query_labels.new_zeros(1)])
    known = (rows < len(distinct)) & (padded[rows] == query_labels)
    return table[torch.where(known, rows, len(distinct))]


# ------------------------------------------------------------------------------------ arithmetic


@contextmanager
def fast_products(features: Tensor) -> Iterator[None]:
    """No autocast, and float32 products on the CPU by oneDNN where it is faster and as accurate.

    MKL reaches the peak of the processors of its maker, Intel; on others oneDNN is faster at the
    same accuracy (``benchmarks/NOTES.md``). The setting that selects oneDNN lets some processors
    round to bfloat16, which a probe of the accuracy finds out. Above ``ONEDNN_PIXELS`` MKL
    multiplies: oneDNN keeps a kernel for every shape of tile, and there are many.
    """
    serves = features.device.type == "cpu" and features.dtype == torch.float32
    setting = _setting() if serves and features.shape[-2] <= ONEDNN_PIXELS else None
    with (
        torch.autocast(features.device.type, enabled=False),
        nullcontext() if setting is None else _precision(setting),
    ):
        yield


@contextmanager
def _precision(setting: str) -> Iterator[None]:
    switch = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = switch.fp32_precision
    switch.fp32_precision = setting
    try:
        yield
    finally:
        switch.fp32_precision = before


@functools.cache
def _setting() -> str | None:
    """The setting that selects oneDNN with float32 accuracy on this machine, or None."""
    switch = getattr(torch.backends.mkldnn, "matmul", None)
    if not torch._C._has_mkldnn or not hasattr(switch, "fp32_precision"):
        return None
    if torch._C.has_mkl and is_intel_processor():
        # No faster there, and oneDNN's kernels for the shapes of tiles take 90 MiB.
        return None
    generator = torch.Generator().manual_seed(0)
    first, second = torch.nn.functional.normalize(
        torch.randn(2, 256, 256, generator=generator), dim=2
    )
    exact = first.double() @ second.double().T
    with _precision("bf16"):
        error = float((first @ second.T - exact).abs().max())
    return "bf16" if error < FLOAT32_ERROR else None


# -------------------------------------------------------------- registration of the operators


def _wanted(*features: Tensor) -> bool:
    """Whether anyone will ask for a gradient."""
    return torch.is_grad_enabled() and any(f.requires_grad for f in features)


def _weighted_sum(losses: Tensor, factors: Tensor) -> Tensor:
    """Sum of factor times loss; a factor of zero drops the loss, even -inf."""
    return torch.where(factors == 0, 0.0, losses * factors).sum()


def _fake_total(*arguments: Any) -> tuple[Tensor, ...]:
    features = [a for a in arguments if isinstance(a, Tensor) and a.dim() == 3]
    *_, with_gradient = arguments
    gradients = (f.new_empty(f.shape if with_gradient else 0) for f in features)
    return (features[0].new_empty(()), *gradients)


def _register_total(operator: Any, number: int) -> None:
    """The operator's first output is a scalar; the others are its gradients for the features."""

    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*output[1:])
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        once_differentiable()
        gradients: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        if gradient is not None:
            gradients[:number] = [gradient * saved for saved in ctx.saved_tensors]
        return tuple(gradients)

    operator.register_fake(_fake_total)
    operator.register_autograd(backward, setup_context=setup_context)


for _operator, _sets in (
    (_logsumexp_total, 2),
    (_self_logsumexp_total, 1),
    (_official_total, 1),
    (_positive_total, 2),
):
    _register_total(_operator, _sets)
