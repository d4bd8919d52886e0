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

import functools
import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from segnb.losses import _reference, _tiled
from segnb.losses._inputs import PixelSet
from segnb.losses._tiles import Pairs

Backend = Literal["auto", "reference", "tiled", "triton"]

#: On the CPU, batches with fewer pairs are faster with every pair in memory.
FEW_PAIRS = 1 << 19

#: The least compute capability the Triton kernels are for.
TRITON_CAPABILITY = (8, 0)


def choose_backend(backend: Backend, features: Tensor, keys: int) -> Any:
    """The module that computes.

    ``auto`` takes Triton on a GPU that has it (float64 aside), the plain form on the CPU for few
    pairs, tiles for all else.

    Args:
        backend: The caller's choice.
        features: The anchors, ``[B, N, D]``.
        keys: Number of keys of each image.

    Raises:
        ValueError: No such back end, or one that cannot run on the features' device.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {get_args(Backend)}, got {backend!r}")
    if backend == "auto":
        if features.is_cuda and features.dtype != torch.float64 and _triton_serves(features.device):
            backend = "triton"
        elif not features.is_cuda and features.shape[0] * features.shape[1] * keys < FEW_PAIRS:
            backend = "reference"
        else:
            backend = "tiled"
    if backend == "triton":
        return importlib.import_module("segnb.losses._triton")
    return _reference if backend == "reference" else _tiled


@functools.cache
def _triton_serves(device: torch.device) -> bool:
    if torch.cuda.get_device_capability(device) < TRITON_CAPABILITY:
        return False
    return importlib.util.find_spec("triton") is not None


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
    backend: Backend,
) -> Tensor:
    """Logsumexp of the scores of each anchor over its allowed keys.

    Args:
        anchors: ``[B, N, D]``.
        keys: ``[B, M, D]``.
        anchor_labels: int64 ``[B, N]``.
        key_labels: int64 ``[B, M]``.
        temperature: Divides the scores.
        ignore_index: Label of pixels that are neither anchor nor key.
        pairs: Allow keys of any class, of the anchor's class, or of the other classes.
        exclude_self: Leave key p out for anchor p (the two sets are then one).
        backend: Which implementation.

    Returns:
        ``[B, N]`` in float32 (float64 for float64); ``-inf``, with zero gradient, for anchors that
        are ignored or have no key.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        result: Tensor = choose_backend(backend, anchors, keys.shape[1]).masked_logsumexp(
            anchors,
            keys,
            anchor_labels,
            key_labels,
            temperature=temperature,
            ignore_index=ignore_index,
            pairs=pairs,
            exclude_self=exclude_self,
        )
    return result


def official_anchor_losses(
    features: Tensor,
    labels: Tensor,
    images: Tensor,
    *,
    temperature: float,
    ignore_index: int,
    backend: Backend,
) -> Tensor:
    """Loss of every anchor in the official form.

    Args:
        features: ``[B, N, D]``, anchors and keys at once.
        labels: int64 ``[B, N]``.
        images: int64 ``[B, N]``: which image of the pair a pixel belongs to. Positives are the
            pixels of the anchor's class in all images (itself included), negatives the pixels
            of other classes in its own image.
        temperature: Divides the scores.
        ignore_index: Label of pixels that are neither anchor nor key.
        backend: Which implementation.

    Returns:
        ``[B, N]`` in float32 (float64 for float64); 0 for ignored anchors.
    """
    with torch.autocast(features.device.type, enabled=False):
        result: Tensor = choose_backend(
            backend, features, features.shape[1]
        ).official_anchor_losses(
            features, labels, images, temperature=temperature, ignore_index=ignore_index
        )
    return result


def official_total(
    features: Tensor,
    labels: Tensor,
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
        features: As in :func:`official_anchor_losses`, like all but the factors.
        labels: int64 ``[B, N]``.
        images: int64 ``[B, N]``.
        factors: ``[B, N]``.
        temperature: Divides the scores.
        ignore_index: Label of pixels that are neither anchor nor key.
        backend: Which implementation.
    """
    if choose_backend(backend, features, features.shape[1]) is _tiled:
        return _tiled.official_total(
            features,
            labels,
            images,
            factors,
            temperature=temperature,
            ignore_index=ignore_index,
        )
    losses = official_anchor_losses(
        features,
        labels,
        images,
        temperature=temperature,
        ignore_index=ignore_index,
        backend=backend,
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
    anchors, keys, others = denominator.anchors, denominator.keys, denominator.other_keys
    logs = masked_logsumexp(
        anchors.features,
        keys.features,
        anchors.labels,
        keys.labels,
        temperature=denominator.temperature,
        ignore_index=denominator.ignore_index,
        pairs="all",
        exclude_self=denominator.exclude_self,
        backend=backend,
    )
    if others is None:
        return logs
    same_class = masked_logsumexp(
        anchors.features,
        others.features,
        anchors.labels,
        others.labels,
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
    anchors, keys, others = denominator.anchors, denominator.keys, denominator.other_keys
    if choose_backend(backend, anchors.features, keys.labels.shape[1]) is _tiled:
        return _tiled.denominator_total(
            anchors.features,
            keys.features,
            None if others is None else others.features,
            anchors.labels,
            keys.labels,
            None if others is None else others.labels,
            factors,
            temperature=denominator.temperature,
            ignore_index=denominator.ignore_index,
            exclude_self=denominator.exclude_self,
        )
    logs = log_denominators(denominator, backend=backend)
    return (factors * torch.where(factors == 0, 0.0, logs)).sum()


def _logaddexp(first: Tensor, second: Tensor) -> Tensor:
    """``torch.logaddexp`` with a zero, not NaN, gradient where both are -inf."""
    neither = (first == -torch.inf) & (second == -torch.inf)
    result = torch.logaddexp(first.masked_fill(neither, 0.0), second.masked_fill(neither, 0.0))
    return result.masked_fill(neither, -torch.inf)


def class_sums(values: Tensor, labels: Tensor, query_labels: Tensor, *, backend: Backend) -> Tensor:
    """For each query the sum of the values of its class.

    Args:
        values: ``[B, M, D]``.
        labels: int64 ``[B, M]``.
        query_labels: int64 ``[B, N]``.
        backend: Which implementation.

    Returns:
        ``[B, N, D]`` in float32 (float64 for float64).
    """
    with torch.autocast(values.device.type, enabled=False):
        # Not a matter of pairs: the Triton back end has no kernel of its own for it.
        few = choose_backend(backend, values, query_labels.shape[1]) is _reference
        result: Tensor = (_reference if few else _tiled).class_sums(values, labels, query_labels)
    return result
