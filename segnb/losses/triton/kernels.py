# mypy: ignore-errors
"""Triton kernels of the pixel contrastive losses. ``segnb.losses.triton.launch`` launches them.

The notation is that of ``segnb.losses.backends``. All scores are kept in base 2, so that every
exponential is one ``exp2``: ``c = log2(e) / tau`` turns ``f_p . f_k`` into them.

The pixels come sorted (:func:`pack`), so that the keys of one class of one image lie side by side.
For a block of ``BM`` rows, :func:`plan_tiles` names the stretches of keys that it needs:

* *pure* stretches, whole tiles of ``BN`` keys in which every pair counts, and
* *mixed* stretches, at a class's border or at a stretch's ragged end, where a mask decides.

The two have loops of their own: a mask in every tile costs time and, in the backward pass,
registers that are not there. Tiles that no row of the block needs are never read.

fp32 features come as three 16-bit ``PARTS`` whose sum they are, and a product of two of them is
six products of parts: the tensor cores' speed at fp32's accuracy, where a product of fp32 numbers
would round to tf32. Where there is one part, the second and third are the first, and not used.
"""

from __future__ import annotations

import triton
import triton.language as tl

# A sorted key: batch << 50 | ignored << 49 | image << 32 | (label + 2**31). A batch's ignored
# pixels come last. `segnb.losses.triton.launch` builds it.
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
    part_stride,
    width,
    ROWS: tl.constexpr,
    D: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Features and keys in sorted order, padded with zero rows and zero columns.

    Ignored pixels become zero rows: whatever they hold, times a zero weight, must be zero.
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
    place = packed + target[:, None] * D + column[None, :]
    if PARTS == 3:
        first, second, third = _split(value.to(tl.float32), packed.dtype.element_ty)
        tl.store(place, first, mask=inside[:, None])
        # Twice the stride, as a number, could leave 32 bits.
        place += part_stride
        tl.store(place, second, mask=inside[:, None])
        place += part_stride
        tl.store(place, third, mask=inside[:, None])
    else:
        tl.store(place, value.to(packed.dtype.element_ty), mask=inside[:, None])
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
    """For every block of rows: which stretches of keys are needed, and which of them are pure.

    Writes first pure key and number of pure tiles, twice; then first and past-the-end key of a
    mixed stretch, twice. ``PAIRS`` is ``all``, ``not_self`` (all keys but the row's own pixel),
    ``same`` (the row's class, in all images) or ``other`` (the other classes of the row's image).
    """
    batch = tl.program_id(1).to(tl.int64)
    block = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row_keys += batch * row_padded
    col_keys += batch * col_padded
    # Smallest key that an ignored pixel can have: all used keys lie below it.
    end = (batch << BATCH_SHIFT) + IGNORED + tl.zeros([LANES], tl.int64)
    rows = _lower_bound(row_keys, row_size, end, steps)
    cols = _lower_bound(col_keys, col_size, end, steps)

    row0 = block * BM
    row1 = tl.minimum(row0 + BM, rows)
    active = row0 < rows
    first = tl.load(row_keys + row0, mask=active, other=0)
    last = tl.load(row_keys + row1 - 1, mask=active, other=0)
    # Keys of the classes that the block's rows belong to, and of their image.
    inner0 = _lower_bound(col_keys, col_size, first, steps)
    inner1 = _lower_bound(col_keys, col_size, last + 1, steps)
    one_class = first == last
    one_image = (first // IMAGE) == (last // IMAGE)

    # Two stretches [left0, left1) and [right0, right1). `pure`: their whole tiles need no mask.
    # `joined`: what lies between them is needed too, under the mask.
    if PAIRS == "other":
        left0 = _lower_bound(col_keys, col_size, (first // IMAGE) * IMAGE, steps)
        right1 = _lower_bound(col_keys, col_size, (last // IMAGE + 1) * IMAGE, steps)
        left1 = tl.where(one_image, inner0, left0)
        right0 = tl.where(one_image, inner1, right1)
        joined = ~one_class
        pure = active
    elif PAIRS == "same":
        # The same classes in the other image of a pair: image 0's partner is 1 and the reverse.
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

    left_tiles = tl.where(pure, tl.maximum(left1 - left0, 0) // BN, 0)
    right_tiles = tl.where(pure, tl.maximum(right1 - right0, 0) // BN, 0)
    right_start = right1 - right_tiles * BN
    mixed0 = left0 + left_tiles * BN
    mixed1 = tl.where(joined, right_start, left1)
    mixed2 = right0
    mixed3 = tl.where(joined, right0, right_start)

    plan += (batch * blocks + block) * PLAN
    inside = block < blocks
    tl.store(plan + 0, left0, mask=inside)
    tl.store(plan + 1, tl.where(active, left_tiles, 0), mask=inside)
    tl.store(plan + 2, right_start, mask=inside)
    tl.store(plan + 3, tl.where(active, right_tiles, 0), mask=inside)
    tl.store(plan + 4, mixed0, mask=inside)
    tl.store(plan + 5, tl.where(active, mixed1, mixed0), mask=inside)
    tl.store(plan + 6, mixed2, mask=inside)
    tl.store(plan + 7, tl.where(active, mixed3, mixed2), mask=inside)


@triton.jit
def _pure_stretches(plan):
    """First stretch, its number of tiles, second stretch, number of tiles of both."""
    left = tl.load(plan)
    left_tiles = tl.load(plan + 1)
    right = tl.load(plan + 2)
    return left, left_tiles, right, left_tiles + tl.load(plan + 3)


@triton.jit
def _pure_start(tile, left, left_tiles, right, BN: tl.constexpr):
    return tl.where(tile < left_tiles, left + tile * BN, right + (tile - left_tiles) * BN)


@triton.jit
def _mixed_stretches(plan, BN: tl.constexpr):
    """Two stretches [a0, a1) and [b0, b1), the first one's tiles, both ones' tiles."""
    a0 = tl.load(plan + 4)
    a1 = tl.load(plan + 5)
    b0 = tl.load(plan + 6)
    b1 = tl.load(plan + 7)
    first = tl.cdiv(tl.maximum(a1 - a0, 0), BN)
    return a0, a1, b0, b1, first, first + tl.cdiv(tl.maximum(b1 - b0, 0), BN)


@triton.jit
def _mixed_tile(tile, a0, a1, b0, b1, first, BN: tl.constexpr):
    """Start and end of a mixed tile's keys."""
    in_first = tile < first
    start = tl.where(in_first, a0 + tile * BN, b0 + (tile - first) * BN)
    return start, tl.where(in_first, a1, b1)


@triton.jit
def _load_rows(
    features, start, part_stride, ROWS: tl.constexpr, D: tl.constexpr, PARTS: tl.constexpr
):
    """The parts of a tile of packed rows. Packed sets are padded: no tile ends past their end."""
    offsets = tl.arange(0, ROWS)[:, None] * D + tl.arange(0, D)[None, :]
    place = features + start.to(tl.int64) * D + offsets
    first = tl.load(place)
    second = first
    third = first
    if PARTS == 3:
        # Twice the stride, as a number, could leave 32 bits.
        place += part_stride
        second = tl.load(place)
        place += part_stride
        third = tl.load(place)
    return first, second, third


@triton.jit
def _scores(f0, f1, f2, k0, k1, k2, c, PARTS: tl.constexpr, PRECISION: tl.constexpr):
    """Base-2 scores of a tile: the small products of parts first, for the rounding's sake."""
    if PARTS == 3:
        scores = tl.dot(f2, tl.trans(k0))
        scores = tl.dot(f0, tl.trans(k2), scores)
        scores = tl.dot(f1, tl.trans(k1), scores)
        scores = tl.dot(f1, tl.trans(k0), scores)
        scores = tl.dot(f0, tl.trans(k1), scores)
        scores = tl.dot(f0, tl.trans(k0), scores)
    else:
        scores = tl.dot(f0, tl.trans(k0), input_precision=PRECISION)
    return scores * c


@triton.jit
def _add_product(acc, gradient, k0, k1, k2, PARTS: tl.constexpr, PRECISION: tl.constexpr):
    """``acc`` plus a tile of the gradient's matrix times its keys."""
    if PARTS == 3:
        g0, g1, g2 = _split(gradient, k0.dtype)
        acc = tl.dot(g2, k0, acc)
        acc = tl.dot(g0, k2, acc)
        acc = tl.dot(g1, k1, acc)
        acc = tl.dot(g1, k0, acc)
        acc = tl.dot(g0, k1, acc)
        acc = tl.dot(g0, k0, acc)
    else:
        acc = tl.dot(gradient.to(k0.dtype), k0, acc, input_precision=PRECISION)
    return acc


@triton.jit
def _allowed(
    row_key,
    row_index,
    col_keys,
    start,
    stop,
    PAIRS: tl.constexpr,
    BN: tl.constexpr,
):
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
    # A row that has met no key yet has top = -inf; any finite shift serves it.
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
    col_parts,
    col_keys,
    plan,
    c,
    PAIRS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Base-2 logsumexp of each row's scores over its allowed keys; -inf where there are none."""
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    left, left_tiles, right, tiles = _pure_stretches(plan)
    for tile in range(tiles):
        start = _pure_start(tile, left, left_tiles, right, BN)
        k0, k1, k2 = _load_rows(cols, start, col_parts, BN, D, PARTS)
        scores = _scores(f0, f1, f2, k0, k1, k2, c, PARTS, PRECISION)
        top, total = _add_to_logsumexp(top, total, scores)
    a0, a1, b0, b1, first, tiles = _mixed_stretches(plan, BN)
    for tile in range(tiles):
        start, stop = _mixed_tile(tile, a0, a1, b0, b1, first, BN)
        k0, k1, k2 = _load_rows(cols, start, col_parts, BN, D, PARTS)
        scores = _scores(f0, f1, f2, k0, k1, k2, c, PARTS, PRECISION)
        allowed = _allowed(row_key, row_index, col_keys, start, stop, PAIRS, BN)
        top, total = _add_to_logsumexp(top, total, tl.where(allowed, scores, float("-inf")))
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
    row_parts,
    col_parts,
    blocks,
    c,
    PAIRS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Natural logsumexp of every anchor over its allowed keys, written in the anchors' order."""
    block = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    row_keys += batch * row_padded
    row_index = block * BM + tl.arange(0, BM)
    f0, f1, f2 = _load_rows(rows + batch * row_padded * D, block * BM, row_parts, BM, D, PARTS)
    lse = _row_logsumexp(
        f0,
        f1,
        f2,
        tl.load(row_keys + row_index),
        row_index,
        cols + batch * col_padded * D,
        col_parts,
        col_keys + batch * col_padded,
        plan + (batch * blocks + block) * PLAN,
        c,
        PAIRS,
        BM,
        BN,
        D,
        PARTS,
        PRECISION,
    )
    used = tl.load(row_keys + row_index) < (batch << BATCH_SHIFT) + IGNORED
    inside = row_index < row_size
    target = tl.load(order + batch * row_size + row_index, mask=inside, other=0)
    value = tl.where(used, lse * LN2, float("-inf"))
    tl.store(out + batch * row_size + target, value, mask=inside)


@triton.jit
def _softmax_gradient(
    scores,
    row_shift,
    row_weight,
    col_shift,
    col_weight,
    start,
    ROW_TERM: tl.constexpr,
    COL_TERM: tl.constexpr,
    BN: tl.constexpr,
):
    """Tile of G (row term), of its transpose (column term), or of their sum.

    With the row term alone the row's weight is left for the end, where it costs nothing.
    """
    if COL_TERM:
        col_index = start + tl.arange(0, BN)
        shift = tl.load(col_shift + col_index)
        weight = tl.load(col_weight + col_index)
        gradient = tl.exp2(scores - shift[None, :]) * weight[None, :]
        if ROW_TERM:
            gradient += tl.exp2(scores - row_shift[:, None]) * row_weight[:, None]
    else:
        gradient = tl.exp2(scores - row_shift[:, None])
    return gradient


@triton.jit
def _softmax_product(
    acc,
    f0,
    f1,
    f2,
    row_key,
    row_index,
    row_shift,
    row_weight,
    cols,
    col_parts,
    col_keys,
    col_shift,
    col_weight,
    plan,
    c,
    PAIRS: tl.constexpr,
    ROW_TERM: tl.constexpr,
    COL_TERM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``acc`` plus the product of the softmax gradient's tiles with the keys."""
    left, left_tiles, right, tiles = _pure_stretches(plan)
    for tile in range(tiles):
        start = _pure_start(tile, left, left_tiles, right, BN)
        k0, k1, k2 = _load_rows(cols, start, col_parts, BN, D, PARTS)
        scores = _scores(f0, f1, f2, k0, k1, k2, c, PARTS, PRECISION)
        gradient = _softmax_gradient(
            scores, row_shift, row_weight, col_shift, col_weight, start, ROW_TERM, COL_TERM, BN
        )
        acc = _add_product(acc, gradient, k0, k1, k2, PARTS, PRECISION)
    a0, a1, b0, b1, first, tiles = _mixed_stretches(plan, BN)
    for tile in range(tiles):
        start, stop = _mixed_tile(tile, a0, a1, b0, b1, first, BN)
        k0, k1, k2 = _load_rows(cols, start, col_parts, BN, D, PARTS)
        scores = _scores(f0, f1, f2, k0, k1, k2, c, PARTS, PRECISION)
        gradient = _softmax_gradient(
            scores, row_shift, row_weight, col_shift, col_weight, start, ROW_TERM, COL_TERM, BN
        )
        allowed = _allowed(row_key, row_index, col_keys, start, stop, PAIRS, BN)
        gradient = tl.where(allowed, gradient, 0.0)
        acc = _add_product(acc, gradient, k0, k1, k2, PARTS, PRECISION)
    return acc


@triton.jit
def _store_gradient(
    out,
    acc,
    row_index,
    used,
    order,
    row_size,
    width,
    D: tl.constexpr,
):
    """Rows of a gradient at the pixels' own places; zero for ignored pixels."""
    inside = row_index < row_size
    target = tl.load(order + row_index, mask=inside, other=0).to(tl.int64)
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
    row_size,
    row_padded,
    col_padded,
    row_parts,
    col_parts,
    blocks,
    width,
    c,
    PAIRS: tl.constexpr,
    ROW_TERM: tl.constexpr,
    COL_TERM: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradient of the logsumexp for the rows, a block of them at a time.

    Rows are the anchors (row term), the keys (column term: the columns are then the anchors), or
    both at once where they are one set. ``factor`` (one a batch) holds 1/tau and undoes the
    scaling of the weights.
    """
    block = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    row_keys += batch * row_padded
    row_index = block * BM + tl.arange(0, BM)
    weight = tl.load(row_weight + batch * row_padded + row_index)
    f0, f1, f2 = _load_rows(rows + batch * row_padded * D, block * BM, row_parts, BM, D, PARTS)
    acc = _softmax_product(
        tl.zeros([BM, D], tl.float32),
        f0,
        f1,
        f2,
        tl.load(row_keys + row_index),
        row_index,
        tl.load(row_shift + batch * row_padded + row_index),
        weight,
        cols + batch * col_padded * D,
        col_parts,
        col_keys + batch * col_padded,
        col_shift + batch * col_padded,
        col_weight + batch * col_padded,
        plan + (batch * blocks + block) * PLAN,
        c,
        PAIRS,
        ROW_TERM,
        COL_TERM,
        BN,
        D,
        PARTS,
        PRECISION,
    )
    acc *= tl.load(factor + batch)
    if not COL_TERM:
        acc *= weight[:, None]
    used = tl.load(row_keys + row_index) < (batch << BATCH_SHIFT) + IGNORED
    batch_offset = batch * row_size
    _store_gradient(
        out + batch_offset * width, acc, row_index, used, order + batch_offset, row_size, width, D
    )


@triton.jit
def _multiply(a, b):
    return a * b


@triton.jit
def _positive_terms(difference, allowed, MASKED: tl.constexpr):
    """Sums over a tile's columns of log2(1 + x) and of x / (1 + x), for x = 2**difference.

    With y = 2**-|difference|, ``log2(1 + x) = max(difference, 0) + log2(1 + y)``, and the sum of
    the second terms is the logarithm of one product, which stays below 2**64. What rounding
    takes from 1 + y is put back to first order, for losses near zero.
    """
    y = tl.exp2(-tl.abs(difference))
    u = 1.0 + y
    inverse = 1.0 / u
    linear = tl.maximum(difference, 0.0) + (y - (u - 1.0)) * inverse * LOG2E
    sigma = tl.where(difference >= 0.0, 1.0, y) * inverse
    if MASKED:
        u = tl.where(allowed, u, 1.0)
        linear = tl.where(allowed, linear, 0.0)
        sigma = tl.where(allowed, sigma, 0.0)
    return tl.sum(linear, 1) + tl.log2(tl.reduce(u, 1, _multiply)), tl.sum(sigma, 1)


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
    parts,
    blocks,
    c,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Loss of every pixel, in the pixels' order; in sorted order what the backward pass needs.

    That is the base-2 logarithm of neg_p, the mean of sigma over p's positives, and their number.
    """
    tl.static_assert(BN <= 64, "the product over a tile's keys must stay finite")
    block = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    packed += batch * padded * D
    keys += batch * padded
    row_index = block * BM + tl.arange(0, BM)
    row_key = tl.load(keys + row_index)
    f0, f1, f2 = _load_rows(packed, block * BM, parts, BM, D, PARTS)
    negative_plan += (batch * blocks + block) * PLAN
    positive_plan += (batch * blocks + block) * PLAN
    negative = _row_logsumexp(
        f0,
        f1,
        f2,
        row_key,
        row_index,
        packed,
        parts,
        keys,
        negative_plan,
        c,
        "other",
        BM,
        BN,
        D,
        PARTS,
        PRECISION,
    )

    total = tl.zeros([BM], tl.float32)
    sigma = tl.zeros([BM], tl.float32)
    left, left_tiles, right, tiles = _pure_stretches(positive_plan)
    for tile in range(tiles):
        start = _pure_start(tile, left, left_tiles, right, BN)
        k0, k1, k2 = _load_rows(packed, start, parts, BN, D, PARTS)
        scores = _scores(f0, f1, f2, k0, k1, k2, c, PARTS, PRECISION)
        log_terms, sigma_terms = _positive_terms(negative[:, None] - scores, True, False)
        total += log_terms
        sigma += sigma_terms
    count = tl.zeros([BM], tl.int32) + tiles * BN
    a0, a1, b0, b1, first, tiles = _mixed_stretches(positive_plan, BN)
    for tile in range(tiles):
        start, stop = _mixed_tile(tile, a0, a1, b0, b1, first, BN)
        k0, k1, k2 = _load_rows(packed, start, parts, BN, D, PARTS)
        scores = _scores(f0, f1, f2, k0, k1, k2, c, PARTS, PRECISION)
        allowed = _allowed(row_key, row_index, keys, start, stop, "same", BN)
        log_terms, sigma_terms = _positive_terms(negative[:, None] - scores, allowed, True)
        total += log_terms
        sigma += sigma_terms
        count += tl.sum(allowed.to(tl.int32), 1)

    used = row_key < (batch << BATCH_SHIFT) + IGNORED
    inside = row_index < size
    number = tl.maximum(count, 1).to(tl.float32)
    target = tl.load(order + batch * size + row_index, mask=inside, other=0)
    tl.store(loss + batch * size + target, tl.where(used, total * LN2 / number, 0.0), mask=inside)
    place = batch * padded + row_index
    tl.store(negatives + place, negative, mask=inside)
    tl.store(sigmas + place, tl.where(used, sigma / number, 0.0), mask=inside)
    tl.store(counts + place, number, mask=inside)


@triton.jit
def _sigmoid_gradient(
    scores, row_shift, row_weight, col_shift, col_weight, start, BN: tl.constexpr
):
    """``w_p sigma_pq + w_q sigma_qp`` for a tile of positives, sigma_pq = 1 / (1 + 1 / x_pq)."""
    col_index = start + tl.arange(0, BN)
    shift = tl.load(col_shift + col_index)
    weight = tl.load(col_weight + col_index)
    by_row = row_weight[:, None] / (1.0 + tl.exp2(scores - row_shift[:, None]))
    return by_row + weight[None, :] / (1.0 + tl.exp2(scores - shift[None, :]))


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
    size,
    padded,
    parts,
    blocks,
    width,
    c,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
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
    row_index = block * BM + tl.arange(0, BM)
    row_key = tl.load(keys + row_index)
    row_shift = tl.load(negatives + row_index)
    f0, f1, f2 = _load_rows(packed, block * BM, parts, BM, D, PARTS)

    # Positives first, with the sign of the negatives: the product is turned round between them.
    acc = tl.zeros([BM, D], tl.float32)
    weight = tl.load(positive_weights + row_index)
    positive_plan += (batch * blocks + block) * PLAN
    left, left_tiles, right, tiles = _pure_stretches(positive_plan)
    for tile in range(tiles):
        start = _pure_start(tile, left, left_tiles, right, BN)
        k0, k1, k2 = _load_rows(packed, start, parts, BN, D, PARTS)
        scores = _scores(f0, f1, f2, k0, k1, k2, c, PARTS, PRECISION)
        gradient = _sigmoid_gradient(
            scores, row_shift, weight, negatives, positive_weights, start, BN
        )
        acc = _add_product(acc, gradient, k0, k1, k2, PARTS, PRECISION)
    a0, a1, b0, b1, first, tiles = _mixed_stretches(positive_plan, BN)
    for tile in range(tiles):
        start, stop = _mixed_tile(tile, a0, a1, b0, b1, first, BN)
        k0, k1, k2 = _load_rows(packed, start, parts, BN, D, PARTS)
        scores = _scores(f0, f1, f2, k0, k1, k2, c, PARTS, PRECISION)
        gradient = _sigmoid_gradient(
            scores, row_shift, weight, negatives, positive_weights, start, BN
        )
        allowed = _allowed(row_key, row_index, keys, start, stop, "same", BN)
        gradient = tl.where(allowed, gradient, 0.0)
        acc = _add_product(acc, gradient, k0, k1, k2, PARTS, PRECISION)
    acc = _softmax_product(
        -acc,
        f0,
        f1,
        f2,
        row_key,
        row_index,
        row_shift,
        tl.load(negative_weights + row_index),
        packed,
        parts,
        keys,
        negatives,
        negative_weights,
        negative_plan + (batch * blocks + block) * PLAN,
        c,
        "other",
        True,
        True,
        BN,
        D,
        PARTS,
        PRECISION,
    )
    acc *= tl.load(factor + batch)
    used = row_key < (batch << BATCH_SHIFT) + IGNORED
    batch_offset = batch * size
    _store_gradient(
        out + batch_offset * width, acc, row_index, used, order + batch_offset, size, width, D
    )
