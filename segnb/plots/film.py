"""Several figures, one after another, as one animated PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from segnb.plots.style import styled

#: Colours of a frame: few enough for a small file.
_COLOURS = 96

#: How much longer than the others the first and the last frame stay.
_FIRST, _LAST = 6, 16


@dataclass(frozen=True, eq=False)
class Film:
    """An animated PNG with its alternative text, which plays in Jupyter and on GitHub.

    Attributes:
        png: The file's content.
        alt: What it shows, in words.
        size: Width and height on a page, in pixels.
    """

    png: bytes
    alt: str
    size: tuple[int, int]

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        shown = {"width": self.size[0], "height": self.size[1], "alt": self.alt}
        return {"image/png": self.png, "text/plain": self.alt}, {"image/png": shown}


def animated(figures: Sequence[Figure], alt: str, *, milliseconds: int) -> Film:
    """A film of figures of one size.

    Args:
        figures: The frames; an inch is shown as 100 pixels of a page.
        alt: What the film shows, in words.
        milliseconds: Time of one frame; the first and the last stay longer.
    """
    pictures = []
    for figure in figures:
        buffer = io.BytesIO()
        with styled():
            figure.savefig(buffer, format="png")
        frame = Image.open(buffer).convert("RGB")
        pictures.append(frame.quantize(_COLOURS, dither=Image.Dither.NONE))
    times = [milliseconds] * len(pictures)
    times[0], times[-1] = _FIRST * milliseconds, _LAST * milliseconds
    made = io.BytesIO()
    pictures[0].save(
        made, format="PNG", save_all=True, append_images=pictures[1:], duration=times, loop=0
    )
    width, height = figures[0].get_size_inches()
    return Film(made.getvalue(), alt, (round(100 * width), round(100 * height)))
