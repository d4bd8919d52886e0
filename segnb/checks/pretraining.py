"""Checkers of the notebook on contrastive pretraining."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from segnb.checks import Answer, Hint, call, need, need_close, numbers
from segnb.datasets.base import IGNORE
from segnb.views import nearest_labels


def check_labels_at(answer: Answer) -> None:
    """``answer(masks [B, H, W], size)``: the labels at the features' size, corners aligned."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 8, (2, 34, 41), generator=generator)
    masks[:, 10:20, 5:30] = IGNORE
    size = (5, 7)
    value = numbers(call(answer, masks, size))
    need(
        value.shape == (2, *size),
        f"the result has shape {value.shape}; it should be {(2, *size)}: images, rows, columns.",
    )
    new = sorted(set(value.ravel().tolist()) - set(masks.ravel().double().tolist()))
    need(
        not new,
        f"the result holds the label {new[0] if new else ''}, which is not in the masks. Labels "
        "are names: half way between class 3 and class 5 there is no class 4. Pick, don't blend.",
    )
    floor = F.interpolate(masks[:, None].float(), size=size, mode="nearest")[:, 0]
    exact = F.interpolate(masks[:, None].float(), size=size, mode="nearest-exact")[:, 0]
    for grid in (floor, exact):
        need(
            not (value == grid.numpy()).all(),
            "each label is a true one, but of a slightly different place: the features' corner "
            "cells lie at the image's corner pixels (aligned corners), these labels do not.",
        )
    need(
        (value[:, 0, 0] == masks[:, 0, 0].numpy()).all()
        and (value[:, -1, -1] == masks[:, -1, -1].numpy()).all(),
        "the corners are not the mask's corners. The first row of features stands for pixel row 0, "
        "the last for row H - 1, the others evenly between.",
    )
    need_close(
        value,
        nearest_labels(masks, size),
        "corners fit, but labels between them are not the nearest ones: are the positions rounded, "
        "or cut off?",
    )
    need_close(
        call(answer, masks, (34, 41)),
        masks,
        "at the masks' own size the result should be the masks themselves.",
    )


def check_other_images(answer: Answer) -> None:
    """``answer(count, generator)``: for each image of a batch the number of another image."""
    seen = set()
    for seed in range(20):
        order = numbers(call(answer, 4, torch.Generator().manual_seed(seed)))
        _check_pairing(order, 4)
        again = numbers(call(answer, 4, torch.Generator().manual_seed(seed)))
        need(
            (order == again).all(),
            "two generators with the same seed gave different pairings. Draw from the generator "
            "that is handed in, or a run could not be repeated.",
        )
        seen.add(tuple(order.tolist()))
    need(
        len(seen) > 1,
        "every image always meets the same other one. Over the steps it should meet several.",
    )
    for count in (2, 7):
        _check_pairing(numbers(call(answer, count, torch.Generator().manual_seed(1))), count)


def _check_pairing(order: object, count: int) -> None:
    found = numbers(order)
    if found.shape != (count,):
        raise Hint(f"for a batch of {count} the result has shape {found.shape}: one number each.")
    values = [int(value) for value in found]
    need(
        sorted(values) == list(range(count)),
        f"{values} is not a reordering of 0 to {count - 1}: each image should be lent out exactly "
        "once, so that none is seen more than the others.",
    )
    alone = [place for place, value in enumerate(values) if place == value]
    need(
        not alone,
        f'in {values} image {alone[0] if alone else ""} meets itself. "Another image" is never '
        "the image itself. (A random permutation allows that; a shift by how much does not?)",
    )
