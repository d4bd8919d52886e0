"""One look for every figure: sizes, type, colours of methods, alt text, files.

Figures are made without pyplot, so none stays alive after its cell and none is drawn twice. A
:class:`Picture` shows one in Jupyter whether or not the inline back end is active.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segnb.files import atomic_path
from segnb.methods import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY
from segnb.results.method import Mark, Method

#: Width of a figure in inches; 100 of a notebook's pixels each.
WIDTH = 7.2
#: Letters of a panel's title that fit above a figure of that width.
_TITLE_LETTERS = 78
#: Pixels of a PNG an inch: sharp on a dense screen, small enough for a notebook.
PIXELS = 160
#: The same for pages of photographs, which compress badly.
PHOTO_PIXELS = 128
#: Text that must not shout: captions under panels, names of quantities nobody reads twice.
QUIET = "#555555"
#: Lines that only guide the eye.
FAINT = "#d9d9d9"

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

    It holds the matplotlib figure and is none: for a figure, the inline back end would choose
    size and cropping, and drop the alternative text.

    Attributes:
        figure: The matplotlib figure, to add to or to change.
        alt: What the figure shows, in words, for those who cannot see it; it goes into the
            notebook's output and into saved files.
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


#: What a figure shows several of: methods, or anything else with a name.
Series = TypeVar("Series", bound=Method | str)

#: Marks of series that are no methods.
_OTHERS = tuple(
    Mark(colour, marker)
    for colour, marker in zip((BLUE, RED, GREEN, ORANGE, PINK, SKY, GREY), "o^sDvP<", strict=True)
)


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in this package's style, and leave the user's settings as they were."""
    with matplotlib.rc_context(_RC):
        yield


def marks(series: Iterable[Series]) -> dict[Series, Mark]:
    """A mark for each series, methods first and in their order; a method looks alike everywhere.

    Names that are no method share the same colours in the order they come in.
    """
    series = dict.fromkeys(series)
    methods = sorted((one for one in series if isinstance(one, Method)), key=lambda m: m.order)
    others = [one for one in series if not isinstance(one, Method)]
    found: dict[Any, Mark] = {method: method.mark for method in methods}
    return found | dict(zip(others, itertools.cycle(_OTHERS)))


def new_figure(width: float, height: float, *, tight: bool = True, pixels: int = PIXELS) -> Figure:
    """An empty figure, unknown to pyplot; make it and draw on it inside :func:`styled`.

    Args:
        width: Inches.
        height: Inches.
        tight: Let matplotlib place the axes so that nothing overlaps; else the caller does.
        pixels: Pixels of a PNG an inch.
    """
    return Figure(figsize=(width, height), dpi=pixels, layout="constrained" if tight else None)


def panel_grid(
    count: int,
    *,
    height: float,
    below: float = 0.0,
    width: float = WIDTH,
    columns: int = 3,
    pixels: int = PIXELS,
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure with panels in rows, the last row shorter where they do not fill it.

    Args:
        count: How many panels.
        height: Inches of a row.
        below: Inches below all rows, for a legend.
        width: Inches of the figure.
        columns: Most panels in a row.
        pixels: Pixels of a PNG an inch.
        **options: See :meth:`matplotlib.figure.Figure.subplots`.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure(width, height * rows + below, pixels=pixels)
    panels = [*figure.subplots(rows, columns, squeeze=False, **options).ravel()]
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def panel_title(text: str, share: float) -> str:
    """A title broken into lines that fit above a panel.

    Args:
        text: The title.
        share: The panel's part of a figure of :data:`WIDTH`.
    """
    return textwrap.fill(text, round(_TITLE_LETTERS * share), break_on_hyphens=False)


def legend_below(figure: Figure, panels: Iterable[Any], order: Iterable[Method | str] = ()) -> None:
    """One legend under the figure for all its panels, each name once.

    Args:
        figure: The figure.
        panels: Its axes.
        order: Series that come first, in this order; the rest comes as it was drawn.
    """
    drawn = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    names = list(dict.fromkeys([*(name for one in order if (name := str(one)) in drawn), *drawn]))
    # Letters and the sample of the line, in inches at the legend's type size.
    widest = 0.066 * max(map(len, names)) + 0.5
    figure.legend(
        [drawn[name] for name in names],
        names,
        loc="outside lower center",
        ncols=max(1, min(len(names), int(figure.get_figwidth() / widest))),
        labelcolor=QUIET,
    )


def save(picture: Picture, path: Path | str) -> None:
    """Write a picture, whole or not at all; the same picture gives the same bytes.

    Args:
        picture: Any picture of this package.
        path: Ends in ``.png`` or ``.svg``.

    Raises:
        ValueError: Another ending.
    """
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"{path}: pictures are saved as .png or .svg")
    with atomic_path(path) as side, styled():
        picture.figure.savefig(side, format=kind, metadata=_metadata(kind, picture.alt))


def _metadata(kind: str, alt: str) -> dict[str, Any]:
    # None takes a field out: neither the hour nor matplotlib's version belongs to the content.
    if kind == "png":
        return {"Software": None, "Description": alt}
    return {"Date": None, "Creator": None, "Description": alt}
