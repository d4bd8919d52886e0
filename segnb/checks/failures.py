"""Checkers of notebook 10: masks, a loss at its limits, and an honest report."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segnb.checks import Answer, call, need, need_cases, need_close, numbers
from segnb.datasets.base import IGNORE


def check_resize_mask(resize_mask: Answer) -> None:
    """Judge ``resize_mask(mask, (height, width)) -> mask``."""
    mask = torch.zeros(8, 12, dtype=torch.uint8)
    mask[2:6, 3:9] = 8
    mask[:, 10:] = IGNORE
    for size in ((4, 6), (16, 24), (5, 7), (11, 9)):
        found = numbers(call(resize_mask, mask, size), size, "height comes first")
        extra = sorted({int(v) for v in found.ravel()} - {0, 8, IGNORE})
        need(
            not extra,
            f"the mask holds 0, 8 and 255, and yours then holds {extra[:4]} too. A label is a "
            "name; what is halfway between two names?",
        )
    need(
        call(resize_mask, mask, (4, 6)).dtype == mask.dtype,
        "the result has a different type from the mask.",
    )
    need_close(
        call(resize_mask, mask, (16, 24)),
        mask.repeat_interleave(2, 0).repeat_interleave(2, 1),
        "at twice the size, every pixel should become a block of two by two; yours are elsewhere.",
    )


def check_stable_loss(stable_loss: Answer) -> None:
    """Judge ``stable_loss(similarity [N, M], same [N, M], temperature) -> scalar``."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 0, 1, 1, 2])
    features = F.normalize(torch.randn(5, 4, generator=generator), dim=1)
    similarity = features @ features.T
    half = similarity.half()
    same = labels[:, None] == labels[None, :]
    lonely = same.clone()
    lonely[4] = False

    def loss(similarity: Tensor, same: Tensor, temperature: float) -> Tensor:
        logs = (similarity.double() / temperature).log_softmax(1)
        losses = -(logs * same).sum(1) / same.sum(1)
        return losses[same.any(1)].mean()

    cases = [
        ((similarity, same, 1.0), loss(similarity, same, 1.0),
         "even at temperature 1, with positives for all, the value differs from the formula's."),
        *(((half, same, temperature), loss(half, same, temperature),
           f"at temperature {temperature} in fp16 the loss should be a number, and as exact as in "
           "fp32. How large does an exponential get? Which function of torch never forms it?")
          for temperature in (0.07, 0.01, 0.001)),
        ((similarity, lonely, 1.0), loss(similarity, lonely, 1.0),
         "the last anchor has no positive here. It should be left out of the mean: neither 0 / 0, "
         "nor counted in the number that the sum is divided by."),
        ((similarity, torch.zeros_like(same), 1.0), 0.0,
         "no anchor has a positive here: the loss should be 0."),
    ]  # fmt: skip
    need_cases(stable_loss, cases)


def check_choose_and_report(choose_and_report: Answer) -> None:
    """Judge ``choose_and_report(val, test) -> (position, score)``."""
    position, score = numbers(
        call(choose_and_report, [40.0, 43.0, 41.0], [39.0, 38.5, 44.0]),
        (2,),
        "return two values, the position of the chosen candidate and the score to report",
    )
    need(
        position != 2,
        "the candidate you chose is the one with the best test score. Which split may have a say "
        "in the choice?",
    )
    need(position == 1, "another candidate is better on the split that choices are made on.")
    need(
        score != 43.0,
        "you report the score that the candidate was chosen by; it is the largest of several, and "
        "flatters for that reason alone.",
    )
    need(score == 38.5, "the score reported should be the chosen candidate's own, on test.")
