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

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from segnb.losses import _reference

Backend = Literal["auto", "reference", "tiled", "triton"]
Pairs = Literal["all", "same", "other"]


def choose_backend(backend: Backend, features: Tensor) -> Any:
    """The module that computes: an explicit choice, or by the device.

    Raises:
        ValueError: No such back end.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {get_args(Backend)}, got {backend!r}")
    return _reference


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
        result: Tensor = choose_backend(backend, anchors).masked_logsumexp(
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
        result: Tensor = choose_backend(backend, features).official_anchor_losses(
            features, labels, images, temperature=temperature, ignore_index=ignore_index
        )
    return result


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
        result: Tensor = choose_backend(backend, values).class_sums(values, labels, query_labels)
    return result
