"""What finished runs say about compactness: how far each stage gathers the classes, and whether
tighter classes go along with a higher mIoU.

A correlation over all runs compares methods, not runs: one method may have both the looser classes
and the higher mIoU, whatever happens inside each method (Simpson's paradox). So it is taken three
times, among runs that are more and more alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from segnb.results.method import Method
from segnb.results.table import MEASURE_NAMES, Measure, Row, markdown

#: Compactness numbers of a row, and their titles.
COMPACTNESS_NAMES: dict[str, str] = {
    "intra": "intra-class variance",
    "inter": "inter-class distance",
    "fisher": "Fisher ratio",
    "silhouette": "silhouette",
    "knn_miou": "nearest neighbours, mIoU %",
    "probe_miou": "linear probe, mIoU %",
}

#: Stages at which a row measures it, and their titles.
STAGES: dict[str, str] = {"initial": "before", "pretrained": "stage 1", "finetuned": "stage 2"}

#: Fewer runs are ordered by chance too often to give a correlation.
FEWEST_RUNS = 5

#: Which runs are ranked together.
RankedAmong = Literal["all runs", "equal labels", "equal labels and method"]

_SHUFFLES = 2000


def _alike(row: Row) -> str:
    # Both rules for the pixel that labels a feature cell give numbers of their own.
    return f"{row['labelled']}, {Method.of(row)}, {row.get('cell_rule')}"


#: The group in which a run is ranked. Runs of one method also share the rule by which a feature
#: cell gets its label.
RANKED_AMONG: dict[RankedAmong, Callable[[Row], str]] = {
    "all runs": lambda row: "",
    "equal labels": lambda row: str(row["labelled"]),
    "equal labels and method": _alike,
}


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Spearman's rank correlation over runs.

    Attributes:
        rho: The correlation; ``None`` where one side does not vary within any group.
        chance: The |rho| that 19 of 20 shuffles of the runs within their groups stay below.
        runs: How many runs have both numbers.
    """

    rho: float | None
    chance: float
    runs: int

    @property
    def beyond_chance(self) -> bool:
        """Whether it is larger than what chance gives in 19 of 20 tries."""
        return self.rho is not None and abs(self.rho) > self.chance


def spearman(
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    *,
    within: npt.NDArray[Any] | None = None,
) -> float | None:
    """Spearman's rank correlation; ``None`` where one side is constant.

    Args:
        x: ``[N]``.
        y: ``[N]``.
        within: A group for each point; ranks are taken and centred within each group.
    """
    groups = _numbered(within, len(x))
    first, second = _ranks(x, groups), _ranks(y, groups)
    # Rounded, so that the order of a machine's sums decides no digit that a table shows.
    return round(float(first @ second), 9) if first.any() and second.any() else None


def correlation(
    rows: Iterable[Row],
    name: str,
    *,
    measure: Measure = "miou_val",
    among: RankedAmong = "equal labels and method",
) -> Correlation:
    """The rank correlation of a compactness number and mIoU, and what chance gives.

    Args:
        rows: The ledger's; those without one of the two numbers are left out.
        name: Key of :data:`COMPACTNESS_NAMES`.
        measure: Which mIoU.
        among: Which runs are ranked together.
    """
    held = [row for row in rows if row.get(name) is not None and row.get(measure) is not None]
    x, y = (np.array([row[key] for row in held], dtype=float) for key in (name, measure))
    within = np.array([RANKED_AMONG[among](row) for row in held])
    rho = spearman(x, y, within=within)
    groups = _numbered(within, len(held))
    first, second = _ranks(x, groups), _ranks(y, groups)
    # Sorted by group and then by chance, each shuffle is an order of the runs within their groups.
    keys = groups + np.random.default_rng(0).random((_SHUFFLES, len(held)))
    shuffled = np.empty_like(keys)
    shuffled[:, np.argsort(groups, kind="stable")] = second[np.argsort(keys, axis=1)]
    chance = round(float(np.quantile(np.abs(shuffled @ first), 0.95)), 9)
    return Correlation(rho=rho, chance=chance, runs=len(held))


def correlations_table(rows: Sequence[Row], *, measures: Sequence[Measure]) -> str:
    """A line for each compactness number and mIoU, a column for each of :data:`RANKED_AMONG`.

    Bold is beyond chance; brackets hold what chance gives.

    Returns:
        Markdown; empty if too few runs have any of the numbers.
    """
    lines = []
    for name, title in COMPACTNESS_NAMES.items():
        for measure in measures:
            found = [
                correlation(rows, name, measure=measure, among=among) for among in RANKED_AMONG
            ]
            if found[0].runs >= FEWEST_RUNS:
                cells = [_cell(one) for one in found]
                lines.append([title, MEASURE_NAMES[measure], str(found[0].runs), *cells])
    head = ["number", "with", "runs", *RANKED_AMONG]
    return markdown(head, lines) if lines else ""


def fisher_table(rows: Sequence[Row]) -> str:
    """The lowest and highest Fisher ratio after each stage, method by method.

    Returns:
        Markdown; empty if no run has it.
    """
    found: dict[tuple[int, Method, str | None], dict[str, list[float]]] = {}
    for row in rows:
        key = row["labelled"], Method.of(row), row.get("cell_rule")
        for stage, values in (row.get("compactness") or {}).items():
            if values.get("fisher") is not None:
                found.setdefault(key, {}).setdefault(stage, []).append(values["fisher"])
    lines = []
    for labelled, method, rule in sorted(
        found, key=lambda key: (key[0], key[1].order, key[2] or "")
    ):
        by_stage = found[labelled, method, rule]
        runs = max(map(len, by_stage.values()))
        cells = [_range(by_stage.get(stage, [])) for stage in STAGES]
        lines.append([str(labelled), str(method), rule or "at its middle", str(runs), *cells])
    head = ["labelled images", "method", "pixel that labels a cell", "runs", *STAGES.values()]
    return markdown(head, lines) if lines else ""


def _numbered(within: npt.NDArray[Any] | None, count: int) -> npt.NDArray[np.int64]:
    members = np.zeros(count, dtype=int) if within is None else within
    groups: npt.NDArray[np.int64] = np.unique(members, return_inverse=True)[1]
    return groups


def _ranks(
    values: npt.NDArray[np.float64], groups: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Ranks, centred within each group, of length 1 as a vector; zeros if nothing varies."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    # One ranking of all, group after group: within a group it differs by a constant.
    order = np.unique(values, return_inverse=True)[1]
    ranks = rankdata(groups * len(values) + order)
    means = np.bincount(groups, ranks) / np.bincount(groups)
    centred: npt.NDArray[np.float64] = ranks - means[groups]
    return centred / (np.linalg.norm(centred) or 1.0)


def _cell(found: Correlation) -> str:
    if found.rho is None:
        return "–"
    mark = "**" if found.beyond_chance else ""
    return f"{mark}{found.rho:+.2f}{mark} ({found.chance:.2f})"


def _range(values: Sequence[float]) -> str:
    if not values:
        return "–"
    ends = [f"{end:.2f}" for end in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)
