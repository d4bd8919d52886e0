"""Checkers of notebook 07: a fair choice of temperature, and the loss at its two ends."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from segnb.checks import Answer, call, need, need_close, numbers


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
        ([(0.07, 0, 41.0, 40.0), (0.07, 1, 43.0, 40.0), (0.2, 0, 40.0, 40.0),
          (0.2, 1, 42.0, 40.0), (0.2, 2, 60.0, 40.0)], 0.07,
         "τ = 0.2 was also run with a seed that labels luckier images, and only that lifts its "
         "mean. Compare the temperatures with the seeds that all of them have."),
    ):  # fmt: skip
        names = ("temperature", "seed", "miou_val", "miou_test")
        found = call(temperature_choice, [dict(zip(names, row, strict=True)) for row in rows])
        need_close(found, right, hint)


def check_limits(limits: Answer) -> None:
    """Judge ``limits(similarities [M], positive [M]) -> (limit of τ · loss, limit of loss)``."""
    for similarities, positives in (
        ([0.9, 0.2, 0.6, -0.3, 0.5], [1, 2]),
        ([0.3, 0.95, 0.5, -0.2], [1, 2]),
        ([0.3, 0.8, 0.1], [1]),
    ):
        values = np.array(similarities)
        positive = np.isin(np.arange(len(values)), positives)
        pull = values[positive].mean()
        low, high = numbers(
            call(limits, values, positive),
            (2,),
            "return two numbers, the limit of τ · loss as τ → 0 and of the loss as τ → ∞",
        )
        right_low, right_high = values.max() - pull, math.log(len(values))
        need(
            not math.isinf(low),
            "the loss itself may grow without bound as τ → 0. Multiply by τ, then take the limit.",
        )
        both = np.allclose([low, high], [right_high, right_low], atol=1e-3)
        need(not both, "both values are right, but swapped: τ → 0 comes first.")
        need_close(
            low,
            right_low,
            "the first limit is wrong. As τ → 0, which term of the sum of exponentials is left? "
            "The limit is τ · log of that term, minus what the positives contribute.",
            mistakes=_mistakes_at_zero(values, positive),
            tolerance=1e-3,
        )
        base = "the second limit is right except for the base: the loss uses natural logarithms."
        need_close(
            high,
            right_high,
            "the first limit is right, the second not. As τ → ∞ all scores tend to 0: what is then "
            "each exponential, and how many are added up?",
            mistakes=[
                (math.log((~positive).sum()), "the second limit counts the negatives alone. In the "
                 "paper the denominator runs over all keys."),
                (math.log(positive.sum()), "the logarithm of the number of positives is the floor "
                 "of the loss. As τ → ∞ the negatives have the same share as the positives."),
                (len(values), "the number of keys is the denominator; the loss is its logarithm."),
                (-right_high, "the second limit is right except for the sign: -log(1 / M)."),
                (math.log2(len(values)), base),
                (math.log10(len(values)), base),
            ],
            tolerance=1e-3,
        )  # fmt: skip


def _mistakes_at_zero(
    values: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]
) -> list[tuple[float, str]]:
    """Wrong limits of τ · loss as τ → 0, each with its hint."""
    pull = values[positive].mean()
    return [
        (values[~positive].max() - pull, "the first limit looks for the most similar key among "
         "the negatives. Here it is a positive, and in the paper the denominator runs over all "
         "keys."),
        (values.max() - values[positive].max(), "the first limit compares with the most similar "
         "positive. The loss is a mean over the positives, so their mean similarity counts."),
        (values.max() - values[positive].min(), "the first limit compares with the least similar "
         "positive. The loss is a mean over the positives, so their mean similarity counts."),
        (values.max() - values[positive].sum(), "in the first limit, the positives are added up: "
         "take their mean."),
        (pull - values.max(), "the first limit is right except for the sign: a loss of this form "
         "can't be negative."),
        (values.mean() - pull, "the first limit takes the mean of the keys. As τ → 0 the largest "
         "exponential outgrows all others."),
        (values.sum() - pull, "the first limit adds up the similarities of the keys. It is "
         "exponentials that are added up; which is left as τ → 0?"),
        (values.max(), "the first limit leaves the positives out: this is the limit of τ · log of "
         "the denominator alone."),
        (values.max() - values.mean(), "the first limit subtracts the mean of all keys; the loss "
         "subtracts that of the positives."),
    ]  # fmt: skip
