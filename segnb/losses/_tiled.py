"""The ``tiled`` back end: exact, linear in memory, pure PyTorch, any device.

Custom operators around the passes of :mod:`segnb.losses._tiles`. A loss reduced to a scalar makes
its gradient in the forward pass, where the tiles are at hand; losses of single anchors
recompute their tiles in the backward pass, when the upstream gradient is known.

On the CPU the pixels are sorted by class and tiles that are not needed are skipped. Elsewhere the
host would have to wait for the labels, so all tiles are computed and masked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segnb.losses import _tiles
from segnb.losses._differentiation import once_differentiable
from segnb.losses._inputs import PixelSet, class_counts
from segnb.losses._products import fast_products
from segnb.losses._tiles import Band, Pairs, Run, Tile

_LN2 = math.log(2)

#: Sorted pixels that one product sums by class, where the host does not know the classes.
CLASS_SUM_ROWS = 128
#: Values of the images that are summed together there: bounds the memory, keeps the calls few.
CLASS_SUM_VALUES = 1 << 24


def knows_labels(labels: Tensor) -> bool:
    """Whether the host can look at labels without waiting for a device."""
    return labels.device.type == "cpu"


# -------------------------------------------------------------- logsumexp, two sets of pixels


def masked_logsumexp(
    anchors: PixelSet,
    keys: PixelSet,
    *,
    temperature: float,
    ignore_index: int,
    pairs: Pairs,
    exclude_self: bool,
) -> Tensor:
    """See :func:`segnb.losses._core.masked_logsumexp`."""
    result: Tensor
    if exclude_self:
        result = _self_logsumexp(anchors.features, anchors.labels, temperature, ignore_index, pairs)
    else:
        result = _logsumexp(
            anchors.features,
            keys.features,
            anchors.labels,
            keys.labels,
            temperature,
            ignore_index,
            pairs,
            keys.labels.shape[1],
        )
    return result


def denominator_total(
    anchors: PixelSet,
    keys: PixelSet,
    other_keys: PixelSet | None,
    factors: Tensor,
    *,
    temperature: float,
    ignore_index: int,
    exclude_self: bool,
) -> Tensor:
    """See :func:`segnb.losses._core.denominator_total`; the gradient is made in this pass."""
    total: Tensor
    if exclude_self:
        wanted = _wanted(anchors.features)
        total = _self_logsumexp_total(
            anchors.features, anchors.labels, factors, temperature, ignore_index, wanted
        )[0]
        return total
    key_features, key_labels = keys.features, keys.labels
    if other_keys is not None:
        key_features = torch.cat([key_features, other_keys.features], dim=1)
        key_labels = torch.cat([key_labels, other_keys.labels], dim=1)
    total = _logsumexp_total(
        anchors.features,
        key_features,
        anchors.labels,
        key_labels,
        factors,
        temperature,
        ignore_index,
        keys.labels.shape[1],
        _wanted(anchors.features, key_features),
    )[0]
    return total


class SortedPixels(NamedTuple):
    """Pixels that take part, scaled, in an order that makes a class a stretch.

    Attributes:
        features: ``[n, D]``.
        labels: ``[n]``.
        order: ``[n]``: which pixel each is.
    """

    features: Tensor
    labels: Tensor
    order: Tensor


def sort_pixels(
    features: Tensor, labels: Tensor, temperature: float, ignore_index: int, by: Tensor | None
) -> SortedPixels:
    """Scale the features; on the CPU drop ignored pixels and sort by ``by``, then by label."""
    scale = math.sqrt(math.log2(math.e) / temperature)
    if not knows_labels(labels):
        order = torch.arange(len(labels), device=labels.device)
        return SortedPixels(features * scale, labels, order)
    order = torch.argsort(labels, stable=True)
    if by is not None:
        order = order[torch.argsort(by[order], stable=True)]
    order = order[labels[order] != ignore_index]
    return SortedPixels(features[order].mul_(scale), labels[order], order)


def put_back(values: Tensor, order: Tensor, number: int, fill: float = 0.0) -> Tensor:
    """From sorted to the pixels' own places among so many."""
    shape = (number, *values.shape[1:])
    complete = len(order) == number
    result = values.new_empty(shape) if complete else values.new_full(shape, fill)
    return result.index_copy_(0, order, values)


def _stack(images: list[Tensor]) -> Tensor:
    """``torch.stack`` without a copy of a single image."""
    return images[0][None] if len(images) == 1 else torch.stack(images)


def gradient_scale(temperature: float) -> float:
    """From products with scaled features to the gradient: undo one scale, divide by tau."""
    return 1.0 / math.sqrt(temperature * math.log2(math.e))


def _bands(
    anchors: SortedPixels, keys: SortedPixels, ignore_index: int, pairs: Pairs, split: int
) -> Iterator[Band]:
    size = anchors.features.element_size()
    if knows_labels(anchors.labels):
        if not len(anchors.labels) or not len(keys.labels):
            return iter(())
        # Keys after the split are sorted behind those before it.
        border = int((keys.order < split).sum())
        parts: list[tuple[Pairs, list[Run]]] = [
            (pairs, _tiles.class_runs(keys.labels[:border])),
            ("same", _tiles.class_runs(keys.labels[border:], border)),
        ]
        return _tiles.bands_by_class(_tiles.class_runs(anchors.labels), parts, size)

    before_split = torch.arange(len(keys.labels), device=keys.labels.device) < split

    def allowed(rows: slice, cols: slice) -> Tensor:
        a, k = anchors.labels[rows, None], keys.labels[None, cols]
        first = before_split[None, cols]
        rule = a == k
        if pairs == "all":
            rule = rule | first
        elif pairs == "other":
            rule = rule ^ first
        return rule & (a != ignore_index) & (k != ignore_index)

    return _tiles.masked_bands(len(anchors.labels), len(keys.labels), size, allowed)


def _logsumexp_pass(
    anchors: Tensor,
    keys: Tensor,
    anchor_labels: Tensor,
    key_labels: Tensor,
    factors: Tensor | None,
    temperature: float,
    ignore_index: int,
    pairs: Pairs,
    split: int,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Logsumexp ``[B, N]`` and, given its upstream gradient, the gradients of both sets."""
    results = []
    second_part = torch.arange(keys.shape[1], device=keys.device) >= split
    with _own_arithmetic(anchors):
        for b in range(len(anchors)):
            a = sort_pixels(anchors[b], anchor_labels[b], temperature, ignore_index, None)
            k = sort_pixels(keys[b], key_labels[b], temperature, ignore_index, second_part)
            logs, to_anchors, to_keys = _tiles.band_pass(
                a.features,
                k.features,
                _bands(a, k, ignore_index, pairs, split),
                unshifted=_tiles.fits_unshifted(a.features, k.features),
                factors=None if factors is None else factors[b][a.order],
            )
            result = [put_back(logs * _LN2, a.order, len(anchors[b]), -torch.inf)]
            if to_anchors is not None and to_keys is not None:
                scale = gradient_scale(temperature)
                result.append(put_back(to_anchors.mul_(scale), a.order, len(anchors[b])))
                result.append(put_back(to_keys.mul_(scale), k.order, len(keys[b])))
            results.append(result)
    stacked = [_stack(list(column)) for column in zip(*results, strict=True)]
    if len(stacked) == 1:
        return stacked[0], None, None
    return stacked[0], stacked[1], stacked[2]


@torch.library.custom_op("segnb::logsumexp", mutates_args=())
def _logsumexp(
    anchors: Tensor,
    keys: Tensor,
    anchor_labels: Tensor,
    key_labels: Tensor,
    temperature: float,
    ignore_index: int,
    pairs: str,
    split: int,
) -> Tensor:
    return _logsumexp_pass(
        anchors,
        keys,
        anchor_labels,
        key_labels,
        None,
        temperature,
        ignore_index,
        pairs,  # type: ignore[arg-type]
        split,
    )[0]


@torch.library.custom_op("segnb::logsumexp_backward", mutates_args=())
def _logsumexp_backward(
    gradient: Tensor,
    anchors: Tensor,
    keys: Tensor,
    anchor_labels: Tensor,
    key_labels: Tensor,
    temperature: float,
    ignore_index: int,
    pairs: str,
    split: int,
) -> tuple[Tensor, Tensor]:
    _, to_anchors, to_keys = _logsumexp_pass(
        anchors,
        keys,
        anchor_labels,
        key_labels,
        gradient,
        temperature,
        ignore_index,
        pairs,  # type: ignore[arg-type]
        split,
    )
    return _present(to_anchors), _present(to_keys)


@torch.library.custom_op("segnb::logsumexp_total", mutates_args=())
def _logsumexp_total(
    anchors: Tensor,
    keys: Tensor,
    anchor_labels: Tensor,
    key_labels: Tensor,
    factors: Tensor,
    temperature: float,
    ignore_index: int,
    split: int,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    logs, to_anchors, to_keys = _logsumexp_pass(
        anchors,
        keys,
        anchor_labels,
        key_labels,
        factors if with_gradient else None,
        temperature,
        ignore_index,
        "all",
        split,
    )
    return (
        _weighted_sum(logs, factors),
        anchors.new_empty(0) if to_anchors is None else to_anchors,
        keys.new_empty(0) if to_keys is None else to_keys,
    )


# ------------------------------------------------------- logsumexp, one set without the pixel


def _self_pass(
    features: Tensor,
    labels: Tensor,
    factors: Tensor | None,
    temperature: float,
    ignore_index: int,
    pairs: Pairs,
) -> tuple[Tensor, Tensor | None]:
    """As :func:`_logsumexp_pass` for one set whose pixels are not their own keys."""
    results = []
    with _own_arithmetic(features):
        for b in range(len(features)):
            pixels = sort_pixels(features[b], labels[b], temperature, ignore_index, None)
            tiles = _self_tiles(pixels, ignore_index, pairs)
            unshifted = _tiles.fits_unshifted(pixels.features, pixels.features)
            logs = _tiles.log_row_sums(pixels.features, tiles, unshifted=unshifted)
            result = [put_back(logs * _LN2, pixels.order, len(features[b]), -torch.inf)]
            if factors is not None:
                gradient = torch.zeros_like(pixels.features)
                _tiles.add_products(
                    gradient,
                    pixels.features,
                    factors[b][pixels.order],
                    logs,
                    tiles,
                    unshifted=unshifted,
                )
                gradient.mul_(gradient_scale(temperature))
                result.append(put_back(gradient, pixels.order, len(features[b])))
            results.append(result)
    stacked = [_stack(list(column)) for column in zip(*results, strict=True)]
    return stacked[0], stacked[1] if len(stacked) > 1 else None


def _self_tiles(pixels: SortedPixels, ignore_index: int, pairs: Pairs) -> list[Tile]:
    tiles = _tiles.tiles_of_all_pairs(len(pixels.labels), diagonal=False)
    if pairs == "all" and knows_labels(pixels.labels):
        return list(tiles)
    places = torch.arange(len(pixels.labels), device=pixels.labels.device)

    def allowed(rows: slice, cols: slice) -> Tensor:
        a, k = pixels.labels[rows, None], pixels.labels[None, cols]
        rule = (a != ignore_index) & (k != ignore_index) & (places[rows, None] != places[cols])
        return rule if pairs == "all" else rule & ((a == k) == (pairs == "same"))

    return _tiles.masked(tiles, allowed)


@torch.library.custom_op("segnb::self_logsumexp", mutates_args=())
def _self_logsumexp(
    features: Tensor, labels: Tensor, temperature: float, ignore_index: int, pairs: str
) -> Tensor:
    return _self_pass(features, labels, None, temperature, ignore_index, pairs)[0]  # type: ignore[arg-type]


@torch.library.custom_op("segnb::self_logsumexp_backward", mutates_args=())
def _self_logsumexp_backward(
    gradient: Tensor,
    features: Tensor,
    labels: Tensor,
    temperature: float,
    ignore_index: int,
    pairs: str,
) -> Tensor:
    return _present(
        _self_pass(features, labels, gradient, temperature, ignore_index, pairs)[1]  # type: ignore[arg-type]
    )


@torch.library.custom_op("segnb::self_logsumexp_total", mutates_args=())
def _self_logsumexp_total(
    features: Tensor,
    labels: Tensor,
    factors: Tensor,
    temperature: float,
    ignore_index: int,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    logs, gradient = _self_pass(
        features, labels, factors if with_gradient else None, temperature, ignore_index, "all"
    )
    return _weighted_sum(logs, factors), features.new_empty(0) if gradient is None else gradient


# ------------------------------------------------------------------------------- official form


def official_anchor_losses(
    pixels: PixelSet, images: Tensor, *, temperature: float, ignore_index: int
) -> Tensor:
    """See :func:`segnb.losses._core.official_anchor_losses`."""
    result: Tensor = _official_losses(
        pixels.features, pixels.labels, images, temperature, ignore_index
    )
    return result


def official_total(
    pixels: PixelSet, images: Tensor, factors: Tensor, *, temperature: float, ignore_index: int
) -> Tensor:
    """See :func:`segnb.losses._core.official_total`; the gradient is made in this pass."""
    wanted = _wanted(pixels.features)
    total: Tensor = _official_total(
        pixels.features, pixels.labels, images, factors, temperature, ignore_index, wanted
    )[0]
    return total


class _Group(NamedTuple):
    """Sorted pixels that are each other's positives (up to the tiles' masks).

    Attributes:
        parts: Their places.
        tiles: The pairs, over the places put side by side.
    """

    parts: list[slice]
    tiles: list[Tile]


def _official_tiles(
    pixels: SortedPixels, images: Tensor, ignore_index: int
) -> tuple[list[Tile], list[_Group]]:
    """Tiles of negatives, and of positives in groups."""
    labels = pixels.labels
    if knows_labels(labels):
        negatives: list[Tile] = []
        places: dict[int, list[slice]] = {}
        for image in _tiles.class_runs(images):
            runs = _tiles.class_runs(labels[image.start : image.stop], image.start)
            negatives += _tiles.tiles_of_other_classes(runs)
            for run in runs:
                places.setdefault(run.label, []).append(slice(run.start, run.stop))
        return negatives, [_Group(parts, _positive_tiles(parts)) for parts in places.values()]

    def valid(rows: slice, cols: slice) -> Tensor:
        return (labels[rows, None] != ignore_index) & (labels[None, cols] != ignore_index)

    def positive(rows: slice, cols: slice) -> Tensor:
        return valid(rows, cols) & (labels[rows, None] == labels[None, cols])

    def negative(rows: slice, cols: slice) -> Tensor:
        same_image = images[rows, None] == images[None, cols]
        return valid(rows, cols) & (labels[rows, None] != labels[None, cols]) & same_image

    everything = [slice(0, len(labels))]
    all_pairs = _tiles.tiles_of_all_pairs(len(labels), diagonal=True)
    group = _Group(everything, _tiles.masked(_positive_tiles(everything), positive))
    return _tiles.masked(all_pairs, negative), [group]


def _positive_tiles(parts: list[slice]) -> list[Tile]:
    size = sum(part.stop - part.start for part in parts)
    return list(
        _tiles.tiles_of_all_pairs(
            size, _tiles.POSITIVE_ROWS, _tiles.POSITIVE_COLUMNS, diagonal=True
        )
    )


def _official_pass(
    features: Tensor,
    labels: Tensor,
    images: Tensor,
    factors: Tensor | None,
    temperature: float,
    ignore_index: int,
) -> tuple[Tensor, Tensor | None]:
    """Losses ``[B, N]`` and, given their upstream gradient, the features' gradient."""
    results = []
    with _own_arithmetic(features):
        for b in range(len(features)):
            pixels = sort_pixels(features[b], labels[b], temperature, ignore_index, images[b])
            sorted_factors = None
            if factors is not None:
                sorted_factors = factors[b][pixels.order]
            losses, gradient = _official_image(
                pixels, images[b][pixels.order], sorted_factors, ignore_index
            )
            result = [put_back(losses, pixels.order, len(features[b]))]
            if gradient is not None:
                gradient.mul_(gradient_scale(temperature))
                result.append(put_back(gradient, pixels.order, len(features[b])))
            results.append(result)
    stacked = [_stack(list(column)) for column in zip(*results, strict=True)]
    return stacked[0], stacked[1] if len(stacked) > 1 else None


def _official_image(
    pixels: SortedPixels, images: Tensor, factors: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor | None]:
    """Three passes: sums over negatives; positives, with their gradient; negatives' gradient."""
    features = pixels.features
    unshifted = _tiles.fits_unshifted(features, features)
    negatives, groups = _official_tiles(pixels, images, ignore_index)
    log_negatives = _tiles.log_row_sums(features, negatives, unshifted=unshifted)

    number = class_counts(pixels.labels, pixels.labels)
    per_positive = None if factors is None else factors / number
    gradient = None if factors is None else torch.zeros_like(features)
    losses = torch.zeros_like(log_negatives)
    sigmas = torch.zeros_like(log_negatives)
    for parts, tiles in groups:
        group_gradient = None
        if gradient is not None:
            group_gradient = torch.zeros_like(_pick(features, parts))
        sums = _tiles.positive_sums(
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
        _tiles.add_products(
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


@torch.library.custom_op("segnb::official_losses", mutates_args=())
def _official_losses(
    features: Tensor, labels: Tensor, images: Tensor, temperature: float, ignore_index: int
) -> Tensor:
    return _official_pass(features, labels, images, None, temperature, ignore_index)[0]


@torch.library.custom_op("segnb::official_losses_backward", mutates_args=())
def _official_losses_backward(
    gradient: Tensor,
    features: Tensor,
    labels: Tensor,
    images: Tensor,
    temperature: float,
    ignore_index: int,
) -> Tensor:
    return _present(
        _official_pass(features, labels, images, gradient, temperature, ignore_index)[1]
    )


@torch.library.custom_op("segnb::official_total", mutates_args=())
def _official_total(
    features: Tensor,
    labels: Tensor,
    images: Tensor,
    factors: Tensor,
    temperature: float,
    ignore_index: int,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    losses, gradient = _official_pass(
        features, labels, images, factors if with_gradient else None, temperature, ignore_index
    )
    return _weighted_sum(losses, factors), features.new_empty(0) if gradient is None else gradient


# ---------------------------------------------------------------------------------- class sums


@torch.library.custom_op("segnb::class_sums", mutates_args=())
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
                    for some in _tiles.chunks(0, len(values), images)
                ]
            )
    results = []
    for b in range(len(values)):
        table, places = _class_table(values[b], labels[b], query_labels[b])
        results.append(table[places])
    return torch.stack(results)


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


def _class_table(values: Tensor, labels: Tensor, query_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the values by class, a row of zeros behind them, and each query's row."""
    distinct, places = torch.unique(labels, return_inverse=True)
    table = values.new_zeros(len(distinct) + 1, values.shape[1])
    table.index_add_(0, places, values)
    rows = torch.searchsorted(distinct, query_labels.contiguous())
    padded = torch.cat([distinct, query_labels.new_zeros(1)])
    known = (rows < len(distinct)) & (padded[rows] == query_labels)
    return table, torch.where(known, rows, len(distinct))


@torch.library.custom_op("segnb::positive_scores", mutates_args=())
def _positive_scores(
    anchors: Tensor, keys: Tensor, anchor_labels: Tensor, key_labels: Tensor
) -> Tensor:
    if not knows_labels(key_labels):
        sums: Tensor = class_sums(keys, key_labels, anchor_labels)
        return (anchors * sums).sum(dim=2)
    results = []
    with _own_arithmetic(anchors):
        for b in range(len(anchors)):
            table, places = _class_table(keys[b], key_labels[b], anchor_labels[b])
            results.append((anchors[b] @ table.T).gather(1, places[:, None])[:, 0])
    return torch.stack(results)


@torch.library.custom_op("segnb::positive_scores_backward", mutates_args=())
def _positive_scores_backward(
    gradient: Tensor, anchors: Tensor, keys: Tensor, anchor_labels: Tensor, key_labels: Tensor
) -> tuple[Tensor, Tensor]:
    to_anchors = class_sums(keys, key_labels, anchor_labels).mul_(gradient[:, :, None])
    return to_anchors, class_sums(anchors * gradient[:, :, None], anchor_labels, key_labels)


def positive_scores(anchors: PixelSet, keys: PixelSet) -> Tensor:
    """See :func:`segnb.losses._core.positive_scores`."""
    result: Tensor = _positive_scores(anchors.features, keys.features, anchors.labels, keys.labels)
    return result


# -------------------------------------------------------------- registration of the operators


def _present(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def _wanted(*features: Tensor) -> bool:
    """Whether anyone will ask for a gradient."""
    return torch.is_grad_enabled() and any(f.requires_grad for f in features)


def _weighted_sum(losses: Tensor, factors: Tensor) -> Tensor:
    """Sum of factor times loss; a factor of zero drops the loss, even -inf."""
    return torch.where(factors == 0, 0.0, losses * factors).sum()


@contextmanager
def _own_arithmetic(features: Tensor) -> Iterator[None]:
    """No autocast inside, and the fastest products that are exact."""
    with (
        torch.autocast(features.device.type, enabled=False),
        fast_products(features.device, features.dtype),
    ):
        yield


def _fake_rows(features: Tensor, labels: Tensor, *_: Any) -> Tensor:
    return features.new_empty(features.shape[:2])


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


def _register_rows(operator: Any, backward_operator: Any, number: int) -> None:
    """Values of anchors whose tiles are computed again in the backward pass."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
        ctx.options = [value for value in inputs if not isinstance(value, Tensor)]

    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        once_differentiable()
        results = backward_operator(gradient, *ctx.saved_tensors, *ctx.options)
        results = results if isinstance(results, tuple) else (results,)
        rest = len(ctx.saved_tensors) + len(ctx.options) - number
        return (*results, *(None,) * rest)

    def fake_backward(gradient: Tensor, *inputs: Any) -> Any:
        results = tuple(
            torch.empty_like(f, memory_format=torch.contiguous_format) for f in inputs[:number]
        )
        return results if number > 1 else results[0]

    operator.register_fake(_fake_rows)
    operator.register_autograd(backward, setup_context=setup_context)
    backward_operator.register_fake(fake_backward)


_register_rows(_logsumexp, _logsumexp_backward, 2)
_register_rows(_self_logsumexp, _self_logsumexp_backward, 1)
_register_rows(_official_losses, _official_losses_backward, 1)
_register_total(_logsumexp_total, 2)
_register_total(_self_logsumexp_total, 1)
_register_total(_official_total, 1)


_register_rows(_positive_scores, _positive_scores_backward, 2)


@class_sums.register_fake
def _(values: Tensor, labels: Tensor, query_labels: Tensor) -> Tensor:
    return values.new_empty((*query_labels.shape, values.shape[2]))
