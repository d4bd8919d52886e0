"""The gap between training and validation images at the end of training."""

from __future__ import annotations

from collections.abc import Mapping

from segnb.methods import BLUE, RED
from segnb.plots.style import WIDTH, Picture, new_figure, styled
from segnb.results.method import Method


def training_gap(mious: Mapping[Method, tuple[float, float]]) -> Picture:
    """One bar a method, from its validation mIoU to its training mIoU.

    Args:
        mious: mIoU in percent on training and on validation images, by method.
    """
    said = [f"{m}: {known:.0f} and {unseen:.0f}." for m, (known, unseen) in mious.items()]
    with styled():
        figure = new_figure(WIDTH, 0.45 * len(mious) + 1.1)
        axes = figure.subplots()
        heights = range(len(mious))[::-1]  # the first method on top
        known, unseen = zip(*mious.values(), strict=True)
        axes.hlines(heights, unseen, known, color="#cccccc", linewidth=5, zorder=1)
        axes.plot(known, heights, "o", color=RED, label="training images")
        axes.plot(unseen, heights, "o", color=BLUE, label="validation images")
        for height, high, low in zip(heights, known, unseen, strict=True):
            middle = ((high + low) / 2, height + 0.16)
            axes.annotate(f"{high - low:.0f} points", middle, ha="center", fontsize=8)
        axes.set_yticks(heights, [str(method) for method in mious])
        axes.set(xlabel="mIoU, %", ylim=(-0.5, len(mious) - 0.3))
        figure.legend(loc="outside lower center", ncols=2)
        return Picture(figure, f"Training and validation mIoU, %. {' '.join(said)}")
