"""What the losses accept, checked once: shapes, types, devices, temperature, finite features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Below this a score's own rounding error, about 1e-7 / temperature, spoils the loss in float32.
MIN_TEMPERATURE = 1e-4

#: Features shorter than this are not stretched to unit length (as in ``F.normalize``).
MIN_NORM = 1e-12


class PixelSet(NamedTuple):
    """One set of pixels an image.

    Attributes:
        features: ``[B, N, D]`` in the arithmetic's type, so that the gradients of a loss's
            terms add up before they are rounded to the caller's type.
        labels: int64 ``[B, N]``.
        shape: Shape of the labels as they came, ``(B, N)`` or ``(B, H, W)``.
        dtype: Type of the features as they came: what products may round their operands to.
    """

    features: Tensor
    labels: Tensor
    shape: torch.Size
    dtype: torch.dtype


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless the temperature is usable in float32."""
    if not temperature >= MIN_TEMPERATURE or temperature == float("inf"):
        raise ValueError(
            f"temperature must be a finite number of at least {MIN_TEMPERATURE}, got {temperature}"
        )


def pixel_set(
    features: Tensor, labels: Tensor, *, normalize: bool, name: str = "features"
) -> PixelSet:
    """Bring features and labels into ``[B, N, D]`` and ``[B, N]``, without a copy where possible.

    Args:
        features: ``[B, N, D]`` or ``[B, D, H, W]`` (contiguous or channels-last).
        labels: Integer ``[B, N]`` or ``[B, H, W]``, matching the features.
        normalize: Project the features to unit length, with the gradient of the projection.
        name: How the error messages call the features.

    Raises:
        TypeError: Features that are not floating point, labels that are not integers.
        ValueError: Shapes or devices that do not fit, or non-finite features. Values are looked
            at on the CPU alone: elsewhere the look would make the host wait for the device, and
            non-finite features give a NaN loss instead. The same holds under ``torch.compile``.
    """
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
    shape = labels.shape
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
        raise ValueError(f"{name} hold NaN or infinite values")
    dtype = features.dtype
    if normalize:
        features = unit_length(features)
        if features.is_cuda:
            # The kernels multiply in this type; all terms of a loss must see the same features.
            features = features.to(dtype)
    return PixelSet(features.to(compute_dtype(dtype)), labels.long(), shape, dtype)


def _all_finite(features: Tensor) -> bool:
    # The sum is the cheaper question, and finite only if all are; large ones may overflow it.
    return bool(torch.isfinite(features.sum()) or torch.isfinite(features).all())


def same_space(first: PixelSet, second: PixelSet, first_name: str, second_name: str) -> None:
    """Raise ValueError unless two sets share batch size, channels, dtype and device."""
    for what, a, b in (
        ("batch size", first.features.shape[0], second.features.shape[0]),
        ("channels", first.features.shape[2], second.features.shape[2]),
        ("device", first.features.device, second.features.device),
        ("dtype", first.dtype, second.dtype),
    ):
        if a != b:
            raise ValueError(f"{first_name} and {second_name} differ in {what}: {a} and {b}")


def unit_length(features: Tensor) -> Tensor:
    """Project ``[..., D]`` to unit length; safe from the square's overflow and underflow.

    Computed and given back in float32 at least. Features shorter than ``MIN_NORM`` are divided
    by ``MIN_NORM``, so that zero stays zero with a finite gradient.
    """
    wide = features.to(compute_dtype(features.dtype))
    # The length does not depend on this scale, so its gradient is zero: detach.
    scale = wide.detach().abs().amax(dim=-1, keepdim=True).clamp_min(MIN_NORM)
    scaled = wide / scale
    length = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    # Not clamp_min: a feature along an axis has length 1, where that has no gradient.
    projected: Tensor = scaled / torch.where(length < 1.0, 1.0, length)
    return projected


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Arithmetic a loss is computed in: float64 for float64, float32 for all else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def class_counts(labels: Tensor, query_labels: Tensor) -> Tensor:
    """How often each query's label occurs among the labels: ``[..., M]``, ``[..., N]``."""
    ordered = labels.contiguous().sort(dim=-1).values
    query_labels = query_labels.contiguous()
    first = torch.searchsorted(ordered, query_labels, right=False)
    return torch.searchsorted(ordered, query_labels, right=True) - first
