"""All tables of a ledger: one for each data set, tier and question asked of them."""

from __future__ import annotations

from collections.abc import Sequence

from segnb import ledger
from segnb.errors import ConfigError
from segnb.table import groups, overview_table, results_table, select


def tables(
    rows: Sequence[ledger.Row], *, dataset: str | None = None, tier: str | None = None
) -> str:
    """Markdown: for each data set and tier the comparison of methods.

    Only runs of the presets' own recipes stand in the comparison, with any seed, fraction,
    method, form and scope; studies that change something else are the business of their figures.

    Raises:
        ConfigError: Nothing to show.
    """
    chosen = comparable(rows, dataset=dataset, tier=tier)
    parts = []
    for name, size in sorted({(row["dataset"], row["tier"]) for row in chosen}):
        these = select(chosen, dataset=name, tier=size)
        counts = {group.labelled for group in groups(these)}
        parts.append(f"**{name}**, {size} tier\n\n" + results_table(these))
        if len(counts) > 1:
            parts.append(overview_table(these))
    return "\n\n".join(parts)


#: Fields of a recipe that the comparison of methods is made over.
_COMPARED = {"method", "seed", "fraction", "form", "scope"}


def comparable(
    rows: Sequence[ledger.Row], *, dataset: str | None = None, tier: str | None = None
) -> list[ledger.Row]:
    """Rows of the presets' own recipes: those that the comparison of methods is made of.

    Raises:
        ConfigError: There are none.
    """
    chosen = [
        row
        for row in rows
        if dataset in (None, row["dataset"])
        and tier in (None, row["tier"])
        and set(row["changes"]) <= _COMPARED
    ]
    if not chosen:
        raise ConfigError("the ledger holds no runs to make this of; `segnb sweep` adds some")
    return chosen
