"""Two sliders, label fraction and temperature, over what the ledger holds; Run trains the point.

The ledger's answer and the live run stand apart: they may be of different sizes, and a number of
the one is no neighbour of a number of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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

#: What the sliders offer beside what a sweep holds.
FRACTIONS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
TEMPERATURES = (0.03, 0.07, 0.2, 0.5)

#: Validation images whose predictions are shown, and pixels a class in the maps.
SHOWN_IMAGES = 3
SHOWN_PIXELS = 30

#: The line that marks the chosen point.
_MARK: dict[str, Any] = {"color": "#D55E00", "alpha": 0.35, "linewidth": 6, "zorder": 0}


@dataclass(frozen=True)
class SweptRows:
    """Ledger rows that differ in method, form, scope, label fraction, temperature and seed alone.

    Attributes:
        base: The recipe that they vary; its method is ``contrastive``.
        rows: The rows, cross-entropy baselines among them.
    """

    base: Recipe
    rows: tuple[ledger.Row, ...]

    @property
    def fractions(self) -> tuple[float, ...]:
        """Label fractions of all rows, ascending; at some there may be baselines alone."""
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
    """The sweep that covers most pairs of label fraction and temperature; ``None`` without one.

    Of two that cover as many, the one of the preset's own recipe.

    Args:
        rows: The ledger.
        dataset: Only this data set.
        tier: Only this tier.
    """
    rows = [
        row
        for row in rows
        if row["fraction"] is not None
        and dataset in (None, row["dataset"])
        and tier in (None, row["tier"])
    ]
    families: dict[str, list[ledger.Row]] = {}
    for row in rows:
        if row["method"] == "contrastive":
            families.setdefault(_family(recipe_of(row)), []).append(row)
    if not families:
        return None
    points = {
        name: len({(row["fraction"], row["temperature"]) for row in found})
        for name, found in families.items()
    }
    own = {_family(preset(row["dataset"], row["tier"])) for row in rows}
    best = max(families, key=lambda name: (points[name], name in own, len(families[name])))
    base = recipe_of(families[best][0]).replace(seed=0, precision="auto")
    long = base.replace(method="ce_long")
    wanted = {_family(one) for one in (base.replace(method="ce"), long, long.replace(distortion=0))}
    baselines = [row for row in rows if _family(recipe_of(row)) in wanted]
    return SweptRows(base, tuple(table.each_run_once([*baselines, *families[best]])))


def answer(
    sweep: SweptRows | None,
    results: Path,
    *,
    fraction: float,
    temperature: float,
    root: Path | None = None,
) -> dict[str, Picture | str]:
    """What the ledger says of one point of the sliders, without any widget.

    Args:
        sweep: What :func:`find_sweep` found.
        results: The folder of the ledger, with its previews.
        fraction: Label fraction.
        temperature: Temperature of the contrastive loss.
        root: Where the data sets are.

    Returns:
        ``numbers`` (Markdown), ``labels`` and ``temperatures`` (curves with the point marked),
        ``predictions``, ``embeddings``; a sentence instead of a picture that can't be drawn.
    """
    return {
        name: make() for name, make in _parts(sweep, results, fraction, temperature, root).items()
    }


def run_pictures(row: ledger.Row, results: Path, *, root: Path | None = None) -> list[Picture]:
    """Predictions and embeddings of one run.

    Args:
        row: The run.
        results: The folder of its ledger, with its preview.
        root: Where the data sets are.

    Raises:
        DataError: The preview or the data set is missing.
    """
    return [predictions_of([row], results, root), embeddings_of(row, results)]


class Explorer:
    """The two sliders, the ledger's answer, and a panel that trains the chosen point.

    Show it by ending a cell with it.

    Args:
        sweep: What :func:`find_sweep` found; ``None`` leaves the live run alone.
        live: The recipe that Run trains, but for its label fraction and temperature.
        results: The folder of the ledger, with its previews.
        runs: Folder of the live runs, and of a ledger of their own.
        root: Where the data sets are.
        cpu: Use the processor even where there is a GPU.

    Attributes:
        shown: What stands in the output areas now, by name.
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

        self.sweep = sweep
        self.live = live
        self.shown: dict[str, Picture | str] = {}
        self._results, self._root = results, root
        fractions, temperatures = slider_values(sweep)
        start = sweep.base if sweep else live
        self.fraction = widgets.SelectionSlider(
            options=[(table.fraction_name(f), f) for f in fractions],
            value=_nearest(fractions, start.fraction),
            description="labelled",
            continuous_update=False,
        )
        self.temperature = widgets.SelectionSlider(
            options=[(f"{t:g}", t) for t in temperatures],
            value=_nearest(temperatures, start.temperature),
            description="τ",
            continuous_update=False,
        )
        self.outputs = {name: widgets.Output() for name in _PARTS}
        self.panel = TrainingPanel(
            self.recipe,
            runs=runs,
            results=runs,
            root=root,
            cpu=cpu,
            outcome=lambda row: run_pictures(row, runs, root=root),
        )
        heading = widgets.HTML(f"<h4>Train this point here ({live.dataset}, {live.tier})</h4>")
        self.widget = widgets.VBox(
            [
                widgets.HBox([self.fraction, self.temperature]),
                *self.outputs.values(),
                heading,
                self.panel.widget,
            ]
        )
        for slider in (self.fraction, self.temperature):
            slider.observe(lambda _: self.update(), names="value")

    @property
    def recipe(self) -> Recipe:
        """The recipe at the sliders' point, as Run trains it."""
        return point(self.live, fraction=self.fraction.value, temperature=self.temperature.value)

    def update(self) -> None:
        """Show the answer for the sliders' point, the quickest parts first."""
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
    """Label fractions and temperatures to offer: the sweep's, or ours where it varies neither."""
    fractions = sweep.fractions if sweep else ()
    temperatures = sweep.temperatures if sweep else ()
    return (
        fractions if len(fractions) > 1 else tuple(sorted({*fractions, *FRACTIONS})),
        temperatures if len(temperatures) > 1 else tuple(sorted({*temperatures, *TEMPERATURES})),
    )


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
        """Rows of this point, those of the baselines included."""
        return table.select(self.sweep.rows, fraction=self.fraction, temperature=self.temperature)

    @property
    def missing(self) -> str:
        """Says that no contrastive run is here; empty where there is one."""
        if any(row["method"] == "contrastive" for row in self.rows):
            return ""
        return f"the ledger holds no contrastive run at {self.name}; Run trains one"

    def numbers(self) -> str:
        base = self.sweep.base
        parts = [f"**{base.dataset}, {base.tier} tier, {self.name}**, from the ledger"]
        if self.rows:
            parts.append(table.results_table(self.rows))
        if self.missing:
            parts.append(f"*{self.missing}*")
        return "\n\n".join(parts)

    def labels(self) -> Picture:
        rows = table.select(self.sweep.rows, temperature=self.temperature)
        picture = plots.label_curve(rows)
        for labelled in {row["labelled"] for row in rows if row["fraction"] == self.fraction}:
            picture.figure.axes[0].axvline(labelled, **_MARK)
        return Picture(picture.figure, f"{picture.alt} Marked: {self.name}.")

    def temperatures(self) -> Picture:
        rows = table.select(self.sweep.rows, fraction=self.fraction)
        held = {row["temperature"] for row in rows if row["method"] == "contrastive"}
        if len(held) < 2:
            held_points = {(r["fraction"], r["temperature"]) for r in self.sweep.rows}
            several = [
                table.fraction_name(fraction)
                for fraction in self.sweep.fractions
                if sum(f == fraction and t is not None for f, t in held_points) > 1
            ]
            there = f"; it does at {', '.join(several)}" if several else ""
            raise DataError(
                f"no curve over τ: with {table.fraction_name(self.fraction)} of the labels the "
                f"ledger does not hold two temperatures{there}"
            )
        picture = plots.temperature_curve(rows)
        picture.figure.axes[0].axvline(self.temperature, **_MARK)
        return Picture(picture.figure, f"{picture.alt} Marked: {self.name}.")

    def predictions(self) -> Picture:
        if not self.rows:
            raise DataError(self.missing)
        return predictions_of(table.one_of_each_method(self.rows), self.results, self.root)

    def embeddings(self) -> Picture:
        if self.missing:
            raise DataError(self.missing)
        row = next(
            row for row in table.one_of_each_method(self.rows) if row["method"] == "contrastive"
        )
        return embeddings_of(row, self.results)


#: The parts of an answer, the quickest first.
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
    """What ``make`` returns, or the error's sentence."""
    try:
        return make()
    except SegnbError as error:
        return f"*{error}*"


def predictions_of(rows: Sequence[table.Row], results: Path, root: Path | None) -> Picture:
    """Predictions of one run a method on a few validation images."""
    recipe = recipe_of(rows[0])
    previews = {Method.of(row).name: report.read_preview(row, results) for row in rows}
    ids = [str(one) for one in next(iter(previews.values()))["ids"]][:SHOWN_IMAGES]
    split = datasets.load(recipe.dataset, "val", root=root, size=recipe.size)
    val = datasets.working_set(split, size=recipe.size, ids=ids)
    return plots.predictions(
        list(val.images),
        list(val.masks),
        {name: list(found["predictions"][: len(ids)]) for name, found in previews.items()},
        split.info,
    )


def embeddings_of(row: table.Row, results: Path) -> Picture:
    """Embedding maps of a run, stage by stage."""
    return _embedding_maps(str(results), row["recipe_hash"], row["dataset"], row["command"])


@lru_cache(maxsize=64)
def _embedding_maps(results: str, recipe_hash: str, dataset: str, command: str) -> Picture:
    # Kept, because placing the points takes seconds and a reader slides back and forth.
    row = {"recipe_hash": recipe_hash, "command": command}
    preview = _thinned(report.read_preview(row, Path(results)))
    return plots.embedding_maps(report.embedding_points(preview), datasets.info(dataset))


def _thinned(preview: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    labels = preview["labels"]
    kept = np.concatenate([np.flatnonzero(labels == c)[:SHOWN_PIXELS] for c in np.unique(labels)])
    return {
        name: values[kept]
        for name, values in preview.items()
        if name == "labels" or name.startswith("embeddings_")
    }


def _family(recipe: Recipe) -> str:
    # A recipe's hash leaves out what its method does not use, as the temperature of "ce".
    varied = {"fraction": 1.0, "temperature": 1.0, "form": "paper", "scope": "cross"}
    neutral = recipe.replace(seed=0, precision="auto", **varied)
    return f"{recipe.method}-{neutral.hash}"


def _nearest(values: Sequence[float], wanted: float) -> float:
    return min(values, key=lambda value: abs(np.log(value / wanted)))
