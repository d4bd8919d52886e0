"""Checkers of notebook 05: a gain taken apart by class, and a gain with its interval."""

from __future__ import annotations

import math

import numpy as np

from segnb.checks import Answer, call, need, need_close, numbers


def check_gain_by_class(gain_by_class: Answer) -> None:
    """Judge ``gain_by_class(ours, baseline) -> points of each class``; they sum to the gain."""
    ours, baseline = [80.0, 50.0, 20.0], [71.0, 50.0, 26.0]
    found = numbers(call(gain_by_class, ours, baseline))
    need(found.shape == (3,), "there should be one number a class, in the order of the classes.")
    differences = np.subtract(ours, baseline)
    need(
        not np.allclose(found, differences),
        "those are the differences of the IoU. They add up to more than the mIoU changed by: what "
        "does one class weigh in a mean?",
    )
    need(not np.allclose(found, -differences / 3), "right but for the sign: a gain is ours.")
    need_close(
        found,
        differences / 3,
        "the numbers are wrong already where every class has an IoU. By how much would the mIoU "
        "change if only this class did?",
    )
    both = call(gain_by_class, [80.0, None, 20.0], [60.0, None, 30.0])
    need_close(
        both,
        [10.0, 0.0, -5.0],
        "a class that neither method has an IoU for adds nothing. It is not in either mean: does "
        "it still count in what you divide by?",
    )
    for first, second, sign in ((_FALSELY_FOUND, _NOWHERE, 1), (_NOWHERE, _FALSELY_FOUND, -1)):
        parts = numbers(call(gain_by_class, first, second))
        change = sign * (_mean(_FALSELY_FOUND) - _mean(_NOWHERE))
        need(
            parts.shape == (3,) and abs(float(parts.sum()) - change) < 1e-6,
            "where a class has an IoU under one method only, the parts do not add up to the "
            "difference of the two mIoU. Over how many classes is each of the two means taken?",
        )
        need_close(
            parts,
            sign * np.array([80 / 3 - 60 / 2, 0.0, 40 / 3 - 40 / 2]),
            "the sum is right, but the classes' shares are not. What does each class add to the "
            "one mean, and what to the other?",
        )


#: The second class occurs in no mask; one method predicts it all the same, and has 0 there.
_FALSELY_FOUND: list[float | None] = [80.0, 0.0, 40.0]
_NOWHERE: list[float | None] = [60.0, None, 40.0]


def _mean(iou: list[float | None]) -> float:
    present = [value for value in iou if value is not None]
    return sum(present) / len(present)


def check_paired_gain(paired_gain: Answer) -> None:
    """Judge ``paired_gain(ours, baseline) -> (mean, low, high)``."""
    ours = {0: 42.0, 1: 51.0, 2: 33.0}
    baseline = {0: 40.0, 1: 48.0, 2: 32.0}
    found = call(paired_gain, ours, baseline)
    need(
        isinstance(found, (tuple, list)) and len(found) == 3,
        "return three numbers: the mean gain and the two ends of its interval.",
    )
    mean, low, high = found
    need_close(mean, 2.0, "the mean gain is wrong; subtract the baseline seed by seed.")
    # t of 95 % with two degrees of freedom is 4.3027; the standard deviation of 2, 3, 1 is 1.
    half = 4.302652729911275 / math.sqrt(3)
    need(float(low) < float(high), "the lower end of the interval should be below the upper end.")
    need(
        float(high) - float(low) < 10,
        "the interval is far too wide: it should come from the differences of each seed. Much of "
        "what seeds do, they do to both methods, and pairing takes it out.",
    )
    need(
        abs((float(high) - float(low)) / 2 - 1.96 / math.sqrt(3)) > 0.02,
        "1.96 belongs to many seeds. With three, Student's t with two degrees of freedom is wider.",
    )
    need_close(
        [low, high],
        [2 - half, 2 + half],
        "the interval is mean ± t · s / √n, with s the standard deviation of the differences over "
        "n - 1, and t the 97.5 % point of Student's t with n - 1 degrees of freedom.",
        tolerance=1e-3,
    )
    more = call(paired_gain, {**ours, 7: 90.0}, {**baseline, 9: 10.0})
    need_close(
        more,
        [2.0, 2 - half, 2 + half],
        "a seed that only one of the two was run with came into the result. Pairs only.",
        tolerance=1e-3,
    )
