"""Two sliders, label fraction and temperature, show what the ledger holds; Run trains the point.

The ledger's answer and the live run are shown apart: they may differ in size, and then their
numbers can't be compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from segnb import datasets, plots, report
from segnb.errors import DataError, SegnbError
from segnb.experiments.runs import RUNS
from segnb.plots import Picture
from segnb.recipe import Recipe, preset
from segnb.results import ledger, table
from segnb.results.method import Method, recipe_of
from segnb.widgets.training import TrainingPanel, drawing

#: What the sliders offer in addition to the values of a sweep.
FRACTIONS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
TEMPERATURES = (0.03, 0.07, 0.2, 0.5)

#: Validation images whose predictions are shown, and pixels per class in the embedding maps.
SHOWN_IMAGES = 3
SHOWN_PIXELS = 30


@dataclass(frozen=True)
class SweptRows:
    """Ledger rows that differ only in method, label fraction, temperature and seed.

    Attributes:
        base: The recipe that they vary; its method is ``contrastive``.
        rows: The rows, with those of cross-entropy and of cross-entropy with the same compute.
    """

    base: Recipe
    rows: tuple[ledger.Row, ...]

    @property
    def fractions(self) -> tuple[float, ...]:
        """Label fractions of all rows, ascending; some may have baselines only."""
        return tuple(sorted({row["fraction"] for row in self.rows}))

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Temperatures of the contrastive rows, ascending."""
        return tuple(sorted({r["temperature"] for r in self.rows if r["method"] == "contrastive"}))


def point(base: Recipe, *, fraction: float, temperature: float) -> Recipe:
    """The contrastive recipe at one point of the two sliders."""
    return base.replace(method="contrastive", fraction=fraction, temperature=temperature)


def find_sweep(
    rows: Iterable[ledger.Row], *, dataset: str | None = None, tier: str | None = None
) -> SweptRows | None:
    """The sweep over most pairs of label fraction and temperature, or ``None``.

    A tie goes to the preset's own recipe.

    Args:
        rows: The ledger.
        dataset: Only this data set.
        tier: Only this tier.
    """
    chosen = None if dataset is None else datasets.title(dataset)
    rows = [
        row
        for row in rows
        if row["fraction"] is not None
        and chosen in (None, row["dataset"])
        and tier in (None, row["tier"])
    ]
    families: dict[str, list[ledger.Row]] = {}
    for row in rows:
        if row["method"] == "contrastive":
            families.setdefault(_family(recipe_of(row)), []).append(row)
    if not families:
        return None
    own = {_family(preset(recipe_of(row).dataset, row["tier"])) for row in rows}

    def extent(family: str) -> tuple[int, bool, int]:
        points = {(row["fraction"], row["temperature"]) for row in families[family]}
        return len(points), family in own, len(families[family])

    best = max(families, key=extent)
    base = recipe_of(families[best][0]).replace(seed=0, precision="auto")
    wanted = {_family(base.replace(method=baseline)) for baseline in ("ce", "ce_long")}
    baselines = [row for row in rows if _family(recipe_of(row)) in wanted]
    return SweptRows(base, tuple(table.each_run_once([*baselines, *families[best]])))


def sweep_overview(sweep: SweptRows | None) -> str:
    """Markdown: how many seeds a sweep holds of each method, temperature and label fraction."""
    if sweep is None:
        return (
            "The ledger holds no sweep yet. The sliders work, and Run trains their point. "
            "`segnb sweep --methods ce ce_long contrastive --fractions 0.0625 0.125 "
            "--temperatures 0.03 0.07 0.2 --seeds 0 1 2` makes one (hours on a processor; it can "
            "be interrupted)."
        )
    held = Counter((Method.of(row), row["temperature"], row["fraction"]) for row in sweep.rows)
    lines = []
    series = {(method, tau) for method, tau, _ in held}
    for method, tau in sorted(series, key=lambda one: (one[0].order, one[1] or 0)):
        counts = [held[method, tau, fraction] or "–" for fraction in sweep.fractions]
        lines.append([method.name, "–" if tau is None else f"{tau:g}", *map(str, counts)])
    head = ["method", "τ", *map(table.fraction_name, sweep.fractions)]
    return f"{len(sweep.rows)} runs on {sweep.base.dataset_title}:\n\n{table.markdown(head, lines)}"


def answer(
    sweep: SweptRows | None,
    results: Path,
    *,
    fraction: float,
    temperature: float,
    root: Path | None = None,
) -> dict[str, Picture | str]:
    """What the ledger says about one point of the sliders, without any widget.

    Args:
        sweep: What :func:`find_sweep` found.
        results: Folder of the ledger and its previews.
        fraction: Label fraction.
        temperature: Temperature of the contrastive loss.
        root: Folder of the data sets.

    Returns:
        ``numbers`` (Markdown), ``labels`` and ``temperatures`` (curves with the point marked),
        ``predictions``, ``embeddings``; a sentence instead of a picture that can't be drawn.
    """
    parts = _parts(sweep, results, fraction, temperature, root)
    return {name: make() for name, make in parts.items()}


def run_pictures(row: ledger.Row, results: Path, *, root: Path | None = None) -> list[Picture]:
    """Predictions and embeddings of one run.

    Args:
        row: The run.
        results: Folder of its ledger and its preview.
        root: Folder of the data sets.

    Raises:
        DataError: The preview or the data set is missing.
    """
    return [predictions_of([row], results, root), embeddings_of(row, results)]


class Explorer:
    """The two sliders, the ledger's answer, and a panel that trains the chosen point.

    End a cell with it to show it.

    Args:
        sweep: What :func:`find_sweep` found; with ``None`` there is only the live run.
        live: The recipe that Run trains, at the sliders' label fraction and temperature.
        results: Folder of the ledger and its previews.
        runs: Folder of the live runs, with a ledger of their own.
        root: Folder of the data sets.
        cpu: Use the processor even where there is a GPU.

    Attributes:
        shown: What the output areas show now, by name.
    """

    def __init__(
        self,
        sweep: SweptRows | None,
        live: Recipe,
        *,
        results: Path,
        runs: Path = RUNS,
        root: Path | None = None,
        cpu: bool = False,
    ) -> None:
        import ipywidgets as widgets

        self.sweep, self.live = sweep, live
        self.shown: dict[str, Picture | str] = {}
        self._results, self._root = results, root
        fractions, temperatures = slider_values(sweep)
        start = sweep.base if sweep else live

        def slider(name: str, values: Sequence[float], value: float, words: Any) -> Any:
            return widgets.SelectionSlider(
                options=[(words(one), one) for one in values],
                value=min(values, key=lambda one: abs(np.log(one / value))),
                description=name,
                continuous_update=False,
            )

        self.fraction = slider("labelled", fractions, start.fraction, table.fraction_name)
        self.temperature = slider("τ", temperatures, start.temperature, "{:g}".format)
        self.outputs = {name: widgets.Output() for name in _PARTS}
        self.panel = TrainingPanel(
            self.recipe,
            runs=runs,
            results=runs,
            root=root,
            cpu=cpu,
            outcome=lambda row: run_pictures(row, runs, root=root),
        )
        heading = widgets.HTML(
            f"<h4>Train this point here ({live.dataset_title}, {live.tier})</h4>"
        )
        sliders = [self.fraction, self.temperature]
        for one in sliders:
            one.observe(lambda _: self.update(), names="value")
        self.widget = widgets.VBox(
            [widgets.HBox(sliders), *self.outputs.values(), heading, self.panel.widget]
        )

    @property
    def recipe(self) -> Recipe:
        """The recipe at the sliders' point, which Run trains."""
        return point(self.live, fraction=self.fraction.value, temperature=self.temperature.value)

    def update(self) -> None:
        """Show the answer for the sliders' point, the fastest parts first."""
        from IPython.display import Markdown, clear_output, display

        self.panel.recipe = self.recipe
        values = (self.fraction.value, self.temperature.value)
        for name, make in _parts(self.sweep, self._results, *values, self._root).items():
            with drawing:
                part = make()
                with self.outputs[name]:
                    clear_output(wait=True)
                    display(Markdown(part) if isinstance(part, str) else part)
            self.shown[name] = part

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)
        self.update()


def slider_values(sweep: SweptRows | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Label fractions and temperatures to offer: the sweep's, and defaults if it has only one."""

    def offered(held: tuple[float, ...], ours: tuple[float, ...]) -> tuple[float, ...]:
        return held if len(held) > 1 else tuple(sorted({*held, *ours}))

    fractions, temperatures = (sweep.fractions, sweep.temperatures) if sweep else ((), ())
    return offered(fractions, FRACTIONS), offered(temperatures, TEMPERATURES)


@dataclass(frozen=True)
class _Point:
    """One point of the sliders in a sweep, and the parts of the answer about it."""

    sweep: SweptRows
    results: Path
    fraction: float
    temperature: float
    root: Path | None

    @property
    def name(self) -> str:
        return f"{table.fraction_name(self.fraction)} of the labels, τ {self.temperature:g}"

    @property
    def rows(self) -> list[table.Row]:
        """Rows of this point, including those of the baselines."""
        return table.select(self.sweep.rows, fraction=self.fraction, temperature=self.temperature)

    @property
    def missing(self) -> str:
        """Says that there is no contrastive run here; empty if there is one."""
        if any(row["method"] == "contrastive" for row in self.rows):
            return ""
        return f"the ledger holds no contrastive run at {self.name}; Run trains one"

    def numbers(self) -> str:
        base = self.sweep.base
        parts = [f"**{base.dataset_title}, {base.tier} tier, {self.name}**, from the ledger"]
        if self.rows:
            parts.append(table.results_table(self.rows))
        if self.missing:
            parts.append(f"*{self.missing}*")
        return "\n\n".join(parts)

    def labels(self) -> Picture:
        rows = table.select(self.sweep.rows, temperature=self.temperature)
        here = {row["labelled"] for row in rows if row["fraction"] == self.fraction}
        return self._marked(plots.label_curve(rows), here)

    def temperatures(self) -> Picture:
        held: dict[float, set[float]] = {fraction: set() for fraction in self.sweep.fractions}
        for row in self.sweep.rows:
            if row["method"] == "contrastive":
                held[row["fraction"]].add(row["temperature"])
        if len(held.get(self.fraction, ())) < 2:
            several = [table.fraction_name(one) for one, found in held.items() if len(found) > 1]
            there = f"; it does at {', '.join(several)}" if several else ""
            raise DataError(
                f"no curve over τ: with {table.fraction_name(self.fraction)} of the labels the "
                f"ledger does not hold two temperatures{there}"
            )
        rows = table.select(self.sweep.rows, fraction=self.fraction)
        return self._marked(plots.temperature_curve(rows), [self.temperature])

    def _marked(self, picture: Picture, positions: Iterable[float]) -> Picture:
        for x in positions:
            picture.figure.axes[0].axvline(x, color="#D55E00", alpha=0.35, linewidth=6, zorder=0)
        return Picture(picture.figure, f"{picture.alt} Marked: {self.name}.")

    def predictions(self) -> Picture:
        if not self.rows:
            raise DataError(self.missing)
        return predictions_of(table.one_of_each_method(self.rows), self.results, self.root)

    def embeddings(self) -> Picture:
        for row in table.one_of_each_method(self.rows):
            if row["method"] == "contrastive":
                return embeddings_of(row, self.results)
        raise DataError(self.missing)


#: The parts of an answer, the fastest first.
_PARTS = ("numbers", "labels", "temperatures", "predictions", "embeddings")

_NO_SWEEP = (
    "**The ledger holds no sweep here yet.** Run, below, trains the chosen point; `segnb sweep` "
    "fills the ledger."
)


def _parts(
    sweep: SweptRows | None, results: Path, fraction: float, temperature: float, root: Path | None
) -> dict[str, Callable[[], Picture | str]]:
    """Functions that make the parts of an answer."""
    if sweep is None:
        return {name: partial(str, _NO_SWEEP if name == "numbers" else "") for name in _PARTS}
    point = _Point(sweep, results, fraction, temperature, root)
    return {name: partial(or_error_text, getattr(point, name)) for name in _PARTS}


def or_error_text(make: Callable[[], Picture | str]) -> Picture | str:
    """What ``make`` returns, or the message of its error."""
    try:
        return make()
    except SegnbError as error:
        return f"*{error}*"


def predictions_of(rows: Sequence[table.Row], results: Path, root: Path | None) -> Picture:
    """Predictions of runs, one per method, on a few validation images."""
    return report.predictions(rows, results, root=root, most=SHOWN_IMAGES)


def embeddings_of(row: table.Row, results: Path) -> Picture:
    """Embedding maps of a run at each stage."""
    dataset = recipe_of(row).dataset
    return _embedding_maps(str(results), ledger.file_name(row), dataset, row["command"])


@lru_cache(maxsize=64)
def _embedding_maps(results: str, name: str, dataset: str, command: str) -> Picture:
    # Cached, because t-SNE takes seconds and a reader moves the sliders back and forth.
    preview = report.read_preview({"log": f"logs/{name}.jsonl", "command": command}, Path(results))
    if "labels" not in preview:
        raise DataError(
            f"no map: the ledger keeps no features of this run; `{command}` makes them again"
        )
    labels = preview["labels"]
    if len(labels) == 0:
        raise DataError(f"no map: no labelled pixel was measured in the run `{command}`")
    kept = np.concatenate([np.flatnonzero(labels == c)[:SHOWN_PIXELS] for c in np.unique(labels)])
    thinned = {name: values[kept] for name, values in preview.items() if len(values) == len(labels)}
    return plots.embedding_maps(report.embedding_points(thinned), datasets.info(dataset))


def _family(recipe: Recipe) -> str:
    # The hash leaves out what a method does not use, such as the temperature of "ce".
    neutral = recipe.replace(seed=0, precision="auto", fraction=1.0, temperature=1.0)
    return f"{recipe.method}-{neutral.hash}"
