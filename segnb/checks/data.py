"""Checkers of notebook 01: pixels that count, and nested choices of labelled images."""

from __future__ import annotations

import itertools

import numpy as np

from segnb.checks import Answer, call, need, need_cases
from segnb.datasets.base import IGNORE


def check_class_shares(class_shares: Answer) -> None:
    """Judge ``class_shares(mask, num_classes) -> shares [num_classes]``."""
    plain = np.array([[0, 0, 1], [2, 2, 2]], dtype=np.uint8)
    void = np.array([[0, 0, 1, IGNORE], [1, IGNORE, IGNORE, IGNORE]], dtype=np.uint8)
    cases = [
        ((plain, 3), [2 / 6, 1 / 6, 3 / 6],
         "the shares are wrong even without void. Count the pixels of each class, then divide."),
        ((plain, 5), [2 / 6, 1 / 6, 3 / 6, 0, 0],
         "a class without any pixel should be listed too, with share 0."),
        ((void, 2), [0.5, 0.5],
         "the shares are wrong as soon as there is void. Half of this mask's pixels are 255; do "
         "they still count in what you divide by?"),
        ((np.full((2, 2), IGNORE, np.uint8), 2), [0, 0],
         "a mask that is all void has no labelled pixel, so the shares should be 0. Do you divide "
         "by zero?"),
    ]  # fmt: skip
    need_cases(class_shares, cases)


def check_nested_choice(nested_choice: Answer) -> None:
    """Judge ``nested_choice(ids, fraction, seed) -> ids``."""
    ids = [f"image-{i:03d}" for i in range(80)]
    fractions = (1 / 80, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)

    def choose(fraction: float, seed: int = 0, among: list[str] = ids) -> list[str]:
        return list(call(nested_choice, among, fraction, seed))

    for fraction in fractions:
        found, wanted = choose(fraction), max(1, round(fraction * len(ids)))
        need(
            len(found) == wanted,
            f"fraction {fraction:g} of {len(ids)} ids gives {len(found)} of them, not {wanted}.",
        )
        need(set(found) <= set(ids), "some of the ids you return are not among those given.")
        need(len(set(found)) == len(found), "an id appears twice; each image is chosen only once.")
    need(
        len(choose(0.001)) == 1,
        "a very small fraction gives no image at all; training needs at least one.",
    )
    quarter = set(choose(1 / 4))
    need(
        set(choose(1 / 4)) == quarter,
        "the same seed gives other ids the second time. Make a generator from the seed inside the "
        "function; the global one continues from its last state.",
    )
    need(set(choose(1 / 4, 1)) != quarter, "two seeds give the same ids. Where is the seed used?")
    for seed in range(5):
        shares = [set(choose(fraction, seed)) for fraction in fractions]
        need(
            all(small <= large for small, large in itertools.pairwise(shares)),
            "a smaller share is not inside a larger one. A new sample for each fraction can't "
            "ensure that; what could be drawn once and serve all fractions?",
        )
    gone = len(quarter - set(choose(1 / 4, among=["image-new", *ids])))
    need(
        gone <= 1,
        f"nested and repeatable; but with one more image in the data set, {gone} of the "
        f"{len(quarter)} images chosen before are chosen no longer. Does an id's rank depend on "
        "how many others there are, or on their order?",
    )
