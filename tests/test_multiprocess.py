"""Two processes on one processor, over gloo."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import side_by_side, tiny_recipe

from segnb.datasets import WorkingSet
from segnb.errors import SegnbError
from segnb.experiments import runs
from segnb.models import SegmentationNetwork
from segnb.recipe import Recipe, Stage
from segnb.results import ledger
from segnb.training import loop, session
from segnb.training.log import read_log

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("places")


def work(environment: dict[str, str], folder: Path, recipes: list[Recipe], stop_after: int) -> None:
    """One of the processes: run recipes, and keep what it held at the end."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    loop.LOG_EVERY = 2
    rank = int(environment["RANK"])
    networks: list[SegmentationNetwork] = []
    seen: list[int] = []
    steps = 0
    build, train = runs.initial_network, runs.finetune

    def built(recipe: Recipe) -> SegmentationNetwork:
        networks.append(build(recipe))
        return networks[-1]

    def trained(network: SegmentationNetwork, data: WorkingSet, *rest: Any, **named: Any) -> Any:
        seen.append(int(data.masks.long().sum()))
        return train(network, data, *rest, **named)

    def should_stop() -> bool:
        # One process alone is asked, and goes on being asked.
        nonlocal steps
        steps += 1
        return rank == 1 and 0 < stop_after <= steps

    runs.initial_network = built
    runs.finetune = trained
    said: list[Any] = []
    for recipe in recipes:
        try:
            row = runs.run(
                recipe,
                runs=folder / "runs",
                results=folder / "results",
                cpu=True,
                progress_bar=False,
                should_stop=should_stop,
            )
            said.append(row and row["processes"])
        except SegnbError as error:
            said.append(type(error).__name__)
    states = [network.state_dict() for network in networks]
    group = torch.distributed.group.WORLD
    assert group is not None
    # What is public tells no timeout.
    patience = group._get_backend(torch.device("cpu")).options._timeout.total_seconds()
    held = {"states": states, "masks": seen, "said": said, "patience": patience}
    torch.save(held, folder / f"rank{rank}.pt")


def launch(folder: Path, *recipes: Recipe, stop_after: int = 0) -> list[dict[str, Any]]:
    """Run recipes in two processes; what each of them held at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    group |= {name: os.environ[name] for name in ("SEGNB_DATA", "SEGNB_CACHE")}
    side_by_side(
        work,
        *(
            (
                {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                folder,
                list(recipes),
                stop_after,
            )
            for rank in (0, 1)
        ),
    )
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    """Contrastive, pseudo-labels (which must be alike in both), and a batch that does not part."""
    stage = Stage(steps=3, batch=4, lr=0.05)
    recipes = [tiny_recipe(m, pretrain=stage, finetune=stage) for m in ("contrastive", "pseudo")]
    odd = tiny_recipe("ce", finetune=Stage(steps=3, batch=3))
    first, second = launch(tmp_path, *recipes, odd)
    assert first["said"] == second["said"] == [2, 2, "ConfigError"]
    assert len(first["states"]) == 4  # one, two for pseudo-labels, one that was refused
    for one, other in zip(first["states"], second["states"], strict=True):
        assert same(one, other)
    assert first["masks"] == second["masks"]  # both learn from the same pseudo-labels
    # The first evaluates alone, which at full size takes longer than the default.
    assert first["patience"] == second["patience"] == session.PATIENCE.total_seconds()

    rows = ledger.read(tmp_path / "results" / "ledger.jsonl")
    assert [row["recipe_hash"] for row in rows] == [recipe.hash for recipe in recipes]
    for recipe, row in zip(recipes, rows, strict=True):
        log = read_log(runs.run_folder(recipe, tmp_path / "runs") / "log.jsonl")
        marks = [(one["stage"], one["step"]) for one in log]
        assert len(set(marks)) == len(marks)  # one process writes
        assert row["image_passes"] == recipe.image_passes()


def test_one_process_is_asked_to_stop_and_both_do(tmp_path: Path) -> None:
    recipe = tiny_recipe("ce", finetune=Stage(steps=6, batch=4))
    # They ask each other at every second step here.
    first, second = launch(tmp_path, recipe, stop_after=1)
    assert first["said"] == second["said"] == ["TrainingStopped"]
    folder = runs.run_folder(recipe, tmp_path / "runs")
    assert torch.load(folder / "finetune.pt", weights_only=True)["step"] == 2
    first, second = launch(tmp_path, recipe)
    assert first["said"] == second["said"] == [2]
    assert same(first["states"][0], second["states"][0])

    whole = tmp_path / "whole"
    whole.mkdir()
    never_stopped, _ = launch(whole, recipe)
    assert same(first["states"][0], never_stopped["states"][0])
