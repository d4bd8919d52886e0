"""Checkers of notebook 08: confident pseudo-labels and their quality."""

from __future__ import annotations

import torch

from segnb.checks import Answer, call, need_cases, need_close, numbers
from segnb.datasets import IGNORE


def check_confident_labels(confident_labels: Answer) -> None:
    """Judge ``confident_labels(scores, threshold) -> mask``."""
    probabilities = torch.tensor(
        [[[0.9, 0.6, 0.34, 0.2]], [[0.05, 0.3, 0.33, 0.5]], [[0.05, 0.1, 0.33, 0.3]]]
    )
    scores = probabilities.log() + 3.0  # the softmax does not change with the shift
    cases = [
        ((scores, 0.0), [[0, 0, 0, 1]],
         "at threshold 0 every pixel gets its most likely class. The classes are the first axis."),
        ((scores, 0.55), [[0, 0, IGNORE, IGNORE]],
         "pixels below the threshold should be 255. Compare the softmax probability of the chosen "
         "class, not its raw score: a shift of all scores means nothing."),
        ((torch.tensor([[[0.0]], [[0.0]]]), 0.5), [[0]],
         "a pixel exactly at the threshold keeps its label: it is as confident as required."),
    ]  # fmt: skip
    need_cases(confident_labels, cases)


def check_pseudo_quality(pseudo_quality: Answer) -> None:
    """Judge ``pseudo_quality(pseudo, truth) -> (coverage, accuracy)``."""
    truth = torch.tensor([[0, 1, 2, IGNORE], [0, 1, 2, IGNORE]])
    pseudo = torch.tensor([[0, 1, 1, 1], [IGNORE, 1, IGNORE, 1]])
    shares = "return two shares, coverage and accuracy"
    coverage, accuracy = numbers(call(pseudo_quality, pseudo, truth), (2,), shares)
    need_close(
        coverage,
        4 / 6,
        "coverage is the share of the truly labelled pixels that have a pseudo-label.",
        mistakes=[
            (6 / 8, "coverage also counts pixels without a true label. Nobody can say whether "
             "those are right, so they belong in neither numerator nor denominator."),
        ],
    )  # fmt: skip
    need_close(
        accuracy,
        3 / 4,
        "accuracy is the share of correct ones among the pixels that have both labels. A pixel "
        "without a pseudo-label is not a mistake.",
    )
    nothing = torch.full_like(truth, IGNORE)
    coverage, accuracy = numbers(call(pseudo_quality, nothing, truth), (2,), shares)
    need_close(coverage, 0, "without any pseudo-label, coverage is 0.")
    need_close(accuracy, 0, "without any pseudo-label there is nothing to divide by; return 0.")
