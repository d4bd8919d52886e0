"""The films at the top of the README.

::

    python tools/film.py forces      pixels on a circle under four losses, as in notebook 00
    python tools/film.py gathering   stage 1 gathers a beach and a street (about ten minutes)

``gathering`` trains stage 1 on the embedded data set and on CamVid, with the quick tier's recipes
and seed 0, and takes validation pixels through the projection head as it goes. What it saw is kept
in ``runs/film``, so that a second call only draws.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import torch

from segnb import circle, datasets, evaluation
from segnb.experiments.runs import initial_network
from segnb.experiments.splits import load_splits
from segnb.files import write_atomic
from segnb.plots import Film, circle_film
from segnb.plots.gathering import Gathering, gathering_film
from segnb.recipe import Recipe, preset
from segnb.training import Session, make_accelerator, pretrain
from segnb.training.log import LogRow

PROJECT = Path(__file__).resolve().parent.parent
FIGURES = PROJECT / "results" / "figures"
KEPT = PROJECT / "runs" / "film"
LOSSES: tuple[circle.Loss, ...] = ("infonce", "paper", "official", "cross-entropy")

#: Looks at the embeddings during stage 1: more at first, where most happens.
MOMENTS = 22

#: Validation pixels of each class.
PIXELS = 45


def forces() -> Film:
    """Pixels on a circle, and the forces of four losses on them."""
    scene = circle.scatter(classes=3, pixels=4, seed=1)
    films = [
        (loss, circle.train(scene, loss, steps=240, temperature=0.3, rate=0.6)) for loss in LOSSES
    ]
    return circle_film(films, temperature=0.3)


def gathering() -> Film:
    """Stage 1 on drawn beaches and on photographs of streets."""
    recipes = {
        "beaches (shapes), 16 labelled": preset("shapes").replace(fraction=1 / 32),
        "streets (CamVid), 46 labelled": preset("camvid").replace(form="official", fraction=1 / 8),
    }
    return gathering_film([kept(recipe, title) for title, recipe in recipes.items()])


def kept(recipe: Recipe, title: str) -> Gathering:
    """What was seen of a recipe's stage 1; it is trained if that is not kept yet."""
    path = KEPT / f"{recipe.hash}.npz"
    if not path.exists():
        seen = watch(recipe, title)
        steps, units = zip(*seen.moments, strict=True)
        held = io.BytesIO()
        np.savez_compressed(held, labels=seen.labels, steps=steps, units=np.float16(units))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, held.getvalue())
    with np.load(path) as saved:
        moments = list(zip(saved["steps"].tolist(), saved["units"].astype(float), strict=True))
        return Gathering(title, datasets.info(recipe.dataset), saved["labels"], moments)


def watch(recipe: Recipe, title: str) -> Gathering:
    """Train stage 1, and take the same validation pixels through the head on the way."""
    splits = load_splits(recipe)
    val = splits.evaluated["val"][1]
    network = initial_network(recipe)
    network.attach_projection()
    steps = recipe.pretrain.steps
    wanted = set((np.linspace(0, 1, MOMENTS) ** 2 * steps / 10).round().astype(int) * 10)
    moments = []
    labels = np.empty(0, dtype=np.int64)

    def look(step: int) -> None:
        nonlocal labels
        session = Session(accelerator=accelerator)
        pixels = evaluation.sample_embeddings(network, val, session=session, per_class=PIXELS)
        with torch.inference_mode():
            columns = pixels.embeddings.T[None, :, :, None].to(session.device)
            unit = network.head(columns, None)[0, :, :, 0].T.float().cpu().numpy()
        labels = pixels.labels.numpy()
        moments.append((step, unit))
        network.train()

    def on_log(row: LogRow) -> None:
        if row["step"] in wanted:
            look(row["step"])

    accelerator = make_accelerator(recipe.precision)
    look(0)
    pretrain(
        network,
        splits.labelled_set,
        recipe,
        session=Session(accelerator=accelerator, on_log=on_log),
    )
    # Whatever steps the log has, every panel has as many frames.
    chosen = np.linspace(0, len(moments) - 1, MOMENTS).round().astype(int)
    return Gathering(title, val.info, labels, [moments[i] for i in chosen])


def main(arguments: list[str] | None = None) -> int:
    """Write a film."""
    parser = argparse.ArgumentParser(prog="tools/film.py", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("film", choices=["forces", "gathering"])
    name = parser.parse_args(arguments).film
    film = forces() if name == "forces" else gathering()
    write_atomic(FIGURES / f"{name}.png", film.png)
    print(f"{name}.png: {film.alt}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
