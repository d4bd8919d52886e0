"""One look for all figures: sizes, type, panels, legends, alt text, files.

Figures are made without pyplot, so none outlives its cell and none is drawn twice. A
:class:`Picture` shows itself in Jupyter with or without the inline back end.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from segnb.files import atomic_path
from segnb.methods import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY
from segnb.results.method import Mark, Method
from segnb.results.table import summarise

#: Width of a figure in inches; a notebook shows 100 pixels per inch.
WIDTH = 7.2
#: Pixels per inch of a PNG: sharp on a dense screen, small enough for a notebook.
PIXELS = 160
#: The same for pages of photographs, which compress badly.
PHOTO_PIXELS = 128
#: Text in the background: captions, legends, units.
QUIET = "#555555"
#: Lines that only guide the eye.
FAINT = "#d9d9d9"
#: Lines and text of drawings.
INK = "#222222"
#: A positive pulls, a negative pushes.
PULL, PUSH = "#117733", "#AA3377"

_RC: dict[str, Any] = {
    "figure.facecolor": "white",
    "savefig.dpi": "figure",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "normal",
    "axes.titlepad": 6,
    "axes.labelsize": 9,
    "axes.labelcolor": "#222222",
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.7,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": "#888888",
    "ytick.color": "#888888",
    "xtick.labelcolor": "#222222",
    "ytick.labelcolor": "#222222",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "svg.fonttype": "path",
    # Ids inside an SVG come from this, not from a random number.
    "svg.hashsalt": "segnb",
}


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure with its alternative text, which shows itself in Jupyter.

    It wraps the matplotlib figure, because Jupyter's inline back end would resize and crop a bare
    figure and drop the alternative text.

    Attributes:
        figure: The matplotlib figure; it can still be changed.
        alt: What the figure shows, for readers who cannot see it. Notebooks and saved files
            contain it.
    """

    figure: Figure
    alt: str

    def png(self) -> bytes:
        """The figure as PNG; the same figure gives the same bytes."""
        buffer = io.BytesIO()
        with styled():
            self.figure.savefig(buffer, format="png", metadata=_metadata("png", self.alt))
        return buffer.getvalue()

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        width, height = self.figure.get_size_inches()
        shown = {"width": round(100 * width), "height": round(100 * height), "alt": self.alt}
        return {"image/png": self.png(), "text/plain": self.alt}, {"image/png": shown}


#: What a figure compares: methods, or anything else with a name.
Series = TypeVar("Series", bound=Method | str)

#: Marks of series that are not methods.
_OTHERS = tuple(
    Mark(colour, marker)
    for colour, marker in zip((BLUE, RED, GREEN, ORANGE, PINK, SKY, GREY), "o^sDvP<", strict=True)
)


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in this package's style, then restore the user's settings."""
    with matplotlib.rc_context(_RC):
        yield


def marks(series: Iterable[Series]) -> dict[Series, Mark]:
    """A mark for each series: methods first, in the order of tables.

    A method has the same mark in every figure. Other names get theirs in the order they come in.
    """
    series = dict.fromkeys(series)
    methods = sorted((one for one in series if isinstance(one, Method)), key=lambda m: m.order)
    others = [one for one in series if not isinstance(one, Method)]
    found: dict[Any, Mark] = {method: method.mark for method in methods}
    return found | dict(zip(others, itertools.cycle(_OTHERS)))


def new_figure(width: float, height: float, *, tight: bool = True, pixels: int = PIXELS) -> Figure:
    """An empty figure, unknown to pyplot; create it and draw on it inside :func:`styled`.

    Args:
        width: Inches.
        height: Inches.
        tight: Let matplotlib lay out the axes so that nothing overlaps.
        pixels: Pixels per inch of a PNG.
    """
    return Figure(figsize=(width, height), dpi=pixels, layout="constrained" if tight else None)


def panel_grid(
    titles: Sequence[str | None],
    *,
    height: float,
    below: float = 0.0,
    width: float = WIDTH,
    columns: int = 3,
    pixels: int = PIXELS,
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure with panels in rows, and the panels.

    Args:
        titles: Titles of the panels, row by row. ``None`` leaves a gap, as does a short last row.
        height: Height of a row in inches.
        below: Inches below all rows, for a legend.
        width: Width of the figure in inches.
        columns: Most panels in a row.
        pixels: Pixels per inch of a PNG.
        **options: See :meth:`matplotlib.figure.Figure.subplots`.
    """
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    figure = new_figure(width, height * rows + below, pixels=pixels)
    cells = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    panels = []
    for axes, title in itertools.zip_longest(cells, titles):
        if title is None:
            axes.remove()
        else:
            axes.set_title(title)
            panels.append(axes)
    return figure, panels


def panel_title(text: str, share: float, *, letters: int = 78) -> str:
    """A title broken into lines that fit above a panel.

    Args:
        text: The title.
        share: Width of the panel as a share of :data:`WIDTH`.
        letters: How many letters fit in that width.
    """
    return textwrap.fill(text, round(letters * share), break_on_hyphens=False)


def bare(axes: Axes) -> Axes:
    """Take ticks, grid and frame off the panel of an image."""
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return axes


def log_ticks(
    axes: Axes, ticks: Sequence[float], names: Sequence[str], *, base: float = 10
) -> None:
    """Make the x-axis logarithmic, with these ticks only."""
    axes.set_xscale("log", base=base)
    axes.set_xticks(ticks, names)
    axes.set_xticks([], minor=True)


def luminance(colour: Any) -> float:
    """How light a colour looks, from 0 (black) to 1 (white)."""
    return float(np.dot(matplotlib.colors.to_rgb(colour), (0.299, 0.587, 0.114)))


def ink_on(colour: Any) -> str:
    """The colour of words on a filled area: white on dark ones, near black on light ones."""
    return "#ffffff" if luminance(colour) < 0.5 else "#222222"


def arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    colour: str = QUIET,
    width: float = 1.1,
    head: float = 9,
) -> None:
    """An arrow in data coordinates; width and size of its head are in points."""
    look: dict[str, Any] = {"color": colour, "linewidth": width, "mutation_scale": head}
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", zorder=3, **look))


def draw_seeds(
    axes: Axes, position: float, values: Iterable[float], mark: Mark, *, across: bool = False
) -> float:
    """Draw several seeds as dots and, from three seeds on, the interval; return their mean.

    Args:
        axes: The panel.
        position: Where they stand on the other axis.
        values: One value per seed.
        mark: Its colour is used.
        across: Values run along the x-axis, not the y-axis.
    """
    values = [*values]
    summary = summarise(values)
    dots = {"color": mark.colour, "linestyle": "", "marker": ".", "markersize": 3.5}
    for shown, look in (
        (summary.interval, interval_look(mark)),
        (values if summary.seeds > 1 else None, dots),
    ):
        if shown:
            at = [position] * len(shown)
            axes.plot(*((shown, at) if across else (at, shown)), **look)
    return summary.mean


def interval_look(mark: Mark) -> dict[str, Any]:
    """Keywords of the line of an interval."""
    return {"color": mark.colour, "alpha": 0.5, "linewidth": 1.6}


def legend_below(figure: Figure, panels: Iterable[Any], order: Iterable[Method | str] = ()) -> None:
    """One legend below the figure for all its panels, each name once.

    Args:
        figure: The figure.
        panels: Its axes.
        order: Series that come first, in this order; the others follow as drawn.
    """
    drawn = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    names = list(dict.fromkeys([*(name for one in order if (name := str(one)) in drawn), *drawn]))
    figure.legend(
        [drawn[name] for name in names],
        names,
        loc="outside lower center",
        ncols=legend_columns(names, figure.get_figwidth(), letter=0.066, sample=0.5),
        labelcolor=QUIET,
    )


def legend_columns(names: Sequence[str], width: float, *, letter: float, sample: float) -> int:
    """How many columns a legend of these names can have; widths in inches.

    Args:
        names: The names, which fill the legend column by column.
        width: Width of the legend.
        letter: Mean width of a letter.
        sample: Width of a line or patch and the space around it.
    """
    for columns in range(len(names), 1, -1):
        longest = [max(map(len, column)) for column in np.array_split(names, columns)]
        if letter * sum(longest) + sample * columns <= width:
            lines = -(-len(names) // columns)
            return -(-len(names) // lines)  # no more columns than those lines need
    return 1


def save(picture: Picture, path: Path | str) -> None:
    """Write a picture to a file, whole or not at all; the same picture gives the same bytes.

    Args:
        picture: The picture.
        path: A path that ends in ``.png`` or ``.svg``.

    Raises:
        ValueError: The path ends in something else.
    """
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"{path}: pictures are saved as .png or .svg")
    with atomic_path(path) as side, styled():
        picture.figure.savefig(side, format=kind, metadata=_metadata(kind, picture.alt))


def _metadata(kind: str, alt: str) -> dict[str, Any]:
    # None leaves a field out: the date and matplotlib's version would change the bytes.
    fields = ("Software",) if kind == "png" else ("Date", "Creator")
    return {**dict.fromkeys(fields), "Description": alt}
