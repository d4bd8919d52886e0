"""Checkers of notebook 08: confident pseudo-labels, their quality, and both kinds together."""

from __future__ import annotations

import torch

from segnb.checks import Answer, call, need, need_cases, need_close, numbers
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


def check_union_masks(union_masks: Answer) -> None:
    """Judge ``union_masks(true_masks, pseudo_masks, labelled) -> masks``."""
    true = torch.arange(4)[:, None, None].expand(4, 2, 2).to(torch.uint8).contiguous()
    pseudo = torch.full((4, 2, 2), 7, dtype=torch.uint8)
    pseudo[1, 0, 0] = IGNORE
    labelled = torch.tensor([True, False, True, False])
    found = call(union_masks, true, pseudo, labelled)
    need_close(
        found[labelled],
        true[labelled],
        "a labelled image lost its true labels. Pseudo-labels are for images that have none.",
    )
    need(
        not bool((found[~labelled] == true[~labelled]).any()),
        "an unlabelled image got its true labels: that is cheating, nobody has drawn them.",
    )
    need_close(
        found[~labelled],
        pseudo[~labelled],
        "an unlabelled image should keep its pseudo-labels as they are, 255 included.",
    )
    kept = true.clone()
    union_masks(kept, pseudo, labelled)
    need(
        bool((kept == true).all()),
        "the masks passed in have changed. The next threshold would start from them: work on a "
        "copy.",
    )
