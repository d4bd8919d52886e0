"""The checkers of notebook 05 name the mistakes that people make."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from segnb.checks import Answer, Hint
from segnb.checks.comparison import check_paired_gain, check_unfair_because

Facts = dict[str, Any]


def reasons(ours: Facts, baseline: Facts, **other: Callable[[Facts, Facts], bool]) -> set[str]:
    """Right; or with another rule for one reason, its words joined by underscores."""
    rules: dict[str, Callable[[Facts, Facts], bool]] = {
        "fewer_image_passes": lambda a, b: a["image_passes"] > b["image_passes"],
        "another_distortion": lambda a, b: a["distortion"] != b["distortion"],
        "other_labels": lambda a, b: sorted(a["labelled"]) != sorted(b["labelled"]),
        "tuned_on_the_reported_split": lambda a, b: (
            a["chosen_on"] == a["reported_on"] or b["chosen_on"] == b["reported_on"]
        ),
        "one_seed": lambda a, b: sum(seed in b["seeds"] for seed in a["seeds"]) < 2,
    }
    return {
        name.replace("_", " ") for name, holds in (rules | other).items() if holds(ours, baseline)
    }


def with_rule(**other: Callable[[Facts, Facts], bool]) -> Answer:
    return lambda ours, baseline: reasons(ours, baseline, **other)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (with_rule(fewer_image_passes=lambda a, b: False), "2400 images"),
        (with_rule(fewer_image_passes=lambda a, b: a["image_passes"] != b["image_passes"]),
         "no disadvantage"),
        (with_rule(another_distortion=lambda a, b: False), "without the colour distortion"),
        (with_rule(another_distortion=lambda a, b: a["distortion"] > b["distortion"]),
         "none in ours"),
        (with_rule(other_labels=lambda a, b: a["labelled"] != b["labelled"]), "another order"),
        (with_rule(other_labels=lambda a, b: len(a["labelled"]) != len(b["labelled"])),
         "not the same three"),
        (with_rule(other_labels=lambda a, b: bool(set(b["labelled"]) - set(a["labelled"]))),
         "fewer labelled"),
        (with_rule(tuned_on_the_reported_split=lambda a, b: b["chosen_on"] == b["reported_on"]),
         "our settings"),
        (with_rule(tuned_on_the_reported_split=lambda a, b: a["chosen_on"] == a["reported_on"]),
         "the baseline's settings"),
        (with_rule(tuned_on_the_reported_split=lambda a, b: "test" in (a["chosen_on"],
                                                                       b["chosen_on"])),
         "by its name"),
        (with_rule(one_seed=lambda a, b: False), "next seed"),
        (with_rule(one_seed=lambda a, b: len(a["seeds"]) < 2), "How many pairs"),
        (with_rule(one_seed=lambda a, b: min(len(a["seeds"]), len(b["seeds"])) < 2),
         "without its partner"),
        (lambda *both: set(sorted(reasons(*both))[:1]), "not only the first"),
        (lambda *both: {"one seed"}, "should be empty"),
        (lambda *both: {"cheating"}, "'cheating' is none of the reasons"),
        (lambda *both: {7}, "7 is none of the reasons"),
        (lambda *both: "one seed", "yours is a str"),
        (lambda *both: list(reasons(*both)), "yours is a list"),
        (lambda *both: {}, "yours is a dict"),
        (lambda *both: None, "returns nothing"),
        (lambda ours, baseline: {ours["steps"]}, "KeyError"),
    ],
)  # fmt: skip
def test_unfair_comparisons_overlooked(answer: Answer, hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        check_unfair_because(answer)


def gain(ours: dict[int, float], baseline: dict[int, float], t: float | None = None) -> Any:
    """Right, but for the t that is given."""
    from scipy.stats import t as student

    gains = np.array([ours[seed] - baseline[seed] for seed in ours if seed in baseline])
    factor = student.ppf(0.975, len(gains) - 1) if t is None else t
    half = factor * gains.std(ddof=1) / math.sqrt(len(gains))
    return gains.mean(), gains.mean() - half, gains.mean() + half


def unpaired(ours: dict[int, float], baseline: dict[int, float]) -> Any:
    first, second = np.array([*ours.values()]), np.array([*baseline.values()])
    mean = first.mean() - second.mean()
    half = 2.776 * math.sqrt(first.var(ddof=1) / 3 + second.var(ddof=1) / 3)
    return mean, mean - half, mean + half


def by_position(ours: dict[int, float], baseline: dict[int, float]) -> Any:
    pairs = zip(ours.values(), baseline.values(), strict=True)
    paired = {seed: a - b for seed, (a, b) in enumerate(pairs)}
    return gain(paired, dict.fromkeys(paired, 0.0))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda ours, baseline: 2.0, "three numbers"),
        (lambda ours, baseline: (1.0, 0.0, 2.0), "seed by seed"),
        (lambda ours, baseline: gain(ours, baseline, 1.96), "1.96 is for many"),
        (lambda ours, baseline: gain(ours, baseline, 3.0), "Student"),
        (lambda ours, baseline: [gain(ours, baseline)[i] for i in (0, 2, 1)], "below the upper"),
        (unpaired, "far too wide"),
        (by_position, "pairs only"),
        (lambda ours, baseline: gain(ours, {s: baseline[s] for s in ours}), "KeyError"),
    ],
)
def test_gains_taken_wrongly(answer: Answer, hint: str) -> None:
    answer.__name__ = "paired_gain"
    with pytest.raises(Hint, match=hint):
        check_paired_gain(answer)


def test_right_answers_pass() -> None:
    check_unfair_because(reasons)
    check_paired_gain(gain)
