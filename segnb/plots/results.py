"""Figures of results, from ledger rows alone.

In all of them a large mark is the mean over seeds, a small dot one of several seeds, and a bar,
from three seeds on, the 95 % Student-t interval of the mean.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from segnb.errors import ConfigError
from segnb.plots.style import (
    FAINT,
    QUIET,
    WIDTH,
    Picture,
    legend_below,
    marks,
    new_figure,
    panel_title,
    styled,
)
from segnb.results.method import Baseline, Mark, Method
from segnb.results.table import (
    MEASURE_NAMES,
    Group,
    Measure,
    Row,
    fraction_name,
    gains,
    groups,
    one_count,
    recipe_identity,
    require_rows,
    summarise,
)

Name = TypeVar("Name", bound=Hashable)

#: The compactness numbers of a row, as they are called where people read them.
COMPACTNESS_NAMES: dict[str, str] = {
    "intra": "intra-class variance",
    "inter": "inter-class distance",
    "fisher": "Fisher ratio",
    "silhouette": "silhouette",
    "knn_miou": "nearest neighbours, mIoU %",
    "probe_miou": "linear probe, mIoU %",
}


#: The stages a row measures compactness at, as they are called where people read them.
_STAGES = {"initial": "before", "pretrained": "stage 1", "finetuned": "stage 2"}

#: Fewer runs than this order themselves by chance too often for a correlation to be given.
_FEWEST_RUNS = 5

_BREAK = "\n"

#: Room beside the outermost numbers of labelled images, as a factor.
_BESIDE = 1.35

#: Room beside the outermost marks, as a part of the axis.
_MARK = 0.025

#: How much of the way from one tick to the next the marks of one tick may take up.
_FILLED = 0.75

#: Width of a panel with few labelled images, as a part of the widest one's.
_NARROWEST = 0.4

#: How the line of a level that has no marks is dashed, by the line of the method's curves.
_LEVEL_LINES = {
    "-": (0, (4, 2)),
    "--": (0, (1, 1.5)),
    "-.": (0, (5, 1.5, 1, 1.5)),
    ":": (0, (1, 4)),
}


def label_curve(rows: Iterable[Row], *, measure: Measure = "miou_val") -> Picture:
    """MIoU against the number of labelled images, one line a method.

    Args:
        rows: Ledger rows of one data set and tier.
        measure: Which mIoU.

    Raises:
        ConfigError: See :func:`segnb.results.table.groups`.
    """
    found = groups(rows, measure)
    methods: dict[Method, list[Group]] = {}
    for group in found:
        methods.setdefault(group.method, []).append(group)
    alt = f"{MEASURE_NAMES[measure]} against the number of labelled images. " + " ".join(
        f"{name}: "
        + ", ".join(f"{g.labelled} images {_in_words(g.values.values())}" for g in line)
        + "."
        for name, line in methods.items()
    )
    with styled():
        figure = new_figure(WIDTH, 4.2)
        axes = figure.subplots()
        counts = [group.labelled for group in found]
        standing = {name: [g.labelled for g in line] for name, line in methods.items()}
        at = _side_by_side(standing, counts, share=0.015)
        for name, line in methods.items():
            points = [(at[name, g.labelled], [*g.values.values()]) for g in line]
            _curve(axes, points, name.mark, name.name)
        _labelled_axis(axes, found, positions=at.values())
        axes.set_xlabel("labelled images (share of the training images)")
        axes.set_ylabel(f"{MEASURE_NAMES[measure]}, %")
        legend_below(figure, [axes])
        return Picture(figure, alt)


def gain(rows: Iterable[Row], *, measure: Measure = "miou_val") -> Picture:
    """Gain over each of the cross-entropy baselines, one panel each.

    Runs are paired by seed (:func:`segnb.results.table.gains`), and the interval is of the paired
    differences.

    Args:
        rows: Ledger rows of one data set and tier, baselines among them.
        measure: Which mIoU.

    Raises:
        ConfigError: See :func:`segnb.results.table.gains`.
    """
    panels: dict[Baseline, dict[Method, list[tuple[Group, list[float]]]]] = {}
    for one in gains(rows, measure):
        line = panels.setdefault(one.baseline, {}).setdefault(one.group.method, [])
        line.append((one.group, list(one.differences.values())))
    shown_as = marks(name for lines in panels.values() for name in lines)
    alt = f"Gain in {MEASURE_NAMES[measure]}, in points. " + " ".join(
        f"Over {baseline}: "
        + "; ".join(
            f"{name} " + ", ".join(f"{g.labelled} images {_in_words(p)}" for g, p in line)
            for name, line in lines.items()
        )
        + "."
        for baseline, lines in panels.items()
    )
    with styled():
        figure = new_figure(WIDTH, 4.3)
        standing = [
            {name: [group.labelled for group, _ in line] for name, line in lines.items()}
            for lines in panels.values()
        ]
        shares = _panel_widths([{*itertools.chain(*its.values())} for its in standing])
        drawn = figure.subplots(
            1, len(panels), sharey=True, squeeze=False, gridspec_kw={"width_ratios": shares}
        )[0]
        for axes, (baseline, lines), its, share in zip(
            drawn, panels.items(), standing, shares, strict=True
        ):
            axes.axhline(0, color="#888888", linewidth=1)
            at = _side_by_side(its, itertools.chain(*its.values()), share=0.012 / share)
            for name, line in lines.items():
                points = [(at[name, group.labelled], pairs) for group, pairs in line]
                _curve(axes, points, name.mark, name.name)
            shown = [group for line in lines.values() for group, _ in line]
            _labelled_axis(axes, shown, positions=at.values())
            axes.set_xlabel("labelled images")
            axes.set_title(panel_title(f"over {baseline}", share))
        drawn[0].set_ylabel(f"gain in {MEASURE_NAMES[measure]}, points")
        legend_below(figure, drawn, shown_as)
        return Picture(figure, alt)


def temperature_curve(rows: Iterable[Row], *, measure: Measure = "miou_val") -> Picture:
    """MIoU against the temperature of the contrastive loss.

    A line for every method and number of labelled images that was run at two temperatures or
    more; a level line for each cross-entropy baseline with as many labelled images.

    Args:
        rows: Ledger rows of one data set and tier.
        measure: Which mIoU.

    Raises:
        ConfigError: See :func:`~segnb.results.table.groups`; or no method has two
            temperatures.
    """
    usable = require_rows(rows, measure)
    lines: dict[tuple[Method, int], dict[float, list[float]]] = {}
    for temperature in sorted({row["temperature"] for row in usable if _has_temperature(row)}):
        for group in groups(
            [r for r in usable if _has_temperature(r) and r["temperature"] == temperature], measure
        ):
            line = lines.setdefault((group.method, group.labelled), {})
            line[float(temperature)] = [*group.values.values()]
    lines = {key: line for key, line in lines.items() if len(line) > 1}
    if not lines:
        raise ConfigError("no method was run at two temperatures or more")
    counts = {labelled for _, labelled in lines}
    baselines = [row for row in usable if not _has_temperature(row) and row["labelled"] in counts]
    levels = groups(baselines, measure) if baselines else []
    several = len(counts) > 1
    alt = f"{MEASURE_NAMES[measure]} against the temperature. " + " ".join(
        f"{_with_count(name, labelled, True)}: "
        + ", ".join(f"{t:g} {_in_words(values)}" for t, values in line.items())
        + "."
        for (name, labelled), line in lines.items()
    )
    alt += "".join(
        f" {_with_count(g.method, g.labelled, True)}: {_in_words(g.values.values())}."
        for g in levels
    )
    with styled():
        figure = new_figure(WIDTH, 3.9)
        axes = figure.subplots()
        for rank, group in enumerate(levels):
            summary, mark = group.summary, group.method.mark
            axes.axhline(
                summary.mean,
                color=mark.colour,
                linestyle=_LEVEL_LINES[mark.line],
                linewidth=1.3,
                label=_with_count(group.method, group.labelled, several),
            )
            if summary.interval is not None:
                edge = [1 - 0.012 * (len(levels) - rank)] * 2
                across = axes.get_yaxis_transform()
                axes.plot(edge, summary.interval, transform=across, **_bar(mark))
        ticks = sorted({temperature for line in lines.values() for temperature in line})
        at = _side_by_side(lines, ticks, share=0.015)
        for key, line in lines.items():
            points = [(at[key, temperature], values) for temperature, values in line.items()]
            _curve(axes, points, key[0].mark, _with_count(*key, several))
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        # Room on the right for the intervals of the level lines.
        wide = ticks[-1] / ticks[0]
        axes.set_xlim(ticks[0] / wide**0.06, ticks[-1] * wide**0.12)
        count = "" if several else f", {next(iter(counts))} labelled images"
        axes.set(xlabel=f"temperature τ{count}", ylabel=f"{MEASURE_NAMES[measure]}, %")
        legend_below(figure, [axes])
        return Picture(figure, alt)


def compactness_scatter(
    rows: Iterable[Row],
    *,
    against: Sequence[str] = ("intra", "inter", "fisher", "silhouette", "knn_miou", "probe_miou"),
    measure: Measure = "miou_val",
) -> Picture:
    """Each compactness number of the trained network against its mIoU, one mark a run.

    Over each panel stands Spearman's rank correlation ρ over all runs, and, where the runs differ
    in their number of labelled images, ρ at equal labels: ranks are taken within each number of
    labelled images and centred there, so that "more labels help both" does not count. A larger
    mark then has more labelled images.

    Args:
        rows: Ledger rows of one data set and tier, of any recipes.
        against: Which compactness numbers, as a row names them.
        measure: Which mIoU.

    Raises:
        ConfigError: No row has the measure and one of the numbers.
    """
    usable = require_rows(rows, measure)
    panels = {
        name: [row for row in usable if row.get(name) is not None]
        for name in against
        if any(row.get(name) is not None for row in usable)
    }
    if not panels:
        raise ConfigError(f"none of the {len(usable)} rows has any of {', '.join(against)}")
    texts = {name: _correlations(held, name, measure) for name, held in panels.items()}
    alt = f"{MEASURE_NAMES[measure]} against compactness, one mark a run. " + " ".join(
        f"{COMPACTNESS_NAMES.get(name, name)}: {text.replace(_BREAK, ', ')}."
        for name, text in texts.items()
    )
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    counts = sorted({int(row["labelled"]) for row in usable})
    sizes = dict(zip(counts, np.linspace(3, 6.5, len(counts)), strict=True))
    if len(counts) == 1:
        sizes = {counts[0]: 4.0}
    with styled():
        figure = new_figure(WIDTH, 2.35 * lines + (0.5 if len(counts) == 1 else 0.8))
        drawn = figure.subplots(lines, columns, sharey=True, squeeze=False)
        for axes, (name, held) in zip(drawn.ravel(), panels.items(), strict=False):
            points: dict[tuple[Method, int], list[tuple[float, float]]] = {}
            for row in held:
                key = Method.of(row), int(row["labelled"])
                points.setdefault(key, []).append((row[name], row[measure]))
            for (method, count), pairs in sorted(points.items(), key=_by_method_and_count):
                axes.plot(
                    *np.array(pairs, dtype=float).T,
                    linestyle="",
                    markersize=sizes[count],
                    alpha=0.75,
                    label=method.name,
                    **{**method.mark.keywords(), "markeredgewidth": 0.8},
                )
            axes.set_xlabel(COMPACTNESS_NAMES.get(name, name), fontsize=8.5)
            axes.set_title(texts[name], fontsize=8, color=QUIET)
        for axes in drawn.ravel()[len(panels) :]:
            axes.remove()
        for axes in drawn[:, 0]:
            axes.set_ylabel(f"{MEASURE_NAMES[measure]}, %")
        if len(counts) > 1:
            for count, size in sizes.items():
                words = f"size: {count} labelled images"
                drawn[0, 0].plot([], [], "o", color=FAINT, markersize=size, label=words)
        legend_below(figure, drawn.ravel()[: len(panels)], marks(map(Method.of, usable)))
        return Picture(figure, alt)


def compactness_stages(
    rows: Iterable[Row],
    *,
    against: Sequence[str] = ("intra", "inter", "fisher", "silhouette", "knn_miou", "probe_miou"),
) -> Picture:
    """Each compactness number before training, after stage 1 and after stage 2.

    All are of the same pixels of the same validation images. Cross-entropy has no stage 1: its
    line goes straight on.

    Args:
        rows: Ledger rows of one data set and tier, at one number of labelled images.
        against: Which compactness numbers.

    Raises:
        ConfigError: See :func:`~segnb.results.table.groups`; or rows at several numbers of
            labelled images.
    """
    found = groups(row for row in rows if row.get("compactness"))
    count = one_count(found)
    panels: dict[str, dict[Method, list[tuple[float, list[float]]]]] = {}
    for name in against:
        for group in found:
            line = []
            for step, stage in enumerate(_STAGES):
                held = [row["compactness"].get(stage, {}).get(name) for row in group.rows.values()]
                if any(value is not None for value in held):
                    line.append((float(step), [value for value in held if value is not None]))
            if line:
                panels.setdefault(name, {})[group.method] = line
    if not panels:
        raise ConfigError(f"none of the rows has any of {', '.join(against)} by stage")
    alt = f"Compactness by stage, {count} labelled images. " + " ".join(
        f"{COMPACTNESS_NAMES.get(name, name)}: "
        + "; ".join(
            f"{method} "
            + ", ".join(f"{[*_STAGES.values()][int(x)]} {summarise(v).mean:.3g}" for x, v in line)
            for method, line in lines.items()
        )
        + "."
        for name, lines in panels.items()
    )
    columns = min(3, len(panels))
    deep = -(-len(panels) // columns)
    with styled():
        figure = new_figure(WIDTH, 2.1 * deep + 0.5)
        drawn = figure.subplots(deep, columns, squeeze=False).ravel()
        for axes, (name, lines) in zip(drawn, panels.items(), strict=False):
            for rank, (method, line) in enumerate(lines.items()):
                shift = 0.05 * (rank - (len(lines) - 1) / 2)
                points = [(x + shift, values) for x, values in line]
                _curve(axes, points, method.mark, method.name)
            axes.set_xticks(range(len(_STAGES)), [*_STAGES.values()])
            axes.set_xlim(-0.3, len(_STAGES) - 0.7)
            axes.set_title(COMPACTNESS_NAMES.get(name, name))
        for axes in drawn[len(panels) :]:
            axes.remove()
        legend_below(figure, drawn[: len(panels)])
        return Picture(figure, alt)


def cost(rows: Iterable[Row], *, measure: Measure = "miou_val") -> Picture:
    """Seconds of training against mIoU: what does a point of mIoU cost?

    One panel a number of labelled images. A mark is one recipe: the mean mIoU of its seeds at
    their median seconds, which a run that was paused (a laptop closed, another program let by)
    does not move. Recipes of one method that differ in length are joined in the order of their
    cost.

    Args:
        rows: Ledger rows of one data set and tier, all trained on one device.
        measure: Which mIoU.

    Raises:
        ConfigError: No row has the measure and seconds; or rows of several devices, whose seconds
            cannot be compared.
    """
    usable = [row for row in require_rows(rows, measure) if row.get("seconds")]
    if not usable:
        raise ConfigError("none of the rows tells the seconds of its training")
    devices = sorted({str(row.get("device")) for row in usable})
    if len(devices) > 1:
        raise ConfigError(
            f"seconds on {' and on '.join(devices)} cannot be compared; choose with "
            f"segnb.results.table.select(rows, device={devices[0]!r})"
        )
    panels: dict[int, dict[Method, list[tuple[float, list[float]]]]] = {}
    recipes: dict[tuple[int, Method, str], dict[int, Row]] = {}
    for row in usable:
        key = (int(row["labelled"]), Method.of(row), recipe_identity(row))
        recipes.setdefault(key, {})[int(row["seed"])] = row
    for labelled, method, identity in sorted(recipes, key=lambda k: (k[0], k[1].order)):
        runs = recipes[labelled, method, identity].values()
        seconds = float(np.median([row["seconds"] for row in runs]))
        line = panels.setdefault(labelled, {}).setdefault(method, [])
        line.append((seconds, [float(row[measure]) for row in runs]))
    alt = f"{MEASURE_NAMES[measure]} against seconds of training on {devices[0]}. " + " ".join(
        f"{labelled} labelled images: "
        + "; ".join(
            f"{name} " + ", ".join(f"{s:.0f} s {_in_words(v)}" for s, v in sorted(line))
            for name, line in lines.items()
        )
        + "."
        for labelled, lines in panels.items()
    )
    # Four stand two by two: the panels share their axes, and only the lowest are labelled.
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    deep = -(-len(panels) // columns)
    with styled():
        figure = new_figure(
            WIDTH if columns > 1 else 0.8 * WIDTH,
            (2.3 if columns > 1 else 3.2) * deep + 0.6,
        )
        drawn = figure.subplots(deep, columns, sharex=True, sharey=True, squeeze=False)
        for axes, (labelled, lines) in zip(drawn.ravel(), panels.items(), strict=False):
            for name, line in lines.items():
                _curve(axes, sorted(line), name.mark, name.name)
            axes.set_title(f"{labelled} labelled images")
        for axes in drawn.ravel()[len(panels) :]:
            axes.remove()
        spent = [s for lines in panels.values() for line in lines.values() for s, _ in line]
        if max(spent) > 4 * min(spent):
            _plain_log_axis(drawn[0, 0])
        for axes in drawn.ravel()[max(0, len(panels) - columns) : len(panels)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("seconds of training")
        for axes in drawn[:, 0]:
            axes.set_ylabel(f"{MEASURE_NAMES[measure]}, %")
        figure.suptitle(f"on {devices[0]}", fontsize=8, color=QUIET)
        methods = marks(method for _, method, _ in recipes)
        legend_below(figure, drawn.ravel()[: len(panels)], methods)
        return Picture(figure, alt)


def _by_method_and_count(item: tuple[tuple[Method, int], Any]) -> tuple[Any, int]:
    return item[0][0].order, item[0][1]


def _curve(axes: Axes, points: Sequence[tuple[float, list[float]]], mark: Mark, label: str) -> None:
    """Means joined by a line, with intervals and single seeds."""
    summaries = [summarise(values) for _, values in points]
    for (x, values), summary in zip(points, summaries, strict=True):
        if summary.interval is not None:
            axes.plot([x, x], summary.interval, **_bar(mark))
        if summary.seeds > 1:
            axes.plot([x] * len(values), values, ".", color=mark.colour, markersize=3.5)
    axes.plot(
        [x for x, _ in points],
        [summary.mean for summary in summaries],
        linestyle=mark.line,
        label=label,
        zorder=3,
        **mark.keywords(),
    )


def _bar(mark: Mark) -> dict[str, Any]:
    """Keywords of the line of an interval."""
    return {"color": mark.colour, "alpha": 0.5, "linewidth": 1.6}


def _labelled_axis(axes: Axes, found: Iterable[Group], *, positions: Collection[float]) -> None:
    """A logarithmic axis with a tick at each number of labelled images, and room for all marks."""
    names = {group.labelled: fraction_name(group.fraction) for group in found}
    axes.set_xscale("log", base=2)
    axes.set_xticks([*names], [f"{n}\n{share}" if share else str(n) for n, share in names.items()])
    axes.set_xticks([], minor=True)
    low, high = min(names) / _BESIDE, max(names) * _BESIDE
    room = (high / low) ** _MARK
    axes.set_xlim(min(low, min(positions) / room), max(high, max(positions) * room))


def _plain_log_axis(axes: Axes) -> None:
    """A logarithmic axis with ticks at 1, 2, 5, 10, … in plain digits."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _side_by_side(
    lines: Mapping[Name, Collection[float]], ticks: Iterable[float], *, share: float
) -> dict[tuple[Name, float], float]:
    """Where each line's mark stands on a logarithmic axis: beside those of the others at its tick.

    Args:
        lines: The ticks at which each line has a mark.
        ticks: All ticks of the axis.
        share: Distance of neighbours as a part of the axis, whatever that spans: a fixed factor
            would pile marks up where the ticks lie far apart. It is less where so many marks would
            run into those of the next tick.
    """
    order = sorted({*ticks})
    across = _BESIDE**2 * order[-1] / order[0]
    positions: dict[tuple[Name, float], float] = {}
    for index, tick in enumerate(order):
        here = [name for name, its in lines.items() if tick in its]
        around = order[max(0, index - 1) : index + 2]
        gap = min((b / a for a, b in itertools.pairwise(around)), default=across)
        step = min(across**share, gap ** (_FILLED / max(len(here) - 1, 1)))
        for k, name in enumerate(here):
            positions[name, tick] = tick * step ** (k - (len(here) - 1) / 2)
    return positions


def _panel_widths(counts: Sequence[Collection[int]]) -> list[float]:
    """Each panel's share of the width: that of its axis, and room for a title at the least."""
    octaves = [math.log2(_BESIDE**2 * max(its) / min(its)) for its in counts]
    wanted = [max(own, _NARROWEST * max(octaves)) for own in octaves]
    return [own / sum(wanted) for own in wanted]


def _has_temperature(row: Row) -> bool:
    return row.get("temperature") is not None


def _with_count(name: Method, labelled: int, wanted: bool) -> str:
    return f"{name}, {labelled} images" if wanted else name.name


def _in_words(values: Collection[float]) -> str:
    """A mean for the alternative text, with its interval, or the seeds where there are but two."""
    summary = summarise(values)
    if summary.interval is not None:
        return "{:.1f} ({:.1f} to {:.1f})".format(summary.mean, *summary.interval)
    seeds = " and ".join(f"{value:.1f}" for value in values) if len(values) > 1 else "one seed"
    return f"{summary.mean:.1f} ({seeds})"


def _correlations(rows: Sequence[Row], name: str, measure: str) -> str:
    x = np.array([row[name] for row in rows], dtype=float)
    y = np.array([row[measure] for row in rows], dtype=float)
    labelled = np.array([row["labelled"] for row in rows])
    if len(rows) < _FEWEST_RUNS:
        return f"{len(rows)} runs, too few for ρ"
    text = f"ρ = {_signed(spearman(x, y))}, {len(rows)} runs"
    if len(np.unique(labelled)) > 1:
        text += f"{_BREAK}at equal labels ρ = {_signed(spearman(x, y, within=labelled))}"
    return text


def spearman(
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    *,
    within: npt.NDArray[Any] | None = None,
) -> float | None:
    """Spearman's rank correlation; ``None`` where one side does not vary.

    Args:
        x: ``[N]``.
        y: ``[N]``.
        within: A group for each point: ranks are taken, and centred, inside each group.
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    members = np.zeros(len(x), dtype=int) if within is None else within
    first, second = np.zeros(len(x)), np.zeros(len(x))
    for member in np.unique(members):
        here = members == member
        for values, ranks in ((x, first), (y, second)):
            inside = rankdata(values[here])
            ranks[here] = inside - inside.mean()
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / scale) if scale > 0 else None


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")
