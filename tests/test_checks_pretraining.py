"""The pretraining notebook's checkers name the usual mistakes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segnb.checks import Hint
from segnb.checks.pretraining import check_labels_at, check_other_images


def by_loops(masks: Tensor, size: tuple[int, int]) -> Tensor:
    found = torch.empty(len(masks), *size, dtype=masks.dtype)
    for row in range(size[0]):
        for column in range(size[1]):
            y = round(row * (masks.shape[1] - 1) / (size[0] - 1))
            x = round(column * (masks.shape[2] - 1) / (size[1] - 1))
            found[:, row, column] = masks[:, y, x]
    return found


def resized(mode: str, **options: object) -> Callable[[Tensor, tuple[int, int]], Tensor]:
    return lambda masks, size: F.interpolate(masks[:, None].float(), size, mode=mode, **options)[
        :, 0
    ]


def cut_off(masks: Tensor, size: tuple[int, int]) -> Tensor:
    rows = torch.linspace(0, masks.shape[1] - 1, size[0]).long()
    columns = torch.linspace(0, masks.shape[2] - 1, size[1]).ceil().long()
    return masks[:, rows][:, :, columns]


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (resized("bilinear", align_corners=True), "not in the masks"),
        (resized("nearest"), "different pixel"),
        (resized("nearest-exact"), "different pixel"),
        (lambda masks, size: masks[:, : size[0], : size[1]], "corners are not"),
        (cut_off, "rounded"),
        (lambda masks, size: masks, "shape"),
    ],
)
def test_mistakes_in_labels_are_named(wrong: Callable[..., Tensor], hint: str) -> None:
    check_labels_at(by_loops)
    with pytest.raises(Hint, match=hint):
        check_labels_at(wrong)


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
