"""The registry: a data set is one entry, and everything asks it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

import pytest
from own_folder import make_folder

from segnb import datasets
from segnb.datasets import DatasetInfo, Entry
from segnb.datasets.entry import PHOTOGRAPHS
from segnb.datasets.fetch import fetch
from segnb.doctor import checks
from segnb.errors import DataError
from segnb.experiments.runs import run_folder
from segnb.recipe import Tier, preset

LEAVES = Entry(
    name="leaves",
    info=lambda: DatasetInfo(
        name="leaves",
        class_names=("soil", "leaf"),
        palette=((90, 60, 30), (30, 160, 60)),
        licence="CC0.",
        homepage="https://example.org/leaves",
    ),
    open=lambda folder, split, size: [folder / split, size],  # type: ignore[arg-type,return-value]
    presets={**PHOTOGRAPHS, "smoke": {**PHOTOGRAPHS["smoke"], "pretrain": {"steps": 3}}},
    how="ask a gardener; put them there",
    folder="garden/leaves",
    splits=("train", "val"),
)


@pytest.fixture
def leaves(monkeypatch: pytest.MonkeyPatch) -> Entry:
    monkeypatch.setitem(datasets._ENTRIES, "leaves", LEAVES)
    return LEAVES


@pytest.mark.usefixtures("leaves")
def test_one_entry_is_all_that_a_data_set_needs(tmp_path: Path) -> None:
    assert "leaves" in datasets.names()
    assert datasets.info("leaves").num_classes == 2

    recipe = preset("leaves", "smoke")
    assert (recipe.dataset, recipe.size, recipe.pretrain.steps) == ("leaves", (64, 64), 3)
    assert recipe.pretrain.warmup == preset("voc", "smoke").pretrain.warmup
    assert recipe.changes() == {}

    folder = tmp_path / "garden" / "leaves"
    with pytest.raises(DataError, match=f"there is no folder {folder}; ask a gardener"):
        datasets.load("leaves", "train", root=tmp_path)
    with pytest.raises(DataError, match="leaves has no test split"):
        datasets.load("leaves", "test", root=tmp_path)
    with pytest.raises(DataError, match=f"ask a gardener; put them there; 'there' is {folder}"):
        fetch(LEAVES, root=tmp_path, say=lambda _: None)

    folder.mkdir(parents=True)
    assert datasets.load("leaves", "val", root=tmp_path, size=(3, 4)) == [folder / "val", (3, 4)]
    found = next(check for check in checks(tmp_path) if check.name == "leaves")
    assert found.found == f"{folder}: 2 train, 2 val"


@pytest.mark.parametrize("name", datasets.names())
def test_entries_are_whole(name: str) -> None:
    entry = datasets.get(name)
    assert entry.name == name == entry.info().name
    assert set(entry.presets) == set(get_args(Tier))
    assert "train" in entry.splits
    assert "val" in entry.splits
    if entry.part_of is not None:
        assert datasets.get(entry.part_of).folder == entry.folder
    if entry.archive is not None:
        assert entry.archive.sha1 or entry.archive.check, "nothing checks what was downloaded"
        assert entry.archive.mirrors


def test_a_folder_describes_itself_with_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "shapes")
    monkeypatch.chdir(tmp_path)
    assert datasets.get("shapes") is datasets.get("shapes")  # a registered name comes first
    mine = datasets.get("./shapes")
    assert (mine.folder, mine.title, mine.splits) == (str(folder), "leaves", ("train", "val"))
    said: list[str] = []
    fetch(mine, say=said.append)
    assert said[-1].endswith("is there already: 6 train, 2 val.")
    # A run of it lies among the runs, wherever the folder is.
    run = run_folder(preset(str(mine.folder)), tmp_path / "runs")
    assert run.parent == tmp_path / "runs"
    assert run.name.startswith("leaves-quick-")
    # Its rows would be taken for those of the registered data set.
    make_folder(folder, name="camvid")
    with pytest.raises(DataError, match="name is 'camvid', that of a registered data set"):
        datasets.get("./shapes")


def test_an_entry_is_a_record() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LEAVES.name = "other"  # type: ignore[misc]
