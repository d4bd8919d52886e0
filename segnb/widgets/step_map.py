"""The map of steps to click through: a cell's curves, masks and embeddings under the map itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

from matplotlib.colors import to_hex

from segnb import plots
from segnb.errors import DataError
from segnb.plots import Picture
from segnb.plots.step_map import gain_colours
from segnb.plots.style import ink_on
from segnb.results.step_map import RIVALS, Cell, Rival, StepMap
from segnb.results.table import MEASURE_NAMES, Measure, Row
from segnb.widgets.explorer import embeddings_of, or_error_text, predictions_of

#: What stands under the map, the quickest first.
PARTS = ("sentence", "curves", "predictions", "embeddings")


def cell_parts(
    found: StepMap,
    cell: Cell,
    results: Path,
    *,
    measure: Measure = "miou_test",
    root: Path | None = None,
) -> dict[str, Picture | str]:
    """What the ledger holds about one cell, without any widget.

    Args:
        found: The map.
        cell: Labelled images, steps of stage 1, steps of stage 2.
        results: The folder of the ledger, with its previews.
        measure: Which mIoU.
        root: Where the data sets are.

    Returns:
        ``sentence``, ``curves``, ``predictions`` (of one seed, cross-entropy from scratch and
        after either stage 1) and ``embeddings``; a sentence in place of what can't be drawn.
    """
    return {name: make() for name, make in _makers(found, cell, results, measure, root).items()}


def _makers(
    found: StepMap, cell: Cell, results: Path, measure: Measure, root: Path | None
) -> dict[str, Callable[[], Picture | str]]:
    labelled, pretrain, finetune = cell

    def rows() -> list[Row]:
        held = [found.rows(kind, *cell) for kind in ("ce", "ce_pretrained", "contrastive")]
        shared = set.intersection(*(set(by_seed) for by_seed in held if by_seed))
        if not held[-1] or not shared:
            raise DataError("the ledger does not hold this cell")
        return [by_seed[min(shared)] for by_seed in held if by_seed]

    measures = tuple(dict.fromkeys(("miou_val", measure)))
    made: dict[str, Callable[[], Picture | str]] = {
        "sentence": partial(found.in_words, cell, measure=measure),
        "curves": partial(
            plots.step_curves, found, labelled, measures=measures, chosen=(pretrain, finetune)
        ),
        "predictions": lambda: predictions_of(rows(), results, root),
        "embeddings": lambda: embeddings_of(rows()[-1], results),
    }
    return {name: partial(or_error_text, make) for name, make in made.items()}


class StepMapExplorer:
    """The map as buttons: press a cell to see what is behind its number.

    Show it by ending a cell with it.

    Args:
        found: The map.
        results: The folder of the ledger, with its previews.
        root: Where the data sets are.

    Attributes:
        cell: The chosen cell: labelled images, steps of stage 1, steps of stage 2.
        shown: What stands in the output areas now, by name.
    """

    def __init__(self, found: StepMap, *, results: Path, root: Path | None = None) -> None:
        import ipywidgets as widgets

        self.found = found
        self.shown: dict[str, Picture | str] = {}
        self._results, self._root = results, root
        labels = found.axis(0)
        whole_words = {"button_width": "initial", "description_width": "initial"}
        self.labelled = widgets.ToggleButtons(
            options=[(f"{count} images", count) for count in labels],
            value=max(labels, key=lambda count: len(found.axis(1, count))),
            description="labelled",
            style=whole_words,
        )
        self.over = widgets.ToggleButtons(
            options=RIVALS, description="gain over", style=whole_words
        )
        measured = [
            (MEASURE_NAMES[measure], measure)
            for measure in get_args(Measure)
            if any(found.values("contrastive", *cell, measure=measure) for cell in found.cells)
        ]
        self.measure = widgets.Dropdown(
            options=measured,
            value="miou_test" if "miou_test" in dict(measured).values() else measured[0][1],
            description="measured on",
            style={"description_width": "initial"},
        )
        self.cell = self._best(self.labelled.value)
        self.buttons: dict[Cell, Any] = {}
        self._grid = widgets.VBox()
        self.outputs = {name: widgets.Output() for name in PARTS}
        self.widget = widgets.VBox(
            [self.labelled, self.over, self.measure, self._grid, *self.outputs.values()]
        )
        for control in (self.labelled, self.over, self.measure):
            control.observe(self._changed, names="value")

    def choose(self, cell: Cell) -> None:
        """Show one cell of the map.

        Raises:
            KeyError: It is not one of :attr:`segnb.results.step_map.StepMap.cells`.
        """
        if cell not in self.found.cells:
            raise KeyError(cell)
        self.cell = cell
        if self.labelled.value != cell[0]:
            self.labelled.value = cell[0]  # comes back here through ``_changed``
        else:
            self.update()

    def update(self) -> None:
        """Draw the map and what belongs to the chosen cell."""
        from IPython.display import Markdown, clear_output, display

        self._draw_map()
        makers = _makers(self.found, self.cell, self._results, self.measure.value, self._root)
        for name, make in makers.items():
            part = make()
            with self.outputs[name]:
                clear_output(wait=True)
                display(Markdown(part) if isinstance(part, str) else part)
            self.shown[name] = part

    def _changed(self, change: Any) -> None:
        if change["owner"] is self.labelled and self.cell[0] != self.labelled.value:
            self.cell = self._best(self.labelled.value)
        self.update()

    def _best(self, labelled: int) -> Cell:
        """The cell of the largest gain at one number of labels: the one to begin with."""
        over, measure = self.over.value, self.measure.value
        gains = {
            cell: gained.mean
            for cell in self.found.cells
            if cell[0] == labelled
            and (gained := self.found.gain(*cell, over=over, measure=measure))
        }
        here = (cell for cell in self.found.cells if cell[0] == labelled)
        return max(gains, key=gains.__getitem__) if gains else next(here)

    def _draw_map(self) -> None:
        import ipywidgets as widgets

        labelled, over, measure = self.labelled.value, self.over.value, self.measure.value
        pretrain = self.found.axis(1, labelled)
        finetune = self.found.axis(2, labelled)
        colours = gain_colours(self.found, measure=measure)
        head = ["stage 1 ↓ · stage 2 →", *(f"{steps} steps" for steps in finetune)]
        lines = [_line(widgets.HTML(f"<small>{text}</small>") for text in head)]
        self.buttons = {}
        for steps1 in reversed(pretrain):
            line: list[Any] = [widgets.HTML(f"<small>{steps1} steps</small>")]
            for steps2 in finetune:
                cell = (labelled, steps1, steps2)
                line.append(self._button(cell, over, measure, colours))
            lines.append(_line(line))
        self._grid.children = lines

    def _button(
        self, cell: Cell, over: Rival, measure: Measure, colours: Callable[[float], Any]
    ) -> Any:
        import ipywidgets as widgets

        gained = self.found.gain(*cell, over=over, measure=measure)
        button = widgets.Button(description=f"{gained.mean:+.1f}" if gained else "–")
        button.disabled = gained is None
        fill = to_hex(colours(gained.mean)) if gained else "#f4f4f4"
        button.style.button_color, button.style.text_color = fill, ink_on(fill)
        button.layout.border = f"3px solid {'#D55E00' if cell == self.cell else 'transparent'}"
        button.layout.padding = "0"
        button.layout.height = "34px"
        button.tooltip = self.found.in_words(cell, measure=measure)
        button.on_click(lambda _: self.choose(cell))
        if gained:
            self.buttons[cell] = button
        return button

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)
        self.update()


def _line(items: Any) -> Any:
    import ipywidgets as widgets

    items = list(items)
    for index, item in enumerate(items):
        item.layout.width = "150px" if index == 0 else "76px"
    return widgets.HBox(items)
