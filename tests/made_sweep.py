"""A sweep that nobody ran: rows and previews in the true layout, quick to make, for widgets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segnb import datasets
from segnb.recipe import Recipe, preset
from segnb.results import ledger

FRACTIONS = (1 / 32, 1 / 16, 1 / 8)
TEMPERATURES = (0.07, 0.2)
SEEDS = (0, 1)

#: The recipe that the sweep varies.
BASE = preset("shapes", "smoke")

_PIXELS = 8


def write_sweep(results: Path) -> list[ledger.Row]:
    """Write the sweep's ledger and previews; its rows.

    The corner of the smallest fraction and the largest temperature is left out.
    """
    recipes = [
        BASE.replace(method=method, fraction=fraction, temperature=temperature, seed=seed)
        for fraction in FRACTIONS
        for temperature in TEMPERATURES
        for method in ("ce", "ce_long", "contrastive")
        for seed in SEEDS
    ]
    corner = (FRACTIONS[0], TEMPERATURES[-1])
    rows = {
        recipe.hash: made_row(recipe)
        for recipe in recipes
        if recipe.method != "contrastive" or (recipe.fraction, recipe.temperature) != corner
    }
    write_rows(results, [*rows.values()])
    return [*rows.values()]


def write_rows(results: Path, rows: Sequence[ledger.Row]) -> None:
    """Write rows of the embedded data set, each with a preview."""
    (results / "previews").mkdir(parents=True)
    val = datasets.load("shapes", "val", size=BASE.size)
    ids = val.ids[:3]
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(val.info.num_classes, dtype=np.uint8), _PIXELS)
    for row in rows:
        ledger.add(ledger.ledger_path(results), row)
        wrong = draw.random((3, *BASE.size)) < 0.2
        predictions = np.where(wrong, 0, np.stack([val.mask(i) for i in range(3)]))
        stages = ["initial", "pretrained", "finetuned"]
        if row["method"] not in ("contrastive", "ce_pretrained"):
            stages.remove("pretrained")
        np.savez_compressed(
            results / "previews" / f"{row['recipe_hash']}.npz",
            ids=np.array(ids),
            predictions=predictions.astype(np.uint8),
            labels=labels,
            **{
                f"embeddings_{stage}": draw.normal(size=(len(labels), 16)).astype(np.float16)
                for stage in stages
            },
        )


def write_step_map(results: Path) -> None:
    """Add rows of three lengths of stage 2, with three seeds: a small map of steps."""
    base = preset("camvid", "quick").replace(form="official")
    for steps in (25, 100, 1000):
        for method, ahead in (("ce", 0.0), ("contrastive", 500 / steps), ("ce_pretrained", 3.0)):
            for seed in (0, 1, 2):
                stage = dataclasses.replace(base.finetune, steps=steps)
                row = made_row(base.replace(method=method, seed=seed, finetune=stage))
                row["miou_val"] += ahead
                ledger.add(ledger.ledger_path(results), row)


def made_row(recipe: Recipe) -> ledger.Row:
    """A row of a recipe, with a made-up mIoU on val."""
    row: ledger.Row = dict.fromkeys(ledger.REQUIRED)
    contrastive = recipe.uses_contrastive
    row.update(
        dataset=recipe.dataset,
        tier=recipe.tier,
        method=recipe.method,
        form=recipe.form if contrastive else None,
        scope=recipe.scope if contrastive else None,
        temperature=recipe.temperature if contrastive else None,
        fraction=recipe.fraction,
        labelled=round(512 * recipe.fraction),
        seed=recipe.seed,
        iou={},
        steps=2,
        seconds=1.0,
        device="a processor",
        version="0.1.0",
        miou_val=10 + 40 * recipe.fraction + recipe.seed,
        recipe_hash=recipe.hash,
        recipe=recipe.to_dict(),
        changes=recipe.changes(),
        command=recipe.command(),
    )
    return row
