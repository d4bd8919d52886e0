"""Checkers of notebook 02: the confusion matrix, and mIoU made from it."""

from __future__ import annotations

import torch

from segnb.checks import Answer, call, need, need_close, numbers
from segnb.datasets.base import IGNORE
from segnb.metrics.segmentation import score_confusion


def check_confusion_matrix(confusion_matrix: Answer) -> None:
    """Judge ``confusion_matrix(prediction, mask, num_classes) -> counts [C, C]``."""
    mask = torch.tensor([[0, 0, 1], [2, 1, 0]])
    guess = torch.tensor([[0, 1, 1], [1, 1, 0]])
    wanted = torch.tensor([[2, 1, 0], [0, 2, 0], [0, 1, 0]])
    found = numbers(call(confusion_matrix, guess, mask, 3))
    need(
        found.shape != (3, 3) or not (found == wanted.T.numpy()).all(),
        "rows and columns are exchanged: the row is the true class.",
    )
    need_close(
        found,
        wanted,
        "the counts are wrong already without void. Every pixel adds 1 in the row of its true "
        "class and the column of the predicted one.",
    )
    void = torch.tensor([[IGNORE, 0, 1], [2, IGNORE, 0]])
    counted = call(confusion_matrix, guess, void, 3)
    need(
        int(numbers(counted).sum()) == 4,
        f"two of these six pixels are void, but {int(numbers(counted).sum())} were counted. Take "
        "only the pixels whose mask is not 255.",
    )
    need_close(
        counted,
        torch.tensor([[1, 1, 0], [0, 1, 0], [0, 1, 0]]),
        "with void in the mask the counts are in the wrong places. Do prediction and mask still "
        "belong to the same pixels after the void ones are taken out?",
    )
    # As bytes, 20 times class 19 runs over.
    many = torch.tensor([[19, 0]], dtype=torch.uint8)
    wanted_many = torch.zeros(20, 20)
    wanted_many[19, 19] = wanted_many[0, 0] = 1
    need_close(
        call(confusion_matrix, many, many, 20),
        wanted_many,
        "uint8 masks and 20 classes go wrong. A uint8 ends at 255; what is 20 times 19?",
    )


def check_mean_iou(mean_iou: Answer) -> None:
    """Judge ``mean_iou(matrix) -> percent``."""
    perfect = torch.diag(torch.tensor([5, 7, 2]))
    found = float(numbers(call(mean_iou, perfect)))
    need(abs(found - 1) > 1e-6, "a perfect matrix gives 1; the result should be in percent.")
    need(
        abs(found - 100) < 1e-6,
        f"a matrix with nothing off the diagonal is perfect: 100 %, not {found:.2f}.",
    )
    matrix = torch.tensor([[8, 1, 1], [2, 6, 0], [0, 2, 1]])
    found = float(numbers(call(mean_iou, matrix)))
    accuracy = 100 * float(matrix.diagonal().sum() / matrix.sum())
    recall = 100 * float((matrix.diagonal() / matrix.sum(1)).mean())
    precision = 100 * float((matrix.diagonal() / matrix.sum(0)).mean())
    need(abs(found - accuracy) > 1e-3, "that is the share of right pixels, not the mean IoU.")
    need(
        min(abs(found - recall), abs(found - precision)) > 1e-3,
        "you divide by the row or by the column alone. The union of true and predicted pixels "
        "has both in it.",
    )
    need_close(
        found,
        score_confusion(matrix).miou,
        "the union counts some pixels twice, or not at all. In which sums is the diagonal?",
    )
    absent = torch.tensor([[8, 2, 0], [1, 5, 0], [0, 0, 0]])
    need_close(
        call(mean_iou, absent),
        score_confusion(absent).miou,
        "the third class occurs neither in the masks nor in the predictions, yet it changes the "
        "mean. Which classes have a union at all?",
    )
    missed = torch.tensor([[8, 2, 0], [1, 5, 0], [3, 0, 0]])
    need_close(
        call(mean_iou, missed),
        score_confusion(missed).miou,
        "the third class occurs but is never predicted: its IoU is 0, and it does count.",
    )
