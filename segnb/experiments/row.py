"""A finished run as a row of the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import segnb
from segnb.device import describe
from segnb.experiments.splits import Splits
from segnb.metrics.segmentation import Score
from segnb.recipe import Recipe
from segnb.results import ledger
from segnb.training import Session
from segnb.views import CELL_RULE


def row_of(
    recipe: Recipe,
    splits: Splits,
    session: Session,
    *,
    begun: dict[str, Any],
    about: dict[str, Any],
    scores: dict[str, Score],
    measured: dict[str, dict[str, float | None]],
) -> ledger.Row:
    """The row of a finished run.

    Args:
        recipe: The run's recipe.
        splits: Its images.
        session: What it was measured in.
        begun: Its ``environment.json``, written when it began.
        about: What is stored with its weights: stages, loss back end, fingerprint of the data.
        scores: The score of each reported split and part of one, by name.
        measured: Compactness by the state of the network: initial, pretrained, finetuned.
    """
    contrastive = recipe.uses_contrastive
    machine = describe(session.device)
    stages = about["stages"].values()
    return {
        "dataset": recipe.dataset_title,
        "tier": recipe.tier,
        "method": recipe.method,
        "form": recipe.form if contrastive else None,
        "scope": recipe.scope if contrastive else None,
        "fraction": recipe.fraction if recipe.split_list is None else None,
        "labelled": len(splits.labelled),
        "seed": recipe.seed,
        "temperature": recipe.temperature if contrastive else None,
        "miou_test": None,
        **score_fields(scores),
        **measured["finetuned"],
        "compactness": measured,
        "cell_rule": CELL_RULE,
        "steps": sum(stage["step"] for stage in stages),
        "seconds": round(sum(stage["seconds"] for stage in stages), 1),
        "stages": about["stages"],
        "image_passes": recipe.image_passes(),
        "stage1": about["stage1"],
        "loss_backend": about["loss_backend"],
        "device": machine.name,
        "processes": session.accelerator.num_processes,
        "torch": machine.torch,
        "precision": session.precision,
        "recipe_hash": recipe.hash,
        "recipe": recipe.to_dict(),
        "changes": recipe.changes(),
        "command": recipe.command(),
        "started": begun["started"],
        # The commit of the code that was loaded then; the checkout may have changed since.
        "commit": begun["commit"],
        "version": segnb.__version__,
        "log": f"logs/{recipe.hash}.jsonl",
        **({} if about["data"] is None else {"data": about["data"]}),
    }


def score_fields(scores: Mapping[str, Score]) -> dict[str, Any]:
    """The fields of scores in a row: ``miou_NAME`` of each split or part, and the details."""
    ious = {
        name: [None if value is None else round(value, 2) for value in score.iou]
        for name, score in scores.items()
    }
    return {
        **{f"miou_{name}": round(score.miou, 3) for name, score in scores.items()},
        "iou": ious,
        "pixel_accuracy": {k: round(s.pixel_accuracy, 3) for k, s in scores.items()},
    }
