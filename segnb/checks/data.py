"""Checkers of notebook 01: pixels that count, and nested choices of labelled images."""

from __future__ import annotations

import itertools

import numpy as np

from segnb.checks import Answer, call, need, need_close
from segnb.datasets.base import IGNORE


def check_class_shares(class_shares: Answer) -> None:
    """Judge ``class_shares(mask, num_classes) -> shares [num_classes]``."""
    plain = np.array([[0, 0, 1], [2, 2, 2]], dtype=np.uint8)
    need_close(
        call(class_shares, plain, 3),
        [2 / 6, 1 / 6, 3 / 6],
        "a mask without void has other shares. Count the pixels of each class, then divide.",
    )
    need_close(
        call(class_shares, plain, 5),
        [2 / 6, 1 / 6, 3 / 6, 0, 0],
        "a class that no pixel has must be there too, with share 0.",
    )
    void = np.array([[0, 0, 1, IGNORE], [1, IGNORE, IGNORE, IGNORE]], dtype=np.uint8)
    shares = call(class_shares, void, 2)
    need_close(
        shares,
        [0.5, 0.5],
        "the shares are wrong as soon as there is void. Half of this mask's pixels are 255; do "
        "they still count in what you divide by?",
    )
    need_close(
        call(class_shares, np.full((2, 2), IGNORE, np.uint8), 2),
        [0, 0],
        "a mask that is all void has no labelled pixel: the shares should be 0. Do you divide by "
        "zero?",
    )


def check_nested_choice(nested_choice: Answer) -> None:
    """Judge ``nested_choice(ids, fraction, seed) -> ids``."""
    ids = [f"image-{i:03d}" for i in range(80)]
    fractions = (1 / 80, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
    chosen = {f: list(call(nested_choice, ids, f, 0)) for f in fractions}
    for fraction, found in chosen.items():
        wanted = max(1, round(fraction * len(ids)))
        need(
            len(found) == wanted,
            f"fraction {fraction:g} of {len(ids)} ids gives {len(found)} of them, not {wanted}.",
        )
        need(set(found) <= set(ids), "some of the ids you return were not among those given.")
        need(len(set(found)) == len(found), "an id is there twice; an image has one label.")
    need(
        len(list(call(nested_choice, ids, 0.001, 0))) == 1,
        "a very small fraction gives no image at all; at least one is needed to train.",
    )
    need(
        set(call(nested_choice, ids, 1 / 4, 0)) == set(chosen[1 / 4]),
        "the same seed gives other ids the second time. Make a generator from the seed inside the "
        "function; the global one goes on from where it was.",
    )
    need(
        set(call(nested_choice, ids, 1 / 4, 1)) != set(chosen[1 / 4]),
        "two seeds give the same ids. Where does the seed come in?",
    )
    for seed in range(5):
        shares = [set(call(nested_choice, ids, f, seed)) for f in fractions]
        need(
            all(small <= large for small, large in itertools.pairwise(shares)),
            "a smaller share is not inside a larger one. Drawing a new sample for each fraction "
            "loses that; what could be drawn once and serve all fractions?",
        )
    one_more = set(call(nested_choice, ["image-new", *ids], 1 / 4, 0))
    gone = len(set(chosen[1 / 4]) - one_more)
    need(
        gone <= 1,
        f"nested and repeatable, but one more image in the data set, and {gone} of the "
        f"{len(chosen[1 / 4])} chosen before are chosen no longer. Does an id's place depend on "
        "how many others there are, or on their order?",
    )
