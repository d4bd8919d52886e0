"""MIoU by where a network starts from: scratch, stage 1, ImageNet."""

from __future__ import annotations

from collections.abc import Iterable

from segnb.errors import ConfigError
from segnb.plots.style import QUIET, Picture, draw_seeds, panel_grid, styled
from segnb.results.method import Method
from segnb.results.table import MEASURE_NAMES, Measure, Row, groups, same_seeds, summarise

_STARTS = {False: "from scratch", True: "from ImageNet"}


def starts(rows: Iterable[Row], *, measure: Measure = "miou_test") -> Picture:
    """What each method reaches from scratch and from ImageNet, one panel per number of labels.

    A dashed line marks cross-entropy from ImageNet: whoever stays left of it can't replace it. A
    large mark is the mean over the seeds, a dot one seed, a bar the 95 % interval of the mean.

    Args:
        rows: Runs of one data set, tier and network (:func:`segnb.results.starts.starts`).
        measure: Which mIoU.

    Raises:
        ConfigError: No row has the measure, or none starts from ImageNet.
    """
    found = groups(same_seeds(rows, measure), measure)
    panels: dict[int, dict[Method, list[float]]] = {}
    for group in found:
        panels.setdefault(group.labelled, {})[group.method] = [*group.values.values()]
    lines = sorted({group.method for group in found}, key=lambda one: (one.imagenet, one.order))
    if not any(method.imagenet for method in lines):
        raise ConfigError("none of the runs starts from ImageNet")
    # From the top; a gap parts the two starts.
    heights = {method: -index - 0.7 * method.imagenet for index, method in enumerate(lines)}
    alt = f"{MEASURE_NAMES[measure]}, from scratch and from ImageNet. "
    for labelled, held in panels.items():
        said = [
            f"{method.short_name} {_STARTS[method.imagenet]} {summarise(held[method]).mean:.1f}"
            for method in lines
            if method in held
        ]
        alt += f"{labelled} labelled images: {', '.join(said)}. "
    with styled():
        figure, drawn = panel_grid(
            [f"{labelled} labelled images" for labelled in panels],
            height=0.34 * len(lines) + 1.1,
            columns=len(panels),
            sharex=True,
            sharey=True,
        )
        for axes, held in zip(drawn, panels.values(), strict=True):
            rival = held.get(Method(kind="ce", imagenet=True))
            if rival:
                at = summarise(rival).mean
                axes.axvline(at, color=QUIET, linewidth=1, linestyle="--", zorder=1)
            for method, values in held.items():
                mean = draw_seeds(axes, heights[method], values, method.mark, across=True)
                axes.plot(mean, heights[method], zorder=3, linestyle="", **method.mark.keywords())
                axes.annotate(
                    f"{mean:.1f}",
                    (mean, heights[method]),
                    (0, 6),
                    textcoords="offset points",
                    ha="center",
                    bbox={"color": "white", "pad": 0.5},  # the dashed line runs behind it
                    zorder=2,
                    fontsize=7.5,
                    color=QUIET,
                )
            axes.set_xlabel(f"{MEASURE_NAMES[measure]}, %")
            axes.grid(visible=False, axis="y")
        names = [f"{method.short_name}\n{_STARTS[method.imagenet]}" for method in lines]
        drawn[0].set_yticks([heights[method] for method in lines], names)
        drawn[0].set_ylim(min(heights.values()) - 0.6, max(heights.values()) + 0.7)
        return Picture(figure, alt.strip())
