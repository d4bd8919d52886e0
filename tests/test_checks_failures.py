"""Checkers of notebook 10: each common mistake gets the hint that is about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segnb.checks import Hint, check_choose_and_report, check_resize_mask, check_stable_loss


def resized(mask: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    return F.interpolate(mask[None, None].float(), size=size, mode=mode)[0, 0]


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda m, s: resized(m, s, "bilinear").byte(), "between two names"),
        (lambda m, s: resized(m, s[::-1], "nearest").byte(), "height comes first"),
        (lambda m, s: resized(m, s, "nearest"), "type"),
        (lambda m, s: resized(m.flip(0, 1), s, "nearest").byte(), "block of two by two"),
    ],
)
def test_wrong_masks_get_their_hint(answer: Callable[..., Any], hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_resize_mask(answer)


def overflowing(similarity: Tensor, same: Tensor, temperature: float) -> Tensor:
    exponentials = (similarity / temperature).exp()
    logs = (exponentials / exponentials.sum(1, keepdim=True)).log()
    return -((logs * same).sum(1) / same.sum(1)).mean()


def in_half_precision(similarity: Tensor, same: Tensor, temperature: float) -> Tensor:
    logs = (similarity / temperature).log_softmax(1)
    return -((logs * same).sum(1) / same.sum(1)).mean()


def dividing_by_no_positive(similarity: Tensor, same: Tensor, temperature: float) -> Tensor:
    logs = (similarity.float() / temperature).log_softmax(1)
    return -((logs * same).sum(1) / same.sum(1)).mean()


def counting_all_anchors(similarity: Tensor, same: Tensor, temperature: float) -> Tensor:
    logs = (similarity.float() / temperature).log_softmax(1)
    return -((logs * same).sum(1) / same.sum(1).clamp(min=1)).mean()


def mean_of_nothing(similarity: Tensor, same: Tensor, temperature: float) -> Tensor:
    logs = (similarity.float() / temperature).log_softmax(1)
    losses = -(logs * same).sum(1) / same.sum(1).clamp(min=1)
    return losses[same.any(1)].mean()


def sum_over_positives(similarity: Tensor, same: Tensor, temperature: float) -> Tensor:
    logs = (similarity.float() / temperature).log_softmax(1)
    return -(logs * same).sum(1).mean()


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (overflowing, "How large does an exponential get"),
        (in_half_precision, "as exact as in fp32"),
        (dividing_by_no_positive, "left out of the mean"),
        (counting_all_anchors, "left out of the mean"),
        (mean_of_nothing, "should be 0"),
        (sum_over_positives, "even at temperature 1"),
    ],
)
def test_wrong_losses_get_their_hint(answer: Callable[..., Any], hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_stable_loss(answer)


def best(values: list[float]) -> int:
    return values.index(max(values))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda val, test: (best(test), max(test)), "Which split"),
        (lambda val, test: (best(val), max(val)), "flatters"),
        (lambda val, test: (best(val), max(test)), "its own|own, on test"),
        (lambda val, test: (0, test[0]), "another candidate"),
        (lambda val, test: max(test), "two values"),
    ],
)
def test_flattering_reports_get_their_hint(answer: Callable[..., Any], hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_choose_and_report(answer)


def test_right_answers_pass() -> None:
    check_resize_mask(lambda m, s: resized(m, s, "nearest-exact").byte())
    check_choose_and_report(lambda val, test: (best(val), test[best(val)]))

    def stable(similarity: Tensor, same: Tensor, temperature: float) -> Tensor:
        logs = similarity.float() / temperature
        logs = logs - torch.logsumexp(logs, 1, keepdim=True)
        count = same.sum(1)
        losses = -(logs * same).sum(1) / count.clamp(min=1)
        return losses.sum() / (count > 0).sum().clamp(min=1)

    check_stable_loss(stable)
