"""All tables of a ledger, for each data set and tier."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence

from segnb import datasets
from segnb.errors import ConfigError
from segnb.recipe import Recipe, preset
from segnb.results import ledger
from segnb.results.method import recipe_of
from segnb.results.table import (
    MEASURE_NAMES,
    Measure,
    MeasuredSplit,
    brief_table,
    classes_table,
    each_run_once,
    gains_table,
    results_table,
    select,
)


def tables(
    rows: Sequence[ledger.Row],
    *,
    dataset: str | None = None,
    tier: str | None = None,
    classes: MeasuredSplit | None = None,
    measures: Sequence[Measure] = ("miou_val", "miou_test"),
    brief: bool = False,
) -> str:
    """Markdown: for each data set and tier the comparison of methods.

    Only runs of the presets' own recipes are compared, with any seed, fraction, method, form,
    scope and map of the loss (:func:`comparable`).

    Args:
        rows: The ledger.
        dataset: Only this data set.
        tier: Only this tier.
        classes: Show the IoU of each class on this split, in place of mIoU and gains.
        measures: Show these mIoU; rows that have none of them are left out.
        brief: One line a number of labelled images, on the last of the measures that there is.

    Raises:
        ConfigError: Nothing to show.
    """
    # Not every data set has a test split with public labels.
    fields = [f"miou_{classes}"] if classes else measures
    chosen = [
        row
        for row in comparable(rows, dataset=dataset, tier=tier)
        if any(row.get(name) is not None for name in fields)
    ]
    if not chosen:
        raise ConfigError(f"none of these runs has {' or '.join(fields)}")
    parts: list[str] = []
    for name, size in sorted({(row["dataset"], row["tier"]) for row in chosen}):
        these = select(chosen, dataset=name, tier=size)
        title = f"**{name}**, {size} tier"
        if brief:
            measure = [m for m in measures if any(row.get(m) is not None for row in these)][-1]
            with contextlib.suppress(ConfigError):  # nothing to compare
                made = brief_table(these, measure=measure)
                parts.append(f"{title}, {MEASURE_NAMES[measure]} (%)\n\n{made}")
        elif classes is None:
            parts.append(f"{title}\n\n{results_table(these, measures=measures)}")
            with contextlib.suppress(ConfigError):  # nothing to compare
                gained = gains_table(these, measures=measures)
                parts.append("Gains, paired by seed (95 % interval):\n\n" + gained)
        else:
            names = datasets.info(these[0]["dataset"]).class_names
            by_class = classes_table(these, names, split=classes)
            parts.append(f"{title}, IoU on {classes}, %\n\n{by_class}")
    return "\n\n".join(parts)


#: Fields of a recipe that differ between compared runs; and the requested arithmetic, since
#: ``auto`` means another one on another machine.
_COMPARED = ("method", "seed", "fraction", "form", "scope", "loss_size", "precision")


def comparable(
    rows: Sequence[ledger.Row],
    *,
    dataset: str | None = None,
    tier: str | None = None,
    varied: Collection[str] = (),
) -> list[ledger.Row]:
    """Rows of the presets' own recipes, which the comparison of methods is made of.

    What a run did counts, not how it was requested: cross-entropy with the same compute is one run
    however the two stages of the others share that compute. Runs of it without any colour
    distortion count too: distortion can hurt, and would make the baseline weak. A run that was
    repeated in another arithmetic counts once (:func:`~segnb.results.table.each_run_once`).

    Args:
        rows: The ledger.
        dataset: Only this data set.
        tier: Only this tier.
        varied: Fields of the recipe that may differ from the preset as well.

    Raises:
        ConfigError: There are none.
    """
    chosen = [
        row
        for row in rows
        if dataset in (None, row["dataset"])
        and tier in (None, row["tier"])
        and _is_preset(recipe_of(row), varied)
    ]
    if not chosen:
        raise ConfigError("the ledger holds no runs to make this of; `segnb sweep` adds some")
    return each_run_once(chosen)


def _is_preset(recipe: Recipe, varied: Collection[str]) -> bool:
    base = preset(recipe.dataset, recipe.tier)
    same = base.replace(**{name: getattr(recipe, name) for name in (*_COMPARED, *varied)})
    allowed = {same.hash}
    if recipe.kind.compute_of:
        allowed.add(same.replace(distortion=0).hash)
    return recipe.hash in allowed
