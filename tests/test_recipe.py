"""Recipes: what is in the hash, what survives JSON and the command line, what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from own_folder import make_folder

from segnb import datasets
from segnb.cli import Run, _parse
from segnb.errors import DataError
from segnb.methods import KINDS, MethodName
from segnb.recipe import (
    DEEPLAB_RATES,
    VIEWS_PER_STEP,
    Form,
    Precision,
    Recipe,
    Schedule,
    Scope,
    Stage,
    Tier,
    fitting_rates,
    preset,
)
from segnb.results import ledger
from tools import commands

SIDES = st.tuples(st.integers(16, 600), st.integers(16, 600))
PLAIN = {"allow_nan": False, "allow_infinity": False}

stages = st.builds(
    Stage,
    steps=st.just(0) | st.integers(1000, 10**5),  # room for any warm-up, or no stage at all
    batch=st.integers(1, 64),
    lr=st.floats(1e-6, 10, **PLAIN),
    momentum=st.floats(0, 0.99, **PLAIN),
    weight_decay=st.floats(0, 0.1, **PLAIN),
    schedule=st.sampled_from(get_args(Schedule)),
    warmup=st.integers(0, 1000),
)

recipes = st.builds(
    Recipe,
    dataset=st.sampled_from(datasets.names()),
    tier=st.sampled_from(get_args(Tier)),
    method=st.sampled_from([*KINDS]),
    seed=st.integers(0, 10**6),
    fraction=st.floats(1e-4, 1, **PLAIN),
    split_list=st.none() | st.sampled_from(["labeled.txt", "a folder/1_8 labelled.txt"]),
    size=SIDES,
    crop=SIDES,
    scale=st.tuples(st.floats(0.1, 1, **PLAIN), st.floats(1, 4, **PLAIN)),
    flip=st.booleans(),
    distortion=st.floats(0, 2, **PLAIN),
    finetune_distortion=st.floats(0, 2, **PLAIN),
    architecture=st.sampled_from(["DeepLabV3", "Unet"]),
    encoder=st.sampled_from(["resnet50", "tu-resnet18"]),
    encoder_depth=st.integers(3, 5),
    encoder_weights=st.sampled_from([None, "imagenet"]),
    output_stride=st.sampled_from([8, 16]),
    decoder_channels=st.integers(1, 512),
    atrous_rates=st.tuples(*[st.integers(1, 36)] * 3),
    form=st.just("paper"),
    scope=st.sampled_from(get_args(Scope)),
    temperature=st.floats(0.01, 2, **PLAIN),
    loss_size=st.none() | st.tuples(st.integers(1, 99), st.integers(1, 99)),
    freeze=st.booleans(),
    pseudo_threshold=st.floats(0, 0.99, **PLAIN),
    pretrain=stages,
    finetune=stages,
    precision=st.sampled_from(get_args(Precision)),
) | st.builds(
    Recipe,
    form=st.just("official"),
    scope=st.sampled_from(["within", "cross"]),
    freeze_statistics=st.booleans(),
)

#: Baselines of cross-entropy and the method whose compute each gets.
MATCHED = {name: kind.compute_of for name, kind in KINDS.items() if kind.compute_of}

EVERY_PRESET = list(itertools.product(datasets.names(), get_args(Tier)))


@given(recipes)
def test_json_gives_the_same_recipe_back(recipe: Recipe) -> None:
    back = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert back == recipe
    assert back.hash == recipe.hash


@given(recipe=recipes)
@settings(max_examples=25)  # the command line's parser is slow
def test_the_command_gives_the_same_recipe_back(recipe: Recipe) -> None:
    words = shlex.split(recipe.command())
    assert words[:2] == ["segnb", "run"]
    assert _parse(Run, "run", words[2:]).recipe == recipe


def test_the_command_of_a_preset_names_nothing_else() -> None:
    assert preset("voc", "paper").command() == "segnb run --dataset voc --tier paper"


def test_the_command_tells_inner_fields_and_switches() -> None:
    recipe = preset("shapes", "quick").replace(flip=False, pretrain=Stage(steps=70, warmup=50))
    assert "--no-flip" in recipe.command()
    assert "--pretrain.steps 70" in recipe.command()
    assert "--pretrain.warmup" not in recipe.command()  # as in the preset


STAGE_ONE = {
    "form": "paper",
    "scope": "within",
    "temperature": 0.5,
    "loss_size": (9, 9),
    "freeze": True,
    "freeze_statistics": True,
}


@pytest.mark.parametrize(("name", "value"), STAGE_ONE.items())
@pytest.mark.parametrize("method", ["ce", *MATCHED])
def test_fields_of_stage_one_do_not_count_for_cross_entropy(
    method: MethodName, name: str, value: Any
) -> None:
    recipe = preset("shapes").replace(method=method)
    assert recipe.replace(**{name: value}).hash == recipe.hash
    contrastive = preset("shapes")
    assert contrastive.replace(**{name: value}).hash != contrastive.hash


def test_stage_one_counts_for_long_cross_entropy_by_its_compute_alone() -> None:
    base = preset("shapes")
    changed = {
        "other steps": base.replace(pretrain=dataclasses.replace(base.pretrain, steps=90)),
        "other rate": base.replace(pretrain=dataclasses.replace(base.pretrain, lr=9.0)),
        "other distortion": base.replace(distortion=0.3),
    }

    def same(name: str, method: MethodName) -> bool:
        one, other = base.replace(method=method), changed[name].replace(method=method)
        return one.hash == other.hash

    assert [same(name, "ce") for name in changed] == [True, True, True]
    for method in MATCHED:
        assert [same(name, method) for name in changed] == [False, True, False]
    assert [same(name, "contrastive") for name in changed] == [False, False, False]


def test_the_hash_has_no_say_about_the_loss_back_end() -> None:
    assert preset("shapes").replace(loss_backend="plain").hash == preset("shapes").hash


def test_a_threshold_counts_for_pseudo_labels_alone() -> None:
    for method in KINDS:
        recipe = preset("shapes").replace(method=method)
        differs = recipe.replace(pseudo_threshold=0.5).hash != recipe.hash
        assert differs == (method == "pseudo")


def test_a_split_list_takes_the_place_of_the_fraction() -> None:
    recipe = preset("voc").replace(split_list="labeled.txt")
    assert recipe.replace(fraction=0.5).hash == recipe.hash
    assert recipe.replace(split_list="other.txt").hash != recipe.hash


def test_methods_and_seeds_have_hashes_of_their_own() -> None:
    hashes = {
        preset("shapes").replace(method=method, seed=seed).hash
        for method in KINDS
        for seed in range(3)
    }
    assert len(hashes) == 3 * len(KINDS)


def test_whole_numbers_and_floats_are_one_recipe() -> None:
    whole = Recipe(
        fraction=1, distortion=1, scale=(1, 2), temperature=1, pretrain=Stage(steps=1, lr=1)
    )
    real = Recipe(
        fraction=1.0,
        distortion=1.0,
        scale=(1.0, 2.0),
        temperature=1.0,
        pretrain=Stage(steps=1, lr=1.0),
    )
    assert whole.hash == real.hash
    assert whole.to_dict() == real.to_dict()


@given(recipes)
@example(  # its warm-up is longer than the steps that the compute of stage 1 amounts to
    preset("shapes").replace(pretrain=Stage(steps=4), finetune=Stage(steps=0, warmup=60))
)
def test_long_cross_entropy_has_the_passes_of_both_stages(recipe: Recipe) -> None:
    passes = {method: recipe.replace(method=method).image_passes() for method in KINDS}
    stages = VIEWS_PER_STEP * recipe.pretrain.steps * recipe.pretrain.batch
    assert passes["contrastive"] == passes["ce"] + stages
    assert passes["pseudo"] == 2 * passes["contrastive"]
    # Never less than the method it is compared with, and at most one batch more.
    for method, matched in MATCHED.items():
        assert 0 <= passes[method] - passes[matched] < recipe.finetune.batch


@given(recipes, st.integers(min_value=1, max_value=100))
def test_a_shorter_recipe_differs_in_steps_alone(recipe: Recipe, factor: int) -> None:
    short = recipe.shorter(factor)
    for name in ("pretrain", "finetune"):
        long, stage = getattr(recipe, name), getattr(short, name)
        assert min(4, long.steps) <= stage.steps <= long.steps
        assert stage.steps * factor <= max(long.steps, 4 * factor)
        assert stage == dataclasses.replace(long, steps=stage.steps, warmup=stage.warmup)
    assert short.replace(pretrain=recipe.pretrain, finetune=recipe.finetune) == recipe
    assert recipe.shorter(1) == recipe


@pytest.mark.parametrize(("dataset", "tier"), EVERY_PRESET)
def test_presets_compare_at_exactly_the_same_compute(dataset: str, tier: Tier) -> None:
    recipe = preset(dataset, tier)
    for method, matched in MATCHED.items():
        long = recipe.replace(method=method)
        assert long.image_passes() == recipe.replace(method=matched).image_passes()
        assert long.cross_entropy_distortion() == recipe.distortion
    assert recipe.changes() == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tier", "huge"),
        ("method", "magic"),
        ("form", "other"),
        ("scope", "world"),
        ("precision", "int8"),
        ("encoder_weights", "coco"),
        ("loss_backend", "fast"),
        ("fraction", 0.0),
        ("fraction", 1.5),
        ("fraction", "half"),
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("distortion", -0.1),
        ("distortion", float("inf")),
        ("finetune_distortion", -0.1),
        ("output_stride", 4),
        ("encoder_depth", 6),
        ("decoder_channels", 0),
        ("atrous_rates", (0, 1, 2)),
        ("atrous_rates", (1, 2)),
        ("scale", (2.0, 0.5)),
        ("scale", (0.0, 1.0)),
        ("scale", (1.0,)),
        ("size", (8, 64)),
        ("size", (64, 64, 3)),
        ("crop", (8, 64)),
        ("loss_size", (0, 5)),
        ("pseudo_threshold", 1.0),
    ],
)
def test_a_bad_value_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"recipe: {name} is {re.escape(repr(value))}"):
        Recipe(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -1),
        ("batch", 0),
        ("lr", 0.0),
        ("lr", float("inf")),
        ("lr", float("nan")),
        ("lr", None),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("schedule", "linear"),
        ("warmup", -1),
        ("warmup", 2),  # longer than the stage: its learning rate would never be reached
    ],
)
def test_a_bad_value_of_a_stage_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"recipe: {name} is {value!r}"):
        Stage(**{"steps": 1, name: value})


def test_a_frozen_network_has_no_say_over_its_statistics() -> None:
    with pytest.raises(ValueError, match="freeze_statistics is True; it must be False where"):
        Recipe(freeze=True, freeze_statistics=True)


def test_the_official_form_has_no_batch_loss() -> None:
    with pytest.raises(ValueError, match="scope is 'batch'"):
        Recipe(form="official", scope="batch")
    assert Recipe(form="official", scope="within").form in get_args(Form)


def test_a_data_set_has_a_name_or_describes_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "leaves"
    folder.mkdir()
    known = ", ".join(datasets.names())
    for name in ("mnist", str(folder), ""):
        with pytest.raises(DataError) as error:
            Recipe(dataset=name)
        assert str(error.value).startswith(f"there is no data set {name!r}; there are {known}")
        assert str(error.value).endswith("dataset.toml, which `segnb describe FOLDER` writes")
        assert "\n" not in str(error.value)

    make_folder(folder)
    recipe = preset(str(folder), "quick")
    assert recipe.size == (128, 128)
    assert (recipe.dataset, recipe.dataset_title) == (f"leaves@{folder}", "leaves")
    monkeypatch.chdir(tmp_path)
    assert preset("leaves", "quick") == recipe
    assert preset("leaves", "quick").hash == recipe.hash
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert recipe.hash != preset("voc").hash
    words = shlex.split(recipe.replace(seed=3).command())
    assert _parse(Run, "run", words[2:]).recipe == recipe.replace(seed=3)

    # A folder that was moved is the same data set, and one that is gone leaves its results.
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    assert preset("elsewhere", "quick").hash == recipe.hash
    gone = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert (gone.hash, gone.changes()) == (recipe.hash, {})
    for read in (datasets.info, lambda name: datasets.load(name, "train")):
        with pytest.raises(DataError, match="new place with --dataset"):
            read(gone.dataset)
    monkeypatch.setenv("SEGNB_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    moved.rename(tmp_path / "data" / "leaves")
    assert datasets.info(gone.dataset).num_classes == 2
    assert preset("leaves", "quick").hash == recipe.hash


@pytest.mark.parametrize("path", commands.LEDGERS, ids=lambda path: path.parent.name)
def test_every_row_of_the_ledgers_keeps_its_hash(path: Path) -> None:
    rows = ledger.read(path)
    assert rows
    for row in rows:
        assert Recipe.from_dict(row["recipe"]).hash == row["recipe_hash"]


@pytest.mark.parametrize(("dataset", "tier"), EVERY_PRESET)
def test_a_data_set_may_change_any_field_of_its_presets(
    dataset: str, tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, entry = preset(dataset, tier), datasets.get(dataset)
    own = {**entry.presets[tier], "output_stride": 16}
    own["finetune"] = {**own.get("finetune", {}), "steps": 70}
    changed = dataclasses.replace(entry, presets={tier: own})
    monkeypatch.setitem(datasets._ENTRIES, dataset, changed)
    assert preset(dataset, tier) == usual.replace(
        output_stride=16,
        atrous_rates=fitting_rates(usual.crop, 16),
        finetune=dataclasses.replace(usual.finetune, steps=70),
    )


def test_unknown_fields_are_named() -> None:
    values = preset("shapes").to_dict()
    with pytest.raises(ValueError, match="no field 'colour'"):
        Recipe.from_dict({**values, "colour": 1})
    with pytest.raises(ValueError, match="no field 'epochs'"):
        Recipe.from_dict({**values, "pretrain": {"steps": 3, "epochs": 1}})


def test_a_preset_is_named_where_there_is_none() -> None:
    with pytest.raises(DataError, match="no data set 'mnist'"):
        preset("mnist")
    with pytest.raises(ValueError, match="tier is 'tiny'"):
        preset("shapes", "tiny")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"), [("atrous_rates", (2, 4, 6)), ("freeze_statistics", True)]
)
def test_rows_from_before_a_choice_keep_their_hash(name: str, value: Any) -> None:
    recipe = Recipe()
    old = {k: v for k, v in recipe.to_dict().items() if k != name}
    assert Recipe.from_dict(old).hash == recipe.hash == "a150068b39"
    assert recipe.replace(**{name: value}).hash != recipe.hash


@pytest.mark.parametrize(
    ("crop", "output_stride", "rates"),
    [
        ((513, 513), 8, DEEPLAB_RATES),  # where they were made
        ((769, 769), 8, DEEPLAB_RATES),  # a larger map keeps them
        ((512, 512), 16, (6, 12, 18)),  # DeepLab's own at output stride 16
        ((96, 128), 8, (2, 4, 7)),  # the shorter side decides
        ((16, 16), 16, (1, 1, 1)),
    ],
)
def test_dilations_shrink_with_the_map(
    crop: tuple[int, int], output_stride: int, rates: tuple[int, int, int]
) -> None:
    assert fitting_rates(crop, output_stride) == rates


def test_presets_take_dilations_that_fit_their_map() -> None:
    recipe = preset("camvid", "quick")
    assert recipe.atrous_rates == (2, 4, 7)
    assert max(recipe.atrous_rates) < recipe.crop[0] // recipe.output_stride
