"""Tiles: which pairs of pixels a loss needs, and the passes over them.

A set of pixels is sorted by class (and image), so that a rectangle of the score matrix is needed
whole, not at all, or up to its holes: a few smaller rectangles along the borders of the classes.
Throughout this module pixels are in sorted order and scaled by ``sqrt(log2(e) / temperature)``:
the product of two is a score in units of log 2, and ``exp2``, the cheapest exponential, gives
``exp(s)``. Values called ``log_`` are in units of log 2.

Where scores are symmetric, a tile above the diagonal also serves as its mirror image (``both``).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: Rows of a tile. Large enough for products at full speed, small enough to stay in L2.
ROWS = 512
#: Columns of a tile in passes that keep one or two tiles at a time.
COLUMNS = 1024
#: Rows and columns of a tile in the pass over positives, which keeps three tiles at a time.
POSITIVE_ROWS = 256
POSITIVE_COLUMNS = 512
#: Bytes of one band (a block of rows against all its keys) in the one-sided pass.
BAND_BYTES = 8 << 20

#: Largest exponent, in units of log 2, up to which unshifted float32 sums of exp2 are safe.
MAX_EXPONENT = 120.0

Clear = Callable[[Tensor, float], None]


def _clear_nothing(tile: Tensor, value: float) -> None:
    """No holes."""


class Tile(NamedTuple):
    """A rectangle of the score matrix.

    Attributes:
        rows: Its rows.
        cols: Its columns.
        both: Its mirror image is needed too, and is in no other tile.
        clear: Writes a value into the holes of the computed tile.
    """

    rows: slice
    cols: slice
    both: bool
    clear: Clear


class Band(NamedTuple):
    """A block of rows with all the columns it needs, as one or two ranges.

    Attributes:
        rows: Its rows.
        cols: The ranges of its columns, side by side in the computed band.
        clear: Writes a value into the holes of the computed band.
    """

    rows: slice
    cols: tuple[slice, ...]
    clear: Clear


class Run(NamedTuple):
    """A run of sorted pixels of one class."""

    label: int
    start: int
    stop: int


# ------------------------------------------------------------------------------ what is needed


def class_runs(sorted_labels: Tensor, start: int = 0) -> list[Run]:
    """The runs of equal labels, the first at ``start``."""
    labels, lengths = torch.unique_consecutive(sorted_labels, return_counts=True)
    runs = []
    for label, length in zip(labels.tolist(), lengths.tolist(), strict=True):
        runs.append(Run(label, start, start + length))
        start += length
    return runs


def chunks(start: int, stop: int, size: int) -> Iterator[slice]:
    """Slices of equal length, at most ``size``, that cover the range."""
    if stop <= start:
        return
    number = math.ceil((stop - start) / size)
    edges = [start + (stop - start) * i // number for i in range(number + 1)]
    yield from itertools.starmap(slice, itertools.pairwise(edges))


def row_groups(runs: list[Run], rows: int) -> Iterator[tuple[slice, list[Run]]]:
    """Blocks of about ``rows`` rows: part of a large class, or several small classes together."""
    small: list[Run] = []
    for run in [*runs, None]:
        full = run is None or run.stop - run.start > rows // 2
        if small and (full or run is None or run.stop - small[0].start > rows):
            yield slice(small[0].start, small[-1].stop), small
            small = []
        if run is not None and full:
            for part in chunks(run.start, run.stop, rows):
                yield part, [run]
        elif run is not None:
            small.append(run)


def holes(rectangles: list[tuple[slice, slice]]) -> Clear:
    """Clear rectangles of a tile."""

    def clear(tile: Tensor, value: float) -> None:
        for rectangle in rectangles:
            tile[rectangle].fill_(value)

    return clear


def forbidden(allowed: Callable[[], Tensor]) -> Clear:
    """Clear what a mask does not allow; the mask is made when it is needed."""

    def clear(tile: Tensor, value: float) -> None:
        tile.masked_fill_(~allowed(), value)

    return clear


def _clear_diagonal(tile: Tensor, value: float) -> None:
    tile.fill_diagonal_(value)


def tiles_of_all_pairs(
    size: int, height: int = ROWS, width: int = COLUMNS, *, diagonal: bool
) -> Iterator[Tile]:
    """All pairs of a set, with or without each pixel's pair with itself."""
    for rows in chunks(0, size, height):
        yield Tile(rows, rows, False, _clear_nothing if diagonal else _clear_diagonal)
        for cols in chunks(rows.stop, size, width):
            yield Tile(rows, cols, True, _clear_nothing)


def tiles_of_other_classes(runs: list[Run]) -> Iterator[Tile]:
    """Pairs of different classes of the image with these runs."""
    stop = runs[-1].stop
    for rows, inside in row_groups(runs, ROWS):
        if len(inside) > 1:
            squares = [slice(run.start - rows.start, run.stop - rows.start) for run in inside]
            yield Tile(rows, rows, False, holes([(square, square) for square in squares]))
        for cols in chunks(inside[-1].stop, stop, COLUMNS):
            yield Tile(rows, cols, True, _clear_nothing)


def masked(tiles: Iterable[Tile], allowed: Callable[[slice, slice], Tensor]) -> list[Tile]:
    """The tiles with a mask, made tile by tile, for devices the host must not wait for."""
    return [
        tile._replace(clear=forbidden(functools.partial(allowed, tile.rows, tile.cols)))
        for tile in tiles
    ]


def bands_by_class(
    anchor_runs: list[Run], key_runs: list[Run], other_runs: list[Run], size: int
) -> Iterator[Band]:
    """Bands over keys of every class, followed by keys that serve only anchors of their class.

    Args:
        anchor_runs: Classes of the sorted anchors.
        key_runs: Classes of the keys that every anchor needs.
        other_runs: Classes of the keys that anchors of their class need.
        size: Bytes of an element.
    """
    number = sum(runs[-1].stop - runs[0].start for runs in (key_runs, other_runs) if runs)
    for rows, inside in row_groups(anchor_runs, band_rows(number, size)):
        ranges: list[slice] = []
        rectangles: list[tuple[slice, slice]] = []
        width = 0
        if key_runs:
            ranges.append(slice(key_runs[0].start, key_runs[-1].stop))
            width = key_runs[-1].stop - key_runs[0].start
        labels = {run.label for run in inside}
        needed = [run for run in other_runs if run.label in labels]
        if needed:
            start, stop = needed[0].start, needed[-1].stop
            ranges.append(slice(start, stop))
            own = {run.label: (run.start - start, run.stop - start) for run in needed}
            for run in inside:
                first, last = own.get(run.label, (0, 0))
                own_rows = slice(
                    max(run.start, rows.start) - rows.start, min(run.stop, rows.stop) - rows.start
                )
                rectangles += [
                    (own_rows, slice(width + a, width + b))
                    for a, b in ((0, first), (last, stop - start))
                    if b > a
                ]
        if ranges:
            yield Band(rows, tuple(ranges), holes(rectangles))


def masked_bands(
    number: int, keys: int, size: int, allowed: Callable[[slice, slice], Tensor]
) -> Iterator[Band]:
    """All pairs with a mask, in bands."""
    cols = slice(0, keys)
    for rows in chunks(0, number, band_rows(keys, size)) if keys else ():
        yield Band(rows, (cols,), forbidden(functools.partial(allowed, rows, cols)))


def bands_without_self(number: int, keys: int, size: int) -> Iterator[Band]:
    """All pairs of anchors and keys; the first keys are the anchors, not paired with themselves."""

    def clear_own(start: int, tile: Tensor, value: float) -> None:
        tile.diagonal(start).fill_(value)

    for rows in chunks(0, number, band_rows(keys, size)):
        yield Band(rows, (slice(0, keys),), functools.partial(clear_own, rows.start))


def band_rows(keys: int, size: int) -> int:
    """Rows of a band over ``keys`` keys, with ``size`` bytes for each score."""
    return min(256, max(32, BAND_BYTES // (max(keys, 1) * size)))


# ------------------------------------------------------------------- passes over a symmetric S


def fits_unshifted(first: Tensor, second: Tensor) -> bool:
    """Whether sums of products of two ``exp2(score)`` stay finite without a shift.

    Only the CPU is asked. The host would have to wait for other devices: there the answer is no.
    """
    if first.device.type != "cpu" or first.numel() == 0 or second.numel() == 0:
        return False
    largest = float(torch.linalg.vector_norm(first, dim=1).max())
    largest *= float(torch.linalg.vector_norm(second, dim=1).max())
    return 2 * largest + math.log2(len(second)) < MAX_EXPONENT


def log_row_sums(features: Tensor, tiles: Iterable[Tile], *, unshifted: bool) -> Tensor:
    """Log of the sum of ``exp2(score)`` in each row of the tiles, ``[N]``; -inf for none."""
    size = features.shape[0]
    scratch = Scratch(features)
    if unshifted:
        sums = features.new_zeros(size)
        for tile in tiles:
            scores = scratch.scores(features[tile.rows], features[tile.cols])
            weights = torch.exp2(scores, out=scores)
            tile.clear(weights, 0.0)
            sums[tile.rows] += weights.sum(dim=1)
            if tile.both:
                sums[tile.cols] += weights.sum(dim=0)
        return sums.log2_()
    logs = features.new_full((size,), -torch.inf)
    for tile in tiles:
        scores = scratch.scores(features[tile.rows], features[tile.cols])
        tile.clear(scores, -torch.inf)
        for dim, part in ((1, tile.rows), (0, tile.cols)):
            if dim == 1 or tile.both:
                logs[part] = torch.logaddexp2(logs[part], _logsumexp2(scores, dim))
    return logs


def add_products(
    gradient: Tensor,
    features: Tensor,
    factors: Tensor,
    logs: Tensor,
    tiles: Iterable[Tile],
    *,
    unshifted: bool,
) -> None:
    """Add M F to the gradient, ``M_pk = c_p exp2(s_pk - log_p) + c_k exp2(s_pk - log_k)``.

    Args:
        gradient: ``[N, D]``, added to.
        features: ``[N, D]``.
        factors: c, ``[N]``.
        logs: log, ``[N]``; -inf drops its term.
        tiles: The pairs where M is not zero.
        unshifted: ``exp2`` of scores and of ``-logs`` stay finite.
    """
    factors, logs = _drop_empty(factors, logs)
    scratch = Scratch(features)
    if unshifted:
        factors = factors * torch.exp2(-logs)
    for rows, cols, both, clear in tiles:
        scores = scratch.scores(features[rows], features[cols])
        if unshifted:
            matrix = torch.exp2(scores, out=scores)
            pair = scratch.tile(1, scores.shape)
            matrix.mul_(torch.add(factors[rows, None], factors[None, cols], out=pair))
        else:
            row_terms, col_terms = (factors[rows], logs[rows]), (factors[cols], logs[cols])
            matrix = scratch.softmax_sum(scores, row_terms, col_terms)
        clear(matrix, 0.0)
        gradient[rows].addmm_(matrix, features[cols])
        if both:
            gradient[cols].addmm_(matrix.T, features[rows])


def positive_sums(
    features: Tensor,
    log_negatives: Tensor,
    tiles: Iterable[Tile],
    factors: Tensor,
    gradient: Tensor | None,
    *,
    unshifted: bool,
) -> tuple[Tensor, Tensor]:
    """The official form's sums over positives q, with ``x_pq = exp2(log_neg_p - s_pq)``.

    Args:
        features: ``[N, D]``: pixels of one class (or of any, when the tiles mask the rest).
        log_negatives: ``[N]``.
        tiles: The pairs of positives.
        factors: c, ``[N]``: derivative of the result by an anchor's sum of losses.
        gradient: ``[N, D]``, from which M F is subtracted, ``M_pq = c_p sigma_pq + c_q sigma_qp``
            with ``sigma = x / (1 + x)``; None where it is not wanted.
        unshifted: ``exp2`` of scores and their sums stay finite.

    Returns:
        For each anchor the sums of ``log(1 + x)`` (natural) and of ``sigma``, ``[N]``.
    """
    losses = torch.zeros_like(log_negatives)
    sigmas = torch.zeros_like(log_negatives)
    scratch = Scratch(features)
    negatives = torch.exp2(log_negatives) if unshifted else log_negatives
    for rows, cols, both, clear in tiles:
        scores = scratch.scores(features[rows], features[cols])
        if unshifted:
            scores.neg_().exp2_()
        matrix = None
        # The rows as anchors first, then the columns, which may overwrite the scores.
        for dim, anchors, along in ((1, rows, (rows, None)), (0, cols, (cols,))):
            if dim == 0 and not both and gradient is None:
                break
            x = scratch.tile(1, scores.shape) if dim == 1 else scores
            if unshifted:
                torch.mul(scores, negatives[along], out=x)
                clear(x, 0.0)
                one_more = torch.add(x, 1.0, out=scratch.tile(2, scores.shape))
                sigma = x.div_(one_more)
                # log1p would be three times slower, and more exact by 3e-8 at most, for tiny x.
                loss = one_more.log_()
            else:
                torch.sub(negatives[along], scores, out=x).mul_(math.log(2))
                clear(x, -torch.inf)
                loss = F.softplus(x, threshold=50)
                sigma = x.sigmoid_()
            if dim == 1 or both:
                losses[anchors] += loss.sum(dim=dim)
                sigmas[anchors] += sigma.sum(dim=dim)
            if gradient is not None:
                sigma.mul_(factors[along])
                matrix = sigma if matrix is None else matrix.add_(sigma)
        if matrix is not None and gradient is not None:
            gradient[rows].addmm_(matrix, features[cols], alpha=-1)
            if both:
                gradient[cols].addmm_(matrix.T, features[rows], alpha=-1)
    return losses, sigmas


# ----------------------------------------------------------------------- one-sided pass: bands


def band_pass(
    anchors: Tensor,
    keys: Tensor,
    bands: Iterable[Band],
    *,
    unshifted: bool,
    factors: Tensor | None = None,
) -> list[Tensor]:
    """Log of the sum of ``exp2(score)`` over each anchor's keys, and gradients if asked for.

    A band of scores is kept until its sums are known: scores computed once serve the sums and
    both gradients.

    Args:
        anchors: ``[N, D]``.
        keys: ``[M, D]``.
        bands: Cover every anchor's keys.
        unshifted: Sums of ``exp2(score)`` stay finite.
        factors: c, ``[N]``: asks for the gradient of the sum of c_p times log_p (natural units).

    Returns:
        Logs ``[N]`` and, given factors, ``G K`` and ``G^T A``, ``G_pk = c_p exp2(s_pk - log_p)``.
    """
    logs = anchors.new_full((anchors.shape[0],), -torch.inf)
    gradients = [] if factors is None else [torch.zeros_like(anchors), torch.zeros_like(keys)]
    scratch = Scratch(anchors)
    for rows, ranges, clear in bands:
        edges = [0]
        for cols in ranges:
            edges.append(edges[-1] + cols.stop - cols.start)
        parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
        band = scratch.tile(0, torch.Size((rows.stop - rows.start, edges[-1])))
        for part, cols in zip(parts, ranges, strict=True):
            torch.mm(anchors[rows], keys[cols].T, out=band[:, part])
        if unshifted:
            shift = None
            weights = torch.exp2(band, out=band)
            clear(weights, 0.0)
        else:
            clear(band, -torch.inf)
            shift = band.amax(dim=1).clamp_min(torch.finfo(band.dtype).min)
            weights = band.sub_(shift[:, None]).exp2_()
        sums = weights.sum(dim=1)
        logs[rows] = sums.log2() if shift is None else sums.log2() + shift
        if factors is None:
            continue
        anchor_gradient, key_gradient = gradients
        scale = torch.where(sums == 0, 0.0, factors[rows] / sums)[:, None]
        scaled = anchors[rows] * scale
        for part, cols in zip(parts, ranges, strict=True):
            anchor_gradient[rows].addmm_(weights[:, part], keys[cols])
            key_gradient[cols].addmm_(weights[:, part].T, scaled)
        anchor_gradient[rows].mul_(scale)
    return [logs, *gradients]


def band_products(
    anchors: Tensor,
    keys: Tensor,
    anchor_terms: tuple[Tensor, Tensor],
    key_terms: tuple[Tensor, Tensor],
    bands: Iterable[Band],
) -> Tensor:
    """The anchors' rows of a symmetric product: M K with the M of :func:`add_products`.

    Args:
        anchors: ``[N, D]``.
        keys: ``[M, D]``, among them the anchors.
        anchor_terms: c and log of the anchors; a log of -inf drops its term.
        key_terms: c and log of the keys.
        bands: The pairs where M is not zero.
    """
    gradient = torch.zeros_like(anchors)
    scratch = Scratch(anchors)
    row_factors, row_logs = _drop_empty(*anchor_terms)
    col_factors, col_logs = _drop_empty(*key_terms)
    for rows, ranges, clear in bands:
        (cols,) = ranges
        scores = scratch.scores(anchors[rows], keys[cols])
        row_terms = row_factors[rows], row_logs[rows]
        col_terms = col_factors[cols], col_logs[cols]
        matrix = scratch.softmax_sum(scores, row_terms, col_terms)
        clear(matrix, 0.0)
        gradient[rows] = matrix @ keys[cols]
    return gradient


# ------------------------------------------------------------------------------------- helpers


class Scratch:
    """Buffers for tiles, used again from tile to tile so that they stay in cache."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._buffers: dict[int, Tensor] = {}

    def tile(self, slot: int, shape: torch.Size) -> Tensor:
        """A tile of this shape; whatever the slot held before is lost."""
        size = shape.numel()
        buffer = self._buffers.get(slot)
        if buffer is None or buffer.numel() < size:
            buffer = self._like.new_empty(size)
            self._buffers[slot] = buffer
        return buffer[:size].view(shape)

    def scores(self, rows: Tensor, cols: Tensor) -> Tensor:
        """Scores of rows against columns, in slot 0."""
        out = self.tile(0, torch.Size((rows.shape[0], cols.shape[0])))
        return torch.mm(rows, cols.T, out=out)

    def softmax_sum(
        self, scores: Tensor, row_terms: tuple[Tensor, Tensor], col_terms: tuple[Tensor, Tensor]
    ) -> Tensor:
        """``c_p exp2(s_pk - log_p) + c_k exp2(s_pk - log_k)`` in place of the scores; takes slot 1.

        The terms are c and log of the rows p and of the columns k.
        """
        second = torch.sub(scores, col_terms[1], out=self.tile(1, scores.shape))
        second.exp2_().mul_(col_terms[0])
        return scores.sub_(row_terms[1][:, None]).exp2_().mul_(row_terms[0][:, None]).add_(second)


def _drop_empty(factors: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
    """Zeros for both where a row has no pair (log of -inf); NaN must reach the gradient."""
    empty = logs == -torch.inf
    return torch.where(empty, 0.0, factors), torch.where(empty, 0.0, logs)


def _logsumexp2(scores: Tensor, dim: int) -> Tensor:
    """Log of the sum of ``exp2``; -inf, not NaN, where all are -inf."""
    return torch.logsumexp(scores * math.log(2), dim=dim) / math.log(2)
