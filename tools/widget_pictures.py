"""Draw the controls of a saved widget, for readers who can't run the cell.

GitHub and most viewers show no widget. What a reader would see in JupyterLab is drawn here with
matplotlib from the widget state that an executed notebook carries, and described in words as
alternative text. The state is that of the Jupyter widget schema: of every model its name, its
traits, and its binary buffers.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from html.parser import HTMLParser
from itertools import groupby
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle, FancyBboxPatch, Polygon, Rectangle
from matplotlib.textpath import text_to_path
from PIL import Image, UnidentifiedImageError

from segnb.plots.style import luminance

#: Widths of a picture in a notebook's pixels: the usual one, and that of a wide row of controls.
WIDTH, WIDEST = 720, 1000

#: Pixels of the PNG for one of a notebook's.
DENSITY = 2

#: Written under the controls.
CAPTION = "A picture of the controls: run this cell to use them."

# JupyterLab's light theme.
_INK, _QUIET, _PALE, _LINE = "#212121", "#757575", "#9e9e9e", "#bdbdbd"
_FACE, _TRACK, _CHOSEN, _BLUE = "#eeeeee", "#e0e0e0", "#616161", "#1976d2"
_BUTTONS = {
    "primary": "#2196f3",
    "success": "#4caf50",
    "info": "#00acc1",
    "warning": "#ff9800",
    "danger": "#f44336",
}
_ICONS = {
    "play": "▶",
    "stop": "■",
    "pause": "❚❚",
    "refresh": "↻",
    "undo": "↺",
    "check": "✓",
    "times": "✕",
    "plus": "+",
    "minus": "−",
    "arrow-left": "←",
    "arrow-right": "→",
    "step-forward": "▶|",
    "download": "↓",
    "upload": "↑",
}

# Sizes of JupyterLab's own style sheet, in pixels.
_ROW, _GAP, _PAD = 28, 4, 14
_CONTROL, _BUTTON, _LABEL, _READOUT = 300, 148, 80, 60
_TYPE, _SMALL = 12.0, 10.5

#: What ipywidgets leaves out of a state because it is the default.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "IntSlider": {"value": 0, "min": 0, "max": 100, "readout_format": "d"},
    "FloatSlider": {"value": 0.0, "min": 0.0, "max": 10.0},
    "FloatLogSlider": {"value": 1.0, "min": 0.0, "max": 4.0, "base": 10.0, "readout_format": ".3g"},
    "IntRangeSlider": {"value": [25, 75], "min": 0, "max": 100, "readout_format": "d"},
    "FloatRangeSlider": {"value": [2.5, 7.5], "min": 0.0, "max": 10.0},
    "IntProgress": {"value": 0, "min": 0, "max": 100},
    "FloatProgress": {"value": 0.0, "min": 0.0, "max": 100.0},
    "IntText": {"value": 0},
    "FloatText": {"value": 0.0},
    "BoundedIntText": {"value": 0},
    "BoundedFloatText": {"value": 0.0},
    "Checkbox": {"indent": True},
}


@dataclass(frozen=True)
class WidgetPicture:
    """The controls of one widget.

    Attributes:
        png: The picture; equal states give equal bytes.
        alt: The controls and how they stand, in words.
        width: In a notebook's pixels; the PNG has :data:`DENSITY` times as many.
        height: The same.
    """

    png: bytes
    alt: str
    width: int
    height: int


def draw(model_id: str, states: Mapping[str, Any]) -> WidgetPicture | None:
    """The controls of a widget as a picture; ``None`` where it has none, as a lone Output.

    Args:
        model_id: Of the widget that a cell shows.
        states: ``state`` of the notebook's widget state, by model id.
    """
    with matplotlib.style.context(["default", {"text.hinting": "none"}]):
        inner = _piece(_model(model_id, states), WIDTH - 2 * _PAD)
        if not inner.words:
            return None
        width = max(WIDTH, math.ceil(inner.width) + 2 * _PAD)
        height = math.ceil(inner.height) + 2 * _PAD + 16
        pen = _Pen(width, height)
        pen.box(0.5, 0.5, width - 1, height - 1, "white", edge=_TRACK, rounding=6)
        inner.draw(pen, _PAD, _PAD)
        pen.text(_PAD, height - 15, CAPTION, size=10, colour=_QUIET)
        return WidgetPicture(pen.png(), _in_words(inner.words), width, height)


def held_outputs(model_id: str, states: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the Output widgets inside a widget hold, from top to bottom, as outputs of a cell."""
    model = _model(model_id, states)
    if model.hidden:
        return []
    found = list(model["outputs"]) if model.kind == "Output" else []
    for child in model["children"]:
        found += held_outputs(child, states)
    return found


def _in_words(words: Iterable[tuple[str, str]]) -> str:
    """``("Button", "'step'"), ("Button", "'stop'")`` becomes ``Buttons 'step', 'stop'``."""
    parts = []
    for name, group in groupby(words, key=lambda word: word[0]):
        rest = [text for _, text in group]
        if name == "Button" and len(rest) > 1:
            parts.append(f"Buttons {', '.join(rest)}")
        elif name == "Text":
            parts.append(f"Text {', '.join(rest)}")
        else:
            parts += [f"{name} {text}".strip() for text in rest]
    return re.sub(r"\s+", " ", f"Interactive controls. {'; '.join(parts)}.")


# Models


@dataclass(frozen=True)
class _Model:
    """One widget: its traits, with those left out of the state filled in."""

    kind: str
    traits: Mapping[str, Any]
    states: Mapping[str, Any] = field(repr=False)
    buffers: Sequence[Mapping[str, Any]] = ()

    def __getitem__(self, name: str) -> Any:
        fallback = _DEFAULTS.get(self.kind, {}).get(name, _PLAIN.get(name, ""))
        found = self.traits.get(name)
        return fallback if found is None else found

    @property
    def layout(self) -> _Model:
        return _model(self["layout"], self.states)

    @property
    def style(self) -> _Model:
        return _model(self["style"], self.states)

    @property
    def children(self) -> list[_Model]:
        return [_model(child, self.states) for child in self["children"]]

    @property
    def hidden(self) -> bool:
        return self.layout["display"] == "none" or self.layout["visibility"] == "hidden"

    @property
    def label(self) -> str:
        """The description, quoted, with a space before it; empty without one."""
        return f" '{self['description']}'" if self["description"] else ""

    @property
    def options(self) -> list[str]:
        return [str(label) for label in self["_options_labels"]]

    @property
    def chosen(self) -> list[int]:
        index = self.traits.get("index")
        indices = index if isinstance(index, list | tuple) else [index]
        return [i for i in indices if isinstance(i, int) and 0 <= i < len(self.options)]

    @property
    def ink(self) -> str:
        return _PALE if self["disabled"] else _INK

    @property
    def off(self) -> str:
        """Words for a control that can't be used."""
        return " (disabled)" if self["disabled"] else ""

    def buffer(self, name: str) -> bytes:
        for held in self.buffers:
            if list(held.get("path", ())) == [name]:
                return base64.b64decode(held["data"])
        return b""


#: Traits that several kinds share.
_PLAIN: Mapping[str, Any] = {
    "children": (),
    "outputs": (),
    "_options_labels": (),
    "readout": True,
    "readout_format": ".2f",
    "disabled": False,
}


def _model(reference: str, states: Mapping[str, Any]) -> _Model:
    held = states.get(reference.removeprefix("IPY_MODEL_"), {})
    kind = (held.get("model_name") or "widget").removesuffix("Model")
    return _Model(kind, held.get("state", {}), states, held.get("buffers", ()))


# Drawing


def _font(size: float, *, bold: bool = False) -> FontProperties:
    return FontProperties(family="DejaVu Sans", size=0.72 * size, weight="bold" if bold else 400)


@lru_cache(maxsize=4096)
def _text_width(text: str, size: float = _TYPE, *, bold: bool = False) -> float:
    # Measured at a size of 72, where one point is one unit.
    width, _, _ = text_to_path.get_text_width_height_descent(text, _font(100, bold=bold), False)
    return float(width) * size / 72


def _fitted(text: str, room: float, size: float = _TYPE) -> str:
    """A text cut to its room, as a browser cuts it."""
    if _text_width(text, size) <= room:
        return text
    while text and _text_width(text + "…", size) > room:
        text = text[:-1]
    return text.rstrip() + "…"


class _Pen:
    """Draws in a notebook's pixels, from the top left."""

    def __init__(self, width: float, height: float) -> None:
        self._figure = Figure(figsize=(width / 100, height / 100), dpi=100 * DENSITY)
        self._axes = self._figure.add_axes((0, 0, 1, 1))
        self._axes.set(xlim=(0, width), ylim=(height, 0))
        self._axes.set_axis_off()
        self._colours = 128

    def png(self) -> bytes:
        canvas = FigureCanvasAgg(self._figure)
        canvas.draw()
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
        # Median cut, the usual method, would lose a rare colour, as that of one red word.
        coverage = Image.Quantize.MAXCOVERAGE
        small = image.quantize(self._colours, method=coverage, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        small.save(buffer, format="png", optimize=True)
        return buffer.getvalue()

    def text(
        self,
        x: float,
        middle: float,
        text: str,
        *,
        size: float = _TYPE,
        colour: str = _INK,
        side: str = "left",
        bold: bool = False,
    ) -> None:
        # Placed by its baseline: letters with and without descenders stand on one line.
        self._axes.text(
            x,
            middle + 0.36 * size,
            text,
            fontproperties=_font(size, bold=bold),
            color=colour,
            ha=side,
            va="baseline",
            parse_math=False,
        )

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        face: str,
        *,
        edge: str = "none",
        rounding: float = 2,
        line: float = 1,
    ) -> None:
        style = f"round,pad=0,rounding_size={min(rounding, width / 2, height / 2)}"
        looks = {"facecolor": face, "edgecolor": edge, "linewidth": 0.72 * line}
        if rounding and min(width, height) > 0:
            patch = FancyBboxPatch((x, y), width, height, boxstyle=style, **looks)
        else:
            patch = Rectangle((x, y), width, height, **looks)
        self._axes.add_patch(patch)

    def knob(self, x: float, y: float, *, radius: float = 8, face: str = "white") -> None:
        looks = {"facecolor": face, "edgecolor": _QUIET, "linewidth": 0.8}
        self._axes.add_patch(Circle((x, y), radius, **looks))

    def shape(self, points: Sequence[tuple[float, float]], *, closed: bool = False) -> None:
        looks = {"facecolor": _INK if closed else "none", "edgecolor": _INK, "linewidth": 1.0}
        self._axes.add_patch(Polygon(points, closed=closed, joinstyle="round", **looks))

    def image(self, pixels: Image.Image, x: float, y: float, width: float, height: float) -> None:
        self._colours = 256
        shape = (round(width * DENSITY), round(height * DENSITY))
        way = Image.Resampling.NEAREST if pixels.width < shape[0] else Image.Resampling.LANCZOS
        data = np.asarray(pixels.resize(shape, way))
        self._axes.imshow(data, extent=(x, x + width, y + height, y), aspect="auto", zorder=2)
        # imshow takes the axes for its own.
        self._axes.set(
            xlim=(0, self._figure.get_figwidth() * 100),
            ylim=(self._figure.get_figheight() * 100, 0),
        )


@dataclass(frozen=True)
class _Piece:
    """A widget laid out: its size in pixels, how it is drawn from a corner, and what it says."""

    width: float
    height: float
    words: tuple[tuple[str, str], ...] = ()
    draw: Callable[[_Pen, float, float], None] = lambda pen, x, y: None


def _piece(model: _Model, room: float) -> _Piece:
    if model.hidden:
        return _Piece(0, 0)
    made = _KINDS.get(model.kind, _unknown)(model, room)
    border = _border(model)
    if border is None or not made.width:
        return made
    line, colour = border

    def draw(pen: _Pen, x: float, y: float) -> None:
        made.draw(pen, x, y)
        inset = line / 2
        size = (made.width - line, made.height - line)
        pen.box(x + inset, y + inset, *size, "none", edge=colour, rounding=0, line=line)

    return _Piece(made.width, made.height, made.words, draw)


def _border(model: _Model) -> tuple[float, str] | None:
    """Width and colour of a widget's border."""
    found = re.fullmatch(
        r"([\d.]+)px +(?!none)\w+ +(#?\w+)", model.layout["border"] or model.layout["border_top"]
    )
    if found is None or not matplotlib.colors.is_color_like(found[2]):
        return None
    return float(found[1]), found[2]


def _pixels(length: str, room: float) -> float | None:
    """A length of CSS; ``None`` for one that depends on the content."""
    found = re.fullmatch(r"([\d.]+)(px|%)", length.strip())
    if found is None:
        return None
    return float(found[1]) * (room / 100 if found[2] == "%" else 1)


def _width(model: _Model, room: float, usual: float) -> float:
    return _pixels(model.layout["width"], room) or usual


# Boxes


def _row(pieces: Sequence[_Piece], room: float) -> _Piece:
    """Pieces side by side, in further lines where they would leave the widest picture."""
    lines: list[list[_Piece]] = [[]]
    for piece in pieces:
        if lines[-1] and sum(p.width + _GAP for p in lines[-1]) + piece.width > room:
            lines.append([])
        lines[-1].append(piece)
    return _column([_line(line) for line in lines])


def _line(pieces: Sequence[_Piece]) -> _Piece:
    def draw(pen: _Pen, x: float, y: float) -> None:
        for piece in pieces:
            piece.draw(pen, x, y)
            x += piece.width + _GAP

    return _Piece(
        sum(p.width for p in pieces) + _GAP * max(len(pieces) - 1, 0),
        max((p.height for p in pieces), default=0),
        tuple(word for p in pieces for word in p.words),
        draw,
    )


def _column(pieces: Sequence[_Piece]) -> _Piece:
    def draw(pen: _Pen, x: float, y: float) -> None:
        for piece in pieces:
            piece.draw(pen, x, y)
            y += piece.height + _GAP

    return _Piece(
        max((p.width for p in pieces), default=0),
        sum(p.height for p in pieces) + _GAP * max(len(pieces) - 1, 0),
        tuple(word for p in pieces for word in p.words),
        draw,
    )


def _children(model: _Model, room: float) -> list[_Piece]:
    made = [_piece(child, room) for child in model.children]
    return [piece for piece in made if piece.height]


def _box(model: _Model, room: float) -> _Piece:
    flow = model.layout["flex_flow"]
    if "column" in flow:
        return _vbox(model, room)
    room = _width(model, room, room)
    return _row(_children(model, room), room if "wrap" in flow else WIDEST - 2 * _PAD)


def _vbox(model: _Model, room: float) -> _Piece:
    return _column(_children(model, _width(model, room, room)))


def _grid(model: _Model, room: float) -> _Piece:
    columns = model.layout["grid_template_columns"]
    repeated = re.match(r"repeat\((\d+)", columns)
    count = int(repeated[1]) if repeated else max(len(columns.split()), 1)
    pieces = _children(model, room / count)
    widths = [max((p.width for p in pieces[c::count]), default=0) for c in range(count)]
    lines = []
    for start in range(0, len(pieces), count):
        line = pieces[start : start + count]
        cells = zip(widths, line, strict=False)
        lines.append(_line([replace(piece, width=width) for width, piece in cells]))
    return _column(lines)


# Controls


def _labelled(
    model: _Model,
    room: float,
    make: Callable[[float], _Piece],
    *,
    usual: float = _CONTROL,
) -> _Piece:
    """A control with its description on the left.

    Args:
        model: The widget.
        room: Width of what holds it.
        make: The control without its description, for the width that is left to it.
        usual: Width of the whole where the layout names none.
    """
    text = model["description"]
    label, size = 0.0, _TYPE
    if text:
        fixed = _pixels(model.style["description_width"], room)
        label = fixed or (0 if model.style["description_width"] else _LABEL)
        # The type here is wider than a browser's. JupyterLab cuts a longer description still;
        # in a picture nobody can widen it.
        needed = _text_width(text)
        if label - 8 < needed <= (label - 8) * _TYPE / _SMALL:
            size = _TYPE * (label - 8) / needed
        label = max(label, _text_width(text, size) + 8)
    control = make(max(_width(model, room, usual) - label, 40))

    def draw(pen: _Pen, x: float, y: float) -> None:
        if text:
            end, middle = x + label - 8, y + _ROW / 2
            pen.text(end, middle, text, size=size, colour=model.ink, side="right")
        control.draw(pen, x + label, y)

    return _Piece(label + control.width, control.height, control.words, draw)


def _number(value: Any, style: str) -> str:
    try:
        return format(value, style).replace("-", "−")
    except (ValueError, TypeError):
        return str(value)


def _slider(model: _Model, room: float) -> _Piece:
    """Sliders over numbers or options, with one knob or two."""
    if model.kind.startswith("Selection"):
        options = model.options or [""]
        knobs = [i / max(len(options) - 1, 1) for i in model.chosen]
        shown = [options[i] for i in model.chosen]
        ends = [options[0], options[-1]]
    else:
        value, low, high = model["value"], model["min"], model["max"]
        values = list(value) if isinstance(value, list | tuple) else [value]
        base = model["base"] if model.kind == "FloatLogSlider" else None
        at = [math.log(v, base) if base else v for v in values]
        knobs = [min(max((v - low) / ((high - low) or 1), 0), 1) for v in at]
        edges = [base**end if base else end for end in (low, high)]
        shown, ends = (
            [_number(v, model["readout_format"]) for v in group] for group in (values, edges)
        )
    many = "Range slider" if len(knobs) > 1 else "Slider"
    readout = " – ".join(shown)
    words = (many + model.label, f"at {readout} of {ends[0]} … {ends[1]}{model.off}")

    def make(width: float) -> _Piece:
        room = max(_READOUT, _text_width(readout) + 12) if model["readout"] else 0
        track = max(width - room - 16, 60)

        def draw(pen: _Pen, x: float, y: float) -> None:
            middle, start = y + _ROW / 2, x + 8
            pen.box(start - 4, middle - 2, track + 8, 4, _TRACK, edge=_LINE, line=0.7)
            if len(knobs) > 1:
                first, last = start + track * knobs[0], start + track * knobs[-1]
                pen.box(first, middle - 2, last - first, 4, _BUTTONS["primary"], rounding=0)
            for knob in knobs:
                pen.knob(start + track * knob, middle)
            if room:
                pen.text(start + track + 18, middle, readout, colour=model.ink)

        return _Piece(track + 16 + room, _ROW, (words,), draw)

    return _labelled(model, room, make)


def _field(text: str, words: tuple[str, str], model: _Model, room: float, lines: int = 1) -> _Piece:
    """A box with text in it; a chevron on its right where it is a list to choose from."""
    height = _ROW if lines == 1 else 18 * lines + 10
    chevron = model.kind in ("Dropdown", "Combobox")

    def make(width: float) -> _Piece:
        def draw(pen: _Pen, x: float, y: float) -> None:
            pen.box(x + 0.5, y + 1.5, width - 1, height - 3, "white", edge=_LINE, rounding=1)
            for number, line in enumerate(text.split("\n")[:lines]):
                shown = _fitted(line, width - (34 if chevron else 16))
                pen.text(x + 8, y + _ROW / 2 + 18 * number, shown, colour=model.ink)
            if chevron:
                right, middle = x + width - 11, y + _ROW / 2
                pen.shape([(right - 8, middle - 2), (right - 4, middle + 2.5), (right, middle - 2)])

        return _Piece(width, height, (words,), draw)

    return _labelled(model, room, make)


def _dropdown(model: _Model, room: float) -> _Piece:
    chosen = "".join(model.options[i] for i in model.chosen)
    others = [f"'{one}'" for number, one in enumerate(model.options) if number not in model.chosen]
    rest = f"at '{chosen}'" if chosen else "with nothing chosen"
    if others:
        rest += f" (others: {', '.join(others)})"
    return _field(chosen, ("Dropdown" + model.label, rest + model.off), model, room)


def _typed(model: _Model, room: float) -> _Piece:
    value = "" if model.kind == "Password" else str(model["value"])
    shown = value or str(model["placeholder"]).strip("\u200b")
    words = ("Field" + model.label, (f"with '{value}'" if value else "empty") + model.off)
    return _field(shown, words, model, room, lines=3 if model.kind == "Textarea" else 1)


def _plate(
    text: str, width: float, *, face: str = _FACE, ink: str = _INK, words: tuple[str, str]
) -> _Piece:
    """A button."""

    def draw(pen: _Pen, x: float, y: float) -> None:
        # A face that is hard to tell from the paper gets an edge.
        edge = _TRACK if luminance(face) > 0.95 else face
        pen.box(x + 0.5, y + 0.5, width - 1, _ROW - 1, face, edge=edge)
        pen.text(x + width / 2, y + _ROW / 2, _fitted(text, width - 8), colour=ink, side="center")

    return _Piece(width, _ROW, (words,), draw)


def _paler(colour: str) -> str:
    return matplotlib.colors.to_hex([0.5 + part / 2 for part in matplotlib.colors.to_rgb(colour)])


def _button(model: _Model, room: float) -> _Piece:
    """Buttons and toggle buttons, in their colour."""
    text = str(model["description"])
    icon = _ICONS.get(model["icon"], "")
    face = _BUTTONS.get(model["button_style"], _FACE)
    ink = "white" if model["button_style"] in _BUTTONS else _INK
    own = model.style["button_color"]
    if own and matplotlib.colors.is_color_like(own):
        # Of white and black, the one that is easier to read.
        face, ink = own, "white" if luminance(own) < 0.5 else _INK
    name, state = "Button", " (outlined)" if _border(model) else ""
    if model.kind == "ToggleButton":
        name, state = "Toggle button", " on" if model["value"] else " off"
        face, ink = (_CHOSEN, "white") if model["value"] else (face, ink)
    if model["disabled"]:
        face, ink = _paler(face), _PALE if ink == _INK else ink
    return _plate(
        f"{icon} {text}".strip(),
        _width(model, room, _BUTTON),
        face=face,
        ink=ink,
        words=(name, f"'{text or model['icon']}'{state}{model.off}"),
    )


def _toggles(model: _Model, room: float) -> _Piece:
    """A row of buttons, of which one is chosen."""
    options = model.options
    named = [f"'{one}'" for one in options]
    chosen = ", ".join(named[i] for i in model.chosen) or "nothing"
    words = ("Choice" + model.label, f"at {chosen} of {', '.join(named)}{model.off}")
    usual = _pixels(model.style["button_width"], room) or _BUTTON

    def make(width: float) -> _Piece:
        plates = [
            _plate(
                text,
                max(usual, _text_width(text) + 20),
                face=_CHOSEN if number in model.chosen else _FACE,
                ink="white" if number in model.chosen else model.ink,
                words=words,
            )
            for number, text in enumerate(options)
        ]
        made = _row(plates, width)
        return _Piece(made.width, made.height, (words,), made.draw)

    return _labelled(model, room, make, usual=room)


def _list(model: _Model, room: float) -> _Piece:
    """Radio buttons, or a list with its chosen lines marked."""
    options = model.options
    named = [f"'{one}'" for one in options]
    chosen = ", ".join(named[i] for i in model.chosen) or "nothing"
    words = ("Choice" + model.label, f"at {chosen} of {', '.join(named)}{model.off}")
    radio = model.kind == "RadioButtons"

    def make(width: float) -> _Piece:
        height = max(22 * len(options) + 6, _ROW)

        def draw(pen: _Pen, x: float, y: float) -> None:
            if not radio:
                pen.box(x + 0.5, y + 0.5, width - 1, height - 1, "white", edge=_LINE, rounding=1)
            for number, text in enumerate(options):
                middle, marked = y + 14 + 22 * number, number in model.chosen
                if radio:
                    pen.knob(x + 8, middle, radius=6)
                    if marked:
                        pen.knob(x + 8, middle, radius=3, face=_BLUE)
                elif marked:
                    pen.box(x + 2, middle - 10, width - 4, 20, _TRACK)
                shown = _fitted(text, width - 26)
                pen.text(x + (20 if radio else 8), middle, shown, colour=model.ink)

        return _Piece(width, height, (words,), draw)

    return _labelled(model, room, make)


def _checkbox(model: _Model, room: float) -> _Piece:
    text, ticked = str(model["description"]), bool(model["value"])
    indent = _LABEL if model["indent"] else 0
    needed = indent + 22 + _text_width(text)

    def draw(pen: _Pen, x: float, y: float) -> None:
        left, middle = x + indent, y + _ROW / 2
        face, edge = (_BLUE, _BLUE) if ticked else ("white", _QUIET)
        pen.box(left + 1, middle - 6.5, 13, 13, face, edge=edge)
        if ticked:
            pen.text(left + 7.5, middle, "✓", size=11, colour="white", side="center", bold=True)
        pen.text(left + 21, middle, text, colour=model.ink)

    words = ("Checkbox" + model.label, ("on" if ticked else "off") + model.off)
    return _Piece(_width(model, room, needed), _ROW, (words,), draw)


def _progress(model: _Model, room: float) -> _Piece:
    low, high, value = model["min"], model["max"], model["value"]
    share = min(max((value - low) / ((high - low) or 1), 0), 1)
    colour = _BUTTONS.get(model["bar_style"], _BUTTONS["primary"])
    words = ("Progress bar" + model.label, f"at {value:g} of {high:g}")

    def make(width: float) -> _Piece:
        def draw(pen: _Pen, x: float, y: float) -> None:
            pen.box(x, y + 4, width, _ROW - 8, _FACE)
            if share:
                pen.box(x, y + 4, width * share, _ROW - 8, colour)

        return _Piece(width, _ROW, (words,), draw)

    return _labelled(model, room, make)


def _play(model: _Model, room: float) -> _Piece:
    words = ("Play buttons" + model.label, "start, stop and repeat an animation" + model.off)
    plates = [_plate(_ICONS[one], 34, words=words) for one in ("play", "stop", "refresh")]
    return _labelled(
        model, room, lambda _: _Piece(3 * 34 + 2 * _GAP, _ROW, (words,), _line(plates).draw)
    )


def _image(model: _Model, room: float) -> _Piece:
    data = model.buffer("value")
    try:
        pixels = Image.open(io.BytesIO(data)).convert("RGB")
    except (UnidentifiedImageError, OSError):
        return _unknown(model, room)
    width = _pixels(model.layout["width"], room) or float(model["width"] or pixels.width)
    width = min(width, room)
    height = float(model["height"] or 0) or width * pixels.height / pixels.width

    def draw(pen: _Pen, x: float, y: float) -> None:
        pen.image(pixels, x, y, width, height)

    return _Piece(width, height, (("Picture", f"of {width:.0f} by {height:.0f} pixels"),), draw)


def _unknown(model: _Model, room: float) -> _Piece:
    """A grey box with the widget's name, above what it holds."""
    name = " ".join([model.kind, *([f"'{model['description']}'"] if model["description"] else [])])
    width = min(max(_width(model, room, _CONTROL), _text_width(name) + 24), room)

    def draw(pen: _Pen, x: float, y: float) -> None:
        pen.box(x, y, width, _ROW, "#f5f5f5", edge=_LINE)
        pen.text(x + 10, y + _ROW / 2, _fitted(name, width - 20), colour=_QUIET)

    head = _Piece(width, _ROW, (("Widget", name),), draw)
    return _column([head, *_children(model, room)])


# Text


@dataclass(frozen=True)
class _Style:
    size: float = _TYPE
    bold: bool = False
    colour: str = _INK


_BLOCKS = {"p", "div", "br", "li", "ul", "ol", "tr", "table", "pre", "hr", "details", "summary"}
_HEADINGS = {"h1": 18.0, "h2": 16.0, "h3": 14.5, "h4": 13.0, "h5": 12.0, "h6": 11.0}
_LONE = {"br", "img", "hr", "input", "wbr", "meta", "link"}
_COLOUR = re.compile(r"(?:^|[;\s])color\s*:\s*(#\w{3,8}|[a-z]+)")


class _Text(HTMLParser):
    """The words of some HTML, line by line, with what little of its style a picture shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.lines: list[list[tuple[str, _Style]]] = [[]]
        self._open = [("", _Style())]
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS or tag in _HEADINGS:
            self._break()
        style, given = self._open[-1][1], dict(attrs)
        if tag == "img" and given.get("alt"):
            self.handle_data(f"[picture: {given['alt']}]")
        if tag in _LONE:
            return
        colour = _COLOUR.search(given.get("style") or "")
        named = colour[1] if colour else style.colour
        self._open.append(
            (
                tag,
                _Style(
                    size=_HEADINGS.get(tag, _SMALL if tag == "small" else style.size),
                    bold=style.bold or tag in ("b", "strong", "th") or tag in _HEADINGS,
                    colour=named if matplotlib.colors.is_color_like(named) else style.colour,
                ),
            )
        )

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS or tag in _HEADINGS:
            self._break()
        for depth in range(len(self._open) - 1, 0, -1):
            if self._open[depth][0] == tag:
                del self._open[depth:]
                return

    def handle_data(self, data: str) -> None:
        if any(tag in ("script", "style") for tag, _ in self._open):
            return
        # Words keep the space before them, so that "<b>name</b>: text" stays together.
        words = re.findall(r"\s*\S+|\s+$", data)
        self.lines[-1] += [(re.sub(r"\s+", " ", word), self._open[-1][1]) for word in words]

    def _break(self) -> None:
        self.lines.append([])


def _html(model: _Model, room: float) -> _Piece:
    return _prose(_Text(str(model["value"])).lines, model, room)


def _label(model: _Model, room: float) -> _Piece:
    return _prose(_Text(html.escape(str(model["value"]))).lines, model, room)


def _prose(lines: Sequence[Sequence[tuple[str, _Style]]], model: _Model, room: float) -> _Piece:
    """Text, broken into lines that fit."""
    lines = [line for line in lines if "".join(word for word, _ in line).strip()]
    if not lines:
        return _Piece(0, 0)
    fixed = _pixels(model.layout["width"], room)
    if model["description"]:
        label = (f"{model['description']} ", _Style(colour=_QUIET))
        lines = [[label, *lines[0]], *lines[1:]]
    broken = [part for line in lines for part in _wrapped(line, fixed or room)]
    heights = [1.45 * max(style.size for _, style in line) for line in broken]
    height = max(sum(heights) + 6, _ROW)
    widest = max(sum(_text_width(t, s.size, bold=s.bold) for t, s in line) for line in broken)

    def draw(pen: _Pen, x: float, y: float) -> None:
        top = y + (height - sum(heights)) / 2
        for line, tall in zip(broken, heights, strict=True):
            left = x
            for text, style in line:
                pen.text(
                    left,
                    top + tall / 2,
                    text,
                    size=style.size,
                    colour=style.colour,
                    bold=style.bold,
                )
                left += _text_width(text, style.size, bold=style.bold)
            top += tall

    whole = " / ".join("".join(word for word, _ in line).strip() for line in lines)
    return _Piece(fixed or widest, height, (("Text", f"'{whole.rstrip('.')}'"),), draw)


def _wrapped(line: Sequence[tuple[str, _Style]], text: float) -> Iterator[list[tuple[str, _Style]]]:
    """Words put together into runs of one style, in lines of at most ``text``."""
    runs: list[tuple[str, _Style]] = []
    used = 0.0
    for word, style in line:
        if not runs or used + _text_width(word.rstrip(), style.size, bold=style.bold) > text:
            if runs:
                yield runs
            runs, used, word = [], 0.0, word.lstrip()
        if runs and runs[-1][1] == style:
            runs[-1] = (runs[-1][0] + word, style)
        else:
            runs.append((word, style))
        used += _text_width(word, style.size, bold=style.bold)
    yield runs


_KINDS: Mapping[str, Callable[[_Model, float], _Piece]] = {
    **dict.fromkeys(("Box", "HBox"), _box),
    "VBox": _vbox,
    "GridBox": _grid,
    "Output": lambda model, text: _Piece(0, 0),
    **dict.fromkeys(("IntSlider", "FloatSlider", "FloatLogSlider", "SelectionSlider"), _slider),
    **dict.fromkeys(("IntRangeSlider", "FloatRangeSlider", "SelectionRangeSlider"), _slider),
    "Dropdown": _dropdown,
    "ToggleButtons": _toggles,
    **dict.fromkeys(("RadioButtons", "Select", "SelectMultiple"), _list),
    **dict.fromkeys(("Button", "ToggleButton"), _button),
    "Checkbox": _checkbox,
    **dict.fromkeys(("Text", "Textarea", "Password", "Combobox", "IntText", "FloatText"), _typed),
    **dict.fromkeys(("BoundedIntText", "BoundedFloatText"), _typed),
    **dict.fromkeys(("IntProgress", "FloatProgress"), _progress),
    "Play": _play,
    "Image": _image,
    **dict.fromkeys(("HTML", "HTMLMath"), _html),
    "Label": _label,
}
