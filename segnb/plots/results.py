"""Figures of results, drawn from ledger rows alone.

A large mark is the mean over the seeds, a small dot one of several seeds, a bar the 95 % Student-t
interval of the mean, from three seeds on. Methods are shown with the seeds that they share
(:func:`~segnb.results.table.same_seeds`). ``rows`` are ledger rows of one data set and tier,
``measure`` is the mIoU to show. Every figure raises :class:`~segnb.errors.ConfigError` where no
row can be shown or :func:`segnb.results.table.groups` refuses to average the rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes

from segnb.errors import ConfigError
from segnb.plots.style import (
    FAINT,
    QUIET,
    WIDTH,
    Picture,
    draw_seeds,
    interval_look,
    legend_below,
    log_ticks,
    marks,
    panel_grid,
    panel_title,
    styled,
)
from segnb.results.compactness import (
    COMPACTNESS_NAMES,
    FEWEST_RUNS,
    RANKED_AMONG,
    STAGES,
    correlation,
)
from segnb.results.method import Baseline, Mark, Method
from segnb.results.table import (
    MEASURE_NAMES,
    Measure,
    Row,
    fraction_name,
    gains,
    groups,
    one_count,
    recipe_identity,
    require_rows,
    same_seeds,
    summarise,
    timed_on,
)

Name = TypeVar("Name", bound=Hashable)

#: Points of a curve: a position, and one value per seed.
Line = list[tuple[float, list[float]]]

#: Room beside the outermost numbers of labelled images, as a factor.
_BESIDE = 1.35

#: Room beside the outermost marks, as a share of the axis.
_MARK = 0.025

#: Marks at one tick take up at most this share of the way to the next tick.
_FILLED = 0.75

#: Least width of a panel, as a share of the widest one.
_NARROWEST = 0.4

#: Dashes of a baseline's level line by the line style of its curves.
_LEVEL_LINES = {
    "-": (0, (4, 2)),
    "--": (0, (1, 1.5)),
    "-.": (0, (5, 1.5, 1, 1.5)),
    ":": (0, (1, 4)),
}


def label_curve(rows: Iterable[Row], *, measure: Measure = "miou_val") -> Picture:
    """MIoU against the number of labelled images, one line per method."""
    found = groups(same_seeds(rows, measure), measure)
    lines: dict[Method, Line] = {}
    for group in found:
        lines.setdefault(group.method, []).append((group.labelled, [*group.values.values()]))
    alt = f"{MEASURE_NAMES[measure]} against the number of labelled images. " + " ".join(
        f"{method}: {_in_words(line, '{} images')}." for method, line in lines.items()
    )
    with styled():
        figure, (axes,) = panel_grid([""], height=4.2)
        shares = {group.labelled: fraction_name(group.fraction) for group in found}
        _draw_over_labels(axes, lines, shares, apart=0.015)
        axes.set_xlabel("labelled images (share of the training images)")
        axes.set_ylabel(f"{MEASURE_NAMES[measure]}, %")
        legend_below(figure, [axes])
        return Picture(figure, alt)


def gain(rows: Iterable[Row], *, measure: Measure = "miou_val") -> Picture:
    """Gain over the cross-entropy baselines, one panel per baseline.

    Runs are paired by seed (:func:`segnb.results.table.gains`); the interval is that of the paired
    differences.
    """
    found = gains(rows, measure)
    shares = {one.group.labelled: fraction_name(one.group.fraction) for one in found}
    panels: dict[Baseline, dict[Method, Line]] = {}
    for one in found:
        line = panels.setdefault(one.baseline, {}).setdefault(one.group.method, [])
        line.append((one.group.labelled, [*one.differences.values()]))
    alt = f"Gain in {MEASURE_NAMES[measure]}, in points. " + _panels_in_words(
        {f"Over {baseline}": lines for baseline, lines in panels.items()},
        lambda line: _in_words(line, "{} images"),
    )
    widths = _panel_widths([_ticks(lines) for lines in panels.values()])
    with styled():
        figure, drawn = panel_grid(
            [*map(panel_title, (f"over {baseline}" for baseline in panels), widths)],
            height=4.3,
            columns=len(panels),
            sharey=True,
            gridspec_kw={"width_ratios": widths},
        )
        for axes, lines, width in zip(drawn, panels.values(), widths, strict=True):
            axes.axhline(0, color="#888888", linewidth=1)
            _draw_over_labels(axes, lines, shares, apart=0.012 / width)
            axes.set_xlabel("labelled images")
        drawn[0].set_ylabel(f"gain in {MEASURE_NAMES[measure]}, points")
        legend_below(figure, drawn, marks(itertools.chain(*panels.values())))
        return Picture(figure, alt)


def temperature_curve(rows: Iterable[Row], *, measure: Measure = "miou_val") -> Picture:
    """MIoU against the temperature of the contrastive loss.

    There is a line for each method and number of labelled images with runs at two or more
    temperatures, and a level line for each cross-entropy baseline on as many labelled images. All
    are shown with the seeds that every temperature was run with.
    """
    baselines: list[Row] = []
    heated: list[Row] = []
    for row in same_seeds(rows, measure, fewest=1):
        (baselines if row.get("temperature") is None else heated).append(row)
    lines: dict[tuple[Method, int], Line] = {}
    for temperature in sorted({row["temperature"] for row in heated}):
        for group in groups((r for r in heated if r["temperature"] == temperature), measure):
            line = lines.setdefault((group.method, group.labelled), [])
            line.append((float(temperature), [*group.values.values()]))
    lines = {key: line for key, line in lines.items() if len(line) > 1}
    if not lines:
        raise ConfigError("no method was run at two temperatures or more")
    counts = {labelled for _, labelled in lines}
    baselines = [row for row in baselines if row["labelled"] in counts]
    levels = groups(baselines, measure) if baselines else []
    alt = f"{MEASURE_NAMES[measure]} against the temperature. " + " ".join(
        [
            f"{method}, {labelled} images: {_in_words(line, '{:g}')}."
            for (method, labelled), line in lines.items()
        ]
        + [
            f"{level.method}, {level.labelled} images: {_values_in_words(level.values.values())}."
            for level in levels
        ]
    )

    def name(method: Method, labelled: int) -> str:
        return f"{method}, {labelled} images" if len(counts) > 1 else method.name

    with styled():
        figure, (axes,) = panel_grid([""], height=3.9)
        for rank, level in enumerate(levels):
            summary, mark = level.summary, level.method.mark
            axes.axhline(
                summary.mean,
                color=mark.colour,
                linestyle=_LEVEL_LINES[mark.line],
                linewidth=1.3,
                label=name(level.method, level.labelled),
            )
            if summary.interval is not None:
                edge = [1 - 0.012 * (len(levels) - rank)] * 2
                look = {"transform": axes.get_yaxis_transform(), **interval_look(mark)}
                axes.plot(edge, summary.interval, **look)
        for (method, labelled), line in _side_by_side(lines, share=0.015).items():
            _curve(axes, line, method.mark, name(method, labelled))
        ticks = _ticks(lines)
        log_ticks(axes, ticks, [f"{tick:g}" for tick in ticks])
        # Room on the right for the intervals of the level lines.
        wide = ticks[-1] / ticks[0]
        axes.set_xlim(ticks[0] / wide**0.06, ticks[-1] * wide**0.12)
        count = "" if len(counts) > 1 else f", {next(iter(counts))} labelled images"
        axes.set(xlabel=f"temperature τ{count}", ylabel=f"{MEASURE_NAMES[measure]}, %")
        legend_below(figure, [axes])
        return Picture(figure, alt)


def compactness_scatter(rows: Iterable[Row], *, measure: Measure = "miou_val") -> Picture:
    """Each compactness number of the trained network against its mIoU, one mark per run.

    The title of a panel is Spearman's rank correlation ρ over all runs. Where runs differ in labels
    or method, ρ within labels and method follows: its ranks are taken and centred among the runs of
    one method on equally many labelled images, so that neither "more labels help both" nor "this
    method raises both" counts. Larger marks have more labelled images.
    """
    usable = require_rows(rows, measure)
    held = {name: [r for r in usable if r.get(name) is not None] for name in COMPACTNESS_NAMES}
    panels = {name: runs for name, runs in held.items() if runs}
    if not panels:
        raise ConfigError(f"none of the {len(usable)} rows has {' or '.join(COMPACTNESS_NAMES)}")
    texts = {name: _correlations(runs, name, measure) for name, runs in panels.items()}
    alt = f"{MEASURE_NAMES[measure]} against compactness, one mark per run. " + " ".join(
        f"{COMPACTNESS_NAMES[name]}: {', '.join(text)}." for name, text in texts.items()
    )
    counts = sorted({int(row["labelled"]) for row in usable})
    sizes = np.linspace(3, 6.5, len(counts)) if len(counts) > 1 else [4.0]
    size_of = dict(zip(counts, sizes, strict=True))
    with styled():
        below = 0.5 if len(counts) == 1 else 0.8
        titles = ["\n".join(text) for text in texts.values()]
        figure, drawn = panel_grid(titles, height=2.35, below=below, sharey=True)
        for axes, (name, runs) in zip(drawn, panels.items(), strict=True):
            points: dict[tuple[Method, int], list[tuple[float, float]]] = {}
            for row in runs:
                key = Method.of(row), int(row["labelled"])
                points.setdefault(key, []).append((row[name], row[measure]))
            for method, count in sorted(points, key=lambda key: (key[0].order, key[1])):
                axes.plot(
                    *np.array(points[method, count], dtype=float).T,
                    linestyle="",
                    markersize=size_of[count],
                    alpha=0.75,
                    label=method.name,
                    **{**method.mark.keywords(), "markeredgewidth": 0.8},
                )
            axes.set_xlabel(COMPACTNESS_NAMES[name], fontsize=8.5)
            axes.title.set(fontsize=8, color=QUIET)
        for axes in drawn[::3]:
            axes.set_ylabel(f"{MEASURE_NAMES[measure]}, %")
        if len(counts) > 1:
            # The sizes between the ends explain themselves.
            for count in (counts[0], counts[-1]):
                label = f"size: {count} labelled images"
                drawn[0].plot([], [], "o", color=FAINT, markersize=size_of[count], label=label)
        legend_below(figure, drawn, marks(map(Method.of, usable)))
        return Picture(figure, alt)


def compactness_stages(rows: Iterable[Row]) -> Picture:
    """Each compactness number before training, after stage 1 and after stage 2.

    All are measured on the same pixels of the same validation images. Plain cross-entropy has no
    stage 1, so its line skips it. The rows must have one number of labelled images.
    """
    found = groups(same_seeds(row for row in rows if row.get("compactness")))
    count = one_count(found)
    panels: dict[str, dict[Method, Line]] = {}
    for name, title in COMPACTNESS_NAMES.items():
        for group in found:
            line: Line = []
            for step, stage in enumerate(STAGES):
                values = [
                    row["compactness"].get(stage, {}).get(name) for row in group.rows.values()
                ]
                if present := [value for value in values if value is not None]:
                    line.append((step, present))
            if line:
                panels.setdefault(title, {})[group.method] = line
    if not panels:
        raise ConfigError(f"none of the rows has {' or '.join(COMPACTNESS_NAMES)} by stage")
    titles = [*STAGES.values()]
    alt = f"Compactness by stage, {count} labelled images. " + _panels_in_words(
        panels,
        lambda line: ", ".join(f"{titles[int(x)]} {summarise(v).mean:.3g}" for x, v in line),
    )
    with styled():
        figure, drawn = panel_grid([*panels], height=2.1, below=0.5)
        for axes, lines in zip(drawn, panels.values(), strict=True):
            for rank, (method, line) in enumerate(lines.items()):
                shift = 0.05 * (rank - (len(lines) - 1) / 2)
                _curve(axes, [(x + shift, values) for x, values in line], method.mark, method.name)
            axes.set_xticks(range(len(titles)), titles)
            axes.set_xlim(-0.3, len(titles) - 0.7)
        legend_below(figure, drawn)
        return Picture(figure, alt)


def cost(rows: Iterable[Row], *, measure: Measure = "miou_val") -> Picture:
    """MIoU against seconds of training: what does a point of mIoU cost?

    There is a panel for each number of labelled images. A mark is one recipe: the mean mIoU of its
    seeds at their median seconds, so that one paused run does not move it. Recipes of one method
    that differ in length are joined in the order of their cost. All rows must come from one
    device and arithmetic, because seconds of two cannot be compared.
    """
    usable = [row for row in same_seeds(rows, measure) if row.get("seconds")]
    if not usable:
        raise ConfigError("none of the rows has the seconds of its training")
    devices = sorted({timed_on(row) for row in usable})
    if len(devices) > 1:
        raise ConfigError(
            f"seconds on {' and on '.join(devices)} cannot be compared; choose with "
            "segnb.results.table.one_device(rows)"
        )
    recipes: dict[tuple[int, Method, str], dict[int, Row]] = {}
    for row in usable:
        key = (int(row["labelled"]), Method.of(row), recipe_identity(row))
        recipes.setdefault(key, {})[int(row["seed"])] = row
    panels: dict[str, dict[Method, Line]] = {}
    for labelled, method, identity in sorted(recipes, key=lambda k: (k[0], k[1].order)):
        runs = recipes[labelled, method, identity].values()
        seconds = float(np.median([row["seconds"] for row in runs]))
        line = panels.setdefault(f"{labelled} labelled images", {}).setdefault(method, [])
        line.append((seconds, [float(row[measure]) for row in runs]))
        line.sort()
    alt = f"{MEASURE_NAMES[measure]} against seconds of training on {devices[0]}. "
    alt += _panels_in_words(panels, lambda line: _in_words(line, "{:.0f} s"))
    # Four stand two by two: the panels share their axes, and only the bottom row is labelled.
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    with styled():
        figure, drawn = panel_grid(
            [*panels],
            width=WIDTH if columns > 1 else 0.8 * WIDTH,
            height=2.3 if columns > 1 else 3.2,
            below=0.6,
            columns=columns,
            sharex=True,
            sharey=True,
        )
        for axes, lines in zip(drawn, panels.values(), strict=True):
            for method, line in lines.items():
                _curve(axes, line, method.mark, method.name)
        spent = [tick for lines in panels.values() for tick in _ticks(lines)]
        if max(spent) > 4 * min(spent):
            _plain_log_axis(drawn[0])
        for axes in drawn[-columns:]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("seconds of training")
        for axes in drawn[::columns]:
            axes.set_ylabel(f"{MEASURE_NAMES[measure]}, %")
        figure.suptitle(f"on {devices[0]}", fontsize=8, color=QUIET)
        legend_below(figure, drawn, marks(method for _, method, _ in recipes))
        return Picture(figure, alt)


def _curve(axes: Axes, points: Line, mark: Mark, label: str) -> None:
    """Means joined by a line, with intervals and single seeds."""
    means = [draw_seeds(axes, x, values, mark) for x, values in points]
    look = {"linestyle": mark.line, "zorder": 3, **mark.keywords()}
    axes.plot([x for x, _ in points], means, label=label, **look)


def _draw_over_labels(
    axes: Axes, lines: Mapping[Method, Line], shares: Mapping[int, str], *, apart: float
) -> None:
    """Draw curves over the number of labelled images, on a logarithmic axis wide enough for them.

    Args:
        axes: The panel.
        lines: The curves.
        shares: Share of the training images for each number of labelled images, for the ticks.
        apart: See ``share`` of :func:`_side_by_side`.
    """
    moved = _side_by_side(lines, share=apart)
    for method, line in moved.items():
        _curve(axes, line, method.mark, method.name)
    ticks, positions = _ticks(lines), _ticks(moved)
    log_ticks(axes, ticks, [f"{n}\n{shares[int(n)]}".strip() for n in ticks], base=2)
    low, high = ticks[0] / _BESIDE, ticks[-1] * _BESIDE
    room = (high / low) ** _MARK
    axes.set_xlim(min(low, positions[0] / room), max(high, positions[-1] * room))


def _plain_log_axis(axes: Axes) -> None:
    """Make the x-axis logarithmic, with ticks at 1, 2, 5, 10, … in plain digits."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _ticks(lines: Mapping[Any, Line]) -> list[float]:
    """All positions of the curves, ascending."""
    return sorted({x for line in lines.values() for x, _ in line})


def _side_by_side(lines: Mapping[Name, Line], *, share: float) -> dict[Name, Line]:
    """The curves, with marks at the same tick of a logarithmic axis moved beside each other.

    Args:
        lines: The curves, all their points at ticks.
        share: Distance between neighbouring marks as a share of the axis (with a fixed factor they
            would pile up where ticks lie far apart). It shrinks where many marks would run into
            those of the next tick.
    """
    ticks = _ticks(lines)
    across = _BESIDE**2 * ticks[-1] / ticks[0]
    moved: dict[Name, Line] = {name: [] for name in lines}
    for index, tick in enumerate(ticks):
        here = {name: dict(line)[tick] for name, line in lines.items() if tick in dict(line)}
        around = ticks[max(0, index - 1) : index + 2]
        gap = min((b / a for a, b in itertools.pairwise(around)), default=across)
        step = min(across**share, gap ** (_FILLED / max(len(here) - 1, 1)))
        for k, (name, values) in enumerate(here.items()):
            moved[name].append((tick * step ** (k - (len(here) - 1) / 2), values))
    return moved


def _panel_widths(counts: Sequence[Collection[float]]) -> list[float]:
    """Each panel's share of the width: as much as its axis spans, but enough for a title."""
    octaves = [math.log2(_BESIDE**2 * max(its) / min(its)) for its in counts]
    wanted = [max(own, _NARROWEST * max(octaves)) for own in octaves]
    return [own / sum(wanted) for own in wanted]


def _panels_in_words(
    panels: Mapping[str, Mapping[Method, Line]], in_words: Callable[[Line], str]
) -> str:
    return " ".join(
        f"{title}: "
        + "; ".join(f"{method} {in_words(line)}" for method, line in lines.items())
        + "."
        for title, lines in panels.items()
    )


def _in_words(line: Line, position: str) -> str:
    """A curve for the alternative text; ``position`` is the format of the x-values."""
    return ", ".join(f"{position.format(x)} {_values_in_words(values)}" for x, values in line)


def _values_in_words(values: Collection[float]) -> str:
    """A mean with its interval, or with the single seeds where there are only two."""
    summary = summarise(values)
    if summary.interval is not None:
        return "{:.1f} ({:.1f} to {:.1f})".format(summary.mean, *summary.interval)
    seeds = " and ".join(f"{value:.1f}" for value in values) if len(values) > 1 else "one seed"
    return f"{summary.mean:.1f} ({seeds})"


def _correlations(rows: Sequence[Row], name: str, measure: Measure) -> list[str]:
    if len(rows) < FEWEST_RUNS:
        return [f"{len(rows)} runs, too few for ρ"]
    overall = correlation(rows, name, measure=measure, among="all runs")
    texts = [f"ρ = {_signed(overall.rho)}, {overall.runs} runs"]
    if len({RANKED_AMONG["equal labels and method"](row) for row in rows}) > 1:
        alike = correlation(rows, name, measure=measure)
        texts.append(f"within labels and method ρ = {_signed(alike.rho)}")
    return texts


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")
