"""Mean intersection over union (mIoU) from one confusion matrix over a whole split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from segnb.datasets.base import IGNORE
from segnb.errors import DataError


@dataclass(frozen=True)
class Score:
    """How accurate the predictions of one split are, in percent (0-100).

    Attributes:
        miou: Mean of ``iou`` over the classes that occur in the masks or in the predictions.
        iou: Intersection over union of each class; ``None`` for a class that occurs in neither.
        pixel_accuracy: Share of the labelled pixels that are predicted correctly.
        subsets: The scores of named parts of the split.
    """

    miou: float
    iou: tuple[float | None, ...]
    pixel_accuracy: float
    subsets: Mapping[str, Score] = field(default_factory=dict)


class ConfusionScore:
    """Counts the pixels of many images in one confusion matrix, then scores the split.

    The mean over classes is taken after all pixels are counted. Averaging per-image IoUs gives a
    different number: it rewards images with few classes and is not the mIoU of the segmentation
    literature.

    Args:
        num_classes: Number of classes, not counting void.
    """

    def __init__(self, num_classes: int) -> None:
        from torchmetrics.classification import MulticlassConfusionMatrix

        self.num_classes = num_classes
        # The library's validation sorts all pixels of every batch; ours only needs two extremes.
        # One process scores the whole split, so it must not wait for the others.
        self._matrix: Any = MulticlassConfusionMatrix(
            num_classes, ignore_index=IGNORE, validate_args=False, sync_on_compute=False
        )

    def update(self, prediction: Tensor, mask: Tensor) -> None:
        """Count a batch of any shape, on any device.

        Args:
            prediction: Class ids, any integer type; ignored where ``mask`` is 255.
            mask: True class ids, same shape; 255 is not counted.

        Raises:
            ValueError: Shapes differ, or the prediction is not of an integer type.
            DataError: A label or a prediction is not one of the classes.
        """
        if prediction.shape != mask.shape:
            raise ValueError(
                f"prediction {tuple(prediction.shape)} and mask {tuple(mask.shape)} differ in "
                "shape; bring the scores to the mask's size, then take the argmax over classes"
            )
        if prediction.is_floating_point():
            raise ValueError(
                f"prediction is {prediction.dtype}, not integer; take the argmax over classes first"
            )
        counted = mask != IGNORE
        labels = mask[counted].long()
        guesses = prediction[counted].long()
        self._inside(labels, "the mask")
        self._inside(guesses, "the prediction")
        self._matrix = self._matrix.to(labels.device)
        self._matrix.update(guesses, labels)

    def confusion(self) -> Tensor:
        """The matrix so far: int64 ``[C, C]`` on the CPU, true classes by predicted classes."""
        matrix: Tensor = self._matrix.compute().cpu()
        return matrix

    def compute(self) -> Score:
        """The score of everything counted so far.

        Raises:
            DataError: No labelled pixel was counted.
        """
        return score_confusion(self.confusion())

    def _inside(self, values: Tensor, where: str) -> None:
        if values.numel() == 0:
            return
        low, high = (int(bound) for bound in torch.aminmax(values))
        if low < 0 or high >= self.num_classes:
            wrong = low if low < 0 else high
            raise DataError(
                f"{where} holds class {wrong}; the classes are 0 to {self.num_classes - 1}, "
                f"and {IGNORE} in a mask for void"
            )


def score_confusion(matrix: Tensor) -> Score:
    """Score a confusion matrix.

    Row ``c`` counts the pixels that are of class ``c``, column ``c`` those predicted as ``c``:
    ``IoU_c = n_cc / (row_c + column_c - n_cc)``.

    Args:
        matrix: Counts ``[C, C]``; true classes in rows, predicted classes in columns.

    Raises:
        ValueError: The matrix is not square.
        DataError: The matrix is all zeros: no labelled pixel was counted.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a confusion matrix is square; this one is {tuple(matrix.shape)}")
    counts = matrix.double()
    total = float(counts.sum())
    if total == 0:
        raise DataError("no labelled pixel to score: every mask is void, or the split is empty")
    right = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - right
    iou = tuple(
        100.0 * float(r) / float(u) if u > 0 else None for r, u in zip(right, union, strict=True)
    )
    present = [value for value in iou if value is not None]
    return Score(
        miou=sum(present) / len(present), iou=iou, pixel_accuracy=100.0 * float(right.sum()) / total
    )
