from __future__ import annotations

from typing import Any

import pytest

from segnb.axes import changed
from segnb.errors import ConfigError
from segnb.recipe import Recipe, Stage, preset
from segnb.results.overview import comparable, main_methods, not_compared, tables
from segnb.results.table import gains


def row(recipe: Recipe, miou: float = 30.0, precision: str = "fp32") -> dict[str, Any]:
    names = ("dataset", "tier", "method", "form", "scope", "fraction", "seed", "temperature")
    return {
        **{name: getattr(recipe, name) for name in names},
        "labelled": round(recipe.fraction * 367),
        "miou_val": miou,
        "miou_test": None,
        "precision": precision,
        "recipe": recipe.to_dict(),
        "recipe_hash": recipe.hash,
    }


BASE = preset("camvid", "quick")


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "ce"},
        {"seed": 7, "fraction": 0.5},
        {"form": "official"},
        {"scope": "within"},
        {"loss_size": (24, 24)},
        {"method": "ce", "temperature": 0.5},  # cross-entropy has no temperature
        {"method": "ce_double"},
        {"method": "ce_double", "distortion": 0},
        {"method": "ce_long", "distortion": 0},  # the fairer baseline where distortion hurts
    ],
)
def test_other_methods_seeds_and_fractions_are_comparable(changes: dict[str, Any]) -> None:
    rows = [row(BASE.replace(**changes))]
    assert comparable(rows) == rows


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.5},
        {"crop": (64, 64)},
        {"distortion": 0},  # of the second view
        {"method": "ce_long", "distortion": 0.5},
        {"method": "ce_double", "distortion": 0.5},
    ],
)
def test_other_recipes_are_not(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no runs"):
        comparable([row(BASE.replace(**changes))])


def test_a_stage_2_distorted_like_stage_1_is_comparable() -> None:
    for changes in ({}, {"method": "ce"}):
        base = BASE.replace(**changes)
        rows = [row(base.replace(finetune_distortion=base.distortion)), row(base)]
        assert comparable(rows) == rows
        with pytest.raises(ConfigError, match="no runs"):
            comparable([row(base.replace(finetune_distortion=base.distortion / 2))])


def test_a_study_may_vary_one_field_more() -> None:
    rows = [row(BASE.replace(temperature=0.5)), row(BASE.replace(crop=(64, 64)))]
    assert comparable(rows, varied={"temperature": None}) == rows[:1]
    assert comparable(rows, varied={"temperature": (0.2, 0.5)}) == rows[:1]
    with pytest.raises(ConfigError, match="no runs"):
        comparable(rows, varied={"temperature": (0.2,)})


def test_the_page_says_which_means_do_not_compare() -> None:
    alike = [
        row(BASE.replace(method=method, seed=seed), 30.0 + 10 * seed)
        for method in ("ce", "contrastive", "ce_pretrained")
        for seed in range(6 if method == "ce" else 3)
    ]
    others = [row(BASE.replace(method="ce_long", seed=s), 31.0 + 10 * s) for s in range(3, 6)]
    said = tables([*alike, *others])
    assert "| cross-entropy, same compute | 3 (others) | 71.0" in said
    assert "its gains can be compared, its means can't" in said
    assert "| cross-entropy, same compute | 3 | +1.0" in said.partition("Gains, paired")[2]
    assert "(others)" not in tables(alike)


def test_values_that_a_method_does_not_use_keep_no_row_out() -> None:
    asked: dict[str, Any] = {"encoder": ("tu-resnet34",), "pretrain.lr": (0.03,)}
    lite = BASE.replace(encoder="tu-resnet34")
    slow = changed(lite, {"pretrain.lr": 0.03})
    rows = [row(BASE), row(lite), row(slow), row(lite.replace(method="ce"))]
    assert comparable(rows, varied=asked) == rows[2:]
    text = tables(rows, dataset=BASE.dataset, varied=asked)
    assert "encoder tu-resnet34, pretrain.lr 0.03" in text
    left_out = not_compared(rows, dataset=BASE.dataset, varied=asked)
    assert left_out == "2 of camvid at quick with other values than asked for pretrain.lr, encoder"


def test_the_same_compute_is_comparable_however_it_is_shared_out() -> None:
    total = BASE.replace(method="ce_long").cross_entropy_stage().steps
    shared = {"steps": 100, "batch": 8, "lr": 0.1}
    other = BASE.replace(
        pretrain=Stage(**shared),
        finetune=Stage(steps=total - 200, batch=8, lr=0.05, schedule="poly"),
    )
    long = row(other.replace(method="ce_long"))
    assert comparable([long, row(other), row(other.replace(method="ce"))]) == [long]


def test_a_run_repeated_in_another_arithmetic_counts_once_and_in_that_of_the_others() -> None:
    asked = BASE.replace(precision="fp32")
    rows = [row(BASE, precision="bf16"), row(asked), row(BASE.replace(method="ce"))]
    assert comparable(rows) == rows[1:]
    rows.append(row(BASE.replace(method="ce_long"), precision="bf16"))
    rows.append(row(BASE.replace(seed=1), precision="bf16"))
    assert comparable(rows) == [rows[0], *rows[2:]]
    # Another data set has another machine, maybe.
    far = [row(preset("voc", "quick").replace(seed=seed)) for seed in range(5)]
    assert comparable([*rows, *far], dataset="camvid") == comparable(rows)
    assert comparable([*rows, *far])[-5:] == far
    assert rows[0] in comparable([*rows, *far])


def test_of_a_repeated_run_the_one_in_the_arithmetic_of_its_controls_counts() -> None:
    """Also where most runs, of other seeds or of the method itself, are in the other."""
    methods = ("ce", "contrastive", "ce_long")
    others = [
        row(BASE.replace(method=method, seed=seed), precision="bf16")
        for method in methods
        for seed in (1, 2)
    ]
    others += [
        row(BASE.replace(scope=scope), precision="bf16") for scope in ("within", "batch", "cross")
    ]
    twin = row(BASE.replace(method="ce"), precision="bf16")
    asked = BASE.replace(precision="fp32")
    own = [row(asked.replace(method=method)) for method in methods]
    found = comparable([*own, *others, twin])
    assert all(one in found for one in own)
    assert twin not in found
    paired = [gain for gain in gains(found) if gain.group.method.kind == "ce_long"]
    assert [sorted(gain.differences) for gain in paired] == [[0, 1, 2]]


def test_tables_show_gains_where_there_is_a_baseline() -> None:
    rows = [row(BASE.replace(method="ce"), 25.0), row(BASE, 29.0)]
    assert "| +4.0 | – |" in tables(rows)
    assert "Gains" not in tables(rows[1:])


def test_seeds_that_not_all_methods_have_are_told() -> None:
    rows = [row(BASE.replace(method="ce", seed=seed)) for seed in range(5)]
    rows += [row(BASE.replace(seed=seed), 33.0) for seed in range(1, 4)]
    assert "share; 2 runs with other seeds count in the gains alone." in tables(rows)
    assert "share; 1 run with other seeds counts in the gains alone." in tables(rows[1:])
    assert "other seeds" not in tables(rows[1:4] + rows[5:])


def test_tables_of_classes_are_of_the_last_split_that_has_values() -> None:
    camvid = row(BASE) | {"miou_test": 20.0, "iou": {"val": [50.0] * 11, "test": [40.0] * 11}}
    voc = row(preset("voc-animals", "quick")) | {"iou": {"val": [60.0] * 8}}
    text, of_voc = tables([camvid, voc], show="classes").split("**voc-animals**")
    assert text.startswith("**camvid**, quick tier, IoU on test, %")
    assert "| sky | building |" in text
    assert "| 40 | 40 |" in text
    # The labels of its test split are not public.
    assert of_voc.startswith(", quick tier, IoU on val, %")
    assert "| 60 | 60 |" in of_voc
    assert "| 50 | 50 |" in tables([camvid, voc], show="classes", measures=["miou_val"])
    with pytest.raises(ConfigError, match="none of these runs has miou_test"):
        tables([voc], show="classes", measures=["miou_test"])


def test_the_main_methods_are_three_and_the_loss_is_the_one_most_runs_have() -> None:
    official = BASE.replace(form="official")
    kept = [
        row(BASE.replace(method="ce")),
        row(BASE.replace(method="ce_long")),
        row(official),
        row(official.replace(seed=1)),
    ]
    variants = [
        row(BASE),
        row(official.replace(loss_size=(24, 24))),
        row(official.replace(loss_size=(24, 24), seed=1)),
        row(official.replace(loss_size=(24, 24), seed=2)),
        row(BASE.replace(method="ce_long", distortion=0)),
        row(BASE.replace(method="ce_double")),
        row(BASE.replace(method="pseudo")),
    ]
    assert main_methods([*variants, *kept]) == kept
    assert main_methods(kept[:1]) == kept[:1]


def test_runs_with_flags_of_their_own_are_told_with_the_flags() -> None:
    own = [
        row(BASE.replace(crop=(64, 64), finetune=Stage(steps=7, batch=4))),
        row(BASE.replace(crop=(64, 64), method="ce", temperature=0.5)),
        row(preset("shapes", "smoke")),
    ]
    words = not_compared(own)
    assert words.startswith("2 of camvid at quick with other values than its preset for crop, ")
    assert "finetune.steps" in words
    assert "temperature" not in words, "cross-entropy has none"
    assert not_compared(own, dataset="shapes") == ""
    with pytest.raises(ConfigError, match=r"no runs for this: 2 of camvid .* for crop"):
        comparable(own, dataset="camvid")
    with pytest.raises(ConfigError, match="its 3 are of camvid at quick, shapes at smoke"):
        comparable(own, dataset="voc")
    with pytest.raises(ConfigError, match="the ledger holds no runs;"):
        comparable([])
