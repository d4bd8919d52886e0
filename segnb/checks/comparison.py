"""Checkers of notebook 05: a baseline with the same compute, and a gain with its interval."""

from __future__ import annotations

import math

from segnb.checks import Answer, call, need, need_close
from segnb.recipe import Recipe, Stage


def check_equal_compute(equal_compute: Answer) -> None:
    """Judge ``equal_compute(pretrain_steps, pretrain_batch, finetune_steps, finetune_batch)``."""
    need(
        float(call(equal_compute, 100, 8, 50, 8)) != 150,
        "the steps of both stages are added as if they cost the same. How many images go through "
        "the network in one contrastive step?",
    )
    need(
        float(call(equal_compute, 100, 8, 50, 8)) != 200,
        "that is what stage 1 costs alone; stage 2 costs something too.",
    )
    for numbers in ((100, 8, 50, 8), (100, 8, 50, 4), (30, 4, 10, 8), (7, 3, 5, 4)):
        steps, batch, fine_steps, fine_batch = numbers
        recipe = Recipe(
            method="ce_long",
            pretrain=Stage(steps=steps, batch=batch),
            finetune=Stage(steps=fine_steps, batch=fine_batch),
        )
        wanted = recipe.cross_entropy_stage().steps
        found = call(equal_compute, *numbers)
        need(
            not wanted - 1 <= float(found) < wanted,
            "where the images do not divide evenly, one baseline step is missing: round in the "
            "baseline's favour, so that nobody can say it was short-changed.",
        )
        need_close(
            found,
            wanted,
            f"with {steps} steps of {batch} images in stage 1 and {fine_steps} of {fine_batch} in "
            "stage 2 the images through the network are not equal. Count them on both sides.",
            tolerance=1e-9,
        )


def check_paired_gain(paired_gain: Answer) -> None:
    """Judge ``paired_gain(ours, baseline) -> (mean, low, high)``."""
    ours = {0: 42.0, 1: 51.0, 2: 33.0}
    baseline = {0: 40.0, 1: 48.0, 2: 32.0}
    found = call(paired_gain, ours, baseline)
    need(
        isinstance(found, (tuple, list)) and len(found) == 3,
        "return three numbers: the mean gain and the two ends of its interval.",
    )
    mean, low, high = found
    need_close(mean, 2.0, "the mean gain is wrong; subtract the baseline seed by seed.")
    # t of 95 % with two degrees of freedom is 4.3027; the standard deviation of 2, 3, 1 is 1.
    half = 4.302652729911275 / math.sqrt(3)
    need(float(low) < float(high), "the lower end of the interval should be below the upper end.")
    need(
        float(high) - float(low) < 10,
        "the interval is far too wide: it should come from the differences of each seed. Much of "
        "what seeds do, they do to both methods, and pairing takes it out.",
    )
    need(
        abs((float(high) - float(low)) / 2 - 1.96 / math.sqrt(3)) > 0.02,
        "1.96 belongs to many seeds. With three, Student's t with two degrees of freedom is wider.",
    )
    need_close(
        [low, high],
        [2 - half, 2 + half],
        "the interval is mean ± t · s / √n, with s the standard deviation of the differences over "
        "n - 1, and t the 97.5 % point of Student's t with n - 1 degrees of freedom.",
        tolerance=1e-3,
    )
    more = call(paired_gain, {**ours, 7: 90.0}, {**baseline, 9: 10.0})
    need_close(
        more,
        [2.0, 2 - half, 2 + half],
        "a seed that only one of the two was run with came into the result. Pairs only.",
        tolerance=1e-3,
    )
