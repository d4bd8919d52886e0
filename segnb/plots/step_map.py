"""Figures of the map of steps: heat maps of gains, and mIoU against the length of stage 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator

from segnb.methods import BLUE, ORANGE, RED
from segnb.plots.style import (
    QUIET,
    WIDTH,
    Picture,
    ink_on,
    legend_below,
    new_figure,
    panel_title,
    styled,
)
from segnb.results.method import Mark, Method
from segnb.results.step_map import RIVALS, Cell, Rival, StepMap
from segnb.results.table import MEASURE_NAMES, Measure, Summary, shared_seeds, summarise

#: Losses are orange and gains blue, which all kinds of colour vision tell apart; zero is white.
_COLOURS = LinearSegmentedColormap.from_list("gain", [ORANGE, "#ffffff", BLUE])

#: Inches of a row of cells, and of what stands above and below the cells of a panel.
_ROW, _AROUND = 0.45, 0.62


def step_map(
    found: StepMap,
    *,
    measure: Measure = "miou_test",
    over: Sequence[Rival] = RIVALS,
    chosen: Cell | None = None,
) -> Picture:
    """Heat maps of the gain: a row a number of labels, a column a rival.

    In a panel stage 2 grows to the right and stage 1 upwards. A cell shows the mean gain in points
    over the seeds and, from three seeds on, half the width of its 95 % interval; the gain is bold
    where the interval leaves out zero.

    Args:
        found: The map.
        measure: Which mIoU.
        over: The rivals to show.
        chosen: A cell to mark: labelled images, steps of stage 1, steps of stage 2.
    """
    gains = {
        (cell, rival): gained
        for cell in found.cells
        for rival in over
        if (gained := found.gain(*cell, over=rival, measure=measure))
    }
    colours = gain_colours(found, measure=measure)
    labels = found.axis(0)
    heights = [len(found.axis(1, labelled)) for labelled in labels]
    alt = f"Gain of the contrastive stage 1 in {MEASURE_NAMES[measure]}, in points. "
    with styled():
        height = sum(heights) * _ROW + len(labels) * _AROUND
        figure = new_figure(WIDTH if len(over) > 1 else 0.62 * WIDTH, height)
        panels = figure.subplots(
            len(labels), len(over), squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for row, labelled in zip(panels, labels, strict=True):
            pretrain, finetune = found.axis(1, labelled), found.axis(2, labelled)
            for axes, rival in zip(row, over, strict=True):
                title = f"{labelled} images, over {rival}"
                axes.set_title(title)
                _grid(axes, pretrain, finetune)
                said = []
                for x, steps2 in enumerate(finetune):
                    for y, steps1 in enumerate(pretrain):
                        cell = (labelled, steps1, steps2)
                        gained = gains.get((cell, rival))
                        _cell(axes, x, y, gained, colours, marked=cell == chosen)
                        if gained:
                            said.append(f"{gained.mean:+.1f} at {steps1} and {steps2} steps")
                alt += f"{title}: {', '.join(said) or 'not run'}. "
            row[0].set_ylabel("stage 1")
        for axes in panels[-1]:
            axes.set_xlabel("steps of stage 2")
        return Picture(figure, alt.strip())


def gain_colours(found: StepMap, *, measure: Measure) -> Callable[[float], Any]:
    """The colour of a gain in points, on one scale for all cells and both rivals."""
    means = [
        abs(gained.mean)
        for cell in found.cells
        for rival in RIVALS
        if (gained := found.gain(*cell, over=rival, measure=measure))
    ]
    limit = max(means, default=0.0) or 1.0
    return lambda points: _COLOURS(0.5 + points / limit / 2)


def _grid(axes: Axes, pretrain: Sequence[int], finetune: Sequence[int]) -> None:
    axes.set(xlim=(-0.5, len(finetune) - 0.5), ylim=(-0.5, len(pretrain) - 0.5))
    axes.set_xticks(range(len(finetune)), [str(steps) for steps in finetune])
    axes.set_yticks(range(len(pretrain)), [str(steps) for steps in pretrain])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _cell(
    axes: Axes,
    x: int,
    y: int,
    gained: Summary | None,
    colours: Callable[[float], Any],
    *,
    marked: bool,
) -> None:
    colour: Any = "#f4f4f4" if gained is None else colours(gained.mean)
    edge: dict[str, Any] = {"edgecolor": "white"}
    if marked:
        edge = {"edgecolor": RED, "linewidth": 2.2, "zorder": 3}
    axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=colour, **edge))
    if gained is None:
        axes.text(x, y, "–", ha="center", va="center", color=QUIET)
        return
    text: dict[str, Any] = {"ha": "center", "va": "center", "color": ink_on(colour), "zorder": 4}
    if gained.interval is None:
        axes.text(x, y, f"{gained.mean:+.1f}", fontsize=8.5, **text)
        return
    low, high = gained.interval
    sure = "bold" if low > 0 or high < 0 else "normal"
    axes.text(x, y + 0.16, f"{gained.mean:+.1f}", fontsize=8.5, fontweight=sure, **text)
    axes.text(x, y - 0.24, f"±{(high - low) / 2:.1f}", fontsize=6.5, **text)


def step_curves(
    found: StepMap,
    labelled: int,
    *,
    measures: Sequence[Measure] = ("miou_val", "miou_test"),
    chosen: tuple[int, int] | None = None,
) -> Picture:
    """MIoU against the steps of stage 2, from scratch and after either stage 1; a panel a measure.

    A curve is the mean over the seeds that all points have. Points of fewer than three seeds take
    none from the others, but only from those above and below them.

    Args:
        found: The map.
        labelled: Number of labelled images.
        measures: Which mIoU.
        chosen: Steps of stage 1, whose curves alone are drawn then, and steps of stage 2, which
            are marked.
    """
    all_steps = sorted({p[3] for p in found.runs if p[1] == labelled})
    series = _series([chosen[0]] if chosen else list(found.axis(1, labelled)))
    alt = f"mIoU against the steps of stage 2, {labelled} labelled images. "
    with styled():
        figure = new_figure(WIDTH, 3.3)
        panels = figure.subplots(1, len(measures), squeeze=False)[0]
        for axes, measure in zip(panels, measures, strict=True):
            values = {
                steps2: {
                    name: held
                    for name, kind, steps1, _ in series
                    if (held := found.values(kind, labelled, steps1, steps2, measure=measure))
                }
                for steps2 in all_steps
            }
            curves = _means(values)
            for name, _, _, mark in series:
                if curve := curves.get(name):
                    _curve(axes, name, curve, mark)
                    said = ", ".join(f"{s.mean:.1f} at {k}" for k, s in curve.items())
                    alt += f"{MEASURE_NAMES[measure]}, {name}: {said}. "
            if chosen:
                axes.axvline(chosen[1], color=RED, alpha=0.25, linewidth=6, zorder=0)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_locator(FixedLocator(all_steps))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticklabels([str(steps) for steps in all_steps])
            axes.set_xlabel("steps of stage 2")
            title = f"{labelled} labelled images: {MEASURE_NAMES[measure]}, %"
            axes.set_title(panel_title(title, 1 / len(measures)))
        legend_below(figure, panels)
        return Picture(figure, alt.strip())


def _means(values: dict[int, dict[str, dict[int, float]]]) -> dict[str, dict[int, Summary]]:
    """By curve and steps, means over the same seeds; ``values`` is by steps, curve and seed."""
    everywhere = shared_seeds(set(held) for at in values.values() for held in at.values())
    curves: dict[str, dict[int, Summary]] = {}
    for steps, at in values.items():
        shared = set.intersection(*map(set, at.values())) if at else set()
        for name, held in at.items():
            seeds = shared & everywhere or shared or set(held)
            curves.setdefault(name, {})[steps] = summarise(held[seed] for seed in sorted(seeds))
    return curves


def _series(pretrain: Sequence[int]) -> list[tuple[str, str, int, Mark]]:
    """Name, kind, steps of stage 1 and mark of each curve; the longest stage 1 is drawn solid."""
    ours = Method(kind="contrastive", form="official", scope="cross").mark
    theirs = Method(kind="ce_long").mark
    series = [("from scratch", "ce", 0, Method(kind="ce").mark)]
    for steps, line in zip(sorted(pretrain, reverse=True), ("-", "--", ":", "-."), strict=False):
        for name, kind, mark in (
            ("contrastive", "contrastive", ours),
            ("cross-entropy", "ce_pretrained", theirs),
        ):
            drawn = Mark(mark.colour, mark.marker, line, filled=line == "-")
            series.append((f"after {steps} steps, {name}", kind, steps, drawn))
    return series


def _curve(axes: Axes, name: str, curve: dict[int, Summary], mark: Mark) -> None:
    steps = list(curve)
    means = [one.mean for one in curve.values()]
    axes.plot(steps, means, linestyle=mark.line, label=name, **mark.keywords())
    shown = {k: one.interval for k, one in curve.items() if one.interval}
    if shown:
        low, high = zip(*shown.values(), strict=True)
        axes.fill_between(list(shown), low, high, color=mark.colour, alpha=0.13, linewidth=0)
