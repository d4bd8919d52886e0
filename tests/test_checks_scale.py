"""The checkers of notebook 09 name the mistakes that people make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from segnb.checks import Answer, Hint
from segnb.checks.scale import check_largest_batch, check_time_left


def left(log: Sequence[Mapping[str, float]], total: int) -> float:
    first, last = log[0], log[-1]
    pace = (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])
    return (total - last["step"]) * pace


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda log, n: (n - log[-1]["step"]) * log[-1]["seconds"] / log[-1]["step"], "first step"),
        (lambda log, n: n * left(log, log[-1]["step"] + 1), "19 steps"),
        (lambda log, n: max(left(log, n), 1.0), "nothing is left"),
        (
            lambda log, n: (
                (n - log[-1]["step"])
                * (log[-1]["seconds"] - log[0]["seconds"])
                / (log[-1]["step"] - 1)
            ),
            "resumed",
        ),
    ],
)
def test_time_told_wrongly(answer: Answer, hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_time_left(answer)


def largest(
    batches: Sequence[int], peaks: Sequence[float], memory: float, share: float = 0.9
) -> int:
    per_image, fixed = np.polyfit(batches, peaks, 1)
    images = int((share * memory - fixed) / per_image + 1e-9)
    return max(images - images % 2, 0)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda b, p, m: int(m / (p[-1] / b[-1])), "weights and the optimiser"),
        (lambda b, p, m: largest(b, p, m, share=1.0), "last byte"),
        (lambda b, p, m: largest(b, p, m) + (m < 10), "even"),
        (lambda b, p, m: int((0.9 * m - 2) / 0.5 + 1e-9) // 2 * 2, "the answer is 0"),
        (lambda b, p, m: b[-1], "straight line"),
    ],
)
def test_batches_told_wrongly(answer: Answer, hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_largest_batch(answer)


def test_right_answers_pass() -> None:
    check_time_left(left)
    check_largest_batch(largest)
