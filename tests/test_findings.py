"""Sentences computed from rows: what they say, and what they say where nothing can be told."""

from __future__ import annotations

from typing import Any

import pytest
from test_table import row

from segnb import plots
from segnb.results import findings
from segnb.results.method import Method

NAMES = ("sky", "road", "car")


def three(ours: float, fine: float, long: float, **changes: Any) -> list[dict[str, Any]]:
    """A run of each method, contrastive in the official form."""
    kinds = {"contrastive": ours, "ce": fine, "ce_long": long}
    return [row(miou, method=kind, form="official", **changes) for kind, miou in kinds.items()]


def test_runs_say_the_way_to_each_baseline() -> None:
    said = findings.runs_found(three(40.0, 36.5, 41.0))
    assert said == (
        "contrastive (official, cross) ends at 40.0 mIoU, val: 3.5 points ahead of cross-entropy "
        "and 1.0 points behind cross-entropy, same compute."
    )
    assert "No contrastive run" in findings.runs_found(three(40.0, 36.5, 41.0)[1:])


def test_gains_are_told_apart_by_their_intervals() -> None:
    rows: list[dict[str, Any]] = []
    for seed in range(3):
        # Far ahead of one baseline and far behind the other with 18 labels; anything with 46.
        rows += three(40.0 + 0.1 * seed, 30.0, 50.0, seed=seed)
        rows += three(40.0 + 9.0 * seed, 45.0, 48.0, seed=seed, fraction=1 / 8, labelled=46)
    rows += three(40.0, 30.0, 50.0, fraction=1 / 4, labelled=92)
    fine, long = findings.gains_found(rows).split(". ")
    assert fine == (
        "Over the same fine-tuning, in mIoU, val: a gain with 18 (+10.1) labelled images; "
        "undecided with 46 (+4.0); too few seeds for an interval with 92 (+10.0)"
    )
    assert long == (
        "Over the same compute, in mIoU, val: a loss with 18 (-9.9) labelled images; undecided "
        "with 46 (+1.0); too few seeds for an interval with 92 (-10.0)."
    )


@pytest.mark.parametrize("rows", [[], [row(30.0, method="ce")]])
def test_without_a_pair_no_gain_is_claimed(rows: list[dict[str, Any]]) -> None:
    assert findings.gains_found(rows) == "No gain can be computed from these rows yet."


def test_a_start_from_imagenet_is_told_beside_stage_1() -> None:
    rows: list[dict[str, Any]] = []
    for seed in range(3):
        rows += three(22.0 + seed, 20.0 + seed, 25.0, seed=seed)
        rows += three(34.5 + seed, 34.0 + seed, 36.0 + seed, seed=seed, encoder_weights="imagenet")
    assert findings.starts_found(rows, measure="miou_val") == (
        "With 18 labelled images (mIoU, val), a start from ImageNet is worth +14.0 points (+14.0 "
        "to +14.0) to cross-entropy. Stage 1 from scratch is worth +2.0 points (+2.0 to +2.0); "
        "beside cross-entropy from ImageNet it stands at -12.0 points (-12.0 to -12.0). "
        "On top of ImageNet, stage 1 is worth +0.5 points (+0.5 to +0.5), and the same compute of "
        "cross-entropy +2.0 points (+2.0 to +2.0)."
    )
    cold = [one for one in rows if not Method.of(one).imagenet]
    assert findings.starts_found(cold, measure="miou_val").startswith("No run from ImageNet")


def test_classes_leave_out_those_without_an_iou() -> None:
    ours, _, long = three(40.0, 36.5, 41.0)
    ours["iou"] = {"val": [80.0, 50.0, None]}
    long["iou"] = {"val": [82.0, 40.0, 10.0]}
    assert findings.classes_found([ours, long], NAMES) == (
        "Beside cross-entropy, same compute, 1 of 2 classes end higher; road gains most (+10.0 "
        "points of IoU), sky least (-2.0)."
    )
    assert "No contrastive run" in findings.classes_found([long], NAMES)


def test_compactness_names_the_stages_that_were_measured() -> None:
    measured = {"initial": {"fisher": 0.5}, "finetuned": {"fisher": 3.0}}
    assert "is 0.50 before training and 3.00 at the end" in findings.compactness_found(
        {"compactness": measured}
    )
    measured["initial"]["fisher"] = None  # type: ignore[assignment]
    assert "is 3.00 at the end" in findings.compactness_found({"compactness": measured})


def test_losses_are_those_of_the_last_stage() -> None:
    log = [
        {"stage": "pretrain", "step": 1, "loss": 9.0},
        {"stage": "finetune", "step": 1, "loss": 2.0},
        {"stage": "finetune", "step": 50, "loss": 0.25},
    ]
    said = findings.losses_found({Method(kind="ce"): log})
    assert said == "Training cross-entropy falls: cross-entropy from 2.00 at step 1 to 0.25."
    assert findings.losses_found({Method(kind="ce"): []}) == "No log to read."


def test_the_gap_is_drawn_from_validation_to_training() -> None:
    picture = plots.training_gap(
        {Method(kind="ce"): (90.0, 30.0), Method(kind="ce_long"): (80, 40)}
    )
    axes = picture.figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["60 points", "40 points"]
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "cross-entropy",
        "cross-entropy, same compute",
    ]
    assert "cross-entropy: 90 and 30." in picture.alt
