"""Checkers of notebook 05: an unfair comparison, and a gain with its interval."""

from __future__ import annotations

import math
from typing import Any

from segnb.checks import Answer, call, need, need_close, numbers

_REASONS = (
    "fewer image passes",
    "another distortion",
    "other labels",
    "tuned on the reported split",
    "one seed",
)


def check_unfair_because(unfair_because: Answer) -> None:
    """Judge ``unfair_because(ours, baseline) -> set of reasons``."""
    fair: dict[str, Any] = {
        "labelled": ["a", "b", "c"],
        "seeds": [0, 1, 2],
        "image_passes": 5600,
        "distortion": 1.0,
        "chosen_on": "val",
        "reported_on": "test",
    }
    passes, distortion, labels, tuned, seeds = _REASONS
    # What differs from a fair comparison in our method, in the baseline; what is right; a hint.
    cases: list[tuple[dict[str, Any], dict[str, Any], set[str], str]] = [
        ({}, {}, set(),
         "the two differ in nothing but the method, and your set should be empty."),
        ({}, {"image_passes": 2400}, {passes},
         "the baseline saw 2400 images, ours 5600. Training longer helps any method, so the gain "
         "may come from that."),
        ({}, {"image_passes": 8000}, set(),
         "a baseline with more image passes than ours has no disadvantage. Which way round does "
         "the first reason compare?"),
        ({}, {"distortion": 0.0}, {distortion},
         "the baseline trained without the colour distortion. It is an augmentation that may help "
         "cross-entropy too."),
        ({"distortion": 0.0}, {}, {distortion},
         "the colour distortions differ, this time with none in ours."),
        ({}, {"labelled": ["c", "a", "b"]}, set(),
         "the same images in another order are the same labels."),
        ({}, {"labelled": ["a", "b", "d"]}, {labels},
         "both have three labelled images, but not the same three. Which images are labelled can "
         "change the mIoU by more than the method does."),
        ({}, {"labelled": ["a", "b"]}, {labels}, "the baseline has fewer labelled images."),
        ({"chosen_on": "test"}, {}, {tuned},
         "our settings were chosen on the test images that we report. The best of several numbers "
         "flatters."),
        ({}, {"chosen_on": "test"}, {tuned},
         "the baseline's settings were chosen on the reported test images. That flatters too, just "
         "the other side."),
        ({"reported_on": "val"}, {"reported_on": "val"}, {tuned},
         "here val is reported, and val is what the choices were made on. No split is good or bad "
         "by its name: compare the two entries."),
        ({"seeds": [0]}, {"seeds": [0]}, {seeds},
         "one seed each: nobody knows what the next seed would say."),
        ({}, {"seeds": [0]}, {seeds},
         "ours has three seeds, the baseline one. How many pairs is that?"),
        ({"seeds": [0, 1]}, {"seeds": [1, 2]}, {seeds},
         "two seeds each, but only one of them was run for both. A seed without its partner gives "
         "no gain."),
        ({"seeds": [0]}, {"image_passes": 2400, "distortion": 0.0, "labelled": ["a"],
          "chosen_on": "test"}, set(_REASONS),
         "everything is wrong with this comparison. Return all reasons that hold, not only the "
         "first."),
    ]  # fmt: skip
    for of_ours, of_baseline, right, hint in cases:
        found = call(unfair_because, fair | of_ours, fair | of_baseline)
        need(
            isinstance(found, set | frozenset),
            f"return a set of reasons, such as {{'one seed'}}; yours is a {type(found).__name__}.",
        )
        strange = sorted(map(repr, found - set(_REASONS)))
        need(
            not strange,
            f"{', '.join(strange)} is none of the reasons; those are {', '.join(_REASONS)}.",
        )
        need(found == right, hint)


def check_paired_gain(paired_gain: Answer) -> None:
    """Judge ``paired_gain(ours, baseline) -> (mean, low, high)``."""
    ours = {0: 42.0, 1: 51.0, 2: 33.0}
    baseline = {0: 40.0, 1: 48.0, 2: 32.0}
    mean, low, high = numbers(
        call(paired_gain, ours, baseline),
        (3,),
        "return three numbers, the mean gain and the two ends of its interval",
    )
    need_close(mean, 2.0, "the mean gain is wrong; subtract the baseline seed by seed.")
    need(low < high, "the lower end of the interval should be below the upper end.")
    need(
        high - low < 10,
        "the interval is far too wide: it should come from the differences of each seed. Much of "
        "a seed's effect is the same for both methods, and pairing removes it.",
    )
    # t of 95 % with two degrees of freedom; the standard deviation of 2, 3, 1 is 1.
    half, normal = 4.302652729911275 / math.sqrt(3), 1.96 / math.sqrt(3)
    need_close(
        [low, high],
        [2 - half, 2 + half],
        "the interval is mean ± t · s / √n, with s the standard deviation of the differences over "
        "n - 1, and t the 97.5 % point of Student's t with n - 1 degrees of freedom.",
        mistakes=[
            ([2 - normal, 2 + normal], "1.96 is for many seeds. With three, Student's t with two "
             "degrees of freedom is wider."),
        ],
        tolerance=1e-3,
    )  # fmt: skip
    need_close(
        call(paired_gain, {**ours, 7: 90.0}, {**baseline, 9: 10.0}),
        [2.0, 2 - half, 2 + half],
        "a seed that only one of the two methods has affects the result. Use pairs only.",
        tolerance=1e-3,
    )
