"""Runs side by side: the table and the figures of ``make reproduce``, and those of a ledger."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from segnb import datasets, plots
from segnb.errors import ConfigError, DataError
from segnb.files import write_atomic
from segnb.plots import Picture
from segnb.recipe import DatasetName, Tier
from segnb.results import ledger, previews, table
from segnb.results.method import Method, recipe_of
from segnb.results.overview import comparable, main_methods
from segnb.results.starts import starts
from segnb.results.step_map import step_map
from segnb.training.log import LogRow, read_log


def read_preview(row: table.Row, results: Path) -> Mapping[str, np.ndarray]:
    """The small arrays saved from a run: ``ids``, ``predictions``, ``labels``, ``embeddings_*``.

    Raises:
        DataError: A file is missing or damaged.
    """
    folder, name = results / "previews", ledger.file_name(row)
    try:
        return previews.read(folder, name)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is missing; {_again(row)}") from error
    except Exception as error:  # numpy, zipfile and zlib each raise their own
        raise DataError(
            f"the preview {name} in {folder} is damaged ({error}); {_again(row)}"
        ) from error


def _again(row: table.Row) -> str:
    return f"`{row['command']}` makes it again"


def _log(row: table.Row, results: Path) -> list[LogRow]:
    """The log of a row.

    Raises:
        DataError: It is missing or damaged.
    """
    return read_log(results / row["log"], remedy=_again(row), last=False)


def predictions(
    rows: Sequence[table.Row], results: Path, *, root: Path | None = None, most: int | None = None
) -> Picture:
    """Validation images, their masks, and the predictions of runs (:func:`plots.predictions`).

    Args:
        rows: Rows of one data set, one per method.
        results: Folder of the previews.
        root: Folder of the data sets.
        most: Show no more images than this; ``None`` shows all that the previews hold.

    Raises:
        DataError: A preview or the data set is missing.
    """
    previews = {Method.of(row).name: read_preview(row, results) for row in rows}
    ids = [str(one) for one in next(iter(previews.values()))["ids"][:most]]
    recipe = recipe_of(rows[0])
    split = datasets.load(recipe.dataset, "val", root=root, size=recipe.size)
    val = datasets.working_set(split, size=recipe.size, ids=ids)
    return plots.predictions(
        list(val.images),
        list(val.masks),
        {name: list(preview["predictions"][:most]) for name, preview in previews.items()},
        split.info,
    )


def comparison(
    rows: Sequence[table.Row], results: Path, *, root: Path | None = None
) -> dict[str, Picture]:
    """Figures that compare runs on one data set, one run per method.

    Args:
        rows: Rows of one data set at one number of labelled images. Of several seeds, the one
            that most methods have is shown.
        results: Folder of the ledger, the logs and the previews.
        root: Folder of the data sets.

    Returns:
        ``predictions``, ``loss_curves``, ``iou_per_class``, and ``embeddings`` where a
        contrastive run is among the rows.
    """
    shown = table.one_of_each_method(rows)
    info = datasets.info(recipe_of(shown[0]).dataset)
    logs = {Method.of(row): _log(row, results) for row in shown}
    figures = {
        "predictions": predictions(shown, results, root=root),
        "loss_curves": plots.loss_curves(logs),
        "iou_per_class": plots.iou_per_class(rows, info),
    }
    first = next((row for row in shown if row["method"] == "contrastive"), None)
    if first is not None and (points := embedding_points(read_preview(first, results))):
        figures["embeddings"] = plots.embedding_maps(points, info)
    return figures


#: Fewer pixels have no neighbours to be placed by.
_FEWEST_PIXELS = 4


def embedding_points(
    preview: Mapping[str, np.ndarray], *, seed: int = 0, perplexity: float = 30.0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """t-SNE positions of a run's pixel features at each stage, for the same pixels each time."""
    titles = {
        "initial": "before training",
        "pretrained": "after stage 1",
        "finetuned": "after stage 2",
    }
    points = {}
    for stage, title in titles.items():
        if f"embeddings_{stage}" in preview:
            embeddings = preview[f"embeddings_{stage}"].astype(np.float32)
            if len(embeddings) < _FEWEST_PIXELS:
                continue
            perplexity = min(perplexity, (len(embeddings) - 1) / 3)
            positions = plots.tsne(embeddings, seed=seed, perplexity=perplexity)
            points[title] = (positions, preview["labels"])
    return points


def write_report(rows: Sequence[ledger.Row], results: Path, *, root: Path | None = None) -> str:
    """Write the figures and the table beside the ledger; return the table."""
    for name, figure in comparison(rows, results, root=root).items():
        plots.save(figure, results / "figures" / f"{name}.png")
    text = table.results_table(rows)
    write_atomic(results / "table.md", text + "\n")
    return text


def ledger_figures(
    held: Sequence[ledger.Row],
    results: Path,
    *,
    dataset: DatasetName,
    tier: Tier,
    root: Path | None = None,
) -> dict[str, Picture]:
    """Every figure of one data set and tier that the ledger has rows for.

    Args:
        held: The ledger.
        results: The folder of the ledger.
        dataset: Which data set.
        tier: Which tier.
        root: Folder of the data sets.

    Returns:
        Curves and gains over the number of labelled images on every measured split; the
        temperature and the map of steps, where they were varied; both starts, where some runs
        start from ImageNet; cost, compactness, and the
        comparison at the number of labelled images that most methods were run with.

    Raises:
        ConfigError: No row is of the preset's own recipe.
    """
    title = datasets.title(dataset)
    own = [row for row in held if (row["dataset"], row["tier"]) == (title, tier)]
    # Of several data, the newest: a figure must not mix them. Without any, the error says what
    # the ledger holds instead.
    held = table.by_data(own)[-1] if own else held
    rows = main_methods(comparable(held, dataset=dataset, tier=tier))
    with_temperatures = main_methods(
        comparable(held, dataset=dataset, tier=tier, varied={"temperature": None})
    )
    compared = table.most_compared(rows)
    figures: dict[str, Picture] = {}
    for measure in get_args(table.Measure):
        if any(row.get(measure) is not None for row in rows):
            split = table.SPLITS[measure]
            figures[f"label_curve_{split}"] = plots.label_curve(rows, measure=measure)
            with contextlib.suppress(ConfigError):  # no baseline yet
                figures[f"gain_{split}"] = plots.gain(rows, measure=measure)
            with contextlib.suppress(ConfigError):  # no method was run at two temperatures
                figures[f"temperature_{split}"] = plots.temperature_curve(
                    with_temperatures, measure=measure
                )
    with contextlib.suppress(ConfigError):  # no map of steps yet
        found = step_map(held, dataset=dataset, tier=tier)
        for measure in get_args(table.Measure):
            if any(found.values("contrastive", *cell, measure=measure) for cell in found.cells):
                split = table.SPLITS[measure]
                figures[f"step_map_{split}"] = plots.step_map(found, measure=measure)
        for count in found.axis(0):
            figures[f"step_curves_{count}"] = plots.step_curves(found, count)
    with contextlib.suppress(ConfigError):  # no run from ImageNet
        both = starts(held, dataset=title, tier=tier)
        for measure in get_args(table.Measure):
            if any(row.get(measure) is not None for row in both):
                split = table.SPLITS[measure]
                figures[f"starts_{split}"] = plots.starts(both, measure=measure)
    return {
        **figures,
        "cost": plots.cost(table.beside_baselines(table.one_device(rows))),
        "compactness": plots.compactness_scatter(rows),
        "compactness_stages": plots.compactness_stages(compared),
        **comparison(compared, results, root=root),
    }
