"""Files of a finished run that are damaged, lost or another run's; and a small campaign of that."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from tiny import Finished, tiny_recipe

from segnb import cli
from segnb.errors import DataError
from segnb.experiments import runs
from segnb.recipe import Recipe
from segnb.results import ledger
from tools import damage_runs

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread", "places")


@pytest.fixture
def copy(finished: Callable[..., Finished], tmp_path: Path) -> Callable[..., Finished]:
    """``copy(method)``: a finished run in folders of this test's own."""

    def made(method: str = "ce") -> Finished:
        run = finished(method)
        folder = tmp_path / "runs" / run.folder.name
        shutil.copytree(run.folder, folder)
        shutil.copytree(run.results, tmp_path / "results", dirs_exist_ok=True)
        return replace(run, folder=folder, results=tmp_path / "results")

    return made


def again(run: Finished, **options: Any) -> Any:
    options = {"results": run.results, "cpu": True, "progress_bar": False, **options}
    return runs.run(run.recipe, runs=run.folder.parent, **options)


def same(row: dict[str, Any], other: dict[str, Any]) -> bool:
    names = ("miou_val", "miou_test", "iou", "compactness", "steps", "labelled", "data")
    return all(row[name] == other[name] for name in names)


@pytest.fixture
def untrained(finished: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on training is a failure."""
    for method in ("ce", "contrastive"):
        finished(method)

    def train(*_: object, **__: object) -> None:
        pytest.fail("nothing was to be trained")

    monkeypatch.setattr(runs, "finetune", train)
    monkeypatch.setattr(runs.stage1, "train_or_take", train)


SMALL = ["ids.json", "environment.json", "log.jsonl"]


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("name", SMALL)
def test_a_small_file_comes_back_from_the_results(
    name: str, copy: Callable[..., Finished], capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy()
    whole = (run.folder / name).read_bytes()
    (run.folder / name).write_bytes(whole[: len(whole) // 2])
    assert again(run) == run.row
    assert (run.folder / name).read_bytes() == whole
    said = capsys.readouterr().err
    assert f"{run.folder / name} is damaged or of another run" in said
    assert "copied from" in said


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("name", ["preview.npz", "metrics.json", "ids.json", "recipe.json"])
@pytest.mark.parametrize("method", ["ce", "contrastive"])
def test_what_can_be_made_again_from_the_weights_is(
    name: str, method: str, copy: Callable[..., Finished], capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy(method)
    whole = (run.folder / name).read_bytes()
    (run.folder / name).write_bytes(b"{}")
    row = again(run, results=None)
    assert same(row, run.row)
    if name != "metrics.json":
        assert (run.folder / name).read_bytes() == whole
    said = capsys.readouterr().err
    assert name in said
    assert "again" in said
    assert again(run, results=None) == row
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["weights.safetensors", "log.jsonl"])
def test_a_run_without_its_weights_or_log_is_trained_again(
    name: str, copy: Callable[..., Finished], capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy()
    (run.folder / name).unlink()
    if name == "weights.safetensors":
        with pytest.raises(DataError, match="is missing; `segnb finetune") as caught:
            runs.load_network(run.folder)
        command = str(caught.value).split("`")[1].split()
        words = [*command[1:], "--results", str(run.results), "--cpu", "--quiet"]
        assert cli.main(words) == 0  # as it says
        runs.load_network(run.folder)
    else:
        row = again(run, results=None)
        assert same(row, run.row)
    assert "the run is trained again" in capsys.readouterr().err


def test_the_metrics_of_another_run_are_not_published(
    copy: Callable[..., Finished], finished: Callable[..., Finished], tmp_path: Path
) -> None:
    run, path = copy(), tmp_path / "elsewhere"
    metrics = run.folder / "metrics.json"
    metrics.write_bytes((finished("ce_long").folder / "metrics.json").read_bytes())
    assert same(again(run, results=path), run.row)
    row = json.loads(metrics.read_text())
    metrics.write_text(json.dumps({**row, "recipe_hash": "../../climbed"}))
    assert same(again(run, results=path), run.row)
    assert [one["recipe_hash"] for one in ledger.read(path / "ledger.jsonl")] == [run.recipe.hash]
    assert not list(tmp_path.glob("climbed*"))


def test_weights_of_another_run_are_refused(
    copy: Callable[..., Finished], finished: Callable[..., Finished]
) -> None:
    run = copy()
    other = finished("ce_long").folder / "weights.safetensors"
    shutil.copy(other, run.folder / "weights.safetensors")
    with pytest.raises(DataError, match=f"are of the run .*, not {run.recipe.hash}; `segnb"):
        runs.load_network(run.folder)


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_weights_that_are_not_finite_are_refused(
    command: str,
    copy: Callable[..., Finished],
    capsys: pytest.CaptureFixture[str],
    places: Path,
    tmp_path: Path,
) -> None:
    run = copy()
    path = run.folder / "weights.safetensors"
    state = load_file(path)
    state = {k: v * float("nan") if v.is_floating_point() else v for k, v in state.items()}
    path.write_bytes(save(state))
    words = [command, str(run.folder), "--cpu"]
    if command == "predict":
        words += [str(places / "CamVid" / "val"), "--out", str(tmp_path / "out")]
    assert cli.main(words) == 1
    said = capsys.readouterr()
    assert "is not finite" in said.err
    assert len(said.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_recipe_is_taken_from_the_row_or_the_weights(
    copy: Callable[..., Finished], capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy()
    for text in ("x", '{"seed": "y"}', json.dumps(tiny_recipe("ce", seed=1).to_dict())):
        (run.folder / "recipe.json").write_text(text)
        assert runs.read_recipe(run.folder) == run.recipe
    (run.folder / "metrics.json").unlink()
    runs.load_network(run.folder)
    assert "the recipe is taken from weights.safetensors" in capsys.readouterr().err
    (run.folder / "weights.safetensors").unlink()
    (run.folder / "recipe.json").unlink()
    with pytest.raises(DataError, match=r"holds no run: .* `segnb run` command makes it again"):
        runs.read_recipe(run.folder)


@pytest.mark.usefixtures("untrained")
def test_a_folder_of_an_earlier_version_is_finished_as_it_is(
    copy: Callable[..., Finished], capsys: pytest.CaptureFixture[str]
) -> None:
    """No fingerprint, no checksums, nothing beside the weights, no copy of stage 1."""
    run = copy("contrastive")
    row = {k: v for k, v in run.row.items() if k not in ("data", "files", "loss_backend")}
    (run.folder / "metrics.json").write_text(json.dumps(row))
    ids = json.loads((run.folder / "ids.json").read_text())
    del ids["data"]
    (run.folder / "ids.json").write_text(json.dumps(ids))
    path = run.folder / "weights.safetensors"
    path.write_bytes(save(load_file(path)))
    for name in ("pretrained.safetensors", "pretrained.json"):
        (run.folder / name).unlink()
    ledger.rewrite(ledger.ledger_path(run.results), lambda _: [row])
    before = (run.results / "ledger.jsonl").read_bytes()
    assert again(run) == row
    assert capsys.readouterr().err == ""
    assert (run.results / "ledger.jsonl").read_bytes() == before
    assert isinstance(runs.load_network(run.folder), torch.nn.Module)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("name", ["logs", "previews", "ledger.jsonl"])
def test_results_that_cannot_be_written_are_told_before_training(name: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    if name == "ledger.jsonl":
        (results / name).mkdir()
    else:
        (results / name).touch()
    with pytest.raises(DataError, match=rf"{name}.*(can't be written|is a folder)"):
        runs.run(tiny_recipe("ce"), runs=tmp_path / "runs", results=results, cpu=True)


def test_home_is_home_in_every_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    words = tiny_recipe("ce").command().split()[1:]
    words += ["--cpu", "--quiet", "--runs=~/runs", "--results=~/results"]
    assert cli.main(words) == 0
    assert not (tmp_path / "~").exists()
    assert (tmp_path / "results" / "ledger.jsonl").exists()
    (folder,) = (tmp_path / "runs").glob("camvid-*")
    assert cli.main(["evaluate", f"~/runs/{folder.name}", "--cpu", "--quiet"]) == 0


@pytest.mark.parametrize(
    "values",
    [{"seed": "x"}, {"size": 5}, {"pretrain": 3}, {"pretrain": {}}, {"flip": "no"}, {"seed": 1.5}],
)
def test_a_recipe_of_other_types_is_a_sentence(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^recipe: "):
        Recipe.from_dict({**tiny_recipe("ce").to_dict(), **values})


# --- the campaign --------------------------------------------------------------------------------


def test_every_kind_of_damage_has_many_cases() -> None:
    found = damage_runs.cases()
    assert len({(case.kind, case.damage) for case in found}) >= 300
    assert len({str(case) for case in found}) == len(found)


def test_a_small_campaign_finds_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("SEGNB_DATA", "SEGNB_CACHE"):
        monkeypatch.setenv(name, os.environ[name])  # the campaign changes them
    code = damage_runs.main(["--every", "79"])
    assert code == 0, capsys.readouterr().out
