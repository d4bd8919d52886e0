"""One look for every figure: sizes, type, colours of methods, alt text, files.

Figures are made without pyplot, so none stays alive after its cell and none is drawn twice. A
:class:`Picture` shows one in Jupyter whether or not the inline back end is active.
"""

from __future__ import annotations

import contextlib
import io
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from segnb.files import atomic_path
from segnb.results.table import (
    CROSS_ENTROPY,
    CROSS_ENTROPY_DOUBLE,
    CROSS_ENTROPY_LONG,
    CROSS_ENTROPY_PLAIN,
    CROSS_ENTROPY_PRETRAINED,
    UNDISTORTED,
    method_order,
)

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


@dataclass(frozen=True)
class MethodStyle:
    """How a method is drawn: never told by its colour alone.

    Attributes:
        colour: Hex colour, from Okabe and Ito's set for all kinds of colour vision.
        marker: Matplotlib marker.
        line: Matplotlib line style.
        filled: Whether the marker is filled.
    """

    colour: str
    marker: str
    line: str = "-"
    filled: bool = True

    def mark(self) -> dict[str, Any]:
        """Keywords of a matplotlib mark."""
        face = self.colour if self.filled else "white"
        return {
            "color": self.colour,
            "marker": self.marker,
            "markerfacecolor": face,
            "markeredgecolor": self.colour,
            "markeredgewidth": 1.3,
        }


_BLUE, _SKY, _GREEN = "#0072B2", "#56B4E9", "#009E73"
_ORANGE, _RED, _PINK, _GREY = "#E69F00", "#D55E00", "#CC79A7", "#4d4d4d"

_METHODS = {
    CROSS_ENTROPY: MethodStyle(_GREY, "o"),
    CROSS_ENTROPY_LONG: MethodStyle(_ORANGE, "s"),
    CROSS_ENTROPY_PLAIN: MethodStyle(_ORANGE, "s", "--"),
    CROSS_ENTROPY_PRETRAINED: MethodStyle(_GREY, "p", "-."),
    CROSS_ENTROPY_DOUBLE: MethodStyle(_ORANGE, "X", "-."),
    CROSS_ENTROPY_DOUBLE + UNDISTORTED: MethodStyle(_ORANGE, "*", "--"),
    "(paper, cross)": MethodStyle(_BLUE, "^"),
    "(paper, within)": MethodStyle(_SKY, "v"),
    "(paper, batch)": MethodStyle(_PINK, "<"),
    "(official, cross)": MethodStyle(_GREEN, "D"),
    "(official, within)": MethodStyle(_RED, "P"),
}
_OTHERS = tuple(
    MethodStyle(colour, marker)
    for colour, marker in zip(
        (_BLUE, _RED, _GREEN, _ORANGE, _PINK, _SKY, _GREY), "o^sDvP<", strict=True
    )
)


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in this package's style, and leave the user's settings as they were."""
    with matplotlib.rc_context(_RC):
        yield


def method_styles(names: Sequence[str]) -> dict[str, MethodStyle]:
    """A style for each name, known methods first; a method looks alike in every figure.

    Pseudo-labels are dashed in the colour of their loss, undistorted cross-entropy in that of the
    distorted; ImageNet weights and frozen networks or statistics are dotted; the compute of two
    rounds and another map of the loss are dashed and dotted; all of them with open markers. Names
    that are no method of this package share the same colours in their order.
    """
    found: dict[str, MethodStyle] = {}
    unknown = 0
    for name in sorted(names, key=lambda n: (method_order(n), list(names).index(n))):
        base = name.removesuffix(", ImageNet").removesuffix(" statistics").removesuffix(", frozen")
        style = _METHODS.get(base) or _METHODS.get(base[base.find("(") : base.find(")") + 1])
        if style is None:
            found[name] = _OTHERS[unknown % len(_OTHERS)]
            unknown += 1
            continue
        line, marker = style.line, style.marker
        if base != name:
            line = ":"
        elif base.startswith("pseudo"):
            line = "--"
        if name.endswith("statistics"):
            marker = "p"
        if base.endswith(("places", "feature map")):
            line, marker = "-." if line == "-" else line, "h"
        found[name] = MethodStyle(style.colour, marker, line, filled=line == "-")
    return found


def new_figure(width: float, height: float, *, tight: bool = True, pixels: int = PIXELS) -> Figure:
    """An empty figure, unknown to pyplot; make it and draw on it inside :func:`styled`.

    Args:
        width: Inches.
        height: Inches.
        tight: Let matplotlib place the axes so that nothing overlaps; else the caller does.
        pixels: Pixels of a PNG an inch.
    """
    return Figure(figsize=(width, height), dpi=pixels, layout="constrained" if tight else None)


def panel_title(text: str, share: float) -> str:
    """A title broken into lines that fit above a panel.

    Args:
        text: The title.
        share: The panel's part of a figure of :data:`WIDTH`.
    """
    return textwrap.fill(text, round(_TITLE_LETTERS * share), break_on_hyphens=False)


def legend_below(figure: Figure, panels: Iterable[Any]) -> None:
    """One legend under the figure for all its panels, each name once."""
    entries = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    names = sorted(entries, key=lambda name: method_order(name)[:2])
    # Letters and the sample of the line, in inches at the legend's type size.
    widest = 0.066 * max(map(len, entries)) + 0.5
    figure.legend(
        [entries[name] for name in names],
        names,
        loc="outside lower center",
        ncols=max(1, min(len(entries), int(figure.get_figwidth() / widest))),
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
