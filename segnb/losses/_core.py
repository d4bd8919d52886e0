"""The core that every back end implements, and the choice of the back end.

Notation: f_p is the feature of pixel p, tau the temperature, s_pk = f_p . f_k / tau, y_p the label.
A pixel whose label is ``ignore_index`` is neither anchor nor key.

**Logsumexp** (paper form, SupCon). With K_p the allowed keys of anchor p,

    l_p = log sum_{k in K_p} exp(s_pk)            d l_p / d s_pk = exp(s_pk - l_p)

so with an upstream gradient g_p and the matrix G_pk = g_p exp(s_pk - l_p), which lives only tile
by tile, dF_anchors = G F_keys / tau and dF_keys = G^T F_anchors / tau. The positive term of these
losses is linear and never needs pairs: the mean over positives q of s_pq is
f_p . (sum of the positives' features) / (tau |P_p|), a sum of features a class.

**Official form.** With neg_p = sum of exp(s_pk) over p's negatives and x_pq = neg_p exp(-s_pq),

    loss_p = 1/|P_p| sum_{q in P_p} log(1 + x_pq)

    d loss_p / d s_pq = -sigma_pq / |P_p|,   sigma = x / (1 + x)         for positives q
    d loss_p / d s_pk = a_p exp(s_pk),  a_p = mean_q(sigma_pq) / neg_p   for negatives k

Anchors and keys are one set, so S is symmetric and the gradient is one product with a symmetric
matrix: dF = M F / tau with, for weights w_p of the anchors (1/|P_p| is the same for p and q),
M_pk = exp(s_pk) (w_p a_p + w_k a_k) for negatives, and for positives
M_pq = -(w_p sigma_pq + w_q sigma_qp) / |P_p|.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from segnb.losses import _gpu, _reference, _tiled, _triton
from segnb.losses._inputs import PixelSet
from segnb.losses._tiles import Pairs

Backend = Literal["auto", "reference", "tiled", "triton"]

#: On the CPU, images with fewer pairs are faster with every pair in memory: below, the calls for
#: the tiles of an image cost more than they save (measured in ``benchmarks/NOTES.md``).
FEW_PAIRS = 1 << 16


def choose_backend(backend: Backend, anchors: PixelSet, keys: int) -> Any:
    """The module that computes.

    ``auto`` takes Triton where the kernels can run, the plain form on the CPU for few pairs an
    image, and tiles for all else.

    Args:
        backend: The caller's choice.
        anchors: The anchors.
        keys: Number of keys of each image.

    Raises:
        ValueError: No such back end.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {get_args(Backend)}, got {backend!r}")
    features = anchors.features
    if backend == "auto":
        if features.is_cuda:
            serves = _triton_serves(features.device, anchors.dtype, features.shape[2])
            backend = "triton" if serves else "tiled"
        else:
            backend = "reference" if features.shape[1] * keys < FEW_PAIRS else "tiled"
    return {"reference": _reference, "tiled": _tiled, "triton": _gpu}[backend]


def _triton_serves(device: torch.device, dtype: torch.dtype, channels: int) -> bool:
    return _triton.supported(torch.empty((1, 1, channels), dtype=dtype, device=device))


def masked_logsumexp(
    anchors: PixelSet,
    keys: PixelSet,
    *,
    temperature: float,
    ignore_index: int,
    pairs: Pairs,
    exclude_self: bool,
    backend: Backend,
) -> Tensor:
    """Logsumexp of the scores of each anchor over its allowed keys.

    Args:
        anchors: N pixels.
        keys: M pixels.
        temperature: Divides the scores.
        ignore_index: Label of pixels that are neither anchor nor key.
        pairs: Allow keys of any class, of the anchor's class, or of the other classes.
        exclude_self: Leave key p out for anchor p; ``keys`` are then the anchors.
        backend: Which implementation.

    Returns:
        ``[B, N]`` in float32 (float64 for float64); ``-inf``, with zero gradient, for anchors that
        are ignored or have no key.
    """
    result: Tensor = choose_backend(backend, anchors, keys.labels.shape[1]).masked_logsumexp(
        anchors,
        keys,
        temperature=temperature,
        ignore_index=ignore_index,
        pairs=pairs,
        exclude_self=exclude_self,
    )
    return result


def official_anchor_losses(
    pixels: PixelSet,
    images: Tensor,
    *,
    temperature: float,
    ignore_index: int,
    backend: Backend,
) -> Tensor:
    """Loss of every anchor in the official form.

    Args:
        pixels: N pixels, anchors and keys at once.
        images: int64 ``[B, N]``: which image of the pair a pixel belongs to. Positives are the
            pixels of the anchor's class in all images (itself included), negatives the pixels
            of other classes in its own image.
        temperature: Divides the scores.
        ignore_index: Label of pixels that are neither anchor nor key.
        backend: Which implementation.

    Returns:
        ``[B, N]`` in float32 (float64 for float64); 0 for ignored anchors.
    """
    module = choose_backend(backend, pixels, pixels.labels.shape[1])
    result: Tensor = module.official_anchor_losses(
        pixels, images, temperature=temperature, ignore_index=ignore_index
    )
    return result


def official_total(
    pixels: PixelSet,
    images: Tensor,
    factors: Tensor,
    *,
    temperature: float,
    ignore_index: int,
    backend: Backend,
) -> Tensor:
    """Sum of factor times anchor loss in the official form, a scalar.

    The factors are known beforehand, so a back end may make the gradient in the forward pass.
    They have no gradient of their own.

    Args:
        pixels: As in :func:`official_anchor_losses`, like all but the factors.
        images: int64 ``[B, N]``.
        factors: ``[B, N]``.
        temperature: Divides the scores.
        ignore_index: Label of pixels that are neither anchor nor key.
        backend: Which implementation.
    """
    if choose_backend(backend, pixels, pixels.labels.shape[1]) is _tiled:
        return _tiled.official_total(
            pixels, images, factors, temperature=temperature, ignore_index=ignore_index
        )
    losses = official_anchor_losses(
        pixels, images, temperature=temperature, ignore_index=ignore_index, backend=backend
    )
    return (factors * losses).sum()


@dataclass(frozen=True, kw_only=True)
class Denominator:
    """The denominators of a logsumexp form: which keys count for which anchor.

    Attributes:
        anchors: The anchors.
        keys: Keys that count for every anchor.
        other_keys: Keys that count for anchors of their class.
        temperature: Divides the scores.
        ignore_index: Label of pixels that are neither anchor nor key.
        exclude_self: Anchors and keys are one set, in which no pixel is its own key.
    """

    anchors: PixelSet
    keys: PixelSet
    other_keys: PixelSet | None
    temperature: float
    ignore_index: int
    exclude_self: bool


def log_denominators(denominator: Denominator, *, backend: Backend) -> Tensor:
    """Log of every anchor's denominator, ``[B, N]``."""
    logs = masked_logsumexp(
        denominator.anchors,
        denominator.keys,
        temperature=denominator.temperature,
        ignore_index=denominator.ignore_index,
        pairs="all",
        exclude_self=denominator.exclude_self,
        backend=backend,
    )
    if denominator.other_keys is None:
        return logs
    same_class = masked_logsumexp(
        denominator.anchors,
        denominator.other_keys,
        temperature=denominator.temperature,
        ignore_index=denominator.ignore_index,
        pairs="same",
        exclude_self=False,
        backend=backend,
    )
    return _logaddexp(logs, same_class)


def denominator_total(denominator: Denominator, factors: Tensor, *, backend: Backend) -> Tensor:
    """Sum of factor times log denominator, a scalar; a factor of 0 drops even a log of -inf.

    The factors are known beforehand, so a back end may make the gradient in the forward pass.
    They have no gradient of their own.
    """
    keys = denominator.keys.labels.shape[1]
    if choose_backend(backend, denominator.anchors, keys) is _tiled:
        return _tiled.denominator_total(
            denominator.anchors,
            denominator.keys,
            denominator.other_keys,
            factors,
            temperature=denominator.temperature,
            ignore_index=denominator.ignore_index,
            exclude_self=denominator.exclude_self,
        )
    logs = log_denominators(denominator, backend=backend)
    return (factors * torch.where(factors == 0, 0.0, logs)).sum()


def positive_scores(anchors: PixelSet, keys: PixelSet, *, backend: Backend) -> Tensor:
    """For each anchor the sum of ``f_p . f_k`` over the keys of its class, ``[B, N]``."""
    few = choose_backend(backend, anchors, keys.labels.shape[1]) is _reference
    return (
        _reference.positive_scores(anchors, keys) if few else _tiled.positive_scores(anchors, keys)
    )


def _logaddexp(first: Tensor, second: Tensor) -> Tensor:
    """``torch.logaddexp`` with a zero, not NaN, gradient where both are -inf."""
    neither = (first == -torch.inf) & (second == -torch.inf)
    result = torch.logaddexp(first.masked_fill(neither, 0.0), second.masked_fill(neither, 0.0))
    return result.masked_fill(neither, -torch.inf)
