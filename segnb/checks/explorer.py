"""Checkers of notebook 07: a temperature chosen fairly, and labels that a method saves."""

from __future__ import annotations

import math

from segnb.checks import Answer, call, need, need_close


def check_temperature_choice(temperature_choice: Answer) -> None:
    """Judge ``temperature_choice(rows) -> temperature``."""

    def row(temperature: float, seed: int, val: float, test: float) -> dict[str, float]:
        return {"temperature": temperature, "seed": seed, "miou_val": val, "miou_test": test}

    plain = [row(0.07, 0, 40.0, 40.0), row(0.2, 0, 45.0, 45.0), row(0.5, 0, 42.0, 42.0)]
    need_close(
        call(temperature_choice, plain),
        0.2,
        "with one seed each, the temperature of the highest mIoU is wanted (not its mIoU).",
    )
    tempting = [row(0.07, 0, 44.0, 40.0), row(0.2, 0, 41.0, 46.0)]
    need_close(
        call(temperature_choice, tempting),
        0.07,
        "it chose by the test images. What a choice was made on can't judge that choice.",
    )
    lucky = [
        row(0.07, 0, 42.0, 40.0),
        row(0.07, 1, 44.0, 40.0),
        row(0.2, 0, 48.0, 40.0),
        row(0.2, 1, 34.0, 40.0),
    ]
    need_close(
        call(temperature_choice, lucky),
        0.07,
        "one lucky seed decided. What do the seeds of a temperature say together?",
    )
    uneven = [
        row(0.07, 0, 45.0, 40.0),
        row(0.5, 0, 30.0, 40.0),
        row(0.5, 1, 31.0, 40.0),
        row(0.5, 2, 32.0, 40.0),
    ]
    need_close(
        call(temperature_choice, uneven),
        0.07,
        "a temperature that was run more often is not better for it: a mean, no sum.",
    )


def check_labels_needed(labels_needed: Answer) -> None:
    """Judge ``labels_needed(counts, mious, target) -> labelled images``."""
    counts, mious = [16, 32, 64, 128], [20.0, 30.0, 40.0, 44.0]
    need_close(
        call(labels_needed, counts, mious, 30.0),
        32,
        "a target that a point of the curve meets exactly needs that point's number of labels.",
    )
    value = call(labels_needed, counts, mious, 35.0)
    need(
        abs(float(value) - 48) > 1e-6,
        "half-way up between 32 and 64 labels is not 48: the axis of labels doubles with every "
        "step, so go half a doubling.",
    )
    need_close(
        value,
        32 * math.sqrt(2),
        "between two points, go along the straight line of mIoU against log2 of the labels.",
    )
    need_close(
        call(labels_needed, counts, mious, 15.0),
        16,
        "a target below the whole curve is met by the fewest labels that were tried; the curve "
        "says nothing about fewer.",
    )
    need(
        math.isinf(float(call(labels_needed, counts, mious, 50.0))),
        "a target that the curve never reaches has no number of labels; return math.inf.",
    )
    need_close(
        call(labels_needed, [16, 32, 64], [20.0, 30.0, 25.0], 28.0),
        2**4.8,
        "a curve may fall again. The first crossing from the left is what counts.",
    )
