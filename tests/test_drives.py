"""Scores by drive: what a network has seen of a scene, and a drive set aside for choices."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import ledger_row, make_camvid, tiny_recipe

from segnb import cli, datasets, evaluation
from segnb.datasets import camvid
from segnb.datasets.base import data_root
from segnb.errors import ConfigError
from segnb.experiments import runs
from segnb.experiments.splits import load_splits
from segnb.metrics.segmentation import score_confusion
from segnb.recipe import Recipe, Stage
from segnb.results import ledger
from segnb.results.overview import tables
from segnb.training import Session, make_accelerator
from tools import by_drive

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread")

#: Drive of the images of each split, in their order.
DRIVES = {"train": "AAAAABBBBCCC", "val": "AAAA", "test": "ADD"}

QUICK = Stage(steps=2, batch=4, lr=0.05, schedule="poly")


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made CamVid with frames of four drives; val is of drive A, test of A and D."""
    root = make_camvid(tmp_path_factory.mktemp("drives") / "data")
    for split, letters in DRIVES.items():
        for kind in ("", "annot"):
            for path in sorted((root / "CamVid" / f"{split}{kind}").iterdir()):
                split_name, _, number = path.stem.partition("_")
                drive = letters[int(number)]
                path.rename(path.with_name(f"{drive}_{split_name}{number}.png"))
    return root


@pytest.fixture
def places(drives: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGNB_DATA", str(drives))
    monkeypatch.setenv("SEGNB_CACHE", str(drives / ".cache"))
    return drives


def recipe(**changes: Any) -> Recipe:
    return tiny_recipe("ce", **{"finetune": QUICK, **changes})


@pytest.fixture(scope="module")
def run(drives: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, ledger.Row]:
    """A finished run with drive B held out: its folder, the results, the row."""
    home = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGNB_CACHE", str(drives / ".cache"))
        held = recipe(hold_out="B")
        options: dict[str, Any] = {"runs": home / "runs", "results": home / "results"}
        row = runs.run(held, root=drives, cpu=True, progress_bar=False, **options)
    assert row is not None
    return runs.run_folder(held, home / "runs"), home / "results", row


def test_test_is_parted_by_what_train_has_seen(places: Path) -> None:
    splits = load_splits(recipe(), progress_bar=False)
    assert {name: sorted(ids) for name, ids in splits.subsets["test"].items()} == {
        "test_seen": ["A_test00"],
        "test_unseen": ["D_test01", "D_test02"],
    }
    assert splits.subsets["val"] == {}, "all of val is seen: a part of it would say nothing new"


def test_a_drive_held_out_is_no_longer_seen(places: Path) -> None:
    splits = load_splits(recipe(hold_out="A"), progress_bar=False)
    assert splits.subsets["test"] == {}, "all of test is unseen now"
    assert len(splits.train) == 7


@pytest.mark.parametrize("fraction", [0.5, 1])
def test_the_share_is_taken_from_what_is_left(places: Path, fraction: float) -> None:
    splits = load_splits(recipe(hold_out="B", fraction=fraction), progress_bar=False)
    train = datasets.load("camvid", "train")
    left = [name for name in train.ids if name[0] != "B"]
    assert list(splits.train.ids) == left
    assert len(splits.labelled) == round(fraction * len(left))
    assert set(splits.labelled) <= set(left)
    split, data = splits.evaluated["held_out"]
    assert split.split == "train"
    assert data.ids == tuple(name for name in train.ids if name[0] == "B")
    assert list(splits.evaluated) == ["val", "test", "held_out"]


def test_a_share_among_all_is_the_share_of_all(places: Path) -> None:
    train = datasets.load("camvid", "train")
    usual = datasets.labelled_ids(train, 0.5, seed=3)
    assert datasets.labelled_ids(train, 0.5, seed=3, among=set(train.ids)) == usual


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hold_out": "E"}, ["'E'", "A (5), B (4), C (3)"]),
        ({"dataset": "shapes", "hold_out": "A"}, ["shapes has no drives"]),
    ],
)
def test_a_drive_that_is_not_there(places: Path, changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_splits(recipe(**changes), progress_bar=False)
    for word in words:
        assert word in str(caught.value)


def test_a_list_of_labels_says_itself_what_is_left_out() -> None:
    with pytest.raises(ValueError, match="hold_out"):
        recipe(hold_out="A", split_list="list.txt")


def test_old_hashes_stay_and_a_drive_held_out_has_its_own() -> None:
    usual = recipe()
    without = {name: value for name, value in usual.to_dict().items() if name != "hold_out"}
    assert Recipe.from_dict(without).hash == usual.hash
    hashes = {usual.hash, recipe(hold_out="A").hash, recipe(hold_out="B").hash}
    assert len(hashes) == 3
    assert "--hold-out B" in recipe(hold_out="B").command()


def test_subsets_are_scored_over_their_own_pixels(places: Path) -> None:
    splits = load_splits(recipe(), progress_bar=False)
    network = runs.initial_network(recipe())
    network.attach_classifier(11)
    split, data = splits.evaluated["test"]
    session = Session(accelerator=make_accelerator("fp32", cpu=True))
    parts = splits.subsets["test"]
    score = evaluation.evaluate(network, split, data, session=session, subsets=parts)
    alone = evaluation.evaluate(network, split, data, session=session)
    assert (score.miou, score.iou, alone.subsets) == (alone.miou, alone.iou, {})
    for name, ids in parts.items():
        own = evaluation.evaluate(network, split, data.subset(sorted(ids)), session=session)
        assert score.subsets[name] == own
    # By hand: one matrix over the two unseen images, each at its own resolution.
    matrix = np.zeros((11, 11), dtype=np.int64)
    for index, scores in evaluation.score_maps(network, data, session=session):
        mask = split.mask(index).astype(np.int64)
        if data.ids[index][0] != "D":
            continue
        full = torch.nn.functional.interpolate(scores[None], size=mask.shape, mode="bilinear")
        guess = full[0].argmax(0).numpy()
        np.add.at(matrix, (mask[mask < 255], guess[mask < 255]), 1)
    assert score_confusion(torch.from_numpy(matrix)) == score.subsets["test_unseen"]


def test_a_row_holds_the_parts(run: tuple[Path, Path, ledger.Row]) -> None:
    _, results, row = run
    names = {"val", "test", "held_out", "test_seen", "test_unseen"}
    assert row["iou"].keys() == row["pixel_accuracy"].keys() == names
    assert all(0 <= row[f"miou_{name}"] <= 100 for name in names)
    assert ledger.read(ledger.ledger_path(results)) == [row]


@pytest.mark.parametrize("split", ["test", "held_out"])
def test_evaluate_prints_the_parts(
    split: str,
    run: tuple[Path, Path, ledger.Row],
    places: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _, row = run
    assert cli.main(["evaluate", str(folder), "--split", split, "--cpu", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert f"mIoU  {row[f'miou_{split}']:5.1f}" in shown
    unseen = f"{row['miou_test_unseen']:5.1f}  mIoU, test, other drives"
    assert (unseen in shown) == (split == "test")


def test_a_run_without_the_split_says_so(
    run: tuple[Path, Path, ledger.Row],
    tmp_path: Path,
    places: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "recipe.json").write_text(json.dumps(recipe().to_dict()))
    assert cli.main(["evaluate", str(copy), "--split", "held_out", "--quiet"]) == 1
    assert "it has val, test" in capsys.readouterr().err


def test_the_table_shows_rows_that_have_them() -> None:
    from tiny import ledger_row

    old = ledger_row(Recipe.from_dict(tiny_preset(0)), miou_test=9.0)
    new = ledger_row(Recipe.from_dict(tiny_preset(1)), miou_test_seen=31.0, miou_test_unseen=17.0)
    shown = tables([old, new], measures=("miou_test_seen", "miou_test_unseen"))
    assert "mIoU, test, drives of train" in shown
    assert "| 1 | 31.0 | – | 17.0 | – |" in shown
    with pytest.raises(ConfigError, match="miou_test_seen or miou_test_unseen"):
        tables([old], measures=("miou_test_seen", "miou_test_unseen"))


def tiny_preset(seed: int) -> dict[str, Any]:
    from segnb.recipe import preset

    return preset("camvid", "quick").replace(method="ce", seed=seed).to_dict()


def test_finished_runs_get_their_scores_by_drive(
    run: tuple[Path, Path, ledger.Row],
    tmp_path: Path,
    places: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    finished, _, row = run
    folder, results = tmp_path / finished.name, tmp_path / "results"
    shutil.copytree(finished, folder)
    old = {name: value for name, value in row.items() if "seen" not in name}
    for details in ("iou", "pixel_accuracy"):
        old[details] = {name: v for name, v in row[details].items() if "seen" not in name}
    (folder / "metrics.json").write_text(json.dumps(old))
    other = ledger_row(tiny_recipe("ce", seed=9))
    for one in (other, old):
        ledger.add(ledger.ledger_path(results), one)
    words = [str(folder), "--results", str(results), "--cpu"]
    assert by_drive.main(words) == 0
    assert ledger.read(ledger.ledger_path(results)) == [other, row]
    assert json.loads((folder / "metrics.json").read_text()) == row
    higher = {"miou_test": old["miou_test"] + 1, "iou": {**old["iou"], "test": []}}
    (folder / "metrics.json").write_text(json.dumps({**old, **higher}))
    assert by_drive.main(words) == 1
    assert "its row has" in capsys.readouterr().err


def test_camvids_drives() -> None:
    if not (data_root() / "CamVid").is_dir():
        pytest.skip("SEGNB_DATA holds no CamVid")
    count = {
        split: Counter(map(camvid.drive, datasets.load("camvid", split).ids))
        for split in ("train", "val", "test")
    }
    assert count == {
        "train": {"0016E5": 204, "0006R0": 101, "0001TP": 62},
        "val": {"0016E5": 101},
        "test": {"Seq05VD": 171, "0001TP": 62},
    }
