"""The checkers of notebook 05 name the mistakes that people make."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from segnb.checks import Answer, Hint
from segnb.checks.comparison import check_gain_by_class, check_paired_gain


def shares(ours: list[float | None], baseline: list[float | None], *, drop: bool = False) -> Any:
    """Right; or, with ``drop``, without the classes that one of the two has no IoU for."""
    if drop:
        common = [None not in pair for pair in zip(ours, baseline, strict=True)]
        ours = [a if both else None for a, both in zip(ours, common, strict=True)]
        baseline = [b if both else None for b, both in zip(baseline, common, strict=True)]
    here, there = (sum(value is not None for value in each) for each in (ours, baseline))
    return [(a or 0) / here - (b or 0) / there for a, b in zip(ours, baseline, strict=True)]


def naive(ours: list[float | None], baseline: list[float | None]) -> Any:
    return [((a or 0) - (b or 0)) / len(ours) for a, b in zip(ours, baseline, strict=True)]


def shifted(ours: list[float | None], baseline: list[float | None]) -> Any:
    """Sums to the right number, but gives the absent class a part of it."""
    found = shares(ours, baseline)
    if (ours[1] is None) != (baseline[1] is None):
        found[1], found[0] = found[0], found[1]
    return found


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda ours, baseline: None, "returns nothing"),
        (lambda ours, baseline: 1.0, "one number a class"),
        (lambda ours, baseline: [a - b for a, b in zip(ours, baseline, strict=True)], "weigh"),
        (lambda ours, baseline: shares(baseline, ours), "sign"),
        (lambda ours, baseline: [0.0, 1.0, 2.0], "every class has an IoU"),
        (naive, "neither method"),
        (lambda ours, baseline: shares(ours, baseline, drop=True), "Over how many classes"),
        (shifted, "the sum is right"),
    ],
)
def test_gains_shared_out_wrongly(answer: Answer, hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_gain_by_class(answer)


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
        (lambda ours, baseline: gain(ours, baseline, 1.96), "1.96 is for many"),
        (lambda ours, baseline: gain(ours, baseline, 3.0), "Student"),
        (lambda ours, baseline: [gain(ours, baseline)[i] for i in (0, 2, 1)], "below the upper"),
        (unpaired, "far too wide"),
        (by_position, "pairs only"),
        (lambda ours, baseline: gain(ours, {s: baseline[s] for s in ours}), "KeyError"),
    ],
)
def test_gains_taken_wrongly(answer: Answer, hint: str) -> None:
    answer.__name__ = "paired_gain"
    with pytest.raises(Hint, match=hint):
        check_paired_gain(answer)


def test_right_answers_pass() -> None:
    check_gain_by_class(shares)
    check_paired_gain(gain)
