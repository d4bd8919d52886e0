"""The pretraining notebook's checkers name the usual mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from segnb.checks import Hint
from segnb.checks.pretraining import check_hardest_negative, check_other_images


def searched(push: Callable[[float, float, float], float]) -> Callable[[float, float], float]:
    """The angle at which ``push(angle, temperature, positive_angle)`` is largest."""

    def answer(temperature: float, positive_angle: float) -> float:
        found = minimize_scalar(
            lambda angle: -push(angle, temperature, positive_angle),
            bounds=(0, math.pi),
            method="bounded",
            options={"xatol": 1e-6},
        )
        return float(found.x)

    return answer


def share(angle: float, temperature: float, positive_angle: float) -> float:
    negative, positive = (math.exp(math.cos(a) / temperature) for a in (angle, positive_angle))
    return negative / (negative + positive)


def push(angle: float, temperature: float, positive_angle: float) -> float:
    return share(angle, temperature, positive_angle) * math.sin(angle) / temperature


right = searched(push)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (searched(share), "almost 0"),
        (lambda t, a: 0.0, "almost 0"),
        (searched(lambda x, t, a: math.sin(x) / t), "90°"),
        (searched(lambda x, t, a: share(x, 1.0, a) * math.sin(x)), "τ = 1"),
        (searched(lambda x, t, a: -share(x, t, a)), "opposite"),
        (lambda t, a: a, "the positive's angle"),
        (lambda t, a: math.degrees(right(t, a)), "in radians"),
        (lambda t, a: right(0.2, a), "not the hardest for τ = 0.07"),
        (lambda t, a: math.nan, "yours is nan"),
        (lambda t, a: 1.2, "denominator has two terms"),
        (lambda t, a: [0.1, 0.2], "single number"),
        (lambda t, a: "near", "not numbers"),
        (lambda t, a: None, "returns nothing"),
    ],
)
def test_mistakes_in_the_hardest_negative_are_named(
    wrong: Callable[[float, float], object], hint: str
) -> None:
    check_hardest_negative(right)
    with pytest.raises(Hint, match=hint):
        check_hardest_negative(wrong)


def test_a_coarse_grid_is_good_enough() -> None:
    degrees = [math.radians(degree) for degree in range(1, 180)]
    check_hardest_negative(lambda t, a: max(degrees, key=lambda angle: push(angle, t, a)))


def without_fixed_points(count: int, generator: torch.Generator) -> Tensor:
    while True:
        order = torch.randperm(count, generator=generator)
        if not bool((order == torch.arange(count)).any()):
            return order


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda count, generator: torch.randperm(count, generator=generator), "meets itself"),
        (lambda count, generator: torch.arange(count).roll(1), "always meets the same"),
        (lambda count, generator: torch.ones(count), "not a reordering"),
        (lambda count, generator: torch.arange(3), "shape"),
        (
            lambda count, generator: torch.arange(count).roll(
                int(torch.randint(1, count, (1,), generator=torch.default_generator))
            ),
            "same seed",
        ),
    ],
)
def test_mistakes_in_pairing_are_named(wrong: Callable[..., Tensor], hint: str) -> None:
    check_other_images(without_fixed_points)
    with pytest.raises(Hint, match=hint):
        check_other_images(wrong)
