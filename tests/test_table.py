from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segnb.errors import ConfigError
from segnb.recipe import Recipe
from segnb.results import ledger
from segnb.results.method import Method
from segnb.results.table import (
    beside_baselines,
    brief_table,
    classes_table,
    combined_gain,
    fraction_name,
    gains,
    gains_table,
    groups,
    most_compared,
    one_device,
    one_of_each_method,
    results_table,
    same_seeds,
    select,
    summarise,
)

REPOSITORY = Path(__file__).resolve().parent.parent


def row(miou: float | None, *, test: float | None = None, **changes: Any) -> dict[str, Any]:
    """A ledger row as a run writes it, from a true recipe."""
    labelled = changes.pop("labelled", 18)
    recipe = Recipe(dataset="camvid", fraction=1 / 16).replace(**changes)
    names = ("dataset", "tier", "method", "form", "scope", "fraction", "seed", "temperature")
    return {
        **{name: getattr(recipe, name) for name in names},
        "labelled": labelled,
        "miou_val": miou,
        "miou_test": test,
        "recipe": recipe.to_dict(),
        "recipe_hash": recipe.hash,
    }


def test_summary_by_hand() -> None:
    summary = summarise([1.0, 2.0, 3.0])
    assert (summary.seeds, summary.mean, summary.std) == (3, 2.0, 1.0)
    # t(0.975, 2 degrees of freedom) = 4.30265, from any printed table.
    assert summary.high == pytest.approx(2 + 4.30265 / 3**0.5, abs=1e-4)
    assert summary.low == pytest.approx(2 - 4.30265 / 3**0.5, abs=1e-4)


def test_summary_of_one_has_no_interval() -> None:
    summary = summarise([40.0])
    assert (summary.mean, summary.std, summary.low, summary.high) == (40.0, None, None, None)
    with pytest.raises(ValueError, match="no values"):
        summarise([])


@given(st.lists(st.floats(0, 100), min_size=2, max_size=8))
def test_summary_agrees_with_the_standard_library(values: list[float]) -> None:
    summary = summarise(values)
    assert summary.mean == pytest.approx(statistics.mean(values), abs=1e-9)
    assert summary.std == pytest.approx(statistics.stdev(values), abs=1e-9)
    assert summary.low is not None
    assert summary.high is not None
    assert summary.low <= summary.mean <= summary.high


def test_methods_are_compared_with_the_seeds_that_they_share() -> None:
    """Here a seed moves the mIoU by ten points, and the methods are all alike."""

    def of(seeds: Iterable[int], **changes: Any) -> list[dict[str, Any]]:
        return [row(30.0 + 10 * seed, seed=seed, **changes) for seed in seeds]

    rows = [
        *of(range(5), method="ce"),
        *of((1, 2, 3, 4), method="ce_long"),
        *of((0, 1, 2, 3)),
        *of((2, 6), method="pseudo"),  # takes no seed from the others
        *of((7,), method="ce_double"),  # shares none
        *of(range(4), method="ce", fraction=1.0, labelled=367),
        {**row(None, seed=9), "miou_test": 1.0},
    ]
    found = same_seeds(rows)
    seeds: dict[tuple[str, int], set[int]] = {}
    for one in found:
        seeds.setdefault((one["method"], one["labelled"]), set()).add(one["seed"])
    assert seeds == {
        ("ce", 18): {1, 2, 3},
        ("ce_long", 18): {1, 2, 3},
        ("contrastive", 18): {1, 2, 3},
        ("pseudo", 18): {2},
        ("ce_double", 18): {7},
        ("ce", 367): {0, 1, 2, 3},
    }
    lines = [line.split("|")[2:5] for line in results_table(rows[:13]).splitlines()[2:]]
    assert [(int(seeds), mean.strip()) for _, seeds, mean in lines] == [(3, "50.0 ± 10.0")] * 3
    for line in classes_table(
        [{**one, "iou": {"val": [one["miou_val"]]}} for one in rows[:13]], ["x"]
    ).splitlines()[2:]:
        assert line.endswith("| 3 | 50 ± 10 |")
    # The gains take every pair.
    assert {(g.group.method.kind, g.baseline): len(g.differences) for g in gains(rows[:13])} == {
        ("ce_long", "cross-entropy"): 4,
        ("contrastive", "cross-entropy"): 4,
        ("contrastive", "the same compute"): 3,
    }


def name(**changes: Any) -> str:
    return Method.of(row(1, **changes)).name


def test_names() -> None:
    assert name(method="ce") == "cross-entropy"
    assert name(method="ce_long") == "cross-entropy, same compute"
    assert name(method="ce_long", distortion=0, encoder_weights="imagenet") == (
        "cross-entropy, same compute, undistorted, ImageNet"
    )
    assert name(method="ce_double") == "cross-entropy, compute of two rounds"
    assert name(form="official", scope="within") == "contrastive (official, within)"
    assert name(method="pseudo") == "pseudo-labels (paper, cross)"
    assert name(method="ce", freeze=True, encoder_weights="imagenet") == "cross-entropy, ImageNet"
    assert name(freeze=True) == "contrastive (paper, cross), frozen"
    assert name(freeze_statistics=True) == "contrastive (paper, cross), frozen statistics"
    assert name(loss_size=(24, 12), form="official", freeze=True) == (
        "contrastive (official, cross), 24x12 cells, frozen"
    )
    assert name(tier="paper", loss_size=(65, 65)) == "contrastive (paper, cross)"
    assert name(tier="paper").endswith("(paper, cross), cells of the feature map")
    assert name(method="ce", loss_size=(24, 12)) == "cross-entropy"
    assert name(method="ce", finetune_distortion=0.25) == "cross-entropy, distorted"
    assert name(finetune_distortion=1.0) == "contrastive (paper, cross), stage 2 distorted"
    assert name(method="ce_long", finetune_distortion=1.0) == "cross-entropy, same compute"
    assert [fraction_name(f) for f in (1 / 32, 1 / 3, 1.0, None)] == ["1/32", "1/3", "all", ""]


def test_the_order_of_methods() -> None:
    changes: list[dict[str, Any]] = [
        {"method": "ce"},
        {"method": "ce_long"},
        {"method": "ce_long", "distortion": 0},
        {"method": "ce_double"},
        {},
        {"loss_size": (24, 24)},
        {"scope": "within"},
        {"form": "official"},
        {"method": "pseudo"},
    ]
    methods = [Method.of(row(1, **one)) for one in changes]
    assert sorted({*methods}, key=lambda method: method.order) == methods


def test_a_recipe_and_its_row_are_of_one_method() -> None:
    one = row(1, form="official", loss_size=(24, 24), seed=3, temperature=0.5)
    recipe = Recipe.from_dict(one["recipe"])
    assert (
        Method.of(recipe)
        == Method.of(one)
        == Method.of(row(1, form="official", loss_size=(24, 24)))
    )
    assert Method.of(recipe).short_name == "contrastive (official, cross)"


def test_every_kind_has_a_baseline_with_its_compute_but_the_weakest() -> None:
    def baselines(**changes: Any) -> list[str]:
        return [one.name for one in Method.of(row(1, **changes)).baselines.values()]

    same, two = "cross-entropy, same compute", "cross-entropy, compute of two rounds"
    assert baselines(method="ce") == []
    assert baselines(method="ce_long") == ["cross-entropy"]
    assert baselines(method="ce_double", distortion=0) == ["cross-entropy", two]
    assert baselines(method="ce_pretrained") == ["cross-entropy"]
    stages = "cross-entropy in both stages"
    # Stage 1 from scratch could have been a start from ImageNet.
    start = "cross-entropy, ImageNet"
    assert baselines() == ["cross-entropy", same, f"{same}, undistorted", stages, start]
    assert baselines(freeze=True)[-2:] == [f"{stages}, frozen", start]
    # The loss alone differs only if the same steps are distorted.
    assert baselines(method="ce", finetune_distortion=1.0) == ["cross-entropy"]
    assert baselines(finetune_distortion=1.0) == [
        "cross-entropy, distorted",
        same,
        f"{same}, undistorted",
        f"{stages}, stage 2 distorted",
        "cross-entropy, distorted, ImageNet",
    ]
    assert baselines(encoder_weights="imagenet")[-1] == f"{stages}, ImageNet"
    assert baselines(method="pseudo", encoder_weights="imagenet") == [
        "cross-entropy, ImageNet",
        f"{two}, ImageNet",
        f"{two}, undistorted, ImageNet",
    ]


@pytest.mark.parametrize("path", ["ledger.jsonl", "tuning/ledger.jsonl"])
def test_every_row_of_the_ledgers_keeps_the_hash_of_its_recipe(path: str) -> None:
    rows = ledger.read(REPOSITORY / "results" / path)
    assert rows
    for one in rows:
        assert Recipe.from_dict(one["recipe"]).hash == one["recipe_hash"], one["command"]


def test_groups_average_seeds_alone() -> None:
    rows = [row(20.0, seed=0), row(30.0, seed=1), row(50.0, method="ce", seed=0)]
    found = groups(rows)
    assert [(g.method.name, g.labelled, g.values) for g in found] == [
        ("cross-entropy", 18, {0: 50.0}),
        ("contrastive (paper, cross)", 18, {0: 20.0, 1: 30.0}),
    ]


def test_later_row_of_the_same_recipe_counts() -> None:
    assert groups([row(20.0), row(22.0)])[0].values == {0: 22.0}


def test_rows_without_the_measure_are_left_out() -> None:
    assert groups([row(20.0, seed=0), row(None, seed=1)])[0].values == {0: 20.0}


def test_different_recipes_are_never_averaged() -> None:
    rows = [row(20.0, seed=0), row(30.0, seed=1, temperature=0.5, loss_backend="tiled")]
    with pytest.raises(ConfigError, match=r"18 labelled images differ in temperature:"):
        groups(rows)
    # What the method does not use may differ.
    rows = [row(20.0, method="ce", seed=0), row(30.0, method="ce", seed=1, temperature=0.5)]
    assert len(groups(rows)[0].values) == 2


def test_mixed_data_sets_and_empty_choices_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"several datasets \(camvid, voc\)"):
        groups([row(1.0), row(1.0, dataset="voc")])
    with pytest.raises(ConfigError, match="no rows"):
        groups([])
    with pytest.raises(ConfigError, match="none of the 1 rows has a value for 'miou_test'"):
        groups([row(1.0)], "miou_test")


def test_select_keeps_methods_that_do_not_use_the_field() -> None:
    rows = [
        row(1.0, method="ce", temperature=0.2),
        row(2.0, temperature=0.07),
        row(3.0, temperature=0.5),
    ]
    assert [r["miou_val"] for r in select(rows, temperature=0.07)] == [1.0, 2.0]
    assert [r["miou_val"] for r in select(rows, temperature=lambda t: t > 0.1)] == [1.0, 3.0]
    assert [r["miou_val"] for r in select(rows, method="contrastive", pretrain={"lr": 0.1})] == [
        2.0,
        3.0,
    ]
    assert select(rows, crop=(96, 96)) == rows
    assert select(rows, crop=(1, 1)) == []
    with pytest.raises(ConfigError, match="has a field 'temprature'"):
        select(rows, temprature=0.07)


def test_the_device_and_arithmetic_that_ran_most() -> None:
    rows = [{"device": name, "seed": seed} for seed, name in enumerate(("old", "new", "new"))]
    assert [row["seed"] for row in one_device(rows)] == [1, 2]
    rows[1]["precision"] = rows[0]["precision"] = "fp32"
    rows.append({**rows[1], "seed": 3})
    assert [row["seed"] for row in one_device(rows)] == [1, 3]
    assert one_device([]) == []


def test_results_table() -> None:
    rows = [
        row(40.0, test=35.0, seed=0),
        row(42.0, test=37.0, seed=1),
        row(25.4, method="ce"),
        row(44.0, method="ce", fraction=1.0, labelled=367),
    ]
    assert results_table(rows).splitlines() == [
        "| labelled images | method | seeds | mIoU, val | 95 % interval | mIoU, test "
        "| 95 % interval |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
        "| 18 (1/16) | cross-entropy | 1 | 25.4 | – | – | – |",
        "| 18 (1/16) | contrastive (paper, cross) | 2 | 41.0 ± 1.4 | – | 36.0 ± 1.4 | – |",
        "| 367 (all) | cross-entropy | 1 | 44.0 | – | – | – |",
    ]
    # From three seeds on there is an interval: 4.303 (Student, two degrees of freedom) / sqrt(3).
    three = results_table([row(40.0 + seed, seed=seed) for seed in range(3)])
    assert "| 3 | 41.0 ± 1.0 | 38.5 to 43.5 |" in three
    assert "test" not in results_table([row(25.4)])
    with pytest.raises(ConfigError, match="no rows"):
        results_table([])


def test_classes_table() -> None:
    def seen(iou: list[float | None], **changes: Any) -> dict[str, Any]:
        return {**row(30.0, test=30.0, **changes), "iou": {"val": iou, "test": iou[::-1]}}

    rows = [
        seen([40.0, None, 8.2], seed=0),
        seen([42.0, None, 10.2], seed=1),
        seen([25.4, None, 0.0], method="ce", fraction=1.0, labelled=367),
    ]
    names = ("floor", "cube", "ball")
    assert classes_table(rows, names).splitlines() == [
        "| labelled images | method | seeds | floor | cube | ball |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        "| 18 (1/16) | contrastive (paper, cross) | 2 | 41 ± 1 | – | 9 ± 1 |",
        "| 367 (all) | cross-entropy | 1 | 25 | – | 0 |",
    ]
    assert "| 9 ± 1 | – | 41 ± 1 |" in classes_table(rows, names, measure="miou_test")
    with pytest.raises(ConfigError, match="IoU of 3 classes where there should be 2"):
        classes_table(rows, names[:2])


def test_gains_are_paired_by_seed() -> None:
    rows = [
        row(30.0, method="ce", seed=0),
        row(20.0, method="ce", seed=1),
        row(35.0, method="ce_long", seed=0),
        row(41.0, seed=0),
        row(33.0, seed=1),
        row(90.0, seed=2),  # no baseline of its seed
    ]
    found = {(one.baseline, one.group.method.name): one.differences for one in gains(rows)}
    name = "contrastive (paper, cross)"
    assert found == {
        ("cross-entropy", "cross-entropy, same compute"): {0: 5.0},
        ("cross-entropy", name): {0: 11.0, 1: 13.0},
        ("the same compute", name): {0: 6.0},
    }
    assert gains_table(rows).splitlines() == [
        "| labelled images | method | seeds | mIoU, val: over cross-entropy "
        "| mIoU, val: over the same compute |",
        "| --- | --- | ---: | ---: | ---: |",
        "| 18 (1/16) | cross-entropy, same compute | 1 | +5.0 | – |",
        f"| 18 (1/16) | {name} | 1-2 | +12.0 | +6.0 |",
    ]
    with pytest.raises(ConfigError, match="no run can be compared"):
        gains_table([row(40.0)])


def test_contrastive_gains_over_cross_entropy_in_both_stages_where_it_was_run() -> None:
    rows = [row(30.0, method="ce"), row(34.0, method="ce_long"), row(41.0)]
    assert "both stages" not in gains_table(rows)
    rows.append(row(36.5, method="ce_pretrained"))
    head, _, *lines = gains_table(rows).splitlines()
    assert head.endswith("over the same compute | mIoU, val: over cross-entropy in both stages |")
    assert lines[-2:] == [
        "| 18 (1/16) | cross-entropy in both stages | 1 | +6.5 | – | – |",
        "| 18 (1/16) | contrastive (paper, cross) | 1 | +11.0 | +7.0 | +4.5 |",
    ]


def test_a_mean_over_numbers_of_labelled_images_repeats_seeds_alone() -> None:
    gained = {  # seed 3 has no pair at 40
        10: {0: 1.0, 1: 2.0, 2: 0.0, 3: 9.0},
        40: {0: 3.0, 1: 6.0, 2: 6.0},
    }
    rows = [row(30.0, method="ce", labelled=n, seed=s) for n in gained for s in gained[n]]
    rows += [row(30.0 + g, labelled=n, seed=s) for n in gained for s, g in gained[n].items()]
    rows += [row(31.0, method="ce_long", labelled=10, seed=s) for s in range(4)]
    *_, mean, rise = gains_table(rows).splitlines()
    # Means of the seeds: 2, 4 and 3. Half the interval: 4.303 * 1 / sqrt(3).
    assert mean == "| mean of 10, 40 | contrastive (paper, cross) | 3 | +3.0 (+0.5 to +5.5) | – |"
    # Rises of the seeds, from 40 images to 10: -2, -4 and -6. Half: 4.303 * 2 / sqrt(3).
    assert rise == "| 10 less 40 | contrastive (paper, cross) | 3 | -4.0 (-9.0 to +1.0) | – |"
    at_one = gains_table([one for one in rows if one["labelled"] == 10])
    assert "mean of" not in at_one
    assert "less" not in at_one
    assert combined_gain(gains(rows)[1:], dict.fromkeys([10, 40, 90], 1 / 3)) is None
    assert combined_gain(gains(rows)[1:], {10: 1.0, 90: -1.0}) is None


def test_lines_over_several_numbers_keep_the_order_of_the_methods() -> None:
    rows = [
        row(30.0 + extra, method=method, labelled=n)
        for method, extra in (("contrastive", 3.0), ("ce_long", 2.0), ("ce", 0.0))
        for n in (10, 40, 90)
    ]
    found = [line.split("|")[1:3] for line in gains_table(rows).splitlines()[-4:]]
    assert [[cell.strip() for cell in line] for line in found] == [
        ["mean of 10, 40, 90", "cross-entropy, same compute"],
        ["mean of 10, 40, 90", "contrastive (paper, cross)"],
        ["10 less 90", "cross-entropy, same compute"],
        ["10 less 90", "contrastive (paper, cross)"],
    ]


def test_what_arithmetic_was_asked_for_makes_no_other_method() -> None:
    rows = [row(30.0, seed=0), row(32.0, seed=1, precision="fp32")]
    (group,) = groups(rows)
    assert group.values == {0: 30.0, 1: 32.0}


def test_costs_stand_beside_a_baseline() -> None:
    rows = [row(30.0, method="ce", labelled=11), row(31.0, labelled=11), row(32.0, labelled=46)]
    assert {one["labelled"] for one in beside_baselines(rows)} == {11}
    assert beside_baselines(rows[2:]) == rows[2:]


def test_runs_of_different_arithmetic_are_not_paired() -> None:
    ce = [
        {**row(30.0, method="ce", seed=s), "precision": p} for s, p in enumerate(("fp32", "bf16"))
    ]
    ours = [{**row(34.0, seed=s), "precision": "fp32"} for s in range(2)]
    (gain,) = gains([*ce, *ours])
    assert gain.differences == {0: 4.0}
    with pytest.raises(ConfigError, match="the same precision"):
        gains([ce[1], *ours])


def test_a_gain_tells_how_many_seeds_its_baselines_share() -> None:
    rows = [row(30.0 + s, method="contrastive", seed=s) for s in range(3)]
    rows += [row(29.0, method="ce", seed=s) for s in range(3)]
    rows += [row(31.0, method="ce_long", seed=s) for s in range(2)]
    line = next(text for text in gains_table(rows).splitlines() if "| contrastive" in text)
    assert line.split("|")[3].strip() == "2-3"


def test_one_run_of_each_method_is_of_a_seed_they_share() -> None:
    rows = [row(30.0, method="ce", seed=0), row(31.0, method="ce", seed=1)]
    rows += [row(32.0, method="contrastive", seed=1), row(33.0, method="ce_long", seed=2)]
    chosen = [(one["method"], one["seed"]) for one in one_of_each_method(rows)]
    assert chosen == [("ce", 1), ("ce_long", 2), ("contrastive", 1)]


def test_the_comparison_stands_where_most_methods_do() -> None:
    rows = [row(30.0, method="ce", labelled=n) for n in (11, 46, 92)]
    rows += [row(32.0, method="contrastive", labelled=n) for n in (46, 92)]
    assert {one["labelled"] for one in most_compared(rows)} == {46}
    assert most_compared([]) == []


def test_a_method_with_more_image_passes_gains_nothing_over_the_same_compute() -> None:
    rows = [
        row(30.0, method="ce"),
        row(40.0, method="ce_long"),
        row(42.0),
        row(50.0, method="pseudo"),  # stages 1 and 2 twice
    ]
    found = {(gain.baseline, gain.group.method.name): gain.differences for gain in gains(rows)}
    assert found["the same compute", "contrastive (paper, cross)"] == {0: 2.0}
    assert found["cross-entropy", "pseudo-labels (paper, cross)"] == {0: 20.0}
    assert ("the same compute", "pseudo-labels (paper, cross)") not in found


def test_the_same_compute_as_pseudo_labels_is_that_of_two_rounds() -> None:
    rows = [
        row(30.0, method="ce"),
        row(40.0, method="ce_long"),
        row(42.0, method="ce_long", distortion=0),
        row(45.0, method="ce_double"),
        row(46.0, method="ce_double", distortion=0),
        row(41.0),
        row(50.0, method="pseudo"),
    ]
    found = {(gain.baseline, gain.group.method.name): gain.differences[0] for gain in gains(rows)}
    same, plain = "cross-entropy, same compute", "cross-entropy, same compute, undistorted"
    contrastive, pseudo = "contrastive (paper, cross)", "pseudo-labels (paper, cross)"
    over_same, over_plain = "the same compute", "the same compute, undistorted"
    double = "cross-entropy, compute of two rounds"
    assert found == {
        **{
            ("cross-entropy", name): gain
            for name, gain in (
                (same, 10.0),
                (plain, 12.0),
                (double, 15.0),
                (double + ", undistorted", 16.0),
                (contrastive, 11.0),
                (pseudo, 20.0),
            )
        },
        (over_same, plain): 2.0,
        (over_same, contrastive): 1.0,
        (over_plain, contrastive): -1.0,
        (over_same, double + ", undistorted"): 1.0,
        (over_same, pseudo): 5.0,
        (over_plain, pseudo): 4.0,
    }


def test_the_brief_table_by_hand() -> None:
    official = {"method": "contrastive", "form": "official", "scope": "cross"}
    rows = []
    for seed, (ce, long, ours) in enumerate(((10, 14, 12), (20, 22, 23), (30, 36, 34))):
        rows += [
            row(0.0, test=ce, method="ce", seed=seed),
            row(0.0, test=long, method="ce_long", seed=seed),
            row(0.0, test=ours, seed=seed, **official),
            # Another form is no part of it.
            row(0.0, test=99.0, seed=seed, method="contrastive", form="paper", scope="cross"),
        ]
    lines = brief_table(rows, measure="miou_test").splitlines()
    assert len(lines) == 3
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[:5] == ["18 (1/16)", "3", "20.0", "23.0", "24.0"]
    # Differences 2, 3, 4 and -2, 1, -2; t(0.975, 2) is 4.30265.
    assert cells[5] == "+3.0 (+0.5 to +5.5)"
    assert cells[6] == "-1.0 (-5.3 to +3.3)"


def test_without_a_seed_in_all_methods_the_one_of_most_decides() -> None:
    """As where two machines ran other methods with other seeds."""
    seeds = {"ce": range(6), "contrastive": range(3), "ce_pretrained": range(3)}
    seeds |= {"ce_long": range(3, 6)}
    rows = [
        {**row(30.0 + 10 * seed, seed=seed, method=method), "iou": {"val": [50.0]}}
        for method, held in seeds.items()
        for seed in held
    ]
    found = {(one["method"], one["seed"]) for one in same_seeds(rows)}
    assert found == {
        (method, seed)
        for method, held in seeds.items()
        for seed in (held if method == "ce_long" else range(3))
    }
    for text in (results_table(rows), classes_table(rows, ["x"])):
        lines = [line.split(" | ")[1:3] for line in text.splitlines()[2:]]
        assert {held: name for name, held in lines}["3 (others)"] == "cross-entropy, same compute"
        assert [held for _, held in lines].count("3") == 3


def test_a_line_of_the_brief_table_is_about_the_same_seeds() -> None:
    official = {"method": "contrastive", "form": "official", "scope": "cross"}
    rows = [row(0.0, test=10.0 + seed, method="ce", seed=seed) for seed in range(4)]
    rows += [row(0.0, test=20.0 + seed, method="ce_long", seed=seed) for seed in (0, 1, 3)]
    rows += [row(0.0, test=30.0, seed=seed, **official) for seed in (1, 2, 3)]
    # Seeds 1 and 3 have all three; 0 and 2 would move the means apart from the gains.
    line = brief_table(rows, measure="miou_test").splitlines()[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:5] == ["2", "12.0", "30.0", "22.0"]
    assert cells[5:] == ["+18.0", "+8.0"]
    # No seed has all three: the comparison with the same fine-tuning is shown.
    apart = [one for one in rows if one["method"] != "ce_long" or one["seed"] == 0]
    line = brief_table(apart, measure="miou_test").splitlines()[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:] == ["3", "12.0", "30.0", "–", "+18.0 (+15.5 to +20.5)", "–"]


def test_the_brief_table_leaves_out_what_was_not_run() -> None:
    official = {"method": "contrastive", "form": "official", "scope": "cross"}
    rows = [row(0.0, test=10.0, method="ce"), row(0.0, test=12.0, **official)]
    assert brief_table(rows, measure="miou_test").splitlines()[2].split("|")[4:8] == [
        " 12.0 ",
        " – ",
        " +2.0 ",
        " – ",
    ]
