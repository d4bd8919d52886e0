"""The checkers of notebook 08 name the mistakes that people make."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segnb.checks import Answer, Hint
from segnb.checks.semi_supervised import (
    check_confident_labels,
    check_pseudo_quality,
)


def confident(scores: Tensor, threshold: float, *, raw: bool = False, strict: bool = False) -> Any:
    sure, label = (scores if raw else scores.softmax(0)).max(0)
    return label.where(sure > threshold if strict else sure >= threshold, torch.tensor(255))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda scores, threshold: scores.argmax(-1), "shape"),
        (lambda scores, threshold: scores.argmax(0), "below the threshold"),
        (lambda scores, threshold: confident(scores, threshold, raw=True), "raw score"),
        (lambda scores, threshold: confident(scores, threshold, strict=True), "exactly at"),
    ],
)
def test_labels_kept_wrongly(answer: Answer, hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_confident_labels(answer)


def quality(pseudo: Tensor, truth: Tensor) -> tuple[float, float]:
    counted = truth != 255
    both = counted & (pseudo != 255)
    right = int((pseudo == truth)[both].sum())
    return int(both.sum()) / int(counted.sum()), right / max(int(both.sum()), 1)


def void_counts(pseudo: Tensor, truth: Tensor) -> tuple[float, float]:
    return float((pseudo != 255).float().mean()), quality(pseudo, truth)[1]


def missing_is_wrong(pseudo: Tensor, truth: Tensor) -> tuple[float, float]:
    counted = truth != 255
    return quality(pseudo, truth)[0], float((pseudo == truth)[counted].float().mean())


def nan_of_nothing(pseudo: Tensor, truth: Tensor) -> tuple[float, float]:
    both = (truth != 255) & (pseudo != 255)
    return quality(pseudo, truth)[0], float((pseudo == truth)[both].float().mean())


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda pseudo, truth: 0.5, "two shares"),
        (void_counts, "without a true label"),
        (missing_is_wrong, "not a mistake"),
        (nan_of_nothing, "not finite"),
    ],
)
def test_quality_measured_wrongly(answer: Answer, hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_pseudo_quality(answer)


def test_right_answers_pass() -> None:
    check_confident_labels(confident)
    check_pseudo_quality(quality)
