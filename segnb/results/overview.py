"""All tables of a ledger, for each data set and tier."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from segnb import datasets
from segnb.axes import changed, value_of
from segnb.errors import ConfigError
from segnb.recipe import Recipe, flat, preset
from segnb.results import ledger
from segnb.results.compactness import correlations_table, fisher_table
from segnb.results.method import Method, recipe_of
from segnb.results.table import (
    MEASURE_NAMES,
    OTHER_SEEDS,
    SPLITS,
    Measure,
    Row,
    brief_table,
    by_data,
    classes_table,
    each_run_once,
    gains_table,
    results_table,
    same_seeds,
    select,
)
from segnb.words import counted

#: Fields of a recipe and the values that runs have there instead of the preset's; ``None`` stands
#: for any value.
Varied: TypeAlias = Mapping[str, Collection[Any] | None]

_NOTHING: Varied = MappingProxyType({})

#: What tables can say of a set of runs: the means and gains of every method; one line per number of
#: labelled images with three methods and two gains; the IoU of each class; how far each stage
#: gathers the classes, and whether tighter classes go along with a higher mIoU. ``brief`` and
#: ``classes`` show the last of the measures that has values.
Shown: TypeAlias = Literal["comparison", "brief", "classes", "compactness"]


def tables(
    rows: Sequence[ledger.Row],
    *,
    dataset: str | None = None,
    tier: str | None = None,
    show: Shown = "comparison",
    measures: Sequence[Measure] = ("miou_val", "miou_test"),
    varied: Varied = _NOTHING,
) -> str:
    """The comparison of methods for each data set and tier, in Markdown.

    Only runs of the presets' own recipes are compared, with any seed, fraction, method, form,
    scope and map of the loss (:func:`comparable`).

    Args:
        rows: The ledger.
        dataset: Only this data set.
        tier: Only this tier.
        show: What the tables say of these runs; see :data:`Shown`.
        measures: Show these mIoUs; rows that have none of them are left out.
        varied: Fields with other values than the preset's; see :func:`comparable`.

    Raises:
        ConfigError: There is nothing to show.
    """
    found = comparable(rows, dataset=dataset, tier=tier, varied=varied)
    chosen = [row for row in found if _has(row, measures)]
    if not chosen:
        raise ConfigError(f"none of these runs has {' or '.join(measures)}")
    parts: list[str] = []
    for name, size in sorted({(row["dataset"], row["tier"]) for row in chosen}):
        title = ", ".join([f"**{name}**, {size} tier", *map(_said, varied.items())])
        data = by_data(select(chosen, dataset=name, tier=size))
        for number, these in enumerate(data, 1):
            which = f", data {number} of {len(data)} (files differ; the newest last)"
            parts += _PARTS[show](title + which * (len(data) > 1), these, measures)
    if not parts:
        lacking = {"brief": "has a baseline to compare with", "compactness": "measured compactness"}
        raise ConfigError(f"none of these {len(chosen)} runs {lacking[show]}")
    return "\n\n".join(parts)


def _said(varied: tuple[str, Collection[Any] | None]) -> str:
    """A field and its values in words: ``finetune.steps 25 or 50``."""
    name, values = varied
    words = ["none" if value is None else str(value) for value in values or ("any",)]
    return f"{name} {' or '.join(words)}"


def _has(row: Row, measures: Sequence[Measure]) -> bool:
    return any(row.get(measure) is not None for measure in measures)


def _held(rows: Sequence[Row], measures: Sequence[Measure]) -> list[Measure]:
    """The measures that any row has: not every data set has a test split with public labels."""
    return [measure for measure in measures if any(_has(row, [measure]) for row in rows)]


def _comparison(title: str, rows: Sequence[Row], measures: Sequence[Measure]) -> list[str]:
    results = results_table(rows, measures=measures)
    parts = [f"{title}\n\n{results}"]
    held = [row for row in rows if _has(row, measures)]
    if apart := len(held) - len(same_seeds(held, _held(held, measures)[0])):
        parts.append(
            f"Means are over the seeds that the methods share; {counted(apart, 'run')} "
            f"with other seeds {'count' if apart > 1 else 'counts'} in the gains alone."
        )
    if OTHER_SEEDS in results:
        parts.append(
            f"Where the number of seeds is marked {OTHER_SEEDS}, a method has none of the "
            "seeds that the rest share: its gains can be compared, its means can't."
        )
    with contextlib.suppress(ConfigError):  # nothing to compare
        gained = gains_table(rows, measures=measures)
        parts.append("Gains, paired by seed (95 % interval):\n\n" + gained)
    return parts


def _brief(title: str, rows: Sequence[Row], measures: Sequence[Measure]) -> list[str]:
    measure = _held(rows, measures)[-1]
    with contextlib.suppress(ConfigError):  # nothing to compare
        lines = brief_table(rows, measure=measure)
        return [f"{title}, {MEASURE_NAMES[measure]} (%)\n\n{lines}"]
    return []


def _classes(title: str, rows: Sequence[Row], measures: Sequence[Measure]) -> list[str]:
    measure = _held(rows, measures)[-1]
    names = datasets.info(recipe_of(rows[0]).dataset).class_names
    lines = classes_table(rows, names, measure=measure)
    return [f"{title}, IoU on {SPLITS[measure]}, %\n\n{lines}"]


def _compactness(title: str, rows: Sequence[Row], measures: Sequence[Measure]) -> list[str]:
    parts = []
    if fisher := fisher_table(rows):
        parts.append(f"{title}, Fisher ratio (lowest to highest)\n\n{fisher}")
    if ranked := correlations_table(rows, measures=measures):
        legend = "Rank correlation with mIoU, in brackets what chance gives, bold beyond it:"
        parts.append(f"{legend}\n\n{ranked}")
    return parts


#: What writes the tables of one data set, tier and fingerprint, from its title, rows and measures.
_PARTS: Mapping[Shown, Callable[[str, Sequence[Row], Sequence[Measure]], list[str]]] = (
    MappingProxyType(
        {
            "comparison": _comparison,
            "brief": _brief,
            "classes": _classes,
            "compactness": _compactness,
        }
    )
)


#: Fields of a recipe that may differ between compared runs. Precision is one of them, because
#: ``auto`` depends on the machine.
_COMPARED = ("method", "seed", "fraction", "form", "scope", "loss_size", "precision")


def comparable(
    rows: Sequence[ledger.Row],
    *,
    dataset: str | None = None,
    tier: str | None = None,
    varied: Varied = _NOTHING,
) -> list[ledger.Row]:
    """Rows of the presets' own recipes, from which methods are compared.

    What counts is what a run did, not how it was requested: cross-entropy with the same compute is
    one run, however the two stages of the other methods share that compute. It also counts without
    any colour distortion, because distortion can hurt and would weaken the baseline. A run that
    was repeated at another precision counts once (:func:`~segnb.results.table.each_run_once`).
    Rows on different data are all kept; :func:`~segnb.results.table.by_data` parts them.

    Args:
        rows: The ledger.
        dataset: Only this data set.
        tier: Only this tier.
        varied: Values that runs must have in these fields, where their method uses the field,
            instead of the preset's.

    Raises:
        ConfigError: There are none.
    """
    wanted = None if dataset is None else datasets.title(dataset)
    asked = [
        row for row in rows if wanted in (None, row["dataset"]) and tier in (None, row["tier"])
    ]
    chosen = [row for row in asked if _is_preset(recipe_of(row), varied)]
    if not chosen:
        if not rows:
            raise ConfigError("the ledger holds no runs; `segnb sweep` adds some")
        words = not_compared(rows, dataset=dataset, tier=tier, varied=varied)
        if not words:
            held = sorted({f"{row['dataset']} at {row['tier']}" for row in rows})
            words = f"its {len(rows)} are of {', '.join(held)}"
        raise ConfigError(f"the ledger holds no runs for this: {words}. `segnb sweep` adds some")
    return [row for part in by_data(chosen) for row in each_run_once(part)]


def not_compared(
    rows: Sequence[ledger.Row],
    *,
    dataset: str | None = None,
    tier: str | None = None,
    varied: Varied = _NOTHING,
) -> str:
    """Which rows :func:`comparable` leaves out, and which fields of the recipe are the reason.

    Args:
        rows: The ledger.
        dataset: Only this data set.
        tier: Only this tier.
        varied: See :func:`comparable`.

    Returns:
        Words; empty if no row is left out.
    """
    wanted = None if dataset is None else datasets.title(dataset)
    counts: Counter[tuple[str, str]] = Counter()
    fields: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        where, recipe = (row["dataset"], row["tier"]), recipe_of(row)
        if wanted not in (None, where[0]) or tier not in (None, where[1]):
            continue
        if not _is_preset(recipe, varied):
            counts[where] += 1
            fields.setdefault(where, Counter()).update(own_fields(recipe, varied))
    return "; ".join(
        f"{counts[where]} of {where[0]} at {where[1]} with other values than "
        f"{'asked' if varied else 'its preset'} for "
        f"{', '.join(name for name, _ in fields[where].most_common())}"
        for where in sorted(counts)
    )


def own_fields(recipe: Recipe, varied: Varied = _NOTHING) -> list[str]:
    """The fields, of those that its method uses, in which a recipe is not as asked.

    Args:
        recipe: The recipe.
        varied: See :func:`comparable`; without it, the preset is what is asked.
    """
    same = flat(preset(recipe.dataset, recipe.tier).to_dict())
    used = {
        name: value
        for name, value in flat(recipe.to_dict()).items()
        if not {name, name.partition(".")[0]} & {*_COMPARED, *recipe.kind.unused}
    }
    return [
        name
        for name, value in used.items()
        if (not _is_among(recipe, name, varied[name]) if name in varied else value != same[name])
    ]


def _is_among(recipe: Recipe, name: str, values: Collection[Any] | None) -> bool:
    return values is None or value_of(recipe, name) in values


def main_methods(rows: Sequence[ledger.Row]) -> list[ledger.Row]:
    """The rows of cross-entropy, of the same with equal compute, and of the contrastive method.

    The contrastive method is the one form and scope that most rows have, the preset's map of the
    loss with it. Variants of the loss and of the baselines are left to the tables: figures of all
    of them can't be read.
    """
    contrastive = Counter(
        method
        for method in map(Method.of, rows)
        if method.kind == "contrastive"
        and method == Method(kind=method.kind, form=method.form, scope=method.scope)
    )
    shown = {Method(kind="ce"), Method(kind="ce_long"), *dict(contrastive.most_common(1))}
    return [row for row in rows if Method.of(row) in shown]


def _is_preset(recipe: Recipe, varied: Varied) -> bool:
    unused = recipe.kind.unused
    for name, values in varied.items():
        if not {name, name.partition(".")[0]} & unused and not _is_among(recipe, name, values):
            return False
    own = {name: value_of(recipe, name) for name in (*_COMPARED, *varied)}
    same = changed(preset(recipe.dataset, recipe.tier), own)
    allowed = [same, same.replace(finetune_distortion=same.distortion)]
    if recipe.kind.compute_of:
        allowed.append(same.replace(distortion=0))
    return recipe.hash in [one.hash for one in allowed]
