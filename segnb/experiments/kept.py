"""Trained networks that come with the repository, in half precision.

A kept network lies in a folder like a run's, so whatever takes a run's folder takes it:
:func:`segnb.experiments.runs.load_network`, ``segnb evaluate`` and ``segnb predict``.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from segnb import datasets
from segnb.datasets import WorkingSet
from segnb.errors import ConfigError
from segnb.experiments.folder import read_recipe, read_row
from segnb.experiments.runs import load_network
from segnb.files import write_json
from segnb.results import ledger
from segnb.training.checkpoint import read_weights, save_weights


def keep(folder: Path, into: Path) -> Path:
    """Copy a finished run's networks after both stages, in half precision.

    BatchNorm's statistics stay in float32.

    Args:
        folder: The folder of a finished run.
        into: Folder of the kept networks; there is one of each data set.

    Returns:
        The folder of the copy.

    Raises:
        ConfigError: The run is not finished.
        DataError: The folder contains no run, or a file of it is damaged.
    """
    recipe = read_recipe(folder)
    if not (folder / "metrics.json").is_file():
        command = f"segnb finetune {shlex.quote(str(folder))}"
        raise ConfigError(f"{folder} is not finished; `{command}` finishes it")
    row = read_row(folder / "metrics.json", recipe)
    target = into / recipe.dataset_title
    for name in ("pretrained", "weights") if recipe.has_stage1 else ("weights",):
        network = load_network(folder, weights=name)
        for parameter in network.parameters():
            parameter.data = parameter.data.half()
        _, about = read_weights(folder / f"{name}.safetensors", remedy="train the run again")
        save_weights(target / f"{name}.safetensors", network, **about)
    write_json(target / "recipe.json", recipe.to_dict())
    write_json(target / "metrics.json", row)
    return target


def find(into: Path, dataset: str) -> Path:
    """The folder of the kept network of a data set; of ``shapes`` where that has none."""
    folder = into / dataset
    return folder if folder.is_dir() else into / "shapes"


def unseen(folder: Path, *, root: Path | None = None) -> WorkingSet:
    """The validation images of a kept network, at its working resolution.

    Raises:
        DataError: The folder contains no kept network, or the images are missing.
    """
    recipe = read_recipe(folder)
    val = datasets.load(recipe.dataset, "val", root=root, size=recipe.size)
    return datasets.working_set(val, size=recipe.size)


def row_of(folder: Path) -> ledger.Row:
    """The ledger row of a kept network.

    Raises:
        DataError: The folder contains no kept network, or its row is damaged.
    """
    return read_row(folder / "metrics.json", read_recipe(folder))
