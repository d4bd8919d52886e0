"""The checkers of notebook 07 name the mistakes that people make."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from segnb.checks import Answer, Hint
from segnb.checks.explorer import check_limits, check_temperature_choice

Rows = Sequence[dict[str, Any]]


def chosen(rows: Rows, key: str = "miou_val", *, total: bool = False) -> float:
    values: dict[float, list[float]] = {}
    for row in rows:
        values.setdefault(row["temperature"], []).append(row[key])
    score = {t: sum(v) / (1 if total else len(v)) for t, v in values.items()}
    return max(score, key=score.__getitem__)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda rows: max(row["miou_val"] for row in rows), "not its mIoU"),
        (lambda rows: chosen(rows, "miou_test"), "test images"),
        (lambda rows: max(rows, key=lambda row: row["miou_val"])["temperature"], "lucky seed"),
        (lambda rows: chosen(rows, total=True), "not a sum"),
        (chosen, "luckier images"),
    ],
)
def test_temperatures_chosen_wrongly(answer: Answer, hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_temperature_choice(answer)


Array = np.ndarray


def at(similarities: Array, positive: Array, temperature: float) -> float:
    """The loss of one anchor at some temperature."""
    scores = similarities / temperature
    return float(np.logaddexp.reduce(scores) - scores[positive].mean())


def tried(similarities: Array, positive: Array) -> tuple[float, float]:
    """Both limits, by trying a very small and a very large temperature."""
    return 1e-5 * at(similarities, positive, 1e-5), at(similarities, positive, 1e6)


def limit(
    low: Callable[[Array, Array], float] = lambda s, p: s.max() - s[p].mean(),
    high: Callable[[Array, Array], float] = lambda s, p: math.log(len(s)),
) -> Answer:
    return lambda similarities, positive: (
        low(similarities, positive),
        high(similarities, positive),
    )


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (limit(low=lambda s, p: s[~p].max() - s[p].mean()), "among the negatives"),
        (limit(low=lambda s, p: s.max() - s[p].max()), "most similar positive"),
        (limit(low=lambda s, p: s.max() - s[p].min()), "least similar positive"),
        (limit(low=lambda s, p: s.max() - s[p].sum()), "positives are added up"),
        (limit(low=lambda s, p: s[p].mean() - s.max()), "first limit is right except for the sign"),
        (limit(low=lambda s, p: s.mean() - s[p].mean()), "mean of the keys"),
        (limit(low=lambda s, p: s.sum() - s[p].mean()), "adds up the similarities"),
        (limit(low=lambda s, p: s.max()), "leaves the positives out"),
        (limit(low=lambda s, p: s.max() - s.mean()), "mean of all keys"),
        (limit(low=lambda s, p: math.inf), "Multiply by τ"),
        (limit(low=lambda s, p: math.nan), "not finite"),
        (limit(low=lambda s, p: 0.0), "first limit is wrong"),
        (limit(high=lambda s, p: math.log((~p).sum())), "negatives alone"),
        (limit(high=lambda s, p: math.log(p.sum())), "floor"),
        (limit(high=lambda s, p: len(s)), "its logarithm"),
        (limit(high=lambda s, p: -math.log(len(s))), "second limit is right except for the sign"),
        (limit(high=lambda s, p: math.log2(len(s))), "natural logarithms"),
        (limit(high=lambda s, p: 0.0), "the second not"),
        (lambda s, p: limit()(s, p)[::-1], "swapped"),
        (lambda s, p: s, r"shape \(5,\).*two numbers"),
        (lambda s, p: 0.5, "two numbers"),
        (lambda s, p: "both", "not numbers"),
        (lambda s, p: None, "returns nothing"),
    ],
)
def test_limits_taken_wrongly(answer: Answer, hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_limits(answer)


def test_right_answers_pass() -> None:
    def on_shared_seeds(rows: Rows) -> float:
        seeds: dict[float, set[int]] = {}
        for row in rows:
            seeds.setdefault(row["temperature"], set()).add(row["seed"])
        shared = set.intersection(*seeds.values())
        return chosen([row for row in rows if row["seed"] in shared])

    check_temperature_choice(on_shared_seeds)
    check_limits(limit())
    check_limits(tried)
