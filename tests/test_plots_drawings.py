"""Drawings of the method: everything inside the picture, words that do not run into each other."""

from __future__ import annotations

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from segnb.plots import Picture, drawings, network_drawing, pairs_drawing

DRAWINGS = {
    "network": network_drawing,
    "within": lambda: pairs_drawing("within"),
    "cross": lambda: pairs_drawing("cross"),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_words_lie_inside_and_apart(name: str) -> None:
    figure = DRAWINGS[name]().figure
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in figure.axes[0].texts]
    for words, box in boxes:
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, words
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, words
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), (one, other)


def marks(picture: Picture, marker: str) -> int:
    return sum(line.get_marker() == marker for line in picture.figure.axes[0].lines)


def test_pairs_are_those_of_the_paper_form() -> None:
    own = drawings._BEACH[4, 2]
    same, others = int((own == drawings._BEACH).sum()), int((own != drawings._BEACH).sum())
    within, cross = pairs_drawing("within"), pairs_drawing("cross")
    # One open circle is the anchor; crosses are negatives, in the distorted image alone.
    assert marks(within, "o") == 1 + same
    assert marks(cross, "o") == 1 + same + int((own == drawings._OTHER_BEACH).sum())
    assert marks(within, "x") == marks(cross, "x") == others


def test_drawings_say_what_they_show() -> None:
    assert "projection head" in network_drawing().alt
    assert "positives too" in pairs_drawing("cross").alt
    assert "positives too" not in pairs_drawing("within").alt
