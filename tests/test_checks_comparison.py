"""The checkers of notebook 05 name the mistakes that people make."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from segnb.checks import Answer, Hint
from segnb.checks.comparison import check_equal_compute, check_paired_gain


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda a, b, c, d: a + c, "as if they cost the same"),
        (lambda a, b, c, d: 2 * a, "alone"),
        (lambda a, b, c, d: c + 2 * a * b // d, "favour"),
        (lambda a, b, c, d: c + 2 * a, "not equal"),
        (lambda a, b, c, d: None, "returns nothing"),
    ],
)
def test_compute_counted_wrongly(answer: Answer, hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_equal_compute(answer)


def gain(ours: dict[int, float], baseline: dict[int, float], t: float | None = None) -> Any:
    """Right, but for the t that is given."""
    from scipy.stats import t as student

    gains = np.array([ours[seed] - baseline[seed] for seed in ours if seed in baseline])
    factor = student.ppf(0.975, len(gains) - 1) if t is None else t
    half = factor * gains.std(ddof=1) / math.sqrt(len(gains))
    return gains.mean(), gains.mean() - half, gains.mean() + half


def unpaired(ours: dict[int, float], baseline: dict[int, float]) -> Any:
    first, second = np.array([*ours.values()]), np.array([*baseline.values()])
    mean = first.mean() - second.mean()
    half = 2.776 * math.sqrt(first.var(ddof=1) / 3 + second.var(ddof=1) / 3)
    return mean, mean - half, mean + half


def by_position(ours: dict[int, float], baseline: dict[int, float]) -> Any:
    pairs = zip(ours.values(), baseline.values(), strict=True)
    paired = {seed: a - b for seed, (a, b) in enumerate(pairs)}
    return gain(paired, dict.fromkeys(paired, 0.0))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda ours, baseline: 2.0, "three numbers"),
        (lambda ours, baseline: (1.0, 0.0, 2.0), "seed by seed"),
        (lambda ours, baseline: gain(ours, baseline, 1.96), "1.96 belongs to many"),
        (lambda ours, baseline: gain(ours, baseline, 3.0), "Student"),
        (lambda ours, baseline: [gain(ours, baseline)[i] for i in (0, 2, 1)], "below the upper"),
        (unpaired, "far too wide"),
        (by_position, "Pairs only"),
        (lambda ours, baseline: gain(ours, {s: baseline[s] for s in ours}), "KeyError"),
    ],
)
def test_gains_taken_wrongly(answer: Answer, hint: str) -> None:
    answer.__name__ = "paired_gain"
    with pytest.raises(Hint, match=hint):
        check_paired_gain(answer)


def test_right_answers_pass() -> None:
    check_equal_compute(lambda a, b, c, d: c + -(-2 * a * b // d))
    check_paired_gain(gain)
