"""Checkers of notebook 02: each common mistake gets the hint that is about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from segnb.checks import Hint, check_confusion_matrix, check_mean_iou


def counts(true: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    pairs = num_classes * true.long().flatten() + predicted.long().flatten()
    return torch.bincount(pairs, minlength=num_classes**2)[: num_classes**2].reshape(
        num_classes, num_classes
    )


def exchanged(prediction: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    kept = mask != 255
    return counts(prediction[kept], mask[kept], num_classes)


def void_as_class_0(prediction: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    return counts(torch.where(mask == 255, 0, mask), prediction, num_classes)


def overflowing(prediction: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    kept = mask != 255
    pairs = num_classes * mask[kept] + prediction[kept]
    found = torch.bincount(pairs, minlength=num_classes**2)
    return found.reshape(num_classes, num_classes)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (exchanged, "swapped"),
        (void_as_class_0, "two of these six pixels are void"),
        (overflowing, "uint8"),
        (lambda p, m, c: torch.zeros(c, c + 1), "shape"),
    ],
)
def test_wrong_matrices_get_their_hint(answer: Callable[..., Any], hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_confusion_matrix(answer)


def iou(matrix: Tensor) -> Tensor:
    right = matrix.diagonal().double()
    return right / (matrix.sum(0) + matrix.sum(1) - right)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda m: float(iou(m).mean()), "percent"),
        (lambda m: float(100 * m.diagonal().sum() / m.sum()), "pixel accuracy"),
        (lambda m: float(100 * (m.diagonal() / m.sum(1)).mean()), "alone"),
        (lambda m: float(100 * (m.diagonal() / m.sum(0)).mean()), "alone"),
        (lambda m: float(100 * (m.diagonal() / (m.sum(0) + m.sum(1))).mean()), "100 %"),
        (lambda m: float(100 * iou(m).nan_to_num(0.0).mean()), "third class"),
        (lambda m: float(100 * iou(m).nan_to_num(1.0).mean()), "third class"),
        (lambda m: float(100 * iou(m).mean()), "not finite.*third class"),
        (lambda m: float(100 * iou(m)[m.diagonal() > 0].mean()), "never predicted"),
    ],
)
def test_wrong_means_get_their_hint(answer: Callable[..., Any], hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_mean_iou(answer)
