"""The ``triton`` back end as the losses call it: custom operators around the launches.

:mod:`segnb.losses.triton.launch` never holds the matrix of pairs: the backward pass computes the
tiles again. The host never waits for the device, and results repeat bit for bit.

The losses hold features in float32. Features that came as bfloat16 or float16 are rounded back,
which is exact: the kernels multiply in that type, and the gradients of a loss's terms add up in
float32.

The schemas are written out because torch 2.6 infers none from ``list[Tensor]``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segnb.losses.pixels import IGNORED, Pixels, joined, mean_factors, once_differentiable
from segnb.losses.tiled.operators import positive_term
from segnb.losses.triton import launch
from segnb.losses.triton.launch import (
    OfficialState,
    PackedPixels,
    Pairs,
    tf32_allowed,
    unsupported_reason,
)

__all__ = ["logsumexp_form", "official_form", "tf32_allowed", "unsupported_reason"]


def logsumexp_form(anchors: Pixels, keys: Pixels | None, other_keys: Pixels | None) -> Tensor:
    """See :class:`segnb.losses.backends.LossBackend`. Labels must lie within 32 bits."""
    everyone = joined(anchors if keys is None else keys, other_keys)
    factors, positive = positive_term(anchors, everyone, with_self=keys is not None)
    logs = _log_sums(anchors, keys, "not_self" if keys is None else "all")
    if other_keys is not None:
        logs = _logaddexp(logs, _log_sums(anchors, other_keys, "same"))
    # A factor of 0 drops even a log of -inf.
    return (factors * torch.where(factors == 0, 0.0, logs)).sum() - positive


def official_form(pixels: Pixels, images: Tensor) -> Tensor:
    """See :class:`segnb.losses.backends.LossBackend`. Labels must lie within 32 bits."""
    features = pixels.features.to(pixels.dtype)
    losses: Tensor = _official_losses(features, pixels.labels, images, pixels.temperature)[0]
    # Every pixel that is not ignored is its own positive.
    return (mean_factors(pixels.labels != IGNORED, losses.dtype) * losses).sum()


def _log_sums(anchors: Pixels, keys: Pixels | None, pairs: Pairs) -> Tensor:
    logs: Tensor = _logsumexp(
        anchors.features.to(anchors.dtype),
        None if keys is None else keys.features.to(keys.dtype),
        anchors.labels,
        None if keys is None else keys.labels,
        anchors.temperature,
        pairs,
    )[0]
    return logs


def _logaddexp(first: Tensor, second: Tensor) -> Tensor:
    """``torch.logaddexp`` with a zero, not NaN, gradient where both are -inf."""
    neither = (first == -torch.inf) & (second == -torch.inf)
    result = torch.logaddexp(first.masked_fill(neither, 0.0), second.masked_fill(neither, 0.0))
    return result.masked_fill(neither, -torch.inf)


# ------------------------------------------------------------------------------------- logsumexp


@torch.library.custom_op(
    "segnb::triton_logsumexp",
    mutates_args=(),
    schema=(
        "(Tensor anchors, Tensor? keys, Tensor anchor_labels, Tensor? key_labels, "
        "float temperature, str pairs) -> Tensor[]"
    ),
)
def _logsumexp(
    anchors: Tensor,
    keys: Tensor | None,
    anchor_labels: Tensor,
    key_labels: Tensor | None,
    temperature: float,
    pairs: str,
) -> list[Tensor]:
    """Logs, packed anchors and, where the keys are not the anchors, packed keys."""
    logs, packed_anchors, packed_keys = launch.masked_logsumexp(
        anchors,
        keys,
        anchor_labels,
        key_labels,
        temperature=temperature,
        pairs=pairs,  # type: ignore[arg-type]
    )
    return [logs, *packed_anchors, *(() if keys is None else packed_keys)]


@_logsumexp.register_fake
def _(anchors: Tensor, keys: Tensor | None, *_: Any) -> list[Tensor]:
    packed_keys = () if keys is None else _fake_packed(keys)
    return [_fake_rows(anchors), *_fake_packed(anchors), *packed_keys]


@torch.library.custom_op(
    "segnb::triton_logsumexp_backward",
    mutates_args=(),
    schema=(
        "(Tensor gradient, Tensor[] saved, SymInt width, ScalarType dtype, bool[] wanted, "
        "float temperature, str pairs) -> Tensor[]"
    ),
)
def _logsumexp_backward(
    gradient: Tensor,
    saved: list[Tensor],
    width: int,
    dtype: torch.dtype,
    wanted: list[bool],
    temperature: float,
    pairs: str,
) -> list[Tensor]:
    packed = PackedPixels(*saved[1:4])
    results = launch.masked_logsumexp_backward(
        gradient,
        saved[0],
        packed,
        PackedPixels(*saved[4:]) if len(saved) > 4 else packed,
        width=width,
        dtype=dtype,
        temperature=temperature,
        pairs=pairs,  # type: ignore[arg-type]
        needs=(wanted[0], wanted[1]),
    )
    return [gradient.new_empty(0, dtype=dtype) if r is None else r for r in results]


# --------------------------------------------------------------------------------- official form


@torch.library.custom_op(
    "segnb::triton_official_losses",
    mutates_args=(),
    schema="(Tensor features, Tensor labels, Tensor images, float temperature) -> Tensor[]",
)
def _official_losses(
    features: Tensor, labels: Tensor, images: Tensor, temperature: float
) -> list[Tensor]:
    losses, packed, state = launch.official_anchor_losses(
        features, labels, images, temperature=temperature
    )
    return [losses, *packed, *state]


@_official_losses.register_fake
def _(features: Tensor, *_: Any) -> list[Tensor]:
    packed = _fake_packed(features)
    state = (torch.empty_like(packed[1], dtype=torch.float32) for _ in range(3))
    return [_fake_rows(features), *packed, *state]


@torch.library.custom_op(
    "segnb::triton_official_losses_backward",
    mutates_args=(),
    schema=(
        "(Tensor gradient, Tensor[] saved, SymInt width, ScalarType dtype, bool[] wanted, "
        "float temperature) -> Tensor[]"
    ),
)
def _official_losses_backward(
    gradient: Tensor,
    saved: list[Tensor],
    width: int,
    dtype: torch.dtype,
    wanted: list[bool],
    temperature: float,
) -> list[Tensor]:
    result = launch.official_anchor_losses_backward(
        gradient,
        PackedPixels(*saved[1:4]),
        OfficialState(*saved[4:]),
        width=width,
        dtype=dtype,
        temperature=temperature,
    )
    return [result]


# ---------------------------------------------------------------------------------------- shared


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


def _fake_gradients(
    gradient: Tensor,
    saved: list[Tensor],
    width: int,
    dtype: torch.dtype,
    wanted: list[bool],
    *_: Any,
) -> list[Tensor]:
    # The first set's order is the fourth tensor; the last is the second set's, if there are two.
    return [
        gradient.new_empty((*order.shape, width) if want else 0, dtype=dtype)
        for order, want in zip((saved[3], saved[-1]), wanted, strict=False)
    ]


def _register(operator: Any, backward: Any, sets: int) -> None:
    """Differentiate an operator's first output by its first inputs, the sets of features.

    The other outputs are what the forward pass sorted and packed, so that ``backward`` need not.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.set_materialize_grads(False)
        ctx.layout = inputs[0].shape[2], inputs[0].dtype
        ctx.options = [value for value in inputs if isinstance(value, (float, str))]

    def gradient(ctx: Any, gradients: list[Tensor | None]) -> tuple[Tensor | None, ...]:
        once_differentiable()
        given: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        if gradients[0] is not None:
            wanted = list(ctx.needs_input_grad[:sets])
            results = backward(
                gradients[0], list(ctx.saved_tensors), *ctx.layout, wanted, *ctx.options
            )
            given[:sets] = [r if want else None for r, want in zip(results, wanted, strict=True)]
        return tuple(given)

    operator.register_autograd(gradient, setup_context=setup_context)
    backward.register_fake(_fake_gradients)


_register(_logsumexp, _logsumexp_backward, 2)
_register(_official_losses, _official_losses_backward, 1)
