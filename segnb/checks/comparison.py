"""Checkers of notebook 05: a gain split by class, and a gain with its interval."""

from __future__ import annotations

import math

import numpy as np

from segnb.checks import Answer, call, need, need_close, numbers


def check_gain_by_class(gain_by_class: Answer) -> None:
    """Judge ``gain_by_class(ours, baseline) -> points of each class``; they sum to the gain."""
    ours, baseline = [80.0, 50.0, 20.0], [71.0, 50.0, 26.0]
    differences = np.subtract(ours, baseline)
    found = numbers(
        call(gain_by_class, ours, baseline), (3,), "one number a class, in the order of the classes"
    )
    mistakes = [
        (differences, "those are the differences in IoU. They add up to more than the change in "
         "mIoU: how much does one class weigh in a mean?"),
        (-differences / 3, "right except for the sign: positive should mean that ours is better."),
    ]  # fmt: skip
    need_close(
        found,
        differences / 3,
        "the numbers are wrong even where every class has an IoU. By how much would the mIoU "
        "change if only this class did?",
        mistakes=mistakes,
    )
    need_close(
        call(gain_by_class, [80.0, None, 20.0], [60.0, None, 30.0]),
        [10.0, 0.0, -5.0],
        "a class for which neither method has an IoU adds nothing. It is in neither mean: does it "
        "still count in what you divide by?",
    )
    # The second class occurs in no mask; one method predicts it all the same, so its IoU is 0.
    predicted, absent = [80.0, 0.0, 40.0], [60.0, None, 40.0]
    shares = np.array([80 / 3 - 60 / 2, 0.0, 40 / 3 - 40 / 2])
    for first, second, right in ((predicted, absent, shares), (absent, predicted, -shares)):
        parts = numbers(call(gain_by_class, first, second), (3,))
        need_close(
            parts.sum(),
            right.sum(),
            "where only one method has an IoU for a class, the parts do not add up to the "
            "difference between the two mIoUs. Over how many classes is each mean taken?",
        )
        need_close(
            parts,
            right,
            "the sum is right, but the classes' shares are not. What does each class add to the "
            "one mean, and what to the other?",
        )


def check_paired_gain(paired_gain: Answer) -> None:
    """Judge ``paired_gain(ours, baseline) -> (mean, low, high)``."""
    ours = {0: 42.0, 1: 51.0, 2: 33.0}
    baseline = {0: 40.0, 1: 48.0, 2: 32.0}
    mean, low, high = numbers(
        call(paired_gain, ours, baseline),
        (3,),
        "return three numbers, the mean gain and the two ends of its interval",
    )
    need_close(mean, 2.0, "the mean gain is wrong; subtract the baseline seed by seed.")
    need(low < high, "the lower end of the interval should be below the upper end.")
    need(
        high - low < 10,
        "the interval is far too wide: it should come from the differences of each seed. Much of "
        "a seed's effect is the same for both methods, and pairing removes it.",
    )
    # t of 95 % with two degrees of freedom; the standard deviation of 2, 3, 1 is 1.
    half, normal = 4.302652729911275 / math.sqrt(3), 1.96 / math.sqrt(3)
    need_close(
        [low, high],
        [2 - half, 2 + half],
        "the interval is mean ± t · s / √n, with s the standard deviation of the differences over "
        "n - 1, and t the 97.5 % point of Student's t with n - 1 degrees of freedom.",
        mistakes=[
            ([2 - normal, 2 + normal], "1.96 is for many seeds. With three, Student's t with two "
             "degrees of freedom is wider."),
        ],
        tolerance=1e-3,
    )  # fmt: skip
    need_close(
        call(paired_gain, {**ours, 7: 90.0}, {**baseline, 9: 10.0}),
        [2.0, 2 - half, 2 + half],
        "a seed that only one of the two methods has affects the result. Use pairs only.",
        tolerance=1e-3,
    )
