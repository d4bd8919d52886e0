"""Pictures of an anchor, its keys and plain lines: places, words, errors; widgets follow them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from segnb.datasets import IGNORE, info
from segnb.errors import DataError
from segnb.plots import Picture
from segnb.plots.lines import lines
from segnb.plots.similarity import anchor_and_keys, key_weights, pixels_on_a_circle
from segnb.widgets import live as module

SHAPES = info("shapes")
IMAGE = np.full((33, 41, 3), 90, dtype=np.uint8)
LABELS = np.array([[0, 0, 1], [2, 0, IGNORE]])


def picture(anchor: tuple[int, int] = (0, 1), **maps: Any) -> Picture:
    return anchor_and_keys(IMAGE, IMAGE, LABELS, anchor, SHAPES, maps or {"f": np.eye(2, 3)})


def test_positives_and_negatives_are_counted_and_averaged() -> None:
    alt = picture(f=np.array([[3.0, 6.0, 1.0], [2.0, 9.0, 50.0]])).alt
    assert "class sky in row 0, column 1, with 3 positives and 2 negatives" in alt
    assert "mean 6.00 over the positives, 1.50 over the negatives" in alt


def test_an_ignored_anchor_has_no_keys() -> None:
    assert "ignored in row 1, column 2, with 0 positives and 0 negatives" in picture((1, 2)).alt


def test_the_anchor_is_marked_where_corner_aligned_sampling_puts_it() -> None:
    boxes = [p for p in picture((1, 2)).figure.axes[0].patches if isinstance(p, Rectangle)]
    centre = boxes[0].get_center()
    assert tuple(centre) == pytest.approx((40, 32))  # the last pixel of 41 columns and 33 rows


def test_as_many_panels_as_maps() -> None:
    assert len(picture(a=np.eye(2, 3)).figure.axes) == 3 + 1  # and the colour bar
    assert len(picture(a=np.eye(2, 3), b=np.eye(2, 3)).figure.axes) == 4 + 1
    assert picture(a=np.eye(2, 3)).png().startswith(b"\x89PNG")


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(2, 0\).*outside"):
        picture((2, 0))
    with pytest.raises(ValueError, match=r"'f' is \(2, 2\)"):
        picture(f=np.eye(2))
    with pytest.raises(ValueError, match="no maps"):
        key_weights(IMAGE, (0, 0), {}, caption="x")
    with pytest.raises(ValueError, match=r"\[N, 2\]"):
        pixels_on_a_circle(np.eye(3), np.eye(3), [0], [0], anchor=0)


def test_half_of_the_weight_is_counted() -> None:
    weights = np.array([[4.0, 3.0, 1.0], [1.0, 1.0, 0.0]])
    drawn = key_weights(IMAGE, (0, 0), {"one": weights, "even": np.ones((2, 3))}, caption="c")
    assert "one: half of the weight on 2 of 6" in drawn.alt
    assert "even: half of the weight on 3 of 6" in drawn.alt


def test_cosines_on_the_circle_are_told() -> None:
    keys = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    drawn = pixels_on_a_circle(np.array([[1.0, 0.0]]), keys, [5], [5, 1, 2], anchor=0)
    assert "positives: 1.00; with the negatives: 0.00, -1.00" in drawn.alt


def test_lines_tell_their_ends_and_levels() -> None:
    drawn = lines(
        {"a": ([1, 2], [3.0, 4.0]), "b": ([1], [2.0])},
        xlabel="x",
        ylabel="y",
        log="xy",
        levels={"floor": 1.5},
    )
    assert "a: from 3 at 1 to 4 at 2." in drawn.alt
    assert "Level line floor at 1.5." in drawn.alt
    axes = drawn.figure.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    with pytest.raises(ValueError, match="'a' has 2 positions and 1 values"):
        lines({"a": ([1, 2], [3.0])}, xlabel="x", ylabel="y")
    with pytest.raises(ValueError, match="no points"):
        lines({"a": ([], [])}, xlabel="x", ylabel="y")


def test_few_places_of_a_logarithmic_axis_are_named() -> None:
    def named(*places: float) -> list[str]:
        drawn = lines({"a": (places, [1.0] * len(places))}, xlabel="x", ylabel="y", log="x")
        return [label.get_text() for label in drawn.figure.axes[0].get_xticklabels()]

    assert named(512, 1012, 2048, 132098) == ["512", "1,012", "2,048", "132,098"]
    assert named(512, 520, 4000) != ["512", "520", "4,000"]  # they would run into each other


def test_a_single_map_stands_beside_the_images() -> None:
    one, two = picture(a=np.eye(2, 3)), picture(a=np.eye(2, 3), b=np.eye(2, 3))
    assert len({axes.get_subplotspec().rowspan.start for axes in one.figure.axes[:3]}) == 1
    assert len({axes.get_subplotspec().rowspan.start for axes in two.figure.axes[:4]}) == 2


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was displayed; a clearing empties it at the next display, as ``wait`` means."""
    import IPython.display

    seen: list[Any] = []

    def clear(wait: bool = False) -> None:
        assert wait, "a picture stays until its successor is there"
        seen.clear()

    monkeypatch.setattr(IPython.display, "display", lambda *things: seen.extend(things))
    monkeypatch.setattr(IPython.display, "clear_output", clear)
    return seen


def test_a_widget_draws_what_its_plain_twin_draws(shown: list[Any]) -> None:
    import ipywidgets

    def draw(power: int) -> Picture:
        return lines({"a": ([1, 2], [1.0, 2.0**power])}, xlabel="x", ylabel="y")

    slider = ipywidgets.IntSlider(value=1, max=9)
    box = module.live(draw, {"power": slider})
    assert box.children[0] is slider
    slider.value = 3
    (drawn,) = shown
    assert drawn.png() == draw(3).png()


def test_several_things_stand_below_one_another(shown: list[Any]) -> None:
    import ipywidgets

    module.live(lambda power: ["words", power], {"power": ipywidgets.IntSlider(value=1)})
    assert shown == ["words", 1]


def test_an_error_takes_the_pictures_place(
    shown: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    import ipywidgets

    def draw(power: int) -> Picture:
        if power == 2:
            raise DataError("no such image")
        if power == 3:
            raise KeyError("unforeseen")
        return lines({"a": ([1], [1.0])}, xlabel="x", ylabel="y")

    slider = ipywidgets.IntSlider(value=1, max=9)
    module.live(draw, {"power": slider})
    assert len(shown) == 1
    slider.value = 2
    assert shown == []
    assert "No picture: no such image" in capsys.readouterr().out
    slider.value = 3
    assert "KeyError: 'unforeseen'" in capsys.readouterr().out
    slider.value = 4
    assert len(shown) == 1
