"""Checkers of notebook 04: the negative that pushes hardest, and the pairing of images."""

from __future__ import annotations

import math

import numpy as np
import torch

from segnb.checks import Answer, call, need, need_close, numbers


def check_hardest_negative(answer: Answer) -> None:
    """``answer(temperature, positive_angle)``: the angle of the negative that pushes hardest.

    The anchor lies at angle 0 of a circle; angles are in radians.
    """
    angles = np.linspace(0, np.pi, 100_001)

    def hardest(temperature: float, positive_angle: float, tau_of_share: float) -> float:
        gap = (math.cos(positive_angle) - np.cos(angles)) / tau_of_share
        push = np.sin(angles) / (1 + np.exp(gap)) / temperature
        return float(angles[push.argmax()])

    for temperature, degrees in ((0.2, 30), (0.07, 30), (0.5, 30), (0.07, 60), (0.5, 120)):
        positive_angle = math.radians(degrees)
        found = float(numbers(call(answer, temperature, positive_angle), ()))
        need(
            0 <= found <= math.pi,
            f"the answer is an angle between 0 and π, in radians; yours is {found:.4g}.",
        )
        need(
            found > 0.06,
            "the angle is almost 0. There the negative's share is largest, but it pushes along the "
            "anchor's own direction. Which part of a push turns the anchor?",
        )
        need(
            found < math.pi - 0.06,
            "a negative opposite the anchor can't turn it, and its share is the smallest of all. "
            "Do you take the largest value of the push, or the least?",
        )
        need_close(
            found,
            hardest(temperature, positive_angle, temperature),
            f"not the hardest for τ = {temperature:g} and the positive at {degrees}°. Compute "
            "share · sin / τ for many angles; the share's denominator has two terms, the negative "
            "and the positive.",
            mistakes=[
                (math.pi / 2, "90° is where the sine is largest. But the push is a product: how "
                 "large is the negative's share there?"),
                (hardest(temperature, positive_angle, 1.0), "the shares are those of τ = 1: divide "
                 "the cosines by the temperature before the exponential."),
                (positive_angle, "that is the positive's angle. The hardest negative is near it "
                 "at some temperatures, but not exactly there."),
            ],
            tolerance=0.015,
        )  # fmt: skip


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
