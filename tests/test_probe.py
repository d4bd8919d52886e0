"""What is measured of a network is measured once, and again where what was kept is damaged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_resume import train
from tiny import STEPS, Finished, tiny_recipe

from segnb import report
from segnb.evaluation import EmbeddingSample
from segnb.experiments import probe, runs
from segnb.experiments.probe import Probe
from segnb.experiments.splits import Splits, load_splits
from segnb.methods import MethodName
from segnb.recipe import Stage
from segnb.training import Session, make_accelerator

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread", "places")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every sample of embeddings that is taken in this process."""
    taken: list[int] = []
    true = probe.evaluation.sample_embeddings

    def counted(*parts: object, **options: object) -> object:
        taken.append(1)
        return true(*parts, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(probe.evaluation, "sample_embeddings", counted)
    return taken


def test_runs_that_share_a_network_measure_it_once(
    tmp_path: Path, measured: list[int], finished: Callable[..., Finished]
) -> None:
    one = train(tiny_recipe(), tmp_path)
    assert len(measured) == 6  # labelled and val, in three stages
    two = train(tiny_recipe(finetune=Stage(steps=3, batch=4, lr=0.05)), tmp_path)
    assert len(measured) == 8
    three = train(tiny_recipe("ce"), tmp_path)
    assert len(measured) == 10
    assert one is not None
    assert two is not None
    assert three is not None
    assert one["compactness"]["initial"] == two["compactness"]["initial"]
    assert one["compactness"]["initial"] == three["compactness"]["initial"]
    assert one["compactness"]["pretrained"] == two["compactness"]["pretrained"]
    # And what is taken is what a run alone measures and draws.
    alone = finished("ce")
    assert three["compactness"] == alone.row["compactness"]
    mine, theirs = (
        np.load(folder / "preview.npz")
        for folder in (runs.run_folder(tiny_recipe("ce"), tmp_path), alone.folder)
    )
    assert set(mine.files) == set(theirs.files)
    for name in mine.files:
        np.testing.assert_array_equal(mine[name], theirs[name])


def test_what_is_kept_is_told_by_weights_images_and_arithmetic(
    tmp_path: Path, measured: list[int]
) -> None:
    recipe = tiny_recipe()
    splits = load_splits(recipe, progress_bar=False)
    labelled, val = splits.labelled_set, splits.evaluated["val"][1]
    session = Session(accelerator=make_accelerator("fp32", cpu=True), folder=tmp_path / "run")
    network = runs.initial_network(recipe)
    before = 0

    def measure(*parts: object) -> bool:
        """Whether it was measured, not taken."""
        nonlocal before
        Probe(*parts).measure("initial", network)  # type: ignore[arg-type]
        more, before = len(measured) > before, len(measured)
        return more

    assert measure(labelled, val, session)
    assert not measure(labelled, val, session)
    masks = val.masks.clone()
    masks[0, 0, 0] ^= 1
    assert measure(labelled, val.with_masks(masks), session)
    assert measure(labelled.subset(labelled.ids[:-1]), val, session)
    bf16 = Session(accelerator=make_accelerator("bf16", cpu=True), folder=session.folder)
    assert measure(labelled, val, bf16)
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] += 1e-3
    assert measure(labelled, val, session)
    assert not measure(labelled, val, session)


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "other"])
def test_damage_is_measured_again(tmp_path: Path, measured: list[int], damage: str) -> None:
    whole = train(tiny_recipe("ce"), tmp_path)
    assert whole is not None
    for path in (tmp_path / "measured").iterdir():
        content = bytearray(path.read_bytes())
        if damage == "cut":
            del content[-200:]
        elif damage == "bit":
            content[len(content) // 2] ^= 1
        elif damage == "empty":
            content.clear()
        else:
            np.savez(path, other=np.zeros(3))
            continue
        path.write_bytes(content)
    measured.clear()
    again = train(tiny_recipe("ce", finetune=Stage(steps=STEPS - 1, batch=4, lr=0.05)), tmp_path)
    assert again is not None
    assert len(measured) == 4
    assert again["compactness"]["initial"] == whole["compactness"]["initial"]


@pytest.mark.parametrize("method", ["ce", "contrastive"])
def test_points_that_leave_no_labelled_cell_do_not_end_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: MethodName
) -> None:
    """Scribbles and points: whole images whose few labels fall between the measured cells."""
    recipe = tiny_recipe(method)
    true = load_splits

    def sparse(*parts: Any, **options: Any) -> Splits:
        splits = true(*parts, **options)
        masks = torch.full_like(splits.train.masks, 255)
        masks[:, 5:9, 5:9] = splits.train.masks[:, 5:9, 5:9]
        return dataclasses.replace(splits, train=splits.train.with_masks(masks))

    monkeypatch.setattr(runs, "load_splits", sparse)
    monkeypatch.setattr(
        probe.evaluation,
        "sample_embeddings",
        lambda network, data, **_: EmbeddingSample(
            torch.empty(0, network.feature_channels), torch.empty(0, dtype=torch.int64)
        ),
    )
    row = train(recipe, tmp_path)
    assert row is not None
    assert row["fisher"] is None
    assert row["probe_miou"] is None
    assert row["miou_val"] is not None
    with np.load(runs.run_folder(recipe, tmp_path) / "preview.npz") as preview:
        assert report.embedding_points(dict(preview)) == {}
