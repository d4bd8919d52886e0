"""Runs from scratch beside runs from ImageNet: which belong together, and their figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_overview import row

from segnb import plots
from segnb.axes import changed
from segnb.errors import ConfigError
from segnb.recipe import Recipe, preset
from segnb.results.method import Method, recipe_of
from segnb.results.starts import starts

LITE = changed(
    preset("camvid", "quick"),
    {"fraction": 1.0, "encoder": "tu-tf_efficientnet_lite0", "pretrain.steps": 800},
)


def study(base: Recipe, *, level: float, rate: float = 0.03) -> list[dict[str, Any]]:
    """Three methods and two seeds from both starts; ImageNet is worth ten points."""
    found = []
    for index, method in enumerate(("ce", "contrastive", "ce_long")):
        for seed in (0, 1):
            cold = base.replace(method=method, seed=seed)
            warm = changed(cold, {"encoder_weights": "imagenet", "pretrain.lr": rate})
            found += [row(cold, level + index + seed), row(warm, level + index + seed + 10)]
    return found


def test_both_starts_of_the_network_that_most_runs_have() -> None:
    wanted = study(LITE, level=20.0)
    tried = row(changed(LITE, {"encoder_weights": "imagenet", "pretrain.lr": 0.01}), 5.0)
    usual = [
        row(preset("camvid", "quick").replace(method=m, fraction=1.0), 40.0)
        for m in ("ce", "contrastive")
    ]
    variant = row(LITE.replace(scope="within"), 40.0)
    longer = row(changed(LITE, {"pretrain.steps": 900}), 40.0)
    found = starts([tried, *usual, *wanted, variant, longer], dataset="camvid", tier="quick")
    assert found == wanted
    rates = {(Method.of(r).imagenet, recipe_of(r).pretrain.lr) for r in found}
    assert rates == {(False, LITE.pretrain.lr), (True, 0.03)}


def test_without_a_run_from_imagenet_there_is_nothing_to_compare() -> None:
    cold = [one for one in study(LITE, level=20.0) if not Method.of(one).imagenet]
    with pytest.raises(ConfigError, match="no contrastive run on camvid at quick"):
        starts(cold, dataset="camvid", tier="quick")
    with pytest.raises(ConfigError, match="none of the runs starts from ImageNet"):
        plots.starts(cold, measure="miou_val")


def test_the_figure_has_a_panel_for_each_number_of_labels_and_marks_imagenet() -> None:
    rows = study(LITE, level=20.0) + study(LITE.replace(fraction=1 / 8), level=15.0)
    picture = plots.starts(rows, measure="miou_val")
    few, many = picture.figure.axes
    assert [axes.get_title() for axes in (few, many)] == [
        "46 labelled images",
        "367 labelled images",
    ]
    assert "cross-entropy from ImageNet 30.5" in picture.alt.split("367 labelled")[1]
    assert "contrastive (paper, cross) from scratch 16.5" in picture.alt.split("367 labelled")[0]
    # The dashed line stands at cross-entropy from ImageNet.
    dashed = [line for line in few.lines if line.get_linestyle() == "--"]
    assert [float(np.mean(line.get_xdata())) for line in dashed] == [25.5]
    names = [text.get_text() for text in few.get_yticklabels()]
    heights = dict(zip(names, few.get_yticks(), strict=True))
    scratch, imagenet = (f"cross-entropy\nfrom {start}" for start in ("scratch", "ImageNet"))
    assert heights[scratch] > heights[imagenet]
    assert {text.get_text() for text in few.texts} >= {"15.5", "25.5", "16.5", "26.5"}
