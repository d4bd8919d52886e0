"""Checkers of notebook 11: folds that do not leak, and what stage 1 can see of a rare class."""

from __future__ import annotations

from collections import Counter

import numpy as np

from segnb.checks import Answer, call, need, need_close
from segnb.datasets.base import IGNORE


def check_group_folds(group_folds: Answer) -> None:
    """Judge ``group_folds(groups, count)``: the fold of each image, by the images' groups."""
    sizes = (7, 1, 1, 7, 1, 1)
    clips = [f"clip{clip}" for clip, frames in enumerate(sizes) for _ in range(frames)]
    for groups, count in ((clips, 3), (list("abcdef"), 3), (list("aabbcc"), 2), (list("abab"), 2)):
        found = call(group_folds, groups, count)
        need(
            len(found) == len(groups),
            f"there are {len(groups)} images, and you return {len(found)} folds. Return one fold "
            "an image.",
        )
        folds = [int(one) for one in found]
        need(
            set(folds) <= set(range(count)),
            f"with count = {count}, the folds are 0 to {count - 1}; yours are {sorted(set(folds))}",
        )
        places: dict[str, set[int]] = {}
        for group, fold in zip(groups, folds, strict=True):
            places.setdefault(group, set()).add(fold)
        leaks = [group for group, where in places.items() if len(where) > 1]
        need(
            not leaks,
            f"images of {leaks[:1]} are in several folds: one frame of the clip is trained on "
            "while its neighbour is scored. Choose a fold for the group, not for the image.",
        )
        need(
            set(folds) == set(range(count)),
            "a fold is empty, although there are enough groups for all.",
        )
        held = Counter(folds).values()
        need(
            max(held) - min(held) <= max(Counter(groups).values()),
            f"the folds have {sorted(held)} images. They can be closer than that: give "
            "the next group to the fold that has the fewest images so far.",
        )


def check_shared_pairs(shared_pairs: Answer) -> None:
    """Judge ``shared_pairs(masks, num_classes)``: in which share of the pairs is a class."""
    masks = np.full((4, 3, 3), 0, np.uint8)
    masks[0, 0, 0] = masks[1, 2, 2] = masks[2, 1, 1] = 1
    masks[3, 0, :] = 2
    masks[2, 2, :] = IGNORE
    wanted = [1.0, 0.5, 0.0, 0.0]
    seen = np.array([4, 3, 1, 0])
    found = call(shared_pairs, masks, 4)
    need_close(
        found,
        wanted,
        "not the shares of pairs. Of 4 images you can make 6 pairs; in how many do both images "
        "show the class?",
        mistakes=[
            (seen / 4, "that is the share of images which show the class. Stage 1 needs two of "
             "them: an anchor in one image, and a positive in the other."),
            ((seen / 4) ** 2, "close: that lets an image be its own partner. The other image is "
             "another one."),
            (seen * (seen - 1) / 2, "those are numbers of pairs; divide by the number of all "
             "pairs of images."),
            (seen * (seen - 1) / 6, "twice too much: you count both orders of a pair above the "
             "line, and one of them below."),
        ],
    )  # fmt: skip
    need_close(
        call(shared_pairs, masks[:1], 4),
        np.zeros(4),
        "with a single image there are no pairs: every share should be 0.",
    )
