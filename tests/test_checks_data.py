"""Checkers of notebooks 00 and 01: each common mistake gets the hint that is about it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from segnb.checks import (
    Hint,
    call,
    check_class_shares,
    check_fair_steps,
    check_nested_choice,
    check_verdict,
    judge,
    need_close,
)


def shares_with_void(mask: np.ndarray, num_classes: int) -> np.ndarray:
    return np.bincount(mask.ravel(), minlength=num_classes)[:num_classes] / mask.size


def shares_without_absent(mask: np.ndarray, num_classes: int) -> np.ndarray:
    labels = mask[mask != 255]
    return np.bincount(labels.ravel()) / max(1, labels.size)


def shares_dividing_by_zero(mask: np.ndarray, num_classes: int) -> np.ndarray:
    counts = np.bincount(mask[mask != 255].ravel(), minlength=num_classes)
    with np.errstate(invalid="ignore"):
        return counts / counts.sum()


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (shares_with_void, "255"),
        (shares_without_absent, "shape"),
        (shares_dividing_by_zero, "divide by zero|not finite"),
    ],
)
def test_wrong_shares_get_their_hint(answer: Callable[..., Any], hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_class_shares(answer)


def new_sample_each_time(ids: Sequence[str], fraction: float, seed: int) -> list[str]:
    count = max(1, round(fraction * len(ids)))
    return random.Random(f"{seed}-{fraction}").sample(list(ids), count)


def without_seed(ids: Sequence[str], fraction: float, seed: int) -> list[str]:
    return list(ids)[: max(1, round(fraction * len(ids)))]


def global_generator(ids: Sequence[str], fraction: float, seed: int) -> list[str]:
    return random.sample(list(ids), max(1, round(fraction * len(ids))))


def maybe_none(ids: Sequence[str], fraction: float, seed: int) -> list[str]:
    order = list(ids)
    random.Random(seed).shuffle(order)
    return order[: int(fraction * len(order))]


def shuffled(ids: Sequence[str], fraction: float, seed: int) -> list[str]:
    order = list(ids)
    random.Random(seed).shuffle(order)
    return order[: max(1, round(fraction * len(order)))]


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (new_sample_each_time, "not inside a larger"),
        (without_seed, "Where is the seed"),
        (global_generator, "second time"),
        (maybe_none, "at least one"),
        (shuffled, "chosen no longer"),
    ],
)
def test_wrong_choices_get_their_hint(answer: Callable[..., Any], hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_nested_choice(answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda p, b, f, c: f + p, "distorted view|batches"),
        (lambda p, b, f, c: f - (-p * b // c), "distorted view"),
        (lambda p, b, f, c: f + 2 * p, "Count images"),
        (lambda p, b, f, c: f + 2 * p * b / c, "whole numbers"),
        (lambda p, b, f, c: f + 2 * p * b // c, "round"),
        (lambda p, b, f, c: 2 * p, "without a stage 1"),
    ],
)
def test_unfair_steps_get_their_hint(answer: Callable[..., Any], hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_fair_steps(answer)


def by_the_mean(ours: Sequence[float], baseline: Sequence[float]) -> str:
    return "better" if sum(ours) > sum(baseline) else "worse"


def two_intervals(ours: Sequence[float], baseline: Sequence[float]) -> str:
    if len(ours) < 2:
        return "can't tell"
    if min(ours) > max(baseline):
        return "better"
    return "worse" if max(ours) < min(baseline) else "can't tell"


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (by_the_mean, "one seed"),
        (two_intervals, "paired"),
        (lambda ours, baseline: "maybe", "must be one of"),
    ],
)
def test_rash_verdicts_get_their_hint(answer: Callable[..., Any], hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_verdict(answer)


# What all checkers share


def test_judge_prints_and_lets_the_notebook_run_on(capsys: pytest.CaptureFixture[str]) -> None:
    judge(check_class_shares, shares_with_void)
    assert "Not yet: " in capsys.readouterr().out

    def right(mask: np.ndarray, num_classes: int) -> np.ndarray:
        counts = np.bincount(mask[mask != 255].ravel(), minlength=num_classes)
        return counts / max(1, counts.sum())

    judge(check_class_shares, right)
    assert capsys.readouterr().out.startswith("Right: right ")


def test_an_error_in_an_answer_becomes_a_hint() -> None:
    def broken(mask: np.ndarray, num_classes: int) -> np.ndarray:
        raise KeyError("sand")

    with pytest.raises(Hint, match=r"broken stopped with KeyError.*sand"):
        check_class_shares(broken)


def test_an_answer_cannot_spoil_its_arguments() -> None:
    def careless(values: list[int]) -> int:
        values.clear()
        return 1

    values = [1, 2]
    assert call(careless, values) == 1
    assert values == [1, 2]
    with pytest.raises(Hint, match="returns nothing"):
        call(lambda: None)


def test_numbers_are_compared_with_their_shape_and_kind() -> None:
    need_close([1.0, 2.0], np.array([1.0, 2.0]), "differs")
    for value, hint in (([1.0], "shape"), ([1.0, 2.1], "differs"), ("sand", "not numbers")):
        with pytest.raises(Hint, match=hint):
            need_close(value, [1.0, 2.0], "differs")
    with pytest.raises(Hint, match="not finite"):
        need_close([1.0, float("nan")], [1.0, 2.0], "differs")


def test_an_unknown_checker_is_an_attribute_error() -> None:
    import segnb.checks

    with pytest.raises(AttributeError, match="check_nothing"):
        segnb.checks.check_nothing  # noqa: B018
