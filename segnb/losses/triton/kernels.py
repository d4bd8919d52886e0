# mypy: ignore-errors
"""Triton kernels of the pixel contrastive losses. ``segnb.losses.triton.launch`` launches them.

The notation is that of ``segnb.losses.backends``. All scores are in base 2, so that every
exponential is one ``exp2``: ``c = log2(e) / tau`` turns ``f_p . f_k`` into a score.

The pixels come sorted (:func:`pack`), so that the keys of one class of one image lie side by side.
For a block of ``BM`` rows, :func:`plan_tiles` names the ranges of keys that it needs:

* *pure* ranges: whole tiles of ``BN`` keys in which every pair counts, and
* *mixed* ranges, at a class's border or at the ragged end of a range, where a mask decides.

Each kind has its own loop (``for MIXED in tl.static_range(2)`` is unrolled): a mask in every tile
would cost time and, in the backward pass, registers that are not there. Tiles that no row of the
block needs are never read.

fp32 features come as three 16-bit ``PARTS`` that add up to them, and a product of two features is
six products of parts: the speed of the tensor cores at the accuracy of fp32, where a product of
fp32 numbers would round to tf32. With one part, the second and third equal the first and are not
used.

The grid is (blocks of rows, batch).
"""

from __future__ import annotations

import triton
import triton.language as tl

# A sorted key: batch << 50 | ignored << 49 | image << 32 | (label + 2**31). A batch element's
# ignored pixels come last. `segnb.losses.triton.launch` builds it.
IGNORED = tl.constexpr(1 << 49)
IMAGE = tl.constexpr(1 << 32)
LABEL_MASK = tl.constexpr((1 << 32) - 1)
IMAGE_MASK = tl.constexpr((1 << 17) - 1)
BATCH_SHIFT = tl.constexpr(50)

#: int32 entries that `plan_tiles` writes for each block of rows.
PLAN = tl.constexpr(8)

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _split(value, dtype: tl.constexpr):
    """Three numbers of fewer bits whose sum is the value."""
    first = value.to(dtype)
    rest = value - first.to(tl.float32)
    second = rest.to(dtype)
    return first, second, (rest - second.to(tl.float32)).to(dtype)


@triton.jit
def _part_stride(padded, D: tl.constexpr):
    """Elements from one part of packed features to the next."""
    return tl.num_programs(1).to(tl.int64) * padded * D


@triton.jit
def pack(
    features,
    keys,
    order,
    packed,
    packed_keys,
    stride_batch,
    stride_row,
    pixels,
    padded,
    width,
    ROWS: tl.constexpr,
    D: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Features and keys in sorted order, padded with zero rows and zero columns.

    Ignored pixels become zero rows, so that NaN in them does not spread.
    """
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    last_key = ((batch + 1) << BATCH_SHIFT) - 1
    key = tl.load(keys + batch * pixels + row, mask=row < pixels, other=last_key)
    used = (row < pixels) & (key < (batch << BATCH_SHIFT) + IGNORED)
    source = tl.load(order + batch * pixels + row, mask=used, other=0).to(tl.int64)
    column = tl.arange(0, D)
    value = tl.load(
        features + batch * stride_batch + source[:, None] * stride_row + column[None, :],
        mask=used[:, None] & (column[None, :] < width),
        other=0.0,
    )
    target = batch * padded + row
    inside = row < padded
    address = packed + target[:, None] * D + column[None, :]
    if PARTS == 3:
        first, second, third = _split(value.to(tl.float32), packed.dtype.element_ty)
        stride = _part_stride(padded, D)
        tl.store(address, first, mask=inside[:, None])
        tl.store(address + stride, second, mask=inside[:, None])
        tl.store(address + 2 * stride, third, mask=inside[:, None])
    else:
        tl.store(address, value.to(packed.dtype.element_ty), mask=inside[:, None])
    tl.store(packed_keys + target, key, mask=inside)


@triton.jit
def _lower_bound(keys, size, query, steps):
    """First position in ``keys[:size]`` whose key is not below the query, for many queries."""
    low = (query * 0).to(tl.int32)
    high = low + size
    for _ in range(steps):
        middle = (low + high) // 2
        searching = low < high
        below = tl.load(keys + middle, mask=searching, other=0) < query
        low = tl.where(searching & below, middle + 1, low)
        high = tl.where(searching & ~below, middle, high)
    return low


@triton.jit
def plan_tiles(
    row_keys,
    col_keys,
    plan,
    row_size,
    col_size,
    row_padded,
    col_padded,
    blocks,
    steps,
    PAIRS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    LANES: tl.constexpr,
):
    """For every block of rows: which ranges of keys are needed, and which of them are pure.

    Writes the first and past-the-end key of two pure ranges, then of two mixed ones. ``PAIRS`` is
    ``all``, ``not_self`` (all keys but the row's own pixel), ``same`` (the row's class, in all
    images) or ``other`` (the other classes of the row's image).
    """
    batch = tl.program_id(1).to(tl.int64)
    block = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row_keys += batch * row_padded
    col_keys += batch * col_padded
    # The smallest key of an ignored pixel: all used keys are smaller.
    end = (batch << BATCH_SHIFT) + IGNORED + tl.zeros([LANES], tl.int64)
    rows = _lower_bound(row_keys, row_size, end, steps)
    cols = _lower_bound(col_keys, col_size, end, steps)

    row0 = block * BM
    row1 = tl.minimum(row0 + BM, rows)
    active = row0 < rows
    first = tl.load(row_keys + row0, mask=active, other=0)
    last = tl.load(row_keys + row1 - 1, mask=active, other=0)
    # Keys of the block's classes, in the block's images.
    inner0 = _lower_bound(col_keys, col_size, first, steps)
    inner1 = _lower_bound(col_keys, col_size, last + 1, steps)
    one_class = first == last
    one_image = (first // IMAGE) == (last // IMAGE)

    # Two ranges [left0, left1) and [right0, right1). `pure`: their whole tiles need no mask.
    # `joined`: what lies between them is needed too, under the mask.
    if PAIRS == "other":
        left0 = _lower_bound(col_keys, col_size, (first // IMAGE) * IMAGE, steps)
        right1 = _lower_bound(col_keys, col_size, (last // IMAGE + 1) * IMAGE, steps)
        left1 = tl.where(one_image, inner0, left0)
        right0 = tl.where(one_image, inner1, right1)
        joined = ~one_class
        pure = active
    elif PAIRS == "same":
        # The same classes in the other image of a pair, whose images are 0 and 1.
        other0 = _lower_bound(col_keys, col_size, first ^ IMAGE, steps)
        other1 = _lower_bound(col_keys, col_size, (last ^ IMAGE) + 1, steps)
        top = tl.load(col_keys + cols - 1, mask=cols > 0, other=0)
        tight = one_image & (((top // IMAGE) & IMAGE_MASK) <= 1)
        left0 = tl.where(tight, inner0, 0)
        left1 = tl.where(tight, inner1, cols)
        right0 = tl.where(tight, other0, cols)
        right1 = tl.where(tight, other1, cols)
        joined = left0 != left0
        pure = one_class & tight
    else:
        left0 = cols * 0
        right1 = cols
        if PAIRS == "not_self":
            left1 = row0
            right0 = row1
            joined = active
        else:
            left1 = cols
            right0 = cols
            joined = left0 != left0
        pure = active

    left_end = left0 + tl.where(pure, tl.maximum(left1 - left0, 0) // BN * BN, 0)
    right_start = right1 - tl.where(pure, tl.maximum(right1 - right0, 0) // BN * BN, 0)
    plan += (batch * blocks + block) * PLAN
    inside = block < blocks
    _store_range(plan, left0, left_end, active, inside)
    _store_range(plan + 2, right_start, right1, active, inside)
    _store_range(plan + 4, left_end, tl.where(joined, right_start, left1), active, inside)
    _store_range(plan + 6, right0, tl.where(joined, right0, right_start), active, inside)


@triton.jit
def _store_range(plan, start, stop, active, inside):
    """Write a range of keys; it is empty for blocks without used rows."""
    tl.store(plan, start, mask=inside)
    tl.store(plan + 1, tl.where(active, stop, start), mask=inside)


@triton.jit
def _ranges(plan, MIXED: tl.constexpr, BN: tl.constexpr):
    """Ranges [a0, a1) and [b0, b1) of a kind, the tiles of the first and of both."""
    plan += 4 * MIXED
    a0 = tl.load(plan)
    a1 = tl.load(plan + 1)
    b0 = tl.load(plan + 2)
    b1 = tl.load(plan + 3)
    first = tl.cdiv(tl.maximum(a1 - a0, 0), BN)
    return a0, a1, b0, b1, first, first + tl.cdiv(tl.maximum(b1 - b0, 0), BN)


@triton.jit
def _tile_keys(tile, a0, a1, b0, b1, first, BN: tl.constexpr):
    """First key of a tile, and the end of its range."""
    in_first = tile < first
    start = tl.where(in_first, a0 + tile * BN, b0 + (tile - first) * BN)
    return start, tl.where(in_first, a1, b1)


@triton.jit
def _load_rows(features, start, stride, ROWS: tl.constexpr, D: tl.constexpr, PARTS: tl.constexpr):
    """The parts of a tile of packed rows. Packed sets are padded: no tile reads past their end."""
    offsets = tl.arange(0, ROWS)[:, None] * D + tl.arange(0, D)[None, :]
    address = features + start.to(tl.int64) * D + offsets
    first = tl.load(address)
    second = first
    third = first
    if PARTS == 3:
        second = tl.load(address + stride)
        third = tl.load(address + 2 * stride)
    return first, second, third


@triton.jit
def _add_product(acc, a0, a1, a2, b0, b1, b2, PARTS: tl.constexpr):
    """``acc + a b``: the small products of parts first, to lose less to rounding."""
    if PARTS == 3:
        acc = tl.dot(a2, b0, acc)
        acc = tl.dot(a0, b2, acc)
        acc = tl.dot(a1, b1, acc)
        acc = tl.dot(a1, b0, acc)
        acc = tl.dot(a0, b1, acc)
    # fp32 operands come here only where tf32 is allowed.
    return tl.dot(a0, b0, acc, input_precision="tf32")


@triton.jit
def _scores(f0, f1, f2, k0, k1, k2, c, PARTS: tl.constexpr):
    """Base-2 scores of a tile."""
    zero = tl.zeros([f0.shape[0], k0.shape[0]], tl.float32)
    return c * _add_product(zero, f0, f1, f2, tl.trans(k0), tl.trans(k1), tl.trans(k2), PARTS)


@triton.jit
def _allowed(row_key, row_index, col_keys, start, stop, PAIRS: tl.constexpr, BN: tl.constexpr):
    """Which pairs of a mixed tile count."""
    col_index = start + tl.arange(0, BN)
    allowed = (col_index < stop)[None, :]
    if PAIRS == "not_self":
        allowed = allowed & (row_index[:, None] != col_index[None, :])
    elif PAIRS != "all":
        col_key = tl.load(col_keys + col_index)
        row_label = (row_key & LABEL_MASK).to(tl.int32)[:, None]
        col_label = (col_key & LABEL_MASK).to(tl.int32)[None, :]
        if PAIRS == "same":
            allowed = allowed & (row_label == col_label)
        else:
            row_image = (row_key // IMAGE).to(tl.int32)[:, None]
            col_image = (col_key // IMAGE).to(tl.int32)[None, :]
            allowed = allowed & (row_label != col_label) & (row_image == col_image)
    return allowed


@triton.jit
def _add_to_logsumexp(top, total, scores):
    """Online logsumexp: ``top`` is the largest score so far, ``total`` the sum relative to it."""
    new_top = tl.maximum(top, tl.max(scores, 1))
    # A row that has seen no key has top = -inf; any finite shift will do.
    shift = tl.where(new_top == float("-inf"), 0.0, new_top)
    total = total * tl.exp2(top - shift) + tl.sum(tl.exp2(scores - shift[:, None]), 1)
    return new_top, total


@triton.jit
def _row_logsumexp(
    f0,
    f1,
    f2,
    row_key,
    row_index,
    cols,
    col_stride,
    col_keys,
    plan,
    c,
    PAIRS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Base-2 logsumexp of each row's scores over its allowed keys; -inf where there are none."""
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    for MIXED in tl.static_range(2):
        a0, a1, b0, b1, first, tiles = _ranges(plan, MIXED, BN)
        for tile in range(tiles):
            start, stop = _tile_keys(tile, a0, a1, b0, b1, first, BN)
            k0, k1, k2 = _load_rows(cols, start, col_stride, BN, D, PARTS)
            scores = _scores(f0, f1, f2, k0, k1, k2, c, PARTS)
            if MIXED:
                allowed = _allowed(row_key, row_index, col_keys, start, stop, PAIRS, BN)
                scores = tl.where(allowed, scores, float("-inf"))
            top, total = _add_to_logsumexp(top, total, scores)
    return top + tl.log2(total)


@triton.jit
def logsumexp_forward(
    rows,
    cols,
    row_keys,
    col_keys,
    order,
    plan,
    out,
    row_size,
    row_padded,
    col_padded,
    c,
    PAIRS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Natural logsumexp of every anchor over its allowed keys, written in the anchors' order."""
    block = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    cols += batch * col_padded * D
    col_keys += batch * col_padded
    plan += (batch * tl.num_programs(0) + block) * PLAN
    row_index = block * BM + tl.arange(0, BM)
    row_key = tl.load(row_keys + batch * row_padded + row_index)
    stride = _part_stride(row_padded, D)
    f0, f1, f2 = _load_rows(rows + batch * row_padded * D, block * BM, stride, BM, D, PARTS)
    stride = _part_stride(col_padded, D)
    lse = _row_logsumexp(
        f0, f1, f2, row_key, row_index, cols, stride, col_keys, plan, c, PAIRS, BM, BN, D, PARTS
    )
    used = row_key < (batch << BATCH_SHIFT) + IGNORED
    inside = row_index < row_size
    target = tl.load(order + batch * row_size + row_index, mask=inside, other=0)
    value = tl.where(used, lse * LN2, float("-inf"))
    tl.store(out + batch * row_size + target, value, mask=inside)


@triton.jit
def _gradient_tile(
    scores,
    row_shift,
    row_weight,
    col_shift,
    col_weight,
    start,
    TERMS: tl.constexpr,
    BN: tl.constexpr,
):
    """A tile of the matrix whose product with the keys is the rows' gradient.

    ``TERMS`` is ``rows`` (the rows are the anchors: G, without their weights, which cost nothing
    at the end), ``cols`` (the columns are the anchors: G transposed), ``both`` (the sum of the
    two), or ``positives``: ``w_p sigma_pq + w_q sigma_qp``, sigma_pq = 1 / (1 + 1 / x_pq).
    """
    if TERMS != "rows":
        col_index = start + tl.arange(0, BN)
        shift = tl.load(col_shift + col_index)
        weight = tl.load(col_weight + col_index)
        by_col = tl.exp2(scores - shift[None, :])
    if TERMS != "cols":
        by_row = tl.exp2(scores - row_shift[:, None])
    if TERMS == "rows":
        gradient = by_row
    elif TERMS == "cols":
        gradient = by_col * weight[None, :]
    elif TERMS == "both":
        gradient = by_col * weight[None, :] + by_row * row_weight[:, None]
    else:
        gradient = row_weight[:, None] / (1.0 + by_row) + weight[None, :] / (1.0 + by_col)
    return gradient


@triton.jit
def _add_gradient(
    acc,
    f0,
    f1,
    f2,
    row_key,
    row_index,
    row_shift,
    row_weight,
    cols,
    col_stride,
    col_keys,
    col_shift,
    col_weight,
    plan,
    c,
    PAIRS: tl.constexpr,
    TERMS: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    PARTS: tl.constexpr,
):
    """``acc`` plus the product of the matrix of :func:`_gradient_tile` with the keys."""
    for MIXED in tl.static_range(2):
        a0, a1, b0, b1, first, tiles = _ranges(plan, MIXED, BN)
        for tile in range(tiles):
            start, stop = _tile_keys(tile, a0, a1, b0, b1, first, BN)
            k0, k1, k2 = _load_rows(cols, start, col_stride, BN, D, PARTS)
            scores = _scores(f0, f1, f2, k0, k1, k2, c, PARTS)
            gradient = _gradient_tile(
                scores, row_shift, row_weight, col_shift, col_weight, start, TERMS, BN
            )
            if MIXED:
                allowed = _allowed(row_key, row_index, col_keys, start, stop, PAIRS, BN)
                gradient = tl.where(allowed, gradient, 0.0)
            g0 = gradient.to(k0.dtype)
            g1 = g0
            g2 = g0
            if PARTS == 3:
                g0, g1, g2 = _split(gradient, k0.dtype)
            acc = _add_product(acc, g0, g1, g2, k0, k1, k2, PARTS)
    return acc


@triton.jit
def _store_gradient(out, acc, row_index, keys, order, size, width, D: tl.constexpr):
    """Write rows of a gradient in the pixels' order; zero for ignored pixels."""
    batch = tl.program_id(1).to(tl.int64)
    # The keys are read again: kept through the loops they would take registers.
    used = tl.load(keys + row_index) < (batch << BATCH_SHIFT) + IGNORED
    inside = row_index < size
    target = batch * size + tl.load(order + batch * size + row_index, mask=inside, other=0)
    column = tl.arange(0, D)
    tl.store(
        out + target[:, None] * width + column[None, :],
        tl.where(used[:, None], acc, 0.0).to(out.dtype.element_ty),
        mask=inside[:, None] & (column[None, :] < width),
    )


@triton.jit
def logsumexp_backward(
    rows,
    cols,
    row_keys,
    col_keys,
    order,
    plan,
    row_shift,
    row_weight,
    col_shift,
    col_weight,
    factor,
    out,
    width,
    row_size,
    row_padded,
    col_padded,
    c,
    PAIRS: tl.constexpr,
    TERMS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Gradient of the logsumexp for the rows, a block of them at a time.

    ``TERMS`` says whether the rows are the anchors, the keys (the columns are then the anchors),
    or both, where they are one set. ``factor`` (one for each batch element) includes 1/tau and
    undoes the scaling of the weights.
    """
    block = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    row_keys += batch * row_padded
    row_index = block * BM + tl.arange(0, BM)
    weight = tl.load(row_weight + batch * row_padded + row_index)
    stride = _part_stride(row_padded, D)
    f0, f1, f2 = _load_rows(rows + batch * row_padded * D, block * BM, stride, BM, D, PARTS)
    acc = _add_gradient(
        tl.zeros([BM, D], tl.float32),
        f0,
        f1,
        f2,
        tl.load(row_keys + row_index),
        row_index,
        tl.load(row_shift + batch * row_padded + row_index),
        weight,
        cols + batch * col_padded * D,
        _part_stride(col_padded, D),
        col_keys + batch * col_padded,
        col_shift + batch * col_padded,
        col_weight + batch * col_padded,
        plan + (batch * tl.num_programs(0) + block) * PLAN,
        c,
        PAIRS,
        TERMS,
        BN,
        D,
        PARTS,
    )
    acc *= tl.load(factor + batch)
    if TERMS == "rows":
        acc *= weight[:, None]
    _store_gradient(out, acc, row_index, row_keys, order, row_size, width, D)


@triton.jit
def _multiply(a, b):
    return a * b


@triton.jit
def _positive_terms(difference):
    """log2(1 + x) as a sum and a factor, and x / (1 + x), for x = 2**difference.

    With y = 2**-|difference|, ``log2(1 + x) = max(difference, 0) + log2(1 + y)``. The second
    terms of a row add up to the logarithm of the product of the factors u = 1 + y. What u loses
    to rounding is put back to first order, for losses near zero.
    """
    y = tl.exp2(-tl.abs(difference))
    u = 1.0 + y
    inverse = 1.0 / u
    linear = tl.maximum(difference, 0.0) + (y - (u - 1.0)) * inverse * LOG2E
    return linear, u, tl.where(difference >= 0.0, 1.0, y) * inverse


@triton.jit
def official_forward(
    packed,
    keys,
    order,
    negative_plan,
    positive_plan,
    loss,
    negatives,
    sigmas,
    counts,
    size,
    padded,
    c,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Loss of every pixel, in the pixels' order; in sorted order what the backward pass needs.

    That is the base-2 logarithm of neg_p, the mean of sigma over p's positives, and their number.
    """
    tl.static_assert(BN <= 64, "the product over a tile's keys must stay finite")
    block = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    packed += batch * padded * D
    keys += batch * padded
    plan = negative_plan + (batch * tl.num_programs(0) + block) * PLAN
    positive_plan += (batch * tl.num_programs(0) + block) * PLAN
    stride = _part_stride(padded, D)
    row_index = block * BM + tl.arange(0, BM)
    row_key = tl.load(keys + row_index)
    f0, f1, f2 = _load_rows(packed, block * BM, stride, BM, D, PARTS)
    negative = _row_logsumexp(
        f0, f1, f2, row_key, row_index, packed, stride, keys, plan, c, "other", BM, BN, D, PARTS
    )

    total = tl.zeros([BM], tl.float32)
    sigma = tl.zeros([BM], tl.float32)
    count = tl.zeros([BM], tl.int32)
    for MIXED in tl.static_range(2):
        a0, a1, b0, b1, first, tiles = _ranges(positive_plan, MIXED, BN)
        for tile in range(tiles):
            start, stop = _tile_keys(tile, a0, a1, b0, b1, first, BN)
            k0, k1, k2 = _load_rows(packed, start, stride, BN, D, PARTS)
            scores = _scores(f0, f1, f2, k0, k1, k2, c, PARTS)
            linear, u, sigma_terms = _positive_terms(negative[:, None] - scores)
            if MIXED:
                allowed = _allowed(row_key, row_index, keys, start, stop, "same", BN)
                linear = tl.where(allowed, linear, 0.0)
                u = tl.where(allowed, u, 1.0)
                sigma_terms = tl.where(allowed, sigma_terms, 0.0)
                count += tl.sum(allowed.to(tl.int32), 1)
            # A product of at most 64 factors of at most 2 is finite.
            total += tl.sum(linear, 1) + tl.log2(tl.reduce(u, 1, _multiply))
            sigma += tl.sum(sigma_terms, 1)
        if not MIXED:
            count += tiles * BN

    used = row_key < (batch << BATCH_SHIFT) + IGNORED
    inside = row_index < size
    number = tl.maximum(count, 1).to(tl.float32)
    target = tl.load(order + batch * size + row_index, mask=inside, other=0)
    tl.store(loss + batch * size + target, tl.where(used, total * LN2 / number, 0.0), mask=inside)
    position = batch * padded + row_index
    tl.store(negatives + position, negative, mask=inside)
    tl.store(sigmas + position, tl.where(used, sigma / number, 0.0), mask=inside)
    tl.store(counts + position, number, mask=inside)


@triton.jit
def official_backward(
    packed,
    keys,
    order,
    negative_plan,
    positive_plan,
    negatives,
    negative_weights,
    positive_weights,
    factor,
    out,
    width,
    size,
    padded,
    c,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Gradient of the official losses for a block of pixels: one product with a symmetric matrix.

    ``negative_weights`` are g_p mean_q(sigma_pq), ``positive_weights`` are g_p / |P_p|, both in
    sorted order.
    """
    block = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    packed += batch * padded * D
    keys += batch * padded
    negatives += batch * padded
    positive_weights += batch * padded
    negative_weights += batch * padded
    plan = (batch * tl.num_programs(0) + block) * PLAN
    stride = _part_stride(padded, D)
    row_index = block * BM + tl.arange(0, BM)
    row_key = tl.load(keys + row_index)
    row_shift = tl.load(negatives + row_index)
    f0, f1, f2 = _load_rows(packed, block * BM, stride, BM, D, PARTS)
    acc = _add_gradient(
        tl.zeros([BM, D], tl.float32),
        f0,
        f1,
        f2,
        row_key,
        row_index,
        row_shift,
        tl.load(positive_weights + row_index),
        packed,
        stride,
        keys,
        negatives,
        positive_weights,
        positive_plan + plan,
        c,
        "same",
        "positives",
        BN,
        D,
        PARTS,
    )
    # The positives' part has the other sign.
    acc = _add_gradient(
        -acc,
        f0,
        f1,
        f2,
        row_key,
        row_index,
        row_shift,
        tl.load(negative_weights + row_index),
        packed,
        stride,
        keys,
        negatives,
        negative_weights,
        negative_plan + plan,
        c,
        "other",
        "both",
        BN,
        D,
        PARTS,
    )
    acc *= tl.load(factor + batch)
    _store_gradient(out, acc, row_index, keys, order, size, width, D)
