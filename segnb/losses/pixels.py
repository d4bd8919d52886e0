"""Checks of what the losses are given, and what all back ends share about pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Label of pixels that are neither anchor nor key, whatever the caller's ``ignore_index`` is.
IGNORED = torch.iinfo(torch.int64).min

#: Below this a score's rounding error, about 1e-7 / temperature, spoils the loss in float32.
MIN_TEMPERATURE = 1e-4


class NotFiniteError(ValueError):
    """Features with NaN or infinite values."""


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """One set of pixels for each image.

    Attributes:
        features: ``[B, N, D]`` in the type the loss is computed in, so that the gradients of its
            terms add up before they are rounded to the caller's type.
        labels: int64 ``[B, N]``, ``IGNORED`` for pixels left out.
        temperature: A score is a product of features divided by the temperature.
        dtype: The caller's type of the features: products may round their operands to it.
    """

    features: Tensor
    labels: Tensor
    temperature: float
    dtype: torch.dtype


def pixel_sets(
    *, temperature: float, ignore_index: int, **sets: tuple[Tensor, Tensor]
) -> list[Pixels]:
    """Bring features and labels into ``[B, N, D]`` and ``[B, N]``, features without a copy.

    Args:
        temperature: Divides the scores.
        ignore_index: Label of pixels left out of the loss.
        sets: Features ``[B, N, D]`` or ``[B, D, H, W]`` (contiguous or channels-last) and their
            integer labels ``[B, N]`` or ``[B, H, W]``, by the name that error messages use.

    Raises:
        TypeError: What is no tensor, features that are not floating point, or labels that are not
            integers.
        ValueError: A temperature that float32 cannot use, mismatched shapes, devices or sets,
            non-finite features, or a negative label that is not ``ignore_index``. Values are only
            checked on the CPU: on other devices the host would have to wait. There non-finite
            features give a NaN loss, and CUDA reports such a label as a failed assertion. Under
            ``torch.compile`` values are not checked.
    """
    if not temperature >= MIN_TEMPERATURE or temperature == float("inf"):
        raise ValueError(
            f"temperature must be a finite number of at least {MIN_TEMPERATURE}, got {temperature}"
        )
    pixels = [_pixel_set(name, *one, temperature, ignore_index) for name, one in sets.items()]
    for name, one in zip(list(sets)[1:], pixels[1:], strict=True):
        _check_same_space(pixels[0], one, next(iter(sets)), name)
    return pixels


def _pixel_set(
    name: str, features: Tensor, labels: Tensor, temperature: float, ignore_index: int
) -> Pixels:
    for what, one in ((name, features), (f"labels of {name}", labels)):
        if not isinstance(one, Tensor):
            kind = type(one).__name__
            raise TypeError(f"{what} must be a tensor, got {kind}: torch.as_tensor makes one")
    if not features.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {features.dtype}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels of {name} must be integers, got {labels.dtype}")
    if features.device != labels.device:
        raise ValueError(f"{name} are on {features.device}, their labels on {labels.device}")
    if features.dim() == 4:
        expected = (features.shape[0], *features.shape[2:])
    elif features.dim() == 3:
        expected = tuple(features.shape[:2])
    else:
        raise ValueError(
            f"{name} must be [B, N, D] or [B, D, H, W], got shape {tuple(features.shape)}"
        )
    if tuple(labels.shape) != expected:
        raise ValueError(
            f"{name} of shape {tuple(features.shape)} need labels of shape {expected}, "
            f"got {tuple(labels.shape)}"
        )
    if features.dim() == 4:
        features = features.flatten(2).transpose(1, 2)
        labels = labels.flatten(1)
    if features.shape[0] == 0 or features.shape[2] == 0:
        raise ValueError(f"{name} have no images or no channels: shape {tuple(features.shape)}")
    if (
        features.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not _all_finite(features.detach())
    ):
        raise NotFiniteError(f"{name} contain NaN or infinite values")
    labels = labels.long()
    _check_labels(name, labels, ignore_index)
    return Pixels(
        features=features.to(compute_dtype(features.dtype)),
        labels=labels.masked_fill(labels == ignore_index, IGNORED),
        temperature=temperature,
        dtype=features.dtype,
    )


def _check_labels(name: str, labels: Tensor, ignore_index: int) -> None:
    """Refuse negative labels: they are void somewhere else, and here would count as a class."""
    if torch.compiler.is_compiling() or labels.device.type not in ("cpu", "cuda"):
        return
    wrong = (labels < 0) & (labels != ignore_index)
    if labels.device.type == "cuda":
        # As torch's cross-entropy does: the device stops, but the host does not wait for it.
        torch._assert_async(~wrong.any(), f"labels of {name}: {_NEGATIVE}")
    elif bool(wrong.any()):
        found = int(labels[wrong][0])
        raise ValueError(
            f"labels of {name} hold {found}, and ignore_index is {ignore_index}: {_NEGATIVE} "
            f"(ignore_index={found})"
        )


_NEGATIVE = "a class can't be negative; if it marks void pixels, pass it as ignore_index"


def _all_finite(features: Tensor) -> bool:
    # The sum is cheaper, and finite only if all values are; large values may overflow it.
    return bool(torch.isfinite(features.sum()) or torch.isfinite(features).all())


def _check_same_space(first: Pixels, second: Pixels, first_name: str, second_name: str) -> None:
    for what, a, b in (
        ("batch size", first.features.shape[0], second.features.shape[0]),
        ("channels", first.features.shape[2], second.features.shape[2]),
        ("device", first.features.device, second.features.device),
        ("dtype", first.dtype, second.dtype),
    ):
        if a != b:
            raise ValueError(f"{first_name} and {second_name} differ in {what}: {a} and {b}")


def joined(first: Pixels, second: Pixels | None) -> Pixels:
    """Both sets as one, the first's pixels first."""
    if second is None:
        return first
    return Pixels(
        features=torch.cat([first.features, second.features], dim=1),
        labels=torch.cat([first.labels, second.labels], dim=1),
        temperature=first.temperature,
        dtype=first.dtype,
    )


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type a loss is computed in: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def class_counts(labels: Tensor, query_labels: Tensor) -> Tensor:
    """How often each query's label occurs among the labels: ``[..., M]``, ``[..., N]``."""
    ordered = labels.contiguous().sort(dim=-1).values
    query_labels = query_labels.contiguous()
    first = torch.searchsorted(ordered, query_labels, right=False)
    return torch.searchsorted(ordered, query_labels, right=True) - first


def mean_factors(counts: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight of each anchor's loss in the mean over anchors, then over images.

    Args:
        counts: bool ``[B, N]``: whether the anchor is not ignored and has a positive.
        dtype: Type of the weights.

    Returns:
        ``[B, N]``; all zeros for an image without such an anchor, which so counts as 0.
    """
    number = counts.sum(dim=1, keepdim=True).clamp_min(1)
    return counts.to(dtype) / number / counts.shape[0]


def once_differentiable() -> None:
    """Raise RuntimeError in a backward pass that is itself to be differentiated."""
    # Gradients are enabled in a backward pass only under create_graph=True.
    if torch.is_grad_enabled():
        raise RuntimeError(
            "this back end of the contrastive loss cannot be differentiated twice; "
            "use backend='plain' for second derivatives"
        )
