"""The checkers of notebook 07 name the mistakes that people make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from segnb.checks import Answer, Hint
from segnb.checks.explorer import check_labels_needed, check_temperature_choice

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
    ],
)
def test_temperatures_chosen_wrongly(answer: Answer, hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_temperature_choice(answer)


def needed(
    counts: Sequence[int],
    mious: Sequence[float],
    target: float,
    *,
    linear: bool = False,
    above: float = math.inf,
    last: bool = False,
) -> float:
    if mious[0] >= target:
        return counts[0]
    places = [i for i in range(1, len(counts)) if mious[i - 1] < target <= mious[i]]
    if not places:
        return above
    i = places[-1 if last else 0]
    share = (target - mious[i - 1]) / (mious[i] - mious[i - 1])
    if linear:
        return counts[i - 1] + share * (counts[i] - counts[i - 1])
    return float(counts[i - 1] ** (1 - share) * counts[i] ** share)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda *a: needed(*a, linear=True), "half a doubling"),
        (lambda *a: needed(*a, above=128.0), "math.inf"),
        (lambda c, m, t: next((n for n, y in zip(c, m, strict=True) if y >= t), math.inf), "log2"),
        (lambda c, m, t: needed(c, m, t) if t >= m[0] else 0, "fewest labels"),
        (
            lambda c, m, t: needed(c, m, t) if list(m) == sorted(m) else math.inf,
            "first crossing|finite",
        ),
    ],
)
def test_labels_counted_wrongly(answer: Answer, hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_labels_needed(answer)


def test_right_answers_pass() -> None:
    check_temperature_choice(chosen)
    check_labels_needed(needed)
