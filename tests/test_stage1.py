"""Stage 1, trained once and shared: which recipes share it, and that no damage is shared."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_resume import hold, same_weights, start, told, train, train_until_killed
from tiny import SERVER, STEPS, Finished, tiny_recipe

from segnb.experiments import runs, stage1, sweep
from segnb.experiments.splits import load_splits
from segnb.methods import MethodName
from segnb.recipe import Recipe, Stage
from segnb.results import ledger
from segnb.training import Session, TrainingStopped, loop, make_accelerator

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread", "places")

SHORT = Stage(steps=3, batch=4, lr=0.05, schedule="poly")

#: Another value for every field of a recipe, a stage's own under names with a dot.
OTHER: dict[str, Any] = {
    "dataset": "voc",
    "tier": "paper",
    "method": "pseudo",
    "seed": 1,
    "fraction": 0.5,
    "split_list": "list.txt",
    "hold_out": "0006R0",
    "size": (64, 64),
    "crop": (64, 64),
    "scale": (0.5, 1.0),
    "flip": False,
    "distortion": 0.5,
    "finetune_distortion": 0.5,
    "architecture": "FPN",
    "encoder": "resnet18",
    "encoder_depth": 4,
    "encoder_weights": "imagenet",
    "output_stride": 16,
    "decoder_channels": 128,
    "atrous_rates": (1, 2, 3),
    "form": "official",
    "scope": "within",
    "temperature": 0.5,
    "loss_size": (9, 9),
    "loss_backend": "plain",
    "freeze": True,
    "freeze_statistics": True,
    "pseudo_threshold": 0.5,
    "precision": "fp32",
}
OTHER_OF_STAGE: dict[str, Any] = {
    "steps": 70,
    "batch": 4,
    "lr": 0.3,
    "momentum": 0.5,
    "weight_decay": 0.5,
    "schedule": "",
    "warmup": 5,
}

#: What a stage 1 of the contrastive loss does not depend on. Back ends agree to rounding, and the
#: precision that the device truly has is a part of the key by itself.
SHARED = {"tier", "method", "finetune_distortion", "loss_backend", "freeze", "freeze_statistics"}
SHARED |= {"pseudo_threshold", "precision"}
SHARED |= {f"finetune.{name}" for name in OTHER_OF_STAGE}

#: The same for a stage 1 of cross-entropy: ``pretrain`` counts by its image passes alone.
SHARED_BY_CROSS_ENTROPY = {"form", "scope", "temperature", "loss_size", "finetune.steps"}
SHARED_BY_CROSS_ENTROPY |= {"pretrain.lr", "pretrain.momentum", "pretrain.weight_decay"}
SHARED_BY_CROSS_ENTROPY |= {"pretrain.schedule", "pretrain.warmup"}
SHARED_BY_CROSS_ENTROPY |= {n for n in SHARED if "." not in n} - {"method"}

FIELDS = [
    *(f.name for f in dataclasses.fields(Recipe) if f.name not in ("pretrain", "finetune")),
    *(f"{s}.{f.name}" for s in ("pretrain", "finetune") for f in dataclasses.fields(Stage)),
]


def changed(base: Recipe, name: str) -> Recipe:
    stage, _, inner = name.rpartition(".")
    if not stage:
        return base.replace(**{name: OTHER[name]})
    old = getattr(base, stage)
    value = OTHER_OF_STAGE[inner]
    if inner == "schedule":
        value = "poly" if old.schedule == "cosine" else "cosine"
    return base.replace(**{stage: dataclasses.replace(old, **{inner: value})})


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize(
    ("method", "shared"),
    [("contrastive", SHARED), ("ce_pretrained", SHARED_BY_CROSS_ENTROPY)],
)
def test_stage_1_is_shared_over_exactly_the_fields_it_does_not_see(
    method: MethodName, shared: set[str], name: str
) -> None:
    """A new field needs a value in OTHER and, if stage 1 does not see it, a place in SHARED."""
    base = Recipe(method=method)
    other = changed(base, name)
    assert other != base
    assert (other.stage1().hash == base.stage1().hash) == (name in shared)


def test_the_two_losses_share_nothing() -> None:
    assert Recipe().stage1().hash != Recipe(method="ce_pretrained").stage1().hash


def test_cross_entropy_in_stage_1_takes_the_passes_and_the_distortion_of_the_contrastive() -> None:
    recipe = Recipe(method="ce_pretrained", distortion=0.3)
    stage = recipe.stage1()
    assert stage.image_passes() == recipe.stage1_passes() == Recipe().stage1_passes() == 16_000
    assert recipe.image_passes() == Recipe().image_passes()
    assert stage.cross_entropy_distortion() == 0.3
    assert recipe.cross_entropy_distortion() == 0.0
    settings = dataclasses.replace(stage.finetune, steps=recipe.finetune.steps)
    assert settings == recipe.finetune


def test_the_key_holds_the_pixels_and_the_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe()
    session = Session(accelerator=make_accelerator("fp32", cpu=True), folder=tmp_path)
    data = load_splits(recipe, progress_bar=False).labelled_set
    one = stage1._decides(data, recipe, session)
    assert one == stage1._decides(data, recipe.replace(finetune=SHORT), session)
    brighter = dataclasses.replace(data, images=data.images + 1)
    assert stage1._decides(brighter, recipe, session) != one
    masks = data.masks.clone()
    masks[0, 0, 0] += 1
    assert stage1._decides(data.with_masks(masks), recipe, session) != one
    other_order = data.subset(tuple(reversed(data.ids)))
    assert stage1._decides(other_order, recipe, session) != one
    bf16 = Session(accelerator=make_accelerator("bf16", cpu=True), folder=tmp_path)
    assert stage1._decides(data, recipe, bf16) != one
    monkeypatch.setattr(stage1.segnb, "__version__", "0.0.0")
    assert stage1._decides(data, recipe, session) != one


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stage of every step that is trained in this process."""
    steps: list[str] = []
    true = loop.step_generator

    def counted(*parts: Any) -> torch.Generator:
        steps.append(parts[1])
        return true(*parts)

    monkeypatch.setattr(loop, "step_generator", counted)
    return steps


def stored(folder: Path) -> Path:
    (found,) = (folder / "stage1").iterdir()
    return found


def check_like(row: ledger.Row | None, recipe: Recipe, folder: Path, whole: Finished) -> None:
    """A run has the weights, the numbers and the log of one that shared nothing."""
    assert row is not None
    assert same_weights(recipe, folder, whole.folder)
    assert same_weights(recipe, folder, whole.folder, "pretrained")
    own = runs.run_folder(recipe, folder)
    assert told(own / "log.jsonl") == told(whole.folder / "log.jsonl")
    for name in ("miou_val", "miou_test", "iou", "steps", "image_passes", "compactness"):
        assert row[name] == whole.row[name], name
    assert row["stages"].keys() == whole.row["stages"].keys()


@pytest.mark.parametrize("method", ["contrastive", "ce_pretrained"])
def test_a_sweep_over_stage_2_trains_stage_1_once(
    method: MethodName, tmp_path: Path, trained: list[str], finished: Callable[..., Finished]
) -> None:
    base = tiny_recipe(method)
    finished(method, finetune=SHORT)
    trained.clear()
    recipes = sweep.grid(base, **{"finetune.steps": [6, 3], "freeze": [False, True]})
    said: list[str] = []
    failed = sweep.sweep(
        recipes, runs=tmp_path, results=tmp_path, cpu=True, progress_bar=False, say=said.append
    )
    assert failed == []
    once = base.pretraining_stage().steps
    assert trained.count("pretrain") == once
    assert trained.count("finetune") == 2 * (6 + 3)
    assert said[1] == "stage 1: 1 for 4 recipes (4 each); 0 held, 1 to train"
    passes = base.stage1_passes() + 2 * 4 * (6 + 3)
    without = 4 * base.stage1_passes() + 2 * 4 * (6 + 3)
    assert said[2] == f"image passes: {passes:,} ({without:,} without sharing)"
    held = {row["recipe_hash"]: row for row in ledger.read(tmp_path / "ledger.jsonl")}
    rows = [held[recipe.hash] for recipe in recipes]
    assert [row["stage1"]["shared"] for row in rows] == [False, True, True, True]
    assert {row["stage1"]["key"] for row in rows} == {stored(tmp_path).name}
    assert len({row["stages"]["pretrain"]["seconds"] for row in rows}) == 1
    # A row gives its seconds to a tenth.
    assert rows[3]["seconds"] + 0.05 >= rows[3]["stage1"]["seconds"] > 0
    short = base.replace(finetune=SHORT)
    check_like(held[short.hash], short, tmp_path, finished(method, finetune=SHORT))
    # Nothing is left in the store but the result.
    assert {path.name for path in stored(tmp_path).iterdir()} == {
        ".lock",
        "pretrained.json",
        "pretrained.safetensors",
    }


def test_pseudo_labels_begin_with_the_contrastive_stage_1(
    tmp_path: Path, trained: list[str], finished: Callable[..., Finished]
) -> None:
    train(tiny_recipe(), tmp_path)
    whole = finished("pseudo")
    trained.clear()
    row = train(tiny_recipe("pseudo"), tmp_path)
    assert "pretrain" not in trained
    check_like(row, tiny_recipe("pseudo"), tmp_path, whole)


def test_another_stage_1_is_trained_anew(tmp_path: Path, trained: list[str]) -> None:
    train(tiny_recipe(finetune=SHORT), tmp_path)
    train(tiny_recipe(finetune=SHORT, temperature=0.5), tmp_path)
    assert trained.count("pretrain") == 2 * STEPS
    assert len(list((tmp_path / "stage1").iterdir())) == 2


def test_a_stage_1_without_steps_is_the_untrained_network(
    tmp_path: Path, finished: Callable[..., Finished]
) -> None:
    recipe = tiny_recipe(pretrain=Stage(steps=0))
    assert train(recipe, tmp_path) is not None
    assert same_weights(recipe, tmp_path, finished("ce").folder)


def test_stage_1_killed_in_one_run_goes_on_in_a_sibling(
    tmp_path: Path, trained: list[str], finished: Callable[..., Finished]
) -> None:
    child = start(train_until_killed, tiny_recipe(), tmp_path, "pretrain", 3, 0.0)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    short = tiny_recipe(finetune=SHORT)
    whole = finished(finetune=SHORT)
    trained.clear()
    row = train(short, tmp_path)
    assert trained.count("pretrain") <= STEPS - 3
    check_like(row, short, tmp_path, whole)


def test_a_run_in_stage_2_needs_the_store_no_more(
    tmp_path: Path, trained: list[str], finished: Callable[..., Finished]
) -> None:
    recipe = tiny_recipe()
    with pytest.raises(TrainingStopped, match=r"\(finetune\)"):
        train(recipe, tmp_path, stop_after=STEPS + 2)
    shutil.rmtree(tmp_path / "stage1")
    trained.clear()
    row = train(recipe, tmp_path)
    assert "pretrain" not in trained
    check_like(row, recipe, tmp_path, finished())


def test_stage_1_alone_is_taken_too(
    tmp_path: Path, trained: list[str], finished: Callable[..., Finished]
) -> None:
    assert train(tiny_recipe(), tmp_path, until="pretrain") is None
    short = tiny_recipe(finetune=SHORT)
    whole = finished(finetune=SHORT)
    trained.clear()
    assert train(short, tmp_path, until="pretrain") is None
    assert trained == []
    check_like(train(short, tmp_path), short, tmp_path, whole)


def _cut(folder: Path) -> None:
    path = folder / "pretrained.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _one_bit(folder: Path) -> None:
    path = folder / "pretrained.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def _no_weights(folder: Path) -> None:
    (folder / "pretrained.safetensors").unlink()


def _half_a_record(folder: Path) -> None:
    path = folder / "pretrained.json"
    path.write_text(path.read_text()[:200])


def _a_list(folder: Path) -> None:
    (folder / "pretrained.json").write_text("[]")


def _another_version(folder: Path) -> None:
    path = folder / "pretrained.json"
    record = json.loads(path.read_text())
    record["decides"]["torch"] = "1.0"
    path.write_text(json.dumps(record))


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A folder of runs whose store holds a stage 1, trained once and copied."""
    home = tmp_path_factory.mktemp("begun") / "runs"

    def made() -> Path:
        if not home.exists():
            train(tiny_recipe(), home, until="pretrain")
        return home

    return made


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (_cut, "damaged"),
        (_one_bit, "damaged"),
        (_no_weights, "damaged"),
        (_half_a_record, "damaged"),
        (_a_list, "damaged"),
        (_another_version, "of another recipe, other images or other arithmetic"),
    ],
)
def test_a_damaged_stage_1_is_trained_again(
    spoil: Callable[[Path], None],
    what: str,
    tmp_path: Path,
    begun: Callable[[], Path],
    trained: list[str],
    finished: Callable[..., Finished],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "runs"
    shutil.copytree(begun(), folder)
    store = stored(folder)
    spoil(store)
    short = tiny_recipe(finetune=SHORT)
    whole = finished(finetune=SHORT)
    trained.clear()
    row = train(short, folder)
    assert f"the stage 1 in {store} is {what}: it is not used" in capsys.readouterr().out
    assert trained.count("pretrain") == STEPS
    check_like(row, short, folder, whole)


def test_a_damaged_copy_is_taken_anew_from_the_store(
    tmp_path: Path,
    begun: Callable[[], Path],
    trained: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "runs"
    shutil.copytree(begun(), folder)
    _one_bit(runs.run_folder(tiny_recipe(), folder))
    trained.clear()
    assert train(tiny_recipe(), folder) is not None
    assert "pretrain" not in trained
    out = capsys.readouterr().out
    assert "is damaged: it is not used" in out
    assert "taken from" in out


# --- two processes at once --------------------------------------------------------------------


def test_a_sibling_waits_and_takes_over_when_the_first_is_killed(
    tmp_path: Path,
    trained: list[str],
    finished: Callable[..., Finished],
    capsys: pytest.CaptureFixture[str],
) -> None:
    short = tiny_recipe(finetune=SHORT)
    whole = finished(finetune=SHORT)
    ready, leave = SERVER.Event(), SERVER.Event()
    child = start(hold, tiny_recipe(), tmp_path, ready, leave)  # after its first step
    assert ready.wait(60)
    with pytest.raises(TrainingStopped, match="while waiting for stage 1"):
        train(short, tmp_path, should_stop=lambda: True)
    trained.clear()
    timer = threading.Timer(1.0, os.kill, (child.pid, signal.SIGKILL))
    timer.start()
    row = train(short, tmp_path)
    timer.join()
    child.join()
    assert "waiting for stage 1" in capsys.readouterr().out
    assert trained.count("pretrain") == STEPS - 1
    check_like(row, short, tmp_path, whole)


def test_two_processes_at_once_train_one_stage_1(
    tmp_path: Path, finished: Callable[..., Finished]
) -> None:
    recipes = [tiny_recipe(), tiny_recipe(finetune=SHORT)]
    children = [start(train, recipe, tmp_path) for recipe in recipes]
    for child in children:
        child.join(100)
        assert child.exitcode == 0
    rows = []
    for recipe, whole in zip(recipes, (finished(), finished(finetune=SHORT)), strict=True):
        metrics = runs.run_folder(recipe, tmp_path) / "metrics.json"
        rows.append(json.loads(metrics.read_text()))
        check_like(rows[-1], recipe, tmp_path, whole)
    assert sorted(row["stage1"]["shared"] for row in rows) == [False, True]
