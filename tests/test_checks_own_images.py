"""Checkers of notebook 11: each common mistake gets the hint that is about it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from segnb.checks import Hint, check_group_folds, check_shared_pairs


def by_image(groups: Sequence[str], count: int) -> list[int]:
    return [number % count for number in range(len(groups))]


def by_turns(groups: Sequence[str], count: int) -> list[int]:
    names = list(dict.fromkeys(groups))
    return [names.index(name) % count for name in groups]


def at_random(groups: Sequence[str], count: int) -> list[int]:
    fold_of = {name: random.Random(name).randrange(count) for name in groups}
    return [fold_of[name] for name in groups]


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (by_image, "several folds"),
        (by_turns, "closer than that"),
        (at_random, "empty|closer than that"),
        (lambda groups, count: [0] * len(groups), "empty"),
        (lambda groups, count: [1 + one for one in by_turns(groups, count)], "0 to 2"),
        (lambda groups, count: by_turns(sorted(set(groups)), count), "one fold an image"),
    ],
)
def test_leaking_folds_get_their_hint(answer: Callable[..., Any], hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_group_folds(answer)


def seen(masks: np.ndarray, num_classes: int) -> np.ndarray:
    return np.array([sum((mask == label).any() for mask in masks) for label in range(num_classes)])


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda m, k: seen(m, k) / len(m), "share of images"),
        (lambda m, k: (seen(m, k) / len(m)) ** 2, "its own partner"),
        (lambda m, k: seen(m, k) * (seen(m, k) - 1) / 2, "numbers of pairs"),
        (lambda m, k: seen(m, k) * (seen(m, k) - 1) / (len(m) * (len(m) - 1)), "single image"),
        (lambda m, k: np.zeros(k), "6 pairs"),
        (lambda m, k: np.zeros(k - 1), "shape"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_wrong_shares_of_pairs_get_their_hint(answer: Callable[..., Any], hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_shared_pairs(answer)
