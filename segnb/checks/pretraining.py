"""Checkers of notebook 04: labels at the features' size, and the pairing of images."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from segnb.checks import Answer, call, need, need_close, numbers
from segnb.datasets.base import IGNORE
from segnb.views import nearest_labels


def check_labels_at(answer: Answer) -> None:
    """``answer(masks [B, H, W], size)``: the labels at the features' size, corners aligned."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 8, (2, 34, 41), generator=generator)
    masks[:, 10:20, 5:30] = IGNORE
    size = (5, 7)
    value = numbers(call(answer, masks, size), (2, *size), "images, rows, columns")
    new = sorted(set(value.ravel().tolist()) - set(masks.ravel().double().tolist()))
    need(
        not new,
        f"the result holds the label {new[0] if new else ''}, which is not in the masks. Labels "
        "are names: halfway between class 3 and class 5 there is no class 4. Pick, don't blend.",
    )
    right = nearest_labels(masks, size)
    corners_fit = (value == right.numpy())[:, ::4, ::6].all()
    need_close(
        value,
        right,
        "the corners fit, but the labels between them are not the nearest ones: are the positions "
        "rounded, or cut off?"
        if corners_fit
        else "the corners are not the mask's corners. The first row of features stands for pixel "
        "row 0, the last for row H - 1, the others evenly between.",
        mistakes=[
            (
                F.interpolate(masks[:, None].float(), size=size, mode=mode)[:, 0],
                "each label is a true one, but of a slightly different pixel: the features' corner "
                "cells lie at the image's corner pixels (aligned corners), these labels do not.",
            )
            for mode in ("nearest", "nearest-exact")
        ],
    )
    need_close(
        call(answer, masks, (34, 41)),
        masks,
        "at the masks' own size the result should be the masks themselves.",
    )


def check_other_images(answer: Answer) -> None:
    """``answer(count, generator)``: for each image of a batch, the number of another image."""

    def pairing(count: int, seed: int) -> list[int]:
        order = call(answer, count, torch.Generator().manual_seed(seed))
        values = [int(value) for value in numbers(order, (count,), "one number for each image")]
        need(
            sorted(values) == list(range(count)),
            f"{values} is not a reordering of 0 to {count - 1}: each image should be the partner "
            "exactly once, so that none is seen more than the others.",
        )
        fixed = [image for image, partner in enumerate(values) if image == partner]
        need(
            not fixed,
            f'in {values} image {fixed[0] if fixed else ""} meets itself. "Another image" is never '
            "the image itself. (A random permutation allows that; which shifts do not?)",
        )
        return values

    seen = set()
    for seed in range(20):
        order = pairing(4, seed)
        need(
            order == pairing(4, seed),
            "two generators with the same seed gave different pairings. Draw from the generator "
            "passed in; otherwise a run can't be repeated.",
        )
        seen.add(tuple(order))
    need(
        len(seen) > 1,
        "every image always meets the same other one. Over the steps it should meet several.",
    )
    for count in (2, 7):
        pairing(count, seed=1)
