"""Checkers of notebook 07: a fair choice of temperature, and the labels that a method saves."""

from __future__ import annotations

import math

from segnb.checks import Answer, call, need_cases, need_close


def check_temperature_choice(temperature_choice: Answer) -> None:
    """Judge ``temperature_choice(rows) -> temperature``."""
    # Each row: temperature, seed, mIoU on val, mIoU on test.
    for rows, right, hint in (
        ([(0.07, 0, 40.0, 40.0), (0.2, 0, 45.0, 45.0), (0.5, 0, 42.0, 42.0)], 0.2,
         "with one seed each, return the temperature of the highest mIoU (not its mIoU)."),
        ([(0.07, 0, 44.0, 40.0), (0.2, 0, 41.0, 46.0)], 0.07,
         "it chose by the test images. Images used for a choice can't judge that choice."),
        ([(0.07, 0, 42.0, 40.0), (0.07, 1, 44.0, 40.0), (0.2, 0, 48.0, 40.0),
          (0.2, 1, 34.0, 40.0)], 0.07,
         "one lucky seed decided. What do the seeds of a temperature say together?"),
        ([(0.07, 0, 45.0, 40.0), (0.5, 0, 30.0, 40.0), (0.5, 1, 31.0, 40.0),
          (0.5, 2, 32.0, 40.0)], 0.07,
         "a temperature is not better because it was run more often: take a mean, not a sum."),
    ):  # fmt: skip
        names = ("temperature", "seed", "miou_val", "miou_test")
        found = call(temperature_choice, [dict(zip(names, row, strict=True)) for row in rows])
        need_close(found, right, hint)


def check_labels_needed(labels_needed: Answer) -> None:
    """Judge ``labels_needed(counts, mious, target) -> labelled images``."""
    counts, mious = [16, 32, 64, 128], [20.0, 30.0, 40.0, 44.0]
    need_close(
        call(labels_needed, counts, mious, 30.0),
        32,
        "a target that a point of the curve meets exactly needs that point's number of labels.",
    )
    need_close(
        call(labels_needed, counts, mious, 35.0),
        32 * math.sqrt(2),
        "between two points, follow the straight line of mIoU against log2 of the labels.",
        mistakes=[
            (48, "halfway between 32 and 64 labels is not 48: the axis of labels doubles with "
             "every step, so go half a doubling."),
        ],
    )  # fmt: skip
    cases = [
        ((counts, mious, 15.0), 16,
         "a target below the whole curve is met by the fewest labels tried; the curve says "
         "nothing about fewer."),
        ((counts, mious, 50.0), math.inf,
         "a target that the curve never reaches has no number of labels; return math.inf."),
        (([16, 32, 64], [20.0, 30.0, 25.0], 28.0), 2**4.8,
         "a curve may fall again. The first crossing from the left is what counts."),
    ]  # fmt: skip
    need_cases(labels_needed, cases)
