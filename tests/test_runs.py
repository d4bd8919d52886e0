"""Runs from recipe to ledger row."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import COUNTS, NATIVE, STEPS, Finished, ledger_row, make_camvid, tiny_recipe

from segnb import datasets, evaluation, installed, report
from segnb.errors import ConfigError, DataError
from segnb.experiments import runs, stage1
from segnb.experiments.splits import Splits, load_splits
from segnb.methods import KINDS
from segnb.recipe import Recipe, Stage, preset
from segnb.results import ledger, overview
from segnb.training import Session, make_accelerator
from segnb.training.log import read_log

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread", "places")

METHODS = [*KINDS]


@pytest.mark.parametrize("method", METHODS)
def test_a_finished_run_keeps_all_that_tells_how_it_came_about(
    method: str, finished: Callable[..., Finished]
) -> None:
    run = finished(method)
    names = {path.name for path in run.folder.iterdir() if not path.name.startswith(".")}
    wanted = {"recipe.json", "environment.json", "ids.json", "log.jsonl", "metrics.json"}
    wanted |= {"preview.npz", "weights.safetensors"}
    if run.recipe.has_stage1:
        wanted |= {"pretrained.safetensors", "pretrained.json"}
    assert names == wanted
    assert runs.read_recipe(run.folder) == run.recipe
    machine = json.loads((run.folder / "environment.json").read_text())
    assert machine["torch"] == torch.__version__
    assert machine["device"] == "cpu"
    ids = json.loads((run.folder / "ids.json").read_text())
    assert len(ids["labelled"]) == 6
    assert ids["train"] == COUNTS["train"]
    assert ids["evaluated"] == {"val": COUNTS["val"], "test": COUNTS["test"]}


@pytest.mark.parametrize("method", METHODS)
def test_a_row_tells_what_was_done(method: str, finished: Callable[..., Finished]) -> None:
    run = finished(method)
    row = run.row
    assert set(ledger.REQUIRED) <= row.keys()
    assert row == json.loads((run.folder / "metrics.json").read_text())
    assert (row["dataset"], row["tier"], row["method"]) == ("camvid", "smoke", method)
    assert row["recipe_hash"] == run.recipe.hash
    assert Recipe.from_dict(row["recipe"]) == run.recipe
    assert row["labelled"] == 6
    assert row["precision"] == "fp32"
    contrastive = method in ("contrastive", "pseudo")
    assert (row["form"], row["scope"]) == (("paper", "cross") if contrastive else (None, None))
    assert (row["temperature"] is None) != contrastive
    assert row["image_passes"] == run.recipe.image_passes()
    times = {"ce": 1, "ce_long": 3, "ce_double": 6, "ce_pretrained": 3}
    times |= {"contrastive": 2, "pseudo": 4}
    assert row["steps"] == times[method] * STEPS
    for split in ("val", "test"):
        present = [value for value in row["iou"][split] if value is not None]
        assert len(row["iou"][split]) == 11
        assert 0 <= min(present) <= max(present) <= 100
        assert row[f"miou_{split}"] == pytest.approx(np.mean(present), abs=0.01)
    stages = {"initial", "finetuned"} | ({"pretrained"} if run.recipe.has_stage1 else set())
    assert row["compactness"].keys() == stages
    assert row["cell_rule"] == "aligned corners"
    assert row["intra"] == row["compactness"]["finetuned"]["intra"]


def test_long_cross_entropy_has_exactly_the_passes_of_the_method_it_is_compared_with(
    finished: Callable[..., Finished],
) -> None:
    for method, matched in ((name, kind.compute_of) for name, kind in KINDS.items()):
        if matched is None:
            continue
        rows = {name: finished(name).row for name in (method, matched)}
        assert rows[method]["image_passes"] == rows[matched]["image_passes"]
        # What was done, by the log: steps times batch, twice in stage 1.
        done = sum(
            4 * stage["step"] * (2 if name.startswith("pretrain") else 1)
            for name, stage in rows[matched]["stages"].items()
        )
        assert done == 4 * rows[method]["stages"]["finetune"]["step"]


def test_all_methods_start_from_the_same_network(finished: Callable[..., Finished]) -> None:
    initial = [finished(method).row["compactness"]["initial"] for method in METHODS]
    assert all(values == initial[0] for values in initial)


def test_the_kept_weights_score_what_the_row_says(finished: Callable[..., Finished]) -> None:
    run = finished()
    split = datasets.load("camvid", "test")
    data = datasets.working_set(split, size=run.recipe.size)
    network = runs.load_network(run.folder)
    session = Session(accelerator=make_accelerator("fp32", cpu=True))
    score = evaluation.evaluate(network, split, data, session=session)
    assert round(score.miou, 3) == run.row["miou_test"]
    pretrained = runs.load_network(run.folder, weights="pretrained")
    assert pretrained.head.state_dict().keys() != network.head.state_dict().keys()


def test_the_ledger_and_the_small_files_are_published(finished: Callable[..., Finished]) -> None:
    run = finished()
    held = {row["recipe_hash"]: row for row in ledger.read(ledger.ledger_path(run.results))}
    assert held[run.recipe.hash] == run.row
    log = read_log(run.results / run.row["log"])
    assert [(row["stage"], row["step"]) for row in log] == [
        (stage, step) for stage in ("pretrain", "finetune") for step in (1, STEPS)
    ]
    preview = report.read_preview(run.row, run.results)
    assert preview["predictions"].shape == (COUNTS["val"], *run.recipe.size)
    assert set(preview["ids"]) <= set(datasets.load("camvid", "val").ids)
    embeddings = [preview[f"embeddings_{s}"] for s in ("initial", "pretrained", "finetuned")]
    assert len({one.shape for one in embeddings}) == 1
    assert len(embeddings[0]) == len(preview["labels"])


def test_a_finished_run_is_not_trained_again(
    finished: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished("ce")
    monkeypatch.setattr(runs, "load_splits", None)  # nothing of it is called
    row = runs.run(run.recipe, runs=run.folder.parent, results=tmp_path, cpu=True)
    assert row == run.row
    assert ledger.read(ledger.ledger_path(tmp_path)) == [run.row]


def test_a_run_cut_off_between_its_end_and_the_ledger_is_published_and_tidied(
    finished: Callable[..., Finished], tmp_path: Path
) -> None:
    run = finished("ce")
    (run.folder / "finetune.pt").write_bytes(b"left over")
    runs.run(run.recipe, runs=run.folder.parent, results=tmp_path, cpu=True)
    assert not (run.folder / "finetune.pt").exists()
    assert len(ledger.read(ledger.ledger_path(tmp_path))) == 1


def test_the_same_recipe_gives_the_same_numbers(
    finished: Callable[..., Finished], tmp_path: Path
) -> None:
    run = finished("ce")
    again = runs.run(run.recipe, runs=tmp_path, results=None, cpu=True, progress_bar=False)
    assert again is not None
    for name in ("miou_val", "miou_test", "iou", "compactness"):
        assert again[name] == run.row[name]
    mine, theirs = (
        load_file(folder / "weights.safetensors")
        for folder in (runs.run_folder(run.recipe, tmp_path), run.folder)
    )
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_cross_entropy_has_no_stage_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'ce' has no stage 1"):
        runs.run(tiny_recipe("ce"), runs=tmp_path, until="pretrain", cpu=True)


def test_what_is_wrong_is_told_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_train_and_measure", None)  # nothing of it is called
    options = {"runs": tmp_path, "results": tmp_path / "results", "cpu": True}
    with pytest.raises(ConfigError, match="all 12 training images are labelled"):
        runs.run(tiny_recipe("pseudo", fraction=1), progress_bar=False, **options)
    (tmp_path / "results" / "ledger.jsonl").write_text("{\n")
    with pytest.raises(DataError, match="line 1 is not JSON"):
        runs.run(tiny_recipe("ce"), progress_bar=False, **options)


@pytest.mark.parametrize(("split", "said"), [("train", "labelled training"), ("val", "val")])
def test_a_split_without_one_labelled_pixel_is_named(
    split: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_camvid(tmp_path)
    monkeypatch.setenv("SEGNB_CACHE", str(tmp_path / "cache"))
    for path in (root / "CamVid" / f"{split}annot").iterdir():
        Image.new("L", NATIVE[::-1], 11).save(path)
    with pytest.raises(DataError, match=rf"every pixel of the \d+ {said} images is void"):
        load_splits(tiny_recipe("ce"), root=root, progress_bar=False)


def test_a_run_that_another_process_has_just_finished_is_not_trained_again(
    finished: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished("ce")
    metrics = run.folder / "metrics.json"
    text = metrics.read_text()
    metrics.unlink()
    load = load_splits

    def slow(*words: Any, **named: Any) -> Splits:
        metrics.write_text(text)  # meanwhile
        return load(*words, **named)

    monkeypatch.setattr(runs, "load_splits", slow)
    monkeypatch.setattr(runs, "_train_and_measure", None)
    again = runs.run(run.recipe, runs=run.folder.parent, results=None, cpu=True, progress_bar=False)
    assert again == run.row


def test_the_commit_is_that_of_the_code_that_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe("ce", finetune=Stage(steps=1, batch=4))
    commits = iter(["loaded", "checked out meanwhile"])
    monkeypatch.setattr(runs, "commit", lambda: next(commits))
    row = runs.run(recipe, runs=tmp_path, results=None, cpu=True, progress_bar=False)
    assert row is not None
    assert row["commit"] == "loaded"


def test_a_checkout_of_something_else_has_no_commit_of_this_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where segnb is installed into an environment inside another project."""
    for words in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "its"]):
        who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True)
    package = tmp_path / ".venv" / "segnb"
    package.mkdir(parents=True)
    (package / "installed.py").touch()
    monkeypatch.setattr(installed, "__file__", str(package / "installed.py"))
    assert installed.commit() is None


def test_a_change_anywhere_in_the_package_marks_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "segnb"
    (package / "losses").mkdir(parents=True)
    for file in ("installed.py", "losses/paper.py"):
        (package / file).write_text("1\n")
    (tmp_path / "results.jsonl").touch()
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "all"]):
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(installed, "__file__", str(package / "installed.py"))
    (tmp_path / "results.jsonl").write_text("a row\n")
    clean = installed.commit()
    assert clean is not None
    assert not clean.endswith("+")
    (package / "losses" / "paper.py").write_text("2\n")
    assert installed.commit() == clean + "+"


def test_a_split_list_is_used_and_its_missing_ids_counted(tmp_path: Path) -> None:
    path = tmp_path / "a list.txt"
    path.write_text("train/train_03.png trainannot/train_03.png\ntrain_07\nnobody\ntrain_00\n")
    recipe = tiny_recipe("ce", split_list=str(path), finetune=Stage(steps=1, batch=4))
    row = runs.run(recipe, runs=tmp_path, results=None, cpu=True, progress_bar=False)
    assert row is not None
    assert (row["labelled"], row["fraction"]) == (3, None)
    ids = json.loads((runs.run_folder(recipe, tmp_path) / "ids.json").read_text())
    assert sorted(ids["labelled"]) == ["train_00", "train_03", "train_07"]
    assert ids["missing"] == 1
    # The recipe knows the list by its name; other content must not pass for the run that is there.
    path.write_text("train_03\ntrain_07\ntrain_01\n")
    with pytest.raises(ConfigError, match=r"a list\.txt has changed since .* was started"):
        runs.run(recipe, runs=tmp_path, results=None, cpu=True, progress_bar=False)


def test_a_run_that_goes_on_has_begun_when_it_was_first_begun(tmp_path: Path) -> None:
    recipe = tiny_recipe("ce", finetune=Stage(steps=1, batch=4))
    folder = runs.run_folder(recipe, tmp_path)
    folder.mkdir()
    begun = "2001-02-03T04:05:06+00:00"
    (folder / "environment.json").write_text(json.dumps({"started": begun}))
    row = runs.run(recipe, runs=tmp_path, results=None, cpu=True, progress_bar=False)
    assert row is not None
    assert row["started"] == begun
    assert json.loads((folder / "environment.json").read_text())["started"] == begun


def test_too_little_memory_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.\nmore")

    recipe = tiny_recipe("contrastive")
    monkeypatch.setattr(stage1, "pretrain", greedy)
    with pytest.raises(ConfigError, match=r"--pretrain\.batch 4 .*Tried to allocate 9") as caught:
        runs.run(recipe, runs=tmp_path, results=None, cpu=True, progress_bar=False)
    assert caught.value.__context__ is None, "its frames would keep the memory from the next run"
    assert not (runs.run_folder(recipe, tmp_path) / "metrics.json").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "not a JSON object"),
        ('{"colour": 1}', "no field 'colour'"),
        ('{"temperature": -1}', "temperature is -1"),
    ],
)
def test_a_folder_that_holds_no_recipe_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match="holds no run"):
        runs.read_recipe(tmp_path)
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        runs.read_recipe(tmp_path)
    assert str(tmp_path / "recipe.json") in str(caught.value)


def test_weights_that_are_missing_or_broken_are_named(
    tmp_path: Path, finished: Callable[..., Finished]
) -> None:
    source = finished("ce").folder
    (tmp_path / "recipe.json").write_bytes((source / "recipe.json").read_bytes())
    path = tmp_path / "weights.safetensors"
    with pytest.raises(DataError, match=r"is missing; `segnb finetune .*` makes it again"):
        runs.load_network(tmp_path)
    path.write_bytes((source / "weights.safetensors").read_bytes()[:5000])
    with pytest.raises(DataError, match="are cut or damaged") as caught:
        runs.load_network(tmp_path)
    assert str(path) in str(caught.value)


def test_the_initial_network_is_not_disturbed_by_the_state_of_the_process() -> None:
    one = runs.initial_network(tiny_recipe()).state_dict()
    torch.rand(17)
    two = runs.initial_network(tiny_recipe()).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


# --- reports ----------------------------------------------------------------------------------


def test_a_comparison_draws_all_figures_and_the_table(
    finished: Callable[..., Finished], tmp_path: Path, places: Path
) -> None:
    rows = [finished(method).row for method in ("ce", "ce_long", "contrastive")]
    results = finished().results
    figures = report.comparison(rows, results, root=places)
    assert figures.keys() == {"predictions", "loss_curves", "iou_per_class", "embeddings"}
    points = report.embedding_points(report.read_preview(rows[2], results))
    assert list(points) == ["before training", "after stage 1", "after stage 2"]
    assert all(place.shape == (len(labels), 2) for place, labels in points.values())
    gone = {**rows[0], "log": "logs/0000000000.jsonl"}
    with pytest.raises(
        DataError, match=r"0000000000\.npz is missing; `segnb run .*` makes it again"
    ):
        report.read_preview(gone, results)


def test_the_ledgers_figures_are_those_that_its_rows_allow(
    finished: Callable[..., Finished], places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "preset", lambda *_: tiny_recipe())
    rows = [finished(method).row for method in ("contrastive", "ce")]
    results = finished().results
    wanted = {"dataset": "camvid", "tier": "smoke", "root": places}
    drawn = report.ledger_figures(rows, results, **wanted)
    assert {"label_curve_val", "gain_test", "cost", "compactness", "predictions"} <= drawn.keys()
    assert "cross-entropy" in drawn["predictions"].alt
    assert "temperature_val" not in drawn
    # A study of the temperature has a figure of its own, and no place in the others.
    study = tiny_recipe(temperature=0.5)
    rows.append({**rows[0], "temperature": 0.5, "recipe": study.to_dict(), "miou_val": 99.0})
    with_study = report.ledger_figures(rows, results, **wanted)
    assert "0.5 99.0" in with_study["temperature_val"].alt
    assert "99.0" not in with_study["label_curve_val"].alt
    assert "starts_test" not in with_study
    # So has a start from ImageNet.
    warm = tiny_recipe(encoder_weights="imagenet")
    rows.append({**rows[0], "recipe": warm.to_dict(), "recipe_hash": warm.hash, "miou_test": 88.0})
    with_start = report.ledger_figures(rows, results, **wanted)
    assert "from ImageNet 88.0" in with_start["starts_test"].alt
    assert "88.0" not in with_start["label_curve_test"].alt
    alone = report.ledger_figures(rows[:1], results, **wanted)
    assert "gain_val" not in alone
    with pytest.raises(ConfigError, match="no runs"):
        report.ledger_figures(rows, results, **{**wanted, "tier": "quick"})


def test_tables_hold_the_presets_own_recipes() -> None:
    plain = preset("shapes", "quick")
    rows = [
        ledger_row(
            plain.replace(method=method, seed=seed),
            miou_val=miou + seed,
            form="paper",
            scope="cross",
            fraction=1 / 16,
        )
        for method, miou in (("ce", 20.0), ("contrastive", 30.0))
        for seed in range(3)
    ]
    study = plain.replace(temperature=0.5)
    rows.append(ledger_row(study, miou_val=99.0, form="paper", scope="cross"))
    text = overview.tables(rows)
    assert "**shapes**, quick tier" in text
    assert "21.0" in text
    assert "31.0" in text
    assert "99" not in text  # a study, not the preset's own recipe
    with pytest.raises(ConfigError, match="no runs"):
        overview.tables(rows, dataset="voc")
