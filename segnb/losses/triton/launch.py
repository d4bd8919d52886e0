"""The forward and backward passes of the ``triton`` back end: sort, pack, launch.

The kernels are in ``segnb.losses.triton.kernels``, the mathematics in ``segnb.losses.backends``.
Pixels are sorted by batch element, ignored or not, image and class, and packed into rows that the
kernels can read without a mask. The kernels then run with tiles that suit the chip. The host never
waits for the device, and every sum runs in a fixed order: results repeat bit for bit.

Operands are bf16 or fp16 like the features; sums, exponentials and results are fp32. fp32 features
are split into three bf16 parts and keep fp32's accuracy on the tensor cores, unless
``torch.backends.cuda.matmul.allow_tf32`` is set: then their products are tf32.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from segnb.losses.pixels import IGNORED

#: Which keys count for an anchor: all, all but itself (where the keys are the anchors), those of
#: its class, or those of the other classes of its image.
Pairs = Literal["all", "not_self", "same", "other"]

#: Each pass has tiles of its own: a forward pass keeps no gradient in registers.
Pass = Literal["forward", "backward"]

#: Rows of zeros after the pixels of a packed set, so that no tile reads past its end.
_PADDING = 256
#: Features wider than this would not leave room for a tile in registers.
MAX_WIDTH = 512

_LABEL_OFFSET = 1 << 31
_LOG2E = math.log2(math.e)
# The gradient's tiles are rounded to the operands' type. Weights scaled up to this maximum keep
# fp16 tiles clear of subnormal numbers.
_WEIGHT_RANGE = 1024.0


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How a kernel cuts the matrix of pairs.

    Attributes:
        rows: Rows of a program; a power of two, 16 to 256.
        columns: Keys of a step; a power of two, 16 to 64.
        warps: Warps of a program.
        stages: Depth of the software pipeline that loads keys.
    """

    rows: int
    columns: int
    warps: int
    stages: int


class PackedPixels(NamedTuple):
    """A set of pixels in sorted order.

    Attributes:
        features: ``[parts, B, N + padding, width]`` in the operands' type, the width a power of
            two; the features are the sum of the parts.
        keys: int64 ``[B, N + padding]``; see ``segnb.losses.triton.kernels``.
        order: int32 ``[B, N]``: the pixel at each sorted position.
    """

    features: Tensor
    keys: Tensor
    order: Tensor


class OfficialState(NamedTuple):
    """What the official form's forward pass leaves for its backward pass, in sorted order.

    Attributes:
        negatives: float32 ``[B, N + padding]``: log2 of the sum over the negatives.
        sigmas: float32: mean over the positives of x / (1 + x).
        counts: float32: number of positives.
    """

    negatives: Tensor
    sigmas: Tensor
    counts: Tensor


def unsupported_reason(features: Tensor, dtype: torch.dtype) -> str | None:
    """Why this back end cannot take such features, in words for the user; None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"the Triton kernels take float32, float16 and bfloat16 features, not {dtype}"
    if features.shape[-1] > MAX_WIDTH:
        return f"the Triton kernels take up to {MAX_WIDTH} channels, not {features.shape[-1]}"
    if _interpreted():
        return None
    if features.device.type != "cuda" or torch.version.hip is not None:
        return f"the Triton kernels run on NVIDIA GPUs, not on {features.device.type}"
    major, minor = torch.cuda.get_device_capability(features.device)
    if major < 8:
        # For Turing (T4) Triton compiles to plain arithmetic: cuBLAS is faster there.
        return f"Triton needs compute capability 8.0 for tensor cores, this GPU has {major}.{minor}"
    (parts, _, _, width), _ = packed_layout(1, 1, features.shape[-1], dtype, features.device)
    if parts == 3 and width > 256 and _shared_memory(features.device) < 113 << 10:
        return (
            "this GPU's shared memory is too small for float32 features of more than 256 channels; "
            "torch.backends.cuda.matmul.allow_tf32 = True makes them fit"
        )
    return None


def masked_logsumexp(
    anchors: Tensor,
    keys: Tensor | None,
    anchor_labels: Tensor,
    key_labels: Tensor | None,
    *,
    temperature: float,
    pairs: Pairs,
    tiles: Tiles | None = None,
) -> tuple[Tensor, PackedPixels, PackedPixels]:
    """Logsumexp of the scores of each anchor over its allowed keys.

    Args:
        anchors: ``[B, N, D]``.
        keys: ``[B, M, D]``, or None where the keys are the anchors.
        anchor_labels: Integer ``[B, N]``, values within 32 bits.
        key_labels: Integer ``[B, M]``, or None where the keys are the anchors.
        temperature: Divides the scores.
        pairs: Which keys count; the keys are the anchors for ``not_self``.
        tiles: Overrides the choice made for the device.

    Returns:
        float32 ``[B, N]``, ``-inf`` for anchors that are ignored or have no key. Then the packed
        anchors and keys for the backward pass: the same object twice where they are one set.
    """
    packed_anchors = packed_keys = pack(anchors, anchor_labels, None)
    if keys is not None and key_labels is not None:
        packed_keys = pack(keys, key_labels, None)
    lse = torch.empty(anchors.shape[:2], dtype=torch.float32, device=anchors.device)
    _launch(
        "forward",
        "logsumexp",
        (packed_anchors, packed_keys),
        (pairs,),
        lse,
        temperature=temperature,
        tiles=tiles,
        PAIRS=pairs,
    )
    return lse, packed_anchors, packed_keys


def masked_logsumexp_backward(
    grad: Tensor,
    lse: Tensor,
    packed_anchors: PackedPixels,
    packed_keys: PackedPixels,
    *,
    width: int,
    dtype: torch.dtype,
    temperature: float,
    pairs: Pairs,
    needs: tuple[bool, bool] = (True, True),
    tiles: Tiles | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of :func:`masked_logsumexp` for anchors and keys.

    Where the two are one set, one product with the symmetric matrix G + G^T gives the whole
    gradient. Otherwise each set's gradient is a kernel launch that sums over the other set.

    Args:
        grad: Gradient of the result, ``[B, N]``.
        lse: The result.
        packed_anchors: From :func:`masked_logsumexp`.
        packed_keys: From :func:`masked_logsumexp`.
        width: D of the features.
        dtype: Type of the features, and of the gradients.
        temperature: As in the forward pass.
        pairs: As in the forward pass.
        needs: Whether the anchors' and the keys' gradients are wanted.
        tiles: Overrides the choice made for the device.

    Returns:
        ``[B, N, D]`` and ``[B, M, D]``; None where a gradient is not wanted. Where the two are one
        set, the whole gradient and None.
    """
    counts = torch.isfinite(lse)
    shift = torch.where(counts, lse.float() * _LOG2E, torch.inf)
    weight, scale = _scaled(torch.where(counts, grad.float(), 0.0))
    anchor_shift = _sorted_values(shift, packed_anchors, torch.inf)
    anchor_weight = _sorted_values(weight, packed_anchors, 0.0)

    def gradient(rows: PackedPixels, cols: PackedPixels, terms: str) -> Tensor:
        out = torch.empty((*rows.order.shape, width), dtype=dtype, device=rows.order.device)
        row_shift, row_weight, factor = anchor_shift, anchor_weight, scale / temperature
        if terms == "cols":
            # The kernel reads these, but does not use them.
            row_shift = row_weight = torch.zeros_like(rows.keys, dtype=torch.float32)
        elif terms == "rows":
            # The kernel applies the weights at the end: its tiles are softmax values, scaled here.
            row_shift, factor = row_shift - math.log2(_WEIGHT_RANGE), factor / _WEIGHT_RANGE
        _launch(
            "backward",
            "logsumexp",
            (rows, cols),
            (pairs,),
            row_shift,
            row_weight,
            anchor_shift,
            anchor_weight,
            factor,
            out,
            width,
            temperature=temperature,
            tiles=tiles,
            PAIRS=pairs,
            TERMS=terms,
        )
        return out

    if packed_keys is packed_anchors:
        return gradient(packed_anchors, packed_anchors, "both"), None
    return (
        gradient(packed_anchors, packed_keys, "rows") if needs[0] else None,
        gradient(packed_keys, packed_anchors, "cols") if needs[1] else None,
    )


def official_anchor_losses(
    features: Tensor,
    labels: Tensor,
    images: Tensor,
    *,
    temperature: float,
    tiles: Tiles | None = None,
) -> tuple[Tensor, PackedPixels, OfficialState]:
    """Loss of every anchor in the official form.

    Args:
        features: ``[B, N, D]``, anchors and keys at once.
        labels: Integer ``[B, N]``, values within 32 bits.
        images: Integer ``[B, N]``: which image a pixel belongs to, from 0. With more than two
            images the result is still right, but the positives skip no tile.
        temperature: Divides the scores.
        tiles: Overrides the choice made for the device.

    Returns:
        float32 ``[B, N]``, 0 for ignored anchors, and what the backward pass needs.
    """
    packed = pack(features, labels, images)
    loss = torch.empty(features.shape[:2], dtype=torch.float32, device=features.device)
    state = OfficialState(
        *(torch.zeros_like(packed.keys, dtype=torch.float32) for _ in OfficialState._fields)
    )
    _launch(
        "forward",
        "official",
        (packed,),
        ("other", "same"),
        loss,
        *state,
        temperature=temperature,
        tiles=tiles,
    )
    return loss, packed, state


def official_anchor_losses_backward(
    grad: Tensor,
    packed: PackedPixels,
    state: OfficialState,
    *,
    width: int,
    dtype: torch.dtype,
    temperature: float,
    tiles: Tiles | None = None,
) -> Tensor:
    """Gradient of :func:`official_anchor_losses` for the features.

    Args:
        grad: Gradient of the losses, ``[B, N]``.
        packed: From :func:`official_anchor_losses`.
        state: From :func:`official_anchor_losses`.
        width: D of the features.
        dtype: Type of the features, and of the gradient.
        temperature: As in the forward pass.
        tiles: Overrides the choice made for the device.

    Returns:
        ``[B, N, D]``, zero for ignored pixels.
    """
    out = torch.empty((*packed.order.shape, width), dtype=dtype, device=packed.order.device)
    weight, scale = _scaled(grad.float())
    weight = _sorted_values(weight, packed, 0.0)
    _launch(
        "backward",
        "official",
        (packed,),
        ("other", "same"),
        state.negatives,
        weight * state.sigmas,
        weight / state.counts.clamp_min(1.0),
        scale / temperature,
        out,
        width,
        temperature=temperature,
        tiles=tiles,
    )
    return out


def packed_layout(
    batch: int, size: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[tuple[int, int, int, int], torch.dtype]:
    """Shape (parts, B, padded N, padded D) and type of packed features."""
    parts = 1
    if dtype == torch.float32 and not tf32_allowed():
        # The interpreter cannot multiply bf16.
        parts, dtype = 3, torch.bfloat16 if device.type == "cuda" else torch.float16
    padded_width = 1 << (width - 1).bit_length() if width > 16 else 16
    return (parts, batch, size + _PADDING, padded_width), dtype


def tf32_allowed() -> bool:
    """Whether products of float32 features may round to tf32."""
    matmul = torch.backends.cuda.matmul
    # Where PyTorch has the newer of the two names, reading the older one may be an error.
    if hasattr(matmul, "fp32_precision"):
        return str(matmul.fp32_precision) == "tf32"
    return bool(matmul.allow_tf32)


def _shared_memory(device: torch.device) -> int:
    """Bytes of shared memory a program can have; 0 where kernels are interpreted."""
    if device.type != "cuda":
        return 0
    properties = torch.cuda.get_device_properties(device)
    # Some versions of torch lack it: then the smallest of compute capability 8.0 and up.
    return int(getattr(properties, "shared_memory_per_block_optin", 99 << 10))


def tiles_for(kind: Pass, *, width: int, itemsize: int, parts: int, shared_memory: int) -> Tiles:
    """The tiles for rows of ``width`` elements of ``itemsize`` bytes.

    These are the tiles for which the compiler spills no registers, or the fewest
    (``benchmarks/triton_report.py``), with blocks of 128 rows where they fit: every block reads
    its keys from the L2 cache, and smaller blocks would wait for it.

    Args:
        kind: The pass.
        width: Padded number of channels, a power of two.
        itemsize: 2 or 4.
        parts: 1 or 3.
        shared_memory: Bytes of shared memory a program can have: 227 KiB on Hopper, 163 on A100,
            99 on consumer Ampere and Ada.
    """
    hopper = shared_memory >= 200 << 10
    if parts == 3:
        if width > 256:
            return Tiles(rows=16, columns=16, warps=4, stages=1)
        if hopper:
            return Tiles(rows=64, columns=32, warps=4, stages=2)
        return Tiles(rows=32, columns=16, warps=4, stages=1)
    if width > 256:
        if hopper and itemsize == 2:
            return Tiles(rows=64, columns=64 if kind == "forward" else 32, warps=8, stages=2)
        if itemsize == 2:
            return Tiles(rows=32, columns=32, warps=8, stages=1)
        rows, warps = (32, 8) if shared_memory >= 130 << 10 else (16, 4)
        return Tiles(rows=rows, columns=16, warps=warps, stages=1)
    if itemsize == 4 and width > 128:
        if hopper:
            return Tiles(rows=128, columns=32, warps=8, stages=2)
        return Tiles(rows=32, columns=32, warps=4 if kind == "forward" else 8, stages=2)
    if hopper:
        return Tiles(rows=128, columns=64 if itemsize == 2 else 32, warps=8, stages=3)
    if itemsize == 4:
        return Tiles(rows=64, columns=32, warps=8, stages=2)
    if kind == "forward":
        return Tiles(rows=128, columns=64, warps=8, stages=2)
    return Tiles(rows=64, columns=32, warps=8, stages=3)


def _interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on the CPU (``TRITON_INTERPRET=1``)."""
    from triton.runtime.interpreter import InterpretedFunction

    from segnb.losses.triton import kernels

    return isinstance(kernels.pack, InterpretedFunction)


def pack(features: Tensor, labels: Tensor, images: Tensor | None) -> PackedPixels:
    """Sort the pixels and lay them out for the kernels."""
    from segnb.losses.triton import kernels

    batch, size, width = features.shape
    device = features.device
    key = labels.long() + _LABEL_OFFSET
    if images is not None:
        key = key + images.long() * kernels.IMAGE.value
    key = torch.where(labels == IGNORED, kernels.IGNORED.value, key)
    key = key + (torch.arange(batch, device=device) << kernels.BATCH_SHIFT.value)[:, None]
    # One sort for the whole batch: torch sorts along a dimension a slice at a time.
    key, pixel = torch.sort(key.flatten(), stable=True)
    order = (pixel.view(batch, size) - torch.arange(batch, device=device)[:, None] * size).int()

    if features.stride(2) != 1:
        features = features.contiguous()
    shape, dtype = packed_layout(batch, size, width, features.dtype, device)
    parts, _, padded, dim = shape
    packed = PackedPixels(
        torch.empty(shape, dtype=dtype, device=device),
        torch.empty((batch, padded), dtype=torch.int64, device=device),
        order,
    )
    rows = max(1, 4096 // dim)
    with torch.cuda.device_of(features):  # type: ignore[no-untyped-call]
        kernels.pack[(-(-padded // rows), batch)](
            features,
            key,
            order,
            packed.features,
            packed.keys,
            features.stride(0),
            features.stride(1),
            size,
            padded,
            width,
            ROWS=rows,
            D=dim,
            PARTS=parts,
        )
    return packed


def _plan(rows: PackedPixels, cols: PackedPixels, pairs: Pairs, tiles: Tiles) -> Tensor:
    """The ranges of keys that each block of rows needs: int32 ``[B, blocks, 8]``."""
    from segnb.losses.triton import kernels

    batch, size = rows.order.shape
    blocks = -(-size // tiles.rows)
    plan = torch.empty(
        (batch, blocks, kernels.PLAN.value), dtype=torch.int32, device=rows.keys.device
    )
    lanes = 32
    with torch.cuda.device_of(plan):  # type: ignore[no-untyped-call]
        kernels.plan_tiles[(-(-blocks // lanes), batch)](
            rows.keys,
            cols.keys,
            plan,
            size,
            cols.order.shape[1],
            rows.keys.shape[1],
            cols.keys.shape[1],
            blocks,
            max(size, cols.order.shape[1]).bit_length(),
            PAIRS=pairs,
            BM=tiles.rows,
            BN=tiles.columns,
            LANES=lanes,
            num_warps=1,
        )
    return plan


def _launch(
    kind: Pass,
    form: str,
    sets: tuple[PackedPixels, ...],
    plans: tuple[Pairs, ...],
    *arguments: Any,
    temperature: float,
    tiles: Tiles | None,
    **constants: Any,
) -> None:
    """Run a kernel with one program for each block of rows of each batch element.

    Args:
        kind: With ``form`` the kernel's name.
        form: ``logsumexp`` or ``official``.
        sets: The pixels of the rows and of the columns; one set serves as both.
        plans: The pairs of each plan that the kernel takes.
        arguments: The kernel's own, between the plans and the sizes.
        temperature: Divides the scores.
        tiles: None for the choice made for the device.
        constants: Compile-time constants of the kernel.
    """
    from segnb.losses.triton import kernels

    rows = sets[0]
    parts, batch, _, dim = rows.features.shape
    tiles = tiles or tiles_for(
        kind,
        width=dim,
        itemsize=rows.features.element_size(),
        parts=parts,
        shared_memory=_shared_memory(rows.features.device),
    )
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(rows.keys):  # type: ignore[no-untyped-call]
        getattr(kernels, f"{form}_{kind}")[(-(-rows.order.shape[1] // tiles.rows), batch)](
            *(pixels.features for pixels in sets),
            *(pixels.keys for pixels in sets),
            rows.order,
            *(_plan(rows, sets[-1], pairs, tiles) for pairs in plans),
            *arguments,
            rows.order.shape[1],
            *(pixels.keys.shape[1] for pixels in sets),
            _LOG2E / temperature,
            **constants,
            BM=tiles.rows,
            BN=tiles.columns,
            D=dim,
            PARTS=parts,
            num_warps=tiles.warps,
            num_stages=tiles.stages,
        )


def _sorted_values(values: Tensor, pixels: PackedPixels, fill: float) -> Tensor:
    """Values of pixels, ``[B, N]``, in sorted order and padded like the pixels."""
    ordered = values.gather(1, pixels.order.long())
    return torch.nn.functional.pad(ordered, (0, _PADDING), value=fill)


def _scaled(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weights ``[B, N]`` scaled to at most ``_WEIGHT_RANGE``, and the factor ``[B]`` to undo it."""
    # The zero appended gives a set without pixels a maximum.
    largest = torch.nn.functional.pad(weights.abs(), (0, 1)).amax(dim=1)
    largest = torch.where(largest > 0, largest, 1.0)
    return weights * (_WEIGHT_RANGE / largest)[:, None], largest / _WEIGHT_RANGE
