"""The ``tiled`` back end as the losses call it: custom operators around the passes over tiles.

The passes are in :mod:`segnb.losses.tiled.passes`. Every operator gives a scalar and makes its
gradients in the same pass, where the tiles are at hand.

On the CPU the pixels are sorted by class and tiles that are not needed are skipped. Elsewhere the
host would have to wait for the labels, so all tiles are computed and masked.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

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
#: Values of the images that are summed together there: bounds the memory, keeps the calls few.
CLASS_SUM_VALUES = 1 << 24
#: Largest error of a product of unit vectors that still counts as float32.
FLOAT32_ERROR = 1e-6

#: Pixels of a set up to which oneDNN multiplies. With 33,282 its kernels took 290 MiB on an AMD
#: processor, with 100,000 and 200 classes 680 MiB, for products that are a tenth faster.
ONEDNN_PIXELS = 1 << 15


def logsumexp_form(anchors: Pixels, keys: Pixels | None, other_keys: Pixels | None) -> Tensor:
    """See :class:`segnb.losses.backends.LossBackend`; the gradient is made in this pass."""
    everyone = joined(anchors if keys is None else keys, other_keys)
    factors, positive = positive_term(anchors, everyone, with_self=keys is not None)
    wanted = _wanted(anchors.features, everyone.features)
    tau = anchors.temperature
    total: Tensor
    if keys is None:
        total = _self_logsumexp_total(anchors.features, anchors.labels, factors, tau, wanted)[0]
    else:
        total = _logsumexp_total(
            anchors.features,
            everyone.features,
            anchors.labels,
            everyone.labels,
            factors,
            tau,
            keys.labels.shape[1],
            wanted,
        )[0]
    return total - positive


def official_form(pixels: Pixels, images: Tensor) -> Tensor:
    """See :class:`segnb.losses.backends.LossBackend`; the gradient is made in this pass."""
    # Every pixel that is not ignored is its own positive.
    factors = mean_factors(pixels.labels != IGNORED, pixels.features.dtype)
    total: Tensor = _official_total(
        pixels.features,
        pixels.labels,
        images,
        factors,
        pixels.temperature,
        _wanted(pixels.features),
    )[0]
    return total


def positive_term(anchors: Pixels, keys: Pixels, *, with_self: bool) -> tuple[Tensor, Tensor]:
    """The linear half of the logsumexp form, without pairs, on any device.

    Args:
        anchors: The anchors.
        keys: All keys that can be positives.
        with_self: False where the keys are the anchors and no pixel is its own positive.

    Returns:
        The anchors' factors in the mean, ``[B, N]``, and the sum over anchors of factor times
        mean score of the positives, a scalar.
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
    """Pixels that take part, in an order that makes a class a stretch.

    Attributes:
        features: ``[n, D]``, scaled so that the product of two is a score in units of log 2.
        labels: ``[n]``.
        order: ``[n]``: which pixel each is.
        number: Of all pixels.
        scale: Of the features.
    """

    features: Tensor
    labels: Tensor
    order: Tensor
    number: int
    scale: float

    def put_back(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """From sorted to the pixels' own places; pixels that do not take part get ``fill``."""
        shape = (self.number, *values.shape[1:])
        complete = len(self.order) == self.number
        result = values.new_empty(shape) if complete else values.new_full(shape, fill)
        return result.index_copy_(0, self.order, values)

    def gradient(self, products: Tensor) -> Tensor:
        """From products with scaled features, in units of log 2, to the gradient in place."""
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


def _stack(results: list[list[Tensor]]) -> list[Tensor]:
    """Each column of the images' results as one tensor, without a copy of a single image."""
    columns = zip(*results, strict=True)
    return [c[0][None] if len(c) == 1 else torch.stack(c) for c in columns]


# -------------------------------------------------------------- logsumexp, two sets of pixels


def _bands(anchors: SortedPixels, keys: SortedPixels, split: int) -> Iterator[Band]:
    """Keys before the split for every anchor, those behind it for anchors of their class."""
    size = anchors.features.element_size()
    if knows_labels(anchors.labels):
        if not len(anchors.labels) or not len(keys.labels):
            return iter(())
        # Keys after the split are sorted behind those before it.
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


def _logsumexp_pass(
    anchors: Tensor,
    keys: Tensor,
    anchor_labels: Tensor,
    key_labels: Tensor,
    factors: Tensor | None,
    temperature: float,
    split: int,
) -> list[Tensor]:
    """Logsumexp ``[B, N]`` and, given its upstream gradient, the gradients of both sets."""
    results = []
    second_part = torch.arange(keys.shape[1], device=keys.device) >= split
    with _own_arithmetic(anchors):
        for b in range(len(anchors)):
            a = sort_pixels(anchors[b], anchor_labels[b], temperature)
            k = sort_pixels(keys[b], key_labels[b], temperature, second_part)
            logs, to_anchors, to_keys = passes.band_pass(
                a.features,
                k.features,
                _bands(a, k, split),
                unshifted=passes.fits_unshifted(a.features, k.features),
                factors=None if factors is None else factors[b][a.order],
            )
            result = [a.put_back(logs * math.log(2), -torch.inf)]
            if to_anchors is not None and to_keys is not None:
                result += [a.gradient(to_anchors), k.gradient(to_keys)]
            results.append(result)
    return _stack(results)


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
    given = factors if with_gradient else None
    logs, *gradients = _logsumexp_pass(
        anchors, keys, anchor_labels, key_labels, given, temperature, split
    )
    to_anchors, to_keys = gradients or (anchors.new_empty(0), keys.new_empty(0))
    return _weighted_sum(logs, factors), to_anchors, to_keys


# ------------------------------------------------------- logsumexp, one set without the pixel


def _self_pass(
    features: Tensor, labels: Tensor, factors: Tensor | None, temperature: float
) -> list[Tensor]:
    """As :func:`_logsumexp_pass` for one set whose pixels are not their own keys."""
    results = []
    with _own_arithmetic(features):
        for b in range(len(features)):
            pixels = sort_pixels(features[b], labels[b], temperature)
            tiles = _self_tiles(pixels)
            unshifted = passes.fits_unshifted(pixels.features, pixels.features)
            logs = passes.log_row_sums(pixels.features, tiles, unshifted=unshifted)
            result = [pixels.put_back(logs * math.log(2), -torch.inf)]
            if factors is not None:
                products = torch.zeros_like(pixels.features)
                passes.add_products(
                    products,
                    pixels.features,
                    factors[b][pixels.order],
                    logs,
                    tiles,
                    unshifted=unshifted,
                )
                result.append(pixels.gradient(products))
            results.append(result)
    return _stack(results)


def _self_tiles(pixels: SortedPixels) -> list[Tile]:
    tiles = passes.tiles_of_all_pairs(len(pixels.labels), diagonal=False)
    if knows_labels(pixels.labels):
        return list(tiles)
    places = torch.arange(len(pixels.labels), device=pixels.labels.device)

    def allowed(rows: slice, cols: slice) -> Tensor:
        a, k = pixels.labels[rows, None], pixels.labels[None, cols]
        return (a != IGNORED) & (k != IGNORED) & (places[rows, None] != places[cols])

    return passes.masked(tiles, allowed)


@torch.library.custom_op("segnb::self_logsumexp_total", mutates_args=())
def _self_logsumexp_total(
    features: Tensor, labels: Tensor, factors: Tensor, temperature: float, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    given = factors if with_gradient else None
    logs, *gradients = _self_pass(features, labels, given, temperature)
    return _weighted_sum(logs, factors), gradients[0] if gradients else features.new_empty(0)


# ------------------------------------------------------------------------------- official form


class _Group(NamedTuple):
    """Sorted pixels that are each other's positives (up to the tiles' masks).

    Attributes:
        parts: Their places.
        tiles: The pairs, over the places put side by side.
    """

    parts: list[slice]
    tiles: list[Tile]


def _official_tiles(pixels: SortedPixels, images: Tensor) -> tuple[list[Tile], list[_Group]]:
    """Tiles of negatives, and of positives in groups."""
    labels = pixels.labels
    if knows_labels(labels):
        negatives: list[Tile] = []
        places: dict[int, list[slice]] = {}
        for image in passes.class_runs(images):
            runs = passes.class_runs(labels[image.start : image.stop], image.start)
            negatives += passes.tiles_of_other_classes(runs)
            for run in runs:
                places.setdefault(run.label, []).append(slice(run.start, run.stop))
        return negatives, [_Group(parts, _positive_tiles(parts)) for parts in places.values()]

    def valid(rows: slice, cols: slice) -> Tensor:
        return (labels[rows, None] != IGNORED) & (labels[None, cols] != IGNORED)

    def positive(rows: slice, cols: slice) -> Tensor:
        return valid(rows, cols) & (labels[rows, None] == labels[None, cols])

    def negative(rows: slice, cols: slice) -> Tensor:
        same_image = images[rows, None] == images[None, cols]
        return valid(rows, cols) & (labels[rows, None] != labels[None, cols]) & same_image

    everything = [slice(0, len(labels))]
    all_pairs = passes.tiles_of_all_pairs(len(labels), diagonal=True)
    group = _Group(everything, passes.masked(_positive_tiles(everything), positive))
    return passes.masked(all_pairs, negative), [group]


def _positive_tiles(parts: list[slice]) -> list[Tile]:
    size = sum(part.stop - part.start for part in parts)
    return list(
        passes.tiles_of_all_pairs(
            size, passes.POSITIVE_ROWS, passes.POSITIVE_COLUMNS, diagonal=True
        )
    )


def _official_pass(
    features: Tensor,
    labels: Tensor,
    images: Tensor,
    factors: Tensor | None,
    temperature: float,
) -> list[Tensor]:
    """Losses ``[B, N]`` and, given their upstream gradient, the features' gradient."""
    results = []
    with _own_arithmetic(features):
        for b in range(len(features)):
            pixels = sort_pixels(features[b], labels[b], temperature, images[b])
            losses, products = _official_image(
                pixels,
                images[b][pixels.order],
                None if factors is None else factors[b][pixels.order],
            )
            result = [pixels.put_back(losses)]
            if products is not None:
                result.append(pixels.gradient(products))
            results.append(result)
    return _stack(results)


def _official_image(
    pixels: SortedPixels, images: Tensor, factors: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Three passes: sums over negatives; positives, with their gradient; negatives' gradient."""
    features = pixels.features
    unshifted = passes.fits_unshifted(features, features)
    negatives, groups = _official_tiles(pixels, images)
    log_negatives = passes.log_row_sums(features, negatives, unshifted=unshifted)

    number = class_counts(pixels.labels, pixels.labels)
    per_positive = None if factors is None else factors / number
    gradient = None if factors is None else torch.zeros_like(features)
    losses = torch.zeros_like(log_negatives)
    sigmas = torch.zeros_like(log_negatives)
    for parts, tiles in groups:
        group_gradient = None
        if gradient is not None:
            group_gradient = torch.zeros_like(_pick(features, parts))
        sums = passes.positive_sums(
            _pick(features, parts),
            _pick(log_negatives, parts),
            tiles,
            unshifted=unshifted,
            factors=None if per_positive is None else _pick(per_positive, parts),
            gradient=group_gradient,
        )
        start = 0
        for part in parts:
            here = slice(start, start + part.stop - part.start)
            losses[part] = sums.losses[here]
            sigmas[part] = sums.sigmas[here]
            if gradient is not None and group_gradient is not None:
                gradient[part] = group_gradient[here]
            start = here.stop

    if gradient is not None and per_positive is not None:
        passes.add_products(
            gradient,
            features,
            per_positive * sigmas,
            log_negatives,
            negatives,
            unshifted=unshifted,
        )
    return losses / number, gradient


def _pick(values: Tensor, parts: list[slice]) -> Tensor:
    return values[parts[0]] if len(parts) == 1 else torch.cat([values[part] for part in parts])


@torch.library.custom_op("segnb::official_total", mutates_args=())
def _official_total(
    features: Tensor,
    labels: Tensor,
    images: Tensor,
    factors: Tensor,
    temperature: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    given = factors if with_gradient else None
    losses, *gradients = _official_pass(features, labels, images, given, temperature)
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
        with _own_arithmetic(values):
            return torch.cat(
                [
                    _sums_of_sorted(values[some], labels[some], query_labels[some])
                    for some in passes.chunks(0, len(values), images)
                ]
            )
    return torch.stack(
        [_sums_of_known(*one) for one in zip(values, labels, query_labels, strict=True)]
    )


def _sums_of_sorted(values: Tensor, labels: Tensor, query_labels: Tensor) -> Tensor:
    """:func:`class_sums` without waiting for the device, atomics, or float64 (which mps lacks).

    The pixels are sorted by class and cut into blocks. A class is a stretch: its part of the
    block where it begins, then whole blocks, then its part of the block where it ends. Products
    of zeros and ones with the features give the sums of the parts and of the whole blocks.
    """
    batch, number, width = values.shape
    if number == 0:
        return values.new_zeros(*query_labels.shape, width)
    ordered, order = labels.contiguous().sort(dim=1, stable=True)
    queries = query_labels.contiguous()
    first = torch.searchsorted(ordered, queries, right=False)
    last = torch.searchsorted(ordered, queries, right=True) - 1
    # Filled up with zeros of the last class.
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

    def taken(sums: Tensor, places: Tensor, where: Tensor) -> Tensor:
        picked: Tensor = sums.take_along_dim(places[:, :, None], dim=1)
        return picked.masked_fill_(~where[:, :, None], 0.0)

    parts = parts.flatten(1, 2)
    sums = taken(parts, first, found)
    sums += taken(whole_blocks, begins, found & goes_on)
    sums += taken(parts, last, found & ends_inside)
    return sums


def _sums_of_known(values: Tensor, labels: Tensor, query_labels: Tensor) -> Tensor:
    """:func:`class_sums` of one image, ``[M, D]``, whose labels the host may look at."""
    distinct, places = torch.unique(labels, return_inverse=True)
    # A row of zeros behind the classes' sums serves queries of no class there is.
    table = values.new_zeros(len(distinct) + 1, values.shape[1])
    table.index_add_(0, places, values)
    rows = torch.searchsorted(distinct, query_labels.contiguous())
    padded = torch.cat([distinct, query_labels.new_zeros(1)])
    known = (rows < len(distinct)) & (padded[rows] == query_labels)
    return table[torch.where(known, rows, len(distinct))]


# ------------------------------------------------------------------------------------ arithmetic


@contextmanager
def _own_arithmetic(features: Tensor) -> Iterator[None]:
    """No autocast inside, and the fastest products that are exact."""
    with (
        torch.autocast(features.device.type, enabled=False),
        fast_products(features),
    ):
        yield


@contextmanager
def fast_products(features: Tensor) -> Iterator[None]:
    """Send float32 products on the CPU to oneDNN where that is faster and costs no accuracy.

    MKL is at the peak of Intel's processors, whose maker it has; on others oneDNN is faster at the
    same accuracy (``benchmarks/NOTES.md``). The setting that reaches oneDNN lets some processors
    round to bfloat16: a probe of the accuracy tells them apart. Above ``ONEDNN_PIXELS`` MKL
    multiplies: oneDNN keeps a kernel of every shape of tile, and there are many.
    """
    serves = features.device.type == "cpu" and features.dtype == torch.float32
    setting = _setting() if serves and features.shape[-2] <= ONEDNN_PIXELS else None
    if setting is None:
        yield
        return
    with _precision(setting):
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
    """The setting that reaches oneDNN with float32 accuracy on this machine, or None."""
    switch = getattr(torch.backends.mkldnn, "matmul", None)
    if not torch._C._has_mkldnn or not hasattr(switch, "fp32_precision"):
        return None
    if torch._C.has_mkl and is_intel_processor():
        # No faster there, and oneDNN keeps the kernels of every shape of tile: 90 MiB of them.
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
    with_gradient = arguments[-1]
    total = features[0].new_empty(())
    return (
        total,
        *(
            torch.empty_like(f, memory_format=torch.contiguous_format)
            if with_gradient
            else f.new_empty(0)
            for f in features
        ),
    )


def _register_total(operator: Any, number: int) -> None:
    """A scalar whose gradients are the operator's other outputs, made in the same pass."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.inputs = len(inputs)

    def backward(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        once_differentiable()
        gradients: list[Tensor | None] = [None] * number
        if gradient is not None:
            gradients = [gradient * saved for saved in ctx.saved_tensors]
        return (*gradients, *(None,) * (ctx.inputs - number))

    operator.register_fake(_fake_total)
    operator.register_autograd(backward, setup_context=setup_context)


for _operator, _sets in (
    (_logsumexp_total, 2),
    (_self_logsumexp_total, 1),
    (_official_total, 1),
    (_positive_total, 2),
):
    _register_total(_operator, _sets)
