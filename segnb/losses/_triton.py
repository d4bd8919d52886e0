"""The ``triton`` back end: exact and linear in memory, on NVIDIA GPUs.

Custom operators around :mod:`segnb.losses._triton_launch`, whose kernels compute a loss without
ever holding its matrix of pairs and compute the tiles again in the backward pass. Nothing waits
for the device, and results repeat bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segnb.losses import _triton_launch as launch
from segnb.losses._differentiation import once_differentiable
from segnb.losses._tiles import Pairs
from segnb.losses._triton_launch import OfficialState, PackedPixels, supported, unsupported_reason

__all__ = [
    "masked_logsumexp",
    "official_anchor_losses",
    "supported",
    "unsupported_reason",
]


def masked_logsumexp(
    anchors: Tensor,
    keys: Tensor,
    anchor_labels: Tensor,
    key_labels: Tensor,
    *,
    temperature: float,
    ignore_index: int,
    pairs: Pairs,
    exclude_self: bool,
) -> Tensor:
    """See :func:`segnb.losses._core.masked_logsumexp`. Labels must lie within 32 bits.

    Raises:
        ValueError: Features that this back end does not take; says why.
    """
    _check(anchors)
    if exclude_self or (keys is anchors and key_labels is anchor_labels):
        result: Tensor = _self_logsumexp(
            anchors, anchor_labels, temperature, ignore_index, pairs, exclude_self
        )[0]
    else:
        result = _logsumexp(
            anchors, keys, anchor_labels, key_labels, temperature, ignore_index, pairs
        )[0]
    return result


def official_anchor_losses(
    features: Tensor,
    labels: Tensor,
    images: Tensor,
    *,
    temperature: float,
    ignore_index: int,
) -> Tensor:
    """See :func:`segnb.losses._core.official_anchor_losses`. Labels must lie within 32 bits.

    Raises:
        ValueError: Features that this back end does not take; says why.
    """
    _check(features)
    result: Tensor = _official_losses(features, labels, images, temperature, ignore_index)[0]
    return result


def _check(features: Tensor) -> None:
    reason = unsupported_reason(features)
    if reason is not None:
        raise ValueError(f"backend='triton' cannot be used: {reason}")


# ------------------------------------------------------------------------- logsumexp, two sets


@torch.library.custom_op("segnb::triton_logsumexp", mutates_args=())
def _logsumexp(
    anchors: Tensor,
    keys: Tensor,
    anchor_labels: Tensor,
    key_labels: Tensor,
    temperature: float,
    ignore_index: int,
    pairs: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    lse, packed_anchors, packed_keys = launch.masked_logsumexp(
        anchors,
        keys,
        anchor_labels,
        key_labels,
        temperature=temperature,
        ignore_index=ignore_index,
        pairs=pairs,  # type: ignore[arg-type]
        exclude_self=False,
    )
    return (lse, *packed_anchors, *packed_keys)


@_logsumexp.register_fake
def _(anchors: Tensor, keys: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return (_fake_rows(anchors), *_fake_packed(anchors), *_fake_packed(keys))


@torch.library.custom_op("segnb::triton_logsumexp_backward", mutates_args=())
def _logsumexp_backward(
    gradient: Tensor,
    saved: list[Tensor],
    width: int,
    dtype: torch.dtype,
    temperature: float,
    pairs: str,
    for_anchors: bool,
    for_keys: bool,
) -> tuple[Tensor, Tensor]:
    to_anchors, to_keys = launch.masked_logsumexp_backward(
        gradient,
        saved[0],
        PackedPixels(*saved[1:4]),
        PackedPixels(*saved[4:7]),
        width=width,
        dtype=dtype,
        temperature=temperature,
        pairs=pairs,  # type: ignore[arg-type]
        exclude_self=False,
        needs=(for_anchors, for_keys),
    )
    nothing = gradient.new_empty(0, dtype=dtype)
    return (
        nothing if to_anchors is None else to_anchors,
        nothing.clone() if to_keys is None else to_keys,
    )


@_logsumexp_backward.register_fake
def _(
    gradient: Tensor,
    saved: list[Tensor],
    width: int,
    dtype: torch.dtype,
    temperature: float,
    pairs: str,
    for_anchors: bool,
    for_keys: bool,
) -> tuple[Tensor, ...]:
    return tuple(
        gradient.new_empty((*order.shape, width) if wanted else 0, dtype=dtype)
        for order, wanted in ((saved[3], for_anchors), (saved[6], for_keys))
    )


def _logsumexp_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _save(ctx, inputs[0], output)
    ctx.temperature, ctx.pairs = inputs[4], inputs[6]


def _logsumexp_gradient(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    once_differentiable()
    if gradient is None:
        return (None,) * 7
    wanted = ctx.needs_input_grad[:2]
    results = _logsumexp_backward(
        gradient,
        list(ctx.saved_tensors),
        ctx.width,
        ctx.dtype,
        ctx.temperature,
        ctx.pairs,
        wanted[0],
        wanted[1],
    )
    given = (result if want else None for result, want in zip(results, wanted, strict=True))
    return (*given, *(None,) * 5)


_logsumexp.register_autograd(_logsumexp_gradient, setup_context=_logsumexp_context)


# ------------------------------------------------------------ logsumexp, a set against itself


@torch.library.custom_op("segnb::triton_self_logsumexp", mutates_args=())
def _self_logsumexp(
    features: Tensor,
    labels: Tensor,
    temperature: float,
    ignore_index: int,
    pairs: str,
    exclude_self: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lse, packed, _ = launch.masked_logsumexp(
        features,
        None,
        labels,
        None,
        temperature=temperature,
        ignore_index=ignore_index,
        pairs=pairs,  # type: ignore[arg-type]
        exclude_self=exclude_self,
    )
    return (lse, *packed)


@_self_logsumexp.register_fake
def _(features: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return (_fake_rows(features), *_fake_packed(features))


@torch.library.custom_op("segnb::triton_self_logsumexp_backward", mutates_args=())
def _self_logsumexp_backward(
    gradient: Tensor,
    saved: list[Tensor],
    width: int,
    dtype: torch.dtype,
    temperature: float,
    pairs: str,
    exclude_self: bool,
) -> Tensor:
    packed = PackedPixels(*saved[1:])
    result, _ = launch.masked_logsumexp_backward(
        gradient,
        saved[0],
        packed,
        packed,
        width=width,
        dtype=dtype,
        temperature=temperature,
        pairs=pairs,  # type: ignore[arg-type]
        exclude_self=exclude_self,
    )
    assert result is not None
    return result


def _self_logsumexp_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _save(ctx, inputs[0], output)
    ctx.options = (inputs[2], *inputs[4:])


def _self_logsumexp_gradient(
    ctx: Any, gradient: Tensor | None, *_: Any
) -> tuple[Tensor | None, ...]:
    once_differentiable()
    result = None
    if gradient is not None:
        result = _self_logsumexp_backward(
            gradient, list(ctx.saved_tensors), ctx.width, ctx.dtype, *ctx.options
        )
    return (result, *(None,) * 5)


_self_logsumexp.register_autograd(_self_logsumexp_gradient, setup_context=_self_logsumexp_context)


# --------------------------------------------------------------------------------- official form


@torch.library.custom_op("segnb::triton_official_losses", mutates_args=())
def _official_losses(
    features: Tensor, labels: Tensor, images: Tensor, temperature: float, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    losses, packed, state = launch.official_anchor_losses(
        features, labels, images, temperature=temperature, ignore_index=ignore_index
    )
    return (losses, *packed, *state)


@_official_losses.register_fake
def _(features: Tensor, *_: Any) -> tuple[Tensor, ...]:
    packed = _fake_packed(features)
    state = (torch.empty_like(packed[1], dtype=torch.float32) for _ in range(3))
    return (_fake_rows(features), *packed, *state)


@torch.library.custom_op("segnb::triton_official_losses_backward", mutates_args=())
def _official_losses_backward(
    gradient: Tensor, saved: list[Tensor], width: int, dtype: torch.dtype, temperature: float
) -> Tensor:
    return launch.official_anchor_losses_backward(
        gradient,
        PackedPixels(*saved[1:4]),
        OfficialState(*saved[4:]),
        width=width,
        dtype=dtype,
        temperature=temperature,
    )


def _official_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _save(ctx, inputs[0], output)
    ctx.temperature = inputs[3]


def _official_gradient(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    once_differentiable()
    result = None
    if gradient is not None:
        result = _official_losses_backward(
            gradient, list(ctx.saved_tensors), ctx.width, ctx.dtype, ctx.temperature
        )
    return (result, *(None,) * 4)


_official_losses.register_autograd(_official_gradient, setup_context=_official_context)


# ------------------------------------------------------------------------------- what they share


@_self_logsumexp_backward.register_fake
@_official_losses_backward.register_fake
def _(gradient: Tensor, saved: list[Tensor], width: int, dtype: torch.dtype, *_: Any) -> Tensor:
    return gradient.new_empty((*saved[3].shape, width), dtype=dtype)


def _fake_rows(features: Tensor) -> Tensor:
    return features.new_empty(features.shape[:2], dtype=torch.float32)


def _fake_packed(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, size, width = features.shape
    shape, dtype = launch.packed_layout(batch, size, width, features.dtype, features.device)
    return (
        features.new_empty(shape, dtype=dtype),
        features.new_empty(shape[1:3], dtype=torch.int64),
        features.new_empty((batch, size), dtype=torch.int32),
    )


def _save(ctx: Any, features: Tensor, output: tuple[Tensor, ...]) -> None:
    """Keep what the forward pass sorted and packed, so that the backward pass need not."""
    ctx.save_for_backward(*output)
    ctx.set_materialize_grads(False)
    ctx.width, ctx.dtype = features.shape[2], features.dtype
