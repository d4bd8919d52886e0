"""A saved notebook shows what a widget's controls look like, says it, and keeps its outputs."""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import nbformat
import numpy as np
import pytest
from ipywidgets.embed import dependency_state
from PIL import Image

from tools import notebooks, widget_pictures
from tools.widget_pictures import WidgetPicture


def drawn(widget: Any) -> WidgetPicture:
    picture = widget_pictures.draw(widget.model_id, dependency_state(widget))
    assert picture is not None
    return picture


def pixels(picture: WidgetPicture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB")).astype(int)


def share(picture: WidgetPicture, colour: tuple[int, int, int]) -> float:
    """How many of a picture's pixels have a colour, in a notebook's pixels."""
    near = np.abs(pixels(picture) - colour).max(axis=-1) <= 6
    return float(near.sum()) / widget_pictures.DENSITY**2


CONTROLS = [
    (widgets.IntSlider(value=3, max=9, description="a"), "Slider 'a' at 3 of 0 … 9"),
    (widgets.FloatSlider(value=-0.5, min=-1, max=1), "Slider at −0.50 of −1.00 … 1.00"),
    (
        widgets.FloatLogSlider(value=0.07, min=-2, max=1, description="τ"),
        "Slider 'τ' at 0.07 of 0.01 … 10",
    ),
    (widgets.IntRangeSlider(value=(2, 5)), "Range slider at 2 – 5 of 0 … 100"),
    (
        widgets.SelectionSlider(
            options=["1/32", "1/8", "all"], value="1/8", description="labelled"
        ),
        "Slider 'labelled' at 1/8 of 1/32 … all",
    ),
    (
        widgets.SelectionRangeSlider(options=list("abcd"), index=(1, 2)),
        "Range slider at b – c of a … d",
    ),
    (
        widgets.Dropdown(options=[("paper form", 1), ("official", 2)], value=1, description="loss"),
        "Dropdown 'loss' at 'paper form' (others: 'official')",
    ),
    (widgets.Dropdown(options=["a"], value=None), "Dropdown with nothing chosen (others: 'a')"),
    (
        widgets.ToggleButtons(options=["16", "64"], value="64", description="n"),
        "Choice 'n' at '64' of '16', '64'",
    ),
    (widgets.RadioButtons(options=["x", "y"], value="y"), "Choice at 'y' of 'x', 'y'"),
    (widgets.SelectMultiple(options=["x", "y"], value=["x", "y"]), "Choice at 'x', 'y' of"),
    (widgets.Button(description="Run", disabled=True), "Button 'Run' (disabled)"),
    (widgets.Button(description="Go", layout={"border": "3px solid red"}), "'Go' (outlined)"),
    (widgets.ToggleButton(description="live", value=True), "Toggle button 'live' on"),
    (widgets.Checkbox(description="mark", value=False), "Checkbox 'mark' off"),
    (widgets.Text(value="cat", description="name"), "Field 'name' with 'cat'"),
    (widgets.Textarea(value="one\ntwo"), "Field with 'one two'"),
    (widgets.BoundedIntText(value=7), "Field with '7'"),
    (widgets.IntProgress(value=2, max=8), "Progress bar at 2 of 8"),
    (widgets.Play(description="film"), "Play buttons 'film'"),
    (widgets.Label("A $label$ < 1"), "Text 'A $label$ < 1'"),
    (widgets.HTML("<h4>Head</h4><b>n</b>: <i>x</i> &amp; y."), "Text 'Head / n: x & y'"),
    (widgets.HTML('<img alt="Two curves" src="data:,">'), "Text '[picture: Two curves]'"),
    (widgets.HTML("<style>p {}</style><p>seen</p>"), "Text 'seen'"),
    (widgets.ColorPicker(description="paint"), "Widget ColorPicker 'paint'"),
]


@pytest.mark.parametrize(("control", "words"), CONTROLS, ids=lambda each: type(each).__name__)
def test_a_control_says_how_it_stands(control: Any, words: str) -> None:
    assert words in drawn(control).alt


def test_every_control_of_a_panel_is_in_its_words_in_order() -> None:
    panel = widgets.VBox(
        [
            widgets.HBox([control for control, _ in CONTROLS[:12]]),
            widgets.GridBox([control for control, _ in CONTROLS[12:]]),
        ]
    )
    alt = drawn(panel).alt
    # Several buttons, or texts, become one list.
    shortened = [words.removeprefix("Button ").removeprefix("Text ") for _, words in CONTROLS]
    at = [alt.index(words) for words in shortened]
    assert at == sorted(at)
    assert "\n" not in alt


def test_equal_panels_give_equal_small_clean_pictures() -> None:
    def panel() -> Any:
        sliders = [widgets.FloatSlider(description=name) for name in ("row", "column")]
        return widgets.VBox([widgets.HBox(sliders), widgets.Button(description="step")])

    one, other = drawn(panel()), drawn(panel())
    assert one == other
    assert (one.width, pixels(one).shape[1]) == (720, 1440)
    assert pixels(one).shape[0] == 2 * one.height
    assert len(one.png) < 20_000
    assert set(chunks(one.png)) <= {b"IHDR", b"PLTE", b"IDAT", b"IEND"}, "no date, no software"


def chunks(png: bytes) -> Iterator[bytes]:
    at = 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        yield png[at + 4 : at + 8]
        at += length + 12


def test_the_user_s_settings_of_matplotlib_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    slider = widgets.IntSlider(description="a")
    usual = drawn(slider)
    monkeypatch.setitem(matplotlib.rcParams, "text.color", "red")
    monkeypatch.setitem(matplotlib.rcParams, "figure.facecolor", "black")
    assert drawn(slider) == usual


def test_a_knob_stands_where_its_value_is() -> None:
    def knob(value: float) -> float:
        slider = widgets.FloatSlider(value=value, min=0, max=1, readout=False)
        row = pixels(drawn(slider))[2 * 14 + 28]  # through the middle of the track
        return float(np.flatnonzero((row == 255).all(axis=-1) & inside(row)).mean())

    def inside(row: np.ndarray) -> np.ndarray:
        dark = np.flatnonzero((row < 160).all(axis=-1))  # the rim of the knob
        at = np.arange(len(row))
        return (at > dark.min()) & (at < dark.max())

    low, middle, high = knob(0), knob(0.5), knob(1)
    assert low < middle < high
    assert middle == pytest.approx((low + high) / 2, abs=2)


def test_buttons_have_their_colours() -> None:
    area = widget_pictures._BUTTON * widget_pictures._ROW
    own = widgets.Button(description="+1", style={"button_color": "#3366cc"})
    assert share(drawn(own), (0x33, 0x66, 0xCC)) > 0.8 * area
    assert share(drawn(widgets.Button(button_style="danger")), (0xF4, 0x43, 0x36)) > 0.9 * area
    odd = widgets.Button(description="odd")
    states = dependency_state(odd)
    states[odd.style.model_id]["state"]["button_color"] = "var(--x)"
    assert widget_pictures.draw(odd.model_id, states) == drawn(odd)


def test_the_chosen_toggle_button_is_dark() -> None:
    choice = widgets.ToggleButtons(options=["a", "b", "c"], value="b")
    near = np.abs(pixels(drawn(choice)) - 0x61).max(axis=-1) < 6
    dark = np.flatnonzero(near.sum(axis=0) > widget_pictures._ROW)  # more than a letter's edge
    second = 2 * (14 + widget_pictures._BUTTON + widget_pictures._GAP)
    assert dark.min() == pytest.approx(second, abs=2)
    assert dark.max() == pytest.approx(second + 2 * widget_pictures._BUTTON, abs=2)


def test_an_image_is_shown_as_it_is() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (10, 200, 90)).save(buffer, format="png")
    picture = drawn(widgets.Image(value=buffer.getvalue(), width=60))
    assert "Picture of 60 by 40 pixels" in picture.alt
    assert share(picture, (10, 200, 90)) == pytest.approx(60 * 40, rel=0.05)
    assert "Widget Image" in drawn(widgets.Image(value=b"no image")).alt


def test_an_unknown_widget_is_a_grey_box_above_what_it_holds() -> None:
    tab = widgets.Tab([widgets.IntSlider(description="inside")])
    picture = drawn(tab)
    assert "Widget Tab; Slider 'inside'" in picture.alt
    assert share(picture, (0xF5, 0xF5, 0xF5)) > 0.9 * 296 * 26
    foreign = {"1": {"model_name": "FancyModel", "state": {"depth": [1, None]}}}
    found = widget_pictures.draw("1", foreign)
    assert found is not None
    assert "Widget Fancy" in found.alt


def test_boxes_lay_their_children_out() -> None:
    def sliders(count: int) -> list[Any]:
        return [widgets.IntSlider(description=str(number)) for number in range(count)]

    row, column = drawn(widgets.HBox(sliders(2))), drawn(widgets.VBox(sliders(2)))
    assert row.height == drawn(sliders(1)[0]).height
    assert column.height > row.height
    wide = drawn(widgets.HBox(sliders(3)))
    assert (wide.width > 720, wide.height) == (True, row.height)
    widest = drawn(widgets.HBox(sliders(4)))
    assert widest.width <= widget_pictures.WIDEST
    assert widest.height == column.height, "a fourth goes into a second line"
    grid = widgets.GridBox(sliders(4), layout={"grid_template_columns": "repeat(2, 300px)"})
    assert drawn(grid).height == column.height


def test_what_is_hidden_is_not_drawn() -> None:
    shown, hidden = widgets.Button(description="a"), widgets.Button(description="b")
    hidden.layout.display = "none"
    assert drawn(widgets.VBox([shown, hidden])) == drawn(widgets.VBox([shown]))


def test_output_widgets_have_no_picture_but_contents() -> None:
    outputs = [widgets.Output() for _ in range(3)]
    for number, output in enumerate(outputs):
        output.append_stdout(f"{number}\n")
    outputs[1].layout.visibility = "hidden"
    box = widgets.VBox([outputs[0], widgets.HBox([outputs[1], outputs[2]])])
    states = dependency_state(box)
    assert widget_pictures.draw(box.model_id, states) is None
    held = widget_pictures.held_outputs(box.model_id, states)
    assert [output["text"] for output in held] == ["0\n", "2\n"]


# In a notebook

CODE = """
import os, sys
import ipywidgets as widgets
from IPython.display import Markdown, display
from PIL import Image
from segnb.plots import Picture
from matplotlib.figure import Figure

picture = Picture(Figure(figsize=(1, 1)), "An empty square")
first, second, third = widgets.Output(), widgets.Output(), widgets.Output()
with first:
    display(Markdown(f"in {os.getcwd()}"), picture)
    print("careful", file=sys.stderr)
with second:
    print("text", hex(2**40))
    display(widgets.Checkbox(description="nested"))
with third:
    display(Markdown("also by the cell"))
display(Markdown("also by the cell"))
slider = widgets.IntSlider(value=4, description="level", max=8)
place = widgets.HTML(f"<b>{os.getcwd()}</b>")
widgets.VBox([slider, first, place, second, third])
"""


@pytest.fixture(scope="module")
def executed() -> list[nbformat.NotebookNode]:
    """The outputs of a cell that shows a panel."""
    cell = nbformat.v4.new_code_cell(CODE)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("Why."), cell])
    notebooks.execute(notebook, name="made", tier="smoke", timeout=60)
    assert notebooks.faults(notebook) == []
    nbformat.validate(notebook)
    found: list[nbformat.NotebookNode] = cell.outputs
    return found


def test_a_panel_is_saved_as_its_picture_then_its_outputs(
    executed: list[nbformat.NotebookNode],
) -> None:
    own, panel, told, square, printed, nested = executed
    assert own.data["text/markdown"] == "also by the cell"
    words = (
        "Interactive controls. Slider 'level' at 4 of 0 … 8; Text './notebooks'."  # no path of ours
    )
    assert panel.data["text/plain"] == f"{notebooks._INTERACTIVE}\n{words}"
    shown = panel.metadata["image/png"]
    assert (shown["alt"], shown["width"]) == (words, 720)
    image = Image.open(io.BytesIO(base64.b64decode(panel.data["image/png"])))
    assert image.size == (1440, 2 * shown["height"])
    assert told.data["text/markdown"] == "in ./notebooks"
    assert square.metadata["image/png"]["alt"] == "An empty square"
    assert printed.text == "text 0x...\n"
    assert "Checkbox 'nested' off" in nested.data["text/plain"]


def test_a_widget_in_its_own_output_ends(tmp_path: Path) -> None:
    view = {"output_type": "display_data", "metadata": {}, "data": {notebooks._WIDGET: {}}}
    view["data"][notebooks._WIDGET] = {"model_id": "1"}
    states = {"1": {"model_name": "OutputModel", "state": {"outputs": [view]}}}
    cell = nbformat.v4.new_code_cell("x", execution_count=1, outputs=[nbformat.from_dict(view)])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("Why."), cell])
    notebook.metadata["widgets"] = {notebooks._WIDGET_STATE: {"state": states}}
    notebooks.clean(notebook, {})
    (left,) = cell.outputs
    assert left.data == {"text/plain": notebooks._INTERACTIVE}
