"""A data set and a recipe so small that whole runs are tested in a second or two.

A pytest plugin: a test module that says ``pytest_plugins = ["tiny"]`` has these fixtures, and all
modules share the finished runs. (Test modules import it before pytest does: PYTEST_DONT_REWRITE.)
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segnb.experiments.runs import run, run_folder
from segnb.methods import MethodName
from segnb.recipe import Recipe, Stage, preset
from segnb.results import ledger

#: Images of each split; native height and width, which no recipe here works at.
COUNTS = {"train": 12, "val": 4, "test": 3}
NATIVE = (45, 60)

STEPS = 6

#: Other processes are forks of one server, which imports once what takes long to import.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "tiny",
        "segnb.cli",
        "segnb.experiments.cost",
        "segmentation_models_pytorch",
        "sklearn.linear_model",
        "sklearn.metrics",
        "sklearn.neighbors",
        "sklearn.pipeline",
        "torch._dynamo",
        "torchmetrics.classification",
    ]
)

#: Seconds after which processes are taken to wait for each other for ever.
PATIENCE = 100


def side_by_side(target: Callable[..., None], *arguments: tuple[Any, ...]) -> None:
    """Call ``target`` in as many processes at once as there are arguments; all must end well.

    They end without taking the interpreter down, as a fork does: gloo's threads outlive their
    group, and one that still held a tensor then would abort its process.
    """
    children = [SERVER.Process(target=target, args=of_one) for of_one in arguments]
    for child in children:
        child.start()
    for child in children:
        child.join(PATIENCE)
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
    assert codes == [0] * len(children)


def make_camvid(root: Path) -> Path:
    """The true layout with made images: upright bands of a few classes, each of its own colour."""
    colours = np.random.default_rng(0).integers(0, 256, (12, 3))
    for number, (split, count) in enumerate(COUNTS.items()):
        for index in range(count):
            draw = np.random.default_rng([number, index])
            bands = np.append(draw.permutation(11)[:5], 11)  # the last one is void
            mask = np.repeat(bands, NATIVE[1] // len(bands)).astype(np.uint8)
            mask = np.tile(mask, (NATIVE[0], 1))
            noise = draw.normal(0, 20, (*NATIVE, 3))
            image = np.clip(colours[mask] + noise, 0, 255).astype(np.uint8)
            for folder, pixels in ((split, image), (f"{split}annot", mask)):
                path = root / "CamVid" / folder / f"{split}_{index:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return root


def tiny_recipe(method: MethodName = "contrastive", **changes: Any) -> Recipe:
    """A recipe of a few steps of a narrow, shallow network in float32."""
    return preset("camvid", "smoke").replace(
        method=method,
        **{
            "size": (32, 48),
            "crop": (32, 32),
            "encoder_depth": 3,
            "decoder_channels": 16,
            "fraction": 0.5,
            "pretrain": Stage(steps=STEPS, batch=4, lr=0.1, warmup=1),
            "finetune": Stage(steps=STEPS, batch=4, lr=0.05, schedule="poly"),
            "precision": "fp32",
            **changes,
        },
    )


@dataclass(frozen=True)
class Finished:
    """A run that went to its end without a break."""

    recipe: Recipe
    folder: Path
    row: dict[str, Any]
    results: Path


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data root."""
    return make_camvid(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture
def places(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data and cache are found there, by this process and those it starts."""
    monkeypatch.setenv("SEGNB_DATA", str(tiny_root))
    monkeypatch.setenv("SEGNB_CACHE", str(tiny_root / ".cache"))
    # Many small products are slower on several threads, and slower still on a busy machine.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tiny_root


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The same sums in the same order, and no threads that get in each other's way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def finished(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Finished]:
    """``finished(method, **changes)``: a finished run, trained once and shared."""
    home = tmp_path_factory.mktemp("finished")
    held: dict[str, Finished] = {}

    def finish(method: MethodName = "contrastive", **changes: Any) -> Finished:
        recipe = tiny_recipe(method, **changes)
        if recipe.hash not in held:
            results = home / "results"
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("SEGNB_CACHE", str(tiny_root / ".cache"))
                row = run(
                    recipe,
                    runs=home / "runs",
                    results=results,
                    root=tiny_root,
                    cpu=True,
                    progress_bar=False,
                )
            torch.set_num_threads(threads)
            assert row is not None
            held[recipe.hash] = Finished(recipe, run_folder(recipe, home / "runs"), row, results)
        return held[recipe.hash]

    return finish


def ledger_row(recipe: Recipe, **values: Any) -> ledger.Row:
    """A complete row that no run made; for the ledger's own tests."""
    row: ledger.Row = dict.fromkeys(ledger.REQUIRED)
    row.update(
        fraction=None if recipe.split_list else recipe.fraction,
        iou={},
        steps=2,
        seconds=1.0,
        device="a processor",
        version="0.1.0",
        dataset=recipe.dataset,
        tier=recipe.tier,
        method=recipe.method,
        seed=recipe.seed,
        labelled=6,
        miou_val=10.0,
        recipe_hash=recipe.hash,
        recipe=recipe.to_dict(),
        changes=recipe.changes(),
    )
    return {**row, **values}
