from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from segnb.datasets.base import DatasetInfo
from segnb.errors import ConfigError
from segnb.methods import KINDS
from segnb.plots import (
    Picture,
    compactness_scatter,
    compactness_stages,
    cost,
    gain,
    iou_per_class,
    label_curve,
    loss_curves,
    marks,
    temperature_curve,
)
from segnb.recipe import Recipe, Stage
from segnb.results.method import Method
from segnb.results.table import select

INFO = DatasetInfo(
    name="toys",
    class_names=("floor", "ball", "cube"),
    palette=((10, 20, 30), (200, 0, 0), (0, 0, 200)),
    licence="",
    homepage="",
)
CE, LONG, CROSS = "cross-entropy", "cross-entropy, same compute", "contrastive (paper, cross)"
PLAIN = f"{LONG}, undistorted"


def row(miou: float | None, **changes: Any) -> dict[str, Any]:
    """A ledger row as a run writes it."""
    own = {
        name: changes.pop(name, default)
        for name, default in {"labelled": 18, "seconds": 100.0, "device": "CPU"}.items()
    }
    measures = {
        name: changes.pop(name, None)
        for name in ("intra", "inter", "fisher", "silhouette", "knn_miou", "probe_miou")
    }
    fraction = changes.pop("fraction", 1 / 16)
    recipe = Recipe(dataset="camvid", fraction=fraction).replace(**changes)
    contrastive = recipe.uses_contrastive
    value = miou or 0.0
    return {
        **{name: getattr(recipe, name) for name in ("dataset", "tier", "method", "seed")},
        "form": recipe.form if contrastive else None,
        "scope": recipe.scope if contrastive else None,
        "temperature": recipe.temperature if contrastive else None,
        "fraction": recipe.fraction,
        **own,
        **measures,
        "miou_val": miou,
        "miou_test": None,
        "iou": {"val": [value, value / 2, None]},
        "compactness": {"finetuned": measures, **({"initial": {"fisher": 0.1}})},
        "recipe": recipe.to_dict(),
        "recipe_hash": recipe.hash,
    }


ROWS = [
    row(25.0, method="ce", seed=0),
    row(27.0, method="ce", seed=1),
    row(44.0, method="ce_long", seed=0),
    row(45.0, method="ce_long", seed=1),
    row(40.0, seed=0),
    row(48.0, seed=1),
    row(60.0, seed=0, fraction=1.0, labelled=300),
]


def lines(axes: Any) -> dict[str, Any]:
    """Labelled lines of a panel by name."""
    return {a.get_label(): a for a in axes.get_lines() if not a.get_label().startswith("_")}


def legend_names(figure: Picture) -> list[str]:
    return [text.get_text() for text in figure.figure.legends[0].get_texts()]


def test_label_curve_holds_the_means() -> None:
    figure = label_curve(ROWS)
    (axes,) = figure.figure.axes
    drawn = lines(axes)
    assert {*drawn} == {CE, LONG, CROSS}
    assert legend_names(figure) == [CE, LONG, CROSS]
    assert drawn[CROSS].get_ydata() == pytest.approx([44.0, 60.0])
    assert drawn[CE].get_ydata() == pytest.approx([26.0])
    assert drawn[CROSS].get_xdata() == pytest.approx([18, 300], rel=0.1)
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["18\n1/16", "300\nall"]
    assert axes.get_ylabel() == "mIoU, val, %"
    assert f"{CROSS}: 18 images 44.0" in figure.alt
    assert "300 images 60.0 (one seed)" in figure.alt


def test_methods_are_drawn_with_the_seeds_that_they_share() -> None:
    # A fourth seed of the baseline, with lucky images, must not lift its mean.
    rows = [row(30.0 + seed, method="ce", seed=seed, fisher=1.0) for seed in range(3)]
    rows += [row(33.0 + seed, seed=seed, fisher=2.0) for seed in range(3)]
    lucky = [*rows, row(60.0, method="ce", seed=3, fisher=9.0, seconds=900.0)]
    figures: tuple[Callable[[list[dict[str, Any]]], Picture], ...] = (
        label_curve,
        compactness_stages,
        cost,
        lambda held: iou_per_class(held, INFO),
        lambda held: temperature_curve(
            [*held, *(row(35.0, seed=seed, temperature=0.5) for seed in range(3))]
        ),
    )
    for figure in figures:
        assert figure(lucky).alt == figure(rows).alt


def test_dots_for_several_seeds_and_intervals_from_three_on() -> None:
    three = [row(30.0 + seed, seed=seed, fraction=1.0, labelled=300) for seed in range(3)]
    pair = [row(29.0, method="ce", seed=0), row(37.0, method="ce", seed=1)]
    figure = label_curve([*pair, *three, row(44.0, method="ce_long")])
    (axes,) = figure.figure.axes
    dots_of_pair, interval, dots = (
        line for line in axes.get_lines() if line.get_label().startswith("_")
    )
    assert [*dots_of_pair.get_ydata()] == [29.0, 37.0]
    assert [*dots.get_ydata()] == [30.0, 31.0, 32.0]
    low, high = interval.get_ydata()
    # Standard deviation 1, t(0.975, 2) = 4.303.
    assert (high - low) / 2 == pytest.approx(4.303 / 3**0.5, abs=1e-3)
    # An interval of the pair, from -18 to 84, would flatten the rest.
    assert axes.get_ylim()[0] > 25
    assert "33.0 (29.0 and 37.0)" in figure.alt
    assert "31.0 (28.5 to 33.5)" in figure.alt


def test_marks_stand_apart_however_far_the_counts_do() -> None:
    rows = [
        row(30.0, method=method, fraction=fraction, labelled=labelled)
        for method in ("ce", "ce_long", "contrastive")
        for fraction, labelled in ((1 / 32, 11), (1.0, 367))
    ]
    (axes,) = label_curve(rows).figure.axes
    places = [axes.transAxes.inverted().transform(axes.transData.transform((x, 30)))[0]
              for x in (line.get_xdata()[0] for line in lines(axes).values())]  # fmt: skip
    assert np.diff(sorted(places)) == pytest.approx([0.015, 0.015])


def test_gain_is_paired_by_seed() -> None:
    figure = gain([*ROWS, row(90.0, seed=7)])
    over_ce, over_long = figure.figure.axes
    assert over_ce.get_title() == f"over {CE}"
    assert over_long.get_title() == "over the same compute"
    assert {*lines(over_ce)} == {LONG, CROSS}
    assert [*lines(over_long)] == [CROSS]
    # Seeds 0 and 1: 40 - 25 and 48 - 27; seed 7 and 300 images have no baseline.
    assert lines(over_ce)[CROSS].get_ydata() == pytest.approx([18.0])
    assert lines(over_long)[CROSS].get_ydata() == pytest.approx([(-4 + 3) / 2])
    assert "Over the same compute: contrastive (paper, cross) 18 images -0.5" in figure.alt


def test_gain_has_a_panel_for_undistorted_cross_entropy() -> None:
    figure = gain([*ROWS, row(50.0, method="ce_long", distortion=0, seed=0)])
    over_ce, over_long, over_plain = figure.figure.axes
    assert lines(over_long)[PLAIN].get_ydata() == pytest.approx([50 - 44])
    assert over_plain.get_title().split("\n") == ["over the same compute,", "undistorted"]
    assert over_ce.get_xlim() == over_plain.get_xlim()
    assert lines(over_plain)[CROSS].get_ydata() == pytest.approx([40 - 50])
    distorted, plain = (lines(over_ce)[name] for name in (LONG, PLAIN))
    assert plain.get_color() == distorted.get_color()
    assert plain.get_linestyle() != distorted.get_linestyle()


def test_gain_compares_like_weights_with_like() -> None:
    rows = [row(50.0, method="ce", encoder_weights="imagenet"), row(51.0), row(20.0, method="ce")]
    over_ce, over_imagenet = gain(rows).figure.axes
    assert lines(over_ce)[CROSS].get_ydata() == pytest.approx([31.0])
    assert lines(over_imagenet)[CROSS].get_ydata() == pytest.approx([1.0])
    rows.append(row(58.0, encoder_weights="imagenet"))
    over_ce, over_imagenet = gain(rows).figure.axes
    assert lines(over_ce)[f"{CROSS}, ImageNet"].get_ydata() == pytest.approx([8.0])
    assert [*lines(over_imagenet)] == [CROSS]


def test_gain_without_baseline_says_so() -> None:
    with pytest.raises(ConfigError, match="no run can be compared"):
        gain(ROWS[4:])
    # One baseline is enough for one panel.
    assert len(gain([r for r in ROWS if r["method"] != "ce_long"]).figure.axes) == 1


def test_temperature_curve() -> None:
    rows = [*ROWS, row(30.0, temperature=0.5), row(35.0, temperature=0.03)]
    figure = temperature_curve(rows)
    (axes,) = figure.figure.axes
    drawn = lines(axes)
    # At 0.07 a second seed, which the other temperatures lack, has 48.
    assert drawn[CROSS].get_ydata() == pytest.approx([35.0, 40.0, 30.0])
    assert drawn[CROSS].get_xdata() == pytest.approx([0.03, 0.07, 0.5])
    assert drawn[CE].get_ydata() == pytest.approx([25.0, 25.0])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.03", "0.07", "0.5"]
    assert axes.get_xlabel() == "temperature τ, 18 labelled images"
    assert "0.5 30.0 (one seed)" in figure.alt
    with pytest.raises(ConfigError, match="two temperatures"):
        temperature_curve(ROWS)


def test_titles_of_four_stages_leave_each_other_room() -> None:
    stages = ("pretrain", "finetune", "pretrain-pseudo", "finetune-pseudo")
    log = [{"stage": s, "step": step, "loss": 2.0} for s in stages for step in (0, 10)]
    picture = loss_curves({"pseudo-labels (paper, cross)": log})
    picture.png()  # lays the panels out
    boxes = [axes.title.get_window_extent() for axes in picture.figure.axes]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    assert boxes[-1].x1 <= picture.figure.bbox.x1


def test_level_lines_of_all_long_baselines_can_be_told_apart() -> None:
    rows = [*ROWS, row(30.0, temperature=0.5), row(43.0, method="ce_long", distortion=0)]
    rows.append(row(44.0, method="ce_double"))
    (axes,) = temperature_curve(rows).figure.axes
    levels = [lines(axes)[name] for name in (LONG, PLAIN, "cross-entropy, compute of two rounds")]
    assert len({level.get_color() for level in levels}) == 1
    assert len({str(level._dash_pattern) for level in levels}) == 3


def test_sweep_rows_are_not_averaged_into_the_label_curve() -> None:
    rows = [*ROWS, row(30.0, temperature=0.5)]
    with pytest.raises(ConfigError, match="differ in temperature"):
        label_curve(rows)
    (axes,) = label_curve(select(rows, temperature=0.07)).figure.axes
    assert lines(axes)[CROSS].get_ydata() == pytest.approx([44.0, 60.0])


def test_compactness_scatter_over_all_runs() -> None:
    rows = [row(20.0 + i, seed=i, fisher=float(i), silhouette=-float(i)) for i in range(5)]
    rows += [row(50.0, method="ce", fisher=None, silhouette=0.5), row(None, seed=9, fisher=3.0)]
    figure = compactness_scatter(rows)
    fisher, silhouette = figure.figure.axes
    assert fisher.get_xlabel() == "Fisher ratio"
    assert fisher.get_title() == "ρ = +1.00, 5 runs"
    assert silhouette.get_title().split("\n")[0].endswith("6 runs")
    assert lines(fisher)[CROSS].get_xdata() == pytest.approx(range(5))
    assert CE in lines(silhouette)
    assert "Fisher ratio: ρ = +1.00, 5 runs." in figure.alt
    few = compactness_scatter(rows[:4])
    assert few.figure.axes[0].get_title() == "4 runs, too few for ρ"
    with pytest.raises(ConfigError, match="none of the 2 rows has intra or inter or"):
        compactness_scatter([row(1.0), row(2.0)])


def test_compactness_scatter_tells_labels_from_methods() -> None:
    rows = [row(10.0 + i, seed=i, fisher=1.0 - i / 10, labelled=9) for i in range(3)]
    rows += [row(40.0 + i, seed=i, fisher=9.0 - i / 10) for i in range(3)]
    figure = compactness_scatter(rows)
    (axes,) = figure.figure.axes
    assert axes.get_title() == "ρ = +0.54, 6 runs\nwithin labels and method ρ = −1.00"
    sizes = {line.get_label(): line.get_markersize() for line in axes.get_lines()}
    few, many = sizes["size: 9 labelled images"], sizes["size: 18 labelled images"]
    assert few < many
    drawn = [line for line in axes.get_lines() if line.get_label() == CROSS]
    assert [line.get_markersize() for line in drawn] == [few, many]


def test_compactness_scatter_takes_ranks_within_labels_and_method() -> None:
    # Simpson's paradox: both rise from the one method to the other, neither with the other in it.
    rows = [row(12.0 - i, method="ce", seed=i, fisher=1.0 + i) for i in range(3)]
    rows += [row(42.0 - i, seed=i, fisher=11.0 + i) for i in range(3)]
    figure = compactness_scatter(rows)
    # Ranks 1 to 6 against 3, 2, 1, 6, 5, 4: 1 - 6 (4 + 0 + 4 + 4 + 0 + 4) / (6 · 35) = 0.54.
    assert figure.figure.axes[0].get_title() == (
        "ρ = +0.54, 6 runs\nwithin labels and method ρ = −1.00"
    )
    assert "Fisher ratio: ρ = +0.54, 6 runs, within labels and method ρ = −1.00." in figure.alt
    # A run that is alone with its labels and method has no rank among its like: ρ stays.
    alone = compactness_scatter([*rows, row(60.0, fisher=50.0, labelled=300, fraction=1.0)])
    assert alone.figure.axes[0].get_title().endswith("within labels and method ρ = −1.00")


def test_compactness_stages() -> None:
    rows = [
        row(40.0, fisher=2.0),
        row(42.0, seed=1, fisher=4.0),
        row(20.0, method="ce", fisher=1.0),
    ]
    figure = compactness_stages(rows)
    (axes,) = figure.figure.axes
    assert axes.get_title() == "Fisher ratio"
    assert lines(axes)[CROSS].get_ydata() == pytest.approx([0.1, 3.0])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["before", "stage 1", "stage 2"]
    assert f"{CROSS} before 0.1, stage 2 3" in figure.alt
    with pytest.raises(ConfigError, match="18, 300 labelled images"):
        compactness_stages(ROWS)


def test_cost_joins_recipes_of_different_length() -> None:
    longer = Stage(steps=900, lr=0.05, schedule="poly")
    rows = [
        row(25.0, method="ce", seconds=100.0),
        row(27.0, method="ce", seconds=110.0, seed=1),
        row(34.0, method="ce", seconds=330.0, finetune=longer),
        row(40.0, seconds=900.0),
        row(60.0, seconds=900.0, labelled=300, fraction=1.0),
    ]
    figure = cost(rows)
    few, many = figure.figure.axes
    assert few.get_title() == "18 labelled images"
    assert lines(few)[CE].get_xdata() == pytest.approx([105.0, 330.0])
    assert lines(few)[CE].get_ydata() == pytest.approx([26.0, 34.0])
    assert [*lines(many)] == [CROSS]
    assert few.get_xscale() == "log"
    assert "on CPU" in figure.alt


def test_many_methods_at_one_number_keep_clear_of_the_next() -> None:
    forms = [{"form": f, "scope": s} for f in ("paper", "official") for s in ("cross", "within")]
    rows = [row(30.0, method=m, labelled=n) for m in ("ce", "ce_long") for n in (46, 92)]
    rows += [row(31.0, labelled=46, **form) for form in forms]
    (axes,) = label_curve(rows).figure.axes
    marks = lines(axes)
    at_46 = [float(line.get_xdata()[0]) for line in marks.values()]
    at_92 = [float(line.get_xdata()[1]) for line in marks.values() if len(line.get_xdata()) > 1]
    assert len(at_46) == 6
    assert at_46 == sorted(at_46)
    assert max(at_46) < 46 * 2**0.31 < 92 / 2**0.31 < min(at_92)
    low, high = axes.get_xlim()
    assert low < min(at_46) < max(at_92) < high


def test_many_methods_at_the_fewest_labels_stay_inside_the_frame() -> None:
    forms = [{"form": f, "scope": s} for f in ("paper", "official") for s in ("cross", "within")]
    rows = [row(30.0, method=m, labelled=n) for m in ("ce", "ce_long") for n in (11, 367)]
    rows += [
        row(31.0, labelled=11, loss_size=size, **f) for f in forms for size in (None, (24, 24))
    ]
    rows.append(row(29.0, labelled=11, method="ce_long", distortion=0))
    over_ce = gain(rows).figure.axes[0]
    assert len(lines(over_ce)) == 10
    low, high = over_ce.get_xlim()
    for line in lines(over_ce).values():
        assert low * 1.05 < min(line.get_xdata()) <= max(line.get_xdata()) < high / 1.05


def test_cost_labels_seconds_under_every_lowest_panel() -> None:
    rows = [row(20.0 + n, labelled=n, seconds=50.0 * n) for n in (11, 46, 92, 367)]
    panels = cost(rows).figure.axes
    labels = {axes.get_title().split()[0]: axes.get_xlabel() for axes in panels}
    assert labels == {"11": "", "46": "", "92": "seconds of training", "367": "seconds of training"}
    places = [axes.get_subplotspec().colspan.start for axes in panels]
    assert places == [0, 1, 0, 1]


def test_cost_of_a_paused_run_does_not_count() -> None:
    figure = cost([row(28.0, seed=s, seconds=t) for s, t in enumerate((100.0, 110.0, 9000.0))])
    (axes,) = figure.figure.axes
    assert lines(axes)[CROSS].get_xdata() == pytest.approx([110.0])


def test_cost_does_not_compare_devices() -> None:
    with pytest.raises(ConfigError, match="seconds on CPU and on GPU cannot be compared"):
        cost([row(1.0), row(2.0, seed=1, device="GPU")])
    slow = {**row(1.0), "precision": "fp32"}
    with pytest.raises(ConfigError, match="seconds on CPU, bf16 and on CPU, fp32 cannot be"):
        cost([slow, {**row(2.0, seed=1), "precision": "bf16"}])
    assert "on CPU, fp32" in cost([slow]).alt
    with pytest.raises(ConfigError, match="none of the rows has the seconds"):
        cost([row(1.0, seconds=None)])


def test_iou_per_class() -> None:
    figure = iou_per_class(ROWS[:6], INFO)
    (axes,) = figure.figure.axes
    # Sorted by the last method: floor 44, ball 22, cube in no image.
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["cube", "ball", "floor"]
    assert legend_names(figure) == [CE, LONG, CROSS]
    means = [x for line in axes.get_lines() if line.get_markersize() == 5 for x in line.get_xdata()]
    assert sorted(means) == pytest.approx(sorted([26, 13, 44.5, 22.25, 44, 22]))
    assert f"cube: {CE} not there" in figure.alt
    assert axes.get_xlabel() == "IoU on val, %, with 18 labelled images"
    with pytest.raises(ConfigError, match="18, 300 labelled images"):
        iou_per_class(ROWS, INFO)
    with pytest.raises(ConfigError, match="IoU of 3 classes where there should be 2"):
        iou_per_class(ROWS[:2], DatasetInfo("two", ("a", "b"), ((0, 0, 0), (1, 1, 1)), "", ""))


def test_loss_curves() -> None:
    log = [{"stage": "finetune", "step": s, "loss": 2.0} for s in range(0, 100, 10)]
    logs = {
        CE: [*log, {"stage": "finetune", "step": 100, "loss": float("nan")}, {"stage": "eval"}],
        CROSS: [*log[:5], {"stage": "pretrain", "step": 0, "loss": 7.0}],
        "mine": [],
    }
    figure = loss_curves(logs)
    assert [axes.get_title() for axes in figure.figure.axes] == [
        "stage 1: contrastive loss",
        "stage 2: cross-entropy",
    ]
    assert [*lines(figure.figure.axes[0])] == [CROSS]
    # A constant loss stays constant when smoothed, from the first value on.
    assert lines(figure.figure.axes[1])[CE].get_ydata() == pytest.approx([2.0] * 10)
    assert "finetune, cross-entropy: 2.00 at step 90" in figure.alt
    with pytest.raises(ConfigError, match="no rows with a loss"):
        loss_curves({CE: []})


@pytest.mark.parametrize(
    "figure",
    [label_curve, gain, temperature_curve, compactness_scatter, compactness_stages, cost],
)
def test_no_rows_is_a_clear_error(figure: Callable[[list[Any]], Picture]) -> None:
    with pytest.raises(ConfigError, match="no rows"):
        figure([])
    with pytest.raises(ConfigError, match="none of the 1 rows has a value for 'miou_val'"):
        figure([row(None)])


def test_methods_look_alike_everywhere_and_differ_from_each_other() -> None:
    changes: list[dict[str, Any]] = [{"method": method} for method in KINDS]
    changes += [{"method": method, "distortion": 0} for method in ("ce_long", "ce_double")]
    changes += [{"form": "official", "scope": scope} for scope in ("cross", "within")]
    changes += [{"loss_size": (24, 24)}, {"freeze": True}, {"freeze_statistics": True}]
    changes.append({"encoder_weights": "imagenet", "form": "official"})
    methods = {str(one): Method.of(row(1.0, **one)) for one in changes}
    drawn = marks([*methods.values(), "b", "a"])
    assert all(drawn[method] == method.mark for method in methods.values())
    assert len({*map(drawn.get, methods.values())}) == len(changes)
    contrastive, pseudo = Method.of(row(1.0)), Method.of(row(1.0, method="pseudo"))
    assert (contrastive.mark.colour, contrastive.mark.filled) == (pseudo.mark.colour, True)
    assert not pseudo.mark.filled
    assert marks(["b", "a"])["b"] == drawn["b"] != drawn["a"]


def test_figures_leave_no_trace_in_matplotlib() -> None:
    before = dict(matplotlib.rcParams)
    label_curve(ROWS).png()
    assert dict(matplotlib.rcParams) == before
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_jupyter_shows_one_picture_with_its_alt_text() -> None:
    formatters = pytest.importorskip("IPython.core.formatters")
    display = formatters.DisplayFormatter()
    # The inline back end registers a printer for every matplotlib figure.
    display.formatters["image/png"].for_type(Figure, lambda figure: b"not this one")
    figure = label_curve(ROWS)
    data, metadata = display.format(figure)
    assert data["image/png"].startswith(b"\x89PNG")
    assert data["text/plain"] == figure.alt
    assert metadata["image/png"]["alt"] == figure.alt
    assert metadata["image/png"]["width"] == 720
