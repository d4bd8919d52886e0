"""Sweeps: each recipe once, the others in spite of one that fails."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import ledger_row, tiny_recipe

from segnb.axes import axis
from segnb.errors import ConfigError, DataError
from segnb.experiments import cost, sweep
from segnb.experiments.cost import estimate_cost, readable_seconds
from segnb.experiments.runs import BusyError
from segnb.methods import KINDS
from segnb.models import SegmentationNetwork
from segnb.recipe import Recipe, Stage
from segnb.results import ledger
from segnb.training import TrainingStopped, stages

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread", "places")


def test_a_grid_has_no_recipe_twice() -> None:
    found = sweep.grid(Recipe(), method=["ce", "contrastive"], temperature=[0.07, 0.2], seed=[0, 1])
    assert len(found) == 6
    assert len({recipe.hash for recipe in found}) == 6
    # Whole comparisons first: all of seed 0, then all of seed 1.
    assert [recipe.seed for recipe in found] == [0, 0, 0, 1, 1, 1]


def test_a_grid_of_nothing_is_the_recipe_itself() -> None:
    assert sweep.grid(Recipe()) == [Recipe()]


def test_a_grid_over_fields_of_a_stage_changes_them_together() -> None:
    base = Recipe(pretrain=Stage(steps=100, warmup=50))
    found = sweep.grid(base, **{"pretrain.steps": [10], "pretrain.warmup": [5]})
    assert [recipe.pretrain for recipe in found] == [Stage(steps=10, warmup=5)]


def test_a_stage_1_without_steps_is_cross_entropy_in_a_grid() -> None:
    methods = ["ce", "contrastive", "ce_pretrained"]
    found = sweep.grid(Recipe(), **{"method": methods, "pretrain.steps": [0, 10]})
    assert [recipe.method for recipe in found] == ["ce", "contrastive", "ce_pretrained"]
    # A classifier on an untrained network is something else.
    (frozen,) = sweep.grid(Recipe(freeze=True), **{"pretrain.steps": [0]})
    assert frozen.method == "contrastive"


def test_recipes_that_share_a_stage_1_come_one_after_another() -> None:
    axes: dict[str, Any] = {"temperature": [0.1, 0.2], "method": ["ce", "contrastive"]}
    recipes = sweep.grid(Recipe(), **{"finetune.steps": [25, 50], **axes})
    ordered = sweep.in_order(recipes)
    assert sorted(r.hash for r in ordered) == sorted(r.hash for r in recipes)
    said = [(r.method, r.temperature) for r in ordered if r.uses_contrastive]
    assert said == [("contrastive", t) for t in (0.1, 0.1, 0.2, 0.2)]
    shared = Recipe().stage1_passes()
    alone = sum(recipe.image_passes() for recipe in recipes)
    assert sweep.passes_to_train(recipes) == alone - 2 * shared
    held = {Recipe(temperature=0.2).stage1().hash}
    assert sweep.passes_to_train(recipes, held) == alone - 3 * shared


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("finetune.steps 25 50", [25, 50]),
        ("fraction 1/8 0.5", [0.125, 0.5]),
        ("pretrain.schedule poly cosine", ["poly", "cosine"]),
        ("flip true False", [True, False]),
        ("crop 96,128 64,64", [(96, 128), (64, 64)]),
        ("atrous_rates 1,2,3", [(1, 2, 3)]),
        ("loss_size none 24,24", [None, (24, 24)]),
        ("encoder_weights none imagenet", [None, "imagenet"]),
        ("split_list none a.txt", [None, "a.txt"]),
        ("output_stride 8 16", [8, 16]),
        ("encoder resnet50", ["resnet50"]),
    ],
)
def test_an_axis_has_the_type_of_its_field(words: str, values: list[Any]) -> None:
    name, found = axis(words.split())
    assert (name, found) == (words.split()[0], values)
    assert [type(value) for value in found] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("lr 1", "no field 'lr'"),
        ("finetune.lr fast", "'fast' is not a number or a fraction such as 1/8"),
        ("fraction 1/0", "'1/0' is not a number"),
        ("method magic", "'magic' is not one of ce, ce_long"),
        ("flip yes", "'yes' is not one of true, false"),
        ("crop 96", "'96' is not 2 numbers with commas, such as 1,1"),
        ("loss_size 9,x", "'9,x' is not 2 numbers with commas, such as 1,1, or none"),
        ("output_stride 4", "'4' is not one of 8, 16"),
    ],
)
def test_a_value_that_a_field_does_not_take_is_named(words: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        axis(words.split())
    assert "--vary" in str(caught.value)


def test_a_grid_refuses_a_field_that_is_none() -> None:
    with pytest.raises(TypeError, match="colour"):
        sweep.grid(Recipe(), colour=[1])


class Runner:
    """Stands in for the training: fails for some seeds, writes rows for the others."""

    def __init__(self, errors: dict[int, Exception]) -> None:
        self.errors = errors
        self.seeds: list[int] = []

    def __call__(self, recipe: Recipe, *, results: Path, **_: Any) -> ledger.Row:
        self.seeds.append(recipe.seed)
        if recipe.seed in self.errors:
            raise self.errors[recipe.seed]
        row = ledger_row(recipe, seconds=60.0)
        ledger.add(ledger.ledger_path(results), row)
        return row


def test_a_sweep_skips_what_is_held_and_goes_on_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = sweep.grid(Recipe(), seed=range(4))
    ledger.add(ledger.ledger_path(tmp_path), ledger_row(recipes[0]))
    runner = Runner({2: DataError("img.png is broken")})
    monkeypatch.setattr(sweep, "run", runner)
    said: list[str] = []
    failed = sweep.sweep(recipes, results=tmp_path, say=said.append)
    assert runner.seeds == [1, 2, 3]
    assert [str(error) for error in failed] == ["img.png is broken"]
    text = "\n".join(said)
    assert "4 recipes: 1 in the ledger, 3 to run" in text
    assert "failed: img.png is broken" in text
    assert "left)" in text  # how long, once a run has told the pace
    assert recipes[3].command() in text
    # Again: only what failed is left.
    assert sweep.remaining(recipes, tmp_path) == [recipes[2]]
    again = Runner({})
    monkeypatch.setattr(sweep, "run", again)
    assert sweep.sweep(recipes, results=tmp_path, say=said.append) == []
    assert again.seeds == [2]


@pytest.mark.parametrize("stop", [TrainingStopped("stopped"), KeyboardInterrupt()])
def test_a_sweep_that_is_stopped_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    runner = Runner({1: stop})  # type: ignore[dict-item]
    monkeypatch.setattr(sweep, "run", runner)
    with pytest.raises(type(stop)):
        sweep.sweep(sweep.grid(Recipe(), seed=range(3)), results=tmp_path, say=lambda _: None)
    assert runner.seeds == [0, 1]


def test_a_recipe_that_another_process_trains_is_come_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = sweep.grid(Recipe(), seed=range(3))
    tries: list[int] = []

    def runner(recipe: Recipe, **options: Any) -> ledger.Row:
        tries.append(recipe.seed)
        if recipe.seed == 0 and tries.count(0) < 3:
            raise BusyError("another process is working on it; wait")
        return Runner({})(recipe, **options)

    monkeypatch.setattr(sweep, "run", runner)
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.0)
    said: list[str] = []
    assert sweep.sweep(recipes, results=tmp_path, say=said.append) == []
    assert tries == [0, 1, 2, 0, 0]
    assert "another process is working on it: it is tried again later" in "\n".join(said)
    assert len(ledger.read(ledger.ledger_path(tmp_path))) == 3


def test_a_sweep_that_waits_for_another_process_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runner(*_: object, **__: object) -> ledger.Row:
        raise BusyError("another process is working on it; wait")

    monkeypatch.setattr(sweep, "run", runner)
    with pytest.raises(TrainingStopped, match="while waiting"):
        sweep.sweep([Recipe()], results=tmp_path, should_stop=lambda: True, say=lambda _: None)


def test_a_fault_of_the_program_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "run", Runner({0: ZeroDivisionError()}))
    with pytest.raises(ZeroDivisionError):
        sweep.sweep([Recipe()], results=tmp_path, say=lambda _: None)


def test_a_real_sweep(tmp_path: Path) -> None:
    base = tiny_recipe("ce", finetune=Stage(steps=1, batch=4))
    bad = base.replace(finetune=Stage(steps=1, batch=1))
    options: dict[str, Any] = {
        "runs": tmp_path / "runs",
        "results": tmp_path,
        "cpu": True,
        "progress_bar": False,
        "say": lambda _: None,
    }
    failed = sweep.sweep([bad, base], **options)
    assert len(failed) == 1
    assert isinstance(failed[0], ConfigError)
    assert [row["recipe_hash"] for row in ledger.read(tmp_path / "ledger.jsonl")] == [base.hash]


@pytest.mark.parametrize("method", KINDS)
def test_the_cost_is_estimated(method: Any) -> None:
    recipe = tiny_recipe(method)
    estimate = estimate_cost(recipe, cpu=True)
    assert estimate.image_passes == recipe.image_passes()
    assert estimate.seconds > 0
    assert estimate.peak_bytes is None
    assert f"{recipe.image_passes():,} image passes" in str(estimate)
    assert "on cpu" in str(estimate)


def test_each_of_several_processes_times_its_own_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole batch of the largest tier fits no single card."""
    seen: list[int] = []
    forward = SegmentationNetwork.forward

    def counted(self: SegmentationNetwork, images: torch.Tensor, size: Any = None) -> torch.Tensor:
        seen.append(len(images))
        return forward(self, images, size)

    monkeypatch.setattr(SegmentationNetwork, "forward", counted)
    two = SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=2,
        mixed_precision="no",
        autocast=contextlib.nullcontext,
    )
    monkeypatch.setattr(cost, "make_accelerator", lambda *_, **__: two)
    recipe = tiny_recipe(
        pretrain=Stage(steps=1, batch=4), finetune=Stage(steps=1, batch=6, schedule="poly")
    )
    estimate = estimate_cost(recipe)
    assert set(seen) == {2 * 4 // 2, 6 // 2}
    assert estimate.image_passes == recipe.image_passes()


def test_a_cost_that_no_memory_can_bear_is_reported_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def greedy(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.\nmore")

    monkeypatch.setattr(stages, "contrastive_loss", greedy)
    with pytest.raises(ConfigError, match=r"--pretrain\.batch 4 .*Tried to allocate 9") as caught:
        estimate_cost(tiny_recipe(), cpu=True)
    assert caught.value.__context__ is None, "its frames would keep the memory from the run"


def test_the_cost_of_what_cannot_be_trained_is_an_error() -> None:
    with pytest.raises(ConfigError, match="batch 1 over 1 process"):
        estimate_cost(tiny_recipe("ce", finetune=Stage(steps=1, batch=1)), cpu=True)
    with pytest.raises(ConfigError, match="batch 1 over 1 process"):
        estimate_cost(tiny_recipe(pretrain=Stage(steps=1, batch=1)), cpu=True)


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (720, "12 min"), (12240, "3.4 h"), (0, "0 s")]
)
def test_times_can_be_read(seconds: float, text: str) -> None:
    assert readable_seconds(seconds) == text
