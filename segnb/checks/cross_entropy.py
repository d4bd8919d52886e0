"""Checkers of notebook 02: the confusion matrix, and mIoU computed from it."""

from __future__ import annotations

import torch

from segnb.checks import Answer, call, need, need_close, numbers
from segnb.datasets.base import IGNORE
from segnb.metrics.segmentation import score_confusion


def check_confusion_matrix(confusion_matrix: Answer) -> None:
    """Judge ``confusion_matrix(prediction, mask, num_classes) -> counts [C, C]``."""
    mask = torch.tensor([[0, 0, 1], [2, 1, 0]])
    guess = torch.tensor([[0, 1, 1], [1, 1, 0]])
    right = torch.tensor([[2, 1, 0], [0, 2, 0], [0, 1, 0]])
    need_close(
        call(confusion_matrix, guess, mask, 3),
        right,
        "the counts are wrong even without void. Every pixel adds 1 in the row of its true "
        "class and the column of the predicted one.",
        mistakes=[(right.T, "rows and columns are swapped: the row is the true class.")],
    )
    void = torch.tensor([[IGNORE, 0, 1], [2, IGNORE, 0]])
    counts = numbers(call(confusion_matrix, guess, void, 3))
    need(
        int(counts.sum()) == 4,
        f"two of these six pixels are void, but {int(counts.sum())} were counted. Take only the "
        "pixels whose mask is not 255.",
    )
    need_close(
        counts,
        [[1, 1, 0], [0, 1, 0], [0, 1, 0]],
        "with void in the mask, the counts are in the wrong cells. Do prediction and mask still "
        "belong to the same pixels after the void ones are taken out?",
    )
    many = torch.tensor([[19, 0]], dtype=torch.uint8)
    need_close(
        call(confusion_matrix, many, many, 20),
        torch.diag(torch.tensor([1, *[0] * 18, 1])),
        "uint8 masks with 20 classes go wrong. A uint8 ends at 255; what is 20 times 19?",
    )


def check_mean_iou(mean_iou: Answer) -> None:
    """Judge ``mean_iou(matrix) -> percent``."""
    need_close(
        call(mean_iou, torch.diag(torch.tensor([5, 7, 2]))),
        100,
        "a matrix with nothing off the diagonal is perfect; it should give 100 %.",
        mistakes=[(1, "a perfect matrix gives 1; the result should be in percent.")],
    )
    matrix = torch.tensor([[8, 1, 1], [2, 6, 0], [0, 2, 1]])
    hits = matrix.diagonal()
    alone = (
        "you divide by the row or by the column alone. The union of true and predicted pixels "
        "contains both."
    )
    need_close(
        call(mean_iou, matrix),
        score_confusion(matrix).miou,
        "the union counts some pixels twice, or not at all. Which sums contain the diagonal?",
        mistakes=[
            (100 * hits.sum() / matrix.sum(), "that is the pixel accuracy, not the mean IoU."),
            (100 * (hits / matrix.sum(1)).mean(), alone),
            (100 * (hits / matrix.sum(0)).mean(), alone),
        ],
    )
    for third_row, hint in (
        ([0, 0, 0], "the third class occurs neither in the masks nor in the predictions, yet it "
         "changes the mean. Which classes have a union at all?"),
        ([3, 0, 0], "the third class occurs but is never predicted: its IoU is 0, and it counts."),
    ):  # fmt: skip
        matrix = torch.tensor([[8, 2, 0], [1, 5, 0], third_row])
        need_close(call(mean_iou, matrix), score_confusion(matrix).miou, hint)
